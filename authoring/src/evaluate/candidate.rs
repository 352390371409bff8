//! A policy as its files say it, ready to decide: read, compiled, its custom rules loaded.

use super::asked::{Asked, Explained, Judge, NoRules, Ruling, Tabled, explain};
use super::case::{Evaluation, evaluate};
use super::without_keys;
use crate::cases::Case;
use crate::rules::gather;
use crate::{Files, PolicyFault};
use decision_core::decision::RuleVerdict;
use decision_core::facts::Authentication;
use rules::{Loader, RuleSet, RuleSource};
use wire::bundle::LoadedBundle;
use wire::policy::PolicyDocument;

/// A policy that can be asked.
#[derive(Debug)]
pub struct Candidate {
    /// Its files.
    pub files: Files,
    /// What they say.
    pub document: PolicyDocument,
    /// What that means. No key is known.
    pub bundle: LoadedBundle,
    rules: Option<Box<RuleSet>>,
}

impl Candidate {
    /// Reads and compiles the files.
    ///
    /// # Errors
    /// The first thing that is wrong, with its place.
    pub fn new(files: Files) -> Result<Self, PolicyFault> {
        let document = wire::sources::read(&files).map_err(|error| PolicyFault::of_source(&error, &files))?;
        let bundle = without_keys(&document).map_err(|error| PolicyFault::of_bundle(&error, &files))?;
        let rules = load_rules(&document, &files)?.map(Box::new);
        Ok(Self { files, document, bundle, rules })
    }

    /// Decides a golden case.
    pub fn evaluate(&mut self, case: &Case) -> Evaluation {
        match &mut self.rules {
            Some(rules) => evaluate(&self.document, &self.bundle, case, rules.as_mut()),
            None => evaluate(&self.document, &self.bundle, case, &mut NoRules),
        }
    }

    /// Why the policy would decide so.
    pub fn explain(&mut self, asked: &Asked<'_>) -> Explained {
        match &mut self.rules {
            Some(rules) => explain(&self.bundle.policy, asked, rules.as_mut()),
            None => explain(&self.bundle.policy, asked, &mut NoRules),
        }
    }
}

impl Judge for RuleSet {
    fn judge(&mut self, tabled: &Tabled<'_>) -> Ruling {
        let refused = || Ruling { verdict: RuleVerdict::Deny, rule: None, reason: None };
        // The tables permit nothing to custom rules that has no route or no user.
        let (Some(route), Authentication::Verified(principal)) = (tabled.facts.route, tabled.facts.authentication) else {
            return refused();
        };
        let ruling = Self::judge(
            self,
            &rules::Judged {
                gateway: tabled.facts.gateway,
                method: tabled.facts.method,
                path: tabled.path.path(),
                route,
                principal,
                target: tabled.conditional.target(),
                now: tabled.now,
            },
        );
        Ruling { verdict: ruling.verdict, rule: Some(ruling.rule.to_string()), reason: Some(ruling.reason.to_string()) }
    }
}

/// The custom rules of a policy, if it has any. Tests among the modules are left out.
fn load_rules(document: &PolicyDocument, files: &Files) -> Result<Option<RuleSet>, PolicyFault> {
    let Some(rules) = gather(document, files)? else { return Ok(None) };
    let data = rules.data_json()?;
    let source = RuleSource { modules: &rules.modules, data: &data, inputs: &rules.inputs };
    let loaded = Loader::new(&source, []).and_then(Loader::finish);
    loaded.map(Some).map_err(|error| PolicyFault::located(error.to_string(), files))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases::read;

    const POLICY: &str = "
permissions: [a.read]
roles: [{ name: reader, permissions: [a.read] }, { name: guest, permissions: [a.read] }]
issuers: [{ name: pp, issuer: pp, gateways: [PP], algorithms: [ES256] }]
routes: [{ name: a, gateways: [PP], methods: [GET], path: /a, require: permission, permission: a.read, cost_micros: 0 }]
rules: { modules: [a.rego], inputs: [jwt.roles], gateways: [PP] }
";
    const MODULE: &str = "package gateway
import rego.v1
default decision := {\"allow\": false, \"rule\": \"nothing\", \"reason\": \"no rule allows it\"}
decision := {\"allow\": true, \"rule\": \"readers\", \"reason\": \"\"} if \"reader\" in input.jwt.roles
";

    fn files(policy: &str) -> Files {
        Files::from([("policy.yaml".to_owned(), policy.to_owned()), ("a.rego".to_owned(), MODULE.to_owned())])
    }

    #[test]
    fn custom_rules_judge_what_the_tables_permit() {
        let mut candidate = Candidate::new(files(POLICY)).unwrap();
        let cases = "cases:
  - { name: a, gateway: PP, method: GET, path: /a, token: { issuer: pp, roles: [reader] }, want: { decision: permit, status: 200, reason: ok, route: a, rule: readers } }
  - { name: b, gateway: PP, method: GET, path: /a, token: { issuer: pp, roles: [guest] }, want: { decision: deny, status: 403, reason: rule_refused, route: a, rule: nothing } }
  - { name: c, gateway: PP, method: GET, path: /a, token: none, want: { decision: deny, status: 401, reason: credential_missing, route: a } }
";
        for filed in read(&Files::from([("cases/a.yaml".to_owned(), cases.to_owned())])).unwrap() {
            let evaluation = candidate.evaluate(&filed.case);
            assert_eq!(crate::evaluate::compare(&filed.case, &evaluation), Ok(()), "{}", filed.case.name);
        }
    }

    #[test]
    fn what_custom_rules_name_has_to_be_there() {
        for (from, to, told) in [
            ("[a.rego]", "[a.rego, b.rego]", "policy.yaml:6: rules.modules: `b.rego` does not exist; the nearest name is `a.rego`"),
            ("inputs: [jwt.roles]", "inputs: [jwt.role]", "policy.yaml:6: rules.inputs: "),
            ("gateways: [PP] }\n", "gateways: [PP], data: c.yaml }\n", "rules.data: `c.yaml` does not exist"),
        ] {
            let policy = POLICY.replace(from, to);
            let fault = Candidate::new(files(&policy)).unwrap_err().to_string();
            assert!(fault.contains(told), "{fault}");
        }
    }
}
