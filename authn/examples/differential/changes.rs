//! What can be wrong with a token, by class. Some of it is right all the same: the others shall say so, too.

use authn::{Algorithm, Family};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rsa::traits::PublicKeyParts as _;
use rsa::{BigUint, Pkcs1v15Sign, Pss};
use serde_json::{Value, json};

use crate::signer::{Private, Signer, b64, digest, digest_info, mac, pss};

pub(crate) type Change = fn(&Signer, &[Signer], &mut StdRng) -> String;

pub(crate) const CLASSES: [(&str, Change); 20] = [
    ("bit flip in the token", bit_flip),
    ("bit flip in the signature", signature_bit_flip),
    ("payload changed", payload_changed),
    ("base64 alphabet", alphabet),
    ("base64 padding", padding),
    ("base64 unused bits", unused_bits),
    ("characters inserted", inserted),
    ("parts added or missing", parts),
    ("alg changed, not signed anew", alg_changed),
    ("alg changed, signed anew", alg_signed),
    ("alg none", alg_none),
    ("crit and b64, signed", crit),
    ("kid, signed", kid),
    ("duplicate names, signed", duplicates),
    ("header JSON, signed", header_json),
    ("signature shortened or extended", signature_length),
    ("signature numbers at the edge", signature_edges),
    ("signed by another key", other_key),
    ("HMAC by a public key", hmac_by_public_key),
    ("RSA padding", rsa_padding),
];

fn pick<T: Clone>(random: &mut StdRng, from: &[T]) -> T {
    from.choose(random).expect("there is something to choose from").clone()
}

pub(crate) fn payload(random: &mut StdRng) -> Vec<u8> {
    let user: u32 = random.gen_range(0..10_000);
    let claims = json!({"iss": "cp.example", "sub": format!("u-{user}"), "roles": ["user"], "iat": 1_800_000_000, "exp": 1_800_003_600});
    match random.gen_range(0..12) {
        0 => Vec::new(),
        1 => b"not JSON".to_vec(),
        2 => (0..random.gen_range(0..40)).map(|_| random.r#gen()).collect(),
        3 => r#"{"sub":"a","sub":"b"}"#.into(),
        4 => json!({"sub": "jürgen \u{202e} \u{0}", "n": [[[[1]]]]}).to_string().into(),
        5 => format!("{claims:#}").into(),
        _ => claims.to_string().into(),
    }
}

/// A right token: what stands in the header beside `alg` and `kid` is ignored.
pub(crate) fn right(signer: &Signer, random: &mut StdRng) -> String {
    let mut header = signer.header();
    match random.gen_range(0..10) {
        0 => drop(header.as_object_mut().map(|members| members.remove("typ"))),
        1 => drop(header.as_object_mut().map(|members| members.remove("kid"))),
        2 => header["typ"] = json!("at+jwt"),
        3 => header["jku"] = json!("https://keys.example/jwks"),
        4 => header["jwk"] = json!({"kty": "oct", "k": "AAAA"}),
        5 => header["x-unknown"] = json!({"a": [1, null, "ü"]}),
        _ => {}
    }
    let text = if random.gen_range(0..8) == 0 { format!("{header:#}\n") } else { header.to_string() };
    signer.token(text.as_bytes(), &payload(random), random)
}

fn plain(signer: &Signer, random: &mut StdRng) -> String {
    pick(random, &signer.pool)
}

fn split(token: &str) -> [String; 3] {
    let mut parts = token.split('.').map(str::to_owned);
    [(); 3].map(|()| parts.next().unwrap_or_default())
}

fn bit_flip(signer: &Signer, _: &[Signer], random: &mut StdRng) -> String {
    let mut bytes = plain(signer, random).into_bytes();
    let place = random.gen_range(0..bytes.len());
    bytes[place] ^= 1 << random.gen_range(0..7);
    String::from_utf8(bytes).expect("ASCII stays ASCII")
}

fn with_signature(signer: &Signer, random: &mut StdRng, change: impl FnOnce(&mut Vec<u8>, &mut StdRng)) -> String {
    let [header, payload, signature] = split(&plain(signer, random));
    let mut signature = URL_SAFE_NO_PAD.decode(signature).expect("a right signature");
    change(&mut signature, random);
    format!("{header}.{payload}.{}", b64(signature))
}

fn signature_bit_flip(signer: &Signer, _: &[Signer], random: &mut StdRng) -> String {
    with_signature(signer, random, |signature, random| {
        let place = random.gen_range(0..signature.len());
        signature[place] ^= 1 << random.gen_range(0..8);
    })
}

fn payload_changed(signer: &Signer, _: &[Signer], random: &mut StdRng) -> String {
    let [header, _, signature] = split(&plain(signer, random));
    format!("{header}.{}.{signature}", b64(payload(random)))
}

/// The alphabet of RFC 4648 §4 in one part; the same bytes, if nothing of it was in the token.
fn alphabet(signer: &Signer, _: &[Signer], random: &mut StdRng) -> String {
    let mut parts = split(&plain(signer, random));
    let place = random.gen_range(0..3);
    parts[place] = parts[place].replace('-', "+").replace('_', "/");
    parts.join(".")
}

fn padding(signer: &Signer, _: &[Signer], random: &mut StdRng) -> String {
    let mut parts = split(&plain(signer, random));
    let place = random.gen_range(0..3);
    let wanted = (4 - parts[place].len() % 4) % 4;
    let count = pick(random, &[wanted, 1, 2, 3, 4]);
    parts[place].push_str(&"=".repeat(count));
    parts.join(".")
}

fn unused_bits(signer: &Signer, _: &[Signer], random: &mut StdRng) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut parts = split(&plain(signer, random));
    let place = random.gen_range(0..3);
    let unused = match parts[place].len() % 4 {
        2 => 15,
        3 => 3,
        _ => 0,
    };
    if let Some(last) = parts[place].pop() {
        let value = ALPHABET.iter().position(|byte| char::from(*byte) == last).unwrap_or_default();
        parts[place].push(char::from(ALPHABET[value | (random.gen_range(0..16) & unused)]));
    }
    parts.join(".")
}

