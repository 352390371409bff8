//! A bundle on its way into force: loaded a few steps at a time between requests, and the one that it replaces dropped the
//! same way. Nothing of a bundle decides anything before the last step.

use crate::counters::name;
use crate::host::Host;
use crate::revoked::VerifiedToken;
use crate::rules::{LoadingRules, ReadyRules};
use crate::vm::{Active, NotActivated, Origin, Vm};
use authn::TokenCache;
use std::rc::Rc;
use std::time::Duration;
use wire::bundle::{BundleVersion, LoadedBundle, Loader};

/// Of a tick. One step more takes well below a millisecond; the rest of the 5 ms is for what else a tick does.
const TIME_PER_TICK: Duration = Duration::from_micros(3_000);
/// While no bundle is in force there is nothing else to do: every request waits for this one.
const TIME_PER_TICK_COLD: Duration = Duration::from_millis(15);
/// Routes or tokens that are dropped in one step: a fraction of a millisecond.
const DROPPED_PER_STEP: usize = 512;

/// A bundle that is being loaded.
#[derive(Debug)]
pub(crate) struct Loading {
    version: BundleVersion,
    stage: Stage,
    source: Source,
}

#[derive(Debug)]
enum Stage {
    /// Its tables and keys.
    Tables(Box<Loader>),
    /// Its custom rules.
    Rules(Box<Ruled>),
}

/// A bundle whose custom rules are being loaded.
#[derive(Debug)]
struct Ruled {
    image: Vec<u8>,
    loaded: LoadedBundle,
    rules: LoadingRules,
}

/// Where an image came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// This machine polled it, and shares it when it is in force.
    Polled { etag: Vec<u8> },
    /// Another machine of this Envoy did.
    Shared,
}

impl Loading {
    /// Which version it is.
    #[cfg(test)]
    pub(crate) const fn version(&self) -> &BundleVersion {
        &self.version
    }

    /// Whether it is what this machine polled.
    pub(crate) const fn is_polled(&self) -> bool {
        matches!(self.source, Source::Polled { .. })
    }
}

/// What became of an image.
#[derive(Debug)]
pub(crate) enum Outcome {
    InForce { image: Vec<u8>, source: Source },
    Not { why: NotActivated, source: Source },
}

/// Begins with an image. A newer one takes the place of one that is being loaded.
pub(crate) fn begin(vm: &mut Vm, host: &impl Host, image: Vec<u8>, source: Source) -> Option<Outcome> {
    let begun = Loader::new(image).map_err(|error| refused(vm, host, error)).and_then(|loader| {
        superseding(vm, loader.version())?;
        Ok(loader)
    });
    match begun {
        Ok(loader) => {
            vm.loading = Some(Loading { version: *loader.version(), stage: Stage::Tables(Box::new(loader)), source });
            None
        }
        Err(why) => Some(Outcome::Not { why, source }),
    }
}

fn refused(vm: &mut Vm, host: &impl Host, error: wire::bundle::BundleError) -> NotActivated {
    vm.counters.add(host, name::BUNDLE_REFUSED, 1);
    NotActivated::Refused(error)
}

/// Rules that decide otherwise here than where they were published are refused with all that came with them.
fn refused_rules(vm: &mut Vm, host: &impl Host, error: rules::LoadError) -> NotActivated {
    vm.counters.add(host, name::BUNDLE_REFUSED, 1);
    NotActivated::Rules(error)
}

/// Never backwards: neither behind what is in force nor behind what is about to be.
fn superseding(vm: &Vm, offered: &BundleVersion) -> Result<(), NotActivated> {
    let active = vm.active.as_ref().filter(|active| active.origin == Origin::Served).map(|active| active.version);
    let loading = vm.loading.as_ref().map(|loading| loading.version);
    match [active, loading].into_iter().flatten().find(|current| !offered.supersedes(current)) {
        Some(current) => Err(NotActivated::Older { offered: *offered, current }),
        None => Ok(()),
    }
}

/// As many steps as there is time for; the switch, after the last.
pub(crate) fn advance(vm: &mut Vm, host: &impl Host) -> Option<Outcome> {
    vm.loading.as_ref()?;
    let time = if vm.active.is_some() { TIME_PER_TICK } else { TIME_PER_TICK_COLD };
    let until = host.now().plus(time);
    loop {
        match step(vm, host) {
            Some(outcome) => return Some(outcome),
            None if host.now() >= until => return None,
            None => {}
        }
    }
}

