//! Strict JSON objects: no member name twice at any depth, bounded depth and width, nothing after the end.
//! Ordinary parsers keep the last of two equal names; another reader may keep the first (RFC 8725 bis).

use core::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// Objects and arrays within each other, counting the outermost.
pub(crate) const DEPTH_MAX: u8 = 16;
/// Members of one object: the search for duplicates compares each with all.
pub(crate) const MEMBERS_MAX: usize = 128;

/// A JSON value without duplicate member names.
#[derive(Debug, PartialEq)]
pub(crate) enum Json {
    Null,
    Bool(bool),
    Integer(i64),
    /// Any other number; finite.
    Decimal(f64),
    Text(Box<str>),
    Array(Vec<Json>),
    Object(Members),
}

impl Json {
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
pub(crate) struct Members(Vec<(Box<str>, Json)>);

impl Members {
    /// Parses a text that is one object and nothing else.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let mut source = serde_json::Deserializer::from_slice(bytes);
        let value = Strict { depth_left: DEPTH_MAX }.deserialize(&mut source).ok()?;
        source.end().ok()?;
        if let Json::Object(members) = value { Some(members) } else { None }
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Json> {
        self.0.iter().find(|(known, _)| **known == *name).map(|(_, value)| value)
    }

    /// As [`Members::get`]; a `null` counts as absent.
    pub(crate) fn present(&self, name: &str) -> Option<&Json> {
        self.get(name).filter(|value| **value != Json::Null)
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
    type Value = Json;

    fn deserialize<D: Deserializer<'de>>(self, source: D) -> Result<Json, D::Error> {
        source.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Json;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value without duplicate member names")
    }

    fn visit_unit<E: Error>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Json, E> {
        Ok(Json::Integer(value))
    }

    #[expect(clippy::cast_precision_loss, reason = "such a number is in no claim that we accept")]
    fn visit_u64<E: Error>(self, value: u64) -> Result<Json, E> {
        Ok(i64::try_from(value).map_or(Json::Decimal(value as f64), Json::Integer))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Json, E> {
        if value.is_finite() { Ok(Json::Decimal(value)) } else { Err(E::custom("not finite")) }
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Json, E> {
        Ok(Json::Text(value.into()))
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Json, E> {
        Ok(Json::Text(value.into_boxed_str()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut source: A) -> Result<Json, A::Error> {
        let inner = self.inner()?;
        let mut values = Vec::new();
        while let Some(value) = source.next_element_seed(inner)? {
            values.push(value);
        }
        Ok(Json::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut source: A) -> Result<Json, A::Error> {
        let inner = self.inner()?;
        let mut members = Members::default();
        while let Some(name) = source.next_key::<Box<str>>()? {
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
