//! From what an operator asks for to what is revoked: one check for the API's single and bulk forms.

use super::{Kind, TOKEN_LIFE_MAX, Wanted};
use crate::problem::ApiError;
use serde::Deserialize;
use time::{Duration, OffsetDateTime};
use utoipa::ToSchema;
use wire::policy::PolicyDocument;

const VALUE_BYTES_MAX: usize = 256;

/// How far "issued before" may lie ahead: the clock difference that is tolerated between us and any issuer.
const AHEAD_MAX: Duration = Duration::seconds(60);

/// What to revoke.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Item {
    /// What kind of thing.
    pub kind: Kind,
    /// The issuer's name in the policy; not for customers and agents.
    pub issuer: Option<String>,
    /// The `jti`, subject, `kid`, customer or agent.
    pub value: String,
    /// For `subject`: its tokens issued before this are refused; if absent, every token that an issuer whose clock is ahead
    /// may have signed by now.
    #[serde(default, with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub issued_before: Option<OffsetDateTime>,
    /// For `version`: its tokens with a lower `token_version`, or without one, are refused.
    pub version_min: Option<u64>,
    /// For `token`: its `exp`, if that is known; the revocation ends a little later by itself.
    #[serde(default, with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<OffsetDateTime>,
}

impl Item {
    /// Checks it against the policy in force.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(self, document: &PolicyDocument, now: OffsetDateTime) -> Result<Wanted, ApiError> {
        let issuer = self.checked_issuer(document)?;
        if self.value.is_empty() || self.value.len() > VALUE_BYTES_MAX || self.value.chars().any(char::is_control) {
            return Err(ApiError::invalid("`value` must have 1 to 256 bytes and no control characters"));
        }
        let skew =
            document.issuers.iter().find(|known| known.name == issuer).map_or(AHEAD_MAX, |known| Duration::seconds(known.skew_s.into()));
        let bound = self.bound(now, skew)?;
        let expires_at = self.end(now)?;
        Ok(Wanted { kind: self.kind, issuer, value: self.value, bound, expires_at })
    }

    fn checked_issuer(&self, document: &PolicyDocument) -> Result<String, ApiError> {
        let name = self.kind.name();
        match (&self.issuer, self.kind.has_issuer()) {
            (None, false) => Ok(String::new()),
            (Some(_), false) => Err(ApiError::invalid(format!("`{name}` has no `issuer`: it is stopped whoever vouches for it"))),
            (None, true) => Err(ApiError::invalid(format!("`{name}` needs the `issuer`'s name in the policy"))),
            (Some(issuer), true) if document.issuers.iter().any(|known| known.name == *issuer) => Ok(issuer.clone()),
            (Some(issuer), true) => {
                let nearest = document.issuers.iter().min_by_key(|known| distance(&known.name, issuer));
                let hint = nearest.map(|known| format!("; did you mean `{}`?", known.name)).unwrap_or_default();
                let shown: String = issuer.chars().filter(|letter| !letter.is_control()).take(64).collect();
                Err(ApiError::invalid(format!("`{shown}` is no issuer of the policy in force{hint}")))
            }
        }
    }

    fn bound(&self, now: OffsetDateTime, skew: Duration) -> Result<i64, ApiError> {
        if self.issued_before.is_some() && self.kind != Kind::Subject {
            return Err(ApiError::invalid("`issued_before` is for `subject` alone"));
        }
        match (self.kind, self.version_min) {
            (Kind::Version, Some(version)) => i64::try_from(version)
                .ok()
                .filter(|version| *version >= 1)
                .ok_or_else(|| ApiError::invalid("`version_min` must be 1 to 9223372036854775807")),
            (Kind::Version, None) => Err(ApiError::invalid("`version` needs `version_min`, the lowest good `token_version`")),
            (Kind::Token | Kind::Subject | Kind::Key | Kind::Customer | Kind::Agent, Some(_)) => {
                Err(ApiError::invalid("`version_min` is for `version` alone"))
            }
            (Kind::Subject, None) => {
                // A token that exists already may say that it was issued a little later than now.
                let before = self.issued_before.unwrap_or_else(|| now.saturating_add(skew));
                if before > now.saturating_add(AHEAD_MAX) {
                    return Err(ApiError::invalid("`issued_before` is in the future: tokens that do not exist yet are not revoked"));
                }
                i64::try_from(before.unix_timestamp_nanos().div_euclid(1_000))
                    .ok()
                    .filter(|micros| *micros > 0)
                    .ok_or_else(|| ApiError::invalid("`issued_before` is out of range"))
            }
            (Kind::Token | Kind::Key | Kind::Customer | Kind::Agent, None) => Ok(0),
        }
    }

    fn end(&self, now: OffsetDateTime) -> Result<Option<OffsetDateTime>, ApiError> {
        let latest = now.saturating_add(Duration::try_from(TOKEN_LIFE_MAX).unwrap_or(Duration::DAY));
        match (self.kind, self.expires_at) {
            (Kind::Token, Some(expiry)) => {
                let end = expiry.saturating_add(AHEAD_MAX);
                if end <= now {
                    return Err(ApiError::invalid("`expires_at` is past: the token is refused anyway"));
                }
                Ok(Some(end.min(latest)))
            }
            // A subject's tokens from before the bound are all gone by then, whenever the bound was.
            (Kind::Token | Kind::Subject, None) => Ok(Some(latest)),
            (Kind::Subject | Kind::Version | Kind::Key | Kind::Customer | Kind::Agent, Some(_)) => {
                Err(ApiError::invalid("`expires_at` is for `token` alone; what else is revoked stays so until it is lifted"))
            }
            (Kind::Version | Kind::Key | Kind::Customer | Kind::Agent, None) => Ok(None),
        }
    }
}

