//! What a person sees of a failure: the same problem as on the API, as a page; and the way to sign in for who is not.

use super::sign_in::way_in;
use super::views::{ErrorPage, page};
use crate::problem::Problem;
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Redirect, Response};

/// Turns problem details into pages where the client would rather have one.
pub async fn for_people(request: Request, next: Next) -> Response {
    let person = wants_page(request.headers());
    let vouched = request.headers().contains_key(header::AUTHORIZATION);
    let path = request.uri().path().to_owned();
    let response = next.run(request).await;
    let Some(problem) = response.extensions().get::<Problem>().filter(|_| person) else { return response };
    let status = response.status();
    // Who comes with a token of a proxy's cannot help a bad one by signing in.
    if status == StatusCode::UNAUTHORIZED && !vouched {
        return Redirect::to(&way_in(&path)).into_response();
    }
    page(status, &ErrorPage { viewer: None, problem, explained: explained(&problem.detail) })
}

/// Browsers name `text/html` first; programs that ask for anything get problem details.
fn wants_page(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepted.flat_map(|value| value.split(',')).any(|range| range.split(';').next().is_some_and(|kind| kind.trim() == "text/html"))
}

/// What the coded reasons mean to a person.
fn explained(detail: &str) -> Option<&'static str> {
    match detail {
        "cross_site_form" => Some(
            "The form did not come from this page, or the page was opened under another address than the control plane's setting \
             PUBLIC_URL. Open the link that you were sent again.",
        ),
        "governor_required" => Some("Only governors decide: the policy's governor role, and a governor_agent_id in the token."),
        "own_request" => Some("Nobody decides on an own request."),
        "permission_missing" => Some("Your roles do not permit this."),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn only_who_names_html_gets_pages() {
        for (accept, expected) in [
            ("text/html,application/xhtml+xml,*/*;q=0.8", true),
            ("application/json, text/html;q=0.5", true),
            ("*/*", false),
            ("application/json", false),
        ] {
            let headers = HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(accept))]);
            assert_eq!(wants_page(&headers), expected, "{accept}");
        }
        assert!(!wants_page(&HeaderMap::new()));
    }
}
