//! Turns observations into findings: pure functions, without sockets or a clock.

pub mod plugin;
pub mod public;
pub mod site;

use std::io::ErrorKind;
use std::net::IpAddr;
use std::time::Duration;

use super::collect::{PROXY_PASSWORD, REFUSED, TUNNEL_REFUSED};
use super::finding::Finding;
use super::observations::{CertificateChain, MachineObservation, ProxySeen, Reachability, Tls};
use crate::config::ice::{IceSettings, IceUrl};
use crate::config::public_keys::PublicKey;
use crate::config::site_password;
use crate::config::token_header::TokenHeader;
use crate::config::validity::{Validity, format_date};
use crate::config::{Config, Trust};

/// The option that names the site.
const SITE_OPTION: &str = "--buddyboss-url";

/// Warn if connecting takes longer than this.
const SLOW_CONNECT: Duration = Duration::from_millis(500);

/// The names of the findings about the reachability of a host.
struct ReachabilityNames {
    resolves: &'static str,
    connects: &'static str,
    tls: &'static str,
    /// The option that names the host.
    option: &'static str,
    /// The schemes without and with TLS.
    scheme: [&'static str; 2],
}

/// Judges the steps to a host: name, connection, TLS. The flag says whether all of them work.
fn judge_reachability(
    reachability: &Reachability,
    names: &ReachabilityNames,
) -> (Vec<Finding>, bool) {
    let mut findings = Vec::new();
    // The name and the connection are those of the proxy, if there is one.
    let proxy = reachability.proxy.as_ref();
    let host = proxy.map_or(&reachability.host, |proxy| &proxy.host);
    let subject = if proxy.is_some() { "the proxy " } else { "" };
    match &reachability.addresses {
        Some(Ok(all)) if all.iter().any(|address| address.to_string() == *host) => {
            findings.push(Finding::ok(names.resolves, format!("{subject}{host} is an IP address")));
        }
        Some(Ok(all)) => {
            let list: Vec<String> = all.iter().take(4).map(IpAddr::to_string).collect();
            let more = if all.len() > 4 { ", …" } else { "" };
            let seen = format!("{subject}{host} resolves to {}{more}", list.join(", "));
            findings.push(Finding::ok(names.resolves, seen));
        }
        Some(Err(reason)) => {
            findings.push(Finding::failed(
                names.resolves,
                format!("{subject}{}: {reason}", proxy.map_or(host, |proxy| &proxy.name)),
                format!(
                    "Check the spelling in {}, and this machine's resolver (getent hosts {host}).",
                    proxy.map_or(names.option, |proxy| proxy.source)
                ),
            ));
            return (findings, false);
        }
        None => return (findings, false),
    }
    let port = reachability.port;
    match &reachability.connected {
        Some(Ok((to, took))) => {
            let seen = match proxy {
                Some(proxy) => {
                    format!("through the proxy {}, in {}", proxy.name, milliseconds(*took))
                }
                None => format!("to {to} in {}", milliseconds(*took)),
            };
            findings.push(if *took > SLOW_CONNECT {
                let remedy = "The network path to this host is slow or loses packets; each new \
                              connection takes this long.";
                Finding::warning(names.connects, seen, remedy)
            } else {
                Finding::ok(names.connects, seen)
            });
        }
        Some(Err(reason)) => {
            findings.push(match proxy {
                Some(proxy) => judge_proxy_failure(reachability, proxy, names, reason),
                None => judge_no_connection(host, port, names, reason),
            });
            return (findings, false);
        }
        None => return (findings, false),
    }
    if !reachability.secure {
        findings.push(judge_plaintext(reachability, names));
        return (findings, true);
    }
    let Some(tls) = &reachability.tls else { return (findings, false) };
    let finding = judge_tls(tls, reachability, names);
    findings.push(finding);
    (findings, matches!(tls, Tls::Works { .. }))
}

fn judge_no_connection(host: &str, port: u16, names: &ReachabilityNames, reason: &str) -> Finding {
    let option = names.option;
    let remedy = match reason == REFUSED {
        true => format!(
            "Nothing listens on port {port}: start the web server, or correct the port in {option}."
        ),
        false => format!(
            "Check the address in {option}, that the web server runs there, and that no firewall \
             blocks this machine."
        ),
    };
    Finding::failed(names.connects, format!("{host}, port {port}: {reason}"), remedy)
}

fn judge_proxy_failure(
    reachability: &Reachability,
    proxy: &ProxySeen,
    names: &ReachabilityNames,
    reason: &str,
) -> Finding {
    let ProxySeen { host, name, port, source } = proxy;
    let direct = match source.starts_with("--") {
        true => "or set it to off",
        false => "or set --site-proxy off",
    };
    let status = reason.strip_prefix(TUNNEL_REFUSED).map(str::trim);
    let remedy = if reason == REFUSED {
        format!("Nothing listens on {host}:{port}: correct {source}, {direct} for no proxy.")
    } else if reason == PROXY_PASSWORD {
        "Put them into BUDDYLINE_SITE_PROXY: http://USER:PASSWORD@HOST:PORT.".to_owned()
    } else if let Some("502" | "503" | "504") = status {
        "The proxy does not reach the site: check --buddyboss-url, and the proxy's log.".to_owned()
    } else if let Some("403" | "405") = status {
        format!(
            "Allow CONNECT to {}:{} in the proxy, {direct} for no proxy.",
            reachability.host, reachability.port
        )
    } else {
        format!("Check that {source} names an HTTP proxy that runs, {direct} for no proxy.")
    };
    Finding::failed(names.connects, format!("through the proxy {name}: {reason}"), remedy)
}

/// Judges a connection without TLS: a problem only outside this machine and private networks.
fn judge_plaintext(reachability: &Reachability, names: &ReachabilityNames) -> Finding {
    let (name, scheme, option) = (names.tls, names.scheme, names.option);
    let is_private = |ip: IpAddr| match ip.to_canonical() {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
    };
    match &reachability.connected {
        Some(Ok((to, _))) if is_private(to.ip()) && reachability.proxy.is_none() => {
            Finding::ok(name, format!("none ({}), on this machine or a private network", scheme[0]))
        }
        _ => Finding::warning(
            name,
            format!("none ({}): tokens can be read on the network", scheme[0]),
            format!("Set an address that begins with {} in {option}.", scheme[1]),
        ),
    }
}

fn judge_tls(tls: &Tls, reachability: &Reachability, names: &ReachabilityNames) -> Finding {
    let (name, option) = (names.tls, names.option);
    match tls {
        Tls::Works { version, expires_soon: false } => {
            Finding::ok(name, format!("{version}, and the certificate is valid"))
        }
        Tls::Works { version, expires_soon: true } => Finding::warning(
            name,
            format!("{version}, and the certificate expires within 14 days"),
            "Check that it is renewed in time (certbot renew --dry-run).",
        ),
        Tls::Certificate(reason) => Finding::failed(
            name,
            format!("the certificate is not valid: {reason}"),
            "Install a valid certificate in the web server.",
        ),
        Tls::Expired => Finding::failed(
            name,
            "the certificate is not valid: it has expired",
            "Renew it (certbot renew), and reload the web server.",
        ),
        Tls::OtherName => Finding::failed(
            name,
            format!(
                "the certificate is not valid: it is for another name than {}",
                reachability.host
            ),
            format!("Install one for this name, or set a name of the certificate in {option}."),
        ),
        Tls::UnknownAuthority(chain) => judge_unknown_authority(chain, names),
        Tls::NoTls => Finding::failed(
            name,
            format!("the server on port {} does not speak TLS", reachability.port),
            format!(
                "Set the port of the TLS server in {option}, or an address that begins with {}.",
                names.scheme[0]
            ),
        ),
        Tls::Failed(reason) => Finding::failed(
            name,
            format!("the TLS handshake fails: {reason}"),
            "Enable TLS 1.2 or 1.3 with the ciphers that current browsers use.",
        ),
    }
}

/// Judges a certificate of an authority that is not trusted. If the server sends no intermediate
/// certificate, the authority may be one.
fn judge_unknown_authority(chain: &CertificateChain, names: &ReachabilityNames) -> Finding {
    let CertificateChain { issuer, is_self_signed, intermediates } = chain;
    let is_site = names.option == SITE_OPTION;
    // Apps and browsers have no such setting.
    let private = match is_site {
        true => "set --site-ca-file to its certificate",
        false => "install one of a public authority",
    };
    let (reason, remedy) = if *is_self_signed {
        (
            "it is self-signed".to_owned(),
            match is_site {
                true => "Install one of a public authority, or set --site-ca-file to this one."
                    .to_owned(),
                false => "Install one of a public authority.".to_owned(),
            },
        )
    } else if *intermediates == 0 {
        (
            format!("its issuer \"{issuer}\" is unknown, and no intermediate certificate is sent"),
            format!(
                "If the issuer is a public authority, install the whole chain (fullchain.pem, not \
                 cert.pem). If it is your own, {private}."
            ),
        )
    } else {
        (
            format!("its chain ends at \"{issuer}\", which is not trusted"),
            format!("If that is your own authority, {private}. Otherwise correct the chain."),
        )
    };
    Finding::failed(names.tls, format!("the certificate is not valid: {reason}"), remedy)
}

/// Judges the trust mode, which decides how users prove who they are.
pub fn trust(config: &Config) -> Finding {
    const NAME: &str = "trust";
    match (config.trust_mode(), config.buddyboss_url.is_some()) {
        (Trust::Verified, _) => {
            Finding::ok(NAME, "the mode is verified: users must send a token of the site")
        }
        (Trust::Open, true) => Finding::warning(
            NAME,
            "open: the server believes any userId that a client claims",
            "Remove --trust open, unless this is a trusted network.",
        ),
        (Trust::Open, false) => Finding::warning(
            NAME,
            "open, because no site is set: the server uses its stand-in and believes any userId",
            "Set --buddyboss-url for a community; for a trial, nothing needs to be done.",
        ),
    }
}

/// The reason to skip checks of the keys of the site's tokens.
const NO_KEY: &str = "no secret or key is set: each new token costs a request to the site \
                      (--jwt-secret-file or --jwt-key-file avoids it)";

/// Says what it means that no key of the site's tokens is set.
pub fn missing_key(config: &Config, has_key: bool) -> Option<Finding> {
    const NAME: &str = "JWT secret";
    let is_used = config.trust_mode() == Trust::Verified;
    match (is_used, has_key) {
        (true, false) => Some(Finding::skipped(NAME, NO_KEY)),
        (false, true) => Some(Finding::warning(
            NAME,
            "not used: with --trust open, no token is verified",
            "Set --trust verified, or remove the secret.",
        )),
        _ => None,
    }
}

/// Judges whether the site's password and the tokens of members get in each other's way.
pub fn site_password(token_header: &TokenHeader) -> Finding {
    const NAME: &str = "site password";
    match token_header.is_authorization() {
        true => Finding::warning(NAME, site_password::CONFLICT, site_password::CONFLICT_REMEDY),
        false => Finding::ok(
            NAME,
            format!("sent in Authorization; the tokens of members are sent in {token_header}"),
        ),
    }
}

/// Judges the file of public keys.
pub fn key_file(name: &'static str, keys: &[PublicKey], warnings: &[String]) -> Vec<Finding> {
    let list: Vec<String> = keys.iter().map(PublicKey::to_string).collect();
    let mut findings = vec![Finding::ok(name, list.join(", "))];
    let remedy = "Remove the key that is not used from the file.";
    findings.extend(warnings.iter().map(|warning| repeat_warning(name, warning, remedy)));
    findings
}

/// Judges a secret's file by the warnings of its reader; `None` means that no secret is set.
pub fn secret_file(name: &'static str, warnings: Option<&[String]>) -> Vec<Finding> {
    match warnings {
        None => Vec::new(),
        Some([]) => vec![Finding::ok(name, "readable, by its owner only, and long enough")],
        Some(warnings) => {
            let remedy = "Correct the file.";
            warnings.iter().map(|warning| repeat_warning(name, warning, remedy)).collect()
        }
    }
}

/// Repeats a reader's warning. Its last part is the remedy if it says what to do.
fn repeat_warning(name: &'static str, warning: &str, otherwise: &str) -> Finding {
    let is_remedy = |last: &str| ["run ", "use ", "keep "].iter().any(|it| last.starts_with(it));
    match warning.rsplit_once(": ").filter(|(_, last)| is_remedy(last)) {
        Some((seen, remedy)) => {
            let (first, rest) = remedy.split_at(1);
            Finding::warning(name, seen, format!("{}{rest}.", first.to_uppercase()))
        }
        None => Finding::warning(name, warning, otherwise),
    }
}

/// Judges the STUN and TURN settings for calls.
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
            seen + ", for any client, because --trust is open",
            "Set a site (--buddyboss-url), so that users authenticate; or restrict access to this \
             server.",
        ),
    }]
}

