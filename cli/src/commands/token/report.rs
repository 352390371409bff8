//! What is shown of a token: its content and times, never its signature and never the whole of it.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::TokenError;
use crate::commands::terminal::escaped;
use crate::token::rfc3339;

/// A token taken apart without judging it.
#[derive(Debug)]
pub(super) struct Shown {
    pub(super) header: Value,
    pub(super) claims: Value,
}

/// One time of a token, as people read it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Moment {
    pub(super) claim: &'static str,
    pub(super) at: String,
    pub(super) relative: String,
}

impl Shown {
    /// Header and claims, whatever else may be wrong.
    pub(super) fn of(token: &str) -> Result<Self, TokenError> {
        let not = |reason: &str| TokenError::NotAToken { reason: reason.to_owned() };
        let mut parts = token.split('.');
        let (Some(header), Some(claims), Some(_signature)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(not("a signed token has three parts with dots between them"));
        };
        if parts.next().is_some() {
            return Err(not("it has more than three parts; an encrypted token (JWE) has five, and no gateway accepts one"));
        }
        let part = |text: &str, name: &str| {
            let bytes = URL_SAFE_NO_PAD.decode(text.trim_end_matches('='));
            let bytes = bytes.map_err(|_| not(&format!("the {name} is not base64url")))?;
            serde_json::from_slice::<Value>(&bytes).map_err(|_| not(&format!("the {name} is not JSON")))
        };
        Ok(Self { header: part(header, "header")?, claims: part(claims, "payload")? })
    }

    pub(super) fn issuer(&self) -> Option<&str> {
        self.claims.get("iss").and_then(Value::as_str)
    }

    /// The times that it has, in the order in which they come to pass.
    pub(super) fn moments(&self, now: i64) -> Vec<Moment> {
        let times = [("iat", "issued", "is issued"), ("nbf", "good since", "is good"), ("exp", "expired", "expires")];
        let mut moments = Vec::new();
        for (claim, past, future) in times {
            let seconds = self.claims.get(claim).and_then(|value| value.as_i64().or_else(|| value.as_f64().map(whole)));
            if let Some(seconds) = seconds {
                let at = rfc3339(seconds).unwrap_or_else(|_| format!("{seconds} s"));
                moments.push(Moment { claim, at, relative: relative(seconds.saturating_sub(now), past, future) });
            }
        }
        moments
    }
}

#[expect(clippy::cast_possible_truncation, reason = "only shown; a float out of range becomes the nearest number")]
const fn whole(seconds: f64) -> i64 {
    seconds as i64
}

/// `expired 3 minutes ago`, `expires in 2 hours`.
fn relative(delta: i64, past: &str, future: &str) -> String {
    let seconds = delta.unsigned_abs();
    let (count, unit) = match seconds {
        0..120 => (seconds, "second"),
        120..7_200 => (seconds / 60, "minute"),
        7_200..172_800 => (seconds / 3_600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    let plural = if count == 1 { "" } else { "s" };
    if delta <= 0 { format!("{past} {count} {unit}{plural} ago") } else { format!("{future} in {count} {unit}{plural}") }
}

impl Moment {
    pub(super) fn to_json(&self) -> Value {
        json!({"claim": self.claim, "at": self.at, "relative": self.relative})
    }
}

/// JSON for a terminal.
pub(super) fn printable(value: &Value) -> String {
    escaped(&serde_json::to_string_pretty(value).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_times_as_people_do() {
        let expired = |delta| relative(delta, "expired", "expires");
        assert_eq!(expired(-180), "expired 3 minutes ago");
        assert_eq!(expired(-1), "expired 1 second ago");
        assert_eq!(expired(0), "expired 0 seconds ago");
        assert_eq!(expired(119), "expires in 119 seconds");
        assert_eq!(expired(7_200), "expires in 2 hours");
        assert_eq!(expired(-172_800), "expired 2 days ago");
        assert_eq!(expired(i64::MIN), "expired 106751991167300 days ago");
    }

    #[test]
    fn escapes_what_a_terminal_would_obey() {
        let shown = printable(&json!({"a": "x\u{9b}31m\u{202e}y\u{1b}[0m"}));
        assert_eq!(shown, "{\n  \"a\": \"x\\u009b31m\\u202ey\\u001b[0m\"\n}");
    }
}
