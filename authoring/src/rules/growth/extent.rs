//! How large a value may become: bytes of text, values in it, digits of its longest number, and how deep it is nested. What is made in
//! a loop is told by what the loop goes through: all elements of a list together are no larger than the list.

use std::collections::BTreeMap;

/// One look at a value takes time in proportion to these, and the clock is not looked at meanwhile.
pub(super) const TEXT_MAX: u64 = 512 * 1_024;
pub(super) const PARTS_MAX: u64 = 32 * 1_024;
pub(super) const DIGITS_MAX: u64 = 1_024;
pub(super) const DEPTH_MAX: u64 = 32;

/// The digits of what is counted.
const DIGITS_OF_COUNTS: u64 = 20;

/// A loop that is being gone through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Loop(usize);

/// What of the element of a loop is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Of {
    Text(Loop),
    Parts(Loop),
}

/// A number, and so many times as much as elements of loops have.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Amount {
    fixed: u64,
    of: BTreeMap<Of, u64>,
}

impl From<u64> for Amount {
    fn from(fixed: u64) -> Self {
        Self { fixed, of: BTreeMap::new() }
    }
}

impl Amount {
    fn each(mut self, other: &Self, combine: fn(u64, u64) -> u64) -> Self {
        for (what, times) in &other.of {
            let known = self.of.entry(*what).or_insert(0);
            *known = combine(*known, *times);
        }
        Self { fixed: combine(self.fixed, other.fixed), of: self.of }
    }

    pub(super) fn plus(self, other: &Self) -> Self {
        self.each(other, u64::saturating_add)
    }

    /// At least as large as both: nothing of a loop is negative.
    fn or(self, other: &Self) -> Self {
        self.each(other, u64::max)
    }

    pub(super) fn times(mut self, times: u64) -> Self {
        self.fixed = self.fixed.saturating_mul(times);
        self.of.values_mut().for_each(|known| *known = known.saturating_mul(times));
        self
    }

    /// A product with loops on both sides is bounded by the most of one.
    pub(super) fn times_amount(self, other: &Self, loops: &Loops) -> Self {
        match (self.of.is_empty(), other.of.is_empty()) {
            (_, true) => self.times(other.fixed),
            (true, false) => other.clone().times(self.fixed),
            (false, false) => self.times(loops.most(other)),
        }
    }

    fn newest(&self) -> Option<Loop> {
        self.of.keys().map(|(Of::Text(one) | Of::Parts(one))| *one).max()
    }

    /// Without what belongs to this loop, and how often its element's text and parts were in it.
    fn without(mut self, one: Loop) -> (Self, u64, u64) {
        let text = self.of.remove(&Of::Text(one)).unwrap_or(0);
        let parts = self.of.remove(&Of::Parts(one)).unwrap_or(0);
        (self, text, parts)
    }
}

/// How large a value may be.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Extent {
    pub(super) text: Amount,
    /// Values in it, itself among them.
    pub(super) parts: Amount,
    pub(super) digits: u64,
    pub(super) depth: u64,
    /// How large each of its elements may be; where that is not known, as large as the whole.
    element: Option<Box<Extent>>,
}

impl Extent {
    /// A truth value, or anything else that is one value without text.
    pub(super) fn one() -> Self {
        Self { parts: 1.into(), ..Self::default() }
    }

    pub(super) fn text(bytes: impl Into<Amount>) -> Self {
        Self { text: bytes.into(), ..Self::one() }
    }

    pub(super) fn number(digits: u64) -> Self {
        Self { digits, ..Self::one() }
    }

    /// What was counted.
    pub(super) fn count() -> Self {
        Self::number(DIGITS_OF_COUNTS)
    }

    /// A list of so many elements, none of which is larger than this.
    pub(super) fn list(parts: impl Into<Amount>, text: Amount, element: Self) -> Self {
        Self {
            text,
            parts: parts.into().plus(&1.into()),
            digits: element.digits,
            depth: element.depth.saturating_add(1),
            element: Some(Box::new(element)),
        }
    }

    /// A number as it is written: `1e300` has three hundred digits.
    pub(super) fn numeral(text: &str) -> Self {
        let exponent = text.to_ascii_lowercase().split_once('e').map(|(_, exponent)| exponent.trim_start_matches(['+', '-']).parse());
        Self::number(length(text).saturating_add(exponent.map_or(0, |exponent| exponent.unwrap_or(u64::MAX))))
    }

    /// A value that holds these.
    pub(super) fn around(parts: impl IntoIterator<Item = Self>) -> Self {
        let (mut inside, mut element) = (Self::default(), Self::default());
        for part in parts {
            element = element.or(&part);
            inside = inside.plus(&part);
        }
        Self::list(inside.parts, inside.text, element)
    }

    /// The same, of whose elements nothing is known.
    pub(super) fn whole(self) -> Self {
        Self { element: None, ..self }
    }

    /// One of its elements, whichever.
    pub(super) fn element(&self) -> Self {
        self.element.as_ref().map_or_else(|| self.clone(), |element| (**element).clone())
    }

    /// Both of them.
    pub(super) fn plus(self, other: &Self) -> Self {
        self.combine(other, Amount::plus)
    }

