//! Nodes at the ends of slow lines: what joining and fan-out are measured with.

use super::cluster::Cluster;
use super::data::Numbers;
use super::process::{Daemon, HeldLab};
use crate::lab::{self, Host, Name, Plan, Rate};
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// What every line carries away from its host, and to it.
pub(super) const UP: &str = "8mbit";
pub(super) const DOWN: &str = "80mbit";
/// Of each small file.
pub(super) const FILE_BYTES: usize = 4096;

/// Why there is no lab here, if there is none.
pub(super) fn no_lab() -> Option<String> {
    let lacks = lab::lacks();
    let lacks: Vec<String> = lacks.mendable.into_iter().chain(lacks.forbidden).collect();
    (!lacks.is_empty()).then(|| lacks.join("; "))
}

/// So many hosts with IPv6 alone.
pub(super) fn lab_of(hosts: usize) -> Result<HeldLab> {
    make(hosts, false, Duration::ZERO)
}

/// The same, and each frame takes that long from one to another.
pub(super) fn far_lab_of(hosts: usize, delay: Duration) -> Result<HeldLab> {
    make(hosts, false, delay)
}

/// The same with IPv4 beside it, which some programs need.
pub(super) fn lab_with_ipv4(hosts: usize) -> Result<HeldLab> {
    make(hosts, true, Duration::ZERO)
}

fn make(hosts: usize, has_ipv4: bool, delay: Duration) -> Result<HeldLab> {
    HeldLab::make(&Plan {
        name: Name::new(&format!("b{}", std::process::id()))?,
        hosts,
        up: Some(Rate::parse(UP)?),
        down: Some(Rate::parse(DOWN)?),
        has_ipv4,
        delay,
    })
}

/// Random bytes: what can be compressed would be the line's gain, and not ours.
pub(super) fn fill(into: &Path, count: usize, directories: usize, seed: u64) -> Result<()> {
    let mut numbers = Numbers::new(seed);
    for i in 0..count {
        let directory = into.join(format!("d{:02}", i % directories.max(1)));
        std::fs::create_dir_all(&directory)?;
        std::fs::write(
            directory.join(format!("f{i:05}")),
            numbers.random(FILE_BYTES),
        )?;
    }
    Ok(())
}

/// A ticket in a file beside a newcomer's directory.
pub(super) fn invite(founder: &Cluster, data: &Path, options: &[&str]) -> Result<PathBuf> {
    let mut command = founder.command(founder.first()?);
    let done = command.args(["invite", "--json"]).args(options).output()?;
    let said = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "invite: {}", said.trim());
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    let value: Value = serde_json::from_str(text.lines().last().unwrap_or_default())?;
    let ticket = value.get("ticket").and_then(Value::as_str);
    let file = data.with_extension("ticket");
    std::fs::write(&file, ticket.context("no ticket")?)?;
    Ok(file)
}

/// Starts a newcomer, on loopback or on a host, without waiting for it.
pub(super) fn start_joining(
    founder: &Cluster,
    place: Option<(&HeldLab, Host)>,
    data: &Path,
    ticket: &Path,
) -> Result<Daemon> {
    let mut command = match place {
        Some((lab, host)) => lab.command(host, founder.program())?,
        None => Command::new(founder.program()),
    };
    command.env_remove("ABER_DATA").env_remove("ABER_LOG");
    command.arg("--data").arg(data);
    command.args(["join", "--foreground", "--until-eof", "--ticket-file"]);
    command.arg(ticket);
    if place.is_none() {
        command.args(["--listen", "127.0.0.1:0"]);
    }
    Daemon::start(&mut command, &data.with_extension("log"))
}

/// Files below a directory, but the reserved ones. What stands in a mirror is whole.
pub(super) fn count_files(directory: &Path) -> usize {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let shown = entries.filter(|entry| entry.file_name() != ".aber");
    let counts = shown.map(|entry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => count_files(&entry.path()),
        Ok(kind) => usize::from(kind.is_file()),
        // It went meanwhile.
        Err(_) => 0,
    });
    counts.sum()
}

/// That a tree of directories of files, or a file, stands in a mirror as it was put.
pub(super) fn ensure_equal(source: &Path, mirror: &Path) -> Result<()> {
    if source.is_dir() {
        for entry in std::fs::read_dir(source)? {
            let entry = entry?;
            ensure_equal(&entry.path(), &mirror.join(entry.file_name()))?;
        }
        return Ok(());
    }
    let is_equal = std::fs::read(source)? == std::fs::read(mirror)?;
    ensure!(is_equal, "{} is not what was put", mirror.display());
    Ok(())
}
