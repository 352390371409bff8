//! What a forwarded request costs: at most, before it goes on, and in the end, by what its response says. The response is
//! watched as it goes by: nothing is held back.

use crate::exchange::{Exchange, Trace};
use crate::host::Host;
use decision_core::budget::{Unit, Units};
use decision_core::decision::{Bound, DenyReason, Permit};
use decision_core::policy::{CompiledPolicy, Metering, Route, Unbounded};
use metering::{Api, Asked, Form, Meter, Usage};
use wire::audit::CostBasis;

/// The largest body of a request that is priced by tokens: all of it is read, since a key that is repeated at its end counts for
/// some backends. Below what Envoy buffers.
pub(crate) const METERED_MAX: usize = 768 * 1_024;

/// No request gets more output than this, in tokens: what asks for more is not limited.
const OUTPUT_MAX: u64 = 10_000_000;

/// The largest cost that a backend is believed, in micro-USD: a million dollars. Sums of many fit into what is reported.
const COST_MAX: i64 = 1 << 40;

/// Whether the route's requests are priced by what their bodies ask for.
pub(crate) const fn reads_body(route: &Route) -> bool {
    matches!(route.metering, Metering::Usage { .. })
}

/// The permit with what the request may cost at most. Its body is here.
pub(crate) fn bounded(exchange: &mut Exchange, host: &impl Host, policy: &CompiledPolicy, permit: Permit) -> Result<Permit, DenyReason> {
    let route = policy.route_by_id(permit.route());
    let Some(Metering::Usage { api, output_tokens, unbounded, .. }) = route.map(|route| &route.metering) else { return Ok(permit) };
    if permit.charges().is_empty() {
        return Ok(permit);
    }
    if exchange.headers.has_content_encoding() == crate::facts::Presence::Present {
        return Err(DenyReason::MeteredBody);
    }
    let body = host.request_body(0, exchange.body.length());
    let asked = metering::read(*api, &body).map_err(|_| DenyReason::MeteredBody)?;
    if let (Some(member), Unbounded::Refuse) = (asked.unbounded, unbounded) {
        return Err(DenyReason::CostUnbounded(member));
    }
    // Where the route's own number stands for the limit, the provider does not know of it: its word on the usage has to come.
    let otherwise = output_tokens.filter(|_| asked.usage_asked);
    let output = asked.output_tokens_max(otherwise).filter(|output| *output <= OUTPUT_MAX).ok_or(DenyReason::OutputUnlimited)?;
    let price = policy.prices().find(&asked.model).ok_or(DenyReason::ModelUnpriced)?;
    let bound =
        Bound { money: units(price.bound(asked.input_tokens_max, output)), tokens: units(asked.input_tokens_max.saturating_add(output)) };
    exchange.asked = Some(Box::new(asked));
    Ok(permit.bounded(policy, bound))
}

fn units(number: u64) -> Units {
    Units::new(i64::try_from(number).unwrap_or(COST_MAX).min(COST_MAX))
}

/// Watches a response for what its request cost.
#[derive(Debug, Default)]
pub(crate) enum Watch {
    /// It costs what was reserved.
    #[default]
    Fixed,
    /// The backend says it, once.
    Header(Option<Units>),
    /// From the tokens that it counts.
    Usage(Box<UsageWatch>),
}

/// A response that counts tokens.
#[derive(Debug)]
pub(crate) struct UsageWatch {
    api: Api,
    asked: Box<Asked>,
    /// Made when its headers are here.
    meter: Option<Meter>,
    end: End,
}

/// Whether the whole response has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    NotSeen,
    Seen,
}

impl Watch {
    /// How the response to a request of this route is watched.
    pub(crate) fn of(route: Option<&Route>, asked: Option<Box<Asked>>) -> Self {
        match (route.map(|route| &route.metering), asked) {
            (Some(Metering::Header(_)), _) => Self::Header(None),
            (Some(Metering::Usage { api, .. }), Some(asked)) => {
                Self::Usage(Box::new(UsageWatch { api: *api, asked, meter: None, end: End::NotSeen }))
            }
            (Some(Metering::Fixed | Metering::Usage { .. }) | None, _) => Self::Fixed,
        }
    }

    /// The response's headers are here.
    pub(crate) fn headers(&mut self, host: &impl Host, route: Option<&Route>, end_of_stream: bool) {
        match self {
            Self::Fixed => {}
            Self::Header(reported) => *reported = header_name(route).and_then(|name| micros(&host.response_header(name)?)),
            Self::Usage(watch) => {
                let (content_type, encoding) = (host.response_header("content-type"), host.response_header("content-encoding"));
                watch.meter = Some(Meter::new(watch.api, Form::of(content_type.as_deref(), encoding.as_deref())));
                watch.end(end_of_stream);
            }
        }
    }

    /// A piece of its body is here.
    pub(crate) fn body(&mut self, host: &impl Host, size: usize, end_of_stream: bool) {
        let Self::Usage(watch) = self else { return };
        if let Some(meter) = watch.meter.as_mut().filter(|_| size > 0) {
            meter.push(&host.response_body(size));
        }
        watch.end(end_of_stream);
    }

