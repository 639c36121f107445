//! [pure] Completion over time as a picture: for each size of cluster a panel, for each program a
//! line.
//!
//! A thick line steps up as mirrors come to hold the whole file; a thin one is what the average
//! receiver's line had carried, where that was looked at.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;

const PANEL_WIDTH: f64 = 430.0;
const PANEL_HEIGHT: f64 = 300.0;
const LEFT: f64 = 52.0;
const TOP: f64 = 44.0;
const GAP: f64 = 60.0;
const LINE: f64 = 17.0;
/// A picture ends at so many bounds; what takes longer is told in words.
const END_BOUNDS: f64 = 3.0;
const COLOURS: [&str; 6] = [
    "#1b6ca8", "#c8553d", "#5a8f3d", "#8a5a9e", "#b58a1b", "#555555",
];

/// What one program did on one size of cluster.
#[derive(Clone, PartialEq, Default, Debug)]
pub(super) struct Series {
    /// The program.
    pub who: String,
    /// Nodes.
    pub nodes: u64,
    /// Seconds that nobody can go below.
    pub bound_s: f64,
    /// When each mirror held the whole file, node by node; `None`: never.
    pub held_s: Vec<Option<f64>>,
    /// Seconds, and then what each receiver's line had carried by then, in shares of the file.
    pub got: Vec<Vec<f64>>,
}

impl Series {
    /// For a row.
    #[must_use]
    pub(super) fn json(&self) -> Value {
        json!({
            "who": self.who, "nodes": self.nodes, "bound_s": self.bound_s,
            "held_s": self.held_s, "got": self.got,
        })
    }

    /// From a row, if it has any.
    #[must_use]
    pub(super) fn read(row: &Value) -> Option<Self> {
        let series = row.get("series")?;
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let numbers =
            |value: &Value| -> Vec<f64> { list(value).iter().filter_map(Value::as_f64).collect() };
        Some(Self {
            who: series.get("who")?.as_str()?.to_owned(),
            nodes: series.get("nodes")?.as_u64()?,
            bound_s: series.get("bound_s")?.as_f64()?,
            held_s: list(series.get("held_s")?)
                .iter()
                .map(Value::as_f64)
                .collect(),
            got: list(series.get("got")?).iter().map(numbers).collect(),
        })
    }

    /// When mirrors came to hold it, the first one first.
    fn steps_s(&self) -> Vec<f64> {
        let mut steps: Vec<f64> = self.held_s.iter().flatten().copied().collect();
        steps.sort_by(f64::total_cmp);
        steps
    }

    /// Seconds, and the average receiver's share by then.
    fn shares(&self) -> impl Iterator<Item = [f64; 2]> {
        self.got.iter().filter_map(|look| {
            let (seconds, shares) = look.split_first()?;
            let count = f64::from(u32::try_from(shares.len()).ok()?).max(1.0);
            Some([*seconds, shares.iter().sum::<f64>() / count])
        })
    }

    fn has_all(&self) -> bool {
        self.steps_s().len() as u64 >= self.nodes
    }

    fn words(&self) -> String {
        let steps = self.steps_s();
        let last = steps.last().copied().unwrap_or(0.0);
        if self.has_all() {
            let bounds = last / self.bound_s;
            return format!("{}: all after {last:.1} s, {bounds:.2} × bound", self.who);
        }
        format!("{}: {} of {} complete", self.who, steps.len(), self.nodes)
    }
}

/// The newest series of each program and size of cluster, smaller clusters first.
#[must_use]
pub(super) fn newest(all: Vec<Series>) -> Vec<Series> {
    let mut found: Vec<Series> = Vec::new();
    for series in all {
        let same = |old: &Series| (old.nodes, &old.who) == (series.nodes, &series.who);
        match found.iter_mut().find(|old| same(old)) {
            Some(old) => *old = series,
            None => found.push(series),
        }
    }
    found.sort_by_key(|series| series.nodes);
    found
}

