//! How commands reach the control plane's admin API: where it is, and with which token.

use std::io::{IsTerminal, Read};
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde_json::Value;

use super::terminal::escaped;
use crate::demo::http::{Answer, Ask, Client, HttpError};
use crate::stack::State;

const DEFAULT_URL: &str = "http://127.0.0.1:8092";

/// Where the control plane is, and who asks.
#[derive(Clone, Debug, Args)]
pub struct Connection {
    /// The admin API [default: that of the running stack, else http://127.0.0.1:8092].
    #[arg(long, env = "PLANT_CONTROL_PLANE", value_name = "URL", global = true)]
    control_plane: Option<String>,
    /// A file with the operator's token; `-` is standard input [default: `PLANT_ADMIN_TOKEN`, else that of the running stack].
    #[arg(long, value_name = "FILE", global = true)]
    token_file: Option<PathBuf>,
    /// The state file of a running stack.
    #[arg(long, default_value = ".run/state.json", global = true)]
    pub(super) state: PathBuf,
    /// How the answer is printed.
    #[arg(long, value_enum, default_value_t = Format::Text, global = true)]
    pub(super) format: Format,
}

/// How an answer is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// As the admin API gave it.
    Json,
}

/// A command that talks to the admin API did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ApiCommandError {
    /// No runtime.
    #[error("cannot start the client")]
    Runtime(#[source] std::io::Error),
    /// The client speaks plain HTTP.
    #[error("`{url}` is not an http:// URL: reach a remote control plane through a tunnel or a local proxy")]
    Url {
        /// What was given.
        url: String,
    },
    /// Nobody to ask as.
    #[error("no operator's token: set PLANT_ADMIN_TOKEN or --token-file; without --control-plane a running stack's own is used")]
    NoToken,
    /// A file, or standard input, cannot be read.
    #[error("cannot read `{}`", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// No answer.
    #[error("the control plane does not answer")]
    Http(#[from] HttpError),
    /// A refusal.
    #[error("the control plane refuses with {status}: {detail}")]
    Refused {
        /// The status.
        status: u16,
        /// What it says.
        detail: String,
    },
    /// A success that cannot be read.
    #[error("the control plane's answer has no `{0}`")]
    Unreadably(&'static str),
    /// A token that cannot be taken apart.
    #[error("the token to be revoked {0}")]
    Token(&'static str),
    /// Nothing to lift.
    #[error("`{0}` is not revoked")]
    NotRevoked(String),
}

impl ApiCommandError {
    /// 3 when the control plane does not answer or refuses, 2 when it could not even be asked.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Http(_) | Self::Refused { .. } | Self::Unreadably(_) | Self::NotRevoked(_) => 3,
            Self::Runtime(_) | Self::Url { .. } | Self::NoToken | Self::Unreadable { .. } | Self::Token(_) => 2,
        }
    }
}

/// A connection with a token.
#[derive(Debug)]
pub(super) struct AdminApi {
    client: Client,
    token: String,
}

impl AdminApi {
    pub(super) fn open(connection: &Connection) -> Result<Self, ApiCommandError> {
        let stack = State::read(&connection.state).ok();
        let url = connection.control_plane.clone().filter(|url| !url.is_empty());
        let given = match (&connection.token_file, std::env::var("PLANT_ADMIN_TOKEN")) {
            (Some(path), _) => Some(read(path)?),
            (None, Ok(token)) if !token.is_empty() => Some(token),
            (None, Ok(_) | Err(_)) => None,
        };
        // The running stack's token goes to that stack and nowhere else.
        let own = stack.as_ref().filter(|stack| url.as_ref().is_none_or(|url| *url == stack.admin));
        let token = given.or_else(|| own.map(|stack| stack.admin_token.clone())).ok_or(ApiCommandError::NoToken)?;
        let url = url.or_else(|| stack.map(|stack| stack.admin)).unwrap_or_else(|| DEFAULT_URL.to_owned());
        if !url.starts_with("http://") {
            return Err(ApiCommandError::Url { url });
        }
        Ok(Self { client: Client::new(&url), token: token.trim().to_owned() })
    }

    /// Asks something that must succeed.
    pub(super) async fn json(&mut self, ask: Ask) -> Result<Value, ApiCommandError> {
        let answer: Answer = self.client.send(&ask.bearer(&self.token)).await?;
        if (200..300).contains(&answer.status) { Ok(answer.json()) } else { Err(refused(&answer)) }
    }

    /// Asks something that is answered line by line, each of them JSON.
    pub(super) async fn lines(&mut self, ask: Ask, mut line: impl FnMut(Value)) -> Result<(), ApiCommandError> {
        let read = |bytes: &[u8]| line(serde_json::from_slice(bytes).unwrap_or_default());
        let answer = self.client.send_for_lines(&ask.bearer(&self.token), read).await?;
        if (200..300).contains(&answer.status) { Ok(()) } else { Err(refused(&answer)) }
    }
}

/// What a refusal says.
fn refused(answer: &Answer) -> ApiCommandError {
    let problem = answer.json();
    let detail = problem.get("detail").and_then(Value::as_str).map_or_else(|| answer.text(), str::to_owned);
    // The place in a policy that is refused, where there is one.
    let place = problem.get("file").and_then(Value::as_str).map(|file| match problem.get("line").and_then(Value::as_u64) {
        Some(line) => format!("{file}:{line}: "),
        None => format!("{file}: "),
    });
    let detail = escaped(&(place.unwrap_or_default() + &detail));
    ApiCommandError::Refused { status: answer.status, detail }
}

/// Runs one command to its end.
pub(super) fn block_on<T>(work: impl Future<Output = Result<T, ApiCommandError>>) -> Result<T, ApiCommandError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ApiCommandError::Runtime)?;
    runtime.block_on(work)
}

/// A file, or with `-` standard input.
pub(super) fn read(path: &PathBuf) -> Result<String, ApiCommandError> {
    let unreadable = |source| ApiCommandError::Unreadable { path: path.clone(), source };
    if path.as_os_str() != "-" {
        return std::fs::read_to_string(path).map_err(unreadable);
    }
    let mut text = String::new();
    let mut input = std::io::stdin();
    if input.is_terminal() {
        eprintln!("reading standard input; end it with Ctrl-D");
    }
    input.read_to_string(&mut text).map_err(unreadable)?;
    Ok(text)
}

/// A value in a query (RFC 3986 §2.3: all but unreserved characters are encoded).
pub(super) fn encoded(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

/// Text of a member, for people; `-` where there is none.
pub(super) fn shown(value: &Value, member: &str) -> String {
    match value.get(member) {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) if text.is_empty() => "-".to_owned(),
        Some(Value::String(text)) => escaped(text).replace('\n', "\\n"),
        Some(other) => escaped(&other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_survive_a_query() {
        assert_eq!(encoded("a b&c=d/é~"), "a%20b%26c%3Dd%2F%C3%A9~");
    }

    #[test]
    fn what_others_wrote_does_not_steer_the_terminal() {
        assert_eq!(shown(&json!({"value": "a\u{1b}[2J\n\u{2028}"}), "value"), "a\\u001b[2J\\n\\u2028");
        assert_eq!((shown(&json!({"a": 1}), "a"), shown(&json!({}), "a")), ("1".to_owned(), "-".to_owned()));
    }
}
