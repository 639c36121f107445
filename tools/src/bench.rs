//! Measures the release binary, and in the same rounds what each figure is divided by.
//!
//! Rules: ratios of one run, by turns, on one file system, with the same data; medians with least
//! and greatest; CPU beside wall time; a fresh data directory a round; a default configuration,
//! driven over its command line and its socket. Figures are printed, never asserted: a goal that is
//! missed is a row that says "no", and no failure of the program. [`goal`] has the floors, [`row`]
//! the arithmetic; the rest does what it measures.
//!
//! The program ends its own children only, each by its id, and removes its scratch directory, on
//! SIGINT and SIGTERM too.
#![expect(
    clippy::disallowed_types,
    reason = "it measures the real machine's files and sockets"
)]

mod api;
mod back;
mod cluster;
mod commits;
mod data;
mod divisor;
mod elsewhere;
mod etcd;
pub mod fanout;
pub mod goal;
mod history;
mod ingest;
mod join;
mod machine;
mod memory;
mod process;
mod replay;
mod restart;
pub mod row;
mod slow;

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use machine::Machine;
use row::{Report, Row};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Goals that can be measured, in order.
const GOALS: [u8; 6] = [1, 4, 6, 8, 18, 19];
/// What is measured beside the goals.
const JOIN: &str = "join";
const FANOUT: &str = "fanout";
const HISTORY: &str = "history";
/// Only draws what rows say.
const DRAW: &str = "draw";
const ROUNDS: usize = 5;
/// Where a round takes over a minute.
const ROUNDS_LONG: usize = 3;

/// Measures aber: prints a table, and appends one JSON object a row.
#[derive(Parser, Debug)]
pub struct Options {
    /// Which goals, `join`, `fanout` or `history`, or `draw`, which only draws what --out holds
    /// [default: 1 4 6 8 18 19 join fanout]
    #[arg(value_name = "GOAL", value_parser = Task::parse)]
    tasks: Vec<Task>,
    /// Rounds [default: 5, and 3 where one takes over a minute]
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,
    /// Where to measure: a file system with a journal and 15 GB to spare
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// Append rows to it
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Append rows to it as those of a table of markdown
    #[arg(long, value_name = "FILE")]
    table: Option<PathBuf>,
    /// Little data: only shows that everything runs
    #[arg(long)]
    quick: bool,
    /// Of history: 1,000,000 entries
    #[arg(long, conflicts_with = "quick")]
    full: bool,
    /// The binary to measure [default: aber beside this program, else target/release/aber]
    #[arg(long, value_name = "PATH")]
    aber: Option<PathBuf>,
    #[command(flatten)]
    fanout: fanout::FanoutOptions,
}

/// One thing to measure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Task {
    Goal(u8),
    Join,
    Fanout,
    History,
    Draw,
}

impl Task {
    fn parse(text: &str) -> Result<Self> {
        if text == JOIN {
            return Ok(Self::Join);
        }
        if text == FANOUT {
            return Ok(Self::Fanout);
        }
        if text == HISTORY {
            return Ok(Self::History);
        }
        if text == DRAW {
            return Ok(Self::Draw);
        }
        let goal = text.parse().ok().filter(|goal| GOALS.contains(goal));
        let goal = goal.with_context(|| {
            format!(
                "{text} is not measured here; these are: {GOALS:?}, {JOIN}, {FANOUT} and {HISTORY}"
            )
        })?;
        Ok(Self::Goal(goal))
    }
}

/// What every measurement needs.
pub(crate) struct Bench {
    pub(crate) aber: PathBuf,
    pub(crate) machine: Machine,
    pub(crate) scale: Scale,
    rounds: Option<usize>,
    fanout: fanout::FanoutOptions,
    scratch: process::Scratch,
    report: Report,
    out: Option<PathBuf>,
    table: Option<PathBuf>,
}

/// How much of everything.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    pub(crate) quick: bool,
    pub(crate) files_count: usize,
    pub(crate) big_bytes: u64,
    pub(crate) clients: usize,
    pub(crate) load_s: f64,
    pub(crate) entries_count: u64,
}

impl Scale {
    const FULL: Self = Self {
        quick: false,
        files_count: 10_000,
        big_bytes: 1 << 30,
        clients: 128,
        load_s: 3.0,
        entries_count: 100_000,
    };
    const QUICK: Self = Self {
        quick: true,
        files_count: 200,
        big_bytes: 16 << 20,
        clients: 8,
        load_s: 1.0,
        entries_count: 1_000,
    };

    /// What stands before a row's name where the data are not the goal's.
    fn label(&self) -> &'static str {
        if self.quick { "quick: " } else { "" }
    }
}

