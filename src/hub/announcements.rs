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

impl Announcements {
    /// Takes a frame in that is for so many. Returns whether it is to be told at once; if not, it
    /// is told with [`Announcements::take_due`].
    pub fn is_told_at_once(&mut self, frame: &EncodedFrame, hearers: usize, now: Instant) -> bool {
        // Nothing overtakes what waits.
        let at_once = self.gathered.is_empty() && {
            if self.period_ends.is_none_or(|end| end <= now) {
                (self.period_ends, self.made) = (Some(now + PERIOD), 0);
            }
            self.made == 0 || self.made + hearers <= AT_ONCE
        };
        if at_once {
            self.made += hearers;
        } else {
            self.gathered.extend_from_slice(frame);
        }
        at_once
    }

    /// Takes the frames that have been gathered, if it is time to tell them.
    pub fn take_due(&mut self, now: Instant) -> Option<EncodedFrame> {
        self.next_deadline().filter(|at| *at <= now)?;
        // Those who go on to come are gathered as well.
        (self.period_ends, self.made) = (Some(now + PERIOD), AT_ONCE);
        Some(std::mem::take(&mut self.gathered).into())
    }

    /// When what has been gathered is to be told.
    pub fn next_deadline(&self) -> Option<Instant> {
        match self.gathered.len() {
            0 => None,
            // When the period began, which is long ago.
            GATHERED_BYTES_MAX.. => self.period_ends.map(|end| end - PERIOD),
            _ => self.period_ends,
        }
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
        let mut tell = |text, at| announcements.is_told_at_once(&frame(text), AT_ONCE / 2, at);
        assert!(tell("at", now) && tell("once", now));
        assert!(!tell("one", now) && !tell("two", now + 50 * MS));
        // Nothing overtakes what waits, however late the tick.
        assert!(!tell("three", now + 150 * MS));
        assert_eq!(announcements.next_deadline(), Some(now + PERIOD));
        assert_eq!(announcements.take_due(now + 99 * MS), None);
        assert_eq!(announcements.take_due(now + 100 * MS), Some(frame("onetwothree")));
        assert_eq!(announcements.next_deadline(), None);
        // The flood may go on: until nobody has come for a period, nobody is told of at once.
        assert!(!announcements.is_told_at_once(&frame("four"), 1, now + 199 * MS));
        assert_eq!(announcements.take_due(now + 200 * MS), Some(frame("four")));
        assert!(announcements.is_told_at_once(&frame("five"), 1, now + 300 * MS));
    }

    #[test]
    fn however_many_hear_it_one_at_a_time_is_told_at_once() {
        let (mut announcements, now) = (Announcements::default(), Instant::now());
        assert!(announcements.is_told_at_once(&frame("one"), 2 * AT_ONCE, now));
        assert!(!announcements.is_told_at_once(&frame("two"), 2 * AT_ONCE, now));
    }

    #[test]
    fn where_few_hear_it_many_are_told_at_once() {
        let (mut announcements, now) = (Announcements::default(), Instant::now());
        assert!((0..1_000).all(|_| announcements.is_told_at_once(&frame("x"), 20, now)));
        assert!(!announcements.is_told_at_once(&frame("x"), 20, now));
    }

    #[test]
    fn what_is_much_does_not_wait() {
        let (mut announcements, now) = (Announcements::default(), Instant::now());
        assert!(announcements.is_told_at_once(&frame("x"), AT_ONCE, now));
        let much = frame(&"x".repeat(GATHERED_BYTES_MAX - 1));
        assert!(!announcements.is_told_at_once(&much, 1, now));
        assert_eq!(announcements.take_due(now), None);
        assert!(!announcements.is_told_at_once(&frame("x"), 1, now));
        assert!(announcements.take_due(now).is_some());
    }
}
