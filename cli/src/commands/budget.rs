//! `plant-gateway budget`: what accounts have spent and have left, thresholds that were reached, caps and override accounts.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::admin_api::{AdminApi, ApiCommandError, Connection, Format, block_on, encoded, shown};
use super::tables::{Columns, line, members, paged, table};
use crate::demo::http::Ask;

const PATH: &str = "/admin/v1/budgets";

/// Arguments of `budget`.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show the accounts of current windows.
    List(Which),
    /// Show one account with its leases, forfeits and earlier windows.
    Show {
        #[command(flatten)]
        account: Account,
    },
    /// Set the cap of one scope; without `--cap` show the caps that are set.
    Cap(Set),
    /// End a cap that was set: the policy's counts again.
    Uncap(End),
    /// Grant an override account beside one scope; without `--cap` show those that are granted, with `--end` end one.
    Override {
        #[command(flatten)]
        set: Set,
        /// End the one with this id instead.
        #[arg(long, value_name = "ID", conflicts_with_all = ["budget", "cap", "expires", "limit", "cursor"], requires = "reason")]
        end: Option<i64>,
    },
    /// Show thresholds that were reached, latest first.
    Alerts(Alerts),
}

/// A budget and a scope, where one is needed.
#[derive(Debug, Args)]
struct Account {
    /// The budget's name.
    budget: String,
    /// The scope, as accounts are listed: `agent:agent_id=3:a-1`, `platform`.
    scope: String,
}

#[derive(Debug, Args)]
struct Which {
    /// Only of this budget.
    #[arg(long)]
    budget: Option<String>,
    /// Only of this scope.
    #[arg(long)]
    scope: Option<String>,
    /// At most so many.
    #[arg(long, default_value_t = 100)]
    limit: u32,
    /// Where the last page ended.
    #[arg(long)]
    cursor: Option<String>,
}

#[derive(Debug, Args)]
struct Set {
    /// The budget's name.
    #[arg(requires = "scope")]
    budget: Option<String>,
    /// The scope, as accounts are listed: `agent:agent_id=3:a-1`, `platform`.
    scope: Option<String>,
    /// The cap, in the budget's unit; money in millionths of a dollar.
    #[arg(long, requires_all = ["budget", "reason"])]
    cap: Option<i64>,
    /// When it ends, in RFC 3339.
    #[arg(long, value_name = "TIME", requires = "cap")]
    expires: Option<String>,
    /// Why. It is recorded.
    #[arg(long)]
    reason: Option<String>,
    /// Show also those that are over.
    #[arg(long, conflicts_with = "cap")]
    ended: bool,
    /// Show at most so many.
    #[arg(long, conflicts_with = "cap")]
    limit: Option<u32>,
    /// Show those after the last page, which ended there.
    #[arg(long, conflicts_with = "cap")]
    cursor: Option<i64>,
}

#[derive(Debug, Args)]
struct End {
    /// Its id.
    id: i64,
    /// Why. It is recorded.
    #[arg(long)]
    reason: String,
}

#[derive(Debug, Args)]
struct Alerts {
    #[command(flatten)]
    which: Which,
    /// Only `warning`, `high` or `critical`.
    #[arg(long)]
    level: Option<String>,
    /// Noticed then or later, in RFC 3339.
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Noticed before, in RFC 3339.
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
}

/// Does it.
///
/// # Errors
/// The control plane cannot be reached, or refuses.
pub fn run(arguments: &Arguments) -> Result<(), ApiCommandError> {
    let mut api = AdminApi::open(&arguments.connection)?;
    let answer = block_on(api.json(call(&arguments.action).ask()))?;
    match arguments.connection.format {
        Format::Json => println!("{answer}"),
        Format::Text => told(&arguments.action, &answer).iter().for_each(|line| println!("{line}")),
    }
    Ok(())
}

/// What to ask the control plane.
#[derive(Debug, PartialEq, Eq)]
struct Call {
    method: &'static str,
    target: String,
    body: Option<Value>,
}

impl Call {
    const fn get(target: String) -> Self {
        Self { method: "GET", target, body: None }
    }

    fn ask(&self) -> Ask {
        let ask = Ask::new(self.method, &self.target);
        match &self.body {
            Some(body) => ask.json(body),
            None => ask,
        }
    }
}

