//! Answers requests with a method other than `GET` and `HEAD`: `OPTIONS`, and those that no path
//! supports.

use super::handshake::Readiness;
use super::response::{self, draining, page, text};

/// The methods of every path: any of them accepts an upgrade, which is a `GET`.
const ALLOWED: &str = "Allow: GET, HEAD, OPTIONS\r\n";

/// The methods of RFC 9110 section 9.3 and `PATCH` (RFC 5789) that nothing here supports.
const UNSUPPORTED: [&str; 6] = ["POST", "PUT", "DELETE", "CONNECT", "TRACE", "PATCH"];

/// The response to `OPTIONS`, which load balancers use as a health check: on a health path that of
/// `GET`; elsewhere, `OPTIONS *` included, whether new connections are welcome.
pub(super) fn options(path: &str, readiness: Readiness) -> String {
    let mut response = match health_check(path, readiness) {
        Some(response) => response,
        None if readiness == Readiness::Draining => draining(),
        None => page("200 OK", response::NO_STORE, ""),
    };
    let head = response.find("\r\n").map_or(0, |end| end + 2);
    response.insert_str(head, ALLOWED);
    response
}

/// The response to `GET` on a health path; `None` for other paths.
pub(super) fn health_check(path: &str, readiness: Readiness) -> Option<String> {
    match path {
        "/healthz" => Some(response::healthz()),
        "/readyz" => Some(response::readyz(readiness)),
        _ => None,
    }
}

/// The response to a method that is not supported (RFC 9110 sections 15.5.6 and 15.6.2).
pub(super) fn unsupported(method: &str) -> String {
    let line = "Only GET, HEAD and OPTIONS are answered here.";
    match UNSUPPORTED.contains(&method) {
        true => text("405 Method Not Allowed", ALLOWED, line),
        false => text("501 Not Implemented", ALLOWED, line),
    }
}

/// The response on a path that supports only one method.
pub(super) fn only(allowed: &str, method: &str) -> String {
    let is_known = UNSUPPORTED.contains(&method) || ["GET", "HEAD", "OPTIONS"].contains(&method);
    let status = if is_known { "405 Method Not Allowed" } else { "501 Not Implemented" };
    let line = format!("Only {allowed} is answered here.");
    text(status, &format!("Allow: {allowed}\r\n"), &line)
}
