//! Requests and reply parsing for token checks and for the participant lists of threads.
//!
//! Pure functions, as in [`super::buddyboss`]. Both requests are GETs, which change nothing, so a
//! bad reply never means `Unknown`. Only WordPress' own error about a token counts as a refusal of
//! it: otherwise a firewall's 403 would sign members out.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::buddyboss::{Reply, Request, is_id, is_suspension_redirect};
use super::json::StrictObject;
use super::jwt;
use super::url_style::UrlStyle;
use super::whole_number::whole_number;
use crate::hub::interface::{Answer, Failure, Proven};
use crate::protocol::credential::Credential;

/// The most pages of participants that are read, of 20 users each (CONTRACT 3.2).
pub const PAGES_MAX: u64 = 50;

// ---- token check

/// Builds the request that asks the site for the user of a credential.
pub fn prove_request(credential: &Credential, url_style: UrlStyle) -> Request<'_> {
    Request {
        method: "GET",
        path: Cow::Borrowed(url_style.me()),
        token: Some(credential),
        body: None,
        signature: None,
    }
}

/// Interprets the reply to [`prove_request`].
pub fn parse_prove_reply(credential: &Credential, reply: &Reply) -> Answer {
    #[derive(Deserialize)]
    struct Me {
        #[serde(deserialize_with = "whole_number")]
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

// ---- permission to call

/// The errors in `can_send_message` that keep one person from another (CONTRACT 3.3). The other
/// errors concern the thread, such as an archived one.
const BARRED: [&str; 4] = [
    "bp_rest_user_blocked",
    "bp_rest_user_suspended",
    "bp_rest_friendship_required",
    "bp_rest_deleted_unset",
];

/// Builds the request whether a member may write to the other participant of a thread.
pub fn call_permission_request(
    thread: u64,
    credential: &Credential,
    url_style: UrlStyle,
) -> Request<'_> {
    let path = Cow::Owned(url_style.write_permission(thread));
    Request { method: "GET", path, token: Some(credential), body: None, signature: None }
}

/// Interprets the reply to [`call_permission_request`].
pub fn parse_call_permission_reply(thread: u64, reply: &Reply) -> Answer {
    #[derive(Deserialize)]
    struct Thread<'a> {
        id: u64,
        /// `true` or an object with errors; older versions have no such field.
        #[serde(default, borrow)]
        can_send_message: Option<&'a RawValue>,
    }
    #[derive(Deserialize)]
    struct Errors {
        errors: BTreeMap<String, IgnoredAny>,
    }
    if reply.status != 200 {
        return Answer::Failed(failure(reply, Failure::NotParticipant));
    }
    let Some(found) = reply.json::<Thread<'_>>().filter(|found| found.id == thread) else {
        return Answer::Failed(Failure::SiteUnavailable { retry_after_s: None });
    };
    let errors = found
        .can_send_message
        .and_then(|value| serde_json::from_str::<StrictObject<Errors>>(value.get()).ok());
    let is_barred = errors.is_some_and(|StrictObject(Errors { errors })| {
        errors.keys().any(|code| BARRED.contains(&code.as_str()))
    });
    Answer::CallPermission(!is_barred)
}

// ---- participant list

/// Builds the request for one page of a thread's participants; the first page is 1.
pub fn list_request(
    thread: u64,
    page: u64,
    credential: &Credential,
    url_style: UrlStyle,
) -> Request<'_> {
    let path = Cow::Owned(url_style.participants(thread, page));
    Request { method: "GET", path, token: Some(credential), body: None, signature: None }
}

/// Collects a thread's participants page by page.
///
/// Users who join or leave the thread between two pages shift the rows, so that a row is missed or
/// seen twice. Each page states the total: the list is complete only if every page states the same
/// total and as many distinct users were seen. Anything else is a failure.
pub struct ParticipantPages {
    thread: u64,
    page: u64,
    /// The total that the first page stated.
    total: Option<u64>,
    users: Users,
}

/// The result of [`ParticipantPages::add_page`].
#[derive(Debug, PartialEq, Eq)]
pub enum PageProgress {
    /// Request the page that [`ParticipantPages::page`] now returns.
    More,
    /// Finished: [`Answer::Participants`] with the whole list, or a failure, with a log detail if
    /// the reply itself does not show the reason.
    Done(Answer, Option<&'static str>),
}

impl ParticipantPages {
    /// Starts a list of this thread's participants.
    pub fn new(thread: u64) -> ParticipantPages {
        ParticipantPages { thread, page: 1, total: None, users: Users::default() }
    }

    /// The page to request next.
    pub fn page(&self) -> u64 {
        self.page
    }

