//! What modules must keep to before any of it is evaluated: every name means something, nothing calls itself, and only
//! builtins of the list are called.

use super::builtins;
use super::outline::{Call, Outline, RuleOutline};
use super::text::Kind;
use crate::PolicyFault;
use decision_core::nearest::nearest;
use rules::InputField;
use std::collections::{BTreeMap, BTreeSet};

/// Rules that call rules that call rules: the interpreter follows them on its stack.
const CHAIN_MAX: usize = 16;
/// The widest field of a format: `%1000000000d` would be a gigabyte.
const WIDTH_DIGITS_MAX: usize = 2;

/// A package and a rule in it.
type Node = Vec<String>;

/// All modules of a policy.
pub(super) struct Modules<'m> {
    pub(super) outlines: &'m [(Outline, Kind)],
    pub(super) inputs: &'m [InputField],
    pub(super) data: &'m serde_json::Map<String, serde_json::Value>,
}

impl Modules<'_> {
    /// The first thing that is wrong.
    pub(super) fn check(&self) -> Result<(), PolicyFault> {
        let nodes = self.nodes();
        self.check_packages(&nodes)?;
        let mut edges: BTreeMap<Node, BTreeSet<Node>> = BTreeMap::new();
        for (outline, kind) in self.outlines {
            for rule in &outline.rules {
                let is_own = |name: &str| nodes.contains(&node(outline, name));
                self.check_shape(outline, rule, *kind)?;
                let from = edges.entry(node(outline, &rule.name)).or_default();
                for call in &rule.calls {
                    match outline.resolve_call(&call.path, is_own) {
                        Some(path) => {
                            self.check_function(outline, rule, call, &path)?;
                            from.extend(reached(&nodes, &path));
                        }
                        None => check_builtin(outline, rule, call, &nodes)?,
                    }
                }
                for reference in &rule.references {
                    let Some(path) = outline.resolve(rule, &reference.path, is_own) else {
                        if let Some(name) = reference.path.first().filter(|name| !rule.binds(name)) {
                            let message = format!("`{name}` is nothing that is known here: no rule, import or variable");
                            return Err(fault(outline, rule, reference.line, message));
                        }
                        continue;
                    };
                    let message = match path.first().map(String::as_str) {
                        // Tests bring their own inputs.
                        Some("input") if *kind == Kind::Rules => self.input_fault(&path),
                        Some("data") => self.data_fault(&path, &nodes),
                        Some(_) | None => None,
                    };
                    if let Some(message) = message {
                        return Err(fault(outline, rule, reference.line, message));
                    }
                    from.extend(reached(&nodes, &path));
                }
            }
        }
        self.check_chains(&edges)
    }

    fn nodes(&self) -> BTreeSet<Node> {
        self.outlines.iter().flat_map(|(outline, _)| outline.rules.iter().map(|rule| node(outline, &rule.name))).collect()
    }

    /// The entry point is there with its default, and data does not hide a package.
    fn check_packages(&self, nodes: &BTreeSet<Node>) -> Result<(), PolicyFault> {
        for (outline, _) in self.outlines {
            if let Some(root) = outline.package.first().filter(|root| self.data.contains_key(*root)) {
                let message = format!("the package `{root}` is a key of rules.data too: one would hide the other");
                return Err(PolicyFault {
                    file: Some(outline.file.clone()),
                    line: Some(1),
                    field: None,
                    message,
                    ..PolicyFault::default()
                });
            }
        }
        for (outline, _) in self.outlines {
            if let Some(rule) = nodes.iter().find(|node| outline.package.starts_with(node)) {
                let message =
                    format!("the package `{}` is below the rule `{}`: one would hide the other", outline.package.join("."), rule.join("."));
                return Err(PolicyFault { file: Some(outline.file.clone()), line: Some(1), message, ..PolicyFault::default() });
            }
        }
        let modules = || self.outlines.iter().filter(|(_, kind)| *kind == Kind::Rules).map(|(outline, _)| outline);
        let of_entry = |rule: &RuleOutline| rule.name == "decision" && rule.is_default;
        if modules().any(|outline| outline.package == ["gateway"] && outline.rules.iter().any(of_entry)) {
            return Ok(());
        }
        let entry = node_of(&["gateway", "decision"]);
        let message = if nodes.contains(&entry) {
            "`decision` of the package `gateway` has no default: add `default decision := {\"allow\": false, \"rule\": …}`"
        } else {
            "no module of the package `gateway` defines `decision`"
        };
        let file =
            modules().find(|outline| outline.package == ["gateway"]).or_else(|| modules().next()).map(|outline| outline.file.clone());
        Err(PolicyFault {
            file,
            line: None,
            field: Some("data.gateway.decision".into()),
            message: message.into(),
            ..PolicyFault::default()
        })
    }

    fn check_shape(&self, outline: &Outline, rule: &RuleOutline, kind: Kind) -> Result<(), PolicyFault> {
        // A call could mean either, and one of the two has not been looked at.
        if let Some(builtin) = outline.aliases().chain([rule.name.as_str()]).find_map(builtins::hidden_by) {
            return Err(fault(outline, rule, rule.line, format!("a rule or import must not have the name of the builtin `{builtin}`")));
        }
        if kind == Kind::Tests {
            return Ok(());
        }
        if let Some(line) = rule.with {
            return Err(fault(outline, rule, line, "`with` belongs into tests: a rule must not change what it is asked".into()));
        }
        if rule.name.starts_with("test_") {
            return Err(fault(outline, rule, rule.line, "tests belong into a module whose name ends with `_test.rego`".into()));
        }
        Ok(())
    }

    /// A bracket that opens a line belongs to the line before it: a condition becomes a call of nothing.
    fn check_function(&self, outline: &Outline, rule: &RuleOutline, call: &Call, path: &[String]) -> Result<(), PolicyFault> {
        let called = path.split_first().filter(|(root, _)| *root == "data").map(|(_, node)| node);
        let mut functions = self
            .outlines
            .iter()
            .flat_map(|(outline, _)| outline.rules.iter().filter(|rule| rule.takes_arguments).map(|rule| node(outline, &rule.name)));
        if functions.any(|function| called == Some(function.as_slice())) {
            return Ok(());
        }
        let message = format!("`{}` is no function: a line that begins with a bracket is read as its arguments", call.path.join("."));
        Err(fault(outline, rule, call.line, message))
    }

    fn input_fault(&self, path: &[String]) -> Option<String> {
        let asked = path.get(1..).unwrap_or_default().join(".");
        let below = |whole: &str, part: &str| whole == part || whole.strip_prefix(part).is_some_and(|rest| rest.starts_with('.'));
        let matches = |field: &&InputField| asked.is_empty() || below(field.path(), &asked) || below(&asked, field.path());
        if self.inputs.iter().any(|field| matches(&field)) || asked.is_empty() {
            return None;
        }
        if let Some(known) = InputField::ALL.iter().find(matches) {
            return Some(format!("`input.{asked}` is not declared: add `{}` to rules.inputs", known.path()));
        }
        let hint = nearest(&asked, InputField::ALL.iter().map(|field| field.path()));
        let hint = hint.map_or_else(String::new, |name| format!("; the nearest name is `input.{name}`"));
        Some(format!("`input.{asked}` is not an input that rules may read{hint}"))
    }

    fn data_fault(&self, path: &[String], nodes: &BTreeSet<Node>) -> Option<String> {
        let asked = path.get(1..).unwrap_or_default();
        let root = asked.first()?;
        if nodes.iter().any(|node| node.first() == Some(root)) {
            let known = nodes.iter().any(|node| node.starts_with(asked) || asked.starts_with(node));
            return (!known).then(|| {
                let names: Vec<String> = nodes.iter().map(|node| node.join(".")).collect();
                unknown("data", &asked.join("."), names.iter().map(String::as_str))
            });
        }
        let mut at = Some(self.data);
        let mut seen = String::from("data");
        for name in asked {
            let object = at?;
            let Some(value) = object.get(name) else {
                return Some(unknown(&seen, name, object.keys().map(String::as_str)));
            };
            seen = format!("{seen}.{name}");
            at = value.as_object();
        }
        None
    }

    /// No rule reaches itself, and no chain is long.
    fn check_chains(&self, edges: &BTreeMap<Node, BTreeSet<Node>>) -> Result<(), PolicyFault> {
        let mut depths: BTreeMap<&Node, usize> = BTreeMap::new();
        for start in edges.keys() {
            // Its own stack instead of the thread's: chains may be as long as the modules.
            let mut trail: Vec<(&Node, Vec<&Node>)> = vec![(start, edges.get(start).into_iter().flatten().collect())];
            while let Some((at, pending)) = trail.last_mut() {
                let at = *at;
                if depths.contains_key(at) {
                    trail.pop();
                    continue;
                }
                if let Some(next) = pending.pop() {
                    if let Some(from) = trail.iter().position(|(node, _)| *node == next) {
                        let cycle: Vec<String> = trail.iter().skip(from).map(|(node, _)| node.join(".")).collect();
                        return Err(self.at(next, format!("the rule depends on itself: {} → {}", cycle.join(" → "), next.join("."))));
                    }
                    if !depths.contains_key(next) {
                        trail.push((next, edges.get(next).into_iter().flatten().collect()));
                    }
                    continue;
                }
                let below = edges.get(at).into_iter().flatten().filter_map(|next| depths.get(next)).max().copied();
                let depth = below.map_or(1, |below| below.saturating_add(1));
                if depth > CHAIN_MAX {
                    return Err(self.at(at, format!("rules depend on rules more than {CHAIN_MAX} deep")));
                }
                depths.insert(at, depth);
                trail.pop();
            }
        }
        Ok(())
    }

    fn at(&self, node: &Node, message: String) -> PolicyFault {
        let found = self.outlines.iter().find_map(|(outline, _)| {
            let rule = outline.rules.iter().find(|rule| self::node(outline, &rule.name) == *node)?;
            Some(fault(outline, rule, rule.line, message.clone()))
        });
        found.unwrap_or_else(|| PolicyFault { field: Some(node.join(".")), message, ..PolicyFault::default() })
    }
}

