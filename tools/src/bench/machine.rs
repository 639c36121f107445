//! What the figures were made on, and whether verdicts may be given there.

use super::row::Facts;
use anyhow::{Context, Result};
use rustix::fs::{major, minor, statfs};
use std::path::Path;
use std::process::Command;

const EXT: i64 = 0xEF53;
const XFS: i64 = 0x5846_5342;
const BTRFS: i64 = 0x9123_683E_u32 as i64;
const TMPFS: i64 = 0x0102_1994;
const OVERLAY: i64 = 0x794C_7630;

/// The machine, and the load when the program started.
#[derive(Debug)]
pub(crate) struct Machine {
    fs: String,
    cores: f64,
    load_before: f64,
    text: String,
    version: String,
    commit: String,
}

impl Machine {
    pub(crate) fn look(directory: &Path, aber: &Path) -> Result<Self> {
        let kernel = read("/proc/sys/kernel/osrelease");
        let info = read("/proc/cpuinfo");
        let model = info.lines().find(|line| line.starts_with("model name"));
        let model = model
            .and_then(|line| line.split(": ").nth(1))
            .unwrap_or("unknown CPU");
        let memory = read("/proc/meminfo");
        let memory_gib = memory
            .split_whitespace()
            .nth(1)
            .and_then(|kib| kib.parse::<f64>().ok());
        let cores = std::thread::available_parallelism()?.get();
        let text = format!(
            "{cores} x {model}, {:.0} GiB, Linux {}",
            memory_gib.unwrap_or(0.0) / f64::from(1 << 20),
            kernel.trim()
        );
        Ok(Self {
            fs: file_system(directory)?,
            #[expect(clippy::cast_precision_loss, reason = "a number of cores")]
            cores: cores as f64,
            load_before: load(),
            text,
            version: said(Command::new(aber).arg("--version")).replace("aber ", ""),
            commit: said(Command::new("git").args(["rev-parse", "--short=12", "HEAD"])),
        })
    }

    fn has_journal(&self) -> bool {
        matches!(self.fs.as_str(), "ext4" | "xfs" | "btrfs")
    }

    pub(crate) fn warnings(&self) -> Vec<String> {
        let mut lines = vec![format!(
            "{}; {}; load {}",
            self.text, self.fs, self.load_before
        )];
        if !self.has_journal() {
            lines.push(format!(
                "{}: no journal, so its fsyncs are too cheap: figures are printed, none is judged",
                self.fs
            ));
        }
        if self.load_before > self.cores {
            lines.push("the machine is busy: wall times are printed and not judged".to_owned());
        }
        lines
    }

    /// The same for all rows made up to this moment.
    pub(crate) fn facts(&self, is_quick: bool) -> Facts {
        let after = load();
        let load = [self.load_before.min(after), self.load_before.max(after)];
        Facts {
            fs: self.fs.clone(),
            load,
            may_gate: self.has_journal() && !is_quick,
            may_gate_wall: load.iter().all(|load| *load <= self.cores),
            version: self.version.clone(),
            commit: self.commit.clone(),
            machine: self.text.clone(),
            when: said(Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%SZ"])),
        }
    }
}

/// ext4, ext4-nojournal, xfs, btrfs and so on: the file system that holds `directory`.
fn file_system(directory: &Path) -> Result<String> {
    let whole = std::fs::canonicalize(directory)
        .with_context(|| format!("--dir {}", directory.display()))?;
    let kind = statfs(&whole)?.f_type;
    Ok(match kind {
        EXT if has_ext_journal(&whole)? => "ext4".to_owned(),
        EXT => "ext4-nojournal".to_owned(),
        XFS => "xfs".to_owned(),
        BTRFS => "btrfs".to_owned(),
        TMPFS => "tmpfs".to_owned(),
        OVERLAY => "overlay".to_owned(),
        other => format!("{other:#x}"),
    })
}

/// The kernel keeps a directory for each journal, named after the device.
fn has_ext_journal(directory: &Path) -> Result<bool> {
    let device = rustix::fs::stat(directory)?.st_dev;
    let link = format!("/sys/dev/block/{}:{}", major(device), minor(device));
    let name = std::fs::canonicalize(link).ok();
    let name = name
        .as_deref()
        .and_then(Path::file_name)
        .map(|name| name.to_string_lossy());
    Ok(name.is_some_and(|name| Path::new(&format!("/proc/fs/jbd2/{name}-8")).is_dir()))
}

fn load() -> f64 {
    let text = read("/proc/loadavg");
    text.split(' ')
        .next()
        .and_then(|word| word.parse().ok())
        .unwrap_or(0.0)
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// What a command says, or that it said nothing.
fn said(command: &mut Command) -> String {
    let done = command.output().ok().filter(|done| done.status.success());
    done.map_or("unknown".to_owned(), |done| {
        String::from_utf8_lossy(&done.stdout).trim().to_owned()
    })
}