    /// Its trailers are here.
    pub(crate) fn trailers(&mut self, host: &impl Host, route: Option<&Route>) {
        match self {
            Self::Fixed => {}
            Self::Header(reported) => {
                let trailer = || header_name(route).and_then(|name| micros(&host.response_trailer(name)?));
                *reported = reported.or_else(trailer);
            }
            Self::Usage(watch) => watch.end(true),
        }
    }

    /// What the request cost. The backend was reached.
    pub(crate) fn cost(&self, policy: &CompiledPolicy, trace: &Trace, host: &impl Host) -> Cost {
        match self {
            Self::Fixed => Cost::of(CostBasis::Fixed),
            Self::Header(None) => Cost::of(CostBasis::Unreadable),
            Self::Header(Some(micros)) => Cost { money: Some(*micros), ..Cost::of(CostBasis::Reported) },
            Self::Usage(watch) => watch.cost(policy).unwrap_or_else(|| {
                let route = trace.route.and_then(|route| policy.route_by_id(route));
                match route.map(|route| &route.metering) {
                    Some(Metering::Usage { failed, .. }) if watch.is_error_of_backend(trace, host) => {
                        Cost { money: Some(*failed), tokens: Some(Units::ZERO), ..Cost::of(CostBasis::Fixed) }
                    }
                    _ => Cost::of(CostBasis::Unreadable),
                }
            }),
        }
    }
}

fn header_name(route: Option<&Route>) -> Option<&str> {
    match &route?.metering {
        Metering::Header(name) => Some(name),
        Metering::Fixed | Metering::Usage { .. } => None,
    }
}

/// Digits alone: a sign, a fraction or a list is no cost that could be believed.
fn micros(value: &[u8]) -> Option<Units> {
    let digits = std::str::from_utf8(value.trim_ascii()).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    digits.parse().ok().filter(|micros| *micros <= COST_MAX).map(Units::new)
}

impl UsageWatch {
    const fn end(&mut self, end_of_stream: bool) {
        if end_of_stream {
            self.end = End::Seen;
        }
    }

    /// By the price of the model that answered, if it has one: a backend may answer with another than was asked for.
    fn cost(&self, policy: &CompiledPolicy) -> Option<Cost> {
        let reading = self.meter.as_ref()?.usage()?;
        let prices = policy.prices();
        let answered = reading.model.and_then(|model| Some((model, prices.find(model)?)));
        let (model, price) = answered.or_else(|| Some((&*self.asked.model, prices.find(&self.asked.model)?)))?;
        Some(Cost {
            basis: CostBasis::Usage,
            money: Some(units(price.cost(&reading.usage))),
            tokens: Some(units(reading.usage.total())),
            usage: Some((model.to_owned(), reading.usage)),
        })
    }

    /// The backend's own refusal, whole: nothing was generated. Not one that Envoy made because the backend broke off.
    fn is_error_of_backend(&self, trace: &Trace, host: &impl Host) -> bool {
        self.end == End::Seen
            && trace.status.is_some_and(|status| status >= 400)
            && host.property(&["response", "code_details"]).is_some_and(|details| details == b"via_upstream")
    }
}

/// What a request cost in the end.
#[derive(Debug)]
pub(crate) struct Cost {
    pub(crate) basis: CostBasis,
    /// Absent: what was reserved.
    money: Option<Units>,
    tokens: Option<Units>,
    /// The model that was priced, and its tokens.
    pub(crate) usage: Option<(String, Usage)>,
}

impl Cost {
    const fn of(basis: CostBasis) -> Self {
        Self { basis, money: None, tokens: None, usage: None }
    }

    /// In this unit, where `reserved` was reserved of it.
    pub(crate) fn actual(&self, unit: Unit, reserved: Units) -> Units {
        let actual = match unit {
            Unit::MicroUsd => self.money,
            Unit::Tokens => self.tokens,
            Unit::Tasks | Unit::Requests => None,
        };
        actual.unwrap_or(reserved)
    }

    /// The name of the counter in which it is worth noting.
    pub(crate) const fn counter(&self, watch: &Watch) -> Option<&'static str> {
        use crate::counters::name;
        match (self.basis, watch) {
            (CostBasis::Unreadable, Watch::Header(_)) => Some(name::COSTS_UNREPORTED),
            (CostBasis::Unreadable, Watch::Fixed | Watch::Usage(_)) => Some(name::USAGE_UNREADABLE),
            (CostBasis::Fixed | CostBasis::Reported | CostBasis::Usage, _) => None,
        }
    }
}

/// The tokens for the record.
pub(crate) fn note(cost: &Cost) -> Option<wire::audit::TokenUsage<'_>> {
    let (model, Usage { input, cache_read, cache_write, output }) = cost.usage.as_ref()?;
    Some(wire::audit::TokenUsage {
        model: model.as_str().into(),
        input: *input,
        cache_read: *cache_read,
        cache_write: *cache_write,
        output: *output,
    })
}
