//! The query: every spelling of a parameter out, the true one in.

use super::spelling;
use std::fmt::Write as _;

/// `query` without any parameter that may be read as `name`, and with `name=<id>` at its end. Every other parameter keeps its
/// bytes and its separator.
pub(super) fn force(query: Option<&str>, name: &str, id: &str) -> String {
    let query = query.unwrap_or_default();
    let mut forced = String::with_capacity(query.len().saturating_add(name.len()).saturating_add(id.len()).saturating_add(2));
    let mut rest = query;
    let (mut separator, mut kept) = (None, 0_usize);
    while !rest.is_empty() || separator.is_some() {
        let end = rest.find(['&', ';']).unwrap_or(rest.len());
        let (parameter, after) = rest.split_at(end);
        let key = parameter.split('=').next().unwrap_or_default();
        if !spelling::is_parameter(key.as_bytes(), name) {
            // The first one needs nothing before it.
            forced.extend(separator.filter(|_| kept > 0));
            forced.push_str(parameter);
            kept = kept.saturating_add(1);
        }
        let mut characters = after.chars();
        separator = characters.next();
        rest = characters.as_str();
    }
    if kept > 0 {
        forced.push('&');
    }
    forced.push_str(name);
    forced.push('=');
    escape(&mut forced, id);
    forced
}

/// Appends `text`, percent-encoded but for unreserved characters (RFC 3986 §2.3).
pub(super) fn escape(into: &mut String, text: &str) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            into.push(char::from(byte));
        } else {
            // Writing into a string cannot fail.
            write!(into, "%{byte:02X}").unwrap_or(());
        }
    }
}
