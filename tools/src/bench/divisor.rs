//! What figures are divided by: other programs, the bare disk, the bare processor.

use super::process::{Cost, run, thread_cpu_s};
use anyhow::{Context, Result};
use fastcdc::v2020::FastCDC;
use std::fs::File;
use std::hint::black_box;
use std::io::{Read, Write};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(600);
/// Pieces of the pipeline: least, average, greatest.
const CUTS_BYTES: [usize; 3] = [16 << 10, 64 << 10, 256 << 10];
/// What the pipeline holds in memory at once.
const PART_BYTES: u64 = 64 << 20;
/// Group commits of one measurement.
const COMMITS: u32 = 200;
const RECORDS: u32 = 128;
const RECORD_BYTES: usize = 256;

/// Writes out what anybody left dirty on the file system that holds `directory`.
pub(crate) fn sync(directory: &Path) -> Result<()> {
    Ok(rustix::fs::syncfs(File::open(directory)?)?)
}

/// A command, and the sync of what it left dirty.
fn run_synced(command: &mut Command, directory: &Path) -> Result<Cost> {
    sync(directory)?;
    let began = Instant::now();
    let cost = run(command.current_dir(directory), PATIENCE)?;
    sync(directory)?;
    Ok(Cost {
        wall_s: began.elapsed().as_secs_f64(),
        ..cost
    })
}

/// `cp -a` of a tree, durable.
pub(crate) fn copy(source: &Path, into: &Path) -> Result<Cost> {
    run_synced(Command::new("cp").arg("-a").arg(source).arg("."), into)
}

/// `tar x` of an archive, durable.
pub(crate) fn extract(archive: &Path, into: &Path) -> Result<Cost> {
    run_synced(Command::new("tar").arg("xf").arg(archive), into)
}

/// Makes the archive that [`extract`] takes.
pub(crate) fn archive(tree: &Path, archive: &Path) -> Result<()> {
    let mut command = Command::new("tar");
    command.arg("cf").arg(archive).arg("-C").arg(tree).arg(".");
    run(&mut command, PATIENCE)?;
    Ok(())
}

/// Cutting, hashing and compressing a file in one thread: CPU seconds, reading not counted.
pub(crate) fn pipeline_cpu_s(path: &Path) -> Result<f64> {
    let mut file = File::open(path)?;
    let [least, average, greatest] = CUTS_BYTES;
    let mut part = Vec::new();
    let mut used_s = 0.0;
    loop {
        part.clear();
        if (&mut file).take(PART_BYTES).read_to_end(&mut part)? == 0 {
            return Ok(used_s);
        }
        let before = thread_cpu_s()?;
        for cut in FastCDC::new(&part, least, average, greatest) {
            let piece = part.get(cut.offset..cut.offset + cut.length);
            let piece = piece.context("a cut outside of its data")?;
            black_box(blake3::hash(piece));
            black_box(lz4_flex::block::compress(piece));
        }
        used_s += thread_cpu_s()? - before;
    }
}

/// 128 records of 256 B in a write, then fdatasync, into a growing file: records a second.
pub(crate) fn group_commit(directory: &Path) -> Result<f64> {
    let path = directory.join("group-commit");
    let mut file = File::create(&path)?;
    let batch = super::data::Numbers::new(3).random(RECORD_BYTES * RECORDS as usize);
    let began = Instant::now();
    for _ in 0..COMMITS {
        file.write_all(&batch)?;
        file.sync_data()?;
    }
    let rate = f64::from(COMMITS * RECORDS) / began.elapsed().as_secs_f64();
    std::fs::remove_file(&path)?;
    Ok(rate)
}

/// Whether a program is on the path.
pub(crate) fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::data;

    #[test]
    fn a_tree_is_copied_and_extracted() {
        let home = tempfile::tempdir().unwrap();
        let [tree, copied, extracted] = ["tree", "copied", "extracted"].map(|name| {
            let path = home.path().join(name);
            std::fs::create_dir(&path).unwrap();
            path
        });
        data::small_files(&tree, 10).unwrap();
        let file = "d03/f00003";
        assert!(copy(&tree, &copied).unwrap().wall_s > 0.0);
        assert!(copied.join("tree").join(file).is_file());
        let tar = home.path().join("t.tar");
        archive(&tree, &tar).unwrap();
        extract(&tar, &extracted).unwrap();
        assert!(extracted.join(file).is_file());
    }

    #[test]
    fn the_bare_disk_and_processor_are_measured() {
        let home = tempfile::tempdir().unwrap();
        let big = home.path().join("big");
        data::big_file(&big, 3 << 20).unwrap();
        assert!(pipeline_cpu_s(&big).unwrap() > 0.0);
        assert!(is_installed("sh") && !is_installed("no-such-program"));
    }
}
