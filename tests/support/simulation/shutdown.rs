//! Shutdown and restart of the simulated server, as in `server/drain.rs`.

use std::time::Duration;

use buddyline::http::handshake::Readiness;
use buddyline::hub::Hub;

use crate::bytes;
use crate::world::{FRAME_MAX, World};

const DRAIN_LASTS: Duration = Duration::from_secs(25);

impl World<'_> {
    pub fn begin_drain(&mut self) {
        self.hub.begin_drain();
        self.codec.set_readiness(Readiness::Draining);
        self.draining = Some(self.now.instant + DRAIN_LASTS);
    }

    /// Closes one connection that awaits no outcome, while draining; stops the server when none is left
    /// or the drain timeout has passed.
    pub fn drain_one(&mut self) {
        let Some(until) = self.draining else { return };
        let ready = |world: &Self, slot: usize| {
            let link = world.links[slot].as_ref();
            link.is_some_and(|link| link.opened && !world.hub.is_awaiting_outcome(link.id))
        };
        if let Some(slot) = (0..self.links.len()).find(|slot| ready(self, *slot)) {
            let conn = self.links[slot].as_ref().expect("the slot is in use").id;
            if let Err(fault) = self.oracle.outcomes.check_outcomes_sent(conn) {
                panic!("closed too early: {fault}");
            }
            self.close_with(slot, 1012, "the server is restarting");
            self.drain();
        }
        let left = self.links.iter().flatten().any(|link| link.opened);
        if (!left && self.hub.counts().deliveries == 0) || self.now.instant >= until {
            self.stop();
        }
    }

    /// Stops the server as after a drain, and starts another one.
    pub fn stop(&mut self) {
        self.note("the server stops");
        self.oracle.is_stopping = true;
        self.hub.stop();
        self.drain();
        assert_eq!(self.hub.counts().deliveries, 0, "no message is in flight");
        for slot in 0..self.links.len() {
            let Some(link) = self.links[slot].as_ref() else { continue };
            if link.opened {
                if let Err(fault) = self.oracle.outcomes.check_outcomes_sent(link.id) {
                    panic!("the server stops: {fault}");
                }
            }
            self.close_with(slot, 1012, "the server is restarting");
        }
        self.drain();
        self.transfer();
        self.kill_and_restart();
    }

    /// Kills the server at whatever state it is in, and starts another one.
    pub fn kill_and_restart(&mut self) {
        self.note("another server starts");
        for slot in 0..self.links.len() {
            if let Some(mut link) = self.links[slot].take() {
                link.outbox.clear(&mut self.ledger);
            }
        }
        assert_eq!(self.ledger.bytes(), 0, "no connection holds queued bytes");
        self.hub = Hub::new(self.plan.hub.clone());
        self.site_available = true;
        self.codec = bytes::codec_of(FRAME_MAX, false);
        self.site.forget_server();
        self.oracle.forget_server(self.now.instant);
        self.overflowed.clear();
        self.draining = None;
        self.restarts += 1;
    }
}
