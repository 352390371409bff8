//! A second revision, evaluated in shadow while that is measured.

use std::time::Duration;

use cli::demo::admin::{Admin, AdminError};
use cli::demo::http::Ask;
use cli::stack::State;
use serde_json::json;

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
        let active = admin.json(Ask::get("/admin/v1/policies/active")).await?;
        let mut policy = admin.json(Ask::get(&format!("/admin/v1/policies/{}", active["revision"]))).await?;
        let mut files = policy["files"].take();
        files["settings.yaml"] = json!(format!("# In shadow.\n{}", files["settings.yaml"].as_str().unwrap_or_default()));
        let published = admin.json(Ask::post("/admin/v1/policies").json(&json!({"files": files, "reason": REASON}))).await?;
        let unreadable = AdminError::Unreadable { line: "/admin/v1/policies".to_owned(), member: "revision" };
        Ok(Self { revision: published["revision"].as_i64().ok_or(unreadable)? })
    }

    /// Puts it into shadow.
    pub(crate) async fn begin(self, state: &State) -> Result<(), BenchError> {
        self.tell(state, "/admin/v1/policies/shadow", &json!({"revision": self.revision, "reason": REASON})).await
    }

    /// Takes it out again.
    pub(crate) async fn end(self, state: &State) -> Result<(), BenchError> {
        self.tell(state, "/admin/v1/policies/shadow/end", &json!({"reason": REASON})).await
    }

    async fn tell(self, state: &State, path: &str, body: &serde_json::Value) -> Result<(), BenchError> {
        Admin::new(state).json(Ask::post(path).json(body)).await?;
        tokio::time::sleep(TAKEN).await;
        Ok(())
    }
}
