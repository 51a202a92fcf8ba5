//! `buddyline bench`: many clients in one thread, for an operator who wants to know what their own
//! server bears.
//!
//! It knows nothing of the server's inside: it speaks to it over sockets, as `docs/PROTOCOL.md`
//! says. Everything is bounded: connections, frames and time.

mod client;
pub mod histogram;
pub mod report;
mod runner;

use std::fs;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use zeroize::Zeroizing;

use crate::process;
use report::Report;

/// Frames that are sent in all: the time of each is kept until the end, in 8 bytes.
const FRAMES_MAX: u64 = 10_000_000;

/// What is measured, and how much of it.
#[derive(Args, Debug, Clone)]
pub struct Options {
    /// The server, as `ws://127.0.0.1:8080`. There is no TLS here: measure the server itself,
    /// behind its proxy.
    #[arg(long, value_name = "URL")]
    pub url: String,

    /// Connections, each of a user of its own, 1 to 100000.
    #[arg(long, value_name = "N", default_value_t = 100,
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub connections: u32,

    /// Connections that hear one thread together, 1 to 100000.
    #[arg(long, value_name = "N", default_value_t = 10,
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub thread_size: u32,

    /// What is sent. Messages are stored: in the site, if the server has one.
    #[arg(long, value_enum, default_value_t = Kind::Typing)]
    pub kind: Kind,

    /// Frames a second, of all connections together, 1 to 100000.
    #[arg(long, value_name = "N", default_value_t = 100,
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub rate: u32,

    /// How the frames follow each other: at random, as people are, or evenly.
    #[arg(long, value_enum, default_value_t = Pace::Random)]
    pub pace: Pace,

    /// Seconds that it sends, 1 to 300; connecting before and waiting after are not counted.
    #[arg(long, value_name = "N", default_value_t = 10,
          value_parser = clap::value_parser!(u32).range(1..=300))]
    pub seconds: u32,

    /// The first user's id; the others follow. Not used with tokens.
    #[arg(long, value_name = "ID", default_value_t = 1_000_000,
          value_parser = clap::value_parser!(u64).range(1..1 << 52))]
    pub first_user: u64,

    /// The first thread's id; the others follow.
    #[arg(long, value_name = "ID", default_value_t = 1_000_000,
          value_parser = clap::value_parser!(u64).range(1..1 << 52))]
    pub first_thread: u64,

    /// For a server that verifies: a file with one token a line, each of another user, and those
    /// of one thread's members together.
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,

    /// The server's process, if it runs on this machine: tells its memory and processor time.
    #[arg(long, value_name = "PID")]
    pub pid: Option<u32>,

    /// Lets it load a server on another machine. Only with the consent of whoever runs that, and
    /// the network between.
    #[arg(long)]
    pub allow_remote: bool,

    /// The result as one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// That someone types.
    Typing,
    /// Messages.
    Message,
}

/// How frames follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Pace {
    /// Independently of each other (a Poisson process).
    Random,
    /// At equal distances.
    Even,
}

/// Where it goes.
#[derive(Debug)]
struct ServerUrl {
    address: SocketAddr,
    /// As the `Host` header has it.
    host: String,
    path: String,
}

/// Measures, and tells how it went.
///
/// # Errors
///
/// What was asked for cannot be done, in a sentence.
pub fn run(options: &Options) -> Result<Report, String> {
    if u64::from(options.rate) * u64::from(options.seconds) > FRAMES_MAX {
        return Err(format!("--rate times --seconds may be at most {FRAMES_MAX} frames"));
    }
    let target = target(&options.url, options.allow_remote)?;
    let tokens = options.token_file.as_ref().map(|path| {
        let fault = |fault| format!("--token-file {}: {fault}", path.display());
        let text = fs::read_to_string(path).map(Zeroizing::new).map_err(fault)?;
        tokens(&text, options.connections as usize)
    });
    let tokens = tokens.transpose()?.unwrap_or_default();
    if let Some(pid) = options.pid {
        process::resident_kib(pid).map_err(|fault| format!("--pid {pid}: {fault}"))?;
    }
    // The standard streams, the poll and /proc as well.
    let wanted = u64::from(options.connections) + 16;
    let got = rlimit::increase_nofile_limit(wanted).map_err(|fault| fault.to_string())?;
    if got < wanted {
        return Err(format!(
            "--connections {}: the system allows this process {got} open files; raise its hard \
             limit (ulimit -Hn {wanted}, or LimitNOFILE in systemd)",
            options.connections
        ));
    }
    runner::Runner::new(options, target, tokens)
        .and_then(runner::Runner::run)
        .map_err(|fault| fault.to_string())
}

