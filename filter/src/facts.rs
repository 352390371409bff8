//! The header block of one request, read once and kept: everything that deciding, forwarding and recording needs.

use crate::host::{Host, HostError};
use decision_core::decision::DenyReason;
use decision_core::facts::{HeaderBlock, MalformedHeaderBlock, Presented, Upgrade};
use std::ops::Range;

/// Longest accepted correlation, causation or approval id, in bytes.
const ID_LENGTH_MAX: usize = 256;

/// The request as it arrived. Owns the host's buffer; everything else is places in it.
#[derive(Debug, Default)]
pub(crate) struct RequestHeaders {
    block: Vec<u8>,
    method: Place,
    target: Place,
    authority: Place,
    accept: Place,
    content_type: Found,
    content_length: Place,
    content_encoding: Found,
    /// The `:protocol` of an extended CONNECT (RFC 8441).
    protocol: Option<Place>,
    upgrade: Found,
    /// `Connection: upgrade` (RFC 9110 §7.8).
    connection: Connection,
    /// Digests of the body, by the headers' names.
    digests: Vec<Place>,
    authorization: Found,
    registration_key: Found,
    approval_id: Found,
    correlation_id: Found,
    causation_id: Found,
    request_id: Found,
    untrusted: Vec<Place>,
}

type Place = Range<usize>;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Found {
    #[default]
    Absent,
    Once(Place),
    Repeated,
}

impl Found {
    fn add(&mut self, place: Place) {
        *self = match self {
            Self::Absent => Self::Once(place),
            Self::Once(_) | Self::Repeated => Self::Repeated,
        };
    }
}

/// What the connection's options say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Connection {
    #[default]
    Stays,
    Upgrades,
}

