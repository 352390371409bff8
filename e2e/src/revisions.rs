//! Revisions of the policy, published and put in force as operators do it.

use std::time::Duration;

use authoring::Files;
use cli::demo::admin::AdminError;
use serde_json::{Value, json};

use crate::admin::Admin;
use crate::http::Ask;
use crate::stacks::eventually;

/// Publishes the files; the number of their revision.
///
/// # Errors
/// When the control plane refuses.
pub async fn publish(admin: &mut Admin, files: &Files, reason: &str) -> Result<i64, AdminError> {
    let line = "/admin/v1/policies";
    let published = admin.json(Ask::post(line).json(&json!({"files": files, "reason": reason}))).await?;
    let revision = published.get("revision").and_then(Value::as_i64);
    revision.ok_or_else(|| AdminError::Unreadable { line: line.to_owned(), member: "revision" })
}

/// Puts a revision in force.
///
/// # Errors
/// When the control plane refuses.
pub async fn activate(admin: &mut Admin, revision: i64, reason: &str) -> Result<(), AdminError> {
    let path = format!("/admin/v1/policies/{revision}/activation");
    admin.json(Ask::post(&path).json(&json!({"reason": reason}))).await.map(|_in_force| ())
}

/// What the control plane says of who enforces what is in force.
///
/// # Errors
/// When it does not say.
pub async fn enforcement(admin: &mut Admin) -> Result<Value, AdminError> {
    admin.json(Ask::get("/admin/v1/policies/enforcement")).await
}

/// The same, once all workers that have had a request enforce the revision; none if they do not in time.
pub async fn enforced(admin: &mut Admin, revision: i64, patience: Duration) -> Option<Value> {
    let answer = eventually(patience, async || {
        let enforcement = enforcement(admin).await.ok()?;
        let count = |member| enforcement.get(member).and_then(Value::as_u64).filter(|count| *count > 0);
        let all = count("workers").is_some() && count("workers") == count("enforcing");
        let this = enforcement.get("revision").and_then(Value::as_i64) == Some(revision);
        (all && this).then_some(enforcement)
    });
    answer.await
}
