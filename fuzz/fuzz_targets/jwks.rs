//! Any JSON as a JWK set. The first two bytes choose the issuer's algorithms.
#![no_main]

use std::collections::BTreeSet;

use authn::{Algorithm, Family, JwkSet};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((mask, text)) = data.split_first_chunk::<2>() else { return };
    let mask = u16::from_le_bytes(*mask);
    let algorithms: Vec<Algorithm> =
        Algorithm::ALL.into_iter().enumerate().filter(|(bit, _)| mask & (1 << bit) != 0).map(|(_, algorithm)| algorithm).collect();
    let parsed = JwkSet::parse(text, &algorithms);
    let again = JwkSet::parse(text, &algorithms);
    let set = match (parsed, again) {
        (Ok(set), Ok(again)) => {
            let names = |set: &JwkSet| set.keys.iter().map(|key| (key.kid.clone(), key.algorithm, key.thumbprint())).collect::<Vec<_>>();
            assert_eq!(names(&set), names(&again));
            set
        }
        (Err(one), Err(other)) => {
            assert_eq!(one, other);
            return;
        }
        _ => panic!("two verdicts for the same input"),
    };
    assert!(!set.keys.is_empty() && set.keys.len() <= 50);
    assert!(set.keys.iter().all(|key| algorithms.contains(&key.algorithm)));
    let kids: Vec<_> = set.keys.iter().filter_map(|key| key.kid.as_ref()).collect();
    assert_eq!(kids.len(), kids.iter().collect::<BTreeSet<_>>().len());
    let nameless: Vec<_> = set.keys.iter().filter(|key| key.kid.is_none()).map(|key| key.algorithm).collect();
    assert_eq!(nameless.len(), nameless.iter().collect::<BTreeSet<_>>().len());
    let thumbprints: BTreeSet<_> = set.keys.iter().map(authn::VerificationKey::thumbprint).collect();
    assert_eq!(thumbprints.len(), set.keys.len());
    let secrets = set.keys.iter().filter(|key| key.algorithm.family() == Family::Hmac).count();
    assert!(secrets == 0 || secrets == set.keys.len());
});
