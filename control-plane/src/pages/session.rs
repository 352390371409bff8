//! Browsers that are signed in. The cookie is 256 random bits; the database has their digest and what the token said, so
//! that neither a copy of the database nor a log opens a session.

use crate::public_url::PublicUrl;
use axum::http::{HeaderMap, HeaderValue, header};
use decision_core::principal::{Identity, Trial};
use decision_core::time::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sqlx::PgPool;
use sqlx::types::Json;
use std::time::Duration;
use wire::hex::hex;

/// The longest that a browser stays signed in, however long its token lives.
const LIFETIME_MAX: Duration = Duration::from_secs(8 * 3_600);

/// The name where cookies travel by TLS: browsers then insist on `Secure`, on this very host and on the whole site.
const NAME_BY_TLS: &str = "__Host-plant-session";
const NAME: &str = "plant-session";

/// What only the browser has.
#[derive(Clone, PartialEq, Eq)]
#[expect(missing_debug_implementations, reason = "it opens a session and must not be printed")]
pub struct SessionKey(String);

impl SessionKey {
    /// A new one, of the system's randomness.
    ///
    /// # Errors
    /// The system has none.
    pub fn random() -> Result<Self, getrandom::Error> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes)?;
        Ok(Self(hex(&bytes)))
    }

    /// That of the cookie which a browser sent, under the one name that we give it. Other sites on this domain can set cookies
    /// here too, but none with the prefix: where there are two, one is not ours, and which is anybody's guess.
    #[must_use]
    pub fn of(headers: &HeaderMap, public_url: &PublicUrl) -> Option<Self> {
        let ours = name(public_url);
        let lines = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
        let cookies = lines.flat_map(|line| line.split(';')).filter_map(|cookie| cookie.trim().split_once('='));
        let mut values = cookies.filter(|(name, _)| *name == ours).map(|(_, value)| value);
        let (Some(value), None) = (values.next(), values.next()) else { return None };
        let plain = value.len() == 64 && value.bytes().all(|byte| byte.is_ascii_hexdigit());
        plain.then(|| Self(value.to_owned()))
    }

    /// Its bytes, for what is derived from it.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    fn digest(&self) -> [u8; 32] {
        Sha256::digest(&self.0).into()
    }

    /// The cookie that keeps it in the browser for so long.
    #[must_use]
    pub fn cookie(&self, public_url: &PublicUrl, lifetime: Duration) -> Option<HeaderValue> {
        cookie(public_url, &self.0, lifetime)
    }
}

/// The cookie that takes it out of the browser.
#[must_use]
pub fn no_cookie(public_url: &PublicUrl) -> Option<HeaderValue> {
    cookie(public_url, "", Duration::ZERO)
}

const fn name(public_url: &PublicUrl) -> &'static str {
    if public_url.is_secure() { NAME_BY_TLS } else { NAME }
}

fn cookie(public_url: &PublicUrl, value: &str, lifetime: Duration) -> Option<HeaderValue> {
    let (name, secure) = (name(public_url), if public_url.is_secure() { "; Secure" } else { "" });
    let seconds = lifetime.as_secs();
    HeaderValue::try_from(format!("{name}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}")).ok()
}

/// What a token said, as a session keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    issuer: Box<str>,
    subject: Box<str>,
    user_id: Box<str>,
    email: Box<str>,
    customer_id: Option<Box<str>>,
    agent_id: Option<Box<str>>,
    governor_agent_id: Option<Box<str>>,
    roles: Vec<Box<str>>,
    tier: Option<Box<str>>,
    trial_until_micros: Option<i64>,
    token_id: Option<Box<str>>,
    token_version: Option<u64>,
    key_id: Option<Box<str>>,
    issued_at_micros: i64,
    expires_at_micros: i64,
}

