//! Audit levels through a real Envoy: what has to be recorded first does not happen unrecorded, samples leave out what went well and
//! nothing else, and users are named by hashes.

use std::time::{Duration, Instant};

use cli::stack::{Part, Stack, State};
use cli::token::{TokenSpec, mint};
use e2e::admin::Admin;
use e2e::http::{Answer, Ask, Client};
use e2e::load::backend_tally;
use e2e::policies::without_budgets;
use e2e::stacks::{eventually, options, ports, told};
use serde_json::{Value, json};
use wire::pseudonym::PseudonymKey;

/// The registration key is a secret that every stack has.
const POLICY: &str = "
audit:
  identities: hashed
  hash_key: cp-registration.secret
  email: recorded
  request_headers: [x-tenant]
  query_parameters: [page]
routes:
  - { name: levels.required, gateways: [PP], methods: [POST], path: /levels/required, require: authenticated, cost_micros: 0, audit: required }
  - { name: levels.sampled, gateways: [PP], methods: [GET], path: /levels/sampled, require: authenticated, cost_micros: 0, audit: { sampled: 5 } }
  - { name: levels.buffered, gateways: [PP], methods: [GET], path: /levels/buffered, require: authenticated, cost_micros: 0 }
";
const REQUIRED: &str = "/levels/required";
const SUBJECT: &str = "subject-of-levels";
const FLUSH: Duration = Duration::from_secs(10);

struct Scene {
    stack: Stack,
    admin: Admin,
    token: String,
    _home: tempfile::TempDir,
}

impl Scene {
    async fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let mut options = options("audit-levels", ports::AUDIT_LEVELS).unwrap();
        options.policies = without_budgets(home.path(), POLICY).unwrap();
        let stack = tokio::task::spawn_blocking(move || Stack::start(options)).await.unwrap();
        let stack = stack.unwrap_or_else(|error| panic!("{}", told(&error)));
        let token = mint(&stack.state().issuers["pp"], &TokenSpec::new(SUBJECT, &["viewer"])).unwrap();
        let admin = Admin::new(stack.state());
        Self { stack, admin, token, _home: home }
    }

    fn state(&self) -> &State {
        self.stack.state()
    }

    /// A request that the backend counts under `tally`, and records know by it.
    fn ask(&self, method: &str, path: &str, tally: &str) -> Ask {
        Ask::new(method, path).bearer(&self.token).header("x-echo-tally", tally).header("x-correlation-id", tally)
    }

    async fn send(&self, ask: &Ask) -> Answer {
        Client::new(&self.state().gateways["PP"]).send(ask).await.unwrap()
    }

    async fn reached(&self, tally: &str) -> u64 {
        backend_tally(&self.state().backend).await.unwrap().get(tally).copied().unwrap_or_default()
    }

    /// The records of one request, once there are so many.
    async fn records(&mut self, correlation: &str, wanted: u64) -> Vec<Value> {
        let query = format!("correlation_id={correlation}");
        self.admin.audit_count_reaches(&query, wanted, FLUSH).await.unwrap();
        let page = self.admin.json(Ask::get(&format!("/admin/v1/audit?{query}"))).await.unwrap();
        page["records"].as_array().unwrap().clone()
    }

    async fn stat(&self, name: &str) -> u64 {
        let text = Client::new(&self.state().envoy_admin).send(&Ask::get("/stats/prometheus")).await.unwrap().text();
        let values = text.lines().filter(|line| line.starts_with(name)).filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
        values.sum()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_level_keeps_its_promise() {
    let mut scene = Scene::new().await;
    required(&mut scene).await;
    sampled(&mut scene).await;
    away(&mut scene, "killed").await;
    away(&mut scene, "halted").await;
    scene.stack.stop();
}

async fn required(scene: &mut Scene) {
    let body = vec![b'b'; 300 * 1_024];
    let ask = scene.ask("POST", &format!("{REQUIRED}?page=7&other=8"), "first").header("x-tenant", "one").body(body.clone());
    let begun = Instant::now();
    let answer = scene.send(&ask).await;
    assert_eq!((answer.status, scene.reached("first").await), (200, 1), "{}", answer.text());
    let took = begun.elapsed();
    assert_eq!(answer.json()["body"].as_str().map(str::len), Some(body.len()), "the body waited and is whole");
    let records = scene.records("first", 2).await;
    assert_eq!(records.len(), 2, "{records:?}");
    let mut statuses: Vec<Option<u64>> = records.iter().map(|record| record["status_code"].as_u64()).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [None, Some(200)], "an intent and an outcome");
    let key = PseudonymKey::new(scene.state().registration_key.clone().into_bytes()).unwrap();
    let text = serde_json::to_string(&records).unwrap();
    assert!(text.contains(&key.of(SUBJECT)) && !text.contains("other=8"), "{text}");

    // Many at once share calls, and none goes on without.
    let before = scene.stat("gateway_audit_intents_total").await;
    let begun = Instant::now();
    let sends = (0..100).map(|_| {
        let (url, ask) = (scene.state().gateways["PP"].clone(), scene.ask("POST", REQUIRED, "many"));
        tokio::spawn(async move { Client::new(&url).send(&ask).await.unwrap().status })
    });
    let sends: Vec<_> = sends.collect();
    for send in sends {
        assert_eq!(send.await.unwrap(), 200);
    }
    println!("one alone took {took:?}, a hundred at once {:?}", begun.elapsed());
    assert_eq!(scene.records("many", 200).await.len(), 100, "a page of them");
    assert_eq!(scene.admin.audit_count("correlation_id=many").await.unwrap(), 200);
    assert_eq!(scene.stat("gateway_audit_intents_total").await - before, 100);

    // What is refused needs no intent; what cannot be held is refused.
    let anonymous = Ask::post(REQUIRED).header("x-correlation-id", "anonymous").header("x-echo-tally", "anonymous");
    assert_eq!(scene.send(&anonymous).await.status, 401);
    let large = scene.ask("POST", REQUIRED, "large").body(vec![0; 950 * 1_024]);
    assert_eq!(scene.send(&large).await.status, 413);
    for refused in ["anonymous", "large"] {
        assert_eq!((scene.reached(refused).await, scene.records(refused, 1).await.len()), (0, 1), "{refused}");
    }
}

