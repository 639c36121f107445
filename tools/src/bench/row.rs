//! [pure] Rows: values of several rounds, their median, and what they are divided by.
//!
//! One JSON object a row: `bench fs what unit n median min max load`, of what is divided `vs vs_median
//! ratio ratio_min ratio_max`, for a goal `goal floor aim met`, costs, and where it was made. `met` is
//! null where the machine forbids a verdict.

use super::goal::{self, Bounds};
use serde_json::{Value, json};

/// Values of the rounds, in their order.
#[derive(Clone, Default, Debug)]
pub struct Values(Vec<f64>);

impl Values {
    /// Adds a round.
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// Adds the rounds of another.
    pub fn extend(&mut self, other: &Self) {
        self.0.extend_from_slice(&other.0);
    }

    /// All together.
    #[must_use]
    pub fn sum(&self) -> f64 {
        self.0.iter().sum()
    }

    /// How many rounds there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing was measured.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A share of the sorted values: 0.5 is the median, 0 the least, 1 the greatest.
    #[must_use]
    pub fn at(&self, share: f64) -> Option<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().checked_sub(1)?;
        #[expect(clippy::cast_precision_loss, reason = "rounds are few")]
        let place = share.clamp(0.0, 1.0) * last as f64;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between 0 and the last index"
        )]
        let (low, high) = (place.floor() as usize, place.ceil() as usize);
        let (low, high) = (sorted.get(low)?, sorted.get(high)?);
        // Of two infinite ones there is no difference.
        let is_between = place.fract() > 0.0 && low < high;
        Some(
            low + if is_between {
                (high - low) * place.fract()
            } else {
                0.0
            },
        )
    }

    fn divided_by(&self, other: &Self) -> Self {
        let pairs = self.0.iter().zip(&other.0);
        Self(
            pairs
                .filter(|(_, by)| **by > 0.0)
                .map(|(value, by)| value / by)
                .collect(),
        )
    }

    /// Whether the median holds against a bound, if there is a median.
    #[must_use]
    pub fn holds(&self, test: impl Fn(f64) -> bool) -> Option<bool> {
        self.at(0.5).map(test)
    }
}

/// What a row is divided by.
#[derive(Clone, Default, Debug)]
pub struct Divisor {
    /// The name of its row.
    pub what: String,
    /// Its values, round by round; none: not installed here.
    pub values: Values,
    /// Its CPU.
    pub cpu_us_per_op: Values,
}

/// One figure.
#[derive(Clone, Default, Debug)]
pub struct Row {
    /// What was measured.
    pub what: String,
    /// In what.
    pub unit: &'static str,
    /// The goal it decides, if any.
    pub goal: Option<u8>,
    /// The bounds of this part of its goal, where the goal has several parts.
    pub bounds: Option<Bounds>,
    /// Its values.
    pub values: Values,
    /// What it is divided by, if anything.
    pub vs: Option<Divisor>,
    /// CPU of all nodes for one operation.
    pub cpu_us_per_op: Values,
    /// Greatest resident memory of any daemon.
    pub rss_mib_max: Values,
    /// How many nodes.
    pub nodes: Option<usize>,
    /// How many clients.
    pub clients: Option<usize>,
    /// Further conditions of the aim; `None`: not known.
    pub conditions: Vec<Option<bool>>,
    /// What happened over time, for pictures.
    pub series: Option<Value>,
}

/// What is the same for all rows of a run.
#[derive(Clone, Default, Debug)]
pub struct Facts {
    /// The file system.
    pub fs: String,
    /// Least and greatest load average.
    pub load: [f64; 2],
    /// Whether any verdict may be given.
    pub may_gate: bool,
    /// Whether one may be given on wall time.
    pub may_gate_wall: bool,
    /// Release of the binary.
    pub version: String,
    /// Commit it was built from.
    pub commit: String,
    /// Cores, model, memory and kernel.
    pub machine: String,
    /// UTC.
    pub when: String,
}

impl Row {
    fn bounds(&self) -> Option<Bounds> {
        self.bounds.or_else(|| goal::bounds(self.goal?))
    }

