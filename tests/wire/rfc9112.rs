//! RFC 9112, sections 2 to 7 and 9: what the server accepts, and what it refuses with which status.

use buddyline::wire::Event;

use crate::support::bytes::*;

/// Header lines of a WebSocket handshake, without `Host`.
const UPGRADE: &str = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// A row: the section, the head, and the status; `wait` means that the head is not complete.
type Row = (&'static str, String, &'static str);

/// Feeds the head in pieces of this size. Returns the status, and the whole answer.
fn answer(head: &str, piece: usize) -> (String, String) {
    let mut codec = codec_of(LIMIT, true);
    let mut session = WireSession::default();
    for part in head.as_bytes().chunks(piece) {
        session.feed(&mut codec, part);
        if !session.events.is_empty() {
            break;
        }
    }
    let answer = session.answer();
    let status = match &session.events[..] {
        [] => "wait",
        [Event::CallStatusRequest(_)] => "status",
        _ => &answer[9..12],
    };
    assert_eq!(status == "101", matches!(session.events[..], [Event::Opened(_)]), "{head}");
    (status.to_owned(), answer)
}

fn check(rows: &[Row]) {
    for (section, head, expected) in rows {
        // Each piece parses the whole head again.
        let pieces = if head.len() < 1_000 { [usize::MAX, 7, 1] } else { [usize::MAX, 4_096, 997] };
        for piece in pieces {
            let (status, answer) = answer(head, piece);
            assert_eq!(
                status, *expected,
                "section {section}: {head:?} in pieces of {piece}: {answer}"
            );
            if status.starts_with('4') || status.starts_with('5') {
                assert!(answer.contains("\r\nConnection: close\r\n"), "section 9.6: {answer}");
            }
        }
    }
}

/// A handshake with this request line and `Host`, and more header lines.
fn upgrade(line: &str, more: &str) -> String {
    format!("{line}\r\nHost: x\r\n{UPGRADE}{more}\r\n")
}

/// A health check with these header lines.
fn health(lines: &str) -> String {
    format!("GET /healthz HTTP/1.1\r\n{lines}\r\n")
}

#[test]
fn message_format_of_section_2() {
    let ok = health("Host: x\r\n");
    check(&[
        // 2.2: empty lines before the request line are ignored.
        ("2.2", format!("\r\n{ok}"), "200"),
        ("2.2", format!("\r\n\r\n\n{ok}"), "200"),
        // 2.2: a single LF ends a line.
        ("2.2", ok.replace("\r\n", "\n"), "200"),
        ("2.2", upgrade("GET / HTTP/1.1", "").replace("\r\n", "\n"), "101"),
        // 2.2: a CR that no LF follows is invalid.
        ("2.2", format!("\r{ok}"), "400"),
        ("2.2", "GET /healthz HTTP/1.1\rHost: x\r\n\r\n".to_owned(), "400"),
        ("2.2", health("Host: x\r\nA: b\rc\r\n"), "400"),
        ("2.2", health("Host: x\r\nA: b\r\r\n"), "400"),
        // 2.2: whitespace between the request line and the first header line.
        ("2.2", health(" \r\nHost: x\r\n"), "400"),
        ("2.2", health(" Host: x\r\n"), "400"),
        ("2.2", health("\tHost: x\r\n"), "400"),
        // 2.3 and RFC 9110 2.5: a higher minor version is processed as 1.1, others are refused.
        ("2.3", "GET /healthz HTTP/1.0\r\n\r\n".to_owned(), "200"),
        ("2.3", "GET /healthz HTTP/1.2\r\nHost: x\r\n\r\n".to_owned(), "200"),
        ("2.3", "\r\nGET /healthz HTTP/1.9\r\nHost: x\r\n\r\n".to_owned(), "200"),
        ("2.3", upgrade("GET / HTTP/1.2", ""), "101"),
        ("2.3", "GET /healthz HTTP/1.2\r\n\r\n".to_owned(), "400"),
        ("2.3", "GET /healthz HTTP/2.0\r\nHost: x\r\n\r\n".to_owned(), "505"),
        ("2.3", "GET /healthz HTTP/2\r\nHost: x\r\n\r\n".to_owned(), "505"),
        ("2.3", "GET /healthz HTTP/3.0\r\nHost: x\r\n\r\n".to_owned(), "505"),
        ("2.3", "GET /healthz HTTP/0.9\r\nHost: x\r\n\r\n".to_owned(), "505"),
        ("2.3", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), "505"),
        ("2.3", "GET /healthz HTTP/1.10\r\nHost: x\r\n\r\n".to_owned(), "400"),
        ("2.3", "GET /healthz HTTP/1.21\r\nHost: x\r\n\r\n".to_owned(), "400"),
        ("2.3", "GET /healthz HTTP/11.1\r\nHost: x\r\n\r\n".to_owned(), "400"),
        ("2.3", "GET /healthz http/1.1\r\nHost: x\r\n\r\n".to_owned(), "400"),
        ("2.3", "GET /healthz HTTPS/1.1\r\nHost: x\r\n\r\n".to_owned(), "400"),
        ("2.3", "GET /healthz HTTP/1.\r\nHost: x\r\n\r\n".to_owned(), "400"),
        // RFC 6455 4.2.1: a WebSocket needs HTTP/1.1.
        ("2.3", upgrade("GET / HTTP/1.0", ""), "400"),
        // RFC 1945: a request of HTTP/0.9 has no version.
        ("2.3", "GET /healthz\r\n\r\n".to_owned(), "400"),
    ]);
}

