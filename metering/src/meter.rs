//! Watches a response go by for its usage. Nothing is held back, and nothing is kept but what is looked for.

use crate::api::{Api, Form};
use crate::events::{Events, Part};
use crate::request::MODEL_BYTES_MAX;
use crate::scan::{Found, Layout, Place, Scanner, spells};
use crate::usage::{Counts, Usage};

/// What a response says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading<'m> {
    /// The tokens it is billed for.
    pub usage: Usage,
    /// The model that answered, where the response names one in 1 to [`MODEL_BYTES_MAX`] bytes.
    pub model: Option<&'m str>,
}

/// Watches a response for its usage. Feed it what comes, in any pieces; a piece costs time linear in its length.
///
/// A usage counts only where the API has it, and only when it is final:
///
/// * JSON: the usage object has ended; the rest of the body may be cut off.
/// * Events of chat completions: the last event with a usage object has no choices, or the stream has said `[DONE]`; and
///   no choices came after it. Servers that tell a running usage with each event are thus never taken at an early word.
/// * Events of the Responses API: the response has completed, or ended incomplete or failed.
/// * Events of the Messages API: a `message_delta` has told the output. Counts are cumulative; those that it leaves out
///   stand in `message_start`.
///
/// What is not JSON, has a member twice, or counts what cannot be believed has no usage; nor has an answer of another
/// kind, such as an error. An event that is not an object at all is passed over.
#[derive(Debug)]
pub struct Meter {
    watch: Watch,
    events: Events,
    scanner: Scanner,
    done: Done,
    model: Model,
    counts: Counts,
    usage: Option<Usage>,
    is_final: bool,
}

/// What is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Watch {
    Nothing,
    Json(Api),
    ChatEvents,
    ResponseEvents,
    MessageEvents,
}

static JSON: Layout = Layout { outer: &[("model", Place::Model), ("usage", Place::Usage)], inner: &[] };
static CHAT_EVENTS: Layout = Layout { outer: &[("choices", Place::Choices), ("model", Place::Model), ("usage", Place::Usage)], inner: &[] };
static RESPONSE_EVENTS: Layout =
    Layout { outer: &[("type", Place::Kind), ("response", Place::Inner)], inner: &[("model", Place::Model), ("usage", Place::InnerUsage)] };
static MESSAGE_EVENTS: Layout = Layout {
    outer: &[("type", Place::Kind), ("message", Place::Inner), ("usage", Place::Usage)],
    inner: &[("model", Place::Model), ("usage", Place::InnerUsage)],
};

impl Watch {
    const fn of(api: Api, form: Form) -> Self {
        match (form, api) {
            // No events of embeddings are known.
            (Form::Unreadable, _) | (Form::EventStream, Api::Embeddings) => Self::Nothing,
            (Form::Json, api) => Self::Json(api),
            (Form::EventStream, Api::ChatCompletions) => Self::ChatEvents,
            (Form::EventStream, Api::Responses) => Self::ResponseEvents,
            (Form::EventStream, Api::Messages) => Self::MessageEvents,
        }
    }

    const fn layout(self) -> &'static Layout {
        match self {
            Self::Nothing | Self::Json(_) => &JSON,
            Self::ChatEvents => &CHAT_EVENTS,
            Self::ResponseEvents => &RESPONSE_EVENTS,
            Self::MessageEvents => &MESSAGE_EVENTS,
        }
    }
}

impl Meter {
    /// A meter for a response that comes in this form.
    #[must_use]
    pub fn new(api: Api, form: Form) -> Self {
        let watch = Watch::of(api, form);
        Self {
            watch,
            events: Events::new(),
            scanner: Scanner::new(watch.layout()),
            done: Done::Matched(0),
            model: Model::default(),
            counts: Counts::default(),
            usage: None,
            is_final: false,
        }
    }

    /// Takes the next piece of the response's body.
    pub fn push(&mut self, piece: &[u8]) {
        match self.watch {
            Watch::Nothing => {}
            Watch::Json(api) => {
                self.scanner.feed(piece);
                self.look(api);
            }
            Watch::ChatEvents | Watch::ResponseEvents | Watch::MessageEvents => self.push_events(piece),
        }
    }

