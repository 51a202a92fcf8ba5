//! How many calls there are and were, and whether the tables agree.

use super::call::PartyState;
use super::{CallIx, Calls};
use crate::protocol::server::{CallState, EndReason};

impl Calls {
    /// How many there are that ring and that are answered.
    pub fn ringing_and_answered(&self) -> [usize; 2] {
        let ringing =
            self.calls.iter().filter(|(_, call)| call.reported_state() == CallState::Ringing);
        let ringing = ringing.count();
        [ringing, self.calls.len() - ringing]
    }

    /// How many have ended, by reason.
    pub fn ended_by_reason(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        EndReason::ALL.into_iter().map(|(_, word)| word).zip(self.ended)
    }

    /// Asserts that the tables agree with each other.
    pub fn check_invariants(&self) {
        let (mut buffered, mut due) = (0, 0);
        for (ix, call) in &self.calls {
            call.check_invariants();
            buffered += call.buffered_bytes();
            due += usize::from(call.ring.is_some());
            for party in &call.parties {
                due += usize::from(matches!(party.state, PartyState::Disconnected(_)));
                let of = self.by_user.get(&party.user.key);
                assert!(of.is_some_and(|of| of.contains(&(ix as CallIx))));
            }
            let of = call.thread.as_ref().map(|thread| &self.by_thread[&thread.key]);
            assert!(of.is_none_or(|of| of.contains(&(ix as CallIx))));
        }
        assert_eq!((self.buffered_bytes, self.timers.count()), (buffered, due));
        let parties = self.calls.iter().map(|(_, call)| call.parties.len()).sum::<usize>();
        assert_eq!(self.by_user.values().map(|of| of.len()).sum::<usize>(), parties);
        let threads = self.calls.iter().filter(|(_, call)| call.thread.is_some()).count();
        assert_eq!(self.by_thread.values().map(|of| of.len()).sum::<usize>(), threads);
        assert!(self.notifications.is_empty(), "everybody has been told");
    }
}
