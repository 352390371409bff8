//! Moments as RFC 3339 writes them: `2026-03-01T12:00:00Z`. An offset is required; leap seconds are refused.

use decision_core::time::Timestamp;

/// Reads a date-time, to the microsecond.
pub(crate) fn parse(text: &str) -> Option<Timestamp> {
    let mut rest = Cursor(text.as_bytes());
    let year = rest.number(4, 0..=9999)?;
    rest.one_of(b"-")?;
    let month = rest.number(2, 1..=12)?;
    rest.one_of(b"-")?;
    let day = rest.number(2, 1..=days_in_month(year, month))?;
    rest.one_of(b"Tt")?;
    let hour = rest.number(2, 0..=23)?;
    rest.one_of(b":")?;
    let minute = rest.number(2, 0..=59)?;
    rest.one_of(b":")?;
    let second = rest.number(2, 0..=59)?;
    let micros = if rest.one_of(b".").is_some() { rest.fraction()? } else { 0 };
    let offset = rest.offset()?;
    let seconds = days_since_epoch(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second - offset;
    rest.0.is_empty().then(|| Timestamp::from_micros(seconds * 1_000_000 + micros))
}

struct Cursor<'t>(&'t [u8]);

impl Cursor<'_> {
    fn one_of(&mut self, accepted: &[u8]) -> Option<u8> {
        let (first, rest) = self.0.split_first().filter(|(first, _)| accepted.contains(first))?;
        self.0 = rest;
        Some(*first)
    }

    fn digit(&mut self) -> Option<i64> {
        self.one_of(b"0123456789").map(|digit| i64::from(digit - b'0'))
    }

    fn number(&mut self, digits: u8, range: core::ops::RangeInclusive<i64>) -> Option<i64> {
        let number = (0..digits).try_fold(0, |sum, _| Some(sum * 10 + self.digit()?))?;
        range.contains(&number).then_some(number)
    }

    /// At least one digit; what is finer than a microsecond is cut off.
    fn fraction(&mut self) -> Option<i64> {
        let mut micros = self.digit()? * 100_000;
        let mut unit = 10_000;
        while let Some(digit) = self.digit() {
            micros += digit * unit;
            unit /= 10;
        }
        Some(micros)
    }

    fn offset(&mut self) -> Option<i64> {
        let sign = match self.one_of(b"Zz+-")? {
            b'+' => 1,
            b'-' => -1,
            _ => return Some(0),
        };
        let hours = self.number(2, 0..=23)?;
        self.one_of(b":")?;
        Some(sign * (hours * 3_600 + self.number(2, 0..=59)? * 60))
    }
}

fn days_in_month(year: i64, month: i64) -> i64 {
    let leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Counts from March, so that the leap day is the last of its year.
fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    year * 365 + leap_days + (153 * month + 2) / 5 + day - 1 - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use time::OffsetDateTime;
    use time::format_description::well_known::Rfc3339;

    fn oracle(text: &str) -> Option<i64> {
        let moment = OffsetDateTime::parse(text, &Rfc3339).ok()?;
        i64::try_from(moment.unix_timestamp_nanos().div_euclid(1_000)).ok()
    }

    #[test]
    fn reads_what_rfc_3339_allows() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2026-03-01T12:00:00Z", 1_772_366_400),
            ("2026-03-01T12:00:00+00:00", 1_772_366_400),
            ("2026-03-01T13:30:00+01:30", 1_772_366_400),
            ("2026-03-01t07:00:00-05:00", 1_772_366_400),
            ("2000-02-29T00:00:00z", 951_782_400),
            ("1969-12-31T23:59:59Z", -1),
        ] {
            assert_eq!(parse(text), Some(Timestamp::from_seconds(seconds)), "{text}");
        }
        assert_eq!(parse("1970-01-01T00:00:00.0000019Z"), Some(Timestamp::from_micros(1)));
        assert_eq!(parse("1970-01-01T00:00:00.25Z"), Some(Timestamp::from_micros(250_000)));
    }

    #[test]
    fn refuses_what_it_does_not() {
        for text in [
            "",
            "2026-03-01",
            "2026-03-01T12:00:00",
            "2026-03-01 12:00:00Z",
            "2026-03-01T12:00Z",
            "2026-3-1T12:00:00Z",
            "2026-02-29T12:00:00Z",
            "2100-02-29T12:00:00Z",
            "2026-13-01T12:00:00Z",
            "2026-00-01T12:00:00Z",
            "2026-01-00T12:00:00Z",
            "2026-03-01T24:00:00Z",
            "2026-03-01T12:60:00Z",
            "2016-12-31T23:59:60Z",
            "2026-03-01T12:00:00.Z",
            "2026-03-01T12:00:00+0000",
            "2026-03-01T12:00:00+24:00",
            "2026-03-01T12:00:00Zx",
            " 2026-03-01T12:00:00Z",
            "+026-03-01T12:00:00Z",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn agrees_with_the_time_crate(
            year in 0..=9999, month in 0..=13, day in 0..=32, hour in 0..=24, minute in 0..=60, second in 0..=59,
            fraction in "(\\.[0-9]{1,9})?", offset in "Z|[+-][0-2][0-9]:[0-5][0-9]",
        ) {
            let text = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}{offset}");
            prop_assert_eq!(parse(&text).map(Timestamp::as_micros), oracle(&text), "{}", text);
        }

        #[test]
        fn never_panics(text in any::<String>()) {
            let _ = parse(&text);
        }
    }
}
