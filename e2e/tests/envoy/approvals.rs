//! Approvals through everything: a client is refused, a governor decides by API or in a real browser, the request passes once,
//! receivers outside are told, and all of it is recorded.

use std::path::Path;
use std::time::Duration;

use cli::stack::{Part, Stack, State};
use cli::token::{TokenSpec, mint};
use e2e::admin::Admin;
use e2e::browser::Browser;
use e2e::http::{Answer, Ask, Client};
use e2e::policies::without_budgets;
use e2e::revisions::{activate, publish};
use e2e::stacks::{eventually, options, ports, told};
use e2e::webhook_receiver::{Received, WebhookReceiver};
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};

const SECRET: &str = "a secret of thirty-two bytes....";
/// Routes that write the caller's customer into the request of which a governor approves.
const TRANSFERS: &str = "
routes:
  - {name: transfers.query, gateways: [PP], methods: [POST], path: /api/v1/transfers/by-query, require: permission, permission: agent.create, approval: governor, ownership: {in: query}, cost_micros: 0}
  - {name: transfers.body, gateways: [PP], methods: [POST], path: /api/v1/transfers/by-body, require: permission, permission: agent.create, approval: governor, ownership: {in: body}, cost_micros: 0}
";
const PATIENCE: Duration = Duration::from_secs(20);

/// A stack, a receiver of webhooks, and the files of the policy.
struct World {
    stack: Stack,
    receiver: WebhookReceiver,
    home: tempfile::TempDir,
}

impl World {
    async fn start() -> Self {
        let home = tempfile::tempdir().unwrap();
        let receiver = WebhookReceiver::start(home.path()).await.unwrap();
        let mut options = options("approvals", ports::APPROVALS).unwrap();
        options.policies = without_budgets(home.path(), TRANSFERS).unwrap();
        options.control_plane_env = receiver.control_plane_env();
        options.control_plane_env.push(("WEBHOOK_ATTEMPTS_MAX".to_owned(), "2".to_owned()));
        let stack = tokio::task::spawn_blocking(move || Stack::start(options)).await.unwrap();
        let stack = stack.unwrap_or_else(|error| panic!("{}", told(&error)));
        std::fs::write(stack.state().run_dir.join("secrets/webhook"), SECRET).unwrap();
        Self { stack, receiver, home }
    }

    fn state(&self) -> &State {
        self.stack.state()
    }

    fn admin(&self) -> Admin {
        Admin::new(self.state())
    }

    /// Puts another section `approvals` in force and waits until the gateway enforces it.
    async fn govern(&self, section: &str) {
        let text = format!("approvals:\n{section}  webhook: {{url: '{}', secret: webhook}}\n", self.receiver.url());
        let folder = self.home.path().join("policies");
        std::fs::write(folder.join("approvals.yaml"), text).unwrap();
        let files = authoring::directory::read(&folder).unwrap();
        let mut admin = self.admin();
        let revision = publish(&mut admin, &files, "a test").await.unwrap();
        activate(&mut admin, revision, "a test").await.unwrap();
        let enforced = eventually(PATIENCE, async || {
            let ready = Client::new(&self.state().gateways["PP"]).send(&Ask::get("/ready")).await.unwrap();
            (ready.json()["revision"].as_i64() == Some(revision)).then_some(())
        });
        assert!(enforced.await.is_some(), "revision {revision} is never enforced");
        // The other workers.
        tokio::time::sleep(Duration::from_secs(1)).await;
    }

    fn token(&self, subject: &str) -> String {
        mint(&self.state().issuers["pp"], &TokenSpec::new(subject, &["agent_orchestrator"])).unwrap()
    }

    fn governor(&self, subject: &str) -> String {
        mint(&self.state().issuers["ops"], &TokenSpec::new(subject, &["admin"]).governor("governor-1")).unwrap()
    }

