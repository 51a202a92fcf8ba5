//! Requests and responses of the metrics listener: `/metrics`, `/healthz` and `/readyz`.
//!
//! Each connection carries one request. Origins, tokens and proxies play no part here.

use super::handshake::Readiness;
use super::request::{self, Invalid};
use super::{methods, response};
use crate::metrics::page::MEDIA_TYPE;

/// Largest request head, in bytes.
pub(crate) const HEAD_BYTES_MAX: usize = 4_096;
const HEADERS_MAX: usize = 32;

/// The result of parsing the bytes received so far.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum MetricsRequest {
    /// The head is not complete.
    Incomplete,
    /// The client requests the metrics.
    Metrics {
        /// The request is HEAD: send the head of the response alone.
        head_only: bool,
    },
    /// Send this response and close.
    Respond(String),
}

/// Reads a request from the first bytes of a connection.
pub(crate) fn receive(bytes: &[u8], readiness: Readiness) -> MetricsRequest {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut head = httparse::Request::new(&mut headers);
    let bytes = &bytes[..bytes.len().min(HEAD_BYTES_MAX)];
    match head.parse(bytes) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) if bytes.len() < HEAD_BYTES_MAX => {
            return MetricsRequest::Incomplete;
        }
        Ok(httparse::Status::Partial) => {
            return MetricsRequest::Respond(request::too_large(&head, bytes));
        }
        Err(fault) => {
            return match request::judge_error(fault, &head, bytes) {
                Invalid::NewerMinor(same) => receive(&same, readiness),
                Invalid::Refused(response) => MetricsRequest::Respond(response),
            };
        }
    }
    if let Err(response) = request::check(&mut head) {
        return MetricsRequest::Respond(response);
    }
    let request = head;
    let path = request::path(&request);
    let head_only = request.method == Some("HEAD");
    let response = match (request.method, path) {
        (Some("GET" | "HEAD"), "/metrics") => return MetricsRequest::Metrics { head_only },
        (Some("GET" | "HEAD"), _) => methods::health_check(path, readiness).unwrap_or_else(|| {
            let paths = "Not found; this listener serves /metrics, /healthz and /readyz.";
            response::text("404 Not Found", "", paths)
        }),
        (Some("OPTIONS"), _) => methods::options(path, readiness),
        (method, _) => methods::unsupported(method.unwrap_or_default()),
    };
    MetricsRequest::Respond(if head_only { response::without_body(response) } else { response })
}

/// The response with the metrics page.
pub(crate) fn metrics(page: &str, head_only: bool) -> String {
    let headers = format!("Content-Type: {MEDIA_TYPE}\r\n{}", response::NO_STORE);
    let response = response::page("200 OK", &headers, page);
    if head_only { response::without_body(response) } else { response }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(bytes: &[u8]) -> MetricsRequest {
        receive(bytes, Readiness::Draining)
    }

    /// The status line of the response, and its body.
    fn respond(bytes: &[u8]) -> (String, String) {
        let MetricsRequest::Respond(response) = parse(bytes) else { panic!("no response") };
        let (head, body) = response.split_once("\r\n\r\n").unwrap();
        assert!(head.contains("\r\nConnection: close"), "{head}");
        (head.lines().next().unwrap().to_owned(), body.to_owned())
    }

    #[test]
    fn metrics_health_and_readiness_are_routed() {
        let metrics = |head_only| MetricsRequest::Metrics { head_only };
        assert_eq!(parse(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"), metrics(false));
        assert_eq!(parse(b"GET /metrics?x=y HTTP/1.0\r\n\r\n"), metrics(false));
        assert_eq!(parse(b"HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n"), metrics(true));
        for (request, status, body) in [
            (&b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"[..], "200", "ok\n"),
            (b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n", "503", "draining\n"),
            (b"HEAD /readyz HTTP/1.1\r\nHost: x\r\n\r\n", "503", ""),
            (b"OPTIONS /readyz HTTP/1.1\r\nHost: x\r\n\r\n", "503", "draining\n"),
            (b"OPTIONS /healthz HTTP/1.0\r\n\r\n", "200", "ok\n"),
        ] {
            let (head, text) = respond(request);
            assert!(head.starts_with(&format!("HTTP/1.1 {status} ")) && text == body, "{head}");
        }
    }

    #[test]
    fn unknown_paths_and_upgrades_are_refused() {
        let upgrade = b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
            Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        for (request, status) in [
            (&upgrade[..], "404"),
            (b"GET /metrics/ HTTP/1.1\r\nHost: x\r\n\r\n", "404"),
            (b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx", "405"),
            (b"BREW /metrics HTTP/1.1\r\nHost: x\r\n\r\n", "501"),
            (b"\x16\x03\x01\x02\x00", "400"),
        ] {
            let (head, _) = respond(request);
            assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
        }
    }

    #[test]
    fn split_request_head_is_accepted_up_to_the_limit() {
        let whole = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";
        assert!((0..whole.len()).all(|n| parse(&whole[..n]) == MetricsRequest::Incomplete));
        let mut long = b"GET /metrics HTTP/1.1\r\nX: ".to_vec();
        long.resize(HEAD_BYTES_MAX - 1, b'x');
        assert_eq!(parse(&long), MetricsRequest::Incomplete);
        long.push(b'x');
        assert!(respond(&long).0.starts_with("HTTP/1.1 431 "));
        let many = format!("GET /metrics HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(HEADERS_MAX + 1));
        assert!(respond(many.as_bytes()).0.starts_with("HTTP/1.1 431 "));
    }

    #[test]
    fn metrics_reply_has_content_type_and_length() {
        let (whole, head) = (metrics("a 1\n", false), metrics("a 1\n", true));
        assert!(whole.contains("Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n"));
        assert!(whole.contains("Content-Length: 4\r\n") && whole.ends_with("\r\n\r\na 1\n"));
        assert_eq!(whole.strip_suffix("a 1\n"), Some(&*head));
    }
}
