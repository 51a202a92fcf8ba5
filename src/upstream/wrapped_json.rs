//! Finds the site's JSON in a body that has other output around it: a byte order mark, messages of
//! PHP, HTML comments, a stray `0`.
//!
//! **The text around the JSON may repeat what a member has sent**, such as a forged token in a
//! message of PHP. So a value counts only if it stands on lines of its own; an HTML page is never
//! searched; and of several objects, exactly one must have the expected shape, with no error of
//! WordPress beside it. The search reads the body once, apart from a fixed number of failed starts.

use std::ops::Range;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::buddyboss::WpError;
use super::json;

/// The most values that are accepted in one body.
const VALUES_MAX: usize = 8;
/// The most positions at which a value may seem to begin and does not.
const FAILED_STARTS_MAX: usize = 16;
/// The longest stray word on the line of a value, in bytes.
const STRAY_BYTES_MAX: usize = 16;
/// The longest tag that may stand before a value on its line, in bytes.
const TAG_BYTES_MAX: usize = 16;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
const COMMENT: [&[u8]; 2] = [b"<!--", b"-->"];
/// Tags of an HTML page. In a page, JSON is not the answer to a request.
const PAGE_TAGS: [&[u8]; 8] =
    [b"<!doctype", b"<html", b"<head", b"<body", b"<title", b"<script", b"<style", b"<meta"];
/// The messages of PHP, as they begin. After the last two, the program has ended.
const PHP_MESSAGES: [&str; 6] =
    ["Warning", "Notice", "Deprecated", "Strict Standards", "Fatal error", "Parse error"];
const PHP_ENDS: [&[u8]; 2] = [b"Fatal error", b"Parse error"];

/// The values in a body, and what else it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrappedJson {
    /// Where the values are, in order.
    values: Vec<Range<usize>>,
    /// PHP has ended with an error, so that an object may be something else than the answer.
    has_fatal_error: bool,
    /// A sentence for the operator that shows the beginning of the other output, without parts that
    /// could be secret, and names the likely cause.
    pub cause: String,
}

/// Whether the beginning of a body is that of an HTML page.
pub(super) fn is_page(start: &[u8]) -> bool {
    let end = start.iter().position(|b| matches!(b, b'{' | b'[')).unwrap_or(start.len());
    (0..end).any(|at| is_page_tag(&start[at..]))
}

/// Finds JSON in a body; `None` if all of it is one JSON value, or if there is none that counts.
pub(super) fn find(body: &[u8]) -> Option<WrappedJson> {
    if is_json(body) {
        return None;
    }
    let values = find_values(body)?;
    let (first, last) = (values.first()?.start, values.last()?.end);
    let before = &body[..first];
    let (place, noise) =
        if is_blank(before) { ("after", &body[last..]) } else { ("before", before) };
    let has_fatal_error = gaps(body, &values).any(has_fatal_error);
    Some(WrappedJson { values, has_fatal_error, cause: describe(place, noise) })
}

/// The finding for a body that is JSON and not declared as such; `None` for any other body.
pub(super) fn find_undeclared(body: &[u8]) -> Option<WrappedJson> {
    if !is_json(body) {
        return find(body);
    }
    let start = body.iter().position(|b| matches!(b, b'{' | b'['))?;
    let end = body.trim_ascii_end().len();
    let cause = "its JSON is not declared as JSON: a PHP file prints something, such as a blank \
                 line before <?php or after ?>, before WordPress sends its headers";
    let (value, cause) = (start..end, cause.to_owned());
    body[..start].trim_ascii().is_empty().then_some(WrappedJson {
        values: Vec::from([value]),
        has_fatal_error: false,
        cause,
    })
}

impl WrappedJson {
    /// Parses the only object of this shape; `None` if there are none or several, or if there is an
    /// error of WordPress beside it.
    pub(super) fn object<'a, T: Deserialize<'a>>(&self, body: &'a [u8]) -> Option<T> {
        let has_other_error =
            || self.values.len() > 1 && self.of_shape::<WpError>(body).count() > 0;
        self.only(body).filter(|_| !self.has_fatal_error && !has_other_error())
    }

    /// Parses the only error object of WordPress.
    pub(super) fn error<'a, T: Deserialize<'a>>(&self, body: &'a [u8]) -> Option<T> {
        self.only(body)
    }

