//! What the rules of a set can be asked about a golden case, and what the policy says itself. A case fixes the request, the token
//! and the moment; what it does not fix (what was spent, whether a governor approved) is asked in the situations that matter.

use super::{Judgement, Says, Situation, Subject};
use crate::cases::{Approval, FiledCase, Target, Verdict};
use crate::evaluate::{Answer, Evaluation, claims};
use crate::opa::examine::Question;
use crate::opa::request::Wanted;
use crate::opa::{Grants, OpaSet};
use decision_core::decision::{Check, Finding};
use serde_json::{Map, Value, json};
use wire::policy::{Budget, Gateway, PolicyDocument, Requirement, Route, Unit};

const TRIAL: &str = "gateway.trial_mode.allow";
const APPROVAL: &str = "gateway.governor_role.allow";
const BUDGET: &str = "gateway.agent_budget.allow";
/// Where a set says it by itself, and where it may say it beside `allow`.
const ROUTING: [&str; 2] = ["gateway.sandbox_routing.route_to_sandbox", "gateway.sandbox_routing.allow"];

/// A permission that the rule about approvals has another word for.
const APPROVAL_WORDS: [(&str, &str); 1] = [("system.configure", "system.configuration")];

const MICROS_PER_USD: f64 = 1_000_000.0;

/// Why a case cannot be judged at all.
pub(super) const ADMIN: &str = "on the control plane's own API, which no set knows";
pub(super) const NO_USER: &str = "without a good token on a route that asks for one: sets judge users";
pub(super) const NO_RULE: &str = "decided by what no rule of the set is about";

/// A case as a set is asked about it.
struct Asking<'a> {
    set: &'a OpaSet,
    document: &'a PolicyDocument,
    filed: &'a FiledCase,
    evaluation: &'a Evaluation,
    route: &'a Route,
    jwt: Map<String, Value>,
}

/// Everything that the set is asked about a case, or why nothing.
pub(super) fn judgements(
    set: &OpaSet,
    document: &PolicyDocument,
    filed: &FiledCase,
    evaluation: &Evaluation,
) -> Result<Vec<Judgement>, &'static str> {
    if filed.case.gateway == Gateway::Admin {
        return Err(ADMIN);
    }
    let named = evaluation.decided.route.as_deref().and_then(|name| document.routes.iter().find(|route| route.name == name));
    let asks = |route: &&Route| matches!(route.require, Requirement::Authenticated | Requirement::Permission);
    let authenticated = evaluation.checks.contains(&(Check::Authentication, Finding::Passed));
    let (Some(route), Some(jwt), true) = (named.filter(asks), claims(document, &filed.case), authenticated) else { return Err(NO_USER) };
    let asking = Asking { set, document, filed, evaluation, route, jwt };
    let all = [asking.permission(), asking.trial(), asking.approval(), asking.budget(), asking.routing()].concat();
    if all.is_empty() { Err(NO_RULE) } else { Ok(all) }
}

