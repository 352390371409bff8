//! What Envoy and the control plane tell about themselves.

use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::header::AUTHORIZATION;
use hyper::{Request, StatusCode};
use serde::{Deserialize, Serialize};

use crate::error::{BenchError, LoadError};
use crate::load::connect;

/// Counters of our filter, since Envoy started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct FilterCounters {
    pub(crate) sync_calls: u64,
    pub(crate) sync_failures: u64,
    pub(crate) requests_held: u64,
    pub(crate) records_dropped: u64,
    pub(crate) tokens_verified: u64,
}

impl FilterCounters {
    pub(crate) async fn of(envoy_admin: u16) -> Result<Self, BenchError> {
        let text = ask("envoy", envoy_admin, "/stats/prometheus?filter=gateway", None).await?;
        Ok(Self {
            sync_calls: sum(&text, "gateway_sync_calls_total"),
            sync_failures: sum(&text, "gateway_sync_failures_total"),
            requests_held: sum(&text, "gateway_requests_held_total"),
            records_dropped: sum(&text, "gateway_audit_records_dropped_total"),
            tokens_verified: sum(&text, "gateway_tokens_verified_total"),
        })
    }

    /// Both together.
    pub(crate) const fn plus(self, other: Self) -> Self {
        Self {
            sync_calls: self.sync_calls.saturating_add(other.sync_calls),
            sync_failures: self.sync_failures.saturating_add(other.sync_failures),
            requests_held: self.requests_held.saturating_add(other.requests_held),
            records_dropped: self.records_dropped.saturating_add(other.records_dropped),
            tokens_verified: self.tokens_verified.saturating_add(other.tokens_verified),
        }
    }

    /// What was counted since then.
    pub(crate) const fn since(self, earlier: Self) -> Self {
        Self {
            sync_calls: self.sync_calls.saturating_sub(earlier.sync_calls),
            sync_failures: self.sync_failures.saturating_sub(earlier.sync_failures),
            requests_held: self.requests_held.saturating_sub(earlier.requests_held),
            records_dropped: self.records_dropped.saturating_sub(earlier.records_dropped),
            tokens_verified: self.tokens_verified.saturating_sub(earlier.tokens_verified),
        }
    }
}

/// Envoy's version.
pub(crate) async fn envoy_version(envoy_admin: u16) -> Result<String, BenchError> {
    #[derive(Deserialize)]
    struct ServerInfo {
        version: String,
    }
    let text = ask("envoy", envoy_admin, "/server_info", None).await?;
    let info: ServerInfo = serde_json::from_str(&text).map_err(|_error| BenchError::Answer { what: "envoy", answer: text })?;
    // commit/version/state/type/tls
    Ok(info.version.split('/').nth(1).unwrap_or(&info.version).to_owned())
}

/// How many audit records the control plane has stored since it started.
pub(crate) async fn records_stored(control_plane_admin: u16) -> Result<u64, BenchError> {
    let text = ask("the control plane", control_plane_admin, "/metrics", None).await?;
    Ok(sum(&text, "gateway_control_plane_audit_records_stored_total"))
}

/// How many audit records there are of one user.
pub(crate) async fn records_of(control_plane_admin: u16, token: &str, user: &str) -> Result<u64, BenchError> {
    #[derive(Deserialize)]
    struct Count {
        count: u64,
    }
    let path = format!("/admin/v1/audit/count?user={user}");
    let text = ask("the control plane", control_plane_admin, &path, Some(token)).await?;
    let count: Count = serde_json::from_str(&text).map_err(|_error| BenchError::Answer { what: "the control plane", answer: text })?;
    Ok(count.count)
}

async fn ask(what: &'static str, port: u16, path: &str, token: Option<&str>) -> Result<String, BenchError> {
    let (status, body) = exchange(port, path, token).await.map_err(|source| BenchError::Ask { what, source })?;
    if status == StatusCode::OK { Ok(body) } else { Err(BenchError::Answer { what, answer: format!("{status} {body}") }) }
}

async fn exchange(port: u16, path: &str, token: Option<&str>) -> Result<(StatusCode, String), LoadError> {
    let mut sender = connect(port).await?;
    let request = Request::builder().uri(path).header("host", "127.0.0.1");
    let request = match token {
        Some(token) => request.header(AUTHORIZATION, format!("Bearer {token}")),
        None => request,
    };
    let response = sender.send_request(request.body(Empty::<Bytes>::new())?).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

/// Sums all series of a metric in the text format of Prometheus. A counter that never counted is not listed: 0.
fn sum(text: &str, name: &str) -> u64 {
    let value = |line: &str| {
        let rest = line.strip_prefix(name)?;
        let rest = if rest.starts_with('{') { rest.rsplit_once('}')?.1 } else { rest };
        rest.strip_prefix(' ')?.trim().parse::<u64>().ok()
    };
    text.lines().filter_map(value).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_the_series_of_one_metric() {
        let text = "# TYPE a_total counter\na_total{x=\"1 2\"} 3\na_total{x=\"}\"} 4\na_total_more 9\nb_total 5\n";
        assert_eq!((sum(text, "a_total"), sum(text, "b_total"), sum(text, "c_total")), (7, 5, 0));
    }
}
