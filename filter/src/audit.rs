//! What a request's record says, and whether its backend was reached.

use crate::counters::name;
use crate::exchange::{Exchange, Trace, Verdict, Verdicts};
use crate::host::Host;
use crate::ids::RequestId;
use crate::meter::{self, Cost};
use crate::named;
use crate::records::RecordQueue;
use crate::vm::{Active, Vm};
use decision_core::audit::{AuditLevel, EmailRecording, Identities};
use decision_core::budget::{OVERRIDE_PREFIX, Variable};
use decision_core::decide::Observer;
use decision_core::decision::{Check as CoreCheck, DenyReason, Finding, RuleVerdict, Target};
use decision_core::facts;
use decision_core::failure::Fault;
use decision_core::holder::{AccountRef, Charged};
use decision_core::lease::Settlement;
use decision_core::principal::{Principal, Trial};
use decision_core::time::Timestamp;
use std::borrow::Cow;
use std::rc::Rc;
use wire::audit::{Account, AuditRecord, Charge, CheckOutcome, Decision, Mention, Phase, Stage, Upgrade, User};
pub(crate) use wire::audit::{Check, Outcome};
use wire::pseudonym;

const CHECKS_MAX: usize = 12;
/// Where the access log finds why a request has no record.
const UNRECORDED: &str = "plant_gateway_unrecorded";
/// Where it finds the id of one that was not forwarded.
const RECORD_ID: &str = "plant_gateway_record_id";

/// The checks that were made, in order, without allocating.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Checks {
    made: [Option<CheckOutcome>; CHECKS_MAX],
    revocation: Lookup,
    client: Option<Outcome>,
}

/// Whether the token was looked up among the revoked ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Lookup {
    #[default]
    Made,
    NotPossible,
}

impl Checks {
    pub(crate) fn add(&mut self, check: Check, outcome: Outcome) {
        if let Some(slot) = self.made.iter_mut().find(|slot| slot.is_none()) {
            *slot = Some(CheckOutcome { check, outcome });
        }
    }

    /// The token is good as far as that is known: its authentication is noted as failed open.
    pub(crate) const fn authenticate_without_revocations(&mut self) {
        self.revocation = Lookup::NotPossible;
    }

    pub(crate) fn authenticated_without_revocations(&self) -> bool {
        self.revocation == Lookup::NotPossible
    }

    /// The token was accepted, and none was refused since.
    pub(crate) fn authenticated(&self) -> bool {
        let mut outcomes = self.made().filter(|made| made.check == Check::Authentication).map(|made| made.outcome);
        outcomes.next() == Some(Outcome::Permit) && outcomes.next().is_none()
    }

    /// Those that were made, in order.
    pub(crate) fn made(&self) -> impl Iterator<Item = &CheckOutcome> {
        self.made.iter().flatten()
    }

    /// The requests of the client's address were counted.
    pub(crate) const fn count_client(&mut self, outcome: Outcome) {
        self.client = Some(outcome);
    }

    /// There is a route, and what comes next is about who asks.
    pub(crate) fn route_matched(&mut self) {
        self.add(Check::Route, Outcome::Permit);
        if let Some(outcome) = self.client {
            self.add(Check::ClientLimit, outcome);
        }
    }

    /// The checks that a feature flag switched off.
    fn skipped(&self) -> impl Iterator<Item = Check> + '_ {
        self.made.iter().flatten().filter(|made| made.outcome == Outcome::SkippedByFlag).map(|made| made.check)
    }

    /// Notes the check that refused, if the decision has not noted it.
    pub(crate) fn refused(&mut self, reason: DenyReason) {
        let check = Check::from(reason.check());
        let last = self.made.iter().flatten().last();
        if last != Some(&CheckOutcome { check, outcome: Outcome::Deny }) {
            self.add(check, Outcome::Deny);
        }
    }
}

impl Observer for Checks {
    fn checked(&mut self, check: CoreCheck, finding: Finding) {
        let outcome = match (finding, check, self.revocation) {
            (Finding::Passed, CoreCheck::Route, _) => return self.route_matched(),
            (Finding::Refused(_), _, _) => Outcome::Deny,
            (Finding::SkippedByFlag, _, _) => Outcome::SkippedByFlag,
            (Finding::Passed, CoreCheck::Authentication, Lookup::NotPossible) => Outcome::FailedOpen,
            (Finding::Passed, _, _) => Outcome::Permit,
        };
        self.add(check.into(), outcome);
    }
}

/// Whether the backend may have seen the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reached {
    Yes,
    No,
}