fn step(vm: &mut Vm, host: &impl Host) -> Option<Outcome> {
    let Loading { version, stage, source } = vm.loading.take()?;
    let next = match stage {
        Stage::Tables(mut loader) => match loader.step() {
            Ok(None) => Ok(Stage::Tables(loader)),
            Ok(Some(loaded)) => match LoadingRules::begin(&loaded) {
                Ok(rules) => Ok(Stage::Rules(Box::new(Ruled { image: loader.into_image(), loaded, rules }))),
                Err(error) => Err(refused_rules(vm, host, error)),
            },
            Err(error) => Err(refused(vm, host, error)),
        },
        Stage::Rules(mut ruled) => match ruled.rules.step() {
            Ok(None) => Ok(Stage::Rules(ruled)),
            Ok(Some(rules)) => return Some(finish(vm, host, *ruled, rules, source)),
            Err(error) => Err(refused_rules(vm, host, error)),
        },
    };
    match next {
        Ok(stage) => {
            vm.loading = Some(Loading { version, stage, source });
            None
        }
        Err(why) => Some(Outcome::Not { why, source }),
    }
}

fn finish(vm: &mut Vm, host: &impl Host, ruled: Ruled, rules: ReadyRules, source: Source) -> Outcome {
    match superseding(vm, &ruled.loaded.version) {
        Ok(()) => {
            vm.switch(host, ruled.loaded, rules, Origin::Served);
            Outcome::InForce { image: ruled.image, source }
        }
        Err(why) => Outcome::Not { why, source },
    }
}

/// What is no longer in force, until nobody uses it and it is dropped: bit by bit, and never by a request.
#[derive(Debug, Default)]
pub(crate) struct Retired {
    policies: Vec<Rc<Active>>,
    tokens: Vec<TokenCache<Rc<VerifiedToken>>>,
}

impl Retired {
    pub(crate) fn policy(&mut self, active: Rc<Active>) {
        self.policies.push(active);
    }

    pub(crate) fn tokens(&mut self, tokens: TokenCache<Rc<VerifiedToken>>) {
        if !tokens.is_empty() {
            self.tokens.push(tokens);
        }
    }

    /// How much is left.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.policies.len() + self.tokens.len()
    }

    /// Drops a bit. Requests under way keep the policy that they began with.
    pub(crate) fn drop_some(&mut self) {
        let unused = self.policies.iter().position(|active| Rc::strong_count(active) == 1);
        if let Some(place) = unused
            && let Some(active) = self.policies.get_mut(place).and_then(Rc::get_mut)
            && !active.dismantle(DROPPED_PER_STEP)
        {
            self.policies.swap_remove(place);
        }
        if let Some(tokens) = self.tokens.last_mut()
            && !tokens.dismantle(DROPPED_PER_STEP)
        {
            self.tokens.pop();
        }
    }
}

/// How large the machine's memory has grown: it never shrinks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    told: u64,
}

const LARGEST: &str = "plant_gateway.memory";

impl Memory {
    /// Tells Envoy when this machine has become the largest of all.
    pub(crate) fn look(vm: &mut Vm, host: &impl Host) {
        let bytes = memory_bytes();
        if bytes <= vm.memory.told {
            return;
        }
        vm.memory.told = bytes;
        let shared = host.shared(LARGEST);
        let largest = shared.value.and_then(|value| value.try_into().ok()).map_or(0, u64::from_le_bytes);
        if bytes > largest && host.set_shared(LARGEST, &bytes.to_le_bytes(), None).is_ok() {
            vm.counters.set(host, name::MEMORY, bytes);
        }
    }
}

#[cfg(target_arch = "wasm32")]
fn memory_bytes() -> u64 {
    const PAGE: u64 = 65_536;
    u64::try_from(core::arch::wasm32::memory_size(0)).unwrap_or(0).saturating_mul(PAGE)
}

/// A native process has no memory of its own kind; the tests tell one apart from none.
#[cfg(not(target_arch = "wasm32"))]
const fn memory_bytes() -> u64 {
    1
}

#[cfg(test)]
impl Vm {
    /// All steps at once.
    pub(crate) fn activate(&mut self, host: &impl Host, image: &[u8]) -> Result<(), NotActivated> {
        let mut outcome = begin(self, host, image.to_vec(), Source::Shared);
        loop {
            match outcome {
                Some(Outcome::InForce { .. }) => return Ok(()),
                Some(Outcome::Not { why, .. }) => return Err(why),
                None => outcome = advance(self, host),
            }
        }
    }
}
