//! Expressions, with sizes in the places of values.
#![expect(clippy::wildcard_enum_match_arm, reason = "the parser's enum: whatever it has more of is like the rest")]

use super::extent::{Extent, Loop, length};
use super::{Growth, WORK_MAX, builtins, documents};
use crate::PolicyFault;
use crate::rules::outline::{Outline, Steps, static_path};
use regorus::unstable::{ArithOp, AssignOp, BUILTINS, Expr, Literal, LiteralStmt, Query, Span};
use std::collections::{BTreeMap, BTreeSet};

/// Loops within loops: the interpreter follows them on its stack, and chains of rules follow each other.
const LOOPS_MAX: usize = 16;

/// How a variable gets its value.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Binding {
    /// By `:=`, `some`, `every` or as a parameter: whatever else has the name is hidden.
    Declares,
    /// By being on a side of `=`, or an index.
    Unifies,
}

/// What is known within a body.
#[derive(Clone)]
pub(super) struct Scope<'m> {
    pub(super) outline: &'m Outline,
    pub(super) rule: &'m str,
    locals: BTreeMap<String, Extent>,
    /// Names that hide a rule or an import, and are no loop when they are an index.
    declared: BTreeSet<String>,
    /// Names of `some x`, which hide a rule or an import too, but are a loop when they are an index.
    own: BTreeSet<String>,
    /// The loops of this query, those of queries around it apart.
    pub(super) loops: Vec<Loop>,
    /// How many loops the queries around it are in.
    around: usize,
    /// Which loop an expression is, however often it is walked.
    places: BTreeMap<u32, Loop>,
}

impl<'m> Scope<'m> {
    pub(super) const fn new(outline: &'m Outline, rule: &'m str) -> Self {
        Self {
            outline,
            rule,
            locals: BTreeMap::new(),
            declared: BTreeSet::new(),
            own: BTreeSet::new(),
            loops: Vec::new(),
            around: 0,
            places: BTreeMap::new(),
        }
    }
}

impl Scope<'_> {
    /// `some x`: whatever has the name around this query is another variable.
    fn declare_own(&mut self, names: &[Span]) {
        for name in names.iter().map(Span::text) {
            self.locals.remove(name);
            self.declared.remove(name);
            self.own.insert(name.to_owned());
        }
    }
}

impl<'m> Growth<'m> {
    /// Statements are evaluated in the order of what they need, which need not be that of the text: where a name was asked for before
    /// it was known, they are walked again until nothing grows any more, or as often as there are names.
    pub(super) fn query(&mut self, scope: &mut Scope<'m>, query: &'m Query) -> Result<(), PolicyFault> {
        let (before, around) = (scope.loops.clone(), std::mem::take(&mut self.unsettled));
        let mut rounds = 0_usize;
        loop {
            let (locals, changes) = (scope.locals.clone(), self.loops.changes);
            scope.loops.clone_from(&before);
            for statement in &query.stmts {
                if let (0, Literal::SomeVars { vars, .. }) = (rounds, &statement.literal) {
                    scope.declare_own(vars);
                }
                self.statement(scope, statement)?;
            }
            rounds = rounds.saturating_add(1);
            let same = scope.locals == locals && self.loops.changes == changes;
            if !self.unsettled || same || rounds > scope.locals.len().saturating_add(1) {
                self.unsettled |= around;
                return Ok(());
            }
            self.unsettled = false;
        }
    }

    fn statement(&mut self, scope: &mut Scope<'m>, statement: &'m LiteralStmt) -> Result<(), PolicyFault> {
        match &statement.literal {
            Literal::SomeVars { .. } => Ok(()),
            Literal::SomeIn { key, value, collection, .. } => {
                let element = self.begin_loop(scope, collection, None)?;
                if let Some(key) = key {
                    self.bind(scope, key, &index_of(&element), Binding::Declares)?;
                }
                self.bind(scope, value, &element, Binding::Declares)
            }
            Literal::Expr { expr, .. } => self.expr(scope, expr).map(drop),
            // Its loops go around the statements behind it.
            Literal::NotExpr { expr, .. } => self.expr(scope, expr).map(drop),
            Literal::Every { key, value, domain, query, .. } => {
                // Loops of what it goes through go around the statements behind it.
                let over = self.expr(scope, domain)?;
                self.within(scope, |growth, inner| {
                    let element = growth.begin_loop(inner, domain, Some(over))?;
                    if let Some(key) = key {
                        growth.hold(inner, key.text(), &index_of(&element), Binding::Declares);
                    }
                    growth.hold(inner, value.text(), &element, Binding::Declares);
                    growth.query(inner, query)
                })
            }
        }
    }