    /// The value, if it is the only one and PHP has not failed.
    pub(super) fn only_value<'a>(&self, body: &'a [u8]) -> Option<&'a [u8]> {
        match &self.values[..] {
            [value] if !self.has_fatal_error => body.get(value.clone()),
            _ => None,
        }
    }

    fn only<'a, T: Deserialize<'a>>(&self, body: &'a [u8]) -> Option<T> {
        let mut found = self.of_shape(body);
        found.next().filter(|_| found.next().is_none())
    }

    fn of_shape<'a, T: Deserialize<'a>>(&self, body: &'a [u8]) -> impl Iterator<Item = T> {
        self.values.iter().filter_map(|value| json::parse_object(body.get(value.clone())?))
    }
}

// ---- search

/// The ranges of all values that stand on lines of their own; `None` if the body is an HTML page,
/// has a value that is cut off or malformed, or too many.
fn find_values(body: &[u8]) -> Option<Vec<Range<usize>>> {
    let mut values: Vec<Range<usize>> = Vec::new();
    let (mut at, mut failed_starts) = (0, 0);
    while let Some(found) = body[at..].iter().position(|b| matches!(b, b'<' | b'{' | b'[')) {
        at += found;
        let (before, rest) = (&body[..at], &body[at..]);
        if rest[0] == b'<' {
            if is_page_tag(rest) {
                return None;
            }
            // A comment without an end goes to the end of the body.
            let comment_bytes = || find_bytes(rest, COMMENT[1]).map_or(rest.len(), |end| end + 3);
            at += if rest.starts_with(COMMENT[0]) { comment_bytes() } else { 1 };
            continue;
        }
        let follows_value =
            values.last().is_some_and(|last| before.trim_ascii_end().len() == last.end);
        if !(follows_value || begins_line(before)) || !may_begin_value(rest) {
            at += 1;
            continue;
        }
        match value_bytes(rest) {
            Ok(length) => {
                if ends_line(&rest[length..]) {
                    values.push(at..at + length);
                }
                at += length;
            }
            // The parts of a broken value are no answers either.
            Err(is_cut_off) if is_cut_off || begins_like_json(rest) => return None,
            Err(_) => {
                (at, failed_starts) = (at + 1, failed_starts + 1);
            }
        }
        if values.len() > VALUES_MAX || failed_starts > FAILED_STARTS_MAX {
            return None;
        }
    }
    Some(values)
}

fn is_json(body: &[u8]) -> bool {
    serde_json::from_slice::<IgnoredAny>(body).is_ok()
}

/// The length of the value at the beginning; an error if there is none: whether it is cut off.
fn value_bytes(text: &[u8]) -> Result<usize, bool> {
    let mut values = serde_json::Deserializer::from_slice(text).into_iter::<IgnoredAny>();
    match values.next() {
        Some(Ok(_)) => Ok(values.byte_offset()),
        Some(Err(error)) => Err(error.is_eof()),
        None => Err(false),
    }
}

/// Whether the second token fits to a list or an object. Most messages such as `[name] => x` do not
/// need to be parsed to see that they are no values.
fn may_begin_value(text: &[u8]) -> bool {
    let Some((first, rest)) = text.split_first() else { return false };
    let rest = rest.trim_ascii_start();
    match rest.first() {
        Some(b'"') | None => true,
        Some(b'}') => *first == b'{',
        Some(b'{' | b'[' | b']' | b'-' | b'0'..=b'9') => *first == b'[',
        Some(_) => {
            let words: [&[u8]; 3] = [b"true", b"false", b"null"];
            *first == b'[' && words.iter().any(|word| rest.starts_with(word))
        }
    }
}

/// Whether a text that is not valid JSON begins as an object or as a list of objects, lists or
/// texts does.
fn begins_like_json(text: &[u8]) -> bool {
    let Some((first, rest)) = text.split_first() else { return false };
    match rest.trim_ascii_start().first() {
        Some(b'"') => true,
        Some(b'{' | b'[') => *first == b'[',
        _ => false,
    }
}

