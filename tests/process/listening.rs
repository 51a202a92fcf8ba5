//! Listening: several addresses, IPv4 and IPv6 on one socket, and Unix sockets.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::bytes::request_with;
use crate::support::client::LONG;
use crate::support::server::{Server, ask, binary, read_response};

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")
}

fn has_ipv6() -> bool {
    let has = TcpListener::bind("[::1]:0").is_ok();
    if !has {
        eprintln!("this system has no IPv6: not tested");
    }
    has
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    TcpListener::bind("[::]:0").unwrap().local_addr().unwrap().port()
}

/// Which of the two loopback addresses accept a connection.
fn families(port: u16) -> [bool; 2] {
    ["127.0.0.1", "::1"].map(|host| {
        let address = SocketAddr::new(host.parse().unwrap(), port);
        TcpStream::connect(address).is_ok()
            && ask(address, get("/healthz").as_bytes()).starts_with("HTTP/1.1 200 ")
    })
}

/// Starts a server with these arguments alone.
fn start(arguments: &[&str], listeners: usize) -> Server {
    let mut command = binary();
    command.args(arguments);
    Server::launch(command, listeners)
}

#[test]
fn unspecified_ipv6_address_takes_ipv4_unless_told_otherwise() {
    if !has_ipv6() {
        return;
    }
    for (pattern, more, listeners, expected) in [
        ("[::]:P", &[][..], 1, [true, true]),
        ("[::]:P", &["--ipv6-only"], 1, [false, true]),
        ("0.0.0.0:P", &[], 1, [true, false]),
        ("0.0.0.0:P,[::]:P", &[], 2, [true, true]),
        ("[::]:P,127.0.0.1:P", &[], 2, [true, true]),
        ("[::]:P,[::]:P", &[], 1, [true, true]),
        ("localhost:P,127.0.0.1:P", &[], 2, [true, true]),
        ("[::1]:P", &[], 1, [false, true]),
    ] {
        let port = free_port();
        let listen = pattern.replace('P', &port.to_string());
        let server = start(&[&["--listen", &listen], more].concat(), listeners);
        assert_eq!(server.addresses().len(), listeners, "{pattern}");
        assert_eq!(families(port), expected, "{pattern} {more:?}");
    }
}

#[test]
fn ipv4_client_on_an_ipv6_socket_has_an_ipv4_address() {
    if !has_ipv6() {
        return;
    }
    let port = free_port();
    let listen = format!("[::]:{port}");
    let server = start(&["--listen", &listen, "--log-level=debug"], 1);
    let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
    socket.write_all(&request_with("")).unwrap();
    server.wait_for_log(|lines| lines.iter().any(|line| line.ends_with("open from 127.0.0.1")));
}

#[test]
fn listen_may_be_repeated_and_each_address_must_work() {
    let mut command = binary();
    command.args(["--listen", "127.0.0.1:0", "--listen=127.0.0.1:0", "--listen", "127.0.0.2:0"]);
    command.args(["--metrics-listen", "127.0.0.1:0,127.0.0.1:0"]);
    let server = Server::launch(command, 3);
    for address in server.addresses() {
        assert!(ask(*address, get("/healthz").as_bytes()).starts_with("HTTP/1.1 200 "));
    }
    server.wait_for_log(|lines| {
        lines.iter().filter(|line| line.contains("metrics on http://")).count() == 2
    });
    // An address of another machine (RFC 5737) beside a good one.
    let output = binary().args(["--listen", "127.0.0.1:0,192.0.2.1:80"]).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("192.0.2.1:80"), "{stderr}");
    let mut taken = binary();
    taken.args(["--listen", &format!("127.0.0.1:0,{}", server.address())]);
    assert_eq!(taken.output().unwrap().status.code(), Some(1));
}

// ---- Unix sockets

/// A folder for sockets; removed when dropped.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("buddyline-{name}-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Folder(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Starts a server on this Unix socket.
fn start_on(path: &Path, more: &[&str]) -> Server {
    let listen = format!("--listen=unix:{}", path.display());
    let server = start(&[&[&*listen, "--log-level=debug"], more].concat(), 0);
    let line = format!("listening on unix:{}", path.display());
    server.wait_for_log(|lines| lines.iter().any(|found| found.ends_with(&line)));
    server
}