impl From<&Identity> for Kept {
    fn from(identity: &Identity) -> Self {
        let Identity {
            issuer,
            subject,
            user_id,
            email,
            customer_id,
            agent_id,
            governor_agent_id,
            roles,
            tier,
            trial,
            token_id,
            token_version,
            key_id,
            issued_at,
            expires_at,
        } = identity.clone();
        let trial_until_micros = match trial {
            Trial::No => None,
            Trial::Until(at) => Some(at.as_micros()),
        };
        let (issued_at_micros, expires_at_micros) = (issued_at.as_micros(), expires_at.as_micros());
        Self {
            issuer,
            subject,
            user_id,
            email,
            customer_id,
            agent_id,
            governor_agent_id,
            roles,
            tier,
            trial_until_micros,
            token_id,
            token_version,
            key_id,
            issued_at_micros,
            expires_at_micros,
        }
    }
}

impl From<Kept> for Identity {
    fn from(kept: Kept) -> Self {
        Self {
            issuer: kept.issuer,
            subject: kept.subject,
            user_id: kept.user_id,
            email: kept.email,
            customer_id: kept.customer_id,
            agent_id: kept.agent_id,
            governor_agent_id: kept.governor_agent_id,
            roles: kept.roles,
            tier: kept.tier,
            trial: kept.trial_until_micros.map_or(Trial::No, |at| Trial::Until(Timestamp::from_micros(at))),
            token_id: kept.token_id,
            token_version: kept.token_version,
            key_id: kept.key_id,
            issued_at: Timestamp::from_micros(kept.issued_at_micros),
            expires_at: Timestamp::from_micros(kept.expires_at_micros),
        }
    }
}

/// How long somebody with this token may stay signed in.
#[must_use]
pub fn lifetime(identity: &Identity, now: Timestamp) -> Duration {
    let left = identity.expires_at.as_micros().saturating_sub(now.as_micros());
    Duration::from_micros(u64::try_from(left).unwrap_or(0)).min(LIFETIME_MAX)
}

/// Opens a session.
///
/// # Errors
/// Postgres failed.
pub async fn open(database: &PgPool, key: &SessionKey, identity: &Identity, lifetime: Duration) -> Result<(), sqlx::Error> {
    sqlx::query("INSERT INTO page_sessions (id_sha256, identity, expires_at) VALUES ($1, $2, now() + make_interval(secs => $3))")
        .bind(key.digest().as_slice())
        .bind(Json(Kept::from(identity)))
        .bind(lifetime.as_secs_f64())
        .execute(database)
        .await
        .map(|_done| ())
}

/// Whose session it is, while it lasts.
///
/// # Errors
/// Postgres failed.
pub async fn find(database: &PgPool, key: &SessionKey) -> Result<Option<Identity>, sqlx::Error> {
    let row: Option<(Json<Kept>,)> = sqlx::query_as("SELECT identity FROM page_sessions WHERE id_sha256 = $1 AND expires_at > now()")
        .bind(key.digest().as_slice())
        .fetch_optional(database)
        .await?;
    Ok(row.map(|(Json(kept),)| kept.into()))
}

/// Ends a session.
///
/// # Errors
/// Postgres failed.
pub async fn close(database: &PgPool, key: &SessionKey) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM page_sessions WHERE id_sha256 = $1").bind(key.digest().as_slice()).execute(database).await.map(|_done| ())
}

