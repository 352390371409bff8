//! Where a page of accounts ended: by the key of its last account, so that accounts which are opened meanwhile move nothing.

use super::{AccountKey, is_storable};
use crate::problem::ApiError;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// The last account of a page. Durable ones come first, then the others, each in the order of their keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// Whether it is kept in Postgres.
    pub durable: bool,
    /// Its key.
    pub key: AccountKey,
}

impl Cursor {
    /// As it was told: a text that goes into a query without escapes.
    ///
    /// # Errors
    /// It is not one of ours.
    pub fn parse(text: &str) -> Result<Self, ApiError> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok();
        let parts = bytes.and_then(|bytes| serde_json::from_slice::<(bool, String, String, i64)>(&bytes).ok());
        let cursor = parts.map(|(durable, budget, scope, window_start)| Self { durable, key: AccountKey { budget, scope, window_start } });
        // Postgres would fail over any other.
        cursor.filter(|cursor| is_storable(&cursor.key)).ok_or(ApiError::invalid("`cursor` is not one of ours"))
    }

    /// To be told.
    #[must_use]
    pub fn text(&self) -> String {
        let AccountKey { budget, scope, window_start } = &self.key;
        URL_SAFE_NO_PAD.encode(serde_json::json!([self.durable, budget, scope, window_start]).to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_survives_whatever_is_in_a_name_and_no_other_text_is_one() {
        let of = |budget: &str, window_start| Cursor {
            durable: true,
            key: AccountKey { budget: budget.into(), scope: "agent=\"ä\",3:|".into(), window_start },
        };
        assert_eq!(Cursor::parse(&of("daily", 60).text()).ok(), Some(of("daily", 60)));
        for text in ["", "7", "W10", "!", &of("nul\0", 60).text(), &of("daily", i64::MAX).text(), &of("daily", -1).text()] {
            assert!(Cursor::parse(text).is_err(), "{text}");
        }
    }
}
