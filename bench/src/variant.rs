//! What is compared: one listener each.

use cli::stack::Ports;
use serde::Serialize;

use crate::error::BenchError;

/// A listener of `bench/envoy.yaml`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Variant {
    Bare,
    WasmEmpty,
    Ours,
    OursFull,
    OursCp,
    OursCached,
    OursFirstSeen,
    OursDecided,
    OursDecidedAnew,
    OursRulesHit,
    OursRulesMiss,
    OursShadow,
    JwtCached,
    JwtUncached,
    JwtAuthz,
    JwtAuthzRate,
}

impl Variant {
    pub(crate) const ALL: [Self; 16] = [
        Self::Bare,
        Self::WasmEmpty,
        Self::Ours,
        Self::OursFull,
        Self::OursCp,
        Self::OursCached,
        Self::OursFirstSeen,
        Self::OursDecided,
        Self::OursDecidedAnew,
        Self::OursRulesHit,
        Self::OursRulesMiss,
        Self::OursShadow,
        Self::JwtCached,
        Self::JwtUncached,
        Self::JwtAuthz,
        Self::JwtAuthzRate,
    ];

    /// The name in results.
    pub(crate) const fn key(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::WasmEmpty => "wasm_empty",
            Self::Ours => "ours",
            Self::OursFull => "ours_full_headers",
            Self::OursCp => "ours_cp",
            Self::OursCached => "ours_authentication_cached",
            Self::OursFirstSeen => "ours_authentication_first_seen",
            Self::OursDecided => "ours_decided",
            Self::OursDecidedAnew => "ours_decided_anew",
            Self::OursRulesHit => "ours_rules_remembered",
            Self::OursRulesMiss => "ours_rules_evaluated",
            Self::OursShadow => "ours_with_shadow",
            Self::JwtCached => "jwt_authn_cached",
            Self::JwtUncached => "jwt_authn_uncached",
            Self::JwtAuthz => "jwt_authn_ext_authz",
            Self::JwtAuthzRate => "jwt_authn_ext_authz_rate",
        }
    }

    /// From its name in results.
    pub(crate) fn parse(key: &str) -> Result<Self, String> {
        let keys = || Self::ALL.map(Self::key).join(", ");
        Self::ALL.into_iter().find(|variant| variant.key() == key).ok_or_else(|| format!("it is none of {}", keys()))
    }

    /// What it is, for people.
    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Bare => "no filter",
            Self::WasmEmpty => "proxy-wasm module with empty callbacks",
            Self::Ours => "ours, everything on (RS256, RBAC, policy, budgets, audit)",
            Self::OursFull => "ours, everything on, all headers to the backend",
            Self::OursCp => "ours as on CP (no RBAC)",
            Self::OursCached => "ours, authentication and audit alone, RS256, cached",
            Self::OursFirstSeen => "ours, authentication and audit alone, RS256, first seen",
            Self::OursDecided => "the same (cached) behind a permission: RBAC and policy by tables",
            Self::OursDecidedAnew => "the same, another path with every request",
            Self::OursRulesHit => "the same path with custom rules in Rego, verdict remembered",
            Self::OursRulesMiss => "another path with every request, custom rules in Rego evaluated",
            Self::OursShadow => "behind a permission, with another revision in shadow",
            Self::JwtCached => "native jwt_authn, RS256, cached",
            Self::JwtUncached => "native jwt_authn, RS256, first seen",
            Self::JwtAuthz => "native jwt_authn (cached) + ext_authz call-out",
            Self::JwtAuthzRate => "native jwt_authn (cached) + ext_authz + 2nd call-out for rates (*)",
        }
    }

    /// Whether our filter is on the listener, and so an audit record is due for every request.
    pub(crate) const fn is_ours(self) -> bool {
        match self {
            Self::Ours
            | Self::OursFull
            | Self::OursCp
            | Self::OursCached
            | Self::OursFirstSeen
            | Self::OursDecided
            | Self::OursDecidedAnew
            | Self::OursRulesHit
            | Self::OursRulesMiss
            | Self::OursShadow => true,
            Self::Bare | Self::WasmEmpty | Self::JwtCached | Self::JwtUncached | Self::JwtAuthz | Self::JwtAuthzRate => false,
        }
    }
}

