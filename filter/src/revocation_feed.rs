//! How revocations get into every worker. Each fetches page by page what it does not know. Once it has caught up, the machine
//! that polls for bundles waits for news, and puts the last changes into shared data, where the others see them on their tick.

use crate::bundle_feed::{Change, authorization};
use crate::contact::About;
use crate::counters::name;
use crate::host::{Host, HostError, HttpCall, Level};
use crate::revoked::{DoesNotFollow, Place, Tail, Taken};
use crate::root::CallResult;
use crate::settings::Settings;
use crate::vm::Vm;
use decision_core::time::Timestamp;
use std::time::Duration;
use wire::drain::DRAINING_HEADER;
use wire::frame;
use wire::revocation::RevocationPage;

const TAIL: &str = "plant_gateway.revocations";
const VERSION: &str = "plant_gateway.revocations.version";

const POLL_TIMEOUT: Duration = Duration::from_secs(35);
const BACKOFF_MAX_MS: u64 = 5_000;
/// Before it is asked again for what others know and the control plane did not tell.
const PAUSE: Duration = Duration::from_millis(200);
/// Another machine may write at the same time; more than a few do not.
const PUBLISH_ATTEMPTS: u8 = 4;

/// How the fetching stands.
#[derive(Debug, Default)]
pub(crate) struct RevocationFeed {
    in_flight: Option<u32>,
    due: Timestamp,
    failures: u32,
    seen: Vec<u8>,
    /// The last change to caps that this machine knows of.
    caps: u64,
    /// What another worker knows, until it is known here, or the control plane was asked.
    target: Option<Place>,
}

impl RevocationFeed {
    /// No answer to a call that was made will come.
    pub(crate) const fn abandon(&mut self) {
        self.in_flight = None;
    }

    /// Whether the call is this feed's.
    pub(crate) fn owns(&self, token: u32) -> bool {
        self.in_flight == Some(token)
    }
}

/// How long the control plane is to wait for news.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Patience {
    None,
    /// The Envoy is about to stop, for as long as that is said again.
    Brief,
    LongPoll,
}

/// Follows the others, fetches what is missing, and waits for news if this machine leads.
pub(crate) fn tick(vm: &mut Vm, host: &impl Host, settings: &Settings, now: Timestamp) {
    follow(vm, host);
    if vm.revocation_feed.in_flight.is_some() || now < vm.revocation_feed.due {
        return;
    }
    if is_behind(vm) {
        call(vm, host, settings, Patience::None, now);
    } else if vm.feed.is_leading() {
        // After a failure nobody waits for news: the answer at once is the news that the control plane is back.
        let patience = match vm.revocation_feed.failures {
            0 if vm.drain.is_on() => Patience::Brief,
            0 => Patience::LongPoll,
            _ => Patience::None,
        };
        call(vm, host, settings, patience, now);
    }
}

fn is_behind(vm: &Vm) -> bool {
    match (vm.revoked.known(), vm.revocation_feed.target) {
        (None, _) => true,
        (Some(known), Some(target)) => known.database_id != target.database_id || known.number < target.number,
        (Some(_), None) => false,
    }
}

fn follow(vm: &mut Vm, host: &impl Host) {
    let Some(version) = host.shared(VERSION).value else { return };
    if version == vm.revocation_feed.seen {
        return;
    }
    let told = Version::read(&version);
    vm.revocation_feed.target = told.map(|told| told.place);
    vm.revocation_feed.seen = version;
    if let Some(told) = told {
        learn_caps(vm, told.caps);
    }
    // Who is not known to be complete fetches everything anyway.
    if vm.revoked.known().is_some() && is_behind(vm) {
        let tail = host.shared(TAIL).value.and_then(|value| frame::decode::<Tail>(&value).ok());
        if let Some(tail) = tail {
            vm.revoked.follow(&tail);
            show(vm, host);
        }
    }
}

fn call(vm: &mut Vm, host: &impl Host, settings: &Settings, patience: Patience, now: Timestamp) {
    let path = path(vm.revoked.cursor(), vm.revocation_feed.caps, patience);
    let authorization = authorization();
    let mut headers: Vec<(&str, &[u8])> = vec![
        (":method", b"GET"),
        (":path", path.as_bytes()),
        (":authority", b"control-plane"),
        ("authorization", authorization.as_bytes()),
    ];
    if vm.drain.is_on() {
        headers.push((DRAINING_HEADER, b"known"));
    }
    let call = HttpCall { cluster: &settings.poll_cluster, headers: &headers, body: None, timeout: POLL_TIMEOUT };
    match host.http_call(&call) {
        Ok(token) => vm.revocation_feed.in_flight = Some(token),
        Err(_) => failed(vm, host, now),
    }
}

fn path(cursor: Option<Place>, caps: u64, patience: Patience) -> String {
    let wait = match patience {
        Patience::None => 0,
        Patience::Brief => 3,
        Patience::LongPoll => 30,
    };
    match cursor {
        None => format!("/data-plane/v1/revocations?after=0&caps={caps}&wait_s={wait}"),
        Some(place) => {
            let database = u128::from_be_bytes(place.database_id);
            format!("/data-plane/v1/revocations?after={}&database={database:032x}&caps={caps}&wait_s={wait}", place.number)
        }
    }
}

