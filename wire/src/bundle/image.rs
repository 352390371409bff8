//! The form in which a bundle travels: a frame with the table of parts, and the parts one after the other. The table holds
//! length and SHA-256 of each, and is itself sealed: a part cannot be damaged, swapped or left out unseen. Offsets are
//! checked before anything is read, and nothing is allocated by a number that an image merely claims.

use super::{Bundle, BundleError, BundleVersion, IssuerKeys, RulesImage, ShadowPolicy};
use crate::frame::{self, FrameError};
use crate::policy::{PolicyDocument, Role, Route};
use crate::pseudonym::PseudonymKey;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};

/// A part of roles or routes is closed when it has so many entries, or so many bytes: verifying, reading and compiling it
/// takes well below a millisecond.
const ENTRIES_PER_PART: u32 = 64;
const BYTES_PER_PART: usize = 8 * 1_024;

/// What a part holds. Parts come in this order, those of the active policy first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) enum Kind {
    Head,
    Roles,
    Routes,
    Rules,
    ShadowHead,
    ShadowRoles,
    ShadowRoutes,
    ShadowRules,
}

/// A part's entry in the table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Part {
    pub(super) kind: Kind,
    pub(super) length: u32,
    /// How many roles or routes it holds; 1 of anything else.
    pub(super) entries: u32,
    pub(super) sha256: [u8; 32],
}

/// The table of parts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Table {
    pub(super) version: BundleVersion,
    pub(super) parts: Vec<Part>,
}

#[derive(Serialize, Deserialize)]
struct Sealed {
    sha256: [u8; 32],
    #[serde(with = "serde_bytes")]
    table: Vec<u8>,
}

/// Everything of a bundle but roles, routes, custom rules and the revision in shadow.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Head {
    pub(super) policy: PolicyDocument,
    pub(super) keys: Vec<IssuerKeys>,
    pub(super) registration_key_hashes: Vec<[u8; 32]>,
    pub(super) pseudonym_key: Option<PseudonymKey>,
}

/// The same of the revision in shadow.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ShadowHead {
    pub(super) revision: u64,
    pub(super) policy: PolicyDocument,
}

pub(super) fn write(bundle: &Bundle) -> Result<Vec<u8>, BundleError> {
    let mut writer = Writer::default();
    let head = Head {
        policy: without_tables(&bundle.policy),
        keys: bundle.keys.clone(),
        registration_key_hashes: bundle.registration_key_hashes.clone(),
        pseudonym_key: bundle.pseudonym_key.clone(),
    };
    writer.one(Kind::Head, &head)?;
    writer.many(Kind::Roles, &bundle.policy.roles)?;
    writer.many(Kind::Routes, &bundle.policy.routes)?;
    if let Some(rules) = &bundle.rules {
        writer.one(Kind::Rules, rules)?;
    }
    if let Some(shadow) = &bundle.shadow {
        writer.one(Kind::ShadowHead, &ShadowHead { revision: shadow.revision, policy: without_tables(&shadow.policy) })?;
        writer.many(Kind::ShadowRoles, &shadow.policy.roles)?;
        writer.many(Kind::ShadowRoutes, &shadow.policy.routes)?;
        if let Some(rules) = &shadow.rules {
            writer.one(Kind::ShadowRules, rules)?;
        }
    }
    writer.finish(bundle.version)
}

/// The document without what travels in parts of its own.
fn without_tables(policy: &PolicyDocument) -> PolicyDocument {
    PolicyDocument {
        include: policy.include.clone(),
        settings: policy.settings.clone(),
        approvals: policy.approvals.clone(),
        routing: policy.routing,
        failure_modes: policy.failure_modes,
        responses: policy.responses.clone(),
        flags: policy.flags.clone(),
        rules: policy.rules.clone(),
        issuers: policy.issuers.clone(),
        registration_keys: policy.registration_keys.clone(),
        permissions: policy.permissions.clone(),
        roles: Vec::new(),
        routes: Vec::new(),
        budgets: policy.budgets.clone(),
        reporting: policy.reporting.clone(),
        prices: policy.prices.clone(),
        audit: policy.audit.clone(),
        explanations: policy.explanations.clone(),
    }
}