    fn ratios(&self) -> Option<Values> {
        let vs = self.vs.as_ref()?;
        Some(self.values.divided_by(&vs.values)).filter(|ratios| !ratios.is_empty())
    }

    /// The verdict, where one may be given.
    #[must_use]
    pub fn met(&self, facts: &Facts) -> Option<&'static str> {
        let bounds = self.bounds()?;
        if !facts.may_gate || !(bounds.is_load_proof || facts.may_gate_wall) {
            return None;
        }
        let figure = match &self.vs {
            Some(_) => self.ratios()?.at(0.5)?,
            None if bounds.more_is_better => return None,
            None => self.values.at(0.5)?,
        };
        Some(bounds.judge(figure, &self.conditions).word())
    }

    /// The row as a line of JSON.
    #[must_use]
    pub fn json(&self, facts: &Facts) -> String {
        let at =
            |values: &Values, share| values.at(share).map_or(Value::Null, |v| json!(digits(v)));
        let mut fields: Vec<(&str, Value)> = vec![
            ("bench", json!("aber")),
            ("fs", json!(facts.fs)),
            ("what", json!(self.what)),
            ("unit", json!(self.unit)),
            ("n", json!(self.values.len())),
            ("median", at(&self.values, 0.5)),
            ("min", at(&self.values, 0.0)),
            ("max", at(&self.values, 1.0)),
            (
                "load",
                json!(facts.load.map(|load| (load * 10.0).round() / 10.0)),
            ),
        ];
        let gate = self.goal.zip(self.bounds());
        let vs = self.vs.as_ref();
        if vs.is_some() || gate.is_some() {
            let ratios = self.ratios().unwrap_or_default();
            fields.extend([
                ("vs", vs.map_or(Value::Null, |vs| json!(vs.what))),
                (
                    "vs_median",
                    vs.map_or(Value::Null, |vs| at(&vs.values, 0.5)),
                ),
                ("ratio", at(&ratios, 0.5)),
                ("ratio_min", at(&ratios, 0.0)),
                ("ratio_max", at(&ratios, 1.0)),
            ]);
        }
        if let Some((goal, bounds)) = gate {
            fields.extend([
                ("goal", json!(goal)),
                ("floor", json!(bounds.floor)),
                ("aim", json!(bounds.aim)),
                ("met", json!(self.met(facts))),
            ]);
        }
        if !self.cpu_us_per_op.is_empty() {
            fields.push(("cpu_us_per_op", at(&self.cpu_us_per_op, 0.5)));
        }
        if let Some(vs) = self.vs.as_ref().filter(|vs| !vs.cpu_us_per_op.is_empty()) {
            fields.push(("vs_cpu_us_per_op", at(&vs.cpu_us_per_op, 0.5)));
        }
        if !self.rss_mib_max.is_empty() {
            fields.push(("rss_mib_max", at(&self.rss_mib_max, 1.0)));
        }
        if let Some(series) = &self.series {
            fields.push(("series", series.clone()));
        }
        let counts = [("nodes", self.nodes), ("clients", self.clients)];
        fields.extend(
            counts
                .into_iter()
                .filter_map(|(key, count)| Some((key, json!(count?)))),
        );
        fields.extend([
            ("version", json!(facts.version)),
            ("commit", json!(facts.commit)),
            ("machine", json!(facts.machine)),
            ("when", json!(facts.when)),
        ]);
        let text: Vec<String> = fields
            .iter()
            .map(|(key, value)| format!("{}: {value}", json!(key)))
            .collect();
        format!("{{{}}}", text.join(", "))
    }

    /// The row as one of a table of markdown; nothing for one that is drawn.
    #[must_use]
    pub fn markdown(&self, facts: &Facts) -> String {
        if self.series.is_some() {
            return String::new();
        }
        let shown = |values: &Values, share| {
            values
                .at(share)
                .map_or("-".into(), |v| digits(v).to_string())
        };
        let mut cells = vec![
            self.what.clone(),
            format!(
                "{} {} ({}–{}, n={})",
                shown(&self.values, 0.5),
                self.unit,
                shown(&self.values, 0.0),
                shown(&self.values, 1.0),
                self.values.len()
            ),
        ];
        let vs = self.vs.as_ref();
        cells.push(vs.map_or("".into(), |vs| shown(&vs.values, 0.5)));
        cells.push(self.ratios().map_or("".into(), |ratios| {
            format!(
                "{} ({}–{})",
                shown(&ratios, 0.5),
                shown(&ratios, 0.0),
                shown(&ratios, 1.0)
            )
        }));
        let goal = self.bounds();
        cells.push(goal.map_or("".into(), |bounds| {
            let sign = if bounds.more_is_better { "≥" } else { "≤" };
            format!("{sign} {}", bounds.floor)
        }));
        cells.push(match (self.met(facts), goal) {
            (Some(met), _) => met.to_owned(),
            (None, Some(_)) => "not judged".to_owned(),
            (None, None) => String::new(),
        });
        format!("| {} |\n", cells.join(" | "))
    }

    /// The row for people.
    #[must_use]
    pub fn table_line(&self, facts: &Facts) -> String {
        let shown = |values: &Values, share| {
            values
                .at(share)
                .map_or("-".into(), |v| digits(v).to_string())
        };
        let mut line = format!(
            "{:58} {:>10} {:8} {:>8} - {:<8} n={}",
            self.what,
            shown(&self.values, 0.5),
            self.unit,
            shown(&self.values, 0.0),
            shown(&self.values, 1.0),
            self.values.len()
        );
        if !self.cpu_us_per_op.is_empty() {
            line += &format!("  {} us CPU/op", shown(&self.cpu_us_per_op, 0.5));
        }
        if !self.rss_mib_max.is_empty() {
            line += &format!("  {} MiB", shown(&self.rss_mib_max, 1.0));
        }
        let gate = self.goal.zip(self.bounds());
        if let Some(vs) = &self.vs {
            let ratios = self.ratios().unwrap_or_default();
            line += &format!(
                "\n    ÷ {} = {} x ({} - {})",
                vs.what,
                shown(&ratios, 0.5),
                shown(&ratios, 0.0),
                shown(&ratios, 1.0)
            );
            if !vs.cpu_us_per_op.is_empty() {
                line += &format!(", its CPU {} us/op", shown(&vs.cpu_us_per_op, 0.5));
            }
        } else if gate.is_some() {
            line += "\n    absolute";
        }
        if let Some((goal, bounds)) = gate {
            let met = self.met(facts).unwrap_or("not judged");
            line += &format!(
                "; goal {goal}: floor {}, aim {}: {met}",
                bounds.floor, bounds.aim
            );
        }
        line
    }
}