/// The answer to a call. Whether revocations have become known by it.
pub(crate) fn answered(vm: &mut Vm, host: &impl Host, settings: &Settings, result: CallResult, now: Timestamp) -> Change {
    vm.revocation_feed.in_flight = None;
    let before = vm.revoked.known();
    match take(vm, host, result) {
        Ok(taken) => {
            vm.drain.hear(host, now);
            vm.revocation_feed.failures = 0;
            vm.contact.heard(About::Revocations, host, now);
            show(vm, host);
            match taken {
                Taken::More => call(vm, host, settings, Patience::None, now),
                Taken::CaughtUp => caught_up(vm, host, now),
            }
        }
        Err(why) => {
            if vm.revocation_feed.failures == 0 {
                host.log(Level::Warn, &format!("revocations cannot be had ({why}); retrying"));
            }
            failed(vm, host, now);
        }
    }
    if before.is_none() && vm.revoked.known().is_some() { Change::Learned } else { Change::None }
}

/// Why an answer was of no use.
#[derive(Debug, thiserror::Error)]
enum Useless {
    #[error("status {0}")]
    Status(u16),
    #[error("no answer")]
    NoAnswer,
    #[error(transparent)]
    Frame(#[from] frame::FrameError),
    #[error(transparent)]
    DoesNotFollow(#[from] DoesNotFollow),
}

fn take(vm: &mut Vm, host: &impl Host, result: CallResult) -> Result<Taken, Useless> {
    match result.status(host) {
        Some(200) => {
            let page: RevocationPage = frame::decode(&host.call_body(result.body_size))?;
            let taken = vm.revoked.take(&page)?;
            learn_caps(vm, page.caps);
            Ok(taken)
        }
        Some(304) => Ok(vm.revoked.take_nothing()?),
        Some(status) => Err(Useless::Status(status)),
        None => Err(Useless::NoAnswer),
    }
}

fn caught_up(vm: &mut Vm, host: &impl Host, now: Timestamp) {
    vm.revocation_feed.due = now;
    if is_behind(vm) {
        match (vm.revoked.known(), vm.revocation_feed.target) {
            // The control plane was asked and has told what it has: it is of that database.
            (Some(known), Some(target)) if known.database_id != target.database_id => vm.revocation_feed.target = None,
            _ => vm.revocation_feed.due = now.plus(PAUSE),
        }
    }
    if vm.feed.is_leading() {
        publish(vm, host);
    }
}

/// What was spent may have room again. Not only when the number rises: a database that was restored counts from before.
fn learn_caps(vm: &mut Vm, caps: u64) {
    if std::mem::replace(&mut vm.revocation_feed.caps, caps) != caps {
        vm.leases.forget_spent();
    }
}

/// What the others are told first: how far the tail leads, and the last change to caps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Version {
    place: Place,
    caps: u64,
}

impl Version {
    fn read(bytes: &[u8]) -> Option<Self> {
        let (database_id, rest) = bytes.split_first_chunk::<16>()?;
        let (number, rest) = rest.split_first_chunk::<8>()?;
        let caps = u64::from_le_bytes(rest.try_into().ok()?);
        Some(Self { place: Place { database_id: *database_id, number: u64::from_le_bytes(*number) }, caps })
    }

    fn write(&self) -> Vec<u8> {
        [&self.place.database_id[..], &self.place.number.to_le_bytes(), &self.caps.to_le_bytes()].concat()
    }

    /// This, unless more of the same database is known: a machine that led before may answer late.
    fn and_known(self, known: Option<Self>) -> Self {
        match known.filter(|known| known.place.database_id == self.place.database_id) {
            Some(Self { place, caps }) => {
                Self { place: if place.number > self.place.number { place } else { self.place }, caps: caps.max(self.caps) }
            }
            None => self,
        }
    }
}

/// Tells the others, unless they have been told as much.
fn publish(vm: &mut Vm, host: &impl Host) {
    let Some(tail) = vm.revoked.tail() else { return };
    let mine = Version { place: tail.to, caps: vm.revocation_feed.caps };
    for _ in 0..PUBLISH_ATTEMPTS {
        let shared = host.shared(VERSION);
        let told = shared.value.as_deref().and_then(Version::read);
        let version = mine.and_known(told);
        if told == Some(version) {
            return;
        }
        let leads = version.place == tail.to && told.is_none_or(|told| told.place != tail.to);
        if leads && !frame::encode(&tail).is_ok_and(|bytes| host.set_shared(TAIL, &bytes, None).is_ok()) {
            return;
        }
        let version = version.write();
        match host.set_shared(VERSION, &version, Some(shared.cas.unwrap_or(u32::MAX))) {
            Ok(()) => {
                vm.revocation_feed.seen = version;
                vm.revocation_feed.target = None;
                return;
            }
            Err(HostError::CasMismatch) => {}
            Err(HostError::Refused) => return,
        }
    }
}

fn show(vm: &mut Vm, host: &impl Host) {
    vm.counters.set(host, name::REVOCATION_NUMBER, vm.revoked.number());
    vm.counters.set(host, name::REVOCATIONS, u64::try_from(vm.revoked.len()).unwrap_or(u64::MAX));
}

fn failed(vm: &mut Vm, host: &impl Host, now: Timestamp) {
    vm.counters.add(host, name::REVOCATION_POLL_FAILURES, 1);
    let feed = &mut vm.revocation_feed;
    feed.failures = feed.failures.saturating_add(1);
    let backoff = (100_u64 << feed.failures.min(6)).min(BACKOFF_MAX_MS);
    feed.due = now.plus(Duration::from_millis(backoff / 2 + vm.ids.jitter(backoff / 2)));
}
