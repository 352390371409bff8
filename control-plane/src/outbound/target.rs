//! Which URLs may be asked for: `https`, and a host that the operator allows.

use super::address::{InvalidNetwork, Network};
use std::fmt;
use std::str::FromStr;
use url::{Host, Url};

const HTTPS_PORT: u16 = 443;
const URL_BYTES_MAX: usize = 2_048;

/// A host, and the port under which it may be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
struct AllowedHost {
    host: Host<String>,
    port: u16,
}

/// The hosts that may be asked. None by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowedHosts(Vec<AllowedHost>);

/// Text that is no list of hosts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a host or host:port")]
pub struct InvalidHost(String);

impl FromStr for AllowedHosts {
    type Err = InvalidHost;

    fn from_str(text: &str) -> Result<Self, InvalidHost> {
        let hosts = text.split(',').map(str::trim).filter(|host| !host.is_empty()).map(allowed_host);
        hosts.collect::<Result<_, _>>().map(Self)
    }
}

fn allowed_host(text: &str) -> Result<AllowedHost, InvalidHost> {
    let invalid = || InvalidHost(text.to_owned());
    let url = Url::parse(&format!("https://{text}/")).map_err(|_| invalid())?;
    let plain = url.path() == "/" && url.username().is_empty() && url.password().is_none() && !text.contains(['/', '?', '#', '@', '\\']);
    let host = url.host().filter(|_| plain).ok_or_else(invalid)?.to_owned();
    Ok(AllowedHost { host, port: url.port().unwrap_or(HTTPS_PORT) })
}

/// Networks that may be reached although they are not public. None by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowedNetworks(pub Vec<Network>);

impl FromStr for AllowedNetworks {
    type Err = InvalidNetwork;

    fn from_str(text: &str) -> Result<Self, InvalidNetwork> {
        let networks = text.split(',').map(str::trim).filter(|network| !network.is_empty()).map(str::parse);
        networks.collect::<Result<_, _>>().map(Self)
    }
}

/// A URL that may be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub(super) host: Host<String>,
    pub(super) port: u16,
    pub(super) path_and_query: String,
}

impl Target {
    /// The `Host` header.
    pub(super) fn authority(&self) -> String {
        if self.port == HTTPS_PORT { self.host.to_string() } else { format!("{}:{}", self.host, self.port) }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "https://{}{}", self.authority(), self.path_and_query)
    }
}

/// Why a URL may not be asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTarget {
    /// It does not parse, or is absurdly long.
    #[error("not a URL")]
    NotUrl,
    /// Another scheme.
    #[error("the scheme is not `https`")]
    NotHttps,
    /// A user, a password or a fragment.
    #[error("a URL with a user, a password or a fragment")]
    Extra,
    /// The host is not one that the operator allows.
    #[error("the host `{host}` is not one that the control plane's setting {setting} allows")]
    HostNotAllowed {
        /// The host and its port.
        host: String,
        /// The setting that lists those that are.
        setting: &'static str,
    },
}

/// What the outside is asked for: each has its own list of hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Fetching JWK sets.
    KeySets,
    /// Delivering events.
    Webhooks,
}

impl Purpose {
    /// The setting that lists the hosts.
    #[must_use]
    pub const fn hosts_setting(self) -> &'static str {
        match self {
            Self::KeySets => "JWKS_HOSTS",
            Self::Webhooks => "WEBHOOK_HOSTS",
        }
    }
}

impl AllowedHosts {
    /// Reads a URL. Numbers in any notation that browsers know become addresses here, and are compared as such.
    ///
    /// # Errors
    /// Why it may not be asked for.
    pub fn target(&self, text: &str, purpose: Purpose) -> Result<Target, InvalidTarget> {
        if text.len() > URL_BYTES_MAX {
            return Err(InvalidTarget::NotUrl);
        }
        let url = Url::parse(text).map_err(|_| InvalidTarget::NotUrl)?;
        if url.scheme() != "https" {
            return Err(InvalidTarget::NotHttps);
        }
        if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
            return Err(InvalidTarget::Extra);
        }
        let host = url.host().ok_or(InvalidTarget::NotUrl)?.to_owned();
        let port = url.port().unwrap_or(HTTPS_PORT);
        let path_and_query = url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path()));
        let target = Target { host, port, path_and_query };
        if self.0.iter().any(|allowed| allowed.host == target.host && allowed.port == target.port) {
            return Ok(target);
        }
        Err(InvalidTarget::HostNotAllowed { host: target.authority(), setting: purpose.hosts_setting() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(text: &str) -> AllowedHosts {
        text.parse().unwrap()
    }

    #[test]
    fn only_listed_hosts_on_their_ports_may_be_asked() {
        let hosts = hosts("id.example.com, [2001:db8::1]:8443 ,login.example:444,");
        for good in [
            "https://id.example.com/keys",
            "https://ID.example.com:443/a?b=c",
            "https://[2001:db8::1]:8443/",
            "https://login.example:444/x",
        ] {
            assert!(hosts.target(good, Purpose::KeySets).is_ok(), "{good}");
        }
        for other in [
            "https://id.example.com:444/",
            "https://login.example/",
            "https://evil.id.example.com/",
            "https://id.example.com.evil/",
            "https://id.example.com./",
            "https://[2001:db8::1]/",
        ] {
            assert!(matches!(hosts.target(other, Purpose::KeySets), Err(InvalidTarget::HostNotAllowed { .. })), "{other}");
        }
    }

    #[test]
    fn without_hosts_nothing_may_be_asked() {
        assert!(matches!(hosts("").target("https://id.example.com/", Purpose::KeySets), Err(InvalidTarget::HostNotAllowed { .. })));
    }

    #[test]
    fn other_schemes_users_and_fragments_are_refused() {
        let hosts = hosts("id.example.com");
        for (url, expected) in [
            ("http://id.example.com/", InvalidTarget::NotHttps),
            ("file:///etc/passwd", InvalidTarget::NotHttps),
            ("ftp://id.example.com/", InvalidTarget::NotHttps),
            ("https://user@id.example.com/", InvalidTarget::Extra),
            ("https://:secret@id.example.com/", InvalidTarget::Extra),
            ("https://id.example.com/#x", InvalidTarget::Extra),
            ("id.example.com", InvalidTarget::NotUrl),
            ("https://", InvalidTarget::NotUrl),
            ("", InvalidTarget::NotUrl),
        ] {
            assert_eq!(hosts.target(url, Purpose::KeySets), Err(expected), "{url}");
        }
    }

    #[test]
    fn a_host_that_is_a_number_is_the_address_in_every_notation() {
        let hosts = hosts("127.0.0.1");
        for same in ["https://127.0.0.1/", "https://2130706433/", "https://0x7f000001/", "https://0177.0.0.1/", "https://127.1/"] {
            assert_eq!(hosts.target(same, Purpose::KeySets).unwrap().host, Host::<String>::Ipv4(std::net::Ipv4Addr::LOCALHOST), "{same}");
        }
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for bad in ["a b", "https://x", "host/path", "user@host", "host:99999", "ho?st"] {
            assert!(bad.parse::<AllowedHosts>().is_err(), "{bad}");
        }
    }
}
