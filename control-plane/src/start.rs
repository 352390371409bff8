//! From settings to a running process, and in order to its end.

use crate::app::{AppState, admin_app, data_plane_app};
use crate::audit::checkpoints::{KeyError, Signing, SigningKey};
use crate::audit::export::{self, ExportError};
use crate::audit::{partitions, publish};
use crate::budgets::caps;
use crate::envoys::{self, TokensFileError};
use crate::jobs;
use crate::metrics::Metrics;
use crate::notifications;
use crate::outbound::target::Purpose;
use crate::outbound::{ClientError, GuardedClient, Limits};
use crate::policies::directory::{self, Publication};
use crate::policies::follow::{LoadError, compile_as, load_active};
use crate::policies::rule_names;
use crate::policies::{ActivePolicy, Files, PolicyFault, PolicyFaults, check, store};
use crate::problem::ApiError;
use crate::restore::fence;
use crate::revocations;
use crate::secrets::SecretsDirectory;
use crate::settings::Settings;
use crate::stores::StoreError;
use crate::sync::places::Places;
use crate::webhooks;
use axum::Router;
use decision_core::causes::chain;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use sqlx::PgPool;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::PgPoolOptions;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use wire::bundle::BundleVersion;

/// The migrations of this build.
pub static MIGRATOR: Migrator = sqlx::migrate!("../migrations");

/// How long open requests may take to end after the process was asked to stop.
const DRAIN_MAX: Duration = Duration::from_secs(8);
/// How long background tasks and connections may take after that.
const CLOSE_MAX: Duration = Duration::from_secs(2);

const BACK_OFF_FIRST: Duration = Duration::from_millis(100);
const BACK_OFF_MAX: Duration = Duration::from_secs(3);

