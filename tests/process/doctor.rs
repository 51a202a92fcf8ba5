//! `buddyline doctor` and `buddyline check-config`, as an operator runs them.

use std::net::TcpListener;
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;

use crate::support::files::SecretFile;
use crate::support::jwt::{Signer, WEEK_S, token};
use crate::support::proxy::{FaultyProxy, ProxyFault};
use crate::support::server::{Server, binary};
use crate::support::site::{Fault, Site};
use crate::support::site_model::{Request, http_date};

const SECRET: &str = "a secret of more than thirty-two bytes, as is advised";
const MEMBER: &str = "s3cret-token-7";

/// The parsed output of a doctor run.
struct DoctorReport {
    code: i32,
    findings: Vec<Value>,
    text: String,
}

impl DoctorReport {
    /// The status of a finding, and its text with the remedy.
    fn about(&self, name: &str) -> (String, String) {
        let finding = self.findings.iter().find(|finding| finding["name"] == name);
        let finding = finding.unwrap_or_else(|| panic!("no finding {name}: {}", self.text));
        let status = finding["status"].as_str().unwrap().to_owned();
        (status, format!("{} {}", finding["seen"], finding["remedy"]))
    }

    #[track_caller]
    fn expect(&self, name: &str, status: &str, words: &[&str]) {
        let (found, text) = self.about(name);
        assert_eq!(found, status, "{name}: {text}");
        for word in words {
            assert!(text.contains(word), "{name}: no {word:?} in {text}");
        }
    }

    /// The names of the findings that failed.
    fn failed(&self) -> Vec<&str> {
        let failed = self.findings.iter().filter(|finding| finding["status"] == "failed");
        failed.map(|finding| finding["name"].as_str().unwrap()).collect()
    }
}

fn doctor(url: &str, arguments: &[&str]) -> Command {
    let mut command = binary();
    command.args(["doctor", "--listen", "127.0.0.1:0", "--within", "20s"]);
    command.args(["--buddyboss-url", url]).args(arguments);
    command
}

/// Runs the doctor with a member's token and JSON output.
fn run_doctor(url: &str, token: &str, arguments: &[&str]) -> DoctorReport {
    let file = SecretFile::with(&[token]);
    let begun = Instant::now();
    let mut command = doctor(url, &["--json", "--token-file", file.path()]);
    let output = command.args(arguments).output().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(25), "took {:?}", begun.elapsed());
    read(output, &[token, SECRET])
}

fn read(output: Output, secrets: &[&str]) -> DoctorReport {
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    for secret in secrets {
        assert!(!text.contains(secret), "a secret is shown: {text}");
    }
    let value: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}"));
    let findings = value["findings"].as_array().unwrap().clone();
    let failed = findings.iter().filter(|finding| finding["status"] == "failed").count();
    assert_eq!(value["summary"]["failed"], failed);
    let code = output.status.code().unwrap();
    assert_eq!(code, i32::from(failed > 0), "{text}");
    DoctorReport { code, findings, text }
}

fn healthy_site() -> Site {
    let site = Site::start();
    site.set_jwt_secret(SECRET);
    site.add_member(MEMBER, 7);
    site.add_thread(41, &[7, 8]);
    site
}

