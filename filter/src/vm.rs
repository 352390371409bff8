//! What belongs to one virtual machine, whichever listener a request came to: the bundle in force, the leases, the
//! verified tokens, the queue of records, the requests that wait.

use crate::bell::Bell;
use crate::bundle_feed::BundleFeed;
use crate::client_limits::ClientLimits;
use crate::contact::Contact;
use crate::counters::{Counters, name};
use crate::drain::Drain;
use crate::exchange::Exchange;
use crate::host::{Host, Level};
use crate::ids::IdSource;
use crate::key_asks::KeyAsks;
use crate::loading::{Loading, Memory, Retired};
use crate::records::RecordQueue;
use crate::revocation_feed::RevocationFeed;
use crate::revoked::{Revoked, VerifiedToken};
use crate::rules::{CustomRules, ReadyRules};
use crate::shadow::{Comparison, Shadow};
use crate::signature::{self, Failures, Implementation};
use crate::sync::SyncState;
use crate::undos::Undos;
use authn::{Issuers, TokenCache};
use decision_core::holder::{Binding, LeaseHolder, Wait};
use decision_core::policy::CompiledPolicy;
use decision_core::time::Timestamp;
use hashbrown::HashMap;
use std::cell::RefCell;
use std::rc::Rc;
use wire::bundle::{BundleError, BundleVersion, LoadedBundle};
use wire::pseudonym::PseudonymKey;
use wire::sync::{ApprovalAsk, ApprovalOutcome, Id};

/// Verified tokens that are kept: at most so many, in at most so many bytes.
const TOKENS_MAX: usize = 10_000;
const TOKEN_BYTES_MAX: usize = 8 * 1_024 * 1_024;
/// Requests that may wait, for whatever.
pub(crate) const WAITING_MAX: usize = 1_024;

/// The bundle in force.
#[derive(Debug)]
pub(crate) struct Active {
    pub(crate) version: BundleVersion,
    pub(crate) policy: CompiledPolicy,
    pub(crate) issuers: Issuers,
    pub(crate) registration_key_hashes: Vec<[u8; 32]>,
    pub(crate) pseudonym_key: Option<PseudonymKey>,
    pub(crate) binding: Binding,
    /// The custom rules, ready.
    pub(crate) rules: Option<CustomRules>,
    pub(crate) origin: Origin,
    pub(crate) shadow: Option<Shadow>,
}

impl Active {
    /// Drops some of the routes; nobody decides by them any more. Returns whether any is left.
    pub(crate) fn dismantle(&mut self, routes: usize) -> bool {
        if let Some(shadow) = &mut self.shadow
            && shadow.policy.dismantle(routes)
        {
            return true;
        }
        self.policy.dismantle(routes)
    }
}

/// Where a bundle came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The control plane serves it.
    Served,
    /// It stands in the plugin configuration: any that is served takes its place.
    Embedded,
}

/// The state of one virtual machine.
#[derive(Debug)]
pub(crate) struct Vm {
    /// The root context that ticks and calls out.
    pub(crate) owner: Option<u32>,
    /// Wakes the owner.
    pub(crate) bell: Bell,
    pub(crate) active: Option<Rc<Active>>,
    pub(crate) loading: Option<Loading>,
    pub(crate) retired: Retired,
    pub(crate) memory: Memory,
    pub(crate) comparison: Comparison,
    pub(crate) leases: LeaseHolder,
    /// Made at the first request: the main thread's machine never holds a lease.
    pub(crate) holder: Option<Id>,
    pub(crate) tokens: TokenCache<Rc<VerifiedToken>>,
    pub(crate) failures: Failures,
    pub(crate) implementation: Implementation,
    pub(crate) records: RecordQueue,
    pub(crate) waiting: Vec<Waiting>,
    parked: Vec<(Box<Wait>, Timestamp)>,
    pub(crate) asks: Vec<ApprovalAsk>,
    pub(crate) answers: HashMap<Id, ApprovalOutcome>,
    pub(crate) undos: Undos,
    pub(crate) ids: IdSource,
    pub(crate) counters: Counters,
    pub(crate) feed: BundleFeed,
    pub(crate) sync: SyncState,
    pub(crate) contact: Contact,
    pub(crate) drain: Drain,
    pub(crate) revoked: Revoked,
    pub(crate) revocation_feed: RevocationFeed,
    pub(crate) key_asks: KeyAsks,
    pub(crate) client_limits: ClientLimits,
}

/// A request that waits, and the stream to select before anything is done to it.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) context: u32,
    pub(crate) exchange: Rc<RefCell<Exchange>>,
}

#[cfg(target_arch = "wasm32")]
thread_local! {
    static VM: Rc<RefCell<Vm>> = Rc::new(RefCell::new(Vm::new()));
}

/// The machine that this code runs in.
#[cfg(target_arch = "wasm32")]
pub(crate) fn this_vm() -> Rc<RefCell<Vm>> {
    VM.with(Rc::clone)
}

