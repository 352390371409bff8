//! Accounts and leases in Postgres: three statements per call, whatever the number of accounts.
//!
//! Accounts are locked in the order of their keys, by sync calls and by the closing of holders alike. A holder's leases
//! are guarded by the lock on the holder's row, which every caller takes first.

use super::alerts::{Risen, of_rank, rank};
use super::ledger::{self, Account, Booked, Lease, Recall, Room};
use super::{AccountKey, Placed, Posting, recall_of};
use crate::drain::Draining;
use crate::holders::{Freshness, HolderId};
use decision_core::budget::{Budget, Units};
use sqlx::{FromRow, PgConnection};
use std::collections::{BTreeMap, HashSet};
use wire::sync::AccountRecall;

/// What became of the durable part of a call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// One answer per report.
    pub grants: Vec<Placed>,
    /// Accounts that others wait for.
    pub recalls: Vec<AccountRecall>,
    /// Accounts whose level rose.
    pub risen: Vec<Risen>,
}

/// Why the reports of a call are not booked.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// A cap has changed since the postings were made.
    #[error("a cap has changed meanwhile")]
    Outdated,
    /// Postgres failed.
    #[error("database failure")]
    Database(#[from] sqlx::Error),
}

/// Books the reports of a call, whose postings were made by the caps up to the change `caps`. If the holder's Envoy is about to stop,
/// all that it does not use is asked back.
///
/// INVARIANT (a lowered cap stops grants): whoever changes a cap holds the locks of its accounts until the commit. So a newer
/// change that concerns them is seen here, after they were locked, and nothing is granted by an older one.
pub async fn apply(
    connection: &mut PgConnection,
    holder: HolderId,
    postings: &[Posting],
    freshness: Freshness,
    caps: u64,
    draining: Draining,
) -> Result<Applied, ApplyError> {
    let mut applied = Applied::default();
    // Accounts of which this holder has only what its requests wait for: it is not asked to give that back.
    let mut kept: HashSet<AccountRecall> = HashSet::new();
    if !postings.is_empty() {
        if freshness == Freshness::New {
            lock_or_open(connection, postings).await?;
        }
        let rows = read(connection, holder, postings, freshness).await?;
        if freshness == Freshness::New && rows.values().any(|row| u64::try_from(row.caps).is_ok_and(|newest| newest > caps)) {
            return Err(ApplyError::Outdated);
        }
        let mut changes = Changes::default();
        for (ordinal, posting) in (1_i64..).zip(postings) {
            let lease = book_posting(posting, rows.get(&ordinal), freshness, &mut changes, &mut applied);
            if !posting.has_to_spare(lease.as_ref()) {
                kept.insert(recall_of(&posting.key));
            }
        }
        changes.write(connection, holder).await?;
    }
    applied.recalls = match draining {
        Draining::No => recalls(connection, holder).await?,
        Draining::For(_) => unused(connection, holder).await?,
    };
    applied.recalls.retain(|recall| !kept.contains(recall));
    Ok(applied)
}

/// Answers the lease as it is then.
fn book_posting(posting: &Posting, row: Option<&Row>, freshness: Freshness, changes: &mut Changes, applied: &mut Applied) -> Option<Lease> {
    let Some(row) = row else {
        // Only where nothing may be opened: an unknown budget, or a repeated call of which nothing came.
        let answers = posting.reports.iter().map(|(index, report)| (*index, posting.answer(report, Units::ZERO, Units::ZERO)));
        applied.grants.extend(answers);
        return None;
    };
    let (before, lease_before) = (row.account(), row.lease());
    let (mut account, mut lease, mut recall) = (before, lease_before, Recall::NotNeeded);
    let mut granted = Vec::with_capacity(posting.reports.len());
    for (index, report) in &posting.reports {
        let booked = match freshness {
            Freshness::New => ledger::book(account, lease, report, posting.room),
            Freshness::Repeated => {
                let same = lease.filter(|lease| lease.generation == report.generation);
                Booked { account, lease, granted: same.map_or(Units::ZERO, |lease| lease.granted), recall: Recall::NotNeeded }
            }
        };
        (account, lease) = (booked.account, booked.lease);
        if booked.recall == Recall::Needed {
            recall = Recall::Needed;
        }
        granted.push((*index, report, booked.granted));
    }
    let answers = granted.into_iter().map(|(index, report, granted)| (index, posting.answer(report, granted, account.charged())));
    applied.grants.extend(answers);
    let risen = risen(posting, row, account, freshness);
    if account != before || recall == Recall::Needed || risen.is_some() {
        let level = risen.as_ref().map_or(row.level, |risen| rank(Some(risen.level)));
        changes.accounts.push(AccountChange { account_id: row.account_id, account, recall, level });
    }
    changes.forfeit(row.account_id, account.forfeited.minus(before.forfeited));
    applied.risen.extend(risen);
    if lease != lease_before {
        changes.lease(row.account_id, lease);
    }
    lease
}

