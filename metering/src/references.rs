//! What a body refers to and does not hold: at any depth, since texts, images and files stand deep in a request.

use core::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::object::{Name, Named};

/// Members that lead to a reference.
const NAMES: [&str; 6] = ["file_id", "file_url", "image_url", "source", "type", "url"];

/// The member by which `body` refers to input that it does not hold, if it has one: a file by its id or address, an image by its
/// address (`data:` holds it), an earlier item of a conversation. `Err` where it is nested deeper than any request.
pub(crate) fn reference(body: &[u8]) -> Result<Option<&'static str>, serde_json::Error> {
    let mut found = None;
    let mut source = serde_json::Deserializer::from_slice(body);
    Walk { expected: Expected::Anything, found: &mut found }.deserialize(&mut source)?;
    Ok(found)
}

/// What a value may be, by the member that it is of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Expected {
    Anything,
    /// Any text is a reference.
    Id(&'static str),
    /// Any text but `data:` is one, and so are addresses and ids in an object.
    Address(&'static str),
    /// Addresses and ids in an object are.
    Source,
    /// The kind of an item.
    Kind,
}

struct Walk<'f> {
    expected: Expected,
    found: &'f mut Option<&'static str>,
}

impl Walk<'_> {
    fn below(&mut self, expected: Expected) -> Walk<'_> {
        Walk { expected, found: self.found }
    }

    fn member(&self, name: &'static str) -> Expected {
        let within = matches!(self.expected, Expected::Address(_) | Expected::Source);
        match name {
            "file_id" | "file_url" => Expected::Id(name),
            "image_url" => Expected::Address(name),
            "url" if within => Expected::Address(name),
            "source" => Expected::Source,
            "type" => Expected::Kind,
            _ => Expected::Anything,
        }
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, source: D) -> Result<(), D::Error> {
        source.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key_seed(Name(&NAMES))? {
            let expected = match name {
                Named::Wanted(_, name) | Named::Miscased(name) => self.member(name),
                Named::Other => Expected::Anything,
            };
            map.next_value_seed(self.below(expected))?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(self.below(Expected::Anything))?.is_some() {}
        Ok(())
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        let name = match self.expected {
            Expected::Id(name) => Some(name),
            Expected::Address(name) if !text.starts_with("data:") => Some(name),
            Expected::Kind if text == "item_reference" => Some("item_reference"),
            Expected::Anything | Expected::Address(_) | Expected::Source | Expected::Kind => None,
        };
        *self.found = self.found.or(name);
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}
