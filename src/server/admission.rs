//! Who may come in: how many connections there are, in all and from one address.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use crate::config::proxies::TrustedProxies;

/// How many connections may be open.
#[derive(Debug)]
pub(super) struct Admission {
    /// One more is told that there are too many.
    pub(super) connections_max: usize,
    /// What there are descriptors for: one more is not even accepted.
    room: usize,
    /// Nobody is accepted before there are so few.
    paused_until: Option<usize>,
    /// Accepting has failed; it is not known whether these connections are the reason.
    accept_failed: bool,
    /// How often it has stopped, for want of descriptors or after a failure.
    pauses: u64,
    addresses: HashMap<IpAddr, usize>,
    per_address_max: usize,
    proxies: TrustedProxies,
}

/// Once accepting has stopped, this part of the connections has to go before it begins again:
/// otherwise each that goes would begin and end it once more.
const RESUME_DIVISOR: usize = 50;
/// At the limit it may stop and resume many times a minute.
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

    /// Other limits for who comes from now on.
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

    /// Whether connections are accepted, with so many open.
    pub(super) fn is_open(&mut self, open: usize) -> bool {
        match self.paused_until {
            // Where nobody is, nobody can go: after a failure only time helps then.
            Some(few) if open > few || (self.accept_failed && open == 0) => return false,
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

    /// How many there may be, by the settings and by the descriptors.
    pub(super) fn limit(&self) -> usize {
        self.connections_max.min(self.room)
    }

    fn pause(&mut self, open: usize) {
        self.pauses += 1;
        self.paused_until = Some(open.saturating_sub(open.div_ceil(RESUME_DIVISOR)));
    }

    /// Stops accepting after a failure, until it is tried again or some connections have gone.
    pub(super) fn pause_after_error(&mut self, open: usize, fault: &io::Error) {
        if self.pauses % PAUSES_PER_WARNING == 0 {
            log::warn!("cannot accept connections: {fault}; trying again each second");
        }
        self.accept_failed = true;
        self.pause(open);
    }

    /// Tries again after a failure: it may have had another cause than these connections.
    pub(super) fn retry(&mut self) {
        if std::mem::take(&mut self.accept_failed) {
            self.paused_until = None;
        }
    }

    /// Counts a connection from this address; false if there are as many as may be.
    pub(super) fn admit(&mut self, address: IpAddr) -> bool {
        let count = self.addresses.entry(address_key(address)).or_default();
        let has_room = *count < self.per_address_max;
        if has_room {
            *count += 1;
        }
        has_room
    }

    /// Whether connections from this address are counted: those of a proxy are many people's. One
    /// on this machine need not be named as trusted to be one.
    pub(super) fn is_counted(&self, address: IpAddr) -> bool {
        !address.is_loopback() && !self.proxies.is_trusted(address)
    }

    /// A connection that was counted has gone.
    pub(super) fn release(&mut self, address: IpAddr) {
        let key = address_key(address);
        if let Some(count) = self.addresses.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                self.addresses.remove(&key);
            }
        }
    }
}

/// Who has an IPv6 network of 64 bits, the least that is given to anyone, has all its addresses.
fn address_key(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => {
            let bits = address.to_bits() >> 64 << 64;
            IpAddr::V6(Ipv6Addr::from_bits(bits))
        }
    }
}

/// A page that tries again and again must not fill the log.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// So many different pages are warned of within that time; the rest is for who looks closely.
const WARNINGS_MAX: usize = 16;

/// Of which pages the operator was warned, and when; the oldest first.
#[derive(Debug, Default)]
pub(super) struct OriginWarnings {
    warned: VecDeque<(String, Instant)>,
}

impl OriginWarnings {
    /// Tells of one refusal: as a warning once a minute for each page.
    pub(super) fn note(&mut self, origin: &str, now: Instant) {
        self.warned.retain(|(_, then)| now.duration_since(*then) < WARN_EVERY);
        let known = self.warned.iter().any(|(page, _)| page == origin);
        let level = match known || self.warned.len() >= WARNINGS_MAX {
            true => log::Level::Debug,
            false => {
                self.warned.push_back((origin.to_owned(), now));
                log::Level::Warn
            }
        };
        log::log!(
            level,
            "refused a page of \"{origin}\", which no --allowed-origin has (one such warning a \
             minute for each page)"
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
        assert!(!admission.is_open(99), "one place is not worth the while");
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
        assert!(!admission.is_open(99), "this was no failure");
    }

    #[test]
    fn accept_failure_without_connections_retries_on_timer() {
        let mut admission = admission(100, 1);
        admission.pause_after_error(0, &io::ErrorKind::OutOfMemory.into());
        assert!(!admission.is_open(0), "nobody is there to go");
        admission.retry();
        assert!(admission.is_open(0));
    }
}
