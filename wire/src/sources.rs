//! Policy sources: YAML files into one document. An error names the file, the line and the field.

use crate::policy::{PolicyDocument, Rules};
use crate::texts::{TooLong, too_long};
use decision_core::nearest::nearest;
use std::collections::{BTreeMap, BTreeSet};

/// The file that a policy of several files begins with.
pub const ROOT: &str = "policy.yaml";

/// Why sources are refused.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// A file is not what the schema says.
    #[error("{file}:{line}:{column}: {problem}")]
    Syntax {
        /// The file.
        file: String,
        /// Its line, from 1; 0 when the whole file is meant.
        line: usize,
        /// Its column, from 1.
        column: usize,
        /// The field and what is wrong with it.
        problem: String,
    },
    /// A section that stands once stands in two files.
    #[error("{file}: `{section}` stands in `{other}` already")]
    Twice {
        /// The second file.
        file: String,
        /// The section.
        section: &'static str,
        /// The first.
        other: String,
    },
    /// There is no file.
    #[error("there is no policy source (*.yaml)")]
    Empty,
    /// There are several files and none of them is the root.
    #[error("there is no `{ROOT}`, which includes the other files")]
    NoRoot,
    /// A file names another that is not there.
    #[error("{file}: include: `{name}` does not exist{}", nearest_hint(.nearest.as_deref()))]
    NoSuchFile {
        /// The file.
        file: String,
        /// What it names.
        name: String,
        /// The most similar name that exists.
        nearest: Option<String>,
    },
    /// A file is included twice.
    #[error("{file}: include: `{name}` is included already")]
    IncludedTwice {
        /// The file.
        file: String,
        /// What it names.
        name: String,
    },
    /// Nothing names a file: it would be a silent no-op.
    #[error("{file}: no file includes it")]
    NotIncluded {
        /// The file.
        file: String,
    },
}

fn nearest_hint(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |name| format!("; the nearest name is `{name}`"))
}

/// Reads the root and what it includes, and merges all of it.
///
/// # Errors
/// The first file that is not what the schema says, or that nothing or nobody includes.
pub fn read(files: &BTreeMap<String, String>) -> Result<PolicyDocument, SourceError> {
    let yaml: Vec<&str> = files.keys().map(String::as_str).filter(|name| is_yaml(name)).collect();
    let root = match *yaml {
        [] => return Err(SourceError::Empty),
        [only] => only,
        [..] => yaml.iter().copied().find(|name| *name == ROOT).ok_or(SourceError::NoRoot)?,
    };
    let mut merge = Merge { files, document: PolicyDocument::default(), read: BTreeSet::new(), sections: BTreeMap::new() };
    merge.add(root)?;
    let named = |name: &str| merge.document.rules.as_ref().is_some_and(|rules| rules_name(rules, name));
    match files.keys().find(|name| !merge.read.contains(name.as_str()) && !named(name)) {
        Some(file) => Err(SourceError::NotIncluded { file: file.clone() }),
        None => Ok(merge.document),
    }
}

fn rules_name(rules: &Rules, name: &str) -> bool {
    rules.modules.iter().chain(&rules.data).any(|known| known == name)
}

fn is_yaml(name: &str) -> bool {
    name.ends_with(".yaml") || name.ends_with(".yml")
}

struct Merge<'f> {
    files: &'f BTreeMap<String, String>,
    document: PolicyDocument,
    read: BTreeSet<&'f str>,
    sections: BTreeMap<&'static str, &'f str>,
}

impl<'f> Merge<'f> {
    fn add(&mut self, name: &'f str) -> Result<(), SourceError> {
        self.read.insert(name);
        let text = self.files.get(name).map_or("", String::as_str);
        let document = read_file(name, text)?;
        let PolicyDocument {
            include,
            settings,
            approvals,
            routing,
            failure_modes,
            responses,
            flags,
            rules,
            issuers,
            registration_keys,
            permissions,
            roles,
            routes,
            budgets,
            reporting,
            prices,
            audit,
            explanations,
        } = document;
        once(&mut self.sections, name, "settings", settings, &mut self.document.settings)?;
        once(&mut self.sections, name, "approvals", approvals, &mut self.document.approvals)?;
        once(&mut self.sections, name, "routing", routing, &mut self.document.routing)?;
        once(&mut self.sections, name, "failure_modes", failure_modes, &mut self.document.failure_modes)?;
        once(&mut self.sections, name, "rules", rules, &mut self.document.rules)?;
        once(&mut self.sections, name, "reporting", reporting, &mut self.document.reporting)?;
        once(&mut self.sections, name, "audit", audit, &mut self.document.audit)?;
        once(&mut self.sections, name, "explanations", explanations, &mut self.document.explanations)?;
        self.document.prices.extend(prices);
        self.document.responses.extend(responses);
        self.document.flags.extend(flags);
        self.document.issuers.extend(issuers);
        self.document.registration_keys.extend(registration_keys);
        self.document.permissions.extend(permissions);
        self.document.roles.extend(roles);
        self.document.routes.extend(routes);
        self.document.budgets.extend(budgets);
        include.iter().try_for_each(|pattern| self.include(name, pattern))
    }

