//! `plant-gateway bundle`: the bundle in force, as it may stand in Envoy's plugin configuration. Public keys only.

use clap::Args;
use serde_json::Value;

use super::admin_api::{AdminApi, ApiCommandError, Connection, Format, block_on};
use crate::demo::http::Ask;

/// Arguments of `bundle`.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    connection: Connection,
}

/// Prints it, base64.
///
/// # Errors
/// The control plane cannot be reached, or refuses.
pub fn run(arguments: &Arguments) -> Result<(), ApiCommandError> {
    let mut api = AdminApi::open(&arguments.connection)?;
    let answer = block_on(api.json(Ask::get("/admin/v1/policies/active/bundle")))?;
    if arguments.connection.format == Format::Json {
        println!("{answer}");
        return Ok(());
    }
    println!("{}", answer.get("bundle").and_then(Value::as_str).ok_or(ApiCommandError::Unreadably("bundle"))?);
    let without = answer.get("issuers_without_keys").and_then(Value::as_array).cloned().unwrap_or_default();
    let names: Vec<&str> = without.iter().filter_map(Value::as_str).collect();
    if !names.is_empty() {
        eprintln!("without keys, since these are secret or not known: {}", names.join(", "));
    }
    Ok(())
}
