use super::*;
use crate::algorithm::Algorithm;
use crate::test_tokens::{NOW, good_claims, rules};
use serde_json::{Value, json};

fn header(typ: Option<&str>) -> JwsHeader {
    JwsHeader { algorithm: Algorithm::Hs256, kid: None, typ: typ.map(Into::into) }
}

fn check(claims: &Value) -> Result<Identity, CredentialFault> {
    check_claims(claims.to_string().as_bytes(), &header(None), &rules(), None, NOW)
}

fn by(issuer: &IssuerRules, claims: &Value) -> Result<Identity, CredentialFault> {
    check_claims(claims.to_string().as_bytes(), &header(None), issuer, None, NOW)
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = good_claims();
    claims[name] = value;
    claims
}

fn fault(name: &str, value: Value) -> Option<CredentialFault> {
    check(&with(name, value)).err()
}

#[test]
fn accepts_the_least_that_a_token_may_say() {
    let identity = check(&good_claims()).unwrap();
    assert_eq!(&*identity.issuer, "cp");
    assert_eq!((&*identity.subject, &*identity.user_id, &*identity.email), ("u-1", "u-1", "u@example.com"));
    assert_eq!(identity.roles, ["user".into()]);
    assert_eq!((identity.customer_id, identity.agent_id, identity.governor_agent_id), (None, None, None));
    assert_eq!((identity.tier, identity.token_id, identity.trial), (None, None, Trial::No));
    assert_eq!((identity.token_version, identity.key_id), (None, None));
    assert_eq!(identity.issued_at, Timestamp::from_seconds(NOW.as_seconds() - 600));
    assert_eq!(identity.expires_at, Timestamp::from_seconds(NOW.as_seconds() + 1200));
}

#[test]
fn takes_the_optional_claims() {
    let mut claims = good_claims();
    for name in ["customer_id", "agent_id", "governor_agent_id", "tier", "jti"] {
        claims[name] = json!(format!("the-{name}"));
    }
    let identity = check(&claims).unwrap();
    assert_eq!(identity.customer_id.as_deref(), Some("the-customer_id"));
    assert_eq!(identity.agent_id.as_deref(), Some("the-agent_id"));
    assert_eq!(identity.governor_agent_id.as_deref(), Some("the-governor_agent_id"));
    assert_eq!(identity.tier.as_deref(), Some("the-tier"));
    assert_eq!(identity.token_id.as_deref(), Some("the-jti"));
}

#[test]
fn refuses_a_required_claim_that_is_absent_empty_or_no_string() {
    for name in ["sub", "user_id", "email"] {
        let missing = Some(CredentialFault::ClaimMissing(name));
        let mut claims = good_claims();
        claims.as_object_mut().unwrap().remove(name);
        assert_eq!(check(&claims).err(), missing);
        for value in [json!(null), json!(""), json!(1), json!(["x"]), json!(true)] {
            assert_eq!(fault(name, value), missing);
        }
    }
}

#[test]
fn refuses_a_text_that_cannot_go_into_a_header() {
    for value in ["a\nb", "a\r\nX-User: b", "a\0", "\u{7f}", "\u{85}x", " a", "a ", "\t"] {
        assert_eq!(fault("email", json!(value)), Some(CredentialFault::ClaimMissing("email")), "{value:?}");
        assert_eq!(fault("jti", json!(value)), Some(CredentialFault::ClaimMissing("jti")), "{value:?}");
        assert_eq!(fault("roles", json!([value])), Some(CredentialFault::ClaimMissing("roles")), "{value:?}");
    }
    assert!(check(&with("email", json!("jürgen@example.com"))).is_ok());
}

#[test]
fn refuses_a_text_of_more_than_256_bytes() {
    assert!(check(&with("sub", json!("x".repeat(256)))).is_ok());
    assert_eq!(fault("sub", json!("x".repeat(257))), Some(CredentialFault::ClaimMissing("sub")));
    assert_eq!(fault("tier", json!("x".repeat(257))), Some(CredentialFault::ClaimMissing("tier")));
}

#[test]
fn refuses_an_optional_claim_of_the_wrong_type() {
    for name in ["customer_id", "agent_id", "governor_agent_id", "tier", "jti"] {
        for value in [json!(1), json!(["x"]), json!({}), json!(false)] {
            assert_eq!(fault(name, value), Some(CredentialFault::ClaimMissing(name)));
        }
    }
}

#[test]
fn an_optional_claim_that_is_null_or_empty_is_absent() {
    for value in [json!(null), json!("")] {
        assert_eq!(check(&with("governor_agent_id", value)).unwrap().governor_agent_id, None);
    }
}