fn target(url: &str, allow_remote: bool) -> Result<ServerUrl, String> {
    let expected = "--url: expected an address such as ws://127.0.0.1:8080";
    let uri: http::Uri = url.parse().map_err(|_| expected.to_owned())?;
    match uri.scheme_str() {
        Some("ws") => {}
        Some("wss") => {
            return Err("--url: wss:// is not spoken here; measure the server itself, behind the \
                        proxy that does TLS, as ws://127.0.0.1:8080"
                .to_owned());
        }
        _ => return Err(expected.to_owned()),
    }
    let authority = uri.authority().ok_or(expected)?;
    if authority.as_str().contains('@') {
        return Err("--url: no name or password belongs into it".to_owned());
    }
    let (name, port) = (authority.host(), authority.port_u16().unwrap_or(80));
    let bare = name.trim_matches(['[', ']']);
    let found = (bare, port).to_socket_addrs().map_err(|fault| format!("--url {name}: {fault}"))?;
    let found: Vec<SocketAddr> = found.collect();
    // The server may listen on one of two: a name's IPv4 address is what it is likelier to be.
    let address = found.iter().find(|address| address.is_ipv4()).or(found.first());
    let address = *address.ok_or_else(|| format!("--url {name}: the name has no address"))?;
    if !address.ip().is_loopback() && !allow_remote {
        return Err(format!(
            "--url: {} is not this machine. A load test can take a server and a network down: add \
             --allow-remote if both are yours, or their owners agree",
            address.ip()
        ));
    }
    let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    Ok(ServerUrl { address, host: authority.as_str().to_owned(), path })
}

/// The tokens, as the `Authorization` header has them.
fn tokens(text: &str, needed: usize) -> Result<Vec<Zeroizing<String>>, String> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let mut tokens = Vec::new();
    for (index, line) in lines.take(needed).enumerate() {
        if !line.bytes().all(|b| b == b' ' || b.is_ascii_graphic()) || line.len() > 8_192 {
            return Err(format!("--token-file: token {} is not printable ASCII", index + 1));
        }
        let scheme = if line.contains(' ') { "" } else { "Bearer " };
        tokens.push(Zeroizing::new(format!("{scheme}{line}")));
    }
    if tokens.len() < needed {
        let there = tokens.len();
        return Err(format!("--token-file has {there} tokens for {needed} --connections"));
    }
    Ok(tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_is_loaded_by_default() {
        for here in ["ws://127.0.0.1:8080", "ws://127.9.9.9/live?x=1", "ws://[::1]:9"] {
            target(here, false).unwrap();
        }
        let fault = target("ws://192.0.2.1:8080", false).unwrap_err();
        assert!(fault.contains("--allow-remote") && fault.contains("192.0.2.1"), "{fault}");
        target("ws://192.0.2.1:8080", true).unwrap();
    }

    #[test]
    fn target_url_is_parsed_fully_or_refused() {
        let here = target("ws://127.0.0.1/live?x=1", false).unwrap();
        assert_eq!((here.address.port(), &*here.path), (80, "/live?x=1"));
        assert!(target("wss://127.0.0.1", false).unwrap_err().contains("proxy"));
        for bad in ["127.0.0.1:8080", "http://127.0.0.1", "ws://", "ws://a:b@127.0.0.1"] {
            assert!(target(bad, false).unwrap_err().starts_with("--url: "), "{bad}");
        }
    }

    #[test]
    fn each_connection_has_a_token_absent_from_errors() {
        let text = "one\n\n Basic dHdv \nthree\n";
        let read = tokens(text, 2).unwrap();
        assert_eq!([&**read[0], &**read[1]], ["Bearer one", "Basic dHdv"]);
        assert!(tokens(text, 4).unwrap_err().contains("3 tokens for 4"));
        assert!(!tokens("s3cret\u{e9}\n", 1).unwrap_err().contains("s3cret"));
    }
}
