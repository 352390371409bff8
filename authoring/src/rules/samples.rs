//! Inputs for self-check vectors: each declared field takes its values one after the other, and a few random mixtures.

use super::outline::Outline;
use rules::InputField;
use rules::field::FieldType;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// Vectors of one rule set: filters check all of them before they switch.
const SAMPLES_MAX: usize = 96;
/// Those made by mixing.
const MIXED: usize = 12;
/// Texts of modules that become values of fields.
const TEXTS_MAX: usize = 12;
const TEXT_BYTES_MAX: usize = 64;

/// Inputs over the declared fields: those of the tests first.
pub(super) fn inputs(fields: &[InputField], outlines: &[&Outline]) -> Vec<String> {
    let of_tests = outlines.iter().flat_map(|outline| &outline.inputs).map(|input| projected(fields, input));
    let texts: BTreeSet<&str> = outlines.iter().flat_map(|outline| &outline.texts).map(String::as_str).collect();
    let texts: Vec<&str> = texts.into_iter().filter(|text| text.len() <= TEXT_BYTES_MAX).take(TEXTS_MAX).collect();
    let values: Vec<(InputField, Vec<Option<Value>>)> = fields.iter().map(|field| (*field, values(*field, &texts))).collect();
    let mut seen = BTreeSet::new();
    let mut take = |from: &mut dyn Iterator<Item = Map<String, Value>>, most: usize| {
        from.map(|input| Value::Object(input).to_string()).filter(|text| seen.insert(text.clone())).take(most).collect::<Vec<_>>()
    };
    let mut inputs = take(&mut of_tests.into_iter(), SAMPLES_MAX / 3);
    // Where there are too many, each field has had its second value before one has its third.
    inputs.extend(take(&mut one_at_a_time(&values), SAMPLES_MAX.saturating_sub(MIXED).saturating_sub(inputs.len())));
    inputs.extend(take(&mut mixed(&values), MIXED));
    inputs
}

fn values(field: InputField, texts: &[&str]) -> Vec<Option<Value>> {
    let known: Vec<&str> =
        if field.values().is_empty() { texts.iter().copied().chain(["sample-1"]).collect() } else { field.values().to_vec() };
    let text = |text: &&str| Some(json!(text));
    match field.field_type() {
        FieldType::Text => known.iter().map(text).collect(),
        FieldType::OptionalText => known.iter().map(text).chain([None]).collect(),
        FieldType::Texts => known.iter().map(|text| Some(json!([text]))).chain([Some(json!(known))]).collect(),
        FieldType::Flag => vec![Some(json!(false)), Some(json!(true))],
        FieldType::Hour => (0..24).step_by(3).chain([23]).map(|hour| Some(json!(hour))).collect(),
    }
}

/// The first value of every field, and for each field each other value beside the others' first.
fn one_at_a_time(values: &[(InputField, Vec<Option<Value>>)]) -> impl Iterator<Item = Map<String, Value>> {
    let longest = values.iter().map(|(_, values)| values.len()).max().unwrap_or(1);
    // Round by round, so that every field has had its second value before one has had its tenth.
    let pairs = (0..longest.max(1)).flat_map(move |nth| values.iter().map(move |(field, values)| (nth, *field, values.get(nth))));
    let varied = pairs.filter_map(move |(nth, varied, value)| {
        value?;
        Some(build(values.iter().map(|(field, values)| {
            let chosen = if *field == varied { values.get(nth) } else { values.first() };
            (*field, chosen.cloned().flatten())
        })))
    });
    [build(values.iter().map(|(field, values)| (*field, values.first().cloned().flatten())))].into_iter().chain(varied)
}

/// Every field another value, by a fixed sequence: the same rules have the same vectors.
fn mixed(values: &[(InputField, Vec<Option<Value>>)]) -> impl Iterator<Item = Map<String, Value>> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    (0..MIXED).map(move |_| {
        build(values.iter().map(|(field, values)| {
            // xorshift64: spreads well enough, and has no seed to remember.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let index = usize::try_from(state >> 33).unwrap_or(0).checked_rem(values.len()).unwrap_or(0);
            (*field, values.get(index).cloned().flatten())
        }))
    })
}

fn build(fields: impl Iterator<Item = (InputField, Option<Value>)>) -> Map<String, Value> {
    let mut input = Map::new();
    for (field, value) in fields {
        let Some(value) = value else { continue };
        put(&mut input, field, value);
    }
    input
}

/// What a test's input has of the declared fields.
fn projected(fields: &[InputField], input: &Value) -> Map<String, Value> {
    let mut projected = Map::new();
    for field in fields {
        let found = field.path().split('.').try_fold(input, |at, name| at.get(name));
        if let Some(value) = found {
            put(&mut projected, *field, value.clone());
        }
    }
    projected
}

fn put(input: &mut Map<String, Value>, field: InputField, value: Value) {
    match field.path().split_once('.') {
        Some((group, name)) => {
            let group = input.entry(group).or_insert_with(|| Value::Object(Map::new()));
            if let Some(group) = group.as_object_mut() {
                group.insert(name.into(), value);
            }
        }
        None => {
            input.insert(field.path().into(), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_of_a_small_field_is_there_and_the_number_is_bounded() {
        let inputs = inputs(&InputField::ALL, &[]);
        assert!(inputs.len() <= SAMPLES_MAX && inputs.len() > MIXED, "{}", inputs.len());
        let few = super::inputs(&[InputField::Gateway, InputField::TrialExpired], &[]);
        for wanted in ["CP", "PP", "PLANT", "true", "false"] {
            assert!(few.iter().any(|input| input.contains(wanted)), "{wanted}");
        }
        assert_eq!(few, super::inputs(&[InputField::Gateway, InputField::TrialExpired], &[]));
    }

    #[test]
    fn inputs_of_tests_are_cut_down_to_what_is_declared() {
        let whole = json!({"jwt": {"roles": ["a"], "email": "e"}, "method": "GET"});
        assert_eq!(Value::Object(projected(&[InputField::Roles], &whole)), json!({"jwt": {"roles": ["a"]}}));
    }
}
