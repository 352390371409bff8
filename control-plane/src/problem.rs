//! The only table from failures of the control plane to HTTP statuses: problem details by RFC 9457.
//!
//! What a client may read is in [`Problem`]; causes are logged here and never reach a body.

use crate::policies::PolicyFault;
use axum::Json;
use axum::extract::Request;
use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use decision_core::causes::chain;
use decision_core::principal::CredentialFault;
use serde::Serialize;
use std::borrow::Cow;
use std::error::Error;
use std::time::Duration;
use utoipa::ToSchema;
use wire::sync::RECORDS_STORED_HEADER;

/// Prefix of every problem `type` URI.
pub const PROBLEM_BASE: &str = "https://waooaw.com/errors/";

/// Why a request of the admin or data-plane API was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The admin API was called without a token.
    #[error("no credential was presented")]
    CredentialMissing,
    /// The token is not acceptable.
    #[error("the token was refused: {}", .0.code())]
    CredentialRefused(CredentialFault),
    /// No Envoy has this data-plane token, or it was revoked.
    #[error("unknown or revoked data-plane token")]
    EnvoyUnknown,
    /// The caller is known and may not do this.
    #[error("denied by rule `{}`: {reason}", rule.as_deref().unwrap_or("-"))]
    Denied {
        /// The coded reason.
        reason: &'static str,
        /// The rule that refused.
        rule: Option<String>,
    },
    /// A report or record for a holder that belongs to another Envoy.
    #[error("the holder belongs to another Envoy")]
    ForeignHolder,
    /// A newer call of the holder was carried out.
    #[error("the call is older than the holder's last one")]
    StaleCall,
    /// The holder was silent for too long, and is closed for good.
    #[error("the holder is closed")]
    HolderClosed {
        /// The sequence number of its last record.
        last_sequence: i64,
    },
    /// A number in a sync call is negative or absurd.
    #[error("invalid report: {detail}")]
    InvalidReport {
        /// What is wrong with it.
        detail: &'static str,
    },
    /// No such path.
    #[error("no such path")]
    NoRoute,
    /// The path exists, the method does not.
    #[error("method not allowed")]
    MethodNotAllowed,
    /// No such thing.
    #[error("{what} `{id}` not found")]
    NotFound {
        /// The kind of thing.
        what: &'static str,
        /// The id that was asked for.
        id: String,
    },
    /// The state does not allow it, or changed since the caller looked.
    #[error("conflict: {detail}")]
    Conflict {
        /// What the caller should know.
        detail: Cow<'static, str>,
    },
    /// A change that does not say which version it is based on.
    #[error("no version is named")]
    PreconditionRequired,
    /// Somebody changed it since.
    #[error("stale version: {detail}")]
    PreconditionFailed {
        /// Who changed it, and when.
        detail: String,
    },
    /// The request itself is wrong.
    #[error("invalid request: {detail}")]
    InvalidRequest {
        /// What is wrong with it.
        detail: Cow<'static, str>,
    },
    /// The policy does not compile.
    #[error("invalid policy: {0}")]
    InvalidPolicy(Box<PolicyFault>),
    /// Under the policy its author could no longer roll back.
    #[error("the author could not activate another revision under this policy")]
    WouldLockOut {
        /// The coded reason of the denial.
        reason: &'static str,
    },
    /// The body exceeds the limit.
    #[error("the body is too large")]
    TooLarge,
    /// The body is not of the expected media type.
    #[error("unsupported media type")]
    UnsupportedMediaType {
        /// What is expected.
        expected: &'static str,
    },
    /// The request took too long.
    #[error("time limit exceeded")]
    TimedOut,
    /// This process is stopping, or is not ready.
    #[error("unavailable: {what}")]
    Unavailable {
        /// What is missing.
        what: &'static str,
    },
    /// Postgres failed.
    #[error("database failure")]
    Database(#[from] sqlx::Error),
    /// Redis or Valkey failed.
    #[error("counter store failure")]
    Valkey(#[from] redis::RedisError),
    /// Anything else that is our fault.
    #[error("internal failure: {what}")]
    Internal {
        /// What failed.
        what: &'static str,
        /// Why.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
}

impl ApiError {
    /// Our own fault, with its cause for the log.
    pub fn internal(what: &'static str, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Internal { what, source: source.into() }
    }

    /// A request that is wrong in itself.
    pub fn invalid(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::InvalidRequest { detail: detail.into() }
    }

    /// A state that does not allow what was asked.
    pub fn conflict(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::Conflict { detail: detail.into() }
    }

    /// Nothing with this id.
    pub fn not_found(what: &'static str, id: impl ToString) -> Self {
        Self::NotFound { what, id: id.to_string() }
    }

    /// A short code, for metrics.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::CredentialMissing => "credential_missing",
            Self::CredentialRefused(fault) => fault.code(),
            Self::EnvoyUnknown => "envoy_unknown",
            Self::Denied { reason, .. } => reason,
            Self::ForeignHolder => "foreign_holder",
            Self::StaleCall => "stale_call",
            Self::HolderClosed { .. } => "holder_closed",
            Self::InvalidReport { .. } => "invalid_report",
            Self::NoRoute => "no_route",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::NotFound { .. } => "not_found",
            Self::Conflict { .. } => "conflict",
            Self::PreconditionRequired => "precondition_required",
            Self::PreconditionFailed { .. } => "precondition_failed",
            Self::InvalidRequest { .. } => "invalid_request",
            Self::InvalidPolicy(_) => "invalid_policy",
            Self::WouldLockOut { .. } => "would_lock_out",
            Self::TooLarge => "too_large",
            Self::UnsupportedMediaType { .. } => "unsupported_media_type",
            Self::TimedOut => "timed_out",
            Self::Unavailable { .. } => "unavailable",
            Self::Database(_) => "database",
            Self::Valkey(_) => "valkey",
            Self::Internal { .. } => "internal",
        }
    }

    /// The table. Everything a client learns about a failure is decided here.
    #[must_use]
    pub fn problem(&self) -> Problem {
        match self {
            Self::CredentialMissing => UNAUTHORIZED.because("missing `Authorization` header; provide a bearer token"),
            Self::CredentialRefused(fault) => refused_credential(*fault),
            Self::EnvoyUnknown => INVALID_TOKEN.because("unknown or revoked data-plane token"),
            Self::Denied { reason, rule } => Problem { rule: rule.clone(), ..PERMISSION_DENIED.because(*reason) },
            Self::ForeignHolder => PERMISSION_DENIED.because("the holder belongs to another Envoy"),
            Self::StaleCall => STALE_CALL.because("a newer call of the holder was carried out"),
            Self::HolderClosed { .. } => HOLDER_CLOSED.because("the holder was silent for too long; start a new one"),
            Self::InvalidReport { detail } => INVALID_REPORT.because(*detail),
            Self::NoRoute => NOT_FOUND.because("no such path"),
            Self::MethodNotAllowed => METHOD_NOT_ALLOWED.because("the path does not take this method"),
            Self::NotFound { .. } => NOT_FOUND.because(self.to_string()),
            Self::Conflict { detail } => CONFLICT.because(detail.clone()),
            Self::PreconditionRequired => PRECONDITION_REQUIRED.because("say in `If-Match` which version the change is based on"),
            Self::PreconditionFailed { detail } => PRECONDITION_FAILED.because(detail.clone()),
            Self::InvalidRequest { detail } => VALIDATION_ERROR.because(detail.clone()),
            Self::InvalidPolicy(fault) if fault.busy => UNAVAILABLE.because(fault.message.clone()),
            Self::InvalidPolicy(fault) => invalid_policy(fault),
            Self::WouldLockOut { reason } => {
                POLICY_LOCKS_OUT.because(format!("under this policy you could not activate another revision (`{reason}`)"))
            }
            Self::TooLarge => PAYLOAD_TOO_LARGE.because("the body exceeds the limit"),
            Self::UnsupportedMediaType { expected } => UNSUPPORTED_MEDIA_TYPE.because(format!("send `content-type: {expected}`")),
            Self::TimedOut => UNAVAILABLE.because("the request took too long"),
            Self::Unavailable { what } => UNAVAILABLE.because(*what),
            Self::Database(error) if is_transient(error) => UNAVAILABLE.because("the database cannot be reached"),
            Self::Valkey(_) => UNAVAILABLE.because("the counter store cannot be reached"),
            Self::Database(_) | Self::Internal { .. } => INTERNAL.because("an unexpected error occurred"),
        }
    }

    /// RFC 6750 §3: no error code when no token was sent.
    fn challenge(&self) -> Option<&'static str> {
        match self {
            Self::CredentialMissing => Some("Bearer"),
            Self::CredentialRefused(_) | Self::EnvoyUnknown => Some("Bearer error=\"invalid_token\""),
            Self::Denied { .. } => Some("Bearer error=\"insufficient_scope\""),
            Self::ForeignHolder
            | Self::StaleCall
            | Self::HolderClosed { .. }
            | Self::InvalidReport { .. }
            | Self::NoRoute
            | Self::MethodNotAllowed
            | Self::NotFound { .. }
            | Self::Conflict { .. }
            | Self::PreconditionRequired
            | Self::PreconditionFailed { .. }
            | Self::InvalidRequest { .. }
            | Self::InvalidPolicy(_)
            | Self::WouldLockOut { .. }
            | Self::TooLarge
            | Self::UnsupportedMediaType { .. }
            | Self::TimedOut
            | Self::Unavailable { .. }
            | Self::Database(_)
            | Self::Valkey(_)
            | Self::Internal { .. } => None,
        }
    }
}

