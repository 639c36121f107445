//! [pure] Metrics as text that Prometheus reads (exposition format 0.0.4).

use std::fmt::{Display, Write as _};

/// Peers that are named; the bytes of all others stand together under [`OTHERS`].
pub(super) const PEERS_NAMED: usize = 50;
/// A label for those who are not named.
pub(super) const OTHERS: &str = "others";

/// What a number is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// It only grows, from 0 at the start of the node.
    Counter,
    /// It is what it is now.
    Gauge,
    /// How many were how large: [`Exposition::histogram`].
    Histogram,
}

/// The text while it is made: families, each followed by its samples.
#[derive(Default)]
pub(super) struct Exposition {
    text: String,
    family: &'static str,
}

impl Exposition {
    /// Begins a family; its samples follow.
    pub(super) fn family(&mut self, name: &'static str, kind: Kind, help: &'static str) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        self.family = name;
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// A number of the family that was begun last.
    pub(super) fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) {
        let labels = labels.iter();
        let labels: Vec<String> = labels
            .map(|(name, value)| format!("{name}=\"{}\"", escaped(value)))
            .collect();
        let labels = match labels.is_empty() {
            true => String::new(),
            false => format!("{{{}}}", labels.join(",")),
        };
        let _ = writeln!(self.text, "{}{labels} {value}", self.family);
    }

    /// A family of one number without labels.
    pub(super) fn one(
        &mut self,
        (name, kind): (&'static str, Kind),
        help: &'static str,
        value: impl Display,
    ) {
        self.family(name, kind, help);
        self.sample(&[], value);
    }

    /// A family of one histogram, of times in milliseconds: how many are in each class up to its limit
    /// alone, and then those above all.
    pub(super) fn histogram(
        &mut self,
        name: &'static str,
        help: &'static str,
        (limits_ms, counts): (&[u64], &[u64]),
        sum_ms: u64,
    ) {
        self.family(name, Kind::Histogram, help);
        let limits = limits_ms.iter().map(|limit| thousandths(*limit));
        let limits = limits.chain(["+Inf".to_owned()]);
        let mut count = 0;
        for (limit, of_class) in limits.zip(counts) {
            count += of_class;
            let _ = writeln!(self.text, "{name}_bucket{{le=\"{limit}\"}} {count}");
        }
        let sum = thousandths(sum_ms);
        let _ = writeln!(self.text, "{name}_sum {sum}\n{name}_count {count}");
    }

    /// All of it.
    pub(super) fn finish(self) -> String {
        self.text
    }
}

/// Thousandths as a decimal fraction.
pub(super) fn thousandths(number: u64) -> String {
    format!("{}.{:03}", number / 1000, number % 1000)
}

fn escaped(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for c in value.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_come_with_help_type_and_samples() {
        let mut text = Exposition::default();
        text.family("aber_a_total", Kind::Counter, "Bytes of a.");
        text.sample(&[("class", "log"), ("peer", "n\"1\\\n")], 7);
        text.sample(&[("class", "content"), ("peer", "n2")], 0);
        text.one(("aber_b_ratio", Kind::Gauge), "B.", thousandths(1004));
        text.histogram("aber_c_seconds", "C.", (&[5, 100], &[2, 3, 1]), 1204);
        let wanted = "# HELP aber_a_total Bytes of a.\n# TYPE aber_a_total counter\n\
            aber_a_total{class=\"log\",peer=\"n\\\"1\\\\\\n\"} 7\n\
            aber_a_total{class=\"content\",peer=\"n2\"} 0\n\
            # HELP aber_b_ratio B.\n# TYPE aber_b_ratio gauge\naber_b_ratio 1.004\n\
            # HELP aber_c_seconds C.\n# TYPE aber_c_seconds histogram\n\
            aber_c_seconds_bucket{le=\"0.005\"} 2\naber_c_seconds_bucket{le=\"0.100\"} 5\n\
            aber_c_seconds_bucket{le=\"+Inf\"} 6\naber_c_seconds_sum 1.204\naber_c_seconds_count 6\n";
        assert_eq!(text.finish(), wanted);
        assert_eq!(
            [0, 999, 12_345].map(thousandths),
            ["0.000", "0.999", "12.345"]
        );
    }
}