/// Edits that make one text of another (Levenshtein), of names that are short.
pub(crate) fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (index, letter) in one.chars().enumerate() {
        let mut diagonal = index;
        let mut left = index.saturating_add(1);
        let mut next = vec![left];
        for (wanted, above) in other.iter().zip(row.iter().skip(1)) {
            let cost = usize::from(*wanted != letter);
            left = diagonal.saturating_add(cost).min(left.saturating_add(1)).min(above.saturating_add(1));
            diagonal = *above;
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use std::collections::BTreeMap;

    fn document() -> PolicyDocument {
        let text = "issuers:\n  - {name: cp, issuer: a, gateways: [CP]}\n  - {name: ops, issuer: b, gateways: [ADMIN]}\n";
        wire::sources::read(&BTreeMap::from([("issuers.yaml".to_owned(), text.to_owned())])).unwrap()
    }

    fn check(item: Value) -> Result<Wanted, String> {
        let item: Item = serde_json::from_value(item).map_err(|error| error.to_string())?;
        item.check(&document(), OffsetDateTime::now_utc()).map_err(|error| error.to_string())
    }

    #[test]
    fn an_unknown_issuer_is_named_with_the_nearest_known_one() {
        let refused = check(json!({"kind": "token", "issuer": "opps", "value": "a"})).unwrap_err();
        assert_eq!(refused, "invalid request: `opps` is no issuer of the policy in force; did you mean `ops`?");
    }

    #[test]
    fn what_belongs_to_another_kind_is_refused() {
        for bad in [
            json!({"kind": "token", "value": "a"}),
            json!({"kind": "customer", "issuer": "cp", "value": "a"}),
            json!({"kind": "version", "issuer": "cp", "value": "a"}),
            json!({"kind": "version", "issuer": "cp", "value": "a", "version_min": 0}),
            json!({"kind": "version", "issuer": "cp", "value": "a", "version_min": u64::MAX}),
            json!({"kind": "key", "issuer": "cp", "value": "a", "version_min": 1}),
            json!({"kind": "key", "issuer": "cp", "value": "a", "expires_at": "2999-01-01T00:00:00Z"}),
            json!({"kind": "token", "issuer": "cp", "value": "a", "expires_at": "2001-01-01T00:00:00Z"}),
            json!({"kind": "token", "issuer": "cp", "value": "a", "issued_before": "2001-01-01T00:00:00Z"}),
            json!({"kind": "subject", "issuer": "cp", "value": "a", "issued_before": "2999-01-01T00:00:00Z"}),
            json!({"kind": "token", "issuer": "cp", "value": ""}),
            json!({"kind": "token", "issuer": "cp", "value": "a\nb"}),
            json!({"kind": "token", "issuer": "cp", "value": "a".repeat(257)}),
            json!({"kind": "everything", "value": "a"}),
            json!({"kind": "agent", "value": "a", "more": 1}),
        ] {
            assert!(check(bad.clone()).is_err(), "{bad}");
        }
    }

    #[test]
    fn tokens_and_subjects_end_by_themselves_and_the_rest_stays() {
        let soon = OffsetDateTime::now_utc() + Duration::minutes(5);
        let text = soon.format(&time::format_description::well_known::Rfc3339).unwrap();
        let end = check(json!({"kind": "token", "issuer": "cp", "value": "a", "expires_at": text})).unwrap().expires_at.unwrap();
        assert!((end - soon - AHEAD_MAX).abs() < Duration::seconds(1), "{end}");
        let latest = OffsetDateTime::now_utc() + TOKEN_LIFE_MAX;
        for item in [
            json!({"kind": "token", "issuer": "cp", "value": "a"}),
            json!({"kind": "token", "issuer": "cp", "value": "a", "expires_at": "2999-01-01T00:00:00Z"}),
            json!({"kind": "subject", "issuer": "cp", "value": "a"}),
        ] {
            let end = check(item).unwrap().expires_at.unwrap();
            assert!((latest - end).abs() < Duration::seconds(5), "{end}");
        }
        assert_eq!(check(json!({"kind": "customer", "value": "c"})).unwrap().expires_at, None);
    }

    #[test]
    fn a_subject_is_revoked_with_what_a_clock_that_is_ahead_signed_already() {
        let now = OffsetDateTime::now_utc();
        let item = |more: Value| serde_json::from_value::<Item>(more).unwrap().check(&document(), now).unwrap().bound;
        let micros = |time: OffsetDateTime| i64::try_from(time.unix_timestamp_nanos() / 1_000).unwrap();
        let skew = Duration::seconds(document().issuers[0].skew_s.into());
        assert!(skew.is_positive());
        assert_eq!(item(json!({"kind": "subject", "issuer": "cp", "value": "a"})), micros(now + skew));
        let explicit = json!({"kind": "subject", "issuer": "cp", "value": "a", "issued_before": "2026-01-01T00:00:00Z"});
        assert_eq!(item(explicit), 1_767_225_600_000_000);
    }

    #[test]
    fn names_are_compared_by_edits() {
        for (one, other, edits) in [("", "", 0), ("a", "", 1), ("cp", "pc", 2), ("ops", "opps", 1), ("kitten", "sitting", 3)] {
            assert_eq!(distance(one, other), edits, "{one} {other}");
        }
    }
}
