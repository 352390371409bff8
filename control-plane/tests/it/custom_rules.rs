//! Custom rules over real Postgres: published through the gate's process, served with their vectors, explained by the code that filters
//! evaluate; and refused without harm to what is in force.

use crate::support;
use crate::support::{ENVOY_TOKEN, World};
use axum::http::StatusCode;
use serde_json::{Value, json};
use sqlx::PgPool;
use wire::bundle::Bundle;

const RULES: &str = "
rules:
  modules: [rules/hours.rego, rules/hours_test.rego]
  data: rules/hours.json
  inputs: [method, path, jwt.roles, facts.hour_utc]
  gateways: [PP]
";

const MODULE: &str = r#"package gateway

default decision := {"allow": true, "rule": "default"}

decision := {"allow": false, "rule": "night", "reason": closed} if {
	input.method == "DELETE"
	not open
} else := {"allow": true, "rule": "readers", "target": "sandbox"} if {
	input.jwt.roles == ["viewer"]
}

open if {
	input.facts.hour_utc >= data.opens
	input.facts.hour_utc < data.closes
}

closed := sprintf("Nothing is deleted before %d and after %d UTC", [data.opens, data.closes])
"#;

const TESTS: &str = r#"package gateway_test

test_night if data.gateway.decision.rule == "night" with input as {"method": "DELETE", "facts": {"hour_utc": 3}}
"#;

/// The shipped files with these rules.
fn with_rules(world: &World, module: &str) -> Value {
    let mut files = world.files();
    files["policy.yaml"] = format!("{}{RULES}", files["policy.yaml"].as_str().unwrap()).into();
    for (name, text) in
        [("rules/hours.rego", module), ("rules/hours_test.rego", TESTS), ("rules/hours.json", r#"{"opens": 8, "closes": 18}"#)]
    {
        files[name] = text.into();
    }
    files
}

async fn publish(world: &World, files: &Value) -> support::Answer {
    world.post("/admin/v1/policies", &json!({ "files": files, "reason": "custom rules" })).await
}

/// The revision that these files become.
async fn published(world: &World, files: &Value) -> Value {
    let answer = publish(world, files).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
    answer.json()["revision"].clone()
}

async fn activate(world: &World, revision: &Value) {
    let answer = world.post(&format!("/admin/v1/policies/{revision}/activation"), &json!({ "reason": "custom rules" })).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
}

/// A request of the partners' portal, at an hour of 2027-01-15.
fn question(method: &str, role: &str, hour: u32, gateway: &str) -> Value {
    json!({
        "gateway": gateway, "method": method, "path": "/api/v1/agents/7", "at": format!("2027-01-15T{hour:02}:30:00Z"),
        "claims": {
            "iss": "pp.waooaw.com", "aud": "plant-gateway-pp", "sub": "s", "user_id": "u", "email": "u@example.com", "customer_id": "c", "roles": [role],
            "iat": 1_799_971_200_i64 + i64::from(hour) * 3_600, "exp": 1_799_971_200_i64 + i64::from(hour) * 3_600 + 3_600,
        },
    })
}

#[sqlx::test(migrations = "../migrations")]
async fn what_rules_say_is_explained_by_the_code_that_filters_evaluate(database: PgPool) {
    let world = World::new(database).await;
    let explain = async |question: Value| world.post("/admin/v1/explain", &question).await.json();
    let before = explain(question("DELETE", "admin", 3, "PP")).await;
    assert_eq!((&before["decision"], &before["ruling"]), (&json!("permit"), &Value::Null), "{before}");
    activate(&world, &published(&world, &with_rules(&world, MODULE)).await).await;

    let night = explain(question("DELETE", "admin", 3, "PP")).await;
    assert_eq!(
        (&night["decision"], &night["reason"], &night["refused_by"]),
        (&json!("deny"), &json!("rule_refused"), &json!("rules")),
        "{night}"
    );
    assert_eq!(night["ruling"], json!({ "rule": "night", "reason": "Nothing is deleted before 8 and after 18 UTC" }));
    let last = night["checks"].as_array().unwrap().last().unwrap();
    assert_eq!((&last["check"], &last["outcome"]), (&json!("rules"), &json!("rule_refused")), "{night}");
    assert_eq!(night["changes"][0]["change"], "rule_allows", "{night}");
    let day = explain(question("DELETE", "admin", 9, "PP")).await;
    assert_eq!(
        (&day["decision"], &day["ruling"]["rule"], &day["target"]),
        (&json!("permit"), &json!("default"), &json!("production")),
        "{day}"
    );
    let reader = explain(question("GET", "viewer", 9, "PP")).await;
    assert_eq!((&reader["ruling"]["rule"], &reader["target"]), (&json!("readers"), &json!("sandbox")), "{reader}");
    // The tables come first, and other gateways are not judged.
    let missing = explain(question("DELETE", "viewer", 3, "PP")).await;
    assert_eq!((&missing["reason"], &missing["ruling"]), (&json!("permission_missing"), &Value::Null), "{missing}");
    let elsewhere = explain(question("DELETE", "admin", 3, "PLANT")).await;
    assert_eq!((&elsewhere["decision"], &elsewhere["ruling"]), (&json!("permit"), &Value::Null), "{elsewhere}");
}

#[sqlx::test(migrations = "../migrations")]
async fn a_bundle_carries_the_rules_without_their_tests_and_with_their_vectors(database: PgPool) {
    let world = World::new(database).await;
    activate(&world, &published(&world, &with_rules(&world, MODULE)).await).await;
    let served = Bundle::decode(&world.poll(ENVOY_TOKEN, None, 0).await.body).unwrap();
    let rules = served.rules.clone().unwrap();
    assert_eq!(rules.modules, [("rules/hours.rego".to_owned(), MODULE.to_owned())]);
    assert_eq!(serde_json::from_str::<Value>(&rules.data).unwrap(), json!({ "opens": 8, "closes": 18 }));
    assert!(rules.vectors.iter().any(|vector| vector.decision.contains("night")), "{:?}", rules.vectors);
    served.load().unwrap();
    // A replica that starts later serves the same.
    let world = world.restarted().await.unwrap();
    assert_eq!(Bundle::decode(&world.poll(ENVOY_TOKEN, None, 0).await.body).unwrap().rules, Some(rules));
}

#[sqlx::test(migrations = "../migrations")]
async fn rules_that_do_not_pass_the_gate_change_nothing(database: PgPool) {
    let world = World::new(database).await;
    let good = published(&world, &with_rules(&world, MODULE)).await;
    activate(&world, &good).await;
    for (what, module, says) in [
        ("a recursion", MODULE.replace("open if {", "open if {\n\topen"), "depends on itself"),
        ("a failing test", MODULE.replace("\"night\"", "\"evening\""), "`gateway_test.test_night` does not pass"),
        (
            "an endless loop",
            format!(
                "{MODULE}\nopen if {{\n\tsome a in ns\n\tsome b in ns\n\tsome c in ns\n\tsome d in ns\n\ta != b\n\tc == \"b\"\n}}\n\nns := split(\"{}\", \"\")\n",
                "x".repeat(400)
            ),
            "exceeded time limit",
        ),
    ] {
        let refused = publish(&world, &with_rules(&world, &module)).await;
        assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY, "{what}: {refused:?}");
        assert!(refused.json().to_string().contains(says), "{what}: {}", refused.json());
    }
    let night = world.post("/admin/v1/explain", &question("DELETE", "admin", 3, "PP")).await.json();
    assert_eq!((&night["ruling"]["rule"], &night["revision"]), (&json!("night"), &good), "{night}");
}
