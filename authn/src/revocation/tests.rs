use super::*;
use crate::test_tokens::NOW;
use decision_core::principal::Trial;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::time::Duration;

fn identity() -> Identity {
    Identity {
        issuer: "cp".into(),
        subject: "u-1".into(),
        user_id: "u-1".into(),
        email: "u@example.com".into(),
        customer_id: Some("c-1".into()),
        agent_id: Some("a-1".into()),
        governor_agent_id: Some("g-1".into()),
        roles: vec!["user".into()],
        tier: None,
        trial: Trial::No,
        token_id: Some("t-1".into()),
        token_version: Some(5),
        key_id: Some("k-1".into()),
        issued_at: NOW,
        expires_at: NOW.plus(Duration::from_secs(600)),
    }
}

fn found(kind: RevocationKind, issuer: &str, value: &str, bound: i64, identity: &Identity) -> Option<RevocationKind> {
    let mut revocations = Revocations::default();
    revocations.revoke(Mark::of(kind, issuer, value), bound);
    revocations.find(&Marks::of(identity))
}

#[test]
fn each_kind_revokes_what_it_names_and_nothing_else() {
    let far = i64::MAX;
    for (kind, value) in [
        (RevocationKind::Token, "t-1"),
        (RevocationKind::Subject, "u-1"),
        (RevocationKind::Version, "u-1"),
        (RevocationKind::Key, "k-1"),
        (RevocationKind::Customer, "c-1"),
        (RevocationKind::Agent, "a-1"),
        (RevocationKind::Agent, "g-1"),
    ] {
        assert_eq!(found(kind, "cp", value, far, &identity()), Some(kind));
        assert_eq!(found(kind, "cp", "other", far, &identity()), None);
        for other in RevocationKind::ALL.into_iter().filter(|other| *other != kind) {
            let by_subject = [RevocationKind::Subject, RevocationKind::Version];
            if !(by_subject.contains(&kind) && by_subject.contains(&other)) {
                assert_eq!(found(other, "cp", value, far, &identity()), None, "{other:?} {value}");
            }
        }
    }
}

#[test]
fn what_belongs_to_one_issuer_is_not_revoked_at_another() {
    for (kind, value) in
        [(RevocationKind::Token, "t-1"), (RevocationKind::Subject, "u-1"), (RevocationKind::Version, "u-1"), (RevocationKind::Key, "k-1")]
    {
        assert_eq!(found(kind, "pp", value, i64::MAX, &identity()), None);
    }
    for (kind, value) in [(RevocationKind::Customer, "c-1"), (RevocationKind::Agent, "a-1")] {
        assert_eq!(found(kind, "pp", value, 0, &identity()), Some(kind));
    }
}

#[test]
fn a_subject_is_revoked_for_tokens_from_before_the_time_only() {
    let subject = |bound| found(RevocationKind::Subject, "cp", "u-1", bound, &identity());
    assert_eq!(subject(NOW.as_micros()), None);
    assert_eq!(subject(NOW.as_micros() + 1), Some(RevocationKind::Subject));
}

#[test]
fn a_version_below_the_bound_and_an_unknown_version_are_revoked() {
    let version = |token_version, bound| found(RevocationKind::Version, "cp", "u-1", bound, &Identity { token_version, ..identity() });
    assert_eq!(version(Some(5), 5), None);
    assert_eq!(version(Some(5), 6), Some(RevocationKind::Version));
    assert_eq!(version(None, 1), Some(RevocationKind::Version));
    assert_eq!(version(Some(u64::MAX), i64::MAX), None);
}

#[test]
fn a_token_without_the_claim_is_not_revoked_by_it() {
    let bare = Identity { token_id: None, customer_id: None, agent_id: None, governor_agent_id: None, key_id: None, ..identity() };
    for kind in [RevocationKind::Token, RevocationKind::Key, RevocationKind::Customer, RevocationKind::Agent] {
        for value in ["", "t-1", "k-1", "c-1", "a-1"] {
            assert_eq!(found(kind, "cp", value, i64::MAX, &bare), None);
        }
    }
}

#[test]
fn names_cannot_be_shifted_between_the_parts_of_a_mark() {
    assert_ne!(Mark::of(RevocationKind::Token, "cp", "x"), Mark::of(RevocationKind::Token, "c", "px"));
    assert_ne!(Mark::of(RevocationKind::Token, "", "cpx"), Mark::of(RevocationKind::Token, "cpx", ""));
}

