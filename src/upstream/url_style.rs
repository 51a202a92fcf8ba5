//! The two forms in which a site's REST API is addressed.

/// How the addresses of a site's REST API look (CONTRACT 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UrlStyle {
    /// `/wp-json/…`: the usual one. On a site with plain permalinks a POST to it answers an HTML
    /// page with status 200, so it needs a proof first.
    Pretty,
    /// `/?rest_route=/…`: works on every site.
    RestRoute,
}

impl UrlStyle {
    /// The other one.
    pub fn other(self) -> UrlStyle {
        match self {
            UrlStyle::Pretty => UrlStyle::RestRoute,
            UrlStyle::RestRoute => UrlStyle::Pretty,
        }
    }

    /// Where messages are posted, to be put after the site's address.
    pub fn messages(self) -> &'static str {
        match self {
            UrlStyle::Pretty => "/wp-json/buddyboss/v1/messages",
            UrlStyle::RestRoute => "/?rest_route=/buddyboss/v1/messages",
        }
    }

    /// Who the caller is: the question of the probe, to be put after the site's address.
    pub fn me(self) -> &'static str {
        match self {
            UrlStyle::Pretty => "/wp-json/buddyboss/v1/members/me?_fields=id",
            UrlStyle::RestRoute => "/?rest_route=/buddyboss/v1/members/me&_fields=id",
        }
    }

    /// What the REST API says of itself, to be put after the site's address.
    pub fn index(self) -> &'static str {
        match self {
            UrlStyle::Pretty => "/wp-json/?_fields=home,namespaces",
            UrlStyle::RestRoute => "/?rest_route=/&_fields=home,namespaces",
        }
    }

    /// The caller's newest thread, to be put after the site's address.
    pub fn newest_thread(self) -> String {
        format!("{}{}per_page=1&_fields=id", self.messages(), self.query_separator())
    }

    /// How it is written, for people.
    pub fn prefix(self) -> &'static str {
        match self {
            UrlStyle::Pretty => "/wp-json/",
            UrlStyle::RestRoute => "/?rest_route=/",
        }
    }

    /// What an argument behind the path begins with: what follows `rest_route` is one itself.
    fn query_separator(self) -> char {
        match self {
            UrlStyle::Pretty => '?',
            UrlStyle::RestRoute => '&',
        }
    }

    /// One page of a thread's participants, to be put after the site's address.
    pub fn participants(self, thread: u64, page: u64) -> String {
        let (messages, mark) = (self.messages(), self.query_separator());
        format!(
            "{messages}/{thread}{mark}recipients_pagination=true&recipients_page={page}\
             &_fields=id,recipients,recipients_count,recipients_per_page,recipients_total_pages"
        )
    }

    /// A thread's newest messages and first participants, to be put after the site's address.
    pub fn newest_messages(self, thread: u64) -> String {
        let (messages, mark) = (self.messages(), self.query_separator());
        format!("{messages}/{thread}{mark}recipients_pagination=true&recipients_page=1")
    }

    /// The thread of the caller and this user alone, to be put after the site's address.
    pub fn search_thread(self, recipient: u64) -> String {
        let (messages, mark) = (self.messages(), self.query_separator());
        format!("{messages}/search-thread{mark}recipient_id={recipient}")
    }
}
