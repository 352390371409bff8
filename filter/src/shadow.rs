//! The revision in shadow: every request that the active revision has decided is decided by this one too, and what differs is
//! counted and sampled. It never changes what happens to a request, calls nobody, and allocates nothing where both agree.

use crate::exchange::{Once, Trace};
use crate::facts::RequestHeaders;
use crate::rules::{self, CustomRules};
use crate::vm::Active;
use decision_core::decide;
use decision_core::decision::{ApprovalNeed, Check, Decision, Denial, DenyReason, Permit};
use decision_core::facts::{Authentication, RequestFacts};
use decision_core::gateway::{Gateway, Method};
use decision_core::obligations::{Aspect, Obligations};
use decision_core::path::CanonicalPath;
use decision_core::policy::{CompiledPolicy, Requirement, Route, RouteId};
use decision_core::principal::CredentialFault;
use decision_core::time::Timestamp;
use hashbrown::{DefaultHashBuilder, HashTable};
use std::hash::BuildHasher;
use std::time::Duration;
use wire::audit;
use wire::bundle::{BundleVersion, LoadedShadow};
use wire::sync::{ShadowDifference, ShadowReport};

/// Distinct differences that are counted one by one. What comes beyond them is counted per aspect only.
const DIFFERENCES_MAX: usize = 1_024;
/// Records of one second that say how the revision in shadow would have decided.
const SAMPLES_PER_SECOND: u32 = 10;

/// The revision that is evaluated beside the active one.
#[derive(Debug)]
pub(crate) struct Shadow {
    pub(crate) revision: u64,
    pub(crate) policy: CompiledPolicy,
    rules: Option<CustomRules>,
    run: Run,
}

/// Which run of a shadow, of all that there ever were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Run {
    database_id: [u8; 16],
    number: u64,
}

impl Shadow {
    pub(crate) fn new(loaded: LoadedShadow, rules: Option<CustomRules>, version: &BundleVersion) -> Self {
        let run = Run { database_id: version.database_id, number: version.shadow };
        Self { revision: loaded.revision, policy: loaded.policy, rules, run }
    }
}

/// How a request was decided, as far as the two revisions are compared.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Judged<'d> {
    Permit(&'d Permit),
    Deny(&'d Denial),
}

impl Judged<'_> {
    const fn code(self) -> &'static str {
        match self {
            Self::Permit(_) => "ok",
            Self::Deny(denial) => denial.reason.code(),
        }
    }

    const fn route(self) -> Option<RouteId> {
        match self {
            Self::Permit(permit) => Some(permit.route()),
            Self::Deny(denial) => denial.route,
        }
    }
}

/// What the record of a request says of the revision in shadow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sample {
    pub(crate) revision: u64,
    pub(crate) decision: audit::Decision,
    pub(crate) reason: &'static str,
    route: Option<RouteId>,
}

impl Sample {
    /// For the record.
    pub(crate) fn note<'a>(&self, active: Option<&'a Active>) -> audit::ShadowNote<'a> {
        let shadow = active.and_then(|active| active.shadow.as_ref()).filter(|shadow| shadow.revision == self.revision);
        let route = shadow.zip(self.route).and_then(|(shadow, route)| shadow.policy.route_by_id(route));
        audit::ShadowNote {
            revision: self.revision,
            decision: self.decision,
            reason: self.reason.into(),
            route: route.map(|route| (&*route.name).into()),
        }
    }
}

/// The counts of one run.
#[derive(Debug, Default)]
pub(crate) struct Comparison {
    run: Run,
    compared: u64,
    unjudged: u64,
    differences: HashTable<Counted>,
    hasher: DefaultHashBuilder,
    /// Counts that were sent, and those of them that the control plane has: the rest is reported again.
    sent: (u64, u64),
    acknowledged: (u64, u64),
    samples: u32,
    samples_until: Timestamp,
}

#[derive(Debug)]
struct Counted {
    aspect: Aspect,
    route: Box<str>,
    active: &'static str,
    shadow: &'static str,
    count: u64,
}

