//! How a bundle gets into every worker: one virtual machine holds a long poll and, when it has loaded what came, puts it
//! into shared data; the others see the new version on their tick and load it themselves.

use crate::contact::About;
use crate::counters::name;
use crate::host::{Host, HttpCall, Level};
use crate::loading::{self, Loading, Outcome, Source};
use crate::root::CallResult;
use crate::settings::Settings;
use crate::vm::{NotActivated, Vm};
use decision_core::causes::chain;
use decision_core::time::Timestamp;
use std::time::Duration;
use wire::bundle::BundleVersion;

const CLAIM: &str = "plant_gateway.claim";
const VERSION: &str = "plant_gateway.version";
const STANDING: &str = "plant_gateway.standing";
const IMAGES: [&str; 2] = ["plant_gateway.bundle.0", "plant_gateway.bundle.1"];

/// A claim is renewed so often, and another machine takes over when it has not been for so long.
const CLAIM_RENEWAL: Duration = Duration::from_millis(500);
const CLAIM_LIFETIME: Duration = Duration::from_secs(3);
const POLL_TIMEOUT: Duration = Duration::from_secs(35);
const BACKOFF_MAX_MS: u64 = 5_000;
/// Whoever offers an older bundle answers at once, again and again: it is asked again after so long, and then after longer.
const OUTDATED_BACKOFF_MS: u64 = 250;

/// What this machine knows of the feed.
#[derive(Debug, Default)]
pub(crate) struct BundleFeed {
    /// Distinguishes the machines; 0 until it was drawn.
    identity: u64,
    claim_due: Timestamp,
    leads: Leads,
    etag: Vec<u8>,
    in_flight: Option<u32>,
    poll_due: Timestamp,
    failures: u32,
    /// Older bundles that were offered since the last one that was not.
    outdated: u32,
    seen: Vec<u8>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Leads {
    #[default]
    No,
    Yes,
}

/// How the last poll of this Envoy went, whichever worker made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Unknown,
    Connected,
    Unauthorized,
    Unreachable,
    BundleRefused,
}

impl Standing {
    const ALL: [Self; 5] = [Self::Unknown, Self::Connected, Self::Unauthorized, Self::Unreachable, Self::BundleRefused];

    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Connected => "connected",
            Self::Unauthorized => "unauthorized: check the data-plane token",
            Self::Unreachable => "unreachable",
            Self::BundleRefused => "bundle refused: see the log",
        }
    }
}

impl BundleFeed {
    pub(crate) fn standing(&self, host: &impl Host) -> Standing {
        let text = host.shared(STANDING).value.unwrap_or_default();
        Standing::ALL.into_iter().find(|standing| standing.text().as_bytes() == text).unwrap_or(Standing::Unknown)
    }

    /// Whether this machine polls for its Envoy.
    pub(crate) fn is_leading(&self) -> bool {
        self.leads == Leads::Yes
    }

    /// No answer to a call that was made will come.
    pub(crate) const fn abandon(&mut self) {
        self.in_flight = None;
    }

    /// Whether the call is this feed's.
    pub(crate) fn owns(&self, token: u32) -> bool {
        self.in_flight == Some(token)
    }
}

fn set_standing(host: &impl Host, standing: Standing) {
    if host.shared(STANDING).value.as_deref() != Some(standing.text().as_bytes()) {
        host.set_shared(STANDING, standing.text().as_bytes(), None).unwrap_or(());
    }
}

/// Follows the shared version, goes on loading, and polls if this machine leads. Returns whether a new bundle is in force.
pub(crate) fn tick(vm: &mut Vm, host: &impl Host, settings: &Settings, now: Timestamp) -> Change {
    let followed = follow(vm, host);
    let change = advance(vm, host, followed, now);
    if now >= vm.feed.claim_due {
        vm.feed.claim_due = now.plus(CLAIM_RENEWAL);
        vm.feed.leads = claim(vm, host, now);
    }
    // What was polled last is loaded first: the next poll names it.
    let loading = vm.loading.as_ref().is_some_and(Loading::is_polled);
    if vm.feed.leads == Leads::Yes && vm.feed.in_flight.is_none() && !loading && now >= vm.feed.poll_due {
        poll(vm, host, settings, now);
    }
    change
}

