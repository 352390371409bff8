//! What is special about revoking keys: a mistyped one changes nothing, and the last one of the admin API shuts it.

use super::request::distance;
use super::{Kind, Wanted, store};
use crate::policies::ActivePolicy;
use crate::problem::ApiError;
use authn::{IssuerRules, KeysKnown};
use sqlx::PgConnection;
use time::OffsetDateTime;
use wire::policy::Gateway;

/// How many known keys a warning names.
const NAMED_MAX: usize = 5;

/// Refuses to revoke the last key that opens the admin API: nobody could lift that again. Asks within the transaction that
/// revokes, so that two who revoke one key each do not both succeed.
///
/// # Errors
/// No usable key would be left, or Postgres fails.
pub async fn require_another(connection: &mut PgConnection, policy: &ActivePolicy, wanted: &[Wanted]) -> Result<(), ApiError> {
    let admins: Vec<String> = policy
        .document
        .issuers
        .iter()
        .filter(|issuer| issuer.gateways.contains(&Gateway::Admin))
        .map(|issuer| issuer.name.clone())
        .collect();
    if !wanted.iter().any(|wish| wish.kind == Kind::Key && admins.contains(&wish.issuer)) {
        return Ok(());
    }
    let revoked = store::keys_in_force(connection, &admins).await?;
    let opens = |rules: &&IssuerRules| admins.iter().any(|name| **name == *rules.name) && relied_on(rules.keys_known);
    let usable = |rules: &IssuerRules| {
        let is_revoked = |kid: &str| revoked.iter().any(|(issuer, value)| **issuer == *rules.name && value == kid);
        rules.keys.iter().any(|key| !key.kid.as_deref().is_some_and(is_revoked))
    };
    if policy.loaded.issuers.iter().filter(opens).any(usable) {
        return Ok(());
    }
    Err(ApiError::conflict(
        "no key that opens the admin API would be left, and so nobody who could lift this: add another key of an issuer with the \
         gateway ADMIN to the policy first, and then revoke this one; `force` does not help",
    ))
}

fn relied_on(known: KeysKnown) -> bool {
    match known {
        KeysKnown::Always => true,
        KeysKnown::Until(until) => until.as_seconds() > OffsetDateTime::now_utc().unix_timestamp(),
        KeysKnown::NotYet => false,
    }
}

/// Says so if a key is revoked that its issuer is not known to have: it may be mistyped.
#[must_use]
pub fn warning(policy: &ActivePolicy, wanted: &Wanted) -> Option<String> {
    if wanted.kind != Kind::Key {
        return None;
    }
    let rules = policy.loaded.issuers.iter().find(|rules| *rules.name == *wanted.issuer);
    let mut known: Vec<&str> = rules.into_iter().flat_map(|rules| &rules.keys).filter_map(|key| key.kid.as_deref()).collect();
    if known.contains(&wanted.value.as_str()) {
        return None;
    }
    known.sort_by_cached_key(|kid| distance(kid, &wanted.value));
    let named: Vec<String> = known.iter().take(NAMED_MAX).map(|kid| format!("`{}`", printable(kid))).collect();
    let (issuer, kid) = (&wanted.issuer, &wanted.value);
    Some(if named.is_empty() {
        format!("no key of `{issuer}` is known; `{kid}` is refused if it ever turns up")
    } else {
        format!("`{issuer}` has no key `{kid}`; its tokens are refused if it ever turns up. Known are {}", named.join(", "))
    })
}

/// Issuers choose the ids of the keys that they publish.
fn printable(kid: &str) -> String {
    kid.chars().filter(|letter| !letter.is_control()).take(64).collect()
}
