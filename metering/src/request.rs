//! What a request asks for: read from its body before it is forwarded.

use serde_json::value::RawValue;

use crate::api::Api;
use crate::object::{Unclear, boolean, integer, members, string};
use crate::references::reference;

/// The longest name of a model, in bytes.
pub const MODEL_BYTES_MAX: usize = 128;

/// Input tokens that a provider adds to a request: what introduces the answer, and on tools the instructions for their
/// use (346 to 530 tokens for Anthropic's models).
const ADDED_TOKENS: u64 = 16;
const ADDED_TOKENS_WITH_TOOLS: u64 = 1024;

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The model, as the request names it: 1 to [`MODEL_BYTES_MAX`] bytes.
    pub model: String,
    /// The most tokens of one answer, if the request limits them; zero for embeddings.
    pub output_limit: Option<u64>,
    /// How many answers are made, each as long as the limit allows: at least one.
    pub choices: u64,
    /// Whether the response comes as events.
    pub streams: bool,
    /// Whether the response tells its usage.
    pub usage_asked: bool,
    /// The most tokens that the body can become.
    ///
    /// A byte-level tokenizer makes at most one token of a byte, and JSON never writes a text shorter than it is. What
    /// providers put around each message, text or tool (3 to 12 tokens) is less than the JSON around it (`{"role":"user",
    /// "content":""}`; a `"",` of embeddings is 3 bytes and gets 2 tokens at most). A constant stands for what they
    /// add once.
    pub input_tokens_max: u64,
    /// A member by which the request costs what its tokens at list price do not bound, if it has one.
    pub unbounded: Option<&'static str>,
}

impl Asked {
    /// The most tokens that come out, when `otherwise` limits what the request does not.
    #[must_use]
    pub fn output_tokens_max(&self, otherwise: Option<u64>) -> Option<u64> {
        self.output_limit.or(otherwise).map(|limit| limit.saturating_mul(self.choices))
    }
}

