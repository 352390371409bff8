//! Who looks at a page: by the session of the browser, or by the token that a proxy in front puts on each request.

use super::session::{self, SessionKey};
use crate::app::AppState;
use crate::caller::{self, NotAdmitted, now, only_authorization};
use crate::problem::ApiError;
use crate::public_url::PublicUrl;
use axum::http::{HeaderMap, header};
use decision_core::principal::{CredentialFault, Identity, Principal};
use sha2::{Digest, Sha256};
use wire::bundle::LoadedBundle;
use wire::hex::hex;

/// Who may see this needs no more than who may list approvals on the API.
pub const READ: (&str, &str) = ("GET", "/admin/v1/approvals");

/// Somebody who may see approvals.
#[derive(Clone, Debug)]
pub struct Viewer {
    /// Who it is, under the policy in force.
    pub principal: Principal,
    /// What a form must bring along: another site cannot know it.
    pub form_key: String,
}

impl Viewer {
    /// Who sent this.
    ///
    /// # Errors
    /// Nobody, or somebody who may not see approvals.
    pub async fn of(state: &AppState, headers: &HeaderMap) -> Result<Self, ApiError> {
        let (method, path) = READ;
        if headers.contains_key(header::AUTHORIZATION) {
            let authorization = only_authorization(headers)?.as_bytes();
            let principal = admitted(state, authorization).await?;
            return Ok(Self { principal, form_key: form_key(authorization) });
        }
        let key = SessionKey::of(headers, &state.settings.public_url).ok_or(ApiError::CredentialMissing)?;
        let identity = session::find(&state.database, &key).await?.ok_or(ApiError::CredentialMissing)?;
        let policy = state.policy();
        if !key_still_counts(&policy.loaded, &identity) {
            return Err(ApiError::CredentialRefused(CredentialFault::UnknownKey));
        }
        let principal = caller::permit(&policy.loaded, &state.revoked, identity, method, path, now())?;
        Ok(Self { principal, form_key: form_key(key.as_bytes()) })
    }

    /// Whether the roles permit to decide on approvals.
    #[must_use]
    pub fn may_decide(&self, state: &AppState, id: uuid::Uuid) -> bool {
        let (policy, path) = (state.policy(), format!("/admin/v1/approvals/{id}/decision"));
        caller::permit(&policy.loaded, &state.revoked, self.principal.identity.clone(), "POST", &path, now()).is_ok()
    }

    /// Refuses a form that does not come from a page of this viewer's.
    ///
    /// # Errors
    /// It does not.
    pub fn check_form(&self, state: &AppState, headers: &HeaderMap, form_key: &str) -> Result<(), ApiError> {
        check_origin(&state.settings.public_url, headers)?;
        // Digests are compared, so that timing tells nothing about the key.
        if Sha256::digest(form_key) == Sha256::digest(&self.form_key) { Ok(()) } else { Err(CROSS_SITE) }
    }
}

const CROSS_SITE: ApiError = ApiError::Denied { reason: "cross_site_form", rule: None };

/// Every browser says where a form comes from.
///
/// # Errors
/// Not from a page under `PUBLIC_URL`.
pub fn check_origin(public_url: &PublicUrl, headers: &HeaderMap) -> Result<(), ApiError> {
    let theirs = headers.get(header::ORIGIN).and_then(|value| value.to_str().ok());
    if theirs == Some(public_url.origin()) { Ok(()) } else { Err(CROSS_SITE) }
}

/// Verifies a token as the admin API does, and whether its bearer may see approvals.
///
/// # Errors
/// Why not.
pub async fn admitted(state: &AppState, authorization: &[u8]) -> Result<Principal, ApiError> {
    let policy = state.policy();
    let (method, path) = READ;
    let identity = caller::identify(&policy.loaded, authorization, now());
    if let Err(NotAdmitted::KeyUnknown { issuer }) = &identity {
        caller::ask_for_keys(state, &policy.document, issuer).await;
    }
    Ok(caller::permit(&policy.loaded, &state.revoked, identity?, method, path, now())?)
}

/// A token counts no longer than its key: one that a policy or its issuer has dropped ends the session.
fn key_still_counts(bundle: &LoadedBundle, identity: &Identity) -> bool {
    let issuer = bundle.issuers.iter().find(|rules| rules.name == identity.issuer);
    issuer.is_some_and(|rules| rules.keys.iter().any(|key| key.kid == identity.key_id))
}

/// Derived from what only the viewer has, so that nothing is to be kept.
fn form_key(credential: &[u8]) -> String {
    hex(&Sha256::new_with_prefix(b"plant-gateway form\0").chain_update(credential).finalize())
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn a_form_must_come_from_under_the_public_url() {
        let url = "https://gateway.test/".parse().unwrap();
        for (origin, good) in [
            (Some("https://gateway.test"), true),
            (Some("http://gateway.test"), false),
            (Some("https://gateway.test:444"), false),
            (Some("https://evil.test"), false),
            (Some("null"), false),
            (Some(""), false),
            (None, false),
        ] {
            let headers: HeaderMap = origin.map(|text| (header::ORIGIN, HeaderValue::from_static(text))).into_iter().collect();
            assert_eq!(check_origin(&url, &headers).is_ok(), good, "{origin:?}");
        }
    }
}
