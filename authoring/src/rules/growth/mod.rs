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
use expr::{Binding, Scope, indices, once};
use extent::{Extent, Loops};
use regorus::unstable::{Expr, Rule, RuleAssign, RuleBody, RuleHead};
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
        match definition.rule {
            Rule::Default { value, .. } => self.expr(&mut Scope::new(definition.outline, definition.name), value),
            Rule::Spec { head: RuleHead::Compr { refr, assign, .. }, bodies, .. } => {
                let keys = if is_whole(definition.rule) { vec![] } else { vec![refr.as_ref()] };
                self.bodies(definition, &keys, assign.as_ref(), bodies)
            }
            Rule::Spec { head: RuleHead::Set { refr, key, .. }, bodies, .. } => {
                let keys: Vec<_> = [refr].into_iter().chain(key).map(AsRef::as_ref).collect();
                self.bodies(definition, &keys, None, bodies)
            }
            // A function has a value where it is called.
            Rule::Spec { head: RuleHead::Func { args, .. }, .. } if !args.is_empty() => Ok(Extent::default()),
            Rule::Spec { head: RuleHead::Func { assign, .. }, bodies, .. } => self.bodies(definition, &[], assign.as_ref(), bodies),
        }
    }

    /// Without keys, one of the bodies' values; with keys, all that their loops make.
    fn bodies(
        &mut self,
        definition: &Definition<'m>,
        keys: &[&'m Expr],
        assign: Option<&'m RuleAssign>,
        bodies: &'m [RuleBody],
    ) -> Result<Extent, PolicyFault> {
        let scope = Scope::new(definition.outline, definition.name);
        self.bodies_in(&scope, keys, assign, bodies)
    }

    fn bodies_in(
        &mut self,
        scope: &Scope<'m>,
        keys: &[&'m Expr],
        assign: Option<&'m RuleAssign>,
        bodies: &'m [RuleBody],
    ) -> Result<Extent, PolicyFault> {
        let mut value = Extent::default();
        let without_body = bodies.is_empty().then_some(None);
        for (number, body) in bodies.iter().map(Some).chain(without_body).enumerate() {
            let mut scope = scope.clone();
            if let Some(body) = body {
                self.query(&mut scope, &body.query)?;
            }
            let assign = body.and_then(|body| body.assign.as_ref()).or(assign.filter(|_| number == 0));
            let mut made = match assign {
                Some(assign) => self.expr(&mut scope, &assign.value)?,
                None => Extent::one(),
            };
            if keys.is_empty() {
                value = value.or(&self.loops.any(made, &scope.loops));
                continue;
            }
            for key in keys {
                made = made.plus(&self.key(&mut scope, key)?);
            }
            // A set has an element once, and an object a key.
            let all = self.loops.all(made, if keys.iter().all(|key| once(&scope, key)) { &[] } else { &scope.loops });
            // Below the first of several keys there is another collection, and not an element.
            value = value.plus(&if keys.iter().map(|key| indices(key)).sum::<usize>() > 1 { all.whole() } else { all });
        }
        Ok(value)
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
            value = value.or(&self.bodies_in(&scope, &[], assign, bodies)?);
        }
        self.calls.insert(asked, value.clone());
        Ok(value)
    }
}

/// Whether a rule has one value, and not parts that definitions add.
fn is_whole(rule: &Rule) -> bool {
    match rule {
        Rule::Default { .. } | Rule::Spec { head: RuleHead::Func { .. }, .. } => true,
        Rule::Spec { head: RuleHead::Compr { refr, .. }, .. } => matches!(refr.as_ref(), Expr::Var { .. }),
        Rule::Spec { head: RuleHead::Set { .. }, .. } => false,
    }
}
