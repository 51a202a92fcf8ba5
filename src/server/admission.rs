//! Connection limits, in total and per address, and log warnings of refused origins.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use crate::config::proxies::{Peer, TrustedProxies};

/// Counts connections and decides whether to accept more.
#[derive(Debug)]
pub(super) struct Admission {
    /// Limit of `--max-connections`; further connections are accepted and answered with 503.
    pub(super) connections_max: usize,
    /// Limit given by the available descriptors; further connections are not accepted.
    room: usize,
    /// While set, nothing is accepted until only this many connections are open.
    paused_until: Option<usize>,
    /// The last `accept` failed, possibly for a reason other than the open connections.
    accept_failed: bool,
    /// How often accepting has paused, for lack of descriptors or after an error.
    pauses: u64,
    addresses: HashMap<IpAddr, usize>,
    per_address_max: usize,
    proxies: TrustedProxies,
}

/// Once accepting has paused, one in this many connections must close before it resumes. Otherwise
/// each connection that closes would resume and pause it again.
const RESUME_DIVISOR: usize = 50;
/// Warn at one in this many pauses: at the limit there may be many a minute.
const PAUSES_PER_WARNING: u64 = 64;

impl Admission {
    pub(super) fn new(
        connections_max: usize,
        room: usize,
        per_address_max: usize,
        proxies: TrustedProxies,
    ) -> Admission {
        Admission {
            connections_max,
            room,
            paused_until: None,
            accept_failed: false,
            pauses: 0,
            addresses: HashMap::new(),
            per_address_max,
            proxies,
        }
    }

    /// Replaces the limits, for connections accepted from now on.
    pub(super) fn set_limits(
        &mut self,
        connections_max: usize,
        per_address_max: usize,
        proxies: TrustedProxies,
    ) {
        self.connections_max = connections_max;
        self.per_address_max = per_address_max;
        self.proxies = proxies;
    }

    /// Whether to accept more connections while `open` are open.
    pub(super) fn is_open(&mut self, open: usize) -> bool {
        match self.paused_until {
            // After an error without open connections, only the retry timer resumes.
            Some(resume_at) if open > resume_at || (self.accept_failed && open == 0) => {
                return false;
            }
            Some(_) => self.paused_until = None,
            None => {}
        }
        if open >= self.room {
            if self.pauses % PAUSES_PER_WARNING == 0 {
                log::warn!("{open} connections are open: no descriptors are left for more");
            }
            self.pause(open);
            return false;
        }
        true
    }

    /// The maximum number of connections, by the settings and by the available descriptors.
    pub(super) fn limit(&self) -> usize {
        self.connections_max.min(self.room)
    }

    fn pause(&mut self, open: usize) {
        self.pauses += 1;
        self.paused_until = Some(open.saturating_sub(open.div_ceil(RESUME_DIVISOR)));
    }

    /// Pauses accepting after an error, until the next retry or until some connections close.
    pub(super) fn pause_after_error(&mut self, open: usize, fault: &io::Error) {
        if self.pauses % PAUSES_PER_WARNING == 0 {
            log::warn!("cannot accept connections: {fault}; retrying every second");
        }
        self.accept_failed = true;
        self.pause(open);
    }

    /// Resumes after an error, which may have had another cause than the open connections.
    pub(super) fn retry(&mut self) {
        if std::mem::take(&mut self.accept_failed) {
            self.paused_until = None;
        }
    }

    /// Counts a connection of this client. Returns false if its address is at its limit.
    pub(super) fn admit(&mut self, client: impl Into<Peer>) -> bool {
        let Peer::Address(address) = client.into() else { return true };
        let count = self.addresses.entry(address_key(address)).or_default();
        let has_room = *count < self.per_address_max;
        if has_room {
            *count += 1;
        }
        has_room
    }

    /// Whether connections of this client count against the limit of its address. Those of trusted
    /// proxies and of this machine, where a proxy may run, do not: they belong to many clients.
    pub(super) fn is_counted(&self, client: impl Into<Peer>) -> bool {
        match client.into() {
            Peer::Address(address) => !address.is_loopback() && !self.proxies.is_trusted(address),
            Peer::Unix => false,
        }
    }

    /// Whether this peer is a trusted proxy.
    pub(super) fn is_proxy(&self, peer: Peer) -> bool {
        self.proxies.is_trusted(peer)
    }