#[test]
fn healthy_site_passes_and_is_not_modified() {
    let site = healthy_site();
    let server = Server::start(&["--buddyboss-url", &site.url()]);
    let secret = SecretFile::with(&[SECRET]);
    let public = format!("ws://{}/live", server.address());
    let listen = server.address().to_string();
    let arguments = ["--jwt-secret-file", secret.path(), "--public-url", &public];
    let member = site.jwt(7, Duration::from_secs(WEEK_S));
    let report = run_doctor(&site.url(), &member, &arguments);
    for finding in &report.findings {
        assert_eq!(finding["status"], "ok", "{finding}");
    }
    assert_eq!((report.findings.len(), report.code), (23, 0), "{}", report.text);
    report.expect("token", "ok", &["member 7's"]);
    report.expect("speed", "ok", &["thread", "4 at once: ", " messages a second"]);
    assert!(site.requests().iter().all(|request| request.method == "GET"));
    // At most 14 one after the other, then at most ten for each of the four workers.
    assert!((14 + 8..=14 + 40).contains(&site.requests().len()), "{}", site.requests().len());

    let lines = doctor(&site.url(), &["--within", "20s"]).output().unwrap();
    assert_eq!(lines.status.code(), Some(2), "an option is not given twice");
    let mut command = binary();
    command.args(["doctor", "--buddyboss-url", &site.url(), "--listen", &listen]);
    let lines = String::from_utf8(command.output().unwrap().stdout).unwrap();
    assert!(lines.contains("\nok       port: buddyline already runs on "), "{lines}");
    assert!(!lines.contains('\x1b'), "no colours without a terminal");
    assert!(lines.lines().all(|line| line.chars().count() <= 80), "{lines}");
}

/// Whether it is a request for the participants of thread 41.
fn is_for_thread(request: &Request) -> bool {
    request.path.contains("/messages/41")
}

#[test]
fn speed_is_what_a_site_with_one_core_reaches() {
    const COST: Duration = Duration::from_millis(40);
    let site = healthy_site();
    // The site runs its rules one after the other.
    site.fail_when(|_, request| {
        if is_for_thread(request) {
            thread::sleep(COST);
        }
        None
    });
    let report = run_doctor(&site.url(), MEMBER, &["--upstream-workers", "8"]);
    let (status, text) = report.about("speed");
    assert_eq!(status, "ok", "{text}");
    let (_, rate) = text.split_once("8 at once: ").unwrap_or_else(|| panic!("{text}"));
    let rate: f64 = rate.split(' ').next().unwrap().parse().unwrap();
    // The latency of one request would promise 8 times 25 reads a second.
    assert!((1.0..=26.0).contains(&rate), "{text}");
}

#[test]
fn rate_limit_that_requests_at_once_exceed_is_a_warning() {
    let site = healthy_site();
    let mut requests = 0;
    site.fail_when(move |_, request| {
        requests += usize::from(is_for_thread(request));
        (requests > 5 && is_for_thread(request)).then(|| Fault::status(429, &[]))
    });
    let report = run_doctor(&site.url(), MEMBER, &[]);
    report.expect("speed", "warning", &["4 at once: ", "failed (status 429)", "rate limit"]);
    assert!(report.failed().is_empty(), "{}", report.text);
    // A caller whose request failed sends no other.
    let sent = site.requests().iter().filter(|request| is_for_thread(request)).count();
    assert!(sent <= 5 + 4, "{sent} requests");
}

#[test]
fn unreachable_site_is_one_quick_failure() {
    let begun = Instant::now();
    let report = run_doctor(&Site::refusing(), MEMBER, &[]);
    report.expect("site connection", "failed", &["refused", "Nothing listens"]);
    assert_eq!(report.failed(), ["site connection"]);
    let report = run_doctor("http://nothing.invalid", MEMBER, &[]);
    report.expect("site name", "failed", &["nothing.invalid", "resolv"]);
    assert_eq!(report.failed(), ["site name"]);
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
}

#[test]
fn tls_mismatch_is_reported_in_both_directions() {
    // The server answers non-HTTP bytes with 400, as web servers do.
    let server = Server::start(&[]);
    let (host, port) = ("localhost", server.address().port());
    let public = format!("wss://{host}:{port}/live");
    let report = run_doctor(&format!("https://{host}:{port}"), MEMBER, &["--public-url", &public]);
    report.expect("site TLS", "failed", &["does not speak TLS", "http://"]);
    report.expect("public TLS", "failed", &["does not speak TLS", "ws://"]);
    report.expect("public WebSocket", "skipped", &[]);
    assert_eq!(report.failed(), ["site TLS", "public TLS"]);
}

