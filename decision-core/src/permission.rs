//! Permissions as bits: names exist only when a policy is compiled and when a decision is explained.

/// A right such as `agent.create`, as its index in the catalogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Permission(u8);

impl Permission {
    /// The index.
    pub(crate) fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// A set of permissions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PermissionSet([u64; 4]);

impl PermissionSet {
    /// No permission.
    pub const EMPTY: Self = Self([0; 4]);

    /// Whether `permission` is in it.
    #[must_use]
    pub fn covers(&self, permission: Permission) -> bool {
        let (word, bit) = (usize::from(permission.0 / 64), permission.0 % 64);
        self.0.get(word).is_some_and(|bits| bits & (1 << bit) != 0)
    }

    /// Adds one.
    pub fn insert(&mut self, permission: Permission) {
        let (word, bit) = (usize::from(permission.0 / 64), permission.0 % 64);
        if let Some(bits) = self.0.get_mut(word) {
            *bits |= 1 << bit;
        }
    }

    /// Adds all of `other`.
    pub fn extend(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine |= theirs;
        }
    }
}

/// Every permission that a policy knows, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PermissionCatalogue {
    names: Vec<Box<str>>,
    /// Their indices, sorted by name: a large policy names a permission in every route and many in every role.
    sorted: Vec<u8>,
}

impl PermissionCatalogue {
    /// The most permissions that one policy may have: one per bit.
    pub const CAPACITY: usize = 256;

    /// From names without repeats.
    ///
    /// # Errors
    /// A repeated name, or more names than bits.
    pub fn new<'n>(names: impl IntoIterator<Item = &'n str>) -> Result<Self, InvalidCatalogue> {
        let mut catalogue = Self::default();
        for name in names {
            let place = match catalogue.search(name) {
                Ok(_) => return Err(InvalidCatalogue::Repeated { name: name.into() }),
                Err(place) => place,
            };
            let index = u8::try_from(catalogue.names.len()).map_err(|_| InvalidCatalogue::TooMany)?;
            catalogue.names.push(name.into());
            catalogue.sorted.insert(place, index);
        }
        Ok(catalogue)
    }

    /// The permission of that name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Permission> {
        self.search(name).ok().and_then(|place| self.sorted.get(place)).copied().map(Permission)
    }

    fn search(&self, name: &str) -> Result<usize, usize> {
        self.sorted.binary_search_by(|index| self.name(Permission(*index)).cmp(name))
    }

    /// The name of a permission.
    #[must_use]
    pub fn name(&self, permission: Permission) -> &str {
        self.names.get(usize::from(permission.0)).map_or("", |name| name)
    }

    /// Everything.
    #[must_use]
    pub fn all(&self) -> PermissionSet {
        let mut set = PermissionSet::EMPTY;
        for index in 0..self.names.len() {
            if let Ok(index) = u8::try_from(index) {
                set.insert(Permission(index));
            }
        }
        set
    }

    /// All names, in index order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(|name| &**name)
    }
}

/// Why a list of names is no catalogue.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCatalogue {
    /// A name stands twice.
    #[error("permission `{name}` is listed twice")]
    Repeated {
        /// The name.
        name: Box<str>,
    },
    /// More names than bits.
    #[error("more than {} permissions", PermissionCatalogue::CAPACITY)]
    TooMany,
}
