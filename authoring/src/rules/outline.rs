//! What a module says, as far as the gate asks: its rules, what each refers to and calls, and its texts. Walks the parsed tree
//! to a bounded depth.
#![expect(clippy::wildcard_enum_match_arm, reason = "the parser's enum: whatever it has more of is like the rest")]

use super::parse_fault;
use crate::PolicyFault;
use regorus::Value;
use regorus::unstable::{AssignOp, Expr, Import, Literal, LiteralStmt, Module, Parser, Query, Rule, RuleAssign, RuleHead, Span};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Expressions within expressions: the interpreter follows them on its stack.
const DEPTH_MAX: usize = 48;

/// Which Rego a module is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Generation {
    /// As OPA read it before 1.0: `if` and `contains` only where they are imported.
    V0,
    /// As OPA reads it since.
    V1,
}

/// One module.
#[derive(Debug)]
pub(crate) struct Outline {
    pub(crate) file: String,
    /// As it was parsed.
    pub(crate) module: Module,
    /// The package, `gateway` for `package gateway`.
    pub(crate) package: Vec<String>,
    /// Other names for paths, as imports give them.
    imports: BTreeMap<String, Vec<String>>,
    pub(crate) rules: Vec<RuleOutline>,
    /// Texts that stand in the module: what inputs are compared with is among them.
    pub(crate) texts: BTreeSet<String>,
    /// Inputs that its tests give.
    pub(crate) inputs: Vec<serde_json::Value>,
}

/// One definition of a rule; a rule may have several.
#[derive(Debug, Default)]
pub(crate) struct RuleOutline {
    pub(crate) name: String,
    pub(crate) line: usize,
    /// For each body the line of its last condition, which is looked at only when all others hold.
    pub(crate) bodies: Vec<usize>,
    pub(crate) is_default: bool,
    /// Whether it is a function.
    pub(crate) takes_arguments: bool,
    /// Paths from `input` or `data`, as far as they are written out.
    pub(crate) references: Vec<Reference>,
    pub(crate) calls: Vec<Call>,
    /// The line of a `with`.
    pub(crate) with: Option<usize>,
    locals: BTreeSet<String>,
    /// Variables that get their value by being used: as an index, or on a side of `=`.
    bound: BTreeSet<String>,
}

impl RuleOutline {
    /// Whether its value stands there: it asks for nothing.
    pub(crate) fn is_constant(&self) -> bool {
        let asks = !self.references.is_empty() || !self.calls.is_empty();
        !asks && !self.is_default && !self.takes_arguments && self.bodies.len() <= 1
    }

    /// Whether a variable of this name has a value somewhere in the rule.
    pub(crate) fn binds(&self, name: &str) -> bool {
        name.starts_with('_') || self.locals.contains(name) || self.bound.contains(name)
    }
}

/// A path that is referred to.
#[derive(Clone, Debug)]
pub(crate) struct Reference {
    pub(crate) path: Vec<String>,
    pub(crate) line: usize,
}

/// A call of a function.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) path: Vec<String>,
    pub(crate) line: usize,
    /// Its first argument, where that is a text which stands there.
    pub(crate) first: Option<String>,
}

impl Outline {
    /// Parses a module and walks it.
    pub(crate) fn of(file: &str, text: &str, generation: Generation) -> Result<Self, PolicyFault> {
        let fault = |problem: String| parse_fault(file, &problem);
        let source = regorus::Source::from_contents(file.into(), text.into()).map_err(|error| fault(error.to_string()))?;
        let mut parser = Parser::new(&source).map_err(|error| fault(error.to_string()))?;
        if generation == Generation::V1 {
            parser.enable_rego_v1().map_err(|error| fault(error.to_string()))?;
        }
        let module = parser.parse().map_err(|error| fault(error.to_string()))?;
        Self::walk(file, module)
    }

    fn walk(file: &str, module: Module) -> Result<Self, PolicyFault> {
        let package = static_path(&module.package.refr).0;
        let imports = module.imports.iter().filter_map(alias).collect();
        let file_name = file.into();
        let mut outline = Self { file: file_name, module, package, imports, rules: Vec::new(), texts: BTreeSet::new(), inputs: Vec::new() };
        for rule in &outline.module.policy {
            let mut walk = Walk { rule: RuleOutline::default(), texts: &mut outline.texts, inputs: &mut outline.inputs, too_deep: None };
            walk.rule(rule);
            let (rule, too_deep) = (walk.rule, walk.too_deep);
            if let Some(line) = too_deep {
                let message = format!("an expression is nested more than {DEPTH_MAX} deep");
                return Err(PolicyFault {
                    file: Some(file.into()),
                    line: Some(line),
                    field: Some(rule.name),
                    message,
                    ..PolicyFault::default()
                });
            }
            outline.rules.push(rule);
        }
        Ok(outline)
    }

