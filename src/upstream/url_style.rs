//! Builds the request targets of a site's REST API, in WordPress' two URL styles.
//!
//! The targets are constants with numbers in them, so there is nothing for a URL library to escape.

/// The style of a site's REST API URLs (CONTRACT 6). All targets are appended to the site's base
/// URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UrlStyle {
    /// `/wp-json/…`, the usual style. A site with plain permalinks answers a POST to it with an
    /// HTML page and status 200, so a probe must confirm it before use.
    Pretty,
    /// `/?rest_route=/…`, which works on every site.
    RestRoute,
}

impl UrlStyle {
    /// The other style.
    pub fn other(self) -> UrlStyle {
        match self {
            UrlStyle::Pretty => UrlStyle::RestRoute,
            UrlStyle::RestRoute => UrlStyle::Pretty,
        }
    }

    /// The target to which messages are posted.
    pub fn messages(self) -> &'static str {
        match self {
            UrlStyle::Pretty => "/wp-json/buddyboss/v1/messages",
            UrlStyle::RestRoute => "/?rest_route=/buddyboss/v1/messages",
        }
    }

    /// The target that returns the authenticated user; probes use it too.
    pub fn me(self) -> &'static str {
        match self {
            UrlStyle::Pretty => "/wp-json/buddyboss/v1/members/me?_fields=id",
            UrlStyle::RestRoute => "/?rest_route=/buddyboss/v1/members/me&_fields=id",
        }
    }

    /// The REST API's index: the site's home URL and the namespaces it offers.
    pub fn index(self) -> &'static str {
        match self {
            UrlStyle::Pretty => "/wp-json/?_fields=home,namespaces",
            UrlStyle::RestRoute => "/?rest_route=/&_fields=home,namespaces",
        }
    }

    /// The authenticated user's newest thread.
    pub fn newest_thread(self) -> String {
        format!("{}{}per_page=1&_fields=id", self.messages(), self.query_separator())
    }

    /// The prefix of all targets, for display.
    pub fn prefix(self) -> &'static str {
        match self {
            UrlStyle::Pretty => "/wp-json/",
            UrlStyle::RestRoute => "/?rest_route=/",
        }
    }

    /// The character before the first query parameter: `rest_route` is a query parameter itself.
    fn query_separator(self) -> char {
        match self {
            UrlStyle::Pretty => '?',
            UrlStyle::RestRoute => '&',
        }
    }

    /// One page of a thread's participants; the first page is 1.
    pub fn participants(self, thread: u64, page: u64) -> String {
        let (messages, separator) = (self.messages(), self.query_separator());
        format!(
            "{messages}/{thread}{separator}recipients_pagination=true&recipients_page={page}\
             &_fields=id,recipients,recipients_count,recipients_per_page,recipients_total_pages"
        )
    }

    /// Whether the authenticated user may write in a thread.
    pub fn write_permission(self, thread: u64) -> String {
        let (messages, separator) = (self.messages(), self.query_separator());
        format!(
            "{messages}/{thread}{separator}recipients_pagination=true&recipients_page=1\
             &_fields=id,can_send_message"
        )
    }

    /// A thread's newest messages and its first page of participants.
    pub fn newest_messages(self, thread: u64) -> String {
        let (messages, separator) = (self.messages(), self.query_separator());
        format!("{messages}/{thread}{separator}recipients_pagination=true&recipients_page=1")
    }

    /// The thread of exactly the authenticated user and `recipient`.
    pub fn search_thread(self, recipient: u64) -> String {
        let (messages, separator) = (self.messages(), self.query_separator());
        format!("{messages}/search-thread{separator}recipient_id={recipient}")
    }
}
