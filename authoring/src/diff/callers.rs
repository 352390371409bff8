//! Who may call: nobody, the holder of a registration key, and every role of every issuer, paying, on trial, after the trial, or
//! as a governor; and for every way in which flags stand, a customer for whom they stand so. Callers that neither policy can tell
//! apart are one class.

use super::Side;
use decision_core::flag::FlagState;
use decision_core::gateway::Gateway;
use decision_core::permission::PermissionSet;
use decision_core::policy::{CompiledPolicy, IssuerAcceptance};
use decision_core::principal::{Identity, Principal, Tier, Trial};
use decision_core::time::Timestamp;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::Hash;
use wire::policy::Issuer;

/// The moment of every decision, before and after which trials end.
pub(super) const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);
const TRIAL_RUNS_TO: Timestamp = Timestamp::from_seconds(1_800_000_600);
const TRIAL_RAN_TO: Timestamp = Timestamp::from_seconds(1_799_999_400);

/// A caller under both policies.
pub(super) struct Caller {
    /// Everybody who is decided like this.
    pub(super) names: Vec<String>,
    pub(super) kind: Kind,
}

/// What a caller presents.
pub(super) enum Kind {
    Anonymous,
    Registered,
    /// A token, under the old and under the new policy; `None` where no role of it is known.
    Token(Box<[Option<Principal>; 2]>),
}

/// The callers of a gateway, in classes.
pub(super) struct Callers(Vec<Caller>);

/// What a policy sees of a caller. Two callers for whom it is the same are decided alike.
#[derive(PartialEq, Eq, Hash)]
struct Seen {
    accepted: bool,
    permissions: PermissionSet,
    tier: Tier,
    trial: TrialState,
    governor: bool,
    flags: decision_core::flag::FlagSet,
    switched_off: decision_core::flag::SwitchedOff,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum TrialState {
    No,
    Runs,
    Over,
}

/// A customer whom no override names, unless somebody is called so.
const ANYBODY: &str = "example";
/// The most customers that callers come from.
const CUSTOMERS_MAX: usize = 32;
/// How many customers are made up to find one in each share of a roll-out: of one percent none is found once in 10^8.
const MADE_UP_MAX: usize = 2_000;

/// How a user comes: what follows the role in its name.
const VARIANTS: [(&str, TrialState, bool); 4] = [
    ("", TrialState::No, false),
    (", on trial", TrialState::Runs, false),
    (", trial expired", TrialState::Over, false),
    (", governor", TrialState::No, true),
];

impl Callers {
    pub(super) fn of(gateway: Gateway, customers: &[String], from: &Side<'_>, to: &Side<'_>) -> Self {
        let mut classes = vec![
            Caller { names: vec!["nobody".to_owned()], kind: Kind::Anonymous },
            Caller { names: vec!["a registration key".to_owned()], kind: Kind::Registered },
        ];
        let roles: BTreeSet<&str> =
            [from, to].into_iter().flat_map(|side| side.document.roles.iter().map(|role| role.name.as_str())).collect();
        let mut known: HashMap<[Option<Seen>; 2], usize> = HashMap::new();
        for issuer in issuers(gateway, from, to) {
            for role in &roles {
                for (suffix, trial, governor) in VARIANTS {
                    for customer in customers {
                        let principals = [from, to].map(|side| side.compiled.principal(identity(issuer, role, customer, trial, governor)));
                        let seen = [(&principals[0], from), (&principals[1], to)]
                            .map(|(principal, side)| principal.as_ref().map(|principal| seen(principal, side.compiled, gateway, trial)));
                        let of = if customer == ANYBODY { String::new() } else { format!(", customer {customer}") };
                        let name = format!("{issuer}:{role}{suffix}{of}");
                        let class = *known.entry(seen).or_insert(classes.len());
                        match classes.get_mut(class) {
                            Some(caller) => caller.names.push(name),
                            None => classes.push(Caller { names: vec![name], kind: Kind::Token(Box::new(principals)) }),
                        }
                    }
                }
            }
        }
        Self(classes)
    }

    pub(super) fn classes(&self) -> &[Caller] {
        &self.0
    }

