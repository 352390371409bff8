//! What the accounts of a cycle say, held against what the backend has seen and what the audit log has.

use std::collections::BTreeMap;

use sqlx::PgPool;

use super::world::{AGENT_CAP, COST, CUSTOMER_CAP};

/// One account of a cycle, with what is known about it from elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub(crate) struct Account {
    /// The budget.
    pub(crate) budget: String,
    /// The customer or agent.
    pub(crate) owner: String,
    /// Grants of open leases and charges of closed ones.
    pub(crate) committed: i64,
    /// Charged.
    pub(crate) settled: i64,
    /// Of it: grants of holders that fell silent, as far as they had not reported them as used.
    pub(crate) forfeited: i64,
    /// Charged beyond what was reserved.
    pub(crate) overrun: i64,
    /// Spent without a grant.
    pub(crate) over_grant: i64,
    /// The sum of charges in audit records.
    pub(crate) recorded: i64,
    /// What closed holders had been granted and had not reported as used, by the notes on leases.
    pub(crate) lost: i64,
    /// What they had reported as used: its records may be lost with them, in a gap.
    pub(crate) used_by_closed: i64,
}

/// The accounts of one cycle.
#[derive(Clone, Debug, Default)]
pub(crate) struct Books {
    /// All of them.
    pub(crate) accounts: Vec<Account>,
    /// Audit records of the cycle, and how many different requests they are about.
    pub(crate) records: (i64, i64),
    /// Requests that the backend has seen, by agent.
    pub(crate) seen: BTreeMap<String, u64>,
}

impl Books {
    /// Reads the accounts and records of everybody whose name begins so.
    pub(crate) async fn read(database: &PgPool, prefix: &str, seen: BTreeMap<String, u64>) -> Result<Self, sqlx::Error> {
        let accounts = sqlx::query_as(
            "WITH mine AS (SELECT *, regexp_replace(scope, '^.*:', '') AS owner FROM budget_accounts \
                 WHERE budget IN ('chaos-customer', 'chaos-agent') AND scope LIKE '%:' || $1 || '%'), \
             recorded AS (SELECT c->>'budget' AS budget, c->>'scope' AS scope, sum((c->>'amount')::bigint)::bigint AS charged \
                 FROM gateway_audit_logs CROSS JOIN jsonb_array_elements(charges) AS c WHERE customer_id LIKE $1 || '%' GROUP BY 1, 2), \
             closed AS (SELECT account_id, sum(granted - used)::bigint AS lost, sum(used)::bigint AS used \
                 FROM chaos_leases_ended JOIN holders USING (holder) WHERE superseded OR ended_at = closed_at GROUP BY 1) \
             SELECT budget, owner, committed, settled, forfeited, overrun, over_grant, coalesce(charged, 0) AS recorded, \
                 coalesce(lost, 0) AS lost, coalesce(used, 0) AS used_by_closed \
             FROM mine LEFT JOIN recorded USING (budget, scope) LEFT JOIN closed USING (account_id) ORDER BY budget, owner",
        )
        // A plan for all prefixes would read the whole log.
        .persistent(false)
        .bind(prefix)
        .fetch_all(database)
        .await?;
        let records =
            sqlx::query_as("SELECT count(*), count(DISTINCT request_id) FROM gateway_audit_logs WHERE customer_id LIKE $1 || '%'")
                .persistent(false)
                .bind(prefix)
                .fetch_one(database)
                .await?;
        Ok(Self { accounts, records, seen })
    }

    /// What the requests that the backend has seen cost this account.
    fn spent(&self, account: &Account) -> i64 {
        let seen: u64 = match account.budget.as_str() {
            "chaos-agent" => self.seen.get(&account.owner).copied().unwrap_or_default(),
            // An agent is named after its customer.
            _ => self.seen.iter().filter(|(agent, _)| agent.starts_with(&format!("{}a", account.owner))).map(|(_, seen)| seen).sum(),
        };
        i64::try_from(seen).unwrap_or(i64::MAX).saturating_mul(price(account))
    }

    /// The sum of a number over all accounts of agents.
    pub(crate) fn money(&self, number: impl Fn(&Account) -> i64) -> i64 {
        self.accounts.iter().filter(|account| account.budget == "chaos-agent").map(number).sum()
    }

    /// What the backend's requests cost, in money.
    pub(crate) fn money_spent(&self) -> i64 {
        self.money(|account| self.spent(account))
    }

