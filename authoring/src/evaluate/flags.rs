//! A policy as it would be if its flags stood otherwise.

use crate::cases::FlagStates;
use decision_core::nearest::nearest;
use wire::policy::PolicyDocument;

/// A flag that the policy does not have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("flags: `{name}` does not exist{}", nearest.as_ref().map_or_else(String::new, |nearest| format!("; the nearest name is `{nearest}`")))]
pub struct UnknownFlag {
    /// Its name.
    pub name: String,
    /// The name that may have been meant.
    pub nearest: Option<String>,
}

/// The policy in which these flags stand so for everybody: without overrides and roll-out.
///
/// # Errors
/// The first flag that it does not have.
pub fn with_flags(document: &PolicyDocument, states: &FlagStates) -> Result<PolicyDocument, UnknownFlag> {
    let mut document = document.clone();
    for (name, state) in states {
        let Some(flag) = document.flags.iter_mut().find(|flag| flag.name == *name) else {
            let nearest = nearest(name, document.flags.iter().map(|flag| flag.name.as_str())).map(str::to_owned);
            return Err(UnknownFlag { name: name.clone(), nearest });
        };
        flag.default = *state;
        flag.overrides.clear();
        flag.rollout_percent = None;
    }
    Ok(document)
}
