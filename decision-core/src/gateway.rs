//! Gateways and methods: the closed sets that routes are indexed by.

/// Which gateway a request came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Gateway {
    /// Customer portal: authentication, policy, budget.
    Cp,
    /// Partner portal: also RBAC.
    Pp,
    /// Plant: also RBAC.
    Plant,
    /// The control plane's admin API: also RBAC.
    Admin,
}

impl Gateway {
    /// All of them, in index order.
    pub const ALL: [Self; 4] = [Self::Cp, Self::Pp, Self::Plant, Self::Admin];

    /// Whether roles are checked.
    #[must_use]
    pub const fn checks_permissions(self) -> bool {
        match self {
            Self::Cp => false,
            Self::Pp | Self::Plant | Self::Admin => true,
        }
    }

    /// Its name in policy, records and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cp => "CP",
            Self::Pp => "PP",
            Self::Plant => "PLANT",
            Self::Admin => "ADMIN",
        }
    }

    /// From its name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|gateway| gateway.name() == name)
    }

    const fn bit(self) -> u8 {
        match self {
            Self::Cp => 1,
            Self::Pp => 2,
            Self::Plant => 4,
            Self::Admin => 8,
        }
    }
}

/// A set of gateways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct GatewaySet(u8);

impl GatewaySet {
    /// No gateway.
    pub const EMPTY: Self = Self(0);
    /// Every gateway.
    pub const ALL: Self = Self(15);

    /// Whether `gateway` is in it.
    #[must_use]
    pub const fn contains(self, gateway: Gateway) -> bool {
        self.0 & gateway.bit() != 0
    }

    /// Whether a gateway is in both.
    #[must_use]
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether nothing is in it.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl FromIterator<Gateway> for GatewaySet {
    fn from_iter<T: IntoIterator<Item = Gateway>>(gateways: T) -> Self {
        Self(gateways.into_iter().fold(0, |bits, gateway| bits | gateway.bit()))
    }
}

/// A request method that a route may name (RFC 9110 §9). Any other method matches no route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names are RFC 9110's")]
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Patch,
    Delete,
    Options,
}

impl Method {
    /// All of them.
    pub const ALL: [Self; 7] = [Self::Get, Self::Head, Self::Post, Self::Put, Self::Patch, Self::Delete, Self::Options];

    /// From the request line; case matters.
    #[must_use]
    pub fn parse(name: &[u8]) -> Option<Self> {
        Some(match name {
            b"GET" => Self::Get,
            b"HEAD" => Self::Head,
            b"POST" => Self::Post,
            b"PUT" => Self::Put,
            b"PATCH" => Self::Patch,
            b"DELETE" => Self::Delete,
            b"OPTIONS" => Self::Options,
            _ => return None,
        })
    }

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
            Self::Options => "OPTIONS",
        }
    }

    const fn bit(self) -> u8 {
        match self {
            Self::Get => 1,
            Self::Head => 2,
            Self::Post => 4,
            Self::Put => 8,
            Self::Patch => 16,
            Self::Delete => 32,
            Self::Options => 64,
        }
    }
}

/// A set of methods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct MethodSet(u8);

impl MethodSet {
    /// Whether `method` is in it.
    #[must_use]
    pub const fn contains(self, method: Method) -> bool {
        self.0 & method.bit() != 0
    }

    /// Whether a method is in both.
    #[must_use]
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether nothing is in it.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl FromIterator<Method> for MethodSet {
    fn from_iter<T: IntoIterator<Item = Method>>(methods: T) -> Self {
        Self(methods.into_iter().fold(0, |bits, method| bits | method.bit()))
    }
}
