//! Policies that were written for an OPA server: imported as roles and permissions, and asked about golden cases. What is sent is
//! loaded by the gate's process, and neither stored nor put in force.

use crate::app::AppState;
use crate::caller::Caller;
use crate::extract::JsonBody;
use crate::policies::http::{check_files, files_of};
use crate::policies::store;
use crate::policies::validation::Place;
use crate::policies::{Files, PolicyFault};
use crate::problem::{ApiError, Problem};
use authoring::evaluate::Candidate;
use authoring::import::{self, DifferenceKind, NotImported, RolePermissions};
use authoring::opa::{Generation, OpaSet};
use authoring::oracle::{self, Golden, Oracle, OracleReport, Says};
use authoring::rules::{Gate, TestRun};
use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use wire::policy::PolicyDocument;

/// An answer has to come within the time that requests have.
const CASES_MAX: usize = 2_000;

/// The routes of this slice.
pub fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(imports)).routes(routes!(asks))
}

/// One set of policies, as an OPA server loads it.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OpaPolicies {
    /// File names that end in `.rego` to texts; other files are left alone.
    pub files: Files,
}

/// One set of policies, and golden cases that it is asked about.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OracleQuestion {
    /// File names that end in `.rego` to texts.
    pub files: Files,
    /// Golden cases, as in `policies/cases`; at most 2,000. The list of chosen differences is called `oracle.yaml`.
    pub cases: Files,
}

/// How a set was loaded, and how its own tests went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct LoadedSet {
    /// `v0` or `v1`: which Rego it is written in.
    pub generation: &'static str,
    /// `permissions` or `levels`: how it says who may do what.
    pub form: &'static str,
    /// The rule that decides.
    pub decided_by: String,
    /// How many tests it has.
    pub tests: usize,
    /// Those that do not pass.
    pub failed_tests: Vec<Place>,
}

/// What an import makes of a set. Nothing is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Import {
    /// How it was loaded.
    pub set: LoadedSet,
    /// Every permission.
    pub permissions: Vec<String>,
    /// Every role, the most powerful first.
    pub roles: Vec<ImportedRole>,
    /// Both as the sections of a policy file.
    pub yaml: String,
    /// What was odd about the tables.
    pub remarks: Vec<String>,
    /// Rules that are not imported, by package.
    pub not_imported: Vec<RemainingRules>,
    /// Where the policy in force differs.
    pub differences: Vec<ImportDifference>,
}

/// A role.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct ImportedRole {
    /// Its name.
    pub name: String,
    /// What it permits; `*` is everything.
    pub permissions: Vec<String>,
}

/// Rules of a package that are not imported.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct RemainingRules {
    /// The package.
    pub package: String,
    /// Its first module.
    pub file: String,
    /// Its rules; a constant with its value.
    pub rules: Vec<String>,
    /// What covers them here.
    pub covered_by: &'static str,
}

/// A difference between the import and the policy in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct ImportDifference {
    /// `role_missing`, `role_added`, `permission_missing`, `permission_added`, `grant_missing` or `grant_added`: what the policy in
    /// force lacks, or has more.
    pub kind: &'static str,
    /// The role that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// The permission.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub permission: Option<String>,
}

/// What a set says about golden cases, beside the policy in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct OracleAnswer {
    /// How it was loaded.
    pub set: LoadedSet,
    /// How often each rule answered, and how.
    pub rules: BTreeMap<String, RuleAnswers>,
    /// Cases that at least one rule judged.
    pub judged_cases: usize,
    /// Cases that none judged, by why.
    pub unjudged: BTreeMap<&'static str, usize>,
    /// Differences that the list of chosen ones has.
    pub chosen: Vec<OracleDifference>,
    /// Those that it has not.
    pub unexpected: Vec<OracleDifference>,
    /// Questions that a rule failed on, and how.
    pub failures: Vec<String>,
    /// Choices that no difference bears out.
    pub stale: Vec<String>,
}

/// How often a rule answered, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct RuleAnswers {
    /// Cases that it judged, in one situation or several.
    pub cases: usize,
    /// Answers that it gave.
    pub judged: usize,
    /// Those that are ours.
    pub agreed: usize,
    /// Those that differ as chosen.
    pub chosen: usize,
    /// Those that differ unexpectedly.
    pub unexpected: usize,
    /// Questions that it failed on.
    pub failed: usize,
}

/// A case that a rule judges otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct OracleDifference {
    /// The file of the case.
    pub file: String,
    /// Its name.
    pub case: String,
    /// The rule.
    pub rule: String,
    /// What the case leaves open, as it was asked: `as_asked`, `granted`, `tasks_left`, `tasks_spent`, `money_left`, `agent_spent` or
    /// `platform_spent`.
    #[schema(value_type = String)]
    pub situation: oracle::Situation,
    /// What the policy in force says: `allow`, `deny`, `sandbox` or `production`.
    #[schema(value_type = String)]
    pub policy: Says,
    /// What the rule says.
    #[schema(value_type = String)]
    pub oracle: Says,
    /// What it says why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Why we decide otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chosen: Option<String>,
}

