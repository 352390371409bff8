//! JSON, read as it comes: the values of a few members near the top are kept, all else is only followed.
//!
//! Strict (RFC 8259), so that no text is understood here that a client would refuse; but bytes beyond ASCII are not
//! looked at: they stand in strings alone, and cannot end one.

/// Objects and arrays within each other, counting the outermost: one bit each.
const DEPTH_MAX: u32 = u128::BITS;
/// The longest way to write a name that is looked for: all of `response` in escapes.
const NAME_BYTES_MAX: usize = 8 * r"\u0000".len();

/// A member that is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Kind,
    Model,
    Choices,
    Usage,
    /// The object whose members are looked for as well.
    Inner,
    InnerUsage,
}

/// Which members are looked for: in the object itself, and in the one that is [`Place::Inner`].
#[derive(Debug)]
pub(crate) struct Layout {
    pub(crate) outer: &'static [(&'static str, Place)],
    pub(crate) inner: &'static [(&'static str, Place)],
}

/// What was found at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found<'s> {
    Absent,
    /// It has not ended yet, or is longer than what is kept.
    Unread,
    /// Without blanks between its tokens.
    Value(&'s [u8]),
}

/// A value that is kept.
#[derive(Debug)]
struct Slot {
    text: Vec<u8>,
    bytes_max: usize,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Absent,
    Open,
    Overlong,
    Closed,
}

impl Slot {
    const fn new(bytes_max: usize) -> Self {
        Self { text: Vec::new(), bytes_max, stage: Stage::Absent }
    }

    fn clear(&mut self) {
        self.text.clear();
        self.stage = Stage::Absent;
    }

    fn keep(&mut self, bytes: &[u8]) {
        if self.text.len() + bytes.len() > self.bytes_max {
            self.stage = Stage::Overlong;
        }
        if self.stage == Stage::Open {
            self.text.extend_from_slice(bytes);
        }
    }

    fn close(&mut self) {
        if self.stage == Stage::Open {
            self.stage = Stage::Closed;
        }
    }

    fn found(&self) -> Found<'_> {
        match self.stage {
            Stage::Absent => Found::Absent,
            Stage::Open | Stage::Overlong => Found::Unread,
            Stage::Closed => Found::Value(&self.text),
        }
    }
}

#[derive(Debug)]
struct Slots {
    kind: Slot,
    model: Slot,
    choices: Slot,
    usage: Slot,
    inner: Slot,
    inner_usage: Slot,
}

impl Slots {
    const fn new() -> Self {
        Self {
            // All of it in escapes, and quotes.
            kind: Slot::new("response.incomplete".len() * 6 + 2),
            // 128 bytes, each written as an escape, and quotes.
            model: Slot::new(128 * 6 + 2),
            // Whether it is empty is all that counts: `[]` or `null`.
            choices: Slot::new(4),
            usage: Slot::new(16 << 10),
            inner: Slot::new(0),
            inner_usage: Slot::new(16 << 10),
        }
    }

    const fn at(&self, place: Place) -> &Slot {
        match place {
            Place::Kind => &self.kind,
            Place::Model => &self.model,
            Place::Choices => &self.choices,
            Place::Usage => &self.usage,
            Place::Inner => &self.inner,
            Place::InnerUsage => &self.inner_usage,
        }
    }

    const fn at_mut(&mut self, place: Place) -> &mut Slot {
        match place {
            Place::Kind => &mut self.kind,
            Place::Model => &mut self.model,
            Place::Choices => &mut self.choices,
            Place::Usage => &mut self.usage,
            Place::Inner => &mut self.inner,
            Place::InnerUsage => &mut self.inner_usage,
        }
    }

    fn clear(&mut self) {
        for slot in [&mut self.kind, &mut self.model, &mut self.choices, &mut self.usage, &mut self.inner, &mut self.inner_usage] {
            slot.clear();
        }
    }
}

