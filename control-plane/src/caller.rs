//! Who calls us: [`Caller`] on the admin API, [`Envoy`] on the data plane.

use crate::app::AppState;
use crate::drain::Draining;
use crate::keys;
use crate::metrics::Metrics;
use crate::problem::ApiError;
use crate::revocations::Revoked;
use authn::{Marks, PureRust, Unauthenticated};
use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::middleware::Next;
use axum::response::Response;
use decision_core::decision::{ApprovalNeed, Decision, Denial, DenyReason, Permit, RuleVerdict, Target};
use decision_core::facts::{Authentication, RequestFacts, Upgrade};
use decision_core::gateway::{Gateway, Method};
use decision_core::path::CanonicalPath;
use decision_core::policy::{CompiledPolicy, IssuerAcceptance};
use decision_core::principal::{CredentialFault, Identity, Principal};
use decision_core::time::Timestamp;
use sha2::{Digest, Sha256};
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use wire::bundle::LoadedBundle;
use wire::policy::PolicyDocument;

/// A person who may do what was asked: verified, and authorised by [`authorise`] before any handler runs.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Who it is, under the policy in force.
    pub principal: Arc<Principal>,
}

impl Caller {
    /// Our name for the issuer.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.principal.identity.issuer
    }

    /// The subject; a user is (issuer, subject).
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.principal.identity.subject
    }
}

impl FromRequestParts<AppState> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &AppState) -> Result<Self, ApiError> {
        // Absent only where a route was mounted outside the authorised router, which must never answer.
        parts.extensions.get::<Self>().cloned().ok_or(ApiError::CredentialMissing)
    }
}

/// A user of a gateway, or an operator, who may do what was asked: verified, and authorised by [`authorise_user`].
#[derive(Clone, Debug)]
pub struct User {
    /// Who it is, under the policy in force.
    pub principal: Arc<Principal>,
    /// Whether a governor has to have approved.
    pub approval: ApprovalNeed,
}

impl FromRequestParts<AppState> for User {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &AppState) -> Result<Self, ApiError> {
        // Absent only where a route was mounted outside the authorised router, which must never answer.
        parts.extensions.get::<Self>().cloned().ok_or(ApiError::CredentialMissing)
    }
}

/// Surrounds what gateways pass on to us with their users' own tokens. Where a request came in is not believed: it is decided
/// again, on each gateway that accepts the token, and counts if it might have come through one of them.
///
/// # Errors
/// Who it is cannot be told, or may not do this on any gateway.
pub async fn authorise_user(State(state): State<AppState>, mut request: Request, next: Next) -> Result<Response, ApiError> {
    let policy = state.policy();
    let admitted = admit_user(&policy.loaded, &state.revoked, request.headers(), request.method().as_str(), request.uri().path(), now());
    let admitted = admitted.map_err(ApiError::from);
    Metrics::count(&state.metrics.admin_requests, admitted.as_ref().map_or_else(ApiError::code, |_| "permit"));
    request.extensions_mut().insert(admitted?);
    Ok(next.run(request).await)
}

/// Decides whether these headers may do this on any gateway that accepts their token.
///
/// # Errors
/// Why not.
pub fn admit_user(
    bundle: &LoadedBundle,
    revoked: &Revoked,
    headers: &HeaderMap,
    method: &str,
    path: &str,
    now: Timestamp,
) -> Result<User, NotAdmitted> {
    let identity = identify(bundle, only_authorization(headers)?.as_bytes(), now)?;
    let accepts = |gateway: &Gateway| bundle.policy.accepts_issuer(&identity.issuer, *gateway) == IssuerAcceptance::Accepted;
    // The staff's gateways first: they say more exactly who may do it.
    let gateways: Vec<Gateway> = [Gateway::Admin, Gateway::Pp, Gateway::Plant, Gateway::Cp].into_iter().filter(accepts).collect();
    let mut refused = None;
    for gateway in gateways {
        match permit_on(bundle, revoked, identity.clone(), (gateway, method, path), now) {
            Ok((principal, approval)) => return Ok(User { principal: Arc::new(principal), approval }),
            Err(why) => refused = refused.or(Some(why)),
        }
    }
    Err(refused.unwrap_or(NotAdmitted::Refused(ApiError::CredentialRefused(CredentialFault::IssuerMismatch))))
}

/// Surrounds the admin API: nobody reaches a handler who is not verified and authorised by the policy in force.
///
/// # Errors
/// Who it is cannot be told, or may not do this.
pub async fn authorise(State(state): State<AppState>, mut request: Request, next: Next) -> Result<Response, ApiError> {
    let policy = state.policy();
    let admitted = admit(&policy.loaded, &state.revoked, request.headers(), request.method().as_str(), request.uri().path(), now());
    if let Err(NotAdmitted::KeyUnknown { issuer }) = &admitted {
        ask_for_keys(&state, &policy.document, issuer).await;
    }
    let admitted = admitted.map_err(ApiError::from);
    Metrics::count(&state.metrics.admin_requests, admitted.as_ref().map_or_else(ApiError::code, |_| "permit"));
    let caller = Caller { principal: Arc::new(admitted?) };
    request.extensions_mut().insert(caller);
    Ok(next.run(request).await)
}