#[test]
fn request_line_of_section_3() {
    let line = |line: &str| format!("{line}\r\nHost: x\r\n\r\n");
    let long = |bytes: usize| "p".repeat(bytes);
    check(&[
        // 3: one space between the parts, and none around them.
        ("3", line("GET  /healthz HTTP/1.1"), "400"),
        ("3", line("GET /healthz  HTTP/1.1"), "400"),
        ("3", line("GET\t/healthz HTTP/1.1"), "400"),
        ("3", line("GET /healthz HTTP/1.1 "), "400"),
        ("3", line(" GET /healthz HTTP/1.1"), "400"),
        ("3", line("GET /health z HTTP/1.1"), "400"),
        ("3", line("GET"), "400"),
        // 3.1: the method is case-sensitive; an unknown one gets 501, also a very long one.
        ("3.1", line("get /healthz HTTP/1.1"), "501"),
        ("3.1", line("BREW /healthz HTTP/1.1"), "501"),
        ("3.1", line("G(T /healthz HTTP/1.1"), "400"),
        ("3.1", line("\"GET\" /healthz HTTP/1.1"), "400"),
        ("3.1", upgrade("get / HTTP/1.1", ""), "400"),
        ("3.1", "G".repeat(17_000), "501"),
        // 3: targets of 8,000 bytes are supported; a longer one than the limit of a head gets 414.
        ("3", line(&format!("GET /healthz?{} HTTP/1.1", long(8_000))), "200"),
        ("3", line(&format!("GET /healthz?{} HTTP/1.1", long(17_000))), "414"),
        ("3", format!("\r\nGET /{}", long(17_000)), "414"),
        ("3", health(&format!("Host: x\r\nA: {}\r\n", long(17_000))), "431"),
        ("3", "\r\n".repeat(9_000), "431"),
        // 3.2: other forms than those below are invalid.
        ("3.2", line("GET healthz HTTP/1.1"), "400"),
        ("3.2", line("GET ?x HTTP/1.1"), "400"),
        ("3.2", line("GET #x HTTP/1.1"), "400"),
        // 3.2.1: the origin form. A fragment, which clients should not send, is ignored.
        ("3.2.1", line("GET /healthz? HTTP/1.1"), "200"),
        ("3.2.1", line("GET /healthz?a=http://b HTTP/1.1"), "200"),
        ("3.2.1", line("GET /healthz#x?y HTTP/1.1"), "200"),
        ("3.2.1", line("GET //healthz HTTP/1.1"), "404"),
        ("3.2.1", line("GET /http://x/healthz HTTP/1.1"), "404"),
        ("3.2.1", upgrade("GET //x/y HTTP/1.1", ""), "101"),
        // 3.2.2: the absolute form must be accepted.
        ("3.2.2", line("GET http://x/healthz HTTP/1.1"), "200"),
        ("3.2.2", line("GET HTTP://X:80/healthz?y HTTP/1.1"), "200"),
        ("3.2.2", line("GET https://[::1]:8080/healthz HTTP/1.0"), "200"),
        ("3.2.2", line("HEAD http://x/readyz HTTP/1.1"), "200"),
        ("3.2.2", line("OPTIONS http://x HTTP/1.1"), "200"),
        ("3.2.2", line("GET http://x HTTP/1.1"), "200"),
        ("3.2.2", line("GET http://x?y HTTP/1.1"), "200"),
        ("3.2.2", line("GET http://x/other HTTP/1.1"), "404"),
        ("3.2.2", line("GET http://x/live/calls/7 HTTP/1.1"), "status"),
        ("3.2.2", upgrade("GET ws://x/live HTTP/1.1", ""), "101"),
        ("3.2.2", upgrade("GET http://x HTTP/1.1", ""), "101"),
        ("3.2.2", upgrade("GET https://y/live?token=z HTTP/1.1", ""), "101"),
        ("3.2.2", line("GET ftp://x/healthz HTTP/1.1"), "400"),
        ("3.2.2", line("GET x://x/healthz HTTP/1.1"), "400"),
        ("3.2.2", line("GET http:/healthz HTTP/1.1"), "400"),
        ("3.2.2", line("GET http:///healthz HTTP/1.1"), "400"),
        ("3.2.2", line("GET http://:80/healthz HTTP/1.1"), "400"),
        ("3.2.2", line("GET http://u@x/healthz HTTP/1.1"), "400"),
        ("3.2.2", line("GET http://u:p@x/healthz HTTP/1.1"), "400"),
        ("3.2.2", line("GET http://x:y/healthz HTTP/1.1"), "400"),
        ("3.2.2", line("GET http://[::1/healthz HTTP/1.1"), "400"),
        ("3.2.2", "GET http://x/healthz HTTP/1.1\r\n\r\n".to_owned(), "400"),
        // 3.2.3: the authority form is for CONNECT, which is not supported.
        ("3.2.3", line("CONNECT x:443 HTTP/1.1"), "405"),
        ("3.2.3", line("GET x:443 HTTP/1.1"), "400"),
        // 3.2.4: the asterisk form is for OPTIONS.
        ("3.2.4", line("OPTIONS * HTTP/1.1"), "200"),
        ("3.2.4", line("GET * HTTP/1.1"), "400"),
        ("3.2.4", upgrade("GET * HTTP/1.1", ""), "400"),
    ]);
}

