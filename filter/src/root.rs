//! The root context: configures a listener, and for one root of each virtual machine, ticks and calls out.

use crate::bundle_feed::{self, Change};
use crate::drain;
use crate::host::Host;
use crate::loading::Memory;
use crate::pipeline::{self, Step, Wake};
use crate::revocation_feed;
use crate::rules::ReadyRules;
use crate::settings::{InvalidSettings, Settings};
use crate::sync;
use crate::vm::{Vm, Waiting};
use decision_core::time::Timestamp;
use std::cell::RefCell;
use std::rc::Rc;

/// What came back from a call-out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CallResult {
    pub(crate) header_count: usize,
    pub(crate) body_size: usize,
}

impl CallResult {
    /// The status; `None` when there was no response at all. Then the header map must not be asked.
    pub(crate) fn status(self, host: &impl Host) -> Option<u16> {
        if self.header_count == 0 { None } else { host.call_status() }
    }
}

/// Whose answer it is, and what it means for requests that wait.
pub(crate) fn dispatch(vm: &mut Vm, host: &impl Host, settings: &Settings, token: u32, result: CallResult, now: Timestamp) -> Wake {
    if vm.sync.owns(token) {
        sync::answered(vm, host, result, now);
        Wake::Answer
    } else if vm.feed.owns(token) {
        wake_after(bundle_feed::answered(vm, host, result, now))
    } else if vm.revocation_feed.owns(token) {
        wake_after(revocation_feed::answered(vm, host, settings, result, now))
    } else {
        Wake::Tick
    }
}

/// Everything that is looked after: contact, bundle, revocations, whether the Envoy is about to stop, the sync call.
pub(crate) fn tick(vm: &mut Vm, host: &impl Host, settings: &Settings, now: Timestamp) -> Wake {
    vm.bell.answered(host);
    vm.bell.install(host, &mut vm.ids);
    vm.contact.look(host, now);
    let change = bundle_feed::tick(vm, host, settings, now);
    revocation_feed::tick(vm, host, settings, now);
    drain::tick(vm, host, now);
    sync::tick(vm, host, settings, now);
    vm.retired.drop_some();
    Memory::look(vm, host);
    wake_after(change)
}

const fn wake_after(change: Change) -> Wake {
    match change {
        Change::Learned => Wake::Learned,
        Change::None => Wake::Tick,
    }
}

/// Reads a plugin configuration, and takes its bundle if it has one.
pub(crate) fn configure(vm: &mut Vm, host: &impl Host, configuration: &[u8]) -> Result<Settings, InvalidSettings> {
    let (settings, bundle) = Settings::parse(configuration)?;
    vm.counters.begin(host);
    if let Some(bundle) = bundle {
        let rules = ReadyRules::of(&bundle).map_err(InvalidSettings::Rules)?;
        vm.start_with(host, bundle, rules);
    }
    Ok(settings)
}

/// Looks at every held request again. Selects each stream, and the root again in the end. If some of them have to wait on for
/// a call, it follows at once.
pub(crate) fn wake_all(vm: &Rc<RefCell<Vm>>, host: &impl Host, (root, settings): (u32, &Settings), why: Wake, now: Timestamp) {
    vm.borrow_mut().end_parked(now);
    let waiting = std::mem::take(&mut vm.borrow_mut().waiting);
    if waiting.is_empty() {
        return;
    }
    for held in waiting {
        let overdue = held.exchange.borrow().deadline().is_none_or(|until| now >= until);
        let knowledge = held.exchange.borrow().is_awaiting_knowledge();
        let concerned = match why {
            Wake::Answer => true,
            Wake::Learned => knowledge,
            Wake::Tick => false,
        };
        let hopeless = !knowledge && vm.borrow().sync.is_failing();
        if !concerned && !overdue && !hopeless {
            vm.borrow_mut().waiting.push(held);
        } else {
            wake_one(vm, host, held, why, now);
        }
    }
    // The root's own calls follow. One under another context would lose its answer: then the next tick makes it.
    if host.select(root).is_err() {
        return;
    }
    sync::press(&mut vm.borrow_mut(), host, settings, now);
}

/// A request is held. If a call would help it, the root is woken: a stream that called out itself would take the answer with it
/// when it ends, and others wait for the same.
pub(crate) fn hold(vm: &mut Vm, host: &impl Host, held: Waiting, now: Timestamp) {
    vm.waiting.push(held);
    if sync::is_pressing(vm, now) {
        vm.bell.ring(host);
    }
}

/// A stream has woken the root.
pub(crate) fn woken(vm: &mut Vm, host: &impl Host, settings: &Settings, now: Timestamp) {
    vm.bell.answered(host);
    sync::press(vm, host, settings, now);
}

