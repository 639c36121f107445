//! A disk that is full.

use super::ABER;
use aber_tests::process::content::content;
use aber_tests::process::{Cluster, PATIENCE};
use anyhow::{Result, ensure};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

/// Room for a node with thousands of small files: as entries, as bodies on their way, in the mirror.
const DISK_BYTES: u64 = 56 << 20;
/// Two of them are there from the start.
const SEGMENT_BYTES: &str = "2097152";
const SETTLE: Duration = Duration::from_secs(150);

/// A small file system in memory.
struct SmallDisk {
    directory: TempDir,
}

impl SmallDisk {
    /// `None`, loudly, where this user may not mount.
    fn mount() -> Result<Option<Self>> {
        let directory = tempfile::Builder::new().prefix("aber-disk-").tempdir()?;
        let ran = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={DISK_BYTES}"), "tmpfs"])
            .arg(directory.path())
            .output();
        if ran.is_ok_and(|ran| ran.status.success()) {
            return Ok(Some(Self { directory }));
        }
        eprintln!("SKIPPED: only root can mount a small tmpfs; nothing was tested here");
        Ok(None)
    }

    /// Takes this much of it away, or all of it.
    fn take(&self, bytes: u64) -> Result<PathBuf> {
        let path = self.directory.path().join(format!("ballast-{bytes}"));
        let mut file = File::create(&path)?;
        let (block, mut left) = (vec![1; 4096], bytes);
        // It ends early where the disk is full, as meant.
        while left > 0 && file.write_all(&block).is_ok() {
            left -= 4096;
        }
        Ok(path)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // What cannot be unmounted is left to whoever looks at the temporary directory.
        let _ = Command::new("umount")
            .arg("-l")
            .arg(self.directory.path())
            .status();
    }
}

/// A cluster whose third node lives on the small disk.
fn start_on(disk: &Path) -> Result<Cluster> {
    let place = |directory: &Path, name: &str| match name {
        "n3" => disk.join(name),
        _ => directory.join(name),
    };
    let mut cluster = Cluster::prepare_at(ABER, 3, place)?;
    cluster.nodes[2].arguments = vec!["--segment-bytes".into(), SEGMENT_BYTES.into()];
    cluster.start_all()?;
    cluster.nodes[0].ok(&["mkdir", "/d"])?;
    Ok(cluster)
}

/// Promises B3, D1.
#[test]
fn a_full_disk_refuses_writes_and_loses_nothing() -> Result<()> {
    let Some(disk) = SmallDisk::mount()? else {
        return Ok(());
    };
    let ballast = disk.take(DISK_BYTES - (32 << 20))?;
    let cluster = start_on(disk.directory.path())?;
    let (small, others) = (&cluster.nodes[2], &cluster.nodes[0]);
    let mut acknowledged = Vec::new();
    let refused = loop {
        let path = format!("/d/f{}", acknowledged.len());
        let ran = small.put(&content(&path, 1, 1_000_000), &path)?;
        if ran.code != 0 {
            break ran;
        }
        acknowledged.push(path);
        ensure!(acknowledged.len() < 40, "the disk is never full");
    };
    ensure!(
        refused.code == 11 && refused.reason() == Some("NO_SPACE"),
        "{refused:?}"
    );
    ensure!(refused.stderr.contains("kept for the log"), "{refused:?}");
    ensure!(acknowledged.len() > 3, "{acknowledged:?}");
    let status = small.status()?;
    ensure!(status.to_string().contains("NO_SPACE"), "{status}");
    ensure!(small.aber(&["status", "--check"])?.code == 1);
    for path in &acknowledged {
        ensure!(
            small
                .ok(&["cat", path])?
                .starts_with(&format!("aber-test {path} 1 "))
        );
    }
    // The others go on, and it keeps voting and following the log.
    for number in 0..4 {
        let path = format!("/d/o{number}");
        ensure!(others.put(&content(&path, 1, 1_000_000), &path)?.code == 0);
        acknowledged.push(path);
    }
    ensure!(small.ok(&["ls", "/d"])?.contains("f0\n"));
    std::fs::remove_file(ballast)?;
    let ran = small.put(b"fits", "/d/fits")?;
    ensure!(ran.code == 0, "{ran:?}");
    cluster.settle(SETTLE)?;
    let listing = cluster.equal_mirrors()?;
    let is_there = |path: &String| listing.contains_key(path);
    ensure!(acknowledged.iter().all(is_there), "{:?}", listing.keys());
    small.ok(&["verify"])?;
    Ok(())
}

/// Promises D1, D4, D6: a log that finds no room stops the node, and is whole when it starts again.
#[test]
fn a_log_without_room_stops_the_node_and_is_whole_again_later() -> Result<()> {
    let Some(disk) = SmallDisk::mount()? else {
        return Ok(());
    };
    let mut cluster = start_on(disk.directory.path())?;
    cluster.nodes[2].ok(&["mkdir", "/d/before"])?;
    let source = cluster.directory.path().join("source");
    std::fs::create_dir(&source)?;
    for number in 0..4_500 {
        std::fs::write(
            source.join(format!("f{number}")),
            content("/x", number, 1000),
        )?;
    }
    cluster.settle(PATIENCE)?;
    let ballast = disk.take(DISK_BYTES)?;
    let source = source.display().to_string();
    cluster.nodes[0].ok(&["put", "-r", &source, "/d"])?;
    let code = cluster.nodes[2].wait_until_down(PATIENCE)?;
    ensure!(
        [74, 75].contains(&code),
        "{code}: {}",
        cluster.nodes[2].last_words()
    );
    let said = std::fs::read_to_string(&cluster.nodes[2].log)?;
    ensure!(said.contains("space"), "{said}");
    std::fs::remove_file(ballast)?;
    cluster.nodes[2].start()?;
    cluster.settle(SETTLE)?;
    ensure!(cluster.equal_mirrors()?.len() > 4_500);
    Ok(())
}