/// Envoy's routes whose name ends so repeat only what was surely not sent, so the last attempt tells about all of them.
const REPEATS_UNSENT: &[u8] = b"_unsent";

/// Backend never reached ⇔ no upstream connection was made by the last attempt, which is the one that the properties show, and
/// no earlier one can have reached it. Good answers need no property, which keeps them off the hot path.
pub(crate) fn backend_reached(trace: &Trace, host: &impl Host) -> Reached {
    if trace.status.is_some_and(|status| status < 400) {
        return Reached::Yes;
    }
    if host.property(&["upstream", "local_address"]).is_some_and(|address| !address.is_empty()) {
        return Reached::Yes;
    }
    let attempts = host.property(&["upstream", "request_attempt_count"]);
    let attempts = attempts.and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes);
    let route = || host.property(&["xds", "route_name"]);
    if attempts > 1 && !route().is_some_and(|name| name.ends_with(REPEATS_UNSENT)) { Reached::Yes } else { Reached::No }
}

/// What was charged in the end, and how that became known.
#[derive(Debug, Default)]
pub(crate) struct Settled {
    pub(crate) charged: Charged,
    pub(crate) cost: Option<Cost>,
}

impl Settled {
    pub(crate) fn nothing() -> Self {
        Self::default()
    }
}

/// What a record tells of a request beyond what it was and how it was judged.
struct Telling<'t> {
    phase: Phase,
    verdict: Verdict,
    settled: &'t Settled,
    status: Option<u16>,
    details: Option<String>,
    sampled_of: u32,
}

/// Queues the record of an exchange that has ended, if it has one.
pub(crate) fn record(exchange: &Exchange, vm: &mut Vm, host: &impl Host, settled: &Settled, now: Timestamp) {
    let trace = &exchange.trace;
    for skipped in trace.checks.skipped() {
        vm.counters.skipped(host, skipped);
    }
    if trace.verdict.reason == Fault::AuditQueueFull.code() {
        vm.records.leave_out();
        return vm.counters.add(host, name::RECORDS_DROPPED, 1);
    }
    let status = trace.status.or_else(|| sent_status(host));
    let Some(sampled_of) = sampled_of(trace, status) else {
        host.leave_word(UNRECORDED, "sampled_out");
        return vm.counters.add(host, name::RECORDS_SAMPLED_OUT, 1);
    };
    let details = details(trace, status, host);
    let telling = Telling { phase: Phase::Outcome, verdict: trace.verdict, settled, status, details, sampled_of };
    let arrival = Arrival::of(trace).unwrap_or_else(|| Arrival::unseen(vm, now));
    if trace.forwarded_at.is_none() {
        // No header has it, and one that the client sent would say something else.
        host.leave_word(RECORD_ID, arrival.request_id.text(&mut [0; 36]));
    }
    let dropped = queue(exchange, vm, telling, arrival, now);
    count_dropped(vm, host, dropped);
}

/// When a request came, by what id it is known, and whether the filter saw it come.
struct Arrival {
    at: Timestamp,
    request_id: RequestId,
    stage: Stage,
}

impl Arrival {
    fn of(trace: &Trace) -> Option<Self> {
        (trace.arrived != Timestamp::EPOCH).then_some(Self { at: trace.arrived, request_id: trace.request_id, stage: Stage::Filter })
    }

    /// Envoy answered before the filter was asked.
    fn unseen(vm: &mut Vm, now: Timestamp) -> Self {
        Self { at: now, request_id: vm.ids.request_id(now), stage: Stage::Envoy }
    }
}

/// Queues the intent of a request that is about to go on. What it is charged stands in the outcome alone, so that the charges of
/// all records add up to what was spent.
pub(crate) fn intend(exchange: &Exchange, vm: &mut Vm, host: &impl Host, verdict: Verdict, now: Timestamp) {
    let settled = Settled::nothing();
    let telling = Telling { phase: Phase::Intent, verdict, settled: &settled, status: None, details: None, sampled_of: 1 };
    let arrival = Arrival::of(&exchange.trace).unwrap_or_else(|| Arrival::unseen(vm, now));
    let dropped = queue(exchange, vm, telling, arrival, now);
    count_dropped(vm, host, dropped);
}

fn count_dropped(vm: &mut Vm, host: &impl Host, dropped: u32) {
    if dropped > 0 {
        vm.counters.add(host, name::RECORDS_DROPPED, i64::from(dropped));
    }
}

