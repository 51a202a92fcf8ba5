//! Requests to the site through an outgoing proxy.

use std::net::{SocketAddr, TcpListener};
use std::process::Command;

use serde_json::{Value, json};

use crate::support::client::Client;
use crate::support::connect_proxy::ConnectProxy;
use crate::support::files::SecretFile;
use crate::support::server::{Server, binary};
use crate::support::site::Site;
use crate::support::tls::{Certificate, LONG};
use crate::support::tls_front::TlsFront;

/// The name of the site, which only the proxy can resolve.
const NAME: &str = "http://community.invalid";

fn address_of(url: &str) -> SocketAddr {
    url.strip_prefix("http://").unwrap().parse().unwrap()
}

fn command(url: &str, variables: &[(&str, &str)]) -> Command {
    let mut command = binary();
    command.args(["--listen", "127.0.0.1:0", "--buddyboss-url", url]);
    command.envs(variables.iter().copied());
    command
}

/// The answer to a member who sends a token.
fn answer(server: &Server) -> String {
    let mut client = Client::connect(server.address());
    client.send(&json!({"type": "user_connected", "userId": 7, "token": "user-7"}));
    let is_answer = |frame: &Value| frame["type"] == "user_connected" || frame["type"] == "error";
    let frame = client.expect(is_answer);
    frame["code"].as_str().unwrap_or("admitted").to_owned()
}

#[test]
fn setting_and_variables_choose_the_proxy() {
    let site = Site::start();
    let proxy = ConnectProxy::to(address_of(&site.url()));
    let url = proxy.url();
    for (name, variables, through) in [
        ("none", vec![], false),
        ("setting", vec![("BUDDYLINE_SITE_PROXY", &*url)], true),
        ("HTTP_PROXY", vec![("HTTP_PROXY", &*url)], true),
        ("http_proxy", vec![("http_proxy", &*url)], true),
        ("another scheme", vec![("HTTPS_PROXY", &*url)], false),
        ("empty", vec![("HTTP_PROXY", ""), ("BUDDYLINE_SITE_PROXY", "")], false),
        ("off", vec![("HTTP_PROXY", &*url), ("BUDDYLINE_SITE_PROXY", "off")], false),
        ("NO_PROXY", vec![("HTTP_PROXY", &*url), ("NO_PROXY", "x, 127.0.0.0/8")], false),
        ("no_proxy", vec![("HTTP_PROXY", &*url), ("no_proxy", "localhost")], true),
        ("setting wins", vec![("BUDDYLINE_SITE_PROXY", &*url), ("NO_PROXY", "*")], true),
    ] {
        let before = (proxy.heads().len(), site.requests().len());
        let server = Server::launch(command(&site.url(), &variables), 1);
        assert_eq!(answer(&server), "admitted", "{name}: {:?}", server.log());
        assert_eq!(proxy.heads().len() > before.0, through, "{name}");
        assert!(site.requests().len() > before.1, "{name}");
        let line = format!("requests to the site go through the proxy {} (", proxy.name());
        let logged = server.log().iter().any(|own| own.contains(&line));
        assert_eq!(logged, through, "{name}: {:?}", server.log());
    }
    let head = &proxy.heads()[0];
    let target = site.url().replace("http://", "");
    assert!(head.starts_with(&format!("CONNECT {target} HTTP/1.1\r\n")), "{head}");
    assert!(!head.contains("Authorization"), "{head}");
}

#[test]
fn tls_to_the_site_goes_through_the_tunnel() {
    let (site, certificate) = (Site::start(), Certificate::new());
    site.add_thread(41, &[7, 8]);
    let front = TlsFront::before(&site.url(), &certificate);
    let inside = SocketAddr::from((
        [127, 0, 0, 1],
        front.url().rsplit(':').next().unwrap().parse().unwrap(),
    ));
    let proxy = ConnectProxy::to(inside);
    // The certificate is for localhost; the port is wrong, and only the proxy leads to the site.
    let unused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("https://localhost:{unused}");
    let mut command = command(&url, &[("HTTPS_PROXY", &proxy.url())]);
    command.args(["--site-ca-file", &certificate.cert()]);
    let server = Server::launch(command, 1);
    let mut client = Client::proven(server.address(), 7, "user-7");
    client.join(41);
    client.send(&json!({"type": "send_message", "threadId": 41, "message": "hello", "userId": 7,
                        "token": "user-7", "clientId": "a"}));
    client.expect_type("message");
    assert_eq!(site.stored(41), [(7, "hello".to_owned())]);
    let heads = proxy.heads();
    let target = format!("CONNECT localhost:{unused} HTTP/1.1\r\n");
    assert!(heads.iter().all(|head| head.starts_with(&target)), "{heads:?}");
    // The proxy sees no token.
    assert!(heads.iter().all(|head| !head.contains("user-7")), "{heads:?}");
}

