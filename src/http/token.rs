//! Finds the credential (authentication token) of a request (`PROTOCOL.md` 3).
//!
//! A token may be in one of three places, because no client can use all of them: the
//! `Authorization` header, which browsers cannot set; an entry beside `buddyline` among the
//! subprotocols; `token` in the query, which ends up in the logs of proxies. The first place that
//! has a token counts, except that `Basic` in the header counts last: a browser adds it to every
//! request if the web server in front asks for a password. An empty token counts as none; an
//! invalid one becomes an error that the client receives once the WebSocket is open.

use percent_encoding::percent_decode;
use zeroize::Zeroizing;

use super::handshake::SUBPROTOCOL;
use super::headers::{has_header_token, header_tokens, header_values};
use crate::protocol::ClientError;
use crate::protocol::credential::{Credential, Scheme};

type ParsedCredential = Result<Credential, ClientError>;

/// The credential of a request, or what is wrong with it.
pub(super) fn credential(request: &httparse::Request<'_, '_>) -> Option<ParsedCredential> {
    from_authorization(request, Scheme::Bearer)
        .or_else(|| from_subprotocols(request))
        .or_else(|| from_query(request.path.unwrap_or_default()))
        .or_else(|| from_authorization(request, Scheme::Basic))
}

/// The first credential of this scheme in the header.
fn from_authorization(
    request: &httparse::Request<'_, '_>,
    scheme: Scheme,
) -> Option<ParsedCredential> {
    header_values(request, "authorization").find_map(|value| {
        // Bytes that are not UTF-8 are treated like other characters that no token may have.
        let text = String::from_utf8_lossy(value);
        let text = text.trim();
        (Credential::scheme_of(text) == Some(scheme))
            .then(|| Credential::from_authorization(text))
            .flatten()
    })
}

/// The first entry other than `buddyline` of a subprotocol list that contains `buddyline`. Other
/// lists are not meant for this server.
fn from_subprotocols(request: &httparse::Request<'_, '_>) -> Option<ParsedCredential> {
    const NAME: &str = "sec-websocket-protocol";
    let is_token =
        |entry: &&[u8]| !entry.is_empty() && !entry.eq_ignore_ascii_case(SUBPROTOCOL.as_bytes());
    let token = header_tokens(request, NAME).find(is_token)?;
    has_header_token(request, NAME, SUBPROTOCOL).then(|| parse_token(token))
}

/// The first non-empty `token` parameter of the query.
fn from_query(path: &str) -> Option<ParsedCredential> {
    let (_, query) = path.split_once('?')?;
    let mut values = query.split('&').filter_map(|pair| pair.strip_prefix("token="));
    values.find(|value| !value.is_empty()).map(decode_query_value)
}

/// Decodes percent encoding (the URL standard, section 1.3).
///
/// HTML forms encode a space as `+`, but most code that builds a URL leaves the `+` of base64 as it
/// is. Both are accepted: the only space in a credential follows the word `Basic`, and no base64
/// character can be at that position.
fn decode_query_value(value: &str) -> ParsedCredential {
    const WORD: usize = "Basic".len();
    let bytes = value.as_bytes();
    let has_form_space =
        bytes.get(WORD) == Some(&b'+') && bytes[..WORD].eq_ignore_ascii_case(b"basic");
    if !has_form_space && !bytes.contains(&b'%') {
        return parse_token(bytes);
    }
    // Allocated at its largest size, so that growing leaves no copy of the token behind.
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