/// For how many requests the record of this one stands. `None`: it has none, another one stands for it.
fn sampled_of(trace: &Trace, status: Option<u16>) -> Option<u32> {
    let route = trace.active.as_ref().zip(trace.route).and_then(|(active, route)| active.policy.route_by_id(route));
    let AuditLevel::Sampled(of) = route.map(|route| route.audit).unwrap_or_default() else { return Some(1) };
    let went_well = trace.verdict.decision == Verdicts::Permit && status.is_some_and(|status| status < 500);
    // What the revision in shadow would have done is a sample already.
    if !went_well || trace.shadow.is_some() {
        return Some(1);
    }
    trace.request_id.is_chosen(of).then_some(of)
}

fn queue(exchange: &Exchange, vm: &mut Vm, telling: Telling<'_>, arrival: Arrival, now: Timestamp) -> u32 {
    let (trace, headers) = (&exchange.trace, &exchange.headers);
    let Arrival { at: arrived, request_id, stage } = arrival;
    let seen = stage == Stage::Filter;
    let mut id_text = [0; 36];
    let id_text = request_id.text(&mut id_text);
    let active = trace.active.as_deref();
    let route = active.zip(trace.route).and_then(|(active, route)| active.policy.route_by_id(route));
    let version = active.map(|active| active.version).unwrap_or_default();
    let (leases, records) = (&vm.leases, &mut vm.records);
    let charges = leases.charged(&telling.settled.charged).map(|charge| mention_charge(records, active, charge)).collect();
    let user = trace.principal.as_ref().map(|principal| mention_user(records, active, principal));
    let rules = active.map(|active| active.policy.audit());
    let micros = |later: Timestamp, earlier: Timestamp| u64::try_from(later.since(earlier).as_micros()).unwrap_or(u64::MAX);
    let record = AuditRecord {
        phase: telling.phase,
        at_us: arrived.as_micros(),
        gateway: exchange.settings.gateway.into(),
        stage,
        method: seen.then(|| String::from_utf8_lossy(headers.method())),
        path: seen.then(|| headers.path_lossy()),
        upgrade: match headers.upgrade() {
            facts::Upgrade::None => Upgrade::None,
            facts::Upgrade::Websocket => Upgrade::Websocket,
            facts::Upgrade::Other => Upgrade::Other,
        },
        query: rules.map(|rules| named::parameters(&rules.query_parameters, headers.target())).unwrap_or_default(),
        request_headers: rules.map(|rules| named::request_headers(&rules.request_headers, headers)).unwrap_or_default(),
        response_headers: named::kept(&trace.answer_headers),
        sampled_of: telling.sampled_of,
        route: route.map(|route| Cow::Borrowed(&*route.name)),
        action: route.filter(|route| !route.action.is_empty()).map(|route| Cow::Borrowed(&*route.action)),
        user,
        correlation_id: Cow::Borrowed(headers.correlation_id().unwrap_or(id_text)),
        causation_id: headers.causation_id().map(Cow::Borrowed),
        request_id: request_id.bytes(),
        decision: match telling.verdict.decision {
            Verdicts::None => Decision::None,
            Verdicts::Permit => Decision::Permit,
            Verdicts::Deny => Decision::Deny,
            Verdicts::Indeterminate => Decision::Indeterminate,
        },
        reason: Cow::Borrowed(telling.verdict.reason),
        rule: refusing_rule(trace).or_else(|| refusing_budget(trace, active)),
        shadow: trace.shadow.map(|sample| sample.note(active)),
        checks: trace.checks.made.iter().flatten().copied().collect(),
        activation: version.activation,
        revision: version.revision,
        key_set: version.key_set,
        revocation: trace.revocation,
        charges,
        cost: telling.settled.cost.as_ref().map(|cost| cost.basis),
        usage: telling.settled.cost.as_ref().and_then(meter::note),
        approval_id: trace.approval_id.as_deref().map(Cow::Borrowed),
        sandbox: trace.target == Some(Target::Sandbox),
        status: telling.status,
        details: telling.details.map(Cow::Owned),
        total_us: micros(now, arrived),
        upstream_us: trace.forwarded_at.zip(trace.responded_at).map(|(forwarded, responded)| micros(responded, forwarded)),
        ours_us: trace.forwarded_at.or(trace.answered_at).map(|done| micros(done, arrived)),
    };
    match telling.phase {
        Phase::Outcome => vm.records.push(&record),
        Phase::Intent => vm.records.push_intent(&record),
    }
}

