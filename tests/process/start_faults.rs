//! Faults of the machine and of files at the start, each of which ends with one line that names it.

use std::process::{Command, Output};

use crate::support::server::{Server, binary};

/// Runs the server in a shell, after these commands.
fn run_after(commands: &str, arguments: &[&str]) -> Output {
    let program = binary();
    let mut shell = Command::new("sh");
    for (name, value) in program.get_envs().filter(|(_, value)| value.is_none()) {
        assert!(value.is_none());
        shell.env_remove(name);
    }
    shell.arg("-c").arg(format!("{commands}; exec \"$0\" \"$@\"")).arg(program.get_program());
    shell.args(["--listen", "127.0.0.1:0"]).args(arguments).output().unwrap()
}

/// The last line of standard error; it ends with a line break.
fn last_line(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.ends_with('\n'), "{text:?}");
    text.lines().last().unwrap_or_default().to_owned()
}

#[test]
fn start_without_threads_says_why() {
    // Rust reads the size of a thread's stack from RUST_MIN_STACK. One of 1 TiB never fits, one of
    // 256 MiB fits a few times.
    let limit = "ulimit -v 4194304; export RUST_MIN_STACK=";
    let output = run_after(&format!("{limit}1099511627776"), &[]);
    let line = last_line(&output);
    assert_eq!(output.status.code(), Some(1), "{line}");
    assert!(line.starts_with("buddyline: cannot start the log: its thread cannot be "), "{line}");
    assert!(line.contains("ulimit -u, TasksMax="), "{line}");

    let site = ["--buddyboss-url", "http://127.0.0.1:9", "--upstream-workers", "64"];
    let output = run_after(&format!("{limit}268435456"), &site);
    let line = last_line(&output);
    assert_eq!(output.status.code(), Some(1), "{line}");
    let begin = "buddyline: a thread for requests to the site (of 64) cannot be started: ";
    assert!(line.starts_with(begin) && line.contains("ulimit -u, TasksMax="), "{line}");
}

#[test]
fn unreadable_proc_is_logged_and_the_server_runs() {
    // A mount namespace of its own needs root.
    let hidden = "mount -t tmpfs none /proc";
    let unshare = || {
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c"]);
        command
    };
    if !unshare().arg(hidden).output().is_ok_and(|output| output.status.success()) {
        return eprintln!("skipped: this user cannot hide /proc");
    }
    let start = |more: &[&str]| {
        let mut command = unshare();
        command.arg(format!("{hidden} && exec \"$0\" \"$@\"")).arg(binary().get_program());
        command.args(more);
        command
    };
    let metrics = ["--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"];
    let server = Server::launch(start(&metrics), 1);
    assert!(server.ask(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").contains(" 200 "));
    let words = "/proc cannot be read";
    let warnings = server.log().iter().filter(|line| line.contains(words)).count();
    assert_eq!(warnings, 1, "{:?}", server.log());
    let output = start(&["bench", "--pid", "1", "--url", "ws://127.0.0.1:9/"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let line = last_line(&output);
    assert!(line.contains("--pid 1: there is no such process, or /proc cannot be"), "{line}");
}

#[test]
fn unsupported_key_is_named_with_the_supported_kinds() {
    let file = |name: &str| format!("{}/tests/tls/{name}", env!("CARGO_MANIFEST_DIR"));
    let expected = "expected an RSA key of 2048, 3072 or 4096 bits, an ECDSA key on the curve \
                    P-256 or P-384, or an Ed25519 key";
    for (certificate, key, words) in [
        ("unsupported-p521.pem", "unsupported-p521.key.pem", ["(ECDSA, curve P-521, by", expected]),
        ("unsupported-rsa1024.pem", "unsupported-rsa1024.key.pem", ["(RSA, 1024 bits", expected]),
        ("unsupported-ed448.pem", "unsupported-ed448.key.pem", ["(Ed448, by --tls-cert", expected]),
        ("certificate.pem", "encrypted.key.pem", ["it is encrypted", "openssl pkey -in KEY"]),
        ("certificate.pem", "unsupported-p521.key.pem", ["(ECDSA, curve P-256", expected]),
    ] {
        for tool in [&[][..], &["check-config"], &["doctor"]] {
            let mut command = binary();
            command.args(tool).args(["--listen", "127.0.0.1:0"]);
            command.args(["--tls-cert", &file(certificate), "--tls-key", &file(key)]);
            let output = command.output().unwrap();
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(2), "{text}");
            let line = text.lines().next().unwrap();
            assert!(words.iter().all(|word| line.contains(word)), "{line}");
            assert!(line.contains(&format!("--tls-key {}", file(key))), "{line}");
        }
    }
}
