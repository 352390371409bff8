//! The stack of a chaos run: two Envoys, two control planes, and between them a network that can fail.

use std::path::{Path, PathBuf};
use std::time::Duration;

use cli::stack::{Copies, Options, Part, Stack, StackError, State};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::plan::Fault;
use crate::link::{Line, Link};
use crate::policies::with_budget;

/// Requests that all agents of a customer may make.
pub(crate) const CUSTOMER_CAP: i64 = 1_500;
/// Money of one agent: 714 requests, and 2 are left.
pub(crate) const AGENT_CAP: i64 = 5_000;
/// What a request costs.
pub(crate) const COST: i64 = 7;
/// What is asked for.
pub(crate) const PATH: &str = "/chaos/run";

const ROUTES: &str = "
routes:
  - { name: chaos.run, gateways: [CP], methods: [POST], path: /chaos/run, require: authenticated, cost_micros: 7 }
";
const BUDGETS: &str = "
  - { name: chaos-customer, unit: requests, window: month, scope: \"customer:{customer_id}\", cap: 1500, gateways: [CP], on_unavailable: closed }
  - { name: chaos-agent, unit: micro_usd, window: month, scope: \"agent:{agent_id}\", cap: 5000, gateways: [CP] }
";
/// Where the template has the one control plane.
const ONE_ENDPOINT: &str =
    "lb_endpoints: [{ endpoint: { address: { socket_address: { address: \"${DATA_PLANE_ADDRESS}\", port_value: ${DATA_PLANE_PORT} } } } }]";
/// Ports of the links, from the base.
const LINK_PORTS: [u16; 2] = [150, 151];
const DATA_PLANE_PORTS: [u16; 2] = [93, 193];
/// Notes leases that end, with what they had: the ledger itself forgets them. As who made this: the control plane has no right to the table.
const NOTE_LEASES: &str = "
CREATE TABLE chaos_leases_ended (account_id BIGINT, holder UUID, granted BIGINT, used BIGINT, ended_at TIMESTAMPTZ, superseded BOOLEAN);
CREATE FUNCTION chaos_note_lease() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    INSERT INTO chaos_leases_ended VALUES (OLD.account_id, OLD.holder, OLD.granted, OLD.used, now(), TG_OP = 'UPDATE');
    RETURN NULL;
END $$;
CREATE TRIGGER chaos_ended AFTER DELETE ON budget_leases FOR EACH ROW EXECUTE FUNCTION chaos_note_lease();
CREATE TRIGGER chaos_superseded AFTER UPDATE ON budget_leases FOR EACH ROW WHEN (OLD.generation <> NEW.generation)
    EXECUTE FUNCTION chaos_note_lease();
";

/// The run cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ChaosError {
    /// The stack does not start.
    #[error("the stack does not start")]
    Stack(#[from] StackError),
    /// A file or port.
    #[error("the run cannot be prepared")]
    Prepare(#[from] std::io::Error),
    /// The template looks different.
    #[error("`{template}` does not have the control plane's endpoint where it is looked for")]
    Template {
        /// Which.
        template: PathBuf,
    },
    /// The books cannot be read.
    #[error("the books cannot be read")]
    Books(#[from] sqlx::Error),
    /// A token cannot be made.
    #[error("a token cannot be made")]
    Token(#[from] cli::token::MintError),
    /// A task of ours.
    #[error("a client panicked")]
    Client(#[from] tokio::task::JoinError),
    /// The backend does not answer.
    #[error("the backend does not say what it has seen")]
    Backend(#[from] crate::http::HttpError),
    /// An issuer is missing.
    #[error("the stack has no issuer `cp`")]
    Issuer,
}

/// Everything that runs.
#[derive(Debug)]
pub struct World {
    /// The stack.
    pub stack: Stack,
    /// Its Postgres.
    pub database: PgPool,
    /// After so much silence a holder is closed.
    pub silence: Duration,
    links: [Link; 2],
    _home: tempfile::TempDir,
}

impl World {
    /// Starts it all.
    ///
    /// # Errors
    /// When a part does not start.
    pub async fn start(mut options: Options, silence: Duration) -> Result<Self, ChaosError> {
        let home = tempfile::tempdir()?;
        options.policies = with_budget(home.path(), BUDGETS)?;
        std::fs::write(options.policies.join("routes/zz-chaos.yaml"), ROUTES)?;
        let port = |offset: u16| options.port_base.saturating_add(offset);
        let link_ports = LINK_PORTS.map(port);
        options.envoy_template = template_with(&options.envoy_template, home.path().join("bootstrap.yaml"), link_ports)?;
        options.envoys = Copies::Two;
        options.control_planes = Copies::Two;
        options.control_plane_env.push(("HOLDER_SILENCE_S".to_owned(), silence.as_secs().to_string()));
        let [first, second] = [(LINK_PORTS[0], DATA_PLANE_PORTS[0]), (LINK_PORTS[1], DATA_PLANE_PORTS[1])];
        let links = [Link::start(port(first.0), port(first.1)).await?, Link::start(port(second.0), port(second.1)).await?];
        let stack = tokio::task::spawn_blocking(move || Stack::start(options)).await??;
        let pool = PgPoolOptions::new().max_connections(2).acquire_timeout(Duration::from_secs(2));
        let database = pool.connect_lazy(&stack.state().database_admin_url)?;
        sqlx::raw_sql(NOTE_LEASES).execute(&database).await?;
        Ok(Self { stack, database, silence, links, _home: home })
    }

    /// Where it can be reached.
    #[must_use]
    pub const fn state(&self) -> &State {
        self.stack.state()
    }

    /// Does it, and undoes it when its time is over. A part that does not run at the moment cannot be hurt.
    pub async fn inflict(&self, fault: Fault) {
        match fault {
            Fault::Kill(part) => {
                let _not_running = self.stack.kill(part);
            }
            Fault::Halt(part, lasting) => {
                let _not_running = self.stack.pause(part);
                tokio::time::sleep(lasting).await;
                let _not_running = self.stack.resume(part);
            }
            Fault::Flush => {
                let _not_running = flush(&self.state().redis_url).await;
            }
            Fault::Slow(link, lasting) => self.disturb(link, Line::Slow(Duration::from_millis(250)), lasting).await,
            Fault::Deaf(link, lasting) => self.disturb(link, Line::Deaf, lasting).await,
            Fault::Cut(link, lasting) => self.disturb(link, Line::Cut, lasting).await,
        }
    }

    async fn disturb(&self, link: usize, line: Line, lasting: Duration) {
        let Some(link) = self.links.get(link) else { return };
        link.set(line);
        tokio::time::sleep(lasting).await;
        link.set(Line::Open);
    }

    /// Whether every part runs.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        Part::ALL.iter().all(|part| self.stack.pids().of(*part).is_some())
    }
}

/// A copy of Envoy's template in which there are two control planes, each behind a link.
fn template_with(template: &Path, copy: PathBuf, ports: [u16; 2]) -> Result<PathBuf, ChaosError> {
    let text = std::fs::read_to_string(template)?;
    if text.matches(ONE_ENDPOINT).count() != 2 {
        return Err(ChaosError::Template { template: template.to_owned() });
    }
    let endpoint = |port: u16| {
        format!("{{ endpoint: {{ address: {{ socket_address: {{ address: \"${{DATA_PLANE_ADDRESS}}\", port_value: {port} }} }} }} }}")
    };
    let two = format!("lb_endpoints: [{}]", ports.map(endpoint).join(", "));
    std::fs::write(&copy, text.replace(ONE_ENDPOINT, &two))?;
    Ok(copy)
}

/// Empties Valkey.
async fn flush(url: &str) -> std::io::Result<()> {
    let Some((password, address)) = url.strip_prefix("redis://:").and_then(|rest| rest.split_once('@')) else { return Ok(()) };
    let address = address.split('/').next().unwrap_or_default();
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(format!("AUTH {password}\r\nFLUSHALL\r\nQUIT\r\n").as_bytes()).await?;
    let mut said = Vec::new();
    timeout(Duration::from_secs(1), stream.read_to_end(&mut said)).await.map_or(Ok(()), |read| read.map(|_length| ()))
}