/// The custom rule that refused. One that allowed is not told: every request would name it.
fn refusing_rule(trace: &Trace) -> Option<Cow<'_, str>> {
    let ruling = trace.ruling.as_ref().filter(|ruling| ruling.verdict == RuleVerdict::Deny)?;
    Some(Cow::Borrowed(&*ruling.rule))
}

/// A budget is a rule too: which one refused is told in its place, and the reason tells which it is.
fn refusing_budget<'a>(trace: &Trace, active: Option<&'a Active>) -> Option<Cow<'a, str>> {
    Some(Cow::Borrowed(&*active?.policy.budget(trace.refusing_budget?)?.name))
}

fn mention_charge<'h>(
    records: &mut RecordQueue,
    active: Option<&Active>,
    (account, budget, scope, settlement): (AccountRef, &'h str, &'h str, Settlement),
) -> Charge<'h> {
    let account = match records.mention_account(account) {
        Some(number) => Mention::Known(number),
        None => Mention::New(Account { budget: Cow::Borrowed(budget), scope: scope_named(active, budget, scope) }),
    };
    Charge { account, amount: settlement.total().get(), overrun: settlement.overrun.get() }
}

/// An account's scope, hashed where it would name a user that is hashed.
fn scope_named<'s>(active: Option<&Active>, budget: &str, scope: &'s str) -> Cow<'s, str> {
    let first = scope.strip_prefix(OVERRIDE_PREFIX).and_then(|rest| Some(rest.split_once(',')?.1)).unwrap_or(scope);
    let template = active.and_then(|active| active.policy.budget_by_name(budget)).map(|budget| &budget.scope);
    // One that this policy cannot read might name anybody.
    let values = template.and_then(|template| template.read_scope(first));
    let names_user = values.is_none_or(|values| values.iter().any(|(variable, _)| *variable == Variable::Subject));
    if names_user { name_of(active, scope) } else { Cow::Borrowed(scope) }
}

/// What stands in a record for a text that tells who a user is. Without the key: that there is something, and no more.
fn name_of<'t>(active: Option<&Active>, text: &'t str) -> Cow<'t, str> {
    let Some(active) = active else { return Cow::Borrowed(text) };
    match (active.policy.audit().identities, &active.pseudonym_key) {
        (Identities::Plain, _) => Cow::Borrowed(text),
        (Identities::Hashed, Some(key)) => Cow::Owned(key.of(text)),
        (Identities::Hashed, None) => Cow::Borrowed(pseudonym::PREFIX),
    }
}

/// A user is spelled out once in a batch, and hashed as often.
fn mention_user<'p>(records: &mut RecordQueue, active: Option<&'p Active>, principal: &'p Rc<Principal>) -> Mention<User<'p>> {
    if let Some(number) = records.mention_user(principal) {
        return Mention::Known(number);
    }
    let identity = &principal.identity;
    let email = active.map(|active| active.policy.audit().email).unwrap_or_default();
    Mention::New(User {
        issuer: Cow::Borrowed(&identity.issuer),
        subject: name_of(active, &identity.subject),
        user_id: Cow::Borrowed(&identity.user_id),
        customer_id: identity.customer_id.as_deref().map(Cow::Borrowed),
        agent_id: identity.agent_id.as_deref().map(Cow::Borrowed),
        email: match email {
            EmailRecording::Omitted => None,
            EmailRecording::Recorded => Some(name_of(active, &identity.email)),
        },
        governor_agent_id: identity.governor_agent_id.as_deref().map(Cow::Borrowed),
        roles: Cow::Borrowed(&principal.roles_joined),
        tier: identity.tier.as_deref().map(Cow::Borrowed),
        trial_until_us: match identity.trial {
            Trial::No => None,
            Trial::Until(end) => Some(end.as_micros()),
        },
    })
}

/// The status that Envoy sent, where we did not see it.
fn sent_status(host: &impl Host) -> Option<u16> {
    let code = host.property(&["response", "code"])?;
    u16::try_from(i64::from_le_bytes(code.try_into().ok()?)).ok().filter(|code| *code != 0)
}

/// Envoy's response code details, where something else than a good answer or our own refusal happened.
fn details(trace: &Trace, status: Option<u16>, host: &impl Host) -> Option<String> {
    if trace.forwarded_at.is_some() && status.is_some_and(|status| status < 500) || trace.verdict.decision == Verdicts::Deny {
        return None;
    }
    let details = host.property(&["response", "code_details"])?;
    let text = String::from_utf8_lossy(&details);
    Some(text.chars().take(256).collect())
}
