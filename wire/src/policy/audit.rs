//! What records hold, and how surely requests have them, as operators write it.

use serde::de::{self, MapAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// What audit records hold beyond what all of them do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "sources", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Audit {
    /// Headers of requests that are recorded, in lower case; at most 16. None that carries a credential.
    pub request_headers: Vec<String>,
    /// The same of answers.
    pub response_headers: Vec<String>,
    /// Parameters of the query that are recorded, under their decoded names; at most 16. None that carries a credential.
    pub query_parameters: Vec<String>,
    /// How records name a user.
    pub identities: Identities,
    /// Whether records have the `email` claim.
    pub email: EmailRecording,
    /// With `identities: hashed`: the name of the secret whose bytes are the key of the hashes, 32 of them at least.
    pub hash_key: Option<String>,
    /// What happens when a worker can keep no more records until the control plane takes some.
    pub when_full: WhenFull,
}

/// How records name a user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "sources", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Identities {
    /// By the token's subject.
    #[default]
    Plain,
    /// By a keyed hash of it (HMAC-SHA-256), and so the email, if it is recorded. `user_id`, customer and agent stay as they are.
    Hashed,
}

/// Whether records have the `email` claim.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "sources", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum EmailRecording {
    #[default]
    Omitted,
    Recorded,
}

/// What happens when a worker can keep no more records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "sources", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum WhenFull {
    /// The oldest are dropped, and leave a gap.
    #[default]
    DropOldest,
    /// New requests get 503 before anything is reserved for them.
    Refuse,
}

/// How surely the requests of a route are recorded. In YAML `required`, `buffered` or `{sampled: N}`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "sources", derive(schemars::JsonSchema), schemars(rename_all = "snake_case"))]
pub enum AuditLevel {
    /// That a request is about to be forwarded is stored before it is. While that cannot be, it gets 503.
    Required,
    /// Each has a record, which is stored within seconds.
    #[default]
    Buffered,
    /// Of so many requests that went well one has a record, 2 to 10,000; refusals and answers from 500 on have one each. Not on
    /// routes that are charged, need an approval, or are opened by a registration key.
    Sampled(u32),
}

/// The same for formats that do not describe themselves. Those that do are read by people, and YAML would want a tag.
#[derive(Serialize, Deserialize)]
enum Compact {
    Required,
    Buffered,
    Sampled(u32),
}

impl Serialize for AuditLevel {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match (self, serializer.is_human_readable()) {
            (Self::Required, true) => serializer.serialize_str("required"),
            (Self::Buffered, true) => serializer.serialize_str("buffered"),
            (Self::Sampled(of), true) => serializer.collect_map([("sampled", of)]),
            (Self::Required, false) => Compact::Required.serialize(serializer),
            (Self::Buffered, false) => Compact::Buffered.serialize(serializer),
            (Self::Sampled(of), false) => Compact::Sampled(*of).serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for AuditLevel {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            return deserializer.deserialize_any(Words);
        }
        Ok(match Compact::deserialize(deserializer)? {
            Compact::Required => Self::Required,
            Compact::Buffered => Self::Buffered,
            Compact::Sampled(of) => Self::Sampled(of),
        })
    }
}

struct Words;

impl<'de> Visitor<'de> for Words {
    type Value = AuditLevel;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("`required`, `buffered` or `{sampled: N}`")
    }

    fn visit_str<E: de::Error>(self, word: &str) -> Result<AuditLevel, E> {
        match word {
            "required" => Ok(AuditLevel::Required),
            "buffered" => Ok(AuditLevel::Buffered),
            "sampled" => Err(E::invalid_value(Unexpected::Str(word), &"`{sampled: N}`")),
            _ => Err(E::unknown_variant(word, &["required", "buffered", "sampled"])),
        }
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<AuditLevel, M::Error> {
        let Some(key) = map.next_key::<String>()? else { return Err(de::Error::missing_field("sampled")) };
        if key != "sampled" {
            return Err(de::Error::unknown_field(&key, &["sampled"]));
        }
        let of = map.next_value()?;
        match map.next_key::<String>()? {
            Some(other) => Err(de::Error::unknown_field(&other, &["sampled"])),
            None => Ok(AuditLevel::Sampled(of)),
        }
    }
}

#[cfg(all(test, feature = "sources"))]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_written_as_people_write_it_and_read_back_from_every_format() {
        for (level, yaml) in
            [(AuditLevel::Required, "required"), (AuditLevel::Buffered, "buffered"), (AuditLevel::Sampled(300), "sampled: 300")]
        {
            assert_eq!(serde_norway::to_string(&level).unwrap().trim(), yaml);
            assert_eq!(serde_norway::from_str::<AuditLevel>(yaml).unwrap(), level);
            let value = serde_norway::to_value(level).unwrap();
            assert_eq!(serde_norway::from_value::<AuditLevel>(value).unwrap(), level);
            let bytes = postcard::to_extend(&level, Vec::new()).unwrap();
            assert_eq!(postcard::from_bytes::<AuditLevel>(&bytes).unwrap(), level);
        }
    }

    #[test]
    fn what_is_no_level_is_refused_by_what_is_one() {
        let told = |yaml: &str| serde_norway::from_str::<AuditLevel>(yaml).unwrap_err().to_string();
        for (yaml, expected) in [
            ("always", "unknown variant `always`"),
            ("sampled", "expected `{sampled: N}`"),
            ("{}", "missing field `sampled`"),
            ("{sampled: 2, of: 3}", "unknown field `of`"),
            ("{sampled: -1}", "expected u32"),
            ("7", "expected `required`, `buffered` or `{sampled: N}`"),
            ("null", "expected `required`, `buffered` or `{sampled: N}`"),
        ] {
            assert!(told(yaml).contains(expected), "{yaml}: {}", told(yaml));
        }
    }
}
