//! What can be seen of a module without parsing it. The parser takes exponential time on deeply nested literals and the
//! interpreter overflows the stack, so this comes first.

use crate::PolicyFault;

/// All modules together, tests and data apart.
pub(crate) const BYTES_MAX: usize = 256 * 1_024;
/// One module is parsed in one tick of a worker.
pub(crate) const MODULE_BYTES_MAX: usize = 64 * 1_024;
/// Modules of one policy, tests apart.
pub(crate) const MODULES_MAX: usize = 64;
/// Brackets within brackets.
const NESTING_MAX: usize = 6;
/// Tests give whole inputs and what they want of them.
const NESTING_OF_TESTS_MAX: usize = 10;
const LINE_BYTES_MAX: usize = 1_024;
/// Digits of one number.
const DIGITS_MAX: usize = 32;

/// What a module is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Rules,
    Tests,
}

/// Size, line length, nesting, and numbers that are no sensible ones.
pub(crate) fn check(file: &str, text: &str, kind: Kind) -> Result<(), PolicyFault> {
    let fault = |line: Option<usize>, message: String| PolicyFault {
        file: Some(file.into()),
        line,
        field: None,
        message,
        ..PolicyFault::default()
    };
    if text.len() > MODULE_BYTES_MAX {
        return Err(fault(None, format!("the module has {} bytes; at most {MODULE_BYTES_MAX} are allowed", text.len())));
    }
    if let Some(line) = text.lines().position(|line| line.len() > LINE_BYTES_MAX) {
        return Err(fault(Some(line.saturating_add(1)), format!("the line has more than {LINE_BYTES_MAX} bytes")));
    }
    let nesting_max = match kind {
        Kind::Rules => NESTING_MAX,
        Kind::Tests => NESTING_OF_TESTS_MAX,
    };
    scan(text, nesting_max).map_err(|(line, message)| fault(Some(line), message))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Within {
    Code,
    Comment,
    Text,
    RawText,
}

/// The first line that is nested too deeply or has too long a number.
fn scan(text: &str, nesting_max: usize) -> Result<(), (usize, String)> {
    let (mut within, mut depth, mut line, mut digits, mut escaped) = (Within::Code, 0_usize, 1_usize, 0_usize, false);
    for byte in text.bytes() {
        digits = if within == Within::Code && (byte.is_ascii_digit() || byte == b'_' && digits > 0) { digits.saturating_add(1) } else { 0 };
        match (within, byte) {
            (Within::Code, b'#') => within = Within::Comment,
            (Within::Code, b'"') => within = Within::Text,
            (Within::Code, b'`') => within = Within::RawText,
            (Within::Code, b'(' | b'[' | b'{') => depth = depth.saturating_add(1),
            (Within::Code, b')' | b']' | b'}') => depth = depth.saturating_sub(1),
            (Within::Text, b'\\') if !escaped => {
                escaped = true;
                continue;
            }
            (Within::Text, b'"') if !escaped => within = Within::Code,
            (Within::RawText, b'`') => within = Within::Code,
            // A text ends with its line at the latest; that it does is the parser's to refuse.
            (Within::Comment | Within::Text, b'\n') => within = Within::Code,
            (Within::Code | Within::Comment | Within::Text | Within::RawText, _) => {}
        }
        escaped = false;
        if byte == b'\n' {
            line = line.saturating_add(1);
        }
        if depth > nesting_max {
            return Err((line, format!("brackets are nested more than {nesting_max} deep")));
        }
        if digits > DIGITS_MAX {
            return Err((line, format!("a number has more than {DIGITS_MAX} digits")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(text: &str) -> Option<(Option<usize>, String)> {
        check("a.rego", text, Kind::Rules).err().map(|fault| (fault.line, fault.message))
    }

    #[test]
    fn brackets_in_texts_and_comments_do_not_count() {
        let texts = "x := \"[[[[[[[[\\\"[[[\" # [[[[[[[[\ny := `[[[[[\n[[[[`\nz := [[[[[[1]]]]]]\n";
        assert_eq!(fault(texts), None);
        assert_eq!(fault("\nz := [[[[[[[1]]]]]]]\n"), Some((Some(2), "brackets are nested more than 6 deep".into())));
        assert_eq!(fault("x := \"\\\\\" [[[[[[["), Some((Some(1), "brackets are nested more than 6 deep".into())));
    }

    #[test]
    fn long_lines_and_numbers_are_refused() {
        assert_eq!(fault(&"x".repeat(1_025)), Some((Some(1), "the line has more than 1024 bytes".into())));
        assert_eq!(fault(&format!("\nx := {}", "9".repeat(33))), Some((Some(2), "a number has more than 32 digits".into())));
        assert_eq!(fault(&format!("x := \"{}\"", "9".repeat(33))), None);
    }
}