impl Variant {
    /// What is sent to it.
    pub(crate) const fn traffic(self) -> Kind {
        match self {
            Self::OursCached => Kind::Authenticated,
            Self::OursFirstSeen => Kind::FirstSeen,
            Self::OursDecided | Self::OursShadow => Kind::Decided,
            Self::OursDecidedAnew => Kind::DecidedAnew,
            Self::OursRulesHit => Kind::Ruled,
            Self::OursRulesMiss => Kind::RuledAnew,
            Self::JwtUncached => Kind::FirstSeenElsewhere,
            Self::Bare
            | Self::WasmEmpty
            | Self::Ours
            | Self::OursFull
            | Self::OursCp
            | Self::JwtCached
            | Self::JwtAuthz
            | Self::JwtAuthzRate => Kind::Charged,
        }
    }
}

/// What is sent to a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One token again and again, for a route behind a permission and budgets.
    Charged,
    /// One token again and again, for a route that only asks who it is.
    Authenticated,
    /// One token again and again, for a route behind a permission where nothing is charged.
    Decided,
    /// The same with another path every time.
    DecidedAnew,
    /// One path, with custom rules.
    Ruled,
    /// Another path every time, with custom rules, which are evaluated for that reason.
    RuledAnew,
    /// The route that only asks who it is, and more tokens than any cache keeps.
    FirstSeen,
    /// The same tokens, in turns of their own: ours must not skip any.
    FirstSeenElsewhere,
}

/// Where everything listens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BenchPorts {
    stack: Ports,
    base: u16,
}

/// Ports of our own start here, above those of the stack.
const OFFSET: u16 = 101;
/// The service that the call-outs ask comes after the listeners that are measured.
const SERVICE_OFFSET: u16 = 107;

impl BenchPorts {
    pub(crate) fn above(base: u16) -> Result<Self, BenchError> {
        let too_high = || BenchError::PortBase { base };
        base.checked_add(SERVICE_OFFSET).ok_or_else(too_high)?;
        Ok(Self { stack: Ports::above(base).map_err(|_error| too_high())?, base })
    }

    /// The port of a listener. Those of our filter are the gateways of the stack, which waits until they are ready.
    pub(crate) const fn of(&self, variant: Variant) -> u16 {
        match variant {
            Variant::Ours
            | Variant::OursCached
            | Variant::OursFirstSeen
            | Variant::OursDecided
            | Variant::OursDecidedAnew
            | Variant::OursRulesHit
            | Variant::OursRulesMiss
            | Variant::OursShadow => self.stack.plant,
            Variant::OursFull => self.stack.pp,
            Variant::OursCp => self.stack.cp,
            Variant::Bare => self.base + OFFSET,
            Variant::WasmEmpty => self.base + OFFSET + 1,
            Variant::JwtCached => self.base + OFFSET + 2,
            Variant::JwtUncached => self.base + OFFSET + 3,
            Variant::JwtAuthz => self.base + OFFSET + 4,
            Variant::JwtAuthzRate => self.base + OFFSET + 5,
        }
    }

    pub(crate) const fn service(&self) -> u16 {
        self.base + SERVICE_OFFSET
    }

    pub(crate) const fn envoy_admin(&self) -> u16 {
        self.stack.envoy_admin
    }

    pub(crate) const fn control_plane_admin(&self) -> u16 {
        self.stack.admin
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_listeners_share_a_port() {
        let ports = BenchPorts::above(24_000).unwrap();
        let shared = [
            Variant::OursCached,
            Variant::OursFirstSeen,
            Variant::OursDecided,
            Variant::OursDecidedAnew,
            Variant::OursRulesHit,
            Variant::OursRulesMiss,
            Variant::OursShadow,
        ];
        let listeners = Variant::ALL.into_iter().filter(|variant| !shared.contains(variant));
        let mut all: Vec<u16> = listeners.map(|variant| ports.of(variant)).collect();
        all.extend([ports.service(), ports.envoy_admin(), ports.control_plane_admin()]);
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
        assert!(BenchPorts::above(65_430).is_err());
    }
}
