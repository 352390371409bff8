//! Who may issue tokens, and by which rules. Keys belong to one issuer: a key of one never verifies a token of another.

use core::time::Duration;

use decision_core::principal::CredentialFault;

use decision_core::time::Timestamp;

use crate::algorithm::Algorithm;
use crate::jws::JwsHeader;
use crate::key::VerificationKey;

/// The most that clocks may differ.
pub const SKEW_MAX: Duration = Duration::from_secs(60);
/// The longest that any token may live.
pub const LIFETIME_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// A claim that tokens may leave out, unless the issuer's rules require it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum OptionalClaim {
    /// `customer_id`.
    CustomerId,
    /// `agent_id`.
    AgentId,
    /// `governor_agent_id`.
    GovernorAgentId,
    /// `tier`.
    Tier,
    /// `jti`: without it one token cannot be revoked.
    TokenId,
    /// `nbf`.
    NotBefore,
    /// `token_type`.
    TokenType,
    /// `token_version`: without it a revocation of old versions refuses the token.
    TokenVersion,
}

impl OptionalClaim {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::CustomerId,
        Self::AgentId,
        Self::GovernorAgentId,
        Self::Tier,
        Self::TokenId,
        Self::NotBefore,
        Self::TokenType,
        Self::TokenVersion,
    ];

    /// From the claim's name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|claim| claim.name() == name)
    }

    /// The claim's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::CustomerId => "customer_id",
            Self::AgentId => "agent_id",
            Self::GovernorAgentId => "governor_agent_id",
            Self::Tier => "tier",
            Self::TokenId => "jti",
            Self::NotBefore => "nbf",
            Self::TokenType => "token_type",
            Self::TokenVersion => "token_version",
        }
    }
}

/// The rules for the tokens of one issuer.
#[derive(Clone, Debug)]
pub struct IssuerRules {
    /// The name that the policy gives it (`cp`); half of every user's identity.
    pub name: Box<str>,
    /// The exact value of `iss`.
    pub issuer: Box<str>,
    /// `aud` must name one of these. If there are none, a token with `aud` is refused: it is for somebody else.
    pub audiences: Vec<Box<str>>,
    /// Accepted values of the header's `typ` (`JWT`, `at+jwt`), compared as media types.
    pub token_types: Vec<Box<str>>,
    /// Whether a token without `typ` is accepted.
    pub allow_missing_typ: bool,
    /// Accepted values in `scope`. Any other in a token, and the token is refused.
    pub scopes: Vec<Box<str>>,
    /// How far the issuer's clock may be from ours, at most [`SKEW_MAX`].
    pub skew: Duration,
    /// The longest `exp` − `iat`, at most [`LIFETIME_MAX`].
    pub lifetime_max: Duration,
    /// Claims that are required beyond `sub`, `user_id`, `email`, `roles`, `iat`, `exp` and `iss`.
    pub required_claims: Vec<OptionalClaim>,
    /// Whether its tokens may say that their user is on trial.
    pub trials: TrialTokens,
    /// The algorithms that its tokens may use.
    pub algorithms: Vec<Algorithm>,
    /// The issuer's keys. Without any, all its tokens are refused.
    pub keys: Vec<VerificationKey>,
    /// How far the keys can be relied on.
    pub keys_known: KeysKnown,
    /// Whether a key that is not among them may be found by asking.
    pub more_keys: MoreKeys,
}

/// Whether an issuer's tokens may carry `trial_mode: true`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum TrialTokens {
    Allow,
    Refuse,
}

/// How far an issuer's keys can be relied on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeysKnown {
    /// They are part of the policy.
    Always,
    /// They were fetched, and are too old from this moment on.
    Until(Timestamp),
    /// They have not been fetched yet.
    NotYet,
}

/// Whether a key that is not known may be found by asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MoreKeys {
    /// No: the policy names them all.
    No,
    /// The issuer publishes its keys, and may have published another.
    Published,
}

