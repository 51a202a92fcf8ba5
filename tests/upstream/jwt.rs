//! Verifying JSON Web Tokens with the site's secret: valid, expired, malformed and forged ones.

use buddyline::config::jwt_issuer::Issuer;
use buddyline::config::public_keys;
use buddyline::config::secrets::JwtKeys;
use buddyline::hub::interface::{Failure, Proven, TokenFault};
use buddyline::protocol::SITE_ID_MAX;
use buddyline::protocol::credential::Credential;
use buddyline::upstream::jwt::{Refusal, SKEW_S, Verifier, expiry};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::support::jwt::{Signer, WEEK_S, encoded, signature, signed, token};

const SECRET: &str = "put your unique phrase here; #[it] has spaces";
const OLD: &str = "the secret that was used until yesterday";
const ISSUER: &str = "https://community.example";
const NOW: u64 = 1_795_345_238;

fn verifier(secrets: &str) -> Verifier {
    let keys = JwtKeys::parse(secrets.as_bytes()).unwrap();
    Verifier::new(&keys, vec![Issuer::new(ISSUER)])
}

/// The result with what the client learns of a refusal.
fn result(verifier: &Verifier, token: &str, now_s: u64) -> Result<Proven, Failure> {
    verifier.verify(token, now_s).map_err(|refusal| refusal.failure())
}

fn verify(token: &str) -> Result<Proven, Failure> {
    result(&verifier(SECRET), token, NOW)
}

/// The result for a token that is valid except for this change.
fn verify_altered(change: impl FnOnce(&mut Value, &mut Value)) -> Result<Proven, Failure> {
    verify(&token(SECRET, ISSUER, 7, NOW, change))
}

fn good(user: u64) -> Result<Proven, Failure> {
    Ok(Proven { user, expires_s: Some(NOW + WEEK_S) })
}

const fn refused(fault: TokenFault) -> Result<Proven, Failure> {
    Err(Failure::TokenInvalid(fault))
}

const LAYOUT: Result<Proven, Failure> = refused(TokenFault::Layout);
const CLAIMS: Result<Proven, Failure> = refused(TokenFault::Claims);
const ALGORITHM: Result<Proven, Failure> = refused(TokenFault::Algorithm);
const SIGNATURE: Result<Proven, Failure> = refused(TokenFault::Signature);
const OTHER_ISSUER: Result<Proven, Failure> = refused(TokenFault::Issuer);
const NOT_YET: Result<Proven, Failure> = refused(TokenFault::NotYetValid);
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
        assert_eq!(result(&both, &token(secret, ISSUER, 7, NOW, |_, _| ()), NOW), good(7));
    }
    for secret in ["", "another", &SECRET[1..], &format!("{SECRET}\n{OLD}")] {
        let token = token(secret, ISSUER, 7, NOW, |_, _| ());
        assert_eq!(result(&both, &token, NOW), SIGNATURE, "{secret}");
    }
    assert_eq!(verify(&token(OLD, ISSUER, 7, NOW, |_, _| ())), SIGNATURE);
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
    ] {
        assert_eq!(verify_altered(|header, _| header["alg"] = alg.clone()), ALGORITHM, "{alg}");
    }
    for alg in [json!(null), json!(["HS256"]), json!({"HS256": 1}), json!(256)] {
        assert_eq!(verify_altered(|header, _| header["alg"] = alg.clone()), LAYOUT, "{alg}");
    }
    assert_eq!(
        verify_altered(|header, _| drop(header.as_object_mut().unwrap().remove("alg"))),
        LAYOUT
    );
    for crit in [json!(["b64"]), json!([]), json!(null), json!(false)] {
        assert_eq!(verify_altered(|header, _| header["crit"] = crit.clone()), LAYOUT, "{crit}");
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
        assert_eq!(with(header), LAYOUT, "{}", String::from_utf8_lossy(header));
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
        format!("{header}.{mine}.{proof}"),
        format!("{header}.{claims}.{short}"),
        format!("{header}.{claims}.{long}"),
    ] {
        assert_eq!(verify(&forged), SIGNATURE, "{forged}");
    }
    for forged in [format!("{none}.{claims}."), format!("{none}.{claims}.{proof}")] {
        assert_eq!(verify(&forged), ALGORITHM, "{forged}");
    }
    for forged in [
        format!("{header}.{claims}"),
        format!("{claims}.{header}.{proof}"),
        format!("{header}..{claims}.{proof}"),
        format!("{whole}."),
        format!(".{whole}"),
        format!("{whole}.{proof}"),
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
        assert_eq!(verify(&forged), LAYOUT, "{forged}");
    }
    // A forged token that has also expired is refused as forged: its claims are not trusted.
    let expired = |_: &mut Value, claims: &mut Value| claims["exp"] = json!(1);
    assert_eq!(verify(&token("guess", ISSUER, 7, NOW, expired)), SIGNATURE);
}

