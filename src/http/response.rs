//! Writes whole HTTP responses: plain text, a page, health checks and refusals.

use std::fmt::Write;

use super::handshake::Readiness;

/// For responses whose content changes from one moment to the next.
pub(super) const NO_STORE: &str = "Cache-Control: no-store\r\n";

/// The body of refusals while the server drains.
pub(super) const RESTARTING: &str = "The server is restarting; try again.";

const PLAIN_TEXT: &str = "Content-Type: text/plain; charset=utf-8\r\n";

/// Lets a client send the body that it has announced (RFC 9110 section 15.2.1).
pub(crate) const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// The response to a HEAD request: the head alone.
pub(super) fn without_body(mut response: String) -> String {
    let head = response.find("\r\n\r\n").map_or(response.len(), |end| end + 4);
    response.truncate(head);
    response
}

pub(super) fn healthz() -> String {
    text("200 OK", NO_STORE, "ok")
}

pub(super) fn readyz(readiness: Readiness) -> String {
    let not = |why| text("503 Service Unavailable", NO_STORE, why);
    match readiness {
        Readiness::Ready => text("200 OK", NO_STORE, "ready"),
        Readiness::SiteUnavailable => not("the site is unavailable"),
        Readiness::Draining => not("draining"),
    }
}

/// Refuses an upgrade while the server drains; its successor may be ready in a moment.
pub(super) fn draining() -> String {
    text("503 Service Unavailable", "Retry-After: 5\r\n", RESTARTING)
}

pub(super) fn bad_request(why: &str) -> String {
    text("400 Bad Request", "", why)
}

pub(super) fn text(status: &str, headers: &str, line: &str) -> String {
    page(status, &format!("{PLAIN_TEXT}{headers}"), &format!("{line}\n"))
}

pub(super) fn page(status: &str, headers: &str, body: &str) -> String {
    let mut response = String::with_capacity(256 + headers.len() + body.len());
    // Writing to a String cannot fail.
    let _ = write!(
        response,
        "HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    response
}

/// Refuses a connection beyond `--max-connections`, before anything is read from it.
pub(crate) fn too_many_connections() -> String {
    text("503 Service Unavailable", "Retry-After: 10\r\n", "Too many connections; try again soon.")
}

/// Refuses a connection beyond `--max-connections-per-address`.
pub(crate) fn too_many_from_address() -> String {
    let line = "Too many connections from your address; try again later.";
    text("429 Too Many Requests", "Retry-After: 60\r\n", line)
}

/// Refuses a connection of a trusted proxy without a PROXY protocol header.
pub(crate) fn proxy_header_expected() -> String {
    bad_request("A PROXY protocol header is expected first; does the proxy send one?")
}

/// The response to a request head that was not complete in time.
pub(crate) fn request_timeout() -> String {
    text("408 Request Timeout", "", "The request took too long.")
}