/// Whether something was learned that requests may wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    None,
    Learned,
}

fn follow(vm: &mut Vm, host: &impl Host) -> Option<Outcome> {
    let version = host.shared(VERSION).value?;
    if version == vm.feed.seen {
        return None;
    }
    let key = version.last().and_then(|slot| IMAGES.get(usize::from(*slot)));
    let image = key.and_then(|key| host.shared(key).value).unwrap_or_default();
    vm.feed.seen = version;
    loading::begin(vm, host, image, Source::Shared)
}

/// Goes on with what is being loaded, unless an image has already come to its end.
fn advance(vm: &mut Vm, host: &impl Host, ended: Option<Outcome>, now: Timestamp) -> Change {
    match ended.or_else(|| loading::advance(vm, host)) {
        None => Change::None,
        Some(Outcome::InForce { source: Source::Shared, .. }) => Change::Learned,
        Some(Outcome::InForce { source: Source::Polled { etag }, image }) => {
            connected(vm, host, etag, now);
            share(vm, host, &image);
            Change::Learned
        }
        Some(Outcome::Not { why, source }) => {
            not_taken(vm, host, &why, source, now);
            Change::None
        }
    }
}

fn not_taken(vm: &mut Vm, host: &impl Host, why: &NotActivated, source: Source, now: Timestamp) {
    match (why, source) {
        (NotActivated::Refused(_) | NotActivated::Rules(_), source) => {
            host.log(Level::Error, &format!("a bundle was refused and the one in force stays: {}", chain(why)));
            if matches!(source, Source::Polled { .. }) {
                failed(vm, host, Standing::BundleRefused, now);
            }
        }
        (NotActivated::Older { .. }, Source::Shared) => {}
        (NotActivated::Older { offered, current }, Source::Polled { etag }) if !current.supersedes(offered) => {
            connected(vm, host, etag, now);
        }
        (NotActivated::Older { offered, current }, Source::Polled { .. }) => outdated(vm, host, offered, current, now),
    }
}

/// A replica that lags behind, or a database that was restored, offers what was in force once. Contact it is all the same.
fn outdated(vm: &mut Vm, host: &impl Host, offered: &BundleVersion, current: &BundleVersion, now: Timestamp) {
    vm.counters.add(host, name::BUNDLE_OUTDATED, 1);
    if vm.feed.outdated == 0 {
        let said =
            |version: &BundleVersion| format!("activation {} (key set {}, shadow {})", version.activation, version.key_set, version.shadow);
        host.log(
            Level::Warn,
            &format!(
                "{} was offered and {} is in force: kept. A replica of the control plane lags behind, or its database was restored from a backup; a new activation with a higher number ends this",
                said(offered),
                said(current)
            ),
        );
    }
    let etag = std::mem::take(&mut vm.feed.etag);
    let times = vm.feed.outdated;
    connected(vm, host, etag, now);
    vm.feed.outdated = times.saturating_add(1);
    vm.feed.poll_due = now.plus(Duration::from_millis((OUTDATED_BACKOFF_MS << times.min(5)).min(BACKOFF_MAX_MS)));
}

/// The last poll brought what this machine has, or has now.
fn connected(vm: &mut Vm, host: &impl Host, etag: Vec<u8>, now: Timestamp) {
    vm.feed.failures = 0;
    vm.feed.outdated = 0;
    vm.feed.poll_due = now;
    vm.feed.etag = etag;
    vm.contact.heard(About::Keys, host, now);
    set_standing(host, Standing::Connected);
}

/// Takes or renews the claim to be the one that polls. Identity holds no context id: the old and the new root of a
/// machine share this state.
fn claim(vm: &mut Vm, host: &impl Host, now: Timestamp) -> Leads {
    if vm.feed.identity == 0 {
        vm.feed.identity = u64::from_le_bytes(first_eight(&vm.ids.holder_id())).max(1);
    }
    let shared = host.shared(CLAIM);
    let (holder, expires) = shared.value.as_deref().map_or((0, 0), read_claim);
    if holder != vm.feed.identity && expires > now.as_micros() {
        return Leads::No;
    }
    let mut value = vm.feed.identity.to_le_bytes().to_vec();
    value.extend(now.plus(CLAIM_LIFETIME).as_micros().to_le_bytes());
    // With this cas a key that another machine created meanwhile is left alone.
    let cas = shared.cas.unwrap_or(u32::MAX);
    if host.set_shared(CLAIM, &value, Some(cas)).is_ok() { Leads::Yes } else { Leads::No }
}

