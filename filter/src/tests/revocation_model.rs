//! Two workers and a control plane that keeps only the last change of each mark: in whatever way pages and tails arrive, who
//! has caught up refuses exactly what is revoked.

use super::gate::{NOW, document};
use crate::revoked::{Followed, Place, Revoked, Taken, VerifiedToken};
use authn::Mark;
use decision_core::policy::compile::compile;
use decision_core::principal::{Identity, RevocationKind, Trial};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::rc::Rc;
use wire::revocation::{RevocationChange, RevocationPage};

const TOKENS: u8 = 6;

/// What the control plane has, by mark.
#[derive(Clone, Debug, Default)]
struct Plane {
    database_id: [u8; 16],
    number: u64,
    last: BTreeMap<u8, (u64, bool)>,
}

impl Plane {
    fn change(&mut self, token: u8, lifted: bool) {
        self.number += 1;
        self.last.insert(token, (self.number, lifted));
    }

    fn page(&self, cursor: Option<Place>, size: usize, too_old: bool) -> RevocationPage {
        let cursor = cursor.filter(|cursor| cursor.database_id == self.database_id && !too_old);
        let after = cursor.map_or(0, |cursor| cursor.number);
        let mut changes: Vec<_> = self.last.iter().filter(|(_, (number, _))| *number > after).collect();
        changes.sort_by_key(|(_, (number, _))| *number);
        let more = changes.len() > size;
        changes.truncate(size);
        let changes: Vec<_> = changes
            .into_iter()
            .map(|(token, (number, lifted))| RevocationChange { number: *number, mark: mark(*token).0, bound: 0, lifted: *lifted })
            .collect();
        let through = if more { changes.last().unwrap().number } else { self.number };
        RevocationPage { database_id: self.database_id, reset: cursor.is_none(), through, more, total: 6, changes, caps: 0 }
    }
}

fn mark(token: u8) -> Mark {
    Mark::of(RevocationKind::Token, "legacy", &token.to_string())
}

fn tokens() -> Vec<VerifiedToken> {
    let policy = compile(&document().to_source()).unwrap();
    let identity = |token: u8| Identity {
        issuer: "legacy".into(),
        subject: "user".into(),
        user_id: "user".into(),
        email: "user@example.com".into(),
        customer_id: None,
        agent_id: None,
        governor_agent_id: None,
        roles: vec!["user".into()],
        tier: None,
        trial: Trial::No,
        token_id: Some(token.to_string().into()),
        token_version: None,
        key_id: None,
        issued_at: NOW,
        expires_at: NOW,
    };
    (0..TOKENS).map(|token| VerifiedToken::new(Rc::new(policy.principal(identity(token)).unwrap()))).collect()
}

#[derive(Clone, Debug)]
enum Step {
    Change { token: u8, lifted: bool },
    Ask { worker: usize, size: usize, too_old: bool },
    Answer { worker: usize },
    Tell { from: usize, to: usize },
    Restore,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..TOKENS, any::<bool>()).prop_map(|(token, lifted)| Step::Change { token, lifted }),
        6 => (0..2_usize, 1..5_usize, 0..5_u8).prop_map(|(worker, size, age)| Step::Ask { worker, size, too_old: age == 0 }),
        6 => (0..2_usize).prop_map(|worker| Step::Answer { worker }),
        4 => (0..2_usize, 0..2_usize).prop_map(|(from, to)| Step::Tell { from, to }),
        1 => Just(Step::Restore),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn who_has_caught_up_refuses_exactly_what_is_revoked(steps in prop::collection::vec(step(), 1..60)) {
        let tokens = [tokens(), tokens()];
        let mut plane = Plane::default();
        let mut workers = [Revoked::default(), Revoked::default()];
        let mut in_flight = [None, None];
        let mut databases = 0;
        for step in steps {
            match step {
                Step::Change { token, lifted } => plane.change(token, lifted),
                Step::Ask { worker, size, too_old } => {
                    if in_flight[worker].is_none() {
                        in_flight[worker] = Some(plane.page(workers[worker].cursor(), size, too_old));
                    }
                }
                Step::Answer { worker } => {
                    let Some(page) = in_flight[worker].take() else { continue };
                    let before = workers[worker].known();
                    let taken = workers[worker].take(&page).unwrap();
                    let after = workers[worker].known();
                    // Within a database nobody ever goes back to knowing less.
                    let backwards = before.zip(after).is_some_and(|(before, after)| {
                        before.database_id == after.database_id && before.number > after.number
                    });
                    prop_assert!(!backwards, "{before:?} to {after:?}");
                    let told = after.is_some_and(|after| after.database_id == page.database_id && after.number >= page.through);
                    prop_assert!(taken == Taken::More || told, "caught up with {page:?} at {after:?}");
                }
                Step::Tell { from, to } => {
                    let Some(tail) = workers[from].tail() else { continue };
                    let before = workers[to].known();
                    match workers[to].follow(&tail) {
                        Followed::Applied => prop_assert_eq!(workers[to].known(), Some(tail.to)),
                        Followed::Nothing | Followed::Missed => prop_assert_eq!(workers[to].known(), before),
                    }
                }
                Step::Restore => {
                    databases += 1;
                    plane = Plane { database_id: [databases; 16], ..Plane::default() };
                }
            }
            for (worker, tokens) in workers.iter().zip(&tokens) {
                let newest = worker.known() == Some(Place { database_id: plane.database_id, number: plane.number });
                for (number, token) in (0..TOKENS).zip(tokens).filter(|_| newest) {
                    let revoked = plane.last.get(&number).is_some_and(|(_, lifted)| !lifted);
                    prop_assert_eq!(worker.verdict(token).is_some(), revoked, "token {}", number);
                }
            }
        }
    }

    /// Shared data and answers may hold anything: another version of the filter may have written them.
    #[test]
    fn whatever_stands_in_shared_data_is_survived(
        version in prop::collection::vec(any::<u8>(), 0..40), tail in prop::collection::vec(any::<u8>(), 0..80), contact in any::<[u8; 8]>(),
        answer in prop::collection::vec(any::<u8>(), 0..80),
    ) {
        let gate = super::gate::Gate::new("PLANT");
        for (key, value) in [("revocations.version", &version[..]), ("revocations", &tail), ("contact", &contact), ("version", &version)] {
            gate.host.shared.borrow_mut().insert(format!("plant_gateway.{key}"), (value.to_vec(), 1));
        }
        gate.run(std::time::Duration::from_millis(100));
        if let Some(call) = gate.take_call("/data-plane/v1/revocations") {
            gate.answer(&call, &[(":status", b"200")], answer);
        }
        prop_assert!(gate.vm.borrow().revoked.known().is_some());
    }
}
