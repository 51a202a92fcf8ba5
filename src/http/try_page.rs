//! The try-it page at `GET /`: one HTML document, concatenated from its parts at build time.
//!
//! A part may use the styles and constants of the parts above it. No bundler is involved: the
//! browser gets each part exactly as it is written.

/// The whole page.
pub(super) const TRY_PAGE: &str = concat!(
    include_str!("try_page/head.html"),
    include_str!("try_page/look.css"),
    include_str!("try_page/call.css"),
    include_str!("try_page/body.html"),
    include_str!("try_page/state.js"),
    include_str!("try_page/connection.js"),
    include_str!("try_page/frames.js"),
    include_str!("try_page/actions.js"),
    include_str!("try_page/drawing.js"),
    include_str!("try_page/media.js"),
    include_str!("try_page/link.js"),
    include_str!("try_page/call.js"),
    include_str!("try_page/call_view.js"),
    include_str!("try_page/start.js"),
    include_str!("try_page/tail.html"),
);

/// The page loads nothing else, and no other page may frame it. Camera and microphone need no entry
/// in the policy, because media streams are not loaded.
pub(super) const TRY_PAGE_HEADERS: &str = "Content-Type: text/html; charset=utf-8\r\n\
    Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'; \
    script-src 'unsafe-inline'; connect-src 'self' ws: wss:; img-src data:; base-uri 'none'; \
    form-action 'none'; frame-ancestors 'none'\r\n\
    X-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\n";

#[cfg(test)]
mod tests {
    use super::TRY_PAGE;
    use std::fs;
    use std::path::Path;

    #[test]
    fn try_page_includes_every_part_in_one_document() {
        let parts = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/http/try_page");
        let mut bytes = 0;
        for part in fs::read_dir(parts).unwrap() {
            let path = part.unwrap().path();
            let text = fs::read_to_string(&path).unwrap();
            assert!(TRY_PAGE.contains(&text), "{} is missing from the page", path.display());
            bytes += text.len();
        }
        assert_eq!(TRY_PAGE.len(), bytes, "each part is included once");
        assert!(TRY_PAGE.starts_with("<!doctype html>") && TRY_PAGE.ends_with("</html>\n"));
        for tag in ["<style>", "</style>", "<script>", "</script>", "<body>", "</body>"] {
            assert_eq!(TRY_PAGE.matches(tag).count(), 1, "{tag}");
        }
    }
}
