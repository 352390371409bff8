//! The measurement: CPU time of the Envoy process around a load, listener after listener, round after round.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use cli::stack::{Stack, cpu_time};
use serde::Serialize;
use tokio::runtime::Runtime;

use crate::admin::{self, FilterCounters};
use crate::error::BenchError;
use crate::identity::{self, Jwks, USER_ID};
use crate::load::{self, Answered, Traffic};
use crate::machine::Machine;
use crate::shadow::Shadow;
use crate::sources::RULED_CUSTOMER;
use crate::variant::{BenchPorts, Kind, Variant};

const WARM_UP: Duration = Duration::from_millis(500);
const WARM_UPS_MAX: u32 = 40;
/// Before every measurement: connections, caches and leases are as under lasting load.
const RUN_UP: Duration = Duration::from_millis(300);
/// A lease shrinks when it is not used: after so long the run-up is repeated.
const LEASE_PATIENCE: Duration = Duration::from_millis(1_000);
const RUN_UPS_MAX: u32 = 10;
/// For what is asked of Envoy and the control plane around a measurement.
const MARGIN: Duration = Duration::from_millis(500);
const IDLE: Duration = Duration::from_secs(2);
/// Records are given up when none was stored for so long.
const DRAIN_PATIENCE: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How much is measured.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Plan {
    pub(crate) rounds: u16,
    #[serde(rename = "seconds", serialize_with = "seconds")]
    pub(crate) duration: Duration,
    pub(crate) connections: u16,
}

fn seconds<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}

/// One measurement of one listener.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Sample {
    pub(crate) requests: u64,
    pub(crate) requests_per_second: f64,
    /// CPU of the Envoy process per request, in microseconds. For our listeners until the last audit record is stored.
    pub(crate) cpu_us: f64,
}

/// All that was found out.
#[derive(Clone, Debug)]
pub(crate) struct Measured {
    pub(crate) machine: Machine,
    pub(crate) envoy: String,
    pub(crate) plan: Plan,
    pub(crate) token_bytes: usize,
    pub(crate) header_count: usize,
    pub(crate) samples: Vec<(Variant, Vec<Sample>)>,
    /// CPU of an idle Envoy with our filter: ticks, polls and what Envoy does by itself.
    pub(crate) idle_us_per_second: f64,
    /// Of our filter, while it was measured.
    pub(crate) counters: FilterCounters,
    /// Requests to our listeners while they were measured.
    pub(crate) requests: u64,
    /// The same with all others that we sent.
    pub(crate) records_due: u64,
    pub(crate) records_stored: u64,
    /// First-seen tokens that the filter knew all the same.
    pub(crate) not_verified: u64,
}

impl Measured {
    /// Whether the numbers mean what the table says.
    pub(crate) fn verdict(&self) -> Result<(), BenchError> {
        let mut reasons = Vec::new();
        if self.counters.records_dropped > 0 {
            reasons.push(format!("{} audit records were dropped", self.counters.records_dropped));
        }
        if self.records_stored != self.records_due {
            reasons.push(format!("{} requests were sent and {} audit records are stored", self.records_due, self.records_stored));
        }
        if self.counters.requests_held > 0 {
            reasons.push(format!("{} requests waited for a lease", self.counters.requests_held));
        }
        // A handful is chance: connections overtake each other at the end of a round.
        if self.not_verified.saturating_mul(1_000) > self.counters.tokens_verified {
            reasons.push(format!("{} tokens that should have been new were in the cache", self.not_verified));
        }
        if reasons.is_empty() { Ok(()) } else { Err(BenchError::Invalid { reasons }) }
    }
}

/// A stack that is ready to be measured.
pub(crate) struct Bench<'s> {
    stack: &'s Stack,
    ports: BenchPorts,
    plan: Plan,
    variants: Vec<Variant>,
    runtime: Runtime,
    charged: Arc<Traffic>,
    authenticated: Arc<Traffic>,
    first_seen: Arc<Traffic>,
    first_seen_elsewhere: Arc<Traffic>,
    decided: Arc<Traffic>,
    decided_anew: Arc<Traffic>,
    ruled: Arc<Traffic>,
    ruled_anew: Arc<Traffic>,
    shadow: Shadow,
    header_count: usize,
    token_bytes: usize,
    envoy: u32,
    /// Records stored before our first request.
    base: u64,
    /// Requests to our listeners so far.
    sent: u64,
    /// First-seen tokens that the filter knew all the same.
    not_verified: u64,
    /// Of them, those that were measured, and what the filter counted meanwhile.
    measured: u64,
    counted: FilterCounters,
}

