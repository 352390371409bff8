//! What a policy says of records: how surely a request has one, and what of the request stands in it.

/// How surely the requests of a route are recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum AuditLevel {
    /// That a request is about to go on is stored before it does; else it does not.
    Required,
    /// Every request has a record, which is stored soon after its end.
    #[default]
    Buffered,
    /// Of the requests that went well one of so many has a record; of the others each.
    Sampled(u32),
}

/// How records name a user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Identities {
    /// As the token does.
    #[default]
    Plain,
    /// By keyed hashes of the subject and the email.
    Hashed,
}

/// Whether records have the `email` claim.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum EmailRecording {
    /// They do not.
    #[default]
    Omitted,
    /// They do.
    Recorded,
}

/// What happens when no more records can be kept until the control plane takes some.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum WhenFull {
    /// The oldest go, and leave a gap.
    #[default]
    DropOldest,
    /// Requests are refused.
    Refuse,
}

/// Names of headers or parameters whose values are recorded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names(Box<[Box<str>]>);

impl Names {
    /// They may come in any order.
    pub(crate) fn new(mut names: Vec<Box<str>>) -> Self {
        names.sort_unstable();
        Self(names.into())
    }

    /// Whether nothing is recorded.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The name, if it is one of them.
    #[must_use]
    pub fn find(&self, name: &[u8]) -> Option<&str> {
        let found = self.0.binary_search_by(|known| known.as_bytes().cmp(name)).ok()?;
        self.0.get(found).map(|known| &**known)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|name| &**name)
    }
}

/// What records hold beyond what all of them do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditRules {
    /// Headers of requests.
    pub request_headers: Names,
    /// Headers of answers.
    pub response_headers: Names,
    /// Parameters of queries.
    pub query_parameters: Names,
    /// How users are named.
    pub identities: Identities,
    /// Whether their email is recorded.
    pub email: EmailRecording,
    /// What happens when no more records can be kept.
    pub when_full: WhenFull,
}