/// Why the process does not start. No text contains a password.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// It is not said where a store is.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Postgres did not answer in time.
    #[error("Postgres at {at} did not answer within {waited_s} s; DATABASE_URL says where it is")]
    Database {
        /// Host, port and database.
        at: String,
        /// How long we tried.
        waited_s: u64,
        /// The last failure.
        #[source]
        source: sqlx::Error,
    },
    /// Redis did not answer in time.
    #[error("Redis or Valkey at {at} did not answer within {waited_s} s; REDIS_URL says where it is")]
    Valkey {
        /// Host and port.
        at: String,
        /// How long we tried.
        waited_s: u64,
        /// The last failure.
        #[source]
        source: redis::RedisError,
    },
    /// The schema could not be brought up to date.
    #[error("the database could not be migrated")]
    Migrate(#[source] MigrateError),
    /// The tokens file is not usable.
    #[error("the Envoys could not be registered")]
    Tokens(#[from] TokensFileError),
    /// The directory is no policy, and nothing was ever activated.
    #[error("the policies directory is no valid policy, and no other was ever activated")]
    Policy(#[source] PolicyFault),
    /// What was activated does not load here.
    #[error("the active policy cannot be loaded")]
    Active(#[source] LoadError),
    /// The database failed while policies were published.
    #[error("the policies directory could not be published")]
    Publish(#[source] ApiError),
    /// What was revoked is not known: a revoked operator could come in.
    #[error("revocations could not be read")]
    Revocations(#[source] sqlx::Error),
    /// The audit log could not be signed.
    #[error("the key of AUDIT_SIGNING_KEY_FILE cannot be used")]
    SigningKey(#[source] KeyError),
    /// Whether a backup was restored cannot be told.
    #[error("the file of AUDIT_CHECKPOINTS_FILE cannot be compared with the database")]
    Witness(#[source] ExportError),
    /// Key sets could not be fetched, or events not delivered.
    #[error("the clients for key sets and webhooks cannot be made; see JWKS_CA_FILE and WEBHOOK_CA_FILE")]
    Outbound(#[source] ClientError),
    /// A task was stopped.
    #[error("a starting task was stopped")]
    Stopped(#[source] tokio::task::JoinError),
    /// The database failed.
    #[error("the database failed")]
    Query(#[source] sqlx::Error),
    /// A port is taken, or not ours to take.
    #[error("cannot listen on {address}; set {variable} to another address, or PORT_BASE where `make run` chooses them")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// The variable that shifts it.
        variable: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The system does not say where a socket listens.
    #[error("cannot tell where a listener listens")]
    Address(#[source] io::Error),
    /// A background task ended by itself.
    #[error("a background task ended by itself; the log says which")]
    TaskEnded,
    /// Signals cannot be received.
    #[error("cannot receive signals")]
    Signals(#[source] io::Error),
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// It could not start.
pub async fn run(settings: Settings) -> Result<(), StartError> {
    // Signals before anything that takes time: the first process of a container ignores those that it does not ask for.
    let mut stop = Stop::listen()?;
    // Ports then: a second copy must not publish, migrate or close anything.
    let admin = listen(settings.admin_listen, "ADMIN_LISTEN").await?;
    let data_plane = listen(settings.data_plane_listen, "DATA_PLANE_LISTEN").await?;
    let state = tokio::select! {
        started = start(settings) => started?,
        () = stop.asked() => return Ok(()),
    };
    serve(state, admin, data_plane, stop).await
}

async fn start(settings: Settings) -> Result<AppState, StartError> {
    let database = connect_database(&settings).await?;
    let valkey = connect_valkey(&settings).await?;
    migrate(&database).await.map_err(StartError::Migrate)?;
    assemble(settings, database, valkey).await
}

/// Brings the schema up to date. One that a newer build has migrated is fine as it is: migrations only add, and a replica that is
/// started again in the middle of an upgrade must come up.
///
/// # Errors
/// A migration fails, or one that was applied is another than ours.
pub async fn migrate(database: &PgPool) -> Result<(), MigrateError> {
    Migrator::with_migrations(MIGRATOR.iter().cloned().collect()).set_ignore_missing(true).run(database).await
}

/// What asks the process to stop.
struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    fn listen() -> Result<Self, StartError> {
        let listen = |kind| signal(kind).map_err(StartError::Signals);
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    async fn asked(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// The state over connected, migrated stores: registers Envoys, publishes the policies directory, loads what is active.
///
/// # Errors
/// There is no policy to enforce.
pub async fn assemble(settings: Settings, database: PgPool, valkey: ConnectionManager) -> Result<AppState, StartError> {
    if let Some(file) = &settings.data_plane_tokens_file {
        let known = envoys::register(&database, file).await?;
        tracing::info!(envoys = known, "registered data-plane tokens");
    }
    partitions::create_ahead(&database).await.map_err(StartError::Query)?;
    // Before anything is served: what this database does not remember must not be granted again.
    fence::at_start(&database, settings.audit_checkpoints_file.as_deref()).await.map_err(StartError::Witness)?;
    let secrets = SecretsDirectory::new(&settings.secrets_dir);
    let database_id = store::database_id(&database).await.map_err(StartError::Query)?;
    let directory = publish_directory(&settings, &database, &secrets).await?;
    let active = match load_active(&database, &secrets, database_id, None).await {
        Ok(Some(active)) => active,
        // Nothing was loaded before, so something is loaded now; and without a fault nothing active means an empty table.
        Ok(None) | Err(LoadError::NothingActive) => {
            return Err(directory.map_or(StartError::Active(LoadError::NothingActive), StartError::Policy));
        }
        Err(error @ (LoadError::Fault(_) | LoadError::Database(_) | LoadError::Stopped(_))) => {
            return Err(StartError::Active(error));
        }
    };
    rule_names::note(&database, &active).await.map_err(StartError::Query)?;
    let revoked = revocations::follow::load(&database).await.map_err(StartError::Revocations)?;
    let caps = caps::follow::load(&database).await.map_err(StartError::Query)?;
    let (outbound, webhooks) = outbound(&settings).await?;
    let signing = signing(&settings)?;
    let metrics = Metrics::new();
    metrics.revocations(revoked.number(), revoked.live());
    metrics.policy_in_force(&active.version);
    metrics.policy_fault.set(i64::from(directory.is_some()));
    Ok(AppState {
        database,
        valkey,
        active: Arc::new(watch::Sender::new(Arc::new(active))),
        policy_faults: Arc::new(watch::Sender::new(PolicyFaults { directory, ..PolicyFaults::default() })),
        revoked: Arc::new(revoked),
        caps: Arc::new(caps),
        alerted: Arc::default(),
        outbound,
        webhooks,
        keys_asked: Arc::default(),
        signing,
        sync_places: Places::of(settings.database_connections_max),
        settings: Arc::new(settings),
        metrics: Arc::new(metrics),
        shutdown: CancellationToken::new(),
    })
}

/// What signs where the audit log stands.
fn signing(settings: &Settings) -> Result<Option<Arc<Signing>>, StartError> {
    let Some(path) = &settings.audit_signing_key_file else {
        tracing::warn!("AUDIT_SIGNING_KEY_FILE is not set: the audit log is not signed, and none of its partitions is dropped");
        return Ok(None);
    };
    let key = SigningKey::read(path).map_err(StartError::SigningKey)?;
    Ok(Some(Arc::new(Signing { key, file: settings.audit_checkpoints_file.clone() })))
}

/// The clients for key sets and for webhooks.
async fn outbound(settings: &Settings) -> Result<(GuardedClient, GuardedClient), StartError> {
    let (hosts, networks, ca_file) = (settings.jwks_hosts.clone(), settings.jwks_networks.0.clone(), settings.jwks_ca_file.clone());
    let (to_hosts, to_networks, to_ca_file) =
        (settings.webhook_hosts.clone(), settings.webhook_networks.0.clone(), settings.webhook_ca_file.clone());
    let clients = tokio::task::spawn_blocking(move || {
        let key_sets = GuardedClient::new(hosts, networks, ca_file.as_ref(), Limits::SMALL)?;
        let webhooks = GuardedClient::new(to_hosts, to_networks, to_ca_file.as_ref(), Limits::SMALL)?;
        Ok((key_sets, webhooks.with_purpose(Purpose::Webhooks)))
    });
    clients.await.map_err(StartError::Stopped)?.map_err(StartError::Outbound)
}

/// Publishes the directory if it changed. A bad one is returned, and whatever is active stays.
async fn publish_directory(settings: &Settings, database: &PgPool, secrets: &SecretsDirectory) -> Result<Option<PolicyFault>, StartError> {
    let fault = match compiled_directory(settings, database, secrets).await {
        Ok((files, issuers)) => match directory::publish_if_changed(database, &files, &issuers).await.map_err(StartError::Publish)? {
            Publication::Activated | Publication::Unchanged => return Ok(None),
            Publication::Refused(fault) => fault,
        },
        Err(LoadError::Fault(fault)) => fault,
        Err(error @ (LoadError::NothingActive | LoadError::Database(_) | LoadError::Stopped(_))) => {
            return Err(StartError::Active(error));
        }
    };
    tracing::error!(file = fault.file, line = fault.line, field = fault.field, error = %fault, "the policies directory cannot be put in force; what is active stays");
    Ok(Some(fault))
}

async fn compiled_directory(settings: &Settings, database: &PgPool, secrets: &SecretsDirectory) -> Result<(Files, Vec<String>), LoadError> {
    let path = settings.policies_dir.clone();
    let files = tokio::task::spawn_blocking(move || authoring::directory::read(&path))
        .await
        .map_err(LoadError::Stopped)?
        .map_err(|error| LoadError::Fault(error.into()))?;
    let compiled: ActivePolicy = compile_as(database, files.clone(), secrets.clone(), settings.gate(), BundleVersion::default()).await?;
    check::check(&compiled.document, settings, &files).await.map_err(LoadError::Fault)?;
    let issuers = compiled.document.issuers.into_iter().map(|issuer| issuer.name).collect();
    Ok((files, issuers))
}

async fn listen(address: SocketAddr, variable: &'static str) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|source| StartError::Listen { address, variable, source })
}

/// A replica that hangs in the middle of a transaction must not keep the others from the accounts that it has locked. Nothing of it
/// was answered, and none of our transactions waits for anything but Postgres.
const IDLE_TRANSACTIONS_END: &str = "SET idle_in_transaction_session_timeout = '5s'";

/// A backend of Postgres remembers every table that it has seen, and with the audit log's partitions that is some 10 MB each. The pool hands its
/// connections out in turn, so none is ever idle for long: how many there are falls after a burst only because they end.
const CONNECTIONS_LIVE: Duration = Duration::from_secs(300);

async fn connect_database(settings: &Settings) -> Result<PgPool, StartError> {
    let options = settings.database.options()?;
    let options = options.application_name("plant-gateway-control-plane");
    let at = format!("{}:{}/{}", options.get_host(), options.get_port(), options.get_database().unwrap_or_default());
    let pool = PgPoolOptions::new()
        .max_connections(settings.database_connections_max)
        .acquire_timeout(Duration::from_secs(5))
        .max_lifetime(CONNECTIONS_LIVE)
        .after_connect(|connection, _| Box::pin(async move { sqlx::query(IDLE_TRANSACTIONS_END).execute(connection).await.map(|_set| ()) }))
        .connect_lazy_with(options);
    let waited_s = settings.connect_timeout_s;
    retried(Duration::from_secs(waited_s), &at, async || sqlx::query("SELECT 1").execute(&pool).await)
        .await
        .map_err(|source| StartError::Database { at, waited_s, source })?;
    Ok(pool)
}

async fn connect_valkey(settings: &Settings) -> Result<ConnectionManager, StartError> {
    let client = redis::Client::open(settings.valkey.connection()?).map_err(|_quotes_it| StoreError::RedisUrl)?;
    let at = client.get_connection_info().addr().to_string();
    let config = || {
        ConnectionManagerConfig::new()
            .set_connection_timeout(Some(Duration::from_secs(1)))
            .set_response_timeout(Some(Duration::from_secs(1)))
            .set_number_of_retries(1)
            .set_max_delay(Duration::from_secs(1))
    };
    let waited_s = settings.connect_timeout_s;
    retried(Duration::from_secs(waited_s), &at, async || ConnectionManager::new_with_config(client.clone(), config()).await)
        .await
        .map_err(|source| StartError::Valkey { at, waited_s, source })
}

/// Tries until it works or the time is up, waiting twice as long after each failure.
async fn retried<T, E: std::error::Error + 'static>(limit: Duration, at: &str, attempt: impl AsyncFn() -> Result<T, E>) -> Result<T, E> {
    let deadline = Instant::now() + limit;
    let mut pause = BACK_OFF_FIRST;
    loop {
        match attempt().await {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() + pause >= deadline => return Err(error),
            Err(error) => tracing::warn!(at, error = %chain(&error), "not reachable yet; trying again"),
        }
        tokio::time::sleep(pause).await;
        pause = pause.saturating_mul(2).min(BACK_OFF_MAX);
    }
}

/// Serves both listeners until asked to stop, then: no more grants, long polls end, open requests finish, close.
async fn serve(state: AppState, admin: TcpListener, data_plane: TcpListener, mut stop: Stop) -> Result<(), StartError> {
    let shutdown = state.shutdown.clone();
    let address = |listener: &TcpListener| listener.local_addr().map_err(StartError::Address);
    let (admin_address, data_plane_address) = (address(&admin)?, address(&data_plane)?);
    let died = CancellationToken::new();
    let background = [
        watched("notifications", tokio::spawn(notifications::follow(state.clone())), &shutdown, &died),
        watched("jobs", jobs::spawn(state.clone(), shutdown.child_token()), &shutdown, &died),
        watched("fence", fence::spawn(state.clone(), shutdown.child_token()), &shutdown, &died),
        watched("checkpoints", export::spawn(state.clone(), shutdown.child_token()), &shutdown, &died),
        watched("checkpoint posts", publish::spawn(state.clone(), shutdown.child_token()), &shutdown, &died),
        watched("webhooks", webhooks::deliver::spawn(state.clone(), shutdown.child_token()), &shutdown, &died),
    ];
    let servers = [
        spawn_server(admin, admin_app(state.clone()), shutdown.clone()),
        spawn_server(data_plane, data_plane_app(state.clone()), shutdown.clone()),
    ];
    let policy = state.policy().tag();
    tracing::info!(admin = %admin_address, data_plane = %data_plane_address, policy, "ready");
    tokio::select! {
        () = stop.asked() => {}
        () = died.cancelled() => {}
    }
    tracing::info!("stopping");
    shutdown.cancel();
    within(DRAIN_MAX, "open requests", async {
        for server in servers {
            ended(server.await, "listener");
        }
    })
    .await;
    within(CLOSE_MAX, "background tasks and connections", async {
        for task in background {
            ended(task.await, "background task");
        }
        state.database.close().await;
    })
    .await;
    tracing::info!("stopped");
    if died.is_cancelled() { Err(StartError::TaskEnded) } else { Ok(()) }
}

/// Tells when a task ends before it was asked to: without it revocations, policies or leases would silently stand still.
fn watched(what: &'static str, task: JoinHandle<()>, shutdown: &CancellationToken, died: &CancellationToken) -> JoinHandle<()> {
    let (shutdown, died) = (shutdown.clone(), died.clone());
    tokio::spawn(async move {
        ended(task.await, what);
        if !shutdown.is_cancelled() {
            tracing::error!(what, "a background task ended by itself; the process stops");
            died.cancel();
        }
    })
}

fn spawn_server(listener: TcpListener, app: Router, shutdown: CancellationToken) -> JoinHandle<()> {
    tokio::spawn(async move {
        let served = axum::serve(listener, app).with_graceful_shutdown(shutdown.cancelled_owned()).await;
        if let Err(error) = served {
            tracing::error!(error = %chain(&error), "a listener failed");
        }
    })
}

async fn within(limit: Duration, what: &str, work: impl Future<Output = ()>) {
    if tokio::time::timeout(limit, work).await.is_err() {
        tracing::warn!(what, "did not end in time");
    }
}

fn ended(outcome: Result<(), tokio::task::JoinError>, what: &str) {
    if let Err(error) = outcome {
        tracing::error!(what, error = %chain(&error), "ended badly");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_dies_is_noticed_and_one_that_was_stopped_is_not() {
        let (shutdown, died) = (CancellationToken::new(), CancellationToken::new());
        watched("a", tokio::spawn(async { panic!("a test") }), &shutdown, &died).await.unwrap();
        assert!(died.is_cancelled());
        let died = CancellationToken::new();
        shutdown.cancel();
        watched("b", tokio::spawn(async {}), &shutdown, &died).await.unwrap();
        assert!(!died.is_cancelled());
    }
}