    /// Everything that is not as it must be once all leases have ended.
    pub(crate) fn faults(&self) -> Vec<String> {
        let mut faults: Vec<String> = self.accounts.iter().flat_map(|account| self.faults_of(account)).collect();
        if self.records.0 != self.records.1 {
            faults.push(format!("{} audit records of {} requests", self.records.0, self.records.1));
        }
        faults
    }

    fn faults_of(&self, account: &Account) -> Vec<String> {
        let Account { committed, settled, forfeited, overrun, over_grant, recorded, lost, used_by_closed, .. } = *account;
        let (cap, spent) = (cap(account), self.spent(account));
        let rules = [
            (committed <= cap, "I1: more is granted than the cap"),
            (spent <= cap, "over the cap: the backend has seen more than was allowed"),
            (committed == settled, "a lease has not ended"),
            ((overrun, over_grant) == (0, 0), "spent without a grant"),
            (spent <= settled, "a charge is lost: the backend has seen more than is charged"),
            (settled.saturating_sub(forfeited) <= spent, "charged twice: more is charged than the backend has seen, forfeits apart"),
            (recorded <= spent, "charged twice: more is recorded than the backend has seen"),
            (recorded <= settled, "I7: more is recorded than charged"),
            (forfeited == lost, "waste: the forfeits are not the leases of closed holders"),
            (settled <= recorded.saturating_add(lost).saturating_add(used_by_closed), "I7: records are missing outside of any gap"),
        ];
        rules.iter().filter(|(holds, _)| !holds).map(|(_, rule)| format!("{rule} (cap {cap}, spent {spent}): {account:?}")).collect()
    }
}

fn cap(account: &Account) -> i64 {
    if account.budget == "chaos-agent" { AGENT_CAP } else { CUSTOMER_CAP }
}

fn price(account: &Account) -> i64 {
    if account.budget == "chaos-agent" { COST } else { 1 }
}

/// Accounts of any cycle that are granted more than their cap at this moment.
pub(crate) async fn over_cap(database: &PgPool) -> Result<Vec<(String, String, i64)>, sqlx::Error> {
    sqlx::query_as(
        "SELECT budget, scope, committed FROM budget_accounts \
         WHERE budget = 'chaos-customer' AND committed > $1 OR budget = 'chaos-agent' AND committed > $2",
    )
    .bind(CUSTOMER_CAP)
    .bind(AGENT_CAP)
    .fetch_all(database)
    .await
}

/// Holders closed so far.
pub(crate) async fn closed_holders(database: &PgPool) -> Result<i64, sqlx::Error> {
    let (closed,): (i64,) = sqlx::query_as("SELECT count(*) FROM holders WHERE closed_at IS NOT NULL").fetch_one(database).await?;
    Ok(closed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn books(account: Account, seen: u64) -> Books {
        Books { accounts: vec![account], records: (5, 5), seen: [("x-c0a0".to_owned(), seen), ("y".to_owned(), 9)].into() }
    }

    #[test]
    fn every_rule_can_be_broken() {
        let good = Account {
            budget: "chaos-customer".into(),
            owner: "x-c0".into(),
            committed: 100,
            settled: 100,
            forfeited: 20,
            overrun: 0,
            over_grant: 0,
            recorded: 75,
            lost: 20,
            used_by_closed: 10,
        };
        assert_eq!(books(good.clone(), 85).faults(), Vec::<String>::new());
        for (bad, seen, rule) in [
            (Account { committed: 1_501, settled: 1_501, ..good.clone() }, 85, "I1"),
            (good.clone(), 1_501, "over the cap"),
            (Account { committed: 101, ..good.clone() }, 85, "a lease has not ended"),
            (Account { over_grant: 1, ..good.clone() }, 85, "without a grant"),
            (good.clone(), 101, "a charge is lost"),
            (good.clone(), 79, "more is charged than"),
            (Account { recorded: 86, ..good.clone() }, 85, "more is recorded than the backend"),
            (Account { recorded: 101, ..good.clone() }, 85, "I7: more is recorded than charged"),
            (Account { lost: 19, ..good.clone() }, 85, "waste"),
            (Account { recorded: 69, ..good.clone() }, 85, "outside of any gap"),
        ] {
            let faults = books(bad, seen).faults();
            assert!(faults.iter().any(|fault| fault.contains(rule)), "{rule}: {faults:?}");
        }
        let twice = Books { records: (6, 5), ..books(good, 85) };
        assert_eq!(twice.faults(), ["6 audit records of 5 requests"]);
    }
}
