//! An in-memory stand-in for the site, used when no site is configured.
//!
//! Towards clients it follows the contract: thread and message ids, one thread for two users, no
//! message to oneself. It differs where the site's other pages would be needed: a post to a thread
//! that does not exist creates it, every user may write anywhere, and the claimed sender is
//! trusted. It is bounded and stores nothing on disk.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::{Hash, Hasher};
use std::time::{Duration, UNIX_EPOCH};

use crate::hub::interface::{
    Answer, Ask, Failure, Lookup, LookupResult, Now, Post, Proven, Stored, StoredMessage, Target,
};
use crate::protocol::credential::Credential;
use crate::protocol::{Id, IdKey, SITE_ID_MAX};

/// The most messages that a thread keeps; the oldest are evicted first.
pub(super) const MESSAGES_MAX: usize = 1_000;
/// The most threads; the least recently written is evicted first.
pub(super) const THREADS_MAX: usize = 10_000;
/// The most bytes of all messages together, each counted with [`MESSAGE_OVERHEAD`].
pub(super) const BYTES_MAX: usize = 64 << 20;
/// The bytes that a message costs beside its text; without it, empty texts would cost nothing.
pub(super) const MESSAGE_OVERHEAD: usize = 128;

/// The last second that RFC 3339 can express.
const UNIX_S_MAX: u64 = 253_402_300_799;

/// A message that the stand-in keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Its id, from one sequence over all threads.
    pub id: u64,
    /// The sender.
    pub sender: Id,
    /// When it was sent, in seconds since 1970.
    pub unix_s: u64,
    /// The text as HTML, escaped.
    pub html: String,
}

impl Message {
    fn bytes(&self) -> usize {
        self.html.len() + MESSAGE_OVERHEAD
    }

    fn to_stored_message(&self) -> StoredMessage {
        StoredMessage { id: self.id, sent_at: format_rfc3339(self.unix_s), html: self.html.clone() }
    }
}

type Pair = (IdKey, IdKey);

struct Thread {
    messages: VecDeque<Message>,
    /// The two users it was created for, until a third user writes in it.
    pair: Option<Pair>,
    /// The sequence number of its last write; its key in `Store::by_write`.
    write: u64,
}

/// The stand-in's threads and messages.
pub struct Store {
    threads: HashMap<u64, Thread>,
    /// Thread ids by the sequence number of their last write, the least recent first.
    by_write: BTreeMap<u64, u64>,
    /// The threads of exactly two users.
    pairs: HashMap<Pair, u64>,
    /// The highest thread id ever used, so that ids are not reused.
    highest_thread: u64,
    last_message: u64,
    last_write: u64,
    bytes: usize,
    bytes_max: usize,
}

impl Default for Store {
    fn default() -> Self {
        Self::new()
    }
}

impl Store {
    /// Creates an empty stand-in.
    pub fn new() -> Store {
        Store {
            threads: HashMap::new(),
            by_write: BTreeMap::new(),
            pairs: HashMap::new(),
            highest_thread: 0,
            last_message: 0,
            last_write: 0,
            bytes: 0,
            bytes_max: BYTES_MAX,
        }
    }

    /// Answers a request at once.
    pub fn answer(&mut self, ask: Ask, now: Now) -> Answer {
        let post = match ask {
            Ask::Post(post) => post,
            Ask::CallPermission { .. } => return Answer::CallPermission(true),
            Ask::Prove(credential) | Ask::Recheck(credential) => {
                return Answer::Proven(Proven { user: user_id_of(&credential), expires_s: None });
            }
            // Every user may write anywhere here, so there is no list.
            Ask::Participants { .. } => return Answer::Failed(Failure::NotParticipant),
            Ask::Lookup(lookup) => return Answer::LookupResult(self.lookup(&lookup, now)),
        };
        match self.post(post, now.unix_s.min(UNIX_S_MAX)) {
            Ok(stored) => Answer::Stored(stored),
            Err(failure) => Answer::Failed(failure),
        }
    }

    /// The messages of a thread, oldest first; for tests.
    pub fn messages(&self, thread: u64) -> impl Iterator<Item = &Message> {
        self.threads.get(&thread).into_iter().flat_map(|t| &t.messages)
    }

