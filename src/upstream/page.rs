//! Describes a page that came where JSON was expected: its media type and its title, for the log.

/// How much of a page is read to find its title.
pub(super) const TITLE_WITHIN_BYTES: u64 = 16 << 10;

/// The longest part of a title that is shown, in characters.
const TITLE_MAX: usize = 80;

/// The longest part of a media type that is shown, in characters.
const MEDIA_TYPE_MAX: usize = 60;

/// The title of an HTML page, in one line of printable characters; `None` if it has none.
pub(super) fn title(html: &[u8]) -> Option<String> {
    let after = |text: &'_ [u8], tag: &[u8]| -> Option<usize> {
        let at = text.windows(tag.len()).position(|part| part.eq_ignore_ascii_case(tag))?;
        Some(at + tag.len())
    };
    let rest = &html[after(html, b"<title")?..];
    let rest = &rest[after(rest, b">")?..];
    let end = after(rest, b"</title").map_or(rest.len(), |at| at - b"</title".len());
    let text = String::from_utf8_lossy(&rest[..end]);
    let words: Vec<&str> = text.split(|c: char| c.is_whitespace() || c.is_control()).collect();
    let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
    let title: String = words.join(" ").chars().take(TITLE_MAX).collect();
    (!title.is_empty()).then_some(title)
}

/// A page as the log shows it, such as `text/html, title "Coming soon"`.
pub(super) fn describe(content_type: Option<&str>, title: Option<&str>) -> String {
    let media = content_type.unwrap_or_default().split(';').next().unwrap_or_default();
    let media = media.trim().chars().filter(char::is_ascii_graphic);
    let media: String = media.take(MEDIA_TYPE_MAX).collect();
    let media = if media.is_empty() { "no content type".to_owned() } else { media };
    match title {
        Some(title) => format!("{media}, title {title:?}"),
        None => media,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn title_is_one_clean_bounded_line() {
        let of = |html: &str| title(html.as_bytes());
        assert_eq!(
            of("<html><TITLE lang=en>\n Just a\tmoment... </Title>x").unwrap(),
            "Just a moment..."
        );
        assert_eq!(of("<title>Cut off at the lim").unwrap(), "Cut off at the lim");
        assert_eq!(of("<title>a\u{1b}[31mred\u{0}</title>").unwrap(), "a [31mred");
        assert_eq!(of(&format!("<title>{}</title>", "é".repeat(500))).unwrap().chars().count(), 80);
        for none in ["", "<p>no</p>", "<title></title>", "<title> \n </title>", "<title", "title>x"]
        {
            assert_eq!(of(none), None, "{none}");
        }
        assert_eq!(title(b"<title>\xff\xfe</title>").unwrap(), "\u{fffd}\u{fffd}");
    }

    #[test]
    fn description_quotes_the_title() {
        let html = Some("text/html; charset=UTF-8");
        assert_eq!(describe(html, Some("a \"b\"")), r#"text/html, title "a \"b\"""#);
        assert_eq!(describe(html, None), "text/html");
        assert_eq!(describe(None, None), "no content type");
        assert_eq!(describe(Some("text/\u{7}html"), None), "text/html");
    }
}
