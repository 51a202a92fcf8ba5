//! What was seen, judged: observations in, findings out, and neither sockets nor a clock.

pub mod public;
pub mod site;

use std::io::ErrorKind;
use std::net::IpAddr;
use std::time::Duration;

use super::finding::Finding;
use super::observations::{MachineObservation, Reachability, Tls};
use crate::config::Trust;
use crate::config::ice::{IceSettings, IceUrl};
use crate::config::validity::{Validity, format_date};

/// A connection that takes longer than this is worth a word.
const SLOW_CONNECT: Duration = Duration::from_millis(500);

/// The names of the findings about a way.
struct ReachabilityNames {
    resolves: &'static str,
    connects: &'static str,
    tls: &'static str,
}

/// Judges a way, and says whether it leads somewhere.
fn judge_reachability(
    reachability: &Reachability,
    names: &ReachabilityNames,
    scheme: [&str; 2],
) -> (Vec<Finding>, bool) {
    let mut findings = Vec::new();
    let host = &reachability.host;
    match &reachability.addresses {
        Some(Ok(all)) if all.iter().any(|address| address.to_string() == *host) => {
            findings.push(Finding::ok(names.resolves, format!("{host} is an address itself")));
        }
        Some(Ok(all)) => {
            let list: Vec<String> = all.iter().take(4).map(IpAddr::to_string).collect();
            let more = if all.len() > 4 { ", …" } else { "" };
            let seen = format!("{host} is {}{more}", list.join(", "));
            findings.push(Finding::ok(names.resolves, seen));
        }
        Some(Err(why)) => {
            findings.push(Finding::failed(
                names.resolves,
                format!("{host}: {why}"),
                "Is the name spelled right, and is the resolver of this machine in order \
                 (/etc/resolv.conf, getent hosts)?",
            ));
            return (findings, false);
        }
        None => return (findings, false),
    }
    let port = reachability.port;
    match &reachability.connected {
        Some(Ok((to, took))) => {
            let seen = format!("to {to} in {}", milliseconds(*took));
            findings.push(if *took > SLOW_CONNECT {
                let remedy = "The way to this host is long or loses packets; each connection pays \
                              for it.";
                Finding::warning(names.connects, seen, remedy)
            } else {
                Finding::ok(names.connects, seen)
            });
        }
        Some(Err(why)) => {
            findings.push(Finding::failed(
                names.connects,
                format!("{host}, port {port}: {why}"),
                "Is the web server running there, and does a firewall let this machine through?",
            ));
            return (findings, false);
        }
        None => return (findings, false),
    }
    if !reachability.secure {
        findings.push(judge_plaintext(reachability, names.tls, scheme));
        return (findings, true);
    }
    let Some(seen) = &reachability.tls else { return (findings, false) };
    let finding = judge_tls(seen, reachability, names.tls, scheme);
    findings.push(finding);
    (findings, matches!(seen, Tls::Works { .. }))
}

/// Tokens in the clear are a matter of the way that they take.
fn judge_plaintext(reachability: &Reachability, name: &'static str, scheme: [&str; 2]) -> Finding {
    let near = |ip: IpAddr| match ip.to_canonical() {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
    };
    match &reachability.connected {
        Some(Ok((to, _))) if near(to.ip()) => {
            Finding::ok(name, format!("none ({}), on this machine or a private network", scheme[0]))
        }
        _ => Finding::warning(
            name,
            format!("none ({}): tokens can be read on the way", scheme[0]),
            format!("Set an address that begins with {}.", scheme[1]),
        ),
    }
}

fn judge_tls(
    seen: &Tls,
    reachability: &Reachability,
    name: &'static str,
    scheme: [&str; 2],
) -> Finding {
    match seen {
        Tls::Works { version, expires_soon: false } => {
            Finding::ok(name, format!("{version}, and the certificate holds"))
        }
        Tls::Works { version, expires_soon: true } => Finding::warning(
            name,
            format!("{version}, and the certificate ends within 14 days"),
            "See that it is renewed (certbot renew --dry-run).",
        ),
        Tls::Certificate(why) => Finding::failed(
            name,
            format!("the certificate is not to be believed: {why}"),
            "The whole chain of an authority that browsers know is expected, for this name (the \
             fullchain.pem, not the cert.pem). A site on the same machine may be named with \
             http://127.0.0.1.",
        ),
        Tls::NoTls => Finding::failed(
            name,
            format!("what answers on port {} does not speak TLS", reachability.port),
            format!("Set the port that does, or an address that begins with {}.", scheme[0]),
        ),
        Tls::Failed(why) => Finding::failed(
            name,
            format!("the handshake fails: {why}"),
            "TLS 1.2 or 1.3 is expected, with a cipher that browsers of today use.",
        ),
    }
}

/// Judges the file of the JWT secret by what its reader warns of; `None` where no secret is set.
pub fn secret_file(name: &'static str, warnings: Option<&[String]>) -> Vec<Finding> {
    match warnings {
        None => Vec::new(),
        Some([]) => vec![Finding::ok(name, "readable, for its owner alone, and long enough")],
        Some(warnings) => {
            let remedy = "Set it right as it says: one secret a line, the value alone, readable \
                          for nobody else (chmod 600).";
            warnings.iter().map(|seen| Finding::warning(name, seen.clone(), remedy)).collect()
        }
    }
}

