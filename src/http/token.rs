//! What a handshake brings along to prove who opens it (`PROTOCOL.md` 3).
//!
//! Three places, since no client can use them all: the `Authorization` header, which browsers
//! cannot set; an entry beside `buddyline` among the subprotocols; `token` in the query, which ends
//! up in the logs of proxies. The first that has one counts. What is empty is none; what cannot be
//! read is an error for the client to hear once it can be told.

use percent_encoding::percent_decode;
use zeroize::Zeroizing;

use super::handshake::SUBPROTOCOL;
use super::headers::{has_header_token, header_tokens, header_values};
use crate::protocol::ClientError;
use crate::protocol::credential::Credential;

type ParsedCredential = Result<Credential, ClientError>;

/// The credential of a request, or what is wrong with it.
pub(super) fn credential(request: &httparse::Request<'_, '_>) -> Option<ParsedCredential> {
    from_authorization(request)
        .or_else(|| from_subprotocols(request))
        .or_else(|| from_query(request.path.unwrap_or_default()))
}

fn from_authorization(request: &httparse::Request<'_, '_>) -> Option<ParsedCredential> {
    header_values(request, "authorization").find_map(|value| match std::str::from_utf8(value) {
        Ok(text) => Credential::from_authorization(text.trim()),
        // Decided as for any other characters that do not belong there.
        Err(_) => Credential::from_authorization(String::from_utf8_lossy(value).trim()),
    })
}

/// The first entry that is not `buddyline` of a list that has it, on however many lines: another
/// list is none of ours.
fn from_subprotocols(request: &httparse::Request<'_, '_>) -> Option<ParsedCredential> {
    const NAME: &str = "sec-websocket-protocol";
    let is_token =
        |entry: &&[u8]| !entry.is_empty() && !entry.eq_ignore_ascii_case(SUBPROTOCOL.as_bytes());
    let token = header_tokens(request, NAME).find(is_token)?;
    has_header_token(request, NAME, SUBPROTOCOL).then(|| parse_token(token))
}

/// The first `token` with a value.
fn from_query(path: &str) -> Option<ParsedCredential> {
    let (_, query) = path.split_once('?')?;
    let mut values = query.split('&').filter_map(|pair| pair.strip_prefix("token="));
    values.find(|value| !value.is_empty()).map(decode_query_value)
}

/// Undoes percent encoding (the URL standard, section 1.3).
///
/// Forms write a space as `+`, but most who put a URL together leave the `+` of base64 as it is.
/// Both are understood: a space has one place in a credential, after the word `Basic`, and base64
/// does not begin there.
fn decode_query_value(value: &str) -> ParsedCredential {
    const WORD: usize = "Basic".len();
    let bytes = value.as_bytes();
    let has_form_space =
        bytes.get(WORD) == Some(&b'+') && bytes[..WORD].eq_ignore_ascii_case(b"basic");
    if !has_form_space && !bytes.contains(&b'%') {
        return parse_token(bytes);
    }
    // As large as it can get, so that growing leaves no copy behind.
    let mut decoded = Zeroizing::new(Vec::with_capacity(bytes.len()));
    decoded.extend(percent_decode(bytes));
    if has_form_space {
        decoded[WORD] = b' ';
    }
    parse_token(&decoded)
}

fn parse_token(token: &[u8]) -> ParsedCredential {
    match std::str::from_utf8(token) {
        Ok(text) => Credential::parse(text),
        Err(_) => Credential::parse(&String::from_utf8_lossy(token)),
    }
}
