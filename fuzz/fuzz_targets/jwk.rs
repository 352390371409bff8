//! Any JSON as a JWK. A key that is imported has an SPKI that is imported as the same key.
#![no_main]

use authn::{Algorithm, Family, VerificationKey, strict_json};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    for algorithm in [Algorithm::Rs256, Algorithm::Es256, Algorithm::Es384, Algorithm::EdDsa] {
        if let Ok(key) = VerificationKey::from_public_key(None, algorithm, data) {
            let der = key.spki_der().expect("a public key has an SPKI");
            assert!(data == der || data.trim_ascii_start().starts_with(b"-----"));
        }
    }
    let Some(jwk) = strict_json(data) else { return };
    let imported = VerificationKey::from_jwk(&jwk);
    let named = jwk.get("alg").is_some();
    for algorithm in Algorithm::ALL {
        if let Ok(key) = VerificationKey::from_jwk_for(&jwk, algorithm) {
            assert_eq!(key.algorithm, algorithm);
            assert!(!named || imported.as_ref().is_ok_and(|imported| imported.algorithm == algorithm));
        }
    }
    let again = VerificationKey::from_jwk(&jwk);
    let Ok(key) = imported else {
        assert!(again.is_err());
        return;
    };
    let again = again.expect("the same verdict for the same input");
    assert_eq!((key.thumbprint(), key.algorithm, &key.kid), (again.thumbprint(), again.algorithm, &again.kid));
    let same = VerificationKey::from_jwk_for(&jwk, key.algorithm).expect("it is for this algorithm");
    assert_eq!(same.thumbprint(), key.thumbprint());
    match key.spki_der() {
        None => assert_eq!(key.algorithm.family(), Family::Hmac),
        Some(der) => {
            assert!(["d", "p", "q", "dp", "dq", "qi", "oth", "k"].iter().all(|name| jwk.get(name).is_none()));
            let by_der = VerificationKey::from_public_key(key.kid.as_deref(), key.algorithm, der).expect("its own SPKI is good");
            assert_eq!((by_der.spki_der(), by_der.thumbprint()), (Some(der), key.thumbprint()));
        }
    }
});