/// Only of issuers whose tokens could open this API, and not for every call: nobody has been let in yet.
pub async fn ask_for_keys(state: &AppState, document: &PolicyDocument, issuer: &str) {
    let opens = document.issuers.iter().any(|known| known.name == issuer && known.gateways.contains(&wire::policy::Gateway::Admin));
    if opens && state.keys_asked.claim(issuer, Instant::now()) {
        keys::fetch::ask_for(state, &[issuer]).await;
    }
}

/// Why somebody is not let in.
#[derive(Debug)]
pub enum NotAdmitted {
    /// For good.
    Refused(ApiError),
    /// With the keys that are known; the issuer may have published another.
    KeyUnknown {
        /// Our name for the issuer.
        issuer: Box<str>,
    },
}

impl From<ApiError> for NotAdmitted {
    fn from(error: ApiError) -> Self {
        Self::Refused(error)
    }
}

impl From<NotAdmitted> for ApiError {
    fn from(refused: NotAdmitted) -> Self {
        match refused {
            NotAdmitted::Refused(error) => error,
            NotAdmitted::KeyUnknown { issuer: _ } => Self::CredentialRefused(CredentialFault::UnknownKey),
        }
    }
}

impl From<Unauthenticated> for NotAdmitted {
    fn from(cause: Unauthenticated) -> Self {
        match cause {
            Unauthenticated::Refused(fault) => Self::Refused(ApiError::CredentialRefused(fault)),
            Unauthenticated::KeysUnavailable => Self::Refused(ApiError::Unavailable { what: "tokens cannot be checked at the moment" }),
            Unauthenticated::KeyUnknown { issuer } => Self::KeyUnknown { issuer },
        }
    }
}

/// Decides whether these headers may do this on the admin API, by the code that filters decide with.
///
/// # Errors
/// Why not.
pub fn admit(
    bundle: &LoadedBundle,
    revoked: &Revoked,
    headers: &HeaderMap,
    method: &str,
    path: &str,
    now: Timestamp,
) -> Result<Principal, NotAdmitted> {
    let identity = identify(bundle, only_authorization(headers)?.as_bytes(), now)?;
    permit(bundle, revoked, identity, method, path, now)
}

/// Who presents this value of `Authorization`. Revocation is looked at when something is permitted, not here.
///
/// # Errors
/// Nobody can be told.
pub fn identify(bundle: &LoadedBundle, authorization: &[u8], now: Timestamp) -> Result<Identity, NotAdmitted> {
    Ok(authn::authenticate(&bundle.issuers, authorization, now, &mut PureRust)?)
}

/// Decides whether somebody whose token was verified may do this, and has not been revoked since.
///
/// # Errors
/// Why not.
pub fn permit(
    bundle: &LoadedBundle,
    revoked: &Revoked,
    identity: Identity,
    method: &str,
    path: &str,
    now: Timestamp,
) -> Result<Principal, NotAdmitted> {
    let (principal, approval) = permit_on(bundle, revoked, identity, (Gateway::Admin, method, path), now)?;
    match approval {
        ApprovalNeed::None => Ok(principal),
        // Nobody approves requests of the admin API.
        ApprovalNeed::Governor => Err(ApiError::Denied { reason: DenyReason::ApprovalRequired.code(), rule: None }.into()),
    }
}

fn permit_on(
    bundle: &LoadedBundle,
    revoked: &Revoked,
    identity: Identity,
    (gateway, method, path): (Gateway, &str, &str),
    now: Timestamp,
) -> Result<(Principal, ApprovalNeed), NotAdmitted> {
    if let Some(kind) = revoked.find(&Marks::of(&identity)) {
        return Err(ApiError::CredentialRefused(CredentialFault::Revoked(kind)).into());
    }
    let principal = bundle.policy.principal(identity).ok_or(ApiError::CredentialRefused(CredentialFault::NoKnownRole))?;
    // A path with two readings could be authorised in one and routed in the other.
    let canonical =
        CanonicalPath::parse(path.as_bytes()).map_err(|ambiguous| ApiError::invalid(format!("the path is ambiguous: {ambiguous}")))?;
    let method = Method::parse(method.as_bytes()).ok_or(ApiError::MethodNotAllowed)?;
    let route = bundle.policy.route(gateway, method, canonical.path());
    let authentication = Authentication::Verified(&principal);
    let facts = RequestFacts { gateway, method, route, authentication, upgrade: Upgrade::None };
    let permit = match decision_core::decide(&bundle.policy, &facts, now) {
        Decision::Permit(permit) => Ok(permit),
        Decision::Deny(denial) => Err(denial),
        // The compiler of policies refuses custom rules on ADMIN. Those of another gateway are judged there.
        Decision::Conditional(conditional) => {
            let verdict = if gateway == Gateway::Admin { RuleVerdict::Deny } else { RuleVerdict::Allow { target: None } };
            conditional.ruled(verdict, &mut ())
        }
    };
    let permit = permit.map_err(|denial| refusal(&bundle.policy, denial))?;
    let approval = approval_need(&bundle.policy, &permit)?;
    Ok((principal, approval))
}

