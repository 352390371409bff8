//! Requests per client address, counted in this worker: what guards signing in, where there is no user yet to charge.

use decision_core::budget::{BudgetId, Counted, Rhythm, Window};
use decision_core::policy::CompiledPolicy;
use decision_core::time::Timestamp;
use hashbrown::HashMap;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Addresses that are counted one by one.
pub(crate) const ADDRESSES_MAX: usize = 10_000;

/// Whom a client's requests are counted under: an IPv4 address, or the /64 that a customer of an IPv6 network gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Client {
    V4([u8; 4]),
    V6([u8; 8]),
    /// Envoy names no address, or none that can be read: all such clients count together.
    Unknown,
}

impl Client {
    /// From Envoy's `source.address`: `192.0.2.1:4242`, `[2001:db8::1]:4242`.
    pub(crate) fn parse(source_address: &[u8]) -> Self {
        let text = std::str::from_utf8(source_address).unwrap_or_default();
        let (host, _) = text.rsplit_once(':').unwrap_or((text, ""));
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        // The zone of a link-local address is ours, not the client's.
        let host = host.split('%').next().unwrap_or_default();
        match host.parse::<IpAddr>().map(|address| address.to_canonical()) {
            Ok(IpAddr::V4(address)) => Self::V4(address.octets()),
            Ok(IpAddr::V6(address)) => Self::V6(address.octets().first_chunk().copied().unwrap_or_default()),
            Err(_) => Self::Unknown,
        }
    }
}

/// Whether a request is within its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Charged {
    Within,
    /// Until the end of this window.
    Exceeded(Window),
}

/// The counts of all limits, in one bounded table.
///
/// When it is full, the address that was not heard of for longest goes. One that has reached its limit stays until the window
/// ends: forgetting it would let it begin anew. If only such are left, whoever comes is counted in the limit's overflow.
#[derive(Debug, Default)]
pub(crate) struct ClientLimits {
    limits: Vec<Limit>,
    counts: HashMap<(usize, Client), Count>,
    /// Those that may go, least recently heard of first.
    order: BTreeMap<u64, (usize, Client)>,
    heard: u64,
}

#[derive(Debug)]
struct Limit {
    budget: BudgetId,
    name: Box<str>,
    rhythm: Rhythm,
    cap: u32,
    window: Option<Window>,
    overflow: u32,
}

#[derive(Clone, Copy, Debug)]
struct Count {
    requests: u32,
    /// Its place in the order.
    heard: u64,
}

impl ClientLimits {
    /// Takes the limits of a policy. The counts stay if they mean the same as before.
    pub(crate) fn bind(&mut self, policy: &CompiledPolicy) {
        let budgets = policy.budgets().iter().filter(|budget| budget.counted == Counted::ByClientAddress);
        let mut limits: Vec<Limit> = budgets
            .map(|budget| Limit {
                budget: budget.id,
                name: budget.name.clone(),
                rhythm: budget.rhythm,
                cap: u32::try_from(budget.cap.get()).unwrap_or(u32::MAX),
                window: None,
                overflow: 0,
            })
            .collect();
        let same = limits.len() == self.limits.len()
            && limits.iter().zip(&self.limits).all(|(limit, known)| limit.name == known.name && limit.rhythm == known.rhythm);
        if same {
            for (limit, known) in limits.iter_mut().zip(&self.limits) {
                (limit.window, limit.overflow) = (known.window, known.overflow);
            }
        } else {
            self.counts.clear();
            self.order.clear();
        }
        self.limits = limits;
    }

    /// Counts one request.
    pub(crate) fn charge(&mut self, budget: BudgetId, client: Client, now: Timestamp) -> Charged {
        let Some(index) = self.limits.iter().position(|limit| limit.budget == budget) else { return Charged::Within };
        self.begin_window(index, now);
        let requests = self.count((index, client));
        match self.limits.get(index).map(|limit| (limit.cap, limit.window)) {
            Some((cap, Some(window))) if requests > cap => Charged::Exceeded(window),
            Some(_) | None => Charged::Within,
        }
    }

    fn begin_window(&mut self, index: usize, now: Timestamp) {
        let Some(limit) = self.limits.get_mut(index) else { return };
        if limit.window.is_some_and(|window| window.contains(now)) {
            return;
        }
        (limit.window, limit.overflow) = (Some(limit.rhythm.window_at(now)), 0);
        self.counts.retain(|(counted, _), _| *counted != index);
        self.order.retain(|_, (counted, _)| *counted != index);
    }