/// The whole picture.
#[must_use]
pub(super) fn draw(all: &[Series], title: &str) -> String {
    let mut panels: BTreeMap<u64, Vec<&Series>> = BTreeMap::new();
    let mut names: Vec<&str> = Vec::new();
    for series in all {
        panels.entry(series.nodes).or_default().push(series);
        if !names.contains(&series.who.as_str()) {
            names.push(&series.who);
        }
    }
    let count = |number: usize| f64::from(u32::try_from(number).unwrap_or(0));
    let rows = panels.values().map(Vec::len).max().unwrap_or(0);
    let width = LEFT + count(panels.len()) * (PANEL_WIDTH + GAP);
    let height = TOP + PANEL_HEIGHT + 50.0 + LINE * count(rows + 1);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" \
         font-family=\"sans-serif\" font-size=\"12\" fill=\"#222\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"{LEFT}\" y=\"18\" font-size=\"13\">{}</text>\n",
        escape(title)
    );
    for (place, (nodes, series)) in panels.iter().enumerate() {
        let panel = Panel {
            left: LEFT + count(place) * (PANEL_WIDTH + GAP),
            bound_s: series.first().map_or(1.0, |series| series.bound_s),
            nodes: *nodes,
        };
        panel.axes(&mut svg);
        for (line, series) in series.iter().enumerate() {
            let colour = names.iter().position(|name| *name == series.who);
            let colour = COLOURS.get(colour.unwrap_or(0) % COLOURS.len());
            panel.series(&mut svg, series, colour.unwrap_or(&"#222"), count(line));
        }
    }
    svg + &format!(
        "<text x=\"{LEFT}\" y=\"{:.1}\" fill=\"#666\">thick: mirrors that hold the whole file; thin: \
         what the average line had carried</text>\n</svg>\n",
        height - 10.0
    )
}

/// One size of cluster.
#[derive(Clone, Copy, Debug)]
struct Panel {
    left: f64,
    bound_s: f64,
    nodes: u64,
}

impl Panel {
    fn x(&self, seconds: f64) -> f64 {
        let share = seconds / (END_BOUNDS * self.bound_s);
        self.left + share.clamp(0.0, 1.0) * PANEL_WIDTH
    }

    fn y(share: f64) -> f64 {
        TOP + (1.0 - share.clamp(0.0, 1.0)) * PANEL_HEIGHT
    }

    fn axes(&self, svg: &mut String) {
        let (left, right) = (self.left, self.left + PANEL_WIDTH);
        let mut line = |text: String| {
            svg.push_str(&text);
            svg.push('\n');
        };
        line(format!(
            "<text x=\"{left:.1}\" y=\"{:.1}\">{} nodes, bound {:.1} s</text>",
            TOP - 8.0,
            self.nodes,
            self.bound_s
        ));
        for percent in [0, 25, 50, 75, 100] {
            let y = Self::y(f64::from(percent) / 100.0);
            line(format!(
                "<path d=\"M{left:.1} {y:.1}H{right:.1}\" stroke=\"#ddd\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{percent} %</text>",
                left - 6.0,
                y + 4.0
            ));
        }
        let end_s = END_BOUNDS * self.bound_s;
        let step = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0];
        let step = step.into_iter().find(|step| end_s / step <= 8.0);
        let step = step.unwrap_or(end_s / 8.0);
        for tick in 0..=8_u32 {
            let seconds = f64::from(tick) * step;
            if seconds <= end_s {
                let (x, y) = (self.x(seconds), Self::y(0.0));
                line(format!(
                    "<path d=\"M{x:.1} {y:.1}v5\" stroke=\"#888\"/><text x=\"{x:.1}\" y=\"{:.1}\" \
                     text-anchor=\"middle\">{seconds} s</text>",
                    y + 18.0
                ));
            }
        }
        let x = self.x(self.bound_s);
        line(format!(
            "<path d=\"M{x:.1} {TOP:.1}V{:.1}\" stroke=\"#888\" stroke-dasharray=\"4 3\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" fill=\"#888\">bound</text>",
            Self::y(0.0),
            x + 4.0,
            TOP + 12.0
        ));
    }

    fn series(&self, svg: &mut String, series: &Series, colour: &str, line: f64) {
        let nodes = f64::from(u32::try_from(self.nodes).unwrap_or(1)).max(1.0);
        let mut steps = format!("M{:.1} {:.1}", self.x(0.0), Self::y(0.0));
        let (mut held, mut is_cut) = (0.0, false);
        for seconds in &series.steps_s() {
            is_cut |= *seconds > END_BOUNDS * self.bound_s;
            if !is_cut {
                held += 1.0;
                let _ = write!(
                    steps,
                    "H{:.1}V{:.1}",
                    self.x(*seconds),
                    Self::y(held / nodes)
                );
            }
        }
        if is_cut || !series.has_all() {
            let _ = write!(steps, "H{:.1}", self.left + PANEL_WIDTH);
        }
        let _ = writeln!(
            svg,
            "<path d=\"{steps}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2.5\"/>"
        );
        let shown = series
            .shares()
            .filter(|[seconds, _]| *seconds <= END_BOUNDS * self.bound_s);
        let points = shown.map(|[s, share]| format!("{:.1},{:.1}", self.x(s), Self::y(share)));
        let points: Vec<String> = points.collect();
        if !points.is_empty() {
            let _ = writeln!(
                svg,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\"/>",
                points.join(" ")
            );
        }
        let y = TOP + PANEL_HEIGHT + 40.0 + LINE * line;
        let _ = writeln!(
            svg,
            "<path d=\"M{:.1} {:.1}h18\" stroke=\"{colour}\" stroke-width=\"2.5\"/>\
             <text x=\"{:.1}\" y=\"{y:.1}\">{}</text>",
            self.left,
            y - 4.0,
            self.left + 24.0,
            escape(&series.words())
        );
    }
}

