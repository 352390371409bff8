//! Lists in pages: how many entries a query asks for, and whether more follow.

use crate::problem::ApiError;

/// How many entries a list has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageSize {
    /// When the query does not say.
    pub default: u32,
    /// At the most.
    pub max: u32,
}

impl PageSize {
    /// Of lists that people read.
    pub const READ: Self = Self { default: 50, max: 200 };

    /// As the query says it.
    ///
    /// # Errors
    /// It asks for none, or for too many.
    pub fn of(self, asked: Option<u32>) -> Result<Limit, ApiError> {
        let limit = asked.unwrap_or(self.default);
        if limit == 0 || limit > self.max {
            return Err(ApiError::invalid(format!("`limit` is not 1 to {}", self.max)));
        }
        Ok(Limit(limit))
    }
}

/// How many entries a page has at the most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit(u32);

impl Limit {
    /// For `LIMIT`.
    #[must_use]
    pub fn rows(self) -> i64 {
        i64::from(self.0)
    }

    /// For `LIMIT`: the one more tells whether there is a next page.
    #[must_use]
    pub fn rows_and_one(self) -> i64 {
        self.rows().saturating_add(1)
    }

    /// Whether there are more than belong to the page.
    #[must_use]
    pub fn is_exceeded_by<T>(self, entries: &[T]) -> bool {
        entries.len() > usize::try_from(self.0).unwrap_or(usize::MAX)
    }

    /// Leaves what belongs to the page, and says whether more follows.
    pub fn cut<T>(self, entries: &mut Vec<T>) -> bool {
        let more = self.is_exceeded_by(entries);
        entries.truncate(usize::try_from(self.0).unwrap_or(usize::MAX));
        more
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_as_many_entries_as_were_asked_for() {
        let size = |asked| PageSize::READ.of(asked).map(Limit::rows).ok();
        assert_eq!([None, Some(1), Some(200)].map(size), [Some(50), Some(1), Some(200)]);
        assert_eq!([Some(0), Some(201)].map(size), [None, None]);
        assert_eq!(PageSize::READ.of(Some(0)).unwrap_err().problem().detail, "`limit` is not 1 to 200");
    }

    #[test]
    fn the_one_more_is_cut_and_tells_that_more_follows() {
        let limit = PageSize::READ.of(Some(2)).unwrap();
        assert_eq!(limit.rows_and_one(), 3);
        for (mut entries, left, more) in [(vec![1, 2, 3], vec![1, 2], true), (vec![1, 2], vec![1, 2], false), (vec![], vec![], false)] {
            assert_eq!((limit.cut(&mut entries), entries), (more, left));
        }
    }
}
