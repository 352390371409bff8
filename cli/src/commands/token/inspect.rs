//! `plant-gateway token inspect`: what a token says, and every check that a gateway makes of it, but for the signature.

use std::path::PathBuf;

use authn::{Check, Finding, IssuerRules, JwsHeader, explain_claims, parse_jws};
use clap::Args;
use decision_core::principal::CredentialFault;
use decision_core::time::Timestamp;
use serde_json::{Value, json};
use wire::policy::{Issuer, PolicyDocument};

use super::report::{Moment, Shown, printable};
use super::{TokenError, policies};
use crate::commands::terminal::escaped;
use crate::key_file;
use crate::policy;
use crate::refusal;
use crate::token::now;

/// Arguments of `token inspect`.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The policy, whose rules for the token's issuer are checked [default: policies, if it is there].
    #[arg(long, value_name = "DIR")]
    policies: Option<PathBuf>,
    /// Print everything as JSON.
    #[arg(long)]
    json: bool,
    /// The token; `-` is standard input.
    #[arg(allow_hyphen_values = true)]
    token: String,
}

/// One check, with what would have to change if it failed.
#[derive(Debug, PartialEq, Eq)]
struct Checked {
    what: String,
    refused: Option<Refused>,
}

#[derive(Debug, PartialEq, Eq)]
struct Refused {
    code: &'static str,
    change: String,
}

/// Shows the token and its checks. Succeeds whatever they say: it explains, and does not judge.
pub(super) fn run(arguments: &Arguments) -> Result<(), TokenError> {
    let token = key_file::token(&arguments.token)?;
    let shown = Shown::of(&token)?;
    let now = now();
    let document = policies(arguments.policies.as_ref()).map(|folder| policy::read(&folder)).transpose()?;
    let checks = checks(&token, &shown, document.as_ref(), now)?;
    let unchecked = unchecked(document.as_ref());
    let moments = shown.moments(now);
    if arguments.json {
        println!("{}", printable(&as_json(&shown, &moments, &checks, &unchecked)));
    } else {
        print!("{}", escaped(&as_text(&shown, &moments, &checks, &unchecked)));
    }
    Ok(())
}

/// In the order in which a gateway makes them.
fn checks(token: &str, shown: &Shown, document: Option<&PolicyDocument>, now: i64) -> Result<Vec<Checked>, TokenError> {
    let jws = parse_jws(token);
    let form = "three parts of canonical base64url, at most 8 KiB; the header has a known `alg`, no `crit` and no duplicate names";
    let mut checks = vec![checked(form, jws.as_ref().map(drop).map_err(|fault| *fault), || {
        jws.as_ref().err().map(|fault| refusal::meaning(*fault)).unwrap_or_default()
    })];
    let Some(document) = document else {
        return Ok(checks);
    };
    let iss = shown.issuer().unwrap_or_default();
    let issuers = policy::issuers(document, None, iss)?;
    let known = document.issuers.iter().find(|issuer| issuer.issuer == iss).zip(issuers.find(iss));
    let all = || document.issuers.iter().map(|issuer| format!("`{}`", issuer.issuer)).collect::<Vec<_>>().join(", ");
    let outcome = known.map(drop).ok_or(CredentialFault::IssuerMismatch);
    checks.push(checked("`iss` is an issuer of the policy", outcome, || format!("`iss` has to be exactly one of {}", all())));
    let Some((issuer, rules)) = known else {
        return Ok(checks);
    };
    // Without a readable header, the claims are still worth a look.
    let header = jws.as_ref().map(|jws| jws.header.clone()).ok();
    if let Some(header) = &header {
        checks.extend(check_key(header, issuer, rules));
    }
    let payload = shown.claims.to_string();
    let payload = jws.as_ref().map_or(payload.as_bytes(), |jws| jws.payload.as_slice());
    let header = header.unwrap_or(JwsHeader { algorithm: authn::Algorithm::Hs256, kid: None, typ: None });
    match explain_claims(payload, &header, rules, Timestamp::from_seconds(now)) {
        Ok(findings) => {
            checks.extend(findings.iter().filter(|finding| finding.check != Check::Issuer).map(|finding| explained(finding, rules)))
        }
        Err(fault) => checks.push(checked("the payload is a JSON object without duplicate names", Err(fault), || refusal::meaning(fault))),
    }
    checks.push(check_roles(shown, issuer, document));
    Ok(checks)
}