/// Problem details, as clients read them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Problem {
    /// A URI that names the kind of problem.
    #[serde(rename = "type")]
    pub kind: String,
    /// The kind, for people.
    pub title: &'static str,
    /// The HTTP status.
    pub status: u16,
    /// What happened this time.
    pub detail: Cow<'static, str>,
    /// The rule that refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// The policy file that is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The line in it, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// The field or rule in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
}

/// A kind of problem: what all its occurrences have in common.
struct Kind {
    status: StatusCode,
    slug: &'static str,
    title: &'static str,
}

impl Kind {
    fn because(&self, detail: impl Into<Cow<'static, str>>) -> Problem {
        Problem {
            kind: format!("{PROBLEM_BASE}{}", self.slug),
            title: self.title,
            status: self.status.as_u16(),
            detail: detail.into(),
            rule: None,
            file: None,
            line: None,
            field: None,
        }
    }
}

/// Defines each kind by its name, and all of them.
macro_rules! kinds {
    ($($name:ident: $status:ident, $slug:literal, $title:literal;)*) => {
        $(const $name: Kind = Kind { status: StatusCode::$status, slug: $slug, title: $title };)*

        #[cfg(test)]
        const KINDS: &[Kind] = &[$($name),*];
    };
}

kinds! {
    UNAUTHORIZED: UNAUTHORIZED, "unauthorized", "Unauthorized";
    INVALID_TOKEN: UNAUTHORIZED, "invalid-token", "Invalid Token";
    INVALID_TOKEN_FORMAT: UNAUTHORIZED, "invalid-token-format", "Invalid Token Format";
    TOKEN_EXPIRED: UNAUTHORIZED, "token-expired", "Token Expired";
    PERMISSION_DENIED: FORBIDDEN, "permission-denied", "Permission Denied";
    NOT_FOUND: NOT_FOUND, "not-found", "Not Found";
    METHOD_NOT_ALLOWED: METHOD_NOT_ALLOWED, "method-not-allowed", "Method Not Allowed";
    CONFLICT: CONFLICT, "conflict", "Conflict";
    PRECONDITION_REQUIRED: PRECONDITION_REQUIRED, "precondition-required", "Precondition Required";
    PRECONDITION_FAILED: PRECONDITION_FAILED, "precondition-failed", "Precondition Failed";
    INVALID_REPORT: UNPROCESSABLE_ENTITY, "invalid-report", "Invalid Report";
    STALE_CALL: CONFLICT, "stale-call", "Stale Call";
    HOLDER_CLOSED: GONE, "holder-closed", "Holder Closed";
    VALIDATION_ERROR: BAD_REQUEST, "validation-error", "Validation Error";
    INVALID_POLICY: UNPROCESSABLE_ENTITY, "invalid-policy", "Invalid Policy";
    POLICY_LOCKS_OUT: UNPROCESSABLE_ENTITY, "policy-locks-out-author", "Policy Locks Out Its Author";
    PAYLOAD_TOO_LARGE: PAYLOAD_TOO_LARGE, "payload-too-large", "Payload Too Large";
    UNSUPPORTED_MEDIA_TYPE: UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type", "Unsupported Media Type";
    UNAVAILABLE: SERVICE_UNAVAILABLE, "service-unavailable", "Service Unavailable";
    INTERNAL: INTERNAL_SERVER_ERROR, "internal-server-error", "Internal Server Error";
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let problem = self.problem();
        let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if status.is_server_error() {
            tracing::error!(status = problem.status, error = %chain(&self), "request failed");
        } else {
            tracing::debug!(status = problem.status, error = %self, "request refused");
        }
        let mut response = (status, Json(&problem)).into_response();
        // For who would rather show a page than this JSON.
        response.extensions_mut().insert(problem);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(challenge) = self.challenge() {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        if let Self::HolderClosed { last_sequence } = self {
            headers.insert(RECORDS_STORED_HEADER, HeaderValue::from(last_sequence));
        }
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

/// The answer to a path that does not exist.
pub async fn no_route(_uri: Uri) -> ApiError {
    ApiError::NoRoute
}

/// The answer to a path that does not take the method.
pub async fn method_not_allowed(_method: Method) -> ApiError {
    ApiError::MethodNotAllowed
}

/// Ends a request that takes longer than `limit`.
pub async fn time_limited(limit: Duration, request: Request, next: Next) -> Response {
    tokio::time::timeout(limit, next.run(request)).await.unwrap_or_else(|_elapsed| ApiError::TimedOut.into_response())
}

fn refused_credential(fault: CredentialFault) -> Problem {
    match fault {
        CredentialFault::NotBearer => INVALID_TOKEN_FORMAT.because("the `Authorization` header must be `Bearer <token>`"),
        CredentialFault::Expired => TOKEN_EXPIRED.because("the token has expired; log in again"),
        CredentialFault::Malformed
        | CredentialFault::AlgorithmRefused
        | CredentialFault::HeaderRefused
        | CredentialFault::UnknownKey
        | CredentialFault::SignatureInvalid
        | CredentialFault::IssuerMismatch
        | CredentialFault::AudienceMismatch
        | CredentialFault::TokenTypeRefused
        | CredentialFault::ClaimMissing(_)
        | CredentialFault::NotYetValid
        | CredentialFault::LifetimeTooLong
        | CredentialFault::NoKnownRole
        | CredentialFault::TrialClaimsInvalid
        | CredentialFault::TrialRefused
        | CredentialFault::Revoked(_)
        | CredentialFault::VerificationBudgetSpent => INVALID_TOKEN.because("token validation failed"),
    }
}

fn invalid_policy(fault: &PolicyFault) -> Problem {
    let problem = INVALID_POLICY.because(fault.message.clone());
    Problem { file: fault.file.clone(), line: fault.line, field: fault.field.clone(), ..problem }
}

/// Whether the database may answer the same query in a moment: connection trouble, a restart, or a lost race.
#[expect(clippy::wildcard_enum_match_arm, reason = "the enum is sqlx's and non-exhaustive")]
fn is_transient(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::BeginFailed => true,
        // SQLSTATE classes: 08 connection, 40 rollback, 53 resources, 57 operator intervention.
        sqlx::Error::Database(cause) => {
            cause.code().is_some_and(|code| ["08", "40", "53", "57"].iter().any(|class| code.starts_with(class)))
        }
        _ => false,
    }
}

#[cfg(test)]
#[path = "../../docs/problems.rs"]
mod page;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_of_problems_lists_what_is_sent_and_nothing_else() {
        let sent = KINDS.iter().map(|kind| (kind.status.as_u16(), kind.slug));
        assert_eq!(page::listed("From the control plane"), page::sent(sent));
    }

    #[test]
    fn a_policy_that_nobody_had_time_for_is_not_called_wrong() {
        let problem = |busy| {
            let fault = PolicyFault { message: "m".into(), busy, ..PolicyFault::default() };
            let problem = ApiError::InvalidPolicy(Box::new(fault)).problem();
            (problem.status, problem.detail.into_owned())
        };
        assert_eq!([problem(true), problem(false)], [(503, "m".to_owned()), (422, "m".to_owned())]);
    }

    #[test]
    fn a_refused_token_learns_nothing_about_keys_or_claims() {
        let told = |fault| refused_credential(fault).detail;
        let plain = told(CredentialFault::Malformed);
        for fault in
            [CredentialFault::UnknownKey, CredentialFault::SignatureInvalid, CredentialFault::IssuerMismatch, CredentialFault::NoKnownRole]
        {
            assert_eq!(told(fault), plain, "{fault:?}");
        }
    }
}