#[test]
fn plain_permalinks_are_reached_by_rest_route() {
    let site = healthy_site();
    site.set_plain_permalinks(true);
    let report = run_doctor(&site.url(), MEMBER, &[]);
    report.expect("REST API", "ok", &["/?rest_route=/"]);
    report.expect("token", "ok", &["member 7's"]);
    report.expect("speed", "ok", &["thread"]);
    assert!(report.failed().is_empty(), "{}", report.text);
}

#[test]
fn disabled_messages_component_is_reported() {
    let site = healthy_site();
    site.disable_messages();
    let report = run_doctor(&site.url(), MEMBER, &[]);
    report.expect("Messages component", "failed", &["Components"]);
    assert_eq!(report.failed(), ["Messages component"]);
}

#[test]
fn stripped_auth_header_is_told_apart_from_a_bad_token() {
    let site = healthy_site();
    // The site reads a header that the server does not send.
    site.set_token_header("X-Custom");
    let report = run_doctor(&site.url(), MEMBER, &[]);
    report.expect("token header", "failed", &["CGIPassAuth", "HTTP_AUTHORIZATION"]);
    report.expect("token", "failed", &["See the line about the token header"]);
    // With the matching setting all checks pass.
    let report = run_doctor(&site.url(), MEMBER, &["--token-header", "X-Custom"]);
    report.expect("token header", "ok", &["x-custom"]);
    assert!(report.failed().is_empty(), "{}", report.text);
}

#[test]
fn refused_token_is_reported_with_the_reason() {
    let site = healthy_site();
    let report = run_doctor(&site.url(), "unknown.token", &[]);
    report.expect("token header", "ok", &["reaches"]);
    report.expect("token", "failed", &["jwt_auth_invalid_token"]);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let old = token(SECRET, &site.url(), 7, now, |_, claims| claims["exp"] = (now - 60).into());
    run_doctor(&site.url(), &old, &[]).expect("token", "failed", &["expired"]);
    site.suspend(7);
    run_doctor(&site.url(), MEMBER, &[]).expect("token", "failed", &["suspended"]);
}

#[test]
fn wrong_jwt_secret_and_issuer_are_reported() {
    let site = healthy_site();
    let member = site.jwt(7, Duration::from_secs(WEEK_S));
    let wrong = SecretFile::with(&["another secret of more than thirty-two bytes, it is"]);
    let report = run_doctor(&site.url(), &member, &["--jwt-secret-file", wrong.path()]);
    report.expect("JWT secret", "failed", &[wrong.path(), "accepts this token", "wp-config.php"]);
    report.expect("token", "ok", &["member 7's"]);
    assert_eq!(report.failed(), ["JWT secret"]);

    let right = SecretFile::with(&[SECRET]);
    let other = ["--jwt-secret-file", right.path(), "--jwt-issuer", "https://www.example.org"];
    let report = run_doctor(&site.url(), &member, &other);
    let remedy = format!("Set --jwt-issuer {}. It replaces https://www.example.org", site.url());
    report.expect("JWT issuer", "failed", &[&remedy]);
    report.expect("JWT secret", "ok", &["it is the site's"]);
    assert_eq!(report.failed(), ["JWT issuer"]);
}

#[test]
fn true_reason_is_found_for_each_fault_of_a_signed_token() {
    let site = healthy_site();
    let secret = SecretFile::with(&[SECRET]);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let run = |name: &str, value: serde_json::Value| {
        let member = token(SECRET, &site.url(), 7, now, |_, claims| claims[name] = value);
        site.add_member(&member, 7);
        run_doctor(&site.url(), &member, &["--jwt-secret-file", secret.path()])
    };
    for (name, value, status, words) in [
        ("exp", (now + 9999).to_string().into(), "failed", "exp is not a number"),
        ("exp", (now as f64 + 9999.5).into(), "ok", "as expected"),
        ("nbf", (now + 999).into(), "failed", "(nbf)"),
        ("data", serde_json::Value::Null, "warning", "data.user.id"),
    ] {
        let report = run(name, value);
        report.expect("JWT claims", status, &[words]);
        report.expect("JWT secret", "ok", &["signed with it"]);
        report.expect("JWT issuer", "ok", &[&site.url()]);
    }
    for iss in ["https://site.example/?lang=pt-br", "https://bücher.example", "my-app"] {
        let report = run("iss", iss.into());
        report.expect("JWT issuer", "failed", &[&format!("Set --jwt-issuer {iss}.")]);
        report.expect("JWT secret", "ok", &["signed with it"]);
    }
    run("iss", serde_json::Value::Null).expect("JWT issuer", "failed", &["names none", "''"]);
}