#[test]
fn password_of_the_proxy_is_sent_and_never_shown() {
    let site = Site::start();
    let proxy = ConnectProxy::to(address_of(&site.url()));
    let secret = format!("http://us%40er:pr0xy-passw0rd@{}", proxy.name());
    let settings = SecretFile::with(&[
        &format!("BUDDYLINE_SITE_PROXY={secret}"),
        &format!("BUDDYLINE_BUDDYBOSS_URL={NAME}"),
    ]);
    let mut in_file = binary();
    in_file.args(["--listen", "127.0.0.1:0", "--log-level", "debug"]);
    in_file.args(["--env-file", settings.path()]);
    let mut in_environment = command(NAME, &[("BUDDYLINE_SITE_PROXY", &secret)]);
    in_environment.args(["--log-level", "debug"]);
    for command in [in_file, in_environment, command(NAME, &[("HTTP_PROXY", &secret)])] {
        let mut server = Server::launch(command, 1);
        assert_eq!(answer(&server), "admitted", "{:?}", server.log());
        server.signal("TERM");
        server.exit(LONG);
        let log = server.final_output();
        assert!(log.contains(&proxy.name()), "{log}");
        for word in ["passw0rd", "us%40er", "us@er", "dXNAZXI6cHIweHktcGFzc3cwcmQ"] {
            assert!(!log.contains(word), "{word} in {log}");
        }
    }
    // `us@er:pr0xy-passw0rd`
    let header = "\r\nProxy-Authorization: Basic dXNAZXI6cHIweHktcGFzc3cwcmQ=\r\n";
    assert!(proxy.heads().iter().all(|head| head.contains(header)), "{:?}", proxy.heads());

    let mut tools = vec![command(NAME, &[]), binary(), binary(), command(NAME, &[])];
    tools[0].args(["--site-proxy", &secret]);
    tools[1].args(["check-config", "--buddyboss-url", NAME, "--site-proxy", &secret]);
    tools[2].args(["doctor", "--buddyboss-url", NAME, "--site-proxy", &secret]);
    tools[3].args(["--site-proxy", "user:passw0rd@:3128"]);
    for (number, mut command) in tools.into_iter().enumerate() {
        let output = command.output().unwrap();
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert_eq!(output.status.code(), Some(2), "{text}");
        let word = if number < 3 { "set BUDDYLINE_SITE_PROXY instead" } else { "--site-proxy: " };
        assert!(text.contains(word) && !text.contains("passw0rd"), "{text}");
    }
    let help = binary().env("BUDDYLINE_SITE_PROXY", &secret).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    assert!(help.contains("BUDDYLINE_SITE_PROXY") && !help.contains("passw0rd"), "{help}");
}

#[test]
fn refusing_or_missing_proxy_is_named_and_nothing_was_sent() {
    let unused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let site = Site::start();
    let status = |line| ConnectProxy::answering(line, None);
    let password = status("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n");
    let forbidden = status("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n");
    let gateway = status("HTTP/1.1 502 Bad Gateway\r\n\r\n");
    let other = status("SSH-2.0-x\r\n\r\n");
    for (url, words, doctor_words) in [
        (password.url(), "a password (407)", "a password (407)"),
        (forbidden.url(), "forbids connections to the site (403)", "with status 403"),
        (gateway.url(), "the proxy does not connect to the site", "with status 502"),
        (other.url(), "not HTTP", "not HTTP"),
        (format!("http://{unused}"), "the proxy cannot be reached", "refused"),
        (
            "http://proxy.invalid:3128".to_owned(),
            "of the proxy cannot be resolved",
            "proxy.invalid",
        ),
    ] {
        let server = Server::launch(command(&site.url(), &[("HTTP_PROXY", &url)]), 1);
        assert_eq!(answer(&server), "site_unavailable");
        server.wait_for_log(|lines| lines.iter().any(|line| line.contains(words)));
        let mut doctor = binary();
        doctor.args(["doctor", "--listen", "127.0.0.1:0", "--buddyboss-url", &site.url()]);
        let output = doctor.env("HTTP_PROXY", &url).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(text.contains(doctor_words) && text.contains("HTTP_PROXY"), "{text}");
    }
    assert!(site.requests().is_empty());
}

#[test]
fn doctor_goes_through_the_proxy_and_says_so() {
    let site = Site::start();
    let proxy = ConnectProxy::to(address_of(&site.url()));
    let mut doctor = binary();
    doctor.args(["doctor", "--listen", "127.0.0.1:0", "--buddyboss-url", NAME]);
    let output = doctor.args(["--site-proxy", &proxy.url()]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(text.contains("site name: the proxy 127.0.0.1 is an IP address"), "{text}");
    let seen = format!("site connection: through the proxy {} (--site-proxy), in", proxy.name());
    assert!(text.contains(&seen), "{text}");
    // The connection to the proxy is private, and the one behind it is not.
    assert!(text.contains("warning site TLS: none (http://): tokens can be read"), "{text}");
    assert!(text.contains("ok REST API"), "{text}");
    let head = "CONNECT community.invalid:80 HTTP/1.1\r\n";
    assert!(proxy.heads().iter().all(|it| it.starts_with(head)), "{:?}", proxy.heads());
}

#[test]
fn changed_proxy_takes_effect_at_the_next_start() {
    let site = Site::start();
    let proxy = ConnectProxy::to(address_of(&site.url()));
    let settings = SecretFile::with(&[&format!("BUDDYLINE_BUDDYBOSS_URL={}", site.url())]);
    let mut command = binary();
    command.args(["--listen", "127.0.0.1:0", "--env-file", settings.path()]);
    let server = Server::launch(command, 1);
    let text =
        format!("BUDDYLINE_BUDDYBOSS_URL={}\nBUDDYLINE_SITE_PROXY={}\n", site.url(), proxy.url());
    std::fs::write(settings.path(), text).unwrap();
    server.signal("HUP");
    let line = "--site-proxy has changed: it takes effect at the next start";
    server.wait_for_log(|lines| lines.iter().any(|own| own.contains(line)));
    assert_eq!(answer(&server), "admitted");
    assert!(proxy.heads().is_empty());
}
