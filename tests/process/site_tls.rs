//! The certificate authorities that the server trusts for its site.

use std::process::Command;

use serde_json::json;

use crate::support::client::Client;
use crate::support::files::SecretFile;
use crate::support::server::{Server, binary, wait_until};
use crate::support::site::Site;
use crate::support::tls::{Certificate, LONG};
use crate::support::tls_front::TlsFront;

const TOKEN: &str = "user-7";

/// A site with a certificate that no public authority has signed.
fn private_site() -> (Site, Certificate, TlsFront) {
    let (site, certificate) = (Site::start(), Certificate::new());
    site.add_thread(41, &[7, 8]);
    let front = TlsFront::before(&site.url(), &certificate);
    (site, certificate, front)
}

fn command(front: &TlsFront) -> Command {
    let mut command = binary();
    command.args(["--listen", "127.0.0.1:0", "--buddyboss-url", &front.url()]);
    command
}

fn is_admitted(server: &Server) -> bool {
    is_admitted_as(server, 7, TOKEN)
}

fn is_admitted_as(server: &Server, user: u64, token: &str) -> bool {
    let mut client = Client::connect(server.address());
    client.send(&json!({"type": "user_connected", "userId": user, "token": token}));
    let is_answer = |frame: &serde_json::Value| {
        frame["type"] == "user_connected" || frame["code"] == "site_unavailable"
    };
    client.expect(is_answer)["type"] == "user_connected"
}

#[test]
fn private_authority_is_trusted_by_setting_or_variable() {
    let (_site, certificate, front) = private_site();
    let other = Certificate::new();
    let file = |path: &str| ["--site-ca-file".to_owned(), path.to_owned()];
    type Change = Box<dyn Fn(&mut Command)>;
    let variable = |name: &'static str, value: String| -> Change {
        Box::new(move |command| _ = command.env(name, &value))
    };
    let setting =
        |path: String| -> Change { Box::new(move |command| _ = command.args(file(&path))) };
    let dir = certificate.folder().to_str().unwrap().to_owned();
    let cases: Vec<(&str, Change, bool)> = vec![
        ("nothing", Box::new(|_| ()), false),
        ("setting", setting(certificate.cert()), true),
        ("another authority", setting(other.cert()), false),
        ("SSL_CERT_FILE", variable("SSL_CERT_FILE", certificate.cert()), true),
        ("SSL_CERT_FILE", variable("SSL_CERT_FILE", other.cert()), false),
        ("SSL_CERT_DIR", variable("SSL_CERT_DIR", dir), true),
        ("empty", variable("SSL_CERT_FILE", String::new()), false),
    ];
    for (name, change, trusted) in cases {
        let mut command = command(&front);
        change(&mut command);
        let before = front.handshakes();
        let server = Server::launch(command, 1);
        assert_eq!(is_admitted(&server), trusted, "{name}: {:?}", server.log());
        assert_eq!(front.handshakes() > before, trusted, "{name}");
        let authorities = "certificate authorities for the site: ";
        assert!(server.log().iter().any(|line| line.contains(authorities)), "{name}");
    }
}

#[test]
fn reload_reads_the_authorities_again() {
    let (site, certificate, front) = private_site();
    let settings = SecretFile::with(&[""]);
    let write = |text: &str| std::fs::write(settings.path(), text).unwrap();
    let mut command = command(&front);
    command.args(["--env-file", settings.path()]);
    let server = Server::launch(command, 1);
    assert!(!is_admitted(&server));
    let reload = |word: &str| {
        let seen = server.log().iter().filter(|line| line.contains(word)).count();
        server.signal("HUP");
        server.wait_for_log(|lines| lines.iter().filter(|line| line.contains(word)).count() > seen);
    };
    write(&format!("BUDDYLINE_SITE_CA_FILE={}\n", certificate.cert()));
    reload("settings reloaded");
    wait_until(LONG, "the site is trusted", || is_admitted(&server));
    // A file that cannot be used is refused, and the old one stays in force.
    let broken = certificate.write("broken.pem", 0o644, "nothing");
    write(&format!("BUDDYLINE_SITE_CA_FILE={broken}\n"));
    reload("the new settings are refused");
    let lines = server.log();
    assert!(lines.iter().any(|line| line.contains("broken.pem: it contains no certificate")));
    assert!(is_admitted(&server));
    // Without the file, new connections to the site fail; those in use may go on for a while.
    write("");
    reload("settings reloaded");
    let before = site.requests().len();
    // With a token that the server has not cached.
    assert!(!is_admitted_as(&server, 9, "user-9"), "{:?}", server.log());
    assert_eq!(site.requests().len(), before);
}

#[test]
fn unusable_authority_file_ends_the_start() {
    let (_site, certificate, front) = private_site();
    let empty = certificate.write("empty.pem", 0o644, "");
    for (path, word) in [
        (&*empty, "empty.pem: it is empty"),
        (&certificate.key(), "key.pem: it contains no certificate"),
        ("/nowhere/ca.pem", "/nowhere/ca.pem: it cannot be read"),
    ] {
        for tool in [&[][..], &["check-config"], &["doctor"]] {
            let mut command = binary();
            command.args(tool).args(["--listen", "127.0.0.1:0", "--site-ca-file", path]);
            let output = command.args(["--buddyboss-url", &front.url()]).output().unwrap();
            let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
            assert_eq!(output.status.code(), Some(2), "{tool:?}: {text}");
            assert!(text.contains(word), "{tool:?}: {text}");
        }
    }
    let output = command(&front).env("SSL_CERT_FILE", "/nowhere/ca.pem").output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && text.contains("SSL_CERT_FILE: it has no cert"), "{text}");
}

#[test]
fn doctor_trusts_the_same_authorities() {
    let (_site, certificate, front) = private_site();
    let doctor = |file: Option<&str>| {
        let mut command = binary();
        command.args(["doctor", "--listen", "127.0.0.1:0", "--buddyboss-url", &front.url()]);
        command.args(file.map(|path| format!("--site-ca-file={path}")));
        String::from_utf8(command.output().unwrap().stdout).unwrap().replace("\n  ", " ")
    };
    let text = doctor(None);
    assert!(text.contains("failed   site TLS: the certificate is not valid"), "{text}");
    assert!(text.contains("--site-ca-file"), "{text}");
    let text = doctor(Some(&certificate.cert()));
    assert!(text.contains("site TLS: TLSv1.3, and the certificate is valid"), "{text}");
    assert!(text.contains("ok       REST API"), "{text}");
}
