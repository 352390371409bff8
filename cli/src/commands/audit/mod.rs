//! `plant-gateway audit`: what is in the audit log, how it hangs together, how long it is kept, and whether it is what was written.

mod export;
mod reconcile;
mod verify;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::admin_api::{AdminApi, ApiCommandError, Connection, Format, block_on, encoded, shown};
use super::tables::{Columns, line, members, paged, table};
use crate::demo::http::Ask;

const PATH: &str = "/admin/v1/audit";
/// What users ask through their gateway, with their own token.
const OWN: &str = "/api/v1/audit/records";
const OWN_SUMMARIES: &str = "/api/v1/audit/daily-summaries";

/// Arguments of `audit`.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    action: Action,
}

/// Whose records.
#[derive(Clone, Copy, Debug, Args)]
struct Whose {
    /// The own records, and of a customer's administrator the customer's: with a user's token, at a gateway's address
    /// (`--control-plane http://127.0.0.1:8015 --token-file FILE`).
    #[arg(long)]
    own: bool,
}

impl Whose {
    const fn records(self) -> &'static str {
        if self.own { OWN } else { PATH }
    }
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show records, newest first.
    List {
        #[command(flatten)]
        whose: Whose,
        #[command(flatten)]
        which: Which,
        /// At most so many.
        #[arg(long, default_value_t = 50)]
        limit: u32,
        /// Where the last page ended.
        #[arg(long)]
        cursor: Option<String>,
    },
    /// Count records.
    Count {
        #[command(flatten)]
        which: Which,
    },
    /// Write all records that match to standard output, newest first.
    Export(export::Arguments),
    /// Show the causal tree around a correlation id: what caused it, and what it caused.
    Trace {
        /// The correlation id, as the client sent it.
        correlation_id: String,
    },
    /// Show what is known to be missing.
    Gaps {
        /// From this time on, in RFC 3339.
        #[arg(long, value_name = "TIME")]
        from: Option<String>,
        /// Before this time, in RFC 3339.
        #[arg(long, value_name = "TIME")]
        to: Option<String>,
    },
    /// Show days that are over, summed up by gateway, user and customer.
    Summary {
        #[command(flatten)]
        whose: Whose,
        /// Only of this `user_id`.
        #[arg(long)]
        user: Option<String>,
        /// Only of this customer.
        #[arg(long)]
        customer: Option<String>,
        /// Only of this gateway.
        #[arg(long)]
        gateway: Option<String>,
        /// At most so many.
        #[arg(long, default_value_t = 50)]
        limit: u32,
    },
    /// Show how long records are kept and which legal holds there are; with `--days` keep a gateway's for so long.
    Retention {
        /// The gateway.
        #[arg(requires = "days")]
        gateway: Option<String>,
        /// So many days.
        #[arg(long, requires_all = ["gateway", "reason"])]
        days: Option<i32>,
        /// Why. It is recorded.
        #[arg(long)]
        reason: Option<String>,
    },
    /// Place a legal hold: nothing is dropped until it is released.
    Hold {
        /// Only of this gateway.
        #[arg(long)]
        gateway: Option<String>,
        /// Why. It is recorded.
        #[arg(long)]
        reason: String,
    },
    /// Release a legal hold.
    Release {
        /// Its id.
        id: i64,
        /// Why. It is recorded.
        #[arg(long)]
        reason: String,
    },
    /// Hold the log against its hash chains and signed checkpoints, in the database that `DATABASE_URL` names, or that of the running
    /// stack. Ends with 1 when something is not as it was written.
    Verify(verify::Arguments),
    /// Hold Envoy's access log against the audit log: every request has a record, or lies in a gap that is known. Ends with 1 when one
    /// does not.
    Reconcile(reconcile::Arguments),
}

/// Which records; what is not given matches everything.
#[derive(Clone, Debug, Default, Args)]
struct Which {
    /// The correlation id, as the client sent it.
    #[arg(long, value_name = "ID")]
    correlation_id: Option<String>,
    /// The request's id.
    #[arg(long, value_name = "ID")]
    request_id: Option<String>,
    /// The `user_id` claim.
    #[arg(long)]
    user: Option<String>,
    /// The customer.
    #[arg(long)]
    customer: Option<String>,
    /// The agent.
    #[arg(long)]
    agent: Option<String>,
    /// `permit`, `deny`, `indeterminate` or `none`.
    #[arg(long)]
    outcome: Option<String>,
    /// The route.
    #[arg(long)]
    route: Option<String>,
    /// The custom rule or the budget that refused.
    #[arg(long)]
    rule: Option<String>,
    /// A budget that was charged.
    #[arg(long)]
    budget: Option<String>,
    /// The approval that was asked for or consumed.
    #[arg(long, value_name = "ID")]
    approval_id: Option<String>,
    /// `CP`, `PP` or `PLANT`.
    #[arg(long)]
    gateway: Option<String>,
    /// The status sent to the client.
    #[arg(long)]
    status: Option<u16>,
    /// From this time on, in RFC 3339.
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Before this time, in RFC 3339.
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
}