/// The level that the account has reached, if nobody was told of it. A repeated call does not hold the lock.
fn risen(posting: &Posting, row: &Row, account: Account, freshness: Freshness) -> Option<Risen> {
    let spent = account.charged();
    match (freshness, posting.window_end) {
        (Freshness::New, Some(end)) => Risen::above(of_rank(row.level), posting.thresholds, (posting.cap, spent), &posting.key, end),
        (Freshness::New, None) | (Freshness::Repeated, _) => None,
    }
}

/// Creates the accounts that do not exist and locks all, in the order of their keys (`DO UPDATE … WHERE false` locks). Accounts of
/// budgets or windows that the policy does not know have no end here: they are locked in their place, and none is made.
async fn lock_or_open(connection: &mut PgConnection, postings: &[Posting]) -> Result<(), sqlx::Error> {
    let end = |posting: &Posting| posting.window_end.filter(|_| posting.room != Room::Unknown);
    sqlx::query(
        "INSERT INTO budget_accounts (budget, scope, window_start, window_end) \
         SELECT budget, scope, window_start, window_end FROM ( \
             SELECT budget, scope, to_timestamp(starts) AS window_start, ordinal, coalesce(to_timestamp(ends), \
                 (SELECT known.window_end FROM budget_accounts AS known WHERE known.budget = wanted.budget \
                      AND known.scope = wanted.scope AND known.window_start = to_timestamp(starts))) AS window_end \
             FROM UNNEST($1::text[], $2::text[], $3::bigint[], $4::bigint[]) WITH ORDINALITY AS wanted (budget, scope, starts, ends, ordinal) \
         ) AS there WHERE window_end IS NOT NULL ORDER BY ordinal \
         ON CONFLICT (budget, scope, window_start) DO UPDATE SET budget = EXCLUDED.budget WHERE false",
    )
    .bind(postings.iter().map(|posting| posting.key.budget.as_str()).collect::<Vec<_>>())
    .bind(postings.iter().map(|posting| posting.key.scope.as_str()).collect::<Vec<_>>())
    .bind(postings.iter().map(|posting| posting.key.window_start).collect::<Vec<_>>())
    .bind(postings.iter().map(end).collect::<Vec<_>>())
    .execute(connection)
    .await
    .map(|_done| ())
}

/// An account with the holder's lease on it, at its place among the postings.
#[derive(Debug, FromRow)]
struct Row {
    ordinal: i64,
    account_id: i64,
    committed: i64,
    settled: i64,
    account_held: i64,
    forfeited: i64,
    account_overrun: i64,
    over_grant: i64,
    level: i16,
    generation: Option<i64>,
    granted: Option<i64>,
    used: Option<i64>,
    held: Option<i64>,
    overrun: Option<i64>,
    caps: i64,
}

impl Row {
    fn account(&self) -> Account {
        Account {
            committed: Units::new(self.committed),
            settled: Units::new(self.settled),
            held: Units::new(self.account_held),
            forfeited: Units::new(self.forfeited),
            overrun: Units::new(self.account_overrun),
            over_grant: Units::new(self.over_grant),
        }
    }

