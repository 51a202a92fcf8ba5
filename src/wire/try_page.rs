//! The page at `GET /`: one document, put together from parts that each have one job.
//!
//! The parts are pasted in this order when the server is built, so a part may use the styles and
//! the constants of those above it. There is no other tool in between: what stands in a part is
//! what the browser gets.

/// The whole page.
pub(super) const TRY_PAGE: &str = concat!(
    include_str!("try_page/head.html"),
    include_str!("try_page/look.css"),
    include_str!("try_page/call.css"),
    include_str!("try_page/body.html"),
    include_str!("try_page/state.js"),
    include_str!("try_page/connection.js"),
    include_str!("try_page/frames.js"),
    include_str!("try_page/actions.js"),
    include_str!("try_page/drawing.js"),
    include_str!("try_page/media.js"),
    include_str!("try_page/link.js"),
    include_str!("try_page/call.js"),
    include_str!("try_page/call_view.js"),
    include_str!("try_page/start.js"),
    include_str!("try_page/tail.html"),
);

/// The page has everything inside; nothing else may be loaded, and nobody may frame it. What a
/// camera and a microphone record is no load, so calls need no word here.
pub(super) const TRY_PAGE_HEADERS: &str = "Content-Type: text/html; charset=utf-8\r\n\
    Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'; \
    script-src 'unsafe-inline'; connect-src 'self' ws: wss:; img-src data:; base-uri 'none'; \
    form-action 'none'; frame-ancestors 'none'\r\n\
    X-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\n";
