//! A revision beside the one in force: which, since when, and what it would change.
//!
//! A run compares two revisions. It ends when somebody ends it, at its `ends_at`, and when its revision is activated; when
//! another is activated it begins anew against that one, since counts of two comparisons must not be mixed.

pub mod http;
pub mod store;

use crate::policies::Revision;
use serde::Serialize;
use sqlx::FromRow;
use sqlx::types::Json;
use time::OffsetDateTime;
use utoipa::ToSchema;

/// A run: from its beginning to the next row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, FromRow, ToSchema)]
pub struct Run {
    /// Its number.
    pub number: i64,
    /// The revision in shadow.
    pub revision: Revision,
    /// The revision that it is compared with.
    pub active_revision: Revision,
    /// Who began it: issuer name.
    pub author_issuer: String,
    /// Who began it: subject.
    pub author: String,
    /// Why.
    pub reason: String,
    /// When it began.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub began_at: OffsetDateTime,
    /// When it ends by itself.
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ends_at: Option<OffsetDateTime>,
    /// When it ended.
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ended_at: Option<OffsetDateTime>,
}

/// How many requests were compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromRow)]
pub struct Totals {
    /// Requests that both revisions judged.
    pub compared: i64,
    /// Requests that only the active one could judge.
    pub unjudged: i64,
    /// Workers that report.
    pub workers: i64,
}

/// One way in which the two revisions differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, FromRow, ToSchema)]
pub struct Difference {
    /// In what they part: a check, or what becomes of a request that both permit: `credential`, `rewrite`, `exchange`.
    pub check: String,
    /// The rule of the revision in shadow, else of the active one; empty for what did not fit into a worker's table.
    pub route: String,
    /// What the active revision came to: `ok`, a coded reason, or in a word what becomes of a permitted request: `limited`, `query`,
    /// `path`, `body` (ownership), `approval`, `sandbox`, `production`, `drop`, `original_header`, `forward` (credential), `rewritten`,
    /// `plain`, `stream`, `websocket` (exchange), `charges`; `none` for what it has not. The same word twice: another name or path.
    pub active: String,
    /// What the one in shadow came to, in the same words.
    pub shadow: String,
    /// How often.
    pub count: i64,
}

/// A record of the audit log that shows a difference.
#[derive(Clone, Debug, PartialEq, Serialize, FromRow, ToSchema)]
pub struct Example {
    /// The record's id in the log.
    pub id: String,
    /// When the request arrived.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub timestamp: OffsetDateTime,
    /// The gateway.
    pub gateway_type: String,
    /// The method.
    pub http_method: Option<String>,
    /// The active revision's route.
    pub route: Option<String>,
    /// The active revision's decision.
    pub decision: String,
    /// Its coded reason.
    pub reason: String,
    /// What the revision in shadow would have decided: `revision`, `decision`, `reason`, `route`.
    #[schema(value_type = Object)]
    pub shadow: Json<serde_json::Value>,
}

/// What promoting the revision in shadow would change.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Report {
    /// The newest run.
    #[serde(flatten)]
    pub run: Run,
    /// Whether it goes on.
    pub running: bool,
    /// Requests that both revisions judged.
    pub compared: i64,
    /// Requests that only the active one could judge: the other wants a credential that was not verified.
    pub unjudged: i64,
    /// Requests that they judged differently.
    pub changed: i64,
    /// Workers that reported.
    pub workers: i64,
    /// How they differ, most frequent first; at most 200.
    pub differences: Vec<Difference>,
    /// Sampled records that show it, newest first; at most 20.
    pub examples: Vec<Example>,
    /// All of it in a sentence.
    pub summary: String,
    /// Whether requests were compared and none would change.
    pub promotable: bool,
}

impl Report {
    /// Puts the parts together.
    #[must_use]
    pub fn new(run: Run, totals: Totals, changed: i64, differences: Vec<Difference>, examples: Vec<Example>) -> Self {
        let summary = summary(totals, changed, &differences);
        let Totals { compared, unjudged, workers } = totals;
        let running = run.ended_at.is_none();
        Self {
            running,
            run,
            compared,
            unjudged,
            changed,
            workers,
            differences,
            examples,
            summary,
            promotable: compared > 0 && changed == 0,
        }
    }
}

/// "3 of 12,400 requests would change; all by rule `agents.create`".
fn summary(totals: Totals, changed: i64, differences: &[Difference]) -> String {
    let of = grouped(totals.compared);
    let mut sentence = match (totals.compared, changed, differences) {
        (0, _, _) => "no request was compared yet".to_owned(),
        (_, 0, _) => format!("no request of {of} would change"),
        (_, _, [first, rest @ ..]) => {
            let changed = grouped(changed);
            match (rest.iter().all(|other| other.route == first.route), first.route.as_str()) {
                (true, "") => format!("{changed} of {of} requests would change"),
                (true, route) => format!("{changed} of {of} requests would change; all by rule `{route}`"),
                (false, "") => format!("{changed} of {of} requests would change; by several rules"),
                (false, route) => format!("{changed} of {of} requests would change; most often by rule `{route}`"),
            }
        }
        (_, _, []) => format!("{} of {of} requests would change", grouped(changed)),
    };
    if totals.unjudged > 0 {
        sentence.push_str(&format!("; {} could not be judged by it", grouped(totals.unjudged)));
    }
    sentence
}

/// A number with commas between thousands.
#[must_use]
pub fn grouped(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3 + 1);
    if number < 0 {
        text.push('-');
    }
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn difference(route: &str, count: i64) -> Difference {
        Difference { check: "permission".into(), route: route.into(), active: "ok".into(), shadow: "permission_missing".into(), count }
    }

    #[test]
    fn the_sentence_says_how_many_and_by_which_rule() {
        let totals = |compared, unjudged| Totals { compared, unjudged, workers: 1 };
        for (totals, changed, differences, expected) in [
            (totals(0, 0), 0, vec![], "no request was compared yet"),
            (totals(12_400, 0), 0, vec![], "no request of 12,400 would change"),
            (totals(12_400, 0), 3, vec![difference("x", 2), difference("x", 1)], "3 of 12,400 requests would change; all by rule `x`"),
            (totals(10, 0), 3, vec![difference("x", 2), difference("y", 1)], "3 of 10 requests would change; most often by rule `x`"),
            (totals(10, 4), 3, vec![difference("", 3)], "3 of 10 requests would change; 4 could not be judged by it"),
        ] {
            assert_eq!(summary(totals, changed, &differences), expected);
        }
    }

    #[test]
    fn thousands_are_grouped() {
        let texts = [0, 999, 1_000, 1_234_567, -1_000, i64::MIN].map(grouped);
        assert_eq!(texts, ["0", "999", "1,000", "1,234,567", "-1,000", "-9,223,372,036,854,775,808"]);
    }
}