#[test]
fn public_key_of_the_site_is_checked_like_a_secret() {
    let site = healthy_site();
    let signer = Signer::rs256();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let claims = serde_json::json!({
        "iss": site.url(), "exp": now + WEEK_S, "data": {"user": {"id": 7}},
    });
    let member = signer.sign(&serde_json::json!({"alg": "RS256"}), &claims);
    site.add_member(&member, 7);
    let right = SecretFile::with(&[&signer.pem()]);
    let report = run_doctor(&site.url(), &member, &["--jwt-key-file", right.path()]);
    report.expect("JWT key", "ok", &["signed with it"]);
    report.expect("JWT key file", "ok", &["RSA with 2048 bits for RS256"]);
    let wrong = SecretFile::with(&[&Signer::es256().pem()]);
    let report = run_doctor(&site.url(), &member, &["--jwt-key-file", wrong.path()]);
    report.expect("JWT key", "failed", &["RS256", wrong.path()]);
    let secret = SecretFile::with(&[SECRET]);
    let report = run_doctor(&site.url(), &member, &["--jwt-secret-file", secret.path()]);
    report.expect("JWT secret", "failed", &["RS256", "--jwt-key-file"]);
}

#[test]
fn clock_skew_is_reported() {
    let site = healthy_site();
    site.fail_when(|_, _| {
        let date = http_date(SystemTime::now() - Duration::from_secs(600));
        let headers = vec![
            ("Date".to_owned(), date),
            ("Content-Type".to_owned(), "application/json".to_owned()),
        ];
        let body = br#"{"code":"rest_not_logged_in","message":"You are not"}"#.to_vec();
        Some(Fault::Answer { status: 401, headers, body })
    });
    run_doctor(&site.url(), MEMBER, &[]).expect("clock", "warning", &["10m", "behind"]);
    let secret = SecretFile::with(&[SECRET]);
    let report = run_doctor(&site.url(), MEMBER, &["--jwt-secret-file", secret.path()]);
    report.expect("clock", "failed", &["set-ntp"]);
}

#[test]
fn redirect_is_reported_and_receives_no_token() {
    let site = healthy_site();
    let elsewhere = healthy_site();
    let to = format!("{}/wp-json/buddyboss/v1/members/me?_fields=id", elsewhere.url());
    site.always(Fault::status(301, &[("Location", &to)]));
    let report = run_doctor(&site.url(), MEMBER, &[]);
    let remedy = format!("--buddyboss-url {}:", elsewhere.url());
    report.expect("redirects", "failed", &[&remedy]);
    assert_eq!(report.failed(), ["redirects"]);
    assert!(elsewhere.requests().is_empty());
}

#[test]
fn hanging_site_does_not_block_the_other_checks() {
    let site = healthy_site();
    site.always(Fault::Hang);
    let server = Server::start(&[]);
    let public = format!("ws://{}/", server.address());
    let begun = Instant::now();
    let report =
        run_doctor(&site.url(), MEMBER, &["--public-url", &public, "--upstream-timeout", "2s"]);
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    report.expect("REST API", "failed", &["takes too long"]);
    report.expect("public WebSocket", "ok", &[]);
    assert_eq!(report.failed(), ["REST API"]);
}

