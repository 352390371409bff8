//! Accounts of budgets that are not durable, in Redis or Valkey: `scripts/account.lua` once per account.
//!
//! An account is one hash, so that every script call names one key and works in a cluster. Its fields: the numbers of
//! [`Account`], `recalled` (ms), `l:<holder>` = `generation/granted/used/held/overrun`, `c:<holder>` = the last call.
//! Whatever fails here, the accounts are absent from the answer and the filter applies the budgets' failure mode. A
//! closed holder's leases are charged in full (`scripts/forfeit.lua`) when somebody else needs what lies in them.

use super::alerts::Risen;
use super::ledger::{Account, Lease, Report, Room};
use super::{AccountKey, Placed, Posting, recall_of};
use crate::holders::HolderId;
use decision_core::budget::{Budget, Units};
use decision_core::time::Timestamp;
use redis::aio::ConnectionLike;
use redis::{Cmd, Pipeline, RedisError, Script, Value, from_redis_value};
use std::collections::HashSet;
use std::sync::LazyLock;
use std::time::Duration;
use uuid::Uuid;
use wire::sync::AccountRecall;

/// A counter that may be lost is not worth a longer wait of the requests behind it.
pub const TIMEOUT: Duration = Duration::from_millis(250);

/// How long an account outlives its window, for late reports.
const RETENTION_MS: i64 = 3_600_000;

/// How long a recall is repeated to a holder.
const RECALL_MS: i64 = 5_000;

static ACCOUNT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/account.lua")));

static FORFEIT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/forfeit.lua")));

/// Why the volatile part of a call was not carried out, or not known to be.
#[derive(Debug, thiserror::Error)]
pub enum VolatileError {
    /// No answer in time.
    #[error("no answer from the counter store in time")]
    TimedOut,
    /// The store refused or is away.
    #[error("counter store failure")]
    Valkey(#[from] RedisError),
}

/// What became of the volatile part of a call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// One answer per report.
    pub grants: Vec<Placed>,
    /// Accounts that others wait for.
    pub recalls: Vec<AccountRecall>,
    /// Accounts at a level; it may have been told already.
    pub risen: Vec<Risen>,
    /// Accounts of which this holder got less than it needs, and who else has leases on them.
    pub short: Vec<(AccountKey, Vec<HolderId>)>,
}

/// The script's answer: settled and overrun, whether the holder should give back, grants, others that should give back,
/// and, if the caller got less than it needs, everybody else who has a lease.
type Answer = (i64, i64, Vec<i64>, Vec<String>, Vec<String>);

/// Books the reports of a call, and fetches what the holder is asked to give back.
///
/// # Errors
/// The store did not answer, or not in time. The script may have run: numbers are cumulative, so the next call repairs it.
pub async fn apply(
    connection: &mut impl ConnectionLike,
    holder: HolderId,
    call: i64,
    postings: &[Posting],
    now: Timestamp,
) -> Result<Applied, VolatileError> {
    tokio::time::timeout(TIMEOUT, apply_unbounded(connection, holder, call, postings, now))
        .await
        .map_err(|_elapsed| VolatileError::TimedOut)?
        .map_err(VolatileError::Valkey)
}

async fn apply_unbounded(
    connection: &mut impl ConnectionLike,
    holder: HolderId,
    call: i64,
    postings: &[Posting],
    now: Timestamp,
) -> Result<Applied, RedisError> {
    let (asked, answers) = ask(connection, holder, call, postings, now).await?;
    // Of what is reported now, the answers say it.
    let reported: HashSet<AccountRecall> = postings.iter().map(|posting| recall_of(&posting.key)).collect();
    let recalls = asked.into_iter().filter(|recall| !reported.contains(recall)).collect();
    let mut applied = Applied { recalls, ..Applied::default() };
    let mut notices = redis::pipe();
    for (posting, (spent, recalled, grants, others, holding)) in postings.iter().zip(answers) {
        let placed = posting.reports.iter().zip(grants);
        applied
            .grants
            .extend(placed.map(|((index, report), granted)| (*index, posting.answer(report, Units::new(granted), Units::new(spent)))));
        let end = posting.window_end.unwrap_or_default();
        applied.risen.extend(Risen::above(None, posting.thresholds, (posting.cap, Units::new(spent)), &posting.key, end));
        if recalled == 1 {
            applied.recalls.push(recall_of(&posting.key));
        }
        let holding: Vec<HolderId> = holding.iter().filter_map(|holder| Uuid::try_parse(holder).ok().map(HolderId)).collect();
        if !holding.is_empty() {
            applied.short.push((posting.key.clone(), holding));
        }
        others.iter().for_each(|other| notify(&mut notices, other, &posting.key, now));
    }
    if !notices.is_empty() {
        notices.query_async::<()>(connection).await?;
    }
    Ok(applied)
}

