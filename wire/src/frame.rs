//! The envelope of everything that travels: magic, version, length, payload in postcard.
//!
//! Postcard does not describe itself, so a reader must know the version before it reads a byte. A version that is not
//! known is refused by name; during an upgrade the control plane is upgraded first and answers in the caller's version.

use serde::{Serialize, de::DeserializeOwned};

/// Media type of a policy bundle.
pub const MEDIA_TYPE_BUNDLE: &str = "application/vnd.plant-gateway.bundle";
/// Media type of a sync call and of its answer.
pub const MEDIA_TYPE_SYNC: &str = "application/vnd.plant-gateway.sync";

/// The version of the format that this build speaks.
pub const VERSION: u16 = 1;

const MAGIC: [u8; 4] = *b"PGW1";
const HEADER: usize = 10;

/// Why bytes are not a frame of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// They do not start like one.
    #[error("not a plant-gateway frame")]
    Magic,
    /// Another version.
    #[error("frame version {found} is not {VERSION}")]
    Version {
        /// The version found.
        found: u16,
    },
    /// Cut off, or with a tail.
    #[error("the frame says {said} bytes and has {found}")]
    Length {
        /// What the header says.
        said: usize,
        /// What is there.
        found: usize,
    },
    /// The payload does not fit the type.
    #[error("the payload cannot be read")]
    Payload(#[source] postcard::Error),
}

/// Writes a frame.
///
/// # Errors
/// The value cannot be serialised, or is larger than 4 GiB.
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, FrameError> {
    let mut bytes = Vec::with_capacity(256);
    bytes.extend(MAGIC);
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend([0; 4]);
    let mut bytes = postcard::to_extend(value, bytes).map_err(FrameError::Payload)?;
    let length = u32::try_from(bytes.len().saturating_sub(HEADER)).map_err(|_| FrameError::Length { said: 0, found: bytes.len() })?;
    if let Some(place) = bytes.get_mut(6..HEADER) {
        place.copy_from_slice(&length.to_le_bytes());
    }
    Ok(bytes)
}

/// A frame and what follows it.
///
/// # Errors
/// The bytes do not begin with a whole frame.
pub fn split(bytes: &[u8]) -> Result<(&[u8], &[u8]), FrameError> {
    let header = bytes.first_chunk::<HEADER>().ok_or(FrameError::Magic)?;
    let [m0, m1, m2, m3, _, _, l0, l1, l2, l3] = *header;
    if [m0, m1, m2, m3] != MAGIC {
        return Err(FrameError::Magic);
    }
    let said = usize::try_from(u32::from_le_bytes([l0, l1, l2, l3])).unwrap_or(usize::MAX);
    let whole = said.checked_add(HEADER).and_then(|end| bytes.split_at_checked(end));
    whole.ok_or(FrameError::Length { said, found: bytes.len().saturating_sub(HEADER) })
}

/// Reads a frame.
///
/// # Errors
/// The bytes are not a whole frame of this version and type.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, FrameError> {
    let (header, payload) = bytes.split_first_chunk::<HEADER>().ok_or(FrameError::Magic)?;
    let [m0, m1, m2, m3, v0, v1, l0, l1, l2, l3] = *header;
    if [m0, m1, m2, m3] != MAGIC {
        return Err(FrameError::Magic);
    }
    let found = u16::from_le_bytes([v0, v1]);
    if found != VERSION {
        return Err(FrameError::Version { found });
    }
    let said = usize::try_from(u32::from_le_bytes([l0, l1, l2, l3])).unwrap_or(usize::MAX);
    if said != payload.len() {
        return Err(FrameError::Length { said, found: payload.len() });
    }
    match postcard::take_from_bytes(payload) {
        Ok((value, [])) => Ok(value),
        Ok((_, rest)) => Err(FrameError::Length { said: payload.len() - rest.len(), found: payload.len() }),
        Err(error) => Err(FrameError::Payload(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_every_truncation_tail_and_other_version() {
        let bytes = encode(&("text", 7_u64)).unwrap();
        assert_eq!(decode::<(String, u64)>(&bytes), Ok(("text".into(), 7)));
        for length in 0..bytes.len() {
            assert!(decode::<(String, u64)>(&bytes[..length]).is_err());
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert!(decode::<(String, u64)>(&longer).is_err());
        let mut newer = bytes;
        newer[4] = 2;
        assert_eq!(decode::<(String, u64)>(&newer), Err(FrameError::Version { found: 2 }));
    }
}