fn inserted(signer: &Signer, _: &[Signer], random: &mut StdRng) -> String {
    let mut token = plain(signer, random);
    let what = pick(random, &["\n", " ", "\r\n", "\t", "?", "\0", "%", "é", "\u{feff}", "!", "*", "=", "AAAA", "\u{3000}"]);
    let place = pick(random, &[0, token.len(), token.find('.').unwrap_or_default(), random.clone().gen_range(0..token.len())]);
    token.insert_str(place, what);
    token
}

fn parts(signer: &Signer, _: &[Signer], random: &mut StdRng) -> String {
    let token = plain(signer, random);
    let [header, payload, signature] = split(&token);
    match random.gen_range(0..12) {
        0 => format!("{token}."),
        1 => format!(".{token}"),
        2 => format!("{token}.AAAA"),
        3 => format!("{header}.{payload}"),
        4 => format!("{header}.{payload}."),
        5 => format!("{header}..{signature}"),
        6 => format!(".{payload}.{signature}"),
        7 => format!("{header}.{payload}.{signature}.{payload}.{signature}"),
        8 => format!("{payload}.{header}.{signature}"),
        9 => json!({"payload": payload, "protected": header, "signature": signature}).to_string(),
        10 => json!({"payload": payload, "signatures": [{"protected": header, "signature": signature}]}).to_string(),
        _ => String::new(),
    }
}

fn other_algorithm(signer: &Signer, random: &mut StdRng) -> Algorithm {
    let others: Vec<Algorithm> = Algorithm::ALL.into_iter().filter(|algorithm| *algorithm != signer.algorithm).collect();
    pick(random, &others)
}