    fn include(&mut self, by: &str, pattern: &str) -> Result<(), SourceError> {
        let files = self.files;
        let found: Vec<&'f str> = files.keys().map(String::as_str).filter(|name| is_yaml(name) && matches(pattern, name)).collect();
        if found.is_empty() {
            let known = files.keys().map(String::as_str).filter(|name| is_yaml(name));
            let nearest = nearest(pattern, known).map(str::to_owned);
            return Err(SourceError::NoSuchFile { file: by.into(), name: pattern.into(), nearest });
        }
        for name in found {
            if self.read.contains(name) {
                return Err(SourceError::IncludedTwice { file: by.into(), name: name.into() });
            }
            self.add(name)?;
        }
        Ok(())
    }
}

/// `routes/*.yaml` is every file of that folder and none below it.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix("*.yaml") {
        Some(folder) => name.strip_prefix(folder).is_some_and(|rest| rest.ends_with(".yaml") && !rest.contains('/')),
        None => pattern == name,
    }
}

fn once<'f, T>(
    sections: &mut BTreeMap<&'static str, &'f str>,
    file: &'f str,
    section: &'static str,
    value: Option<T>,
    merged: &mut Option<T>,
) -> Result<(), SourceError> {
    if value.is_none() {
        return Ok(());
    }
    if let Some(other) = sections.insert(section, file) {
        return Err(SourceError::Twice { file: file.into(), section, other: other.into() });
    }
    *merged = value;
    Ok(())
}

/// The largest file of sources.
pub const FILE_BYTES_MAX: usize = 4 * 1_024 * 1_024;
/// Lists within lists, as `[` and `{` write them: the reader takes quadratic time on them, and goes no deeper than 128 anyway.
const FLOW_DEPTH_MAX: usize = 128;

/// Whether a YAML text is of a size and a depth that policies have. Not all depth is seen, so whoever reads what others send does it
/// where it can be stopped.
///
/// # Errors
/// It is too large, or nested too deeply.
pub fn bounded(file: &str, text: &str) -> Result<(), SourceError> {
    let refused = |line, problem| Err(SourceError::Syntax { file: file.into(), line, column: 1, problem });
    if text.len() > FILE_BYTES_MAX {
        return refused(0, format!("the file has {} bytes; at most {FILE_BYTES_MAX} are allowed", text.len()));
    }
    match too_deep(text) {
        Some(line) => refused(line, format!("brackets are nested more than {FLOW_DEPTH_MAX} deep")),
        None => Ok(()),
    }
}

/// The first line on which more brackets are open than may be. Only those count that can open a list or a map: at the beginning of a
/// value, and not within quotes or a comment.
fn too_deep(text: &str) -> Option<usize> {
    let (mut depth, mut line, mut quote, mut escaped, mut before) = (0_usize, 1_usize, None, false, '\n');
    for character in text.chars() {
        match (quote, character) {
            (Some('#'), '\n') => quote = None,
            (Some('"'), '\\') if !escaped => {
                escaped = true;
                continue;
            }
            (Some(open), _) if open == character && !escaped => quote = None,
            (Some(_), _) => {}
            (None, '#') if before.is_whitespace() => quote = Some('#'),
            // Behind a quote that ended, a second one goes on: `''` is how a quote is written in a text.
            (None, '"' | '\'') if begins_value(before) || before == character => quote = Some(character),
            (None, '[' | '{') if begins_value(before) => depth += 1,
            (None, ']' | '}') => depth = depth.saturating_sub(1),
            (None, _) => {}
        }
        (escaped, before) = (false, character);
        line += usize::from(character == '\n');
        if depth > FLOW_DEPTH_MAX {
            return Some(line);
        }
    }
    None
}

const fn begins_value(before: char) -> bool {
    matches!(before, ' ' | '\t' | '\n' | '\r' | '[' | '{' | ',' | ':')
}

fn read_file(file: &str, text: &str) -> Result<PolicyDocument, SourceError> {
    bounded(file, text)?;
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Ok(PolicyDocument::default());
    }
    let document = serde_norway::from_str(text).map_err(|error| {
        let (line, column) = error.location().map_or((0, 0), |at| (at.line(), at.column()));
        SourceError::Syntax { file: file.into(), line, column, problem: shortened(error.to_string()) }
    })?;
    match too_long(&document) {
        Some(found) => Err(refused_text(file, text, &found)),
        None => Ok(document),
    }
}

fn refused_text(file: &str, text: &str, found: &TooLong) -> SourceError {
    let TooLong { field, bytes, most, beginning } = found;
    let line = text.lines().position(|line| line.contains(beginning.as_str())).map_or(0, |index| index.saturating_add(1));
    let problem = format!("{field}: the text has {bytes} bytes; at most {most} are allowed");
    SourceError::Syntax { file: file.into(), line, column: 1, problem }
}

