//! Since when the policy in force names a rule: one of yesterday has not failed to match for 30 days.

use crate::audit::hits::Kind;
use crate::policies::ActivePolicy;
use sqlx::{Connection, PgConnection, PgPool};
use std::collections::BTreeMap;
use time::OffsetDateTime;
use wire::policy::PolicyDocument;

/// A rule: its kind and its name.
pub type RuleKey = (String, String);

/// The rules that a policy names: its routes and budgets.
pub fn named(document: &PolicyDocument) -> impl Iterator<Item = RuleKey> + '_ {
    let key = |kind: Kind, name: &str| (kind.name().to_owned(), name.to_owned());
    let routes = document.routes.iter().map(move |route| key(Kind::Route, &route.name));
    routes.chain(document.budgets.iter().map(move |budget| key(Kind::Budget, &budget.name)))
}

/// Takes note of the names of a policy that came into force: new ones are as old as its activation, others are forgotten. Whoever
/// looks first does it; an older policy changes nothing.
///
/// # Errors
/// The database failed; whoever looks next does it.
pub async fn note(database: &PgPool, policy: &ActivePolicy) -> Result<(), sqlx::Error> {
    let Ok(activation) = i64::try_from(policy.version.activation) else { return Ok(()) };
    let mut connection = database.acquire().await?;
    let (known,): (i64,) = sqlx::query_as("SELECT activation FROM rule_names_of").fetch_one(&mut *connection).await?;
    if known >= activation {
        return Ok(());
    }
    let (kinds, rules): (Vec<String>, Vec<String>) = named(&policy.document).unzip();
    let mut transaction = connection.begin().await?;
    let newest = sqlx::query("UPDATE rule_names_of SET activation = $1 WHERE activation < $1").bind(activation);
    if newest.execute(&mut *transaction).await?.rows_affected() == 0 {
        return Ok(());
    }
    sqlx::query(
        "DELETE FROM rule_names AS known WHERE NOT EXISTS \
         (SELECT FROM UNNEST($1::text[], $2::text[]) AS named (kind, rule) WHERE named.kind = known.kind AND named.rule = known.rule)",
    )
    .bind(&kinds)
    .bind(&rules)
    .execute(&mut *transaction)
    .await?;
    sqlx::query(
        "INSERT INTO rule_names (kind, rule, since) \
         SELECT kind, rule, coalesce((SELECT activated_at FROM policy_activations WHERE activation = $3), now()) \
         FROM UNNEST($1::text[], $2::text[]) AS named (kind, rule) ON CONFLICT DO NOTHING",
    )
    .bind(&kinds)
    .bind(&rules)
    .bind(activation)
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await
}

/// Since when each rule is named.
///
/// # Errors
/// The database failed.
pub async fn since(connection: &mut PgConnection) -> Result<BTreeMap<RuleKey, OffsetDateTime>, sqlx::Error> {
    let rows: Vec<(String, String, OffsetDateTime)> =
        sqlx::query_as("SELECT kind, rule, since FROM rule_names").fetch_all(connection).await?;
    Ok(rows.into_iter().map(|(kind, rule, since)| ((kind, rule), since)).collect())
}
