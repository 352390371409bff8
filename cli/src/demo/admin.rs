//! The control plane's admin API, as far as the demo and the tests need it.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::http::{Answer, Ask, Client, HttpError};
use crate::stack::State;

const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The admin API did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// No answer.
    #[error("the admin API does not answer")]
    Http(#[from] HttpError),
    /// Another status than success.
    #[error("the admin API answers `{line}` with {status}: {body}")]
    Refused {
        /// Method and path.
        line: String,
        /// The status.
        status: u16,
        /// What it said.
        body: String,
    },
    /// A success that cannot be read.
    #[error("the admin API answers `{line}` without `{member}`")]
    Unreadable {
        /// Method and path.
        line: String,
        /// What is missing.
        member: &'static str,
    },
}

/// A client with the operator's token.
#[derive(Debug)]
pub struct Admin {
    client: Client,
    token: String,
}

impl Admin {
    /// For a running stack.
    #[must_use]
    pub fn new(state: &State) -> Self {
        Self { client: Client::new(&state.admin), token: state.admin_token.clone() }
    }

    /// Asks anything, whatever the status.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn ask(&mut self, ask: Ask) -> Result<Answer, AdminError> {
        Ok(self.client.send(&ask.bearer(&self.token)).await?)
    }

    /// Asks something that must succeed.
    ///
    /// # Errors
    /// When there is no answer, or a refusal.
    pub async fn json(&mut self, ask: Ask) -> Result<Value, AdminError> {
        let line = ask.line();
        let answer = self.ask(ask).await?;
        if (200..300).contains(&answer.status) {
            return Ok(answer.json());
        }
        Err(AdminError::Refused { line, status: answer.status, body: answer.text() })
    }

    /// How many audit records match a query such as `from=2026-01-31T00:00:00Z`.
    ///
    /// # Errors
    /// When the API does not say.
    pub async fn audit_count(&mut self, query: &str) -> Result<u64, AdminError> {
        let line = format!("/admin/v1/audit/count?{query}");
        let answer = self.json(Ask::get(&line)).await?;
        answer.get("count").and_then(Value::as_u64).ok_or(AdminError::Unreadable { line, member: "count" })
    }

    /// Waits until so many audit records match; says how many did in the end.
    ///
    /// # Errors
    /// When the API does not say.
    pub async fn audit_count_reaches(&mut self, query: &str, wanted: u64, patience: Duration) -> Result<u64, AdminError> {
        let deadline = Instant::now() + patience;
        loop {
            let count = self.audit_count(query).await?;
            if count >= wanted || Instant::now() >= deadline {
                return Ok(count);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// The audit record of one request, once it is stored.
    ///
    /// # Errors
    /// When the API does not say.
    pub async fn audit_record(&mut self, correlation_id: &str, patience: Duration) -> Result<Option<Value>, AdminError> {
        let query = format!("correlation_id={correlation_id}");
        self.audit_count_reaches(&query, 1, patience).await?;
        let line = format!("/admin/v1/audit?{query}");
        let page = self.json(Ask::get(&line)).await?;
        let records = page.get("records").and_then(Value::as_array).ok_or(AdminError::Unreadable { line, member: "records" })?;
        Ok(records.first().cloned())
    }

    /// Approves, in the name of the operator, who is a governor.
    ///
    /// # Errors
    /// When that is not possible.
    pub async fn approve(&mut self, approval_id: &str) -> Result<(), AdminError> {
        let decision = json!({"decision": "approve", "reason": "shown on purpose"});
        self.json(Ask::post(&format!("/admin/v1/approvals/{approval_id}/decision")).json(&decision)).await.map(|_approval| ())
    }

    /// The accounts of one durable budget.
    ///
    /// # Errors
    /// When the API does not say.
    pub async fn accounts(&mut self, budget: &str) -> Result<Vec<Value>, AdminError> {
        let line = format!("/admin/v1/budgets?budget={budget}&limit=1000");
        let list = self.json(Ask::get(&line)).await?;
        let accounts = list.get("accounts").and_then(Value::as_array);
        accounts.cloned().ok_or(AdminError::Unreadable { line, member: "accounts" })
    }
}
