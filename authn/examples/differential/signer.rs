//! A key pair of every kind, made from the seed, that signs any header and payload.

use authn::{Algorithm, Family, HashFunction, VerificationKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use p256::ecdsa::signature::hazmat::PrehashSigner;
use rand::rngs::StdRng;
use rand::{Rng, RngCore};
use rsa::traits::PublicKeyParts as _;
use rsa::{Pkcs1v15Sign, Pss, RsaPrivateKey};
use serde_json::{Value, json};

use crate::changes::payload;

pub(crate) struct Signer {
    pub(crate) algorithm: Algorithm,
    pub(crate) jwk: Value,
    pub(crate) key: VerificationKey,
    pub(crate) private: Private,
    /// Right tokens to change: most of the time would go into RSA signatures otherwise.
    pub(crate) pool: Vec<String>,
}

#[derive(Clone)]
pub(crate) enum Private {
    Secret(Vec<u8>),
    Rsa(Box<RsaPrivateKey>),
    P256(p256::ecdsa::SigningKey),
    P384(p384::ecdsa::SigningKey),
    Ed25519(ed25519_compact::KeyPair),
}

const POOL: usize = 256;

pub(crate) fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Two of each algorithm; those of one kind share nothing.
pub(crate) fn all(random: &mut StdRng) -> Vec<Signer> {
    let mut signers = Vec::new();
    for round in 0..2 {
        for algorithm in Algorithm::ALL {
            let private = private(algorithm, random);
            let mut jwk = public(&private);
            jwk["alg"] = json!(algorithm.name());
            if round == 0 {
                jwk["kid"] = json!(format!("{}-key", algorithm.name()));
            }
            let key = VerificationKey::from_jwk(&jwk).expect("a key that was just made");
            let mut signer = Signer { algorithm, jwk, key, private, pool: Vec::new() };
            let header = signer.header().to_string();
            signer.pool = (0..POOL).map(|_| signer.token(header.as_bytes(), &payload(random), random)).collect();
            signers.push(signer);
        }
    }
    signers
}

fn private(algorithm: Algorithm, random: &mut StdRng) -> Private {
    let mut bytes = [0; 80];
    random.fill_bytes(&mut bytes);
    match (algorithm.family(), algorithm) {
        (Family::Hmac, _) => Private::Secret(bytes[..algorithm.hash().bytes() + random.gen_range(0..16)].to_vec()),
        (Family::RsaPkcs1 | Family::RsaPss, _) => Private::Rsa(Box::new(RsaPrivateKey::new(random, 2048).expect("an RSA key"))),
        (_, Algorithm::Es384) => Private::P384(p384::ecdsa::SigningKey::from_slice(&scalar::<48>(bytes)).expect("a P-384 key")),
        (Family::Ecdsa, _) => Private::P256(p256::ecdsa::SigningKey::from_slice(&scalar::<32>(bytes)).expect("a P-256 key")),
        (Family::Ed25519, _) => {
            Private::Ed25519(ed25519_compact::KeyPair::from_seed(ed25519_compact::Seed::new(bytes[..32].try_into().expect("32 bytes"))))
        }
    }
}

/// Below the order, whatever the random bytes are.
fn scalar<const LENGTH: usize>(bytes: [u8; 80]) -> [u8; LENGTH] {
    let mut scalar = [0; LENGTH];
    scalar.copy_from_slice(&bytes[..LENGTH]);
    scalar[0] &= 0x7f;
    scalar
}

fn public(private: &Private) -> Value {
    let ec = |curve: &str, point: &[u8]| {
        let (x, y) = point[1..].split_at(point.len() / 2);
        json!({"kty": "EC", "crv": curve, "x": b64(x), "y": b64(y)})
    };
    match private {
        Private::Secret(secret) => json!({"kty": "oct", "k": b64(secret)}),
        Private::Rsa(pair) => json!({"kty": "RSA", "n": b64(pair.n().to_bytes_be()), "e": b64(pair.e().to_bytes_be())}),
        Private::P256(pair) => ec("P-256", pair.verifying_key().to_sec1_point(false).as_bytes()),
        Private::P384(pair) => ec("P-384", pair.verifying_key().to_sec1_point(false).as_bytes()),
        Private::Ed25519(pair) => json!({"kty": "OKP", "crv": "Ed25519", "x": b64(pair.pk.as_slice())}),
    }
}

pub(crate) fn digest(hash: HashFunction, text: &[u8]) -> Vec<u8> {
    match hash {
        HashFunction::Sha256 => hmac_sha256::Hash::hash(text).to_vec(),
        HashFunction::Sha384 => hmac_sha512::sha384::Hash::hash(text).to_vec(),
        HashFunction::Sha512 => hmac_sha512::Hash::hash(text).to_vec(),
    }
}

pub(crate) fn mac(hash: HashFunction, secret: &[u8], text: &[u8]) -> Vec<u8> {
    match hash {
        HashFunction::Sha256 => hmac_sha256::HMAC::mac(text, secret).to_vec(),
        HashFunction::Sha384 => hmac_sha512::sha384::HMAC::mac(text, secret).to_vec(),
        HashFunction::Sha512 => hmac_sha512::HMAC::mac(text, secret).to_vec(),
    }
}

/// `DigestInfo` up to the digest (RFC 8017 §9.2 note 1).
pub(crate) fn digest_info(hash: HashFunction) -> Vec<u8> {
    let (total, oid, length) = match hash {
        HashFunction::Sha256 => (0x31, 1, 0x20),
        HashFunction::Sha384 => (0x41, 2, 0x30),
        HashFunction::Sha512 => (0x51, 3, 0x40),
    };
    vec![0x30, total, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, oid, 5, 0, 4, length]
}

pub(crate) fn pss(hash: HashFunction) -> Pss {
    match hash {
        HashFunction::Sha256 => Pss::new::<hmac_sha256::Hash>(),
        HashFunction::Sha384 => Pss::new::<hmac_sha512::sha384::Hash>(),
        HashFunction::Sha512 => Pss::new::<hmac_sha512::Hash>(),
    }
}

impl Signer {
    /// Signs with the key as if it were for this algorithm, as far as its kind allows.
    pub(crate) fn sign_as(&self, algorithm: Algorithm, text: &[u8], random: &mut StdRng) -> Vec<u8> {
        let hash = algorithm.hash();
        let digest = digest(hash, text);
        match &self.private {
            Private::Secret(secret) => mac(hash, secret, text),
            Private::Rsa(pair) if algorithm.family() == Family::RsaPss => {
                pair.sign_with_rng(random, pss(hash), &digest).expect("an RSA signature")
            }
            Private::Rsa(pair) => {
                let padding = Pkcs1v15Sign { hash_len: Some(digest.len()), prefix: digest_info(hash).into() };
                pair.sign(padding, &digest).expect("an RSA signature")
            }
            Private::P256(pair) => {
                let signature: p256::ecdsa::Signature = pair.sign_prehash(&digest).expect("an ECDSA signature");
                signature.to_bytes().to_vec()
            }
            Private::P384(pair) => {
                let signature: p384::ecdsa::Signature = pair.sign_prehash(&digest).expect("an ECDSA signature");
                signature.to_bytes().to_vec()
            }
            Private::Ed25519(pair) => pair.sk.sign(text, None).to_vec(),
        }
    }

    /// A token with this header and payload, whatever they are, and a right signature.
    pub(crate) fn token(&self, header: &[u8], payload: &[u8], random: &mut StdRng) -> String {
        self.token_as(self.algorithm, header, payload, random)
    }

    pub(crate) fn token_as(&self, algorithm: Algorithm, header: &[u8], payload: &[u8], random: &mut StdRng) -> String {
        let input = format!("{}.{}", b64(header), b64(payload));
        let signature = self.sign_as(algorithm, input.as_bytes(), random);
        format!("{input}.{}", b64(signature))
    }

    /// The header that its tokens have.
    pub(crate) fn header(&self) -> Value {
        match self.jwk.get("kid") {
            Some(kid) => json!({"alg": self.algorithm.name(), "typ": "JWT", "kid": kid}),
            None => json!({"alg": self.algorithm.name(), "typ": "JWT"}),
        }
    }
}