#[test]
fn port_in_use_is_reported() {
    let site = healthy_site();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut command = binary();
    command.args(["doctor", "--json", "--buddyboss-url", &site.url(), "--listen", &address]);
    let report = read(command.output().unwrap(), &[]);
    let holder = format!("(pid {})", std::process::id());
    report.expect("port", "failed", &[&address, &holder, "--listen"]);
    assert_eq!(report.failed(), ["port"]);
}

#[test]
fn low_descriptor_limit_is_a_warning_not_a_failure() {
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 1024; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_buddyline")]);
    command.args(["check-config", "--listen", "127.0.0.1:0"]);
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("\nwarning  open files: 1024 allowed, room for 1008 "), "{text}");
    // The second warning is that no site is set.
    assert!(text.ends_with("\nthe settings are valid, with 2 warnings\n"), "{text}");
}

#[test]
fn headers_dropped_by_a_proxy_are_reported() {
    let site = healthy_site();
    let server = Server::start(&["--buddyboss-url", &site.url()]);
    let cases = [
        (ProxyFault::Good, "ok", &["a ping is answered"][..]),
        (ProxyFault::WithoutUpgrade, "failed", &["Upgrade does not reach", "$http_upgrade"]),
        (ProxyFault::WithoutConnection, "failed", &["Connection: Upgrade does not reach"]),
        (ProxyFault::Http10, "failed", &["HTTP/1.0", "proxy_http_version 1.1"]),
        (
            ProxyFault::Answers("502 Bad Gateway"),
            "failed",
            &["does not reach buddyline", "proxy_pass"],
        ),
        (ProxyFault::Answers("101 Switching Protocols"), "failed", &["Sec-WebSocket-Accept"]),
        (ProxyFault::Silent, "failed", &["no reply", "takes too long"]),
        (ProxyFault::Drips, "warning", &["a ping is not answered"]),
        (ProxyFault::Pings, "warning", &["a ping is not answered"]),
    ];
    let check = |fault, status, words: &[&str]| {
        let proxy = FaultyProxy::start(server.address(), fault);
        let url = format!("ws://{}/live", proxy.address());
        let report = run_doctor(&site.url(), MEMBER, &["--public-url", &url]);
        report.expect("public WebSocket", status, words);
        report.expect("public connection", "ok", &[]);
        assert_eq!(report.failed().len(), usize::from(status == "failed"), "{}", report.text);
    };
    let check = &check;
    // In parallel, because some take until a timeout.
    thread::scope(|scope| {
        for (fault, status, words) in cases {
            scope.spawn(move || check(fault, status, words));
        }
    });
}

#[test]
fn proxy_that_hides_the_host_fails_the_origin_of_apps() {
    let site = healthy_site();
    let trusting = ["--buddyboss-url", &site.url(), "--trusted-proxy", "127.0.0.1"];
    let allowing = ["--buddyboss-url", &site.url(), "--allowed-origin", "http://*.example"];
    for (arguments, fault, status) in [
        (&trusting[..2], ProxyFault::Good, "ok"),
        (&trusting[..2], ProxyFault::OwnHost, "failed"),
        (&trusting[..2], ProxyFault::OwnHostForwarded, "failed"),
        (&trusting, ProxyFault::OwnHost, "failed"),
        (&trusting, ProxyFault::OwnHostForwarded, "ok"),
        (&allowing, ProxyFault::OwnHost, "failed"),
    ] {
        let server = Server::start(arguments);
        let proxy = FaultyProxy::start(server.address(), fault);
        let origin = format!("http://{}", proxy.address());
        let url = format!("ws://{}/live", proxy.address());
        let report = run_doctor(&site.url(), MEMBER, &["--public-url", &url]);
        report.expect("public WebSocket", "ok", &[]);
        let words: &[&str] = match status {
            "failed" => &[&origin, "--allowed-origin", "X-Forwarded-Host", "$http_host"],
            _ => &[&origin, "React Native"],
        };
        report.expect("public origin", status, words);
    }
}

