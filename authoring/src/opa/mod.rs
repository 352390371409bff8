//! Policies that were written for an OPA server. A set of them is loaded as it is, in an engine of its own and in the gate's
//! process, for the two things that we want of it: what it permits, and what it would have said.

pub(crate) mod examine;
pub(crate) mod request;
pub(crate) mod tables;

pub use crate::rules::outline::Generation;
pub use examine::FoundRule;
pub use tables::Grants;

use crate::cases::NOW;
use crate::rules::{Gate, TestRun};
use crate::{Files, PolicyFault};
use examine::{Asked, Examined, Question, Reply, Tests};

/// Questions for one process, which has 4.5 s for all of them and takes some tenths where nothing else is running.
const QUESTIONS_MAX: usize = 500;

/// One set of policies, loaded.
#[derive(Clone, Debug)]
pub struct OpaSet {
    modules: Files,
    gate: Gate,
    /// Which Rego it is written in.
    pub generation: Generation,
    /// Its rules, tests apart.
    pub rules: Vec<FoundRule>,
    /// Its tests, as they went.
    pub tests: Vec<TestRun>,
    /// How it says who may do what.
    pub grants: Grants,
}

impl OpaSet {
    /// Loads the modules among these files, and runs their tests. Blocks, for 5 s at most: call it off the async threads.
    ///
    /// # Errors
    /// The first thing that is wrong with them, with its place; or they do not say who may do what.
    pub fn load(files: &Files, gate: &Gate) -> Result<Self, PolicyFault> {
        let modules: Files =
            files.iter().filter(|(file, _)| file.ends_with(".rego")).map(|(file, text)| (file.clone(), text.clone())).collect();
        if modules.is_empty() {
            return Err(PolicyFault { message: "there is no module: no file ends with `.rego`".into(), ..PolicyFault::default() });
        }
        let asked = Asked { modules, now_s: NOW.as_seconds(), tests: Tests::Run, questions: Vec::new() };
        let Examined { generation, rules, tests, replies: _ } = gate.ask_opa(asked.clone())?;
        let grants = Grants::of(&rules)?;
        Ok(Self { modules: asked.modules, gate: gate.clone(), generation, rules, tests, grants })
    }

    /// Whether the set has this rule, as `gateway.rbac_pp.allow`.
    #[must_use]
    pub fn has(&self, path: &str) -> bool {
        path.rsplit_once('.').is_some_and(|(package, name)| self.rules.iter().any(|rule| rule.package == package && rule.name == name))
    }

    /// What its rules say. Blocks, for 5 s at most for every 500 questions.
    pub(crate) fn ask(&self, questions: &[Question]) -> Result<Vec<Reply>, PolicyFault> {
        let mut replies = Vec::with_capacity(questions.len());
        for batch in questions.chunks(QUESTIONS_MAX) {
            let asked = Asked { modules: self.modules.clone(), now_s: NOW.as_seconds(), tests: Tests::Skip, questions: batch.to_vec() };
            replies.extend(self.gate.ask_opa(asked)?.replies);
        }
        Ok(replies)
    }
}

/// Whether a rule allows: by itself, or in a member `allow`. Whatever is undefined allows nothing. `None` when it cannot be told.
pub(crate) fn allows(reply: &Reply) -> Option<bool> {
    match reply {
        Reply::Undefined => Some(false),
        Reply::Failed(_) => None,
        Reply::Value(value) => value.as_bool().or_else(|| value.get("allow")?.as_bool()),
    }
}