/// Finished rows that were not printed yet.
#[derive(Default, Debug)]
pub struct Report(Vec<Row>);

impl Report {
    /// Adds one.
    pub fn add(&mut self, row: Row) {
        self.0.push(row);
    }

    /// Takes all.
    pub fn take(&mut self) -> Vec<Row> {
        std::mem::take(&mut self.0)
    }
}

/// Four significant digits.
#[must_use]
pub fn digits(value: f64) -> f64 {
    format!("{value:.3e}").parse().unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(list: &[f64]) -> Values {
        Values(list.to_vec())
    }

    fn facts(may_gate: bool, may_gate_wall: bool) -> Facts {
        Facts {
            may_gate,
            may_gate_wall,
            ..Facts::default()
        }
    }

    fn row(goal: u8, own: &[f64], vs: Option<&[f64]>) -> Row {
        Row {
            what: "x".to_owned(),
            unit: "op/s",
            goal: Some(goal),
            values: values(own),
            vs: vs.map(|list| Divisor {
                what: "y".to_owned(),
                values: values(list),
                ..Divisor::default()
            }),
            ..Row::default()
        }
    }

    #[test]
    fn the_median_lies_between_the_two_in_the_middle() {
        assert_eq!(values(&[3.0, 1.0, 2.0]).at(0.5), Some(2.0));
        assert_eq!(values(&[4.0, 1.0, 2.0, 3.0]).at(0.5), Some(2.5));
        assert_eq!(values(&[4.0, 1.0]).at(1.0), Some(4.0));
        assert_eq!(values(&[]).at(0.5), None);
        let never = f64::INFINITY;
        assert_eq!(values(&[1.0, never, never]).at(0.5), Some(never));
        assert_eq!(values(&[never, never]).at(1.0), Some(never));
    }

    #[test]
    fn ratios_are_of_one_round_each() {
        let row = row(6, &[10.0, 30.0, 20.0], Some(&[10.0, 10.0, 40.0]));
        let ratios = row.ratios().unwrap();
        assert_eq!(
            (ratios.at(0.0), ratios.at(0.5), ratios.at(1.0)),
            (Some(0.5), Some(1.0), Some(3.0))
        );
        assert_eq!(row.met(&facts(true, true)), Some("aim"));
    }

    #[test]
    fn what_the_machine_spoils_is_not_judged() {
        let wall = row(6, &[10.0], Some(&[10.0]));
        assert_eq!(wall.met(&facts(false, true)), None);
        assert_eq!(wall.met(&facts(true, false)), None);
        let memory = row(19, &[100.0], None);
        assert_eq!(memory.met(&facts(true, false)), Some("floor"));
        assert_eq!(memory.met(&facts(false, false)), None);
    }

    #[test]
    fn a_missing_peer_leaves_ratio_and_verdict_null() {
        let row = row(1, &[10.0], Some(&[]));
        let line: Value = serde_json::from_str(&row.json(&facts(true, true))).unwrap();
        assert_eq!(line["vs"], "y");
        for key in ["vs_median", "ratio", "met"] {
            assert!(line[key].is_null(), "{key}");
        }
        assert!(row.table_line(&facts(true, true)).contains("not judged"));
    }

    #[test]
    fn what_is_divided_says_so_without_a_goal_too() {
        let row = Row {
            goal: None,
            ..row(1, &[30.0], Some(&[10.0]))
        };
        let line: Value = serde_json::from_str(&row.json(&facts(true, true))).unwrap();
        assert_eq!((&line["vs"], &line["ratio"]), (&json!("y"), &json!(3.0)));
        assert!(line.get("goal").is_none());
        let shown = row.table_line(&facts(true, true));
        assert!(shown.ends_with("\n    ÷ y = 3 x (3 - 3)"), "{shown}");
    }

    #[test]
    fn a_part_of_a_goal_has_bounds_of_its_own() {
        let part = |own: &[f64]| Row {
            bounds: Some(goal::limit(1.3, true)),
            ..row(17, own, Some(&[10.0, 10.0, 10.0]))
        };
        let facts = facts(true, false);
        assert_eq!(part(&[12.0, 13.0, 14.0]).met(&facts), Some("aim"));
        assert_eq!(part(&[12.0, 13.1, 14.0]).met(&facts), Some("no"));
        // A round that nobody finished is slower than any.
        assert_eq!(part(&[12.0, f64::INFINITY]).met(&facts), Some("no"));
        assert_eq!(row(17, &[1.0], None).met(&facts), None);
        assert_eq!(
            part(&[12.0, 13.0, 14.0]).markdown(&facts),
            "| x | 13 op/s (12–14, n=3) | 10 | 1.3 (1.2–1.4) | ≤ 1.3 | aim |\n"
        );
    }

    #[test]
    fn what_is_drawn_is_no_row_of_a_table() {
        let drawn = Row {
            series: Some(json!({"who": "x"})),
            ..Row::default()
        };
        assert_eq!(drawn.markdown(&facts(true, true)), "");
        let line: Value = serde_json::from_str(&drawn.json(&facts(true, true))).unwrap();
        assert_eq!(line["series"]["who"], "x");
    }

    #[test]
    fn a_row_has_the_keys_that_summaries_read() {
        let line: Value =
            serde_json::from_str(&row(18, &[1.23456], None).json(&facts(true, true))).unwrap();
        for key in [
            "bench", "fs", "what", "unit", "n", "median", "min", "max", "load", "goal", "met",
        ] {
            assert!(line.get(key).is_some(), "{key}");
        }
        assert_eq!(
            (line["median"].clone(), line["met"].clone()),
            (json!(1.235), json!("aim"))
        );
    }
}
