//! [adapter] How far a long command is: a line that is redrawn on a terminal, else one every 10 s.
//!
//! Counters are shared with the work; a task of its own looks at them. A counter that moves also
//! says that the work is not stuck: [`Movement`].

use super::print::{self, Output};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How often a line is written where nothing can be redrawn.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// What was done so far.
#[derive(Debug)]
pub(crate) struct Counters {
    /// Files and links done.
    pub(crate) files: AtomicU64,
    /// Bytes of content read or received.
    pub(crate) read_bytes: AtomicU64,
    /// Changes acknowledged.
    pub(crate) changes: AtomicU64,
    started: Instant,
    moved_ms: AtomicU64,
}

/// Counters that many tasks share.
pub(crate) type Movement = Arc<Counters>;

impl Counters {
    /// Nothing done yet.
    pub(crate) fn start() -> Movement {
        Arc::new(Self {
            files: AtomicU64::new(0),
            read_bytes: AtomicU64::new(0),
            changes: AtomicU64::new(0),
            started: Instant::now(),
            moved_ms: AtomicU64::new(0),
        })
    }

    /// Adds to a counter, which is a movement.
    pub(crate) fn add(&self, counter: &AtomicU64, number: u64) {
        counter.fetch_add(number, Ordering::Relaxed);
        self.moved();
    }

    /// Something moved.
    pub(crate) fn moved(&self) {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.moved_ms.fetch_max(now, Ordering::Relaxed);
    }

    /// How long nothing has moved.
    pub(crate) fn still(&self) -> Duration {
        let moved = Duration::from_millis(self.moved_ms.load(Ordering::Relaxed));
        self.started.elapsed().saturating_sub(moved)
    }

    fn line(&self, phase: &str) -> String {
        let bytes = self.read_bytes.load(Ordering::Relaxed);
        let millis = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let rate = bytes.saturating_mul(1000) / millis.max(1);
        let still = self.still().as_secs();
        let waits = if still >= 5 {
            format!(" · nothing has moved for {still} s")
        } else {
            String::new()
        };
        format!(
            "{phase} {} · {} · {}/s · {}{waits}",
            print::plural(self.files.load(Ordering::Relaxed), "file"),
            print::bytes(bytes),
            print::bytes(rate),
            print::plural(self.changes.load(Ordering::Relaxed), "change"),
        )
    }
}

/// A line about the work under way; it goes away when this is dropped.
#[derive(Debug)]
pub(crate) struct Progress {
    task: Option<tokio::task::JoinHandle<()>>,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Starts to show what `counters` count.
    pub(crate) fn show(out: &Output, phase: &'static str, counters: &Movement) -> Self {
        if out.quiet {
            return Self {
                task: None,
                bar: None,
            };
        }
        let (out, counters) = (out.clone(), Arc::clone(counters));
        let bar = (!out.json && print::is_terminal()).then(spinner);
        let drawn = bar.clone();
        let task = tokio::spawn(async move {
            let every = drawn
                .as_ref()
                .map_or(LINE_EVERY, |_| Duration::from_millis(200));
            loop {
                tokio::time::sleep(every).await;
                let line = counters.line(phase);
                match &drawn {
                    Some(bar) => {
                        bar.set_message(line);
                        bar.tick();
                    }
                    None => out.progress(&line, value(phase, &counters)),
                }
            }
        });
        Self {
            task: Some(task),
            bar,
        }
    }
}

fn spinner() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    match ProgressStyle::with_template("{spinner} {msg}") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

fn value(phase: &str, counters: &Counters) -> serde_json::Value {
    json!({
        "phase": phase,
        "files": counters.files.load(Ordering::Relaxed),
        "read_bytes": counters.read_bytes.load(Ordering::Relaxed),
        "changes": counters.changes.load(Ordering::Relaxed),
    })
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}
