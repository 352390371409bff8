//! Route templates, their precedence, and the index that finds the best one without allocating.

use crate::gateway::{Method, MethodSet};
use core::cmp::Ordering;

/// A path template, split into segments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathTemplate {
    segments: Vec<Segment>,
    tail: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Literal(Box<str>),
    Parameter,
}

/// Why a text is no path template.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTemplate {
    /// It does not start with `/`.
    #[error("does not start with `/`")]
    NotAbsolute,
    /// It has an empty, `.` or `..` segment.
    #[error("has an empty or dot segment")]
    EmptySegment,
    /// A brace is not around a whole segment.
    #[error("has a brace that does not enclose a whole segment")]
    Brace,
    /// `{name...}` is not the last segment.
    #[error("has segments after `{{name...}}`")]
    TailNotLast,
    /// A literal has a character that is not unreserved (RFC 3986 §2.3).
    #[error("has a character other than letters, digits and `-._~`")]
    Character,
}

impl PathTemplate {
    /// From `/a/{b}/{rest...}`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, InvalidTemplate> {
        let path = text.strip_prefix('/').ok_or(InvalidTemplate::NotAbsolute)?;
        let mut template = Self { segments: Vec::new(), tail: false };
        if path.is_empty() {
            return Ok(template);
        }
        for segment in path.split('/') {
            if template.tail {
                return Err(InvalidTemplate::TailNotLast);
            }
            if let Some(name) = segment.strip_prefix('{') {
                let name = name.strip_suffix('}').ok_or(InvalidTemplate::Brace)?;
                let (name, tail) = name.strip_suffix("...").map_or((name, false), |name| (name, true));
                if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
                    return Err(InvalidTemplate::Brace);
                }
                if tail { template.tail = true } else { template.segments.push(Segment::Parameter) }
            } else if matches!(segment, "" | "." | "..") {
                return Err(InvalidTemplate::EmptySegment);
            } else if segment.contains(['{', '}']) {
                return Err(InvalidTemplate::Brace);
            } else if !segment.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)) {
                return Err(InvalidTemplate::Character);
            } else {
                template.segments.push(Segment::Literal(segment.into()));
            }
        }
        Ok(template)
    }

    /// How specifically it matches `path`; `None` when it does not. The linear oracle of the index.
    #[must_use]
    pub fn matches(&self, path: &str) -> Option<Specificity> {
        let mut given = split(path)?;
        for segment in &self.segments {
            let part = given.next()?;
            match segment {
                Segment::Literal(literal) if &**literal != part => return None,
                Segment::Parameter if part.is_empty() => return None,
                Segment::Literal(_) | Segment::Parameter => {}
            }
        }
        match (given.next(), self.tail) {
            (None, false) => Some(self.specificity()),
            (Some(first), true) if !first.is_empty() && given.all(|part| !part.is_empty()) => Some(self.specificity()),
            (None, true) | (Some(_), true | false) => None,
        }
    }

    fn specificity(&self) -> Specificity {
        Specificity { literals: self.segments.iter().map(|segment| matches!(segment, Segment::Literal(_))).collect(), tail: self.tail }
    }
}

/// Precedence as a type: of two templates that match one path, the one whose first difference is a literal wins,
/// and an exact length wins over a tail. Two templates that compare equal accept the same paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Specificity {
    literals: Vec<bool>,
    tail: bool,
}

impl PartialOrd for Specificity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Specificity {
    fn cmp(&self, other: &Self) -> Ordering {
        // A longer list of segments means that the shorter one matched the rest by its tail.
        self.literals.cmp(&other.literals).then_with(|| other.tail.cmp(&self.tail))
    }
}

/// The segments of an absolute path; of `/` none.
fn split(path: &str) -> Option<impl Iterator<Item = &str>> {
    let path = path.strip_prefix('/')?;
    let empty = path.is_empty();
    Some(path.split('/').filter(move |_| !empty))
}

/// The routes of one gateway as a tree of segments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteIndex {
    nodes: Vec<Node>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Node {
    /// Sorted by literal.
    literals: Vec<(Box<str>, usize)>,
    parameter: Option<usize>,
    exact: Vec<(MethodSet, u32)>,
    tail: Vec<(MethodSet, u32)>,
}

impl RouteIndex {
    /// Adds a route.
    ///
    /// # Errors
    /// The route that already has a method on the same paths.
    pub fn insert(&mut self, template: &PathTemplate, methods: MethodSet, route: u32) -> Result<(), u32> {
        let mut at = self.root();
        for segment in &template.segments {
            at = self.child(at, segment);
        }
        let Some(node) = self.nodes.get_mut(at) else { return Ok(()) };
        let ends = if template.tail { &mut node.tail } else { &mut node.exact };
        if let Some((_, taken)) = ends.iter().find(|(known, _)| known.intersects(methods)) {
            return Err(*taken);
        }
        ends.push((methods, route));
        Ok(())
    }

    fn root(&mut self) -> usize {
        if self.nodes.is_empty() {
            self.nodes.push(Node::default());
        }
        0
    }

    fn child(&mut self, at: usize, segment: &Segment) -> usize {
        let new = self.nodes.len();
        let Some(node) = self.nodes.get_mut(at) else { return at };
        let child = match segment {
            Segment::Parameter => *node.parameter.get_or_insert(new),
            Segment::Literal(literal) => match node.literals.binary_search_by(|(known, _)| (**known).cmp(literal)) {
                Ok(index) => node.literals.get(index).map_or(new, |(_, child)| *child),
                Err(index) => {
                    node.literals.insert(index, (literal.clone(), new));
                    new
                }
            },
        };
        if child == new {
            self.nodes.push(Node::default());
        }
        child
    }

    /// The most specific route with this method and path.
    #[must_use]
    pub fn find(&self, method: Method, path: &str) -> Option<u32> {
        let path = path.strip_prefix('/')?;
        if path.is_empty() {
            return self.nodes.first().and_then(|root| pick(&root.exact, method));
        }
        self.descend(0, method, path)
    }

    /// `rest` is not empty at the first call; a later empty segment matches nothing. Depth is bounded by the templates.
    fn descend(&self, at: usize, method: Method, rest: &str) -> Option<u32> {
        let node = self.nodes.get(at)?;
        let (segment, after) = rest.split_once('/').map_or((rest, None), |(segment, after)| (segment, Some(after)));
        if segment.is_empty() {
            return None;
        }
        let literal = node.literals.binary_search_by(|(known, _)| (**known).cmp(segment)).ok();
        let literal = literal.and_then(|index| node.literals.get(index)).map(|(_, child)| *child);
        for child in [literal, node.parameter].into_iter().flatten() {
            let found = match after {
                Some(after) => self.descend(child, method, after),
                None => self.nodes.get(child).and_then(|node| pick(&node.exact, method)),
            };
            if found.is_some() {
                return found;
            }
        }
        if rest.split('/').all(|part| !part.is_empty()) { pick(&node.tail, method) } else { None }
    }
}

fn pick(ends: &[(MethodSet, u32)], method: Method) -> Option<u32> {
    ends.iter().find(|(methods, _)| methods.contains(method)).map(|(_, route)| *route)
}
