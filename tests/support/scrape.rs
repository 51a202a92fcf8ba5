//! Scrapes the metrics page of a server and parses it as a monitoring system does.

#![allow(dead_code)]

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::server::{Server, ask};

/// The values by sample; the key is name and labels as on the page.
pub type Samples = BTreeMap<String, f64>;

/// The description of a metric family.
#[derive(Debug)]
pub struct Family {
    pub help: String,
    pub kind: String,
}

/// A parsed page. The parser is strict: a line that violates the format is a panic.
#[derive(Debug)]
pub struct MetricsPage {
    pub text: String,
    pub families: BTreeMap<String, Family>,
    pub samples: Samples,
}

/// The address of a server's metrics listener, from its log.
pub fn metrics_address(server: &Server) -> SocketAddr {
    let log = server.log();
    let mut places = log.iter().filter_map(|line| line.split_once("metrics on http://"));
    let (_, place) = places.next().expect("the log names the metrics address");
    place.trim_end_matches("/metrics").parse().expect("an address")
}

/// Starts a server with a metrics listener.
pub fn start(arguments: &[&str]) -> Server {
    Server::start(&[&["--metrics-listen", "127.0.0.1:0"], arguments].concat())
}

/// Requests a path from the metrics listener.
pub fn get(server: &Server, path: &str) -> String {
    ask(
        metrics_address(server),
        format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes(),
    )
}

/// Requests and parses the metrics page.
pub fn scrape(server: &Server) -> MetricsPage {
    let answer = get(server, "/metrics");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains("Content-Type: text/plain; version=0.0.4; charset=utf-8"), "{head}");
    assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{head}");
    MetricsPage::read(body)
}

impl MetricsPage {
    fn read(text: &str) -> MetricsPage {
        let (mut families, mut samples) = (BTreeMap::new(), Samples::new());
        let mut current = String::new();
        let mut help = None;
        assert!(text.ends_with('\n'));
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                assert!(help.is_none(), "no TYPE line before: {line}");
                let (name, words) = rest.split_once(' ').expect("a name and words");
                help = Some((name.to_owned(), words.to_owned()));
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect("a name and a type");
                let (of, help) = help.take().expect("the help comes first");
                assert_eq!(of, name);
                let family = Family { help, kind: kind.to_owned() };
                assert!(families.insert(of, family).is_none(), "twice: {name}");
                current = name.to_owned();
            } else {
                let (sample, value) = line.rsplit_once(' ').expect("a name and a value");
                let name = sample.split('{').next().expect("a name");
                let rest = name.strip_prefix(&*current).expect("a sample of this family");
                let endings: &[&str] = match &*families[&current].kind {
                    "histogram" => &["_bucket", "_sum", "_count"],
                    _ => &[""],
                };
                assert!(endings.contains(&rest), "{line}");
                let value = value.parse().expect("a number");
                assert!(samples.insert(sample.to_owned(), value).is_none(), "twice: {sample}");
            }
        }
        MetricsPage { text: text.to_owned(), families, samples }
    }

    /// The value of a sample, which must exist.
    pub fn of(&self, sample: &str) -> f64 {
        *self.samples.get(sample).unwrap_or_else(|| panic!("no {sample} in {}", self.text))
    }

    /// The samples of a family that are not zero, by the value of their one label.
    pub fn nonzero(&self, family: &str) -> Vec<(&str, f64)> {
        let samples = self.samples.iter().filter(|(_, value)| **value != 0.0);
        let own = samples.filter_map(|(sample, value)| {
            let labels = sample.strip_prefix(family)?.strip_prefix('{')?;
            Some((labels.split('"').nth(1)?, *value))
        });
        own.collect()
    }
}
