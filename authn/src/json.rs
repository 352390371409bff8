//! Strict JSON objects: no member name twice at any depth, bounded depth and width, nothing after the end.
//! Ordinary parsers keep the last of two equal names; another reader may keep the first (RFC 8725 bis).

use core::fmt;
use std::borrow::Cow;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// Objects and arrays within each other, counting the outermost.
pub(crate) const DEPTH_MAX: u8 = 16;
/// Members of one object: the search for duplicates compares each with all.
pub(crate) const MEMBERS_MAX: usize = 128;
/// As many as a token's claims are, so that the list need not grow.
const MEMBERS_USUAL: usize = 24;

/// A JSON value without duplicate member names. Texts without escapes are borrowed: a token has two dozen of them.
#[derive(Debug, PartialEq)]
pub(crate) enum Json<'j> {
    Null,
    Bool(bool),
    Integer(i64),
    /// Any other number; finite.
    Decimal(f64),
    Text(Cow<'j, str>),
    Array(Vec<Self>),
    Object(Members<'j>),
}

impl Json<'_> {
    pub(crate) fn text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }
}

/// Reads one JSON object, and refuses what two readers could understand differently: a member name twice at any depth.
/// Depth and width are bounded.
#[must_use]
pub fn strict_json(bytes: &[u8]) -> Option<serde_json::Value> {
    // Read twice: the second reader cannot see anything else once the first is content.
    Members::parse(bytes).and_then(|_| serde_json::from_slice(bytes).ok())
}

/// The members of an object, in order.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Members<'j>(Vec<(Cow<'j, str>, Json<'j>)>);

impl<'j> Members<'j> {
    /// Parses a text that is one object and nothing else.
    pub(crate) fn parse(bytes: &'j [u8]) -> Option<Self> {
        let mut source = serde_json::Deserializer::from_slice(bytes);
        let value = Strict { depth_left: DEPTH_MAX }.deserialize(&mut source).ok()?;
        source.end().ok()?;
        if let Json::Object(members) = value { Some(members) } else { None }
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Json<'j>> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    /// As [`Members::get`]; a `null` counts as absent.
    pub(crate) fn present(&self, name: &str) -> Option<&Json<'j>> {
        self.get(name).filter(|value| **value != Json::Null)
    }
}

/// The name of a member: borrowed like a text.
struct Name;

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, source: D) -> Result<Cow<'de, str>, D::Error> {
        source.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Name {
    type Value = Cow<'de, str>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the name of a member")
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Owned(value.to_owned()))
    }

    fn visit_borrowed_str<E: Error>(self, value: &'de str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Borrowed(value))
    }
}

#[derive(Clone, Copy)]
struct Strict {
    depth_left: u8,
}