fn check_builtin(outline: &Outline, rule: &RuleOutline, call: &Call, nodes: &BTreeSet<Node>) -> Result<(), PolicyFault> {
    let name = call.path.join(".");
    if !builtins::is_allowed(&name) {
        let own: Vec<&str> =
            nodes.iter().filter(|node| node.starts_with(&outline.package)).filter_map(|node| node.last()).map(String::as_str).collect();
        let hint = nearest(&name, builtins::ALLOWED.into_iter().chain(own));
        let hint = hint.map_or_else(String::new, |name| format!("; the nearest name is `{name}`"));
        return Err(fault(outline, rule, call.line, format!("`{name}` is not a function that rules may call{hint}")));
    }
    let refused = |message: String| Err(fault(outline, rule, call.line, message));
    if name != "sprintf" {
        return Ok(());
    }
    let Some(format) = &call.first else {
        return refused("the format of `sprintf` has to stand there: a client must not choose it".into());
    };
    if is_wide(format) {
        return refused(format!("a width in the format of `sprintf` has more than {WIDTH_DIGITS_MAX} digits"));
    }
    // The interpreter takes them for digits of a width, and fails on them.
    match format.chars().find(|character| character.is_numeric() && !character.is_ascii()) {
        Some(numeral) => refused(format!("the format of `sprintf` must not have the numeral `{numeral}`: give it as an argument")),
        None => Ok(()),
    }
}

