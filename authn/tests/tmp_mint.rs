#![cfg(not(target_arch = "wasm32"))]
use jwt_simple::algorithms::*;
use jwt_simple::claims::{Claims, JWTClaims};
use jwt_simple::prelude::*;
use serde::{Serialize, Deserialize};
#[derive(Serialize, Deserialize)]
struct C { user_id: String, email: String, roles: Vec<String> }
fn claims() -> JWTClaims<C> {
    let mut c = Claims::with_custom_claims(C { user_id: "u-1".into(), email: "u@example.com".into(), roles: vec!["user".into()] }, Duration::from_mins(30)).with_issuer("wasm.example").with_subject("u-1");
    c.issued_at = Some(Duration::from_secs(1_800_000_000)); c.expires_at = Some(Duration::from_secs(1_800_001_800)); c.invalid_before = None; c
}
#[test]
fn mint() {
    let rs = RS256KeyPair::generate(2048).unwrap().with_key_id("rs");
    let es = ES256KeyPair::generate().with_key_id("es");
    let ed = Ed25519KeyPair::generate().with_key_id("ed");
    let hs = HS256Key::from_bytes(b"a secret of thirty-two bytes !!!").with_key_id("hs");
    println!("{}", rs.sign(claims()).unwrap()); println!("{}", rs.public_key().to_pem().unwrap());
    println!("{}", es.sign(claims()).unwrap()); println!("{}", es.key_pair().public_key().to_pem().unwrap());
    println!("{}", ed.sign(claims()).unwrap()); println!("{}", ed.key_pair().public_key().to_pem());
    println!("{}", hs.authenticate(claims()).unwrap());
}
