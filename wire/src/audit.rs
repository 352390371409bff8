//! The audit record: one per request on every listener, refusals included. Never a token, cookie, key or body.

use crate::policy::Gateway;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// Text that the filter lends and the control plane owns or borrows.
pub type Text<'a> = Cow<'a, str>;

/// One request, as it was decided and as it ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRecord<'a> {
    /// Whether it tells how the request ended, or only that it is about to go on.
    pub phase: Phase,
    /// When the request arrived, microseconds since the epoch.
    pub at_us: i64,
    /// Which listener.
    pub gateway: Gateway,
    /// Who answered, or would have.
    pub stage: Stage,
    /// The method; absent when Envoy refused the request before the filter saw it. So for the next three.
    #[serde(borrow)]
    pub method: Option<Text<'a>>,
    /// The path without query.
    #[serde(borrow)]
    pub path: Option<Text<'a>>,
    /// Which protocol it asked to change to.
    pub upgrade: Upgrade,
    /// Parameters of the query that the policy names, in the query's order, as sent.
    #[serde(borrow)]
    pub query: Vec<Named<'a>>,
    /// Headers of the request that the policy names.
    #[serde(borrow)]
    pub request_headers: Vec<Named<'a>>,
    /// Headers of the answer that the policy names.
    #[serde(borrow)]
    pub response_headers: Vec<Named<'a>>,
    /// The matched route.
    #[serde(borrow)]
    pub route: Option<Text<'a>>,
    /// The route's permission, `resource.action`.
    #[serde(borrow)]
    pub action: Option<Text<'a>>,
    /// Of how many requests like this one has a record: 1 of 1 unless the route is sampled.
    pub sampled_of: u32,
    /// The user.
    #[serde(borrow)]
    pub user: Option<Mention<User<'a>>>,
    /// As sent by the client if it was sane, else made new.
    #[serde(borrow)]
    pub correlation_id: Text<'a>,
    /// The parent request, as sent.
    #[serde(borrow)]
    pub causation_id: Option<Text<'a>>,
    /// Ours: a UUID v7.
    pub request_id: [u8; 16],
    /// The overall outcome.
    pub decision: Decision,
    /// The coded reason: `ok`, `permission_missing`, `expired`, …
    #[serde(borrow)]
    pub reason: Text<'a>,
    /// The custom rule or the budget that refused, as it names itself.
    #[serde(borrow)]
    pub rule: Option<Text<'a>>,
    /// Every check that was made, in order.
    pub checks: Vec<CheckOutcome>,
    /// How the revision in shadow would have decided, where that differs: a sample.
    #[serde(borrow)]
    pub shadow: Option<ShadowNote<'a>>,
    /// The activation that decided; 0 before the first bundle.
    pub activation: u64,
    /// The revision that decided.
    pub revision: u64,
    /// The key set that verified.
    pub key_set: u64,
    /// The last revocation that was enforced.
    pub revocation: u64,
    /// What was charged. An intent has none, so that the charges of all records add up to what was spent.
    #[serde(borrow)]
    pub charges: Vec<Charge<'a>>,
    /// How it became known what the request cost; absent when nothing was charged.
    pub cost: Option<CostBasis>,
    /// The tokens that were used, where they were counted.
    #[serde(borrow)]
    pub usage: Option<TokenUsage<'a>>,
    /// The approval that was requested or consumed.
    #[serde(borrow)]
    pub approval_id: Option<Text<'a>>,
    /// Whether the sandbox was the target.
    pub sandbox: bool,
    /// The status sent to the client; absent when none was.
    pub status: Option<u16>,
    /// Envoy's response code details, where something went wrong.
    #[serde(borrow)]
    pub details: Option<Text<'a>>,
    /// From arrival to the end of the stream, microseconds.
    pub total_us: u64,
    /// From forwarding to the first response header, microseconds; absent when not forwarded.
    pub upstream_us: Option<u64>,
    /// From arrival until the filter let it go on or answered, microseconds, waits included; absent when it did neither.
    pub ours_us: Option<u64>,
}

/// What a record tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// How the request ended.
    #[default]
    Outcome,
    /// That it is about to be forwarded: stored before it is, where the route's level is `required`. An outcome with the same
    /// request id follows.
    Intent,
}

/// A header or a query parameter that the policy names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named<'a> {
    /// Its name; of a header in lower case.
    #[serde(borrow)]
    pub name: Text<'a>,
    /// Its value, as sent, cut at 256 bytes.
    #[serde(borrow)]
    pub value: Text<'a>,
}

/// Which protocol a request asked to change to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Upgrade {
    /// None.
    #[default]
    None,
    /// WebSocket.
    Websocket,
    /// Another one.
    Other,
}

/// How the revision in shadow would have decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShadowNote<'a> {
    /// The revision in shadow.
    pub revision: u64,
    /// `permit` or `deny`: a request that differs in where it goes or what it costs only may be permitted by both.
    pub decision: Decision,
    /// The coded reason: `ok`, or why it would be refused.
    #[serde(borrow)]
    pub reason: Text<'a>,
    /// The route that it would match.
    #[serde(borrow)]
    pub route: Option<Text<'a>>,
}

/// Who answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// The filter saw the request.
    Filter,
    /// Envoy, or a filter before ours, answered without asking us.
    Envoy,
}