fn call(action: &Action) -> Call {
    match action {
        Action::List(which) => Call::get(line(PATH, &parameters(which))),
        Action::Show { account: Account { budget, scope } } => {
            Call::get(line(&format!("{PATH}/account"), &[("budget", Some(budget.clone())), ("scope", Some(scope.clone()))]))
        }
        Action::Cap(set) => set_or_list("caps", set),
        Action::Uncap(end) => ended("caps", end.id, &end.reason),
        Action::Override { set, end: Some(id) } => ended("overrides", *id, set.reason.as_deref().unwrap_or_default()),
        Action::Override { set, end: None } => set_or_list("overrides", set),
        Action::Alerts(alerts) => {
            let mut wanted = parameters(&alerts.which);
            wanted.extend([("level", alerts.level.clone()), ("from", alerts.from.clone()), ("to", alerts.to.clone())]);
            Call::get(line(&format!("{PATH}/alerts"), &wanted))
        }
    }
}

fn set_or_list(what: &str, set: &Set) -> Call {
    let target = format!("{PATH}/{what}");
    if set.cap.is_none() {
        let ended = set.ended.then(|| "true".to_owned());
        let (limit, cursor) = (set.limit.map(|limit| limit.to_string()), set.cursor.map(|cursor| cursor.to_string()));
        let wanted = [("budget", set.budget.clone()), ("scope", set.scope.clone()), ("ended", ended), ("limit", limit), ("cursor", cursor)];
        return Call::get(line(&target, &wanted));
    }
    let mut body = json!({"budget": set.budget, "scope": set.scope, "cap": set.cap, "reason": set.reason});
    if let (Some(members), Some(expires)) = (body.as_object_mut(), &set.expires) {
        members.insert("expires_at".to_owned(), json!(expires));
    }
    Call { method: "POST", target, body: Some(body) }
}

fn ended(what: &str, id: i64, reason: &str) -> Call {
    Call { method: "DELETE", target: format!("{PATH}/{what}/{id}?reason={}", encoded(reason)), body: None }
}

fn parameters(which: &Which) -> Vec<(&'static str, Option<String>)> {
    let limit = Some(which.limit.to_string());
    vec![("budget", which.budget.clone()), ("scope", which.scope.clone()), ("limit", limit), ("cursor", which.cursor.clone())]
}

/// The answer in words.
fn told(action: &Action, answer: &Value) -> Vec<String> {
    match action {
        Action::List(_) => {
            let mut lines = paged(answer, "accounts", &ACCOUNT);
            lines.extend(members(answer, "unavailable").iter().filter_map(Value::as_str).map(|name| format!("not readable now: {name}")));
            lines
        }
        Action::Show { .. } => shown_account(answer),
        Action::Cap(set) if set.cap.is_none() => paged(answer, "caps", &SET),
        Action::Override { set, end: None } if set.cap.is_none() => paged(answer, "overrides", &SET),
        Action::Cap(_) | Action::Uncap(_) | Action::Override { .. } => table(&SET, std::slice::from_ref(answer)),
        Action::Alerts(_) => paged(answer, "alerts", &ALERT),
    }
}

const ACCOUNT: Columns<11> = [
    ("BUDGET", "budget"),
    ("SCOPE", "scope"),
    ("CAP", "cap"),
    ("SETTLED", "settled"),
    ("OVERRUN", "overrun"),
    ("LEASED", "leased"),
    ("REMAINING", "remaining"),
    ("%", "utilization_percent"),
    ("LEVEL", "level"),
    ("FORECAST", "forecast"),
    ("ENDS", "window_end"),
];
const LEASE: Columns<6> =
    [("HOLDER", "holder"), ("ENVOY", "envoy_id"), ("GRANTED", "granted"), ("USED", "used"), ("HELD", "held"), ("SEEN", "last_seen_at")];
const FORFEIT: Columns<4> = [("HOLDER", "holder"), ("ENVOY", "envoy_id"), ("UNITS", "units"), ("AT", "at")];
const SET: Columns<8> = [
    ("ID", "id"),
    ("BUDGET", "budget"),
    ("SCOPE", "scope"),
    ("CAP", "cap"),
    ("UNTIL", "expires_at"),
    ("IN FORCE", "in_force"),
    ("BY", "author"),
    ("REASON", "reason"),
];
const ALERT: Columns<8> = [
    ("AT", "at"),
    ("BUDGET", "budget"),
    ("SCOPE", "scope"),
    ("LEVEL", "level"),
    ("%", "percent"),
    ("SETTLED", "settled"),
    ("CAP", "cap"),
    ("PAUSED", "paused_agent"),
];