/// Judges what calls are helped with.
pub fn ice(ice: &IceSettings, trust: Trust) -> Vec<Finding> {
    const NAME: &str = "STUN and TURN";
    let urls: Vec<&str> = ice.stun_url.iter().chain(&ice.turn_url).map(IceUrl::as_str).collect();
    if urls.is_empty() {
        return Vec::new();
    }
    let mut seen = urls.join(", ");
    if !ice.turn_url.is_empty() {
        seen += &format!("; credentials for {}", humantime::format_duration(ice.turn_ttl));
    }
    vec![match trust == Trust::Open && !ice.turn_url.is_empty() {
        false => Finding::ok(NAME, seen),
        true => Finding::warning(
            NAME,
            seen + ", to whoever connects: --trust is open",
            "Set a site (--buddyboss-url), so that people prove who they are; or let nobody else \
             reach this server.",
        ),
    }]
}

/// Judges the server's own certificate. One that has ended is no reason not to start the server:
/// it would be no better off.
pub fn certificate(validity: Validity, now_s: u64) -> Finding {
    const NAME: &str = "TLS certificate";
    match validity.warning(now_s) {
        None => Finding::ok(NAME, format!("it holds until {}", format_date(validity.until_s))),
        Some(seen) => {
            let remedy = "Renew it (certbot renew), then systemctl reload buddyline, or restart \
                          where systemd hands it over.";
            Finding::warning(NAME, seen, remedy)
        }
    }
}

/// Judges this machine. With `may_be_replaced`, whoever has the port may be about to leave it.
pub fn machine(seen: &MachineObservation, may_be_replaced: bool) -> Vec<Finding> {
    vec![judge_files(seen), judge_port(seen, may_be_replaced)]
}

fn judge_files(seen: &MachineObservation) -> Finding {
    const NAME: &str = "open files";
    let most = match &seen.files {
        Ok(most) => *most,
        Err(why) => {
            let remedy = "Look with ulimit -Hn how many there may be.";
            return Finding::warning(NAME, format!("the limit is not known: {why}"), remedy);
        }
    };
    let room = most.saturating_sub(seen.files_reserved);
    match seen.files_wanted {
        Some(wanted) if most < wanted => Finding::warning(
            NAME,
            format!(
                "{most} allowed, room for {room} connections; {} are wanted (--max-connections)",
                wanted.saturating_sub(seen.files_reserved)
            ),
            format!("Set LimitNOFILE={wanted} in the systemd unit, or the same with ulimit -n."),
        ),
        Some(wanted) => Finding::ok(NAME, format!("{most} allowed, {wanted} needed")),
        None => Finding::ok(NAME, format!("{most} allowed, room for {room} connections")),
    }
}

fn judge_port(seen: &MachineObservation, may_be_replaced: bool) -> Finding {
    const NAME: &str = "port";
    let free: Vec<String> = seen
        .listens
        .iter()
        .filter(|(_, came)| came.is_ok())
        .map(|(address, _)| address.to_string())
        .collect();
    // As when the server starts: an address in use is an error, one that this machine lacks is not
    // while another works.
    let taken = seen.listens.iter().find(|(_, came)| *came == Err(ErrorKind::AddrInUse));
    if let Some((address, _)) = taken {
        let other = "End what listens there (ss -ltnp), or set another address with --listen.";
        return match (seen.is_ours, may_be_replaced) {
            (true, _) => Finding::ok(NAME, format!("buddyline runs already on {address}")),
            (false, true) => Finding::warning(NAME, format!("{address} is in use"), other),
            (false, false) => {
                Finding::failed(NAME, format!("{address} is in use by another program"), other)
            }
        };
    }
    if !free.is_empty() {
        return Finding::ok(NAME, format!("{} is free", free.join(", ")));
    }
    match seen.listens.first() {
        Some((address, Err(ErrorKind::PermissionDenied))) => Finding::failed(
            NAME,
            format!("{address}: this user may not listen there"),
            "Ports below 1024 are root's: set one above it and let nginx have 443, or give the \
             unit AmbientCapabilities=CAP_NET_BIND_SERVICE.",
        ),
        Some((address, Err(ErrorKind::AddrNotAvailable))) => Finding::failed(
            NAME,
            format!("{address} is no address of this machine"),
            "Set one that is with --listen, such as 127.0.0.1:8080 (ip address shows them).",
        ),
        Some((address, Err(kind))) => {
            let remedy = "Set another address with --listen.";
            Finding::failed(NAME, format!("{address}: {kind}"), remedy)
        }
        _ => Finding::failed(NAME, "no address to listen on", "Set --listen."),
    }
}

/// A time in words.
fn milliseconds(time: Duration) -> String {
    match time.as_millis() {
        0 => "less than 1 ms".to_owned(),
        some => format!("{some} ms"),
    }
}