impl<'s> Bench<'s> {
    pub(crate) fn prepare(
        stack: &'s Stack,
        ports: BenchPorts,
        jwks: &Jwks,
        plan: Plan,
        variants: Vec<Variant>,
    ) -> Result<Self, BenchError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(BenchError::Runtime)?;
        let token = identity::token(stack.state())?;
        jwks.publish(stack.state())?;
        // The records of the readiness probes arrive meanwhile.
        std::thread::sleep(IDLE);
        let base = runtime.block_on(admin::records_stored(ports.control_plane_admin()))?;
        let envoy = stack.pids().envoy.ok_or(BenchError::StackLacks { what: "Envoy of its own" })?;
        eprintln!("signing tokens");
        let uncharged = identity::uncharged_tokens(stack.state())?;
        let shadow = runtime.block_on(Shadow::publish(stack.state()))?;
        let decided_token = identity::uncharged_token(stack.state(), identity::CUSTOMER)?;
        let ruled_token = identity::uncharged_token(stack.state(), RULED_CUSTOMER)?;
        let (header_count, token_bytes) = (load::headers(&token).len(), token.len());
        Ok(Self {
            stack,
            ports,
            plan,
            variants,
            runtime,
            charged: Arc::new(Traffic::new(load::PATH, &[token])),
            authenticated: Arc::new(Traffic::new(load::AUTHENTICATED_PATH, uncharged.get(..1).unwrap_or_default())),
            first_seen: Arc::new(Traffic::new(load::AUTHENTICATED_PATH, &uncharged)),
            first_seen_elsewhere: Arc::new(Traffic::new(load::AUTHENTICATED_PATH, &uncharged)),
            decided: Arc::new(Traffic::new(load::DECIDED_PATH, std::slice::from_ref(&decided_token))),
            decided_anew: Arc::new(Traffic::different_paths(&[decided_token]).map_err(BenchError::Traffic)?),
            ruled: Arc::new(Traffic::new(load::DECIDED_PATH, std::slice::from_ref(&ruled_token))),
            ruled_anew: Arc::new(Traffic::different_paths(&[ruled_token]).map_err(BenchError::Traffic)?),
            shadow,
            header_count,
            token_bytes,
            envoy,
            base,
            sent: 0,
            not_verified: 0,
            measured: 0,
            counted: FilterCounters::default(),
        })
    }

    pub(crate) fn run(mut self) -> Result<Measured, BenchError> {
        self.warm_up()?;
        let idle_us_per_second = self.idle()?;
        let mut samples: Vec<(Variant, Vec<Sample>)> = self.variants.iter().map(|variant| (*variant, Vec::new())).collect();
        for round in 1..=self.plan.rounds {
            eprintln!("round {round} of {}", self.plan.rounds);
            for (variant, samples) in &mut samples {
                samples.push(self.sample(*variant)?);
            }
        }
        let admin_token = &self.stack.state().admin_token;
        let records_stored = self.runtime.block_on(admin::records_of(self.ports.control_plane_admin(), admin_token, USER_ID))?;
        Ok(Measured {
            machine: Machine::this(),
            envoy: self.runtime.block_on(admin::envoy_version(self.ports.envoy_admin()))?,
            plan: self.plan,
            token_bytes: self.token_bytes,
            header_count: self.header_count,
            samples,
            idle_us_per_second,
            counters: self.counted,
            requests: self.measured,
            records_due: self.sent,
            records_stored,
            not_verified: self.not_verified,
        })
    }

    /// Every listener once; ours until the leases cover what is sent.
    fn warm_up(&mut self) -> Result<(), BenchError> {
        eprintln!("warming up");
        for variant in self.variants.clone() {
            self.load(variant, WARM_UP)?;
        }
        self.drain()?;
        for _attempt in 0..WARM_UPS_MAX {
            let before = self.counters()?;
            self.load(Variant::Ours, WARM_UP)?;
            self.drain()?;
            if self.counters()?.since(before).requests_held == 0 {
                return Ok(());
            }
        }
        Err(BenchError::NeverWarm { seconds: WARM_UP.saturating_mul(WARM_UPS_MAX).as_secs() })
    }

    /// CPU time of Envoy so far.
    fn cpu(&self) -> Result<Duration, BenchError> {
        cpu_time(self.envoy).map_err(|source| BenchError::File { path: format!("/proc/{}/task", self.envoy).into(), source })
    }

    fn idle(&self) -> Result<f64, BenchError> {
        let before = self.cpu()?;
        std::thread::sleep(IDLE);
        let used = self.cpu()?.saturating_sub(before);
        Ok(used.as_secs_f64() * 1e6 / IDLE.as_secs_f64())
    }

    fn sample(&mut self, variant: Variant) -> Result<Sample, BenchError> {
        if variant != Variant::OursShadow {
            return self.sample_as_is(variant);
        }
        self.runtime.block_on(self.shadow.begin(self.stack.state()))?;
        let sample = self.sample_as_is(variant);
        self.runtime.block_on(self.shadow.end(self.stack.state()))?;
        sample
    }

    fn sample_as_is(&mut self, variant: Variant) -> Result<Sample, BenchError> {
        self.run_up(variant)?;
        let counters = self.counters()?;
        let before = self.cpu()?;
        let answered = self.load(variant, self.plan.duration)?;
        if variant.is_ours() {
            // What is delivered later belongs to these requests too.
            self.drain()?;
        }
        let used = self.cpu()?.saturating_sub(before);
        if variant.is_ours() {
            let counted = self.counters()?.since(counters);
            self.measured += answered.requests;
            self.counted = self.counted.plus(counted);
            if variant == Variant::OursFirstSeen {
                self.not_verified += answered.requests.saturating_sub(counted.tokens_verified);
            }
        }
        let requests = u32::try_from(answered.requests).unwrap_or(u32::MAX).max(1);
        Ok(Sample {
            requests: answered.requests,
            requests_per_second: f64::from(requests) / answered.elapsed.as_secs_f64(),
            cpu_us: used.as_secs_f64() * 1e6 / f64::from(requests),
        })
    }

    fn run_up(&mut self, variant: Variant) -> Result<(), BenchError> {
        for _attempt in 0..RUN_UPS_MAX {
            wait_for_room_in_minute(self.plan.duration + RUN_UP + LEASE_PATIENCE + MARGIN);
            let counters = self.counters()?;
            self.load(variant, RUN_UP)?;
            let start = Instant::now();
            self.drain()?;
            // Leases that were given back meanwhile have grown again when nobody waited for them.
            if start.elapsed() < LEASE_PATIENCE && self.counters()?.since(counters).requests_held == 0 {
                return Ok(());
            }
        }
        Err(BenchError::Busy)
    }

    fn load(&mut self, variant: Variant, duration: Duration) -> Result<Answered, BenchError> {
        let traffic = match variant.traffic() {
            Kind::Charged => &self.charged,
            Kind::Authenticated => &self.authenticated,
            Kind::FirstSeen => &self.first_seen,
            Kind::FirstSeenElsewhere => &self.first_seen_elsewhere,
            Kind::Decided => &self.decided,
            Kind::DecidedAnew => &self.decided_anew,
            Kind::Ruled => &self.ruled,
            Kind::RuledAnew => &self.ruled_anew,
        };
        let sending = load::send(self.ports.of(variant), traffic, self.plan.connections, duration);
        let answered = self.runtime.block_on(sending).map_err(|source| BenchError::Load { variant, source })?;
        if variant.is_ours() {
            self.sent += answered.requests;
        }
        if answered.not_ok > 0 || answered.requests == 0 {
            return Err(BenchError::NotOk { variant, count: answered.not_ok, requests: answered.requests });
        }
        Ok(answered)
    }

    /// Waits until every audit record of our requests is stored.
    fn drain(&self) -> Result<(), BenchError> {
        let mut last = 0;
        let mut patient_until = Instant::now() + DRAIN_PATIENCE;
        loop {
            let stored = self.runtime.block_on(admin::records_stored(self.ports.control_plane_admin()))?.saturating_sub(self.base);
            if stored >= self.sent {
                return Ok(());
            }
            if stored > last {
                last = stored;
                patient_until = Instant::now() + DRAIN_PATIENCE;
            } else if Instant::now() > patient_until {
                return Err(BenchError::RecordsMissing { stored, sent: self.sent });
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    fn counters(&self) -> Result<FilterCounters, BenchError> {
        self.runtime.block_on(FilterCounters::of(self.ports.envoy_admin()))
    }
}

/// Rates are counted per minute, and the first requests of a minute wait for its lease: no measurement spans two.
fn wait_for_room_in_minute(needed: Duration) {
    const MINUTE: Duration = Duration::from_secs(60);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let gone = Duration::from_secs(now.as_secs() % 60) + Duration::from_nanos(now.subsec_nanos().into());
    let left = MINUTE.saturating_sub(gone);
    if needed < MINUTE && left <= needed {
        std::thread::sleep(left);
    }
}