fn checked(what: impl Into<String>, outcome: Result<(), CredentialFault>, change: impl FnOnce() -> String) -> Checked {
    Checked { what: what.into(), refused: outcome.err().map(|fault| Refused { code: fault.code(), change: change() }) }
}

/// Algorithm and key id, as far as they can be checked without the keys.
fn check_key(header: &JwsHeader, issuer: &Issuer, rules: &IssuerRules) -> Vec<Checked> {
    let names = rules.algorithms.iter().map(|algorithm| algorithm.name()).collect::<Vec<_>>().join(", ");
    let allowed = if rules.algorithms.contains(&header.algorithm) { Ok(()) } else { Err(CredentialFault::AlgorithmRefused) };
    let algorithm = checked(format!("`alg` ({}) is one of the issuer's: {names}", header.algorithm.name()), allowed, || {
        format!("sign with one of {names}, or add {} to the issuer's `algorithms`", header.algorithm.name())
    });
    let fitting: Vec<&str> =
        issuer.keys.iter().filter(|key| key.algorithm == header.algorithm.name()).map(|key| key.kid.as_str()).collect();
    let known = match header.kid.as_deref() {
        Some(kid) => fitting.contains(&kid),
        None => fitting.len() == 1,
    };
    let kids = fitting.iter().map(|kid| format!("`{kid}`")).collect::<Vec<_>>().join(", ");
    let shown = header.kid.as_deref().map_or("no `kid`".to_owned(), |kid| format!("`kid` `{kid}`"));
    let key = match (known, &issuer.jwks) {
        (false, Some(jwks)) => checked(
            format!("{shown}: not a key of the policy, so looked up in the set at {}; not checked here", jwks.url),
            Ok(()),
            String::new,
        ),
        (true, _) => checked(format!("{shown} chooses one key of the issuer"), Ok(()), String::new),
        (false, None) => checked(format!("{shown} chooses one key of the issuer"), Err(CredentialFault::UnknownKey), || {
            format!(
                "sign with a key of the issuer for the algorithm ({}), and name it in `kid`",
                if kids.is_empty() { "it has none" } else { &kids }
            )
        }),
    };
    vec![algorithm, key]
}

/// Roles are the policy's, and not part of the verification: a token none of whose roles is known opens nothing.
fn check_roles(shown: &Shown, issuer: &Issuer, document: &PolicyDocument) -> Checked {
    let known = |role: &str| {
        let listed = issuer.roles.is_empty() || issuer.roles.iter().any(|name| name == role);
        listed && document.roles.iter().any(|known| known.name == role || known.aliases.iter().any(|alias| alias == role))
    };
    let roles = shown.claims.get("roles").and_then(Value::as_array);
    let any = roles.is_some_and(|roles| roles.iter().filter_map(Value::as_str).any(known));
    let outcome = if any { Ok(()) } else { Err(CredentialFault::NoKnownRole) };
    checked("one of the `roles` is known, and the issuer may grant it", outcome, || {
        let names: Vec<&str> = document.roles.iter().map(|role| role.name.as_str()).filter(|role| known(role)).collect();
        format!("`roles` has to have one of {}", names.join(", "))
    })
}