    /// A rule of this module: its package, and its name.
    pub(super) fn node(&self, rule: &str) -> Vec<String> {
        self.package.iter().map(String::as_str).chain([rule]).map(str::to_owned).collect()
    }

    /// The path with imports and names of the own package written out; `None` for a variable.
    pub(crate) fn resolve(&self, rule: &RuleOutline, path: &[String], is_own: impl Fn(&str) -> bool) -> Option<Vec<String>> {
        let (root, rest) = path.split_first()?;
        if root == "input" || root == "data" {
            return Some(path.to_vec());
        }
        if rule.locals.contains(root) {
            return None;
        }
        if is_own(root) {
            return Some([&["data".to_owned()], self.package.as_slice(), path].concat());
        }
        self.imports.get(root).map(|target| [target.as_slice(), rest].concat())
    }

    /// The names that imports give.
    pub(crate) fn aliases(&self) -> impl Iterator<Item = &str> {
        self.imports.keys().map(String::as_str)
    }

    /// A rule of the own package that is called: what is a local variable cannot be.
    pub(crate) fn resolve_call(&self, path: &[String], is_own: impl Fn(&str) -> bool) -> Option<Vec<String>> {
        let nothing_local = RuleOutline::default();
        self.resolve(&nothing_local, path, is_own)
    }
}

fn alias(import: &Import) -> Option<(String, Vec<String>)> {
    let path = static_path(&import.refr).0;
    if !path.first().is_some_and(|root| root == "data" || root == "input") {
        return None;
    }
    let name = import.r#as.as_ref().map(|name| name.text().to_owned()).or_else(|| path.last().cloned())?;
    Some((name, path))
}

/// The path as far as it is written out, and what follows it.
pub(super) fn static_path(expr: &Expr) -> (Vec<String>, Vec<&Expr>) {
    let (mut steps, mut at) = (Vec::new(), expr);
    let root = loop {
        match at {
            Expr::RefDot { refr, field, .. } => {
                steps.push(Ok(field.0.text().to_owned()));
                at = refr;
            }
            Expr::RefBrack { refr, index, .. } => {
                steps.push(match index.as_ref() {
                    Expr::String { value: Value::String(name), .. } | Expr::RawString { value: Value::String(name), .. } => {
                        Ok(name.to_string())
                    }
                    other => Err(other),
                });
                at = refr;
            }
            Expr::Var { span, .. } => break Some(span.text().to_owned()),
            _ => break None,
        }
    };
    let mut path: Vec<String> = root.into_iter().collect();
    let mut others = if path.is_empty() { vec![at] } else { Vec::new() };
    let mut written_out = !path.is_empty();
    for step in steps.into_iter().rev() {
        match step {
            Ok(name) if written_out => path.push(name),
            Ok(_) => {}
            Err(index) => {
                written_out = false;
                others.push(index);
            }
        }
    }
    (path, others)
}

/// A reference taken apart.
pub(super) struct Steps<'e> {
    /// As far as it is written out; empty when it does not begin with a name.
    pub(super) path: Vec<String>,
    /// What it begins with then.
    pub(super) root: Option<&'e Expr>,
    /// What follows: a name, or an index and the expression that it ends.
    pub(super) rest: Vec<Option<(&'e Expr, &'e Expr)>>,
}

impl<'e> Steps<'e> {
    pub(super) fn of(expr: &'e Expr) -> Self {
        let (mut at, mut steps) = (expr, Vec::new());
        let root = loop {
            match at {
                Expr::RefDot { refr, field, .. } => {
                    steps.push((Some(field.0.text().to_owned()), None));
                    at = refr;
                }
                Expr::RefBrack { refr, index, .. } => {
                    steps.push((text_of(index), Some((at, index.as_ref()))));
                    at = refr;
                }
                other => break other,
            }
        };
        let (mut path, root) = match root {
            Expr::Var { span, .. } => (vec![span.text().to_owned()], None),
            other => (Vec::new(), Some(other)),
        };
        let mut rest = Vec::new();
        for (name, step) in steps.into_iter().rev() {
            match name {
                Some(name) if rest.is_empty() && root.is_none() => path.push(name),
                Some(_) | None => rest.push(step),
            }
        }
        Self { path, root, rest }
    }
}

