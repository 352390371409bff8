//! The words of the model: accounts, windows, charges, requests, and what is said about them.

/// Amounts are tiny, so that states are; arithmetic saturates at zero as in the ledger.
pub type Units = u8;

/// A window of the rate. Money has one long window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Window {
    /// The one in which the model begins.
    First,
    /// The one after it.
    Second,
}

/// An account: a budget in a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// Money.
    Money,
    /// The rate, in one window.
    Rate(Window),
}

impl Key {
    /// Every account.
    pub const ALL: [Self; 3] = [Self::Money, Self::Rate(Window::First), Self::Rate(Window::Second)];
}

/// One thing per account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PerKey<T> {
    money: T,
    first: T,
    second: T,
}

impl<T> PerKey<T> {
    /// Money's, and the rate's in both windows.
    pub const fn new(money: T, first: T, second: T) -> Self {
        Self { money, first, second }
    }

    /// What `key` has.
    pub const fn at(&self, key: Key) -> &T {
        match key {
            Key::Money => &self.money,
            Key::Rate(Window::First) => &self.first,
            Key::Rate(Window::Second) => &self.second,
        }
    }

    /// What `key` has, to be changed.
    pub const fn at_mut(&mut self, key: Key) -> &mut T {
        match key {
            Key::Money => &mut self.money,
            Key::Rate(Window::First) => &mut self.first,
            Key::Rate(Window::Second) => &mut self.second,
        }
    }
}

/// What a request costs: both accounts or none are charged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Charge {
    /// Of money.
    pub money: Units,
    /// Of the rate.
    pub rate: Units,
}

/// A request under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Request {
    /// What it reserved.
    pub charge: Charge,
    /// The window, by its holder's clock, in which it began.
    pub window: Window,
    /// The window of the lease that it spends.
    pub lease: Window,
}

impl Request {
    /// What it reserved of a lease.
    #[must_use]
    pub fn of_lease(&self, key: Key) -> Units {
        self.of(key, self.lease)
    }

    /// What it truly spends of an account.
    #[must_use]
    pub fn of_account(&self, key: Key) -> Units {
        self.of(key, self.window)
    }

    fn of(&self, key: Key, window: Window) -> Units {
        match key {
            Key::Money => self.charge.money,
            Key::Rate(at) if at == window => self.charge.rate,
            Key::Rate(Window::First | Window::Second) => 0,
        }
    }
}

/// What a request came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// It cost what it had reserved.
    Exact,
    /// A unit of money less.
    Less,
    /// A unit of money more.
    More,
    /// It never reached the backend: everything is released.
    Released,
}

/// What a holder asks for in a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Want {
    /// Nothing: it reports.
    Report,
    /// To give back what it does not use, as after a recall.
    Lower,
    /// Room for a request that waits.
    Ask(Charge),
    /// To end the leases that hold nothing.
    Close,
}

/// What a holder tells about one lease: `AccountReport` on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the fields are documented on the wire")]
pub struct Report {
    pub generation: u8,
    pub used: Units,
    pub held: Units,
    pub overrun: Units,
    pub target: Units,
    pub minimum: Units,
    pub charge: Units,
    pub close: bool,
}

/// What is answered about one lease: `AccountGrant` on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the fields are documented on the wire")]
pub struct Grant {
    pub generation: u8,
    pub granted: Units,
    /// Cap and settled amount, where the configuration has holders that refuse by them.
    pub told: Option<(Units, Units)>,
}

/// A call on its way. It may arrive never, late, or more than once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Call {
    /// Who calls.
    pub incarnation: u8,
    /// Its number.
    pub number: u8,
    /// One report per account that there is something to say about.
    pub reports: PerKey<Option<Report>>,
}

/// An answer on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Answer {
    /// To whom.
    pub incarnation: u8,
    /// The call that is answered.
    pub number: u8,
    /// What it says.
    pub body: Answered,
}

/// What an answer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Answered {
    /// The holder was closed: its leases are gone.
    Closed,
    /// The call was carried out.
    Booked(PerKey<Option<Grant>>),
}
