//! Route templates, their precedence, and the index that finds the best one without allocating.

use crate::gateway::{Gateway, GatewaySet, Method, MethodSet};
use core::cmp::Ordering;
use core::hash::BuildHasher;
use hashbrown::{DefaultHashBuilder, HashTable};

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

/// All routes as one tree of segments, in a few flat tables: ten thousand routes are as few allocations as ten, so that a
/// policy is quickly dropped, and takes little more than its texts.
#[derive(Clone, Debug, Default)]
pub struct RouteIndex {
    nodes: Vec<Node>,
    /// From a node to its child, by literal segment.
    edges: Vec<Edge>,
    /// Indices into `edges`, by parent and literal.
    by_literal: HashTable<u32>,
    /// The literals of all edges, one after the other.
    literals: String,
    ends: Vec<End>,
    hasher: DefaultHashBuilder,
}

#[derive(Clone, Copy, Debug, Default)]
struct Node {
    /// The child for a parameter.
    parameter: Option<Index>,
    /// The last route that ends here.
    exact: Option<Index>,
    /// The last route whose tail begins here.
    tail: Option<Index>,
}

#[derive(Clone, Copy, Debug)]
struct Edge {
    parent: u32,
    child: u32,
    start: u32,
    length: u32,
}

/// A route that ends at a node, and the one that was put there before it.
#[derive(Clone, Copy, Debug)]
struct End {
    gateways: GatewaySet,
    methods: MethodSet,
    route: u32,
    before: Option<Index>,
}

/// An index that is not the first one: nothing points to the root, and the first end is not counted from 0.
type Index = core::num::NonZeroU32;

/// The index of what is pushed next, counted from 1.
fn next_of<T>(list: &[T]) -> Option<Index> {
    Index::new(u32::try_from(list.len()).ok()?.checked_add(1)?)
}

fn at<T>(list: &[T], index: Index) -> Option<&T> {
    list.get(usize::try_from(index.get() - 1).ok()?)
}

impl RouteIndex {
    /// Makes room for so many routes.
    pub fn reserve(&mut self, routes: usize) {
        self.nodes.reserve(routes);
        self.edges.reserve(routes);
        self.ends.reserve(routes);
        let (edges, literals, hasher) = (&self.edges, &self.literals, &self.hasher);
        self.by_literal.reserve(routes, |edge| hash_of(hasher, edges, literals, *edge));
    }

    /// Adds a route.
    ///
    /// # Errors
    /// The route that already has a method on the same paths of a gateway.
    pub fn insert(&mut self, template: &PathTemplate, gateways: GatewaySet, methods: MethodSet, route: u32) -> Result<(), u32> {
        if self.nodes.is_empty() {
            self.nodes.push(Node::default());
        }
        let place = template.segments.iter().try_fold(0, |node, segment| self.child(node, segment));
        let index = next_of(&self.ends);
        let Some(node) = place.and_then(|place| self.nodes.get_mut(usize::try_from(place).ok()?)) else { return Ok(()) };
        let last = if template.tail { &mut node.tail } else { &mut node.exact };
        if let Some(taken) = chain(&self.ends, *last).find(|end| end.methods.intersects(methods) && end.gateways.intersects(gateways)) {
            return Err(taken.route);
        }
        self.ends.push(End { gateways, methods, route, before: *last });
        *last = index;
        Ok(())
    }

    /// The child of a node for a segment; made if there is none.
    fn child(&mut self, node: u32, segment: &Segment) -> Option<u32> {
        let new = u32::try_from(self.nodes.len()).ok()?;
        let child = match segment {
            Segment::Parameter => {
                let known = self.nodes.get_mut(usize::try_from(node).ok()?)?;
                known.parameter.get_or_insert(Index::new(new)?).get()
            }
            Segment::Literal(literal) => match self.literal(node, literal) {
                Some(child) => child,
                None => self.connect(node, new, literal)?,
            },
        };
        if child == new {
            self.nodes.push(Node::default());
        }
        Some(child)
    }

    fn connect(&mut self, parent: u32, child: u32, literal: &str) -> Option<u32> {
        let (start, length) = (u32::try_from(self.literals.len()).ok()?, u32::try_from(literal.len()).ok()?);
        let edge = u32::try_from(self.edges.len()).ok()?;
        self.literals.push_str(literal);
        self.edges.push(Edge { parent, child, start, length });
        let (edges, literals, hasher) = (&self.edges, &self.literals, &self.hasher);
        let hash = hasher.hash_one((parent, literal));
        self.by_literal.insert_unique(hash, edge, |edge| hash_of(hasher, edges, literals, *edge));
        Some(child)
    }

    fn literal(&self, node: u32, literal: &str) -> Option<u32> {
        let is_it = |edge: &u32| edge_of(&self.edges, &self.literals, *edge) == Some((node, literal));
        let found = self.by_literal.find(self.hasher.hash_one((node, literal)), is_it)?;
        self.edges.get(usize::try_from(*found).ok()?).map(|edge| edge.child)
    }

    /// The most specific route of `gateway` with this method and path.
    #[must_use]
    pub fn find(&self, gateway: Gateway, method: Method, path: &str) -> Option<u32> {
        let path = path.strip_prefix('/')?;
        if path.is_empty() {
            return self.pick(self.nodes.first()?.exact, gateway, method);
        }
        self.descend(0, gateway, method, path)
    }

    /// `rest` is not empty at the first call; a later empty segment matches nothing. Depth is bounded by the templates.
    fn descend(&self, at: u32, gateway: Gateway, method: Method, rest: &str) -> Option<u32> {
        let node = self.node(at)?;
        let (segment, after) = rest.split_once('/').map_or((rest, None), |(segment, after)| (segment, Some(after)));
        if segment.is_empty() {
            return None;
        }
        for child in [self.literal(at, segment), node.parameter.map(Index::get)].into_iter().flatten() {
            let found = match after {
                Some(after) => self.descend(child, gateway, method, after),
                None => self.node(child).and_then(|node| self.pick(node.exact, gateway, method)),
            };
            if found.is_some() {
                return found;
            }
        }
        let tail = self.pick(node.tail, gateway, method)?;
        rest.split('/').all(|part| !part.is_empty()).then_some(tail)
    }

    fn node(&self, at: u32) -> Option<&Node> {
        self.nodes.get(usize::try_from(at).ok()?)
    }

    fn pick(&self, last: Option<Index>, gateway: Gateway, method: Method) -> Option<u32> {
        let mut ends = chain(&self.ends, last);
        ends.find(|end| end.methods.contains(method) && end.gateways.contains(gateway)).map(|end| end.route)
    }
}

/// An end and those before it.
fn chain(ends: &[End], last: Option<Index>) -> impl Iterator<Item = &End> {
    core::iter::successors(last.and_then(|index| at(ends, index)), |end| end.before.and_then(|index| at(ends, index)))
}

fn edge_of<'i>(edges: &[Edge], literals: &'i str, edge: u32) -> Option<(u32, &'i str)> {
    let edge = edges.get(usize::try_from(edge).ok()?)?;
    let (start, length) = (usize::try_from(edge.start).ok()?, usize::try_from(edge.length).ok()?);
    Some((edge.parent, literals.get(start..start.checked_add(length)?)?))
}

fn hash_of(hasher: &DefaultHashBuilder, edges: &[Edge], literals: &str, edge: u32) -> u64 {
    edge_of(edges, literals, edge).map_or(0, |known| hasher.hash_one(known))
}
