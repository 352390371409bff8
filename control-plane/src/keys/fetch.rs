//! Fetches the key sets that issuers publish. Whatever goes wrong with one is noted beside it: its last good set stays, and
//! no other issuer notices.

use super::jwk_set::{self, InvalidSet};
use super::merge::algorithms;
use super::store::{self, Due, Keeping};
use super::{ASK_EVERY_S, publishers};
use crate::app::AppState;
use crate::metrics::{IssuerName, Metrics};
use crate::outbound::CallError;
use crate::policies::ActivePolicy;
use authn::VerificationKey;
use decision_core::causes::chain;
use std::time::Duration;
use time::OffsetDateTime;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use wire::policy::{Issuer, JwksSource};

/// How often a replica looks what is due, at least.
const POLL: Duration = Duration::from_secs(1);

/// Waits double with every failure up to so many times.
const DOUBLINGS_MAX: u32 = 6;

/// Longest text of an error that is kept.
const ERROR_CHARS_MAX: usize = 500;

/// Why a fetch led to no new set.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Nothing was fetched.
    #[error(transparent)]
    Call(#[from] CallError),
    /// What was fetched is not usable.
    #[error(transparent)]
    Set(#[from] InvalidSet),
    /// Nothing would be left of it.
    #[error("every key is another issuer's: {0}")]
    SharedKeys(String),
    /// The policy no longer names the issuer.
    #[error("the policy in force does not name this set")]
    NotNamed,
    /// Postgres failed.
    #[error("the database failed")]
    Database(#[from] sqlx::Error),
}

impl FetchError {
    fn code(&self) -> &'static str {
        match self {
            Self::Call(error) => error.class().unwrap_or("invalid"),
            Self::Set(_) => "invalid",
            Self::SharedKeys(_) => "shared_key",
            Self::NotNamed => "not_named",
            Self::Database(_) => "database",
        }
    }
}

/// Fetches what is due until dropped. `woken` says that somebody asked.
pub async fn run(state: &AppState, woken: &Notify) {
    let mut fetching = JoinSet::new();
    loop {
        match due(state).await {
            Ok(due) => due.into_iter().for_each(|due| {
                let state = state.clone();
                fetching.spawn(async move { fetch(&state, &due).await });
            }),
            Err(error) => tracing::debug!(error = %chain(&error), "cannot tell which key sets are due"),
        }
        while fetching.try_join_next().is_some() {}
        // Either ends the wait; a missed notification is made up for by the next poll.
        let _ = tokio::time::timeout(POLL, woken.notified()).await;
    }
}

/// What this replica is to fetch now. Also shows how old the sets are.
async fn due(state: &AppState) -> Result<Vec<Due>, sqlx::Error> {
    let policy = state.policy();
    let (issuers, urls): (Vec<_>, Vec<_>) =
        publishers(&policy.document).map(|(issuer, source)| (issuer.name.clone(), source.url.clone())).unzip();
    if issuers.is_empty() {
        return Ok(Vec::new());
    }
    show_ages(state, &policy).await?;
    store::claim_due(&state.database, &issuers, &urls).await
}

async fn show_ages(state: &AppState, policy: &ActivePolicy) -> Result<(), sqlx::Error> {
    let states = store::states(&state.database).await?;
    for (issuer, source) in publishers(&policy.document) {
        let set = states.iter().find(|set| set.issuer == issuer.name && set.url == source.url);
        let age = set.and_then(|set| set.fetched_at).map(|at| (OffsetDateTime::now_utc() - at).whole_seconds());
        let label = IssuerName { issuer: issuer.name.clone() };
        // Never fetched counts as very old, so that one alert covers both.
        state.metrics.jwks_age_seconds.get_or_create(&label).set(age.unwrap_or(i64::MAX));
    }
    Ok(())
}

/// Makes one fetch and notes what came of it.
pub async fn fetch(state: &AppState, due: &Due) {
    let outcome = fetch_and_keep(state, due).await;
    let code = |left_out: &Option<String>| if left_out.is_some() { "shared_key" } else { "ok" };
    Metrics::count(&state.metrics.jwks_fetches, outcome.as_ref().map_or_else(FetchError::code, code));
    let error = match outcome {
        Ok(None) => return,
        Ok(Some(left_out)) => {
            tracing::warn!(issuer = due.issuer, url = due.url, left_out, "the key set was fetched, and has keys of another issuer");
            return;
        }
        Err(error) => error,
    };
    let text: String = chain(&error).chars().take(ERROR_CHARS_MAX).collect();
    tracing::warn!(issuer = due.issuer, url = due.url, error = text, "the key set was not fetched; the last good one stays");
    let doublings = u32::try_from(due.failures).unwrap_or(0).min(DOUBLINGS_MAX);
    let wait = f64::from(ASK_EVERY_S.saturating_mul(1_u32 << doublings)) * (1.0 + jitter());
    if let Err(error) = store::fail(&state.database, due, &text, Duration::from_secs_f64(wait)).await {
        // The lease runs out by itself.
        tracing::warn!(issuer = due.issuer, error = %chain(&error), "the failure could not be noted");
    }
}

/// 0 to 20 %.
fn jitter() -> f64 {
    fastrand::f64() * 0.2
}

/// Says what is left out of the set, if anything.
async fn fetch_and_keep(state: &AppState, due: &Due) -> Result<Option<String>, FetchError> {
    let body = state.outbound.get_json(&due.url).await?;
    let policy = state.policy();
    let mut named = publishers(&policy.document).filter(|(issuer, source)| issuer.name == due.issuer && source.url == due.url);
    let (issuer, source) = named.next().ok_or(FetchError::NotNamed)?;
    let keys = jwk_set::parse(&body, &algorithms(issuer))?;
    let mut transaction = state.database.begin().await?;
    store::lock_imports(&mut transaction).await?;
    let others = store::sets(&mut *transaction).await?;
    let shared = shared(&policy, issuer, &keys, &others);
    let left_out = described(&shared);
    if shared.iter().filter(|key| key.lost).count() >= keys.len() {
        return Err(FetchError::SharedKeys(left_out.unwrap_or_default()));
    }
    store::keep(&mut transaction, due, &body, keeping(source), left_out.as_deref()).await?;
    transaction.commit().await?;
    Ok(left_out)
}

/// Refreshed at 90 to 110 % of its period, and always before the set is too old.
fn keeping(source: &JwksSource) -> Keeping {
    let refresh = f64::from(source.refresh_s);
    let again = (refresh * (0.9 + jitter())).min(f64::from(source.stale_after_s) * 0.9);
    Keeping {
        again_in: Duration::from_secs_f64(again),
        renew_below_s: (source.stale_after_s / 2).max(source.refresh_s.saturating_mul(2)).min(source.stale_after_s),
        stale_after_s: source.stale_after_s,
    }
}

/// A key that is in the set and also another issuer's. Whose it is, is decided when the sets are merged.
struct Shared {
    kid: String,
    other: String,
    /// Whether the other issuer keeps it: the policy names it there, or names that issuer first.
    lost: bool,
}

/// What the set has in common with other issuers. One issuer cannot have two keys, so one bundle cannot have one for two.
fn shared(policy: &ActivePolicy, issuer: &Issuer, keys: &[VerificationKey], sets: &[store::StoredSet]) -> Vec<Shared> {
    let mut taken: Vec<(&str, VerificationKey, bool)> = Vec::new();
    let mut before = true;
    for other in &policy.document.issuers {
        if other.name == issuer.name {
            before = false;
            continue;
        }
        // Those that the policy names come first, and win over whatever is published.
        let named = policy.loaded.issuers.find(&other.issuer).into_iter().flat_map(|rules| rules.keys.iter().take(other.keys.len()));
        taken.extend(named.map(|key| (other.name.as_str(), key.clone(), true)));
        let Some(source) = &other.jwks else { continue };
        let kept = sets.iter().find(|set| set.issuer == other.name && set.url == source.url);
        let kept = kept.and_then(|set| jwk_set::parse(&set.body, &algorithms(other)).ok()).unwrap_or_default();
        taken.extend(kept.into_iter().map(|key| (other.name.as_str(), key, before)));
    }
    let find = |key: &VerificationKey| {
        let mut owners = taken.iter().filter(|(_, other, _)| other.spki_der() == key.spki_der());
        let first = owners.next()?;
        let (other, _, lost) = if first.2 { first } else { owners.find(|(.., lost)| *lost).unwrap_or(first) };
        Some(Shared { kid: key.kid.as_deref().unwrap_or("(none)").to_owned(), other: (*other).to_owned(), lost: *lost })
    };
    keys.iter().filter_map(find).collect()
}

/// What operators are told of shared keys.
fn described(shared: &[Shared]) -> Option<String> {
    let told = |Shared { kid, other, lost }: &Shared| {
        let who = if *lost { "is left out here" } else { "is left out there" };
        format!("the key `{kid}` is also a key of the issuer `{other}` and {who}")
    };
    (!shared.is_empty()).then(|| shared.iter().map(told).collect::<Vec<_>>().join("; ").chars().take(ERROR_CHARS_MAX).collect())
}

/// Tokens named keys of these issuers that are not known. Names that publish no keys do not count.
pub async fn ask_for(state: &AppState, issuers: &[impl AsRef<str>]) {
    let policy = state.policy();
    for (issuer, source) in publishers(&policy.document) {
        if !issuers.iter().any(|name| name.as_ref() == issuer.name) {
            continue;
        }
        if let Err(error) = store::ask(&state.database, &issuer.name, &source.url).await {
            tracing::warn!(issuer = issuer.name, error = %chain(&error), "the key set could not be asked for");
        }
    }
}
