//! What can go wrong while measuring.

use std::path::PathBuf;

use cli::stack::StackError;
use cli::token::MintError;

use crate::variant::Variant;

/// The measurement could not be made, or what was measured is not what it claims to be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BenchError {
    #[error("the port base `{base}` is too high")]
    PortBase { base: u16 },
    #[error("cannot use `{}`", .path.display())]
    File {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot start the stack")]
    Stack(#[source] Box<StackError>),
    #[error("cannot sign the token")]
    Token(#[from] MintError),
    #[error("the stack has no {what}")]
    StackLacks { what: &'static str },
    #[error("the key of the issuer cannot be read: {reason}")]
    Key { reason: String },
    #[error("cannot open a port on 127.0.0.1")]
    Listen(#[source] std::io::Error),
    #[error("the load generator cannot run")]
    Runtime(#[source] std::io::Error),
    #[error("listener `{}` cannot be asked", .variant.key())]
    Load {
        variant: Variant,
        #[source]
        source: LoadError,
    },
    #[error("the requests cannot be made")]
    Traffic(#[source] LoadError),
    #[error("the control plane refuses")]
    Admin(#[from] cli::demo::admin::AdminError),
    #[error("{what} cannot be asked")]
    Ask {
        what: &'static str,
        #[source]
        source: LoadError,
    },
    #[error("{what} answers what is not understood: {answer}")]
    Answer { what: &'static str, answer: String },
    #[error("listener `{}` answered {count} of {requests} requests with something else than 200", .variant.key())]
    NotOk { variant: Variant, count: u64, requests: u64 },
    #[error("after {seconds} s of warming up, requests still wait for leases")]
    NeverWarm { seconds: u64 },
    #[error("the machine is too busy to store audit records as fast as they come; stop other programs and try again")]
    Busy,
    #[error("{stored} of {sent} audit records are stored, and no more come")]
    RecordsMissing { stored: u64, sent: u64 },
    #[error("the measurement does not hold: {}", .reasons.join("; "))]
    Invalid { reasons: Vec<String> },
}

/// An exchange over HTTP failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    #[error("cannot connect")]
    Connect(#[source] std::io::Error),
    #[error("the exchange failed")]
    Http(#[from] hyper::Error),
    #[error("the request is not valid")]
    Request(#[from] hyper::http::Error),
}
