//! Which API is spoken, and in which form a response comes.

/// An API of language models that is priced by tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Api {
    /// Chat completions as OpenAI has them, and many others after it.
    ChatCompletions,
    /// OpenAI's responses.
    Responses,
    /// Embeddings as OpenAI has them.
    Embeddings,
    /// Anthropic's messages.
    Messages,
}

impl Api {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::ChatCompletions, Self::Responses, Self::Embeddings, Self::Messages];

    /// The API of this name, if there is one.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|api| api.name() == name)
    }

    /// Its name in settings.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ChatCompletions => "openai_chat",
            Self::Responses => "openai_responses",
            Self::Embeddings => "openai_embeddings",
            Self::Messages => "anthropic_messages",
        }
    }
}

/// In which form a response comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// One JSON text.
    Json,
    /// Server-sent events, each with a JSON text.
    EventStream,
    /// Neither, or compressed: its usage cannot be read.
    Unreadable,
}

impl Form {
    /// The form that the two headers announce. Parameters of the type are passed over: both forms are UTF-8 always.
    #[must_use]
    pub fn of(content_type: Option<&[u8]>, content_encoding: Option<&[u8]>) -> Self {
        let plain = content_encoding.is_none_or(|encoding| {
            let encoding = encoding.trim_ascii();
            encoding.is_empty() || encoding.eq_ignore_ascii_case(b"identity")
        });
        let Some(content_type) = content_type.filter(|_| plain) else { return Self::Unreadable };
        let essence = content_type.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        if essence.eq_ignore_ascii_case(b"application/json") {
            Self::Json
        } else if essence.eq_ignore_ascii_case(b"text/event-stream") {
            Self::EventStream
        } else {
            Self::Unreadable
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for api in Api::ALL {
            assert_eq!(Api::parse(api.name()), Some(api));
        }
        assert_eq!(Api::parse("openai"), None);
    }

    #[test]
    fn the_form_is_that_of_the_headers() {
        let form = |content_type: &'static str, encoding: Option<&'static str>| {
            Form::of(Some(content_type.as_bytes()), encoding.map(str::as_bytes))
        };
        assert_eq!(form("application/json", None), Form::Json);
        assert_eq!(form(" Application/JSON ; charset=utf-8", Some("Identity")), Form::Json);
        assert_eq!(form("text/event-stream;charset=utf-8", Some("")), Form::EventStream);
        assert_eq!(form("application/json", Some("gzip")), Form::Unreadable);
        assert_eq!(form("text/event-stream", Some("identity, br")), Form::Unreadable);
        assert_eq!(form("application/jsonl", None), Form::Unreadable);
        assert_eq!(form("", None), Form::Unreadable);
        assert_eq!(Form::of(None, None), Form::Unreadable);
        assert_eq!(Form::of(Some(b"\xff\xfe"), None), Form::Unreadable);
    }
}