/// The user of a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User<'a> {
    /// Issuer name.
    #[serde(borrow)]
    pub issuer: Text<'a>,
    /// Subject; where the policy has users hashed, the [pseudonym](crate::pseudonym) of it, and so of email and of scopes that name it.
    #[serde(borrow)]
    pub subject: Text<'a>,
    /// The `user_id` claim.
    #[serde(borrow)]
    pub user_id: Text<'a>,
    /// The customer.
    #[serde(borrow)]
    pub customer_id: Option<Text<'a>>,
    /// The agent.
    #[serde(borrow)]
    pub agent_id: Option<Text<'a>>,
    /// The `email` claim, where the policy has it recorded.
    #[serde(borrow)]
    pub email: Option<Text<'a>>,
    /// The `governor_agent_id` claim.
    #[serde(borrow)]
    pub governor_agent_id: Option<Text<'a>>,
    /// Roles, joined by commas.
    #[serde(borrow)]
    pub roles: Text<'a>,
    /// The `tier` claim.
    #[serde(borrow)]
    pub tier: Option<Text<'a>>,
    /// Until when on trial, microseconds since the epoch; absent for a paying user.
    pub trial_until_us: Option<i64>,
}

/// The overall outcome of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Decision {
    /// Forwarded, or answered by the filter's own health endpoints.
    Permit,
    /// Refused by a rule.
    Deny,
    /// Could not be decided, and was refused or let through by the failure mode.
    Indeterminate,
    /// Not decided: Envoy answered first, or the client left.
    None,
}

/// A check of the pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names are the pipeline's stages")]
pub enum Check {
    Path,
    Route,
    Authentication,
    Permission,
    Trial,
    Approval,
    Budget,
    ClientLimit,
    Ownership,
    Routing,
    Rules,
}

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// In favour.
    Permit,
    /// Against.
    Deny,
    /// Could not be made; let through.
    FailedOpen,
    /// Could not be made; refused.
    FailedClosed,
    /// Switched off for this user by a feature flag.
    SkippedByFlag,
}

/// A check and how it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckOutcome {
    /// The check.
    pub check: Check,
    /// How it ended.
    pub outcome: Outcome,
}

/// A charge on one budget.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Charge<'a> {
    /// What was charged.
    #[serde(borrow)]
    pub account: Mention<Account<'a>>,
    /// How much in the end, all of it; 0 when released.
    pub amount: i64,
    /// Of `amount`: what was not reserved.
    pub overrun: i64,
}

/// How it became known what a request cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CostBasis {
    /// It costs what its route says.
    Fixed,
    /// The backend reported it.
    Reported,
    /// From the tokens that the response counts.
    Usage,
    /// Not: it was charged what was reserved.
    Unreadable,
}

/// The tokens of a language model that a request used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenUsage<'a> {
    /// The model that was priced.
    #[serde(borrow)]
    pub model: Text<'a>,
    /// Input tokens, without those of the next two.
    pub input: u64,
    /// Input tokens read from the provider's cache.
    pub cache_read: u64,
    /// Input tokens written into it.
    pub cache_write: u64,
    /// Output tokens.
    pub output: u64,
}

/// A budget and the scope with its values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account<'a> {
    /// The budget's name.
    #[serde(borrow)]
    pub budget: Text<'a>,
    /// The scope.
    #[serde(borrow)]
    pub scope: Text<'a>,
}

/// Something that many records of a batch name: spelled out the first time, by its number after that. Users and accounts
/// were two thirds of a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mention<T> {
    /// The first time in this batch. It gets the next number of its kind, from 0.
    New(T),
    /// The one with this number.
    Known(u32),
}

impl<T> Mention<T> {
    /// The thing itself, once [`Mentions::resolve`] has put it there.
    pub const fn get(&self) -> Option<&T> {
        match self {
            Self::New(thing) => Some(thing),
            Self::Known(_) => None,
        }
    }

    /// The same, to be changed.
    pub const fn get_mut(&mut self) -> Option<&mut T> {
        match self {
            Self::New(thing) => Some(thing),
            Self::Known(_) => None,
        }
    }
}

/// What the records of one batch have named so far. Records are resolved in their order.
#[derive(Clone, Debug, Default)]
pub struct Mentions<'a> {
    users: Vec<User<'a>>,
    accounts: Vec<Account<'a>>,
}

/// A record names something that no record before it has spelled out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the record mentions something that the batch has not spelled out")]
pub struct UnknownMention;

impl<'a> Mentions<'a> {
    /// Spells out everything that `record` mentions.
    ///
    /// # Errors
    /// It mentions something that is not known.
    pub fn resolve(&mut self, record: &mut AuditRecord<'a>) -> Result<(), UnknownMention> {
        if let Some(user) = &mut record.user {
            spell_out(user, &mut self.users)?;
        }
        record.charges.iter_mut().try_for_each(|charge| spell_out(&mut charge.account, &mut self.accounts))
    }
}

fn spell_out<T: Clone>(mention: &mut Mention<T>, known: &mut Vec<T>) -> Result<(), UnknownMention> {
    match mention {
        Mention::New(thing) => known.push(thing.clone()),
        Mention::Known(number) => {
            let thing = usize::try_from(*number).ok().and_then(|number| known.get(number)).ok_or(UnknownMention)?;
            *mention = Mention::New(thing.clone());
        }
    }
    Ok(())
}
