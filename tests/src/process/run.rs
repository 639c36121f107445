//! [driver] One command, run to its end or its deadline.

use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

const LOOK_EVERY: Duration = Duration::from_millis(5);

/// A command that ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ran {
    /// The exit code; -1 after a signal.
    pub code: i32,
    /// What it printed.
    pub stdout: String,
    /// What it complained about.
    pub stderr: String,
}

impl Ran {
    /// The last line of `--json`.
    ///
    /// # Errors
    /// There is none.
    pub fn result(&self) -> Result<Value> {
        let last = self.stdout.lines().last().context("nothing was printed")?;
        Ok(serde_json::from_str(last)?)
    }

    /// The reason in brackets behind an error.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        let line = self.stderr.lines().find(|line| line.contains("error: "))?;
        line.trim_end().strip_suffix(']')?.rsplit('[').next()
    }
}

/// Runs a command with these bytes as standard input.
///
/// # Errors
/// It does not start, or does not end in time; then it is killed.
pub fn run(mut command: Command, scratch: &Path, input: &[u8], patience: Duration) -> Result<Ran> {
    // Files, not pipes: nobody has to read while it runs.
    let mut stdin = tempfile::tempfile_in(scratch)?;
    stdin.write_all(input)?;
    stdin.rewind()?;
    let (mut stdout, mut stderr) = (
        tempfile::tempfile_in(scratch)?,
        tempfile::tempfile_in(scratch)?,
    );
    let mut child = command
        .stdin(Stdio::from(stdin))
        .stdout(stdout.try_clone()?)
        .stderr(stderr.try_clone()?)
        .spawn()?;
    let end = Instant::now() + patience;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() > end {
            child.kill()?;
            child.wait()?;
            bail!("{command:?} did not end; {}", text(&mut stderr)?);
        }
        sleep(LOOK_EVERY);
    };
    Ok(Ran {
        code: status.code().unwrap_or(-1),
        stdout: text(&mut stdout)?,
        stderr: text(&mut stderr)?,
    })
}

fn text(file: &mut File) -> Result<String> {
    file.rewind()?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