impl Which {
    fn parameters(&self) -> Vec<(&'static str, Option<String>)> {
        vec![
            ("correlation_id", self.correlation_id.clone()),
            ("request_id", self.request_id.clone()),
            ("user", self.user.clone()),
            ("customer", self.customer.clone()),
            ("agent", self.agent.clone()),
            ("outcome", self.outcome.clone()),
            ("route", self.route.clone()),
            ("rule", self.rule.clone()),
            ("budget", self.budget.clone()),
            ("approval_id", self.approval_id.clone()),
            ("gateway", self.gateway.clone()),
            ("status", self.status.map(|status| status.to_string())),
            ("from", self.from.clone()),
            ("to", self.to.clone()),
        ]
    }
}

/// The log was not queried, exported or verified.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The admin API.
    #[error(transparent)]
    Api(#[from] ApiCommandError),
    /// Standard output.
    #[error("cannot write to standard output")]
    Output(#[source] std::io::Error),
    /// CSV.
    #[error("cannot write CSV to standard output")]
    Csv(#[from] csv::Error),
    /// No database.
    #[error("no database: set DATABASE_URL to postgres://user:password@host:port/database, or name a running stack's --state")]
    NoDatabase,
    /// The program that verifies.
    #[error("cannot run `{}`", program.display())]
    Program {
        /// Which.
        program: std::path::PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It could not tell.
    #[error("the log cannot be verified: {0}")]
    NotVerified(String),
    /// An access log cannot be read.
    #[error("cannot read the access log `{}`", path.display())]
    AccessLog {
        /// Which.
        path: std::path::PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Nothing in it is a line of ours.
    #[error(
        "no line of `{}` is a JSON object with `time`, `request_id`, `code` and `duration_ms`: use the access_log of envoy/bootstrap.yaml",
        path.display()
    )]
    NoLines {
        /// Which.
        path: std::path::PathBuf,
    },
    /// The two logs do not agree; how was printed.
    #[error("the access log and the audit log do not agree")]
    Disagree,
    /// It is not as it was written; that was printed.
    #[error("the log is not as it was written")]
    Tampered,
}

impl AuditError {
    /// 1 when the log is not as it was written or does not agree with another, 2 when nothing can be said, 3 when the control plane refuses.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Tampered | Self::Disagree => 1,
            Self::Api(error) => error.exit_code(),
            Self::Output(_)
            | Self::Csv(_)
            | Self::NoDatabase
            | Self::Program { .. }
            | Self::NotVerified(_)
            | Self::AccessLog { .. }
            | Self::NoLines { .. } => 2,
        }
    }
}

/// Does it.
///
/// # Errors
/// The control plane cannot be reached, or refuses; or the log is not as it was written.
pub fn run(arguments: &Arguments) -> Result<(), AuditError> {
    let ask = match &arguments.action {
        Action::Verify(verify) => return verify::run(verify, &arguments.connection),
        Action::Reconcile(reconcile) => return reconcile::run(reconcile, &arguments.connection),
        Action::Export(export) => return export::run(export, &arguments.connection),
        Action::List { whose, which, limit, cursor } => {
            let mut parameters = which.parameters();
            parameters.extend([("limit", Some(limit.to_string())), ("cursor", cursor.clone())]);
            Ask::get(&line(whose.records(), &parameters))
        }
        Action::Count { which } => Ask::get(&line(&format!("{PATH}/count"), &which.parameters())),
        Action::Trace { correlation_id } => Ask::get(&format!("{PATH}/traces/{}", encoded(correlation_id))),
        Action::Gaps { from, to } => {
            Ask::get(&line(&format!("{PATH}/gaps"), &[("from", from.clone()), ("to", to.clone()), ("limit", Some("1000".to_owned()))]))
        }
        Action::Summary { whose, user, customer, gateway, limit } => {
            let limit = Some(limit.to_string());
            let parameters = [("user", user.clone()), ("customer", customer.clone()), ("gateway", gateway.clone()), ("limit", limit)];
            let path = if whose.own { OWN_SUMMARIES.to_owned() } else { format!("{PATH}/summaries") };
            Ask::get(&line(&path, &parameters))
        }
        Action::Retention { gateway: Some(gateway), days: Some(days), reason } => {
            Ask::new("PUT", &format!("{PATH}/retention/{}", encoded(gateway))).json(&json!({"days": days, "reason": reason}))
        }
        Action::Retention { .. } => Ask::get(&format!("{PATH}/retention")),
        Action::Hold { gateway, reason } => {
            let body = match gateway {
                Some(gateway) => json!({"gateway": gateway, "reason": reason}),
                None => json!({"reason": reason}),
            };
            Ask::post(&format!("{PATH}/holds")).json(&body)
        }
        Action::Release { id, reason } => Ask::post(&format!("{PATH}/holds/{id}/release")).json(&json!({"reason": reason})),
    };
    let mut api = AdminApi::open(&arguments.connection)?;
    let answer = block_on(api.json(ask))?;
    match arguments.connection.format {
        Format::Json => println!("{answer}"),
        Format::Text => told(&arguments.action, &answer).iter().for_each(|line| println!("{line}")),
    }
    Ok(())
}