    fn lease(&self) -> Option<Lease> {
        Some(Lease {
            generation: u64::try_from(self.generation?).unwrap_or(0),
            granted: Units::new(self.granted?),
            used: Units::new(self.used?),
            held: Units::new(self.held?),
            overrun: Units::new(self.overrun?),
        })
    }
}

macro_rules! read_accounts {
    ($lock:literal) => {
        concat!(
            "SELECT ordinal, a.account_id, a.committed, a.settled, a.held AS account_held, a.forfeited, \
                 a.overrun AS account_overrun, a.over_grant, a.level, l.generation, l.granted, l.used, l.held, l.overrun, \
                 (SELECT number FROM budget_caps_counter) AS caps \
             FROM UNNEST($2::text[], $3::text[], $4::bigint[]) WITH ORDINALITY AS wanted (budget, scope, starts, ordinal) \
             JOIN budget_accounts AS a ON a.budget = wanted.budget AND a.scope = wanted.scope \
                 AND a.window_start = to_timestamp(wanted.starts) \
             LEFT JOIN budget_leases AS l ON l.account_id = a.account_id AND l.holder = $1 \
             ORDER BY ordinal ",
            $lock
        )
    };
}

async fn read(
    connection: &mut PgConnection,
    holder: HolderId,
    postings: &[Posting],
    freshness: Freshness,
) -> Result<BTreeMap<i64, Row>, sqlx::Error> {
    // All are locked already, but for one of an unknown budget that another replica has made since.
    let statement = match freshness {
        Freshness::New => read_accounts!("FOR UPDATE OF a"),
        Freshness::Repeated => read_accounts!(""),
    };
    let rows: Vec<Row> = sqlx::query_as(statement)
        .bind(holder.0)
        .bind(postings.iter().map(|posting| posting.key.budget.as_str()).collect::<Vec<_>>())
        .bind(postings.iter().map(|posting| posting.key.scope.as_str()).collect::<Vec<_>>())
        .bind(postings.iter().map(|posting| posting.key.window_start).collect::<Vec<_>>())
        .fetch_all(connection)
        .await?;
    Ok(rows.into_iter().map(|row| (row.ordinal, row)).collect())
}

/// What a call changes, column by column.
#[derive(Debug, Default)]
struct Changes {
    accounts: Vec<AccountChange>,
    leases: Vec<(i64, Lease)>,
    closed: Vec<i64>,
    forfeits: Vec<(i64, i64)>,
}

#[derive(Debug)]
struct AccountChange {
    account_id: i64,
    account: Account,
    recall: Recall,
    level: i16,
}

impl Changes {
    /// A lease that its own holder replaced without a last report.
    fn forfeit(&mut self, account_id: i64, units: Units) {
        if units > Units::ZERO {
            self.forfeits.push((account_id, units.get()));
        }
    }

    fn lease(&mut self, account_id: i64, lease: Option<Lease>) {
        match lease {
            Some(lease) => self.leases.push((account_id, lease)),
            None => self.closed.push(account_id),
        }
    }

