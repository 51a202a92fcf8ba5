//! Who comes and goes, as everyone is told of it.
//!
//! Everyone hears of everyone, so that ten thousand who come at once are a hundred million frames.
//! The first of them are told at once; those that follow are gathered, and told together a little
//! later: one piece of memory and one place in each outbox, however many they are.

use std::time::{Duration, Instant};

use crate::protocol::server::EncodedFrame;

/// What is gathered waits no longer than this: a blink.
const PERIOD: Duration = Duration::from_millis(100);
/// Deliveries in a period that are made at once: a small community never waits, and of ten thousand
/// the first two do not.
const AT_ONCE: usize = 20_000;
/// Gathered frames in bytes that do not wait for the end of the period.
const GATHERED_BYTES_MAX: usize = 32 * 1024;

/// What is to be told, and when.
#[derive(Debug, Default)]
pub struct Announcements {
    period_ends: Option<Instant>,
    /// Deliveries made at once in this period.
    made: usize,
    /// Frames, one after the other.
    gathered: Vec<u8>,
}

/// What is to be told of one who has just come or gone.
#[derive(Debug, PartialEq, Eq)]
pub enum Tell {
    /// This one, at once.
    AtOnce,
    /// All that has been gathered, this one among it: it is much.
    Gathered(EncodedFrame),
    /// Nothing yet.
    Later,
}

impl Announcements {
    /// Takes in a frame that is for so many.
    pub fn take_in(&mut self, frame: &EncodedFrame, hearers: usize, now: Instant) -> Tell {
        // Nothing overtakes what waits.
        if self.gathered.is_empty() {
            if self.period_ends.is_none_or(|end| end <= now) {
                (self.period_ends, self.made) = (Some(now + PERIOD), 0);
            }
            if self.made == 0 || self.made + hearers <= AT_ONCE {
                self.made += hearers;
                return Tell::AtOnce;
            }
        }
        self.gathered.extend_from_slice(frame);
        match self.gathered.len() {
            GATHERED_BYTES_MAX.. => Tell::Gathered(self.take(now)),
            _ => Tell::Later,
        }
    }

    /// Takes the frames that have been gathered, if it is time to tell them.
    pub fn take_due(&mut self, now: Instant) -> Option<EncodedFrame> {
        self.next_deadline().filter(|at| *at <= now)?;
        Some(self.take(now))
    }

    fn take(&mut self, now: Instant) -> EncodedFrame {
        // Those who go on to come are gathered as well.
        (self.period_ends, self.made) = (Some(now + PERIOD), AT_ONCE);
        std::mem::take(&mut self.gathered).into()
    }

    /// When what has been gathered is to be told.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.period_ends.filter(|_| !self.gathered.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn frame(text: &str) -> EncodedFrame {
        text.as_bytes().into()
    }

    #[test]
    fn the_first_are_told_at_once_and_the_others_together() {
        let (mut announcements, now) = (Announcements::default(), Instant::now());
        let mut take_in = |text, at| announcements.take_in(&frame(text), AT_ONCE / 2, at);
        for text in ["at", "once"] {
            assert_eq!(take_in(text, now), Tell::AtOnce);
        }
        // Nothing overtakes what waits, however late the tick.
        for (text, ms) in [("one", 0), ("two", 50), ("three", 150)] {
            assert_eq!(take_in(text, now + ms * MS), Tell::Later);
        }
        assert_eq!(announcements.next_deadline(), Some(now + PERIOD));
        assert_eq!(announcements.take_due(now + 99 * MS), None);
        assert_eq!(announcements.take_due(now + 100 * MS), Some(frame("onetwothree")));
        assert_eq!(announcements.next_deadline(), None);
        // The flood may go on: until nobody has come for a period, nobody is told of at once.
        assert_eq!(announcements.take_in(&frame("four"), 1, now + 199 * MS), Tell::Later);
        assert_eq!(announcements.take_due(now + 200 * MS), Some(frame("four")));
        assert_eq!(announcements.take_in(&frame("five"), 1, now + 300 * MS), Tell::AtOnce);
    }

    #[test]
    fn however_many_hear_it_one_at_a_time_is_told_at_once() {
        let (mut announcements, now) = (Announcements::default(), Instant::now());
        assert_eq!(announcements.take_in(&frame("one"), 2 * AT_ONCE, now), Tell::AtOnce);
        assert_eq!(announcements.take_in(&frame("two"), 2 * AT_ONCE, now), Tell::Later);
    }

    #[test]
    fn where_few_hear_it_many_are_told_at_once() {
        let (mut announcements, now) = (Announcements::default(), Instant::now());
        for _ in 0..1_000 {
            assert_eq!(announcements.take_in(&frame("x"), 20, now), Tell::AtOnce);
        }
        assert_eq!(announcements.take_in(&frame("x"), 20, now), Tell::Later);
    }

    #[test]
    fn what_is_much_does_not_wait() {
        let (mut announcements, now) = (Announcements::default(), Instant::now());
        assert_eq!(announcements.take_in(&frame("x"), AT_ONCE, now), Tell::AtOnce);
        let much = "x".repeat(GATHERED_BYTES_MAX - 1);
        assert_eq!(announcements.take_in(&frame(&much), 1, now), Tell::Later);
        let all = Tell::Gathered(frame(&(much + "y")));
        assert_eq!(announcements.take_in(&frame("y"), 1, now), all);
        assert_eq!(announcements.next_deadline(), None);
    }
}