/// Where the two part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Difference {
    aspect: Aspect,
    active: &'static str,
    shadow: &'static str,
}

impl Comparison {
    /// Another run begins anew.
    pub(crate) fn follow(&mut self, shadow: &Shadow) {
        if self.run != shadow.run {
            *self = Self { run: shadow.run, ..Self::default() };
        }
    }

    /// Another holder begins anew: what this one has told stays told.
    pub(crate) fn begin_anew(&mut self) {
        *self = Self { run: self.run, ..Self::default() };
    }

    /// What to tell, if there is anything that was not told.
    pub(crate) fn report(&mut self) -> Option<ShadowReport> {
        self.sent = (self.compared, self.unjudged);
        if self.sent == self.acknowledged {
            return None;
        }
        let differences = self.differences.iter().map(|counted| ShadowDifference {
            aspect: counted.aspect.into(),
            route: counted.route.as_ref().into(),
            active: counted.active.into(),
            shadow: counted.shadow.into(),
            count: counted.count,
        });
        let differences = differences.collect();
        Some(ShadowReport { shadow: self.run.number, compared: self.compared, unjudged: self.unjudged, differences })
    }

    /// The report that was sent last has arrived.
    pub(crate) const fn told(&mut self) {
        self.acknowledged = self.sent;
    }

    /// Counts a difference. An empty route stands for all that have no place of their own.
    fn count(&mut self, difference: Difference, route: &str) {
        if self.add(difference, route) {
            return;
        }
        if self.differences.len() < DIFFERENCES_MAX {
            return self.insert(difference, route);
        }
        let rest = Difference { active: "", shadow: "", ..difference };
        if !self.add(rest, "") {
            self.insert(rest, "");
        }
    }

    fn hash(hasher: &DefaultHashBuilder, difference: Difference, route: &str) -> u64 {
        hasher.hash_one((difference.aspect, route, difference.active, difference.shadow))
    }

    /// Whether there is such a difference already: then it is counted.
    fn add(&mut self, difference: Difference, route: &str) -> bool {
        let hash = Self::hash(&self.hasher, difference, route);
        let known = self.differences.find_mut(hash, |counted| counted.difference() == difference && &*counted.route == route);
        known.is_some_and(|counted| {
            counted.count += 1;
            true
        })
    }

    fn insert(&mut self, difference: Difference, route: &str) {
        let Difference { aspect, active, shadow } = difference;
        let hasher = &self.hasher;
        let counted = Counted { aspect, route: route.into(), active, shadow, count: 1 };
        let rehash = |counted: &Counted| Self::hash(hasher, counted.difference(), &counted.route);
        self.differences.insert_unique(Self::hash(hasher, difference, route), counted, rehash);
    }

    /// Whether one record more of this second may say how it would have been.
    fn may_sample(&mut self, now: Timestamp) -> bool {
        if now >= self.samples_until {
            (self.samples, self.samples_until) = (0, now.plus(Duration::from_secs(1)));
        }
        self.samples += 1;
        self.samples <= SAMPLES_PER_SECOND
    }
}

impl Counted {
    const fn difference(&self) -> Difference {
        Difference { aspect: self.aspect, active: self.active, shadow: self.shadow }
    }
}