/// What the reader says, without the middle of what it quotes: nobody reads an error of a megabyte.
fn shortened(said: String) -> String {
    const MOST: usize = 1_000;
    if said.len() <= MOST {
        return said;
    }
    let half = MOST / 2;
    let start: String = said.chars().take(half).collect();
    let end: Vec<char> = said.chars().rev().take(half).collect();
    format!("{start} … {}", end.into_iter().rev().collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(files: &[(&str, &str)]) -> BTreeMap<String, String> {
        files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
    }

    #[test]
    fn an_unknown_field_names_file_line_and_field() {
        let text = "roles:\n  - name: a\n    permissions: []\n    permisions: []\n";
        let error = read(&files(&[("roles.yaml", text)])).unwrap_err().to_string();
        assert!(error.starts_with("roles.yaml:4:"), "{error}");
        assert!(error.contains("permisions"), "{error}");
    }

    #[test]
    fn a_text_that_is_no_name_any_more_is_refused_and_not_repeated() {
        let long = "x".repeat(400_000);
        let text = format!("roles:\n  - name: a\n    permissions: []\n  - name: {long}\n    permissions: []\n");
        let error = read(&files(&[("roles.yaml", &text)])).unwrap_err().to_string();
        assert_eq!(error, "roles.yaml:4:1: roles[1].name: the text has 400000 bytes; at most 128 are allowed");
        let unknown = read(&files(&[("roles.yaml", &format!("{long}: 1\n"))])).unwrap_err().to_string();
        assert!(unknown.len() < 1_200 && unknown.contains("invalid type"), "{unknown}");
        let detail = |bytes| format!("responses:\n  - {{reason: no_route, detail: {}}}\n", "x".repeat(bytes));
        assert!(read(&files(&[("a.yaml", &detail(512))])).is_ok());
        assert!(read(&files(&[("a.yaml", &detail(513))])).is_err());
    }

    #[test]
    fn brackets_count_where_they_open_something() {
        let deep = |text: &str| bounded("a.yaml", text).err().map(|error| error.to_string());
        assert_eq!(deep(&"[".repeat(128)), None);
        assert_eq!(deep(&format!("a:\n  {}", "{a: ".repeat(129))), Some("a.yaml:2:1: brackets are nested more than 128 deep".into()));
        let harmless =
            ["a: b[c\n", "a: 'it''s [ [ ['\n", "a: \"\\\" [ [\"\n", "# [ [ [\n", "a: b # [ [\n", "path: '/a/{b}'\n", "a: [b, {c: d}]\n"];
        assert_eq!(harmless.iter().map(|one| deep(&one.repeat(1_000))).find(Option::is_some), None);
        assert_eq!(deep(&"[]\n".repeat(1_000)), None);
    }

    #[test]
    fn a_section_that_stands_once_stands_once() {
        let root = "include: [b.yaml]\nsettings: {no_route_status: 403}\n";
        let error = read(&files(&[("policy.yaml", root), ("b.yaml", "settings: {no_route_status: 403}\n")])).unwrap_err();
        assert_eq!(error.to_string(), "b.yaml: `settings` stands in `policy.yaml` already");
    }

    #[test]
    fn what_is_included_is_merged() {
        let root = "include: ['routes/*.yaml', more/roles.yaml]\npermissions: [a.read]\n";
        let role = "roles: [{name: a, permissions: [a.read]}]\n";
        let route = |name: &str| format!("routes: [{{name: {name}, gateways: [PP], methods: [GET], path: /{name}, require: public}}]\n");
        let merged = read(&files(&[
            ("policy.yaml", root),
            ("routes/a.yaml", &route("a")),
            ("routes/b.yaml", &route("b")),
            ("more/roles.yaml", role),
        ]))
        .unwrap();
        assert_eq!(merged.routes.iter().map(|route| route.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!((merged.roles.len(), merged.permissions.len(), merged.include.len()), (1, 1, 0));
    }

    #[test]
    fn a_file_that_is_not_there_or_not_wanted_or_wanted_twice_is_refused() {
        let one = "permissions: [a.read]\n";
        for (sources, message) in [
            (
                files(&[("policy.yaml", "include: [role.yaml]\n"), ("roles.yaml", one)]),
                "policy.yaml: include: `role.yaml` does not exist; the nearest name is `roles.yaml`",
            ),
            (
                files(&[("policy.yaml", "include: [a.yaml]\n"), ("a.yaml", "include: [policy.yaml]\n")]),
                "a.yaml: include: `policy.yaml` is included already",
            ),
            (files(&[("policy.yaml", one), ("a.yaml", "")]), "a.yaml: no file includes it"),
            (files(&[("policy.yaml", one), ("a.rego", "")]), "a.rego: no file includes it"),
            (files(&[("a.yaml", one), ("b.yaml", one)]), "there is no `policy.yaml`, which includes the other files"),
            (files(&[]), "there is no policy source (*.yaml)"),
        ] {
            assert_eq!(read(&sources).unwrap_err().to_string(), message);
        }
    }
}