/// The block could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unreadable {
    #[error("the host gave no headers")]
    Host(#[from] HostError),
    #[error("the host's header block is malformed")]
    Malformed(#[from] MalformedHeaderBlock),
}

impl RequestHeaders {
    /// Reads the effective stream's request headers: one host call.
    pub(crate) fn read(host: &impl Host) -> Result<Self, Unreadable> {
        let block = host.request_headers()?;
        let mut headers = Self::default();
        for (name, value) in HeaderBlock::parse(&block)?.iter() {
            headers.note(name, value, place_in(&block, name), place_in(&block, value));
        }
        headers.block = block;
        Ok(headers)
    }

    fn note(&mut self, name: &[u8], text: &[u8], name_place: Place, value: Place) {
        match name {
            b":method" => self.method = value,
            b":path" => self.target = value,
            b":authority" => self.authority = value,
            b"accept" => self.accept = value,
            b"content-type" => self.content_type.add(value),
            b"content-length" => self.content_length = value,
            b"content-encoding" => self.content_encoding.add(value),
            b":protocol" => self.protocol = Some(value),
            b"upgrade" => self.upgrade.add(value),
            b"connection" if names_upgrade(text) => self.connection = Connection::Upgrades,
            b"content-digest" | b"repr-digest" | b"digest" | b"content-md5" => self.digests.push(name_place),
            b"authorization" => self.authorization.add(value),
            b"x-cp-registration-key" => {
                self.registration_key.add(value);
                self.distrust(name_place);
            }
            b"x-approval-id" => {
                self.approval_id.add(value);
                self.distrust(name_place);
            }
            b"x-correlation-id" | b"x-causation-id" | b"x-request-id" => self.note_id(name, name_place, value),
            _ if is_trusted_by_backends(name) => self.distrust(name_place),
            _ => {}
        }
    }

    /// A repeated id is none: which one the backend would take is anybody's guess.
    fn note_id(&mut self, name: &[u8], name_place: Place, value: Place) {
        let id = match name {
            b"x-correlation-id" => &mut self.correlation_id,
            b"x-causation-id" => &mut self.causation_id,
            _ => &mut self.request_id,
        };
        id.add(value);
        if *id == Found::Repeated {
            self.distrust(name_place);
        }
    }

    fn id(&self, found: &Found) -> Option<&str> {
        match found {
            Found::Once(place) => sane_id(self.at(place)).filter(|id| !self.is_registration_key(id)),
            Found::Absent | Found::Repeated => None,
        }
    }

    /// Ids are recorded and sent on: one that repeats the registration key is none.
    fn is_registration_key(&self, id: &str) -> bool {
        match &self.registration_key {
            Found::Once(place) => self.at(place).trim_ascii() == id.as_bytes(),
            Found::Absent | Found::Repeated => false,
        }
    }

    fn distrust(&mut self, name: Place) {
        // A repeated header is removed by its first mention: the host removes every copy.
        self.untrusted.push(name);
    }

    fn at(&self, place: &Place) -> &[u8] {
        self.block.get(place.clone()).unwrap_or_default()
    }

    fn text_at(&self, place: &Place) -> Option<&str> {
        std::str::from_utf8(self.at(place)).ok().filter(|text| !text.is_empty())
    }

    fn presented(&self, found: &Found) -> Presented<'_> {
        match found {
            Found::Absent => Presented::Absent,
            Found::Once(place) => Presented::Once(self.at(place)),
            Found::Repeated => Presented::Repeated,
        }
    }

    /// The method as sent.
    pub(crate) fn method(&self) -> &[u8] {
        self.at(&self.method)
    }

    /// The method that routes are matched by: opening a WebSocket is a GET, also where HTTP/2 says CONNECT (RFC 8441 §5).
    pub(crate) fn matched_method(&self) -> &[u8] {
        match (self.method(), self.upgrade()) {
            (b"CONNECT", Upgrade::Websocket) if self.protocol.is_some() => b"GET",
            (method, Upgrade::None | Upgrade::Websocket | Upgrade::Other) => method,
        }
    }

    /// Which protocol the client asks to change to.
    pub(crate) fn upgrade(&self) -> Upgrade {
        let asked = match (&self.protocol, &self.upgrade, self.connection) {
            (Some(protocol), _, _) => self.at(protocol),
            (None, Found::Once(place), Connection::Upgrades) => self.at(place),
            (None, Found::Repeated, Connection::Upgrades) => return Upgrade::Other,
            (None, Found::Absent, _) | (None, Found::Once(_) | Found::Repeated, Connection::Stays) => return Upgrade::None,
        };
        if asked.trim_ascii().eq_ignore_ascii_case(b"websocket") { Upgrade::Websocket } else { Upgrade::Other }
    }

    /// Whether the body is coded, be it as `identity`.
    pub(crate) fn has_content_encoding(&self) -> Presence {
        presence(&self.content_encoding)
    }

    /// The headers that say what the bytes of the body are.
    pub(crate) fn digests(&self) -> impl Iterator<Item = &str> {
        self.digests.iter().filter_map(|place| self.text_at(place))
    }

    pub(crate) fn has_content_type(&self) -> Presence {
        presence(&self.content_type)
    }

    /// All of them, as they came.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        // It was read before; the default has no block.
        HeaderBlock::parse(&self.block).into_iter().flat_map(HeaderBlock::iter)
    }

    /// Path and query as sent.
    pub(crate) fn target(&self) -> &[u8] {
        self.at(&self.target)
    }

    /// The path as sent, for records and refusals: nothing is assumed of it.
    pub(crate) fn path_lossy(&self) -> std::borrow::Cow<'_, str> {
        let path = self.target().split(|byte| *byte == b'?').next().unwrap_or_default();
        String::from_utf8_lossy(path.get(..1_024).unwrap_or(path))
    }

    pub(crate) fn authority(&self) -> &[u8] {
        self.at(&self.authority)
    }

    /// The `Authorization` header's value, if it stands there once.
    pub(crate) fn authorization(&self) -> Result<Option<&[u8]>, DenyReason> {
        once(self.presented(&self.authorization), "authorization")
    }

    pub(crate) fn registration_key(&self) -> Result<Option<&[u8]>, DenyReason> {
        once(self.presented(&self.registration_key), "x-cp-registration-key")
    }

    /// The approval that the client presents.
    pub(crate) fn approval_id(&self) -> Result<Option<&str>, DenyReason> {
        self.for_approval(&self.approval_id, "x-approval-id", sane_id)
    }

    /// How the body is to be read, for an approval to be bound to.
    pub(crate) fn bound_content_type(&self) -> Result<Option<&str>, DenyReason> {
        self.for_approval(&self.content_type, "content-type", plain_text)
    }

    /// How the body is coded, for an approval to be bound to.
    pub(crate) fn bound_content_encoding(&self) -> Result<Option<&str>, DenyReason> {
        self.for_approval(&self.content_encoding, "content-encoding", plain_text)
    }

    /// The host, as names compare, for an approval to be bound to.
    pub(crate) fn bound_authority(&self) -> Result<String, DenyReason> {
        std::str::from_utf8(self.authority()).map(str::to_ascii_lowercase).map_err(|_| DenyReason::ApprovalHeader("host"))
    }

    fn for_approval(&self, found: &Found, name: &'static str, read: fn(&[u8]) -> Option<&str>) -> Result<Option<&str>, DenyReason> {
        match self.presented(found) {
            Presented::Absent => Ok(None),
            Presented::Once(value) => read(value).map(Some).ok_or(DenyReason::ApprovalHeader(name)),
            Presented::Repeated => Err(DenyReason::ApprovalHeader(name)),
        }
    }

    /// The client's correlation id, if it is sane.
    pub(crate) fn correlation_id(&self) -> Option<&str> {
        self.id(&self.correlation_id)
    }

    /// The parent request: `X-Causation-ID`, else the `X-Request-ID` that the client sent.
    pub(crate) fn causation_id(&self) -> Option<&str> {
        self.id(&self.causation_id).or_else(|| self.id(&self.request_id))
    }

    pub(crate) fn has_request_id(&self) -> Presence {
        presence(&self.request_id)
    }

    pub(crate) fn has_correlation_id(&self) -> Presence {
        presence(&self.correlation_id)
    }

    pub(crate) fn has_causation_id(&self) -> Presence {
        presence(&self.causation_id)
    }

    /// Whether the client sent any header that backends believe.
    pub(crate) fn has_untrusted(&self) -> Presence {
        if self.untrusted.is_empty() { Presence::Absent } else { Presence::Present }
    }

    pub(crate) fn has_authorization(&self) -> Presence {
        presence(&self.authorization)
    }

    /// The headers that backends believe, and that a client sent.
    pub(crate) fn untrusted(&self) -> impl Iterator<Item = &str> {
        self.untrusted.iter().filter_map(|place| self.text_at(place))
    }

    /// How long the body is, where the client says so.
    pub(crate) fn content_length(&self) -> Option<u64> {
        self.text_at(&self.content_length)?.parse().ok()
    }

    /// Which body format a refusal takes.
    pub(crate) fn problem_format(&self) -> ProblemFormat {
        if matches!(self.presented(&self.content_type), Presented::Once(media) if media.starts_with(b"application/grpc")) {
            return ProblemFormat::Empty;
        }
        let accept = self.at(&self.accept);
        let names = |media: &[u8]| accept.windows(media.len()).any(|window| window.eq_ignore_ascii_case(media));
        if names(b"application/json") && !names(b"application/problem+json") { ProblemFormat::Json } else { ProblemFormat::ProblemJson }
    }
}

