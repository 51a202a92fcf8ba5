//! Which web pages may connect: the patterns, and the door of the real binary.

#![allow(clippy::unwrap_used)]

use buddyline::config::origins::{OriginPattern, Origins};
use buddyline::config::site_url::SiteUrl;

fn pattern(text: &str) -> OriginPattern {
    OriginPattern::parse(text).unwrap_or_else(|fault| panic!("{text}: {fault}"))
}

fn allowed(patterns: &[&str], origin: &str) -> bool {
    let patterns: Vec<_> = patterns.iter().map(|text| pattern(text)).collect();
    Origins::only(&patterns, None).allow(origin, None)
}

#[test]
fn an_origin_is_allowed_by_its_pattern_and_by_no_other() {
    for (text, good, bad) in [
        (
            "https://app.example.org",
            &["https://app.example.org", "HTTPS://App.Example.ORG", "https://app.example.org:443"]
                [..],
            &[
                "http://app.example.org",
                "https://app.example.org:8443",
                "https://app.example.org:80",
                "https://app.example.org.",
                "https://app.example.org/",
                "https://app.example.org.evil.example",
                "https://app.example.org@evil.example",
                "https://app.example.org:443@evil.example",
                "https://evil.example/https://app.example.org",
                "https://evil.example#https://app.example.org",
                "https://app.example.org evil.example",
                "https://evil-app.example.org",
                "https://evil.app.example.org",
                "https://app.example.org:0443 ",
                "https://app.example.org:+443",
                "https://app.example.org:65979",
                "https://app.example.org:",
                "//app.example.org",
                "app.example.org",
                "null",
                "",
            ][..],
        ),
        (
            "*.example.org",
            &["https://a.example.org", "https://a.b.c.Example.Org", "https://a.example.org:443"],
            &[
                "https://example.org",
                "https://evilexample.org",
                "https://evil-example.org",
                "https://.example.org",
                "https://a..example.org",
                "https://a.example.org.",
                "https://a.example.org.evil.example",
                "https://evil.example?.example.org",
                "https://evil.example/.example.org",
                "https://evil.example\\.example.org",
                "https://evil.example%2f.example.org",
                "https://evil.example:443.example.org",
                "https://user@a.example.org",
                "http://a.example.org",
                "https://a.example.org:8443",
                "https://*.example.org",
            ],
        ),
        (
            "http://*.example.org:8080",
            &["http://a.example.org:8080"],
            &["http://a.example.org", "https://a.example.org:8080", "http://example.org:8080"],
        ),
        ("https://*.example.org:443", &["https://a.example.org"], &["http://a.example.org:443"]),
        ("http://localhost:3000", &["http://localhost:3000"], &["http://localhost"]),
        ("http://127.0.0.1:80", &["http://127.0.0.1"], &["http://127.0.0.1.evil.example"]),
        ("http://[0::1]:3000", &["http://[::1]:3000"], &["http://[::1]", "http://::1:3000"]),
        ("null", &["null"], &["NULL", "https://null", "null://", ""]),
        (
            "capacitor://localhost",
            &["capacitor://localhost"],
            &["http://localhost", "ionic://localhost"],
        ),
        ("Ionic://localhost", &["ionic://LOCALHOST"], &["ionic://localhost:80", "ionic://"]),
        ("file://", &["file://"], &["file:///", "file://host", "null", "https://"]),
    ] {
        for origin in good {
            assert!(allowed(&[text], origin), "{text} allows {origin:?}");
        }
        for origin in bad {
            assert!(!allowed(&[text], origin), "{text} does not allow {origin:?}");
        }
    }
}

#[test]
fn several_patterns_allow_what_any_of_them_allows() {
    let both = ["null", "https://a.example.org"];
    assert!(allowed(&both, "null") && allowed(&both, "https://a.example.org"));
    assert!(!allowed(&both, "https://b.example.org"));
    assert!(!allowed(&[], "https://a.example.org"));
    for anything in ["null", "https://b.example.org", "nonsense", ""] {
        assert!(allowed(&["null", "*"], anything), "{anything}");
        assert!(Origins::any().allow(anything, None));
    }
}

#[test]
fn the_pages_of_the_site_are_allowed() {
    for (site, origin, other) in [
        ("https://example.org", "https://example.org", "http://example.org"),
        ("https://example.org/community", "https://example.org:443", "https://www.example.org"),
        ("http://127.0.0.1:8000/a/b", "http://127.0.0.1:8000", "http://127.0.0.1"),
        ("http://[::1]:8000", "http://[::1]:8000", "http://[::2]:8000"),
    ] {
        let site = SiteUrl::parse(site).unwrap();
        for patterns in [&[][..], &[pattern("https://app.example.org")]] {
            let origins = Origins::only(patterns, Some(&site));
            assert!(origins.allow(origin, None), "{origin}");
            assert!(!origins.allow(other, None), "{other}");
        }
    }
}

#[test]
fn a_page_of_our_own_address_is_allowed() {
    let none = Origins::only(&[], None);
    for (origin, host) in [
        ("http://live.example.org", "live.example.org"),
        ("https://live.example.org", "Live.Example.org"),
        ("https://live.example.org", "live.example.org:443"),
        ("https://live.example.org:443", "live.example.org"),
        ("http://192.0.2.1:8080", "192.0.2.1:8080"),
        ("http://[::1]:8080", "[::1]:8080"),
    ] {
        assert!(none.allow(origin, Some(host)), "{origin} at {host}");
    }
    for (origin, host) in [
        ("https://live.example.org", "live.example.org:8443"),
        ("https://live.example.org:8443", "live.example.org"),
        ("http://live.example.org", "live.example.org:443"),
        ("https://evil.example", "live.example.org"),
        ("https://example.org", "live.example.org"),
        ("https://live.example.org@evil.example", "live.example.org"),
        ("https://live.example.org", "evil@live.example.org"),
        ("https://live.example.org", "live.example.org, evil.example"),
        ("https://live.example.org", ""),
        ("https://", ""),
        ("file://", ""),
        ("capacitor://localhost", "localhost"),
        ("null", "null"),
    ] {
        assert!(!none.allow(origin, Some(host)), "{origin} at {host}");
    }
}

#[test]
fn what_is_no_origin_is_refused_in_words() {
    for (text, part) in [
        ("", "scheme"),
        ("example.org", "https://"),
        ("https://example.org/", "slash"),
        ("https://example.org/app", "follow"),
        ("https://example.org?x", "follow"),
        ("https://u:p@example.org", "user name"),
        ("https://bücher.example", "xn--"),
        ("https://example.org.", "host"),
        ("https://example.org:0", "port"),
        ("https://example.org:99999", "port"),
        ("https://", "host"),
        ("1http://x", "scheme"),
        ("https://exa mple.org", "host"),
        ("https://*", "host"),
        ("https://*.", "host"),
        ("https://a.*.example.org", "host"),
        ("https://*.*.example.org", "host"),
        ("**.example.org", "https://"),
        ("https://*.127.0.0.1", "subdomains"),
        ("https://*.[::1]", "subdomains"),
        ("*", ""),
    ] {
        match OriginPattern::parse(text) {
            Err(fault) => assert!(fault.contains(part), "{text}: {fault}"),
            Ok(OriginPattern::Any) => assert_eq!(text, "*"),
            Ok(read) => panic!("{text} is read as {read:?}"),
        }
    }
}