/// Where in the grammar the next byte stands.
#[derive(Clone, Copy, Debug)]
enum State {
    Start,
    Value,
    /// After `[`.
    ValueOrEnd,
    /// After `,` in an object.
    Name,
    /// After `{`.
    NameOrEnd,
    Colon,
    /// After a value: a comma, or the end of what it is in.
    Next,
    Text(Role, Escape),
    /// What is left of `true`, `false` or `null`.
    Literal(&'static [u8]),
    Number(Number),
    Whole,
    Broken,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Name,
    Value,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Escape {
    None,
    /// After the backslash.
    Begun,
    /// So many hexadecimal digits are missing.
    Digits(u8),
}

/// How far a number has come.
#[derive(Clone, Copy, Debug)]
enum Number {
    Minus,
    Zero,
    Integer,
    Point,
    Fraction,
    Exponent,
    ExponentSign,
    ExponentDigits,
}

impl Number {
    const fn begin(byte: u8) -> Option<Self> {
        match byte {
            b'-' => Some(Self::Minus),
            b'0' => Some(Self::Zero),
            b'1'..=b'9' => Some(Self::Integer),
            _ => None,
        }
    }

    #[inline]
    const fn with(self, byte: u8) -> Option<Self> {
        match (self, byte) {
            (Self::Minus, b'0') => Some(Self::Zero),
            (Self::Minus, b'1'..=b'9') | (Self::Integer, b'0'..=b'9') => Some(Self::Integer),
            (Self::Zero | Self::Integer, b'.') => Some(Self::Point),
            (Self::Point | Self::Fraction, b'0'..=b'9') => Some(Self::Fraction),
            (Self::Zero | Self::Integer | Self::Fraction, b'e' | b'E') => Some(Self::Exponent),
            (Self::Exponent, b'+' | b'-') => Some(Self::ExponentSign),
            (Self::Exponent | Self::ExponentSign | Self::ExponentDigits, b'0'..=b'9') => Some(Self::ExponentDigits),
            _ => None,
        }
    }

    #[inline]
    const fn is_whole(self) -> bool {
        match self {
            Self::Zero | Self::Integer | Self::Fraction | Self::ExponentDigits => true,
            Self::Minus | Self::Point | Self::Exponent | Self::ExponentSign => false,
        }
    }
}

/// The name of the member that is being read, as it is written.
#[derive(Debug)]
struct Name {
    /// The list it is looked up in; `None` for members that are of no interest.
    list: Option<&'static [(&'static str, Place)]>,
    text: [u8; NAME_BYTES_MAX],
    length: usize,
}

impl Name {
    fn keep(&mut self, bytes: &[u8]) {
        match self.text.get_mut(self.length..self.length + bytes.len()) {
            Some(free) => {
                free.copy_from_slice(bytes);
                self.length += bytes.len();
            }
            None => self.list = None,
        }
    }

    fn place(&self) -> Option<Place> {
        let written = self.text.get(..self.length)?;
        self.list?.iter().find(|(name, _)| spells(written, name)).map(|(_, place)| *place)
    }
}

/// Whether the inside of a JSON string, as it is written, stands for `name`, which is ASCII.
pub(crate) fn spells(written: &[u8], name: &str) -> bool {
    let mut written = written.iter().copied();
    let mut names = name.bytes();
    loop {
        let letter = match written.next() {
            None => return names.next().is_none(),
            Some(b'\\') => match written.next() {
                Some(b'u') => {
                    let digits = written.by_ref().take(4).filter_map(|digit| char::from(digit).to_digit(16));
                    u8::try_from(digits.fold(0, |code, digit| code * 16 + digit)).ok()
                }
                // The other escapes stand for no letter of a name, but for `\/`, which no name has.
                Some(_) | None => None,
            },
            Some(byte) => Some(byte),
        };
        if letter.is_none() || letter != names.next() {
            return false;
        }
    }
}