    async fn pp(&self, ask: &Ask) -> Answer {
        Client::new(&self.state().gateways["PP"]).send(ask).await.unwrap()
    }

    /// The request is refused, and waits.
    async fn refused(&self, ask: &Ask) -> (String, String) {
        let answer = self.pp(ask).await;
        let body = answer.json();
        assert_eq!((answer.status, body["check"].as_str()), (403, Some("approval")), "{}", answer.text());
        assert!(answer.header("x-echo-listener").is_none());
        let text = |name: &str| body[name].as_str().unwrap_or_else(|| panic!("no {name}: {body}")).to_owned();
        (text("approval_id"), text("approval_url"))
    }

    async fn decide(&self, id: &str, bearer: &str, decision: &str) -> u16 {
        let ask = Ask::post(&format!("/admin/v1/approvals/{id}/decision")).bearer(bearer);
        let ask = ask.json(&json!({"decision": decision, "reason": "a test"}));
        Client::new(&self.state().admin).send(&ask).await.unwrap().status
    }

    async fn approval(&self, id: &str) -> Value {
        self.admin().json(Ask::get(&format!("/admin/v1/approvals/{id}"))).await.unwrap()
    }

    async fn sql(&self, statement: &'static str) {
        let mut database = PgConnection::connect(&self.state().database_admin_url).await.unwrap();
        sqlx::query(statement).execute(&mut database).await.unwrap();
    }

    /// The deliveries about one approval, oldest first.
    fn told_of(&self, id: &str) -> Vec<Received> {
        self.receiver.received().into_iter().filter(|received| received.json()["data"]["id"] == id).collect()
    }
}

fn delete(token: &str, path: &str) -> Ask {
    Ask::new("DELETE", &format!("/api/v1/agents/{path}")).bearer(token)
}