#[test]
fn refuses_roles_that_are_no_array_of_names() {
    for value in [json!(null), json!([]), json!("admin"), json!(["a", ""]), json!(["a", 1]), json!({"a": 1}), json!([["a"]])] {
        assert_eq!(fault("roles", value), Some(CredentialFault::ClaimMissing("roles")));
    }
    assert!(check(&with("roles", json!(vec!["r"; ROLES_MAX]))).is_ok());
    assert!(fault("roles", json!(vec!["r"; ROLES_MAX + 1])).is_some());
}

#[test]
fn refuses_a_role_with_a_comma_which_would_be_two_for_the_backend() {
    assert_eq!(fault("roles", json!(["user,admin"])), Some(CredentialFault::ClaimMissing("roles")));
}

#[test]
fn refuses_an_issuer_that_is_not_exactly_the_keys() {
    for value in [json!("CP.example"), json!("cp.example/"), json!(["cp.example"]), json!(null), json!("")] {
        assert_eq!(fault("iss", value), Some(CredentialFault::IssuerMismatch));
    }
}

#[test]
fn refuses_duplicate_claims() {
    let text = good_claims().to_string().replacen('{', r#"{"roles":["admin"],"#, 1);
    assert_eq!(check_claims(text.as_bytes(), &header(None), &rules(), None, NOW), Err(CredentialFault::Malformed));
}

#[test]
fn refuses_an_expired_token_to_the_microsecond() {
    let expired_at = |now: Timestamp| check_claims(good_claims().to_string().as_bytes(), &header(None), &rules(), None, now).err();
    let end = Timestamp::from_seconds(NOW.as_seconds() + 1200 + 60);
    assert_eq!(expired_at(Timestamp::from_micros(end.as_micros() - 1)), None);
    assert_eq!(expired_at(end), Some(CredentialFault::Expired));
    assert_eq!(expired_at(Timestamp::MAX), Some(CredentialFault::Expired));
}

#[test]
fn refuses_a_token_that_is_not_yet_valid() {
    let seconds = NOW.as_seconds();
    for name in ["nbf", "iat"] {
        assert!(check(&with(name, json!(seconds + 60))).is_ok());
        assert_eq!(fault(name, json!(seconds + 61)), Some(CredentialFault::NotYetValid), "{name}");
    }
}

#[test]
fn refuses_a_lifetime_above_the_maximum() {
    let issued_at = NOW.as_seconds() - 600;
    assert!(check(&with("exp", json!(issued_at + 86_400))).is_ok());
    assert_eq!(fault("exp", json!(issued_at + 86_401)), Some(CredentialFault::LifetimeTooLong));
    assert_eq!(fault("iat", json!(0)), Some(CredentialFault::LifetimeTooLong));
}

#[test]
fn refuses_exp_that_is_not_after_iat() {
    let mut claims = good_claims();
    claims["exp"] = claims["iat"].clone();
    assert_eq!(check(&claims), Err(CredentialFault::Malformed));
}

#[test]
fn refuses_a_time_that_is_no_number_or_out_of_range() {
    for name in ["iat", "exp", "nbf"] {
        for value in [json!("1800000000"), json!(true), json!(-1), json!(1e300), json!(253_402_300_800_i64), json!([1])] {
            assert_eq!(fault(name, value.clone()), Some(CredentialFault::ClaimMissing(name)), "{value}");
        }
    }
    for name in ["iat", "exp"] {
        assert_eq!(fault(name, json!(null)), Some(CredentialFault::ClaimMissing(name)));
    }
}

#[test]
fn accepts_decimal_times() {
    let identity = check(&with("exp", json!(1_800_000_000.5))).unwrap();
    assert_eq!(identity.expires_at, Timestamp::from_micros(1_800_000_000_500_000));
}

#[test]
fn refuses_a_token_for_another_audience() {
    let issuer = IssuerRules { audiences: vec!["gateway".into(), "other".into()], ..rules() };
    for aud in [json!("gateway"), json!(["x", "gateway"])] {
        assert!(by(&issuer, &with("aud", aud)).is_ok());
    }
    let mismatch = Err(CredentialFault::AudienceMismatch);
    assert_eq!(by(&issuer, &good_claims()), mismatch);
    for aud in [json!("Gateway"), json!(""), json!([]), json!(null), json!(["gateway", 1]), json!({"gateway": 1})] {
        assert_eq!(by(&issuer, &with("aud", aud)), mismatch);
    }
}

#[test]
fn refuses_any_audience_when_none_is_configured() {
    for aud in [json!("gateway"), json!([]), json!(null)] {
        assert_eq!(fault("aud", aud), Some(CredentialFault::AudienceMismatch));
    }
}

#[test]
fn refuses_a_refresh_token() {
    assert!(check(&with("token_type", json!("access"))).is_ok());
    assert!(check(&with("token_type", json!(null))).is_ok());
    for value in [json!("refresh"), json!("Access"), json!(""), json!(1), json!(["access"])] {
        assert_eq!(fault("token_type", value), Some(CredentialFault::TokenTypeRefused));
    }
}

#[test]
fn refuses_a_scope_that_the_issuer_does_not_list() {
    assert_eq!(fault("scope", json!("db_updates")), Some(CredentialFault::TokenTypeRefused));
    let issuer = IssuerRules { scopes: vec!["read".into(), "write".into()], ..rules() };
    for scope in [json!("read"), json!("write read"), json!(""), json!(null)] {
        assert!(by(&issuer, &with("scope", scope)).is_ok());
    }
    for scope in [json!("read db_updates"), json!("Read"), json!(["read"]), json!("read\twrite"), json!(1)] {
        assert_eq!(by(&issuer, &with("scope", scope)), Err(CredentialFault::TokenTypeRefused));
    }
}

#[test]
fn refuses_a_typ_that_the_issuer_does_not_list() {
    let payload = good_claims().to_string();
    let issuer = IssuerRules { token_types: vec!["JWT".into(), "at+jwt".into()], ..rules() };
    let outcome = |typ, issuer: &IssuerRules| check_claims(payload.as_bytes(), &header(typ), issuer, None, NOW).err();
    for typ in ["JWT", "jwt", "at+jwt", "application/at+jwt", "Application/JWT"] {
        assert_eq!(outcome(Some(typ), &issuer), None, "{typ}");
    }
    for typ in ["JOSE", "rt+jwt", "at+jwt ", "text/jwt", "application/x/jwt", "logout+jwt"] {
        assert_eq!(outcome(Some(typ), &issuer), Some(CredentialFault::TokenTypeRefused), "{typ}");
    }
    let strict = IssuerRules { allow_missing_typ: false, ..issuer };
    assert_eq!(outcome(None, &strict), Some(CredentialFault::TokenTypeRefused));
}

#[test]
fn refuses_a_token_without_a_claim_that_the_issuer_requires() {
    let issuer = IssuerRules { required_claims: vec![OptionalClaim::TokenId], ..rules() };
    assert!(by(&issuer, &with("jti", json!("t-1"))).is_ok());
    let missing = Err(CredentialFault::ClaimMissing("jti"));
    assert_eq!(by(&issuer, &good_claims()), missing);
    assert_eq!(by(&issuer, &with("jti", json!(""))), missing);
    assert_eq!(by(&issuer, &with("jti", json!(null))), missing);
}

fn trial(mode: Value, until: Value) -> Result<Trial, CredentialFault> {
    let mut claims = with("trial_mode", mode);
    claims["trial_expires_at"] = until;
    check(&claims).map(|identity| identity.trial)
}

#[test]
fn takes_the_end_of_a_trial_as_text_or_as_a_number() {
    let until = Ok(Trial::Until(Timestamp::from_seconds(1_772_366_400)));
    assert_eq!(trial(json!(true), json!("2026-03-01T12:00:00Z")), until);
    assert_eq!(trial(json!(true), json!("2026-03-01T14:00:00+02:00")), until);
    assert_eq!(trial(json!(true), json!(1_772_366_400)), until);
}

#[test]
fn refuses_a_trial_without_a_usable_end() {
    let invalid = Err(CredentialFault::TrialClaimsInvalid);
    for until in [json!(null), json!(""), json!("soon"), json!("2026-03-01"), json!(-1), json!(true), json!([])] {
        assert_eq!(trial(json!(true), until), invalid);
    }
    assert_eq!(fault("trial_mode", json!(true)), Some(CredentialFault::TrialClaimsInvalid));
    for mode in [json!("true"), json!(1), json!({})] {
        assert_eq!(trial(mode, json!("2026-03-01T12:00:00Z")), invalid);
    }
}

#[test]
fn ignores_the_end_of_a_trial_that_is_none() {
    for mode in [json!(false), json!(null)] {
        assert_eq!(trial(mode, json!("whenever")), Ok(Trial::No));
    }
}

#[test]
fn an_expired_trial_is_left_to_the_policy() {
    assert_eq!(trial(json!(true), json!(1)), Ok(Trial::Until(Timestamp::from_seconds(1))));
}

#[test]
fn a_trial_is_refused_where_the_issuer_has_none() {
    let issuer = IssuerRules { trials: TrialTokens::Refuse, ..rules() };
    let mut claims = with("trial_mode", json!(true));
    for until in [json!("2099-03-01T12:00:00Z"), json!(null), json!("soon")] {
        claims["trial_expires_at"] = until;
        assert_eq!(by(&issuer, &claims), Err(CredentialFault::TrialRefused));
    }
    for mode in [json!(false), json!(null)] {
        assert!(by(&issuer, &with("trial_mode", mode)).is_ok());
    }
    assert_eq!(by(&issuer, &with("trial_mode", json!("true"))), Err(CredentialFault::TrialClaimsInvalid));
}

#[test]
fn takes_a_token_version_that_is_a_whole_number() {
    assert_eq!(check(&with("token_version", json!(0))).unwrap().token_version, Some(0));
    assert_eq!(check(&with("token_version", json!(i64::MAX))).unwrap().token_version, Some(i64::MAX.unsigned_abs()));
    assert_eq!(check(&with("token_version", json!(null))).unwrap().token_version, None);
    for value in [json!(-1), json!("1"), json!(1.5), json!(true), json!([1]), json!(u64::MAX)] {
        assert_eq!(fault("token_version", value), Some(CredentialFault::ClaimMissing("token_version")));
    }
}

#[test]
fn every_optional_claim_can_be_required() {
    let good = [json!("c"), json!("a"), json!("g"), json!("paid"), json!("t"), json!(1), json!("access"), json!(0)];
    for (claim, value) in OptionalClaim::ALL.into_iter().zip(good) {
        let issuer = IssuerRules { required_claims: vec![claim], ..rules() };
        assert_eq!(by(&issuer, &good_claims()), Err(CredentialFault::ClaimMissing(claim.name())));
        assert!(by(&issuer, &with(claim.name(), value)).is_ok(), "{claim:?}");
    }
}

#[test]
fn says_by_which_key_the_token_was_signed() {
    let identity = check_claims(good_claims().to_string().as_bytes(), &header(None), &rules(), Some("k-1"), NOW).unwrap();
    assert_eq!(identity.key_id.as_deref(), Some("k-1"));
}

#[test]
fn an_issuers_own_skew_and_lifetime_count() {
    let issuer = IssuerRules { skew: Duration::ZERO, lifetime_max: Duration::from_secs(1800), ..rules() };
    assert!(by(&issuer, &good_claims()).is_ok());
    let seconds = NOW.as_seconds();
    assert_eq!(by(&issuer, &with("exp", json!(seconds + 1201))), Err(CredentialFault::LifetimeTooLong));
    assert_eq!(by(&issuer, &with("exp", json!(seconds))), Err(CredentialFault::Expired));
    assert_eq!(by(&issuer, &with("nbf", json!(seconds + 1))), Err(CredentialFault::NotYetValid));
}

/// Things that may be wrong, one bit each.
fn spoilt(bits: u32) -> Value {
    let seconds = NOW.as_seconds();
    let changes = [
        ("iss", json!("other")),
        ("sub", json!("")),
        ("email", json!(null)),
        ("roles", json!("admin")),
        ("customer_id", json!(7)),
        ("trial_mode", json!(true)),
        ("token_version", json!("x")),
        ("aud", json!("elsewhere")),
        ("token_type", json!("refresh")),
        ("scope", json!("db_updates")),
        ("exp", json!(seconds - 500)),
        ("iat", json!(seconds + 100)),
        ("nbf", json!("soon")),
        ("exp", json!(null)),
        ("iat", json!(0)),
    ];
    let mut claims = good_claims();
    for (bit, (name, value)) in changes.into_iter().enumerate() {
        if bits & (1 << bit) != 0 {
            claims[name] = value;
        }
    }
    claims
}

#[test]
fn the_first_finding_that_fails_is_the_fault() {
    let issuer = IssuerRules { required_claims: vec![OptionalClaim::TokenId, OptionalClaim::CustomerId], ..rules() };
    let mut faults = std::collections::BTreeSet::new();
    for bits in 0..1 << 15 {
        for issuer in [&rules(), &issuer] {
            let payload = spoilt(bits).to_string();
            let findings = explain_claims(payload.as_bytes(), &header(None), issuer, NOW).unwrap();
            let first = findings.iter().find_map(|finding| finding.outcome.err());
            let fault = check_claims(payload.as_bytes(), &header(None), issuer, None, NOW).err();
            assert_eq!(first, fault, "{payload}");
            faults.extend(fault.map(CredentialFault::code));
        }
    }
    assert!(faults.len() >= 9, "{faults:?}");
    assert_eq!(explain_claims(b"[]", &header(None), &rules(), NOW), Err(CredentialFault::Malformed));
}