    async fn write(&self, connection: &mut PgConnection, holder: HolderId) -> Result<(), sqlx::Error> {
        if self.accounts.is_empty() && self.leases.is_empty() && self.closed.is_empty() {
            return Ok(());
        }
        let account = |number: fn(&Account) -> Units| self.accounts.iter().map(|change| number(&change.account).get()).collect::<Vec<_>>();
        let lease = |number: fn(&Lease) -> Units| self.leases.iter().map(|(_, lease)| number(lease).get()).collect::<Vec<_>>();
        sqlx::query(WRITE)
            .bind(holder.0)
            .bind(self.accounts.iter().map(|change| change.account_id).collect::<Vec<_>>())
            .bind(account(|account| account.committed))
            .bind(account(|account| account.settled))
            .bind(account(|account| account.held))
            .bind(account(|account| account.forfeited))
            .bind(account(|account| account.overrun))
            .bind(account(|account| account.over_grant))
            .bind(self.accounts.iter().map(|change| change.recall == Recall::Needed).collect::<Vec<_>>())
            .bind(&self.closed)
            .bind(self.leases.iter().map(|(account_id, _)| *account_id).collect::<Vec<_>>())
            .bind(self.leases.iter().map(|(_, lease)| i64::try_from(lease.generation).unwrap_or(i64::MAX)).collect::<Vec<_>>())
            .bind(lease(|lease| lease.granted))
            .bind(lease(|lease| lease.used))
            .bind(lease(|lease| lease.held))
            .bind(lease(|lease| lease.overrun))
            .bind(self.accounts.iter().map(|change| change.level).collect::<Vec<_>>())
            .execute(&mut *connection)
            .await?;
        if self.forfeits.is_empty() {
            return Ok(());
        }
        sqlx::query(
            "INSERT INTO budget_forfeits (account_id, holder, units) SELECT a, $1, u FROM UNNEST($2::bigint[], $3::bigint[]) AS n (a, u)",
        )
        .bind(holder.0)
        .bind(self.forfeits.iter().map(|(account_id, _)| *account_id).collect::<Vec<_>>())
        .bind(self.forfeits.iter().map(|(_, units)| *units).collect::<Vec<_>>())
        .execute(connection)
        .await
        .map(|_done| ())
    }
}

const WRITE: &str = "WITH accounts AS ( \
         UPDATE budget_accounts AS a SET committed = n.committed, settled = n.settled, held = n.held, forfeited = n.forfeited, \
             overrun = n.overrun, over_grant = n.over_grant, level = greatest(a.level, n.level), \
             recalled_at = CASE WHEN n.recalled AND coalesce(a.recalled_at < clock_timestamp() - interval '1 second', true) \
                 THEN clock_timestamp() ELSE a.recalled_at END \
         FROM UNNEST($2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[], $9::bool[], $17::smallint[]) \
             AS n (account_id, committed, settled, held, forfeited, overrun, over_grant, recalled, level) \
         WHERE a.account_id = n.account_id), \
     closed AS (DELETE FROM budget_leases WHERE holder = $1 AND account_id = ANY($10::bigint[])) \
     INSERT INTO budget_leases (holder, account_id, generation, granted, used, held, overrun) \
     SELECT $1, account_id, generation, granted, used, held, overrun \
     FROM UNNEST($11::bigint[], $12::bigint[], $13::bigint[], $14::bigint[], $15::bigint[], $16::bigint[]) \
         AS n (account_id, generation, granted, used, held, overrun) \
     ON CONFLICT (holder, account_id) DO UPDATE SET generation = EXCLUDED.generation, granted = EXCLUDED.granted, \
         used = EXCLUDED.used, held = EXCLUDED.held, overrun = EXCLUDED.overrun";

/// In one answer; those that were asked for longest ago come first, and the next call has the rest.
const RECALLS_MAX: i64 = 1_000;

/// Accounts on which the holder has units to spare that others asked for in the last seconds.
async fn recalls(connection: &mut PgConnection, holder: HolderId) -> Result<Vec<AccountRecall>, sqlx::Error> {
    let rows: Vec<(String, String, i64)> = sqlx::query_as(
        // The limit keeps the planner at looking up one lease per account, of which there are few: a holder may have 100,000.
        "SELECT a.budget, a.scope, extract(epoch FROM a.window_start)::bigint \
         FROM budget_accounts AS a CROSS JOIN LATERAL ( \
             SELECT l.granted > l.used + l.held AS spare FROM budget_leases AS l WHERE l.holder = $1 AND l.account_id = a.account_id LIMIT 1) AS l \
         WHERE a.recalled_at > now() - interval '5 seconds' AND a.window_end > now() AND l.spare ORDER BY a.recalled_at LIMIT $2",
    )
    .bind(holder.0)
    .bind(RECALLS_MAX)
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|(budget, scope, window_start)| AccountRecall { budget, scope, window_start }).collect())
}