/// Judges the server's own certificate. An expired one is only a warning: refusing to start would
/// not help.
pub fn certificate(validity: Validity, now_s: u64) -> Finding {
    const NAME: &str = "TLS certificate";
    match validity.warning(now_s) {
        None => Finding::ok(NAME, format!("valid until {}", format_date(validity.until_s))),
        Some(seen) => {
            let remedy = "Renew it (certbot renew), then run systemctl reload buddyline; if systemd \
                          passes the certificate, restart the server instead.";
            Finding::warning(NAME, seen, remedy)
        }
    }
}

/// Judges this machine. With `may_be_replaced`, the program that occupies the port may be about to
/// end, so that an occupied port is only a warning.
pub fn machine(machine: &MachineObservation, may_be_replaced: bool) -> Vec<Finding> {
    vec![judge_files(machine), judge_port(machine, may_be_replaced)]
}

fn judge_files(machine: &MachineObservation) -> Finding {
    const NAME: &str = "open files";
    let limit = match &machine.files {
        Ok(limit) => *limit,
        Err(reason) => {
            let remedy = "Run ulimit -Hn to see the limit.";
            return Finding::warning(NAME, format!("the limit is unknown: {reason}"), remedy);
        }
    };
    let room = limit.saturating_sub(machine.files_reserved);
    match machine.files_wanted {
        Some(wanted) if limit < wanted => Finding::warning(
            NAME,
            format!(
                "{limit} allowed, room for {room} connections; {} are wanted (--max-connections)",
                wanted.saturating_sub(machine.files_reserved)
            ),
            format!("Set LimitNOFILE={wanted} in the systemd unit, or the same with ulimit -n."),
        ),
        Some(wanted) => {
            let connections = wanted.saturating_sub(machine.files_reserved);
            Finding::ok(
                NAME,
                format!("{limit} allowed, {wanted} needed for {connections} connections"),
            )
        }
        None => Finding::ok(NAME, format!("{limit} allowed, room for {room} connections")),
    }
}

