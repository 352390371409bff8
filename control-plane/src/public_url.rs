//! Where people reach the admin listener.

use std::fmt;
use std::str::FromStr;
use url::Url;

/// An absolute URL, percent-encoded, without a slash at its end: links and `Location` headers begin with it as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicUrl {
    text: String,
    origin: String,
    by_tls: bool,
}

/// Not where people could go.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPublicUrl {
    /// No URL at all.
    #[error("is no URL")]
    Syntax(#[from] url::ParseError),
    /// A URL, but not one of pages.
    #[error("is not `http` or `https`")]
    Scheme,
    /// Something that links could not begin with.
    #[error("has a user, a query or a fragment")]
    More,
}

impl FromStr for PublicUrl {
    type Err = InvalidPublicUrl;

    fn from_str(text: &str) -> Result<Self, InvalidPublicUrl> {
        let url = Url::parse(text)?;
        // These two have a host, or they are no URLs.
        let by_tls = match url.scheme() {
            "https" => true,
            "http" => false,
            _other => return Err(InvalidPublicUrl::Scheme),
        };
        if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
            return Err(InvalidPublicUrl::More);
        }
        let origin = url.origin().ascii_serialization();
        Ok(Self { text: url.as_str().trim_end_matches('/').to_owned(), origin, by_tls })
    }
}

impl fmt::Display for PublicUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl PublicUrl {
    /// What browsers send as `Origin` from its pages.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Whether it is `https`.
    #[must_use]
    pub const fn is_secure(&self) -> bool {
        self.by_tls
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<PublicUrl, InvalidPublicUrl> {
        text.parse()
    }

    #[test]
    fn what_links_begin_with_is_percent_encoded_and_has_no_slash_at_its_end() {
        for (given, written, origin, secure) in [
            ("https://gateway.test", "https://gateway.test", "https://gateway.test", true),
            ("https://gateway.test///", "https://gateway.test", "https://gateway.test", true),
            ("HTTPS://Gateway.Test:443/A", "https://gateway.test/A", "https://gateway.test", true),
            ("http://127.0.0.1:8092/", "http://127.0.0.1:8092", "http://127.0.0.1:8092", false),
            ("https://büro.test/für alle/\"x\"", "https://xn--bro-hoa.test/f%C3%BCr%20alle/%22x%22", "https://xn--bro-hoa.test", true),
        ] {
            let url = read(given).unwrap();
            assert_eq!((url.to_string().as_str(), url.origin(), url.is_secure()), (written, origin, secure), "{given}");
        }
    }

    #[test]
    fn what_is_no_place_for_people_is_refused() {
        for (given, why) in [
            ("gateway.test", "is no URL"),
            ("", "is no URL"),
            ("mailto:a@gateway.test", "is not `http` or `https`"),
            ("ftp://gateway.test", "is not `http` or `https`"),
            ("https://me@gateway.test", "has a user, a query or a fragment"),
            ("https://gateway.test?a=b", "has a user, a query or a fragment"),
            ("https://gateway.test/#a", "has a user, a query or a fragment"),
        ] {
            assert_eq!(read(given).unwrap_err().to_string(), why, "{given}");
        }
    }
}