#[test]
fn signature_encoding_must_be_canonical() {
    let whole = token(SECRET, ISSUER, 7, NOW, |_, _| ());
    let last = whole.chars().last().unwrap();
    // 32 bytes leave two spare bits in the last letter: three other letters decode to the same.
    let letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    for letter in letters.chars().filter(|letter| *letter != last) {
        let other = format!("{}{letter}", &whole[..whole.len() - 1]);
        assert!([LAYOUT, SIGNATURE].contains(&verify(&other)), "{letter}");
    }
}

#[test]
fn another_sites_token_is_refused() {
    for (issuer, result) in [
        ("https://community.example/", good(7)),
        ("https://COMMUNITY.example", good(7)),
        ("http://community.example", OTHER_ISSUER),
        ("https://community.example:8443", OTHER_ISSUER),
        ("https://community.example/shop", OTHER_ISSUER),
        ("https://community.example.evil.example", OTHER_ISSUER),
        ("https://community.example@evil.example", OTHER_ISSUER),
        ("https://evil.example/?https://community.example", OTHER_ISSUER),
        ("community.example", OTHER_ISSUER),
        ("", OTHER_ISSUER),
    ] {
        assert_eq!(verify_altered(|_, claims| claims["iss"] = json!(issuer)), result, "{issuer}");
    }
    for issuer in [json!([ISSUER]), json!(1), json!({})] {
        assert_eq!(verify_altered(|_, claims| claims["iss"] = issuer.clone()), CLAIMS, "{issuer}");
    }
    assert_eq!(verify_altered(|_, claims| claims["iss"] = json!(null)), OTHER_ISSUER);
    assert_eq!(
        verify_altered(|_, claims| drop(claims.as_object_mut().unwrap().remove("iss"))),
        OTHER_ISSUER
    );
}

/// `Proven` of member 7 with this expiry.
fn until(expires_s: Option<u64>) -> Result<Proven, Failure> {
    Ok(Proven { user: 7, expires_s })
}

#[test]
fn token_expires_exactly_at_exp() {
    let at = |exp: Value| verify_altered(|_, claims| claims["exp"] = exp);
    for (exp, result) in [
        (json!(NOW + 1), until(Some(NOW + 1))),
        (json!(NOW), EXPIRED),
        (json!(NOW - 1), EXPIRED),
        (json!(0), EXPIRED),
        (json!(-1), EXPIRED),
        (json!(-0.5), EXPIRED),
        // A fraction of a second: never accepted too late.
        (json!(NOW as f64 + 0.5), EXPIRED),
        (json!(NOW as f64 + 1.5), until(Some(NOW + 1))),
        (json!(1.9e9), until(Some(1_900_000_000))),
        (json!(SITE_ID_MAX), until(Some(SITE_ID_MAX))),
        (json!(SITE_ID_MAX + 1), until(Some(SITE_ID_MAX))),
        (json!(u64::MAX), until(Some(SITE_ID_MAX))),
        (json!(1e300), until(Some(SITE_ID_MAX))),
        // RFC 7519 wants a number.
        (json!((NOW + 9).to_string()), CLAIMS),
        (json!("tomorrow"), CLAIMS),
        (json!(true), CLAIMS),
        (json!([NOW + 9]), CLAIMS),
        (json!({}), CLAIMS),
        (json!(null), until(None)),
    ] {
        assert_eq!(at(exp.clone()), result, "{exp}");
    }
}

fn without_exp() -> String {
    let remove = |_: &mut Value, claims: &mut Value| {
        claims.as_object_mut().unwrap().remove("exp");
    };
    token(SECRET, ISSUER, 7, NOW, remove)
}

