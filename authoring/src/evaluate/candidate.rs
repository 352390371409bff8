//! A policy as its files say it, ready to decide: read, compiled, its custom rules loaded.

use super::asked::{Asked, Explained, Judge, NoRules, Tabled, explain, unasked};
use super::case::{Evaluation, evaluate};
use super::flags::with_flags;
use super::without_keys;
use crate::cases::{Case, FlagStates};
use crate::rules::gather;
use crate::rules::run::load_fault;
use crate::{Files, PolicyFault};
use decision_core::causes::chain;
use decision_core::facts::Authentication;
use rules::{Judged, Loader, RuleSet, RuleSource, Ruling};
use std::sync::Arc;
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
    /// What it would be under the flags that cases asked for.
    variants: Vec<Variant>,
}

/// The policy under other flags. Its custom rules are the same.
#[derive(Debug)]
struct Variant {
    flags: FlagStates,
    document: PolicyDocument,
    bundle: LoadedBundle,
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
        Ok(Self { files, document, bundle, rules, variants: Vec::new() })
    }

    /// Decides a golden case, under the flags that it names.
    pub fn evaluate(&mut self, case: &Case) -> Evaluation {
        let fault = self.prepare(&case.flags).err();
        let variant = self.variants.iter().find(|variant| variant.flags == case.flags);
        let (document, bundle) = variant.map_or((&self.document, &self.bundle), |variant| (&variant.document, &variant.bundle));
        let evaluation = match &mut self.rules {
            Some(rules) => evaluate(document, bundle, case, rules.as_mut()),
            None => evaluate(document, bundle, case, &mut NoRules),
        };
        Evaluation { fault, ..evaluation }
    }

    /// Compiles the policy under these flags, unless that is what it says or was done already.
    fn prepare(&mut self, flags: &FlagStates) -> Result<(), String> {
        if flags.is_empty() || self.variants.iter().any(|variant| variant.flags == *flags) {
            return Ok(());
        }
        let document = with_flags(&self.document, flags).map_err(|unknown| unknown.to_string())?;
        let bundle = without_keys(&document).map_err(|error| chain(&error))?;
        self.variants.push(Variant { flags: flags.clone(), document, bundle });
        Ok(())
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
    fn judge(&mut self, tabled: &Tabled<'_>) -> Arc<Ruling> {
        // The tables permit nothing to custom rules that has no route or no user.
        let (Some(route), Authentication::Verified(principal)) = (tabled.facts.route, tabled.facts.authentication) else {
            return unasked();
        };
        let judged = Judged {
            gateway: tabled.facts.gateway,
            method: tabled.facts.method,
            path: tabled.path.path(),
            route,
            principal,
            target: tabled.conditional.target(),
            now: tabled.now,
        };
        Self::judge(self, &judged)
    }
}

/// The custom rules of a policy, if it has any. Tests among the modules are left out.
fn load_rules(document: &PolicyDocument, files: &Files) -> Result<Option<RuleSet>, PolicyFault> {
    let Some(rules) = gather(document, files)? else { return Ok(None) };
    let data = rules.data_json()?;
    let source = RuleSource { modules: &rules.modules, data: &data, inputs: &rules.inputs };
    let loaded = Loader::new(&source, []).and_then(Loader::finish);
    loaded.map(Some).map_err(|error| load_fault(&error))
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
    fn a_case_is_decided_under_its_flags_and_the_next_one_is_not() {
        let policy = POLICY.replace(
            "rules: {",
            "flags: [{ name: strict, default: on, overrides: [{ customers: [c], state: on }], switches: [permission, rules] }]\nrules: {",
        );
        let mut candidate = Candidate::new(files(&policy)).unwrap();
        let mut outcome = |flags: &str, want: &str| {
            let case = format!(
                "cases: [{{ name: a, gateway: PP, method: GET, path: /a, token: {{ issuer: pp, roles: [guest], customer_id: c }}, {flags}want: {{ {want} }} }}]"
            );
            let cases = read(&Files::from([("cases/a.yaml".to_owned(), case)])).unwrap();
            let evaluation = candidate.evaluate(&cases[0].case);
            crate::evaluate::compare(&cases[0].case, &evaluation)
        };
        let permitted = "decision: permit, status: 200, reason: ok, route: a";
        let denied = "decision: deny, status: 403, reason: rule_refused, route: a";
        let skipping = format!("{permitted}, skipped: [rules, permission]");
        for _ in 0..2 {
            assert_eq!(outcome("", denied), Ok(()));
            assert_eq!(outcome("flags: { strict: on }, ", denied), Ok(()));
            assert_eq!(outcome("flags: { strict: off }, ", &skipping), Ok(()), "its override as well");
        }
        for (flags, want, told) in [
            ("flags: { strict: off }, ", permitted, "skipped: want {}, got {\"permission\", \"rules\"}"),
            ("", &format!("{denied}, skipped: [permission]"), "skipped: want {\"permission\"}, got {}"),
            ("flags: { stricter: off }, ", denied, "flags: `stricter` does not exist; the nearest name is `strict`"),
        ] {
            assert_eq!(outcome(flags, want), Err(told.to_owned()));
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