fn judge_port(machine: &MachineObservation, may_be_replaced: bool) -> Finding {
    const NAME: &str = "port";
    let free: Vec<String> = machine
        .listens
        .iter()
        .filter(|(_, result)| result.is_ok())
        .map(|(address, _)| address.to_string())
        .collect();
    // As when the server starts: an address in use is an error; one that this machine does not have
    // is an error only if no other address works.
    let taken = machine.listens.iter().find(|(_, result)| *result == Err(ErrorKind::AddrInUse));
    if let Some((address, _)) = taken {
        if machine.is_ours {
            return Finding::ok(NAME, format!("buddyline already runs on {address}"));
        }
        let default = if machine.is_default { " (the default of --listen)" } else { "" };
        let (user, remedy) = match &machine.holder {
            Some(holder) => (
                format!("by {holder}"),
                match holder.starts_with("buddyline ") {
                    true => {
                        "If that is this server, ignore this. Otherwise set another address with \
                             --listen, or stop it."
                    }
                    false => "Set another address with --listen, or stop that program.",
                },
            ),
            None => (
                "by another program".to_owned(),
                "If that is buddyline itself, ignore this. Otherwise set another address with \
                 --listen, or stop the program (sudo ss -ltnp shows it).",
            ),
        };
        let seen = format!("{address}{default} is in use {user}");
        return match may_be_replaced {
            true => Finding::warning(NAME, seen, remedy),
            false => Finding::failed(NAME, seen, remedy),
        };
    }
    let is_unix = |address: &str| address.starts_with("unix:");
    let sockets = machine.listens.iter().filter(|(address, _)| is_unix(address));
    for (address, result) in sockets {
        let seen = match result {
            Ok(()) => continue,
            Err(ErrorKind::NotFound) => format!("{address}: its folder does not exist"),
            Err(ErrorKind::AlreadyExists) => format!("{address} is a file that is not a socket"),
            Err(kind) => format!("{address}: {kind}"),
        };
        let remedy = "Set a path in a folder that the server may write to, such as /run/buddyline \
                      (RuntimeDirectory=buddyline in the systemd unit).";
        return Finding::failed(NAME, seen, remedy);
    }
    if !free.is_empty() {
        return Finding::ok(NAME, format!("{} is free", free.join(", ")));
    }
    match machine.listens.first() {
        Some((address, Err(ErrorKind::PermissionDenied))) => Finding::failed(
            NAME,
            format!("{address}: this user may not listen there"),
            "Ports below 1024 require a privilege: set a higher port and let nginx listen on 443, \
             or set AmbientCapabilities=CAP_NET_BIND_SERVICE in the systemd unit.",
        ),
        Some((address, Err(ErrorKind::AddrNotAvailable))) => Finding::failed(
            NAME,
            format!("{address} is not an address of this machine"),
            "Set one of its addresses with --listen, such as 127.0.0.1:8080 (ip addr lists them).",
        ),
        Some((address, Err(kind))) => {
            let remedy = "Set another address with --listen.";
            Finding::failed(NAME, format!("{address}: {kind}"), remedy)
        }
        _ => Finding::failed(NAME, "no address to listen on", "Set --listen."),
    }
}

/// Says why a host received no request.
fn unreached(reachability: &Reachability) -> &'static str {
    let Reachability { addresses, connected, tls, .. } = reachability;
    match (addresses, connected, tls) {
        (Some(Err(_)), ..) => "no address is known (see above)",
        (_, Some(Err(_)), _) => "no connection (see above)",
        (.., Some(Tls::Works { .. }) | None) => "no time was left (--within)",
        (.., Some(Tls::NoTls | Tls::Failed(_))) => "no TLS connection (see above)",
        (.., Some(_)) => "no trusted TLS connection (see above)",
    }
}

/// Formats a duration in whole milliseconds.
fn milliseconds(time: Duration) -> String {
    match time.as_millis() {
        0 => "less than 1 ms".to_owned(),
        some => format!("{some} ms"),
    }
}
