//! What has been heard since the start, and how often the site had to be asked: counts for the
//! operator, on which nothing depends.

use super::Hub;
use crate::metrics::HitCounter;
use crate::protocol::ErrorCode;
use crate::protocol::client::FrameType;

/// The counts.
#[derive(Clone, Copy, Debug, Default)]
pub struct HubStats {
    /// Text frames in the order of [`FrameType::ALL`].
    frames_by_type: [u64; FrameType::ALL.len()],
    /// Texts that are no frame, or none of these types.
    pub unreadable: u64,
    /// Binary frames.
    pub binary: u64,
    /// How often it was known who takes part in a thread.
    pub list_hits: HitCounter,
}

impl HubStats {
    /// Counts a text frame; `None` is one without a type that there is.
    pub fn count_frame(&mut self, kind: Option<FrameType>) {
        match kind {
            Some(kind) => self.frames_by_type[kind as usize] += 1,
            None => self.unreadable += 1,
        }
    }

    /// Text frames by their types.
    pub fn frames_by_type(&self) -> impl Iterator<Item = (&'static str, u64)> {
        FrameType::ALL.into_iter().map(|(_, word)| word).zip(self.frames_by_type)
    }
}

impl Hub {
    /// What has been counted since the start.
    pub fn stats(&self) -> &HubStats {
        &self.stats
    }

    /// Errors that have been told, by their codes.
    pub fn errors(&self) -> impl Iterator<Item = (ErrorCode, u64)> {
        self.output.errors()
    }

    /// Calls that have ended, by reason.
    pub fn calls_ended(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        self.calls.ended_by_reason()
    }

    /// How often it was known what a credential proves.
    pub fn proof_hits(&self) -> HitCounter {
        self.auth.identity.proof_hits()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_type_has_its_own_count() {
        let mut stats = HubStats::default();
        for (n, (kind, _)) in FrameType::ALL.into_iter().enumerate() {
            (0..n).for_each(|_| stats.count_frame(Some(kind)));
        }
        stats.count_frame(None);
        let counts: Vec<_> = stats.frames_by_type().collect();
        let words = FrameType::ALL.map(|(_, word)| word);
        assert_eq!(counts, words.into_iter().zip(0..).collect::<Vec<_>>());
        assert_eq!(stats.unreadable, 1);
    }
}
