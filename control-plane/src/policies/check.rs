//! What a policy must keep to before it is published, beyond that it compiles: limits of settings, and what the control
//! plane itself is asked to do. Not checked again when a revision is loaded: what is in force stays in force.

use crate::outbound::target::{AllowedHosts, Purpose};
use crate::policies::{Files, PolicyFault};
use crate::secrets::SecretsDirectory;
use crate::settings::Settings;
use crate::webhooks::signature::SigningKey;
use std::ops::RangeInclusive;
use wire::policy::{JwksSource, PolicyDocument, Webhook};

const STALE_AFTER_S: RangeInclusive<u32> = 60..=86_400;
const COLD_START_HOLD_MS: RangeInclusive<u32> = 0..=10_000;
const JWKS_REFRESH_S: RangeInclusive<u32> = 60..=86_400;
const JWKS_STALE_AFTER_S_MAX: u32 = 604_800;

/// Checks a policy that compiles.
///
/// # Errors
/// The first thing that is wrong, with its place.
pub async fn check(document: &PolicyDocument, settings: &Settings, files: &Files) -> Result<(), PolicyFault> {
    check_document(document, &settings.jwks_hosts, files)?;
    let of_approvals = document.approvals.as_ref().and_then(|approvals| approvals.webhook.as_ref());
    let of_reporting = document.reporting.as_ref().and_then(|reporting| reporting.webhook.as_ref());
    for (field, webhook) in [("approvals.webhook", of_approvals), ("reporting.webhook", of_reporting)] {
        if let Some(webhook) = webhook {
            let checked = check_webhook(field, webhook, settings).await;
            checked.map_err(|message| PolicyFault::located(message, files))?;
        }
    }
    Ok(())
}

/// Whom events go to, and whether they can be signed.
async fn check_webhook(field: &str, webhook: &Webhook, settings: &Settings) -> Result<(), String> {
    settings.webhook_hosts.target(&webhook.url, Purpose::Webhooks).map_err(|error| format!("{field}.url: {error}"))?;
    let (secrets, name) = (SecretsDirectory::new(&settings.secrets_dir), webhook.secret.clone());
    let key = tokio::task::spawn_blocking(move || {
        let secret = secrets.read(&name).map_err(|error| error.to_string())?;
        SigningKey::of(&secret).map_err(|error| format!("the secret `{name}` {error}"))
    });
    let key = key.await.map_err(|stopped| stopped.to_string()).and_then(|read| read);
    key.map(|_usable| ()).map_err(|error| format!("{field}.secret: {error}"))
}

fn check_document(document: &PolicyDocument, hosts: &AllowedHosts, files: &Files) -> Result<(), PolicyFault> {
    let located = |message: String| PolicyFault::located(message, files);
    if let Some(settings) = &document.settings {
        within("settings.stale_after_s", settings.stale_after_s, &STALE_AFTER_S).map_err(located)?;
        within("settings.cold_start_hold_ms", settings.cold_start_hold_ms, &COLD_START_HOLD_MS).map_err(located)?;
    }
    for (issuer, source) in crate::keys::publishers(document) {
        check_source(&format!("issuers[{}].jwks", issuer.name), source, hosts).map_err(located)?;
    }
    Ok(())
}

fn check_source(field: &str, source: &JwksSource, hosts: &AllowedHosts) -> Result<(), String> {
    hosts.target(&source.url, Purpose::KeySets).map_err(|error| format!("{field}.url: {error}"))?;
    within(&format!("{field}.refresh_s"), source.refresh_s, &JWKS_REFRESH_S)?;
    within(&format!("{field}.stale_after_s"), source.stale_after_s, &(source.refresh_s..=JWKS_STALE_AFTER_S_MAX))
}

fn within(field: &str, value: u32, range: &RangeInclusive<u32>) -> Result<(), String> {
    if range.contains(&value) { Ok(()) } else { Err(format!("{field}: {value} is not {} to {}", range.start(), range.end())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(from: &str, to: &str) -> Option<(Option<usize>, Option<String>, String)> {
        let text = "settings:\n  stale_after_s: 60\n  cold_start_hold_ms: 10000\nissuers:\n  - name: idp\n    issuer: i\n    \
                    gateways: [CP]\n    algorithms: [RS256]\n    jwks: {url: 'https://id.example.com/keys', refresh_s: 60, stale_after_s: 604800}\n";
        assert!(text.contains(from), "{from}");
        let files = Files::from([("policy.yaml".to_owned(), text.replace(from, to))]);
        let document = wire::sources::read(&files).unwrap();
        let fault = check_document(&document, &"id.example.com".parse().unwrap(), &files).err()?;
        assert_eq!(fault.file.as_deref(), Some("policy.yaml"));
        Some((fault.line, fault.field, fault.message))
    }

    #[test]
    fn what_is_within_its_limits_passes() {
        assert_eq!(fault("settings", "settings"), None);
    }

    #[test]
    fn a_value_out_of_range_names_its_place_and_the_range() {
        for (from, to, line, field) in [
            ("stale_after_s: 60\n", "stale_after_s: 59\n", 2, "settings.stale_after_s"),
            ("stale_after_s: 60\n", "stale_after_s: 86401\n", 2, "settings.stale_after_s"),
            ("10000", "10001", 3, "settings.cold_start_hold_ms"),
            ("refresh_s: 60", "refresh_s: 59", 9, "issuers[idp].jwks.refresh_s"),
            ("refresh_s: 60", "refresh_s: 86401", 9, "issuers[idp].jwks.refresh_s"),
            ("604800", "604801", 9, "issuers[idp].jwks.stale_after_s"),
            ("604800", "59", 9, "issuers[idp].jwks.stale_after_s"),
        ] {
            let (at, named, message) = fault(from, to).unwrap();
            assert_eq!((at, named.as_deref()), (Some(line), Some(field)), "{message}");
        }
    }

    #[test]
    fn a_host_that_is_not_allowed_names_the_setting_that_allows_it() {
        let (_, field, message) = fault("id.example.com", "evil.example").unwrap();
        assert_eq!(field.as_deref(), Some("issuers[idp].jwks.url"));
        assert!(message.ends_with("the host `evil.example` is not one that the control plane's setting JWKS_HOSTS allows"), "{message}");
        assert!(fault("https://id", "http://id").unwrap().2.ends_with("the scheme is not `https`"));
    }
}