/// Accounts on which the holder has units to spare.
async fn unused(connection: &mut PgConnection, holder: HolderId) -> Result<Vec<AccountRecall>, sqlx::Error> {
    let rows: Vec<(String, String, i64)> = sqlx::query_as(
        "SELECT a.budget, a.scope, extract(epoch FROM a.window_start)::bigint \
         FROM budget_leases AS l JOIN budget_accounts AS a USING (account_id) \
         WHERE l.holder = $1 AND l.granted > l.used + l.held AND a.window_end > now() LIMIT $2",
    )
    .bind(holder.0)
    .bind(RECALLS_MAX)
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|(budget, scope, window_start)| AccountRecall { budget, scope, window_start }).collect())
}

/// An account of which a lease was forfeited, or whose cap changed.
#[derive(Clone, Debug, FromRow)]
pub struct Touched {
    account_id: i64,
    budget: String,
    scope: String,
    starts: i64,
    ends: i64,
    committed: i64,
    spent: i64,
    level: i16,
    forfeited: i64,
}

impl Touched {
    /// The account.
    #[must_use]
    pub fn key(&self) -> AccountKey {
        AccountKey { budget: self.budget.clone(), scope: self.scope.clone(), window_start: self.starts }
    }

    /// What was charged although nobody spent it.
    #[must_use]
    pub fn forfeited(&self) -> (&str, i64) {
        (&self.budget, self.forfeited)
    }

    /// The level that it has reached under this cap, if nobody was told of it.
    #[must_use]
    pub fn risen(&self, budget: &Budget, cap: Units) -> Option<Risen> {
        Risen::above(of_rank(self.level), budget.thresholds, (cap, Units::new(self.spent)), &self.key(), self.ends)
    }
}

/// Charges all leases of a holder in full and ends them. Answers what was charged, by account.
pub async fn forfeit_all(connection: &mut PgConnection, holder: HolderId) -> Result<Vec<Touched>, sqlx::Error> {
    sqlx::query(
        "SELECT account_id FROM budget_accounts WHERE account_id IN (SELECT account_id FROM budget_leases WHERE holder = $1) \
         ORDER BY budget, scope, window_start FOR UPDATE",
    )
    .bind(holder.0)
    .execute(&mut *connection)
    .await?;
    // The same numbers as `ledger::forfeit`; a test holds them together.
    sqlx::query_as(
        "WITH ended AS (DELETE FROM budget_leases WHERE holder = $1 RETURNING account_id, granted, used, held), \
         charged AS ( \
             UPDATE budget_accounts AS a SET settled = a.settled + e.granted - e.used, forfeited = a.forfeited + e.granted - e.used, \
                 held = a.held - e.held \
             FROM ended AS e WHERE a.account_id = e.account_id \
             RETURNING a.account_id, a.budget, a.scope, a.window_start, a.window_end, a.committed, a.settled + a.overrun AS spent, \
                 a.level, e.granted - e.used AS forfeited), \
         noted AS (INSERT INTO budget_forfeits (account_id, holder, units) \
             SELECT account_id, $1, forfeited FROM charged WHERE forfeited > 0) \
         SELECT account_id, budget, scope, extract(epoch FROM window_start)::bigint AS starts, \
             extract(epoch FROM window_end)::bigint AS ends, committed, spent, level, forfeited \
         FROM charged ORDER BY budget, scope, window_start",
    )
    .bind(holder.0)
    .fetch_all(connection)
    .await
}

/// Another cap counts from now on: who holds more than is used gives it back if the cap is lower than what is committed.
/// Answers the accounts whose level rose.
pub async fn recap(connection: &mut PgConnection, budget: &Budget, scope: &str, cap: Units) -> Result<Vec<Risen>, sqlx::Error> {
    let touched: Vec<Touched> = sqlx::query_as(
        "SELECT account_id, budget, scope, extract(epoch FROM window_start)::bigint AS starts, \
             extract(epoch FROM window_end)::bigint AS ends, committed, settled + overrun AS spent, level, 0::bigint AS forfeited \
         FROM budget_accounts WHERE budget = $1 AND scope = $2 AND window_end > now() ORDER BY window_start FOR UPDATE",
    )
    .bind(&*budget.name)
    .bind(scope)
    .fetch_all(&mut *connection)
    .await?;
    let over: Vec<i64> = touched.iter().filter(|account| account.committed > cap.get()).map(|account| account.account_id).collect();
    if !over.is_empty() {
        sqlx::query("UPDATE budget_accounts SET recalled_at = clock_timestamp() WHERE account_id = ANY($1)")
            .bind(over)
            .execute(&mut *connection)
            .await?;
    }
    let risen: Vec<Risen> = touched.iter().filter_map(|account| account.risen(budget, cap)).collect();
    raise_levels(connection, &risen).await?;
    Ok(risen)
}

