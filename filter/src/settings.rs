//! Plugin configuration: JSON, unknown fields refused. A bad one fails `on_configure`, whole.

use authn::{Algorithm, Family};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use decision_core::gateway::Gateway;
use serde::Deserialize;
use wire::bundle::{Bundle, BundleError, KeyMaterial, LoadedBundle};

/// What one listener's plugin configuration says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) gateway: Gateway,
    pub(crate) control_plane_cluster: String,
    pub(crate) poll_cluster: String,
    pub(crate) upstream_headers: UpstreamHeaders,
}

/// How much the backend is told about the user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema, serde::Serialize))]
#[serde(rename_all = "snake_case")]
pub(crate) enum UpstreamHeaders {
    /// User, customer, correlation and request id.
    #[default]
    Lean,
    /// Also causation, roles, trial mode, agent and gateway.
    Full,
}

/// What `docs/running.md` says of a field is its comment.
#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct Document {
    /// Which gateway the listener is: `CP`, `PP` or `PLANT`.
    gateway: String,
    /// Envoy's cluster of the control plane's data-plane API, for sync calls.
    #[serde(default = "control_plane")]
    control_plane_cluster: String,
    /// The cluster that is polled for bundles and revocations; without it, `control_plane_cluster`. One of its own keeps the long
    /// polls off the connections of sync calls.
    #[serde(default)]
    poll_cluster: Option<String>,
    /// How much the backend is told of the user.
    #[serde(default)]
    upstream_headers: UpstreamHeaders,
    /// The bundle to begin with until a control plane was reached, in base64: what `plant-gateway bundle` prints.
    #[serde(default)]
    bundle: Option<String>,
}

fn control_plane() -> String {
    "control_plane".into()
}

/// Why a plugin configuration is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InvalidSettings {
    /// Not the JSON that is expected.
    #[error("the plugin configuration is not valid")]
    Json(#[source] serde_json::Error),
    /// Not a gateway that this filter serves.
    #[error("`gateway` is `{gateway}`; it must be CP, PP or PLANT")]
    Gateway {
        /// What it says.
        gateway: String,
    },
    /// The embedded bundle is not base64.
    #[error("`bundle` is not standard base64")]
    Base64(#[source] base64::DecodeError),
    /// The embedded bundle is no bundle that this filter reads.
    #[error("`bundle` is not a usable bundle")]
    Bundle(#[source] BundleError),
    /// Its custom rules do not load.
    #[error("the embedded bundle's custom rules cannot be relied on")]
    Rules(#[source] rules::LoadError),
    /// The embedded bundle holds what must not stand in a configuration.
    #[error("`bundle` holds a shared secret of issuer `{issuer}`, which Envoy's configuration dump would show: embed public keys only")]
    Secret {
        /// The issuer.
        issuer: String,
    },
}

impl Settings {
    /// The settings, and the bundle to begin with.
    pub(crate) fn parse(configuration: &[u8]) -> Result<(Self, Option<LoadedBundle>), InvalidSettings> {
        let document: Document = serde_json::from_slice(configuration).map_err(InvalidSettings::Json)?;
        let gateway = Gateway::parse(&document.gateway).filter(|gateway| *gateway != Gateway::Admin);
        let gateway = gateway.ok_or(InvalidSettings::Gateway { gateway: document.gateway })?;
        let poll_cluster = document.poll_cluster.unwrap_or_else(|| document.control_plane_cluster.clone());
        let bundle = document.bundle.as_deref().map(load).transpose()?;
        let settings = Self {
            gateway,
            control_plane_cluster: document.control_plane_cluster,
            poll_cluster,
            upstream_headers: document.upstream_headers,
        };
        Ok((settings, bundle))
    }
}

fn load(text: &str) -> Result<LoadedBundle, InvalidSettings> {
    let image = STANDARD.decode(text.trim_ascii()).map_err(InvalidSettings::Base64)?;
    let bundle = Bundle::decode(&image).map_err(InvalidSettings::Bundle)?;
    let is_secret =
        |key: &KeyMaterial| Algorithm::from_jose_name(&key.algorithm).is_some_and(|algorithm| algorithm.family() == Family::Hmac);
    if let Some(keys) = bundle.keys.iter().find(|keys| keys.keys.iter().any(is_secret)) {
        return Err(InvalidSettings::Secret { issuer: keys.issuer.clone() });
    }
    bundle.load().map_err(InvalidSettings::Bundle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_unknown_fields_and_gateways() {
        assert!(Settings::parse(br#"{"gateway":"CP"}"#).is_ok());
        for bad in [&br#"{"gateway":"CP","gatway":1}"#[..], br#"{"gateway":"ADMIN"}"#, br#"{"gateway":"X"}"#, b"", b"{}", b"[1]"] {
            assert!(Settings::parse(bad).is_err());
        }
    }
}