fn alg_changed(signer: &Signer, _: &[Signer], random: &mut StdRng) -> String {
    let [_, payload, signature] = split(&plain(signer, random));
    let mut header = signer.header();
    header["alg"] = json!(other_algorithm(signer, random).name());
    format!("{}.{payload}.{signature}", b64(header.to_string()))
}

fn alg_signed(signer: &Signer, _: &[Signer], random: &mut StdRng) -> String {
    let mut header = signer.header();
    let algorithm = other_algorithm(signer, random);
    let name = signer.algorithm.name();
    header["alg"] = match random.gen_range(0..8) {
        0 => json!(name.to_lowercase()),
        1 => json!(format!("{name} ")),
        2 => json!([name]),
        3 => json!(null),
        4 => json!("ES256K"),
        5 => json!("Ed25519"),
        _ => json!(algorithm.name()),
    };
    signer.token_as(algorithm, header.to_string().as_bytes(), &payload(random), random)
}

fn alg_none(signer: &Signer, _: &[Signer], random: &mut StdRng) -> String {
    let [_, payload, signature] = split(&plain(signer, random));
    let mut header = signer.header();
    header["alg"] = json!(pick(random, &["none", "None", "NONE", "nOnE", ""]));
    let signature = pick(random, &[String::new(), signature, "AA".to_owned()]);
    format!("{}.{payload}.{signature}", b64(header.to_string()))
}

fn crit(signer: &Signer, _: &[Signer], random: &mut StdRng) -> String {
    let mut header = signer.header();
    let (crit, b64) = pick(
        random,
        &[
            (Some(json!([])), None),
            (Some(json!(["exp"])), None),
            (Some(json!(["x"])), None),
            (Some(json!(["alg"])), None),
            (Some(json!("b64")), None),
            (Some(json!(null)), None),
            (Some(json!(["b64"])), Some(json!(true))),
            (Some(json!(["b64"])), Some(json!(false))),
            (None, Some(json!(false))),
            (None, Some(json!(true))),
        ],
    );
    for (name, value) in [("crit", crit), ("b64", b64), ("x", Some(json!(1)))] {
        if let Some(value) = value {
            header[name] = value;
        }
    }
    signer.token(header.to_string().as_bytes(), &payload(random), random)
}

fn kid(signer: &Signer, _: &[Signer], random: &mut StdRng) -> String {
    let mut header = signer.header();
    header["kid"] =
        pick(random, &[json!("another"), json!(""), json!(1), json!(null), json!(["k"]), json!("a\nb"), json!("x".repeat(300))]);
    signer.token(header.to_string().as_bytes(), &payload(random), random)
}

