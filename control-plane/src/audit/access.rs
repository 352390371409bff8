//! As whom the audit log is read and written. Postgres enforces what each may see, whatever a handler forgets.

use sqlx::{PgConnection, PgPool, Postgres, Transaction};

/// A role of the audit log, for one transaction, and for whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access<'a> {
    /// Adds records in the name of this Envoy.
    Writer {
        /// The Envoy, as its token says.
        envoy_id: &'a str,
    },
    /// Reads everything.
    Auditor,
    /// Reads what is told of one user, and of one customer where the user is its administrator.
    Reader {
        /// The user's issuer.
        issuer: &'a str,
        /// The user's subject, as records have it.
        subject: &'a str,
        /// The customer.
        administers: Option<&'a str>,
    },
    /// Makes and drops partitions.
    Owner,
}

impl Access<'_> {
    const fn role(&self) -> &'static str {
        match self {
            Self::Writer { .. } => "plant_gateway_audit_writer",
            Self::Auditor => "plant_gateway_audit_auditor",
            Self::Reader { .. } => "plant_gateway_audit_reader",
            Self::Owner => "plant_gateway_audit_owner",
        }
    }

    /// Begins a transaction in the role.
    ///
    /// # Errors
    /// Postgres failed, or the control plane's own login may not take the role.
    pub async fn begin(self, database: &PgPool) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
        let mut transaction = database.begin().await?;
        self.enter(&mut transaction).await?;
        Ok(transaction)
    }

    /// Takes the role until the transaction ends, or [`leave`].
    ///
    /// # Errors
    /// Postgres failed, or the control plane's own login may not take the role.
    pub async fn enter(self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let (envoy, issuer, subject, customer) = match self {
            Self::Writer { envoy_id } => (envoy_id, "", "", ""),
            Self::Reader { issuer, subject, administers } => ("", issuer, subject, administers.unwrap_or_default()),
            Self::Auditor | Self::Owner => ("", "", "", ""),
        };
        // The role last: what the settings mean is said by it.
        sqlx::query(
            "SELECT set_config('plant_gateway.envoy', $1, true), set_config('plant_gateway.issuer', $2, true), \
             set_config('plant_gateway.subject', $3, true), set_config('plant_gateway.customer', $4, true), set_config('role', $5, true)",
        )
        .bind(envoy)
        .bind(issuer)
        .bind(subject)
        .bind(customer)
        .bind(self.role())
        .execute(&mut *connection)
        .await?;
        match self {
            // Users do not decide how long a connection is busy that Envoys wait for.
            Self::Reader { .. } => sqlx::query("SET LOCAL statement_timeout = '2s'").execute(connection).await.map(|_set| ()),
            Self::Writer { .. } | Self::Auditor | Self::Owner => Ok(()),
        }
    }
}

/// Back to the control plane's own login.
///
/// # Errors
/// Postgres failed.
pub async fn leave(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    // To the one that the login begins with, which need not be its own.
    sqlx::query("RESET ROLE").execute(connection).await.map(|_set| ())
}
