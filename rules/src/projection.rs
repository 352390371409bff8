//! The projected input: what was declared, and nothing else. Here as bytes, which key the memo; as a Rego value in [`crate::shape`].

use crate::field::{InputField, UnknownField, WEEKDAYS};
use decision_core::decision::Target;
use decision_core::gateway::{Gateway, Method};
use decision_core::policy::Route;
use decision_core::principal::{Principal, Trial};
use decision_core::time::Timestamp;

/// A request that the tables have permitted.
#[derive(Clone, Copy, Debug)]
pub struct Judged<'r> {
    /// Where it came to.
    pub gateway: Gateway,
    /// Its method.
    pub method: Method,
    /// Its canonical path, without query.
    pub path: &'r str,
    /// The route that matched.
    pub route: &'r Route,
    /// Who asks.
    pub principal: &'r Principal,
    /// Where the tables send it.
    pub target: Target,
    /// When.
    pub now: Timestamp,
}

/// The inputs that a bundle declares, in the catalogue's order and each once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inputs {
    fields: Vec<InputField>,
}

/// A field's value, borrowed from the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Projected<'r> {
    Absent,
    Text(&'r str),
    /// Names joined by commas; no name has one.
    Joined(&'r str),
    Flag(bool),
    Small(u8),
}

impl Inputs {
    /// From paths such as `jwt.roles`.
    ///
    /// # Errors
    /// The first that is no field.
    pub fn parse(paths: &[String]) -> Result<Self, UnknownField> {
        let mut fields = paths.iter().map(|path| InputField::parse(path)).collect::<Result<Vec<_>, _>>()?;
        fields.sort_unstable();
        fields.dedup();
        Ok(Self { fields })
    }

    /// The fields.
    #[must_use]
    pub fn fields(&self) -> &[InputField] {
        &self.fields
    }

    /// The projected input as bytes. Injective: each value is tagged, and what has no fixed length tells it.
    pub(crate) fn write_key(&self, judged: &Judged<'_>, key: &mut Vec<u8>) {
        key.clear();
        for field in &self.fields {
            match read(*field, judged) {
                Projected::Absent => key.push(0),
                Projected::Text(text) | Projected::Joined(text) => {
                    key.push(1);
                    key.extend_from_slice(&u64::try_from(text.len()).unwrap_or(u64::MAX).to_le_bytes());
                    key.extend_from_slice(text.as_bytes());
                }
                Projected::Flag(flag) => key.push(2 | u8::from(flag)),
                Projected::Small(number) => key.extend_from_slice(&[4, number]),
            }
        }
    }
}

pub(crate) fn read<'r>(field: InputField, judged: &Judged<'r>) -> Projected<'r> {
    let identity = &judged.principal.identity;
    let optional = |text: &'r Option<Box<str>>| text.as_deref().map_or(Projected::Absent, Projected::Text);
    let permission = Some(&*judged.route.action).filter(|action| !action.is_empty());
    let part = |part: Option<&'r str>| part.map_or(Projected::Absent, Projected::Text);
    match field {
        InputField::Gateway => Projected::Text(judged.gateway.name()),
        InputField::Method => Projected::Text(judged.method.name()),
        InputField::Path => Projected::Text(judged.path),
        InputField::Route => Projected::Text(&judged.route.name),
        InputField::Permission => part(permission),
        InputField::Resource => part(permission.and_then(|name| name.split_once('.')).map(|(resource, _)| resource)),
        InputField::Action => part(permission.and_then(|name| name.split_once('.')).map(|(_, action)| action)),
        InputField::Target => Projected::Text(target_name(judged.target)),
        InputField::Issuer => Projected::Text(&identity.issuer),
        InputField::Subject => Projected::Text(&identity.subject),
        InputField::UserId => Projected::Text(&identity.user_id),
        InputField::Email => Projected::Text(&identity.email),
        InputField::CustomerId => optional(&identity.customer_id),
        InputField::AgentId => optional(&identity.agent_id),
        InputField::GovernorAgentId => optional(&identity.governor_agent_id),
        InputField::Roles => Projected::Joined(&judged.principal.roles_joined),
        InputField::TierClaim => optional(&identity.tier),
        InputField::TrialMode | InputField::Trial => Projected::Flag(identity.trial != Trial::No),
        InputField::Tier => Projected::Text(judged.principal.tier.name()),
        InputField::TrialExpired => Projected::Flag(matches!(identity.trial, Trial::Until(end) if judged.now > end)),
        InputField::Governor => Projected::Flag(judged.principal.governor),
        InputField::HourUtc => Projected::Small(hour(judged.now)),
        InputField::WeekdayUtc => Projected::Text(weekday(judged.now)),
    }
}

pub(crate) const fn target_name(target: Target) -> &'static str {
    match target {
        Target::Production => "production",
        Target::Sandbox => "sandbox",
    }
}

fn hour(now: Timestamp) -> u8 {
    u8::try_from(now.as_seconds().rem_euclid(86_400) / 3_600).unwrap_or(0)
}

fn weekday(now: Timestamp) -> &'static str {
    let day = usize::try_from(now.as_seconds().div_euclid(86_400).rem_euclid(7)).unwrap_or(0);
    WEEKDAYS.get(day).copied().unwrap_or("thursday")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_is_utc() {
        for (seconds, at) in
            [(0, (0, "thursday")), (1_767_225_599, (23, "wednesday")), (1_767_225_600, (0, "thursday")), (-1, (23, "wednesday"))]
        {
            let now = Timestamp::from_seconds(seconds);
            assert_eq!((hour(now), weekday(now)), at, "{seconds}");
        }
    }

    #[test]
    fn inputs_are_in_one_order_and_each_once() {
        let parsed = |paths: &[&str]| Inputs::parse(&paths.iter().map(|path| (*path).to_owned()).collect::<Vec<_>>());
        assert_eq!(parsed(&["jwt.roles", "method", "jwt.roles"]).unwrap(), parsed(&["method", "jwt.roles"]).unwrap());
        assert!(parsed(&["jwt.rules"]).is_err());
    }
}
