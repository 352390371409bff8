//! The projected input as a Rego value. What requests do not differ in, names and the shape of objects, is made once and copied.

use crate::field::InputField;
use crate::projection::{Inputs, Judged, Projected, read};
use regorus::Value;
use std::collections::BTreeMap;

/// What the inputs of one rule set have in common.
#[derive(Debug)]
pub(crate) struct Shape {
    root: Group,
    groups: Vec<(Value, Group)>,
}

/// An object of fields.
#[derive(Debug)]
struct Group {
    /// Every name, with nothing in its place.
    names: Value,
    fields: Vec<(InputField, Value)>,
}

impl Shape {
    pub(crate) fn of(inputs: &Inputs) -> Self {
        let (mut root, mut groups) = (Vec::new(), BTreeMap::<&str, Vec<_>>::new());
        for field in inputs.fields() {
            match field.path().split_once('.') {
                Some((group, name)) => groups.entry(group).or_default().push((*field, Value::from(name))),
                None => root.push((*field, Value::from(field.path()))),
            }
        }
        let groups: Vec<_> = groups.into_iter().map(|(name, fields)| (Value::from(name), Group::of(fields, &[]))).collect();
        let names: Vec<_> = groups.iter().map(|(name, _)| name.clone()).collect();
        Self { root: Group::of(root, &names), groups }
    }

    /// The input of a request.
    pub(crate) fn fill(&self, judged: &Judged<'_>) -> Value {
        let mut input = self.root.fill(judged);
        for (name, group) in &self.groups {
            put(&mut input, name, Some(group.fill(judged)));
        }
        input
    }
}

impl Group {
    fn of(fields: Vec<(InputField, Value)>, others: &[Value]) -> Self {
        let names = fields.iter().map(|(_, name)| name).chain(others);
        let names: BTreeMap<Value, Value> = names.map(|name| (name.clone(), Value::Undefined)).collect();
        Self { names: Value::from(names), fields }
    }

    fn fill(&self, judged: &Judged<'_>) -> Value {
        let mut object = self.names.clone();
        for (field, name) in &self.fields {
            put(&mut object, name, value(read(*field, judged)));
        }
        object
    }
}

/// What is absent loses its name too: a rule that counts the fields must not find it.
fn put(object: &mut Value, name: &Value, value: Option<Value>) {
    let Ok(members) = object.as_object_mut() else { return };
    match value {
        Some(value) => drop(members.insert(name.clone(), value)),
        None => drop(members.remove(name)),
    }
}

fn value(projected: Projected<'_>) -> Option<Value> {
    match projected {
        Projected::Absent => None,
        Projected::Text(text) => Some(Value::from(text)),
        Projected::Joined(text) => Some(Value::from(text.split(',').map(Value::from).collect::<Vec<_>>())),
        Projected::Flag(flag) => Some(Value::from(flag)),
        Projected::Small(number) => Some(Value::from(u32::from(number))),
    }
}