/// Why a body cannot be priced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// Not one JSON object and nothing else.
    #[error("the body is not a JSON object")]
    NotObject,
    /// Which of the two counts is anybody's guess.
    #[error("member `{0}` is repeated")]
    KeyRepeated(&'static str),
    /// Some servers take it for the same name, others do not.
    #[error("member `{0}` is written in other case")]
    KeyMiscased(&'static str),
    /// No model.
    #[error("member `model` is missing")]
    ModelMissing,
    /// Not a text of 1 to [`MODEL_BYTES_MAX`] bytes.
    #[error("member `model` is not a text of 1 to 128 bytes")]
    ModelInvalid,
    /// Not a non-negative integer of 64 bits, written as digits alone.
    #[error("member `{0}` is not a non-negative integer")]
    NumberInvalid(&'static str),
    /// Not of the type that the API has there.
    #[error("member `{0}` is of the wrong type")]
    TypeInvalid(&'static str),
    /// Deeper than any request: what it refers to is not looked for.
    #[error("the body is nested too deeply")]
    NestedTooDeeply,
    /// The answer to a background request comes without a usage, and later.
    #[error("background requests cannot be priced")]
    Background,
}

impl From<Unclear> for Unreadable {
    fn from(unclear: Unclear) -> Self {
        match unclear {
            Unclear::NotObject => Self::NotObject,
            Unclear::Repeated(name) => Self::KeyRepeated(name),
            Unclear::Miscased(name) => Self::KeyMiscased(name),
        }
    }
}

type Member<'b> = Option<&'b RawValue>;

/// Reads what a body asks for. The caller bounds its length; time is linear in it.
///
/// # Errors
/// What cannot be priced, or what the provider might read in another way.
pub fn read(api: Api, body: &[u8]) -> Result<Asked, Unreadable> {
    let [model, stream, tools, functions, tier] = members(body, ["model", "stream", "tools", "functions", "service_tier"])?;
    let model = string(model.ok_or(Unreadable::ModelMissing)?)
        .filter(|name| (1..=MODEL_BYTES_MAX).contains(&name.len()))
        .ok_or(Unreadable::ModelInvalid)?;
    let streams = flag(stream, "stream")?;
    let bounds = match api {
        Api::ChatCompletions => chat(body, streams)?,
        Api::Responses => responses(body)?,
        Api::Embeddings => Bounds { output_limit: Some(0), ..Bounds::default() },
        Api::Messages => messages(body)?,
    };
    let added = if tools.or(functions).is_some() { ADDED_TOKENS_WITH_TOOLS } else { ADDED_TOKENS };
    Ok(Asked {
        model,
        output_limit: bounds.output_limit,
        choices: bounds.choices,
        streams,
        usage_asked: bounds.usage_asked,
        input_tokens_max: u64::try_from(body.len()).unwrap_or(u64::MAX).saturating_add(added),
        unbounded: bounds
            .unbounded
            .or(dear_tier(tier))
            .or(foreign_tools(tools)?)
            .or(reference(body).map_err(|_| Unreadable::NestedTooDeeply)?),
    })
}

/// What differs from API to API.
struct Bounds {
    output_limit: Option<u64>,
    choices: u64,
    usage_asked: bool,
    unbounded: Option<&'static str>,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { output_limit: None, choices: 1, usage_asked: true, unbounded: None }
    }
}

fn chat(body: &[u8], streams: bool) -> Result<Bounds, Unreadable> {
    let [limit, old_limit, n, best_of, options] = members(body, ["max_completion_tokens", "max_tokens", "n", "best_of", "stream_options"])?;
    let include_usage = match options {
        Some(options) => {
            let [include_usage] = members(options.get().as_bytes(), ["include_usage"]).map_err(|unclear| match unclear {
                Unclear::NotObject => Unreadable::TypeInvalid("stream_options"),
                Unclear::Repeated(_) | Unclear::Miscased(_) => unclear.into(),
            })?;
            flag(include_usage, "include_usage")?
        }
        None => false,
    };
    Ok(Bounds {
        // Servers differ in which of the two they obey.
        output_limit: limit_of(limit, "max_completion_tokens")?.max(limit_of(old_limit, "max_tokens")?),
        choices: number(n, "n")?.max(number(best_of, "best_of")?).unwrap_or(1).max(1),
        usage_asked: !streams || include_usage,
        unbounded: first_present(body, ["web_search_options", "audio"])?,
    })
}

fn responses(body: &[u8]) -> Result<Bounds, Unreadable> {
    let [limit, background] = members(body, ["max_output_tokens", "background"])?;
    if flag(background, "background")? {
        return Err(Unreadable::Background);
    }
    let unbounded = first_present(body, ["previous_response_id", "conversation", "prompt"])?;
    Ok(Bounds { output_limit: limit_of(limit, "max_output_tokens")?, unbounded, ..Bounds::default() })
}

fn messages(body: &[u8]) -> Result<Bounds, Unreadable> {
    let [limit] = members(body, ["max_tokens"])?;
    let unbounded = first_present(body, ["mcp_servers", "container", "speed", "inference_geo"])?;
    Ok(Bounds { output_limit: limit_of(limit, "max_tokens")?, unbounded, ..Bounds::default() })
}

fn first_present<const N: usize>(body: &[u8], names: [&'static str; N]) -> Result<Option<&'static str>, Unreadable> {
    let values = members(body, names)?;
    Ok(names.into_iter().zip(values).find_map(|(name, value)| value.map(|_| name)))
}

/// Tiers of service other than these may cost more than the list says.
fn dear_tier(tier: Member<'_>) -> Option<&'static str> {
    let listed = ["auto", "default", "flex", "standard", "standard_only"];
    tier.filter(|tier| string(tier).is_none_or(|tier| !listed.contains(&tier.as_str()))).map(|_| "service_tier")
}

/// Tools that the provider runs itself bring input of their own, and often a fee.
fn foreign_tools(tools: Member<'_>) -> Result<Option<&'static str>, Unreadable> {
    let Some(tools) = tools else { return Ok(None) };
    let invalid = Unreadable::TypeInvalid("tools");
    let tools: Vec<&RawValue> = serde_json::from_str(tools.get()).map_err(|_| invalid)?;
    for tool in tools {
        let [kind] = members(tool.get().as_bytes(), ["type"]).map_err(|_| invalid)?;
        if kind.is_some_and(|kind| string(kind).is_none_or(|kind| kind != "function" && kind != "custom")) {
            return Ok(Some("tools"));
        }
    }
    Ok(None)
}

fn number(value: Member<'_>, name: &'static str) -> Result<Option<u64>, Unreadable> {
    value.map(|value| integer(value).ok_or(Unreadable::NumberInvalid(name))).transpose()
}

/// Zero is no limit: some servers take it for one that was left out.
fn limit_of(value: Member<'_>, name: &'static str) -> Result<Option<u64>, Unreadable> {
    Ok(number(value, name)?.filter(|limit| *limit > 0))
}

fn flag(value: Member<'_>, name: &'static str) -> Result<bool, Unreadable> {
    value.map_or(Ok(false), |value| boolean(value).ok_or(Unreadable::TypeInvalid(name)))
}