#[test]
fn host_of_section_3_2() {
    let host = |value: &str| health(&format!("Host: {value}\r\n"));
    let mut rows: Vec<Row> = vec![
        // HTTP/1.1 requires exactly one; before, it was optional.
        ("3.2", health(""), "400"),
        ("3.2", format!("GET / HTTP/1.1\r\n{UPGRADE}\r\n"), "400"),
        ("3.2", "GET /healthz HTTP/1.0\r\n\r\n".to_owned(), "200"),
        ("3.2", health("Host: x\r\nHost: x\r\n"), "400"),
        ("3.2", health("Host: x\r\nhost: y\r\n"), "400"),
        ("3.2", "GET /healthz HTTP/1.0\r\nHost: x\r\nHost: x\r\n\r\n".to_owned(), "400"),
        ("3.2", upgrade("GET / HTTP/1.1", "Host: x\r\n"), "400"),
    ];
    for valid in [
        "",
        " ",
        "x",
        "X.Example",
        "x.",
        "x:80",
        "x:",
        "x_y",
        "127.0.0.1:8080",
        "[::1]",
        "[::1]:80",
        "xn--bcher-kva.example",
        "%C3%BC.example",
        "a,b",
        " x \t",
    ] {
        rows.push(("3.2", host(valid), "200"));
    }
    for invalid in [
        "x y",
        "x, y",
        "u@x",
        "x/y",
        "http://x",
        "x:80:80",
        "x:8o",
        "::1",
        "[::1",
        "[::1]x",
        "[x]",
        "[fe80::1%25eth0]",
        "ü.example",
        "x?y",
        "x#y",
        "\"x\"",
        "<x>",
        "x\\y",
    ] {
        rows.push(("3.2", host(invalid), "400"));
        rows.push(("3.2", format!("GET / HTTP/1.1\r\nHost: {invalid}\r\n{UPGRADE}\r\n"), "400"));
    }
    check(&rows);
}