/// Follows one JSON text, which is an object.
#[derive(Debug)]
pub(crate) struct Scanner {
    layout: &'static Layout,
    state: State,
    depth: u32,
    /// Which of the open ones are objects: the innermost is the last bit.
    objects: u128,
    /// The one at depth two is [`Place::Inner`].
    inside: bool,
    name: Name,
    /// Where the value that comes next belongs.
    next: Option<Place>,
    /// Which value is being kept, and at which depth it ends.
    keeping: Option<(Place, u32)>,
    slots: Slots,
    repeated: bool,
    completed: bool,
}

impl Scanner {
    pub(crate) const fn new(layout: &'static Layout) -> Self {
        Self {
            layout,
            state: State::Start,
            depth: 0,
            objects: 0,
            inside: false,
            name: Name { list: None, text: [0; NAME_BYTES_MAX], length: 0 },
            next: None,
            keeping: None,
            slots: Slots::new(),
            repeated: false,
            completed: false,
        }
    }

    /// Forgets the text for the next one; what it has allocated stays.
    pub(crate) fn restart(&mut self) {
        self.state = State::Start;
        self.depth = 0;
        self.objects = 0;
        self.inside = false;
        self.next = None;
        self.keeping = None;
        self.slots.clear();
        self.repeated = false;
    }

