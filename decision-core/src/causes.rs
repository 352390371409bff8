//! An error and why it came to it, for logs and for people.

use std::error::Error;

/// An error and its causes in one line. A cause that the text ends with already is not said twice.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Told {
        text: &'static str,
        #[source]
        cause: Option<Box<Self>>,
    }

    fn told(texts: &[&'static str]) -> Told {
        let (text, causes) = texts.split_first().unwrap();
        Told { text, cause: (!causes.is_empty()).then(|| Box::new(told(causes))) }
    }

    #[test]
    fn every_cause_is_told_once_and_in_order() {
        assert_eq!(chain(&told(&["no bundle"])), "no bundle");
        assert_eq!(chain(&told(&["no bundle", "bad frame", "too short"])), "no bundle: bad frame: too short");
        assert_eq!(chain(&told(&["bad frame: too short", "too short", "2 bytes"])), "bad frame: too short: 2 bytes");
    }
}
