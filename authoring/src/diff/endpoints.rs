//! What may be called: every method and path of either policy's routes. A path template is a path that its own route matches
//! wherever no more specific one does, so a route that was renamed, or that another now precedes, is the same endpoint.

use super::Side;
use decision_core::budget::BudgetId;
use decision_core::decision::Charge;
use decision_core::flag::FlagId;
use decision_core::gateway::{Gateway, Method};
use decision_core::policy::{CompiledPolicy, CredentialForwarding, ExchangeKind, Metering, Ownership, Requirement, Route};
use std::collections::{BTreeMap, HashMap};

/// An endpoint under both policies.
pub(super) struct Endpoint<'a> {
    /// Everything that is decided like this.
    pub(super) names: Vec<String>,
    pub(super) method: Method,
    /// The routes that match, of the old and of the new policy.
    pub(super) routes: [Option<&'a Route>; 2],
}

/// The endpoints of a gateway, in classes.
pub(super) struct Endpoints<'a>(Vec<Endpoint<'a>>);

/// What a decision, and what carries it out, sees of a route. Two routes for which it is the same are decided alike.
#[derive(PartialEq, Eq, Hash)]
struct Seen<'a> {
    /// Permissions by name: two policies number them differently.
    requirement: (u8, Option<&'a str>),
    governor_approval: bool,
    closed_to_trials: bool,
    flag: Option<FlagId>,
    limit: Option<BudgetId>,
    ownership: Option<&'a Ownership>,
    credential: CredentialForwarding,
    rewrite: Option<&'a str>,
    exchange: ExchangeKind,
    metering: &'a Metering,
    charges: &'a [Charge],
}

impl<'a> Endpoints<'a> {
    pub(super) fn of(gateway: Gateway, from: &Side<'a>, to: &Side<'a>) -> Self {
        let mut known: HashMap<[Option<Seen<'_>>; 2], usize> = HashMap::new();
        let mut classes: Vec<Endpoint<'a>> = Vec::new();
        for (path, method) in paths(gateway, from, to).into_iter().flat_map(|(path, methods)| methods.into_iter().map(move |m| (path, m))) {
            let routes = [from, to].map(|side| side.compiled.route(gateway, method, path));
            let seen = [(routes[0], from), (routes[1], to)].map(|(route, side)| route.map(|route| seen(route, side.compiled)));
            let name = format!("{} {path}", method.name());
            let class = *known.entry(seen).or_insert(classes.len());
            match classes.get_mut(class) {
                Some(endpoint) => endpoint.names.push(name),
                None => classes.push(Endpoint { names: vec![name], method, routes }),
            }
        }
        Self(classes)
    }

    pub(super) fn classes(&self) -> &[Endpoint<'a>] {
        &self.0
    }

    pub(super) fn count(&self) -> usize {
        self.0.iter().map(|endpoint| endpoint.names.len()).sum()
    }
}

/// The templates of both policies with their methods. As a path, `{id}` is a segment that equals no literal.
fn paths<'a>(gateway: Gateway, from: &Side<'a>, to: &Side<'a>) -> BTreeMap<&'a str, Vec<Method>> {
    let mut paths: BTreeMap<&str, Vec<Method>> = BTreeMap::new();
    for route in [from, to].into_iter().flat_map(|side| &side.document.routes) {
        if route.gateways.iter().any(|known| Gateway::from(*known) == gateway) {
            let methods = paths.entry(route.path.as_str()).or_default();
            for method in &route.methods {
                let method = Method::from(*method);
                if !methods.contains(&method) {
                    methods.push(method);
                }
            }
        }
    }
    paths
}

fn seen<'a>(route: &'a Route, policy: &'a CompiledPolicy) -> Seen<'a> {
    Seen {
        requirement: match route.requirement {
            Requirement::Public => (0, None),
            Requirement::RegistrationKey => (1, None),
            Requirement::Authenticated => (2, None),
            Requirement::Permission(permission) => (3, Some(policy.catalogue().name(permission))),
        },
        governor_approval: route.governor_approval,
        closed_to_trials: route.closed_to_trials,
        flag: route.flag,
        limit: route.limit,
        ownership: route.ownership.as_ref(),
        credential: route.credential,
        rewrite: route.rewrite.as_deref(),
        exchange: route.exchange,
        metering: &route.metering,
        charges: &route.charges,
    }
}