#[test]
fn field_syntax_of_section_5() {
    let field = |line: &str| health(&format!("Host: x\r\n{line}\r\n"));
    check(&[
        ("5", field("A:b"), "200"),
        ("5", field("A: \t b \t "), "200"),
        ("5", field("A:"), "200"),
        ("5", field("!#$%&'*+-.^_`|~9: b"), "200"),
        ("5", health("hOsT: x\r\n"), "200"),
        // 5.1: no whitespace before the colon.
        ("5.1", field("A : b"), "400"),
        ("5.1", field("A\t: b"), "400"),
        ("5.1", health("Host : x\r\n"), "400"),
        ("5.1", upgrade("GET / HTTP/1.1", "Transfer-Encoding : chunked\r\n"), "400"),
        // 5.2: a line that continues the previous one is refused.
        ("5.2", field("A: b\r\n c"), "400"),
        ("5.2", field("A: b\r\n\tc"), "400"),
        ("5.2", field("A: b\r\n \r\nB: c"), "400"),
        ("5.2", upgrade("GET / HTTP/1.1", "Content-Length: 0\r\n 5\r\n"), "400"),
        // RFC 9110 5.1 and 5.5: names are tokens; values have no control characters.
        ("5", field("no colon"), "400"),
        ("5", field(": b"), "400"),
        ("5", field("A B: c"), "400"),
        ("5", field("Ä: b"), "400"),
        ("5", field("(A): b"), "400"),
        ("5", field("A: b\0c"), "400"),
        ("5", field("A: b\x7fc"), "400"),
        ("5", field("A: b\x1bc"), "400"),
        ("5", field("A: \u{fc}\u{ff}"), "200"),
    ]);
}

#[test]
fn message_body_of_sections_6_and_7() {
    let framed = |lines: &str| health(&format!("Host: x\r\n{lines}\r\n"));
    let mut rows: Vec<Row> = Vec::new();
    // The same lines in a health check, whose body is ignored, and in a handshake, where the bytes
    // after the head are frames and must be no body.
    for (section, lines, plain, handshake) in [
        ("6.2", "Content-Length: 0", "200", "101"),
        ("6.2", "Content-Length: 000", "200", "101"),
        ("6.2", "Content-Length: 5", "200", "400"),
        ("6.2", "Content-Length: 00000000000000000000000000000000000000001", "200", "400"),
        ("6.2", "Content-Length: 99999999999999999999999999999999999999999", "200", "400"),
        // 6.3: an invalid length is refused; equal lengths are one.
        ("6.3", "Content-Length: 0, 0", "200", "101"),
        ("6.3", "Content-Length: 0\r\nContent-Length: 0", "200", "101"),
        ("6.3", "Content-Length: 5\r\nContent-Length: 5", "200", "400"),
        ("6.3", "Content-Length: 0\r\nContent-Length: 5", "400", "400"),
        ("6.3", "Content-Length: 0, 5", "400", "400"),
        ("6.3", "Content-Length: 0,", "400", "400"),
        ("6.3", "Content-Length: ", "400", "400"),
        ("6.3", "Content-Length: -0", "400", "400"),
        ("6.3", "Content-Length: +0", "400", "400"),
        ("6.3", "Content-Length: 0x0", "400", "400"),
        ("6.3", "Content-Length: 0 0", "400", "400"),
        // 6.1: chunked alone, in any case.
        ("6.1", "Transfer-Encoding: chunked", "200", "400"),
        ("6.1", "transfer-encoding: Chunked", "200", "400"),
        ("6.1", "Transfer-Encoding: gzip, chunked", "501", "501"),
        ("6.1", "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked", "501", "501"),
        ("6.1", "Transfer-Encoding: chunked, chunked", "501", "501"),
        ("6.3", "Transfer-Encoding: gzip", "400", "400"),
        ("6.3", "Transfer-Encoding: identity", "400", "400"),
        ("6.3", "Transfer-Encoding: chunked, gzip", "400", "400"),
        ("6.3", "Transfer-Encoding: xchunked", "400", "400"),
        ("6.3", "Transfer-Encoding: chunked;q=1", "400", "400"),
        ("6.3", "Transfer-Encoding:", "400", "400"),
        // 6.1 and 6.3: with both, two servers may see different ends of the request.
        ("6.3", "Transfer-Encoding: chunked\r\nContent-Length: 0", "400", "400"),
        ("6.3", "Content-Length: 5\r\nTransfer-Encoding: chunked", "400", "400"),
        // 7.4: TE only says what the client understands; RFC 9110 10.1.1: no body, no 100.
        ("7.4", "TE: trailers\r\nTrailer: x", "200", "101"),
        ("9.3", "Expect: 100-continue", "200", "101"),
    ] {
        rows.push((section, framed(lines), plain));
        rows.push((section, upgrade("GET / HTTP/1.1", &format!("{lines}\r\n")), handshake));
    }
    let old = "GET /healthz HTTP/1.0\r\n";
    rows.extend([
        ("6.1", format!("{old}Transfer-Encoding: chunked\r\n\r\n"), "400"),
        ("6.2", format!("{old}Content-Length: 0\r\n\r\n"), "200"),
        // 7: the body is not read, whatever it is.
        ("7", framed("Transfer-Encoding: chunked") + "zz\r\n\r\n", "200"),
        ("6.2", framed("Content-Length: 5") + "GET /", "200"),
    ]);
    check(&rows);
}

