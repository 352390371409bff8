//! The processes of the stack, and the ports on which they listen.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};

use serde::{Deserialize, Serialize};

/// A process of the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// The proxy, with the filter in it.
    Envoy,
    /// Policies, budgets, audit.
    ControlPlane,
    /// The echo backend, production and sandbox.
    Backend,
    /// Counters that are not durable.
    Valkey,
    /// Everything that is.
    Postgres,
    /// A second proxy, where there is one.
    SecondEnvoy,
    /// A second control plane, where there is one.
    SecondControlPlane,
}

impl Part {
    /// Every part, in the order in which they stop: who asks goes before who answers.
    pub const ALL: [Self; 7] =
        [Self::Envoy, Self::SecondEnvoy, Self::ControlPlane, Self::SecondControlPlane, Self::Backend, Self::Valkey, Self::Postgres];

    /// The name in messages and of the log file.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Envoy => "envoy",
            Self::ControlPlane => "control-plane",
            Self::Backend => "backend",
            Self::Valkey => "valkey",
            Self::Postgres => "postgres",
            Self::SecondEnvoy => "second-envoy",
            Self::SecondControlPlane => "second-control-plane",
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// Every port of one stack, on 127.0.0.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// The partner portal's gateway.
    pub pp: u16,
    /// The customer portal's gateway.
    pub cp: u16,
    /// The Plant API's gateway.
    pub plant: u16,
    /// The echo backend.
    pub backend: u16,
    /// The control plane's admin API and pages.
    pub admin: u16,
    /// The control plane's data-plane API.
    pub data_plane: u16,
    /// Envoy's own admin interface.
    pub envoy_admin: u16,
    /// Postgres.
    pub postgres: u16,
    /// Valkey.
    pub valkey: u16,
    /// The echo backend's sandbox listener.
    pub sandbox: u16,
}

/// The ports cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// The base is too high.
    #[error("PORT_BASE `{base}` is too high: the last port would be above 65535")]
    Base {
        /// What was asked for.
        base: u16,
    },
    /// Somebody else listens there.
    #[error("{}; set PORT_BASE=20000 (any base) to shift all ports", taken(.occupied))]
    Occupied {
        /// Port and what it was meant for.
        occupied: Vec<(u16, &'static str)>,
    },
    /// The system refused for another reason.
    #[error("cannot listen on port {port} ({purpose})")]
    Refused {
        /// The port.
        port: u16,
        /// What it was meant for.
        purpose: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

fn taken(occupied: &[(u16, &'static str)]) -> String {
    let list: Vec<String> = occupied.iter().map(|(port, purpose)| format!("port {port} ({purpose}) is already in use")).collect();
    list.join(", ")
}

impl Ports {
    /// The ports above this base.
    ///
    /// # Errors
    /// When they would not fit.
    pub fn above(base: u16) -> Result<Self, PortError> {
        let port = |offset: u16| base.checked_add(offset).ok_or(PortError::Base { base });
        Ok(Self {
            pp: port(6)?,
            cp: port(15)?,
            plant: port(90)?,
            backend: port(91)?,
            admin: port(92)?,
            data_plane: port(93)?,
            envoy_admin: port(94)?,
            postgres: port(95)?,
            valkey: port(96)?,
            sandbox: port(97)?,
        })
    }

    /// The ports of a second Envoy and control plane beside the stack at this base. They share backends and stores with the first.
    ///
    /// # Errors
    /// When they would not fit.
    pub fn second(base: u16) -> Result<Self, PortError> {
        let first = Self::above(base)?;
        let second = Self::above(base.checked_add(100).ok_or(PortError::Base { base })?)?;
        Ok(Self { backend: first.backend, sandbox: first.sandbox, postgres: first.postgres, valkey: first.valkey, ..second })
    }

    /// Every port with what it is for.
    #[must_use]
    pub const fn purposes(&self) -> [(u16, &'static str); 10] {
        [
            (self.cp, "gateway CP"),
            (self.pp, "gateway PP"),
            (self.plant, "gateway PLANT"),
            (self.backend, "backend"),
            (self.admin, "control-plane admin API"),
            (self.data_plane, "control-plane data-plane API"),
            (self.envoy_admin, "envoy admin"),
            (self.postgres, "postgres"),
            (self.valkey, "valkey"),
            (self.sandbox, "backend, sandbox"),
        ]
    }

    /// Looks whether all of them are free, save those in `unused`.
    pub(crate) fn check_free(&self, unused: &[u16]) -> Result<(), PortError> {
        let mut occupied = Vec::new();
        for (port, purpose) in self.purposes() {
            if unused.contains(&port) {
                continue;
            }
            match TcpListener::bind(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)) {
                Ok(_free) => {}
                Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => occupied.push((port, purpose)),
                Err(source) => return Err(PortError::Refused { port, purpose, source }),
            }
        }
        if occupied.is_empty() { Ok(()) } else { Err(PortError::Occupied { occupied }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stay_in_the_thousand_of_the_base() {
        let ports = Ports::above(20_000).unwrap();
        assert_eq!((ports.cp, ports.pp, ports.plant), (20_015, 20_006, 20_090));
        assert!(ports.purposes().iter().all(|(port, _)| (20_000..21_000).contains(port)));
        let second = Ports::second(20_000).unwrap();
        assert_eq!((second.cp, second.admin, second.postgres), (20_115, 20_192, ports.postgres));
    }

    #[test]
    fn refuses_a_base_that_is_too_high() {
        let error = Ports::above(65_500).unwrap_err();
        assert_eq!(error.to_string(), "PORT_BASE `65500` is too high: the last port would be above 65535");
    }

    #[test]
    fn names_each_occupied_port_and_the_way_out() {
        let occupied = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = occupied.local_addr().unwrap().port();
        let ports = Ports { cp: port, ..Ports::above(18_000).unwrap() };
        let error = ports.check_free(&[]).unwrap_err().to_string();
        assert_eq!(error, format!("port {port} (gateway CP) is already in use; set PORT_BASE=20000 (any base) to shift all ports"));
        ports.check_free(&[port]).unwrap();
    }
}