/// Whether a header is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Presence {
    Absent,
    Present,
}

/// Which body format a refusal takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProblemFormat {
    /// RFC 9457's media type.
    ProblemJson,
    /// `application/json`, for clients that ask for that and do not know the former.
    Json,
    /// No body: in gRPC it would become the status message.
    Empty,
}

fn once<'r>(presented: Presented<'r>, name: &'static str) -> Result<Option<&'r [u8]>, DenyReason> {
    match presented {
        Presented::Absent => Ok(None),
        Presented::Once(value) => Ok(Some(value)),
        Presented::Repeated => Err(DenyReason::AmbiguousHeader(name)),
    }
}

/// Whether a header was sent, be it empty.
fn presence(found: &Found) -> Presence {
    if *found == Found::Absent { Presence::Absent } else { Presence::Present }
}

/// An id that may be logged, stored and sent on: visible ASCII, not too long.
fn sane_id(value: &[u8]) -> Option<&str> {
    let sane = !value.is_empty() && value.len() <= ID_LENGTH_MAX && value.iter().all(u8::is_ascii_graphic);
    if sane { std::str::from_utf8(value).ok() } else { None }
}

/// Whether one of a connection's options is `upgrade`.
fn names_upgrade(options: &[u8]) -> bool {
    options.split(|byte| *byte == b',').any(|option| option.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
}

fn plain_text(value: &[u8]) -> Option<&str> {
    std::str::from_utf8(value).ok()
}

/// Names whose headers backends, or Envoy, take for the gateway's word.
fn is_trusted_by_backends(name: &[u8]) -> bool {
    let Some(name) = name.strip_prefix(b"x-") else {
        // The credential for a proxy is for us at most (RFC 9110 §11.7.2).
        return matches!(name, b"proxy-authorization" | b"remote-user");
    };
    const PREFIXES: [&[u8]; 12] = [
        b"user-",
        b"gateway",
        b"metering-",
        b"rbac-",
        b"governor-",
        b"policy-",
        b"auth-",
        b"authenticated-",
        b"remote-",
        // Envoy's router takes time-outs and retries from these.
        b"envoy-upstream-",
        b"envoy-retry-",
        b"envoy-hedge-",
    ];
    const NAMES: [&[u8]; 23] = [
        b"envoy-max-retries",
        b"envoy-original-path",
        // What other proxies say of whom they have authenticated, and of where a client is.
        b"real-ip",
        b"forwarded-user",
        b"forwarded-email",
        b"forwarded-groups",
        b"forwarded-preferred-username",
        b"email",
        b"role",
        b"roles",
        b"groups",
        b"customer-id",
        b"agent-id",
        b"trial-mode",
        b"target-backend",
        b"original-authorization",
        b"debug-trace",
        b"actual-cost-micros",
        // Some frameworks take these for the request line, which is what was authorised.
        b"http-method-override",
        b"http-method",
        b"method-override",
        b"original-url",
        b"rewrite-url",
    ];
    PREFIXES.iter().any(|prefix| name.starts_with(prefix)) || NAMES.contains(&name)
}

/// Where `part`, a slice of `whole`, lies in it.
fn place_in(whole: &[u8], part: &[u8]) -> Place {
    let start = part.as_ptr().addr().saturating_sub(whole.as_ptr().addr());
    start..start.saturating_add(part.len())
}
