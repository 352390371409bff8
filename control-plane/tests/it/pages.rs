//! The pages of approvals, as a browser without scripts sees them.

use crate::plane;
use crate::plane::{Holder, state, token};
use axum::body::Body;
use axum::http::{HeaderMap, Request, header};
use control_plane::admin_events::Actor;
use control_plane::app::{AppState, admin_app};
use control_plane::revocations::{self, Kind, Wanted};
use http_body_util::BodyExt as _;
use sqlx::PgPool;
use std::sync::Arc;
use tower::ServiceExt as _;
use uuid::Uuid;
use wire::policy::Approvals;

const ORIGIN: &str = "https://admin.test";

struct Page {
    status: u16,
    headers: HeaderMap,
    text: String,
}

impl Page {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The key of the page's forms.
    fn form_key(&self) -> String {
        let (_, rest) = self.text.split_once("name=\"form_key\" value=\"").unwrap_or_else(|| panic!("no form: {}", self.text));
        rest.split('"').next().unwrap().to_owned()
    }
}

/// A browser: keeps the cookie, follows nothing by itself.
struct Browser {
    state: AppState,
    cookie: String,
    origin: Option<&'static str>,
    accept: &'static str,
}

impl Browser {
    fn new(state: &AppState) -> Self {
        Self { state: state.clone(), cookie: String::new(), origin: Some(ORIGIN), accept: "text/html,*/*;q=0.8" }
    }

    async fn send(&mut self, request: axum::http::request::Builder, body: String) -> Page {
        let mut request = request.header(header::ACCEPT, self.accept);
        if !self.cookie.is_empty() {
            request = request.header(header::COOKIE, &self.cookie);
        }
        let response = admin_app(self.state.clone()).oneshot(request.body(Body::from(body)).unwrap()).await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        if let Some(cookie) = headers.get(header::SET_COOKIE) {
            self.cookie = cookie.to_str().unwrap().split(';').next().unwrap().to_owned();
        }
        let text = String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap();
        Page { status, headers, text }
    }

    async fn get(&mut self, path: &str) -> Page {
        self.send(Request::get(path), String::new()).await
    }

    async fn post(&mut self, path: &str, fields: &[(&str, &str)]) -> Page {
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        form.extend_pairs(fields);
        let mut request = Request::post(path).header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        if let Some(origin) = self.origin {
            request = request.header(header::ORIGIN, origin);
        }
        self.send(request, form.finish()).await
    }

    async fn sign_in(&mut self, token: &str, next: &str) -> Page {
        self.post("/sign-in", &[("token", token), ("next", next)]).await
    }
}

async fn waiting(state: &AppState, subject: &str, path: &str) -> String {
    let mut holder = Holder::new(state).await;
    let mut request = holder.request(vec![]);
    request.approvals = vec![plane::ask(subject, path, "force=\"1\"&x=<script>")];
    let answer = holder.send(&request).await.unwrap();
    match answer.approvals.first().map(|answer| &answer.outcome) {
        Some(wire::sync::ApprovalOutcome::Pending { approval_id, .. }) => approval_id.clone(),
        other @ (Some(wire::sync::ApprovalOutcome::Granted | wire::sync::ApprovalOutcome::Refused(_)) | None) => unreachable!("{other:?}"),
    }
}

async fn status_of(pool: &PgPool, id: &str) -> String {
    let (status,): (String,) =
        sqlx::query_as("SELECT status FROM approvals WHERE id = $1").bind(Uuid::try_parse(id).unwrap()).fetch_one(pool).await.unwrap();
    status
}