/// Charges the leases of closed holders on an account in full. Answers what was charged so.
///
/// # Errors
/// The store did not answer, or not in time.
pub async fn forfeit(connection: &mut impl ConnectionLike, key: &AccountKey, holders: &[HolderId]) -> Result<u64, VolatileError> {
    let mut script = FORFEIT.key(hash_key(key));
    for holder in holders {
        script.arg(holder.0.simple().to_string());
    }
    tokio::time::timeout(TIMEOUT, script.invoke_async(connection))
        .await
        .map_err(|_elapsed| VolatileError::TimedOut)?
        .map_err(VolatileError::Valkey)
}

/// What the holder is asked to give back, and the script's answers, by one round trip.
async fn ask(
    connection: &mut impl ConnectionLike,
    holder: HolderId,
    call: i64,
    postings: &[Posting],
    now: Timestamp,
) -> Result<(Vec<AccountRecall>, Vec<Answer>), RedisError> {
    let mut pipeline = redis::pipe();
    pipeline.cmd("HGETALL").arg(recall_key(&holder.0.simple().to_string()));
    for posting in postings {
        pipeline.add_command(script_call(holder, call, posting, now));
    }
    let answers: Result<Vec<Value>, RedisError> = pipeline.query_async(connection).await;
    let mut answers = match answers {
        Err(error) if error.code() == Some("NOSCRIPT") => {
            // A restarted store forgot the script. What ran already answers again without a change: the call is known.
            ACCOUNT.load_async(connection).await?;
            pipeline.query_async(connection).await
        }
        answers => answers,
    }?
    .into_iter();
    let notes: Vec<(String, i64)> = answers.next().map(from_redis_value).transpose()?.unwrap_or_default();
    let asked = notes.iter().filter(|(_, until)| *until > now.as_millis()).filter_map(|(key, _)| decoded(key)).collect();
    let answers = answers.map(from_redis_value).collect::<Result<_, _>>()?;
    Ok((asked, answers))
}

fn script_call(holder: HolderId, call: i64, posting: &Posting, now: Timestamp) -> Cmd {
    let (room, cap, holders) = match posting.room {
        Room::Unknown => (0, Units::ZERO, 1),
        Room::Ended => (1, Units::ZERO, 1),
        Room::Open { cap, holders } => (2, cap, holders),
        Room::Exact { cap } => (3, cap, 1),
    };
    let window_end = posting.window_end.unwrap_or(now.as_seconds());
    let mut command = redis::cmd("EVALSHA");
    command.arg(ACCOUNT.get_hash()).arg(1).arg(hash_key(&posting.key));
    command.arg(holder.0.simple().to_string()).arg(call).arg(room).arg(cap.get()).arg(holders).arg(now.as_millis());
    command.arg(window_end.max(now.as_seconds()).saturating_mul(1_000).saturating_add(RETENTION_MS));
    for (_, report) in &posting.reports {
        add_report(&mut command, report);
    }
    command
}

fn add_report(command: &mut Cmd, report: &Report) {
    command.arg(report.generation);
    for units in [report.used, report.held, report.overrun, report.target, report.minimum, report.charge] {
        command.arg(units.get());
    }
    command.arg(i32::from(report.close));
}

/// `plant:{5:daily|8:platform|10:1700000000}`: each part with its length, so that no two accounts share a key.
fn hash_key(key: &AccountKey) -> String {
    format!("plant:{{{}}}", encoded(key))
}

fn encoded(key: &AccountKey) -> String {
    let start = key.window_start.to_string();
    let AccountKey { budget, scope, .. } = key;
    format!("{}:{budget}|{}:{scope}|{}:{start}", budget.len(), scope.len(), start.len())
}

fn decoded(text: &str) -> Option<AccountRecall> {
    let (budget, rest) = take_part(text)?;
    let (scope, rest) = take_part(rest.strip_prefix('|')?)?;
    let (start, _) = take_part(rest.strip_prefix('|')?)?;
    Some(AccountRecall { budget: budget.into(), scope: scope.into(), window_start: start.parse().ok()? })
}

fn take_part(text: &str) -> Option<(&str, &str)> {
    let (length, rest) = text.split_once(':')?;
    rest.split_at_checked(length.parse().ok()?)
}

fn recall_key(holder: &str) -> String {
    format!("plant:recall:{{{holder}}}")
}