/// Why an image was not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotActivated {
    #[error("{0}")]
    Refused(#[source] BundleError),
    #[error("{0}")]
    Rules(#[source] rules::LoadError),
    #[error("activation {} does not supersede {}", .offered.activation, .current.activation)]
    Older { offered: BundleVersion, current: BundleVersion },
}

impl Vm {
    pub(crate) fn new() -> Self {
        Self {
            owner: None,
            bell: Bell::default(),
            active: None,
            loading: None,
            retired: Retired::default(),
            memory: Memory::default(),
            comparison: Comparison::default(),
            leases: LeaseHolder::default(),
            holder: None,
            tokens: TokenCache::new(TOKENS_MAX, TOKEN_BYTES_MAX),
            failures: Failures::default(),
            implementation: Implementation::Untried,
            records: RecordQueue::default(),
            waiting: Vec::new(),
            parked: Vec::new(),
            asks: Vec::new(),
            answers: HashMap::new(),
            undos: Undos::default(),
            ids: IdSource::new(),
            counters: Counters::default(),
            feed: BundleFeed::default(),
            sync: SyncState::default(),
            contact: Contact::default(),
            drain: Drain::default(),
            revoked: Revoked::default(),
            revocation_feed: RevocationFeed::default(),
            key_asks: KeyAsks::default(),
            client_limits: ClientLimits::default(),
        }
    }

    /// Which implementation verifies; tries the host the first time.
    pub(crate) fn implementation(&mut self, host: &impl Host) -> Implementation {
        if self.implementation == Implementation::Untried {
            self.implementation = signature::try_host(host);
        }
        self.implementation
    }

    /// Takes the bundle of a plugin configuration, unless a better one is in force.
    pub(crate) fn start_with(&mut self, host: &impl Host, loaded: LoadedBundle, rules: ReadyRules) {
        let better = |active: &Rc<Active>| active.origin == Origin::Embedded && loaded.version.supersedes(&active.version);
        if self.active.as_ref().is_none_or(better) {
            self.contact.begin(host.now());
            self.switch(host, loaded, rules, Origin::Embedded);
        }
    }

    /// From the next request on, this bundle decides.
    pub(crate) fn switch(&mut self, host: &impl Host, loaded: LoadedBundle, rules: ReadyRules, origin: Origin) {
        let binding = self.leases.bind(&loaded.policy);
        self.client_limits.bind(&loaded.policy);
        self.retired.tokens(std::mem::replace(&mut self.tokens, TokenCache::new(TOKENS_MAX, TOKEN_BYTES_MAX)));
        self.counters.set(host, name::BUNDLE_ACTIVATION, loaded.version.activation);
        host.log(
            Level::Info,
            &format!(
                "activation {} (revision {}, key set {}, shadow {}) is in force",
                loaded.version.activation, loaded.version.revision, loaded.version.key_set, loaded.version.shadow
            ),
        );
        let shadow = loaded.shadow.map(|shadow| Shadow::new(shadow, rules.shadow, &loaded.version));
        if let Some(shadow) = &shadow {
            self.comparison.follow(shadow);
        }
        let active = Active {
            version: loaded.version,
            policy: loaded.policy,
            issuers: loaded.issuers,
            registration_key_hashes: loaded.registration_key_hashes,
            pseudonym_key: loaded.pseudonym_key,
            binding,
            rules: rules.active,
            origin,
            shadow,
        };
        let active = Rc::new(active);
        if let Some(former) = self.active.replace(Rc::clone(&active)) {
            // What a batch has spelled out stays so in it: it does not go on under a policy that names users otherwise.
            if former.policy.audit() != active.policy.audit() || former.pseudonym_key != active.pseudonym_key {
                self.records.seal();
            }
            self.retired.policy(former);
        }
    }

    /// The root that calls out is going, and the host with it drops the calls that are not answered: the next owner
    /// makes its own.
    pub(crate) fn disown(&mut self) {
        self.owner = None;
        self.bell.uninstall();
        self.feed.abandon();
        self.revocation_feed.abandon();
        self.sync.abandon();
    }

    /// Keeps the place in the queue of a request that was told to come back: what it lacks is asked meanwhile.
    pub(crate) fn park(&mut self, wait: Box<Wait>, until: Timestamp) {
        if self.parked.len() >= WAITING_MAX {
            return self.leases.end_wait(wait);
        }
        self.parked.push((wait, until));
    }

    /// Gives back the places whose requests have had their time to come back.
    pub(crate) fn end_parked(&mut self, now: Timestamp) {
        for (wait, _) in self.parked.extract_if(.., |(_, until)| *until <= now) {
            self.leases.end_wait(wait);
        }
    }

    /// The holder's id; made now if this is the first request.
    pub(crate) fn become_holder(&mut self) {
        if self.holder.is_none() {
            self.holder = Some(self.ids.holder_id());
        }
    }
}