#[sqlx::test(migrations = "../migrations")]
async fn a_governor_signs_in_reads_and_decides(pool: PgPool) {
    let state = state(&pool, 100).await;
    let id = waiting(&state, "ada", "/<b>&'x'").await;
    let path = format!("/approvals/{id}");
    let mut browser = Browser::new(&state);
    let asked = browser.get(&path).await;
    assert_eq!((asked.status, asked.header("location")), (303, &*format!("/sign-in?next={path}")), "{}", asked.text);
    let form = browser.get(asked.header("location")).await;
    assert!(form.status == 200 && form.text.contains(&format!("value=\"{path}\"")), "{}", form.text);
    let wrong = browser.sign_in("not-a-token", &path).await;
    assert_eq!((wrong.status, wrong.header("set-cookie")), (401, ""));
    assert!(wrong.text.contains("The token was not accepted") && !wrong.text.contains("not-a-token"), "{}", wrong.text);
    let signed_in = browser.sign_in(&token("grace", "admin", true), &path).await;
    assert_eq!((signed_in.status, signed_in.header("location")), (303, &*path));
    let cookie = signed_in.header("set-cookie");
    assert!(cookie.starts_with("__Host-plant-session=") && cookie.contains("HttpOnly; SameSite=Strict; Secure"), "{cookie}");

    let page = browser.get(&path).await;
    assert_eq!(page.status, 200, "{}", page.text);
    for (part, there) in [
        ("/&#60;b&#62;&#38;&#39;x&#39;", true),
        ("x=&#60;script&#62;", true),
        ("<b>", false),
        ("<script", false),
        ("grace at ops", true),
        ("0303030303", true),
        ("agents.delete", true),
        ("1 of 1 still to approve", true),
        ("<dd id=\"user-id\">id-of-ada</dd>", true),
        ("<dd id=\"customer\">customer-1</dd>", true),
        ("<dd id=\"agent\">agent-1</dd>", true),
        ("<dd id=\"target\">production</dd>", true),
        ("<code>application/json</code>", true),
        ("12 bytes", true),
    ] {
        assert_eq!(page.text.contains(part), there, "{part} in {}", page.text);
    }
    for (name, want) in [
        ("content-security-policy", "default-src 'none'; style-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"),
        ("cache-control", "no-store"),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "same-origin"),
    ] {
        assert_eq!(page.header(name), want);
    }
    // A site beside this one may set a cookie, but under no name with the prefix, and no second one unnoticed.
    let ours = browser.cookie.clone();
    for (tossed, status) in [
        (format!("plant-session={}; {ours}", "a".repeat(64)), 200),
        (ours.replace("__Host-", ""), 303),
        (format!("__Host-plant-session={}; {ours}", "a".repeat(64)), 303),
    ] {
        browser.cookie = tossed.clone();
        assert_eq!(browser.get(&path).await.status, status, "{tossed}");
    }
    browser.cookie = ours;
    let key = page.form_key();
    let empty = browser.post(&format!("{path}/decision"), &[("form_key", &key), ("decision", "approve"), ("reason", " ")]).await;
    assert!(empty.status == 400 && empty.text.contains("Not done"), "{}", empty.text);
    let done =
        browser.post(&format!("{path}/decision"), &[("form_key", &key), ("decision", "approve"), ("reason", "I <i>looked</i>")]).await;
    assert_eq!((done.status, done.header("location")), (303, &*format!("{path}?done=approve")), "{}", done.text);
    assert_eq!(status_of(&pool, &id).await, "approved");
    let after = browser.get(done.header("location")).await;
    assert!(after.text.contains("You approved the request") && after.text.contains("I &#60;i&#62;looked"), "{}", after.text);
    assert!(after.text.contains("nothing to decide any more") && !after.text.contains("name=\"reason\""), "{}", after.text);
    let again = browser.post(&format!("{path}/decision"), &[("form_key", &key), ("decision", "reject"), ("reason", "late")]).await;
    assert!(again.status == 409 && again.text.contains("the approval is not pending"), "{}", again.text);
}

