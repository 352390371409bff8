//! Where a field stands in a file of YAML. One pass to resolve the names of entries, one to find the line; no more, whatever
//! the size.

use crate::Files;
use serde::de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_norway::Value;
use std::fmt;
use wire::texts::NAME_BYTES_MAX;

/// What entries of lists are known by, in messages: `routes[agents.create]`, `issuers[cp].keys[cp-1]`.
const NAMES: [&str; 3] = ["name", "kid", "reason"];

/// One step from a node to one below it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Key(String),
    Item(usize),
}

/// Which of several entries with one name is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    First,
    Last,
}

/// The file and the line of a field such as `routes[agents.create].ownership.name`, or of what is nearest above it. Where the field is
/// a list that has `value`, the line of that.
pub(crate) fn find(field: &str, value: Option<&str>, which: Which, files: &Files) -> Option<(String, usize)> {
    let parts = parts(field);
    let section = parts.first()?;
    // A hint for people: a section that several files have is looked for in the file that has the whole path.
    let mut best: Option<(usize, String, usize)> = None;
    for (file, text) in files.iter().filter(|(_, text)| text.contains(section.as_str())) {
        let Some(steps) = resolve(text, &parts, value, which) else { continue };
        let Some(line) = line_of(text, &steps) else { continue };
        let better = best.as_ref().is_none_or(|(length, ..)| match which {
            Which::First => steps.len() > *length,
            Which::Last => steps.len() >= *length,
        });
        if better {
            best = Some((steps.len(), file.clone(), line));
        }
    }
    best.map(|(_, file, line)| (file, line))
}

/// A path of the YAML reader (`routes[3].path`) with the names of entries instead of their numbers, if they have names.
pub(crate) fn named(path: &str, text: &str) -> String {
    let Ok(root) = serde_norway::from_str::<Value>(text) else { return path.to_owned() };
    let mut node = Some(&root);
    let mut shown = String::new();
    for part in parts(path) {
        let next = node.and_then(|node| step(node, &part, Which::First));
        match part.strip_prefix('[') {
            None if shown.is_empty() => shown.push_str(&part),
            None => {
                shown.push('.');
                shown.push_str(&part);
            }
            Some(entry) => {
                let named = next.as_ref().and_then(|(_, node)| name_of(node)).filter(|name| name.len() <= NAME_BYTES_MAX);
                let name = named.unwrap_or(entry);
                shown.push_str(&format!("[{name}]"));
            }
        }
        node = next.map(|(_, node)| node);
    }
    shown
}

/// `routes[a.b].ownership.name` is `routes`, `[a.b`, `ownership`, `name`: what starts with a bracket is an entry of a list.
fn parts(field: &str) -> Vec<String> {
    let mut parts = Vec::new();
    let mut rest = field;
    while !rest.is_empty() {
        if let Some(entry) = rest.strip_prefix('[') {
            let (name, after) = entry.split_once(']').unwrap_or((entry, ""));
            parts.push(format!("[{name}"));
            rest = after;
        } else {
            let end = rest.find(['[', '.']).unwrap_or(rest.len());
            let (key, after) = rest.split_at(end);
            if !key.is_empty() {
                parts.push(key.to_owned());
            }
            rest = after;
        }
        rest = rest.strip_prefix('.').unwrap_or(rest);
    }
    parts
}

/// As many steps as the file has; none when it has not even the section.
fn resolve(text: &str, parts: &[String], value: Option<&str>, which: Which) -> Option<Vec<Step>> {
    let root: Value = serde_norway::from_str(text).ok()?;
    let mut node = &root;
    let mut steps = Vec::new();
    for part in parts {
        let Some((next, below)) = step(node, part, which) else { break };
        steps.push(next);
        node = below;
    }
    if let (Value::Sequence(items), Some(value)) = (node, value)
        && let Some(index) = items.iter().position(|item| item.as_str() == Some(value))
    {
        steps.push(Step::Item(index));
    }
    (!steps.is_empty()).then_some(steps)
}

fn step<'n>(node: &'n Value, part: &str, which: Which) -> Option<(Step, &'n Value)> {
    let Some(entry) = part.strip_prefix('[') else {
        return Some((Step::Key(part.to_owned()), node.get(part)?));
    };
    let items = node.as_sequence()?;
    let is_meant = |item: &Value| name_of(item) == Some(entry) || item.as_str() == Some(entry);
    let index = match which {
        Which::First => items.iter().position(is_meant),
        Which::Last => items.iter().rposition(is_meant),
    };
    let index = index.or_else(|| entry.parse().ok())?;
    Some((Step::Item(index), items.get(index)?))
}

fn name_of(item: &Value) -> Option<&str> {
    NAMES.iter().find_map(|name| item.get(*name)?.as_str())
}

/// The line of the node, found by failing there on purpose: the reader then says where it is.
fn line_of(text: &str, steps: &[Step]) -> Option<usize> {
    let seek = Seek { steps };
    let error = seek.deserialize(serde_norway::Deserializer::from_str(text)).err()?;
    let found = error.to_string().contains(FOUND);
    error.location().filter(|_| found).map(|at| at.line())
}

/// No text of a policy's can be this.
const FOUND: &str = "\u{0}found";

/// Reads until the last step, and fails there.
#[derive(Clone, Copy)]
struct Seek<'s> {
    steps: &'s [Step],
}

