//! A control plane over a test's own database and the Valkey of the test run, and holders that speak to it.

use clap::Parser as _;
use control_plane::app::AppState;
use control_plane::caller::Envoy;
use control_plane::metrics::Metrics;
use control_plane::outbound::target::{AllowedHosts, Purpose};
use control_plane::outbound::{GuardedClient, Limits};
use control_plane::policies::{ActivePolicy, PolicyFaults};
use control_plane::revocations::Revoked;
use control_plane::settings::Settings;
use control_plane::sync::{self, SyncError};
use decision_core::time::Timestamp;
use jwt_simple::prelude::{Claims, Duration, HS256Key, MACLike};
use sha2::{Digest, Sha256};
use sqlx::PgPool;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use wire::bundle::{Bundle, BundleVersion, IssuerKeys, KeyMaterial, KeysKnown};
use wire::policy::{Gateway, Target};
use wire::sync::{AccountGrant, AccountReport, ApprovalAsk, ApprovalBinding, SyncAnswer, SyncRequest};

pub(crate) const KEY: [u8; 32] = [7; 32];

const POLICY: &str = "
issuers:
  - {name: ops, issuer: 'https://ops', gateways: [ADMIN], audiences: [admin], keys: [{kid: k1, algorithm: HS256, secret: ops}]}
permissions: [admin.read, admin.decide]
roles:
  - {name: admin, permissions: ['*']}
  - {name: viewer, permissions: [admin.read]}
routes:
  - {name: admin-read, gateways: [ADMIN], methods: [GET], path: '/admin/v1/{rest...}', require: permission, permission: admin.read, cost_micros: 0}
  - {name: decide, gateways: [ADMIN], methods: [POST], path: '/admin/v1/approvals/{id}/decision', require: permission, permission: admin.decide, cost_micros: 0}
  - {name: redeliver, gateways: [ADMIN], methods: [POST], path: '/admin/v1/webhooks/deliveries/{id}/redelivery', require: permission, permission: admin.decide, cost_micros: 0}
  - {name: budget-write, gateways: [ADMIN], methods: [POST], path: '/admin/v1/budgets/{rest...}', require: permission, permission: admin.decide, cost_micros: 0}
  - {name: audit-keep, gateways: [ADMIN], methods: [PUT, POST], path: '/admin/v1/audit/{rest...}', require: permission, permission: admin.decide, cost_micros: 0}
  - {name: budget-end, gateways: [ADMIN], methods: [DELETE], path: '/admin/v1/{rest...}', require: permission, permission: admin.decide, cost_micros: 0}
  - {name: sign-in, gateways: [CP], methods: [POST], path: /sign-in, require: public, cost_micros: 0, limit: by-address}
budgets:
  - {name: daily, unit: micro_usd, window: day, scope: 'agent:{agent_id|subject}', cap: CAP}
  - {name: hourly, unit: requests, window: hour, scope: 'agent:{agent_id|subject}', cap: CAP, durable: false}
  - {name: watched, unit: requests, window: hour, scope: 'agent:{agent_id|subject}', cap: CAP, durable: false, thresholds: {warning: 80, high: 95, critical: 100}}
  - {name: guarded, unit: micro_usd, window: day, scope: 'agent:{agent_id|subject}', cap: CAP, at_critical: pause_agent}
  - {name: by-address, unit: requests, window: minute, scope: client_address, cap: 5, durable: false}
  - {name: platform-rate, unit: requests, window: hour, scope: 'platform', cap: CAP, durable: false}
";

fn required(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run the tests with `make test`"))
}

pub(crate) fn policy(cap: i64) -> ActivePolicy {
    let files = BTreeMap::from([("policy.yaml".to_owned(), POLICY.replace("CAP", &cap.to_string()))]);
    let document = wire::sources::read(&files).unwrap();
    let version = BundleVersion { activation: 1, revision: 1, key_set: 1, ..BundleVersion::default() };
    let keys = vec![IssuerKeys {
        issuer: "ops".into(),
        keys: vec![KeyMaterial { kid: Some("k1".into()), algorithm: "HS256".into(), material: KEY.to_vec() }],
        known: KeysKnown::Always,
    }];
    let bundle = Bundle {
        version,
        policy: document.clone(),
        keys,
        registration_key_hashes: Vec::new(),
        pseudonym_key: None,
        rules: None,
        shadow: None,
    };
    let image = bundle.encode().unwrap().into();
    ActivePolicy { version, document, loaded: bundle.load().unwrap(), rules: None, image, keys_fingerprint: [0; 32], jwk_changes: 0 }
}

