//! A second revision, evaluated in shadow while that is measured.

use std::time::Duration;

use cli::demo::admin::{Admin, AdminError};
use cli::demo::http::Ask;
use cli::stack::State;
use serde_json::{Value, json};

use crate::error::BenchError;

/// Every worker has taken a bundle within a second.
const TAKEN: Duration = Duration::from_millis(1_500);
const REASON: &str = "measured";

/// The revision.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shadow {
    revision: i64,
}

impl Shadow {
    /// Publishes what is in force once more, in other words.
    pub(crate) async fn publish(state: &State) -> Result<Self, BenchError> {
        let mut admin = Admin::new(state);
        let number = |answer: &Value| answer.get("revision").and_then(Value::as_i64).ok_or_else(|| unreadable("revision"));
        let active = number(&admin.json(Ask::get("/admin/v1/policies/active")).await?)?;
        let mut policy = admin.json(Ask::get(&format!("/admin/v1/policies/{active}"))).await?;
        let mut files = policy.get_mut("files").map(Value::take).ok_or_else(|| unreadable("files"))?;
        if let Some(Value::String(settings)) = files.get_mut("settings.yaml") {
            settings.insert_str(0, "# In shadow.\n");
        }
        let published = admin.json(Ask::post("/admin/v1/policies").json(&json!({"files": files, "reason": REASON}))).await?;
        Ok(Self { revision: number(&published)? })
    }

    /// Puts it into shadow.
    pub(crate) async fn begin(self, state: &State) -> Result<(), BenchError> {
        self.tell(state, "/admin/v1/policies/shadow", &json!({"revision": self.revision, "reason": REASON})).await
    }

    /// Takes it out again.
    pub(crate) async fn end(self, state: &State) -> Result<(), BenchError> {
        self.tell(state, "/admin/v1/policies/shadow/end", &json!({"reason": REASON})).await
    }

    async fn tell(self, state: &State, path: &str, body: &Value) -> Result<(), BenchError> {
        Admin::new(state).json(Ask::post(path).json(body)).await?;
        tokio::time::sleep(TAKEN).await;
        Ok(())
    }
}

fn unreadable(member: &'static str) -> BenchError {
    AdminError::Unreadable { line: "/admin/v1/policies".to_owned(), member }.into()
}