fn duplicates(signer: &Signer, _: &[Signer], random: &mut StdRng) -> String {
    let name = signer.algorithm.name();
    let other = pick(random, &["none", "HS256", name, "RS256"]);
    let header = match random.gen_range(0..5) {
        0 => format!(r#"{{"alg":"{other}","alg":"{name}"}}"#),
        1 => format!(r#"{{"alg":"{name}","alg":"{other}"}}"#),
        2 => format!(r#"{{"\u0061lg":"{other}","alg":"{name}"}}"#),
        3 => format!(r#"{{"alg":"{name}","x":{{"a":1,"a":2}}}}"#),
        _ => format!(r#"{{"alg":"{name}","typ":"JWT","typ":"at+jwt"}}"#),
    };
    signer.token(header.as_bytes(), &payload(random), random)
}

fn header_json(signer: &Signer, _: &[Signer], random: &mut StdRng) -> String {
    let name = signer.algorithm.name();
    let escaped: String = name.bytes().map(|byte| format!("\\u{byte:04x}")).collect();
    let header: Vec<u8> = match random.gen_range(0..14) {
        0 => format!("\u{feff}{{\"alg\":\"{name}\"}}").into(),
        1 => format!(r#"{{"alg":"{name}"}} x"#).into(),
        2 => format!(r#"[{{"alg":"{name}"}}]"#).into(),
        3 => format!(r#"{{"alg":"{name}",}}"#).into(),
        4 => format!(r#"{{'alg':'{name}'}}"#).into(),
        5 => format!(r#"{{"alg":"{escaped}"}}"#).into(),
        6 => [br#"{"alg":""#, name.as_bytes(), b"\",\"x\":\"\xff\"}"].concat(),
        7 => format!(r#"{{"alg":"{name}","x":NaN}}"#).into(),
        8 => format!(r#"{{"alg":"{name}","x":{}1{}}}"#, "[".repeat(40), "]".repeat(40)).into(),
        9 => format!(r#"{{"alg":"{name}","x":"\ud800"}}"#).into(),
        10 => format!(" \t{{ \"alg\" :\r\n\"{name}\" }} \n").into(),
        11 => format!(r#"{{"alg":"{name}","x":1e999}}"#).into(),
        12 => format!(r#"{{"alg":"{name}","typ":7}}"#).into(),
        _ => format!(r#"{{"alg":"{name}","enc":"A128GCM","zip":"DEF"}}"#).into(),
    };
    signer.token(&header, &payload(random), random)
}

fn signature_length(signer: &Signer, _: &[Signer], random: &mut StdRng) -> String {
    with_signature(signer, random, |signature, random| match random.gen_range(0..6) {
        0 => signature.truncate(signature.len() - 1),
        1 => signature.truncate(random.gen_range(0..signature.len())),
        2 => signature.push(0),
        3 => signature.insert(0, 0),
        4 => drop(signature.remove(0)),
        _ => signature.extend_from_within(..),
    })
}

const P256_ORDER: &str = "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551";
const P384_ORDER: &str = "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973";
const ED25519_ORDER: &str = "1000000000000000000000000000000014def9dea2f79cd65812631a5cf5d3ed";

fn padded(number: &BigUint, length: usize) -> Vec<u8> {
    let bytes = number.to_bytes_be();
    let zeros = length.saturating_sub(bytes.len());
    [vec![0; zeros], bytes].concat()
}

fn number(hex: &str) -> BigUint {
    BigUint::parse_bytes(hex.as_bytes(), 16).expect("a number")
}

fn signature_edges(signer: &Signer, _: &[Signer], random: &mut StdRng) -> String {
    with_signature(signer, random, |signature, random| {
        *signature = match &signer.private {
            Private::P256(_) => ecdsa_edges(signature, &number(P256_ORDER), random),
            Private::P384(_) => ecdsa_edges(signature, &number(P384_ORDER), random),
            Private::Ed25519(_) => ed25519_edges(signature, random),
            Private::Rsa(pair) => {
                let raised = BigUint::from_bytes_be(signature) + pair.n();
                pick(
                    random,
                    &[padded(&raised, 256), padded(pair.n(), 256), vec![0; 256], padded(&BigUint::from(1_u8), 256), vec![0xff; 256]],
                )
            }
            Private::Secret(_) => {
                pick(random, &[vec![0; signature.len()], vec![0xff; signature.len()], signature.iter().rev().copied().collect()])
            }
        };
    })
}

/// Also ASN.1 in the place of `r ‖ s`, and `n − s`, which verifies as well as `s`.
fn ecdsa_edges(signature: &[u8], order: &BigUint, random: &mut StdRng) -> Vec<u8> {
    let length = signature.len() / 2;
    let (r, s) = signature.split_at(length);
    let (r, s) = (BigUint::from_bytes_be(r), BigUint::from_bytes_be(s));
    let one = BigUint::from(1_u8);
    let join = |r: &BigUint, s: &BigUint| [padded(r, length), padded(s, length)].concat();
    match random.gen_range(0..10) {
        0 | 1 => join(&r, &(order - &s)),
        2 => join(&(&r + order), &s),
        3 => join(&r, &(&s + order)),
        4 => der(&r, &s),
        5 => join(&s, &r),
        _ => {
            let edges = [BigUint::from(0_u8), one.clone(), order - &one, order.clone(), order + &one];
            join(&pick(random, &edges), &pick(random, &edges))
        }
    }
}

fn der(r: &BigUint, s: &BigUint) -> Vec<u8> {
    let integer = |number: &BigUint| {
        let mut bytes = number.to_bytes_be();
        if bytes[0] >= 0x80 {
            bytes.insert(0, 0);
        }
        [vec![2, u8::try_from(bytes.len()).expect("short")], bytes].concat()
    };
    let both = [integer(r), integer(s)].concat();
    [vec![0x30, u8::try_from(both.len()).expect("short")], both].concat()
}

fn ed25519_edges(signature: &[u8], random: &mut StdRng) -> Vec<u8> {
    let little = |number: &BigUint| {
        let mut bytes = number.to_bytes_le();
        bytes.resize(32, 0);
        bytes
    };
    let (point, scalar) = signature.split_at(32);
    let order = number(ED25519_ORDER);
    let s = BigUint::from_bytes_le(scalar);
    let identity = [vec![1], vec![0; 31]].concat();
    match random.gen_range(0..6) {
        0 => [point, &little(&(&s + &order))].concat(),
        1 => [point, &little(&order)].concat(),
        2 => [identity, vec![0; 32]].concat(),
        3 => [point, &[0; 32]].concat(),
        4 => [vec![0xff; 32], scalar.to_vec()].concat(),
        _ => [point, &little(&(&order - &s))].concat(),
    }
}

fn other_key(signer: &Signer, signers: &[Signer], random: &mut StdRng) -> String {
    let other = &signers[random.gen_range(0..signers.len())];
    let input = format!("{}.{}", b64(signer.header().to_string()), b64(payload(random)));
    let algorithm = if random.r#gen() { signer.algorithm } else { other.algorithm };
    format!("{input}.{}", b64(other.sign_as(algorithm, input.as_bytes(), random)))
}

fn hmac_by_public_key(signer: &Signer, _: &[Signer], random: &mut StdRng) -> String {
    let algorithm = pick(random, &[Algorithm::Hs256, Algorithm::Hs384, Algorithm::Hs512]);
    let mut header = signer.header();
    header["alg"] = json!(algorithm.name());
    let der = signer.key.spki_der().unwrap_or_default().to_vec();
    let lines: Vec<String> = STANDARD.encode(&der).as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line).into_owned()).collect();
    let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"));
    let member = |name: &str| signer.jwk.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let secrets = [der, pem.trim().into(), pem.into(), signer.jwk.to_string().into(), member("n").into(), member("x").into(), Vec::new()];
    let input = format!("{}.{}", b64(header.to_string()), b64(payload(random)));
    format!("{input}.{}", b64(mac(algorithm.hash(), &pick(random, &secrets), input.as_bytes())))
}

/// Salts of other lengths, `DigestInfo` of another hash, without its NULL, or left out.
fn rsa_padding(signer: &Signer, _: &[Signer], random: &mut StdRng) -> String {
    let Private::Rsa(pair) = &signer.private else { return plain(signer, random) };
    let input = format!("{}.{}", b64(signer.header().to_string()), b64(payload(random)));
    let hash = signer.algorithm.hash();
    let digest = digest(hash, input.as_bytes());
    let signature = if signer.algorithm.family() == Family::RsaPss {
        let salt_len = pick(random, &[0, 1, 20, digest.len() - 1, digest.len(), digest.len() + 1, 256 - 2 - digest.len()]);
        pair.sign_with_rng(random, Pss { salt_len, ..pss(hash) }, &digest)
    } else {
        let right = digest_info(hash);
        let mut no_null = right.clone();
        no_null.drain(15..17);
        no_null[1] -= 2;
        no_null[3] -= 2;
        let mut other_hash = right.clone();
        other_hash[14] ^= 3;
        let prefix = pick(random, &[right, no_null, other_hash, Vec::new()]);
        pair.sign(Pkcs1v15Sign { hash_len: Some(digest.len()), prefix: prefix.into() }, &digest)
    };
    format!("{input}.{}", b64(signature.expect("an RSA signature")))
}
