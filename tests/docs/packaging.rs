//! Checks that the systemd units of the package match the code.
//!
//! `tests/systemd/run` tests the installed package on a real systemd.

use std::fs;
use std::path::Path;

use buddyline::config::Config;
use buddyline::config::{env_file, secrets};
use clap::Parser;

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The value of a line in a unit.
fn value_of<'a>(unit: &'a str, key: &str) -> &'a str {
    let line = unit.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    line.unwrap_or_else(|| panic!("the unit has no {key}="))
}

#[test]
fn unit_stop_timeout_exceeds_drain_time() {
    let unit = read("systemd/buddyline.service");
    let config = Config::try_parse_from(["buddyline"]).expect("the defaults are good");
    let seconds: u64 = value_of(&unit, "TimeoutStopSec").parse().expect("seconds");
    assert!(seconds >= config.drain_timeout.as_secs() + 10, "{seconds}");
}

#[test]
fn unit_files_and_server_agree_on_names() {
    let unit = read("systemd/buddyline.service");
    for secret in [secrets::JWT, secrets::TURN] {
        for key in ["LoadCredential", "SetCredential"] {
            let line = format!("\n{key}={}:", secret.credential);
            assert!(unit.contains(&line), "{line}");
        }
    }
    assert!(value_of(&unit, "Environment").starts_with(&format!("{}=-/", env_file::VARIABLE)));
    // Switching to socket activation must not change the address.
    let socket = read("systemd/buddyline.socket");
    let listen = Config::try_parse_from(["buddyline"]).expect("the defaults are good").listen;
    let [listen] = &listen[..] else { panic!("one address") };
    let address = value_of(&socket, "ListenStream").parse().expect("an address");
    assert!(listen.addresses.contains(&address), "{address}");
}

#[test]
fn plugin_has_the_servers_version() {
    let plugin = read("wordpress/buddyline/buddyline.php");
    let readme = read("wordpress/buddyline/readme.txt");
    let version = env!("CARGO_PKG_VERSION");
    assert!(plugin.contains(&format!("\n * Version:           {version}\n")));
    assert!(plugin.contains(&format!("'BUDDYLINE_VERSION', '{version}'")));
    assert!(readme.contains(&format!("\nStable tag: {version}\n")));
    assert!(readme.contains(&format!("\n= {version} =\n")));
}
