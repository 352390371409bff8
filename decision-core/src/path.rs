//! The canonical path: accepted as it is, or refused. Never repaired, so that the backend sees what was authorised.

/// A request target split at the first `?`, whose path is in canonical form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CanonicalPath<'r> {
    path: &'r str,
    query: Option<&'r str>,
}

impl<'r> CanonicalPath<'r> {
    /// Longest accepted target, in bytes.
    pub const LENGTH_MAX: usize = 8_192;

    /// Checks the value of `:path`.
    ///
    /// Canonical means: starts with one `/`; no `//`, `.` or `..` segment; no `;` or `\`; no control, space or
    /// non-ASCII byte; every escape is well formed, and stands for a byte that has to be escaped and is not one of
    /// `/ \ . ; %` or a control; the escaped text is UTF-8 (RFC 3986 §6.2.2, and the traps in which Envoy, proxies
    /// and frameworks are known to disagree).
    ///
    /// # Errors
    /// What makes the path ambiguous.
    pub fn parse(target: &'r [u8]) -> Result<Self, AmbiguousPath> {
        if target.len() > Self::LENGTH_MAX {
            return Err(AmbiguousPath::TooLong);
        }
        let mut halves = target.splitn(2, |byte| *byte == b'?');
        let path = halves.next().unwrap_or_default();
        let query = halves.next();
        check_path(path)?;
        if let Some(query) = query {
            check_query(query)?;
        }
        let text = |bytes: &'r [u8]| core::str::from_utf8(bytes).map_err(|_| AmbiguousPath::ForbiddenByte);
        Ok(Self { path: text(path)?, query: query.map(text).transpose()? })
    }

    /// The path without the query.
    #[must_use]
    pub const fn path(self) -> &'r str {
        self.path
    }

    /// The query without `?`, if there was one.
    #[must_use]
    pub const fn query(self) -> Option<&'r str> {
        self.query
    }
}

fn check_path(path: &[u8]) -> Result<(), AmbiguousPath> {
    if path.first() != Some(&b'/') {
        return Err(AmbiguousPath::NotAbsolute);
    }
    let mut rest = path;
    let mut utf8 = Utf8State::default();
    let mut segment_start = true;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        let starts_segment = core::mem::replace(&mut segment_start, byte == b'/');
        match byte {
            b'/' if starts_segment && after.len() + 1 != path.len() => return Err(AmbiguousPath::EmptySegment),
            b'.' if starts_segment && is_dot_segment(after) => return Err(AmbiguousPath::DotSegment),
            b'%' => {
                let (escaped, after) = unescape(after)?;
                rest = after;
                check_escaped(escaped)?;
                utf8.push(escaped)?;
                continue;
            }
            b';' | b'\\' => return Err(AmbiguousPath::ForbiddenByte),
            0x21..=0x7e if !matches!(byte, b'#' | b'"' | b'<' | b'>' | b'^' | b'`' | b'{' | b'|' | b'}') => {}
            _ => return Err(AmbiguousPath::ForbiddenByte),
        }
        utf8.boundary()?;
    }
    utf8.boundary()
}

fn check_query(query: &[u8]) -> Result<(), AmbiguousPath> {
    if query.iter().all(|byte| matches!(byte, 0x21..=0x7e) && *byte != b'#') { Ok(()) } else { Err(AmbiguousPath::ForbiddenByte) }
}

/// `after` follows a `.` that starts a segment.
fn is_dot_segment(after: &[u8]) -> bool {
    match after.first() {
        None | Some(b'/') => true,
        Some(b'.') => matches!(after.get(1), None | Some(b'/')),
        Some(_) => false,
    }
}

fn unescape(after: &[u8]) -> Result<(u8, &[u8]), AmbiguousPath> {
    let digit = |index: usize| after.get(index).and_then(|byte| char::from(*byte).to_digit(16));
    let (high, low) = digit(0).zip(digit(1)).ok_or(AmbiguousPath::BadEscape)?;
    let byte = u8::try_from(high * 16 + low).map_err(|_| AmbiguousPath::BadEscape)?;
    Ok((byte, after.get(2..).unwrap_or_default()))
}

fn check_escaped(byte: u8) -> Result<(), AmbiguousPath> {
    match byte {
        b'/' | b'\\' | b'.' | b';' | b'%' | 0x00..=0x1f | 0x7f => Err(AmbiguousPath::ForbiddenEscape),
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'~' => Err(AmbiguousPath::NeedlessEscape),
        _ => Ok(()),
    }
}

/// Checks escaped bytes for UTF-8 without collecting them (RFC 3629 §4).
#[derive(Default)]
struct Utf8State {
    pending: u8,
    low: u8,
    high: u8,
}

