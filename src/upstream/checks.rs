//! Whose a credential is, and who takes part in a thread: the questions, and what answers mean.
//!
//! Pure functions, as in [`super::buddyboss`]. Both questions are GETs, which change nothing: what
//! is not a good answer is never `Unknown`. And what is not the site's own word about a token must
//! not count as one: a firewall's 403 would sign members out.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::buddyboss::{Reply, Request, is_id, is_suspension_redirect};
use super::json::StrictObject;
use super::jwt;
use super::url_style::UrlStyle;
use crate::hub::interface::{Answer, Failure, Proven};
use crate::protocol::credential::Credential;

/// The most pages of participants that are read, of 20 people each (CONTRACT 3.2).
pub const PAGES_MAX: u64 = 50;

// ---- whose a credential is

/// The request that asks whose this credential is.
pub fn prove_request(credential: &Credential, url_style: UrlStyle) -> Request<'_> {
    Request {
        method: "GET",
        path: Cow::Borrowed(url_style.me()),
        token: Some(credential),
        body: None,
    }
}

/// What the answer to [`prove_request`] means.
pub fn parse_prove_reply(credential: &Credential, reply: &Reply) -> Answer {
    #[derive(Deserialize)]
    struct Me {
        id: u64,
    }
    if reply.status != 200 {
        return Answer::Failed(failure(reply, Failure::TokenRefused));
    }
    match reply.json::<Me>() {
        Some(Me { id: user }) if is_id(user) => {
            Answer::Proven(Proven { user, expires_s: jwt::expiry(credential) })
        }
        _ => Answer::Failed(Failure::SiteUnavailable { retry_after_s: None }),
    }
}

// ---- who takes part in a thread

/// The request for one page of a thread's participants, the first being 1.
pub fn list_request(
    thread: u64,
    page: u64,
    credential: &Credential,
    url_style: UrlStyle,
) -> Request<'_> {
    let path = Cow::Owned(url_style.participants(thread, page));
    Request { method: "GET", path, token: Some(credential), body: None }
}

/// A thread's participants, read page by page.
///
/// People who come and go between two pages shift the rows, and a row is then missed or seen twice.
/// The site says on each page how many there are: only as many different ones as every page says
/// are a list, and anything else is none.
pub struct ParticipantPages {
    thread: u64,
    page: u64,
    /// How many there are, by the first page.
    count: Option<u64>,
    people: People,
}

/// What a page of the [`ParticipantPages`] leads to.
#[derive(Debug, PartialEq, Eq)]
pub enum PageProgress {
    /// [`ParticipantPages::page`] is another one now, which is to be asked for.
    More,
    /// The end: [`Answer::Listed`] with all of them, or a failure, with what happened where the
    /// site's answer itself does not show it.
    Done(Answer, Option<&'static str>),
}

impl ParticipantPages {
    /// Of this thread, of which nothing has been read.
    pub fn new(thread: u64) -> ParticipantPages {
        ParticipantPages { thread, page: 1, count: None, people: People::default() }
    }

    /// The page to ask for.
    pub fn page(&self) -> u64 {
        self.page
    }

