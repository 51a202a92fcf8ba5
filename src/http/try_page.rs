//! The page at `GET /`: one document, put together from parts that each have one job.
//!
//! The parts are pasted in this order when the server is built, so a part may use the styles and
//! the constants of those above it. There is no other tool in between: what stands in a part is
//! what the browser gets.

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

/// The page has everything inside; nothing else may be loaded, and nobody may frame it. What a
/// camera and a microphone record is no load, so calls need no word here.
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
            assert!(TRY_PAGE.contains(&text), "{} is left out", path.display());
            bytes += text.len();
        }
        assert_eq!(TRY_PAGE.len(), bytes, "no part stands twice");
        assert!(TRY_PAGE.starts_with("<!doctype html>") && TRY_PAGE.ends_with("</html>\n"));
        for tag in ["<style>", "</style>", "<script>", "</script>", "<body>", "</body>"] {
            assert_eq!(TRY_PAGE.matches(tag).count(), 1, "{tag}");
        }
    }
}