fn explained(finding: &Finding, rules: &IssuerRules) -> Checked {
    let list = |names: &[Box<str>]| names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    let (skew, lifetime) = (rules.skew.as_secs(), rules.lifetime_max.as_secs());
    let (what, change) = match finding.check {
        Check::Issuer => ("`iss` is the issuer's".to_owned(), format!("`iss` has to be `{}`", rules.issuer)),
        Check::Type => {
            (format!("`typ` is one of {}", list(&rules.token_types)), "only access tokens are accepted: set the header's `typ`".to_owned())
        }
        Check::Claim(name) => claim(name),
        Check::Trial => (
            "`trial_mode` is absent, false, or true with a `trial_expires_at`".to_owned(),
            match finding.outcome {
                Err(CredentialFault::TrialRefused) => {
                    "the issuer's tokens may not be for trials: leave `trial_mode` out, or set `trials: allow`"
                }
                Ok(()) | Err(_) => "`trial_mode` is a boolean and `trial_expires_at` a date in the form of RFC 3339, or seconds since 1970",
            }
            .to_owned(),
        ),
        Check::Required(claim) => (format!("`{}` is there, as the issuer requires", claim.name()), format!("add `{}`", claim.name())),
        Check::Audience if rules.audiences.is_empty() => {
            ("there is no `aud`".to_owned(), "leave `aud` out, or add its value to the issuer's `audiences`".to_owned())
        }
        Check::Audience => {
            (format!("`aud` names one of {}", list(&rules.audiences)), "ask the issuer for a token for this gateway".to_owned())
        }
        Check::TokenType => ("`token_type` is `access` or absent".to_owned(), "send the access token, not the refresh token".to_owned()),
        Check::Scope if rules.scopes.is_empty() => (
            "there is no `scope`".to_owned(),
            "the token is for one purpose: leave `scope` out, or add it to the issuer's `scopes`".to_owned(),
        ),
        Check::Scope => (
            format!("`scope` has only {}", list(&rules.scopes)),
            "leave the other values out, or add them to the issuer's `scopes`".to_owned(),
        ),
        Check::Lifetime => (
            format!("`exp` is after `iat`, by {lifetime} s at most"),
            match finding.outcome {
                Err(CredentialFault::LifetimeTooLong) => "the issuer has to grant shorter tokens; the policy's bound is `lifetime_max_s`",
                Ok(()) | Err(_) => "`exp` has to be later than `iat`",
            }
            .to_owned(),
        ),
        Check::IssuedAt => {
            (format!("`iat` is not in the future, by more than {skew} s"), "the issuer's clock is ahead, or ours behind".to_owned())
        }
        Check::NotBefore => {
            (format!("`nbf` is absent or not in the future, by more than {skew} s"), "wait, or look at the clocks".to_owned())
        }
        Check::Expiry => (format!("it has not expired, with {skew} s of tolerance"), "get a new token".to_owned()),
    };
    checked(what, finding.outcome, || change)
}

fn claim(name: &'static str) -> (String, String) {
    let form = match name {
        "sub" | "user_id" | "email" => "a text of 1 to 256 bytes without control characters or outer spaces",
        "roles" => "a list of 1 to 64 names without commas",
        "iat" | "exp" => "a number: seconds since 1970",
        "token_version" => "absent, or a whole number from 0",
        _ => "absent, or a text of at most 256 bytes without control characters or outer spaces",
    };
    (format!("`{name}` is {form}"), format!("`{name}` has to be {form}"))
}

/// What the checks leave open.
fn unchecked(document: Option<&PolicyDocument>) -> Vec<String> {
    let mut unchecked = vec!["the signature: that needs the keys, see `token verify`".to_owned(), "revocation".to_owned()];
    if document.is_none() {
        unchecked.push("the rules of its issuer: there is no policy, give --policies DIR".to_owned());
    }
    unchecked
}

fn as_text(shown: &Shown, moments: &[Moment], checks: &[Checked], unchecked: &[String]) -> String {
    let mut text = format!("header\n{}\n\nclaims\n{}\n\ntimes\n", printable(&shown.header), printable(&shown.claims));
    for Moment { claim, at, relative } in moments {
        text.push_str(&format!("  {claim}  {at}  {relative}\n"));
    }
    text.push_str("\nchecks, in the order in which a gateway makes them\n");
    for check in checks {
        match &check.refused {
            None => text.push_str(&format!("  pass  {}\n", check.what)),
            Some(Refused { code, change }) => text.push_str(&format!("  FAIL  {}\n        {code}: {change}\n", check.what)),
        }
    }
    text.push_str("\nnot checked\n");
    for what in unchecked {
        text.push_str(&format!("  {what}\n"));
    }
    match checks.iter().find_map(|check| check.refused.as_ref()) {
        Some(first) => text.push_str(&format!("\na gateway refuses it: {}\n", first.code)),
        None => text.push_str("\nnothing found for which a gateway would refuse it, if the signature is good\n"),
    }
    text
}

fn as_json(shown: &Shown, moments: &[Moment], checks: &[Checked], unchecked: &[String]) -> Value {
    let check = |check: &Checked| match &check.refused {
        None => json!({"check": check.what, "outcome": "pass"}),
        Some(Refused { code, change }) => json!({"check": check.what, "outcome": "fail", "reason": code, "change": change}),
    };
    json!({
        "header": shown.header,
        "claims": shown.claims,
        "times": moments.iter().map(Moment::to_json).collect::<Vec<_>>(),
        "checks": checks.iter().map(check).collect::<Vec<_>>(),
        "not_checked": unchecked,
        "refused_as": checks.iter().find_map(|check| check.refused.as_ref()).map(|refused| refused.code),
    })
}