#[sqlx::test(migrations = "../migrations")]
async fn forms_of_other_sites_do_nothing(pool: PgPool) {
    let state = state(&pool, 100).await;
    let id = waiting(&state, "ada", "/a").await;
    let path = format!("/approvals/{id}");
    let mut browser = Browser::new(&state);
    browser.sign_in(&token("grace", "admin", true), &path).await;
    let key = browser.get(&path).await.form_key();
    let mut stranger = Browser::new(&state);
    stranger.sign_in(&token("ann", "admin", true), &path).await;
    let of_another = stranger.get(&path).await.form_key();
    assert_ne!(key, of_another);
    for (origin, form_key) in
        [(Some("https://evil.test"), &*key), (Some("null"), &key), (None, &key), (Some(ORIGIN), ""), (Some(ORIGIN), &of_another)]
    {
        browser.origin = origin;
        let refused = browser.post(&format!("{path}/decision"), &[("form_key", form_key), ("decision", "approve"), ("reason", "x")]).await;
        assert_eq!(refused.status, 403, "{origin:?}");
        assert!(refused.text.contains("PUBLIC_URL"), "{}", refused.text);
        assert_eq!(browser.post("/sign-out", &[("form_key", form_key)]).await.status, 403);
    }
    assert_eq!(status_of(&pool, &id).await, "pending");
    let mut lured = Browser::new(&state);
    lured.origin = Some("https://evil.test");
    assert_eq!(lured.sign_in(&token("grace", "admin", true), &path).await.status, 403, "nor can another site sign somebody in");
    for (next, to) in [("https://evil.test/", "/approvals"), ("//evil.test", "/approvals"), (&*path, &*path)] {
        assert_eq!(Browser::new(&state).sign_in(&token("grace", "admin", true), next).await.header("location"), to);
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn who_may_not_decide_is_told_so_and_cannot(pool: PgPool) {
    let state = state(&pool, 100).await;
    let id = waiting(&state, "ada", "/a").await;
    let path = format!("/approvals/{id}");
    for (bearer, why) in [
        (token("grace", "admin", false), "you are no governor"),
        (token("vera", "viewer", false), "you are no governor"),
        (token("ada", "admin", true), "it is your own request"),
    ] {
        let mut browser = Browser::new(&state);
        browser.sign_in(&bearer, &path).await;
        let page = browser.get(&path).await;
        assert!(page.text.contains("You are signed in as a@b.test") && page.text.contains(why), "{}", page.text);
        assert!(!page.text.contains("name=\"decision\""));
        let fields = [("form_key", &*page.form_key()), ("decision", "approve"), ("reason", "x")];
        assert_eq!(browser.post(&format!("{path}/decision"), &fields).await.status, 403);
    }
    assert_eq!(status_of(&pool, &id).await, "pending");
    let mut nobody = Browser::new(&state);
    let refused = nobody.sign_in(&token("mallory", "nothing", true), &path).await;
    assert!((refused.status == 401 || refused.status == 403) && refused.header("set-cookie").is_empty(), "{}", refused.text);
}

#[sqlx::test(migrations = "../migrations")]
async fn two_governors_decide_on_the_page(pool: PgPool) {
    let state = state(&pool, 100).await;
    let mut policy = plane::policy(100);
    policy.document.approvals = Some(Approvals { approvers: 2, ..Approvals::default() });
    state.active.send_replace(Arc::new(policy));
    let id = waiting(&state, "ada", "/a").await;
    let path = format!("/approvals/{id}");
    for (name, told) in [("grace", "Another governor has to approve too"), ("ann", "You approved the request")] {
        let mut browser = Browser::new(&state);
        browser.sign_in(&token(name, "admin", true), &path).await;
        let key = browser.get(&path).await.form_key();
        let done = browser.post(&format!("{path}/decision"), &[("form_key", &key), ("decision", "approve"), ("reason", "fine")]).await;
        let page = browser.get(done.header("location")).await;
        assert!(page.text.contains(told), "{}", page.text);
        if name == "grace" {
            assert!(page.text.contains("another governor has to") && page.text.contains("1 of 2 still"), "{}", page.text);
        }
    }
    assert_eq!(status_of(&pool, &id).await, "approved");
}

#[sqlx::test(migrations = "../migrations")]
async fn a_session_ends_with_sign_out_expiry_revocation_and_the_key(pool: PgPool) {
    let state = state(&pool, 100).await;
    let mut browser = Browser::new(&state);
    let governor = token("grace", "admin", true);
    browser.sign_in(&governor, "").await;
    let list = browser.get("/approvals").await;
    assert!(list.status == 200 && list.text.contains("Nothing waits"), "{}", list.text);
    let stored: Vec<(String,)> = sqlx::query_as("SELECT s::text FROM page_sessions s").fetch_all(&pool).await.unwrap();
    let secret = browser.cookie.split_once('=').unwrap().1.to_owned();
    assert!(stored.len() == 1 && stored.iter().all(|(row,)| !row.contains(&secret) && !row.contains(&governor)), "{stored:?}");

    let kept = browser.cookie.clone();
    assert_eq!(browser.post("/sign-out", &[("form_key", &list.form_key())]).await.header("location"), "/sign-in");
    browser.cookie.clone_from(&kept);
    assert_eq!(browser.get("/approvals").await.status, 303, "the cookie opens nothing any more");

    browser.sign_in(&governor, "").await;
    sqlx::query("UPDATE page_sessions SET expires_at = now()").execute(&pool).await.unwrap();
    assert_eq!(browser.get("/approvals").await.status, 303);
    control_plane::pages::session::forget(&pool).await.unwrap();
    let (left,): (i64,) = sqlx::query_as("SELECT count(*) FROM page_sessions").fetch_one(&pool).await.unwrap();
    assert_eq!(left, 0);

    browser.sign_in(&governor, "").await;
    sqlx::query("UPDATE page_sessions SET identity = jsonb_set(identity, '{key_id}', '\"k0\"')").execute(&pool).await.unwrap();
    assert_eq!(browser.get("/approvals").await.status, 303, "a key that is gone vouches for nobody");

    browser.sign_in(&governor, "").await;
    assert_eq!(browser.get("/approvals").await.status, 200);
    let customer = Wanted { kind: Kind::Customer, issuer: String::new(), value: "c1".into(), bound: 0, expires_at: None };
    let mut transaction = pool.begin().await.unwrap();
    revocations::store::revoke(&mut transaction, &[customer], Actor::CONTROL_PLANE, "a test").await.unwrap();
    transaction.commit().await.unwrap();
    revocations::follow::refresh(&state).await.unwrap();
    assert_eq!(browser.get("/approvals").await.status, 303, "nobody signs in again with it either");
    assert_eq!(browser.sign_in(&governor, "").await.status, 401);
}

#[sqlx::test(migrations = "../migrations")]
async fn programs_get_problem_details_and_a_proxy_may_vouch(pool: PgPool) {
    let state = state(&pool, 100).await;
    let id = waiting(&state, "ada", "/a").await;
    let path = format!("/approvals/{id}");
    let mut program = Browser { accept: "*/*", ..Browser::new(&state) };
    let refused = program.get(&path).await;
    assert_eq!((refused.status, refused.header("content-type")), (401, "application/problem+json"));
    let vouched = |method: &str, path: &str, bearer: &str| {
        Request::builder()
            .method(method)
            .uri(path)
            .header(header::AUTHORIZATION, format!("Bearer {bearer}"))
            .header(header::ORIGIN, ORIGIN)
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
    };
    let mut browser = Browser::new(&state);
    let governor = token("grace", "admin", true);
    let page = browser.send(vouched("GET", &path, &governor), String::new()).await;
    assert_eq!((page.status, page.header("set-cookie")), (200, ""));
    let body = format!("form_key={}&decision=reject&reason=no", page.form_key());
    assert_eq!(browser.send(vouched("POST", &format!("{path}/decision"), &governor), body).await.status, 303);
    assert_eq!(status_of(&pool, &id).await, "rejected");
    let bad = browser.send(vouched("GET", &path, "nonsense"), String::new()).await;
    assert!(bad.status == 401 && bad.text.contains("<h1>"), "a proxy's bad token is shown, not answered with a way in: {}", bad.text);
    for missing in ["/approvals/nonsense", &format!("/approvals/{}", Uuid::nil())] {
        let page = browser.send(vouched("GET", missing, &governor), String::new()).await;
        assert!(page.status == 404 && page.text.contains("<h1>Not Found"), "{}", page.text);
    }
    let style = browser.get("/assets/page.css").await;
    assert_eq!((style.status, style.header("content-type")), (200, "text/css; charset=utf-8"));
    let malformed = browser.send(vouched("POST", &format!("{path}/decision"), &governor), "decision=maybe&token=abc".to_owned()).await;
    assert!(malformed.status == 400 && !malformed.text.contains("maybe"), "{}", malformed.text);
}
