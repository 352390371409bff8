//! How large the values of rules may become, found without evaluating them. The interpreter looks at the clock between its steps and
//! never within one, so every value that a step looks at has to be bounded: a rule that doubles a text thirty times behind a condition
//! that no sample meets would take the filter's memory before the clock is looked at again.
//!
//! Each expression is walked with the sizes of its parts in the places of their values: those of inputs and data are known, a rule is
//! as large as the largest of its bodies, a function is walked anew for arguments of other sizes, a comprehension is as large as what
//! its loops go through. Names that nothing binds were refused before, and so was everything that depends on itself.

mod builtins;
mod documents;
mod expr;
mod extent;
#[cfg(test)]
mod tests;

use super::outline::Outline;
use crate::PolicyFault;
use documents::Data;
use expr::{Binding, Scope, is_literal};
use extent::{Extent, Loops};
use regorus::unstable::{Expr, Query, Rule, RuleAssign, RuleBody, RuleHead};
use rules::InputField;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Expressions that are walked for one policy: calls of calls of calls are walked again and again.
const WORK_MAX: usize = 1_000_000;

/// A package and a rule in it.
type Node = Vec<String>;

/// Refuses the first value that may become too large.
pub(super) fn check(outlines: &[&Outline], inputs: &[InputField], data: &Map<String, Value>) -> Result<(), PolicyFault> {
    let mut growth = Growth::new(outlines, inputs, data);
    let nodes: Vec<Node> = growth.rules.keys().cloned().collect();
    // Functions are walked where they are called, and one that nobody calls is never evaluated.
    nodes.iter().try_for_each(|node| growth.rule(node).map(drop))
}

/// One definition of a rule.
#[derive(Clone, Copy)]
struct Definition<'m> {
    outline: &'m Outline,
    name: &'m str,
    rule: &'m Rule,
}

struct Growth<'m> {
    rules: BTreeMap<Node, Vec<Definition<'m>>>,
    inputs: &'m [InputField],
    data: Data<'m>,
    /// Rules that were walked.
    known: BTreeMap<Node, Extent>,
    /// Functions that were, for arguments of these sizes. What is told by loops holds until one goes through more.
    calls: BTreeMap<(Node, Vec<Extent>, usize), Extent>,
    loops: Loops,
    /// Whether something was asked for before all was known of it.
    unsettled: bool,
    work: usize,
}