    /// Takes the answer to [`list_request`] for [`ParticipantPages::page`].
    pub fn add_page(&mut self, reply: &Reply) -> PageProgress {
        if reply.status != 200 {
            let failure = failure(reply, Failure::NotParticipant);
            return PageProgress::Done(Answer::Failed(failure), None);
        }
        let unusable = |why| {
            PageProgress::Done(
                Answer::Failed(Failure::SiteUnavailable { retry_after_s: None }),
                why,
            )
        };
        let Some(page) = reply.json::<Page>().filter(|page| page.id == self.thread) else {
            return unusable(None);
        };
        if page.recipients_total_pages > PAGES_MAX {
            let why = Some("the thread has more than 50 pages of participants");
            return PageProgress::Done(Answer::Failed(Failure::ThreadTooLarge), why);
        }
        let count = *self.count.get_or_insert(page.recipients_count);
        let agrees = page.recipients_count == count && self.people.add(page.recipients.0);
        // All are there, whatever is said of pages.
        if agrees && self.people.count() == count {
            return PageProgress::Done(Answer::Participants(self.people.present()), None);
        }
        if !agrees || self.people.count() > count || self.page >= page.recipients_total_pages {
            return unusable(Some("the participants are not as many as the site says"));
        }
        self.page += 1;
        PageProgress::More
    }
}

/// The participants in the answer to a post, where it has all of them (CONTRACT 3.3): a thread of
/// more than 20 people shows some. Anything odd is `None`, for the message is stored in any case.
pub(super) fn participants(reply: &Reply, sender: u64) -> Option<Box<[u64]>> {
    let page: Page = reply.json()?;
    let mut people = People::default();
    let all = page.recipients_total_pages == 1
        && people.add(page.recipients.0)
        && people.count() == page.recipients_count;
    let present = people.present();
    // Whoever has just written is one of them.
    (all && present.binary_search(&sender).is_ok()).then_some(present)
}

/// The people of a thread object (CONTRACT 3.3).
#[derive(Deserialize)]
struct Page {
    id: u64,
    recipients: Entries,
    /// Deleted accounts count.
    recipients_count: u64,
    recipients_total_pages: u64,
}

/// Users by their number, and whether their account is gone.
#[derive(Default)]
struct People(BTreeMap<u64, bool>);

impl People {
    /// False when an entry cannot be right.
    fn add(&mut self, entries: Vec<Entry>) -> bool {
        entries.iter().all(|entry| {
            let gone = entry.is_deleted != 0;
            is_id(entry.user_id) && *self.0.entry(entry.user_id).or_insert(gone) == gone
        })
    }

    fn count(&self) -> u64 {
        self.0.len() as u64
    }

    /// Those who have an account, ascending.
    fn present(&self) -> Box<[u64]> {
        self.0.iter().filter(|(_, gone)| !**gone).map(|(user, _)| *user).collect()
    }
}

#[derive(Deserialize)]
struct Entry {
    user_id: u64,
    /// 1 when the account is gone; its row stays.
    #[serde(default)]
    is_deleted: u64,
}

/// `{"2":{…},"3":{…}}`, or `[]` when there are none, for PHP writes an empty object as a list.
struct Entries(Vec<Entry>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Entries, D::Error> {
        struct Reader;

        impl<'de> Visitor<'de> for Reader {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of recipients, or an empty list")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut entries = Vec::new();
                while let Some((IgnoredAny, StrictObject(entry))) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Entries, A::Error> {
                match list.next_element::<IgnoredAny>()? {
                    None => Ok(Entries(Vec::new())),
                    Some(_) => Err(serde::de::Error::custom("a list of recipients")),
                }
            }
        }

        deserializer.deserialize_any(Reader)
    }
}

// ---- what is no good answer

/// What an answer says that is not 200; `forbidden` is what it means that a good token has no right
/// (CONTRACT 2).
pub(super) fn failure(reply: &Reply, forbidden: Failure) -> Failure {
    let fault = reply.wp_error();
    let unavailable = Failure::SiteUnavailable { retry_after_s: reply.retry_after_s() };
    match (reply.status, fault) {
        (300..=399, _) if is_suspension_redirect(reply.location.as_deref()) => Failure::Suspended,
        (300..=399 | 404, _) => Failure::SiteMisconfigured,
        // Without WordPress' words a 401 is the web server's own password, not a member's token.
        (401, Some(_)) => Failure::TokenRefused,
        (403, Some(fault)) if fault.code == "bp_rest_authorization_required" => forbidden,
        (403, Some(fault)) => fault.token_failure().unwrap_or(unavailable),
        (429, _) => Failure::SiteBusy { retry_after_s: reply.retry_after_s() },
        _ => unavailable,
    }
}