/// Make roles and permissions of policies that were written for an OPA server, and compare them with the policy in force.
#[utoipa::path(
    post, path = "/admin/v1/policies/import", operation_id = "policies.import", request_body = OpaPolicies,
    responses((status = 200, body = Import), (status = 422, description = "They cannot be loaded, or say nothing that can be imported", body = Problem)),
)]
async fn imports(
    State(state): State<AppState>,
    _caller: Caller,
    JsonBody(OpaPolicies { files }): JsonBody<OpaPolicies>,
) -> Result<Json<Import>, ApiError> {
    check_files(&files)?;
    let (gate, policy) = (state.settings.gate(), state.policy());
    blocking(move || import_of(&files, &policy.document, &gate)).await.map(Json)
}

/// Ask policies that were written for an OPA server about golden cases, beside the policy in force.
#[utoipa::path(
    post, path = "/admin/v1/policies/oracle", operation_id = "policies.oracle", request_body = OracleQuestion,
    responses((status = 200, body = OracleAnswer), (status = 422, description = "The policies cannot be loaded, or the cases cannot be read", body = Problem)),
)]
async fn asks(
    State(state): State<AppState>,
    _caller: Caller,
    JsonBody(OracleQuestion { files, cases }): JsonBody<OracleQuestion>,
) -> Result<Json<OracleAnswer>, ApiError> {
    check_files(&files)?;
    check_files(&cases)?;
    let record = store::activation_record(&state.database).await?.ok_or(ApiError::Unavailable { what: "no policy is active" })?;
    let (gate, in_force) = (state.settings.gate(), files_of(&state, record.revision).await?);
    blocking(move || opinion(&files, &cases, in_force, &gate)).await.map(Json)
}

/// A gate is waited for, off the async threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, PolicyFault> + Send + 'static) -> Result<T, ApiError> {
    let done = tokio::task::spawn_blocking(work).await.map_err(|stopped| ApiError::internal("asking policies", stopped))?;
    done.map_err(|fault| ApiError::InvalidPolicy(Box::new(fault)))
}

fn import_of(files: &Files, policy: &PolicyDocument, gate: &Gate) -> Result<Import, PolicyFault> {
    let set = OpaSet::load(files, gate)?;
    let imported = import::import(&set, Some(policy))?;
    let (yaml, differences) = (imported.yaml(), imported.compare(policy));
    let remaining = |NotImported { package, file, rules, covered_by }| RemainingRules { package, file, rules, covered_by };
    let import::Imported { permissions, roles, not_imported, remarks } = imported;
    Ok(Import {
        set: loaded(&set),
        permissions,
        roles: roles.into_iter().map(role).collect(),
        yaml,
        remarks,
        not_imported: not_imported.into_iter().map(remaining).collect(),
        differences: differences.into_iter().map(difference).collect(),
    })
}

fn role(import::ImportedRole { name, permissions }: import::ImportedRole) -> ImportedRole {
    let permissions = match permissions {
        RolePermissions::All => vec!["*".to_owned()],
        RolePermissions::Only(permissions) => permissions.into_iter().collect(),
    };
    ImportedRole { name, permissions }
}

fn difference(import::Difference { kind, role, permission }: import::Difference) -> ImportDifference {
    let kind = match kind {
        DifferenceKind::RoleMissing => "role_missing",
        DifferenceKind::RoleAdded => "role_added",
        DifferenceKind::PermissionMissing => "permission_missing",
        DifferenceKind::PermissionAdded => "permission_added",
        DifferenceKind::GrantMissing => "grant_missing",
        DifferenceKind::GrantAdded => "grant_added",
    };
    ImportDifference { kind, role, permission }
}

fn loaded(set: &OpaSet) -> LoadedSet {
    LoadedSet {
        generation: match set.generation {
            Generation::V0 => "v0",
            Generation::V1 => "v1",
        },
        form: set.grants.form(),
        decided_by: set.grants.decides().to_owned(),
        tests: set.tests.len(),
        failed_tests: set.tests.iter().filter_map(TestRun::fault).map(Place::from).collect(),
    }
}

fn opinion(files: &Files, cases: &Files, in_force: Files, gate: &Gate) -> Result<OracleAnswer, PolicyFault> {
    gate.read_cases(cases)?;
    let Golden { cases, expected } = Golden::read(cases)?;
    if cases.len() > CASES_MAX {
        let message = format!("there are {} cases; at most {CASES_MAX} are allowed", cases.len());
        return Err(PolicyFault { field: Some("cases".to_owned()), message, ..PolicyFault::default() });
    }
    let set = OpaSet::load(files, gate)?;
    let mut candidate = Candidate::new(in_force)?;
    let mut oracle = Oracle::new(&set);
    for filed in &cases {
        let evaluation = candidate.evaluate(&filed.case);
        oracle.note(&candidate.document, filed, &evaluation);
    }
    let OracleReport { rules, judged_cases, unjudged, chosen, unexpected, failures, stale } = oracle.ask(&expected)?;
    let answers = |oracle::RuleCount { cases, judged, agreed, chosen, unexpected, failed }| RuleAnswers {
        cases,
        judged,
        agreed,
        chosen,
        unexpected,
        failed,
    };
    let told = |oracle::Difference { file, case, rule, situation, policy, oracle, why, chosen }| OracleDifference {
        file,
        case,
        rule,
        situation,
        policy,
        oracle,
        why,
        chosen,
    };
    Ok(OracleAnswer {
        set: loaded(&set),
        rules: rules.into_iter().map(|(rule, count)| (rule, answers(count))).collect(),
        judged_cases,
        unjudged,
        chosen: chosen.into_iter().map(told).collect(),
        unexpected: unexpected.into_iter().map(told).collect(),
        failures,
        stale,
    })
}
