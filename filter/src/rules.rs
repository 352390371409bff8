//! Custom rules on the request path: from the facts of a request to their ruling.

use crate::vm::Active;
use decision_core::decision::Conditional;
use decision_core::facts::{Authentication, RequestFacts};
use decision_core::time::Timestamp;
use rules::{Fault, Judged, LoadError, Loader, Progress, RuleSet, RuleSource, Ruling};
use std::cell::RefCell;
use std::sync::Arc;
use wire::bundle::RulesImage;

/// The custom rules of a bundle in force, with what they said of earlier requests.
#[derive(Debug)]
pub(crate) struct CustomRules(RefCell<RuleSet>);

/// Rules that are being loaded: one module, or one self-check vector, a step.
#[derive(Debug)]
pub(crate) struct Loading(Loader);

/// What a step of loading came to.
#[derive(Debug)]
pub(crate) enum Loaded {
    Partly(Loading),
    Whole(CustomRules),
}

impl Loading {
    pub(crate) fn begin(image: &RulesImage) -> Result<Self, LoadError> {
        let source = RuleSource { modules: &image.modules, data: &image.data, inputs: &image.inputs };
        let vectors = image.vectors.iter().map(|vector| (vector.input.clone(), vector.decision.clone()));
        Loader::new(&source, vectors).map(Self)
    }

    /// A caller that has time left takes another step at once.
    pub(crate) fn step(self) -> Result<Loaded, LoadError> {
        Ok(match self.0.step()? {
            Progress::More(loader) => Loaded::Partly(Self(loader)),
            Progress::Ready(rules) => Loaded::Whole(CustomRules(RefCell::new(*rules))),
        })
    }
}

impl CustomRules {
    /// All steps at once.
    pub(crate) fn load(image: &RulesImage) -> Result<Self, LoadError> {
        let mut loading = Loading::begin(image)?;
        loop {
            match loading.step()? {
                Loaded::Partly(more) => loading = more,
                Loaded::Whole(rules) => return Ok(rules),
            }
        }
    }
}

/// What the custom rules say of a request that the tables permit. Where they cannot be asked they refuse.
pub(crate) fn judge(active: &Active, facts: &RequestFacts<'_>, path: &str, conditional: &Conditional, now: Timestamp) -> Arc<Ruling> {
    let undefined = || Arc::new(Ruling::from(Fault::Undefined));
    let (Some(rules), Some(route), Authentication::Verified(principal)) = (&active.rules, facts.route, facts.authentication) else {
        return undefined();
    };
    let judged = Judged { gateway: facts.gateway, method: facts.method, path, route, principal, target: conditional.target(), now };
    rules.0.try_borrow_mut().map_or_else(|_judging| undefined(), |mut rules| rules.judge(&judged))
}
