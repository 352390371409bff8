//! Golden cases: requests, and what must become of them under a policy. The form is described beside the default policy's
//! cases, in `policies/cases/README.md`. Unknown fields are errors.

use crate::Files;
use crate::fault::PolicyFault;
use crate::place::{Which, find};
use decision_core::causes::chain;
use decision_core::facts;
use decision_core::nearest::nearest;
use decision_core::policy;
use decision_core::principal::CredentialFault;
use decision_core::time::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use wire::policy::{CredentialForwarding, FlagState, Gateway, OwnershipPlace, Switch};

/// The folder of cases, beside the sources of their policy.
pub const FOLDER: &str = "cases";

/// The file among them that has no cases: what an oracle says otherwise, by choice.
pub const ORACLE: &str = "oracle.yaml";

/// The moment at which cases are decided: 2026-01-15T12:00:00Z.
pub const NOW: Timestamp = Timestamp::from_seconds(1_768_478_400);

/// A case, and where it stands.
#[derive(Clone, Debug)]
pub struct FiledCase {
    /// Its file, as `cases/trials.yaml`.
    pub file: String,
    /// The case.
    pub case: Case,
}

/// How flags stand, by name.
pub type FlagStates = BTreeMap<String, FlagState>;

/// One file of cases.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CaseFile {
    cases: Vec<Case>,
}

/// A request, and what must become of it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// Unique over all files; also the subject of its token.
    pub name: String,
    /// Where the request comes to.
    pub gateway: Gateway,
    /// Its method.
    pub method: String,
    /// Its path with the query, as sent.
    pub path: String,
    /// What it presents as `Authorization`.
    pub token: Token,
    /// What it presents as registration key.
    pub registration_key: Option<RegistrationKey>,
    /// Which protocol it asks to change to.
    pub upgrade: Option<Upgrade>,
    /// Flags that stand so for everybody while the case is decided; the others stand as the policy says.
    #[serde(default)]
    pub flags: FlagStates,
    /// Whether it also runs through Envoy, where it can.
    #[serde(default = "default_true")]
    pub envoy: bool,
    /// What must become of it.
    pub want: Want,
}

/// What the caller presents as `Authorization`.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Token {
    /// Nothing.
    None(NoToken),
    /// A token with exactly one thing wrong.
    Bad(BadToken),
    /// A token with nothing wrong.
    Good(Box<Claims>),
}

/// `none`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the name says it")]
pub enum NoToken {
    None,
}

/// A token with exactly one thing wrong.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BadToken {
    /// The coded reason.
    pub fault: String,
}

/// A token with nothing wrong.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the names are those of the claims")]
pub struct Claims {
    /// The issuer's name in the policy.
    pub issuer: String,
    pub roles: Vec<String>,
    pub user_id: Option<String>,
    pub customer_id: Option<String>,
    pub agent_id: Option<String>,
    pub governor_agent_id: Option<String>,
    pub tier: Option<String>,
    #[serde(default)]
    pub trial_mode: bool,
    pub trial_expires_at: Option<TrialEnd>,
    /// More claims; they win over those above, and `null` takes a claim away.
    #[serde(default)]
    pub claims: Map<String, Value>,
}

/// A moment beside the one at which the case is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum TrialEnd {
    Future,
    Now,
    SecondAgo,
    Past,
}

/// What is presented as registration key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum RegistrationKey {
    Valid,
    Invalid,
}

/// The protocol to change to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Upgrade {
    /// `Upgrade: websocket`.
    Websocket,
    /// Another one, which no route lists.
    Other,
}

impl From<Upgrade> for facts::Upgrade {
    fn from(upgrade: Upgrade) -> Self {
        match upgrade {
            Upgrade::Websocket => Self::Websocket,
            Upgrade::Other => Self::Other,
        }
    }
}

/// What must become of the request.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Want {
    /// By the rules: a request that needs an approval is permitted, under that condition.
    pub decision: Verdict,
    /// What the client gets; 200 stands for "the backend answers".
    pub status: u16,
    /// The coded reason of the audit record.
    pub reason: String,
    /// The route that matched.
    pub route: Option<String>,
    /// The custom rule that decided; not compared when absent.
    pub rule: Option<String>,
    /// Where it goes.
    #[serde(default)]
    pub target: Target,
    /// Whether an approval is needed.
    #[serde(default)]
    pub approval: Approval,
    /// All charges; not compared when absent.
    pub charges: Option<BTreeMap<String, i64>>,
    /// All checks that a flag skips.
    #[serde(default)]
    pub skipped: Vec<Switch>,
    /// The caps of budgets that are charged, or that count the client's address.
    #[serde(default)]
    pub caps: BTreeMap<String, i64>,
    /// What the backend gets.
    pub forwarded: Option<Forwarded>,
}