/// Whether a value may begin after this text: at the beginning of a line, apart from a byte order
/// mark, a tag such as `<br />`, a comment or a short stray word.
fn begins_line(before: &[u8]) -> bool {
    let before = trim_blanks_end(before);
    let stray = before.iter().rev().take(STRAY_BYTES_MAX).take_while(|b| is_stray(**b)).count();
    is_line_start(before) || is_line_start(trim_blanks_end(&before[..before.len() - stray]))
}

fn is_line_start(before: &[u8]) -> bool {
    match before.last() {
        None | Some(b'\n' | b'\r') => true,
        Some(b'>') => {
            let tail = &before[before.len().saturating_sub(TAG_BYTES_MAX)..];
            let tag = tail.iter().rposition(|b| *b == b'<').map(|open| &tail[open + 1..]);
            before.ends_with(COMMENT[1])
                || tag.is_some_and(|tag| {
                    tag.starts_with(b"/") || tag.to_ascii_lowercase().starts_with(b"br")
                })
        }
        Some(_) => before.ends_with(BYTE_ORDER_MARK),
    }
}

/// Whether a value may end before this text: at the end of a line, before a tag or before another
/// value, apart from a short stray word.
fn ends_line(after: &[u8]) -> bool {
    let after = trim_blanks_start(after);
    let stray = after.iter().take(STRAY_BYTES_MAX).take_while(|b| is_stray(**b)).count();
    let ends = |text: &[u8]| {
        matches!(text.first(), None | Some(b'\n' | b'\r' | b'<' | b'{' | b'['))
            || text.starts_with(BYTE_ORDER_MARK)
    };
    ends(after) || ends(trim_blanks_start(&after[stray..]))
}

/// A byte of a word such as `0` or `null`. A message of PHP has blanks and a colon as well.
fn is_stray(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.')
}

fn trim_blanks_start(text: &[u8]) -> &[u8] {
    &text[text.iter().take_while(|b| matches!(b, b' ' | b'\t')).count()..]
}

fn trim_blanks_end(text: &[u8]) -> &[u8] {
    let blanks = text.iter().rev().take_while(|b| matches!(b, b' ' | b'\t')).count();
    &text[..text.len() - blanks]
}

fn is_page_tag(text: &[u8]) -> bool {
    text.first() == Some(&b'<')
        && PAGE_TAGS
            .iter()
            .any(|tag| text.get(..tag.len()).is_some_and(|start| start.eq_ignore_ascii_case(tag)))
}

fn find_bytes(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|window| window == wanted)
}

/// The parts of the body that belong to no value.
fn gaps<'a>(body: &'a [u8], values: &'a [Range<usize>]) -> impl Iterator<Item = &'a [u8]> {
    let starts = std::iter::once(0).chain(values.iter().map(|value| value.end));
    let ends = values.iter().map(|value| value.start).chain(std::iter::once(body.len()));
    starts.zip(ends).map(|(start, end)| &body[start..end])
}

fn has_fatal_error(noise: &[u8]) -> bool {
    PHP_ENDS.iter().any(|message| find_bytes(noise, message).is_some())
}

fn is_blank(text: &[u8]) -> bool {
    text.trim_ascii().is_empty()
}

// ---- description

/// The longest beginning of other output that is shown, in characters.
const SHOWN_CHARS_MAX: usize = 48;
/// A longer word may be a part of a token.
const WORD_CHARS_MAX: usize = 11;
/// How much of the output is searched for a message of PHP, in bytes.
const SEARCHED_BYTES_MAX: usize = 2 << 10;
/// The longest path of a PHP file that is shown, in characters.
const PATH_CHARS_MAX: usize = 160;

/// Describes the other output and its likely cause.
fn describe(place: &str, noise: &[u8]) -> String {
    if noise.starts_with(BYTE_ORDER_MARK) {
        return format!(
            "its JSON has a byte order mark (EF BB BF) {place} it: a PHP file, such as \
             wp-config.php or one of a plugin, is saved with one; save it as UTF-8 without BOM"
        );
    }
    let noise = noise.trim_ascii();
    let text = String::from_utf8_lossy(&noise[..noise.len().min(SEARCHED_BYTES_MAX)]);
    if let Some(message) = php_message(&text) {
        return format!(
            "its JSON has a message of PHP {place} it, \"{message}\": correct what it reports, and \
             set display_errors to Off in PHP, or WP_DEBUG_DISPLAY to false in wp-config.php"
        );
    }
    if noise.starts_with(COMMENT[0]) {
        let shown = clean(&text);
        return format!(
            "its JSON has an HTML comment {place} it, \"{shown}\": exempt the paths under \
             /wp-json/ in the cache or the plugin that writes it"
        );
    }
    // It could be anything, such as a member's text: only the first word is shown.
    let mut words = text.split_whitespace();
    let mut shown = clean(words.next().unwrap_or_default());
    if words.next().is_some() {
        shown.push_str(" …");
    }
    format!(
        "its JSON has other output {place} it, \"{shown}\": a plugin, the theme or a PHP file \
         prints it"
    )
}