pub(crate) async fn state(database: &PgPool, cap: i64) -> AppState {
    let redis_url = required("REDIS_URL");
    let client = redis::Client::open(redis_url.as_str()).unwrap();
    let arguments = [
        "control-plane",
        "--database-url=postgres://unused",
        &format!("--redis-url={redis_url}"),
        "--public-url=https://admin.test/für alle/",
        concat!("--rules-gate-program=", env!("CARGO_BIN_EXE_control-plane")),
    ];
    AppState {
        database: database.clone(),
        valkey: redis::aio::ConnectionManager::new(client).await.unwrap(),
        active: Arc::new(watch::channel(Arc::new(policy(cap))).0),
        policy_faults: Arc::new(watch::Sender::new(PolicyFaults::default())),
        revoked: Arc::new(Revoked::default()),
        caps: Arc::default(),
        alerted: Arc::default(),
        outbound: GuardedClient::new(AllowedHosts::default(), Vec::new(), None, Limits::SMALL).unwrap(),
        webhooks: GuardedClient::new(AllowedHosts::default(), Vec::new(), None, Limits::SMALL).unwrap().with_purpose(Purpose::Webhooks),
        keys_asked: Arc::default(),
        signing: None,
        sync_places: control_plane::sync::places::Places::of(1),
        settings: Arc::new(Settings::parse_from(arguments)),
        metrics: Arc::new(Metrics::new()),
        shutdown: CancellationToken::new(),
    }
}

pub(crate) async fn envoy(database: &PgPool, envoy_id: &str) -> Envoy {
    let digest: [u8; 32] = Sha256::digest(envoy_id).into();
    sqlx::query("INSERT INTO envoys (envoy_id, token_sha256) VALUES ($1, $2) ON CONFLICT DO NOTHING")
        .bind(envoy_id)
        .bind(digest.as_slice())
        .execute(database)
        .await
        .unwrap();
    Envoy::identify(database, digest).await.unwrap()
}

/// A token of the admin API for `subject`.
pub(crate) fn token(subject: &str, role: &str, governor: bool) -> String {
    let claims = serde_json::json!({
        "user_id": subject, "email": "a@b.test", "roles": [role], "trial_mode": false, "customer_id": "c1",
        "governor_agent_id": if governor { Some("gov-1") } else { None },
    });
    let claims =
        Claims::with_custom_claims(claims, Duration::from_mins(30)).with_issuer("https://ops").with_audience("admin").with_subject(subject);
    HS256Key::from_bytes(&KEY).with_key_id("k1").authenticate(claims).unwrap()
}

pub(crate) fn now() -> Timestamp {
    let elapsed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    Timestamp::from_seconds(i64::try_from(elapsed.as_secs()).unwrap())
}

pub(crate) fn window_start(state: &AppState, budget: &str) -> i64 {
    state.policy().loaded.policy.budget_by_name(budget).unwrap().window_at(now()).start.as_seconds()
}

/// Asks for an approval of a request of `subject`'s, for a customer and an agent.
pub(crate) fn ask(subject: &str, path: &str, query: &str) -> ApprovalAsk {
    ApprovalAsk {
        request_id: *Uuid::now_v7().as_bytes(),
        approval_id: None,
        binding: ApprovalBinding {
            gateway: Gateway::Pp,
            issuer: "ops".into(),
            subject: subject.into(),
            user_id: format!("id-of-{subject}"),
            customer_id: Some("customer-1".into()),
            agent_id: Some("agent-1".into()),
            target: Target::Production,
            method: "DELETE".into(),
            authority: "api.test".into(),
            path: path.into(),
            query: Some(query.into()),
            content_type: Some("application/json".into()),
            content_encoding: None,
            body_sha256: [3; 32],
            body_length: 12,
        },
        route: "agents-delete".into(),
        action: "agents.delete".into(),
    }
}

/// A holder as a filter is one, without its own bookkeeping.
#[derive(Clone)]
pub(crate) struct Holder {
    pub(crate) state: AppState,
    pub(crate) envoy: Envoy,
    pub(crate) id: [u8; 16],
    pub(crate) call: u64,
}

impl Holder {
    pub(crate) async fn new(state: &AppState) -> Self {
        Self { state: state.clone(), envoy: envoy(&state.database, "envoy-1").await, id: *Uuid::now_v7().as_bytes(), call: 0 }
    }

    pub(crate) fn request(&mut self, accounts: Vec<AccountReport>) -> SyncRequest {
        self.call += 1;
        SyncRequest {
            holder: self.id,
            call: self.call,
            activation: 1,
            revocation: 0,
            unknown_keys: vec![],
            accounts,
            approvals: vec![],
            undos: vec![],
            records: None,
            shadow: None,
        }
    }

    pub(crate) async fn send(&self, request: &SyncRequest) -> Result<SyncAnswer, SyncError> {
        sync::answer(&self.state, &self.envoy, request, None).await
    }

    pub(crate) async fn report(&mut self, report: AccountReport) -> AccountGrant {
        let request = self.request(vec![report]);
        self.send(&request).await.unwrap().accounts.remove(0)
    }

    pub(crate) fn want(&self, budget: &str, scope: &str, used: i64, target: i64, minimum: i64) -> AccountReport {
        AccountReport {
            budget: budget.into(),
            scope: scope.into(),
            window_start: window_start(&self.state, budget),
            generation: 1,
            used,
            held: 0,
            overrun: 0,
            target,
            minimum,
            charge: 1,
            close: false,
        }
    }
}
