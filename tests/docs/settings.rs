//! Settings on the command line: conflicts, defaults that depend on others, and lists.

use buddyline::config::{Config, Trust};
use clap::Parser;

fn read(arguments: &[&str]) -> Config {
    Config::try_parse_from(["buddyline"].iter().chain(arguments)).unwrap()
}

#[test]
fn site_url_implies_verified_trust_unless_open() {
    let site = ["--buddyboss-url", "https://community.example"];
    let config = read(&site);
    config.check().unwrap();
    assert_eq!(config.trust_mode(), Trust::Verified);
    assert!(!config.is_try_page_enabled());
    let config = read(&[site[0], site[1], "--trust", "open"]);
    config.check().unwrap();
    assert_eq!(config.trust_mode(), Trust::Open);
    assert_eq!(read(&[]).trust_mode(), Trust::Open);
    assert_eq!(read(&["--trust", "open"]).trust_mode(), Trust::Open);
}

#[test]
fn conflicting_settings_are_named() {
    let site = "--buddyboss-url=https://community.example";
    for (arguments, parts) in [
        (&["--trust=verified"][..], ["--trust", "--buddyboss-url"]),
        (&["--presence=threads"], ["--presence", "--trust"]),
        (&["--presence=threads", "--trust=open", site], ["--presence", "--trust"]),
        (&["--typing-lasts=31s"], ["--membership-lasts is 1m", "--typing-lasts is 31s"]),
        (&["--membership-lasts=10s", "--typing-lasts=5001ms"], ["10s", "5s 1ms"]),
    ] {
        let fault = read(arguments).check().unwrap_err();
        for part in parts {
            assert!(fault.contains(part), "{arguments:?}: {fault:?} names {part:?}");
        }
    }
    for good in [
        &["--trust=verified", site][..],
        &["--presence=threads", site],
        &["--presence=off"],
        &["--typing-lasts=30s"],
    ] {
        read(good).check().unwrap();
    }
}

#[test]
fn origins_and_proxies_accept_lists_and_repeats() {
    let once = read(&["--allowed-origin=null,*.example.org", "--trusted-proxy=::1,10.0.0.0/8"]);
    let again = read(&[
        "--allowed-origin=null",
        "--allowed-origin=*.example.org",
        "--trusted-proxy=::1",
        "--trusted-proxy=10.0.0.0/8",
    ]);
    assert_eq!(once.allowed_origin.len(), 2);
    assert_eq!(once.allowed_origin, again.allowed_origin);
    assert_eq!(once.trusted_proxy.len(), 2);
    assert_eq!(once.trusted_proxy, again.trusted_proxy);
}

#[test]
fn origin_check_is_on_unless_trust_is_open() {
    let site = "--buddyboss-url=https://community.example";
    let app = "--allowed-origin=https://app.example";
    let own = "https://community.example";
    for (arguments, expected) in [
        (&[][..], [true, true, true]),
        (&[site, "--trust=open"], [true, true, true]),
        (&[site], [true, false, false]),
        (&[site, app], [true, true, false]),
        (&[site, "--trust=open", app], [true, true, false]),
        (&[app], [false, true, false]),
        (&[site, "--allowed-origin=*"], [true, true, true]),
    ] {
        let origins = read(arguments).origins();
        let found = [own, "https://app.example", "https://evil.example"]
            .map(|origin| origins.is_allowed(origin, None));
        assert_eq!(found, expected, "{arguments:?}");
    }
}

#[test]
fn jwt_secret_needs_a_site_and_is_not_in_settings() {
    let path = std::env::temp_dir().join(format!("buddyline-secret-{}", std::process::id()));
    std::fs::write(&path, "s3cret\n").unwrap();
    let file = ["--jwt-secret-file", path.to_str().unwrap(), "--trust", "open"];
    let fault = read(&file).check().unwrap_err();
    assert!(fault.contains("--buddyboss-url") && !fault.contains("s3cret"), "{fault}");
    let site = ["--buddyboss-url", "https://community.example"];
    let config = read(&[&file[..], &site[..]].concat());
    config.check().unwrap();
    assert_eq!(config.jwt_keys().unwrap().unwrap().secrets().collect::<Vec<_>>(), [b"s3cret"]);
    assert!(!format!("{config:?}").contains("s3cret"));
    std::fs::remove_file(&path).unwrap();
    let fault = config.check().unwrap_err();
    assert!(fault.contains(path.to_str().unwrap()), "{fault}");
}
