//! Events about messages that may be the answer to a post in flight: they wait for its answer, so
//! that the author hears the message once and with its `clientId`.

use std::collections::VecDeque;

use crate::hub::capacity::SmallList;
use crate::hub::interface::RequestId;
use crate::protocol::site_event::SiteMessage;

/// Events that wait; beyond it, an event is handled at once.
const HELD_MAX: usize = 1_000;

#[derive(Debug)]
struct HeldEvent {
    message: Box<SiteMessage>,
    /// The posts that were in flight when the event came.
    posts: SmallList<RequestId>,
}

/// The events that wait, in the order in which they came.
#[derive(Debug, Default)]
pub(crate) struct HeldEvents {
    held: VecDeque<HeldEvent>,
}

impl HeldEvents {
    /// Holds an event until these posts are finished.
    ///
    /// # Errors
    ///
    /// Returns the event if too many wait.
    pub(crate) fn hold(
        &mut self,
        message: Box<SiteMessage>,
        posts: SmallList<RequestId>,
    ) -> Result<(), Box<SiteMessage>> {
        if self.held.len() >= HELD_MAX {
            return Err(message);
        }
        self.held.push_back(HeldEvent { message, posts });
        Ok(())
    }

    /// Whether an event about a message of this thread waits: later ones must not overtake it.
    pub(crate) fn has_thread(&self, thread: u64) -> bool {
        self.held.iter().any(|held| held.message.thread == thread)
    }

    /// Records that a post is finished, and takes the events that wait for no other post, and not
    /// behind an earlier event of their thread.
    pub(crate) fn finish(&mut self, post: RequestId) -> Vec<SiteMessage> {
        if self.held.is_empty() {
            return Vec::new();
        }
        for held in &mut self.held {
            held.posts.retain(|other| *other != post);
        }
        let mut blocked: Vec<u64> = Vec::new();
        let (mut ready, mut waiting) = (Vec::new(), VecDeque::new());
        for held in std::mem::take(&mut self.held) {
            let thread = held.message.thread;
            if held.posts.is_empty() && !blocked.contains(&thread) {
                ready.push(*held.message);
            } else {
                blocked.push(thread);
                waiting.push_back(held);
            }
        }
        self.held = waiting;
        ready
    }
}