impl IssuerRules {
    /// The one key that the header asks for: of the same algorithm, and of the same id. Without an id in the header, the
    /// only key of that algorithm.
    pub(crate) fn key_for(&self, header: &JwsHeader) -> Result<&VerificationKey, CredentialFault> {
        let mut of_algorithm = self.keys.iter().filter(|key| key.algorithm == header.algorithm).peekable();
        if of_algorithm.peek().is_none() && !self.keys.is_empty() {
            return Err(CredentialFault::AlgorithmRefused);
        }
        if header.kid.is_some() {
            return of_algorithm.find(|key| key.kid == header.kid).ok_or(CredentialFault::UnknownKey);
        }
        match (of_algorithm.next(), of_algorithm.next()) {
            (Some(only), None) => Ok(only),
            (Some(_), Some(_)) | (None, _) => Err(CredentialFault::UnknownKey),
        }
    }

    fn check(&self) -> Result<(), InvalidIssuers> {
        let name = || self.name.clone();
        if self.name.is_empty() || self.issuer.is_empty() {
            return Err(InvalidIssuers::Unnamed);
        }
        if self.skew > SKEW_MAX {
            return Err(InvalidIssuers::SkewTooLong { name: name() });
        }
        if self.lifetime_max > LIFETIME_MAX || self.lifetime_max.is_zero() {
            return Err(InvalidIssuers::LifetimeOutOfRange { name: name() });
        }
        for (index, key) in self.keys.iter().enumerate() {
            let mut before = self.keys.iter().take(index);
            let duplicate = before.any(|other| match (&key.kid, &other.kid) {
                (None, None) => key.algorithm == other.algorithm,
                (one, another) => one == another,
            });
            if duplicate {
                return Err(InvalidIssuers::DuplicateKeyId { name: name(), kid: key.kid.clone() });
            }
            let mut before = self.keys.iter().take(index);
            if before.any(|other| other.is_same_key(key) && other.algorithm != key.algorithm) {
                return Err(InvalidIssuers::KeyForTwoAlgorithms { name: name(), kid: key.kid.clone() });
            }
        }
        Ok(())
    }
}

/// Why a set of issuers was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidIssuers {
    /// Without `name` or `issuer`.
    #[error("an issuer has an empty name or an empty `iss`")]
    Unnamed,
    /// Two of the same name: their users could not be told apart.
    #[error("two issuers have the name `{0}`")]
    DuplicateName(Box<str>),
    /// Two with the same `iss`.
    #[error("two issuers have the `iss` value `{0}`")]
    DuplicateIssuer(Box<str>),
    /// Two keys that a token could not choose between.
    #[error("issuer `{name}` has two keys with id `{}`", kid.as_deref().unwrap_or("(none)"))]
    DuplicateKeyId {
        /// The issuer's name.
        name: Box<str>,
        /// The id; none if two keys of one algorithm have none.
        kid: Option<Box<str>>,
    },
    /// One key for two algorithms (RFC 8725 §3.1).
    #[error("issuer `{name}` uses the key with id `{}` for another algorithm, too", kid.as_deref().unwrap_or("(none)"))]
    KeyForTwoAlgorithms {
        /// The issuer's name.
        name: Box<str>,
        /// The id of the second.
        kid: Option<Box<str>>,
    },
    /// One could make tokens of the other.
    #[error("issuers `{0}` and `{1}` have a key in common")]
    SharedKey(Box<str>, Box<str>),
    /// More than [`SKEW_MAX`].
    #[error("issuer `{name}` has a skew above {} s", SKEW_MAX.as_secs())]
    SkewTooLong {
        /// The issuer's name.
        name: Box<str>,
    },
    /// Zero, or more than [`LIFETIME_MAX`].
    #[error("issuer `{name}` has a token lifetime of zero or above {} s", LIFETIME_MAX.as_secs())]
    LifetimeOutOfRange {
        /// The issuer's name.
        name: Box<str>,
    },
}

/// All issuers, checked against each other.
#[derive(Clone, Debug, Default)]
pub struct Issuers(Vec<IssuerRules>);