struct Walk<'o> {
    rule: RuleOutline,
    texts: &'o mut BTreeSet<String>,
    inputs: &'o mut Vec<serde_json::Value>,
    too_deep: Option<usize>,
}

fn line(span: &Span) -> usize {
    usize::try_from(span.line).unwrap_or(usize::MAX)
}

impl Walk<'_> {
    fn rule(&mut self, rule: &Rule) {
        let span = rule.span();
        self.rule.line = line(span);
        match rule {
            Rule::Default { refr, args, value, .. } => {
                self.rule.is_default = true;
                self.name(refr);
                self.rule.takes_arguments = !args.is_empty();
                args.iter().for_each(|arg| self.locals_of(arg));
                self.expr(value, 0);
            }
            Rule::Spec { head, bodies, .. } => {
                match head {
                    RuleHead::Compr { refr, assign, .. } => {
                        self.name(refr);
                        self.assigned(assign.as_ref());
                    }
                    RuleHead::Set { refr, key, .. } => {
                        self.name(refr);
                        key.iter().for_each(|key| self.expr(key, 0));
                    }
                    RuleHead::Func { refr, args, assign, .. } => {
                        self.name(refr);
                        self.rule.takes_arguments = true;
                        args.iter().for_each(|arg| self.locals_of(arg));
                        self.assigned(assign.as_ref());
                    }
                }
                let value = match head {
                    RuleHead::Compr { assign, .. } | RuleHead::Func { assign, .. } => assign.as_ref(),
                    RuleHead::Set { .. } => None,
                };
                for (number, body) in bodies.iter().enumerate() {
                    let value = body.assign.as_ref().or(value.filter(|_| number == 0));
                    let last = body.query.stmts.last().map(|last| &last.span);
                    self.rule.bodies.extend(last.or(value.map(|value| value.value.span())).map(line));
                    self.assigned(body.assign.as_ref());
                    self.query(&body.query, 0);
                }
                if bodies.is_empty() {
                    self.rule.bodies.extend(value.map(|value| line(value.value.span())));
                }
            }
        }
    }

    fn name(&mut self, refr: &Expr) {
        let (path, others) = static_path(refr);
        self.rule.name = path.first().cloned().unwrap_or_default();
        others.iter().for_each(|other| self.expr(other, 1));
    }

    fn assigned(&mut self, assign: Option<&RuleAssign>) {
        assign.iter().for_each(|assign| self.expr(&assign.value, 0));
    }

    fn query(&mut self, query: &Query, depth: usize) {
        query.stmts.iter().for_each(|statement| self.statement(statement, depth));
    }

    fn statement(&mut self, statement: &LiteralStmt, depth: usize) {
        for modifier in &statement.with_mods {
            self.rule.with = Some(line(&modifier.span));
            if static_path(&modifier.refr).0 == ["input"] {
                self.inputs.extend(json_of(&modifier.r#as, 0));
            }
            self.expr(&modifier.r#as, depth);
        }
        match &statement.literal {
            Literal::SomeVars { vars, .. } => self.rule.locals.extend(vars.iter().map(|name| name.text().to_owned())),
            Literal::SomeIn { key, value, collection, .. } => {
                key.iter().for_each(|key| self.locals_of(key));
                self.locals_of(value);
                self.expr(collection, depth);
            }
            Literal::Expr { expr, .. } | Literal::NotExpr { expr, .. } => self.expr(expr, depth),
            Literal::Every { key, value, domain, query, .. } => {
                self.rule.locals.extend(key.iter().chain([value]).map(|name| name.text().to_owned()));
                self.expr(domain, depth);
                self.query(query, depth.saturating_add(1));
            }
        }
    }

    /// The variables of a pattern.
    fn locals_of(&mut self, pattern: &Expr) {
        match pattern {
            Expr::Var { span, .. } => {
                self.rule.locals.insert(span.text().to_owned());
            }
            Expr::Array { items, .. } => items.iter().for_each(|item| self.locals_of(item)),
            Expr::Object { fields, .. } => fields.iter().for_each(|(_, _, value)| self.locals_of(value)),
            other => self.expr(other, 1),
        }
    }

    fn expr(&mut self, expr: &Expr, depth: usize) {
        if depth > DEPTH_MAX {
            self.too_deep.get_or_insert(line(expr.span()));
            return;
        }
        let below = depth.saturating_add(1);
        match expr {
            Expr::String { value: Value::String(text), .. } | Expr::RawString { value: Value::String(text), .. } => {
                self.texts.insert(text.to_string());
            }
            Expr::String { .. } | Expr::RawString { .. } | Expr::Number { .. } | Expr::Bool { .. } | Expr::Null { .. } => {}
            Expr::Var { .. } | Expr::RefDot { .. } | Expr::RefBrack { .. } => self.reference(expr, below),
            Expr::Array { items, .. } | Expr::Set { items, .. } => items.iter().for_each(|item| self.expr(item, below)),
            Expr::Object { fields, .. } => fields.iter().for_each(|(_, key, value)| {
                self.expr(key, below);
                self.expr(value, below);
            }),
            Expr::ArrayCompr { term, query, .. } | Expr::SetCompr { term, query, .. } => {
                self.expr(term, below);
                self.query(query, below);
            }
            Expr::ObjectCompr { key, value, query, .. } => {
                self.expr(key, below);
                self.expr(value, below);
                self.query(query, below);
            }
            Expr::Call { span, fcn, params, .. } => {
                let first = params.first().and_then(|param| text_of(param));
                let (path, _) = static_path(fcn);
                self.rule.calls.push(Call { path, line: line(span), first });
                params.iter().for_each(|param| self.expr(param, below));
            }
            Expr::UnaryExpr { expr, .. } => self.expr(expr, below),
            Expr::AssignExpr { op, lhs, rhs, .. } => {
                match op {
                    AssignOp::ColEq => self.locals_of(lhs),
                    AssignOp::Eq => {
                        self.bind(lhs);
                        self.bind(rhs);
                        self.expr(lhs, below);
                    }
                }
                self.expr(rhs, below);
            }
            Expr::BinExpr { lhs, rhs, .. } | Expr::BoolExpr { lhs, rhs, .. } | Expr::ArithExpr { lhs, rhs, .. } => {
                self.expr(lhs, below);
                self.expr(rhs, below);
            }
            Expr::Membership { key, value, collection, .. } => {
                key.iter().for_each(|key| self.expr(key, below));
                self.expr(value, below);
                self.expr(collection, below);
            }
        }
    }

    fn reference(&mut self, expr: &Expr, below: usize) {
        let (path, others) = static_path(expr);
        if !path.is_empty() {
            self.rule.references.push(Reference { path, line: line(expr.span()) });
        }
        for other in others {
            self.bind(other);
            self.expr(other, below);
        }
    }

    fn bind(&mut self, side: &Expr) {
        match side {
            Expr::Var { span, .. } => {
                self.rule.bound.insert(span.text().to_owned());
            }
            Expr::Array { items, .. } => items.iter().for_each(|item| self.bind(item)),
            Expr::Object { fields, .. } => fields.iter().for_each(|(_, _, value)| self.bind(value)),
            _ => {}
        }
    }
}

fn text_of(expr: &Expr) -> Option<String> {
    match expr {
        Expr::String { value, .. } | Expr::RawString { value, .. } => value.as_string().ok().map(ToString::to_string),
        _ => None,
    }
}

/// A literal as JSON; `None` when it is not one throughout.
fn json_of(expr: &Expr, depth: usize) -> Option<serde_json::Value> {
    if depth > DEPTH_MAX {
        return None;
    }
    let below = depth.saturating_add(1);
    match expr {
        Expr::String { value, .. }
        | Expr::RawString { value, .. }
        | Expr::Number { value, .. }
        | Expr::Bool { value, .. }
        | Expr::Null { value, .. } => serde_json::from_str(&value.to_json_str().ok()?).ok(),
        Expr::Array { items, .. } => items.iter().map(|item| json_of(item, below)).collect::<Option<Vec<_>>>().map(Into::into),
        Expr::Object { fields, .. } => {
            let fields = fields.iter().map(|(_, key, value)| Some((text_of(key)?, json_of(value, below)?)));
            fields.collect::<Option<serde_json::Map<_, _>>>().map(Into::into)
        }
        _ => None,
    }
}
