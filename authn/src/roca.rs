//! Recognises RSA keys of CVE-2017-15361 ("ROCA"), which can be factored. Their primes have the form
//! `k·M + (65537^a mod M)`, so the modulus is a power of 65537 modulo every small prime.

/// The primes that divide every `M`; 2 says nothing.
const PRIMES: [u32; 38] = [
    3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97, 101, 103, 107, 109, 113, 127, 131, 137,
    139, 149, 151, 157, 163, 167,
];

/// What the modulus looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fingerprint {
    /// As any other.
    Ordinary,
    /// A power of 65537 modulo all small primes: less than one ordinary key in 2²⁷.
    Roca,
}

/// Looks at a big-endian modulus.
pub(crate) fn fingerprint(modulus: &[u8]) -> Fingerprint {
    let roca = PRIMES.iter().all(|&prime| {
        let residue = modulus.iter().fold(0, |sum, &byte| (sum * 256 + u32::from(byte)) % prime);
        is_power_of_f4(residue, prime)
    });
    if roca { Fingerprint::Roca } else { Fingerprint::Ordinary }
}

fn is_power_of_f4(residue: u32, prime: u32) -> bool {
    let step = 65_537 % prime;
    core::iter::successors(Some(1), |&power| Some(power * step % prime).filter(|&next| next != 1)).any(|power| power == residue)
}
