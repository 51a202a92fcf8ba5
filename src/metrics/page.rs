//! Renders the Prometheus text exposition format, version 0.0.4.
//!
//! <https://prometheus.io/docs/instrumenting/exposition_formats/>
//!
//! No library: the Prometheus crates keep the metrics in registries with atomics or locks, while
//! the event loop needs plain integers and only this text format.

use std::fmt::{self, Display, Write};

use super::histogram::Buckets;

/// The `Content-Type` of the page.
pub(crate) const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The name and the value of a label.
pub(crate) type Label<'a> = (&'a str, &'a str);

/// The type of a metric family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Only increases.
    Counter,
    /// Increases and decreases.
    Gauge,
}

/// The unit of the values of a histogram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Written unchanged.
    Raw,
    /// Microseconds, written as seconds.
    Micros,
}

/// A page of metrics, written family by family.
#[derive(Debug, Default)]
pub(crate) struct Page {
    text: String,
}

/// Writes the samples of one family.
#[derive(Debug)]
pub(crate) struct Family<'a> {
    page: &'a mut Page,
    name: &'static str,
}

impl Page {
    /// Returns the text of the page.
    pub(crate) fn into_text(self) -> String {
        self.text
    }

    /// Begins a family of counters or gauges.
    pub(crate) fn family(&mut self, kind: Kind, name: &'static str, help: &str) -> Family<'_> {
        let word = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        self.head(name, word, help);
        Family { page: self, name }
    }

    /// Writes a family of one sample without labels.
    pub(crate) fn metric(
        &mut self,
        kind: Kind,
        name: &'static str,
        help: &str,
        value: impl Display,
    ) {
        self.family(kind, name, help).sample(&[], value);
    }

    /// Writes a family of histograms, one for each label.
    pub(crate) fn histograms<'a>(
        &mut self,
        name: &'static str,
        help: &str,
        unit: Unit,
        all: impl IntoIterator<Item = (Option<Label<'a>>, Buckets<'a>)>,
    ) {
        self.head(name, "histogram", help);
        for (label, buckets) in all {
            let labels: Vec<Label<'_>> = label.into_iter().collect();
            let mut count = 0;
            for (bound, more) in buckets.bounds.iter().zip(buckets.counts) {
                count += more;
                let bound = FormattedValue(*bound, unit).to_string();
                self.sample(name, "_bucket", &[&labels[..], &[("le", &bound)]].concat(), count);
            }
            count += buckets.overflow;
            self.sample(name, "_bucket", &[&labels[..], &[("le", "+Inf")]].concat(), count);
            self.sample(name, "_sum", &labels, FormattedValue(buckets.sum, unit));
            self.sample(name, "_count", &labels, count);
        }
    }

    fn head(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "# HELP {name} {}", Escaped(help, false));
        let _ = writeln!(self.text, "# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, ending: &str, labels: &[Label<'_>], value: impl Display) {
        self.text.push_str(name);
        self.text.push_str(ending);
        for (n, (label, value)) in labels.iter().enumerate() {
            let between = if n == 0 { '{' } else { ',' };
            let _ = write!(self.text, "{between}{label}=\"{}\"", Escaped(value, true));
        }
        let end = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.text, "{end} {value}");
    }
}

impl Family<'_> {
    /// Writes one sample.
    pub(crate) fn sample(&mut self, labels: &[Label<'_>], value: impl Display) -> &mut Self {
        self.page.sample(self.name, "", labels, value);
        self
    }

    /// Writes a sample for each value of one label.
    pub(crate) fn samples<'l>(
        &mut self,
        label: &str,
        all: impl IntoIterator<Item = (&'l str, u64)>,
    ) {
        for (label_value, value) in all {
            self.sample(&[(label, label_value)], value);
        }
    }
}

/// A time in microseconds, written in seconds without rounding.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seconds(pub u64);

impl Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, part) = (self.0 / 1_000_000, self.0 % 1_000_000);
        match part {
            0 => write!(f, "{whole}"),
            _ => f.write_str(format!("{whole}.{part:06}").trim_end_matches('0')),
        }
    }
}

struct FormattedValue(u64, Unit);

impl Display for FormattedValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.1 {
            Unit::Raw => self.0.fmt(f),
            Unit::Micros => Seconds(self.0).fmt(f),
        }
    }
}

/// A text with special characters escaped. The flag says whether quotes are escaped as well, as in
/// label values.
struct Escaped<'a>(&'a str, bool);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '\\' => f.write_str("\\\\")?,
                '\n' => f.write_str("\\n")?,
                '"' if self.1 => f.write_str("\\\"")?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::histogram::Histogram;
    use super::*;

    #[test]
    fn family_has_help_type_and_samples() {
        let mut page = Page::default();
        page.metric(Kind::Gauge, "a_bytes", "How many.", 7);
        let mut family = page.family(Kind::Counter, "b_total", "By kind.");
        family.sample(&[("kind", "x"), ("of", "y")], 1).sample(&[("kind", "z"), ("of", "y")], 2);
        let expected = "# HELP a_bytes How many.\n# TYPE a_bytes gauge\na_bytes 7\n\
                        # HELP b_total By kind.\n# TYPE b_total counter\n\
                        b_total{kind=\"x\",of=\"y\"} 1\nb_total{kind=\"z\",of=\"y\"} 2\n";
        assert_eq!(page.into_text(), expected);
    }

    #[test]
    fn special_characters_are_escaped() {
        let mut page = Page::default();
        page.family(Kind::Gauge, "a", "a \"b\"\\\nc").sample(&[("l", "a \"b\"\\\nc")], 1);
        let expected = "# HELP a a \"b\"\\\\\\nc\n# TYPE a gauge\na{l=\"a \\\"b\\\"\\\\\\nc\"} 1\n";
        assert_eq!(page.into_text(), expected);
    }

    #[test]
    fn histogram_buckets_are_cumulative() {
        let mut histogram = Histogram::new(&[1_000, 2_500_000]);
        for micros in [1, 1_000, 1_001, 2_500_001] {
            histogram.record(micros);
        }
        let mut page = Page::default();
        let all = [(Some(("k", "v")), histogram.buckets())];
        page.histograms("a_seconds", "Times.", Unit::Micros, all);
        page.histograms("a_size", "Sizes.", Unit::Raw, [(None, histogram.buckets())]);
        let expected = "# HELP a_seconds Times.\n# TYPE a_seconds histogram\n\
                        a_seconds_bucket{k=\"v\",le=\"0.001\"} 2\n\
                        a_seconds_bucket{k=\"v\",le=\"2.5\"} 3\n\
                        a_seconds_bucket{k=\"v\",le=\"+Inf\"} 4\n\
                        a_seconds_sum{k=\"v\"} 2.502003\n\
                        a_seconds_count{k=\"v\"} 4\n\
                        # HELP a_size Sizes.\n# TYPE a_size histogram\n\
                        a_size_bucket{le=\"1000\"} 2\na_size_bucket{le=\"2500000\"} 3\n\
                        a_size_bucket{le=\"+Inf\"} 4\na_size_sum 2502003\na_size_count 4\n";
        assert_eq!(page.into_text(), expected);
    }

    #[test]
    fn seconds_are_written_exactly() {
        for (micros, written) in [
            (0, "0"),
            (1, "0.000001"),
            (250_000, "0.25"),
            (3_000_000, "3"),
            (61_000_010, "61.00001"),
        ] {
            assert_eq!(Seconds(micros).to_string(), written);
        }
    }
}
