//! `plant-gateway policy import`: roles and permissions out of policies that were written for an OPA server.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use authoring::import::{Difference, Imported, NotImported, RolePermissions, import};
use authoring::opa::{Generation, Grants, OpaSet};
use clap::Args;
use serde_json::{Value, json};
use wire::policy::PolicyDocument;

use super::{POLICIES, PolicyError, print, source};
use crate::commands::admin_api::Format;

/// Arguments of `policy import`.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// A folder with one set of policies (`*.rego`), as an OPA server loads them.
    folder: PathBuf,
    /// Write `permissions` and `roles` there, and not to standard output.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Overwrite that file.
    #[arg(long, requires = "out")]
    force: bool,
    /// The policy whose routes say which permission a request takes: a set of levels knows requests only.
    #[arg(long, value_name = "DIR", default_value = POLICIES)]
    routes: PathBuf,
    /// A policy that the import is compared with; differences end the command with 1.
    #[arg(long, value_name = "DIR")]
    compare: Option<PathBuf>,
}

pub(super) fn run(arguments: &Arguments, format: Format) -> Result<(), PolicyError> {
    let failed = |fault| PolicyError::Oracle { folder: arguments.folder.clone(), fault: Box::new(fault) };
    let compared = arguments.compare.as_deref().map(document).transpose()?;
    let set = OpaSet::load(&source::modules(&arguments.folder)?, &source::gate()?).map_err(failed)?;
    // A table of permissions asks for no routes.
    let routes = match &set.grants {
        Grants::Levels(_) if arguments.routes.is_dir() => Some(document(&arguments.routes)?),
        Grants::Levels(_) | Grants::Permissions(_) => None,
    };
    let imported = import(&set, routes.as_ref()).map_err(failed)?;
    let differences = compared.as_ref().map(|policy| imported.compare(policy));
    if let Some(path) = &arguments.out {
        write(path, &imported.yaml(), arguments.force)?;
    }
    match format {
        Format::Json => print::json(&as_json(&set, &imported, differences.as_deref())),
        Format::Text => {
            if arguments.out.is_none() {
                print::text(&imported.yaml());
            }
            // Beside the YAML, which may go into a file.
            print::note(&as_text(&set, &imported, differences.as_deref()));
        }
    }
    let failed = set.tests.iter().filter(|test| test.fault().is_some()).count();
    if failed > 0 {
        return Err(PolicyError::Failed(format!("{failed} of {} tests of the set do not pass", set.tests.len())));
    }
    if differences.is_some_and(|differences| !differences.is_empty()) { Err(PolicyError::Different) } else { Ok(()) }
}

fn document(folder: &Path) -> Result<PolicyDocument, PolicyError> {
    source::candidate(folder).map(|candidate| candidate.document)
}

fn write(path: &Path, text: &str, force: bool) -> Result<(), PolicyError> {
    let mut options = OpenOptions::new();
    options.write(true);
    if force {
        options.create(true).truncate(true)
    } else {
        options.create_new(true)
    };
    let written = options.open(path).and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|source| PolicyError::Unwritable { path: path.to_owned(), source })
}

fn rego(set: &OpaSet) -> &'static str {
    match set.generation {
        Generation::V0 => "Rego v0",
        Generation::V1 => "Rego v1",
    }
}

fn as_json(set: &OpaSet, imported: &Imported, differences: Option<&[Difference]>) -> Value {
    let roles: Vec<Value> = imported
        .roles
        .iter()
        .map(|role| match &role.permissions {
            RolePermissions::All => json!({"name": role.name, "permissions": ["*"]}),
            RolePermissions::Only(permissions) => json!({"name": role.name, "permissions": permissions}),
        })
        .collect();
    let failed: Vec<String> = set.tests.iter().filter_map(|test| Some(test.fault()?.to_string())).collect();
    json!({
        "generation": set.generation, "form": set.grants.form(), "decided_by": set.grants.decides(),
        "tests": {"run": set.tests.len(), "failed": failed}, "permissions": imported.permissions, "roles": roles,
        "yaml": imported.yaml(), "not_imported": imported.not_imported, "remarks": imported.remarks, "differences": differences,
    })
}

fn as_text(set: &OpaSet, imported: &Imported, differences: Option<&[Difference]>) -> String {
    let faults: Vec<_> = set.tests.iter().filter_map(authoring::rules::TestRun::fault).collect();
    let mut text = format!(
        "imported: {} permissions, {} roles, by {} ({}, {}); {} of {} tests of the set pass\n",
        imported.permissions.len(),
        imported.roles.len(),
        set.grants.decides(),
        set.grants.form(),
        rego(set),
        set.tests.len().saturating_sub(faults.len()),
        set.tests.len()
    );
    faults.iter().for_each(|fault| text.push_str(&format!("  {fault}\n")));
    imported.remarks.iter().for_each(|remark| text.push_str(&format!("odd: {remark}\n")));
    for NotImported { package, file, rules, covered_by } in &imported.not_imported {
        text.push_str(&format!("not imported: {package} ({file}): covered by {covered_by}\n"));
        rules.iter().for_each(|rule| text.push_str(&format!("  {rule}\n")));
    }
    match differences {
        None => {}
        Some([]) => text.push_str("compared: no difference\n"),
        Some(differences) => {
            text.push_str(&format!("compared: {} differences\n", differences.len()));
            differences.iter().for_each(|difference| text.push_str(&format!("  {difference}\n")));
        }
    }
    text
}
