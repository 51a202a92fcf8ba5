//! Replies whose JSON has other output around it, for each kind of request and over sockets.

use std::time::Duration;

use buddyline::hub::interface::{Ask, Failure, LookupResult, Target};
use buddyline::upstream::buddyboss::Reply;
use buddyline::upstream::health::Health;
use buddyline::upstream::url_style::UrlStyle;

use crate::support::driver::{
    PoolDriver, failed, list, listed, lookup, lookup_result, post, post_as, prove, proven, stored,
};
use crate::support::site::{Fault, Site};

const JSON: &str = "application/json; charset=UTF-8";
const HTML: &str = "text/html; charset=UTF-8";
const WARNING: &str = "<br />\n<b>Warning</b>:  foreach() argument must be of type array in \
                       <b>/srv/site/wp-content/plugins/x/x.php</b> on line <b>12</b><br />\n";
const NOTICE: &str = "\nPHP Notice:  Undefined index {x} in {closure} in /srv/x.php on line 3\n";

/// Content type, text before and text after the JSON.
const WRAPPINGS: [(&str, &str, &str); 12] = [
    (JSON, "\u{feff}", ""),
    (HTML, "\u{feff}", ""),
    (HTML, "\n\n", ""),
    (JSON, WARNING, ""),
    (HTML, WARNING, ""),
    (HTML, NOTICE, NOTICE),
    (JSON, "", WARNING),
    (JSON, "<!-- a -->", "\n<!-- cached in 0.2 s -->\n"),
    (JSON, "0", ""),
    (JSON, "", "0"),
    ("text/plain", "1\n", "\n"),
    (JSON, "{\"debug\":[1,2]}\n", ""),
];

#[test]
fn every_kind_of_reply_is_read_through() {
    for (kind, before, after) in WRAPPINGS {
        let site = Site::start();
        site.add_thread(1, &[7, 8]);
        site.add_thread(2, &[8, 9]);
        site.suspend(66);
        // The probe as well: the pool must find the URL style.
        site.always(Fault::Wrapped(kind, before, after));
        let mut driver = PoolDriver::at(&site.url());
        driver.await_url_style(UrlStyle::Pretty);
        assert_eq!(proven(driver.ask(prove("user-7"))).user, 7, "{before:?}");
        assert_eq!(listed(driver.ask(list(1, "user-7"))), [7, 8], "{before:?}");
        let message = stored(driver.ask(post(1, "hello")));
        assert_eq!((message.thread, message.sender.site_number()), (1, Some(7)), "{before:?}");
        assert!(message.message.is_some_and(|it| it.html.contains("hello")), "{before:?}");
        let found = lookup_result(driver.ask(lookup(Target::Thread(1), "hello", Duration::ZERO)));
        assert!(matches!(found, LookupResult::Match { .. }), "{found:?} {before:?}");
        // The status is 200 for these as well: the error object has the true one.
        assert_eq!(failed(driver.ask(prove("nobody"))), Failure::TokenRefused, "{before:?}");
        assert_eq!(failed(driver.ask(prove("expired"))), Failure::TokenExpired, "{before:?}");
        assert_eq!(failed(driver.ask(list(2, "user-7"))), Failure::NotParticipant, "{before:?}");
        let foreign = failed(driver.ask(post_as("user-7", Target::Thread(2), "hello")));
        assert_eq!(foreign, Failure::NotParticipant, "{before:?}");
        assert_eq!(site.stored(1).len() + site.stored(2).len(), 1, "{before:?}");
        assert!(driver.pool.is_available());
    }
}

#[test]
fn absent_thread_is_found_behind_a_byte_order_mark() {
    let site = Site::start();
    site.always(Fault::Wrapped(JSON, "\u{feff}", ""));
    let mut driver = PoolDriver::at(&site.url());
    let target = Target::NewThread { recipient: 9 };
    let found = lookup_result(driver.ask(lookup(target, "hello", Duration::ZERO)));
    assert_eq!(found, LookupResult::Absent);
    // An empty list beside another value proves nothing.
    site.always(Fault::Wrapped(JSON, "{\"debug\":1}\n", ""));
    failed(driver.ask(lookup(target, "hello", Duration::ZERO)));
}

#[test]
fn json_in_a_page_or_beside_an_equal_object_is_not_read() {
    let script = "<script type=\"application/ld+json\">";
    for (kind, before, after) in [
        (HTML, "<!DOCTYPE html><html><body>\n", "\n</body></html>"),
        (JSON, "<html>\n", ""),
        (HTML, script, "</script>"),
        (HTML, "<p>x</p>", script),
        (JSON, "Warning: x ", ""),
        (JSON, "<!--\n", "\n-->"),
        (JSON, "<b>Fatal error</b>: x in y<br />\n", ""),
        ("application/xml", "", ""),
        ("text/csv", "\u{feff}", ""),
    ] {
        let site = Site::start();
        site.add_thread(1, &[7, 8]);
        let mut driver = PoolDriver::ready(&site, |_| ());
        site.fail_when(move |_, r| {
            r.header("authorization").map(|_| Fault::Wrapped(kind, before, after))
        });
        let unavailable = Failure::SiteUnavailable { retry_after_s: None };
        assert_eq!(failed(driver.ask(prove("user-7"))), unavailable, "{before:?}");
        assert_eq!(failed(driver.ask(list(1, "user-7"))), unavailable, "{before:?}");
        assert_eq!(failed(driver.ask(post(1, "hello"))), Failure::Unusable, "{before:?}");
    }
    // The answer about another member, or another thread, beside the right one.
    for (ask, other) in [
        (prove("user-7"), "{\"id\":8}\n"),
        (post(1, "x"), "{\"id\":1,\"message_id\":5,\"current_user\":8,\"messages\":[]}\n"),
    ] {
        let site = Site::start();
        site.add_thread(1, &[7, 8]);
        let mut driver = PoolDriver::ready(&site, |_| ());
        site.always(Fault::Wrapped(JSON, other, ""));
        let is_post = matches!(ask, Ask::Post(_));
        let failure = failed(driver.ask(ask));
        assert_eq!(failure == Failure::Unusable, is_post, "{failure:?}");
    }
}

#[test]
fn page_cut_off_or_too_long_is_no_answer() {
    let reply = |kind: &str, body: Option<&str>, truncated| {
        let (content_type, body) = (Some(kind.to_owned()), body.map(|it| it.as_bytes().to_vec()));
        Reply { status: 200, content_type, body, truncated, ..Reply::default() }.read_through()
    };
    let page = reply("text/html", Some("<html>\n{\"id\":7}\n</html>"), false);
    assert!(!page.is_json() && page.body.is_none());
    assert_eq!(page.log_detail(), "status 200, not JSON");
    assert_eq!(Health::from_reply(&page, false), Health::Neutral);
    assert_eq!(reply("text/html", None, true).log_detail(), "status 200, not JSON");
    assert_eq!(reply(JSON, None, true).log_detail(), "status 200, JSON cut off");
    assert_eq!(
        reply(JSON, Some("{"), false).log_detail(),
        "status 200, JSON of an unexpected shape"
    );
    assert_eq!(reply(JSON, Some("{\"id\":7}"), false).noise(), None);
}