/// Lets the revision in shadow decide what the active one has decided. Once for a request, however often it is judged.
pub(crate) fn compare(
    headers: &RequestHeaders,
    trace: &mut Trace,
    comparison: &mut Comparison,
    active: &Active,
    gateway: Gateway,
    judged: Judged<'_>,
    now: Timestamp,
) {
    let Some(shadow) = active.shadow.as_ref().filter(|_| trace.noted.shadow == Once::NotYet) else { return };
    trace.noted.shadow = Once::Done;
    let Ok(path) = CanonicalPath::parse(headers.target()) else {
        // No policy is asked about a path with two readings.
        comparison.compared += 1;
        return;
    };
    let method = Method::parse(headers.matched_method());
    let route = method.and_then(|method| shadow.policy.route(gateway, method, path.path()));
    let asked = Asked { headers, trace, judged, looked: looked_at(active, trace) };
    let decision = match (asked.authentication(shadow, route), method) {
        (Established::Unknown, _) => None,
        (Established::Denied(reason), _) => Some(Decision::Deny(Denial { reason, route: route.map(|route| route.id) })),
        (Established::As(_), None) => Some(Decision::Deny(Denial { reason: DenyReason::NoRoute, route: None })),
        (Established::As(authentication), Some(method)) => {
            let facts = RequestFacts { gateway, method, route, authentication, upgrade: headers.upgrade() };
            Some(match decide(&shadow.policy, &facts, now) {
                Decision::Conditional(conditional) => {
                    let ruling = rules::judge(shadow.rules.as_ref(), &facts, path.path(), &conditional, now);
                    conditional.ruled(ruling.verdict, &mut ()).map_or_else(Decision::Deny, Decision::Permit)
                }
                decided @ (Decision::Permit(_) | Decision::Deny(_)) => decided,
            })
        }
    };
    let in_shadow = match &decision {
        Some(Decision::Permit(permit)) => Judged::Permit(permit),
        Some(Decision::Deny(denial)) => Judged::Deny(denial),
        // Every conditional permit was ruled upon.
        Some(Decision::Conditional(_)) | None => {
            comparison.unjudged += 1;
            return;
        }
    };
    comparison.compared += 1;
    let Some(difference) = difference(active, judged, shadow, in_shadow) else { return };
    let of_shadow = route.map(|route| &*route.name);
    let of_active = || judged.route().and_then(|route| active.policy.route_by_id(route)).map(|route| &*route.name);
    comparison.count(difference, of_shadow.or_else(of_active).unwrap_or_default());
    if comparison.may_sample(now) {
        let decision = match in_shadow {
            Judged::Permit(_) => audit::Decision::Permit,
            Judged::Deny(_) => audit::Decision::Deny,
        };
        let route = route.map(|route| route.id);
        trace.shadow = Some(Sample { revision: shadow.revision, decision, reason: in_shadow.code(), route });
    }
}

/// What the active revision has looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Looked {
    Nothing,
    RegistrationKey,
    Token,
}

fn looked_at(active: &Active, trace: &Trace) -> Looked {
    match trace.route.and_then(|route| active.policy.route_by_id(route)).map(|route| route.requirement) {
        Some(Requirement::Authenticated | Requirement::Permission(_)) => Looked::Token,
        Some(Requirement::RegistrationKey) => Looked::RegistrationKey,
        Some(Requirement::Public) | None => Looked::Nothing,
    }
}

struct Asked<'a> {
    headers: &'a RequestHeaders,
    trace: &'a Trace,
    judged: Judged<'a>,
    looked: Looked,
}

/// What is known of the caller.
enum Established<'a> {
    As(Authentication<'a>),
    /// A header has more than one reading.
    Denied(DenyReason),
    /// The revision in shadow wants something that was not verified.
    Unknown,
}

