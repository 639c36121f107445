//! A moment as a directory, by programs that keep moments another way: restic, which cuts files into
//! parts that it stores once, as aber does, and btrfs, where somebody took a snapshot at that moment.

use super::row::Values;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// For one command.
const PATIENCE: Duration = Duration::from_secs(600);
/// Room for two trees of 10,000 small files.
const IMAGE_BYTES: u64 = 1 << 30;

fn ms(command: &mut Command) -> Result<f64> {
    Ok(super::process::run(command, PATIENCE)?.wall_s * 1e3)
}

/// What is there of the two, each with the moment in it, and what it took to have it as a directory.
pub(super) struct Elsewhere {
    restic: Option<Restic>,
    btrfs: Option<Btrfs>,
    pub(super) restored: Values,
    pub(super) snapped: Values,
}

impl Elsewhere {
    /// Both, of a tree as it was and as it is; what is missing, or cannot be had here, is named.
    pub(super) fn new(scratch: &Path, then: &Path, now: &Path) -> Self {
        let there =
            |what: &str, why: anyhow::Error| super::say(&format!("without {what}: {why:#}"));
        Self {
            restic: Restic::new(scratch, then, now)
                .map_err(|why| there("restic", why))
                .ok(),
            btrfs: Btrfs::new(scratch, then, now)
                .map_err(|why| there("btrfs", why))
                .ok(),
            restored: Values::default(),
            snapped: Values::default(),
        }
    }

    /// One round. What was made goes away.
    pub(super) fn take(&mut self, scratch: &Path) -> Result<()> {
        if let Some(restic) = &self.restic {
            let into = scratch.join("restored");
            let mut restore = restic.command(&["restore", "latest", "--tag", "then", "--target"]);
            self.restored.push(ms(restore.arg(&into))?);
            super::process::remove(&into);
        }
        if let Some(btrfs) = &self.btrfs {
            let into = btrfs.mounted.join("back");
            let from = btrfs.mounted.join("then");
            self.snapped
                .push(ms(btrfs_command("snapshot").args([&from, &into]))?);
            ms(btrfs_command("delete").arg(&into))?;
        }
        Ok(())
    }
}

/// A repository of restic.
struct Restic {
    repository: PathBuf,
}

impl Restic {
    fn new(scratch: &Path, then: &Path, now: &Path) -> Result<Self> {
        let restic = Self {
            repository: scratch.join("restic"),
        };
        ms(&mut restic.command(&["init"]))?;
        for (tree, tag) in [(then, "then"), (now, "now")] {
            let mut backup = restic.command(&["backup", "--exclude", ".git", "--tag", tag, "."]);
            ms(backup.current_dir(tree))?;
        }
        Ok(restic)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("restic");
        command
            .env("RESTIC_PASSWORD", "bench")
            .env("RESTIC_CACHE_DIR", self.repository.with_extension("cache"))
            .arg("--repo")
            .arg(&self.repository)
            .args(arguments);
        command
    }
}

fn btrfs_command(what: &str) -> Command {
    let mut command = Command::new("btrfs");
    command.args(["subvolume", what]);
    command
}

/// A file system in a file, with the tree in it and a snapshot of how it was. It goes away with this.
struct Btrfs {
    mounted: PathBuf,
}

impl Btrfs {
    fn new(scratch: &Path, then: &Path, now: &Path) -> Result<Self> {
        let (image, mounted) = (scratch.join("btrfs.img"), scratch.join("btrfs"));
        std::fs::File::create(&image)?.set_len(IMAGE_BYTES)?;
        std::fs::create_dir(&mounted)?;
        ms(Command::new("mkfs.btrfs").arg("-q").arg(&image))?;
        ms(Command::new("mount")
            .args(["-o", "loop"])
            .args([&image, &mounted]))
        .context("it cannot be mounted")?;
        let btrfs = Self { mounted };
        let tree = btrfs.mounted.join("tree");
        ms(btrfs_command("create").arg(&tree))?;
        let copy = |from: &Path| ms(Command::new("cp").arg("-a").arg(from.join(".")).arg(&tree));
        copy(then)?;
        // A file in a worktree, a directory in the repository.
        std::fs::remove_file(tree.join(".git"))?;
        let kept = btrfs.mounted.join("then");
        ms(btrfs_command("snapshot").arg("-r").args([&tree, &kept]))?;
        copy(now)?;
        ms(Command::new("sync").arg("-f").arg(&tree))?;
        Ok(btrfs)
    }
}

impl Drop for Btrfs {
    fn drop(&mut self) {
        let _ = ms(Command::new("umount").arg(&self.mounted));
    }
}