impl Strict {
    fn inner<E: Error>(self) -> Result<Self, E> {
        match self.depth_left.checked_sub(1) {
            Some(depth_left) => Ok(Self { depth_left }),
            None => Err(E::custom("nested too deeply")),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Json<'de>;

    fn deserialize<D: Deserializer<'de>>(self, source: D) -> Result<Json<'de>, D::Error> {
        source.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Json<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value without duplicate member names")
    }

    fn visit_unit<E: Error>(self) -> Result<Json<'de>, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Json<'de>, E> {
        Ok(Json::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Json<'de>, E> {
        Ok(Json::Integer(value))
    }

    #[expect(clippy::cast_precision_loss, reason = "such a number is in no claim that we accept")]
    fn visit_u64<E: Error>(self, value: u64) -> Result<Json<'de>, E> {
        Ok(i64::try_from(value).map_or(Json::Decimal(value as f64), Json::Integer))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Json<'de>, E> {
        if value.is_finite() { Ok(Json::Decimal(value)) } else { Err(E::custom("not finite")) }
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Json<'de>, E> {
        Ok(Json::Text(Cow::Owned(value.to_owned())))
    }

    fn visit_borrowed_str<E: Error>(self, value: &'de str) -> Result<Json<'de>, E> {
        Ok(Json::Text(Cow::Borrowed(value)))
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Json<'de>, E> {
        Ok(Json::Text(Cow::Owned(value)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut source: A) -> Result<Json<'de>, A::Error> {
        let inner = self.inner()?;
        let mut values = Vec::new();
        while let Some(value) = source.next_element_seed(inner)? {
            values.push(value);
        }
        Ok(Json::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut source: A) -> Result<Json<'de>, A::Error> {
        let inner = self.inner()?;
        let mut members = Members(Vec::with_capacity(if self.depth_left == DEPTH_MAX { MEMBERS_USUAL } else { 0 }));
        while let Some(name) = source.next_key_seed(Name)? {
            if members.0.len() == MEMBERS_MAX {
                return Err(A::Error::custom("too many members"));
            }
            if members.get(&name).is_some() {
                return Err(A::Error::custom("duplicate member name"));
            }
            members.0.push((name, source.next_value_seed(inner)?));
        }
        Ok(Json::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepts(text: &str) -> bool {
        Members::parse(text.as_bytes()).is_some()
    }

    #[test]
    fn refuses_a_duplicate_member_name() {
        assert!(accepts(r#"{"a":1,"b":1}"#));
        assert!(!accepts(r#"{"a":1,"a":1}"#));
    }

    #[test]
    fn refuses_a_duplicate_member_name_written_with_an_escape() {
        assert!(!accepts(r#"{"a":1,"\u0061":1}"#));
    }

    #[test]
    fn refuses_a_duplicate_member_name_at_any_depth() {
        assert!(!accepts(r#"{"x":[{"y":{"a":1,"a":2}}]}"#));
        assert!(accepts(r#"{"x":[{"a":1},{"a":2}],"a":3}"#));
    }

    #[test]
    fn refuses_what_is_not_one_object() {
        for text in ["", "[]", "1", "null", "\"a\"", "{}{}", "{} x", "{", "{\"a\":1,}", "\u{feff}{}", "{'a':1}"] {
            assert!(!accepts(text), "{text}");
        }
        assert!(accepts(" { } \n"));
    }

    #[test]
    fn refuses_what_is_not_unicode() {
        assert!(Members::parse(b"{\"a\":\"\xff\"}").is_none());
        assert!(!accepts(r#"{"a":"\ud800"}"#));
    }

    #[test]
    fn refuses_a_number_out_of_range() {
        assert!(!accepts(r#"{"a":1e999}"#));
        assert!(!accepts(r#"{"a":NaN}"#));
        assert!(!accepts(r#"{"a":01}"#));
    }

    #[test]
    fn keeps_integers_exact() {
        let members = Members::parse(br#"{"a":9007199254740993,"b":-1,"c":1.5,"d":18446744073709551615}"#).unwrap();
        assert_eq!(members.get("a"), Some(&Json::Integer(9_007_199_254_740_993)));
        assert_eq!(members.get("b"), Some(&Json::Integer(-1)));
        assert_eq!(members.get("c"), Some(&Json::Decimal(1.5)));
        assert_eq!(members.get("d"), Some(&Json::Decimal(18_446_744_073_709_551_615.0)));
    }

    #[test]
    fn refuses_more_than_sixteen_levels() {
        let nested = |depth: usize| format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
        assert!(accepts(&nested(usize::from(DEPTH_MAX) - 1)));
        assert!(!accepts(&nested(usize::from(DEPTH_MAX))));
    }

    #[test]
    fn refuses_an_object_with_too_many_members() {
        let wide = |count: usize| {
            let members: Vec<String> = (0..count).map(|index| format!("\"{index}\":0")).collect();
            format!("{{{}}}", members.join(","))
        };
        assert!(accepts(&wide(MEMBERS_MAX)));
        assert!(!accepts(&wide(MEMBERS_MAX + 1)));
    }

    #[test]
    fn null_counts_as_absent_where_asked() {
        let members = Members::parse(br#"{"a":null}"#).unwrap();
        assert_eq!(members.get("a"), Some(&Json::Null));
        assert_eq!(members.present("a"), None);
    }
}