#[test]
fn token_is_read_from_file_or_env_and_validated() {
    let site = healthy_site();
    let output = doctor(&site.url(), &["--json"]).env("BUDDYLINE_DOCTOR_TOKEN", MEMBER).output();
    read(output.unwrap(), &[MEMBER]).expect("token", "ok", &["member 7's"]);
    let none = read(doctor(&site.url(), &["--json"]).output().unwrap(), &[]);
    none.expect("token", "skipped", &["--token-file"]);
    none.expect("token header", "ok", &["reaches"]);

    let broken = SecretFile::with(&["two s3cret", "lines"]);
    let file = SecretFile::with(&[MEMBER]);
    for (path, variable, words) in [
        (broken.path(), None, "token is not valid"),
        ("/nowhere/token", None, "/nowhere/token"),
        (file.path(), Some(MEMBER), "both set"),
    ] {
        let mut command = doctor(&site.url(), &["--token-file", path]);
        if let Some(variable) = variable {
            command.env("BUDDYLINE_DOCTOR_TOKEN", variable);
        }
        let output = command.output().unwrap();
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains(words) && !text.contains("s3cret"), "{text}");
    }
    let output = doctor(&site.url(), &["--public-url", "https://x.example"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn missing_site_url_is_reported() {
    let output = binary().args(["doctor", "--json", "--listen", "127.0.0.1:0"]).output().unwrap();
    read(output, &[]).expect("site", "warning", &["--buddyboss-url"]);
}

#[test]
fn check_config_needs_no_network() {
    let site = healthy_site();
    let short = SecretFile::with(&["short"]);
    let check = |arguments: &[&str]| {
        let mut command = binary();
        command.args(["check-config", "--buddyboss-url", &site.url()]).args(arguments);
        let output = command.output().unwrap();
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        (output.status.code().unwrap(), text)
    };
    let free = ["--listen", "127.0.0.1:0", "--jwt-secret-file"];
    let (code, text) = check(&[&free[..], &[short.path()]].concat());
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("warning  JWT secret file: ") && text.contains("5 bytes"), "{text}");
    assert!(text.contains("ok       trust: the mode is verified"), "{text}");
    let end = "\nthe settings are valid, with 1 warning; the site was not contacted\n";
    assert!(text.ends_with(end), "{text}");
    let (code, text) = check(&[&free[..], &["/nowhere/secret"]].concat());
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("/nowhere/secret"), "{text}");
    let php = SecretFile::with(&["define('JWT_AUTH_SECRET_KEY', 's3cret');"]);
    let (code, text) = check(&[&free[..], &[php.path()]].concat());
    assert_eq!(code, 2, "{text}");
    assert!(
        text.contains("PHP")
            && text.contains(php.path())
            && !text.contains("s3cret")
            && !text.contains("Usage"),
        "{text}"
    );
    let (code, text) = check(&["--listen", "127.0.0.1:0"]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("skipped  JWT secret: no secret or key is set"), "{text}");
    let (code, text) = check(&["--listen", "127.0.0.1:0", "--trust", "open"]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("warning  trust: open") && !text.contains("JWT secret"), "{text}");
    let password = SecretFile::with(&["staging:s3cret"]);
    let site_password = ["--listen", "127.0.0.1:0", "--site-basic-auth-file", password.path()];
    let (code, text) = check(&site_password);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("warning  site password: ") && !text.contains("s3cret"), "{text}");
    let (_, text) = check(&[&site_password[..], &["--token-header", "accessToken"]].concat());
    assert!(text.contains("ok       site password: "), "{text}");
    // No machine has an address of the documentation networks (RFC 5737).
    let (code, text) = check(&["--listen", "192.0.2.1:8080"]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("not an address of this machine"), "{text}");
    assert!(text.ends_with("\nthe server cannot start\n"), "{text}");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let (code, text) = check(&["--listen", &taken.local_addr().unwrap().to_string()]);
    assert_eq!(code, 0, "a server that is about to be replaced may use the port: {text}");
    assert!(text.contains("warning  port: "), "{text}");
    assert!(site.requests().is_empty());
}