    fn post(&mut self, post: Post, unix_s: u64) -> Result<Stored, Failure> {
        let sender = match (post.claimed, &post.credential) {
            (Some(claimed), _) => claimed,
            (None, Some(token)) => Id::number(user_id_of(token)),
            (None, None) => return Err(Failure::TokenMissing),
        };
        let thread = match post.target {
            Target::Thread(id) => {
                self.ensure_thread(id, None);
                id
            }
            Target::NewThread { recipient } => {
                let recipient = IdKey::Number(recipient);
                if recipient == sender.key {
                    return Err(Failure::CannotWrite);
                }
                self.find_or_create_pair_thread(sender.key.clone(), recipient)
            }
        };
        self.last_message += 1;
        let html = to_html(&post.text);
        let message = Message { id: self.last_message, sender: sender.clone(), unix_s, html };
        let stored_message = message.to_stored_message();
        self.write(thread, message);
        Ok(Stored {
            thread,
            sender,
            message: Some(stored_message),
            participants: None,
            expires_s: None,
        })
    }

    /// Looks up a message as the site would. Posts to the stand-in always get an answer, so the hub
    /// has no need to ask.
    fn lookup(&self, lookup: &Lookup, now: Now) -> LookupResult {
        let token_user = || Id::number(user_id_of(&lookup.credential));
        let sender = lookup.sender.clone().unwrap_or_else(token_user);
        let thread = match lookup.target {
            Target::Thread(thread) => Some(thread),
            Target::NewThread { recipient } => {
                self.pairs.get(&ordered_pair(sender.key.clone(), IdKey::Number(recipient))).copied()
            }
        };
        let elapsed_s = now.instant.saturating_duration_since(lookup.posted).as_secs();
        let posted_s = now.unix_s.min(UNIX_S_MAX).saturating_sub(elapsed_s + 1);
        let Some(thread) = thread else { return LookupResult::Absent };
        let since_post = self.messages(thread).filter(|m| m.sender.key == sender.key);
        let since_post: Vec<_> = since_post.filter(|m| m.unix_s >= posted_s).collect();
        let Some(newest) = since_post.last().map(|m| m.id) else { return LookupResult::Absent };
        let html = to_html(&lookup.text);
        let Some(message) = since_post.into_iter().rfind(|m| m.html == html) else {
            return LookupResult::Mismatch { thread, sender, message: newest };
        };
        let message = Some(message.to_stored_message());
        let stored = Stored { thread, sender, message, participants: None, expires_s: None };
        LookupResult::Match { stored, newest }
    }

    /// The thread of exactly these two users, created if there is none (CONTRACT 3.1).
    fn find_or_create_pair_thread(&mut self, one: IdKey, other: IdKey) -> u64 {
        let pair = ordered_pair(one, other);
        if let Some(id) = self.pairs.get(&pair) {
            return *id;
        }
        let id = if self.highest_thread < SITE_ID_MAX {
            self.highest_thread + 1
        } else {
            // A user posted to the highest valid thread id. One of the first `THREADS_MAX` + 1 ids
            // is free, because there are never more threads than that.
            (1..=SITE_ID_MAX).find(|id| !self.threads.contains_key(id)).unwrap_or(SITE_ID_MAX)
        };
        self.ensure_thread(id, Some(pair));
        id
    }

    fn ensure_thread(&mut self, id: u64, pair: Option<Pair>) {
        if self.threads.contains_key(&id) {
            return;
        }
        if self.threads.len() >= THREADS_MAX {
            self.drop_oldest_thread();
        }
        self.highest_thread = self.highest_thread.max(id);
        if let Some(pair) = &pair {
            self.pairs.insert(pair.clone(), id);
        }
        self.last_write += 1;
        let thread = Thread { messages: VecDeque::new(), pair, write: self.last_write };
        self.by_write.insert(thread.write, id);
        self.threads.insert(id, thread);
    }

