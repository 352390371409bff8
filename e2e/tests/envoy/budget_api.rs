//! What users ask about budgets, through Envoy: the control plane answers, and sees who asks; and an override that a governor approved.

use cli::stack::{Stack, State};
use cli::token::{TokenSpec, mint};
use e2e::admin::Admin;
use e2e::http::{Answer, Ask, Client};
use e2e::load::backend_count;
use e2e::stacks::{InUse, Shared, options, ports, told};
use serde_json::{Value, json};

static STACK: Shared = Shared::new(|| Stack::start(options("budget-api", ports::BUDGET_API).unwrap()));

fn stack() -> InUse {
    STACK.get().unwrap_or_else(|error| panic!("{}", told(&error)))
}

async fn ask(state: &State, gateway: &str, ask: Ask) -> Answer {
    Client::new(&state.gateways[gateway]).send(&ask).await.unwrap()
}

fn minted(state: &State, issuer: &str, spec: &TokenSpec) -> String {
    mint(&state.issuers[issuer], spec).unwrap()
}

#[tokio::test]
async fn a_customer_sees_the_own_agent_and_staff_see_any() {
    let stack = stack();
    let state = stack.state();
    let customer = minted(state, "cp", &TokenSpec::new("sub-1", &["customer_user"]).customer("c-1").claim("agent_id", json!("a-1")));
    let staff = minted(state, "pp", &TokenSpec::new("staff", &["agent_orchestrator"]));
    let before = backend_count(&state.backend).await.unwrap();
    for gateway in ["CP", "PLANT"] {
        let own = ask(state, gateway, Ask::get("/api/v1/budgets/agent/a-1").bearer(&customer)).await;
        assert_eq!(own.status, 200, "{gateway}: {}", own.text());
        let body = own.json();
        assert_eq!((&body["agent_id"], &body["daily_cap_usd"]), (&json!("a-1"), &json!(1.0)), "{gateway}");
        let other = ask(state, gateway, Ask::get("/api/v1/budgets/agent/a-2").bearer(&customer)).await;
        assert_eq!((other.status, &other.json()["spent_today_usd"]), (403, &Value::Null), "{gateway}: {}", other.text());
    }
    for gateway in ["PP", "PLANT"] {
        let any = ask(state, gateway, Ask::get("/api/v1/budgets/agent/a-2").bearer(&staff)).await;
        assert_eq!(any.status, 200, "{gateway}: {}", any.text());
        let platform = ask(state, gateway, Ask::get("/api/v1/budgets/platform").bearer(&staff)).await;
        assert_eq!((platform.status, &platform.json()["monthly_cap_usd"]), (200, &json!(100.0)), "{gateway}: {}", platform.text());
    }
    for target in
        ["/api/v1/budgets/agent/%61-1", "/api/v1/%62udgets/agent/a-1", "/api/v1//budgets/agent/a-1", "/api/v1/budgets/agent/../agent/a-1"]
    {
        assert_eq!(ask(state, "CP", Ask::get(target).bearer(&customer)).await.status, 400, "{target}");
    }
    for target in ["/api/v1/budgets/", "/api/v1/budgets/caps", "/api/v1/budgets/agent/a-1/override"] {
        assert_eq!(ask(state, "CP", Ask::get(target).bearer(&customer)).await.status, 404, "{target}");
    }
    assert_eq!(ask(state, "CP", Ask::get("/api/v1/budgets/agent/a-1")).await.status, 401);
    assert_eq!(backend_count(&state.backend).await.unwrap(), before, "the backend, which gets no tokens, saw none of it");
}

#[tokio::test]
async fn an_override_is_granted_to_who_was_approved_and_once() {
    let stack = stack();
    let state = stack.state();
    let admin = minted(state, "pp", &TokenSpec::new("ada", &["admin"]));
    let body = json!({"cap_usd": 0.5, "reason": "an emergency", "expires_at": "2099-01-01T00:00:00Z"});
    let soon = json!({"cap_usd": 0.5, "reason": "an emergency", "expires_at": in_an_hour()});
    let path = "/api/v1/budgets/agent/a-9/override";
    let asked = ask(state, "PP", Ask::post(path).bearer(&admin).json(&soon)).await;
    assert_eq!(asked.status, 403, "{}", asked.text());
    let id = asked.json()["approval_id"].as_str().unwrap().to_owned();
    // Past the gateway, with whatever the client may know, nothing is granted.
    let past = Client::new(&state.admin).send(&Ask::post(path).bearer(&admin).header("x-approval-id", &id).json(&soon)).await.unwrap();
    assert_eq!(past.status, 403, "{}", past.text());
    let governor = minted(state, "ops", &TokenSpec::new("grace", &["admin"]).claim("governor_agent_id", json!("g-1")));
    let decision =
        Ask::post(&format!("/admin/v1/approvals/{id}/decision")).bearer(&governor).json(&json!({"decision": "approve", "reason": "ok"}));
    let decided = Client::new(&state.admin).send(&decision).await.unwrap();
    assert_eq!(decided.status, 200, "{}", decided.text());
    let other = ask(state, "PP", Ask::post(path).bearer(&admin).header("x-approval-id", &id).json(&body)).await;
    assert_eq!(other.status, 403, "another body: {}", other.text());
    let granted = ask(state, "PP", Ask::post(path).bearer(&admin).header("x-approval-id", &id).json(&soon)).await;
    assert_eq!(granted.status, 201, "{}", granted.text());
    assert_eq!((&granted.json()["cap"], &granted.json()["scope"]), (&json!(500_000), &json!("agent:agent_id=3:a-9")));
    let again = ask(state, "PP", Ask::post(path).bearer(&admin).header("x-approval-id", &id).json(&soon)).await;
    assert_eq!(again.status, 403, "{}", again.text());
    let list = Admin::new(state).json(Ask::get("/admin/v1/budgets/overrides")).await.unwrap();
    assert_eq!(list["overrides"].as_array().unwrap().len(), 1, "{list}");
}

fn in_an_hour() -> String {
    let then = time::OffsetDateTime::now_utc() + time::Duration::HOUR;
    then.replace_nanosecond(0).unwrap().format(&time::format_description::well_known::Rfc3339).unwrap()
}