/// Deletes sessions that are over.
///
/// # Errors
/// Postgres failed.
pub async fn forget(database: &PgPool) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM page_sessions WHERE expires_at <= now()").execute(database).await.map(|_done| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_token_said_comes_back_whole() {
        let identity = Identity {
            issuer: "ops".into(),
            subject: "s".into(),
            user_id: "u".into(),
            email: "e".into(),
            customer_id: Some("c".into()),
            agent_id: Some("a".into()),
            governor_agent_id: Some("g".into()),
            roles: vec!["admin".into()],
            tier: Some("paid".into()),
            trial: Trial::Until(Timestamp::from_micros(5)),
            token_id: Some("t".into()),
            token_version: Some(3),
            key_id: Some("k".into()),
            issued_at: Timestamp::from_micros(1),
            expires_at: Timestamp::from_micros(60_000_001),
        };
        let kept: Kept = serde_json::from_str(&serde_json::to_string(&Kept::from(&identity)).unwrap()).unwrap();
        assert_eq!(Identity::from(kept), identity);
        assert_eq!(lifetime(&identity, Timestamp::from_micros(1)), Duration::from_secs(60));
        assert_eq!(lifetime(&identity, Timestamp::from_seconds(61)), Duration::ZERO);
        assert_eq!(lifetime(&Identity { expires_at: Timestamp::MAX, ..identity }, Timestamp::EPOCH), LIFETIME_MAX);
    }

    #[test]
    fn the_cookie_is_out_of_reach_for_scripts_and_other_sites() {
        let key = SessionKey::random().unwrap();
        let sent = |url: &str| key.cookie(&url.parse().unwrap(), Duration::from_secs(60)).unwrap().to_str().unwrap().to_owned();
        let value = String::from_utf8(key.as_bytes().to_vec()).unwrap();
        assert_eq!(sent("https://a.test"), format!("__Host-plant-session={value}; Path=/; Max-Age=60; HttpOnly; SameSite=Strict; Secure"));
        assert_eq!(sent("http://a.test"), format!("plant-session={value}; Path=/; Max-Age=60; HttpOnly; SameSite=Strict"));
        assert!(SessionKey::of(&headers(&[&format!("a=b; plant-session={value}")]), &url(HTTP)) == Some(key));
        for cookie in ["", "plant-session=", "plant-session=abc", &format!("other={value}"), &format!("plant-session={}", "g".repeat(64))] {
            assert!(SessionKey::of(&headers(&[cookie]), &url(HTTP)).is_none(), "{cookie}");
        }
    }

    const HTTPS: &str = "https://a.test";
    const HTTP: &str = "http://a.test";

    fn url(text: &str) -> PublicUrl {
        text.parse().unwrap()
    }

    fn headers(lines: &[&str]) -> HeaderMap {
        lines.iter().map(|line| (header::COOKIE, HeaderValue::try_from(*line).unwrap())).collect()
    }

    /// A site beside this one, on the same domain, can set cookies of any name but those with the prefix.
    #[test]
    fn a_cookie_that_another_site_may_have_set_opens_no_session() {
        let [ours, theirs] = ["a", "b"].map(|digit| digit.repeat(64));
        let (plain, by_tls) = (|value: &str| format!("plant-session={value}"), |value: &str| format!("__Host-plant-session={value}"));
        let opened = |at: &str, lines: &[&str]| SessionKey::of(&headers(lines), &url(at)).map(|SessionKey(value)| value);
        assert_eq!(opened(HTTPS, &[&plain(&theirs)]), None, "the name is not that of the URL");
        assert_eq!(opened(HTTP, &[&by_tls(&theirs)]), None);
        for lines in [[plain(&theirs), by_tls(&ours)], [by_tls(&ours), plain(&theirs)]] {
            assert_eq!(opened(HTTPS, &[&lines.join("; ")]).as_ref(), Some(&ours));
            assert_eq!(opened(HTTPS, &[&lines[0], &lines[1]]).as_ref(), Some(&ours));
            assert_eq!(opened(HTTP, &[&lines.join("; ")]).as_ref(), Some(&theirs), "without TLS there is no prefix");
        }
        for (at, twice) in [(HTTPS, [by_tls(&theirs), by_tls(&ours)]), (HTTP, [plain(&ours), plain(&ours)])] {
            assert_eq!(opened(at, &[&twice.join("; ")]), None, "which is ours?");
            assert_eq!(opened(at, &[&twice[0], &twice[1]]), None);
        }
    }
}