/// What the backend gets; what is absent is not compared.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forwarded {
    /// The path with the query; compared through Envoy only.
    pub path: Option<String>,
    /// Where the caller's customer id is forced into the request.
    pub ownership: Option<Owner>,
    /// The path that stands for the client's.
    pub rewrite: Option<String>,
    /// What it gets as credential.
    pub credential: Option<CredentialForwarding>,
}

/// Where the caller's customer id is forced into a request. A case says the name, whatever a policy means without one.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Owner {
    /// Which part of it.
    #[serde(rename = "in")]
    pub place: OwnershipPlace,
    /// The query parameter, the parameter of the path template, or the key of the JSON object.
    pub name: String,
}

impl fmt::Display for Owner {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", policy::OwnershipPlace::from(self.place).name(), self.name)
    }
}

/// Yes or no.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Verdict {
    Permit,
    Deny,
}

/// Where a request goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Target {
    #[default]
    Production,
    Sandbox,
}

/// Whether a governor has to approve first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Approval {
    #[default]
    None,
    Needed,
}

/// Faults that no token has: what was revoked was good when it was made, and a worker's budget is the worker's.
const WITHOUT_TOKEN: [&str; 8] = [
    "token_revoked",
    "subject_revoked",
    "token_version_mismatch",
    "key_revoked",
    "customer_stopped",
    "agent_stopped",
    "verification_budget_spent",
    "no_known_role",
];

impl Case {
    /// Whether it can be sent through Envoy, and does not say that it should not: the admin API is not behind Envoy, whose clock
    /// is not ours, a WebSocket takes a backend that agrees to it, and other changes of protocol Envoy refuses by itself.
    #[must_use]
    pub fn runs_through_envoy(&self) -> bool {
        let behind_envoy = match self.gateway {
            Gateway::Cp | Gateway::Pp | Gateway::Plant => true,
            Gateway::Admin => false,
        };
        let sendable = match &self.token {
            Token::None(_) => true,
            // `trial_refused` takes an issuer whose tokens may not be for trials; those behind Envoy all may.
            Token::Bad(bad) => !WITHOUT_TOKEN.contains(&bad.fault.as_str()) && bad.fault != "trial_refused",
            Token::Good(claims) => !matches!(claims.trial_expires_at, Some(TrialEnd::Now | TrialEnd::SecondAgo)),
        };
        let answered = match self.upgrade {
            None => true,
            Some(Upgrade::Websocket) => self.want.decision == Verdict::Deny,
            Some(Upgrade::Other) => false,
        };
        self.envoy && behind_envoy && sendable && answered
    }

    /// What is wrong with it beyond its form.
    fn problem(&self) -> Option<String> {
        match &self.token {
            Token::None(_) => None,
            Token::Bad(bad) => {
                let known = || CredentialFault::ALL.into_iter().map(CredentialFault::code);
                if known().any(|code| code == bad.fault) {
                    return None;
                }
                let hint = nearest(&bad.fault, known()).map_or_else(String::new, |name| format!("; the nearest name is `{name}`"));
                Some(format!("token.fault: `{}` does not exist{hint}", bad.fault))
            }
            Token::Good(claims) => (claims.trial_mode && claims.trial_expires_at.is_none())
                .then(|| "token.trial_expires_at: a token with `trial_mode` says when the trial ends".to_owned()),
        }
    }
}

/// All cases of a policy's folder.
///
/// # Errors
/// A file that cannot be read, or is none of cases.
pub fn read_directory(policies: &Path) -> Result<Vec<FiledCase>, PolicyFault> {
    let folder = policies.join(FOLDER);
    let unreadable = |path: &Path, error: &std::io::Error| PolicyFault {
        file: Some(path.display().to_string()),
        message: format!("cannot be read: {}", chain(error)),
        ..PolicyFault::default()
    };
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let mut files = Files::new();
    for entry in std::fs::read_dir(&folder).map_err(|error| unreadable(&folder, &error))? {
        let path = entry.map_err(|error| unreadable(&folder, &error))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name != ORACLE && path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml") {
            let text = std::fs::read_to_string(&path).map_err(|error| unreadable(&path, &error))?;
            files.insert(format!("{FOLDER}/{name}"), text);
        }
    }
    read(&files)
}

