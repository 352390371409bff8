//! What pages show. Templates are compiled in, and escape every value.

use super::viewer::Viewer;
use crate::approvals::store::Approval;
use crate::problem::{ApiError, Problem};
use askama::Template;
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Response};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Who is signed in, as the top of a page says it.
#[derive(Clone, Debug)]
pub struct Signed {
    /// For people.
    pub name: String,
    /// For forms.
    pub form_key: String,
}

impl Signed {
    /// The viewer's.
    #[must_use]
    pub fn of(viewer: &Viewer) -> Self {
        let identity = &viewer.principal.identity;
        let name = format!("{} ({} at {})", identity.email, identity.subject, identity.issuer);
        Self { name, form_key: viewer.form_key.clone() }
    }
}

/// The pending requests.
#[derive(Clone, Debug, Template)]
#[template(path = "approvals.html")]
pub struct ListPage<'a> {
    /// Who is signed in.
    pub viewer: Option<Signed>,
    /// What waits, newest first.
    pub approvals: &'a [Approval],
}

/// One request.
#[derive(Clone, Debug, Template)]
#[template(path = "approval.html")]
pub struct ApprovalPage<'a> {
    /// Who is signed in.
    pub viewer: Option<Signed>,
    /// The request.
    pub approval: &'a Approval,
    /// Why there is no form.
    pub closed: Option<&'static str>,
    /// What was just done.
    pub done: Option<&'static str>,
    /// Why it was not done.
    pub error: Option<String>,
    /// The reason as it was written.
    pub reason: String,
}

/// The form to sign in.
#[derive(Clone, Debug, Template)]
#[template(path = "sign_in.html")]
pub struct SignInPage {
    /// Nobody.
    pub viewer: Option<Signed>,
    /// Where to go afterwards; one of our own paths.
    pub next: String,
    /// Why the last try failed.
    pub error: Option<String>,
}

/// A failure.
#[derive(Clone, Debug, Template)]
#[template(path = "error.html")]
pub struct ErrorPage<'a> {
    /// Nobody: who it is may be what failed.
    pub viewer: Option<Signed>,
    /// What the API would say.
    pub problem: &'a Problem,
    /// The same for people, if there is more to say.
    pub explained: Option<&'static str>,
}

/// A rendered page.
#[must_use]
pub fn page(status: StatusCode, template: &impl Template) -> Response {
    match template.render() {
        Ok(text) => (status, Html(text)).into_response(),
        Err(error) => ApiError::internal("a page", error).into_response(),
    }
}

/// To the second, in UTC.
fn moment(at: &OffsetDateTime) -> String {
    at.replace_nanosecond(0).unwrap_or(*at).format(&Rfc3339).unwrap_or_default()
}