    /// A query of its own within this one: what it names is not seen around it.
    fn within<T>(
        &mut self,
        scope: &mut Scope<'m>,
        walk: impl FnOnce(&mut Self, &mut Scope<'m>) -> Result<T, PolicyFault>,
    ) -> Result<T, PolicyFault> {
        let around = scope.around.saturating_add(scope.loops.len());
        let mut inner = Scope { loops: Vec::new(), around, ..scope.clone() };
        let walked = walk(self, &mut inner);
        scope.places = inner.places;
        walked
    }

    /// A loop over what an expression is; the element that it is at.
    fn begin_loop(&mut self, scope: &mut Scope<'m>, place: &'m Expr, over: Option<Extent>) -> Result<Extent, PolicyFault> {
        let over = match over {
            Some(over) => over,
            None => self.expr(scope, place)?,
        };
        let changes = self.loops.changes;
        let known = scope.places.get(&place.eidx()).copied();
        let one = known.unwrap_or_else(|| self.loops.begin());
        self.loops.goes_through(one, over);
        // What was told of its elements was told of fewer.
        self.unsettled |= known.is_some() && self.loops.changes != changes;
        scope.places.insert(place.eidx(), one);
        if !scope.loops.contains(&one) {
            scope.loops.push(one);
        }
        if scope.loops.len().saturating_add(scope.around) > LOOPS_MAX {
            return Err(fault(
                scope,
                place.span(),
                format!("there are more than {LOOPS_MAX} loops one within the other: make a rule of some"),
            ));
        }
        Ok(self.loops.element(one))
    }

    /// The variables of a pattern hold parts of a value.
    pub(super) fn bind(&mut self, scope: &mut Scope<'m>, pattern: &'m Expr, value: &Extent, binding: Binding) -> Result<(), PolicyFault> {
        let mut parts = |growth: &mut Self, parts: Vec<&'m Expr>| {
            let element = value.element();
            parts.into_iter().try_for_each(|part| growth.bind(scope, part, &element, binding))
        };
        match pattern {
            Expr::Array { items, .. } => parts(self, items.iter().map(AsRef::as_ref).collect()),
            Expr::Object { fields, .. } => parts(self, fields.iter().map(|(_, _, field)| field.as_ref()).collect()),
            Expr::Var { span, .. } => {
                self.hold(scope, span.text(), value, binding);
                Ok(())
            }
            other => self.expr(scope, other).map(drop),
        }
    }

    fn hold(&mut self, scope: &mut Scope<'m>, name: &str, value: &Extent, binding: Binding) {
        // `_` is another variable each time; and what is compared with a rule does not become a variable of that name.
        if name == "_" || binding == Binding::Unifies && !scope.declared.contains(name) && self.is_global(scope, name) {
            return;
        }
        if binding == Binding::Declares {
            scope.declared.insert(name.to_owned());
        }
        match scope.locals.get_mut(name) {
            Some(known) => {
                let now = known.clone().or(value);
                self.unsettled |= now != *known;
                *known = now;
            }
            None => drop(scope.locals.insert(name.to_owned(), value.clone())),
        }
    }

    fn is_global(&self, scope: &Scope<'m>, name: &str) -> bool {
        !scope.own.contains(name)
            && (name == "input"
                || name == "data"
                || self.rules.contains_key(&scope.outline.node(name))
                || scope.outline.aliases().any(|alias| alias == name))
    }

