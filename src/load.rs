//! `buddyline bench`: a load generator that opens many WebSocket connections and measures latency.
//!
//! It runs all clients in one thread and uses only the public protocol (`docs/PROTOCOL.md`). The
//! number of connections and frames and the time are bounded.

mod client;
mod latency;
mod report;
mod runner;

use std::fs;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use zeroize::Zeroizing;

use crate::process;
use report::Report;

/// Maximum number of frames in one run: the send time of each takes 8 bytes until the end.
const FRAMES_MAX: u64 = 10_000_000;

/// The options of `buddyline bench`.
#[derive(Args, Debug, Clone)]
pub struct Options {
    /// URL of the server, such as ws://127.0.0.1:8080. TLS (wss://) is not supported: connect to
    /// the server directly, not through its proxy.
    #[arg(long, value_name = "URL")]
    pub url: String,

    /// Number of connections, each with its own user, 1 to 100000.
    #[arg(long, value_name = "N", default_value_t = 100,
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub connections: u32,

    /// Number of connections that join the same thread, 1 to 100000.
    #[arg(long, value_name = "N", default_value_t = 10,
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub thread_size: u32,

    /// Kind of frames to send. A server with a site stores messages there.
    #[arg(long, value_enum, default_value_t = Kind::Typing)]
    pub kind: Kind,

    /// Frames per second of all connections together, 1 to 100000.
    #[arg(long, value_name = "N", default_value_t = 100,
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub rate: u32,

    /// Intervals between frames.
    #[arg(long, value_enum, default_value_t = Pace::Random)]
    pub pace: Pace,

    /// Seconds to send for, 1 to 300. The time to connect before and to wait for the last
    /// deliveries after is not included.
    #[arg(long, value_name = "N", default_value_t = 10,
          value_parser = clap::value_parser!(u32).range(1..=300))]
    pub seconds: u32,

    /// User id of the first connection; the others get the following ids. Ignored with
    /// --token-file.
    #[arg(long, value_name = "ID", default_value_t = 1_000_000,
          value_parser = clap::value_parser!(u64).range(1..1 << 52))]
    pub first_user: u64,

    /// Id of the first thread; the others get the following ids.
    #[arg(long, value_name = "ID", default_value_t = 1_000_000,
          value_parser = clap::value_parser!(u64).range(1..1 << 52))]
    pub first_thread: u64,

    /// File with one token per line, for a server with verified trust. Each token belongs to a
    /// different user; the tokens of the participants of one thread are adjacent.
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,

    /// Process id of the server, if it runs on this machine: reports its memory and CPU time.
    #[arg(long, value_name = "PID")]
    pub pid: Option<u32>,

    /// Allow a server on another machine. Requires the consent of the operators of that server and
    /// of the network.
    #[arg(long)]
    pub allow_remote: bool,

    /// Print the result as one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// The kind of frames to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Typing frames.
    Typing,
    /// Messages.
    Message,
}

/// The intervals between frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Pace {
    /// Random intervals (a Poisson process), as with independent users.
    Random,
    /// Equal intervals.
    Even,
}

/// The parsed `--url`.
#[derive(Debug)]
struct ServerUrl {
    address: SocketAddr,
    /// The value of the `Host` header.
    host: String,
    path: String,
}

/// Runs the load test.
///
/// # Errors
///
/// A message that says which option cannot be met, or why the test could not run.
pub fn run(options: &Options) -> Result<Report, String> {
    if u64::from(options.rate) * u64::from(options.seconds) > FRAMES_MAX {
        return Err(format!("--rate times --seconds may be at most {FRAMES_MAX} frames"));
    }
    let target = parse_url(&options.url, options.allow_remote)?;
    let tokens = options.token_file.as_ref().map(|path| {
        let fault = |fault| format!("--token-file {}: {fault}", path.display());
        let text = fs::read_to_string(path).map(Zeroizing::new).map_err(fault)?;
        parse_tokens(&text, options.connections as usize)
    });
    let tokens = tokens.transpose()?.unwrap_or_default();
    if let Some(pid) = options.pid {
        process::resident_kib(pid).map_err(|fault| {
            format!("--pid {pid}: there is no such process, or /proc cannot be read: {fault}")
        })?;
    }
    // 16 more for the standard streams, the poll and /proc.
    let wanted = u64::from(options.connections) + 16;
    let allowed = rlimit::increase_nofile_limit(wanted).map_err(|fault| fault.to_string())?;
    if allowed < wanted {
        return Err(format!(
            "--connections {}: the system allows this process {allowed} open files: raise its hard \
             limit (ulimit -Hn {wanted}, or LimitNOFILE in systemd)",
            options.connections
        ));
    }
    runner::Runner::new(options, target, tokens)
        .and_then(runner::Runner::run)
        .map_err(|fault| fault.to_string())
}

