//! Checks a request head for the requirements of RFC 9112 that `httparse` leaves to the server: the
//! version, the form of the target, `Host`, and the framing of a body.

use std::net::IpAddr;

use zeroize::Zeroizing;

use super::headers::{has_header, header_tokens, header_values};
use super::methods;
use super::response::{bad_request, text};

/// The properties of a valid request that follow from its target and its headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head<'a> {
    /// The host and port that the client has addressed: those of a target in absolute form, else
    /// `Host`.
    pub(super) host: Option<&'a str>,
    /// Whether a body follows the head.
    pub(super) has_body: bool,
}

/// Checks a complete head, and replaces a target in absolute form by its path and query.
///
/// # Errors
///
/// The response to an invalid request.
pub(super) fn check<'a>(request: &mut httparse::Request<'_, 'a>) -> Result<Head<'a>, String> {
    let authority = reduce_target(request)?;
    let host = check_host(request)?;
    let has_body = check_framing(request)?;
    Ok(Head { host: authority.or(host), has_body })
}

/// The path of a checked request, without the query.
pub(super) fn path<'a>(request: &httparse::Request<'_, 'a>) -> &'a str {
    let target = request.path.unwrap_or_default();
    let path = target.split_once('?').map_or(target, |(path, _)| path);
    // A target in absolute form may have no path (RFC 9112 section 3.2.1).
    if path.is_empty() { "/" } else { path }
}

/// Reduces the target to path and query. Returns the host and port of a target in absolute form,
/// which replace those in `Host` (RFC 9112 section 3.2.2).
fn reduce_target<'a>(request: &mut httparse::Request<'_, 'a>) -> Result<Option<&'a str>, String> {
    let target = request.path.unwrap_or_default();
    // Clients should not send a fragment. Like other servers, this one ignores it.
    let target = target.split_once('#').map_or(target, |(target, _)| target);
    request.path = Some(target);
    if target.starts_with('/') {
        return Ok(None);
    }
    match (request.method, target) {
        // The forms for these methods; the method itself decides the response.
        (Some("CONNECT"), _) | (Some("OPTIONS"), "*") => return Ok(None),
        _ => {}
    }
    let refuse = || {
        bad_request(
            "The request target must be a path such as /live, or an http or https URI (RFC 9112 \
             section 3.2).",
        )
    };
    let (scheme, rest) = target.split_once("://").ok_or_else(refuse)?;
    let known = ["http", "https", "ws", "wss"];
    if !known.iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
        return Err(refuse());
    }
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    // RFC 9110 sections 4.2.1 and 4.2.4: an empty host and a user name are errors.
    if authority.is_empty() || authority.starts_with(':') || !is_host(authority) {
        return Err(refuse());
    }
    request.path = Some(path);
    Ok(Some(authority))
}

/// Checks that there is one valid `Host`; only HTTP/1.0 may omit it (RFC 9112 section 3.2). Returns
/// it unless it is empty.
fn check_host<'a>(request: &httparse::Request<'_, 'a>) -> Result<Option<&'a str>, String> {
    let mut found = header_values(request, "host");
    match (found.next(), found.next()) {
        (None, _) if request.version == Some(0) => Ok(None),
        (None, _) => Err(bad_request("The header Host is missing (RFC 9112 section 3.2).")),
        (Some(_), Some(_)) => {
            Err(bad_request("The header Host occurs more than once (RFC 9112 section 3.2)."))
        }
        (Some(value), None) => match std::str::from_utf8(value).map(str::trim) {
            Ok(host) if is_host(host) => Ok(Some(host).filter(|host| !host.is_empty())),
            _ => Err(bad_request(
                "The header Host must be a host name or an address, and optionally a port (RFC \
                 9112 section 3.2).",
            )),
        },
    }
}

/// Whether this is `uri-host [ ":" port ]`, as in `Host` (RFC 9110 section 7.2, RFC 3986 section
/// 3.2.2). Both may be empty.
fn is_host(value: &str) -> bool {
    let end = match value.strip_prefix('[') {
        Some(rest) => match rest.find(']') {
            Some(end) if rest[..end].parse().is_ok_and(|host: IpAddr| host.is_ipv6()) => end + 2,
            _ => return false,
        },
        None => value.find(':').unwrap_or(value.len()),
    };
    let (host, port) = value.split_at(end);
    let is_port =
        port.is_empty() || port[1..].bytes().all(|b| b.is_ascii_digit()) && port.starts_with(':');
    let is_name = |b: u8| b.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=".contains(&b);
    is_port && (host.starts_with('[') || host.bytes().all(is_name))
}

