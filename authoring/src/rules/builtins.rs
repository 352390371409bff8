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

    #[test]
    fn the_list_is_sorted() {
        assert!(ALLOWED.is_sorted());
    }

    #[test]
    fn what_is_allowed_is_compiled_in() {
        for name in ALLOWED {
            assert!(regorus::unstable::BUILTINS.contains_key(&name), "{name}");
        }
    }
}
