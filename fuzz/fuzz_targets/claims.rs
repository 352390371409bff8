//! Any JSON as verified claims, under rules that the first byte chooses. What comes out can go into a header.
#![no_main]

use std::time::Duration;

use authn::{
    Algorithm, CLAIM_BYTES_MAX, IssuerRules, JwsHeader, KeysKnown, LIFETIME_MAX, MoreKeys, OptionalClaim, TrialTokens, check_claims,
    explain_claims,
};
use decision_core::principal::{Identity, Trial};
use decision_core::time::Timestamp;
use libfuzzer_sys::fuzz_target;

const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);

fn rules(bits: u8) -> IssuerRules {
    let on = |bit: u8| bits & (1 << bit) != 0;
    IssuerRules {
        name: "cp".into(),
        issuer: "cp.example".into(),
        audiences: if on(0) { vec!["gateway".into(), "other".into()] } else { Vec::new() },
        token_types: vec!["JWT".into(), "at+jwt".into()],
        allow_missing_typ: !on(1),
        scopes: if on(2) { vec!["read".into()] } else { Vec::new() },
        skew: Duration::from_secs(if on(3) { 60 } else { 0 }),
        lifetime_max: if on(4) { Duration::from_secs(1_800) } else { LIFETIME_MAX },
        required_claims: if on(5) { OptionalClaim::ALL.to_vec() } else { Vec::new() },
        trials: if on(6) { TrialTokens::Refuse } else { TrialTokens::Allow },
        algorithms: vec![Algorithm::Hs256],
        keys: Vec::new(),
        keys_known: KeysKnown::Always,
        more_keys: MoreKeys::No,
    }
}

fn check_identity(identity: &Identity, rules: &IssuerRules) {
    let optional = [&identity.customer_id, &identity.agent_id, &identity.governor_agent_id, &identity.tier, &identity.token_id];
    let texts = [&identity.subject, &identity.user_id, &identity.email].into_iter().chain(optional.into_iter().flatten());
    for text in texts.chain(&identity.roles) {
        assert!(!text.is_empty() && text.len() <= CLAIM_BYTES_MAX && !text.chars().any(char::is_control));
    }
    assert!((1..=64).contains(&identity.roles.len()) && identity.roles.iter().all(|role| !role.contains(',')));
    assert!(identity.issued_at < identity.expires_at && identity.expires_at.since(identity.issued_at) <= rules.lifetime_max);
    assert!(identity.expires_at.plus(rules.skew) > NOW && identity.issued_at <= NOW.plus(rules.skew));
    assert!(rules.trials == TrialTokens::Allow || identity.trial == Trial::No);
    assert!(rules.required_claims.is_empty() || (identity.token_id.is_some() && identity.token_version.is_some()));
}

fuzz_target!(|data: &[u8]| {
    let Some((bits, payload)) = data.split_first() else { return };
    let rules = rules(*bits);
    let typ = if bits & 0x80 == 0 { None } else { Some("JWT".into()) };
    let header = JwsHeader { algorithm: Algorithm::Hs256, kid: None, typ };
    let verdict = check_claims(payload, &header, &rules, None, NOW);
    assert_eq!(verdict, check_claims(payload, &header, &rules, None, NOW));
    if let Ok(identity) = &verdict {
        check_identity(identity, &rules);
    }
    match explain_claims(payload, &header, &rules, NOW) {
        Ok(findings) => assert_eq!(findings.iter().find_map(|finding| finding.outcome.err()), verdict.err()),
        Err(fault) => assert_eq!(verdict, Err(fault)),
    }
});