impl Asking<'_> {
    fn answer(&self) -> &Answer {
        &self.evaluation.decided
    }

    fn finding(&self, check: Check) -> Option<Finding> {
        self.evaluation.checks.iter().find(|(made, _)| *made == check).map(|(_, finding)| *finding)
    }

    /// What the check found, if it was made.
    fn found(&self, check: Check) -> Option<Says> {
        match self.finding(check)? {
            Finding::Passed => Some(Says::Allow),
            Finding::Refused(_) => Some(Says::Deny),
            Finding::SkippedByFlag => None,
        }
    }

    /// Whether the request was permitted with this check, which leaves no trace unless a flag skips it.
    fn permitted(&self, check: Check) -> bool {
        self.answer().decision == Verdict::Permit && self.finding(check).is_none()
    }

    fn claim(&self, name: &str) -> Option<&str> {
        self.jwt.get(name).and_then(Value::as_str)
    }

    /// What is wanted, in the words that a set is asked about roles with.
    fn wanted_of_roles(&self) -> Option<Wanted> {
        let case = &self.filed.case;
        match &self.set.grants {
            Grants::Permissions(_) => self.route.permission.as_deref().map(Wanted::of_permission),
            Grants::Levels(_) => Some(Wanted::for_permission(&case.method, &case.path)),
        }
    }

    /// And about everything else.
    fn wanted(&self) -> Wanted {
        let case = &self.filed.case;
        match (&self.set.grants, self.route.permission.as_deref()) {
            (Grants::Permissions(_), Some(permission)) => {
                let word = APPROVAL_WORDS.iter().find(|(ours, _)| *ours == permission).map_or(permission, |(_, word)| word);
                Wanted { resource: Wanted::of_permission(permission).resource, action: word.to_owned() }
            }
            (Grants::Permissions(_), None) | (Grants::Levels(_), _) => Wanted::for_policy(&case.method, &case.path),
        }
    }

    fn judgement(&self, rule: &str, situation: Situation, ours: Says, wanted: &Wanted, more: Map<String, Value>, data: Value) -> Judgement {
        let case = &self.filed.case;
        let mut input = json!({
            "jwt": self.jwt, "resource": wanted.resource, "action": wanted.action, "method": case.method, "path": case.path,
        });
        if let Some(object) = input.as_object_mut() {
            object.extend(more);
        }
        let roles = self.jwt.get("roles").and_then(Value::as_array).into_iter().flatten();
        Judgement {
            file: self.filed.file.clone(),
            case: case.name.clone(),
            rule: rule.to_owned(),
            situation,
            ours,
            subject: Subject {
                permission: self.route.permission.clone(),
                route: self.route.name.clone(),
                roles: roles.filter_map(Value::as_str).map(str::to_owned).collect(),
                method: case.method.clone(),
                outcome: self.answer().reason.clone(),
            },
            question: Question { rule: rule.to_owned(), input, data },
        }
    }

    fn permission(&self) -> Vec<Judgement> {
        let Some((ours, wanted)) = self.found(Check::Permission).zip(self.wanted_of_roles()) else { return Vec::new() };
        vec![self.judgement(self.set.grants.decides(), Situation::AsAsked, ours, &wanted, Map::new(), json!({}))]
    }

    fn trial(&self) -> Vec<Judgement> {
        let Some(ours) = self.found(Check::Trial).filter(|_| self.set.has(TRIAL)) else { return Vec::new() };
        let with = |situation, ours, data| self.judgement(TRIAL, situation, ours, &self.wanted(), Map::new(), data);
        let mut all = vec![with(Situation::AsAsked, ours, json!({}))];
        let charged = self.charged(Unit::Tasks);
        if let (Some((budget, amount)), Some(user)) = (charged.first(), self.claim("user_id")) {
            let used = |tasks: i64| json!({"redis": {"task_counts": {user: tasks}}});
            all.push(with(Situation::TasksLeft, Says::Allow, used(budget.cap.saturating_sub(*amount))));
            all.push(with(Situation::TasksSpent, Says::Deny, used(budget.cap)));
        }
        all
    }

    fn approval(&self) -> Vec<Judgement> {
        if !self.permitted(Check::Approval) || !self.set.has(APPROVAL) {
            return Vec::new();
        }
        let asked = |situation, ours, data| {
            let request = Map::from_iter([("request_id".to_owned(), json!(self.filed.case.name))]);
            self.judgement(APPROVAL, situation, ours, &self.wanted(), request, data)
        };
        match self.answer().approval {
            Approval::None => vec![asked(Situation::AsAsked, Says::Allow, json!({}))],
            Approval::Needed => {
                let grant = json!({"status": "approved", "approved_by_governor_id": "a-governor"});
                let granted = json!({"approvals": {self.filed.case.name.as_str(): grant}});
                vec![asked(Situation::AsAsked, Says::Deny, json!({})), asked(Situation::Granted, Says::Allow, granted)]
            }
        }
    }

    /// The budgets of this unit that the request is charged to.
    fn charged(&self, unit: Unit) -> Vec<(&Budget, i64)> {
        let charges = self.answer().charges.iter();
        let budget = |name: &str| self.document.budgets.iter().find(|budget| budget.name == name && budget.unit == unit);
        charges.filter_map(|(name, amount)| Some((budget(name)?, *amount))).collect()
    }

    fn budget(&self) -> Vec<Judgement> {
        let charged = self.charged(Unit::MicroUsd);
        let of = |start: &str| charged.iter().find(|(budget, _)| budget.scope.starts_with(start));
        let (Some(agents), Some(platforms), true) = (of("agent:"), of("platform"), self.set.has(BUDGET)) else { return Vec::new() };
        let agent = self.claim("agent_id").or_else(|| self.claim("sub")).unwrap_or_default();
        let spent = |(budget, amount): &(&Budget, i64), all: bool| {
            let micros = if all { budget.cap } else { budget.cap.saturating_sub(*amount) };
            json!({"spent_usd": usd(micros)})
        };
        let more = || Map::from_iter([("agent_id".to_owned(), json!(agent)), ("customer_id".to_owned(), json!(self.claim("customer_id")))]);
        let asked = |situation, ours, agent_spent, platform_spent| {
            let redis = json!({"agent_budgets": {agent: spent(agents, agent_spent)}, "platform_budget": spent(platforms, platform_spent)});
            self.judgement(BUDGET, situation, ours, &self.wanted(), more(), json!({"redis": redis}))
        };
        vec![
            asked(Situation::MoneyLeft, Says::Allow, false, false),
            asked(Situation::AgentSpent, Says::Deny, true, false),
            asked(Situation::PlatformSpent, Says::Deny, false, true),
        ]
    }

    fn routing(&self) -> Vec<Judgement> {
        let Some(rule) = ROUTING.into_iter().find(|rule| self.set.has(rule)).filter(|_| self.permitted(Check::Routing)) else {
            return Vec::new();
        };
        let ours = match self.answer().target {
            Target::Production => Says::Production,
            Target::Sandbox => Says::Sandbox,
        };
        vec![self.judgement(rule, Situation::AsAsked, ours, &self.wanted(), Map::new(), json!({}))]
    }
}

/// What a rule about where a request goes says, if it is one: whether to the sandbox, or a target beside `allow`.
pub(super) fn routed(rule: &str, value: &Value) -> Option<Says> {
    let [route, allow] = ROUTING;
    let sandbox = match rule {
        _ if rule == route => value.as_bool() == Some(true),
        _ if rule == allow => value.get("target_backend").and_then(Value::as_str) == Some("sandbox"),
        _ => return None,
    };
    Some(if sandbox { Says::Sandbox } else { Says::Production })
}

#[expect(clippy::cast_precision_loss, reason = "caps are far below 2^52 millionths of a dollar")]
fn usd(micros: i64) -> f64 {
    micros as f64 / MICROS_PER_USD
}