fn shown_account(answer: &Value) -> Vec<String> {
    let mut lines = table(&ACCOUNT, answer.get("account").map_or(&[], std::slice::from_ref));
    let part =
        |heading: &str, rows: Vec<String>| if rows.len() > 1 { [vec![String::new(), heading.to_owned()], rows].concat() } else { vec![] };
    if let Some(beside) = answer.pointer("/account/overriding").filter(|beside| !beside.is_null()) {
        lines.push(format!("override {}: cap {} until {}", shown(beside, "id"), shown(beside, "cap"), shown(beside, "expires_at")));
    }
    lines.extend(part("leases", table(&LEASE, &members(answer, "leases"))));
    lines.extend(part("forfeits", table(&FORFEIT, &members(answer, "forfeits"))));
    lines.extend(part("earlier windows", table(&ACCOUNT, &members(answer, "past"))));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn parsed(words: &str) -> Result<Call, clap::Error> {
        Line::try_parse_from(std::iter::once("budget").chain(words.split(' '))).map(|line| call(&line.arguments.action))
    }

    #[test]
    fn commands_become_requests_and_values_survive_them() {
        for (words, method, path) in [
            ("list --budget a&b", "GET", "/admin/v1/budgets?budget=a%26b&limit=100"),
            ("list --limit 7 --cursor W10", "GET", "/admin/v1/budgets?limit=7&cursor=W10"),
            ("cap --ended --limit 7 --cursor 3", "GET", "/admin/v1/budgets/caps?ended=true&limit=7&cursor=3"),
            ("override --limit 7 --cursor 3", "GET", "/admin/v1/budgets/overrides?limit=7&cursor=3"),
            ("show daily agent:agent_id=1:x", "GET", "/admin/v1/budgets/account?budget=daily&scope=agent%3Aagent_id%3D1%3Ax"),
            ("cap", "GET", "/admin/v1/budgets/caps"),
            ("cap --ended", "GET", "/admin/v1/budgets/caps?ended=true"),
            ("cap daily platform --cap 5 --reason more", "POST", "/admin/v1/budgets/caps"),
            ("uncap 7 --reason a/b", "DELETE", "/admin/v1/budgets/caps/7?reason=a%2Fb"),
            ("override daily platform --cap 5 --reason r --expires t", "POST", "/admin/v1/budgets/overrides"),
            ("override --end 7 --reason r", "DELETE", "/admin/v1/budgets/overrides/7?reason=r"),
            ("alerts --level high --cursor 3", "GET", "/admin/v1/budgets/alerts?limit=100&cursor=3&level=high"),
        ] {
            let call = parsed(words).unwrap();
            assert_eq!((call.method, &*call.target), (method, path), "{words}");
        }
        let call = parsed("override daily platform --cap 5 --reason r --expires t").unwrap();
        assert_eq!(call.body, Some(json!({"budget": "daily", "scope": "platform", "cap": 5, "reason": "r", "expires_at": "t"})));
    }

    #[test]
    fn what_could_not_be_meant_is_refused() {
        for words in [
            "cap daily --cap 5 --reason r",
            "cap daily platform --cap 5",
            "cap --cap 5 --reason r",
            "cap daily platform --expires t",
            "uncap 7",
            "cap daily platform --cap 5 --reason r --cursor 3",
            "override --end 7 --reason r --limit 5",
            "override --end 7",
            "override daily platform --end 7 --reason r",
            "show daily",
        ] {
            assert!(parsed(words).is_err(), "{words}");
        }
    }

    #[test]
    fn the_next_page_is_named_as_it_is_asked_for() {
        let which = Which { budget: None, scope: None, limit: 1, cursor: None };
        let answer = json!({"accounts": [{"budget": "daily"}], "unavailable": ["hourly"], "next_cursor": "W10"});
        let lines = told(&Action::List(which), &answer);
        assert_eq!(lines[2..], ["more: --cursor W10", "not readable now: hourly"]);
    }

    #[test]
    fn a_table_is_aligned_and_nothing_in_it_steers_the_terminal() {
        let rows = [json!({"id": 1, "budget": "daily", "reason": "a\u{1b}[2J"}), json!({"id": 22, "in_force": true})];
        let lines = table(&SET, &rows);
        assert!(lines[0].starts_with("ID  BUDGET  SCOPE") && lines[1].starts_with("1   daily   -"), "{lines:?}");
        assert!(lines[1].ends_with("a\\u001b[2J"), "{lines:?}");
    }
}