/// Checks `Transfer-Encoding` and `Content-Length` (RFC 9112 sections 6.1 to 6.3). Returns whether
/// a body follows.
///
/// No request here needs a body, but a proxy in front must not see another end of the request than
/// this server: that would let a client smuggle a second request.
fn check_framing(request: &httparse::Request<'_, '_>) -> Result<bool, String> {
    let has_length = has_header(request, "content-length");
    if has_header(request, "transfer-encoding") {
        if request.version == Some(0) {
            return Err(bad_request("HTTP/1.0 has no Transfer-Encoding (RFC 9112 section 6.1)."));
        }
        if has_length {
            return Err(bad_request(
                "Transfer-Encoding and Content-Length exclude each other (RFC 9112 section 6.3).",
            ));
        }
        let codings = || header_tokens(request, "transfer-encoding");
        let is_chunked = |coding: &[u8]| coding.eq_ignore_ascii_case(b"chunked");
        if !codings().last().is_some_and(is_chunked) {
            return Err(bad_request(
                "The last Transfer-Encoding must be chunked (RFC 9112 section 6.3).",
            ));
        }
        if codings().count() > 1 {
            return Err(text(
                "501 Not Implemented",
                "",
                "Of Transfer-Encoding only chunked is implemented (RFC 9112 section 6.1).",
            ));
        }
        return Ok(true);
    }
    if !has_length {
        return Ok(false);
    }
    // Repeated equal lengths are one (RFC 9110 section 8.6).
    let mut lengths = header_tokens(request, "content-length");
    let length = lengths.next().unwrap_or_default();
    if length.is_empty()
        || !length.iter().all(u8::is_ascii_digit)
        || lengths.any(|other| other != length)
    {
        return Err(bad_request("Content-Length must be one number (RFC 9112 section 6.3)."));
    }
    Ok(length.iter().any(|digit| *digit != b'0'))
}

/// The response to a head that exceeds the limits, or that is incomplete at the limit; `request` is
/// what was parsed of it.
pub(super) fn too_large(request: &httparse::Request<'_, '_>, bytes: &[u8]) -> String {
    let is_blank = bytes.iter().all(|byte| matches!(byte, b'\r' | b'\n'));
    match (request.method, request.path) {
        // RFC 9112 section 3: this is for a target longer than the server parses, …
        (Some(_), None) => text("414 URI Too Long", "", "The request target is too long."),
        // … and this for a method longer than any it knows.
        (None, None) if !is_blank => methods::unsupported(""),
        _ => text("431 Request Header Fields Too Large", "", "The request head is too large."),
    }
}

/// A request that `httparse` refuses.
pub(super) enum Invalid {
    /// The same request as HTTP/1.1: its minor version is higher, and such a request is processed
    /// as one of the highest minor version that the server knows (RFC 9110 section 2.5).
    NewerMinor(Zeroizing<Vec<u8>>),
    /// Send this response.
    Refused(String),
}

/// Judges an error of `httparse`; `request` is what was parsed until then.
pub(super) fn judge_error(
    fault: httparse::Error,
    request: &httparse::Request<'_, '_>,
    bytes: &[u8],
) -> Invalid {
    if fault == httparse::Error::TooManyHeaders {
        return Invalid::Refused(too_large(request, bytes));
    }
    if let (httparse::Error::Version, Some(method), Some(target)) =
        (fault, request.method, request.path)
    {
        let is_blank = |byte: &u8| matches!(byte, b'\r' | b'\n');
        let blank = bytes.iter().take_while(|byte| is_blank(byte)).count();
        let at = blank + method.len() + 1 + target.len() + 1;
        match bytes.get(at..).unwrap_or_default() {
            [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'2'..=b'9', ..] => {
                let mut same = Zeroizing::new(bytes.to_vec());
                same[at + 7] = b'1';
                return Invalid::NewerMinor(same);
            }
            [b'H', b'T', b'T', b'P', b'/', b'0' | b'2'..=b'9', ..] => {
                return Invalid::Refused(text(
                    "505 HTTP Version Not Supported",
                    "",
                    "This server speaks HTTP/1.1.",
                ));
            }
            _ => {}
        }
    }
    Invalid::Refused(bad_request("This is not an HTTP/1.1 request."))
}
