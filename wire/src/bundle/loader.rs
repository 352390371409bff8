//! From an image to its hot form, in steps that take well below a millisecond each: whoever loads goes on serving in between.

use super::image::{self, Head, Kind, Part, ShadowHead};
use super::issuers::issuer_rules;
use super::{BundleError, BundleVersion, IssuerKeys, LoadedBundle, LoadedShadow, RulesImage};
use crate::policy::{Issuer, PolicyDocument, Role, Route};
use crate::pseudonym::PseudonymKey;
use crate::translate::{role_source, route_source};
use authn::{IssuerRules, Issuers};
use decision_core::policy::CompiledPolicy;
use decision_core::policy::compile::Compiler;

/// An image that is being loaded. Nothing of it is in force before the last step.
#[derive(Debug)]
pub struct Loader {
    image: Vec<u8>,
    /// Where the next part begins.
    at: usize,
    parts: std::vec::IntoIter<Part>,
    version: BundleVersion,
    compiler: Option<Compiler>,
    issuers: Option<Keyring>,
    registration_key_hashes: Vec<[u8; 32]>,
    pseudonym_key: Option<PseudonymKey>,
    active: Option<CompiledPolicy>,
    rules: Option<RulesImage>,
    shadow: Option<ShadowUnderWay>,
    shadow_rules: Option<RulesImage>,
}

/// Issuers whose keys are not read yet, and those that are.
#[derive(Debug)]
struct Keyring {
    ahead: std::vec::IntoIter<Issuer>,
    keys: Vec<IssuerKeys>,
    done: Vec<IssuerRules>,
}

#[derive(Debug)]
struct ShadowUnderWay {
    revision: u64,
    policy: Option<CompiledPolicy>,
}

impl Loader {
    /// Reads the table of parts.
    ///
    /// # Errors
    /// It is no image, or its parts are not those of a bundle.
    pub fn new(image: Vec<u8>) -> Result<Self, BundleError> {
        let (table, at) = image::open(&image)?;
        Ok(Self {
            image,
            at,
            parts: table.parts.into_iter(),
            version: table.version,
            compiler: None,
            issuers: None,
            registration_key_hashes: Vec::new(),
            pseudonym_key: None,
            active: None,
            rules: None,
            shadow: None,
            shadow_rules: None,
        })
    }

    /// Which version it is.
    #[must_use]
    pub const fn version(&self) -> &BundleVersion {
        &self.version
    }

    /// The image, to be handed on.
    #[must_use]
    pub fn into_image(self) -> Vec<u8> {
        self.image
    }

    /// One part more: verified, read, compiled. The bundle, after the last.
    ///
    /// # Errors
    /// The first thing that is wrong with it. There is no next step then.
    pub fn step(&mut self) -> Result<Option<LoadedBundle>, BundleError> {
        if let Some(part) = self.parts.next() {
            return self.take(&part).map(|()| None);
        }
        // Whatever was being compiled is complete.
        if self.compiler.is_some() {
            return self.complete().map(|()| None);
        }
        let keyring = self.issuers.as_mut().ok_or(BundleError::Parts)?;
        if let Some(issuer) = keyring.ahead.next() {
            keyring.done.push(issuer_rules(&issuer, &keyring.keys)?);
            return Ok(None);
        }
        self.finish().map(Some)
    }

    /// All steps at once.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn run(mut self) -> Result<LoadedBundle, BundleError> {
        loop {
            if let Some(loaded) = self.step()? {
                return Ok(loaded);
            }
        }
    }

    fn take(&mut self, part: &Part) -> Result<(), BundleError> {
        let bytes = image::verified(part, &self.image, self.at)?;
        self.at += bytes.len();
        match part.kind {
            Kind::Head => {
                let Head { policy, keys, registration_key_hashes, pseudonym_key } = image::parse(bytes)?;
                (self.registration_key_hashes, self.pseudonym_key) = (registration_key_hashes, pseudonym_key);
                self.begin(&policy, Kind::Routes)?;
                self.issuers = Some(Keyring { ahead: policy.issuers.into_iter(), keys, done: Vec::new() });
                Ok(())
            }
            Kind::Roles | Kind::ShadowRoles => {
                let (roles, compiler): (Vec<Role>, _) = (image::parse(bytes)?, self.compiler.as_mut().ok_or(BundleError::Parts)?);
                roles.iter().try_for_each(|role| compiler.role(&role_source(role))).map_err(BundleError::Policy)
            }
            Kind::Routes | Kind::ShadowRoutes => {
                let (routes, compiler): (Vec<Route>, _) = (image::parse(bytes)?, self.compiler.as_mut().ok_or(BundleError::Parts)?);
                routes.iter().try_for_each(|route| compiler.route(&route_source(route))).map_err(BundleError::Policy)
            }
            Kind::Rules => {
                self.rules = Some(image::parse(bytes)?);
                Ok(())
            }
            Kind::ShadowHead => {
                let ShadowHead { revision, policy } = image::parse(bytes)?;
                self.complete()?;
                self.shadow = Some(ShadowUnderWay { revision, policy: None });
                self.begin(&policy, Kind::ShadowRoutes)
            }
            Kind::ShadowRules => {
                self.shadow_rules = Some(image::parse(bytes)?);
                Ok(())
            }
        }
    }

    /// A policy whose routes are the parts of that kind.
    fn begin(&mut self, policy: &PolicyDocument, routes: Kind) -> Result<(), BundleError> {
        let mut compiler = Compiler::begin(&policy.to_source()).map_err(BundleError::Policy)?;
        let entries = self.parts.as_slice().iter().filter(|part| part.kind == routes).map(|part| part.entries);
        let entries = entries.fold(0_u32, u32::saturating_add);
        compiler.expect_routes(usize::try_from(entries).unwrap_or(0));
        self.compiler = Some(compiler);
        Ok(())
    }

    /// The policy that is being compiled has all its parts.
    fn complete(&mut self) -> Result<(), BundleError> {
        let compiler = self.compiler.take().ok_or(BundleError::Parts)?;
        let policy = compiler.finish().map_err(BundleError::Policy)?;
        match &mut self.shadow {
            None => self.active = Some(policy),
            Some(shadow) => shadow.policy = Some(policy),
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<LoadedBundle, BundleError> {
        let keyring = self.issuers.take().ok_or(BundleError::Parts)?;
        let shadow = self.shadow.take().map(|shadow| {
            let policy = shadow.policy.ok_or(BundleError::Parts)?;
            Ok(LoadedShadow { revision: shadow.revision, policy, rules: self.shadow_rules.take() })
        });
        Ok(LoadedBundle {
            version: self.version,
            policy: self.active.take().ok_or(BundleError::Parts)?,
            issuers: Issuers::new(keyring.done).map_err(BundleError::Issuers)?,
            registration_key_hashes: std::mem::take(&mut self.registration_key_hashes),
            pseudonym_key: self.pseudonym_key.take(),
            rules: self.rules.take(),
            shadow: shadow.transpose()?,
        })
    }
}
