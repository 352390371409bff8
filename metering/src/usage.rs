//! The tokens of a response: one meaning for what each API counts in its own way.

use serde_json::value::RawValue;

use crate::object::{integer, members};

/// The largest count that is believed: more than a provider serves in a year is a fault, not a usage.
pub const TOKENS_MAX: u64 = 1 << 40;

/// Tokens that a response was billed for. No token is counted twice: OpenAI's `prompt_tokens` include those of the
/// cache and Anthropic's `input_tokens` do not, `input` never does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Usage {
    /// Input that no cache was involved in.
    pub input: u64,
    /// Input read from a cache.
    pub cache_read: u64,
    /// Input written to a cache.
    pub cache_write: u64,
    /// Output, reasoning included.
    pub output: u64,
}

impl Usage {
    /// All tokens.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.input.saturating_add(self.cache_read).saturating_add(self.cache_write).saturating_add(self.output)
    }

    /// The usage object of a chat completion.
    pub(crate) fn of_chat(text: &[u8]) -> Option<Self> {
        let names = ["prompt_tokens", "completion_tokens", "total_tokens", "prompt_tokens_details"];
        Self::of_openai(members(text, names).ok()?)
    }

    /// The usage object of a response of the Responses API.
    pub(crate) fn of_response(text: &[u8]) -> Option<Self> {
        let names = ["input_tokens", "output_tokens", "total_tokens", "input_tokens_details"];
        Self::of_openai(members(text, names).ok()?)
    }

    fn of_openai([input, output, total, details]: [Option<&RawValue>; 4]) -> Option<Self> {
        let prompt = tokens(input)??;
        let total = tokens(total)?.unwrap_or(0);
        let [cache_read, cache_write] = match details {
            Some(details) => members(details.get().as_bytes(), ["cached_tokens", "cache_write_tokens"]).ok()?,
            None => [None, None],
        };
        let cache_read = tokens(cache_read)?.unwrap_or(0);
        let cache_write = tokens(cache_write)?.unwrap_or(0);
        Some(Self {
            input: prompt.checked_sub(cache_read)?.checked_sub(cache_write)?,
            cache_read,
            cache_write,
            // Some servers leave reasoning out of the output and count it in the total alone.
            output: tokens(output)??.max(total.saturating_sub(prompt)),
        })
    }

    /// The usage object of embeddings, which have no output.
    pub(crate) fn of_embeddings(text: &[u8]) -> Option<Self> {
        let [input] = members(text, ["prompt_tokens"]).ok()?;
        Some(Self { input: tokens(input)??, ..Self::default() })
    }
}

/// The counts of a usage object of the Messages API, as far as they are known.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    input: Option<u64>,
    cache_read: Option<u64>,
    cache_write: Option<u64>,
    output: Option<u64>,
}

impl Counts {
    /// The counts of this usage object; `None` when it cannot be read.
    pub(crate) fn read(text: &[u8]) -> Option<Self> {
        let names = ["input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens", "output_tokens"];
        let [input, cache_read, cache_write, output] = members(text, names).ok()?;
        Some(Self { input: tokens(input)?, cache_read: tokens(cache_read)?, cache_write: tokens(cache_write)?, output: tokens(output)? })
    }

    /// These, with those of a later object over them: counts are cumulative, so a later one replaces.
    pub(crate) fn with(self, later: Self) -> Self {
        Self {
            input: later.input.or(self.input),
            cache_read: later.cache_read.or(self.cache_read),
            cache_write: later.cache_write.or(self.cache_write),
            output: later.output.or(self.output),
        }
    }

    pub(crate) fn has_output(self) -> bool {
        self.output.is_some()
    }

    /// The usage, once input and output are known.
    pub(crate) fn usage(self) -> Option<Usage> {
        Some(Usage {
            input: self.input?,
            cache_read: self.cache_read.unwrap_or(0),
            cache_write: self.cache_write.unwrap_or(0),
            output: self.output?,
        })
    }
}

/// A count that may be absent; `None` when it is none that is believed.
fn tokens(value: Option<&RawValue>) -> Option<Option<u64>> {
    match value {
        None => Some(None),
        Some(value) => integer(value).filter(|count| *count <= TOKENS_MAX).map(Some),
    }
}