#[test]
fn token_without_exp_is_accepted_unless_the_setting_refuses_it() {
    assert_eq!(verify(&without_exp()), until(None));
    let strict = verifier(SECRET).require_expiry(true);
    assert_eq!(strict.verify(&without_exp(), NOW), Err(Refusal::NoExpiry));
    assert_eq!(result(&strict, &without_exp(), NOW), refused(TokenFault::NoExpiry));
    let line = strict.explain(&Refusal::NoExpiry).unwrap();
    assert!(line.contains("exp") && line.contains("--jwt-without-exp"), "{line}");
    // Other faults come first.
    let forged = format!("{}x", &without_exp()[..without_exp().len() - 1]);
    assert_ne!(result(&strict, &forged, NOW), refused(TokenFault::NoExpiry));
    assert_eq!(result(&strict, &token(SECRET, ISSUER, 7, NOW, |_, _| ()), NOW), good(7));
}

#[test]
fn expiry_is_read_from_any_number() {
    let of = |exp: Value| {
        let text = token(SECRET, ISSUER, 7, NOW, |_, claims| claims["exp"] = exp);
        expiry(&Credential::parse(&text).unwrap())
    };
    assert_eq!(of(json!(NOW)), Some(NOW));
    assert_eq!(of(json!(NOW as f64 + 0.75)), Some(NOW));
    assert_eq!(of(json!(1.9e9)), Some(1_900_000_000));
    assert_eq!(of(json!("1900000000")), None);
    assert_eq!(of(json!(null)), None);
    assert_eq!(expiry(&Credential::parse(&without_exp()).unwrap()), None);
    assert_eq!(expiry(&Credential::parse("opaque").unwrap()), None);
}

