//! Who comes and goes, as everyone is told of it.
//!
//! Everyone hears of everyone, so that ten thousand who come at once are a hundred million frames.
//! The first few are told at once; those that follow are gathered, and told together a little
//! later: one piece of memory and one place in each outbox, however many they are.

use std::ops::Range;
use std::time::{Duration, Instant};

use super::interface::ConnId;
use crate::protocol::server::EncodedFrame;

/// In this time, so many are told of at once. It is no more than a blink until the others are.
const PERIOD: Duration = Duration::from_millis(100);
const AT_ONCE: usize = 16;
/// Gathered frames in bytes that do not wait for the end of the period. Each of those who come has
/// a copy of its own, without itself.
const GATHERED_BYTES_MAX: usize = 8 * 1024;

/// What is to be told, and when.
#[derive(Debug, Default)]
pub struct Announcements {
    period_ends: Option<Instant>,
    told: usize,
    /// Frames, one after the other.
    gathered: Vec<u8>,
    /// Who has come, and which of the frames tells of them: they know.
    newcomers: Vec<(ConnId, Range<usize>)>,
}

/// Frames that are told together.
#[derive(Debug)]
pub struct Gathered {
    /// For everyone else.
    pub frames: EncodedFrame,
    /// For those of whom they tell: the same without the frame that does. May be empty.
    pub for_newcomers: Vec<(ConnId, EncodedFrame)>,
}

impl Announcements {
    /// Whether one more is told of at once; if not, it is to be gathered.
    pub fn is_told_at_once(&mut self, now: Instant) -> bool {
        if self.period_ends.is_none_or(|end| end <= now) && self.gathered.is_empty() {
            self.period_ends = Some(now + PERIOD);
            self.told = 0;
        }
        // Nothing overtakes what waits.
        let at_once = self.told < AT_ONCE && self.gathered.is_empty();
        self.told += usize::from(at_once);
        at_once
    }

    /// Keeps a frame until it is told, to all but the `newcomer` of whom it tells.
    pub fn gather(&mut self, frame: &EncodedFrame, newcomer: Option<ConnId>) {
        let start = self.gathered.len();
        self.gathered.extend_from_slice(frame);
        let Some(conn) = newcomer else { return };
        // Whoever it was before, it is not any more: that it may hear.
        self.newcomers.retain(|(other, _)| *other != conn);
        self.newcomers.push((conn, start..self.gathered.len()));
    }

    /// Takes what has been gathered, if it is time to tell it.
    pub fn take_due(&mut self, now: Instant) -> Option<Gathered> {
        if self.next_deadline().is_none_or(|at| at > now) {
            return None;
        }
        let all = std::mem::take(&mut self.gathered);
        let newcomers = std::mem::take(&mut self.newcomers);
        (self.period_ends, self.told) = (Some(now + PERIOD), AT_ONCE);
        let without = |own: &Range<usize>| [&all[..own.start], &all[own.end..]].concat().into();
        let for_newcomers = newcomers.into_iter().map(|(conn, own)| (conn, without(&own)));
        Some(Gathered { for_newcomers: for_newcomers.collect(), frames: all.as_slice().into() })
    }

    /// When what has been gathered is to be told.
    pub fn next_deadline(&self) -> Option<Instant> {
        match self.gathered.len() {
            0 => None,
            // Long ago: it is due.
            GATHERED_BYTES_MAX.. => self.period_ends.map(|end| end - PERIOD),
            _ => self.period_ends,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conn(slot: u32) -> ConnId {
        ConnId { slot, serial: 1 }
    }

    fn frame(text: &str) -> EncodedFrame {
        text.as_bytes().into()
    }

    #[test]
    fn a_few_are_told_at_once_and_the_others_together() {
        let (mut announcements, now) = (Announcements::default(), Instant::now());
        assert!((0..AT_ONCE).all(|_| announcements.is_told_at_once(now)));
        for name in ["one", "two", "three"] {
            assert!(!announcements.is_told_at_once(now + PERIOD / 2));
            announcements.gather(&frame(name), None);
        }
        assert!(announcements.take_due(now + PERIOD - Duration::from_millis(1)).is_none());
        assert_eq!(announcements.next_deadline(), Some(now + PERIOD));
        let gathered = announcements.take_due(now + PERIOD).unwrap();
        assert_eq!(&gathered.frames[..], b"onetwothree");
        assert!(announcements.next_deadline().is_none());
        // The flood may go on: until it has not for a period, nobody is told of at once.
        assert!(!announcements.is_told_at_once(now + PERIOD));
        assert!(announcements.is_told_at_once(now + 2 * PERIOD));
    }

    #[test]
    fn nothing_overtakes_what_waits() {
        let (mut announcements, now) = (Announcements::default(), Instant::now());
        (0..AT_ONCE).for_each(|_| assert!(announcements.is_told_at_once(now)));
        assert!(!announcements.is_told_at_once(now));
        announcements.gather(&frame("one"), None);
        assert!(!announcements.is_told_at_once(now + 2 * PERIOD), "a late tick");
    }

    #[test]
    fn who_comes_is_not_told_of_themselves() {
        let (mut announcements, now) = (Announcements::default(), Instant::now());
        assert!(!(0..=AT_ONCE).all(|_| announcements.is_told_at_once(now)));
        announcements.gather(&frame("one"), Some(conn(1)));
        announcements.gather(&frame("two"), Some(conn(2)));
        announcements.gather(&frame("gone"), None);
        announcements.gather(&frame("three"), Some(conn(2)));
        let gathered = announcements.take_due(now + PERIOD).unwrap();
        let own = [(conn(1), frame("twogonethree")), (conn(2), frame("onetwogone"))];
        assert_eq!(gathered.for_newcomers, own);
    }

    #[test]
    fn what_is_much_does_not_wait() {
        let (mut announcements, now) = (Announcements::default(), Instant::now());
        assert!(!(0..=AT_ONCE).all(|_| announcements.is_told_at_once(now)));
        announcements.gather(&frame(&"x".repeat(GATHERED_BYTES_MAX - 1)), None);
        assert!(announcements.take_due(now).is_none());
        announcements.gather(&frame("x"), None);
        assert!(announcements.take_due(now).is_some());
    }
}