fn read_claim(value: &[u8]) -> (u64, i64) {
    let (holder, expires) = value.split_at_checked(8).unwrap_or_default();
    (u64::from_le_bytes(first_eight(holder)), i64::from_le_bytes(first_eight(expires)))
}

fn first_eight(bytes: &[u8]) -> [u8; 8] {
    bytes.first_chunk::<8>().copied().unwrap_or_default()
}

fn poll(vm: &mut Vm, host: &impl Host, settings: &Settings, now: Timestamp) {
    let authorization = authorization();
    // After a failure nobody waits for news: the answer at once is the news that the control plane is back.
    let path: &[u8] = if vm.feed.failures == 0 { b"/data-plane/v1/bundle" } else { b"/data-plane/v1/bundle?wait_s=0" };
    let mut headers: Vec<(&str, &[u8])> =
        vec![(":method", b"GET"), (":path", path), (":authority", b"control-plane"), ("authorization", authorization.as_bytes())];
    let etag = vm.feed.etag.clone();
    if !etag.is_empty() {
        headers.push(("if-none-match", &etag));
    }
    let call = HttpCall { cluster: &settings.poll_cluster, headers: &headers, body: None, timeout: POLL_TIMEOUT };
    match host.http_call(&call) {
        Ok(token) => vm.feed.in_flight = Some(token),
        Err(_) => failed(vm, host, Standing::Unreachable, now),
    }
}

/// The bearer token of this Envoy, from the environment of its process: it stands in no configuration dump.
pub(crate) fn authorization() -> String {
    format!("Bearer {}", std::env::var("PLANT_DATA_PLANE_TOKEN").unwrap_or_default())
}

/// The answer to the long poll.
pub(crate) fn answered(vm: &mut Vm, host: &impl Host, result: CallResult, now: Timestamp) -> Change {
    vm.feed.in_flight = None;
    match result.status(host) {
        Some(200) => {
            let etag = host.call_header("etag").unwrap_or_default();
            let image = host.call_body(result.body_size);
            let begun = loading::begin(vm, host, image, Source::Polled { etag });
            advance(vm, host, begun, now)
        }
        Some(304) => {
            let etag = std::mem::take(&mut vm.feed.etag);
            connected(vm, host, etag, now);
            Change::None
        }
        Some(401 | 403) => {
            failed(vm, host, Standing::Unauthorized, now);
            Change::None
        }
        Some(_) | None => {
            failed(vm, host, Standing::Unreachable, now);
            Change::None
        }
    }
}

/// Tells the others. Only what this machine has loaded itself gets into shared data.
fn share(vm: &mut Vm, host: &impl Host, image: &[u8]) {
    let slot = vm.feed.seen.last().map_or(0, |slot| 1 - (slot & 1));
    if let (Some(key), Some(active)) = (IMAGES.get(usize::from(slot)), vm.active.as_ref()) {
        let version = active.version;
        let mut value = version.database_id.to_vec();
        for number in [version.activation, version.revision, version.key_set, version.shadow] {
            value.extend(number.to_le_bytes());
        }
        value.push(slot);
        if host.set_shared(key, image, None).is_ok() && host.set_shared(VERSION, &value, None).is_ok() {
            vm.feed.seen = value;
        }
    }
}

fn failed(vm: &mut Vm, host: &impl Host, standing: Standing, now: Timestamp) {
    set_standing(host, standing);
    vm.counters.add(host, name::BUNDLE_POLL_FAILURES, 1);
    vm.feed.failures = vm.feed.failures.saturating_add(1);
    let backoff = (100_u64 << vm.feed.failures.min(6)).min(BACKOFF_MAX_MS);
    vm.feed.poll_due = now.plus(Duration::from_millis(backoff / 2 + vm.ids.jitter(backoff / 2)));
    if vm.feed.failures == 1 {
        host.log(Level::Warn, &format!("the control plane's bundle cannot be had ({}); retrying", standing.text()));
    }
}
