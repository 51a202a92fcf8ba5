//! Normalizes message texts, so that a sent text can be compared with the one the site stored
//! (CONTRACT 3.4).
//!
//! The result only tells a member's own messages apart. It must never be sent to a client: decoding
//! entities undoes the site's protection against scripts.

/// Removes what the site adds or removes: strips tags, decodes entities, drops control characters,
/// collapses and trims white space.
pub fn normalize_text(text: &str) -> String {
    let decoded = decode_entities(&strip_tags(text));
    let mut plain = String::with_capacity(decoded.len());
    for word in decoded.split(|c: char| c.is_whitespace() || c == '\0') {
        let word = word.trim_matches(|c: char| c.is_control());
        if word.is_empty() {
            continue;
        }
        if !plain.is_empty() {
            plain.push(' ');
        }
        plain.extend(word.chars().filter(|c| !c.is_control()));
    }
    plain
}

/// Drops everything from a `<` to the next `>`. A `<` without a `>` after it is kept.
fn strip_tags(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(open) = rest.find('<') {
        let Some(close) = rest[open..].find('>') else { break };
        plain.push_str(&rest[..open]);
        rest = &rest[open + close + 1..];
    }
    plain.push_str(rest);
    plain
}

/// Decodes numeric entities and the named ones that WordPress writes; keeps all others.
fn decode_entities(text: &str) -> String {
    // The length of "&#x10ffff;", the longest entity that is valid.
    const ENTITY_LEN_MAX: usize = 10;
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        plain.push_str(&rest[..at]);
        rest = &rest[at..];
        let end = rest.bytes().take(ENTITY_LEN_MAX).position(|b| b == b';');
        match end.and_then(|end| Some((end, decode_entity(&rest[1..end])?))) {
            Some((end, c)) => {
                plain.push(c);
                rest = &rest[end + 1..];
            }
            None => {
                plain.push('&');
                rest = &rest[1..];
            }
        }
    }
    plain.push_str(rest);
    plain
}

fn decode_entity(name: &str) -> Option<char> {
    if let Some(number) = name.strip_prefix('#') {
        let code = match number.strip_prefix(['x', 'X']) {
            Some(hex) => u32::from_str_radix(hex, 16),
            None => number.parse(),
        };
        return char::from_u32(code.ok()?);
    }
    Some(match name {
        "amp" => '&',
        "lt" => '<',
        "gt" => '>',
        "quot" => '"',
        "apos" => '\'',
        "nbsp" => '\u{a0}',
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalized_text_equals_the_sites_version() {
        // Pairs from the recorded replies: the text sent, and `messages[].message.raw`.
        for (sent, raw) in [
            ("hi 👋🏽 😀 ✓ 日本語", "hi &#x1f44b;&#x1f3fd; &#x1f600; ✓ 日本語"),
            ("a < b && c > d \"quoted\"", "a  d \"quoted\""),
            ("<script>alert(1)</script>after", "alert(1)after"),
            ("see https://example.org/page?x=1&y=2", "see https://example.org/page?x=1&amp;y=2"),
            ("nul \0 byte", "nul  byte"),
            ("   \n\t ", ""),
            ("1 < 2", "1 &lt; 2"),
            ("&nbsp;", "&nbsp;"),
            ("line one\r\nline two", "line one\nline two"),
        ] {
            assert_eq!(normalize_text(sent), normalize_text(raw), "{sent}");
        }
    }

    #[test]
    fn different_texts_stay_different() {
        for (one, other) in [("a", "b"), ("a b", "ab"), ("1 < 2", "1 > 2"), ("a &", "a &amp;amp;")]
        {
            assert_ne!(normalize_text(one), normalize_text(other));
        }
    }

    #[test]
    fn broken_entities_are_left_as_they_are() {
        for text in ["&", "&;", "&#;", "&#x;", "&#xd800;", "&bogus;", "&amp", "&😀;", "&#99999999;"]
        {
            assert_eq!(normalize_text(text), text);
        }
    }
}
