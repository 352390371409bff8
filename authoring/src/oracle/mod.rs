//! Policies of an OPA server as a second opinion on golden cases: every case that a rule of theirs can judge is judged by it too.
//! Where the answers differ, that was chosen and is listed, or somebody has made a mistake.

mod expected;
mod question;

pub use expected::Expected;

use crate::cases::{self, FiledCase, ORACLE};
use crate::evaluate::Evaluation;
use crate::opa::examine::{Question, Reply};
use crate::opa::{OpaSet, allows};
use crate::{Files, PolicyFault};
use expected::Sorted;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use wire::policy::PolicyDocument;

/// Golden cases with the list of chosen differences, as the files of a folder `cases`.
#[derive(Debug, Default)]
pub struct Golden {
    /// The cases.
    pub cases: Vec<FiledCase>,
    /// What was chosen.
    pub expected: Expected,
}

impl Golden {
    /// Takes the list from among the cases. It takes quadratic time on deep nesting: what others send goes through
    /// [`crate::rules::Gate::read_cases`] first.
    ///
    /// # Errors
    /// The first file that is none of cases, or no list.
    pub fn read(files: &Files) -> Result<Self, PolicyFault> {
        let is_list = |file: &str| file.rsplit('/').next() == Some(ORACLE);
        let (lists, files): (Files, Files) = files.clone().into_iter().partition(|(file, _)| is_list(file));
        let expected = lists.values().next().map_or_else(|| Ok(Expected::default()), |text| Expected::read(text))?;
        Ok(Self { cases: cases::read(&files)?, expected })
    }
}

/// What the policy says, and what a rule says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Says {
    Allow,
    Deny,
    Sandbox,
    Production,
}

/// What a case does not fix.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Situation {
    /// Nothing was spent, and nobody approved.
    #[default]
    AsAsked,
    /// A governor has approved this very request.
    Granted,
    /// The request is the last that the trial's tasks have room for.
    TasksLeft,
    /// The trial's tasks are used up.
    TasksSpent,
    /// The request is the last that both money budgets have room for.
    MoneyLeft,
    /// The agent's money is spent.
    AgentSpent,
    /// The platform's money is spent.
    PlatformSpent,
}

impl Situation {
    /// In words, after a comma.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::AsAsked => "",
            Self::Granted => ", approved",
            Self::TasksLeft => ", one task left",
            Self::TasksSpent => ", no task left",
            Self::MoneyLeft => ", money for this request",
            Self::AgentSpent => ", the agent's money spent",
            Self::PlatformSpent => ", the platform's money spent",
        }
    }
}

/// What a case is about.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Subject {
    permission: Option<String>,
    route: String,
    roles: Vec<String>,
    method: String,
    /// The coded reason of our decision.
    outcome: String,
}

/// One thing that a rule is asked about a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    file: String,
    case: String,
    rule: String,
    situation: Situation,
    ours: Says,
    subject: Subject,
    question: Question,
}

/// Both answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Compared {
    judgement: Judgement,
    /// `None` when the rule cannot say.
    theirs: Option<Says>,
    /// What the rule has to say about it.
    why: Option<String>,
}

/// A difference, as it is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The file of the case.
    pub file: String,
    /// Its name.
    pub case: String,
    /// The rule.
    pub rule: String,
    /// What the case does not fix.
    pub situation: Situation,
    /// What the policy says.
    pub policy: Says,
    /// What the rule says.
    pub oracle: Says,
    /// What the rule says why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Why we decide otherwise, where that was chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chosen: Option<String>,
}

/// What one rule had to say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RuleCount {
    /// Cases that it judged, in one situation or several.
    pub cases: usize,
    /// Answers that it gave.
    pub judged: usize,
    /// Those that are ours.
    pub agreed: usize,
    /// Those that differ as chosen.
    pub chosen: usize,
    /// Those that differ and should not.
    pub unexpected: usize,
    /// Questions that it failed on.
    pub failed: usize,
}

/// What a set had to say about all cases.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct OracleReport {
    /// By rule.
    pub rules: BTreeMap<String, RuleCount>,
    /// Cases that at least one rule judged.
    pub judged_cases: usize,
    /// Cases that none judged, by why.
    pub unjudged: BTreeMap<&'static str, usize>,
    /// Differences that were chosen, by choice.
    pub chosen: Vec<Difference>,
    /// Those that were not.
    pub unexpected: Vec<Difference>,
    /// Questions that a rule failed on, and how.
    pub failures: Vec<String>,
    /// Choices that no difference bears out. Empty where not all cases were asked.
    pub stale: Vec<String>,
}

/// The cases that a set is asked about.
#[derive(Debug)]
pub struct Oracle<'s> {
    set: &'s OpaSet,
    judgements: Vec<Judgement>,
    report: OracleReport,
}

impl<'s> Oracle<'s> {
    /// Nothing is asked yet.
    #[must_use]
    pub fn new(set: &'s OpaSet) -> Self {
        Self { set, judgements: Vec::new(), report: OracleReport::default() }
    }

