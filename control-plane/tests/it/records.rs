//! Audit records as a filter makes them.

use crate::plane::Holder;
use uuid::Uuid;
use wire::audit::{Account, AuditRecord, Charge, Check, CheckOutcome, CostBasis, Decision, Mention, Outcome, Phase, Stage, Upgrade, User};
use wire::policy::Gateway;
use wire::sync::RecordBatch;

pub(crate) const START_US: i64 = 1_790_000_000_000_000;

pub(crate) fn record(number: i64) -> AuditRecord<'static> {
    AuditRecord {
        phase: Phase::Outcome,
        at_us: START_US + number,
        gateway: Gateway::Plant,
        stage: Stage::Filter,
        method: Some("GET".into()),
        path: Some(format!("/api/v1/agents/{number}").into()),
        upgrade: Upgrade::None,
        query: Vec::new(),
        request_headers: Vec::new(),
        response_headers: Vec::new(),
        sampled_of: 1,
        route: Some("agents-read".into()),
        action: Some("agents.read".into()),
        user: Some(Mention::New(User {
            issuer: "cp".into(),
            subject: format!("subject-{}", number % 50).into(),
            user_id: format!("user-{}", number % 50).into(),
            customer_id: Some(format!("customer-{}", number % 10).into()),
            agent_id: Some(format!("agent-{}", number % 20).into()),
            email: None,
            governor_agent_id: None,
            roles: "admin,viewer".into(),
            tier: None,
            trial_until_us: (number % 2 == 0).then_some(START_US),
        })),
        correlation_id: format!("not-a-uuid-{number}").into(),
        causation_id: None,
        request_id: *Uuid::now_v7().as_bytes(),
        decision: if number % 3 == 0 { Decision::Deny } else { Decision::Permit },
        reason: "ok".into(),
        rule: None,
        shadow: None,
        checks: vec![
            CheckOutcome { check: Check::Authentication, outcome: Outcome::Permit },
            CheckOutcome { check: Check::Budget, outcome: Outcome::FailedOpen },
        ],
        activation: 3,
        revision: 2,
        key_set: 1,
        revocation: 7,
        charges: vec![Charge {
            account: Mention::New(Account { budget: "daily".into(), scope: "agent=1".into() }),
            amount: 1_000,
            overrun: 0,
        }],
        cost: Some(CostBasis::Fixed),
        usage: None,
        approval_id: None,
        sandbox: false,
        status: Some(if number % 3 == 0 { 403 } else { 200 }),
        details: None,
        total_us: 1_500,
        upstream_us: Some(1_200),
        ours_us: None,
    }
}

pub(crate) fn encode(record: &AuditRecord<'_>) -> Vec<u8> {
    postcard::to_stdvec(record).unwrap()
}

pub(crate) fn batch(first_sequence: u64, records: &[Vec<u8>]) -> RecordBatch {
    let mut bytes = Vec::new();
    for record in records {
        bytes.extend(u32::try_from(record.len()).unwrap().to_le_bytes());
        bytes.extend(record);
    }
    RecordBatch { first_sequence, count: u32::try_from(records.len()).unwrap(), bytes }
}

pub(crate) fn records(first: i64, count: i64) -> Vec<Vec<u8>> {
    (first..first + count).map(|number| encode(&record(number))).collect()
}

pub(crate) async fn deliver(holder: &mut Holder, batch: RecordBatch) -> Option<u64> {
    let mut request = holder.request(vec![]);
    request.records = Some(batch);
    holder.send(&request).await.unwrap().records_stored
}
