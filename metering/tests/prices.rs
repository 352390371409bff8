//! Costs are exact, rounded up once, and within the bound; a model has one price.
#![cfg(not(target_arch = "wasm32"))]

use metering::{InvalidPriceTable, Price, PriceTable, Usage};
use proptest::prelude::*;

#[test]
fn a_cost_is_rounded_up_once() {
    let price = Price { input: 1, cache_read: 1, cache_write: 1, output: 1 };
    let usage = |count| Usage { input: count, cache_read: count, cache_write: count, output: count };
    assert_eq!(price.cost(&usage(0)), 0);
    // Rounded part by part, these were four.
    assert_eq!(price.cost(&usage(1)), 1);
    assert_eq!(price.cost(&usage(250_000)), 1);
    assert_eq!(price.cost(&usage(250_001)), 2);
    let dear = Price { input: 2_500_000, cache_read: 1_250_000, cache_write: 0, output: 10_000_000 };
    assert_eq!(dear.cost(&Usage { input: 93, cache_read: 1024, cache_write: 0, output: 46 }), 1973);
}

#[test]
fn the_largest_number_stands_for_all_beyond() {
    let all = Price { input: u64::MAX, cache_read: u64::MAX, cache_write: u64::MAX, output: u64::MAX };
    let usage = Usage { input: u64::MAX, cache_read: u64::MAX, cache_write: u64::MAX, output: u64::MAX };
    assert_eq!(all.cost(&usage), u64::MAX);
    assert_eq!(all.bound(u64::MAX, u64::MAX), u64::MAX);
    assert_eq!(usage.total(), u64::MAX);
}

fn table(patterns: &[&str]) -> Result<PriceTable, InvalidPriceTable> {
    let price = |(index, pattern): (usize, &&str)| ((*pattern).to_owned(), Price { input: index as u64, ..Price::default() });
    PriceTable::new(patterns.iter().enumerate().map(price))
}

#[test]
fn a_model_has_the_price_of_its_name_else_of_the_longest_prefix() {
    let patterns = ["gpt-4o", "gpt-*", "gpt-4o-*", "o4-mini", "claude-sonnet-4-5-*", "claude-*", "gpt-4o-mini"];
    let cases = [
        ("gpt-4o", Some(0)),
        ("gpt-4o-mini", Some(6)),
        ("gpt-4o-mini-2024-07-18", Some(2)),
        ("gpt-4", Some(1)),
        ("gpt-", Some(1)),
        ("gpt", None),
        ("o4-mini-high", None),
        ("claude-sonnet-4-5-20250929", Some(4)),
        ("claude-opus-4-1", Some(5)),
        ("Claude-opus-4-1", None),
        ("", None),
    ];
    for order in [patterns.to_vec(), patterns.iter().rev().copied().collect()] {
        let table = table(&order).unwrap();
        for (model, want) in cases {
            let found = table.find(model).map(|price| order[usize::try_from(price.input).unwrap()]);
            assert_eq!(found, want.map(|index: usize| patterns[index]), "{model}");
        }
    }
    assert!(table(&["*"]).unwrap().find("anything").is_some());
    assert_eq!(PriceTable::default().find("m"), None);
}

#[test]
fn repeated_and_malformed_patterns_are_refused() {
    for pattern in ["a", "a*"] {
        let want = InvalidPriceTable::Repeated { pattern: pattern.to_owned() };
        assert_eq!(table(&["b", pattern, "ab", "ab*", "c*", pattern]), Err(want));
    }
    assert!(table(&["a", "a*", "aa*"]).is_ok());
    for pattern in ["", "*a", "a**", "a*b", "a b", "a\n", "a\0", &"a".repeat(129)] {
        assert_eq!(table(&[pattern]), Err(InvalidPriceTable::Malformed { pattern: pattern.to_owned() }));
    }
}

/// Small and huge ones alike.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![0_u64..5_000_000, 0_u64..1 << 40, any::<u64>()]
}

fn price() -> impl Strategy<Value = Price> {
    [number(), number(), number(), number()].prop_map(|[input, cache_read, cache_write, output]| Price {
        input,
        cache_read,
        cache_write,
        output,
    })
}

fn usage() -> impl Strategy<Value = Usage> {
    [number(), number(), number(), number()].prop_map(|[input, cache_read, cache_write, output]| Usage {
        input,
        cache_read,
        cache_write,
        output,
    })
}

proptest! {
    #[test]
    fn a_usage_within_the_bounds_costs_no_more_than_the_bound(price in price(), usage in usage(), spare in number()) {
        let input = usage.input.saturating_add(usage.cache_read).saturating_add(usage.cache_write).saturating_add(spare);
        prop_assume!(input < u64::MAX);
        prop_assert!(price.cost(&usage) <= price.bound(input, usage.output));
    }

    #[test]
    fn a_cost_is_the_exact_one_rounded_up(price in price(), usage in usage()) {
        let parts = [(price.input, usage.input), (price.cache_read, usage.cache_read), (price.cache_write, usage.cache_write), (price.output, usage.output)];
        // By long division: whole micro-USD and remainders apart, so that nothing overflows.
        let (mut whole, mut rest) = (0_u128, 0_u128);
        for (price, tokens) in parts {
            let part = u128::from(price) * u128::from(tokens);
            whole += part / 1_000_000;
            rest += part % 1_000_000;
        }
        let exact = whole + rest / 1_000_000 + u128::from(rest % 1_000_000 > 0);
        prop_assert_eq!(u128::from(price.cost(&usage)), exact.min(u128::from(u64::MAX)));
    }

    #[test]
    fn more_tokens_never_cost_less(price in price(), usage in usage(), more in number(), which in 0..4) {
        let mut larger = usage;
        let count = match which {
            0 => &mut larger.input,
            1 => &mut larger.cache_read,
            2 => &mut larger.cache_write,
            _ => &mut larger.output,
        };
        *count = count.saturating_add(more);
        prop_assert!(price.cost(&usage) <= price.cost(&larger));
    }
}
