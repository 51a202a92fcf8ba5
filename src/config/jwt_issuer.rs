//! The issuers (`iss`) that the site writes into its tokens (`--jwt-issuer`).
//!
//! An issuer may be any string (RFC 7519 4.1.1): plugins write the address of the site, on
//! multilingual sites with a path or a query, a Unicode address, or a name.

use std::fmt;

use super::site_url::SiteUrl;

/// The longest part of an issuer that is printed, in characters.
const PRINTED_MAX: usize = 200;

/// An issuer of the site's tokens; an empty one stands for tokens without an issuer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issuer {
    text: String,
    /// The address, if it is one: then its spellings are equal.
    url: Option<SiteUrl>,
}

impl Issuer {
    /// Takes any string.
    pub fn new(text: &str) -> Issuer {
        Issuer { text: text.to_owned(), url: SiteUrl::parse(text).ok() }
    }

    /// Whether a token with this `iss`, or without one, is of this issuer. Two spellings of one
    /// address are equal: upper case in the host, the default port, a slash at the end.
    pub fn is_of(&self, iss: Option<&str>) -> bool {
        let iss = iss.unwrap_or_default();
        let is_same_url = || self.url.is_some() && SiteUrl::parse(iss).ok() == self.url;
        iss == self.text || is_same_url()
    }
}

impl From<&SiteUrl> for Issuer {
    fn from(url: &SiteUrl) -> Issuer {
        Issuer { text: url.as_str().to_owned(), url: Some(url.clone()) }
    }
}

impl fmt::Display for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.url, &*self.text) {
            (Some(url), _) => url.fmt(f),
            (None, "") => f.write_str("none"),
            (None, text) => f.write_str(&printable(text)),
        }
    }
}

/// Makes an issuer fit for a log line: no control characters, and not too long.
pub fn printable(text: &str) -> String {
    let clean = |c: char| if c.is_control() { '?' } else { c };
    let mut shown: String = text.chars().take(PRINTED_MAX).map(clean).collect();
    if text.chars().nth(PRINTED_MAX).is_some() {
        shown.push('…');
    }
    shown
}

/// One value of the setting: issuers, separated by commas. `\,` is a comma in an issuer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuerList(pub(super) Vec<Issuer>);

impl IssuerList {
    /// Parses any string. White space around an issuer does not count.
    ///
    /// # Errors
    ///
    /// None: the type is that of clap's parsers.
    pub fn parse(text: &str) -> Result<IssuerList, String> {
        let mut parts = vec![String::new()];
        let mut rest = text.chars().peekable();
        while let Some(c) = rest.next() {
            let part = parts.last_mut().expect("there is always a last part");
            match c {
                '\\' if rest.next_if_eq(&',').is_some() => part.push(','),
                ',' => parts.push(String::new()),
                c => part.push(c),
            }
        }
        Ok(IssuerList(parts.iter().map(|part| Issuer::new(part.trim())).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &str) -> Vec<String> {
        let IssuerList(issuers) = IssuerList::parse(text).unwrap();
        issuers.into_iter().map(|issuer| issuer.text).collect()
    }

    #[test]
    fn any_string_is_an_issuer() {
        for text in [
            "https://site.example/?lang=pt-br",
            "https://bücher.example",
            "my-app",
            "urn:example:site",
            "two words",
            "https://site.example/#top",
        ] {
            assert_eq!(texts(text), [text]);
            assert!(Issuer::new(text).is_of(Some(text)));
            assert!(!Issuer::new(text).is_of(Some(&format!("{text}x"))));
            assert!(!Issuer::new(text).is_of(None));
            assert_eq!(Issuer::new(text).to_string(), text);
        }
    }

    #[test]
    fn issuers_are_separated_by_commas() {
        assert_eq!(texts("a, b ,c"), ["a", "b", "c"]);
        assert_eq!(texts(r"a\,b,c\d"), ["a,b", r"c\d"]);
        assert_eq!(texts(""), [""]);
    }

    #[test]
    fn empty_issuer_is_of_tokens_without_iss() {
        let none = Issuer::new("");
        assert!(none.is_of(None) && none.is_of(Some("")));
        assert!(!none.is_of(Some("x")));
        assert!(!Issuer::new("x").is_of(None));
        assert_eq!(none.to_string(), "none");
    }

    #[test]
    fn two_spellings_of_one_address_are_equal() {
        let issuer = Issuer::new("https://Site.example/");
        for same in ["https://site.example", "https://SITE.example:443/"] {
            assert!(issuer.is_of(Some(same)), "{same}");
        }
        for other in [
            "http://site.example",
            "https://site.example/shop",
            "https://site.example/?lang=de",
            "https://site.example.evil.example",
            "site.example",
        ] {
            assert!(!issuer.is_of(Some(other)), "{other}");
        }
    }

    #[test]
    fn printed_issuer_has_no_control_characters_and_an_end() {
        assert_eq!(printable("a\r\nb\u{1b}[1m"), "a??b?[1m");
        assert_eq!(printable(&"ü".repeat(PRINTED_MAX)).chars().count(), PRINTED_MAX);
        assert!(printable(&"ü".repeat(PRINTED_MAX + 1)).ends_with('…'));
    }
}