    /// How many requests of this window there are now.
    fn count(&mut self, key: (usize, Client)) -> u32 {
        let cap = self.limits.get(key.0).map_or(0, |limit| limit.cap);
        let known = self.counts.get(&key).copied();
        if known.is_none() && !self.make_room() {
            let overflow = self.limits.get_mut(key.0).map(|limit| &mut limit.overflow);
            return overflow.map_or(u32::MAX, |overflow| {
                *overflow = overflow.saturating_add(1);
                *overflow
            });
        }
        if let Some(known) = known {
            self.order.remove(&known.heard);
        }
        self.heard += 1;
        let requests = known.map_or(0, |known| known.requests).saturating_add(1);
        self.counts.insert(key, Count { requests, heard: self.heard });
        if requests < cap {
            self.order.insert(self.heard, key);
        }
        requests
    }

    /// Whether there is room for one address more.
    fn make_room(&mut self) -> bool {
        if self.counts.len() < ADDRESSES_MAX {
            return true;
        }
        match self.order.pop_first() {
            Some((_, oldest)) => self.counts.remove(&oldest).is_some(),
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use decision_core::budget::{AtCritical, Unit};
    use decision_core::gateway::{Gateway, Method};
    use decision_core::policy::compile::compile;
    use decision_core::policy::source::{BudgetSource, CredentialForwarding, ExchangeKind, PolicySource, RequirementSource, RouteSource};
    use proptest::prelude::*;

    const NOW: Timestamp = Timestamp::from_seconds(1_768_478_430);

    fn policy(cap: i64, rhythms: &[(&str, Rhythm)]) -> CompiledPolicy {
        let budget = |(name, rhythm): &(&str, Rhythm)| BudgetSource {
            name: (*name).into(),
            unit: Unit::Requests,
            rhythm: *rhythm,
            scope: "client_address".into(),
            cap,
            durable: false,
            tier: None,
            gateways: vec![],
            problem: None,
            status: None,
            failure_mode: None,
            thresholds: None,
            at_critical: AtCritical::Tell,
        };
        let route = |(name, _): &(&str, Rhythm)| RouteSource {
            name: (*name).into(),
            gateways: vec![Gateway::Cp],
            methods: vec![Method::Post],
            path: format!("/{name}"),
            require: RequirementSource::Public,
            permission: None,
            cost_micros: None,
            tasks: 0,
            limit: Some((*name).into()),
            governor_approval: false,
            closed_to_trials: false,
            credential: CredentialForwarding::Drop,
            flag: None,
            ownership: None,
            rewrite: None,
            exchange: ExchangeKind::Plain,
            metering: None,
            audit: decision_core::audit::AuditLevel::Buffered,
        };
        let (budgets, routes) = (rhythms.iter().map(budget).collect(), rhythms.iter().map(route).collect());
        compile(&PolicySource { budgets, routes, ..PolicySource::default() }).unwrap()
    }

    fn limits(policy: &CompiledPolicy) -> ClientLimits {
        let mut limits = ClientLimits::default();
        limits.bind(policy);
        limits
    }

    fn v4(number: u32) -> Client {
        Client::V4(number.to_be_bytes())
    }

    #[test]
    fn an_ipv6_network_is_one_client_and_a_mapped_address_is_the_ipv4_that_it_is() {
        let (four, six) = (Client::V4([192, 0, 2, 1]), Client::V6([0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 7]));
        for text in ["192.0.2.1:4242", "192.0.2.1:0", "[::ffff:192.0.2.1]:80", "[::ffff:c000:201]:80"] {
            assert_eq!(Client::parse(text.as_bytes()), four, "{text}");
        }
        for text in ["[2001:db8:0:7::1]:4242", "[2001:db8:0:7:ffff::9]:0", "[2001:DB8::7:0:0:0:5%eth0]:1"] {
            assert_eq!(Client::parse(text.as_bytes()), six, "{text}");
        }
        assert_ne!(Client::parse(b"[2001:db8:0:8::1]:4242"), six);
        for text in [&b""[..], b"\xff", b"/run/envoy.sock", b":", b"[]:1", b"[::1", b"localhost:80", b"1.2.3.4.5:1", b"@abstract:1"] {
            assert!(matches!(Client::parse(text), Client::Unknown | Client::V6(_)), "{text:?}");
        }
    }

    #[test]
    fn counts_each_client_for_itself_until_the_window_ends() {
        let policy = policy(3, &[("a", Rhythm::Minute)]);
        let (mut limits, budget) = (limits(&policy), policy.budgets()[0].id);
        let charge =
            |limits: &mut ClientLimits, client, seconds| limits.charge(budget, client, NOW.plus(std::time::Duration::from_secs(seconds)));
        assert!((0..3).all(|_| charge(&mut limits, v4(1), 0) == Charged::Within));
        let Charged::Exceeded(window) = charge(&mut limits, v4(1), 29) else { unreachable!("the fourth is too many") };
        assert_eq!(window.end, NOW.plus(std::time::Duration::from_secs(30)));
        assert_eq!((charge(&mut limits, v4(2), 29), charge(&mut limits, v4(1), 30)), (Charged::Within, Charged::Within));
        assert_eq!(limits.counts.len(), 1, "what belongs to a window that is over is forgotten");
    }

    #[test]
    fn a_new_policy_keeps_the_counts_of_limits_that_stay() {
        let one = policy(1, &[("a", Rhythm::Minute), ("b", Rhythm::Hour)]);
        let mut limits = limits(&one);
        let id = |policy: &CompiledPolicy| policy.budget_by_name("b").unwrap().id;
        assert_eq!(limits.charge(id(&one), v4(1), NOW), Charged::Within);
        limits.bind(&policy(1, &[("a", Rhythm::Minute), ("b", Rhythm::Hour)]));
        assert!(matches!(limits.charge(id(&one), v4(1), NOW), Charged::Exceeded(_)));
        let other = policy(1, &[("b", Rhythm::Hour)]);
        limits.bind(&other);
        assert_eq!(limits.charge(id(&other), v4(1), NOW), Charged::Within);
        assert_eq!(limits.charge(id(&one), v4(1), NOW), Charged::Within, "a budget that is no limit any more");
    }

    #[test]
    fn the_least_recently_heard_of_goes_and_who_is_at_the_limit_stays() {
        let policy = policy(2, &[("a", Rhythm::Hour)]);
        let (mut limits, budget) = (limits(&policy), policy.budgets()[0].id);
        let most = u32::try_from(ADDRESSES_MAX).unwrap();
        for number in (0..most).chain([0]) {
            assert_eq!(limits.charge(budget, v4(number), NOW), Charged::Within);
        }
        // 0 is at its limit; 1 is the oldest of the others.
        assert_eq!(limits.charge(budget, v4(most), NOW), Charged::Within);
        assert!(matches!(limits.charge(budget, v4(0), NOW), Charged::Exceeded(_)));
        assert!(limits.counts.contains_key(&(0, v4(2))) && !limits.counts.contains_key(&(0, v4(1))));
        assert_eq!(limits.counts.len(), ADDRESSES_MAX);
    }

    #[test]
    fn who_finds_no_room_is_counted_with_all_others_that_do_not() {
        let policy = policy(2, &[("a", Rhythm::Minute)]);
        let (mut limits, budget) = (limits(&policy), policy.budgets()[0].id);
        let most = u32::try_from(ADDRESSES_MAX).unwrap();
        for number in (0..most).flat_map(|number| [number, number]) {
            assert_eq!(limits.charge(budget, v4(number), NOW), Charged::Within);
        }
        assert_eq!((limits.charge(budget, v4(most), NOW), limits.charge(budget, v4(most + 1), NOW)), (Charged::Within, Charged::Within));
        assert!(matches!(limits.charge(budget, v4(most + 2), NOW), Charged::Exceeded(_)));
        assert_eq!(limits.counts.len(), ADDRESSES_MAX);
        let later = NOW.plus(std::time::Duration::from_secs(60));
        assert_eq!(limits.charge(budget, v4(most + 2), later), Charged::Within);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_bytes_are_some_client(bytes in prop::collection::vec(any::<u8>(), 0..64), text in "[0-9a-f:.\\[\\]%]{0,48}") {
            let _ = (Client::parse(&bytes), Client::parse(text.as_bytes()));
        }

        #[test]
        fn every_address_of_a_network_is_one_client(network in any::<u64>(), host in any::<u64>(), port in any::<u16>()) {
            let address = std::net::Ipv6Addr::from((u128::from(network) << 64) | u128::from(host));
            let client = Client::parse(format!("[{address}]:{port}").as_bytes());
            match address.to_ipv4_mapped() {
                Some(mapped) => prop_assert_eq!(client, Client::V4(mapped.octets())),
                None => prop_assert_eq!(client, Client::V6(network.to_be_bytes())),
            }
        }

        /// While nobody has to go, the table agrees with plain counting; and it never holds more than it may.
        #[test]
        fn agrees_with_plain_counting(steps in prop::collection::vec((0..2_usize, 0..40_u32, 0..50_i64), 1..300), cap in 1..6_i64) {
            let policy = policy(cap, &[("a", Rhythm::Minute), ("b", Rhythm::Hour)]);
            let mut limits = limits(&policy);
            let (mut now, mut model) = (NOW, std::collections::BTreeMap::<(usize, u32, i64), i64>::new());
            for (index, number, seconds) in steps {
                now = now.plus(std::time::Duration::from_secs(seconds.unsigned_abs()));
                let budget = &policy.budgets()[index];
                let count = model.entry((index, number, budget.window_at(now).start.as_seconds())).or_default();
                *count += 1;
                let expected = if *count > cap { Charged::Exceeded(budget.window_at(now)) } else { Charged::Within };
                prop_assert_eq!(limits.charge(budget.id, v4(number), now), expected);
                prop_assert!(limits.counts.len() <= ADDRESSES_MAX && limits.order.len() <= limits.counts.len());
                for (heard, key) in &limits.order {
                    prop_assert_eq!(limits.counts.get(key).map(|count| count.heard), Some(*heard));
                }
            }
        }
    }
}