#[test]
fn a_lifted_revocation_is_none_and_a_later_one_replaces_an_earlier() {
    let mark = Mark::of(RevocationKind::Subject, "cp", "u-1");
    let marks = Marks::of(&identity());
    let mut revocations = Revocations::default();
    revocations.revoke(mark, i64::MAX);
    revocations.revoke(mark, 0);
    assert_eq!((revocations.len(), revocations.find(&marks)), (1, None));
    revocations.revoke(mark, i64::MAX);
    assert_eq!(revocations.find(&marks), Some(RevocationKind::Subject));
    revocations.lift(mark);
    revocations.lift(mark);
    assert_eq!((revocations.is_empty(), revocations.find(&marks)), (true, None));
    revocations.revoke(mark, i64::MAX);
    revocations.reset(10);
    assert_eq!((revocations.is_empty(), revocations.find(&marks)), (true, None));
}

#[test]
fn the_first_kind_in_their_order_is_reported() {
    let mut revocations = Revocations::default();
    for (kind, value) in [(RevocationKind::Agent, "a-1"), (RevocationKind::Customer, "c-1"), (RevocationKind::Key, "k-1")] {
        revocations.revoke(Mark::of(kind, "cp", value), 0);
        assert_eq!(revocations.find(&Marks::of(&identity())), Some(kind));
    }
}

/// What is revoked, in words.
type Model = BTreeMap<(RevocationKind, String, String), i64>;

fn expected(model: &Model, identity: &Identity) -> Option<RevocationKind> {
    let subject = Some(&identity.subject);
    let values = [
        (RevocationKind::Token, identity.token_id.as_ref()),
        (RevocationKind::Subject, subject),
        (RevocationKind::Version, subject),
        (RevocationKind::Key, identity.key_id.as_ref()),
        (RevocationKind::Customer, identity.customer_id.as_ref()),
        (RevocationKind::Agent, identity.agent_id.as_ref()),
        (RevocationKind::Agent, identity.governor_agent_id.as_ref()),
    ];
    let applies = |kind: RevocationKind, bound: i64| match kind {
        RevocationKind::Subject => identity.issued_at.as_micros() < bound,
        RevocationKind::Version => identity.token_version.is_none_or(|version| i128::from(version) < i128::from(bound)),
        RevocationKind::Token | RevocationKind::Key | RevocationKind::Customer | RevocationKind::Agent => true,
    };
    values.into_iter().find_map(|(kind, value)| {
        let issuer = if matches!(kind, RevocationKind::Customer | RevocationKind::Agent) { "" } else { &identity.issuer };
        let bound = *model.get(&(kind, issuer.to_owned(), value?.to_string()))?;
        applies(kind, bound).then_some(kind)
    })
}

fn name() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["a", "b", "c", "ab"]).prop_map(str::to_owned)
}

fn any_identity() -> impl Strategy<Value = Identity> {
    let optional = || prop::option::of(name().prop_map(String::into_boxed_str));
    (name(), name(), [optional(), optional(), optional(), optional(), optional()], prop::option::of(0..4_u64), 0..4_i64).prop_map(
        |(issuer, subject, [token_id, key_id, customer_id, agent_id, governor_agent_id], token_version, issued)| Identity {
            issuer: issuer.into(),
            subject: subject.into(),
            token_id,
            key_id,
            customer_id,
            agent_id,
            governor_agent_id,
            token_version,
            issued_at: Timestamp::from_micros(issued),
            ..identity()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_a_naive_model(
        steps in prop::collection::vec((0..6_usize, name(), name(), 0..5_i64, 0..4_u8), 0..30),
        tokens in prop::collection::vec(any_identity(), 1..10),
    ) {
        let (mut revocations, mut model) = (Revocations::default(), Model::new());
        for (kind, issuer, value, bound, step) in steps {
            let kind = RevocationKind::ALL[kind];
            let mark = Mark::of(kind, &issuer, &value);
            let issuer = if matches!(kind, RevocationKind::Customer | RevocationKind::Agent) { String::new() } else { issuer };
            if step == 0 {
                revocations.lift(mark);
                model.remove(&(kind, issuer, value));
            } else {
                revocations.revoke(mark, bound);
                model.insert((kind, issuer, value), bound);
            }
            prop_assert_eq!(revocations.len(), model.len());
            for token in &tokens {
                prop_assert_eq!(revocations.find(&Marks::of(token)), expected(&model, token));
            }
        }
    }
}