/// The kind and the place of a message of PHP, such as `Warning … in /srv/x.php on line 3`. Its
/// text is left out: it may repeat what a member has sent.
fn php_message(text: &str) -> Option<String> {
    let text = text.replace("<b>", "").replace("</b>", "");
    let found = PHP_MESSAGES.map(|kind| Some((text.find(&format!("{kind}:"))?, kind)));
    let (at, kind) = found.into_iter().flatten().min()?;
    let line = text[at..].lines().next().unwrap_or_default();
    let place = line.rsplit_once(" in ").and_then(|(_, place)| {
        let (path, line) = place.split_once(" on line ")?;
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '_' | '-');
        let digits: String = line.chars().take_while(char::is_ascii_digit).take(9).collect();
        let fits = path.len() <= PATH_CHARS_MAX && path.ends_with(".php");
        (fits && path.chars().all(is_plain)).then(|| format!(" in {path} on line {digits}"))
    });
    Some(format!("{kind}: …{}", place.unwrap_or_default()))
}

/// The beginning of a text for a log line: printable ASCII up to the first quote, without words
/// that are long or have letters and digits.
fn clean(text: &str) -> String {
    let text: String = text.chars().take(SHOWN_CHARS_MAX).collect();
    let mut shown = String::new();
    for part in text.split_inclusive(|c: char| !c.is_ascii_alphanumeric()) {
        let word = part.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
        let is_plain = word.bytes().all(|b| b.is_ascii_digit())
            || word.bytes().all(|b| b.is_ascii_alphabetic());
        shown.push_str(if is_plain && word.len() <= WORD_CHARS_MAX { word } else { "…" });
        for c in part[word.len()..].chars() {
            match c {
                // A value begins here.
                '"' | '\'' | '=' => {
                    shown.push('…');
                    return shown;
                }
                ' '..='~' => shown.push(c),
                _ if c.is_whitespace() => shown.push(' '),
                _ => shown.push('?'),
            }
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[derive(Deserialize)]
    struct Me {
        id: u64,
    }

    /// The member that a body names.
    fn member(body: &str) -> Option<u64> {
        let found = find(body.as_bytes())?;
        found.object::<Me>(body.as_bytes()).map(|me| me.id)
    }

    const ME: &str = r#"{"id":7,"name":"<script>{\"id\":9}</script>"}"#;
    const ERROR: &str = r#"{"code":"jwt_auth_invalid_token","message":"x"}"#;
    const WARNING: &str =
        "<br />\n<b>Warning</b>:  Undefined $x in <b>/srv/x.php</b> on line <b>12</b><br />\n";
    const NOTICE: &str = "\nNotice: Undefined index: a in /srv/x.php on line 3\n";

    #[test]
    fn output_around_the_object_is_read_through() {
        for (before, after) in [
            ("\u{feff}", ""),
            ("\u{feff}\u{feff}", ""),
            ("\n\u{feff}\n", "\u{feff}"),
            (WARNING, ""),
            (NOTICE, ""),
            ("\nPHP Notice:  in {closure}() of [x]\n{main}\n[0] => 5\n", ""),
            ("", WARNING),
            ("", NOTICE),
            (&WARNING.repeat(50), &NOTICE.repeat(50)),
            ("<!-- {\"id\":1} -->", "<!-- cached {\"id\":2} "),
            ("<!-- a -->\n<!-- b -->", ""),
            ("0", ""),
            ("", "0"),
            ("0 ", " 1\n"),
            ("Array\n(\n    [0] => 1\n)\n", ""),
            ("int(1)\n", "\nbool(true)"),
            (&"    [name] => x\n    {closure}\n".repeat(99), ""),
            (")]}',\n", ""),
            ("{}\n", "\n[]"),
            ("{\"debug\":true}\n", ""),
            ("", "{\"debug\":true}"),
            ("[{\"id\":1}]\n", ""),
        ] {
            assert_eq!(member(&format!("{before}{ME}{after}")), Some(7), "{before}…{after}");
        }
    }

    #[test]
    fn text_around_the_object_cannot_name_a_member() {
        for body in [
            // Two members, or a member and an error.
            format!("{ME}{ME}"),
            format!("{{\"id\":1}}\n{ME}"),
            format!("{{\"id\":1}}\n{ERROR}"),
            format!("{ERROR}\n{ME}"),
            format!("{ME}{WARNING}{ERROR}"),
            // A message of PHP that repeats a forged token.
            "Warning: {\"id\":1} in /srv/x.php on line 3\n".to_owned(),
            "Warning: bad token {\"id\":1}\n".to_owned(),
            "<b>Warning</b>: <b>{\"id\":1}</b> in <b>/srv/x.php</b><br />\n".to_owned(),
            "bad:{\"id\":1}\n".to_owned(),
            "{\"id\":1} in /x.php on line 3\n".to_owned(),
            // PHP has ended before the answer.
            format!("{ME}\n<b>Fatal error</b>: Uncaught"),
            format!("Fatal error: {ME}"),
            format!("PHP Parse error:  x in y\n{ME}"),
            // HTML pages.
            format!("<!DOCTYPE html>\n{ME}\n"),
            format!("<script type=\"application/ld+json\">\n{ME}\n</script>"),
            format!("{ME}</body><SCRIPT>x</SCRIPT>"),
            format!("x <Title>y</title>\n{ME}"),
            // Parts of something larger.
            format!("[\n{ME}\n]"),
            format!("{{\"users\":[\n{ME}\n"),
            format!("{{\"users\": oops\n{ME}\n}}"),
            format!("[{{\"a\":oops}},\n{ME}\n]"),
            format!("callback({ME});"),
            format!("<!-- {ME}"),
            format!("<!--\n{ME}\n-->"),
            format!("{}{ME}", "{\"debug\":1}\n".repeat(VALUES_MAX)),
            format!("{}{ME}", "[1 x]\n".repeat(FAILED_STARTS_MAX + 1)),
            // Cut off, or not an object.
            ME[..20].to_owned(),
            format!("\u{feff}{}", &ME[..20]),
            "\u{feff}[7]".to_owned(),
            "\u{feff}7".to_owned(),
            "\u{feff}{\"id\":7,\"id\":8}".to_owned(),
            "\u{feff}{\"id\":7.0}".to_owned(),
            "\u{feff}".to_owned(),
            String::new(),
        ] {
            assert_eq!(member(&body), None, "{body}");
        }
        assert_eq!(find(ME.as_bytes()), None, "this needs no search");
    }

    #[test]
    fn error_is_found_beside_other_objects() {
        let code = |body: &str| find(body.as_bytes())?.error::<WpError>(body.as_bytes());
        for body in [
            format!("\u{feff}{ERROR}"),
            format!("{{\"id\":1}}\n{ERROR}"),
            format!("<b>Fatal error</b>: Uncaught in <b>/x</b><br />\n{ERROR}"),
        ] {
            assert_eq!(code(&body).map(|it| it.code).as_deref(), Some("jwt_auth_invalid_token"));
        }
        assert!(code(&format!("{ERROR}{ERROR}")).is_none());
    }

    #[test]
    fn undeclared_json_is_found_outside_of_pages() {
        let found = |body: &str| {
            let found = find_undeclared(body.as_bytes())?;
            found.object::<Me>(body.as_bytes()).map(|me| me.id)
        };
        assert_eq!(found(ME), Some(7));
        assert_eq!(found(&format!("\n\n{ME}\n")), Some(7));
        assert_eq!(found(&format!("\u{feff}{ME}")), Some(7));
        assert_eq!(found(&format!("<html>\n{ME}")), None);
        assert_eq!(found("\"{\""), None);
        assert!(is_page(b"\n<!DOCTYPE html>") && is_page(b"<HTML lang=x>") && is_page(b"x<head>"));
        assert!(!is_page(b"{\"a\":\"<html>\"}") && !is_page(b"") && !is_page(b"<br />"));
    }

    #[test]
    fn cause_names_the_place_and_hides_the_rest() {
        let cause = |noise: &str| find(format!("{noise}{ME}").as_bytes()).unwrap().cause;
        let bom = cause("\u{feff}");
        assert!(bom.contains("byte order mark (EF BB BF) before") && bom.contains("wp-config.php"));
        let warning = cause(WARNING);
        assert!(warning.contains("\"Warning: … in /srv/x.php on line 12\""), "{warning}");
        assert!(warning.contains("display_errors"), "{warning}");
        let comment = cause("<!-- Cached by Big Cache 7 -->");
        assert!(comment.contains("\"<!-- Cached by Big Cache 7 -->\""), "{comment}");
        assert!(cause("0").contains("other output before it, \"0\""));
        let after = find(format!("{ME}\n0").as_bytes()).unwrap().cause;
        assert!(after.contains("other output after it, \"0\""), "{after}");
        for noise in [
            "\nWarning: the token s3cret.s3cret in s3cret on line s3cret\n",
            "\nWarning: x in /srv/s3cret token.php on line 3\n",
            "<!-- key=\"s3cret\" -->",
            "<!-- 's3cret' -->",
            "<!-- eyJhbGciOiJIUzI1NiJ9s3cret -->",
            "0\nsecret words\n",
            "s3cret.x\n",
            "\u{1b}[31m\n\r\u{202e}\u{7f}\n",
        ] {
            let cause = cause(noise);
            assert!(!cause.contains("s3cret") && !cause.contains("words"), "{cause}");
            assert!(cause.chars().all(|c| c == '…' || matches!(c, ' '..='~')), "{cause:?}");
        }
    }

    #[test]
    fn hostile_bodies_are_searched_in_bounded_time() {
        let size = 1 << 20;
        for piece in [
            "{",
            "[",
            "[1,\n",
            "[1]\n",
            "{}\n",
            "{\"a\":\n",
            "<!--",
            "<",
            "{x}\n",
            "\"",
            "[\"a\n",
            "\u{feff}",
            " ",
            "0",
            "{\"a\":1} x\n",
            "\n[0] => 5",
        ] {
            let body = piece.repeat(size / piece.len());
            for body in [body.clone(), body + "\nx"] {
                let begun = Instant::now();
                let found = find(body.as_bytes());
                assert!(begun.elapsed() < Duration::from_secs(10), "{piece:?}");
                assert!(found.is_none_or(|found| found.values.len() <= VALUES_MAX));
            }
        }
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig {
            failure_persistence: None,
            ..proptest::prelude::ProptestConfig::default()
        })]

        #[test]
        fn found_values_are_valid_and_in_order(
            parts in proptest::collection::vec(
                proptest::prop_oneof![
                    proptest::sample::select(vec![
                        ME, ERROR, WARNING, NOTICE, "\u{feff}", "\n", "0", "[]", "{}", "{", "[",
                        "<!--", "-->", "{\"id\":1}", "\"", "<html>", "Fatal error", " ", "</b>",
                    ]).prop_map(str::to_owned),
                    "[ -~\\n]{0,6}",
                ],
                0..12,
            ),
        ) {
            let body = parts.concat();
            let bytes = body.as_bytes();
            if let Some(found) = find(bytes) {
                let mut end = 0;
                for value in &found.values {
                    assert!(end <= value.start && value.end <= bytes.len());
                    assert!(is_json(&bytes[value.clone()]));
                    end = value.end;
                }
                // The only object with a member is the only one that is believed.
                if let Some(Me { id }) = found.object(bytes) {
                    let members = found.of_shape::<Me>(bytes).map(|me| me.id);
                    assert_eq!(members.collect::<Vec<_>>(), [id]);
                    // In a comment, a tag is only text.
                    let is_page = body.contains("<html>") && !body.contains("<!--");
                    assert!(!body.contains("Fatal error") && !is_page, "{body}");
                }
                assert!(found.cause.chars().all(|c| c == '…' || matches!(c, ' '..='~')));
            }
        }
    }

    use proptest::strategy::Strategy;
}