/// Measures what was asked for.
///
/// # Errors
/// The binary or the directory is missing, or something that was measured failed.
pub fn run(options: &Options) -> Result<()> {
    let tasks = if options.tasks.is_empty() {
        let goals = GOALS.iter().copied().map(Task::Goal);
        goals.chain([Task::Join, Task::Fanout]).collect()
    } else {
        options.tasks.clone()
    };
    let aber = find_aber(options.aber.as_deref())?;
    let machine = Machine::look(&options.dir, &aber)?;
    for line in machine.warnings() {
        say(&line);
    }
    let scale = if options.quick {
        Scale::QUICK
    } else {
        Scale::FULL
    };
    let entries_count = if options.full {
        1_000_000
    } else {
        scale.entries_count
    };
    let mut bench = Bench {
        aber,
        machine,
        scale: Scale {
            entries_count,
            ..scale
        },
        rounds: options.rounds,
        fanout: options.fanout.clone(),
        scratch: process::Scratch::new(&options.dir)?,
        report: Report::default(),
        out: options.out.clone(),
        table: options.table.clone(),
    };
    for task in tasks {
        let name = match task {
            Task::Goal(goal) => format!("goal {goal}: {}", goal::name(goal)),
            Task::Join => "join, and a cluster that is left alone".to_owned(),
            Task::Fanout => "fanout: one writer, slow lines, every mirror".to_owned(),
            Task::History => "history: one path among all that happened".to_owned(),
            Task::Draw => "the picture of fanout".to_owned(),
        };
        say(&name);
        bench.measure(task).with_context(|| name)?;
        bench.flush()?;
    }
    Ok(())
}

impl Bench {
    fn measure(&mut self, task: Task) -> Result<()> {
        match task {
            Task::Goal(1) => commits::measure(self),
            Task::Goal(4) => ingest::measure_big(self),
            Task::Goal(6) => ingest::measure_small(self),
            Task::Goal(8) => replay::measure(self),
            Task::Goal(18) => restart::measure(self),
            Task::Goal(_) => memory::measure(self),
            Task::Join => join::measure(self),
            Task::Fanout => fanout::measure(self),
            Task::History => history::measure(self).and_then(|()| back::measure(self)),
            Task::Draw => fanout::draw_rows(self),
        }
    }

    /// Rounds of a measurement that is short, or long.
    pub(crate) fn rounds(&self, is_long: bool) -> usize {
        let default = if is_long { ROUNDS_LONG } else { ROUNDS };
        self.rounds.unwrap_or(default).max(1)
    }

    /// A fresh directory of the scratch directory.
    pub(crate) fn directory(&self, name: &str) -> Result<PathBuf> {
        self.scratch.directory(name)
    }

    /// Notes a finished row.
    pub(crate) fn add(&mut self, mut row: Row) {
        row.what.insert_str(0, self.scale.label());
        self.report.add(row);
    }

    /// Says something that belongs to the table and is no figure.
    pub(crate) fn note(&self, text: &str) {
        say(&format!("  {text}"));
    }

    /// Prints and keeps the rows since the last time.
    fn flush(&mut self) -> Result<()> {
        let rows = self.report.take();
        let facts = self.machine.facts(self.scale.quick);
        let (mut lines, mut table) = <(String, String)>::default();
        for row in &rows {
            print(&row.table_line(&facts));
            lines.push_str(&row.json(&facts));
            lines.push('\n');
            table.push_str(&row.markdown(&facts));
        }
        append(self.out.as_deref(), &lines)?;
        append(self.table.as_deref(), &table)
    }
}

/// Adds to a file, if there is to be one.
fn append(path: Option<&Path>, text: &str) -> Result<()> {
    let Some(path) = path else { return Ok(()) };
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.create(true).append(true).open(path)?;
    let written = file.write_all(text.as_bytes());
    written.with_context(|| path.display().to_string())
}

fn find_aber(given: Option<&Path>) -> Result<PathBuf> {
    let beside = std::env::current_exe()?.with_file_name("aber");
    let candidates = match given {
        Some(path) => vec![path.to_owned()],
        None => vec![beside, PathBuf::from("target/release/aber")],
    };
    let found = candidates.iter().find(|path| path.is_file());
    let found = found.with_context(|| {
        let first = candidates.first().map(|path| path.display().to_string());
        format!(
            "{}: not there; cargo build --release",
            first.unwrap_or_default()
        )
    })?;
    let path = std::path::absolute(found)?;
    ensure!(path.is_file(), "{}: no file", path.display());
    Ok(path)
}

#[expect(clippy::print_stderr, reason = "progress of a command")]
pub(crate) fn say(line: &str) {
    eprintln!("{line}");
}

#[expect(clippy::print_stdout, reason = "the output of a command")]
fn print(line: &str) {
    println!("{line}");
}
