//! Verifying JSON Web Tokens with the site's secret: valid, expired, malformed and forged ones.

use buddyline::config::secrets::JwtKeys;
use buddyline::config::site_url::SiteUrl;
use buddyline::hub::interface::{Failure, Proven};
use buddyline::protocol::SITE_ID_MAX;
use buddyline::protocol::credential::Credential;
use buddyline::upstream::jwt::{SKEW_S, Verifier};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::support::jwt::{WEEK_S, encoded, signature, signed, token};

const SECRET: &str = "put your unique phrase here; #[it] has spaces";
const OLD: &str = "the secret that was used until yesterday";
const ISSUER: &str = "https://community.example";
const NOW: u64 = 1_795_345_238;

fn verifier(secrets: &str) -> Verifier {
    let keys = JwtKeys::parse(secrets.as_bytes()).unwrap();
    Verifier::new(&keys, SiteUrl::parse(ISSUER).unwrap())
}

fn verify(token: &str) -> Result<Proven, Failure> {
    verifier(SECRET).verify(token, NOW)
}

/// The result for a token that is valid except for this change.
fn verify_altered(change: impl FnOnce(&mut Value, &mut Value)) -> Result<Proven, Failure> {
    verify(&token(SECRET, ISSUER, 7, NOW, change))
}

fn good(user: u64) -> Result<Proven, Failure> {
    Ok(Proven { user, expires_s: Some(NOW + WEEK_S) })
}

const REFUSED: Result<Proven, Failure> = Err(Failure::TokenRefused);
const EXPIRED: Result<Proven, Failure> = Err(Failure::TokenExpired);

#[test]
fn plugin_token_identifies_its_user() {
    assert_eq!(verify_altered(|_, _| ()), good(7));
    assert_eq!(verify_altered(|header, _| *header = json!({"alg": "HS256"})), good(7));
    assert_eq!(verify_altered(|_, claims| claims["more"] = json!({"of": ["it"]})), good(7));
}

#[test]
fn token_of_another_encoder_is_accepted() {
    // Signed by Python's hmac module.
    let text = concat!(
        "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9.",
        "eyJpc3MiOiJodHRwczovL2NvbW11bml0eS5leGFtcGxlIiwiaWF0IjoxNzk1MzQ1MjM4LCJuYmYiOjE3OTUzNDUy",
        "MzgsImV4cCI6MTc5NTk1MDAzOCwiZGF0YSI6eyJ1c2VyIjp7ImlkIjoiNyJ9fX0",
    );
    assert_eq!(verify(&format!("{text}.-Tmoi-v3I8DYI81p1CLObj4rJ9d8fhjL8RXJT41fIcA")), good(7));
}

#[test]
fn only_the_two_configured_secrets_are_accepted() {
    let both = verifier(&format!("{SECRET}\n{OLD}\n"));
    for secret in [SECRET, OLD] {
        assert_eq!(both.verify(&token(secret, ISSUER, 7, NOW, |_, _| ()), NOW), good(7));
    }
    for secret in ["", "another", &SECRET[1..], &format!("{SECRET}\n{OLD}")] {
        let token = token(secret, ISSUER, 7, NOW, |_, _| ());
        assert_eq!(both.verify(&token, NOW), REFUSED, "{secret}");
    }
    assert_eq!(verify(&token(OLD, ISSUER, 7, NOW, |_, _| ())), REFUSED);
}

