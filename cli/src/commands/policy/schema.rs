//! `plant-gateway policy schema`.

use std::path::PathBuf;

use clap::Args;

use super::PolicyError;

/// Arguments of `policy schema`.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Say whether this file is the schema, instead of printing it.
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "policies/schema.json")]
    check: Option<PathBuf>,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), PolicyError> {
    let schema = authoring::schema::text();
    let Some(path) = &arguments.check else {
        print!("{schema}");
        return Ok(());
    };
    let known = std::fs::read_to_string(path).map_err(|source| PolicyError::Unreadable { path: path.clone(), source })?;
    if known == schema {
        return Ok(());
    }
    let program = "plant-gateway policy schema";
    Err(PolicyError::Failed(format!("`{}` is not the schema of this version: write it with `{program} > {0}`", path.display())))
}
