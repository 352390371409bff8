//! The metrics that a stack has, from what it answers to a scrape.

use std::collections::{BTreeMap, BTreeSet};

use cli::stack::State;
use e2e::http::{Ask, Client};

/// Metrics by name; of each its labels with the values that were seen.
pub(crate) type Metrics = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

/// What Prometheus itself adds.
pub(crate) fn prometheus() -> Metrics {
    let labels = |labels: &[&str]| labels.iter().map(|label| ((*label).to_owned(), BTreeSet::new())).collect();
    let mut metrics = Metrics::new();
    metrics.insert("up".to_owned(), labels(&[]));
    metrics.insert("ALERTS".to_owned(), labels(&["alertname", "alertstate", "severity"]));
    metrics
}

/// One scrape of the Envoy and the control plane.
pub(crate) async fn scrape(state: &State) -> Metrics {
    let mut metrics = Metrics::new();
    for (url, path) in [(&state.envoy_admin, "/stats/prometheus"), (&state.admin, "/metrics")] {
        let answer = Client::new(url).send(&Ask::get(path)).await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.text().lines().filter(|line| !line.starts_with('#') && !line.is_empty()).for_each(|line| add(&mut metrics, line));
    }
    metrics
}

/// `name{label="value",…} number`.
fn add(metrics: &mut Metrics, line: &str) {
    let end = line.find(['{', ' ']).unwrap_or(line.len());
    let (name, mut rest) = line.split_at(end);
    let labels = metrics.entry(name.to_owned()).or_default();
    rest = rest.strip_prefix('{').unwrap_or_default();
    while let Some((label, after)) = rest.split_once("=\"") {
        // No value of ours or of Envoy's has a quotation mark.
        let Some((value, after)) = after.split_once('"') else { return };
        labels.entry(label.to_owned()).or_default().insert(value.to_owned());
        rest = after.strip_prefix(',').unwrap_or_default();
    }
}
