//! The stack's inputs, made for a run: policies whose budgets nobody can spend, and Envoy's configuration with our ports.

use std::fs;
use std::path::{Path, PathBuf};

use crate::empty_module;
use crate::error::BenchError;
use crate::variant::{BenchPorts, Variant};

/// What every budget is capped at, so that leases cover whatever is sent.
const CAP: u64 = 4_000_000_000;

/// The shipped policies with every cap raised.
pub(crate) fn policies(shipped: &Path, home: &Path) -> Result<PathBuf, BenchError> {
    let copy = home.join("policies");
    copy_folder(shipped, &copy)?;
    let budgets = copy.join("budgets.yaml");
    let text = at(&budgets, fs::read_to_string(&budgets))?;
    at(&budgets, fs::write(&budgets, raise_caps(&without_enterprise(&text))))?;
    let route = copy.join("routes/bench.yaml");
    at(&route, fs::write(&route, ROUTES))?;
    for (file, text) in [(MODULE_FILE, MODULE), (DATA_FILE, DATA)] {
        let path = copy.join(file);
        at(&path, fs::create_dir_all(path.parent().unwrap_or(&copy)))?;
        at(&path, fs::write(&path, text))?;
    }
    Ok(copy)
}

/// The customer for whom custom rules are switched on.
pub(crate) const RULED_CUSTOMER: &str = "customer-with-rules";

const MODULE_FILE: &str = "rules/bench.rego";
const DATA_FILE: &str = "rules/bench.yaml";

/// A route that only asks who it is, and the same behind a permission; none costs anything. Custom rules judge one customer only.
const ROUTES: &str = "
routes:
  - { name: bench, gateways: [PLANT], methods: [GET], path: /api/v1/bench, require: authenticated, cost_micros: 0 }
  - { name: bench.decided, gateways: [PLANT], methods: [GET], path: /api/v1/bench/decided, require: permission, permission: agent.view, cost_micros: 0 }
  - { name: bench.decided.item, gateways: [PLANT], methods: [GET], path: '/api/v1/bench/decided/{item}', require: permission, permission: agent.view, cost_micros: 0 }
flags:
  - { name: bench-rules, default: off, overrides: [{ customers: [customer-with-rules], state: on }], switches: [rules] }
rules:
  modules: [rules/bench.rego]
  data: rules/bench.yaml
  inputs: [jwt.roles, jwt.trial_mode, facts.trial_expired, permission, path]
  gateways: [PLANT]
";

/// Trial, roles and path, as the original's policies judge them; the table of roles is `data`, as it is there.
const MODULE: &str = r#"package gateway

import rego.v1

default decision := {"allow": false, "rule": "bench.default", "reason": "nothing allows it"}

decision := {"allow": true, "rule": "bench.roles", "reason": "the role may"} if {
    not trial_is_over
    some role in input.jwt.roles
    input.permission in data.granted[role]
    not startswith(input.path, "/api/v1/closed/")
}

trial_is_over if {
    input.jwt.trial_mode
    input.facts.trial_expired
}
"#;

/// What each role may.
const DATA: &str = "granted:
  admin: [agent.view, agent.create, agent.delete]
  customer_admin: [agent.view, agent.create]
  customer_user: [agent.view]
  viewer: [agent.view]
";

/// The rates of one tier are left out, so that there are users who are charged nothing.
fn without_enterprise(text: &str) -> String {
    let mut entries = text.split("\n  - name:");
    let head = entries.next().unwrap_or_default().to_owned();
    let kept = entries.filter(|entry| !entry.contains("tier: enterprise"));
    kept.fold(head, |text, entry| text + "\n  - name:" + entry) + "\n"
}

fn raise_caps(text: &str) -> String {
    let raise = |line: &str| match line.split_once("cap:") {
        Some((indent, _cap)) if indent.trim().is_empty() => format!("{indent}cap: {CAP}\n"),
        Some(_) | None => format!("{line}\n"),
    };
    text.lines().map(raise).collect()
}

fn copy_folder(from: &Path, to: &Path) -> Result<(), BenchError> {
    at(to, fs::create_dir_all(to))?;
    for entry in at(from, fs::read_dir(from))? {
        let source = at(from, entry)?.path();
        let Some(name) = source.file_name() else { continue };
        let target = to.join(name);
        if source.is_dir() {
            copy_folder(&source, &target)?;
        } else {
            at(&source, fs::copy(&source, &target))?;
        }
    }
    Ok(())
}

/// Envoy's configuration: our names filled in, the stack's left to the stack.
pub(crate) fn template(shipped: &Path, home: &Path, ports: &BenchPorts, jwks_port: u16) -> Result<PathBuf, BenchError> {
    let module = home.join("empty.wasm");
    at(&module, fs::write(&module, empty_module::bytes()))?;
    let text = at(shipped, fs::read_to_string(shipped))?;
    let rendered = home.join("envoy.yaml");
    at(&rendered, fs::write(&rendered, render(&text, ports, jwks_port, &module)))?;
    Ok(rendered)
}

fn render(text: &str, ports: &BenchPorts, jwks_port: u16, module: &Path) -> String {
    let numbers = [
        ("@BARE_PORT@", ports.of(Variant::Bare)),
        ("@WASM_EMPTY_PORT@", ports.of(Variant::WasmEmpty)),
        ("@JWT_CACHED_PORT@", ports.of(Variant::JwtCached)),
        ("@JWT_UNCACHED_PORT@", ports.of(Variant::JwtUncached)),
        ("@JWT_AUTHZ_PORT@", ports.of(Variant::JwtAuthz)),
        ("@JWT_AUTHZ_RATE_PORT@", ports.of(Variant::JwtAuthzRate)),
        ("@SERVICE_PORT@", ports.service()),
        ("@JWKS_PORT@", jwks_port),
    ];
    let text = text.replace("@EMPTY_WASM@", &module.display().to_string());
    numbers.into_iter().fold(text, |text, (name, port)| text.replace(name, &port.to_string()))
}

fn at<T>(path: &Path, result: std::io::Result<T>) -> Result<T, BenchError> {
    result.map_err(|source| BenchError::File { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use cli::stack::repository;

    #[test]
    fn raises_every_cap_and_nothing_else() {
        let text = raise_caps("# cap: 1\n  - name: a\n    cap: 10   # ten\n    recap: 1\n");
        assert_eq!(text, "# cap: 1\n  - name: a\n    cap: 4000000000\n    recap: 1\n");
    }

    #[test]
    fn copies_the_shipped_policies() {
        let home = tempfile::tempdir().unwrap();
        let copy = policies(&repository().join("policies"), home.path()).unwrap();
        let budgets = fs::read_to_string(copy.join("budgets.yaml")).unwrap();
        assert!(budgets.contains("cap: 4000000000") && !budgets.contains("cap: 50\n"));
        assert!(copy.join("routes/agents.yaml").exists());
        assert!(budgets.contains("tier: paid") && !budgets.contains("tier: enterprise"));
    }

    #[test]
    fn knows_every_name_of_the_shipped_configuration() {
        let home = tempfile::tempdir().unwrap();
        let ports = BenchPorts::above(24_000).unwrap();
        let path = template(&repository().join("bench/envoy.yaml"), home.path(), &ports, 1).unwrap();
        let text = fs::read_to_string(path).unwrap();
        let body = text.lines().filter(|line| !line.trim_start().starts_with('#'));
        // What is left of `@` is protobuf's `"@type"`.
        assert_eq!(body.filter(|line| line.replace("\"@type\"", "").contains('@')).count(), 0);
    }
}
