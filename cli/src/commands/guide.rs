//! `plant-gateway guide`: how to use a stack that runs.

use std::path::PathBuf;

use clap::Args;

use crate::stack::{StackError, State};
use crate::token::{MintError, TokenSpec, mint};

/// Arguments of `guide`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The state file of the stack.
    #[arg(long, default_value = ".run/state.json")]
    state: PathBuf,
}

/// There is nothing to show.
#[derive(Debug, thiserror::Error)]
pub enum GuideError {
    /// No stack.
    #[error(transparent)]
    State(#[from] StackError),
    /// No sample tokens.
    #[error("cannot make the sample tokens")]
    Token(#[from] MintError),
}

/// Shows where a running stack can be reached, and a token for each role.
///
/// # Errors
/// The state file cannot be read.
pub fn run(arguments: &Arguments) -> Result<(), GuideError> {
    println!("{}", text(&State::read(&arguments.state)?)?);
    Ok(())
}

/// Role, issuer and user of the sample tokens.
fn samples() -> Vec<(&'static str, &'static str, TokenSpec)> {
    const CUSTOMER: &str = "0b5c1f2e-6a55-4d27-9f0e-1d6f4f1c7a10";
    const DAYS_14: i64 = 14 * 86_400;
    let customer = |subject: &str, role: &str| TokenSpec::new(subject, &[role]).customer(CUSTOMER);
    let partner = |role: &'static str| (role, "pp", TokenSpec::new(role, &[role]));
    vec![
        partner("admin"),
        ("governor", "pp", TokenSpec::new("governor", &["admin"]).governor("governor-1")),
        ("customer_admin", "cp", customer("customer_admin", "customer_admin")),
        ("customer_user", "cp", customer("customer_user", "customer_user")),
        ("trial user", "cp", customer("trial", "customer_user").trial_for(DAYS_14)),
        partner("subscription_manager"),
        partner("agent_orchestrator"),
        partner("infrastructure_engineer"),
        partner("helpdesk_agent"),
        partner("industry_manager"),
        partner("viewer"),
    ]
}

/// URLs, tokens, and lines to try.
pub(super) fn text(state: &State) -> Result<String, MintError> {
    let gateway = |name: &str| state.gateways.get(name).map_or("-", String::as_str);
    let (cp, pp, plant) = (gateway("CP"), gateway("PP"), gateway("PLANT"));
    let state_file = state.run_dir.join("state.json");
    let mut text = format!(
        "  gateway CP     {cp}\n  gateway PP     {pp}\n  gateway PLANT  {plant}\n  admin API      {}\n  state          {}\n  access log     {}\n",
        state.admin,
        state_file.display(),
        state.access_log.display(),
    );
    // The rest of a compose stack is for the containers alone.
    let outside = state.compose_project.is_none();
    if outside {
        text.push_str(&format!("  backend        {}\n  envoy admin    {}\n", state.backend, state.envoy_admin));
    }
    text.push_str("\nSample tokens, for an hour:\n");
    for (name, issuer, spec) in samples() {
        if let Some(issuer_state) = state.issuers.get(issuer) {
            let token = mint(issuer_state, &spec)?;
            text.push_str(&format!("\n{name} (issuer {issuer})\n  {token}\n"));
        }
    }
    let program = if outside { std::env::args().next() } else { None };
    let token = format!("{} token mint --state {} --issuer pp --role", program.as_deref().unwrap_or("plant-gateway"), state_file.display());
    text.push_str(&format!(
        "\nTry:\n  curl -i {pp}/api/v1/agents\n  curl -i -H \"authorization: Bearer $({token} viewer)\" {pp}/api/v1/agents\n  \
         curl -i -X POST -H \"authorization: Bearer $({token} viewer)\" -H 'content-type: application/json' -d '{{}}' {pp}/api/v1/agents\n  \
         curl -i -H \"authorization: Bearer $({token} viewer --expired)\" {pp}/api/v1/agents"
    ));
    if outside {
        text.push_str(&format!("\n  curl -s {}/stats/prometheus | grep ^gateway_", state.envoy_admin));
    }
    Ok(text)
}