#[derive(Default)]
struct Writer {
    parts: Vec<Part>,
    bytes: Vec<u8>,
}

impl Writer {
    fn one<T: Serialize>(&mut self, kind: Kind, value: &T) -> Result<(), BundleError> {
        let bytes = postcard::to_extend(value, Vec::new()).map_err(payload)?;
        self.push(kind, 1, &bytes)
    }

    /// A list, in parts that are lists each.
    fn many<T: Serialize>(&mut self, kind: Kind, list: &[T]) -> Result<(), BundleError> {
        let (mut entries, mut bytes) = (0_u32, Vec::new());
        for (index, value) in list.iter().enumerate() {
            bytes = postcard::to_extend(value, bytes).map_err(payload)?;
            entries += 1;
            if entries == ENTRIES_PER_PART || bytes.len() >= BYTES_PER_PART || index + 1 == list.len() {
                // A list is its length and then its entries.
                let mut part = postcard::to_extend(&entries, Vec::with_capacity(bytes.len() + 5)).map_err(payload)?;
                part.append(&mut bytes);
                self.push(kind, entries, &part)?;
                entries = 0;
            }
        }
        Ok(())
    }

    fn push(&mut self, kind: Kind, entries: u32, bytes: &[u8]) -> Result<(), BundleError> {
        let too_long = |_| BundleError::Frame(FrameError::Length { said: 0, found: bytes.len() });
        let length = u32::try_from(bytes.len()).map_err(too_long)?;
        self.parts.push(Part { kind, length, entries, sha256: Sha256::digest(bytes).into() });
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn finish(self, version: BundleVersion) -> Result<Vec<u8>, BundleError> {
        let table = postcard::to_extend(&Table { version, parts: self.parts }, Vec::new()).map_err(payload)?;
        let sealed = Sealed { sha256: Sha256::digest(&table).into(), table };
        let mut image = frame::encode(&sealed).map_err(BundleError::Frame)?;
        image.extend_from_slice(&self.bytes);
        Ok(image)
    }
}

fn payload(error: postcard::Error) -> BundleError {
    BundleError::Frame(FrameError::Payload(error))
}

/// The table of an image, and where the first part begins.
pub(super) fn open(image: &[u8]) -> Result<(Table, usize), BundleError> {
    let (frame, parts) = frame::split(image).map_err(BundleError::Frame)?;
    let sealed: Sealed = frame::decode(frame).map_err(BundleError::Frame)?;
    if <[u8; 32]>::from(Sha256::digest(&sealed.table)) != sealed.sha256 {
        return Err(BundleError::Hash);
    }
    let table: Table = parse(&sealed.table)?;
    let said = table.parts.iter().try_fold(0_usize, |sum, part| sum.checked_add(usize::try_from(part.length).ok()?));
    if said != Some(parts.len()) {
        return Err(BundleError::Frame(FrameError::Length { said: said.unwrap_or(usize::MAX), found: parts.len() }));
    }
    let first = |kind| table.parts.iter().position(|part| part.kind == kind);
    let is_sorted = table.parts.is_sorted_by_key(|part| part.kind);
    let shadow_has_head = table.parts.iter().all(|part| part.kind < Kind::ShadowHead) || first(Kind::ShadowHead).is_some();
    let repeats = table.parts.array_windows().any(|[one, next]| one.kind == next.kind && !one.kind.repeats());
    // Every entry takes a byte at least: nothing larger may be prepared for.
    let plausible = table.parts.iter().all(|part| part.entries <= part.length);
    if !is_sorted || first(Kind::Head) != Some(0) || !shadow_has_head || repeats || !plausible {
        return Err(BundleError::Parts);
    }
    Ok((table, frame.len()))
}

impl Kind {
    const fn repeats(self) -> bool {
        match self {
            Self::Roles | Self::Routes | Self::ShadowRoles | Self::ShadowRoutes => true,
            Self::Head | Self::Rules | Self::ShadowHead | Self::ShadowRules => false,
        }
    }
}

/// The bytes of a part, if they are what the table says.
pub(super) fn verified<'i>(part: &Part, image: &'i [u8], at: usize) -> Result<&'i [u8], BundleError> {
    let end = usize::try_from(part.length).ok().and_then(|length| at.checked_add(length));
    let bytes = end.and_then(|end| image.get(at..end)).ok_or(BundleError::Parts)?;
    if <[u8; 32]>::from(Sha256::digest(bytes)) == part.sha256 { Ok(bytes) } else { Err(BundleError::Hash) }
}