    /// The usage, once it is final.
    #[must_use]
    pub fn usage(&self) -> Option<Reading<'_>> {
        let usage = self.usage.filter(|_| self.is_final)?;
        Some(Reading { usage, model: self.model.name() })
    }

    fn look(&mut self, api: Api) {
        if self.scanner.is_broken() || self.scanner.is_repeated() {
            self.is_final = false;
            self.watch = Watch::Nothing;
            return;
        }
        if let Found::Value(text) = self.scanner.found(Place::Model) {
            self.model.note(text);
        }
        if let Found::Value(text) = self.scanner.found(Place::Usage)
            && !self.is_final
        {
            self.usage = match api {
                Api::ChatCompletions => Usage::of_chat(text),
                Api::Responses => Usage::of_response(text),
                Api::Embeddings => Usage::of_embeddings(text),
                Api::Messages => Counts::read(text).and_then(Counts::usage),
            };
            // Also when it could not be read: it is not read again with each piece.
            self.is_final = true;
        }
    }

    fn push_events(&mut self, mut piece: &[u8]) {
        while self.done != Done::Said
            && let Some(part) = self.events.next(&mut piece)
        {
            match part {
                Part::Text(text) => {
                    if self.watch == Watch::ChatEvents {
                        self.done = self.done.with(text);
                        self.is_final |= self.done == Done::Said;
                    }
                    if self.scanner.feed(text) {
                        self.event();
                    }
                }
                Part::End => {
                    if self.scanner.is_unfinished() {
                        self.spoil();
                    }
                    self.scanner.restart();
                    self.done = Done::Matched(0);
                }
            }
        }
    }

    /// An event has been read to its end. What else stands in it cannot take it back.
    fn event(&mut self) {
        if self.scanner.is_repeated() {
            self.spoil();
            return;
        }
        if let Found::Value(text) = self.scanner.found(Place::Model) {
            self.model.note(text);
        }
        match self.watch {
            Watch::Nothing | Watch::Json(_) => {}
            Watch::ChatEvents => self.chat_event(),
            Watch::ResponseEvents => self.response_event(),
            Watch::MessageEvents => self.message_event(),
        }
    }

    /// An event could not be read, so what has been told so far is not all.
    fn spoil(&mut self) {
        self.usage = None;
        self.is_final = false;
        if self.watch == Watch::MessageEvents {
            // Later counts would be merged over ones that are not known.
            self.watch = Watch::Nothing;
        }
    }

    fn chat_event(&mut self) {
        let choices = self.scanner.found(Place::Choices);
        let usage = match self.scanner.found(Place::Usage) {
            Found::Absent | Found::Value(b"null") => match choices {
                Found::Absent | Found::Value(b"[]" | b"null") => return,
                // What these choices cost is in no usage that has been told.
                Found::Unread | Found::Value(_) => None,
            },
            Found::Unread => None,
            Found::Value(text) => Usage::of_chat(text),
        };
        self.usage = usage;
        self.is_final = choices == Found::Value(b"[]");
    }

    fn response_event(&mut self) {
        if ["response.completed", "response.incomplete", "response.failed"].into_iter().any(|kind| self.is_kind(kind))
            && let Found::Value(text) = self.scanner.found(Place::InnerUsage)
        {
            self.usage = Usage::of_response(text);
            self.is_final = true;
        }
    }

    fn message_event(&mut self) {
        let (place, starts) = match (self.is_kind("message_start"), self.is_kind("message_delta")) {
            (true, _) => (Place::InnerUsage, true),
            (_, true) => (Place::Usage, false),
            (false, false) => return,
        };
        let read = match self.scanner.found(place) {
            Found::Absent | Found::Value(b"null") => Some(Counts::default()),
            Found::Unread => None,
            Found::Value(text) => Counts::read(text),
        };
        let Some(counts) = read else {
            self.spoil();
            return;
        };
        self.counts = if starts { counts } else { self.counts.with(counts) };
        self.is_final = !starts && (self.is_final || counts.has_output());
        self.usage = self.counts.usage();
    }

    fn is_kind(&self, kind: &str) -> bool {
        match self.scanner.found(Place::Kind) {
            Found::Absent | Found::Unread => false,
            Found::Value(text) => unquoted(text).is_some_and(|text| spells(text, kind)),
        }
    }
}

fn unquoted(text: &[u8]) -> Option<&[u8]> {
    text.strip_prefix(b"\"")?.strip_suffix(b"\"")
}

/// How much of the text that ends a stream of chat completions an event has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Done {
    Matched(usize),
    Otherwise,
    Said,
}

impl Done {
    const TEXT: &[u8] = b"[DONE]";

    fn with(self, text: &[u8]) -> Self {
        let mut count = match self {
            Self::Matched(count) => count,
            Self::Otherwise | Self::Said => return self,
        };
        for byte in text {
            if Self::TEXT.get(count) == Some(byte) {
                count += 1;
            } else if count > 0 || !byte.is_ascii_whitespace() {
                return Self::Otherwise;
            }
            if count == Self::TEXT.len() {
                return Self::Said;
            }
        }
        Self::Matched(count)
    }
}

/// The name of the model. Each event repeats it: it is decoded when it changes.
#[derive(Debug, Default)]
struct Model {
    written: Vec<u8>,
    decoded: Option<String>,
}

impl Model {
    /// Takes a later name. Some servers leave it empty in events before the first answer.
    fn note(&mut self, written: &[u8]) {
        if self.written == written {
            return;
        }
        let name: Option<String> = serde_json::from_slice(written).ok();
        if let Some(name) = name.filter(|name| (1..=MODEL_BYTES_MAX).contains(&name.len())) {
            self.decoded = Some(name);
        }
        self.written.clear();
        self.written.extend_from_slice(written);
    }

    fn name(&self) -> Option<&str> {
        self.decoded.as_deref()
    }
}