    fn write(&mut self, id: u64, message: Message) {
        let Some(thread) = self.threads.get_mut(&id) else {
            debug_assert!(false, "a thread must exist before a message is written to it");
            return;
        };
        self.by_write.remove(&thread.write);
        self.last_write += 1;
        thread.write = self.last_write;
        self.by_write.insert(thread.write, id);

        let sender = &message.sender.key;
        if let Some(pair) = thread.pair.take_if(|(one, other)| sender != one && sender != other) {
            self.pairs.remove(&pair);
        }
        self.bytes += message.bytes();
        thread.messages.push_back(message);
        if thread.messages.len() > MESSAGES_MAX {
            self.bytes -= thread.messages.pop_front().map_or(0, |m| m.bytes());
        }
        while self.bytes > self.bytes_max && self.drop_oldest_message(id) {}
    }

    /// Drops the oldest message of the least recently written thread, but never the newest message
    /// of the thread `kept`. `false` if there is nothing left to drop.
    fn drop_oldest_message(&mut self, kept: u64) -> bool {
        let Some((_, &id)) = self.by_write.first_key_value() else { return false };
        let Some(thread) = self.threads.get_mut(&id) else { return false };
        if id == kept && thread.messages.len() <= 1 {
            return false;
        }
        self.bytes -= thread.messages.pop_front().map_or(0, |m| m.bytes());
        if thread.messages.is_empty() {
            self.drop_oldest_thread();
        }
        true
    }

    fn drop_oldest_thread(&mut self) {
        let Some((_, id)) = self.by_write.pop_first() else { return };
        let Some(thread) = self.threads.remove(&id) else { return };
        self.bytes -= thread.messages.iter().map(Message::bytes).sum::<usize>();
        if let Some(pair) = thread.pair {
            self.pairs.remove(&pair);
        }
    }
}

/// The user id of a token: the number at its end, as in `user-7`, else one derived from its hash.
/// The token itself is not stored.
fn user_id_of(credential: &Credential) -> u64 {
    /// Above the user ids of any real site; 40 bits of hash make collisions unlikely.
    const DERIVED_ID_MIN: u64 = 1_000_000_000_000;
    let text = credential.secret();
    let digits = text.len() - text.bytes().rev().take_while(u8::is_ascii_digit).count();
    match text[digits..].parse() {
        Ok(n) if (1..=SITE_ID_MAX).contains(&n) => n,
        _ => {
            let mut hasher = DefaultHasher::new();
            text.hash(&mut hasher);
            DERIVED_ID_MIN + (hasher.finish() >> 24)
        }
    }
}

fn format_rfc3339(unix_s: u64) -> String {
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(unix_s)).to_string()
}

fn ordered_pair(one: IdKey, other: IdKey) -> Pair {
    if one <= other { (one, other) } else { (other, one) }
}

fn to_html(text: &str) -> String {
    format!("<p>{}</p>\n", escape_html(text))
}