/// A whole value, and nothing behind it.
pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, BundleError> {
    match postcard::take_from_bytes(bytes).map_err(payload)? {
        (value, []) => Ok(value),
        (_, rest) => Err(BundleError::Frame(FrameError::Length { said: bytes.len() - rest.len(), found: bytes.len() })),
    }
}

pub(super) fn read(image: &[u8]) -> Result<Bundle, BundleError> {
    let (table, mut at) = open(image)?;
    let (mut head, mut rules, mut shadow) = (None, None, None::<ShadowPolicy>);
    let (mut tables, mut shadow_tables) = (Tables::default(), Tables::default());
    for part in &table.parts {
        let bytes = verified(part, image, at)?;
        match part.kind {
            Kind::Head => head = Some(parse::<Head>(bytes)?),
            Kind::Roles => tables.roles.append(&mut parse(bytes)?),
            Kind::Routes => tables.routes.append(&mut parse(bytes)?),
            Kind::Rules => rules = Some(parse::<RulesImage>(bytes)?),
            Kind::ShadowHead => {
                let ShadowHead { revision, policy } = parse(bytes)?;
                shadow = Some(ShadowPolicy { revision, policy, rules: None });
            }
            Kind::ShadowRoles => shadow_tables.roles.append(&mut parse(bytes)?),
            Kind::ShadowRoutes => shadow_tables.routes.append(&mut parse(bytes)?),
            Kind::ShadowRules => shadow.as_mut().ok_or(BundleError::Parts)?.rules = Some(parse(bytes)?),
        }
        at += bytes.len();
    }
    let Head { mut policy, keys, registration_key_hashes, pseudonym_key } = head.ok_or(BundleError::Parts)?;
    tables.put_into(&mut policy);
    if let Some(shadow) = &mut shadow {
        shadow_tables.put_into(&mut shadow.policy);
    }
    Ok(Bundle { version: table.version, policy, keys, registration_key_hashes, pseudonym_key, rules, shadow })
}

#[derive(Default)]
struct Tables {
    roles: Vec<Role>,
    routes: Vec<Route>,
}