/// The response to a request on a Unix socket, up to the end of the stream or of the head of a 101.
fn ask_unix(path: &Path, request: &[u8]) -> (UnixStream, String) {
    let mut socket = UnixStream::connect(path).unwrap();
    socket.set_read_timeout(Some(LONG)).unwrap();
    socket.write_all(request).unwrap();
    let answer = read_response(&mut socket);
    (socket, answer)
}

#[test]
fn unix_socket_is_served_with_its_mode_and_removed_at_the_end() {
    let folder = Folder::new("served");
    let path = folder.path("live.sock");
    for (more, mode) in [(&[][..], 0o660), (&["--unix-socket-mode=0666"], 0o666)] {
        let mut server = start_on(&path, more);
        let metadata = fs::symlink_metadata(&path).unwrap();
        assert!(metadata.file_type().is_socket());
        assert_eq!(metadata.mode() & 0o7777, mode);
        assert_eq!(folder.names(), ["live.sock"]);
        assert!(ask_unix(&path, get("/healthz").as_bytes()).1.starts_with("HTTP/1.1 200 "));
        let (mut socket, answer) = ask_unix(&path, &request_with(""));
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        server.wait_for_log(|lines| {
            lines.iter().any(|line| line.ends_with("open from a Unix socket"))
        });
        server.signal("TERM");
        // A close frame, and the end of the stream.
        let mut rest = Vec::new();
        socket.read_to_end(&mut rest).unwrap();
        assert_eq!(rest[0], 0x88, "{rest:?}");
        drop(socket);
        assert_eq!(server.exit(LONG).code(), Some(0));
        assert!(folder.names().is_empty());
    }
}

#[test]
fn owner_of_a_unix_socket_is_set() {
    let folder = Folder::new("owner");
    let path = folder.path("live.sock");
    let own = fs::metadata(&folder.0).unwrap();
    // Only root may give a socket away.
    let (user, group) = if own.uid() == 0 { (1, 33) } else { (own.uid(), own.gid()) };
    for (owner, expected) in [
        (format!("{user}:{group}"), (user, group)),
        (format!(":{group}"), (own.uid(), group)),
        (format!("{user}"), (user, own.gid())),
    ] {
        let _server = start_on(&path, &[&format!("--unix-socket-owner={owner}")]);
        let metadata = fs::symlink_metadata(&path).unwrap();
        assert_eq!((metadata.uid(), metadata.gid()), expected, "{owner}");
        assert_eq!(metadata.mode() & 0o7777, 0o660, "{owner}");
    }
    let listen = format!("--listen=unix:{}", path.display());
    for command in [&["check-config"][..], &[]] {
        let nobody = "--unix-socket-owner=:no-such-group-here";
        let output = binary().args(command).args([&*listen, nobody]).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains("there is no group no-such-group-here"), "{stderr}");
    }
}

#[test]
fn stale_unix_socket_is_replaced_and_others_are_not() {
    let folder = Folder::new("stale");
    let path = folder.path("live.sock");
    let listen = format!("--listen=unix:{}", path.display());
    let refused = |words: &str| {
        let output = binary().arg(&listen).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains(words) && stderr.contains("live.sock"), "{stderr}");
    };
    // Left by a server that was killed.
    let mut killed = start_on(&path, &[]);
    killed.signal("KILL");
    killed.exit(LONG);
    assert_eq!(folder.names(), ["live.sock"]);
    let running = start_on(&path, &[]);
    refused("a running server listens there");
    assert!(ask_unix(&path, get("/healthz").as_bytes()).1.starts_with("HTTP/1.1 200 "));
    drop(running);
    // A running server whose queue is full may not answer.
    fs::remove_file(&path).unwrap();
    let busy = UnixListener::bind(&path).unwrap();
    refused("a running server listens there");
    drop(busy);
    // A file, a link to a socket, and a folder that does not exist.
    fs::remove_file(&path).unwrap();
    fs::write(&path, "text").unwrap();
    refused("not a socket");
    assert_eq!(fs::read_to_string(&path).unwrap(), "text");
    fs::rename(&path, folder.path("text")).unwrap();
    std::os::unix::fs::symlink(folder.path("text"), &path).unwrap();
    refused("not a socket");
    fs::remove_file(&path).unwrap();
    assert_eq!(folder.names(), ["text"]);
    drop(folder);
    refused("No such file");
}

