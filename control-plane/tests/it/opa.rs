//! Policies of an OPA server over the admin API: imported, and asked about the golden cases of the policy in force.

use crate::support::{POLICIES, World};
use axum::http::StatusCode;
use serde_json::{Value, json};
use sqlx::PgPool;
use std::path::Path;

/// A set in the shape of one of the original's.
fn set(name: &str) -> Value {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../authoring/tests/fixtures/opa").join(name);
    json!(authoring::directory::read_modules(&folder).unwrap())
}

/// The golden cases and the list beside them, as files.
fn cases() -> Value {
    let folder = Path::new(POLICIES).join("cases");
    let mut files = serde_json::Map::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            let name = format!("cases/{}", path.file_name().unwrap().to_string_lossy());
            files.insert(name, std::fs::read_to_string(path).unwrap().into());
        }
    }
    files.into()
}

#[sqlx::test(migrations = "../migrations")]
async fn a_set_is_imported_and_compared_with_the_policy_in_force(database: PgPool) {
    let world = World::new(database).await;
    let answer = world.post("/admin/v1/policies/import", &json!({ "files": set("permissions") })).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    let import = answer.json();
    assert_eq!((&import["set"]["generation"], &import["set"]["failed_tests"]), (&json!("v0"), &json!([])));
    assert_eq!(import["roles"][0], json!({"name": "admin", "permissions": ["*"]}));
    assert!(import["yaml"].as_str().unwrap().starts_with("permissions:\n  - agent.categorize\n"), "{import}");
    let differences = import["differences"].as_array().unwrap();
    assert!(differences.contains(&json!({"kind": "permission_added", "permission": "agent.delete"})), "{differences:?}");
    assert!(!differences.iter().any(|difference| difference["kind"].as_str().unwrap().starts_with("grant")), "{differences:?}");
    let levels = world.post("/admin/v1/policies/import", &json!({ "files": set("levels") })).await.json();
    assert_eq!((&levels["set"]["generation"], &levels["set"]["form"]), (&json!("v1"), &json!("levels")));
    assert!(levels["remarks"].as_array().unwrap().iter().any(|remark| remark.as_str().unwrap().contains("`pause`")), "{levels}");
}

#[sqlx::test(migrations = "../migrations")]
async fn both_sets_are_asked_about_every_golden_case(database: PgPool) {
    let world = World::new(database).await;
    for (name, rule) in [("permissions", "gateway.trial_mode.allow"), ("levels", "gateway.rbac_pp.allow")] {
        let answer = world.post("/admin/v1/policies/oracle", &json!({ "files": set(name), "cases": cases() })).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        let said = answer.json();
        assert_eq!((&said["unexpected"], &said["stale"], &said["failures"]), (&json!([]), &json!([]), &json!([])));
        assert!(said["judged_cases"].as_u64().unwrap() > 700 && said["rules"][rule]["agreed"].as_u64().unwrap() > 400, "{}", said["rules"]);
        assert!(!said["chosen"].as_array().unwrap().is_empty());
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn what_cannot_be_loaded_names_its_place(database: PgPool) {
    let world = World::new(database).await;
    let broken = json!({ "a.rego": "package gateway.rbac_pp\nimport rego.v1\n\nallow if {\n" });
    // The tree of a value that calls itself is followed on the stack: it must not be the service's.
    let endless = json!({ "a.rego": "package a\nimport rego.v1\nallow if f(1)\nf(x) := f(x + 1)\npermissions := {\"a.b\": [\"c\"]}\ntest_it if allow\n" });
    for (path, body, told) in [
        ("import", json!({ "files": broken }), "a.rego"),
        ("import", json!({ "files": endless }), "a.rego"),
        ("oracle", json!({ "files": set("levels"), "cases": { "cases/a.yaml": "cases: [{}]" } }), "cases/a.yaml"),
    ] {
        let refused = world.post(&format!("/admin/v1/policies/{path}"), &body).await;
        assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY, "{refused:?}");
        assert_eq!(refused.json()["file"], told, "{refused:?}");
    }
    let none = world.post("/admin/v1/policies/import", &json!({ "files": { "a.yaml": "" } })).await;
    assert!(none.json()["detail"].as_str().unwrap().contains("no file ends with `.rego`"), "{none:?}");
}