impl Tables {
    fn put_into(self, policy: &mut PolicyDocument) {
        (policy.roles, policy.routes) = (self.roles, self.routes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Gateway;

    fn bundle(routes: usize, shadow: bool) -> Bundle {
        let route = |index: usize| Route {
            name: format!("route.{index}"),
            gateways: vec![Gateway::Cp],
            methods: vec![crate::policy::Method::Get],
            path: format!("/{index}"),
            require: crate::policy::Requirement::Public,
            permission: None,
            cost_micros: None,
            tasks: 0,
            limit: None,
            approval: crate::policy::Approval::None,
            trial: crate::policy::TrialAccess::Allow,
            credential: crate::policy::CredentialForwarding::Drop,
            flag: None,
            ownership: None,
            rewrite: None,
            exchange: crate::policy::ExchangeKind::Plain,
            metering: None,
            audit: crate::policy::AuditLevel::Sampled(7),
        };
        let role = |index: usize| Role { name: format!("role-{index}"), aliases: vec![], permissions: vec!["*".into()] };
        let policy = PolicyDocument {
            roles: (0..routes / 2).map(role).collect(),
            routes: (0..routes).map(route).collect(),
            permissions: vec!["a.read".into()],
            ..PolicyDocument::default()
        };
        Bundle {
            version: BundleVersion { database_id: [7; 16], activation: 3, revision: 2, key_set: 1, shadow: u64::from(shadow) },
            shadow: shadow.then(|| ShadowPolicy { revision: 9, policy: policy.clone(), rules: None }),
            policy,
            keys: vec![],
            registration_key_hashes: vec![[1; 32]],
            pseudonym_key: PseudonymKey::new(vec![2; 32]).ok(),
            rules: None,
        }
    }

    /// Damages the table, and seals it again as somebody would who wants to deceive.
    fn forged(image: &[u8], change: impl FnOnce(&mut Table)) -> Vec<u8> {
        let (mut table, at) = open(image).unwrap();
        change(&mut table);
        let table = postcard::to_extend(&table, Vec::new()).unwrap();
        let mut forged = frame::encode(&Sealed { sha256: Sha256::digest(&table).into(), table }).unwrap();
        forged.extend_from_slice(&image[at..]);
        forged
    }

    #[test]
    fn what_is_written_is_read_back_in_its_order() {
        for (routes, shadow) in [(0, false), (1, false), (63, true), (64, true), (65, false), (300, true)] {
            let bundle = bundle(routes, shadow);
            let image = bundle.encode().unwrap();
            assert_eq!(Bundle::decode(&image).unwrap(), bundle);
            let loaded = super::super::Loader::new(image).unwrap().run().unwrap();
            assert_eq!((loaded.policy.routes().len(), loaded.version), (routes, bundle.version));
            assert!(loaded.policy.routes().iter().zip(&bundle.policy.routes).all(|(one, other)| *one.name == *other.name));
            assert_eq!(loaded.shadow.map(|shadow| (shadow.revision, shadow.policy.routes().len())), shadow.then_some((9, routes)));
        }
    }

    #[test]
    fn every_flipped_byte_and_every_truncation_is_refused() {
        let image = bundle(70, true).encode().unwrap();
        let refused = |image: Vec<u8>| super::super::Loader::new(image).and_then(super::super::Loader::run).is_err();
        for place in 0..image.len() {
            let mut flipped = image.clone();
            flipped[place] ^= 1 << (place % 8);
            assert!(Bundle::decode(&flipped).is_err(), "{place}");
            assert!(refused(flipped), "{place}");
        }
        for length in (0..image.len()).step_by(7) {
            assert!(refused(image[..length].to_vec()), "{length}");
        }
        let mut longer = image;
        longer.push(0);
        assert!(refused(longer));
    }

    #[test]
    fn parts_that_are_missing_repeated_or_in_disorder_are_refused() {
        let image = bundle(130, true).encode().unwrap();
        let changes: [fn(&mut Table); 7] = [
            |table| table.parts.swap(1, 2),
            |table| table.parts[0].kind = Kind::Roles,
            |table| table.parts[1].kind = Kind::Head,
            |table| table.parts.iter_mut().filter(|part| part.kind == Kind::ShadowHead).for_each(|part| part.kind = Kind::Rules),
            |table| table.parts[2].length += 1,
            |table| table.parts[2].entries = u32::MAX,
            |table| table.parts.last_mut().unwrap().kind = Kind::ShadowRules,
        ];
        for (number, change) in changes.into_iter().enumerate() {
            let forged = forged(&image, change);
            assert!(Bundle::decode(&forged).is_err(), "{number}");
            assert!(super::super::Loader::new(forged).and_then(super::super::Loader::run).is_err(), "{number}");
        }
        let mut no_parts = forged(&image, |table| table.parts.clear());
        assert!(Bundle::decode(&no_parts).is_err());
        no_parts.truncate(open(&image).unwrap().1);
        assert!(Bundle::decode(&no_parts).is_err());
    }
}