    /// Either of them.
    pub(super) fn or(self, other: &Self) -> Self {
        self.combine(other, Amount::or)
    }

    fn combine(self, other: &Self, amounts: fn(Amount, &Amount) -> Amount) -> Self {
        let element = match (self.element, &other.element) {
            (Some(one), Some(another)) => Some(Box::new(one.or(another))),
            // Of nothing, there are no elements.
            (known, None) if other.parts == Amount::default() => known,
            (None, known) if self.parts == Amount::default() => known.clone(),
            (Some(_) | None, None) | (None, Some(_)) => None,
        };
        Self {
            text: amounts(self.text, &other.text),
            parts: amounts(self.parts, &other.parts),
            digits: self.digits.max(other.digits),
            depth: self.depth.max(other.depth),
            element,
        }
    }

    /// Whether a loop tells how large it is.
    pub(super) fn has_loops(&self) -> bool {
        self.text.newest().is_some() || self.parts.newest().is_some() || self.element.as_ref().is_some_and(|element| element.has_loops())
    }

    fn map(self, change: &impl Fn(Amount) -> Amount) -> Self {
        let element = self.element.map(|element| Box::new(element.map(change)));
        Self { text: change(self.text), parts: change(self.parts), element, ..self }
    }
}

pub(super) fn length(text: &str) -> u64 {
    u64::try_from(text.len()).unwrap_or(u64::MAX)
}

/// The loops that were met, and what each goes through.
#[derive(Debug, Default)]
pub(super) struct Loops {
    over: Vec<Extent>,
    /// Rises whenever a loop turns out to go through more.
    pub(super) changes: usize,
}

impl Loops {
    /// A loop over nothing yet.
    pub(super) fn begin(&mut self) -> Loop {
        self.over.push(Extent::default());
        Loop(self.over.len().saturating_sub(1))
    }

    /// It goes through this too.
    pub(super) fn goes_through(&mut self, one: Loop, over: Extent) {
        // INVARIANT (older): what a loop goes through is told by older loops alone, so that nothing is told by itself.
        let over = over.map(&|amount| self.older(amount, one));
        if let Some(known) = self.over.get_mut(one.0) {
            let now = known.clone().or(&over);
            if now != *known {
                *known = now;
                self.changes = self.changes.saturating_add(1);
            }
        }
    }

    fn older(&self, mut amount: Amount, one: Loop) -> Amount {
        while let Some(newest) = amount.newest().filter(|newest| *newest >= one) {
            amount = self.at_most(amount, newest);
        }
        amount
    }

    fn over(&self, one: Loop) -> Extent {
        self.over.get(one.0).cloned().unwrap_or_default()
    }

    /// An element of what it goes through.
    pub(super) fn element(&self, one: Loop) -> Extent {
        let amount = |of| Amount { fixed: 0, of: BTreeMap::from([(of, 1)]) };
        Extent { text: amount(Of::Text(one)), parts: amount(Of::Parts(one)), ..self.over(one).element() }
    }

    /// The most that an amount can be.
    pub(super) fn most(&self, amount: &Amount) -> u64 {
        let mut amount = amount.clone();
        while let Some(newest) = amount.newest() {
            amount = self.at_most(amount, newest);
        }
        amount.fixed
    }

    /// Without this loop: for its largest element.
    fn at_most(&self, amount: Amount, one: Loop) -> Amount {
        let largest = self.over(one).element();
        let (rest, text, parts) = amount.without(one);
        rest.plus(&largest.text.times(text)).plus(&largest.parts.times(parts))
    }

    /// Without this loop: the sum over its elements, of which there are no more than what it goes through has parts.
    fn sum(&self, amount: Amount, one: Loop) -> Amount {
        let over = self.over(one);
        let (rest, text, parts) = amount.without(one);
        rest.times_amount(&over.parts, self).plus(&over.text.times(text)).plus(&over.parts.times(parts))
    }

    /// One of the values that loops make, the latest loop last.
    pub(super) fn any(&self, value: Extent, loops: &[Loop]) -> Extent {
        loops.iter().rev().fold(value, |value, one| value.map(&|amount| self.at_most(amount, *one)))
    }

    /// A list of all the values that loops make.
    pub(super) fn all(&self, value: Extent, loops: &[Loop]) -> Extent {
        let total = |amount: &Amount| loops.iter().rev().fold(amount.clone(), |amount, one| self.sum(amount, *one));
        let (parts, text) = (total(&value.parts), total(&value.text));
        Extent::list(parts, text, self.any(value, loops))
    }

    /// Why a value is more than is looked at in time, in words that follow "this".
    pub(super) fn too_large(&self, value: &Extent) -> Option<String> {
        let over = |found: u64, most: u64, what: &str| {
            (found > most).then(|| format!("may have {} {what}; at most {most} are allowed", told(found)))
        };
        over(self.most(&value.text), TEXT_MAX, "bytes of text")
            .or_else(|| over(self.most(&value.parts), PARTS_MAX, "values in it"))
            .or_else(|| over(value.digits, DIGITS_MAX, "digits"))
            .or_else(|| over(value.depth, DEPTH_MAX, "values one within the other"))
    }
}

fn told(number: u64) -> String {
    if number > 1 << 40 { "more than a million million".into() } else { number.to_string() }
}