    /// What was found at `place`.
    pub(crate) fn found(&self, place: Place) -> Found<'_> {
        self.slots.at(place).found()
    }

    /// A member that is looked for stands there twice: which of them counts is anybody's guess.
    pub(crate) const fn is_repeated(&self) -> bool {
        self.repeated
    }

    /// The text is not JSON.
    pub(crate) const fn is_broken(&self) -> bool {
        matches!(self.state, State::Broken)
    }

    /// The object has begun and not ended: it is broken, or cut off.
    pub(crate) const fn is_unfinished(&self) -> bool {
        self.depth > 0
    }

    /// Reads the next bytes, and tells whether the object ended among them.
    pub(crate) fn feed(&mut self, mut bytes: &[u8]) -> bool {
        while !self.is_broken() {
            if let State::Text(role, Escape::None) = self.state {
                let length = bytes.iter().position(|byte| ends_run(*byte)).unwrap_or(bytes.len());
                let Some((run, rest)) = bytes.split_at_checked(length) else { break };
                self.text(role, run);
                bytes = rest;
            }
            let Some((&byte, rest)) = bytes.split_first() else { break };
            self.step(byte);
            bytes = rest;
        }
        core::mem::take(&mut self.completed)
    }

    #[inline]
    fn step(&mut self, byte: u8) {
        match self.state {
            State::Text(role, escape) => self.step_text(role, escape, byte),
            State::Number(number) => match number.with(byte) {
                Some(number) => {
                    self.keep(&[byte]);
                    self.state = State::Number(number);
                }
                // Only what comes next ends a number.
                None if number.is_whole() => {
                    self.end_value();
                    self.step_between(byte);
                }
                None => self.state = State::Broken,
            },
            State::Literal(letters) => match letters.split_first() {
                Some((expected, rest)) if *expected == byte => {
                    self.keep(&[byte]);
                    self.state = State::Literal(rest);
                    if rest.is_empty() {
                        self.end_value();
                    }
                }
                Some(_) | None => self.state = State::Broken,
            },
            State::Start
            | State::Value
            | State::ValueOrEnd
            | State::Name
            | State::NameOrEnd
            | State::Colon
            | State::Next
            | State::Whole
            | State::Broken => self.step_between(byte),
        }
    }

    /// A byte between tokens, or the first of one.
    #[inline]
    fn step_between(&mut self, byte: u8) {
        match (self.state, byte) {
            (_, b' ' | b'\t' | b'\n' | b'\r') => {}
            (State::Start, b'{') => self.open(true),
            (State::ValueOrEnd | State::Next, b']') => self.close(false),
            (State::NameOrEnd | State::Next, b'}') => self.close(true),
            (State::Value | State::ValueOrEnd, byte) => self.begin_value(byte),
            (State::Name | State::NameOrEnd, b'"') => self.begin_name(),
            (State::Next, b',') => {
                self.keep(b",");
                self.state = if self.objects & 1 == 1 { State::Name } else { State::Value };
            }
            (State::Colon, b':') => {
                self.keep(b":");
                self.next = self.name.place();
                self.state = State::Value;
            }
            _ => self.state = State::Broken,
        }
    }

    #[inline]
    fn step_text(&mut self, role: Role, escape: Escape, byte: u8) {
        let next = match (escape, byte) {
            (Escape::None, b'"') => {
                self.keep(b"\"");
                match role {
                    Role::Name => self.state = State::Colon,
                    Role::Value => self.end_value(),
                }
                return;
            }
            (Escape::None, b'\\') => Escape::Begun,
            (Escape::Begun, b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Escape::None,
            (Escape::Begun, b'u') => Escape::Digits(4),
            (Escape::Digits(1), byte) if byte.is_ascii_hexdigit() => Escape::None,
            (Escape::Digits(missing), byte) if byte.is_ascii_hexdigit() => Escape::Digits(missing.saturating_sub(1)),
            _ => {
                self.state = State::Broken;
                return;
            }
        };
        self.text(role, &[byte]);
        self.state = State::Text(role, next);
    }

    /// Takes bytes of a string.
    #[inline]
    fn text(&mut self, role: Role, bytes: &[u8]) {
        if role == Role::Name && self.name.list.is_some() {
            self.name.keep(bytes);
        }
        self.keep(bytes);
    }

    fn begin_name(&mut self) {
        self.name.list = match self.depth {
            1 => Some(self.layout.outer),
            2 if self.inside => Some(self.layout.inner),
            _ => None,
        };
        self.name.length = 0;
        self.keep(b"\"");
        self.state = State::Text(Role::Name, Escape::None);
    }

    fn begin_value(&mut self, byte: u8) {
        if let Some(place) = self.next.take() {
            let slot = self.slots.at_mut(place);
            self.repeated |= slot.stage != Stage::Absent;
            slot.clear();
            slot.stage = Stage::Open;
            if place == Place::Inner {
                // Its members are kept, not itself.
                self.inside = byte == b'{';
            } else {
                self.keeping = Some((place, self.depth));
            }
        }
        match byte {
            b'{' => self.open(true),
            b'[' => self.open(false),
            _ => {
                self.keep(&[byte]);
                self.state = match byte {
                    b'"' => State::Text(Role::Value, Escape::None),
                    b't' => State::Literal(b"rue"),
                    b'f' => State::Literal(b"alse"),
                    b'n' => State::Literal(b"ull"),
                    _ => Number::begin(byte).map_or(State::Broken, State::Number),
                };
            }
        }
    }

    fn open(&mut self, object: bool) {
        if self.depth == DEPTH_MAX {
            self.state = State::Broken;
            return;
        }
        self.keep(if object { b"{" } else { b"[" });
        self.depth += 1;
        self.objects = self.objects << 1 | u128::from(object);
        self.state = if object { State::NameOrEnd } else { State::ValueOrEnd };
    }

    fn close(&mut self, object: bool) {
        if (self.objects & 1 == 1) != object {
            self.state = State::Broken;
            return;
        }
        self.keep(if object { b"}" } else { b"]" });
        self.depth = self.depth.saturating_sub(1);
        self.objects >>= 1;
        self.inside &= self.depth >= 2;
        self.end_value();
    }

    #[inline]
    fn end_value(&mut self) {
        if let Some((place, depth)) = self.keeping
            && depth == self.depth
        {
            self.slots.at_mut(place).close();
            self.keeping = None;
        }
        self.completed |= self.depth == 0;
        self.state = if self.depth == 0 { State::Whole } else { State::Next };
    }

    #[inline]
    fn keep(&mut self, bytes: &[u8]) {
        if let Some((place, _)) = self.keeping {
            self.slots.at_mut(place).keep(bytes);
        }
    }
}

/// What ends a run of plain bytes within a string: its end, an escape, or what must not stand there.
const fn ends_run(byte: u8) -> bool {
    matches!(byte, b'"' | b'\\' | 0..=0x1f)
}
