//! Tokens for the differential test: right ones of every algorithm, and ones that were changed in every way we could think
//! of, each with our verdict. `make differential` has other implementations judge them, too.
//!
//! `differential KEYS TOKENS [COUNT] [SEED]` writes the keys as a JSON array and the tokens as JSON lines.
#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "a tool that cannot go on says why and stops")]

mod changes;
mod signer;

use std::io::Write;

use authn::{PureRust, verify_jws};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;

use changes::CLASSES;
use signer::Signer;

/// Of a hundred tokens, so many are right.
const RIGHT_PERCENT: u32 = 30;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let (keys, tokens) = (arguments.next().expect("the file of keys"), arguments.next().expect("the file of tokens"));
    let count: usize = arguments.next().map_or(Ok(120_000), |text| text.parse()).expect("COUNT is a number");
    let seed: u64 = arguments.next().map_or(Ok(7515), |text| text.parse()).expect("SEED is a number");
    let mut random = StdRng::seed_from_u64(seed);
    let signers = signer::all(&mut random);
    let shown: Vec<_> = signers.iter().map(|signer| json!({"alg": signer.algorithm.name(), "jwk": signer.jwk})).collect();
    std::fs::write(keys, json!(shown).to_string()).expect("the keys can be written");
    let mut out = std::io::BufWriter::new(std::fs::File::create(tokens).expect("the tokens can be written"));
    for index in 0..count {
        let line = line(index, &signers, &mut random);
        writeln!(out, "{line}").expect("the tokens can be written");
    }
}

/// Every algorithm in turn, so that all get the same share.
fn line(index: usize, signers: &[Signer], random: &mut StdRng) -> serde_json::Value {
    let place = index % signers.len();
    let (class, token) = if random.gen_range(0..100) < RIGHT_PERCENT {
        ("right", changes::right(&signers[place], random))
    } else {
        let (class, change) = CLASSES[random.gen_range(0..CLASSES.len())];
        (class, change(&signers[place], signers, random))
    };
    let ours = verify_jws(&token, &signers[place].key, &mut PureRust);
    json!({
        "class": class,
        "key": place,
        "token": token,
        "payload": ours.as_ref().ok().map(|payload| URL_SAFE_NO_PAD.encode(payload)),
        "fault": ours.err().map(|fault| fault.code()),
    })
}