impl<'m> Growth<'m> {
    fn new(outlines: &[&'m Outline], inputs: &'m [InputField], data: &'m Map<String, Value>) -> Self {
        let mut rules: BTreeMap<Node, Vec<Definition<'m>>> = BTreeMap::new();
        for outline in outlines {
            for (rule, outlined) in outline.module.policy.iter().zip(&outline.rules) {
                rules.entry(outline.node(&outlined.name)).or_default().push(Definition { outline, name: &outlined.name, rule });
            }
        }
        Self {
            rules,
            inputs,
            data: Data::new(data),
            known: BTreeMap::new(),
            calls: BTreeMap::new(),
            loops: Loops::default(),
            unsettled: false,
            work: 0,
        }
    }

    /// How large a rule's value may be: the largest of its definitions, or all of them where each adds to it.
    fn rule(&mut self, node: &Node) -> Result<Extent, PolicyFault> {
        if let Some(known) = self.known.get(node) {
            return Ok(known.clone());
        }
        let definitions = self.rules.get(node).cloned().unwrap_or_default();
        let mut value = Extent::default();
        for definition in &definitions {
            let more = self.definition(definition)?;
            value = if definitions.iter().all(|definition| is_whole(definition.rule)) { value.or(&more) } else { value.plus(&more) };
        }
        self.known.insert(node.clone(), value.clone());
        Ok(value)
    }

    fn definition(&mut self, definition: &Definition<'m>) -> Result<Extent, PolicyFault> {
        let mut scope = Scope::new(definition.outline, definition.name);
        match definition.rule {
            Rule::Default { refr, value, .. } if is_name(refr) => self.expr(&mut scope, value),
            Rule::Spec { head: RuleHead::Compr { refr, assign, .. }, bodies, .. } if is_name(refr) => {
                self.bodies(&scope, None, assign.as_ref(), bodies)
            }
            Rule::Spec { head: RuleHead::Compr { refr, assign, .. }, bodies, .. } => match key_of(refr) {
                Some(key) => self.bodies(&scope, Some(Key::OfObject(key)), assign.as_ref(), bodies),
                None => Err(odd_head(&scope, refr)),
            },
            Rule::Spec { head: RuleHead::Set { refr, key, .. }, bodies, .. } => {
                let key = if is_name(refr) { key.as_deref() } else { key_of(refr).filter(|_| key.is_none()) };
                match key {
                    Some(key) => self.bodies(&scope, Some(Key::OfSet(key)), None, bodies),
                    None => Err(odd_head(&scope, refr)),
                }
            }
            // A function has a value where it is called.
            Rule::Spec { head: RuleHead::Func { refr, args, .. }, .. } if is_name(refr) && !args.is_empty() => Ok(Extent::default()),
            Rule::Spec { head: RuleHead::Func { refr, assign, .. }, bodies, .. } if is_name(refr) => {
                self.bodies(&scope, None, assign.as_ref(), bodies)
            }
            Rule::Default { refr, .. } | Rule::Spec { head: RuleHead::Func { refr, .. }, .. } => Err(odd_head(&scope, refr)),
        }
    }

    /// Without a key, one of the bodies' values; with one, all that their loops make.
    fn bodies(
        &mut self,
        scope: &Scope<'m>,
        key: Option<Key<'m>>,
        assign: Option<&'m RuleAssign>,
        bodies: &'m [RuleBody],
    ) -> Result<Extent, PolicyFault> {
        let mut value = Extent::default();
        let without_body = bodies.is_empty().then_some(None);
        for (number, body) in bodies.iter().map(Some).chain(without_body).enumerate() {
            let mut scope = scope.clone();
            // A later body of an object has the value of the first.
            let assign = body.and_then(|body| body.assign.as_ref()).or(assign.filter(|_| number == 0 || key.is_some()));
            let made = self.whole_query(&mut scope, body.map(|body| body.query.as_ref()), |growth, scope| {
                let made = match assign {
                    Some(assign) => growth.expr(scope, &assign.value)?,
                    None => Extent::one(),
                };
                Ok(match key {
                    None => made,
                    Some(Key::OfSet(key)) => growth.expr(scope, key)?,
                    Some(Key::OfObject(key)) => made.plus(&growth.object_key(scope, key)?),
                })
            })?;
            value = match key {
                None => value.or(&self.loops.any(made, &scope.loops)),
                // A set has an element once, and an object a key.
                Some(Key::OfSet(key) | Key::OfObject(key)) => {
                    value.plus(&self.loops.all(made, if is_literal(key) { &[] } else { &scope.loops }))
                }
            };
        }
        Ok(value)
    }

    /// A query that is in no other, and what is made of it. A name that has no value in the end would count as nothing.
    fn whole_query(
        &mut self,
        scope: &mut Scope<'m>,
        query: Option<&'m Query>,
        make: impl FnMut(&mut Self, &mut Scope<'m>) -> Result<Extent, PolicyFault>,
    ) -> Result<Extent, PolicyFault> {
        let around = std::mem::take(&mut self.unsettled);
        if let Some(query) = query {
            self.query(scope, query)?;
        }
        let made = self.made(scope, make)?;
        if std::mem::replace(&mut self.unsettled, around) {
            let message = "what its variables are cannot be told: bind each before it is used".to_owned();
            let line = query.and_then(|query| usize::try_from(query.span.line).ok());
            let field = Some(scope.outline.node(scope.rule).join("."));
            return Err(PolicyFault { file: Some(scope.outline.file.clone()), line, field, message, ..PolicyFault::default() });
        }
        Ok(made)
    }

    fn arity(&self, node: &Node) -> usize {
        let definitions = self.rules.get(node).into_iter().flatten();
        let arity = |definition: &Definition<'_>| match definition.rule {
            Rule::Spec { head: RuleHead::Func { args, .. }, .. } | Rule::Default { args, .. } => Some(args.len()),
            Rule::Spec { head: RuleHead::Compr { .. } | RuleHead::Set { .. }, .. } => None,
        };
        definitions.filter_map(arity).max().unwrap_or(0)
    }

    /// A function, for arguments of these sizes.
    fn call(&mut self, node: &Node, args: Vec<Extent>) -> Result<Extent, PolicyFault> {
        let changes = if args.iter().any(Extent::has_loops) { self.loops.changes } else { 0 };
        let asked = (node.clone(), args, changes);
        if let Some(known) = self.calls.get(&asked) {
            return Ok(known.clone());
        }
        let mut value = Extent::default();
        for definition in self.rules.get(node).cloned().unwrap_or_default() {
            let (patterns, assign, bodies) = match definition.rule {
                Rule::Spec { head: RuleHead::Func { args, assign, .. }, bodies, .. } => (args, assign.as_ref(), bodies.as_slice()),
                Rule::Default { value: default, .. } => {
                    value = value.or(&self.expr(&mut Scope::new(definition.outline, definition.name), default)?);
                    continue;
                }
                Rule::Spec { head: RuleHead::Compr { .. } | RuleHead::Set { .. }, .. } => continue,
            };
            let mut scope = Scope::new(definition.outline, definition.name);
            for (pattern, arg) in patterns.iter().zip(&asked.1) {
                self.bind(&mut scope, pattern, arg, Binding::Declares)?;
            }
            value = value.or(&self.bodies(&scope, None, assign, bodies)?);
        }
        self.calls.insert(asked, value.clone());
        Ok(value)
    }
}

/// What makes an element another one.
#[derive(Clone, Copy)]
enum Key<'m> {
    OfSet(&'m Expr),
    OfObject(&'m Expr),
}

fn is_name(refr: &Expr) -> bool {
    matches!(refr, Expr::Var { .. })
}

/// The key of `name[key]`.
fn key_of(refr: &Expr) -> Option<&Expr> {
    if let Expr::RefBrack { refr, index, .. } = refr { is_name(refr).then_some(index) } else { None }
}

fn odd_head(scope: &Scope<'_>, refr: &Expr) -> PolicyFault {
    expr::fault(scope, refr.span(), "a rule is called `name`, `name[key]` or `name contains value`, with one key at most".into())
}

/// Whether a rule has one value, and not parts that definitions add.
fn is_whole(rule: &Rule) -> bool {
    match rule {
        Rule::Default { .. } | Rule::Spec { head: RuleHead::Func { .. }, .. } => true,
        Rule::Spec { head: RuleHead::Compr { refr, .. }, .. } => is_name(refr),
        Rule::Spec { head: RuleHead::Set { .. }, .. } => false,
    }
}