fn wake_one(vm: &Rc<RefCell<Vm>>, host: &impl Host, held: Waiting, why: Wake, now: Timestamp) {
    // The stream is gone: its `on_log` has given back what it held.
    if host.select(held.context).is_err() {
        return;
    }
    let step = pipeline::wake(&mut held.exchange.borrow_mut(), &mut vm.borrow_mut(), host, why, now);
    match step {
        // If the host cannot resume, the stream stays paused until Envoy's time-out: never forwarded undecided.
        Step::Forward => host.resume_request().unwrap_or(()),
        Step::Held => vm.borrow_mut().waiting.push(held),
        Step::Answered | Step::NeedsBody => {}
    }
}

#[cfg(target_arch = "wasm32")]
pub(crate) use context::Root;

#[cfg(target_arch = "wasm32")]
mod context {
    use super::{CallResult, configure, dispatch, tick, wake_all, woken};
    use crate::exchange::Stream;
    use crate::host::{Envoy, Host, Level};
    use crate::settings::Settings;
    use crate::sync;
    use crate::vm::{Vm, this_vm};
    use proxy_wasm::traits::{Context, HttpContext, RootContext};
    use proxy_wasm::types::ContextType;
    use std::cell::RefCell;
    use std::rc::Rc;
    use std::time::Duration;

    /// Bundles, leases and held requests are looked after so often.
    const TICK: Duration = Duration::from_millis(20);
    /// While a bundle is being loaded, so that a large one is in force soon; a third of the time is its.
    const TICK_LOADING: Duration = Duration::from_millis(10);
    /// The other roots of a machine only look whether it has lost its owner.
    const IDLE_TICK: Duration = Duration::from_secs(1);

    /// One listener's root context.
    pub(crate) struct Root {
        id: u32,
        settings: Option<Rc<Settings>>,
        vm: Rc<RefCell<Vm>>,
        period: Duration,
    }

    impl Root {
        pub(crate) fn new(id: u32) -> Self {
            Self { id, settings: None, vm: this_vm(), period: TICK }
        }

        /// Ticks more often while there is something to load.
        fn hurry(&mut self) {
            let period = if self.vm.borrow().loading.is_some() { TICK_LOADING } else { TICK };
            if period != self.period {
                self.period = period;
                self.set_tick_period(period);
            }
        }

        /// Whether this root ticks for the machine: the first one does, and when it goes the next that looks.
        fn owns_machine(&self) -> bool {
            let mut vm = self.vm.borrow_mut();
            if vm.owner.is_none() {
                vm.owner = Some(self.id);
                self.set_tick_period(TICK);
            }
            vm.owner == Some(self.id)
        }
    }

    impl Context for Root {
        fn on_http_call_response(&mut self, token: u32, header_count: usize, body_size: usize, _: usize) {
            // Whoever called out has settings.
            let Some(settings) = self.settings.as_deref() else { return };
            let now = Envoy.now();
            let result = CallResult { header_count, body_size };
            let why = dispatch(&mut self.vm.borrow_mut(), &Envoy, settings, token, result, now);
            wake_all(&self.vm, &Envoy, (self.id, settings), why, now);
        }

        fn on_done(&mut self) -> bool {
            let mut vm = self.vm.borrow_mut();
            if vm.owner == Some(self.id) {
                // Last words: they leave if a connection is open and idle, and they are idempotent.
                if let Some(settings) = self.settings.as_ref()
                    && !vm.records.is_empty()
                {
                    sync::last_words(&mut vm, &Envoy, settings, Envoy.now());
                }
                vm.disown();
            }
            true
        }
    }

    impl RootContext for Root {
        fn on_configure(&mut self, _: usize) -> bool {
            let configuration = self.get_plugin_configuration().unwrap_or_default();
            let mut vm = self.vm.borrow_mut();
            let configured = configure(&mut vm, &Envoy, &configuration);
            vm.implementation(&Envoy);
            drop(vm);
            match configured {
                Ok(settings) => {
                    self.settings = Some(Rc::new(settings));
                    self.set_tick_period(IDLE_TICK);
                    self.owns_machine();
                    true
                }
                Err(error) => {
                    Envoy.log(Level::Error, &decision_core::causes::chain(&error));
                    false
                }
            }
        }

        fn on_tick(&mut self) {
            if !self.owns_machine() {
                return;
            }
            let Some(settings) = self.settings.clone() else { return };
            let now = Envoy.now();
            let why = tick(&mut self.vm.borrow_mut(), &Envoy, &settings, now);
            wake_all(&self.vm, &Envoy, (self.id, &settings), why, now);
            self.hurry();
        }

        fn on_queue_ready(&mut self, _: u32) {
            let Some(settings) = self.settings.as_deref().filter(|_| self.vm.borrow().owner == Some(self.id)) else { return };
            woken(&mut self.vm.borrow_mut(), &Envoy, settings, Envoy.now());
        }

        fn create_http_context(&self, context: u32) -> Option<Box<dyn HttpContext>> {
            let settings = self.settings.clone()?;
            Some(Box::new(Stream::new(context, Rc::clone(&self.vm), settings)))
        }

        fn get_type(&self) -> Option<ContextType> {
            Some(ContextType::HttpContext)
        }
    }
}
