//! Where policies come from: a folder, or a revision that the control plane has.

use std::path::Path;

use authoring::directory::{self, DirectoryError};
use authoring::evaluate::Candidate;
use authoring::rules::{Gate, GateReport, gather};
use authoring::{Files, PolicyFault};
use serde_json::Value;

use super::PolicyError;
use crate::commands::admin_api::{AdminApi, ApiCommandError, Connection, block_on};
use crate::demo::http::Ask;

/// The files of a folder.
pub(super) fn files(folder: &Path) -> Result<Files, PolicyError> {
    read(folder, directory::read)
}

/// The modules of a folder.
pub(super) fn modules(folder: &Path) -> Result<Files, PolicyError> {
    read(folder, directory::read_modules)
}

/// What examines rules that others wrote: this program, in a process of its own.
pub(super) fn gate() -> Result<Gate, PolicyError> {
    Gate::this_program().map_err(|source| PolicyError::Unreadable { path: "/proc/self/exe".into(), source })
}

fn read(folder: &Path, files: fn(&Path) -> Result<Files, DirectoryError>) -> Result<Files, PolicyError> {
    if !folder.is_dir() {
        let source = std::io::Error::new(std::io::ErrorKind::NotFound, "there is no such folder");
        return Err(PolicyError::Unreadable { path: folder.to_owned(), source });
    }
    files(folder).map_err(|error| {
        let fault = PolicyFault::from(error);
        let path = fault.file.clone().unwrap_or_default().into();
        PolicyError::Unreadable { path, source: std::io::Error::other(fault.message) }
    })
}

/// The policy in a folder.
pub(super) fn candidate(folder: &Path) -> Result<Candidate, PolicyError> {
    compiled(files(folder)?)
}

/// The policy that these files are. Tests of its custom rules that do not pass are told by `validate` and `test`.
pub(super) fn compiled(files: Files) -> Result<Candidate, PolicyError> {
    examined(files).map(|(candidate, _report)| candidate)
}

/// The policy that these files are, and what the gate says of its custom rules. As publishing does it: files are read, and rules
/// examined, by a process of its own, and nothing of them is evaluated here before they have passed.
pub(super) fn examined(files: Files) -> Result<(Candidate, Option<GateReport>), PolicyError> {
    let invalid = |fault| PolicyError::Invalid(Box::new(fault));
    let gate = gate()?;
    gate.read(&files).map_err(invalid)?;
    let document = wire::sources::read(&files).map_err(|error| invalid(PolicyFault::of_source(&error, &files)))?;
    let rules = gather(&document, &files).map_err(invalid)?;
    let report = rules.map(|rules| gate.run(&rules)).transpose().map_err(invalid)?;
    Ok((Candidate::new(files).map_err(invalid)?, report))
}

/// `active`, the number of a revision, or a folder.
pub(super) fn files_of(named: &str, connection: &Connection) -> Result<Files, PolicyError> {
    let revision = if named == "active" {
        let answer = ask(connection, Ask::get("/admin/v1/policies/active"))?;
        answer.get("revision").and_then(Value::as_u64).ok_or(ApiCommandError::Unreadably("revision"))?.to_string()
    } else if !named.is_empty() && named.bytes().all(|byte| byte.is_ascii_digit()) {
        named.to_owned()
    } else {
        return files(Path::new(named));
    };
    let answer = ask(connection, Ask::get(&format!("/admin/v1/policies/{revision}")))?;
    let files = answer.get("files").cloned().ok_or(ApiCommandError::Unreadably("files"))?;
    Ok(serde_json::from_value(files).map_err(|_cause| ApiCommandError::Unreadably("files"))?)
}

/// Asks the control plane something that must succeed.
pub(super) fn ask(connection: &Connection, ask: Ask) -> Result<Value, PolicyError> {
    let mut api = AdminApi::open(connection)?;
    Ok(block_on(api.json(ask))?)
}
