//! What tokens cost: prices, and the table that finds the price of a model.

use crate::usage::Usage;

const MILLION: u128 = 1_000_000;

/// The longest pattern of a price table, in bytes.
pub const PATTERN_BYTES_MAX: usize = 128;

/// Prices in micro-USD per million tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Price {
    /// Input that no cache was involved in.
    pub input: u64,
    /// Input read from a cache.
    pub cache_read: u64,
    /// Input written to a cache. Where a provider has several such prices, the dearest that is in use.
    pub cache_write: u64,
    /// Output, reasoning included.
    pub output: u64,
}

impl Price {
    /// What `usage` costs, in micro-USD: exact, and rounded up once. The largest number stands for all beyond.
    #[must_use]
    pub fn cost(&self, usage: &Usage) -> u64 {
        micro_usd([
            (self.input, usage.input),
            (self.cache_read, usage.cache_read),
            (self.cache_write, usage.cache_write),
            (self.output, usage.output),
        ])
    }

    /// What at most so many tokens cost, however a cache is used: input counts at the dearest of its prices.
    #[must_use]
    pub fn bound(&self, input_tokens: u64, output_tokens: u64) -> u64 {
        let input = self.input.max(self.cache_read).max(self.cache_write);
        micro_usd([(input, input_tokens), (self.output, output_tokens)])
    }
}

fn micro_usd<const N: usize>(parts: [(u64, u64); N]) -> u64 {
    let exact = parts.into_iter().map(|(price, tokens)| u128::from(price) * u128::from(tokens)).fold(0, u128::saturating_add);
    u64::try_from(exact.div_ceil(MILLION)).unwrap_or(u64::MAX)
}

/// Prices by model: by exact name, and by prefix (`gpt-4o-*`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PriceTable {
    /// By name.
    exact: Vec<(String, Price)>,
    /// Without the star; the longest first.
    prefixes: Vec<(String, Price)>,
}

/// Why a price table is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPriceTable {
    /// Two prices for one pattern.
    #[error("pattern `{pattern}` has two prices")]
    Repeated {
        /// The pattern.
        pattern: String,
    },
    /// Not a pattern.
    #[error("pattern `{pattern}` is not 1 to 128 bytes without blanks, with a star at most at its end")]
    Malformed {
        /// What stands for one.
        pattern: String,
    },
}

impl PriceTable {
    /// The table of these patterns: each is a model's name, or the beginning of names and a star.
    ///
    /// # Errors
    /// A pattern that is malformed or stands there twice.
    pub fn new(prices: impl IntoIterator<Item = (String, Price)>) -> Result<Self, InvalidPriceTable> {
        let mut table = Self::default();
        for (pattern, price) in prices {
            let prefix = pattern.strip_suffix('*');
            let name = prefix.unwrap_or(&pattern);
            let malformed = |byte: u8| byte == b'*' || byte.is_ascii_whitespace() || byte.is_ascii_control();
            if pattern.is_empty() || pattern.len() > PATTERN_BYTES_MAX || name.bytes().any(malformed) {
                return Err(InvalidPriceTable::Malformed { pattern });
            }
            let name = name.to_owned();
            let list = if prefix.is_some() { &mut table.prefixes } else { &mut table.exact };
            list.push((name, price));
        }
        table.exact.sort_by(|(one, _), (other, _)| one.cmp(other));
        // Equal prefixes must be neighbours for the check below, so length alone would not do.
        table.prefixes.sort_by(|(one, _), (other, _)| other.len().cmp(&one.len()).then_with(|| one.cmp(other)));
        if let Some(name) = repeated(&table.exact) {
            return Err(InvalidPriceTable::Repeated { pattern: name.to_owned() });
        }
        if let Some(prefix) = repeated(&table.prefixes) {
            return Err(InvalidPriceTable::Repeated { pattern: format!("{prefix}*") });
        }
        Ok(table)
    }

    /// Whether no model has a price.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.prefixes.is_empty()
    }

    /// The price of `model`: that of its name, else that of the longest prefix.
    #[must_use]
    pub fn find(&self, model: &str) -> Option<&Price> {
        let exact = self.exact.binary_search_by(|(name, _)| name.as_str().cmp(model)).ok().and_then(|index| self.exact.get(index));
        exact.or_else(|| self.prefixes.iter().find(|(prefix, _)| model.starts_with(prefix.as_str()))).map(|(_, price)| price)
    }
}

fn repeated(sorted: &[(String, Price)]) -> Option<&str> {
    sorted.windows(2).find_map(|pair| match pair {
        [(one, _), (other, _)] if one == other => Some(one.as_str()),
        _ => None,
    })
}
