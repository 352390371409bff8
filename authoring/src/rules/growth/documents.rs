//! What is known before anything is evaluated: the declared inputs, and the data document.

use super::extent::{Extent, length};
use authn::{CLAIM_BYTES_MAX, ROLES_MAX};
use decision_core::path::CanonicalPath;
use rules::InputField;
use rules::field::FieldType;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use wire::texts::NAME_BYTES_MAX;

/// What a field of `input` may be.
fn field(field: InputField) -> Extent {
    let bytes = match field {
        InputField::Path => CanonicalPath::LENGTH_MAX,
        InputField::Gateway
        | InputField::Method
        | InputField::Route
        | InputField::Permission
        | InputField::Resource
        | InputField::Action
        | InputField::Target
        | InputField::Issuer
        | InputField::Tier
        | InputField::WeekdayUtc
        // Those that the policy names.
        | InputField::Roles => NAME_BYTES_MAX,
        InputField::Subject
        | InputField::UserId
        | InputField::Email
        | InputField::CustomerId
        | InputField::AgentId
        | InputField::GovernorAgentId
        | InputField::TierClaim
        | InputField::TrialMode
        | InputField::Trial
        | InputField::TrialExpired
        | InputField::Governor
        | InputField::HourUtc => CLAIM_BYTES_MAX,
    };
    let text = || Extent::text(u64::try_from(bytes).unwrap_or(u64::MAX));
    match field.field_type() {
        FieldType::Text | FieldType::OptionalText => text(),
        FieldType::Texts => Extent::around((0..ROLES_MAX).map(|_| text())),
        FieldType::Flag => Extent::one(),
        FieldType::Hour => Extent::number(2),
    }
}

/// What a path from `input` may be, and how much of the path that is.
pub(super) fn input(declared: &[InputField], path: &[String]) -> (Extent, usize) {
    for (index, _) in path.iter().enumerate() {
        let steps = index.saturating_add(1);
        let asked = path.iter().take(steps).cloned().collect::<Vec<_>>().join(".");
        if let Some(found) = declared.iter().find(|declared| declared.path() == asked) {
            return (field(*found), steps);
        }
    }
    let group = path.iter().map(|name| format!("{name}.")).collect::<String>();
    let mut members: BTreeMap<&str, Vec<Extent>> = BTreeMap::new();
    for field in declared {
        let Some(rest) = field.path().strip_prefix(&group) else { continue };
        let (name, below) = rest.split_once('.').map_or((rest, None), |(name, below)| (name, Some(below)));
        let value = self::field(*field);
        let inside = below.map_or_else(|| vec![value.clone()], |below| vec![Extent::text(length(below)), value.clone()]);
        members.entry(name).or_default().extend(inside);
    }
    let fields = members.into_iter().flat_map(|(name, inside)| {
        let value = if declared.iter().any(|field| field.path() == format!("{group}{name}")) {
            inside.into_iter().next().unwrap_or_default()
        } else {
            Extent::around(inside)
        };
        [Extent::text(length(name)), value]
    });
    (Extent::around(fields), path.len())
}

/// The data document. How large a part of it is, is found once.
pub(super) struct Data<'m> {
    root: &'m Map<String, Value>,
    /// By where a value is: the document outlives this, and nothing of it moves.
    known: BTreeMap<*const Value, Extent>,
}

impl<'m> Data<'m> {
    pub(super) const fn new(root: &'m Map<String, Value>) -> Self {
        Self { root, known: BTreeMap::new() }
    }

    /// What a path from `data` is.
    pub(super) fn at(&mut self, path: &[String]) -> Extent {
        let Some((first, rest)) = path.split_first() else {
            let root = self.root;
            return Extent::around(root.iter().flat_map(|(key, value)| [Extent::text(length(key)), self.of(value)]));
        };
        let mut at = self.root.get(first);
        for name in rest {
            at = at.and_then(|at| at.get(name));
        }
        at.map_or_else(Extent::default, |value| self.of(value))
    }

    fn of(&mut self, value: &'m Value) -> Extent {
        match value {
            Value::Null | Value::Bool(_) => Extent::one(),
            Value::Number(number) => Extent::numeral(&number.to_string()),
            Value::String(text) => Extent::text(length(text)),
            Value::Array(_) | Value::Object(_) => {
                if let Some(known) = self.known.get(&std::ptr::from_ref(value)) {
                    return known.clone();
                }
                let inside: Vec<Extent> = match value {
                    Value::Array(items) => items.iter().map(|item| self.of(item)).collect(),
                    Value::Object(fields) => fields.iter().flat_map(|(key, value)| [Extent::text(length(key)), self.of(value)]).collect(),
                    Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Vec::new(),
                };
                let found = Extent::around(inside);
                self.known.insert(value, found.clone());
                found
            }
        }
    }
}