    pub(super) fn count(&self) -> usize {
        self.0.iter().map(|caller| caller.names.len()).sum()
    }
}

/// The issuers whose tokens open the gateway under either policy.
fn issuers<'a>(gateway: Gateway, from: &Side<'a>, to: &Side<'a>) -> BTreeSet<&'a str> {
    let good = |issuer: &&Issuer| issuer.gateways.iter().any(|known| Gateway::from(*known) == gateway);
    [from, to].into_iter().flat_map(|side| side.document.issuers.iter().filter(good).map(|issuer| issuer.name.as_str())).collect()
}

fn seen(principal: &Principal, policy: &CompiledPolicy, gateway: Gateway, trial: TrialState) -> Seen {
    Seen {
        accepted: policy.accepts_issuer(&principal.identity.issuer, gateway) == IssuerAcceptance::Accepted,
        permissions: principal.permissions,
        tier: principal.tier,
        trial,
        governor: principal.governor,
        flags: principal.flags,
        switched_off: principal.switched_off,
    }
}

/// How a flag stands under the old and under the new policy; `None` where there is no such flag.
type Stand = [Option<FlagState>; 2];

/// Customers for whom the flags of both policies stand differently: anybody, those whom overrides name, and as many made up as it
/// takes to see each flag with a roll-out in each of its ways: on, off, and changing.
pub(super) fn customers(from: &Side<'_>, to: &Side<'_>) -> Vec<String> {
    let all = || [from, to].into_iter().flat_map(|side| &side.document.flags);
    let flags: BTreeSet<&str> = all().map(|flag| flag.name.as_str()).collect();
    let named: BTreeSet<&str> = all().flat_map(|flag| &flag.overrides).flat_map(|known| &known.customers).map(String::as_str).collect();
    let rolled_out: BTreeSet<&str> = all().filter(|flag| flag.rollout_percent.is_some()).map(|flag| flag.name.as_str()).collect();
    let mut ways: HashSet<Vec<Stand>> = HashSet::new();
    let mut chosen = Vec::new();
    for customer in [ANYBODY].into_iter().chain(named) {
        if chosen.len() < CUSTOMERS_MAX && ways.insert(stands(&flags, from, to, customer)) {
            chosen.push(customer.to_owned());
        }
    }
    let mut seen: HashSet<(usize, Stand)> = HashSet::new();
    for customer in &chosen {
        seen.extend(stands(&rolled_out, from, to, customer).into_iter().enumerate());
    }
    for number in (1..=MADE_UP_MAX).take_while(|_| !rolled_out.is_empty()) {
        let customer = format!("{ANYBODY}-{number}");
        let stands = stands(&rolled_out, from, to, &customer);
        let shows_more = stands.iter().copied().enumerate().any(|one| !seen.contains(&one));
        if shows_more && chosen.len() < CUSTOMERS_MAX {
            seen.extend(stands.into_iter().enumerate());
            chosen.push(customer);
        }
    }
    chosen
}

/// How these flags stand for a customer.
fn stands(flags: &BTreeSet<&str>, from: &Side<'_>, to: &Side<'_>, customer: &str) -> Vec<Stand> {
    // Roll-outs and overrides are by customer: neither issuer nor role matters.
    let identity = identity("", "", customer, TrialState::No, false);
    let state =
        |side: &Side<'_>, name: &str| side.compiled.flags().iter().find(|flag| &*flag.name == name).map(|flag| flag.state(Some(&identity)));
    flags.iter().map(|name| [state(from, name), state(to, name)]).collect()
}

fn identity(issuer: &str, role: &str, customer: &str, trial: TrialState, governor: bool) -> Identity {
    Identity {
        issuer: issuer.into(),
        subject: ANYBODY.into(),
        user_id: ANYBODY.into(),
        email: "example@example.com".into(),
        customer_id: Some(customer.into()),
        agent_id: Some(ANYBODY.into()),
        governor_agent_id: governor.then(|| ANYBODY.into()),
        roles: vec![role.into()],
        tier: None,
        trial: match trial {
            TrialState::No => Trial::No,
            TrialState::Runs => Trial::Until(TRIAL_RUNS_TO),
            TrialState::Over => Trial::Until(TRIAL_RAN_TO),
        },
        token_id: None,
        token_version: None,
        key_id: None,
        issued_at: NOW,
        expires_at: TRIAL_RUNS_TO,
    }
}