/// All cases of these files, in the order of their names.
///
/// # Errors
/// The first file that is none of cases, and the first case whose name is taken or that cannot be.
pub fn read(files: &Files) -> Result<Vec<FiledCase>, PolicyFault> {
    let mut cases: Vec<FiledCase> = Vec::new();
    let mut names: BTreeMap<String, String> = BTreeMap::new();
    for (file, text) in files {
        let parsed: CaseFile = serde_norway::from_str(text).map_err(|error| PolicyFault {
            file: Some(file.clone()),
            line: error.location().map(|at| at.line()),
            field: None,
            message: error.to_string(),
            ..PolicyFault::default()
        })?;
        for case in parsed.cases {
            let problem = case.problem().or_else(|| {
                let other = names.insert(case.name.clone(), file.clone())?;
                Some(format!("name: a case in `{other}` has this name already"))
            });
            if let Some(problem) = problem {
                let line = find(&format!("cases[{}]", case.name), None, Which::First, &Files::from([(file.clone(), text.clone())]));
                let line = line.map(|(_, line)| line);
                let field = Some(format!("cases[{}]", case.name));
                let message = format!("cases[{}].{problem}", case.name);
                return Err(PolicyFault { file: Some(file.clone()), line, field, message, ..PolicyFault::default() });
            }
            cases.push(FiledCase { file: file.clone(), case });
        }
    }
    Ok(cases)
}

const fn default_true() -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "cases:\n  - { name: a, gateway: PP, method: GET, path: /a, token: none, want: { decision: deny, status: 404, reason: no_route } }\n";

    fn parse(text: &str) -> Result<Vec<FiledCase>, PolicyFault> {
        read(&Files::from([("cases/a.yaml".to_owned(), text.to_owned())]))
    }

    #[test]
    fn a_case_with_an_unknown_field_is_refused() {
        assert_eq!(parse(GOOD).unwrap().len(), 1);
        for (from, to) in [
            ("method: GET", "method: GET, methods: []"),
            ("status: 404", "status: 404, stat: 404"),
            ("token: none", "token: { fault: expired, extra: 1 }"),
            ("token: none", "token: { issuer: pp, roles: [], rolls: [] }"),
            ("token: none", "token: nothing"),
            ("token: none", "token: none, upgrade: h2c"),
            ("token: none", "token: none, flags: { a: maybe }"),
            ("status: 404", "status: 404, skipped: [authentication]"),
            ("status: 404", "status: 404, skipped: [ownership]"),
            ("status: 404", "status: 404, forwarded: { credential: header }"),
            ("status: 404", "status: 404, forwarded: { ownership: { in: query } }"),
            ("status: 404", "status: 404, caps: { a: many }"),
            ("cases:", "casess:"),
        ] {
            let fault = parse(&GOOD.replace(from, to)).unwrap_err();
            assert_eq!(fault.file.as_deref(), Some("cases/a.yaml"), "{to}");
        }
    }

    #[test]
    fn a_case_that_cannot_be_names_its_place() {
        for (from, to, message) in [
            ("none", "{ fault: expird }", "cases[a].token.fault: `expird` does not exist; the nearest name is `expired`"),
            ("none", "{ issuer: pp, roles: [], trial_mode: true }", "a token with `trial_mode` says when the trial ends"),
        ] {
            let fault = parse(&GOOD.replace(from, to)).unwrap_err();
            assert_eq!(fault.line, Some(2));
            assert!(fault.message.contains(message), "{fault}");
        }
        let twice = Files::from([("cases/a.yaml".to_owned(), GOOD.to_owned()), ("cases/b.yaml".to_owned(), GOOD.to_owned())]);
        assert!(read(&twice).unwrap_err().message.ends_with("a case in `cases/a.yaml` has this name already"));
    }

    #[test]
    fn what_envoy_cannot_show_does_not_run_there() {
        let runs = |from: &str, to: &str| parse(&GOOD.replace(from, to)).unwrap()[0].case.runs_through_envoy();
        assert!(runs("a", "a"));
        assert!(runs("none", "{ fault: expired }"));
        assert!(runs("none", "none, upgrade: websocket"));
        assert!(!runs("none", "none, upgrade: other"));
        assert!(!runs("none", "none, envoy: false"));
        assert!(!runs("PP", "ADMIN"));
        assert!(!runs("none", "{ fault: key_revoked }"));
        assert!(!runs("none", "{ issuer: pp, roles: [], trial_mode: true, trial_expires_at: now }"));
        let upgraded = GOOD.replace("none", "none, upgrade: websocket").replace("deny", "permit");
        assert!(!parse(&upgraded).unwrap()[0].case.runs_through_envoy());
    }
}