fn escape(text: &str) -> String {
    let text = text.replace('&', "&amp;");
    text.replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(who: &str, nodes: u64, held_s: &[f64]) -> Series {
        Series {
            who: who.to_owned(),
            nodes,
            bound_s: 10.0,
            // The last node is the first to have it.
            held_s: held_s.iter().rev().copied().map(Some).collect(),
            got: vec![vec![0.0, 0.0, 0.0], vec![5.0, 0.4, 0.6]],
        }
    }

    #[test]
    fn a_series_survives_its_row() {
        let mut series = series("aber", 3, &[1.0, 12.0]);
        series.held_s.push(None);
        assert_eq!(
            Series::read(&json!({"series": series.json()})),
            Some(series)
        );
        assert_eq!(Series::read(&json!({"what": "x"})), None);
    }

    #[test]
    fn the_newest_of_each_is_drawn_once() {
        let all = vec![
            series("aber", 16, &[1.0]),
            series("aber", 8, &[1.0]),
            series("aber", 8, &[2.0]),
            series("rsync", 8, &[3.0]),
        ];
        let kept = newest(all);
        let kept: Vec<_> = kept
            .iter()
            .map(|s| (s.nodes, s.who.as_str(), s.steps_s()))
            .collect();
        assert_eq!(
            kept,
            [
                (8, "aber", vec![2.0]),
                (8, "rsync", vec![3.0]),
                (16, "aber", vec![1.0])
            ]
        );
    }

    #[test]
    fn a_line_climbs_as_mirrors_fill_and_stays_in_its_panel() {
        let svg = draw(&[series("a<b", 2, &[10.0, 400.0])], "t & u");
        // Half of the mirrors at a third of the width; then flat to the end.
        let (x, y) = (LEFT + PANEL_WIDTH / 3.0, TOP + PANEL_HEIGHT / 2.0);
        let end = LEFT + PANEL_WIDTH;
        assert!(svg.contains(&format!("H{x:.1}V{y:.1}H{end:.1}\"")), "{svg}");
        assert!(svg.contains("a&lt;b: all after 400.0 s, 40.00 × bound"));
        assert!(svg.contains("t &amp; u"));
        // Half of what a line carries after five seconds, on average.
        let (x, y) = (LEFT + PANEL_WIDTH / 6.0, TOP + PANEL_HEIGHT / 2.0);
        assert!(svg.contains(&format!(" {x:.1},{y:.1}\"")), "{svg}");
        let unfinished = draw(&[series("x", 3, &[1.0])], "");
        assert!(unfinished.contains("x: 1 of 3 complete"));
    }
}