fn parse_url(url: &str, allow_remote: bool) -> Result<ServerUrl, String> {
    let expected = "--url: expected a URL such as ws://127.0.0.1:8080";
    let uri: http::Uri = url.parse().map_err(|_| expected.to_owned())?;
    match uri.scheme_str() {
        Some("ws") => {}
        Some("wss") => {
            return Err("--url: wss:// is not supported: connect to the server directly, not \
                        through its proxy, with ws://127.0.0.1:8080"
                .to_owned());
        }
        _ => return Err(expected.to_owned()),
    }
    let authority = uri.authority().ok_or(expected)?;
    if authority.as_str().contains('@') {
        return Err("--url: it must not have a user name or a password".to_owned());
    }
    let (name, port) = (authority.host(), authority.port_u16().unwrap_or(80));
    let bare = name.trim_matches(['[', ']']);
    let found = (bare, port).to_socket_addrs().map_err(|fault| format!("--url {name}: {fault}"))?;
    let found: Vec<SocketAddr> = found.collect();
    // If a name has both, the server more likely listens on the IPv4 address.
    let address = found.iter().find(|address| address.is_ipv4()).or(found.first());
    let address = *address.ok_or_else(|| format!("--url {name}: the name has no address"))?;
    if !address.ip().is_loopback() && !allow_remote {
        return Err(format!(
            "--url: {} is not this machine. A load test can take down a server and a network: add \
             --allow-remote if both are yours, or if their operators agree",
            address.ip()
        ));
    }
    let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    Ok(ServerUrl { address, host: authority.as_str().to_owned(), path })
}

/// Parses the token file into values of the `Authorization` header.
fn parse_tokens(text: &str, needed: usize) -> Result<Vec<Zeroizing<String>>, String> {
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
        let count = tokens.len();
        return Err(format!("--token-file has {count} tokens for {needed} --connections"));
    }
    Ok(tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_is_loaded_by_default() {
        for url in ["ws://127.0.0.1:8080", "ws://127.9.9.9/live?x=1", "ws://[::1]:9"] {
            parse_url(url, false).unwrap();
        }
        let fault = parse_url("ws://192.0.2.1:8080", false).unwrap_err();
        assert!(fault.contains("--allow-remote") && fault.contains("192.0.2.1"), "{fault}");
        parse_url("ws://192.0.2.1:8080", true).unwrap();
    }

    #[test]
    fn target_url_is_parsed_fully_or_refused() {
        let here = parse_url("ws://127.0.0.1/live?x=1", false).unwrap();
        assert_eq!((here.address.port(), &*here.path), (80, "/live?x=1"));
        assert!(parse_url("wss://127.0.0.1", false).unwrap_err().contains("proxy"));
        for bad in ["127.0.0.1:8080", "http://127.0.0.1", "ws://", "ws://a:b@127.0.0.1"] {
            assert!(parse_url(bad, false).unwrap_err().starts_with("--url: "), "{bad}");
        }
    }

    #[test]
    fn each_connection_has_a_token_absent_from_errors() {
        let text = "one\n\n Basic dHdv \nthree\n";
        let read = parse_tokens(text, 2).unwrap();
        assert_eq!([&**read[0], &**read[1]], ["Bearer one", "Basic dHdv"]);
        assert!(parse_tokens(text, 4).unwrap_err().contains("3 tokens for 4"));
        assert!(!parse_tokens("s3cret\u{e9}\n", 1).unwrap_err().contains("s3cret"));
    }
}
