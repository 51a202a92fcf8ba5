//! The two forms in which a site's REST API is addressed.

/// How the addresses of a site's REST API look (CONTRACT 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// `/wp-json/…`: the usual one. On a site with plain permalinks a POST to it answers an HTML
    /// page with status 200, so it needs a proof first.
    Pretty,
    /// `/?rest_route=/…`: works on every site.
    RestRoute,
}

impl Form {
    /// The other one.
    pub fn other(self) -> Form {
        match self {
            Form::Pretty => Form::RestRoute,
            Form::RestRoute => Form::Pretty,
        }
    }

    /// Where messages are posted, to be put after the site's address.
    pub fn messages(self) -> &'static str {
        match self {
            Form::Pretty => "/wp-json/buddyboss/v1/messages",
            Form::RestRoute => "/?rest_route=/buddyboss/v1/messages",
        }
    }

    /// Who the caller is: the question of the probe, to be put after the site's address.
    pub fn me(self) -> &'static str {
        match self {
            Form::Pretty => "/wp-json/buddyboss/v1/members/me?_fields=id",
            Form::RestRoute => "/?rest_route=/buddyboss/v1/members/me&_fields=id",
        }
    }
}