fn escape_html(text: &str) -> String {
    let mut html = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            '\'' => html.push_str("&#039;"),
            c => html.push(c),
        }
    }
    html
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::hub::interface::RequestId;

    fn now() -> Now {
        Now { instant: Instant::now(), unix_s: 1_795_345_238 }
    }

    fn post(claimed: Option<Id>, token: Option<&str>, target: Target, text: &str) -> Ask {
        let credential = token.map(|text| Credential::parse(text).unwrap());
        Ask::Post(Post { credential, target, text: text.into(), claimed })
    }

    fn post_text(store: &mut Store, sender: u64, target: Target, text: &str) -> Stored {
        match store.answer(post(Some(Id::number(sender)), None, target, text), now()) {
            Answer::Stored(stored) => stored,
            other => panic!("{other:?}"),
        }
    }

    fn assert_consistent(store: &Store) {
        let messages = || store.threads.values().flat_map(|t| &t.messages);
        assert_eq!(store.bytes, messages().map(Message::bytes).sum::<usize>());
        assert_eq!(store.by_write.len(), store.threads.len());
        assert!(store.by_write.iter().all(|(write, id)| store.threads[id].write == *write));
        let paired = store.threads.values().filter(|t| t.pair.is_some()).count();
        assert_eq!(store.pairs.len(), paired);
        assert!(store.pairs.iter().all(|(p, id)| store.threads[id].pair.as_ref() == Some(p)));
        assert!(store.threads.len() <= THREADS_MAX);
    }

    #[test]
    fn stored_message_has_id_date_and_escaped_html() {
        let mut store = Store::new();
        let target = Target::Thread(9);
        let stored = post_text(&mut store, 7, target, "<b>\"it's\" & more</b>");
        assert_eq!((stored.thread, stored.sender), (9, Id::number(7)));
        let message = stored.message.unwrap();
        assert_eq!(message.id, 1);
        assert_eq!(message.sent_at, "2026-11-22T11:00:38Z");
        let html = "<p>&lt;b&gt;&quot;it&#039;s&quot; &amp; more&lt;/b&gt;</p>\n";
        assert_eq!(message.html, html);
        assert_eq!(store.messages(9).count(), 1);
        assert_consistent(&store);
    }

    #[test]
    fn message_ids_are_one_sequence_over_all_threads() {
        let mut store = Store::new();
        let ids =
            [4, 9, 4].map(|t| post_text(&mut store, 1, Target::Thread(t), "x").message.unwrap().id);
        assert_eq!(ids, [1, 2, 3]);
    }

    #[test]
    fn two_users_share_one_thread_whoever_writes_first() {
        let mut store = Store::new();
        let first = post_text(&mut store, 2, Target::NewThread { recipient: 3 }, "hi").thread;
        let again = post_text(&mut store, 3, Target::NewThread { recipient: 2 }, "hi").thread;
        let other = post_text(&mut store, 2, Target::NewThread { recipient: 4 }, "hi").thread;
        assert_eq!((first, again, other), (1, 1, 2));
        assert_consistent(&store);
    }

    #[test]
    fn third_writer_makes_the_thread_a_group() {
        let mut store = Store::new();
        let first = post_text(&mut store, 2, Target::NewThread { recipient: 3 }, "hi").thread;
        post_text(&mut store, 4, Target::Thread(first), "me too");
        let next = post_text(&mut store, 2, Target::NewThread { recipient: 3 }, "hi").thread;
        assert_ne!(first, next);
        assert_consistent(&store);
    }

    #[test]
    fn new_thread_id_is_the_highest_plus_one() {
        let mut store = Store::new();
        post_text(&mut store, 2, Target::Thread(41), "x");
        assert_eq!(post_text(&mut store, 2, Target::NewThread { recipient: 3 }, "x").thread, 42);
    }

    #[test]
    fn post_to_the_highest_thread_id_keeps_new_threads_working() {
        let mut store = Store::new();
        post_text(&mut store, 2, Target::Thread(SITE_ID_MAX), "x");
        post_text(&mut store, 2, Target::Thread(1), "x");
        assert_eq!(post_text(&mut store, 2, Target::NewThread { recipient: 3 }, "x").thread, 2);
        assert_consistent(&store);
    }

    #[test]
    fn writing_to_oneself_is_refused() {
        let ask = post(Some(Id::string("3")), None, Target::NewThread { recipient: 3 }, "me");
        assert_eq!(Store::new().answer(ask, now()), Answer::Failed(Failure::CannotWrite));
    }

    #[test]
    fn sender_comes_from_the_claim_then_the_token() {
        let mut store = Store::new();
        let mut sender = |claimed, token| match store
            .answer(post(claimed, token, Target::Thread(1), "x"), now())
        {
            Answer::Stored(stored) => Ok(stored.sender),
            Answer::Failed(failure) => Err(failure),
            other => panic!("{other:?}"),
        };
        assert_eq!(sender(Some(Id::string("alice")), Some("user-7")), Ok(Id::string("alice")));
        assert_eq!(sender(None, Some("user-7")), Ok(Id::number(7)));
        assert_eq!(sender(None, Some("12")), Ok(Id::number(12)));
        assert_eq!(sender(None, None), Err(Failure::TokenMissing));
        for odd in ["abc", "user-0", "99999999999999999999"] {
            let one = sender(None, Some(odd)).unwrap();
            assert!(one.site_number().is_some_and(|n| n >= 1_000_000_000_000));
            assert_eq!(sender(None, Some(odd)), Ok(one));
        }
        assert_ne!(sender(None, Some("abc")), sender(None, Some("abd")));
    }

    #[test]
    fn lookup_shows_the_senders_newest_recent_message() {
        let mut store = Store::new();
        let first = post_text(&mut store, 2, Target::NewThread { recipient: 3 }, "1 < 2");
        let posted = now().instant;
        let mut lookup = |target, sender, text: &str, after_s: u64| {
            let credential = Credential::parse("t-2").unwrap();
            let sender = Some(Id::number(sender));
            let (text, post) = (text.into(), RequestId(1));
            let ask = Ask::Lookup(Lookup { credential, target, text, sender, posted, post });
            let now = Now { instant: posted, unix_s: now().unix_s + after_s };
            match store.answer(ask, now) {
                Answer::LookupResult(looked) => looked,
                other => panic!("{other:?}"),
            }
        };
        let other = LookupResult::Mismatch { thread: 1, sender: Id::number(2), message: 1 };
        for target in [Target::Thread(1), Target::NewThread { recipient: 3 }] {
            let alike = LookupResult::Match { stored: first.clone(), newest: 1 };
            assert_eq!(lookup(target, 2, "1 < 2", 0), alike);
            assert_eq!(lookup(target, 2, "1 < 2", 5), LookupResult::Absent);
            assert_eq!(lookup(target, 2, "2 > 1", 0), other);
            assert_eq!(lookup(target, 4, "1 < 2", 0), LookupResult::Absent);
        }
        assert_eq!(lookup(Target::NewThread { recipient: 9 }, 2, "1 < 2", 0), LookupResult::Absent);
    }

    #[test]
    fn a_thread_keeps_its_newest_thousand_messages() {
        let mut store = Store::new();
        for n in 0..MESSAGES_MAX + 5 {
            post_text(&mut store, 1, Target::Thread(1), &n.to_string());
        }
        assert_eq!(store.messages(1).count(), MESSAGES_MAX);
        assert_eq!(store.messages(1).next().unwrap().id, 6);
        assert_consistent(&store);
    }

    #[test]
    fn least_recently_written_thread_is_evicted() {
        let mut store = Store::new();
        for n in 1..=THREADS_MAX as u64 {
            post_text(&mut store, n, Target::NewThread { recipient: n + 1 }, "x");
        }
        post_text(&mut store, 1, Target::Thread(1), "still here");
        let new = post_text(&mut store, 1, Target::NewThread { recipient: 5 }, "x").thread;
        assert_eq!(new, THREADS_MAX as u64 + 1);
        assert_eq!(store.messages(1).count(), 2);
        assert_eq!(store.messages(2).count(), 0);
        assert_consistent(&store);
    }

    #[test]
    fn byte_limit_evicts_oldest_messages_of_coldest_thread() {
        let mut store = Store::new();
        store.bytes_max = 10 * (MESSAGE_OVERHEAD + 100);
        let text = "x".repeat(100 - "<p></p>\n".len());
        for thread in [1, 1, 1, 2, 2, 2, 2, 2, 2, 2] {
            post_text(&mut store, 1, Target::Thread(thread), &text);
        }
        assert_consistent(&store);
        post_text(&mut store, 1, Target::Thread(2), &text);
        assert_eq!(store.messages(1).map(|m| m.id).collect::<Vec<_>>(), [2, 3]);
        for _ in 0..3 {
            post_text(&mut store, 1, Target::Thread(2), &text);
        }
        assert_eq!(store.messages(1).count(), 0);
        assert_eq!(store.messages(2).count(), 10);
        assert_consistent(&store);
    }

    #[test]
    fn message_over_the_byte_limit_is_kept_alone() {
        let mut store = Store::new();
        store.bytes_max = 1_000;
        post_text(&mut store, 1, Target::Thread(1), "small");
        post_text(&mut store, 1, Target::Thread(2), &"x".repeat(2_000));
        assert_eq!((store.messages(1).count(), store.messages(2).count()), (0, 1));
        assert_consistent(&store);
    }
}
