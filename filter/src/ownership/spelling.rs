//! Under which spellings a backend may take a name for the owner's: a parser that is more forgiving than ours must not find
//! a second one.

/// Whether `raw`, the name of a query parameter as it was sent, may be read as `owner`.
///
/// Parsers differ in how often they decode, in whether letter case counts, in what they trim, in what ends a name (`[`, `.`,
/// NUL, an escaped `=`), and in what they take for `_` (PHP: `.`, space and `[`).
pub(super) fn is_parameter(raw: &[u8], owner: &str) -> bool {
    let decoded = decode_fully(raw);
    // Bytes that are no text may follow the end of a name, but are no part of ours.
    let text = String::from_utf8_lossy(trimmed(&decoded));
    let mut rest = text.chars();
    for expected in owner.chars() {
        if rest.next().is_none_or(|given| mangled(given) != mangled(expected)) {
            return false;
        }
    }
    let rest = rest.as_str();
    rest.starts_with(['\0', '[', '.', '=']) || rest.chars().all(is_blank)
}

/// Whether `key`, a decoded key of a JSON object, may be read as `owner`.
pub(super) fn is_key(key: &str, owner: &str) -> bool {
    let key = key.trim_matches(|character| character != '+' && is_blank(character));
    key.chars().map(folded).eq(owner.chars().map(folded))
}

fn trimmed(bytes: &[u8]) -> &[u8] {
    let blank = |byte: &u8| is_blank(char::from(*byte));
    let start = bytes.iter().position(|byte| !blank(byte)).unwrap_or(bytes.len());
    bytes.get(start..).unwrap_or_default()
}

/// Spaces and controls; `+` is a space in a query.
const fn is_blank(character: char) -> bool {
    matches!(character, '\0'..=' ' | '+' | '\u{7f}')
}

fn mangled(character: char) -> char {
    match character {
        '.' | '[' | ' ' | '+' => '_',
        other => folded(other),
    }
}

/// Letter case folded. The two letters outside ASCII that fold into it are taken along: Go's JSON decoder takes them for `s` and `k`.
const fn folded(character: char) -> char {
    match character {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        other => other.to_ascii_lowercase(),
    }
}

/// Percent-decoded until nothing is left to decode, in one pass: an escape that decoding has made is decoded as soon as it
/// is complete. `%u0063`, which some servers know, is decoded too where it stands for ASCII.
fn decode_fully(raw: &[u8]) -> Vec<u8> {
    let mut decoded: Vec<u8> = Vec::with_capacity(raw.len());
    for byte in raw {
        decoded.push(*byte);
        while let Some((length, byte)) = escape_at_end(&decoded) {
            decoded.truncate(decoded.len().saturating_sub(length));
            decoded.push(byte);
        }
    }
    decoded
}

/// How many bytes the escape at the end of `bytes` takes, and what it stands for.
fn escape_at_end(bytes: &[u8]) -> Option<(usize, u8)> {
    if let [.., b'%', high, low] = bytes {
        return Some((3, digit(*high)?.checked_mul(16)?.checked_add(digit(*low)?)?));
    }
    if let [.., b'%', b'u' | b'U', b'0', b'0', high, low] = bytes {
        let byte = digit(*high)?.checked_mul(16)?.checked_add(digit(*low)?)?;
        return byte.is_ascii().then_some((6, byte));
    }
    None
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decoding_until_nothing_is_left_is_what_decoding_once_and_again_comes_to() {
        let once = |bytes: &[u8]| {
            let (mut decoded, mut rest) = (Vec::new(), bytes);
            while let Some((byte, after)) = rest.split_first() {
                rest = after;
                match (byte, after) {
                    (b'%', [high, low, after @ ..]) if digit(*high).is_some() && digit(*low).is_some() => {
                        decoded.push(digit(*high).unwrap() * 16 + digit(*low).unwrap());
                        rest = after;
                    }
                    (byte, _) => decoded.push(*byte),
                }
            }
            decoded
        };
        for text in ["%61", "%2561", "%252561", "%%36%31", "%25%36%31", "a%2", "%zz%61", "%2%35%36%31", "%25252525", ""] {
            let mut expected = text.as_bytes().to_vec();
            for _ in 0..text.len() {
                expected = once(&expected);
            }
            assert_eq!(decode_fully(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn many_escapes_of_escapes_cost_one_pass() {
        let raw = ["%", &"25".repeat(2_730), "63ustomer_id"].concat();
        assert!(is_parameter(raw.as_bytes(), "customer_id"));
    }
}