/// What lies unused in leases on this scope is asked back.
pub async fn recall(connection: &mut PgConnection, budget: &str, scope: &str) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE budget_accounts SET recalled_at = clock_timestamp() WHERE budget = $1 AND scope = $2 AND window_end > now()")
        .bind(budget)
        .bind(scope)
        .execute(connection)
        .await
        .map(|_done| ())
}

/// Notes on locked accounts what is told of them.
pub async fn raise_levels(connection: &mut PgConnection, risen: &[Risen]) -> Result<(), sqlx::Error> {
    if risen.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "UPDATE budget_accounts AS a SET level = n.level FROM UNNEST($1::text[], $2::text[], $3::bigint[], $4::smallint[]) \
             AS n (budget, scope, starts, level) \
         WHERE a.budget = n.budget AND a.scope = n.scope AND a.window_start = to_timestamp(n.starts)",
    )
    .bind(risen.iter().map(|one| one.key.budget.as_str()).collect::<Vec<_>>())
    .bind(risen.iter().map(|one| one.key.scope.as_str()).collect::<Vec<_>>())
    .bind(risen.iter().map(|one| one.key.window_start).collect::<Vec<_>>())
    .bind(risen.iter().map(|one| rank(Some(one.level))).collect::<Vec<_>>())
    .execute(connection)
    .await
    .map(|_done| ())
}

/// An account of a current window, for people.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct Listed {
    /// The budget's name.
    pub budget: String,
    /// The scope.
    pub scope: String,
    /// Start of the window, seconds since the epoch.
    pub window_start: i64,
    /// Its end.
    pub window_end: i64,
    /// Grants of open leases and charges of closed ones.
    pub committed: i64,
    /// Charged.
    pub settled: i64,
    /// Reserved by open requests.
    pub held: i64,
    /// Charged because a holder fell silent.
    pub forfeited: i64,
    /// Charged beyond what was reserved.
    pub overrun: i64,
    /// Spent without a grant.
    pub over_grant: i64,
    /// The highest level that was told: see [`rank`].
    pub level: i16,
}

/// Which accounts to list; all that is absent matches.
#[derive(Clone, Copy, Debug, Default)]
pub struct Which<'a> {
    /// Of this budget.
    pub budget: Option<&'a str>,
    /// Of this scope.
    pub scope: Option<&'a str>,
    /// With keys behind this one.
    pub after: Option<&'a AccountKey>,
}

/// The accounts of current windows, in the order of their keys.
pub async fn list(database: &sqlx::PgPool, which: Which<'_>, limit: i64) -> Result<Vec<Listed>, sqlx::Error> {
    sqlx::query_as(
        "SELECT budget, scope, extract(epoch FROM window_start)::bigint AS window_start, \
             extract(epoch FROM window_end)::bigint AS window_end, committed, settled, held, forfeited, overrun, over_grant, level \
         FROM budget_accounts \
         WHERE window_start <= now() AND window_end > now() AND ($1::text IS NULL OR budget = $1) AND ($2::text IS NULL OR scope = $2) \
             AND ($4::text IS NULL OR (budget, scope, window_start) > ($4, $5, to_timestamp($6::bigint))) \
         ORDER BY budget, scope, window_start LIMIT $3",
    )
    .bind(which.budget)
    .bind(which.scope)
    .bind(limit)
    .bind(which.after.map(|key| key.budget.as_str()))
    .bind(which.after.map(|key| key.scope.as_str()))
    .bind(which.after.map(|key| key.window_start))
    .fetch_all(database)
    .await
}