#[test]
fn nbf_allows_small_clock_skew() {
    let at = |nbf: Value| verify_altered(|_, claims| claims["nbf"] = nbf);
    for (nbf, result) in [
        (json!(0), good(7)),
        (json!(NOW - 1), good(7)),
        (json!(NOW), good(7)),
        (json!(NOW + SKEW_S), good(7)),
        (json!((NOW + SKEW_S) as f64 - 0.5), good(7)),
        (json!(-1), good(7)),
        (json!(1.5), good(7)),
        (json!(null), good(7)),
        (json!(NOW + SKEW_S + 1), NOT_YET),
        (json!((NOW + SKEW_S) as f64 + 0.5), NOT_YET),
        (json!(u64::MAX), NOT_YET),
        (json!(1e300), NOT_YET),
        (json!("0"), CLAIMS),
        (json!([]), CLAIMS),
    ] {
        assert_eq!(at(nbf.clone()), result, "{nbf}");
    }
    assert_eq!(
        verify_altered(|_, claims| drop(claims.as_object_mut().unwrap().remove("nbf"))),
        good(7)
    );
    for iat in [json!(NOW as f64 + 0.5), json!(NOW + WEEK_S), json!("now"), json!(null)] {
        assert_eq!(verify_altered(|_, claims| claims["iat"] = iat.clone()), good(7), "{iat}");
    }
    // The largest possible time causes no overflow.
    let late = token(SECRET, ISSUER, 7, NOW, |_, _| ());
    assert_eq!(result(&verifier(SECRET), &late, u64::MAX), EXPIRED);
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
            CLAIMS,
            "{id}"
        );
    }
    for data in
        [json!(null), json!({}), json!({"user": "7"}), json!([["7"]]), json!({"user": ["7"]})]
    {
        assert_eq!(verify_altered(|_, claims| claims["data"] = data.clone()), CLAIMS, "{data}");
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
        assert_eq!(read(&claims), CLAIMS, "{claims}");
    }
    let deep = format!(r#"{{"x":{}{},{}"#, "[".repeat(500), "]".repeat(500), &whole[1..]);
    let long = whole.replace(r#"{"user"#, &format!(r#"{{"x":"{}","user"#, "x".repeat(100_000)));
    assert!(read(&deep).is_ok(), "unknown claims are skipped at any depth");
    let deep = whole.replace(r#""7""#, &format!("{}{}", "[".repeat(500_000), "]".repeat(500_000)));
    assert_eq!(read(&deep), CLAIMS);
    assert!(read(&long).is_ok(), "the verifier does not limit the length");
    for odd in ["", "[]", "null", "7", &format!("{whole}{whole}"), &whole[1..]] {
        assert_eq!(read(odd), CLAIMS, "{odd}");
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
            match other == whole {
                true => prop_assert_eq!(verify(&other), good(7)),
                false => prop_assert!(verify(&other).is_err()),
            }
        }
    }

    #[test]
    fn random_key_files_do_not_panic(
        bytes: Vec<u8>,
        at: prop::sample::Index,
        with: u8,
        is_rsa: bool,
    ) {
        let signer = if is_rsa { Signer::rs256() } else { Signer::es256() };
        let set = serde_json::json!({"keys": [signer.jwk(Some("a"))]}).to_string();
        let _ = public_keys::parse(&bytes);
        for text in [signer.pem(), set] {
            let mut bytes = text.into_bytes();
            let at = at.index(bytes.len());
            bytes[at] = with;
            let _ = public_keys::parse(&bytes);
            let _ = public_keys::parse(&bytes[..at]);
        }
    }

    #[test]
    fn random_tokens_do_not_panic(text in ".{0,60}", header: Vec<u8>, claims: Vec<u8>) {
        prop_assert!(verify(&text).is_err());
        prop_assert!(verify(&signed(SECRET, &header, &claims)).is_err());
        let result = verify(&signed(SECRET, br#"{"alg":"HS256"}"#, &claims));
        prop_assert!(result.is_err());
        let _ = Credential::parse(&text);
    }
}

fn explanation(token: &str) -> Option<String> {
    let verifier = verifier(SECRET);
    verifier.explain(&verifier.verify(token, NOW).err()?)
}

/// Whether a refusal is logged as a warning.
fn warns(token: &str) -> bool {
    verifier(SECRET).verify(token, NOW).is_err_and(|refusal| refusal.may_be_a_wrong_setting())
}

#[test]
fn each_refusal_is_explained_by_its_true_reason() {
    let claim = |name: &'static str, value: Value| {
        token(SECRET, ISSUER, 7, NOW, move |_, claims| claims[name] = value)
    };
    let header = |alg: &'static str| {
        token(SECRET, ISSUER, 7, NOW, move |header, _| header["alg"] = alg.into())
    };
    let twice = r#"{"iss":"https://community.example","exp":1,"exp":2}"#;
    for (token, warned, words) in [
        (
            claim("iss", json!("http://www.x.example")),
            true,
            &["http://www.x.example", "--jwt-issuer"][..],
        ),
        (claim("iss", json!("https://x.example/?lang=pt-br")), true, &["/?lang=pt-br", "issuer"]),
        (claim("iss", json!("https://bücher.example")), true, &["https://bücher.example"]),
        (claim("iss", json!("my-app")), true, &["my-app", "--jwt-issuer"]),
        (claim("iss", json!("a\nb")), true, &["a?b"]),
        (claim("iss", json!(null)), true, &["names no issuer (iss)", "--jwt-issuer"]),
        (claim("iss", json!("")), true, &["names no issuer"]),
        (claim("iss", json!(7)), true, &["iss is not text"]),
        (claim("exp", json!("1900000000")), true, &["exp is not a number"]),
        (claim("nbf", json!("0")), true, &["nbf is not a number"]),
        (claim("nbf", json!(NOW + 99)), true, &["not valid yet", "nbf", "clocks"]),
        (claim("data", json!({"user_id": 7})), true, &["data.user.id", "the site is asked"]),
        (signed(SECRET, br#"{"alg":"HS256"}"#, twice.as_bytes()), true, &["exp", "twice"]),
        (signed(SECRET, br#"{"alg":"HS256"}"#, b"[]"), true, &["not a JSON object"]),
        (
            token("another secret", ISSUER, 7, NOW, |_, _| ()),
            true,
            &["wrong signature", "JWT secret", ISSUER],
        ),
        (header("HS512"), true, &["HS512", "HS256", ISSUER]),
        (header("none"), true, &["signed with none"]),
        (header("RS256"), true, &["RS256", "--jwt-key-file"]),
        (header("XX"), true, &["an unknown algorithm"]),
        ("opaque".to_owned(), false, &["not a signed JWT", "three parts"]),
    ] {
        let line = explanation(&token).unwrap();
        for word in words {
            assert!(line.contains(word), "{line:?} has {word:?}");
        }
        assert_eq!(warns(&token), warned, "{line}");
        let blames_the_secret = line.contains("JWT secret") || line.contains("wrong signature");
        assert_eq!(blames_the_secret, words.contains(&"JWT secret"), "{line}");
        assert!(line.chars().all(|c| !c.is_control()), "{line:?}");
    }
    // Another site's token, or a forged one: nothing of it is repeated.
    let other = |_: &mut Value, claims: &mut Value| claims["iss"] = "http://evil.example".into();
    let forged = token("another secret", ISSUER, 7, NOW, other);
    let line = explanation(&forged).unwrap();
    assert!(!line.contains("evil") && line.contains("another issuer than"), "{line}");
    assert!(!warns(&forged));
    // Neither an expired token nor a valid one needs an explanation.
    assert_eq!(explanation(&claim("exp", json!(1))), None);
    assert_eq!(explanation(&token(SECRET, ISSUER, 7, NOW, |_, _| ())), None);
}

#[test]
fn any_of_several_issuers_is_accepted() {
    let issuers = ["https://site.example/?lang=pt-br", "https://bücher.example", "my-app", ""];
    let keys = JwtKeys::parse(SECRET.as_bytes()).unwrap();
    let verifier = Verifier::new(&keys, issuers.iter().map(|text| Issuer::new(text)).collect());
    let with = |iss: Value| token(SECRET, ISSUER, 7, NOW, |_, claims| claims["iss"] = iss);
    for iss in issuers {
        assert_eq!(result(&verifier, &with(json!(iss)), NOW), good(7), "{iss}");
    }
    assert_eq!(result(&verifier, &with(json!(null)), NOW), good(7));
    for iss in ["https://site.example", "https://site.example/?lang=pt", "My-App", "none"] {
        assert_eq!(result(&verifier, &with(json!(iss)), NOW), OTHER_ISSUER, "{iss}");
    }
    let explained = verifier.explain(&Refusal::Issuer(Some("x".to_owned()))).unwrap();
    assert!(explained.contains("my-app") && explained.contains("bücher"), "{explained}");
}

// ---- public keys

fn claims() -> Value {
    json!({"iss": ISSUER, "exp": NOW + WEEK_S, "data": {"user": {"id": 7}}})
}

fn public_verifier(file: &str) -> Verifier {
    let (keys, skipped) = public_keys::parse(file.as_bytes()).unwrap();
    assert!(skipped.is_empty(), "{skipped:?}");
    Verifier::new(&JwtKeys::default().with_public(keys), vec![Issuer::new(ISSUER)])
}

#[test]
fn rs256_and_es256_are_verified_with_pem_and_jwks() {
    let signers = [Signer::rs256(), Signer::es256()];
    let pem = format!("a comment\n{}{}", signers[0].pem(), signers[1].pem());
    let set = json!({"keys": [signers[0].jwk(Some("a")), signers[1].jwk(None)]}).to_string();
    for file in [pem, set] {
        let verifier = public_verifier(&file);
        for signer in &signers {
            let good_token = signer.sign(&json!({"alg": signer.algorithm()}), &claims());
            assert_eq!(result(&verifier, &good_token, NOW), good(7));
            // A changed claim, a signature of another key, and a cut one.
            let parts: Vec<&str> = good_token.split('.').collect();
            let other =
                encoded(json!({"iss": ISSUER, "data": {"user": {"id": 1}}}).to_string().as_bytes());
            for forged in [
                format!("{}.{other}.{}", parts[0], parts[2]),
                format!("{}.{}.{}", parts[0], parts[1], &parts[2][..40]),
                format!("{}.{}.", parts[0], parts[1]),
                format!("{}.{}.{}", parts[0], parts[1], encoded(&[0; 64])),
            ] {
                assert_eq!(result(&verifier, &forged, NOW), SIGNATURE, "{forged}");
            }
        }
        let stranger = Signer::es256().sign(&json!({"alg": "ES256"}), &claims());
        assert_eq!(result(&verifier, &stranger, NOW), SIGNATURE);
    }
    for signer in &signers {
        let single = public_verifier(&signer.jwk(None).to_string());
        let good_token = signer.sign(&json!({"alg": signer.algorithm()}), &claims());
        assert_eq!(result(&single, &good_token, NOW), good(7), "a set of one key without the list");
    }
}

#[test]
fn public_key_never_verifies_another_algorithm() {
    let (rsa, ec) = (Signer::rs256(), Signer::es256());
    let set = json!({"keys": [rsa.jwk(None), ec.jwk(None)]}).to_string();
    for file in [rsa.pem() + &ec.pem(), set.clone()] {
        let verifier = public_verifier(&file);
        let body = claims().to_string();
        let with = |alg: &str, secret: &str| {
            let header = json!({"alg": alg}).to_string();
            result(&verifier, &signed(secret, header.as_bytes(), body.as_bytes()), NOW)
        };
        // The classic attack: the public key, which everyone has, as the secret of HS256.
        for public in [&file, &rsa.pem(), rsa.pem().trim_end(), &ec.pem(), &set, ""] {
            assert_eq!(with("HS256", public), ALGORITHM);
            for alg in ["none", "None", "", "HS384", "PS256", "RS512", "ES384"] {
                assert_eq!(with(alg, public), ALGORITHM, "{alg}");
            }
            assert_eq!(with("RS256", public), SIGNATURE);
            assert_eq!(with("ES256", public), SIGNATURE);
        }
        // A signature that is valid, but of another algorithm than the header names.
        for (signer, alg) in [(&rsa, "ES256"), (&ec, "RS256")] {
            let token = signer.sign(&json!({"alg": alg}), &claims());
            assert_eq!(result(&verifier, &token, NOW), SIGNATURE, "{alg}");
        }
        for signer in [&rsa, &ec] {
            for alg in ["HS256", "none", "PS256", "ES256K"] {
                let token = signer.sign(&json!({"alg": alg}), &claims());
                assert_eq!(result(&verifier, &token, NOW), ALGORITHM, "{alg}");
            }
        }
    }
    // With a secret as well, each key is still for its own algorithm.
    let (keys, _) = public_keys::parse(rsa.pem().as_bytes()).unwrap();
    let both = JwtKeys::parse(SECRET.as_bytes()).unwrap().with_public(keys);
    let both = Verifier::new(&both, vec![Issuer::new(ISSUER)]);
    let rs256 = rsa.sign(&json!({"alg": "RS256"}), &claims());
    assert_eq!(result(&both, &rs256, NOW), good(7));
    assert_eq!(result(&both, &token(SECRET, ISSUER, 7, NOW, |_, _| ()), NOW), good(7));
    let confused = token(&rsa.pem(), ISSUER, 7, NOW, |_, _| ());
    assert_eq!(result(&both, &confused, NOW), SIGNATURE);
    let confused = token(SECRET, ISSUER, 7, NOW, |header, _| header["alg"] = "RS256".into());
    assert_eq!(result(&both, &confused, NOW), SIGNATURE);
    // Only a secret: public-key algorithms have no key.
    assert_eq!(verify(&rs256), ALGORITHM);
}

#[test]
fn key_id_selects_among_the_keys_of_a_set() {
    let (old, new) = (Signer::es256(), Signer::es256());
    let set = json!({"keys": [old.jwk(Some("old")), new.jwk(Some("new"))]}).to_string();
    let verifier = public_verifier(&set);
    let sign = |signer: &Signer, kid: Value| {
        let header = json!({"alg": "ES256", "kid": kid});
        result(&verifier, &signer.sign(&header, &claims()), NOW)
    };
    assert_eq!(sign(&old, json!("old")), good(7));
    assert_eq!(sign(&new, json!("new")), good(7));
    assert_eq!(sign(&new, json!("old")), SIGNATURE);
    // No key has this identifier.
    assert_eq!(sign(&new, json!("newer")), ALGORITHM);
    let header = json!({"alg": "ES256", "kid": "newer"});
    let refusal = verifier.verify(&new.sign(&header, &claims()), NOW).unwrap_err();
    let line = verifier.explain(&refusal).unwrap();
    assert!(line.contains("kid") && line.contains("--jwt-key-file"), "{line}");
    // Without a usable identifier, all keys are tried.
    for kid in [json!(null), json!(7)] {
        assert_eq!(sign(&new, kid), good(7));
    }
    // A key in PEM has no identifier.
    let header = json!({"alg": "ES256", "kid": "any"});
    assert_eq!(result(&public_verifier(&new.pem()), &new.sign(&header, &claims()), NOW), good(7));
}
