//! Members of a JSON object by name. What two readers could understand differently is refused.

use core::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Why the members of an object cannot be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unclear {
    /// Not one JSON object.
    NotObject,
    /// This name stands there twice.
    Repeated(&'static str),
    /// This name stands there with other letters that some readers take for the same.
    Miscased(&'static str),
}

/// The values of these members of the object that `text` is; `null` counts as absent.
pub(crate) fn members<'t, const N: usize>(text: &'t [u8], names: [&'static str; N]) -> Result<[Option<&'t RawValue>; N], Unclear> {
    let mut values = [None; N];
    let mut fault = Unclear::NotObject;
    let mut source = serde_json::Deserializer::from_slice(text);
    source
        .deserialize_map(Members { names: &names, values: &mut values, fault: &mut fault })
        .and_then(|()| source.end())
        .map_err(|_| fault)?;
    Ok(values.map(|value| value.filter(|value: &&RawValue| value.get() != "null")))
}

struct Members<'m, 't> {
    names: &'m [&'static str],
    values: &'m mut [Option<&'t RawValue>],
    fault: &'m mut Unclear,
}

impl<'t> Visitor<'t> for Members<'_, 't> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'t>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key_seed(Name(self.names))? {
            let value: &'t RawValue = map.next_value()?;
            let fault = match name {
                Named::Other => continue,
                Named::Miscased(name) => Unclear::Miscased(name),
                Named::Wanted(index, name) => match self.values.get_mut(index) {
                    Some(place @ None) => {
                        *place = Some(value);
                        continue;
                    }
                    Some(Some(_)) | None => Unclear::Repeated(name),
                },
            };
            *self.fault = fault;
            return Err(A::Error::custom("unclear"));
        }
        Ok(())
    }
}

/// The name of a member, among those that are wanted.
pub(crate) enum Named {
    Wanted(usize, &'static str),
    Miscased(&'static str),
    Other,
}

/// Reads a name without keeping it: only escapes make the parser copy.
pub(crate) struct Name<'n>(pub(crate) &'n [&'static str]);

impl<'de> DeserializeSeed<'de> for Name<'_> {
    type Value = Named;

    fn deserialize<D: Deserializer<'de>>(self, source: D) -> Result<Named, D::Error> {
        source.deserialize_str(self)
    }
}

impl Visitor<'_> for Name<'_> {
    type Value = Named;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a name")
    }

    fn visit_str<E>(self, given: &str) -> Result<Named, E> {
        let found = self.0.iter().enumerate().find(|(_, name)| folded(given).eq(name.chars()));
        Ok(match found {
            Some((index, name)) if *name == given => Named::Wanted(index, name),
            Some((_, name)) => Named::Miscased(name),
            None => Named::Other,
        })
    }
}

/// As readers compare names that do not look at case, such as Go's: two letters beyond ASCII have ASCII ones as
/// their lower case. The names that are wanted are in lower case.
fn folded(name: &str) -> impl Iterator<Item = char> {
    name.chars().map(|letter| match letter {
        'ſ' => 's',
        '\u{212a}' => 'k',
        letter => letter.to_ascii_lowercase(),
    })
}

/// A JSON string.
pub(crate) fn string(value: &RawValue) -> Option<String> {
    serde_json::from_str(value.get()).ok()
}

/// A JSON number that is written as digits alone, and fits.
pub(crate) fn integer(value: &RawValue) -> Option<u64> {
    value.get().parse().ok()
}

/// A JSON `true` or `false`.
pub(crate) fn boolean(value: &RawValue) -> Option<bool> {
    value.get().parse().ok()
}