/// There is no sandbox here: what needs one is refused.
fn approval_need(policy: &CompiledPolicy, permit: &Permit) -> Result<ApprovalNeed, ApiError> {
    match permit.target() {
        Target::Production => Ok(permit.approval()),
        Target::Sandbox => {
            let rule = policy.route_by_id(permit.route()).map(|route| route.name.to_string());
            Err(ApiError::Denied { reason: DenyReason::TrialRestricted.code(), rule })
        }
    }
}

fn refusal(policy: &CompiledPolicy, denial: Denial) -> ApiError {
    match denial.reason {
        DenyReason::CredentialMissing => ApiError::CredentialMissing,
        DenyReason::CredentialRefused(fault) => ApiError::CredentialRefused(fault),
        // A path of ours that the policy does not list is closed to everybody: 403, since its existence is no secret.
        reason @ (DenyReason::NoRoute
        | DenyReason::FeatureDisabled
        | DenyReason::UpgradeRefused
        | DenyReason::OwnerMissing
        | DenyReason::BodyNotObject
        | DenyReason::BodyKeyRepeated
        | DenyReason::BodyTooLarge
        | DenyReason::RuleRefused
        | DenyReason::AmbiguousPath(_)
        | DenyReason::AmbiguousHeader(_)
        | DenyReason::RegistrationKeyRefused
        | DenyReason::PermissionMissing
        | DenyReason::TrialExpired
        | DenyReason::TrialRestricted
        | DenyReason::ApprovalHeader(_)
        | DenyReason::ApprovalRequired
        | DenyReason::ApprovalRefused
        | DenyReason::ApprovalBodyTooLarge
        | DenyReason::AuditedBodyTooLarge
        | DenyReason::ClientLimited(_)
        | DenyReason::MeteredBody
        | DenyReason::MeteredBodyTooLarge
        | DenyReason::OutputUnlimited
        | DenyReason::CostUnbounded(_)
        | DenyReason::ModelUnpriced
        | DenyReason::BudgetSpent(_)
        | DenyReason::BudgetUnscoped(_)) => {
            let rule = denial.route.and_then(|id| policy.route_by_id(id)).map(|route| route.name.to_string());
            ApiError::Denied { reason: reason.code(), rule }
        }
    }
}

/// The time of day, for decisions.
#[must_use]
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

/// An Envoy, identified by its data-plane token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envoy {
    /// Its id; every holder and record of this connection belongs to it.
    pub envoy_id: String,
    /// Whether it was about to stop when it called.
    pub draining: Draining,
    /// Lets a long poll ask again whether the token is still good.
    token_sha256: [u8; 32],
}

impl Envoy {
    /// Asks the database who presents this token. The digest is looked up whole: neither the index nor the comparison
    /// sees the token, so timing tells nothing about it.
    pub async fn identify(database: &sqlx::PgPool, token_sha256: [u8; 32]) -> Result<Self, ApiError> {
        let row: Option<(String, Option<i64>)> = sqlx::query_as(
            "SELECT envoy_id, (extract(epoch FROM draining_until - now()) * 1000)::bigint FROM envoys \
             WHERE token_sha256 = $1 AND revoked_at IS NULL",
        )
        .bind(token_sha256.as_slice())
        .fetch_optional(database)
        .await?;
        row.map(|(envoy_id, left_ms)| Self { envoy_id, draining: Draining::of(left_ms), token_sha256 }).ok_or(ApiError::EnvoyUnknown)
    }

    /// Refuses when the token was revoked since. Answers whether the Envoy is about to stop by now.
    pub async fn recheck(&self, database: &sqlx::PgPool) -> Result<Draining, ApiError> {
        Self::identify(database, self.token_sha256).await.map(|now| now.draining)
    }
}

impl FromRequestParts<AppState> for Envoy {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, ApiError> {
        let authorization = only_authorization(&parts.headers)?;
        let token = authn::bearer(authorization.as_bytes()).map_err(ApiError::CredentialRefused)?;
        Self::identify(&state.database, Sha256::digest(token).into()).await
    }
}

/// The one `Authorization` header. A repeated one is refused: which of them counts is anybody's guess.
///
/// # Errors
/// There is none, or more than one.
pub fn only_authorization(headers: &HeaderMap) -> Result<&HeaderValue, ApiError> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    match (values.next(), values.next()) {
        (None, _) => Err(ApiError::CredentialMissing),
        (Some(value), None) => Ok(value),
        (Some(_), Some(_)) => Err(ApiError::CredentialRefused(CredentialFault::NotBearer)),
    }
}
