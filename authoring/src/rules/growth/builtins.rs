//! What a builtin makes of its arguments: how large its result may be, and whether it takes more time than they are large.

use super::extent::{Extent, Loops};

/// Steps of a builtin within one step of the interpreter, where it does not take time in proportion to its arguments.
const STEPS_MAX: u64 = 1_024 * 1_024;
/// The digits of a quotient, as it is written out: those of the smallest double.
const DIGITS_OF_QUOTIENTS: u64 = 400;
/// A character may be written out as `\u001f`.
const ESCAPED: u64 = 6;
/// In the other case a character may be longer: `İ` by half, `ΐ` three times.
const LOWER: u64 = 2;
const UPPER: u64 = 3;
/// Quotes and a comma around a value, or `false`.
const PUNCTUATION: u64 = 6;
/// The most that a width in a format adds.
const WIDTH: u64 = 100;

/// Why a call is refused, in words that follow the builtin's name.
pub(super) type Refusal = String;

/// Refuses a call that takes more time than its arguments are large.
fn in_time(name: &str, args: &[Extent], loops: &Loops) -> Result<(), Refusal> {
    let arg = |index: usize| args.get(index).cloned().unwrap_or_default();
    let text = |index: usize| loops.most(&arg(index).text);
    let parts = |index: usize| loops.most(&arg(index).parts);
    let steps = match name {
        "indexof" | "indexof_n" | "trim" | "trim_left" | "trim_right" => text(0).saturating_mul(text(1)),
        "strings.any_prefix_match" | "strings.any_suffix_match" => parts(0).saturating_mul(parts(1).saturating_add(text(1))),
        // Each step takes a copy of what there is so far.
        "object.union_n" | "union" => parts(0).saturating_mul(parts(0)),
        _ => 0,
    };
    if steps > STEPS_MAX {
        return Err(format!("may take {steps} steps, which grow with both arguments; at most {STEPS_MAX} are allowed"));
    }
    Ok(())
}

/// The result of a builtin. `elaborate`: the first argument, as a format, may ask for widths or quotes.
pub(super) fn result(name: &str, args: &[Extent], elaborate: bool, loops: &Loops) -> Result<Extent, Refusal> {
    let arg = |index: usize| args.get(index).cloned().unwrap_or_default();
    let all = || args.iter().fold(Extent::default(), |sum, arg| sum.plus(arg));
    let text = |index: usize| loops.most(&arg(index).text);
    let parts = |index: usize| loops.most(&arg(index).parts);
    let digits = args.iter().map(|arg| arg.digits).max().unwrap_or(0);
    in_time(name, args, loops)?;
    Ok(match name {
        "count" | "indexof" => Extent::count(),
        "contains"
        | "endswith"
        | "startswith"
        | "is_array"
        | "is_boolean"
        | "is_null"
        | "is_number"
        | "is_object"
        | "is_set"
        | "is_string"
        | "strings.any_prefix_match"
        | "strings.any_suffix_match" => Extent::one(),
        "type_name" => Extent::text(8),
        "abs" | "ceil" | "floor" | "round" | "bits.and" | "bits.negate" | "bits.or" | "bits.rsh" | "bits.xor" => {
            Extent::number(digits.saturating_add(1))
        }
        "sum" => Extent::number(digits.saturating_add(DIGITS_OF_QUOTIENTS)),
        "product" => Extent::number(digits.saturating_mul(parts(0))),
        "format_int" => Extent::text(digits.saturating_mul(4).saturating_add(1)),
        "concat" => {
            let (delimiter, joined) = (arg(0), arg(1));
            Extent::text(delimiter.text.times_amount(&joined.parts, loops).plus(&joined.text))
        }
        "lower" => Extent::text(arg(0).text.times(LOWER)),
        "upper" => Extent::text(arg(0).text.times(UPPER)),
        "replace" => {
            let places = arg(0).text.plus(&1.into());
            Extent::text(places.times_amount(&arg(2).text, loops).plus(&arg(0).text))
        }
        // One replacement after the other, each in what the one before it made.
        "strings.replace_n" => {
            // With as much text for all of them, it grows most when all are equally long.
            let pairs = (parts(0) / 2).max(1);
            let each = text(0).div_ceil(pairs).saturating_add(1);
            let grown = each.checked_pow(u32::try_from(pairs).unwrap_or(u32::MAX)).unwrap_or(u64::MAX);
            Extent::text(arg(1).text.plus(&1.into()).times(grown))
        }
        "split" => Extent::list(arg(0).text.plus(&1.into()), arg(0).text, Extent::text(arg(0).text)),
        "indexof_n" => Extent::list(arg(0).text, 0.into(), Extent::count()),
        "sprintf" | "json.marshal" => {
            let values = if name == "sprintf" { arg(1) } else { arg(0) };
            let format = if name == "sprintf" { arg(0).text } else { 0.into() };
            // A text that is an argument itself is written as it is.
            let escaped = if name == "sprintf" && values.depth <= 1 && !elaborate { 1 } else { ESCAPED };
            let each = digits.saturating_mul(4).saturating_add(if elaborate && name == "sprintf" { WIDTH } else { PUNCTUATION });
            Extent::text(format.plus(&values.text.times(escaped)).plus(&values.parts.times(each)))
        }
        "substring" | "trim" | "trim_left" | "trim_prefix" | "trim_right" | "trim_space" | "trim_suffix" | "strings.reverse" => {
            Extent::text(arg(0).text)
        }
        "array.reverse" | "array.slice" | "json.filter" | "json.remove" | "object.filter" | "object.keys" | "object.remove" | "sort" => {
            arg(0)
        }
        "max" | "min" => arg(0).element(),
        // A list of keys goes down as far as it is long, and an empty one nowhere.
        "object.get" if arg(1).depth > 0 => arg(0).or(&arg(2)).whole(),
        "object.get" => arg(0).element().or(&arg(2)),
        "array.concat" => all(),
        // Objects in both become one of both, at every level.
        "object.union" => all().whole(),
        // Of elements, which are objects or sets: all of theirs.
        "intersection" | "object.union_n" | "union" => {
            let (parts, text) = (arg(0).parts, arg(0).text);
            let list = Extent::list(parts, text, arg(0).element().element());
            if name == "object.union_n" { list.whole() } else { list }
        }
        _ => return Err("has no bound".into()),
    })
}

/// The result of a division.
pub(super) fn quotient(digits: u64) -> Extent {
    Extent::number(digits.saturating_add(DIGITS_OF_QUOTIENTS))
}

#[cfg(test)]
mod tests {
    use super::super::super::builtins::ALLOWED;
    use super::*;

    #[test]
    fn every_builtin_that_rules_may_call_has_a_bound() {
        let args = [Extent::text(3), Extent::text(3), Extent::text(3)];
        for name in ALLOWED {
            assert!(result(name, &args, true, &Loops::default()).is_ok(), "{name}");
        }
    }
}
