//! How a policy would answer a request: asked by people and by golden cases, decided by the code that enforces.

mod asked;
mod candidate;
mod case;
mod flags;

pub use asked::{Asked, Asker, Explained, Judge, NoRules, Tabled, changes_of, decide, explain, unasked};
pub use candidate::Candidate;
#[cfg(test)]
pub(crate) use case::asker;
pub use case::{Answer, Evaluation, claims, compare, evaluate, skipped};
pub use flags::{UnknownFlag, with_flags};

use wire::bundle::{Bundle, BundleError, BundleVersion, IssuerKeys, KeysKnown, LoadedBundle};
use wire::policy::PolicyDocument;

/// A policy whose keys are not known: it decides, and verifies no signature.
///
/// # Errors
/// The first thing that does not compile.
pub fn without_keys(document: &PolicyDocument) -> Result<LoadedBundle, BundleError> {
    let unknown = |name: &String| IssuerKeys { issuer: name.clone(), keys: Vec::new(), known: KeysKnown::NotYet };
    let bundle = Bundle {
        version: BundleVersion::default(),
        policy: document.clone(),
        keys: document.issuers.iter().map(|issuer| unknown(&issuer.name)).collect(),
        registration_key_hashes: Vec::new(),
        pseudonym_key: None,
        rules: None,
        shadow: None,
    };
    bundle.load()
}
