//! [driver] The trace of a run: one line an event, hashed as it grows, kept in a file if asked.
//!
//! Two runs are equal iff their hashes and line counts are. The newest lines are kept in memory,
//! so that a failure can show them.

use std::collections::VecDeque;
use std::io::Write;
use std::path::Path;

/// Lines kept in memory.
const RECENT_LINES: usize = 400;
/// Buffer of the trace file.
const BUFFER_BYTES: usize = 1 << 20;

/// The trace of a run.
#[derive(Debug, Default)]
pub struct Trace {
    hasher: blake3::Hasher,
    line_count: u64,
    recent: VecDeque<String>,
    file: Option<std::io::BufWriter<std::fs::File>>,
}

impl Trace {
    /// An empty trace, also written to `file` if there is one.
    ///
    /// # Errors
    /// If the file cannot be made.
    pub fn new(file: Option<&Path>) -> std::io::Result<Self> {
        let file = file.map(std::fs::File::create).transpose()?;
        Ok(Self {
            file: file.map(|file| std::io::BufWriter::with_capacity(BUFFER_BYTES, file)),
            ..Self::default()
        })
    }

    /// Adds a line.
    pub fn line(&mut self, now_ns: u128, node: u64, text: std::fmt::Arguments<'_>) {
        let line = format!("{now_ns} node{node} {text}\n");
        self.hasher.update(line.as_bytes());
        self.line_count += 1;
        if let Some(file) = &mut self.file {
            // A trace that cannot be written is noticed by whoever reads it; the run goes on.
            let _ = file.write_all(line.as_bytes());
        }
        if self.recent.len() == RECENT_LINES {
            self.recent.pop_front();
        }
        self.recent.push_back(line);
    }

    /// Lines so far.
    #[must_use]
    pub fn line_count(&self) -> u64 {
        self.line_count
    }

    /// The hash of all lines, in short.
    #[must_use]
    pub fn hash(&self) -> String {
        self.hasher.finalize().to_hex().chars().take(16).collect()
    }

    /// The newest lines, oldest first.
    #[must_use]
    pub fn recent(&self) -> String {
        self.recent.iter().map(String::as_str).collect()
    }

    /// Writes out what the file's buffer holds.
    pub fn flush(&mut self) {
        if let Some(file) = &mut self.file {
            let _ = file.flush();
        }
    }
}
