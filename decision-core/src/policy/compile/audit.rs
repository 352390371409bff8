//! What records hold, and how surely routes have them. Nothing that opens a door is ever recorded.

use super::error::{CompileError, range, unique};
use crate::audit::{AuditLevel, AuditRules, Identities, Names};
use crate::gateway::Gateway;
use crate::policy::Requirement;
use crate::policy::source::{AuditSource, RouteSource};
use core::ops::RangeInclusive;

/// The most names of one kind.
const NAMES_MAX: usize = 16;
const NAME_BYTES_MAX: usize = 64;
const SAMPLED: RangeInclusive<u32> = 2..=10_000;

/// Words that tell a header or a parameter that holds a credential, in lower case and without `-`, `_` and `.`.
const SECRET_WORDS: [&str; 16] = [
    "authoriz",
    "authentication",
    "cookie",
    "token",
    "secret",
    "password",
    "passwd",
    "passphrase",
    "credential",
    "apikey",
    "accesskey",
    "registrationkey",
    "privatekey",
    "signature",
    "session",
    "assertion",
];

/// The same for whole names, which are part of harmless ones too.
const SECRET_NAMES: [&str; 17] = [
    "key",
    "code",
    "state",
    "nonce",
    "jwt",
    "auth",
    "xauth",
    "pwd",
    "pass",
    "pin",
    "otp",
    "totp",
    "mfa",
    "sig",
    "sid",
    "xjwt",
    "codeverifier",
];

/// Headers whose values are addresses: with them parameters would be recorded that nobody has named.
const ADDRESSES: [&str; 10] = [
    "referer",
    "location",
    "content-location",
    "link",
    "refresh",
    "x-original-url",
    "x-original-uri",
    "x-rewrite-url",
    "x-forwarded-uri",
    "x-envoy-original-path",
];

pub(super) fn compile_audit(source: &AuditSource) -> Result<AuditRules, CompileError> {
    let inconsistent = |rule| CompileError::Inconsistent { at: "audit.hash_key".into(), rule };
    match (source.identities, source.hash_key.as_ref()) {
        (Identities::Hashed, None) => return Err(inconsistent("`identities: hashed` needs a `hash_key`: the name of a secret")),
        (Identities::Plain, Some(_)) => return Err(inconsistent("`hash_key` goes with `identities: hashed`")),
        (Identities::Hashed, Some(_)) | (Identities::Plain, None) => {}
    }
    Ok(AuditRules {
        request_headers: names(&source.request_headers, "audit.request_headers", header)?,
        response_headers: names(&source.response_headers, "audit.response_headers", header)?,
        query_parameters: names(&source.query_parameters, "audit.query_parameters", parameter)?,
        identities: source.identities,
        email: source.email,
        when_full: source.when_full,
    })
}

/// What is wrong with a name.
type Fault = Option<&'static str>;

fn names(source: &[String], at: &str, fault: fn(&str) -> Fault) -> Result<Names, CompileError> {
    let mut names: Vec<Box<str>> = Vec::with_capacity(source.len());
    for name in source {
        unique(at, name, names.iter().map(|known| &**known))?;
        if let Some(expected) = fault(name) {
            return Err(range(at, name, expected));
        }
        if names.len() == NAMES_MAX {
            return Err(range(at, name, "within 16 names"));
        }
        names.push(name.as_str().into());
    }
    Ok(Names::new(names))
}

fn header(name: &str) -> Fault {
    let token = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_';
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(token) {
        return Some("the name of a header: 1 to 64 lower-case letters, digits and `-_`");
    }
    if ADDRESSES.contains(&name) {
        return Some("a header that may be recorded: its value is an address, with parameters that nobody has named");
    }
    is_secret(name).then_some("a header that may be recorded: it carries credentials")
}

fn parameter(name: &str) -> Fault {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(plain) {
        return Some("the name of a parameter: 1 to 64 letters, digits and `-_.`");
    }
    is_secret(name).then_some("a parameter that may be recorded: it carries credentials")
}

fn is_secret(name: &str) -> bool {
    let joined: String = name.chars().filter(char::is_ascii_alphanumeric).map(|letter| letter.to_ascii_lowercase()).collect();
    SECRET_NAMES.contains(&&*joined) || SECRET_WORDS.iter().any(|word| joined.contains(word))
}

/// The level of a route. `charged`: whether its requests cost anything.
pub(super) fn level(route: &RouteSource, requirement: Requirement, charged: bool, at: &str) -> Result<AuditLevel, CompileError> {
    let refused = |rule| Err(CompileError::Inconsistent { at: format!("{at}.audit"), rule });
    if route.audit != AuditLevel::Buffered && route.gateways.contains(&Gateway::Admin) {
        return refused("the control plane records all of its own API: a route on ADMIN has no `audit`");
    }
    let AuditLevel::Sampled(of) = route.audit else { return Ok(route.audit) };
    if !SAMPLED.contains(&of) {
        return Err(range(&format!("{at}.audit.sampled"), &of.to_string(), "from 2 to 10000"));
    }
    if charged {
        return refused("a route that is charged cannot be sampled: records tell what was spent");
    }
    if route.governor_approval {
        return refused("a route that needs an approval cannot be sampled");
    }
    match requirement {
        Requirement::RegistrationKey => refused("a route that a registration key opens cannot be sampled: nothing else tells who used it"),
        Requirement::Public | Requirement::Authenticated | Requirement::Permission(_) => Ok(route.audit),
    }
}