async fn sampled(scene: &mut Scene) {
    const SENT: u64 = 500;
    let mut client = Client::new(&scene.state().gateways["PP"]);
    let ask = scene.ask("GET", "/levels/sampled", "sampled");
    for _ in 0..SENT {
        assert_eq!(client.send(&ask).await.unwrap().status, 200);
    }
    for number in 0..20 {
        let refused = Ask::get("/levels/sampled").header("x-correlation-id", "sampled-refused");
        let failed = scene.ask("GET", "/levels/sampled", "sampled-failed").header("x-echo-status", "503");
        assert_eq!((client.send(&refused).await.unwrap().status, client.send(&failed).await.unwrap().status), (401, 503), "{number}");
    }
    assert_eq!(scene.admin.audit_count_reaches("correlation_id=sampled-refused", 20, FLUSH).await.unwrap(), 20);
    assert_eq!(scene.admin.audit_count_reaches("correlation_id=sampled-failed", 20, FLUSH).await.unwrap(), 20);
    let left_out = scene.stat("gateway_audit_records_sampled_out_total").await;
    let recorded = scene.admin.audit_count_reaches("correlation_id=sampled", SENT - left_out, FLUSH).await.unwrap();
    println!("of {SENT} requests {recorded} were recorded and {left_out} left out");
    assert_eq!(recorded + left_out, SENT);
    // Of 100 ± 9, six times that.
    assert!((46..=154).contains(&recorded), "{recorded}");
}

/// The control plane is not there: buffered routes go on, required ones do not, and the backend sees none of them.
async fn away(scene: &mut Scene, how: &str) {
    let warm = scene.ask("POST", REQUIRED, &format!("warm-{how}"));
    assert_eq!(scene.send(&warm).await.status, 200);
    let exits = scene.stack.exits(Part::ControlPlane);
    if how == "halted" {
        scene.stack.pause(Part::ControlPlane).unwrap();
    }
    let (mut refused, mut longest, begun) = (0, Duration::ZERO, Instant::now());
    while begun.elapsed() < Duration::from_secs(5) {
        if how == "killed" && scene.stack.pids().of(Part::ControlPlane).is_some() {
            scene.stack.kill(Part::ControlPlane).unwrap();
        }
        let asked = Instant::now();
        let answer = scene.send(&scene.ask("POST", REQUIRED, how)).await;
        longest = longest.max(asked.elapsed());
        // It may be up for a moment before it is killed again.
        if how == "killed" && answer.status == 200 {
            continue;
        }
        assert_eq!((answer.status, &answer.json()["check"]), (503, &json!("audit")), "{}", answer.text());
        assert_eq!(
            (answer.json()["type"].as_str(), answer.header("retry-after")),
            (Some("https://waooaw.com/errors/audit-unavailable"), Some("1"))
        );
        refused += 1;
        let buffered = scene.send(&scene.ask("GET", "/levels/buffered", "buffered")).await;
        assert_eq!(buffered.status, 200, "{}", buffered.text());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    println!("{how}: {refused} refused, after {longest:?} at most");
    assert!(refused > 0 && longest < Duration::from_secs(4), "{longest:?}");
    let reached = scene.reached(how).await;
    if how == "halted" {
        scene.stack.resume(Part::ControlPlane).unwrap();
        assert_eq!(reached, 0);
    }
    let back = eventually(Duration::from_secs(60), async || {
        let restarted = how == "halted" || scene.stack.exits(Part::ControlPlane) > exits;
        (restarted && scene.send(&scene.ask("POST", REQUIRED, &format!("back-{how}"))).await.status == 200).then_some(())
    });
    assert!(back.await.is_some(), "required routes do not come back");
    // Each that the backend saw has its intent and its outcome; each that was refused its outcome, and perhaps an intent.
    let query = format!("correlation_id={how}&status=200");
    assert_eq!(scene.admin.audit_count_reaches(&query, reached, FLUSH).await.unwrap(), reached);
    let query = format!("correlation_id={how}&status=503");
    assert_eq!(scene.admin.audit_count_reaches(&query, refused, FLUSH).await.unwrap(), refused);
}