impl Utf8State {
    fn push(&mut self, byte: u8) -> Result<(), AmbiguousPath> {
        if self.pending > 0 {
            if byte < self.low || byte > self.high {
                return Err(AmbiguousPath::NotUtf8);
            }
            *self = Self { pending: self.pending - 1, low: 0x80, high: 0xbf };
            return Ok(());
        }
        let (pending, low, high) = match byte {
            0x00..=0x7f => (0, 0, 0),
            0xc2..=0xdf => (1, 0x80, 0xbf),
            0xe0 => (2, 0xa0, 0xbf),
            0xed => (2, 0x80, 0x9f),
            0xe1..=0xef => (2, 0x80, 0xbf),
            0xf0 => (3, 0x90, 0xbf),
            0xf1..=0xf3 => (3, 0x80, 0xbf),
            0xf4 => (3, 0x80, 0x8f),
            _ => return Err(AmbiguousPath::NotUtf8),
        };
        *self = Self { pending, low, high };
        Ok(())
    }

    fn boundary(&self) -> Result<(), AmbiguousPath> {
        if self.pending == 0 { Ok(()) } else { Err(AmbiguousPath::NotUtf8) }
    }
}

/// What makes a path ambiguous.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum AmbiguousPath {
    /// It does not start with `/`.
    #[error("the path does not start with `/`")]
    NotAbsolute,
    /// It is too long.
    #[error("the path is longer than {} bytes", CanonicalPath::LENGTH_MAX)]
    TooLong,
    /// It contains `//`.
    #[error("the path has an empty segment")]
    EmptySegment,
    /// It has a `.` or `..` segment.
    #[error("the path has a dot segment")]
    DotSegment,
    /// A byte that paths may not have, or `;` or `\`.
    #[error("the path has a byte that is not allowed")]
    ForbiddenByte,
    /// `%` without two hexadecimal digits.
    #[error("the path has a malformed escape")]
    BadEscape,
    /// An escaped `/ \ . ; %` or control.
    #[error("the path has an escape that is not allowed")]
    ForbiddenEscape,
    /// An escape of a character that needs none.
    #[error("the path has an escape that is not needed")]
    NeedlessEscape,
    /// The escapes are not UTF-8.
    #[error("the path is not UTF-8")]
    NotUtf8,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_what_has_one_reading() {
        for path in ["/", "/a", "/a/b.c", "/a/", "/a%20b", "/caf%C3%A9", "/a?x=//../%2e", "/a:b@c!$&'()*+,=-_~", "/..a", "/a..", "/.a"] {
            assert_eq!(CanonicalPath::parse(path.as_bytes()).map(|_| ()), Ok(()), "{path}");
        }
        let split = CanonicalPath::parse(b"/a?b?c").unwrap();
        assert_eq!((split.path(), split.query()), ("/a", Some("b?c")));
    }

    #[test]
    fn refuses_what_has_two() {
        use AmbiguousPath::*;
        for (path, fault) in [
            ("", NotAbsolute),
            ("a", NotAbsolute),
            ("*", NotAbsolute),
            ("//", EmptySegment),
            ("//a", EmptySegment),
            ("/a//b", EmptySegment),
            ("/a//", EmptySegment),
            ("/.", DotSegment),
            ("/..", DotSegment),
            ("/a/./b", DotSegment),
            ("/a/../b", DotSegment),
            ("/a/..", DotSegment),
            ("/a;b", ForbiddenByte),
            ("/a\\b", ForbiddenByte),
            ("/a b", ForbiddenByte),
            ("/a#b", ForbiddenByte),
            ("/a\u{e9}", ForbiddenByte),
            ("/a%", BadEscape),
            ("/a%2", BadEscape),
            ("/a%zz", BadEscape),
            ("/a%2fb", ForbiddenEscape),
            ("/a%2Fb", ForbiddenEscape),
            ("/%2e%2e/b", ForbiddenEscape),
            ("/a%5cb", ForbiddenEscape),
            ("/a%3bb", ForbiddenEscape),
            ("/a%252e", ForbiddenEscape),
            ("/a%00", ForbiddenEscape),
            ("/a%7f", ForbiddenEscape),
            ("/%61", NeedlessEscape),
            ("/a%7E", NeedlessEscape),
            ("/a%c0%af", NotUtf8),
            ("/a%e9", NotUtf8),
            ("/a%ed%a0%80", NotUtf8),
            ("/a?b\u{7f}", ForbiddenByte),
        ] {
            assert_eq!(CanonicalPath::parse(path.as_bytes()).map(|_| ()), Err(fault), "{path}");
        }
    }
}