fn with(ask: &Ask, id: &str) -> Ask {
    ask.clone().header("x-approval-id", id)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn approvals_end_to_end() {
    let world = World::start().await;
    world.govern("  lifetime_s: 600\n").await;
    bound_to_one_request_and_good_once(&world).await;
    bound_to_the_customer_and_the_agent(&world).await;
    bound_to_the_target(&world).await;
    bound_to_how_the_request_is_read(&world).await;
    given_back_when_the_backend_was_not_reached(&world).await;
    useless_after_its_time(&world).await;
    at_most_twenty_wait(&world).await;
    told_again_and_given_up(&world).await;
    in_the_browser(&world).await;
    world.govern("  approvers: 2\n  lifetime_s: 600\n").await;
    two_governors_in_the_browser(&world).await;
    world.govern("  answer: redirect\n  lifetime_s: 600\n").await;
    answered_with_a_redirect(&world).await;
    world.stack.stop();
}

async fn bound_to_one_request_and_good_once(world: &World) {
    let ada = world.token("ada");
    let ask = delete(&ada, "a-1?force=1").body("{\"why\":\"old\"}");
    let (id, url) = world.refused(&ask).await;
    assert_eq!(url, format!("{}/approvals/{id}", world.state().admin));
    assert_eq!(world.refused(&ask).await.0, id, "the same request waits once");
    assert_eq!(world.pp(&with(&ask, &id)).await.status, 403, "nobody has decided");
    assert_eq!(world.decide(&id, &world.governor("grace"), "approve").await, 200);
    for (what, other) in [
        ("another body", delete(&ada, "a-1?force=1").body("{\"why\":\"new\"}")),
        ("no body", delete(&ada, "a-1?force=1")),
        ("another query", delete(&ada, "a-1?force=2").body("{\"why\":\"old\"}")),
        ("another path", delete(&ada, "a-2?force=1").body("{\"why\":\"old\"}")),
        ("another user", delete(&world.token("bob"), "a-1?force=1").body("{\"why\":\"old\"}")),
        ("another method", Ask::post("/api/v1/agents").bearer(&ada).body("{\"why\":\"old\"}")),
    ] {
        let refused = world.pp(&with(&other, &id)).await;
        assert_eq!((refused.status, refused.json()["check"].as_str()), (403, Some("approval")), "{what}: {}", refused.text());
    }
    let passed = world.pp(&with(&ask, &id).header("x-correlation-id", "approved-once")).await;
    assert_eq!((passed.status, passed.header("x-echo-listener")), (200, Some("production")), "{}", passed.text());
    assert!(passed.echoed("x-approval-id").is_empty(), "the backend does not see it");
    let second = world.pp(&with(&ask, &id)).await;
    assert_eq!((second.status, second.json()["detail"].as_str()), (403, Some("The approval was used already")), "{}", second.text());

    let record = world.admin().audit_record("approved-once", PATIENCE).await.unwrap().unwrap();
    assert_eq!((&record["approval_id"], &record["decision"]), (&json!(id), &json!("permit")), "{record}");
    let requested = arrived(world, &id, "approval.requested").await;
    let data = &requested.json()["data"];
    assert_eq!((&data["user"]["issuer"], &data["user"]["subject"], &data["target"]), (&json!("pp"), &json!("ada"), &json!("production")));
    let decided = arrived(world, &id, "approval.decided").await;
    assert_eq!(decided.json()["data"]["status"], "approved");
}

/// The delivery, whose signature is good.
async fn arrived(world: &World, id: &str, event: &str) -> Received {
    let found = eventually(PATIENCE, async || {
        world.told_of(id).into_iter().find(|received| received.status == 204 && received.json()["type"] == event)
    });
    let found = found.await.unwrap_or_else(|| panic!("{event} of {id} never arrived"));
    assert_eq!(found.header("webhook-signature"), found.signature(SECRET).unwrap());
    found
}

fn transfer(token: &str, path: &str) -> Ask {
    Ask::post(&format!("/api/v1/transfers/{path}")).bearer(token).header("content-type", "application/json").body("{\"amount\":1}")
}

impl World {
    fn minted(&self, spec: &TokenSpec) -> String {
        mint(&self.state().issuers["pp"], spec).unwrap()
    }

    /// Asked for and approved.
    async fn approved(&self, ask: &Ask) -> String {
        let (id, _) = self.refused(ask).await;
        assert_eq!(self.decide(&id, &self.governor("grace"), "approve").await, 200);
        id
    }

    /// The approval does not fit, and nothing reaches a backend by it.
    async fn misfit(&self, ask: &Ask, id: &str, what: &str) {
        let refused = self.pp(&with(ask, id)).await;
        assert_eq!(
            (refused.status, refused.json()["detail"].as_str()),
            (403, Some("The approval is for another request")),
            "{what}: {}",
            refused.text()
        );
        assert!(refused.header("x-echo-listener").is_none());
    }

    /// The approval fits; what the backend got.
    async fn passed(&self, ask: &Ask, id: &str, listener: &str) -> Answer {
        let passed = self.pp(&with(ask, id)).await;
        assert_eq!((passed.status, passed.header("x-echo-listener")), (200, Some(listener)), "{}", passed.text());
        passed
    }
}

/// One user with tokens for two customers: what is approved for one is not done for the other.
async fn bound_to_the_customer_and_the_agent(world: &World) {
    let orchestrator = || TokenSpec::new("ann", &["agent_orchestrator"]);
    let [own, other] = ["c-A", "c-B"].map(|customer| world.minted(&orchestrator().customer(customer)));
    for path in ["by-query?amount=1", "by-body"] {
        let id = world.approved(&transfer(&own, path)).await;
        let shown = world.approval(&id).await;
        assert_eq!((&shown["customer_id"], &shown["target"]), (&json!("c-A"), &json!("production")), "{shown}");
        world.misfit(&transfer(&other, path), &id, path).await;
        let passed = world.passed(&transfer(&own, path), &id, "production").await;
        assert!(passed.text().contains("c-A") && !passed.text().contains("c-B"), "{}", passed.text());
    }
    let [own, other] = ["a-1", "a-2"].map(|agent| world.minted(&orchestrator().agent(agent)));
    let id = world.approved(&delete(&own, "g-1")).await;
    world.misfit(&delete(&other, "g-1"), &id, "another agent").await;
    world.passed(&delete(&own, "g-1"), &id, "production").await;
}

/// One user with a trial that becomes a subscription: what was approved for the sandbox is not done in production.
async fn bound_to_the_target(world: &World) {
    let spec = || TokenSpec::new("tess", &["agent_orchestrator"]).customer("c-A");
    let (trial, paid) = (world.minted(&spec().trial_for(3_600)), world.minted(&spec()));
    for (asked, listener, other) in [(&trial, "sandbox", &paid), (&paid, "production", &trial)] {
        let id = world.approved(&delete(asked, "s-1")).await;
        assert_eq!(world.approval(&id).await["target"], listener);
        world.misfit(&delete(other, "s-1"), &id, listener).await;
        world.passed(&delete(asked, "s-1"), &id, listener).await;
    }
}

async fn bound_to_how_the_request_is_read(world: &World) {
    let token = world.token("rita");
    let post = |path: &str| Ask::post(path).bearer(&token).body("{\"a\":1}");
    let typed = |kind: &str| post("/api/v1/agents").header("content-type", kind);
    let id = world.approved(&typed("application/json")).await;
    assert_eq!(world.approval(&id).await["content_type"], "application/json");
    for (what, other) in [
        ("another content type", typed("application/x-www-form-urlencoded")),
        ("no content type", post("/api/v1/agents")),
        ("a content encoding", typed("application/json").header("content-encoding", "gzip")),
        ("an empty query", post("/api/v1/agents?").header("content-type", "application/json")),
    ] {
        world.misfit(&other, &id, what).await;
    }
    world.passed(&typed("application/json"), &id, "production").await;
    let insane = world.pp(&typed("application/json").header("x-approval-id", "x".repeat(300))).await;
    assert_eq!((insane.status, insane.json()["check"].as_str()), (400, Some("approval")), "{}", insane.text());
}

async fn given_back_when_the_backend_was_not_reached(world: &World) {
    let ask = delete(&world.token("undone"), "u-1");
    let (id, _) = world.refused(&ask).await;
    assert_eq!(world.decide(&id, &world.governor("grace"), "approve").await, 200);
    world.stack.kill(Part::Backend).unwrap();
    let unreached = world.pp(&with(&ask, &id)).await;
    assert_eq!(unreached.status, 503, "{}", unreached.text());
    let back = eventually(PATIENCE, async || (world.approval(&id).await["status"] == "approved").then_some(())).await;
    assert!(back.is_some(), "{}", world.approval(&id).await);
    let up = eventually(PATIENCE, async || Client::new(&world.state().backend).send(&Ask::get("/")).await.ok()).await;
    assert!(up.is_some(), "the backend is started again");
    let passed = eventually(PATIENCE, async || Some(world.pp(&with(&ask, &id)).await).filter(|answer| answer.status != 503)).await.unwrap();
    assert_eq!(passed.status, 200, "{}", passed.text());
    assert_eq!(world.pp(&with(&ask, &id)).await.status, 403);
}

async fn useless_after_its_time(world: &World) {
    let ask = delete(&world.token("late"), "l-1");
    let (id, _) = world.refused(&ask).await;
    assert_eq!(world.decide(&id, &world.governor("grace"), "approve").await, 200);
    world.sql("UPDATE approvals SET expires_at = now() - interval '1 second' WHERE status = 'approved'").await;
    let late = world.pp(&with(&ask, &id)).await;
    assert_eq!((late.status, late.json()["detail"].as_str()), (403, Some("The approval has expired")), "{}", late.text());
    assert_ne!(world.refused(&ask).await.0, id, "asking again opens another one");
}

async fn at_most_twenty_wait(world: &World) {
    let token = world.token("eager");
    for number in 0..20 {
        world.refused(&delete(&token, &format!("e-{number}"))).await;
    }
    let refused = world.pp(&delete(&token, "e-20")).await;
    assert_eq!(refused.json()["detail"], "Too many requests of this user wait for an approval", "{}", refused.text());
}

async fn told_again_and_given_up(world: &World) {
    settled(world).await;
    world.receiver.answer([500]);
    let (id, _) = world.refused(&delete(&world.token("retried"), "r-1")).await;
    let second = arrived(world, &id, "approval.requested").await;
    let all = world.told_of(&id);
    assert_eq!(all.iter().map(|received| received.status).collect::<Vec<_>>(), [500, 204]);
    assert_eq!(all[0].header("webhook-id"), second.header("webhook-id"), "the same event keeps its id");

    settled(world).await;
    world.receiver.answer([500, 302]);
    let (id, _) = world.refused(&delete(&world.token("given-up"), "g-1")).await;
    let deliveries = async || world.admin().json(Ask::get("/admin/v1/webhooks/deliveries?state=dead")).await.unwrap()["deliveries"].clone();
    let dead = eventually(PATIENCE, async || deliveries().await.get(0).cloned()).await.unwrap();
    assert_eq!((&dead["attempts"], &dead["last_error"], &dead["last_status"]), (&json!(2), &json!("status"), &json!(302)));
    let path = format!("/admin/v1/webhooks/deliveries/{}/redelivery", dead["id"].as_str().unwrap());
    world.admin().json(Ask::post(&path).json(&json!({"reason": "it is back"}))).await.unwrap();
    arrived(world, &id, "approval.requested").await;
    assert_eq!(world.told_of(&id).len(), 3);
    let metrics = Client::new(&world.state().admin).send(&Ask::get("/metrics")).await.unwrap().text();
    assert!(metrics.contains("gateway_control_plane_webhook_attempts_total{outcome=\"dead\"} 1"), "{metrics}");
}

/// Nothing waits for delivery any more, so that the next answers are for the next event.
async fn settled(world: &World) {
    let settled = eventually(PATIENCE, async || {
        let pending = world.admin().json(Ask::get("/admin/v1/webhooks/deliveries?state=pending")).await.unwrap();
        pending["deliveries"].as_array().unwrap().is_empty().then_some(())
    });
    assert!(settled.await.is_some());
}

async fn browser(home: &Path) -> Browser {
    Browser::start(home).await.unwrap_or_else(|error| panic!("{}", told(&error)))
}

/// Opens a link, signs in on the way, and is led back to it.
async fn open_signed_in(browser: &mut Browser, url: &str, token: &str) {
    browser.open(url).await.unwrap();
    assert_eq!(browser.read("h1").await.unwrap(), "Sign in");
    browser.write("#token", token).await.unwrap();
    browser.click("#sign-in").await.unwrap();
    // A click may return before the next page is there: what only that page has is waited for.
    browser.read("#status").await.unwrap();
    assert_eq!(browser.url().await.unwrap(), url);
}

async fn in_the_browser(world: &World) {
    let ask = delete(&world.token("clicked"), "c-1?x=%3Cscript%3E");
    let (id, url) = world.refused(&ask).await;
    let mut window = browser(world.home.path()).await;
    open_signed_in(&mut window, &url, &world.governor("grace")).await;
    assert_eq!(window.read("#user").await.unwrap(), "clicked at pp");
    assert!(window.read("#request").await.unwrap().starts_with("DELETE "));
    assert_eq!((window.read("#customer").await.unwrap().as_str(), window.read("#target").await.unwrap().as_str()), ("none", "production"));
    assert_eq!(window.style(".status", "font-weight").await.unwrap(), "600", "the style sheet is let in by the page's own policy");
    let cookies = window.cookies().await.unwrap();
    assert!(cookies.len() == 1 && cookies[0]["httpOnly"] == true && cookies[0]["sameSite"] == "Strict", "{cookies:?}");
    // The browser itself insists on a reason.
    window.click("#approve").await.unwrap();
    assert_eq!(world.approval(&id).await["status"], "pending");
    window.write("#reason", "I looked at it").await.unwrap();
    window.click("#approve").await.unwrap();
    assert!(window.read("#outcome").await.unwrap().starts_with("You approved the request"));
    assert_eq!(window.read("#status").await.unwrap(), "approved");
    assert!(window.read("#decisions").await.unwrap().contains("I looked at it"));
    assert_eq!(world.pp(&with(&ask, &id)).await.status, 200);
    assert_eq!(world.pp(&with(&ask, &id)).await.status, 403, "once and only once");

    let ask = delete(&world.token("clicked"), "c-2");
    let (id, url) = world.refused(&ask).await;
    window.open(&url).await.unwrap();
    window.write("#reason", "no need").await.unwrap();
    window.click("#reject").await.unwrap();
    assert_eq!(window.read("#outcome").await.unwrap(), "You refused the request.");
    assert!(!window.has("#approve").await.unwrap());
    let refused = world.pp(&with(&ask, &id)).await;
    assert_eq!(refused.json()["detail"], "A governor refused this request", "{}", refused.text());
    window.click("header button").await.unwrap();
    window.read("#token").await.unwrap();
    assert_eq!(window.read("h1").await.unwrap(), "Sign in");
    window.open(&url).await.unwrap();
    assert_eq!(window.read("h1").await.unwrap(), "Sign in", "signed out is signed out");
}

async fn two_governors_in_the_browser(world: &World) {
    let ask = delete(&world.token("twice"), "t-1");
    let (id, url) = world.refused(&ask).await;
    for (name, missing) in [("grace", "2 of 2"), ("ann", "1 of 2")] {
        assert_eq!(world.pp(&with(&ask, &id)).await.status, 403);
        let mut window = browser(world.home.path()).await;
        open_signed_in(&mut window, &url, &world.governor(name)).await;
        assert_eq!(window.read("#missing").await.unwrap(), format!("{missing} still to approve"));
        window.write("#reason", &format!("{name} agrees")).await.unwrap();
        window.click("#approve").await.unwrap();
        let outcome = window.read("#outcome").await.unwrap();
        assert!(outcome.starts_with(if name == "grace" { "Your approval counts." } else { "You approved the request" }), "{outcome}");
        assert!(!window.has("#approve").await.unwrap(), "nobody decides twice");
    }
    assert_eq!(world.approval(&id).await["decisions"].as_array().unwrap().len(), 2);
    assert_eq!(world.pp(&with(&ask, &id)).await.status, 200);
    assert_eq!(world.pp(&with(&ask, &id)).await.status, 403);
}

async fn answered_with_a_redirect(world: &World) {
    let ask = delete(&world.token("led"), "d-1?x=a%26b%3Dc");
    let led = world.pp(&ask).await;
    assert_eq!(led.status, 307, "{}", led.text());
    let location = led.header("location").unwrap().to_owned();
    assert_eq!(led.json()["approval_url"], location);
    let id = location.strip_prefix(&format!("{}/approvals/", world.state().admin)).unwrap_or_else(|| panic!("{location}")).to_owned();
    assert!(
        id.len() == 36 && id.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-'),
        "{location}: nothing of the request is in it"
    );
    assert_eq!(world.approval(&id).await["query"], "x=a%26b%3Dc");
    assert_eq!(world.decide(&id, &world.governor("grace"), "approve").await, 200);
    assert_eq!(world.pp(&with(&ask, &id)).await.status, 200);
}
