//! `plant-gateway keys`: which keys are in force, and fetching published ones at once.

use clap::{Args, Subcommand};
use serde_json::Value;

use super::admin_api::{AdminApi, ApiCommandError, Connection, Format, block_on, shown};
use crate::demo::http::Ask;

/// Arguments of `keys`.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show issuers and keys.
    List,
    /// Fetch an issuer's published keys at once, or as soon as ten seconds have passed since the last time.
    Refresh {
        /// The issuer's name in the policy.
        issuer: String,
    },
}

/// Does it.
///
/// # Errors
/// The control plane cannot be reached, or refuses.
pub fn run(arguments: &Arguments) -> Result<(), ApiCommandError> {
    let mut api = AdminApi::open(&arguments.connection)?;
    let ask = match &arguments.action {
        Action::List => Ask::get("/admin/v1/keys"),
        Action::Refresh { issuer } => Ask::post(&format!("/admin/v1/keys/{}/refresh", super::admin_api::encoded(issuer))),
    };
    let answer = block_on(api.json(ask))?;
    match (arguments.connection.format, &arguments.action) {
        (Format::Json, Action::List | Action::Refresh { .. }) => println!("{answer}"),
        (Format::Text, Action::List) => {
            let issuers = answer.get("issuers").and_then(Value::as_array).cloned().unwrap_or_default();
            issuers.iter().flat_map(lines).for_each(|line| println!("{line}"));
        }
        (Format::Text, Action::Refresh { .. }) => lines(&answer).iter().for_each(|line| println!("{line}")),
    }
    Ok(())
}

/// One line for the issuer, one per key, one for how fetching goes.
fn lines(issuer: &Value) -> Vec<String> {
    let mut lines = vec![format!("{} ({}): {}", shown(issuer, "issuer"), shown(issuer, "iss"), known(issuer))];
    for key in issuer.get("keys").and_then(Value::as_array).into_iter().flatten() {
        let revoked = if key.get("revoked") == Some(&Value::Bool(true)) { ", REVOKED" } else { "" };
        let of = |member| shown(key, member);
        lines.push(format!("  {} {} from {}, SHA-256 {}{revoked}", of("kid"), of("algorithm"), of("origin"), of("spki_sha256")));
    }
    if let Some(fetch) = issuer.get("fetch") {
        let of = |member| shown(fetch, member);
        lines.push(format!("  fetched {} from {}, next {}", of("fetched_at"), of("url"), of("next_at")));
        if fetch.get("last_error").is_some_and(|error| !error.is_null()) {
            let failed = fetch.get("failures").and_then(Value::as_i64).is_some_and(|failures| failures > 0);
            let what = if failed { format!("failed {} times", of("failures")) } else { "fetched in part".to_owned() };
            lines.push(format!("  {what}: {}", of("last_error")));
        }
    }
    lines
}

fn known(issuer: &Value) -> String {
    match issuer.get("known").and_then(Value::as_str) {
        Some("until") => format!("good until {}", shown(issuer, "until")),
        Some("not_yet") => "keys not fetched yet".to_owned(),
        Some(_) | None => "keys of the policy".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_issuer_is_shown_with_its_keys_and_what_went_wrong() {
        let issuer = json!({
            "issuer": "idp", "iss": "https://idp.test", "known": "until", "until": "2026-01-01T00:00:00Z",
            "keys": [{"kid": "a", "algorithm": "ES256", "origin": "jwks", "spki_sha256": "x", "revoked": true}],
            "fetch": {"url": "https://idp.test/k", "fetched_at": null, "next_at": "n", "failures": 2, "last_error": "away"},
        });
        let expected = [
            "idp (https://idp.test): good until 2026-01-01T00:00:00Z",
            "  a ES256 from jwks, SHA-256 x, REVOKED",
            "  fetched - from https://idp.test/k, next n",
            "  failed 2 times: away",
        ];
        assert_eq!(lines(&issuer), expected);
    }
}