impl<'de> DeserializeSeed<'de> for Seek<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        if self.steps.is_empty() {
            return deserializer.deserialize_any(FailHere);
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seek<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("what was there a moment ago")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Some((Step::Key(key), rest)) = self.steps.split_first() else { return skip_map(map) };
        while let Some(here) = map.next_key_seed(KeyIs { key, last: rest.is_empty() })? {
            if here {
                map.next_value_seed(Seek { steps: rest })?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let Some((Step::Item(index), rest)) = self.steps.split_first() else { return skip_seq(items) };
        let mut at = 0_usize;
        while at < *index && items.next_element::<IgnoredAny>()?.is_some() {
            at = at.saturating_add(1);
        }
        items.next_element_seed(Seek { steps: rest })?;
        skip_seq(items)
    }
}

fn skip_map<'de, A: MapAccess<'de>>(mut map: A) -> Result<(), A::Error> {
    while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
    Ok(())
}

fn skip_seq<'de, A: SeqAccess<'de>>(mut items: A) -> Result<(), A::Error> {
    while items.next_element::<IgnoredAny>()?.is_some() {}
    Ok(())
}

/// Whether the key is the one that is looked for; fails on it when it is the last step.
struct KeyIs<'s> {
    key: &'s str,
    last: bool,
}

impl<'de> DeserializeSeed<'de> for KeyIs<'_> {
    type Value = bool;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for KeyIs<'_> {
    type Value = bool;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<bool, E> {
        match key == self.key {
            true if self.last => Err(E::custom(FOUND)),
            is_meant => Ok(is_meant),
        }
    }
}

/// Fails on whatever there is.
struct FailHere;

impl<'de> Visitor<'de> for FailHere {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(FOUND)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# a comment
include: [a.yaml, 'b.yaml']
flags:
  - name: \"new\"
    default: on
    overrides:
      - customers: [c-1]
        state: off
  - { name: other, default: on }
routes:
  - name: a.b
    path: /a
    ownership:
      in: query
      name: customer_id

  - { name: c, path: /c,
      ownership: { in: body } }
  -
    # which one is this?
    path: /d
    name: d
issuers:
  - name: cp
    keys:
      - { kid: cp-1, algorithm: RS256 }
      - kid: cp-2
        algorithm: RS256
roles:
  - name: reader
    permissions:
      - a.read
      - a.write
";

    #[test]
    fn every_field_is_found_on_its_own_line() {
        let files = Files::from([("a.yaml".to_owned(), TEXT.to_owned()), ("b.yaml".to_owned(), "routes:\n  - name: e\n".to_owned())]);
        for (field, value, line) in [
            ("include", Some("b.yaml"), 2),
            ("flags", None, 3),
            ("flags[new]", None, 4),
            ("flags[new].overrides", None, 6),
            ("flags[new].overrides[0].state", None, 8),
            ("flags[other].default", None, 9),
            ("routes[a.b].path", None, 12),
            ("routes[a.b].ownership.name", None, 15),
            ("routes[a.b].ownership.missing", None, 13),
            ("routes[a.b].permission", None, 11),
            ("routes[c].ownership.in", None, 18),
            ("routes[d].name", None, 22),
            ("routes[2].path", None, 21),
            ("issuers[cp].keys[cp-2].algorithm", None, 28),
            ("roles[reader].permissions", None, 31),
            ("roles[reader].permissions", Some("a.write"), 33),
        ] {
            let found = find(field, value, Which::First, &files);
            assert_eq!(found, Some(("a.yaml".to_owned(), line)), "{field}");
        }
        assert_eq!(find("routes[e].path", None, Which::First, &files), Some(("b.yaml".to_owned(), 2)));
        assert_eq!(find("budgets[x].cap", None, Which::First, &files), None);
    }

    #[test]
    fn of_two_entries_with_one_name_the_last_can_be_meant() {
        let text = "roles:\n  - name: a\n  - name: a\n";
        let files = Files::from([("a.yaml".to_owned(), text.to_owned()), ("b.yaml".to_owned(), text.to_owned())]);
        assert_eq!(find("roles[a]", None, Which::First, &files), Some(("a.yaml".to_owned(), 2)));
        assert_eq!(find("roles[a]", None, Which::Last, &files), Some(("b.yaml".to_owned(), 3)));
    }

    #[test]
    fn numbers_of_entries_become_names() {
        assert_eq!(named("routes[1].ownership", TEXT), "routes[c].ownership");
        assert_eq!(named("issuers[0].keys[1].kid", TEXT), "issuers[cp].keys[cp-2].kid");
        assert_eq!(named("roles[0].permissions[1]", TEXT), "roles[reader].permissions[1]");
        assert_eq!(named("nothing[7].x", TEXT), "nothing[7].x");
    }

    /// Twice the routes take about twice the time: a scan per route would take four times as long, and minutes for these.
    #[test]
    fn ten_thousand_routes_are_searched_at_once() {
        let mut text = "routes:\n".to_owned();
        for index in 0..10_000 {
            text.push_str(&format!("  - {{ name: r{index}, gateways: [PP], methods: [GET], path: /r{index}, require: public }}\n"));
        }
        let start = std::time::Instant::now();
        let files = Files::from([("a.yaml".to_owned(), text)]);
        assert_eq!(find("routes[r9999].path", None, Which::First, &files), Some(("a.yaml".to_owned(), 10_001)));
        assert!(start.elapsed() < std::time::Duration::from_secs(5), "{:?}", start.elapsed());
    }
}
