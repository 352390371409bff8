//! Load: many connections that each send the same request again and again, and note what came back and when.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};

use crate::http::{Ask, Client};

/// One answer, or its absence.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// When the request was sent.
    pub sent: Instant,
    /// When the answer was complete.
    pub done: Instant,
    /// The status; absent when the exchange broke.
    pub status: Option<u16>,
}

/// Who sends what, how often and until when.
#[derive(Clone, Debug)]
pub struct Load {
    /// The server.
    pub url: String,
    /// What every connection sends.
    pub ask: Ask,
    /// How many connections.
    pub connections: usize,
    /// Time from one request of a connection to its next.
    pub pace: Duration,
    /// A connection ends with this status.
    pub until: Option<u16>,
    /// A connection ends after so many requests.
    pub requests_max: usize,
}

impl Load {
    /// As fast as it goes, on so many connections.
    #[must_use]
    pub fn new(url: &str, ask: Ask, connections: usize) -> Self {
        Self { url: url.to_owned(), ask, connections, pace: Duration::ZERO, until: None, requests_max: usize::MAX }
    }

    /// Starts it. It runs until every connection has ended by itself, or `stop` is called.
    #[must_use]
    pub fn start(self) -> Running {
        let (stop, stopped) = watch::channel(false);
        let mut connections = JoinSet::new();
        for _ in 0..self.connections {
            connections.spawn(connection(self.clone(), stopped.clone()));
        }
        Running { connections, stop }
    }
}

async fn connection(load: Load, stopped: watch::Receiver<bool>) -> Vec<Sample> {
    let mut client = Client::new(&load.url);
    let mut samples = Vec::new();
    while samples.len() < load.requests_max && !*stopped.borrow() {
        let sent = Instant::now();
        let answer = client.send(&load.ask).await;
        let status = answer.as_ref().ok().map(|answer| answer.status);
        samples.push(Sample { sent, done: Instant::now(), status });
        if status.is_some() && status == load.until {
            break;
        }
        if status.is_none() {
            // Whoever refuses connections is not asked a thousand times a second.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        tokio::time::sleep_until((sent + load.pace).into()).await;
    }
    samples
}

/// Load that is being sent.
#[derive(Debug)]
pub struct Running {
    connections: JoinSet<Vec<Sample>>,
    stop: watch::Sender<bool>,
}

impl Running {
    /// Waits until every connection has ended by itself.
    ///
    /// # Errors
    /// When a connection panicked.
    pub async fn finished(mut self) -> Result<Samples, JoinError> {
        let mut samples = Vec::new();
        while let Some(connection) = self.connections.join_next().await {
            samples.extend(connection?);
        }
        Ok(Samples(samples))
    }

    /// Ends every connection after the request that it is at.
    ///
    /// # Errors
    /// When a connection panicked.
    pub async fn stop(self) -> Result<Samples, JoinError> {
        let _all_ended = self.stop.send(true);
        self.finished().await
    }
}

/// All that came back.
#[derive(Clone, Debug, Default)]
pub struct Samples(pub Vec<Sample>);

impl Samples {
    /// How many had no answer.
    #[must_use]
    pub fn broken(&self) -> usize {
        self.0.iter().filter(|sample| sample.status.is_none()).count()
    }

    /// How many had this status.
    #[must_use]
    pub fn with(&self, status: u16) -> usize {
        self.0.iter().filter(|sample| sample.status == Some(status)).count()
    }

    /// How many there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The time that this share of the exchanges (0.99: all but a hundredth) took at most.
    #[must_use]
    pub fn percentile(&self, share: f64) -> Duration {
        let mut times: Vec<Duration> = self.0.iter().map(|sample| sample.done - sample.sent).collect();
        times.sort_unstable();
        let last = times.len().saturating_sub(1);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a place in a list")]
        let place = (last as f64 * share.clamp(0.0, 1.0)).round() as usize;
        times.get(place).copied().unwrap_or_default()
    }

    /// Those that were sent between two moments.
    #[must_use]
    pub fn between(&self, from: Instant, to: Instant) -> Self {
        Self(self.0.iter().copied().filter(|sample| (from..to).contains(&sample.sent)).collect())
    }

    /// How many of each status, as text for people; `-` are exchanges that broke.
    #[must_use]
    pub fn summary(&self) -> String {
        let mut counts = BTreeMap::<Option<u16>, usize>::new();
        for sample in &self.0 {
            *counts.entry(sample.status).or_default() += 1;
        }
        let name = |status: Option<u16>| status.map_or_else(|| "-".to_owned(), |status| status.to_string());
        let parts: Vec<String> = counts.into_iter().map(|(status, count)| format!("{count} × {}", name(status))).collect();
        parts.join(", ")
    }
}

/// How many requests a stack's backends have seen under each name: those with the header `x-echo-tally`.
///
/// # Errors
/// When the backend does not say.
pub async fn backend_tally(url: &str) -> Result<BTreeMap<String, u64>, crate::http::HttpError> {
    let answer = Client::new(url).send(&Ask::get("/__echo/tally")).await?;
    Ok(serde_json::from_slice(&answer.body).unwrap_or_default())
}

/// How many requests a stack's backends have seen.
///
/// # Errors
/// When the backend does not say.
pub async fn backend_count(url: &str) -> Result<u64, crate::http::HttpError> {
    let answer = Client::new(url).send(&Ask::get("/__echo/count")).await?;
    Ok(answer.text().trim().parse().unwrap_or_default())
}
