//! Custom rules on the request path: from the facts of a request to their ruling.

use decision_core::decision::Conditional;
use decision_core::facts::{Authentication, RequestFacts};
use decision_core::time::Timestamp;
use rules::{Fault, Judged, LoadError, Loader, Progress, RuleSet, RuleSource, Ruling};
use std::cell::RefCell;
use std::sync::Arc;
use wire::bundle::{LoadedBundle, RulesImage};

/// The custom rules of a bundle in force, with what they said of earlier requests.
#[derive(Debug)]
pub(crate) struct CustomRules(RefCell<RuleSet>);

/// Rules that are being loaded: one module, or one self-check vector, a step.
#[derive(Debug)]
struct Loading(Loader);

/// What a step of loading came to.
#[derive(Debug)]
enum Loaded {
    Partly(Box<Loading>),
    Whole(Box<CustomRules>),
}

impl Loading {
    fn begin(image: &RulesImage) -> Result<Self, LoadError> {
        let source = RuleSource { modules: &image.modules, data: &image.data, inputs: &image.inputs };
        let vectors = image.vectors.iter().map(|vector| (vector.input.clone(), vector.decision.clone()));
        Loader::new(&source, vectors).map(Self)
    }

    /// A caller that has time left takes another step at once.
    fn step(self) -> Result<Loaded, LoadError> {
        Ok(match self.0.step()? {
            Progress::More(loader) => Loaded::Partly(Box::new(Self(loader))),
            Progress::Ready(rules) => Loaded::Whole(Box::new(CustomRules(RefCell::new(*rules)))),
        })
    }
}

/// The custom rules of a bundle.
#[derive(Debug, Default)]
pub(crate) struct ReadyRules {
    pub(crate) active: Option<CustomRules>,
    pub(crate) shadow: Option<CustomRules>,
}

impl ReadyRules {
    /// Those of a bundle, all steps at once.
    pub(crate) fn of(bundle: &LoadedBundle) -> Result<Self, LoadError> {
        let shadow = bundle.shadow.as_ref().and_then(|shadow| shadow.rules.as_ref());
        Ok(Self { active: bundle.rules.as_ref().map(CustomRules::load).transpose()?, shadow: shadow.map(CustomRules::load).transpose()? })
    }
}

/// The custom rules of a bundle on their way: a step of the active revision's, then of those of the one in shadow.
#[derive(Debug)]
pub(crate) struct LoadingRules {
    active: Option<Loading>,
    shadow: Option<Loading>,
    ready: ReadyRules,
}

impl LoadingRules {
    pub(crate) fn begin(bundle: &LoadedBundle) -> Result<Self, LoadError> {
        let shadow = bundle.shadow.as_ref().and_then(|shadow| shadow.rules.as_ref());
        Ok(Self {
            active: bundle.rules.as_ref().map(Loading::begin).transpose()?,
            shadow: shadow.map(Loading::begin).transpose()?,
            ready: ReadyRules::default(),
        })
    }

    /// Takes one step; all of them when there is nothing left to do.
    pub(crate) fn step(&mut self) -> Result<Option<ReadyRules>, LoadError> {
        let (pending, ready) =
            if self.active.is_some() { (&mut self.active, &mut self.ready.active) } else { (&mut self.shadow, &mut self.ready.shadow) };
        match pending.take().map(Loading::step).transpose()? {
            Some(Loaded::Partly(more)) => *pending = Some(*more),
            Some(Loaded::Whole(rules)) => *ready = Some(*rules),
            None => {}
        }
        let done = self.active.is_none() && self.shadow.is_none();
        Ok(done.then(|| std::mem::take(&mut self.ready)))
    }
}

impl CustomRules {
    /// How many rulings are remembered.
    #[cfg(test)]
    pub(crate) fn remembered(&self) -> usize {
        self.0.borrow().remembered()
    }

    /// All steps at once.
    fn load(image: &RulesImage) -> Result<Self, LoadError> {
        let mut loading = Loading::begin(image)?;
        loop {
            match loading.step()? {
                Loaded::Partly(more) => loading = *more,
                Loaded::Whole(rules) => return Ok(*rules),
            }
        }
    }
}

/// What the custom rules say of a request that the tables permit. Where they cannot be asked they refuse.
pub(crate) fn judge(
    rules: Option<&CustomRules>,
    facts: &RequestFacts<'_>,
    path: &str,
    conditional: &Conditional,
    now: Timestamp,
) -> Arc<Ruling> {
    let undefined = || Arc::new(Ruling::from(Fault::Undefined));
    let (Some(rules), Some(route), Authentication::Verified(principal)) = (rules, facts.route, facts.authentication) else {
        return undefined();
    };
    let judged = Judged { gateway: facts.gateway, method: facts.method, path, route, principal, target: conditional.target(), now };
    rules.0.try_borrow_mut().map_or_else(|_judging| undefined(), |mut rules| rules.judge(&judged))
}
