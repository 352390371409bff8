//! Server-sent events, taken apart as they come (WHATWG HTML §9.2): nothing is kept but where in a line we are.

const BOM: &[u8] = b"\xef\xbb\xbf";
/// The one field that is read: what an event is called, its JSON says as well.
const FIELD: &[u8] = b"data";

/// What a piece of a stream holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part<'p> {
    /// The next bytes of an event's text.
    Text(&'p [u8]),
    /// The event is over.
    End,
}

/// Splits a stream into the texts of its events.
#[derive(Debug)]
pub(crate) struct Events {
    place: Place,
    /// The event has had a line of text: the next is joined to it by a line feed.
    texted: bool,
}

#[derive(Clone, Copy, Debug)]
enum Place {
    /// At the start of the stream, after so many bytes of a byte order mark.
    Mark(usize),
    /// In the name of a field, after so many bytes of ours.
    Name(usize),
    /// After the colon.
    Gap,
    Text,
    /// In a line that is not ours.
    Other,
    /// After a carriage return, whose line feed belongs to it.
    Return,
}

impl Events {
    pub(crate) const fn new() -> Self {
        Self { place: Place::Mark(0), texted: false }
    }

    /// The next part of `piece`, which is shortened to what follows it.
    pub(crate) fn next<'p>(&mut self, piece: &mut &'p [u8]) -> Option<Part<'p>> {
        while let Some((&byte, rest)) = piece.split_first() {
            match self.place {
                Place::Mark(count) if BOM.get(count) == Some(&byte) => {
                    *piece = rest;
                    self.place = if count + 1 == BOM.len() { Place::Name(0) } else { Place::Mark(count + 1) };
                }
                Place::Mark(count) => self.place = if count == 0 { Place::Name(0) } else { Place::Other },
                Place::Return => {
                    self.place = Place::Name(0);
                    if byte == b'\n' {
                        *piece = rest;
                    }
                }
                Place::Name(count) => {
                    *piece = rest;
                    if let Some(part) = self.name(count, byte) {
                        return Some(part);
                    }
                }
                Place::Gap => {
                    self.place = Place::Text;
                    if byte == b' ' {
                        *piece = rest;
                    }
                    if let Some(part) = self.join() {
                        return Some(part);
                    }
                }
                Place::Text | Place::Other => {
                    let length = piece.iter().position(|byte| ends_line(*byte)).unwrap_or(piece.len());
                    let (line, rest) = piece.split_at_checked(length)?;
                    *piece = rest;
                    let ours = matches!(self.place, Place::Text);
                    if let Some((&end, rest)) = rest.split_first() {
                        *piece = rest;
                        self.end_line(end);
                    }
                    if ours && !line.is_empty() {
                        return Some(Part::Text(line));
                    }
                }
            }
        }
        None
    }

    fn name(&mut self, count: usize, byte: u8) -> Option<Part<'static>> {
        let ours = count == FIELD.len();
        if ends_line(byte) {
            self.end_line(byte);
            if count == 0 {
                self.texted = false;
                return Some(Part::End);
            }
            // A field without a colon has an empty value.
            return if ours { self.join() } else { None };
        }
        self.place = match byte {
            b':' if ours => Place::Gap,
            _ if FIELD.get(count) == Some(&byte) => Place::Name(count + 1),
            _ => Place::Other,
        };
        None
    }

    fn join(&mut self) -> Option<Part<'static>> {
        core::mem::replace(&mut self.texted, true).then_some(Part::Text(b"\n"))
    }

    fn end_line(&mut self, byte: u8) {
        self.place = if byte == b'\r' { Place::Return } else { Place::Name(0) };
    }
}

const fn ends_line(byte: u8) -> bool {
    matches!(byte, b'\r' | b'\n')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(stream: &[u8], size: usize) -> Vec<String> {
        let mut events = Events::new();
        let mut texts = Vec::new();
        let mut text = Vec::new();
        for mut piece in stream.chunks(size) {
            while let Some(part) = events.next(&mut piece) {
                match part {
                    Part::Text(bytes) => text.extend_from_slice(bytes),
                    Part::End => texts.push(String::from_utf8(std::mem::take(&mut text)).unwrap()),
                }
            }
        }
        texts
    }

    #[test]
    fn lines_are_read_as_the_standard_has_it() {
        let cases: [(&str, &[&str]); 13] = [
            ("data: a\n\n", &["a"]),
            ("data:a\r\rdata:  b\r\r", &["a", " b"]),
            ("data: a\r\n\r\ndata: b\r\n\r\n", &["a", "b"]),
            ("\u{feff}data: a\n\n", &["a"]),
            ("data: a\n\u{feff}data: b\n\n", &["a"]),
            ("data: a\ndata: b\n\n", &["a\nb"]),
            ("data\ndata\ndata: a\n\n", &["\n\na"]),
            ("data:\ndata:\n\n", &["\n"]),
            (": note\nevent: data\nid: 1\nretry: 5\ndata: a\n\n", &["a"]),
            ("datum: a\ndat: b\ndata2: c\n data: d\nData: e\n\n", &[""]),
            ("data: a: b\n\n", &["a: b"]),
            ("data: a", &[]),
            ("\n\n", &["", ""]),
        ];
        for (stream, want) in cases {
            for size in 1..=stream.len() {
                assert_eq!(texts(stream.as_bytes(), size), want, "{stream:?} in pieces of {size}");
            }
        }
    }
}