#[test]
fn connection_management_of_section_9() {
    let with = |line: &str| health(&format!("Host: x\r\n{line}\r\n"));
    check(&[
        // 9.3 and 9.6: each response ends the connection, whatever the client wants.
        ("9.3", with("Connection: keep-alive"), "200"),
        ("9.6", with("Connection: close"), "200"),
        ("9.3", with("Connection: close\r\nConnection: x, ,y"), "200"),
        ("9.3", "GET /healthz HTTP/1.0\r\nConnection: keep-alive\r\n\r\n".to_owned(), "200"),
        // RFC 9110 7.8: an upgrade to another protocol is ignored.
        ("9.7", with("Connection: Upgrade\r\nUpgrade: h2c"), "200"),
        ("9.7", upgrade("GET / HTTP/1.1", "Upgrade: h2c\r\n"), "101"),
        ("9.7", with("Connection: Upgrade\r\nUpgrade: TLS/1.0"), "200"),
        // 9: a head that is not complete.
        ("9.5", "GET /healthz HTTP/1.1\r\nHost: x\r\n".to_owned(), "wait"),
        ("9.5", "GET /healthz HTT".to_owned(), "wait"),
        ("9.5", "\r\n".to_owned(), "wait"),
    ]);
    // 9.3.2: a second request in the same bytes gets no response.
    let (_, answers) = answer(&health("Host: x\r\n").repeat(3), usize::MAX);
    assert_eq!(answers.matches("HTTP/1.1 ").count(), 1, "{answers}");
    assert!(answers.contains("\r\nConnection: close\r\n"), "{answers}");
    // 6.3: a response to HEAD has the length of that to GET, and 101 has no body.
    let (_, head) = answer("HEAD /healthz HTTP/1.1\r\nHost: x\r\n\r\n", usize::MAX);
    assert!(head.contains("Content-Length: 3\r\n") && head.ends_with("\r\n\r\n"), "{head}");
    let (_, open) = answer(&upgrade("GET / HTTP/1.1", ""), usize::MAX);
    let open = open.to_ascii_lowercase();
    assert!(!open.contains("content-length") && !open.contains("transfer-encoding"), "{open}");
}

#[test]
fn repeated_key_or_version_is_refused() {
    // RFC 6455 11.3.1 and 11.3.5.
    let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    check(&[
        ("RFC 6455 11.3.1", upgrade("GET / HTTP/1.1", key), "400"),
        ("RFC 6455 11.3.5", upgrade("GET / HTTP/1.1", "Sec-WebSocket-Version: 8\r\n"), "426"),
    ]);
}