#[test]
fn unix_socket_of_another_server_is_not_removed() {
    let folder = Folder::new("other");
    let path = folder.path("live.sock");
    let mut first = start_on(&path, &[]);
    fs::remove_file(&path).unwrap();
    let second = start_on(&path, &[]);
    first.signal("TERM");
    assert_eq!(first.exit(LONG).code(), Some(0));
    assert!(ask_unix(&path, get("/healthz").as_bytes()).1.starts_with("HTTP/1.1 200 "));
    drop(second);
}

#[test]
fn address_limit_on_a_unix_socket_counts_forwarded_addresses() {
    let folder = Folder::new("limit");
    let path = folder.path("live.sock");
    let server = start_on(&path, &["--max-connections-per-address=1"]);
    let from = |address: &str| {
        let line = format!("X-Forwarded-For: {address}\r\n");
        ask_unix(&path, &request_with(&line))
    };
    let (one, first) = from("203.0.113.9");
    let (_two, second) = from("203.0.113.9");
    let (_three, other) = from("192.0.2.1, 203.0.113.10");
    let (_four, local) = ask_unix(&path, &request_with(""));
    let (_five, again) = ask_unix(&path, &request_with(""));
    assert!(first.starts_with("HTTP/1.1 101 "), "{first}");
    assert!(second.starts_with("HTTP/1.1 429 "), "{second}");
    for answer in [other, local, again] {
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    }
    server.wait_for_log(|lines| lines.iter().any(|line| line.ends_with("open from 203.0.113.10")));
    // The connection that was counted makes room when it closes.
    drop(one);
    server.wait_for_log(|lines| lines.iter().any(|line| line.ends_with(" closed")));
    assert!(from("203.0.113.9").1.starts_with("HTTP/1.1 101 "));
}

#[test]
fn metrics_are_served_on_a_unix_socket() {
    let folder = Folder::new("metrics");
    let path = folder.path("metrics.sock");
    let arguments = format!("--metrics-listen=unix:{},127.0.0.1:0", path.display());
    let server = Server::start(&[&arguments]);
    server.wait_for_log(|lines| lines.iter().any(|line| line.contains("metrics on unix:")));
    let (_, page) = ask_unix(&path, get("/metrics").as_bytes());
    assert!(page.contains("\nbuddyline_ready 1"), "{page}");
    drop(server);
}

#[test]
fn inherited_unix_socket_is_served_and_left_in_place() {
    let folder = Folder::new("inherited");
    let path = folder.path("a.sock");
    let socket = UnixListener::bind(&path).unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = tcp.local_addr().unwrap();
    let mut command = Command::new("sh");
    command
        .arg("-c")
        .arg("exec 3<&0 </dev/null 4<&1 >/dev/null; LISTEN_PID=$$ LISTEN_FDS=2 exec \"$@\"");
    command.arg("sh").arg(env!("CARGO_BIN_EXE_buddyline"));
    command.stdin(Stdio::from(OwnedFd::from(socket.try_clone().unwrap())));
    command.stdout(Stdio::from(OwnedFd::from(tcp.try_clone().unwrap())));
    command.stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    assert!(ask_unix(&path, get("/healthz").as_bytes()).1.starts_with("HTTP/1.1 200 "));
    assert!(ask(address, get("/healthz").as_bytes()).starts_with("HTTP/1.1 200 "));
    let (_socket, answer) = ask_unix(&path, &request_with(""));
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    let id = child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(path.exists(), "the file belongs to the service manager");
}

#[test]
fn check_config_examines_the_path_of_a_unix_socket() {
    let folder = Folder::new("check");
    let path = folder.path("live.sock");
    let listen = format!("--listen=unix:{}", path.display());
    let check = || {
        let output = binary().args(["check-config", &listen]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        // In one line, whatever its length.
        let words: Vec<&str> = text.split_whitespace().collect();
        (output.status.code(), words.join(" "))
    };
    let (code, text) = check();
    assert!(code == Some(0) && text.contains("live.sock is free"), "{text}");
    let server = start_on(&path, &[]);
    let (code, text) = check();
    assert!(code == Some(0) && text.contains("already runs on unix:"), "{text}");
    drop(server);
    let (code, text) = check();
    assert!(code == Some(0) && text.contains("live.sock is free"), "stale: {text}");
    fs::remove_file(&path).unwrap();
    fs::write(&path, "text").unwrap();
    let (code, text) = check();
    assert!(code == Some(1) && text.contains("not a socket"), "{text}");
    drop(folder);
    let (code, text) = check();
    assert!(code == Some(1) && text.contains("folder does not exist"), "{text}");
}
