//! Feature flags and the texts of refusals.

use super::error::{CompileError, range, unique, unknown};
use crate::decision::DenyReason;
use crate::failure::Fault;
use crate::flag::{FLAGS_MAX, Flag, FlagId, FlagSet, FlagState, SwitchedOff};
use crate::policy::Responses;
use crate::policy::source::FlagSource;

const DETAIL_BYTES_MAX: usize = 512;

pub(super) fn compile_flags(sources: &[FlagSource]) -> Result<Vec<Flag>, CompileError> {
    let mut flags: Vec<Flag> = Vec::with_capacity(sources.len());
    for source in sources {
        let at = format!("flags[{}]", source.name);
        unique(&at, &source.name, flags.iter().map(|known| &*known.name))?;
        let id = u8::try_from(flags.len()).ok().filter(|id| usize::from(*id) < FLAGS_MAX);
        let id = id.map(FlagId).ok_or_else(|| range(&at, &source.name, "within 64 flags"))?;
        if let Some(percent) = source.rollout_percent.filter(|percent| *percent > 100) {
            return Err(range(&format!("{at}.rollout_percent"), &percent.to_string(), "from 0 to 100"));
        }
        let mut overrides: Vec<(Box<str>, FlagState)> =
            source.overrides.iter().map(|(customer, state)| (customer.as_str().into(), *state)).collect();
        overrides.sort_unstable_by(|(left, _), (right, _)| left.cmp(right));
        if let Some([(customer, _), _]) = overrides.array_windows().find(|[(left, _), (right, _)]| left == right) {
            return Err(CompileError::Repeated { at: format!("{at}.overrides"), name: customer.to_string() });
        }
        flags.push(Flag {
            id,
            name: source.name.as_str().into(),
            default: source.default,
            overrides: overrides.into(),
            rollout_percent: source.rollout_percent,
            switches: source.switches.iter().copied().collect(),
        });
    }
    Ok(flags)
}

/// A flag that switches nothing would be a silent no-op.
pub(super) fn check_used(flags: &[Flag], named: FlagSet) -> Result<(), CompileError> {
    let used = |flag: &Flag| flag.switches != SwitchedOff::default() || named.contains(flag.id);
    match flags.iter().find(|flag| !used(flag)) {
        Some(unused) => Err(CompileError::Inconsistent {
            at: format!("flags[{}]", unused.name),
            rule: "a flag without `switches` that no route names as its `flag` switches nothing",
        }),
        None => Ok(()),
    }
}

pub(super) fn compile_responses(sources: &[(String, String)]) -> Result<Responses, CompileError> {
    let mut responses: Vec<(Box<str>, Box<str>)> = Vec::with_capacity(sources.len());
    for (reason, detail) in sources {
        let at = format!("responses[{reason}]");
        unique(&at, reason, responses.iter().map(|(known, _)| &**known))?;
        let mut known = DenyReason::codes().chain(Fault::ALL.into_iter().map(Fault::code));
        if !known.any(|code| code == reason) {
            return Err(unknown(&format!("{at}.reason"), reason, DenyReason::codes().chain(Fault::ALL.into_iter().map(Fault::code))));
        }
        if detail.is_empty() || detail.len() > DETAIL_BYTES_MAX || detail.chars().any(char::is_control) {
            return Err(range(&format!("{at}.detail"), &detail.escape_debug().to_string(), "one line of 1 to 512 bytes"));
        }
        responses.push((reason.as_str().into(), detail.as_str().into()));
    }
    responses.sort_unstable();
    Ok(responses.into())
}