    /// Adds the reply to [`list_request`] for [`ParticipantPages::page`].
    pub fn add_page(&mut self, reply: &Reply) -> PageProgress {
        if reply.status != 200 {
            let failure = failure(reply, Failure::NotParticipant);
            return PageProgress::Done(Answer::Failed(failure), None);
        }
        let unusable = |log_detail| {
            PageProgress::Done(
                Answer::Failed(Failure::SiteUnavailable { retry_after_s: None }),
                log_detail,
            )
        };
        let Some(page) = reply.json::<Page>().filter(|page| page.id == self.thread) else {
            return unusable(None);
        };
        if page.recipients_total_pages > PAGES_MAX {
            let detail = Some("the thread has more than 50 pages of participants");
            return PageProgress::Done(Answer::Failed(Failure::ThreadTooLarge), detail);
        }
        let total = *self.total.get_or_insert(page.recipients_count);
        let consistent = page.recipients_count == total && self.users.add(page.recipients.0);
        // The list is complete, whatever the stated number of pages.
        if consistent && self.users.count() == total {
            return PageProgress::Done(Answer::Participants(self.users.active()), None);
        }
        if !consistent || self.users.count() > total || self.page >= page.recipients_total_pages {
            return unusable(Some("the number of participants differs from the site's total"));
        }
        self.page += 1;
        PageProgress::More
    }
}

/// The participants in the reply to a post, if it has all of them (CONTRACT 3.3): for a thread of
/// more than 20 users the reply has only some. Anything unexpected is `None`, because the message
/// is stored in any case.
pub(super) fn participants(reply: &Reply, sender: u64) -> Option<Box<[u64]>> {
    let page: Page = reply.json()?;
    let mut users = Users::default();
    let complete = page.recipients_total_pages == 1
        && users.add(page.recipients.0)
        && users.count() == page.recipients_count;
    let active = users.active();
    // The sender must be a participant, or the list is wrong.
    (complete && active.binary_search(&sender).is_ok()).then_some(active)
}

/// The participants in a thread object (CONTRACT 3.3).
#[derive(Deserialize)]
struct Page {
    #[serde(deserialize_with = "whole_number")]
    id: u64,
    recipients: Recipients,
    /// Includes deleted accounts.
    #[serde(deserialize_with = "whole_number")]
    recipients_count: u64,
    #[serde(deserialize_with = "whole_number")]
    recipients_total_pages: u64,
}

/// User ids, and whether the account is deleted.
#[derive(Default)]
struct Users(BTreeMap<u64, bool>);

impl Users {
    /// Adds entries; false if one of them is invalid or contradicts an earlier one.
    fn add(&mut self, entries: Vec<Recipient>) -> bool {
        entries.iter().all(|entry| {
            let deleted = entry.is_deleted != 0;
            is_id(entry.user_id) && *self.0.entry(entry.user_id).or_insert(deleted) == deleted
        })
    }

    fn count(&self) -> u64 {
        self.0.len() as u64
    }

    /// The ids of users whose account is not deleted, ascending.
    fn active(&self) -> Box<[u64]> {
        self.0.iter().filter(|(_, deleted)| !**deleted).map(|(user, _)| *user).collect()
    }
}

#[derive(Deserialize)]
struct Recipient {
    #[serde(deserialize_with = "whole_number")]
    user_id: u64,
    /// 1 if the account is deleted; its row stays.
    #[serde(default, deserialize_with = "whole_number")]
    is_deleted: u64,
}

/// `{"2":{…},"3":{…}}`, or `[]` if there are none: PHP writes an empty object as a list.
struct Recipients(Vec<Recipient>);

impl<'de> Deserialize<'de> for Recipients {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Recipients, D::Error> {
        struct Reader;

        impl<'de> Visitor<'de> for Reader {
            type Value = Recipients;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of recipients, or an empty list")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Recipients, A::Error> {
                let mut entries = Vec::new();
                while let Some((IgnoredAny, StrictObject(entry))) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Recipients(entries))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Recipients, A::Error> {
                match list.next_element::<IgnoredAny>()? {
                    None => Ok(Recipients(Vec::new())),
                    Some(_) => {
                        Err(serde::de::Error::custom("a list of recipients that is not empty"))
                    }
                }
            }
        }

        deserializer.deserialize_any(Reader)
    }
}

// ---- failures

/// Maps a reply whose status is not 200 to a failure; `forbidden` is the failure if the token is
/// good but its user lacks the right (CONTRACT 2).
pub(super) fn failure(reply: &Reply, forbidden: Failure) -> Failure {
    let error = reply.wp_error();
    let unavailable = Failure::SiteUnavailable { retry_after_s: reply.retry_after_s() };
    match (reply.status, error) {
        (300..=399, _) if is_suspension_redirect(reply.location.as_deref()) => Failure::Suspended,
        (300..=399 | 404, _) => Failure::SiteMisconfigured,
        // A 401 without an error body of WordPress is the web server's own password protection and
        // says nothing about the member's token.
        (401, Some(_)) => Failure::TokenRefused,
        (403, Some(error)) if error.code == "bp_rest_authorization_required" => forbidden,
        (403, Some(error)) => error.token_failure().unwrap_or(unavailable),
        (429, _) => Failure::SiteBusy { retry_after_s: reply.retry_after_s() },
        _ => unavailable,
    }
}
