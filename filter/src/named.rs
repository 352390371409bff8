//! Headers and parameters that the policy names, for records. Nothing is looked at where it names none.

use crate::facts::RequestHeaders;
use crate::host::Host;
use decision_core::audit::Names;
use decision_core::facts::HeaderBlock;
use std::borrow::Cow;
use wire::audit::Named;

/// Longer values are cut.
const VALUE_BYTES_MAX: usize = 256;
/// Repeats are recorded each: at most so many values of headers, and of parameters.
const VALUES_MAX: usize = 64;
/// The longest name of a parameter that a policy may have.
const PARAMETER_BYTES_MAX: usize = 64;

/// A header of the answer, kept until the record is written.
pub(crate) type Kept = (Box<str>, Box<str>);

/// The named headers of a request, as the client sent them.
pub(crate) fn request_headers<'r>(names: &'r Names, headers: &'r RequestHeaders) -> Vec<Named<'r>> {
    if names.is_empty() {
        return Vec::new();
    }
    let found = headers.all().filter_map(|(name, value)| Some((names.find(name)?, value)));
    found.take(VALUES_MAX).map(|(name, value)| Named { name: Cow::Borrowed(name), value: clipped(value) }).collect()
}

/// The named headers of the answer: one host call.
pub(crate) fn response_headers(names: &Names, host: &impl Host) -> Vec<Kept> {
    if names.is_empty() {
        return Vec::new();
    }
    let block = host.response_headers().unwrap_or_default();
    let Ok(headers) = HeaderBlock::parse(&block) else { return Vec::new() };
    let found = headers.iter().filter_map(|(name, value)| Some((names.find(name)?, value)));
    found.take(VALUES_MAX).map(|(name, value)| (name.into(), clipped(value).into())).collect()
}

/// Those that were kept.
pub(crate) fn kept(headers: &[Kept]) -> Vec<Named<'_>> {
    headers.iter().map(|(name, value)| Named { name: Cow::Borrowed(name), value: Cow::Borrowed(value) }).collect()
}

/// The named parameters of a query, in its order. Values stay as they were sent. Whatever some backend takes for the end of a
/// value ends it here: what follows has another name.
pub(crate) fn parameters<'r>(names: &'r Names, target: &'r [u8]) -> Vec<Named<'r>> {
    if names.is_empty() {
        return Vec::new();
    }
    let Some(start) = target.iter().position(|byte| *byte == b'?') else { return Vec::new() };
    let query = target.get(start.saturating_add(1)..).unwrap_or_default();
    let query = query.split(|byte| *byte == b'#').next().unwrap_or_default();
    let found = query.split(|byte| matches!(byte, b'&' | b';')).filter_map(|parameter| {
        let mut parts = parameter.splitn(2, |byte| *byte == b'=');
        let name = find_decoded(names, parts.next()?)?;
        Some((name, parts.next().unwrap_or_default()))
    });
    found.take(VALUES_MAX).map(|(name, value)| Named { name: Cow::Borrowed(name), value: clipped(value) }).collect()
}

/// The name that `raw` is after one percent-decoding (RFC 3986 §2.1).
fn find_decoded<'n>(names: &'n Names, raw: &[u8]) -> Option<&'n str> {
    if !raw.contains(&b'%') {
        return names.find(raw);
    }
    let (mut decoded, mut length, mut rest) = ([0_u8; PARAMETER_BYTES_MAX], 0_usize, raw);
    while let Some((first, after)) = rest.split_first() {
        let escaped = after.split_first_chunk::<2>().filter(|_| *first == b'%');
        let escaped = escaped.and_then(|([high, low], after)| Some((digit(*high)? << 4 | digit(*low)?, after)));
        let (byte, after) = escaped.unwrap_or((*first, after));
        *decoded.get_mut(length)? = byte;
        (length, rest) = (length + 1, after);
    }
    names.find(decoded.get(..length)?)
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// A value as text, cut between two characters.
fn clipped(value: &[u8]) -> Cow<'_, str> {
    let cut = value.get(..VALUE_BYTES_MAX).unwrap_or(value);
    match std::str::from_utf8(cut) {
        Ok(text) => Cow::Borrowed(text),
        Err(fault) if fault.error_len().is_none() && cut.len() < value.len() => {
            String::from_utf8_lossy(cut.get(..fault.valid_up_to()).unwrap_or_default())
        }
        Err(_) => {
            let mut text = String::from_utf8_lossy(cut).into_owned();
            text.truncate(text.floor_char_boundary(VALUE_BYTES_MAX));
            Cow::Owned(text)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_cut_between_characters_and_what_is_no_text_is_replaced() {
        assert_eq!(clipped(b"short"), "short");
        assert_eq!(clipped(&[b'a'; 300]).len(), 256);
        let umlauts = format!("a{}", "ü".repeat(200));
        assert_eq!(clipped(umlauts.as_bytes()), format!("a{}", "ü".repeat(127)));
        assert_eq!(clipped(b"a\xffb"), "a\u{fffd}b");
        assert!(clipped(&[0xff; 300]).len() <= 256);
        // A character that the client has cut is none.
        assert_eq!(clipped(b"a\xc3"), "a\u{fffd}");
    }
}
