//! The builtins that rules may call. Each depends on its arguments alone, takes time and memory in proportion to them, and is
//! compiled into the filter. Left out on purpose: what knows time or chance (`time.now_ns`, `rand.intn`), what makes much of
//! little (`numbers.range`, `bits.lsh`), what parses texts that a client may choose (`json.unmarshal`, `to_number`), and
//! what panics in regorus 0.14.1 (`strings.count` of an empty text, `object.subset` of an array in an empty one).

/// Sorted.
pub(super) const ALLOWED: [&str; 60] = [
    "abs",
    "array.concat",
    "array.reverse",
    "array.slice",
    "bits.and",
    "bits.negate",
    "bits.or",
    "bits.rsh",
    "bits.xor",
    "ceil",
    "concat",
    "contains",
    "count",
    "endswith",
    "floor",
    "format_int",
    "indexof",
    "indexof_n",
    "intersection",
    "is_array",
    "is_boolean",
    "is_null",
    "is_number",
    "is_object",
    "is_set",
    "is_string",
    "json.filter",
    "json.marshal",
    "json.remove",
    "lower",
    "max",
    "min",
    "object.filter",
    "object.get",
    "object.keys",
    "object.remove",
    "object.union",
    "object.union_n",
    "product",
    "replace",
    "round",
    "sort",
    "split",
    "sprintf",
    "startswith",
    "strings.any_prefix_match",
    "strings.any_suffix_match",
    "strings.replace_n",
    "strings.reverse",
    "substring",
    "sum",
    "trim",
    "trim_left",
    "trim_prefix",
    "trim_right",
    "trim_space",
    "trim_suffix",
    "type_name",
    "union",
    "upper",
];

pub(super) fn is_allowed(name: &str) -> bool {
    ALLOWED.binary_search(&name).is_ok()
}

/// A builtin that a rule of this name would hide: `count`, or `numbers.range` for `numbers`.
pub(super) fn hidden_by(name: &str) -> Option<&'static str> {
    let hides = |builtin: &&str| builtin.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    regorus::unstable::BUILTINS.keys().copied().find(hides)
}

#[cfg(test)]
mod tests {
    use super::*;
    use regorus::unstable::{Expr, Ref, Span};
    use regorus::{Source, Value};
    use std::collections::BTreeSet;

    #[test]
    fn the_list_is_sorted() {
        assert!(ALLOWED.is_sorted());
    }

    /// Values that a builtin may meet: of every type, empty ones, and those at the edges of theirs.
    fn values() -> Vec<Value> {
        let texts = ["", "a", "aaaa", "/", "a/b", "é", "日本語", "İ", "%", "-1", "\u{0}", "0x"].map(Value::from);
        let numbers = ["0", "-1", "1", "2", "10", "16", "64", "1.5", "-0.0", "1e308", "-1e308", "5e-324"];
        let wide = ["9223372036854775807", "-9223372036854775808", "18446744073709551615", "99999999999999999999999999999999"];
        let numbers = numbers.into_iter().chain(wide).map(|text| Value::from_json_str(text).unwrap());
        let documents = ["null", "true", "[]", "{}", "[[]]", "[1]", "[\"\"]", "[\"a\", \"b\"]", "[1, \"a\", null, {}, []]", "{\"a\": 1}"];
        let more = ["{\"a\": {\"b\": [1]}, \"\": \"\"}", "{\"a\": \"b\", \"b\": \"\"}", "[{}, {\"a\": 1}]", "[3, 1, 2, 1.5, 1e308]"];
        let documents = documents.into_iter().chain(more).map(|text| Value::from_json_str(text).unwrap());
        let set = |items: &[&str]| Value::from(items.iter().map(|item| Value::from(*item)).collect::<BTreeSet<_>>());
        let sets = [set(&[]), set(&["a", "b"]), Value::from(BTreeSet::from([Value::from(1_u64), set(&["a"])]))];
        texts.into_iter().chain(numbers).chain(documents).chain(sets).collect()
    }

    #[test]
    fn no_builtin_that_rules_may_call_panics() {
        let source = Source::from_contents("a.rego".into(), "x".into()).unwrap();
        let span = Span { source, line: 1, col: 1, start: 0, end: 1 };
        let param = || Ref::new(Expr::Null { span: span.clone(), value: Value::Null, eidx: 0 });
        let (values, params) = (values(), [param(), param(), param()]);
        for name in ALLOWED {
            let (builtin, arity) = regorus::unstable::BUILTINS.get(name).unwrap();
            let arity = usize::from(*arity);
            let called = (0..values.len().pow(arity.try_into().unwrap())).map(|number| {
                (0..arity)
                    .map(|place| values[number / values.len().pow(place.try_into().unwrap()) % values.len()].clone())
                    .collect::<Vec<_>>()
            });
            for args in called {
                let call = || drop(builtin(&span, &params[..arity], &args, true));
                assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(call)).is_ok(), "{name} of {args:?}");
            }
        }
    }

    #[test]
    fn what_is_allowed_is_compiled_in() {
        for name in ALLOWED {
            assert!(regorus::unstable::BUILTINS.contains_key(&name), "{name}");
        }
    }
}
