//! The form of a case file: see the README beside the cases. Unknown fields are errors.

use serde::Deserialize;
use std::collections::BTreeMap;
use wire::policy::Gateway;

/// One file of cases.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CaseFile {
    pub(crate) cases: Vec<Case>,
}

/// A request, and what must become of it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) gateway: Gateway,
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) token: Token,
    pub(crate) registration_key: Option<RegistrationKey>,
    /// Whether the case also runs through Envoy.
    #[serde(default)]
    pub(crate) envoy: bool,
    pub(crate) want: Want,
}

/// What the caller presents as `Authorization`.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Token {
    None(NoToken),
    Bad(BadToken),
    Good(Box<Claims>),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum NoToken {
    None,
}

/// A token with exactly one thing wrong.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BadToken {
    pub(crate) fault: String,
}

/// A token with nothing wrong.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Claims {
    pub(crate) issuer: String,
    pub(crate) roles: Vec<String>,
    pub(crate) customer_id: Option<String>,
    pub(crate) agent_id: Option<String>,
    pub(crate) governor_agent_id: Option<String>,
    pub(crate) tier: Option<String>,
    #[serde(default)]
    pub(crate) trial_mode: bool,
    pub(crate) trial_expires_at: Option<TrialEnd>,
}

/// A moment beside the one at which the case is decided.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum TrialEnd {
    Future,
    Now,
    SecondAgo,
    Past,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RegistrationKey {
    Valid,
    Invalid,
}

/// What must become of the request.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Want {
    pub(crate) decision: Verdict,
    pub(crate) status: u16,
    pub(crate) reason: String,
    pub(crate) route: Option<String>,
    #[serde(default)]
    pub(crate) target: Target,
    #[serde(default)]
    pub(crate) approval: Approval,
    /// All charges; not compared when absent.
    pub(crate) charges: Option<BTreeMap<String, i64>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    Permit,
    Deny,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Target {
    #[default]
    Production,
    Sandbox,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Approval {
    #[default]
    None,
    Needed,
}

#[test]
fn a_case_with_an_unknown_field_is_refused() {
    let good = "cases: [{name: a, gateway: PP, method: GET, path: /a, token: none, want: {decision: deny, status: 404, reason: no_route}}]";
    assert!(serde_norway::from_str::<CaseFile>(good).is_ok());
    for (from, to) in [
        ("method: GET", "method: GET, methods: []"),
        ("status: 404", "status: 404, stat: 404"),
        ("token: none", "token: {fault: expired, extra: 1}"),
        ("token: none", "token: {issuer: pp, roles: [], rolls: []}"),
        ("token: none", "token: nothing"),
        ("cases: [", "casess: ["),
    ] {
        assert!(serde_norway::from_str::<CaseFile>(&good.replace(from, to)).is_err(), "{to}");
    }
}
