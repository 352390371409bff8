//! Why a recorded request was decided so: asked again of the very revision that decided it.

use super::judgeable::{self, JudgeableRecord};
use crate::app::AppState;
use crate::caller::Caller;
use crate::extract::PathOf;
use crate::policies::explain::{Answer, ChangeTold, InForce, answered};
use crate::policies::http::{compile_candidate, files_of};
use crate::policies::{ActivePolicy, Revision};
use crate::problem::{ApiError, Problem};
use authoring::evaluate::{Asked, changes_of, without_keys};
use authoring::replay::{Difference, Outcome, RecordedRequest, Replay, Side, asker};
use axum::Json;
use axum::extract::State;
use decision_core::counterfactual::By;
use serde::Serialize;
use std::sync::Arc;
use time::OffsetDateTime;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// The routes of this slice.
pub fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(explain))
}

/// Why a recorded request was decided so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct RecordExplained {
    /// What was recorded.
    pub record: Recorded,
    /// What its revision says of it; absent where the record does not tell enough.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<Answer>,
    /// Whether that is what was recorded: `same`, `different`, or `undecidable`.
    pub agreement: &'static str,
    /// Why it is not, or cannot be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub because: Option<String>,
    /// What would have had to be otherwise; any one of them is enough for the check that refused. Empty where nothing refused, or
    /// nothing is known to help.
    pub changes: Vec<ChangeTold>,
    /// Whether any of them is in the caller's own hands.
    pub caller_can_help: bool,
}

/// What was recorded of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Recorded {
    /// The record's id.
    pub id: String,
    /// The request's id.
    pub request_id: String,
    /// Its correlation id.
    pub correlation_id: String,
    /// When it arrived.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub at: OffsetDateTime,
    /// `permit`, `deny`, `indeterminate` or `none`.
    pub decision: String,
    /// The coded reason.
    pub reason: String,
    /// The route that matched.
    pub route: Option<String>,
    /// The custom rule or the budget that refused, as it names itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// The revision that decided.
    pub revision: i64,
}

impl Recorded {
    fn of(record: &JudgeableRecord) -> Self {
        Self {
            id: record.id(),
            request_id: record.request_id.clone(),
            correlation_id: record.correlation_id.clone(),
            at: record.at(),
            decision: record.decision.clone(),
            reason: record.reason.clone(),
            route: record.route.clone(),
            rule: record.rule.clone(),
            revision: record.revision,
        }
    }
}

/// Explain a recorded request by the revision that decided it: each check, what it read, and what would have had to be otherwise.
#[utoipa::path(
    get, path = "/admin/v1/audit/{id}/explanation", operation_id = "audit.explain",
    params(("id" = String, Path, description = "The id of the record, or of the request")),
    responses(
        (status = 200, body = RecordExplained),
        (status = 404, description = "No such record, or its revision is not in this database", body = Problem),
        (status = 422, description = "Its revision does not compile here any more", body = Problem),
    ),
)]
async fn explain(State(state): State<AppState>, _caller: Caller, PathOf(id): PathOf<String>) -> Result<Json<RecordExplained>, ApiError> {
    if id.contains('\0') {
        return Err(ApiError::invalid("the id contains NUL"));
    }
    let found = judgeable::find(&state.database, &id).await?;
    let record = found.ok_or_else(|| ApiError::not_found("record", &id))?;
    let files = files_of(&state, Revision(record.revision)).await?;
    let policy = compile_candidate(&state, files).await?;
    let work = move || explained(&policy, &record);
    let done = tokio::task::spawn_blocking(work).await;
    done.map(Json).map_err(|stopped| ApiError::internal("explaining a record", stopped))
}

fn explained(policy: &ActivePolicy, record: &JudgeableRecord) -> RecordExplained {
    let undecided = |because: &str| RecordExplained {
        record: Recorded::of(record),
        answer: None,
        agreement: "undecidable",
        because: Some(because.to_owned()),
        changes: Vec::new(),
        caller_can_help: false,
    };
    let charges = record.charges();
    let Some(recorded) = record.recorded(&charges) else { return undecided("its gateway is none that this version knows") };
    let asker = match asker(&recorded, &policy.loaded.policy) {
        Ok(asker) => asker,
        Err(why) => return undecided(why.text()),
    };
    let (Some(method), Some(path)) = (recorded.method, recorded.path) else { return undecided("the record has no method and path") };
    let method = recorded.matched_method().map_or(method, |known| known.name());
    let asked = Asked { gateway: recorded.gateway, method, path, upgrade: recorded.upgrade, asker: &asker, now: recorded.at };
    let (agreement, because) = agreement(policy, &recorded);
    let answer = Answer { revision: u64::try_from(record.revision).unwrap_or_default(), ..answered(policy, &asked) };
    // What was recorded may have been refused after the policy had permitted it.
    let changes: Vec<_> = recorded.denied().map(|reason| changes_of(&policy.loaded.policy, &asked, reason)).unwrap_or_default();
    let changes: Vec<ChangeTold> = changes.iter().map(ChangeTold::from).collect();
    let caller_can_help = changes.iter().any(|change| change.by == By::Caller.name());
    RecordExplained { record: Recorded::of(record), answer: Some(answer), agreement, because, changes, caller_can_help }
}

/// Whether the record's own revision would decide it so again.
fn agreement(policy: &ActivePolicy, recorded: &RecordedRequest<'_>) -> (&'static str, Option<String>) {
    let inputs = policy.document.rules.as_ref().map_or(&[][..], |rules| &rules.inputs);
    let own = without_keys(&policy.document).ok();
    let mut own = own.map(|bundle| Side::new(Arc::new(bundle.policy)));
    let mut replay = Replay::new(&policy.loaded.policy, inputs);
    let mut rules = InForce(policy);
    match replay.judge(recorded, own.as_mut(), &mut rules).outcome {
        Outcome::Same => ("same", None),
        Outcome::Undecidable(why) => ("undecidable", Some(why.text().to_owned())),
        Outcome::Different(difference) => {
            let Difference { rule: _, aspect, before, after } = difference;
            ("different", Some(format!("{aspect}: recorded {before}, decided again {after}")))
        }
    }
}