    /// How large the value of an expression may be.
    pub(super) fn expr(&mut self, scope: &mut Scope<'m>, expr: &'m Expr) -> Result<Extent, PolicyFault> {
        self.work = self.work.saturating_add(1);
        if self.work > WORK_MAX {
            return Err(fault(
                scope,
                expr.span(),
                format!("there are more than {WORK_MAX} expressions to look at: call fewer functions from functions"),
            ));
        }
        let value = self.walk(scope, expr)?;
        match self.loops.too_large(&value) {
            Some(why) => Err(fault(scope, expr.span(), format!("`{}` {why}", shown(expr.span())))),
            None => Ok(value),
        }
    }

    fn walk(&mut self, scope: &mut Scope<'m>, expr: &'m Expr) -> Result<Extent, PolicyFault> {
        Ok(match expr {
            Expr::String { value, .. } | Expr::RawString { value, .. } => Extent::text(value.as_string().map_or(0, |text| length(text))),
            Expr::Number { span, .. } => Extent::numeral(span.text()),
            Expr::Bool { .. } | Expr::Null { .. } => Extent::one(),
            Expr::UnaryExpr { expr, .. } => self.expr(scope, expr)?,
            Expr::Var { .. } | Expr::RefDot { .. } | Expr::RefBrack { .. } => self.reference(scope, expr)?,
            Expr::Array { items, .. } | Expr::Set { items, .. } => {
                let items = items.iter().map(|item| self.expr(scope, item)).collect::<Result<Vec<_>, _>>()?;
                Extent::around(items)
            }
            Expr::Object { fields, .. } => {
                let mut inside = Vec::new();
                for (_, key, value) in fields {
                    inside.extend([self.object_key(scope, key)?, self.expr(scope, value)?]);
                }
                Extent::around(inside)
            }
            Expr::ArrayCompr { term, query, .. } => self.comprehension(scope, &[term], None, query)?,
            Expr::SetCompr { term, query, .. } => self.comprehension(scope, &[term], Some(term), query)?,
            Expr::ObjectCompr { key, value, query, .. } => self.comprehension(scope, &[key, value], Some(key), query)?,
            Expr::Call { span, fcn, params, .. } => self.called(scope, span, fcn, &params.iter().map(AsRef::as_ref).collect::<Vec<_>>())?,
            Expr::BinExpr { lhs, rhs, .. } => self.expr(scope, lhs)?.plus(&self.expr(scope, rhs)?),
            Expr::ArithExpr { op, lhs, rhs, .. } => {
                let (left, right) = (self.expr(scope, lhs)?, self.expr(scope, rhs)?);
                arithmetic(op, left, &right)
            }
            Expr::BoolExpr { lhs, rhs, .. } => {
                self.expr(scope, lhs)?;
                self.expr(scope, rhs)?;
                Extent::one()
            }
            Expr::Membership { key, value, collection, .. } => {
                for part in key.iter().chain([value, collection]) {
                    self.expr(scope, part)?;
                }
                Extent::one()
            }
            Expr::AssignExpr { op, lhs, rhs, .. } => {
                let right = self.expr(scope, rhs)?;
                match op {
                    AssignOp::ColEq => self.bind(scope, lhs, &right, Binding::Declares)?,
                    AssignOp::Eq => {
                        self.bind(scope, lhs, &right, Binding::Unifies)?;
                        let left = self.expr(scope, lhs)?;
                        self.bind(scope, rhs, &left, Binding::Unifies)?;
                    }
                }
                Extent::one()
            }
        })
    }