fn is_wide(format: &str) -> bool {
    format.split('%').skip(1).any(|rest| {
        let width = rest.trim_start_matches(['+', '-', '#', ' ', '0', '.']);
        let digits = width.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'.').count();
        digits > WIDTH_DIGITS_MAX
    })
}

fn unknown<'n>(at: &str, name: &str, known: impl Iterator<Item = &'n str>) -> String {
    let hint = nearest(name, known).map_or_else(String::new, |name| format!("; the nearest name is `{at}.{name}`"));
    format!("`{at}.{name}` does not exist{hint}")
}

/// The rules that a path from `data` reads: the one that it names, or all below it.
fn reached<'n>(nodes: &'n BTreeSet<Node>, path: &[String]) -> impl Iterator<Item = Node> + use<'n> {
    let asked: Option<Vec<String>> = (path.first().map(String::as_str) == Some("data")).then(|| path.get(1..).unwrap_or_default().to_vec());
    nodes.iter().filter(move |node| asked.as_ref().is_some_and(|asked| node.starts_with(asked) || asked.starts_with(node))).cloned()
}

fn node(outline: &Outline, name: &str) -> Node {
    outline.node(name)
}

fn node_of(path: &[&str]) -> Node {
    path.iter().map(|name| (*name).to_owned()).collect()
}

fn fault(outline: &Outline, rule: &RuleOutline, line: usize, message: String) -> PolicyFault {
    let field = [outline.package.as_slice(), std::slice::from_ref(&rule.name)].concat().join(".");
    PolicyFault { file: Some(outline.file.clone()), line: Some(line), field: Some(field), message, ..PolicyFault::default() }
}
