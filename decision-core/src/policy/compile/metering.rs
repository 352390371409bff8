//! Prices of tokens, and how routes are metered.

use super::error::{CompileError, range};
use crate::budget::{CHARGE_MAX, Units};
use crate::gateway::Method;
use crate::policy::Metering;
use crate::policy::source::{CostSource, ExchangeKind, MeteringSource, PriceSource, RouteSource, Unbounded};
use metering::{InvalidPriceTable, Price, PriceTable};

/// In which header or trailer a backend says what a request cost, unless the route names another.
const HEADER: &str = "x-actual-cost-micros";

/// A dollar for one token.
const PRICE_MAX: i64 = 1_000_000_000_000;

/// No model answers more.
const OUTPUT_TOKENS_MAX: u32 = 10_000_000;

pub(super) fn compile_prices(sources: &[PriceSource]) -> Result<PriceTable, CompileError> {
    let prices = sources.iter().map(price).collect::<Result<Vec<_>, _>>()?;
    PriceTable::new(prices).map_err(|invalid| match invalid {
        InvalidPriceTable::Repeated { pattern } => CompileError::Repeated { at: "prices".into(), name: pattern },
        InvalidPriceTable::Malformed { pattern } => {
            range(&format!("prices[{pattern}].model"), &pattern, "a name of 1 to 128 bytes without spaces, with `*` at its end only")
        }
    })
}

fn price(source: &PriceSource) -> Result<(String, Price), CompileError> {
    let checked = |field: &str, value: i64| {
        let at = format!("prices[{}].{field}", source.model);
        u64::try_from(value).ok().filter(|_| value <= PRICE_MAX).ok_or_else(|| range(&at, &value.to_string(), "from 0 to 1000000000000"))
    };
    let price = Price {
        input: checked("input", source.input)?,
        cache_read: checked("cache_read", source.cache_read.unwrap_or(source.input))?,
        cache_write: checked("cache_write", source.cache_write.unwrap_or(source.input))?,
        output: checked("output", source.output)?,
    };
    Ok((source.model.clone(), price))
}

/// How requests of a route are metered. `cost` is what the route says, or the default.
pub(super) fn compile_metering(route: &RouteSource, cost: i64, prices: &PriceTable, at: &str) -> Result<Metering, CompileError> {
    let inconsistent = |rule| CompileError::Inconsistent { at: format!("{at}.metering"), rule };
    let Some(source) = &route.metering else { return Ok(Metering::Fixed) };
    match (source.by, source) {
        (CostSource::Header, MeteringSource { api: None, output_tokens: None, unbounded: Unbounded::Refuse, header, .. }) => {
            if cost == 0 {
                return Err(inconsistent("`by: header` needs a `cost_micros` above 0: it is what is reserved until the cost is known"));
            }
            compile_header(header.as_deref().unwrap_or(HEADER), at).map(Metering::Header)
        }
        (CostSource::Header, _) => Err(inconsistent("`api`, `output_tokens` and `unbounded` go with `by: usage`")),
        (CostSource::Usage, MeteringSource { header: Some(_), .. }) => Err(inconsistent("`header` goes with `by: header`")),
        (CostSource::Usage, MeteringSource { api: None, .. }) => Err(inconsistent("`by: usage` needs an `api`")),
        (CostSource::Usage, MeteringSource { api: Some(api), output_tokens, unbounded, .. }) => {
            if cost == 0 {
                return Err(inconsistent(
                    "`by: usage` needs a `cost_micros` above 0: it is what a request costs that the backend answers with an error",
                ));
            }
            if prices.is_empty() {
                return Err(inconsistent("`by: usage` needs `prices`"));
            }
            if *route.methods != [Method::Post] || route.exchange == ExchangeKind::Websocket {
                return Err(inconsistent("`by: usage` goes with the method POST only, and with no upgrade"));
            }
            if let Some(tokens) = output_tokens.filter(|tokens| !(1..=OUTPUT_TOKENS_MAX).contains(tokens)) {
                return Err(range(&format!("{at}.metering.output_tokens"), &tokens.to_string(), "from 1 to 10000000"));
            }
            let failed = Units::new(cost.clamp(0, CHARGE_MAX));
            Ok(Metering::Usage { api: *api, output_tokens: output_tokens.map(u64::from), failed, unbounded: *unbounded })
        }
    }
}

fn compile_header(name: &str, at: &str) -> Result<Box<str>, CompileError> {
    let token = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_';
    if name.is_empty() || name.len() > 64 || !name.bytes().all(token) {
        return Err(range(&format!("{at}.metering.header"), name, "a name of 1 to 64 lower-case letters, digits and `-_`"));
    }
    Ok(name.into())
}