    /// `key` is what may be in it only once.
    fn comprehension(
        &mut self,
        scope: &mut Scope<'m>,
        terms: &[&'m Expr],
        key: Option<&'m Expr>,
        query: &'m Query,
    ) -> Result<Extent, PolicyFault> {
        self.within(scope, |growth, inner| {
            growth.query(inner, query)?;
            let each = growth.made(inner, |growth, inner| {
                let mut each = Extent::default();
                for (number, term) in terms.iter().enumerate() {
                    let is_key = number == 0 && terms.len() > 1;
                    each = each.plus(&if is_key { growth.object_key(inner, term)? } else { growth.expr(inner, term)? });
                }
                Ok(each)
            })?;
            Ok(growth.loops.all(each, if key.is_some_and(is_literal) { &[] } else { &inner.loops }))
        })
    }

    /// What is made of a query: looked at twice, as an index in it may bind a name that stands before it.
    pub(super) fn made(
        &mut self,
        scope: &mut Scope<'m>,
        mut make: impl FnMut(&mut Self, &mut Scope<'m>) -> Result<Extent, PolicyFault>,
    ) -> Result<Extent, PolicyFault> {
        let around = self.unsettled;
        make(self, scope)?;
        self.unsettled = around;
        make(self, scope)
    }

    /// A key that is a collection is written out as a text, and one within a key as a text in a text: twice as long at each level.
    pub(super) fn object_key(&mut self, scope: &mut Scope<'m>, key: &'m Expr) -> Result<Extent, PolicyFault> {
        let value = self.expr(scope, key)?;
        match value.depth {
            0 => Ok(value),
            _ => Err(fault(scope, key.span(), format!("`{}` may be a collection, and is the key of an object", shown(key.span())))),
        }
    }

    fn called(&mut self, scope: &mut Scope<'m>, span: &Span, function: &'m Expr, params: &[&'m Expr]) -> Result<Extent, PolicyFault> {
        let (path, _) = static_path(function);
        let node = scope.outline.resolve_call(&path, |name| self.rules.contains_key(&scope.outline.node(name)));
        let node = node.map(|path| path.into_iter().skip(1).collect::<Vec<_>>());
        let name = path.join(".");
        let arity = match &node {
            Some(node) => self.arity(node),
            None => BUILTINS.get(name.as_str()).map_or(params.len(), |(_, arity)| usize::from(*arity)),
        };
        if let ("json.filter" | "json.remove", Some(paths)) = (name.as_str(), params.get(1).filter(|paths| !is_literal(paths))) {
            let message = format!("the paths of `{name}` have to stand there: `{}` does not", shown(paths.span()));
            return Err(fault(scope, span, message));
        }
        let args = params.iter().take(arity).map(|param| self.expr(scope, param)).collect::<Result<Vec<_>, _>>()?;
        let result = match &node {
            Some(node) => self.call(node, args)?,
            None => builtins::result(&name, &args, params.first().is_some_and(|format| is_elaborate(format)), &self.loops)
                .map_err(|why| fault(scope, span, format!("`{}` {why}", shown(span))))?,
        };
        // One argument more takes the result.
        match params.get(arity) {
            Some(taker) => self.bind(scope, taker, &result, Binding::Unifies).map(|()| Extent::one()),
            None => Ok(result),
        }
    }

    fn reference(&mut self, scope: &mut Scope<'m>, expr: &'m Expr) -> Result<Extent, PolicyFault> {
        let Steps { path, root, rest } = Steps::of(expr);
        let mut value = match root {
            Some(root) => self.expr(scope, root)?,
            None => self.named(scope, &path)?,
        };
        for step in rest {
            let Some((place, index)) = step else {
                value = value.element();
                continue;
            };
            if scope.places.contains_key(&place.eidx()) || self.is_open(scope, index) {
                value = self.begin_loop(scope, place, Some(value))?;
                self.bind(scope, index, &index_of(&value), Binding::Unifies)?;
            } else {
                self.expr(scope, index)?;
                value = value.element();
            }
        }
        Ok(value)
    }

    /// Whether an index has a name that is bound by being this index. One that is bound already makes no loop: there is at most one
    /// element with it.
    fn is_open(&self, scope: &Scope<'m>, index: &Expr) -> bool {
        match index {
            Expr::Var { span, .. } if span.text() == "_" => true,
            Expr::Var { span, .. } => !scope.locals.contains_key(span.text()) && !self.is_global(scope, span.text()),
            Expr::Array { items, .. } => items.iter().any(|item| self.is_open(scope, item)),
            Expr::Object { fields, .. } => fields.iter().any(|(_, _, field)| self.is_open(scope, field)),
            _ => false,
        }
    }

    /// A path that is written out, from a variable, `input`, `data`, a rule or an import.
    fn named(&mut self, scope: &Scope<'m>, path: &[String]) -> Result<Extent, PolicyFault> {
        let Some((root, rest)) = path.split_first() else { return Ok(Extent::default()) };
        let below = |value: Extent, steps: usize| (0..steps).fold(value, |value, _| value.element());
        if scope.declared.contains(root) || !self.is_global(scope, root) {
            let known = scope.locals.get(root);
            // `_` stands for what nothing is made of.
            self.unsettled |= known.is_none() && root != "_";
            return Ok(below(known.cloned().unwrap_or_default(), rest.len()));
        }
        let path = scope.outline.resolve_call(path, |name| self.rules.contains_key(&scope.outline.node(name))).unwrap_or_default();
        match path.split_first() {
            Some((root, rest)) if root == "input" => {
                let (value, steps) = documents::input(self.inputs, rest);
                Ok(below(value, rest.len().saturating_sub(steps)))
            }
            Some((_, rest)) => self.of_data(rest),
            None => Ok(Extent::default()),
        }
    }

    /// A rule, what is below a rule, or all rules of packages and what the document has there.
    fn of_data(&mut self, path: &[String]) -> Result<Extent, PolicyFault> {
        let above: Vec<_> = self.rules.keys().filter(|node| path.starts_with(node)).cloned().collect();
        if let Some(node) = above.first() {
            let value = self.rule(node)?;
            return Ok((node.len()..path.len()).fold(value, |value, _| value.element()));
        }
        let below: Vec<_> = self.rules.keys().filter(|node| node.starts_with(path)).cloned().collect();
        let mut value = self.data.at(path);
        for node in below {
            let rule = self.rule(&node)?;
            let names = node.iter().skip(path.len()).rev();
            value = value.plus(&names.fold(rule, |inside, name| Extent::around([Extent::text(length(name)), inside])));
        }
        Ok(value)
    }
}

/// What an element is found by: in a list a number, else something that it has or is.
fn index_of(element: &Extent) -> Extent {
    element.clone().or(&Extent::count())
}

/// Whether it has the same value wherever a loop is.
pub(super) fn is_literal(expr: &Expr) -> bool {
    match expr {
        Expr::String { .. } | Expr::RawString { .. } | Expr::Number { .. } | Expr::Bool { .. } | Expr::Null { .. } => true,
        Expr::Array { items, .. } => items.iter().all(|item| is_literal(item)),
        _ => false,
    }
}

/// Whether a format may ask for widths, or for quotes.
fn is_elaborate(format: &Expr) -> bool {
    match format {
        Expr::String { value, .. } | Expr::RawString { value, .. } => {
            value.as_string().map_or(true, |text| text.chars().any(|letter| letter.is_ascii_digit() || letter == 'q'))
        }
        _ => true,
    }
}

/// The digits that a sum or product of fractions has at least: `0.1 + 0.2` has nineteen.
const DIGITS_OF_FRACTIONS: u64 = 24;

fn arithmetic(op: &ArithOp, left: Extent, right: &Extent) -> Extent {
    let digits = left.digits.max(right.digits).max(DIGITS_OF_FRACTIONS);
    match op {
        ArithOp::Add | ArithOp::Mod => Extent::number(digits.saturating_add(1)),
        ArithOp::Mul => Extent::number(left.digits.saturating_add(right.digits).max(DIGITS_OF_FRACTIONS)),
        ArithOp::Div => builtins::quotient(digits),
        // Of numbers, or of sets.
        ArithOp::Sub => left.or(&Extent::number(digits.saturating_add(1))),
    }
}

fn shown(span: &Span) -> String {
    const SHOWN: usize = 48;
    let text = span.text().split_whitespace().collect::<Vec<_>>().join(" ");
    if text.chars().count() > SHOWN { text.chars().take(SHOWN).chain("…".chars()).collect() } else { text }
}

pub(super) fn fault(scope: &Scope<'_>, span: &Span, message: String) -> PolicyFault {
    let line = usize::try_from(span.line).ok();
    PolicyFault {
        file: Some(scope.outline.file.clone()),
        line,
        field: Some(scope.outline.node(scope.rule).join(".")),
        message,
        ..PolicyFault::default()
    }
}