    /// Uncounts a connection that [`Admission::admit`] has counted.
    pub(super) fn release(&mut self, client: impl Into<Peer>) {
        let Peer::Address(address) = client.into() else { return };
        let key = address_key(address);
        if let Some(count) = self.addresses.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                self.addresses.remove(&key);
            }
        }
    }
}

/// Groups IPv6 addresses by their /64 network, the smallest that is assigned to a customer.
fn address_key(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => {
            let bits = address.to_bits() >> 64 << 64;
            IpAddr::V6(Ipv6Addr::from_bits(bits))
        }
    }
}

/// Each origin is warned of once in this time, so that a page that retries does not fill the log.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// Different origins warned of within that time; more are logged at debug level.
const WARNINGS_MAX: usize = 16;

/// Rate-limits the warnings of web pages whose origin is not allowed.
#[derive(Debug, Default)]
pub(super) struct OriginWarnings {
    /// The origins warned of and when, the oldest first.
    warned: VecDeque<(String, Instant)>,
}

impl OriginWarnings {
    /// Logs a refusal: as a warning once a minute for each origin, else at debug level.
    pub(super) fn note(&mut self, origin: &str, now: Instant) {
        self.warned.retain(|(_, then)| now.duration_since(*then) < WARN_EVERY);
        let known = self.warned.iter().any(|(warned, _)| warned == origin);
        let level = match known || self.warned.len() >= WARNINGS_MAX {
            true => log::Level::Debug,
            false => {
                self.warned.push_back((origin.to_owned(), now));
                log::Level::Warn
            }
        };
        log::log!(
            level,
            "refused a web page of origin \"{origin}\": no --allowed-origin matches, and it is not \
             the Host of the request (logged once a minute for each origin)"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(room: usize, per_address: usize) -> Admission {
        let proxies = TrustedProxies::new(&["10.0.0.0/8".parse().unwrap()]);
        Admission::new(100, room, per_address, proxies)
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn per_address_limit_does_not_affect_other_addresses() {
        let mut admission = admission(100, 2);
        let (one, other) = (ip("192.0.2.1"), ip("192.0.2.2"));
        assert!(admission.admit(one) && admission.admit(one));
        assert!(!admission.admit(one));
        assert!(admission.admit(other));
        admission.release(one);
        assert!(admission.admit(one) && !admission.admit(one));
        for address in [one, one, other] {
            admission.release(address);
        }
        assert!(admission.addresses.is_empty());
    }

    #[test]
    fn ipv6_slash_64_counts_as_one_address() {
        let mut admission = admission(100, 1);
        assert!(admission.admit(ip("2001:db8:0:1::1")));
        assert!(!admission.admit(ip("2001:db8:0:1:ffff::2")));
        assert!(admission.admit(ip("2001:db8:0:2::1")));
    }

    #[test]
    fn proxies_and_loopback_are_not_counted() {
        let admission = admission(100, 1);
        for address in ["127.0.0.1", "127.9.9.9", "::1", "10.1.2.3"] {
            assert!(!admission.is_counted(ip(address)), "{address}");
        }
        assert!(admission.is_counted(ip("192.0.2.1")));
    }

    #[test]
    fn full_server_accepts_again_after_some_have_left() {
        let mut admission = admission(100, 1);
        assert!(admission.is_open(99));
        assert!(!admission.is_open(100));
        assert!(!admission.is_open(99), "one free place does not resume accepting");
        assert!(admission.is_open(98));
        assert!(admission.is_open(99));
    }

    #[test]
    fn single_slot_server_keeps_accepting() {
        let mut admission = admission(1, 1);
        assert!(admission.is_open(0));
        assert!(!admission.is_open(1));
        assert!(admission.is_open(0));
    }

    #[test]
    fn accept_is_retried_after_a_failure() {
        let mut admission = admission(100, 1);
        admission.pause_after_error(50, &io::ErrorKind::OutOfMemory.into());
        assert!(!admission.is_open(50));
        admission.retry();
        assert!(admission.is_open(50));
        assert!(!admission.is_open(100));
        admission.retry();
        assert!(!admission.is_open(99), "this pause was not caused by an error");
    }

    #[test]
    fn accept_failure_without_connections_retries_on_timer() {
        let mut admission = admission(100, 1);
        admission.pause_after_error(0, &io::ErrorKind::OutOfMemory.into());
        assert!(!admission.is_open(0), "no connection can close");
        admission.retry();
        assert!(admission.is_open(0));
    }
}
