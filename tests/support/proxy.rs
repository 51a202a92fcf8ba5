//! A proxy in front of the server that can be misconfigured in common ways.

#![allow(dead_code, clippy::unwrap_used)]

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// The maximum duration of a connection.
const TIME_MAX: Duration = Duration::from_secs(20);
/// How often a waiting thread checks whether the proxy is stopping.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// How the proxy handles a WebSocket request.
#[derive(Clone, Copy, Debug)]
pub enum ProxyFault {
    /// Forwards everything.
    Good,
    /// Forwards neither `Upgrade` nor `Connection`, as nginx does without configuration.
    WithoutUpgrade,
    /// Forwards `Upgrade`, but sends `Connection: close`.
    WithoutConnection,
    /// Forwards the headers over HTTP/1.0.
    Http10,
    /// Names the server's own address in `Host`, as nginx does by default.
    OwnHost,
    /// The same, and names the client's `Host` in `X-Forwarded-Host`, as Apache does by default.
    OwnHostForwarded,
    /// Responds with this status and forwards nothing.
    Answers(&'static str),
    /// Never responds.
    Silent,
    /// Accepts the upgrade itself, then sends a frame byte by byte, without an end.
    Drips,
    /// Accepts the upgrade itself, then sends pings without an end, and reads nothing.
    Pings,
}

/// A running proxy; stops when dropped.
pub struct FaultyProxy {
    address: SocketAddr,
    stopping: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

impl FaultyProxy {
    /// Starts a proxy in front of this server.
    pub fn start(server: SocketAddr, fault: ProxyFault) -> FaultyProxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let stopping = Arc::new(AtomicBool::new(false));
        let stop = stopping.clone();
        let acceptor = thread::spawn(move || {
            let mut threads = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let Ok((client, _)) = listener.accept() else {
                    thread::sleep(Duration::from_millis(1));
                    continue;
                };
                let stop = stop.clone();
                // Errors mean that one side has closed; tests do that on purpose.
                threads.push(thread::spawn(move || drop(forward(client, server, fault, &stop))));
            }
            threads.into_iter().for_each(|thread| thread.join().unwrap());
        });
        FaultyProxy { address, stopping, acceptor: Some(acceptor) }
    }

    /// The address that clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for FaultyProxy {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

fn forward(
    mut client: TcpStream,
    server: SocketAddr,
    fault: ProxyFault,
    stop: &AtomicBool,
) -> io::Result<()> {
    client.set_nonblocking(false)?;
    client.set_read_timeout(Some(TIME_MAX))?;
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        client.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    match fault {
        ProxyFault::Silent => {
            while !stop.load(Ordering::Relaxed) {
                thread::sleep(POLL_INTERVAL);
            }
            return Ok(());
        }
        ProxyFault::Drips | ProxyFault::Pings => return impersonate(client, &head, fault, stop),
        ProxyFault::Answers(status) => {
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
            return client.write_all(answer.as_bytes());
        }
        _ => {}
    }
    let mut to_server = TcpStream::connect(server)?;
    to_server.write_all(rewrite_head(&String::from_utf8_lossy(&head), fault).as_bytes())?;
    let (mut from, mut back) = (to_server.try_clone()?, client.try_clone()?);
    from.set_read_timeout(Some(TIME_MAX))?;
    let answers = thread::spawn(move || {
        let _ = io::copy(&mut from, &mut back);
        let _ = back.shutdown(Shutdown::Both);
    });
    let _ = io::copy(&mut client, &mut to_server);
    let _ = to_server.shutdown(Shutdown::Both);
    answers.join().unwrap();
    Ok(())
}

/// Acts as the server itself, for [`ProxyFault::Drips`] and [`ProxyFault::Pings`].
fn impersonate(
    mut client: TcpStream,
    head: &[u8],
    fault: ProxyFault,
    stop: &AtomicBool,
) -> io::Result<()> {
    let head = String::from_utf8_lossy(head);
    let key = head.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).unwrap();
    let accept = tungstenite::handshake::derive_accept_key(key.as_bytes());
    let answer = format!(
        "HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    client.write_all(answer.as_bytes())?;
    if let ProxyFault::Drips = fault {
        client.write_all(&[0x81, 126, 0xff, 0xff])?;
    }
    let pings = [0x89, 0].repeat(512);
    while !stop.load(Ordering::Relaxed) {
        match fault {
            ProxyFault::Pings => client.write_all(&pings)?,
            _ => {
                client.write_all(b"a")?;
                thread::sleep(Duration::from_millis(100));
            }
        }
    }
    Ok(())
}

/// The request head as it is forwarded.
fn rewrite_head(head: &str, fault: ProxyFault) -> String {
    let mut lines: Vec<String> = head.trim_end().split("\r\n").map(str::to_owned).collect();
    let mut drop_header = |name: &str| {
        lines.retain(|line| !line.to_ascii_lowercase().starts_with(&format!("{name}:")));
    };
    match fault {
        ProxyFault::WithoutUpgrade => {
            drop_header("upgrade");
            drop_header("connection");
            lines.push("Connection: close".to_owned());
        }
        ProxyFault::WithoutConnection => {
            drop_header("connection");
            lines.push("Connection: close".to_owned());
        }
        ProxyFault::OwnHost | ProxyFault::OwnHostForwarded => {
            let host = head.lines().find_map(|line| line.strip_prefix("Host: ")).unwrap();
            drop_header("host");
            lines.push("Host: 127.0.0.1:8080".to_owned());
            if let ProxyFault::OwnHostForwarded = fault {
                lines.push(format!("X-Forwarded-Host: {host}"));
            }
        }
        ProxyFault::Http10 => lines[0] = lines[0].replace("HTTP/1.1", "HTTP/1.0"),
        _ => {}
    }
    lines.join("\r\n") + "\r\n\r\n"
}