#[test]
fn only_hs256_without_extensions_is_accepted() {
    for alg in [
        json!("none"),
        json!("None"),
        json!(""),
        json!("hs256"),
        json!("HS256 "),
        json!("HS384"),
        json!("HS512"),
        json!("RS256"),
        json!("ES256"),
        json!("EdDSA"),
        json!(null),
        json!(["HS256"]),
        json!({"HS256": 1}),
        json!(256),
    ] {
        assert_eq!(verify_altered(|header, _| header["alg"] = alg.clone()), REFUSED, "{alg}");
    }
    assert_eq!(
        verify_altered(|header, _| drop(header.as_object_mut().unwrap().remove("alg"))),
        REFUSED
    );
    for crit in [json!(["b64"]), json!([]), json!(null), json!(false)] {
        assert_eq!(verify_altered(|header, _| header["crit"] = crit.clone()), REFUSED, "{crit}");
    }
    let claims = json!({
        "iss": ISSUER, "exp": NOW + WEEK_S, "data": {"user": {"id": "7"}},
    });
    let claims = claims.to_string();
    let with = |header: &[u8]| verify(&signed(SECRET, header, claims.as_bytes()));
    assert_eq!(with(br#"{"alg":"HS256"}"#), good(7));
    for header in [
        &br#"{"alg":"none","alg":"HS256"}"#[..],
        br#"{"alg":"HS256","alg":"none"}"#,
        br#"["HS256"]"#,
        br#""HS256""#,
        br#"{"alg":"HS256"}{}"#,
        br#"{"alg":"HS256""#,
        b"",
        b"\xff\xfe",
    ] {
        assert_eq!(with(header), REFUSED, "{}", String::from_utf8_lossy(header));
    }
}

#[test]
fn invalid_signature_is_rejected() {
    let whole = token(SECRET, ISSUER, 7, NOW, |_, _| ());
    let parts: Vec<&str> = whole.split('.').collect();
    let [header, claims, proof] = parts[..] else { panic!("{whole}") };
    let none = encoded(br#"{"alg":"none"}"#);
    let mine = encoded(whole.split('.').nth(1).unwrap().as_bytes());
    let text = format!("{header}.{claims}");
    let short = encoded(&signature(SECRET, &text)[..16]);
    let long = encoded(&[&signature(SECRET, &text)[..], &[0]].concat());
    for forged in [
        format!("{header}.{claims}."),
        format!("{header}.{claims}"),
        format!("{none}.{claims}."),
        format!("{none}.{claims}.{proof}"),
        format!("{header}.{mine}.{proof}"),
        format!("{claims}.{header}.{proof}"),
        format!("{header}..{claims}.{proof}"),
        format!("{whole}."),
        format!(".{whole}"),
        format!("{whole}.{proof}"),
        format!("{header}.{claims}.{short}"),
        format!("{header}.{claims}.{long}"),
        format!("{header}.{claims}.{proof}="),
        format!("{header}.{claims}.{proof} "),
        format!(" {whole}"),
        format!("{header}={claims}.{proof}"),
        format!("{header}=.{claims}.{proof}"),
        format!("{header}.{claims}.{}", proof.replace(['-', '_'], "+")) + "+",
        "..".to_owned(),
        "...".to_owned(),
        String::new(),
        "opaque".to_owned(),
    ] {
        assert_eq!(verify(&forged), REFUSED, "{forged}");
    }
    // A forged token that has also expired is refused as forged: its claims are not trusted.
    let expired = |_: &mut Value, claims: &mut Value| claims["exp"] = json!(1);
    assert_eq!(verify(&token("guess", ISSUER, 7, NOW, expired)), REFUSED);
}

#[test]
fn signature_encoding_must_be_canonical() {
    let whole = token(SECRET, ISSUER, 7, NOW, |_, _| ());
    let last = whole.chars().last().unwrap();
    // 32 bytes leave two spare bits in the last letter: three other letters decode to the same.
    let letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    for letter in letters.chars().filter(|letter| *letter != last) {
        let other = format!("{}{letter}", &whole[..whole.len() - 1]);
        assert_eq!(verify(&other), REFUSED, "{letter}");
    }
}

#[test]
fn another_sites_token_is_refused() {
    for (issuer, result) in [
        ("https://community.example/", good(7)),
        ("https://COMMUNITY.example", good(7)),
        ("http://community.example", REFUSED),
        ("https://community.example:8443", REFUSED),
        ("https://community.example/shop", REFUSED),
        ("https://community.example.evil.example", REFUSED),
        ("https://community.example@evil.example", REFUSED),
        ("https://evil.example/?https://community.example", REFUSED),
        ("community.example", REFUSED),
        ("", REFUSED),
    ] {
        assert_eq!(verify_altered(|_, claims| claims["iss"] = json!(issuer)), result, "{issuer}");
    }
    for issuer in [json!(null), json!([ISSUER]), json!(1)] {
        assert_eq!(verify_altered(|_, claims| claims["iss"] = issuer.clone()), REFUSED, "{issuer}");
    }
    assert_eq!(
        verify_altered(|_, claims| drop(claims.as_object_mut().unwrap().remove("iss"))),
        REFUSED
    );
}

#[test]
fn token_expires_exactly_at_exp() {
    let at = |exp: u64| verify_altered(|_, claims| claims["exp"] = json!(exp));
    assert_eq!(at(NOW + 1), Ok(Proven { user: 7, expires_s: Some(NOW + 1) }));
    assert_eq!(at(NOW), EXPIRED);
    assert_eq!(at(NOW - 1), EXPIRED);
    assert_eq!(at(0), EXPIRED);
    assert_eq!(at(SITE_ID_MAX), Ok(Proven { user: 7, expires_s: Some(SITE_ID_MAX) }));
    for exp in [
        json!(SITE_ID_MAX + 1),
        json!(u64::MAX),
        json!(-1),
        json!(NOW as f64 + 0.5),
        json!(1e300),
        json!((NOW + 9).to_string()),
        json!(null),
        json!(true),
        json!([NOW + 9]),
        json!({}),
    ] {
        assert_eq!(verify_altered(|_, claims| claims["exp"] = exp.clone()), REFUSED, "{exp}");
    }
    assert_eq!(
        verify_altered(|_, claims| drop(claims.as_object_mut().unwrap().remove("exp"))),
        REFUSED
    );
}

#[test]
fn nbf_allows_small_clock_skew() {
    let at = |nbf: Value| verify_altered(|_, claims| claims["nbf"] = nbf);
    for nbf in [0, NOW - 1, NOW, NOW + SKEW_S] {
        assert_eq!(at(json!(nbf)), good(7), "{nbf}");
    }
    for nbf in
        [json!(NOW + SKEW_S + 1), json!(u64::MAX), json!(-1), json!(1.5), json!("0"), json!(null)]
    {
        assert_eq!(at(nbf.clone()), REFUSED, "{nbf}");
    }
    assert_eq!(
        verify_altered(|_, claims| drop(claims.as_object_mut().unwrap().remove("nbf"))),
        good(7)
    );
    // The largest possible time causes no overflow.
    let late = token(SECRET, ISSUER, 7, NOW, |_, _| ());
    assert_eq!(verifier(SECRET).verify(&late, u64::MAX), EXPIRED);
}

#[test]
fn user_claim_must_be_a_valid_site_id() {
    for (id, user) in [
        (json!("1"), 1),
        (json!(7), 7),
        (json!(SITE_ID_MAX), SITE_ID_MAX),
        (json!(SITE_ID_MAX.to_string()), SITE_ID_MAX),
    ] {
        assert_eq!(verify_altered(|_, claims| claims["data"]["user"]["id"] = id), good(user));
    }
    for id in [
        json!("0"),
        json!(0),
        json!("-7"),
        json!(-7),
        json!("+7"),
        json!("07"),
        json!(" 7"),
        json!("7 "),
        json!("7.0"),
        json!(7.0),
        json!("7e0"),
        json!(""),
        json!("seven"),
        json!("٧"),
        json!(SITE_ID_MAX + 1),
        json!((SITE_ID_MAX + 1).to_string()),
        json!("99999999999999999999"),
        json!(null),
        json!(true),
        json!(["7"]),
        json!({"id": "7"}),
    ] {
        assert_eq!(
            verify_altered(|_, claims| claims["data"]["user"]["id"] = id.clone()),
            REFUSED,
            "{id}"
        );
    }
    for data in
        [json!(null), json!({}), json!({"user": "7"}), json!([["7"]]), json!({"user": ["7"]})]
    {
        assert_eq!(verify_altered(|_, claims| claims["data"] = data.clone()), REFUSED, "{data}");
    }
}

#[test]
fn duplicate_claim_is_rejected() {
    let whole =
        r#"{"iss":"https://community.example","exp":1795345239,"data":{"user":{"id":"7"}}}"#;
    let read = |claims: &str| verify(&signed(SECRET, br#"{"alg":"HS256"}"#, claims.as_bytes()));
    assert!(read(whole).is_ok());
    for (one, two) in [
        (r#""exp":1795345239"#, r#""exp":1795345239,"exp":1795345240"#),
        (r#""iss""#, r#""iss":"https://evil.example","iss""#),
        (r#""id":"7""#, r#""id":"8","id":"7""#),
        (r#""user":"#, r#""user":{"id":"8"},"user":"#),
        (r#""data":"#, r#""data":{"user":{"id":"8"}},"data":"#),
        (r#""exp""#, r#""nbf":1,"nbf":2,"exp""#),
    ] {
        let claims = whole.replace(one, two);
        assert_ne!(claims, whole);
        assert_eq!(read(&claims), REFUSED, "{claims}");
    }
    let deep = format!(r#"{{"x":{}{},{}"#, "[".repeat(500), "]".repeat(500), &whole[1..]);
    let long = whole.replace(r#"{"user"#, &format!(r#"{{"x":"{}","user"#, "x".repeat(100_000)));
    assert!(read(&deep).is_ok(), "unknown claims are skipped at any depth");
    let deep = whole.replace(r#""7""#, &format!("{}{}", "[".repeat(500_000), "]".repeat(500_000)));
    assert_eq!(read(&deep), REFUSED);
    assert!(read(&long).is_ok(), "the verifier does not limit the length");
    for odd in ["", "[]", "null", "7", &format!("{whole}{whole}"), &whole[1..]] {
        assert_eq!(read(odd), REFUSED, "{odd}");
    }
}

#[test]
fn debug_output_of_verifier_omits_the_secret() {
    assert!(!format!("{:?}", verifier(SECRET)).contains("phrase"));
}

proptest! {
    #[test]
    fn altered_token_is_rejected(at: prop::sample::Index, with in "[!-~]") {
        let whole = token(SECRET, ISSUER, 7, NOW, |_, _| ());
        let (before, after) = whole.split_at(at.index(whole.len()));
        for other in [
            format!("{before}{with}{after}"),
            format!("{before}{}", &after[1..]),
            format!("{before}{with}{}", &after[1..]),
        ] {
            prop_assert_eq!(verify(&other), if other == whole { good(7) } else { REFUSED });
        }
    }

    #[test]
    fn random_tokens_do_not_panic(text in ".{0,60}", header: Vec<u8>, claims: Vec<u8>) {
        prop_assert_eq!(verify(&text), REFUSED);
        prop_assert_eq!(verify(&signed(SECRET, &header, &claims)), REFUSED);
        prop_assert_eq!(verify(&signed(SECRET, br#"{"alg":"HS256"}"#, &claims)), REFUSED);
        let _ = Credential::parse(&text);
    }
}

#[test]
fn operator_learns_why_own_tokens_are_refused() {
    let log_detail = |token: &str| verifier(SECRET).log_detail(token);
    let other_issuer =
        |_: &mut Value, claims: &mut Value| claims["iss"] = "http://www.x.example".into();
    let named = log_detail(&token(SECRET, ISSUER, 7, NOW, other_issuer)).unwrap();
    assert!(named.contains("http://www.x.example") && named.contains("--jwt-issuer"), "{named}");
    let secret = log_detail(&token("another secret", ISSUER, 7, NOW, |_, _| ())).unwrap();
    assert!(secret.contains("JWT secret") && secret.contains(ISSUER), "{secret}");
    let algorithm = |header: &mut Value, _: &mut Value| header["alg"] = "HS512".into();
    assert!(log_detail(&token(SECRET, ISSUER, 7, NOW, algorithm)).unwrap().contains("HS256"));
    // Forged tokens of other issuers, malformed tokens and valid tokens are not logged.
    assert_eq!(log_detail(&token("another secret", ISSUER, 7, NOW, other_issuer)), None);
    assert_eq!(log_detail("opaque"), None);
    assert_eq!(log_detail(&token(SECRET, ISSUER, 7, NOW, |_, _| ())), None);
}