/// Leaves a note for a holder that may have no reason to report the account by itself.
fn notify(pipeline: &mut Pipeline, holder: &str, key: &AccountKey, now: Timestamp) {
    let until = now.as_millis().saturating_add(RECALL_MS);
    let note = recall_key(holder);
    pipeline.hset(&note, encoded(key), until).ignore();
    pipeline.pexpire_at(&note, until).ignore();
}

/// The numbers of one account; `None` when nothing was ever charged to it.
///
/// # Errors
/// The store did not answer, or not in time.
pub async fn read(connection: &mut impl ConnectionLike, key: &AccountKey) -> Result<Option<Account>, VolatileError> {
    let mut command = redis::cmd("HMGET");
    command.arg(hash_key(key)).arg(&["committed", "settled", "held", "forfeited", "overrun", "over_grant"]);
    let numbers: Vec<Option<i64>> =
        tokio::time::timeout(TIMEOUT, command.query_async(connection)).await.map_err(|_elapsed| VolatileError::TimedOut)??;
    let number = |index: usize| numbers.get(index).copied().flatten().map(Units::new);
    let Some(committed) = number(0) else { return Ok(None) };
    let rest = |index| number(index).unwrap_or_default();
    let account = Account { committed, settled: rest(1), held: rest(2), forfeited: rest(3), overrun: rest(4), over_grant: rest(5) };
    Ok(Some(account))
}

/// Another cap counts from now on: holders give back what is unused if the cap is lower than what is committed. Answers the
/// level that the account of the present window has under it.
///
/// # Errors
/// The store did not answer, or not in time.
pub async fn recap(
    connection: &mut impl ConnectionLike,
    budget: &Budget,
    scope: &str,
    cap: Units,
    now: Timestamp,
) -> Result<Vec<Risen>, VolatileError> {
    let window = budget.window_at(now);
    let key = AccountKey { budget: budget.name.to_string(), scope: scope.to_owned(), window_start: window.start.as_seconds() };
    let Some(account) = read(connection, &key).await? else { return Ok(Vec::new()) };
    if account.committed > cap {
        recall(connection, &key, now).await?;
    }
    let spent = account.charged();
    Ok(Risen::above(None, budget.thresholds, (cap, spent), &key, window.end.as_seconds()).into_iter().collect())
}

/// Leaves a note for everybody who has units of this account to spare.
///
/// # Errors
/// The store did not answer, or not in time.
pub async fn recall(connection: &mut impl ConnectionLike, key: &AccountKey, now: Timestamp) -> Result<(), VolatileError> {
    let mut notices = redis::pipe();
    for (holder, lease) in leases(connection, key).await? {
        if lease.unused() > Units::ZERO {
            notify(&mut notices, &holder, key, now);
        }
    }
    if notices.is_empty() {
        return Ok(());
    }
    Ok(tokio::time::timeout(TIMEOUT, notices.query_async::<()>(connection)).await.map_err(|_elapsed| VolatileError::TimedOut)??)
}

/// The open leases of one account, each with its holder's id in 32 hexadecimal digits.
///
/// # Errors
/// The store did not answer, or not in time.
pub async fn leases(connection: &mut impl ConnectionLike, key: &AccountKey) -> Result<Vec<(String, Lease)>, VolatileError> {
    let mut command = redis::cmd("HGETALL");
    command.arg(hash_key(key));
    let fields: Vec<(String, String)> =
        tokio::time::timeout(TIMEOUT, command.query_async(connection)).await.map_err(|_elapsed| VolatileError::TimedOut)??;
    let lease = |(field, value): (String, String)| Some((field.strip_prefix("l:")?.to_owned(), parse_lease(&value)?));
    Ok(fields.into_iter().filter_map(lease).collect())
}

fn parse_lease(value: &str) -> Option<Lease> {
    let mut numbers = value.split('/').map(|number| number.parse::<i64>().ok());
    let generation = u64::try_from(numbers.next()??).ok()?;
    let mut units = || numbers.next().flatten().map(Units::new);
    Some(Lease { generation, granted: units()?, used: units()?, held: units()?, overrun: units()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_accounts_share_a_key_and_a_note_names_its_account() {
        let key = |budget: &str, scope: &str, window_start| AccountKey { budget: budget.into(), scope: scope.into(), window_start };
        let odd = key("a|1:b", "agent=3:x|y}", 60);
        assert_ne!(hash_key(&key("a", "b|c", 0)), hash_key(&key("a|b", "c", 0)));
        assert_eq!(decoded(&encoded(&odd)), Some(recall_of(&odd)));
        assert_eq!(decoded("9:short"), None);
        assert_eq!(decoded("1:é|"), None);
    }
}
