//! Windows, scopes and amounts.

use crate::cases;
use crate::fixture::{identity, source};
use decision_core::budget::{Rhythm, Units, date_of_day};
use decision_core::policy::compile::compile;
use decision_core::principal::{Identity, Principal};
use decision_core::time::Timestamp;
use proptest::prelude::*;

const RHYTHMS: [Rhythm; 4] = [Rhythm::Minute, Rhythm::Hour, Rhythm::Day, Rhythm::Month];

fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[a:=,|0-9]{0,6}", "\\PC{0,5}", Just("1:a".to_string()), Just("subject=1:a,1:b".to_string())]
}

fn someone() -> impl Strategy<Value = Identity> {
    (text(), text(), text(), prop::option::of(text()), prop::option::of(text())).prop_map(|(issuer, subject, user, customer, agent)| {
        let mut identity = identity("admin");
        (identity.issuer, identity.subject, identity.user_id) = (issuer.into(), subject.into(), user.into());
        (identity.customer_id, identity.agent_id) = (customer.map(Into::into), agent.map(Into::into));
        identity
    })
}

/// What the scope says of the user, in the template's own terms.
fn meaning(template: &str, identity: &Identity) -> Option<Vec<(String, String)>> {
    template
        .split('{')
        .skip(1)
        .map(|part| {
            let names = part.split_once('}').unwrap().0;
            names.split('|').find_map(|name| {
                let value = match name {
                    "subject" => Some(format!("{:?}", (&identity.issuer, &identity.subject))),
                    "user_id" => Some(identity.user_id.to_string()),
                    "customer_id" => identity.customer_id.as_deref().map(String::from),
                    _ => identity.agent_id.as_deref().map(String::from),
                };
                value.map(|value| (name.to_string(), value))
            })
        })
        .collect()
}

fn scope(template: &str, identity: Identity) -> Option<String> {
    let mut source = source();
    source.budgets[0].scope = template.into();
    let policy = compile(&source).unwrap();
    let principal: Principal = policy.principal(identity).unwrap();
    let mut out = String::new();
    policy.budgets()[0].scope.write_scope(&principal, &mut out).ok().map(|()| out)
}

const TEMPLATES: [&str; 8] = [
    "platform",
    "agent:{agent_id|subject}",
    "customer:{customer_id}",
    "{subject}",
    "{customer_id|agent_id|user_id}",
    "{user_id}{subject}",
    "{agent_id|user_id}-{customer_id|subject}:",
    "{user_id}{customer_id|user_id}{agent_id|customer_id|user_id}",
];

proptest! {
    #![proptest_config(cases(1_500))]

    /// Two users share an account exactly if the template sees no difference between them.
    #[test]
    fn two_scopes_are_equal_only_if_what_they_name_is(one in someone(), other in someone(), template in prop::sample::select(&TEMPLATES[..])) {
        let meanings = (meaning(template, &one), meaning(template, &other));
        let scopes = (scope(template, one), scope(template, other));
        prop_assert_eq!(scopes.0.is_some(), meanings.0.is_some());
        prop_assert_eq!(scopes.0 == scopes.1, meanings.0 == meanings.1, "{:?}", scopes);
    }

    #[test]
    fn windows_tile_time_without_gap_or_overlap(micros in -62_135_596_800_000_000_i64..253_402_300_800_000_000) {
        let now = Timestamp::from_micros(micros);
        for rhythm in RHYTHMS {
            let window = rhythm.window_at(now);
            prop_assert!(window.contains(now) && window.start < window.end);
            prop_assert_eq!(rhythm.window_at(window.start), window);
            prop_assert_eq!(rhythm.window_at(Timestamp::from_micros(window.end.as_micros() - 1)), window);
            prop_assert_eq!(rhythm.window_at(window.end).start, window.end);
        }
    }

    #[test]
    fn any_moment_at_all_has_a_window(micros in any::<i64>()) {
        for rhythm in RHYTHMS {
            let window = rhythm.window_at(Timestamp::from_micros(micros));
            prop_assert!(window.start <= window.end);
        }
    }

    #[test]
    fn dates_follow_one_another(day in -800_000..3_000_000_i64) {
        let ((year, month, date), (next_year, next_month, next_date)) = (date_of_day(day), date_of_day(day + 1));
        prop_assert!((1..=12).contains(&month) && (1..=31).contains(&date));
        let same_month = (next_year, next_month, next_date) == (year, month, date + 1);
        let next_month = (next_month, next_date) == (month % 12 + 1, 1) && next_year == year + i64::from(month == 12) && date >= 28;
        prop_assert!(same_month || next_month);
    }

    #[test]
    fn amounts_saturate_and_never_go_below_zero(one in 0..=i64::MAX, other in 0..=i64::MAX) {
        let (one, other) = (Units::new(one), Units::new(other));
        prop_assert!(one.plus(other) >= one && one.minus(other) <= one && one.minus(other) >= Units::ZERO);
        prop_assert_eq!(one.minus(other).plus(other.min(one)), one);
    }
}

#[test]
fn february_of_a_leap_year_has_twenty_nine_days() {
    // 2000-02-29, 2024-02-29, 1900-02-28, 1970-01-01, 1969-12-31
    for (day, date) in [(11_016, (2000, 2, 29)), (19_782, (2024, 2, 29)), (-25_509, (1900, 2, 28)), (0, (1970, 1, 1)), (-1, (1969, 12, 31))]
    {
        assert_eq!(date_of_day(day), date);
    }
    assert_eq!(date_of_day(-25_508), (1900, 3, 1));
}

#[test]
fn a_scope_without_its_variable_names_nobody() {
    let mut nobody = identity("admin");
    nobody.customer_id = None;
    assert_eq!(scope("customer:{customer_id}", nobody.clone()), None);
    assert_eq!(scope("customer:{customer_id|subject}", nobody), Some("customer:subject=2:cp,6:user-1".into()));
    assert_eq!(scope("platform", identity("admin")), Some("platform".into()));
    assert_eq!(scope("{customer_id}", identity("admin")), Some("customer_id=10:customer-1".into()));
}