const RECORD: Columns<10> = [
    ("TIME", "timestamp"),
    ("GATEWAY", "gateway_type"),
    ("METHOD", "http_method"),
    ("STATUS", "status_code"),
    ("DECISION", "decision"),
    ("REASON", "reason"),
    ("ROUTE", "route"),
    ("USER", "user_id"),
    ("CORRELATION", "correlation_id"),
    ("ID", "id"),
];
const GAP: Columns<7> = [
    ("FROM", "from_at"),
    ("TO", "to_at"),
    ("ENVOY", "envoy_id"),
    ("HOLDER", "holder"),
    ("AFTER", "after_sequence"),
    ("BEFORE", "before_sequence"),
    ("REASON", "reason"),
];
const SUMMARY: Columns<11> = [
    ("DAY", "day"),
    ("GATEWAY", "gateway_type"),
    ("USER", "user_id"),
    ("CUSTOMER", "customer_id"),
    ("REQUESTS", "requests"),
    ("2XX/3XX", "succeeded"),
    ("4XX", "client_errors"),
    ("5XX", "server_errors"),
    ("DENIED", "denied"),
    ("P50 US", "p50_us"),
    ("P99 US", "p99_us"),
];
const KEPT: Columns<4> = [("GATEWAY", "gateway"), ("DAYS", "days"), ("OLDEST", "oldest"), ("UNTIL", "until")];
const HOLD: Columns<5> = [("HOLD", "id"), ("GATEWAY", "gateway"), ("BY", "placed_by"), ("SINCE", "placed_at"), ("REASON", "reason")];

fn told(action: &Action, answer: &Value) -> Vec<String> {
    match action {
        Action::List { .. } => paged(answer, "records", &RECORD),
        Action::Count { .. } => vec![shown(answer, "count")],
        Action::Trace { .. } => {
            let mut lines: Vec<String> = members(answer, "records").iter().map(branch).collect();
            if answer.get("cut") == Some(&Value::Bool(true)) {
                lines.push("there are more than are shown".to_owned());
            }
            lines
        }
        Action::Gaps { .. } => table(&GAP, &members(answer, "gaps")),
        Action::Summary { .. } => table(&SUMMARY, &members(answer, "summaries")),
        Action::Retention { days: None, .. } => {
            let mut lines = table(&KEPT, &members(answer, "gateways"));
            let holds = members(answer, "holds");
            if !holds.is_empty() {
                lines.extend(table(&HOLD, &holds));
            }
            lines
        }
        Action::Hold { .. } => table(&HOLD, std::slice::from_ref(answer)),
        Action::Retention { .. } | Action::Release { .. } => vec!["done".to_owned()],
        Action::Export(_) | Action::Verify(_) | Action::Reconcile(_) => Vec::new(),
    }
}

/// A record of a trace, as deep as it is.
fn branch(record: &Value) -> String {
    let depth = record.get("depth").and_then(Value::as_u64).and_then(|depth| usize::try_from(depth).ok()).unwrap_or(0);
    let of = |member| shown(record, member);
    let parts = [of("timestamp"), of("gateway_type"), of("http_method"), of("endpoint"), of("status_code"), of("reason"), of("request_id")];
    format!("{}{}", "  ".repeat(depth), parts.join("  "))
}