impl Issuers {
    /// Checks each issuer by itself, then against all others.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn new(issuers: Vec<IssuerRules>) -> Result<Self, InvalidIssuers> {
        for (index, issuer) in issuers.iter().enumerate() {
            issuer.check()?;
            for other in issuers.iter().take(index) {
                if issuer.name == other.name {
                    return Err(InvalidIssuers::DuplicateName(issuer.name.clone()));
                }
                if issuer.issuer == other.issuer {
                    return Err(InvalidIssuers::DuplicateIssuer(issuer.issuer.clone()));
                }
                if issuer.keys.iter().any(|key| other.keys.iter().any(|theirs| key.is_same_key(theirs))) {
                    return Err(InvalidIssuers::SharedKey(other.name.clone(), issuer.name.clone()));
                }
            }
        }
        Ok(Self(issuers))
    }

    /// The issuer whose `iss` is exactly this.
    #[must_use]
    pub fn find(&self, iss: &str) -> Option<&IssuerRules> {
        self.0.iter().find(|rules| *rules.issuer == *iss)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &IssuerRules> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::algorithm::Algorithm;
    use crate::test_tokens::{es256_pair, hs256_key, rules};

    fn header(algorithm: Algorithm, kid: Option<&str>) -> JwsHeader {
        JwsHeader { algorithm, kid: kid.map(Into::into), typ: None }
    }

    fn keyed(keys: Vec<VerificationKey>) -> IssuerRules {
        IssuerRules { keys, ..rules() }
    }

    fn other_key(kid: Option<&str>, fill: u8) -> VerificationKey {
        VerificationKey::from_secret(kid, Algorithm::Hs256, &[fill; 32]).unwrap()
    }

    #[test]
    fn chooses_the_key_of_the_same_id() {
        let rules = keyed(vec![hs256_key(Some("a")), other_key(Some("b"), 7)]);
        let key = rules.key_for(&header(Algorithm::Hs256, Some("b"))).unwrap();
        assert_eq!(key.kid.as_deref(), Some("b"));
    }

    #[test]
    fn refuses_an_id_that_no_key_has() {
        let rules = keyed(vec![hs256_key(Some("a")), es256_pair(Some("e")).1]);
        for kid in ["b", "A", "e"] {
            let found = rules.key_for(&header(Algorithm::Hs256, Some(kid)));
            assert_eq!(found.unwrap_err(), CredentialFault::UnknownKey);
        }
        let without = keyed(vec![hs256_key(None)]);
        assert!(without.key_for(&header(Algorithm::Hs256, Some("a"))).is_err());
    }

    #[test]
    fn refuses_a_token_without_id_when_two_keys_would_do() {
        let one = keyed(vec![hs256_key(Some("a")), es256_pair(Some("e")).1]);
        assert!(one.key_for(&header(Algorithm::Hs256, None)).is_ok());
        let two = keyed(vec![hs256_key(Some("a")), other_key(Some("b"), 7)]);
        assert_eq!(two.key_for(&header(Algorithm::Hs256, None)).unwrap_err(), CredentialFault::UnknownKey);
    }

    #[test]
    fn refuses_an_algorithm_that_no_key_of_the_issuer_has() {
        let rules = keyed(vec![es256_pair(None).1]);
        assert_eq!(rules.key_for(&header(Algorithm::Hs256, None)).unwrap_err(), CredentialFault::AlgorithmRefused);
    }

    #[test]
    fn an_issuer_without_keys_verifies_nothing() {
        assert_eq!(keyed(vec![]).key_for(&header(Algorithm::Hs256, None)).unwrap_err(), CredentialFault::UnknownKey);
    }

    #[test]
    fn refuses_two_issuers_with_one_iss_or_one_name() {
        let other = |name: &str, issuer: &str| IssuerRules { name: name.into(), issuer: issuer.into(), keys: vec![], ..rules() };
        let (name, issuer) = (rules().name, rules().issuer);
        assert!(Issuers::new(vec![rules(), other("x", "y")]).is_ok());
        assert_eq!(Issuers::new(vec![rules(), other("x", &issuer)]).unwrap_err(), InvalidIssuers::DuplicateIssuer(issuer));
        assert_eq!(Issuers::new(vec![rules(), other(&name, "y")]).unwrap_err(), InvalidIssuers::DuplicateName(name));
    }

    #[test]
    fn refuses_an_issuer_without_a_name() {
        let unnamed = IssuerRules { name: "".into(), ..rules() };
        assert_eq!(Issuers::new(vec![unnamed]).unwrap_err(), InvalidIssuers::Unnamed);
    }

    #[test]
    fn refuses_a_key_that_two_issuers_share() {
        let one = IssuerRules { name: "a".into(), issuer: "a".into(), ..keyed(vec![hs256_key(Some("x"))]) };
        let two = IssuerRules { name: "b".into(), issuer: "b".into(), ..keyed(vec![hs256_key(Some("y"))]) };
        let shared = Issuers::new(vec![one.clone(), two]).unwrap_err();
        assert_eq!(shared, InvalidIssuers::SharedKey("a".into(), "b".into()));
        let third = IssuerRules { name: "b".into(), issuer: "b".into(), ..keyed(vec![other_key(Some("x"), 3)]) };
        assert!(Issuers::new(vec![one, third]).is_ok());
    }

    #[test]
    fn refuses_two_keys_that_a_token_cannot_choose_between() {
        for kid in [Some("a"), None] {
            let rules = keyed(vec![hs256_key(kid), other_key(kid, 7)]);
            let duplicate = InvalidIssuers::DuplicateKeyId { name: rules.name.clone(), kid: kid.map(Into::into) };
            assert_eq!(Issuers::new(vec![rules]).unwrap_err(), duplicate);
        }
        assert!(Issuers::new(vec![keyed(vec![hs256_key(None), es256_pair(None).1])]).is_ok());
        assert!(Issuers::new(vec![keyed(vec![hs256_key(Some("a")), es256_pair(Some("a")).1])]).is_err());
    }

    #[test]
    fn refuses_one_key_for_two_algorithms() {
        let key = |kid, algorithm| VerificationKey::from_secret(Some(kid), algorithm, &[7; 64]).unwrap();
        let both = keyed(vec![key("a", Algorithm::Hs256), key("b", Algorithm::Hs512)]);
        let refused = InvalidIssuers::KeyForTwoAlgorithms { name: both.name.clone(), kid: Some("b".into()) };
        assert_eq!(Issuers::new(vec![both]).unwrap_err(), refused);
        assert!(Issuers::new(vec![keyed(vec![key("a", Algorithm::Hs256), key("b", Algorithm::Hs256)])]).is_ok());
    }

    #[test]
    fn refuses_a_skew_above_a_minute_and_a_lifetime_above_a_day() {
        let skew = IssuerRules { skew: SKEW_MAX + Duration::from_nanos(1), ..rules() };
        assert!(matches!(Issuers::new(vec![skew]), Err(InvalidIssuers::SkewTooLong { .. })));
        for lifetime_max in [LIFETIME_MAX + Duration::from_nanos(1), Duration::ZERO] {
            let lifetime = IssuerRules { lifetime_max, ..rules() };
            assert!(matches!(Issuers::new(vec![lifetime]), Err(InvalidIssuers::LifetimeOutOfRange { .. })));
        }
    }

    #[test]
    fn optional_claims_have_names_that_round_trip() {
        let names = OptionalClaim::ALL.map(OptionalClaim::name);
        assert_eq!(names, ["customer_id", "agent_id", "governor_agent_id", "tier", "jti", "nbf", "token_type", "token_version"]);
        assert_eq!(OptionalClaim::ALL.map(|claim| OptionalClaim::parse(claim.name())), OptionalClaim::ALL.map(Some));
        assert_eq!(OptionalClaim::parse("sub"), None);
    }
}