impl<'a> Asked<'a> {
    /// What is known of the caller of what the route in shadow asks for. Nothing is verified for its sake.
    fn authentication(&self, shadow: &Shadow, route: Option<&Route>) -> Established<'a> {
        match (route.map(|route| route.requirement), self.looked) {
            (None | Some(Requirement::Public), _) => Established::As(Authentication::Anonymous),
            (Some(Requirement::RegistrationKey), Looked::RegistrationKey) => match self.judged {
                Judged::Permit(_) => Established::As(Authentication::Registered),
                Judged::Deny(Denial { reason: DenyReason::RegistrationKeyRefused, .. }) => Established::As(Authentication::Anonymous),
                Judged::Deny(Denial { reason: reason @ DenyReason::AmbiguousHeader(_), .. }) => Established::Denied(*reason),
                Judged::Deny(_) => Established::As(Authentication::Registered),
            },
            (Some(Requirement::RegistrationKey), Looked::Nothing | Looked::Token) => absent(self.headers.registration_key()),
            (Some(Requirement::Authenticated | Requirement::Permission(_)), Looked::Token) => self.of_token(shadow),
            (Some(Requirement::Authenticated | Requirement::Permission(_)), Looked::Nothing | Looked::RegistrationKey) => {
                absent(self.headers.authorization())
            }
        }
    }

    fn of_token(&self, shadow: &Shadow) -> Established<'a> {
        if let Some(token) = &self.trace.token {
            return Established::As(match token.in_shadow(&shadow.policy) {
                Some(principal) => Authentication::Verified(principal),
                None => Authentication::Refused(CredentialFault::NoKnownRole),
            });
        }
        match self.judged {
            // Who it is was forgotten with the roles that the active revision does not know.
            Judged::Deny(Denial { reason: DenyReason::CredentialRefused(CredentialFault::NoKnownRole), .. }) => Established::Unknown,
            Judged::Deny(Denial { reason: DenyReason::CredentialRefused(fault), .. }) => Established::As(Authentication::Refused(*fault)),
            Judged::Deny(Denial { reason: reason @ DenyReason::AmbiguousHeader(_), .. }) => Established::Denied(*reason),
            Judged::Deny(_) | Judged::Permit(_) => absent(self.headers.authorization()),
        }
    }
}

/// A credential that nobody looked at: only that there is none can be told.
fn absent<'a, T>(presented: Result<Option<T>, DenyReason>) -> Established<'a> {
    match presented {
        Ok(None) => Established::As(Authentication::Anonymous),
        Ok(Some(_)) => Established::Unknown,
        Err(reason) => Established::Denied(reason),
    }
}

/// The first check, in the order in which they are made, at which the two part.
fn difference(active: &Active, judged: Judged<'_>, shadow: &Shadow, in_shadow: Judged<'_>) -> Option<Difference> {
    let by_code = |check| Difference { aspect: Aspect::Check(check), active: judged.code(), shadow: in_shadow.code() };
    match (judged, in_shadow) {
        (Judged::Permit(one), Judged::Permit(other)) => permits(active, one, shadow, other),
        (Judged::Deny(denial), Judged::Permit(_)) | (Judged::Permit(_), Judged::Deny(denial)) => Some(by_code(denial.reason.check())),
        (Judged::Deny(one), Judged::Deny(other)) if one.reason.code() == other.reason.code() => None,
        (Judged::Deny(one), Judged::Deny(other)) => Some(by_code(one.reason.check().min(other.reason.check()))),
    }
}

/// The first thing in which what becomes of the request differs, if anything does.
fn permits(active: &Active, one: &Permit, shadow: &Shadow, other: &Permit) -> Option<Difference> {
    let (one, other) = (Obligations::of(&active.policy, one), Obligations::of(&shadow.policy, other));
    let aspect = one.differences(&other).next()?;
    Some(Difference { aspect, active: word(&one, aspect), shadow: word(&other, aspect) })
}

/// What a permit comes to in one aspect. Names and paths are left out: they would be many.
fn word(obligations: &Obligations<'_>, aspect: Aspect) -> &'static str {
    match aspect {
        Aspect::Check(Check::ClientLimit) => obligations.limit.map_or("none", |_budget| "limited"),
        Aspect::Check(Check::Ownership) => obligations.ownership.map_or("none", |ownership| ownership.place().name()),
        Aspect::Check(Check::Approval) => match obligations.approval {
            ApprovalNeed::None => "ok",
            ApprovalNeed::Governor => "approval",
        },
        Aspect::Check(Check::Routing) => obligations.target.name(),
        Aspect::Check(Check::Budget) => "charges",
        Aspect::Check(Check::Path | Check::Route | Check::Authentication | Check::Permission | Check::Trial | Check::Rules) => "ok",
        Aspect::Credential => obligations.credential.name(),
        Aspect::Rewrite => obligations.rewrite.map_or("none", |_path| "rewritten"),
        Aspect::Exchange => obligations.exchange.name(),
    }
}
