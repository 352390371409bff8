//! What judging a recorded request costs, by the policy as shipped:
//! `cargo run --release --package authoring --example replay`.

use authoring::directory;
use authoring::evaluate::{Candidate, NoRules};
use authoring::replay::{Outcome, RecordedCharge, RecordedOutcome, RecordedRequest, RecordedUser, Replay, Side, Tally};
use decision_core::facts::Upgrade;
use decision_core::gateway::Gateway;
use decision_core::principal::Trial;
use decision_core::time::Timestamp;
use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

const ROUNDS: u64 = 2_000_000;
const USERS: usize = 2_000;

fn main() -> Result<(), Box<dyn Error>> {
    let files = directory::read(Path::new("policies"))?;
    let candidate = Candidate::new(files.clone())?;
    let then = Arc::new(Candidate::new(files)?.bundle.policy);
    let users: Vec<String> = (0..USERS).map(|number| format!("user-{number}")).collect();
    for (name, own) in [("alone", None), ("beside the policy that decided", Some(Side::new(then)))] {
        let started = Instant::now();
        let tally = replayed(&candidate, own, &users)?;
        let each = started.elapsed().as_nanos() / u128::from(ROUNDS);
        println!("{name}: {each} ns each, {} a second; {} same, {} different", 1_000_000_000 / each.max(1), tally.same, tally.different);
    }
    Ok(())
}

fn replayed(candidate: &Candidate, mut own: Option<Side>, users: &[String]) -> Result<Tally, Box<dyn Error>> {
    let roles = ["viewer".to_owned()];
    let paths = ["/api/v1/agents", "/api/v1/agents/7", "/api/v1/customers", "/api/v1/nothing"];
    let charged = |budget, amount| RecordedCharge { budget, amount };
    let charges =
        [charged("agent-daily", 1_000), charged("platform-monthly", 1_000), charged("rate-paid-hour", 1), charged("rate-paid-minute", 1)];
    let mut replay = Replay::new(&candidate.bundle.policy, &[]);
    let mut tally = Tally::default();
    for (user, path) in users.iter().cycle().zip(paths.iter().cycle()).take(usize::try_from(ROUNDS)?) {
        let user = RecordedUser {
            issuer: "pp",
            subject: user,
            user_id: user,
            email: None,
            customer_id: Some(user),
            agent_id: None,
            governor_agent_id: None,
            roles: &roles,
            tier: None,
            trial: Some(Trial::No),
        };
        let recorded = RecordedRequest {
            request_id: "request",
            correlation_id: "correlation",
            at: Timestamp::from_seconds(1_768_478_400),
            gateway: Gateway::Pp,
            method: Some("GET"),
            path: Some(path),
            upgrade: Upgrade::None,
            user: Some(user),
            outcome: RecordedOutcome::Permit,
            reason: "ok",
            route: Some("agents.list"),
            sandbox: false,
            approval: false,
            charges: &charges,
            failed_open: false,
            usage: None,
            revision: 1,
            sampled_of: 1,
        };
        let verdict = replay.judge(&recorded, own.as_mut(), &mut NoRules);
        tally.count(&recorded, &verdict);
        if let Outcome::Undecidable(why) = verdict.outcome {
            return Err(why.text().into());
        }
    }
    Ok(tally)
}