    /// Notes what a case is to be asked.
    pub fn note(&mut self, document: &PolicyDocument, filed: &FiledCase, evaluation: &Evaluation) {
        match question::judgements(self.set, document, filed, evaluation) {
            Ok(judgements) => {
                self.report.judged_cases = self.report.judged_cases.saturating_add(1);
                self.judgements.extend(judgements);
            }
            Err(why) => add(self.report.unjudged.entry(why).or_default()),
        }
    }

    /// Asks the set, and sorts what differs. Blocks, for 5 s at most for every 500 questions.
    ///
    /// # Errors
    /// The set cannot be asked.
    pub fn ask(self, expected: &Expected) -> Result<OracleReport, PolicyFault> {
        let Self { set, judgements, mut report } = self;
        let questions: Vec<Question> = judgements.iter().map(|judgement| judgement.question.clone()).collect();
        let replies = set.ask(&questions)?;
        let mut cases: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let mut differing = Vec::new();
        for (judgement, reply) in judgements.into_iter().zip(replies) {
            let count = report.rules.entry(judgement.rule.clone()).or_default();
            let theirs = says(&judgement.rule, &reply);
            if theirs.is_some() {
                cases.entry(judgement.rule.clone()).or_default().insert(judgement.case.clone());
                add(&mut count.judged);
            }
            match theirs {
                Some(theirs) if theirs == judgement.ours => add(&mut count.agreed),
                Some(theirs) => differing.push(Compared { judgement, theirs: Some(theirs), why: why(&reply) }),
                None => {
                    add(&mut count.failed);
                    let Judgement { file, case, rule, situation, .. } = judgement;
                    report.failures.push(format!("{file}: {case}{}: {rule} cannot say: {}", situation.words(), told(&reply)));
                }
            }
        }
        for (rule, cases) in cases {
            report.rules.entry(rule).or_default().cases = cases.len();
        }
        add_reasons(set, &mut differing)?;
        let Sorted { chosen, unexpected, stale } = expected.sort(set.grants.form(), differing);
        for (compared, _) in &chosen {
            add(&mut report.rules.entry(compared.judgement.rule.clone()).or_default().chosen);
        }
        for compared in &unexpected {
            add(&mut report.rules.entry(compared.judgement.rule.clone()).or_default().unexpected);
        }
        report.chosen = chosen.into_iter().filter_map(|(compared, reason)| difference(compared, Some(reason))).collect();
        report.unexpected = unexpected.into_iter().filter_map(|compared| difference(compared, None)).collect();
        report.stale = stale;
        Ok(report)
    }
}

fn add(count: &mut usize) {
    *count = count.saturating_add(1);
}

fn says(rule: &str, reply: &Reply) -> Option<Says> {
    let value = match reply {
        Reply::Failed(_) => return None,
        Reply::Undefined => &Value::Null,
        Reply::Value(value) => value,
    };
    question::routed(rule, value).or_else(|| allows(reply).map(|allowed| if allowed { Says::Allow } else { Says::Deny }))
}

/// The reason that an answer carries.
fn why(reply: &Reply) -> Option<String> {
    match reply {
        Reply::Value(value) => value.get("deny_reason")?.as_str().map(str::to_owned),
        Reply::Undefined | Reply::Failed(_) => None,
    }
}

fn told(reply: &Reply) -> String {
    match reply {
        Reply::Value(value) => format!("it says {value}"),
        Reply::Undefined => "it is undefined".to_owned(),
        Reply::Failed(why) => why.clone(),
    }
}

/// Sets that answer with yes or no have their reasons in a rule beside it. Two at once are a conflict there, which is told.
fn add_reasons(set: &OpaSet, differing: &mut [Compared]) -> Result<(), PolicyFault> {
    let reasons_of = |rule: &str| rule.rsplit_once('.').map(|(package, _)| format!("{package}.deny_reason")).filter(|path| set.has(path));
    let asked: Vec<(usize, Question)> = differing
        .iter()
        .enumerate()
        .filter(|(_, compared)| compared.theirs == Some(Says::Deny) && compared.why.is_none())
        .filter_map(|(at, compared)| {
            Some((at, Question { rule: reasons_of(&compared.judgement.rule)?, ..compared.judgement.question.clone() }))
        })
        .collect();
    let questions: Vec<Question> = asked.iter().map(|(_, question)| question.clone()).collect();
    for ((at, _), reply) in asked.into_iter().zip(set.ask(&questions)?) {
        if let (Some(compared), Reply::Value(_) | Reply::Failed(_)) = (differing.get_mut(at), &reply) {
            compared.why = Some(match &reply {
                Reply::Value(value) => value.as_str().map_or_else(|| value.to_string(), str::to_owned),
                Reply::Undefined | Reply::Failed(_) => format!("its reason cannot be told: {}", told(&reply)),
            });
        }
    }
    Ok(())
}

fn difference(compared: Compared, chosen: Option<String>) -> Option<Difference> {
    let Compared { judgement, theirs, why } = compared;
    let Judgement { file, case, rule, situation, ours, .. } = judgement;
    theirs.map(|oracle| Difference { file, case, rule, situation, policy: ours, oracle, why, chosen })
}
