//! What a scene of the demo stands on: connections to the gateways, and the rows of the table.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::DemoError;
use super::admin::Admin;
use super::http::{Answer, Ask, Client};
use crate::issuer::IssuerState;
use crate::stack::State;
use crate::token::{TokenSpec, mint};

/// One line of the table.
#[derive(Clone, Debug)]
pub struct Row {
    /// What is shown.
    pub outcome: String,
    /// Gateway, method and path.
    pub request: String,
    /// The status that has to come.
    pub expected: String,
    /// The status that came.
    pub got: String,
    /// Which check answered, or which backend.
    pub check: String,
    /// How long it took; absent for what is no request.
    pub took: Option<Duration>,
    /// What is not as it has to be.
    pub fault: Option<String>,
}

/// What has to come back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Want {
    pub(super) status: u16,
    pub(super) answered_by: &'static str,
}

pub(super) const PRODUCTION: Want = Want { status: 200, answered_by: "production" };
pub(super) const SANDBOX: Want = Want { status: 200, answered_by: "sandbox" };

pub(super) const fn refused(status: u16, check: &'static str) -> Want {
    Want { status, answered_by: check }
}

/// Nothing more is asked of an answer.
pub(super) const fn nothing_more(_: &Answer) -> Result<(), String> {
    Ok(())
}

/// The running demo.
#[derive(Debug)]
pub(super) struct Stage<'s> {
    pub(super) state: &'s State,
    pub(super) admin: Admin,
    clients: BTreeMap<String, Client>,
    run: String,
    rows: Vec<Row>,
    sent: u64,
}

impl<'s> Stage<'s> {
    pub(super) fn new(state: &'s State) -> Self {
        let clients = state.gateways.iter().map(|(name, url)| (name.clone(), Client::new(url))).collect();
        // Fresh subjects on every run: the budgets of a stack that has been used before are not ours to count on.
        let run = uuid::Uuid::new_v4().simple().to_string().chars().take(8).collect();
        Self { state, admin: Admin::new(state), clients, run, rows: Vec::new(), sent: 0 }
    }

    pub(super) fn into_rows(self) -> Vec<Row> {
        self.rows
    }

    /// How many requests the gateways got from us.
    pub(super) const fn sent(&self) -> u64 {
        self.sent
    }

    /// A name that no other run uses.
    pub(super) fn fresh(&self, name: &str) -> String {
        format!("{name}-{}", self.run)
    }

    fn issuer(&self, name: &str) -> Result<&'s IssuerState, DemoError> {
        self.state.issuers.get(name).ok_or_else(|| DemoError::Incomplete { what: format!("issuer {name}") })
    }

    pub(super) fn token(&self, issuer: &str, spec: &TokenSpec) -> Result<String, DemoError> {
        Ok(mint(self.issuer(issuer)?, spec)?)
    }

    /// Signed by somebody else under the key id of the issuer: by the operators' key, which has the same algorithm.
    pub(super) fn forged(&self, spec: &TokenSpec) -> Result<String, DemoError> {
        let forger = self.issuer("ops")?;
        let (private_key_pem, development) = (forger.private_key_pem.clone(), forger.development.clone());
        let issuer = IssuerState { private_key_pem, development, ..self.issuer("pp")?.clone() };
        Ok(mint(&issuer, spec)?)
    }

    /// With `alg: none` and no signature.
    pub(super) fn unsigned(&self, spec: &TokenSpec) -> Result<String, DemoError> {
        let claims = Value::Object(spec.claims(self.issuer("pp")?)?);
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        Ok(format!("{}.{}.", part(&json!({"alg": "none", "typ": "JWT", "kid": "pp-1"})), part(&claims)))
    }

    /// Sends it and adds it to the table.
    pub(super) async fn show(
        &mut self,
        outcome: &str,
        gateway: &str,
        ask: Ask,
        want: Want,
        also: impl FnOnce(&Answer) -> Result<(), String> + Send,
    ) -> Result<Answer, DemoError> {
        let request = format!("{gateway} {}", ask.line());
        let answer = self.send(gateway, &ask).await?;
        let check = answer.answered_by();
        let fault = if (answer.status, check.as_str()) == (want.status, want.answered_by) {
            also(&answer).err()
        } else {
            Some(format!("expected {} by {}: {}", want.status, want.answered_by, answer.text()))
        };
        self.rows.push(Row {
            outcome: outcome.to_owned(),
            request,
            expected: want.status.to_string(),
            got: answer.status.to_string(),
            check,
            took: Some(answer.took),
            fault,
        });
        Ok(answer)
    }

    /// Sends it so often, and adds one line for all of them with the median of their durations.
    pub(super) async fn show_many(&mut self, outcome: &str, gateway: &str, ask: &Ask, times: usize, want: Want) -> Result<(), DemoError> {
        let mut durations = Vec::with_capacity(times);
        let mut fault = None;
        for nth in 1..=times {
            let answer = self.send(gateway, ask).await?;
            durations.push(answer.took);
            if (answer.status, answer.answered_by().as_str()) != (want.status, want.answered_by) {
                fault.get_or_insert_with(|| format!("request {nth} got {}: {}", answer.status, answer.text()));
            }
        }
        durations.sort_unstable();
        self.rows.push(Row {
            outcome: outcome.to_owned(),
            request: format!("{gateway} {} × {times}", ask.line()),
            expected: want.status.to_string(),
            got: if fault.is_none() { want.status.to_string() } else { "differs".to_owned() },
            check: want.answered_by.to_owned(),
            took: durations.get(times / 2).copied(),
            fault,
        });
        Ok(())
    }

    /// A line that compares two numbers.
    pub(super) fn compare(&mut self, outcome: &str, request: &str, expected: u64, got: u64) {
        let fault = (expected != got).then(|| format!("{expected} expected, {got} found"));
        let (expected, got) = (expected.to_string(), got.to_string());
        self.rows.push(Row {
            outcome: outcome.to_owned(),
            request: request.to_owned(),
            expected,
            got,
            check: String::new(),
            took: None,
            fault,
        });
    }

    async fn send(&mut self, gateway: &str, ask: &Ask) -> Result<Answer, DemoError> {
        let missing = || DemoError::Incomplete { what: format!("gateway {gateway}") };
        let client = self.clients.get_mut(gateway).ok_or_else(missing)?;
        self.sent = self.sent.saturating_add(1);
        Ok(client.send(ask).await?)
    }
}
