//! Bytes that are not what was written.

use super::ABER;
use aber_tests::process::content::content;
use aber_tests::process::{Cluster, Node, PATIENCE};
use anyhow::{Context, Result, ensure};
use std::fs::{File, FileTimes, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

const SETTLE: Duration = Duration::from_secs(90);

/// Turns all bits of a few bytes; a second time puts them back. Size, times and mode stay.
fn flip(path: &Path, offset: u64) -> Result<()> {
    let about = std::fs::metadata(path)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
    let file = File::options().read(true).write(true).open(path)?;
    let mut bytes = [0; 8];
    file.read_exact_at(&mut bytes, offset)?;
    file.write_all_at(&bytes.map(|byte| !byte), offset)?;
    file.set_times(FileTimes::new().set_modified(about.modified()?))?;
    std::fs::set_permissions(path, about.permissions())?;
    Ok(())
}

/// Bytes up to the last that is not zero.
fn used_bytes(path: &Path) -> Result<u64> {
    let bytes = std::fs::read(path)?;
    let last = bytes.iter().rposition(|byte| *byte != 0);
    Ok(last.context("it is empty")? as u64 + 1)
}

fn files_in(directory: &Path, suffix: &str) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_file() && path.to_string_lossy().ends_with(suffix) {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// A cluster with a file of many chunks, small files, and more than one segment of log.
fn damaged_soon() -> Result<Cluster> {
    let mut cluster = Cluster::prepare(ABER, 3)?;
    for node in &mut cluster.nodes {
        node.arguments = vec!["--segment-bytes".into(), (2 << 20).to_string()];
    }
    cluster.start_all()?;
    let source = cluster.directory.path().join("many");
    std::fs::create_dir(&source)?;
    for number in 0..150 {
        std::fs::write(
            source.join(format!("f{number}")),
            content("/x", number, 1000),
        )?;
    }
    let node = &cluster.nodes[0];
    node.ok(&["mkdir", "/d"])?;
    ensure!(
        node.put(&content("/d/large", 1, 3_000_000), "/d/large")?
            .code
            == 0
    );
    let source = source.display().to_string();
    for copy in 0..16 {
        node.ok(&["mkdir", &format!("/d/{copy}")])?;
        node.ok(&["put", "-r", &source, &format!("/d/{copy}")])?;
    }
    cluster.settle(SETTLE)?;
    Ok(cluster)
}

/// The node ends with this exit code and says this.
fn refuses(node: &mut Node, code: i32, reason: &str) -> Result<()> {
    node.spawn()?;
    let found = node.wait_until_down(PATIENCE)?;
    ensure!(found == code, "{found}: {}", node.last_words());
    ensure!(node.last_words().contains(reason), "{}", node.last_words());
    Ok(())
}

/// Promises D5, D6: what was durable is never cut, and never served once it is damaged.
#[test]
fn a_damaged_log_is_refused_with_a_clear_word() -> Result<()> {
    let mut cluster = damaged_soon()?;
    let node = &mut cluster.nodes[2];
    node.stop()?;
    let segments = files_in(&node.data.join("log"), ".seg")?;
    ensure!(segments.len() >= 3, "{segments:?}");
    let (sealed, open) = (&segments[0], &segments[segments.len() - 2]);

    let middle = used_bytes(open)? / 2;
    flip(open, middle)?;
    refuses(node, 8, "LOG_DAMAGED")?;
    flip(open, middle)?;

    let whole = std::fs::metadata(open)?.len();
    let bytes = std::fs::read(open)?;
    File::options()
        .write(true)
        .open(open)?
        .set_len(used_bytes(open)? / 2)?;
    refuses(node, 8, "LOG_DAMAGED")?;
    std::fs::write(open, &bytes)?;
    ensure!(std::fs::metadata(open)?.len() == whole);

    flip(&segments[0], 20)?;
    refuses(node, 8, "LOG_DAMAGED")?;
    flip(&segments[0], 20)?;

    // In a full segment, whose index file proves where its frames are, it is found when it is
    // read. Here that is when the index is built anew; nobody is there to give the entry again.
    let middle = used_bytes(sealed)? / 2;
    flip(sealed, middle)?;
    std::fs::remove_dir_all(node.data.join("index"))?;
    for other in &mut cluster.nodes[..2] {
        other.stop()?;
    }
    let node = &mut cluster.nodes[2];
    node.spawn()?;
    ensure!(
        node.wait_until_down(2 * PATIENCE)? == 8,
        "{}",
        node.last_words()
    );
    flip(&segments[0], middle)?;
    cluster.start_all()?;
    cluster.settle(SETTLE)?;
    cluster.equal_mirrors()?;
    Ok(())
}

/// Promise D5: an entry that rotted is found when it is read, and comes back from another node.
#[test]
fn a_damaged_entry_is_fetched_again() -> Result<()> {
    let mut cluster = damaged_soon()?;
    let node = &mut cluster.nodes[2];
    node.stop()?;
    let segments = files_in(&node.data.join("log"), ".seg")?;
    let sealed = &segments[0];
    let used = used_bytes(sealed)?;
    for part in 1..8 {
        flip(sealed, used / 8 * part)?;
    }
    // Everything is replayed, so everything is read.
    std::fs::remove_dir_all(node.data.join("index"))?;
    node.start()?;
    cluster.settle(SETTLE)?;
    cluster.equal_mirrors()?;
    let node = &mut cluster.nodes[2];
    node.ok(&["verify", "--chain"])?;
    // What was fetched stands in the newest segment now; the second one is as it was.
    flip(&segments[1], used_bytes(&segments[1])? / 2)?;
    let ran = node.aber(&["verify", "--chain"])?;
    let said = ran.stdout.clone() + &ran.stderr;
    ensure!(said.contains("ENTRY_DAMAGED"), "{ran:?}");
    let ran = node.aber(&["verify", "--chain"])?;
    ensure!(ran.code == 0 && !ran.stdout.contains("DAMAGED"), "{ran:?}");
    Ok(())
}

/// Promises D5, I1: damaged content is found, never served, and fetched again.
#[test]
fn damaged_content_is_found_and_mended() -> Result<()> {
    let mut cluster = damaged_soon()?;
    let wanted = content("/d/large", 1, 3_000_000);
    let node = &mut cluster.nodes[2];
    node.stop()?;
    let pack = files_in(&node.data.join("chunks"), ".pack")?.remove(0);
    let length = std::fs::metadata(&pack)?.len();
    for part in 1..4 {
        flip(&pack, length / 4 * part)?;
    }
    node.start()?;
    let ran = node.aber(&["verify", "--content", "--mend"])?;
    ensure!(ran.stdout.contains("CHUNK_DAMAGED"), "{ran:?}");
    let ran = node.aber(&["verify", "--content"])?;
    ensure!(
        ran.code == 0 && ran.stdout.contains("0 findings"),
        "{ran:?}"
    );
    let got = cluster.directory.path().join("got");
    let node = &cluster.nodes[2];
    node.ok(&["get", "/d/large", &got.display().to_string()])?;
    ensure!(std::fs::read(got)? == wanted);
    Ok(())
}

/// Promise D5: the index is only an index.
#[test]
fn a_lost_or_damaged_index_is_rebuilt() -> Result<()> {
    let mut cluster = damaged_soon()?;
    let digests = cluster.settle(SETTLE)?;
    for damage in [true, false] {
        let node = &mut cluster.nodes[2];
        node.stop()?;
        let index = node.data.join("index");
        if damage {
            for file in files_in(&index, "")? {
                let length = std::fs::metadata(&file)?.len();
                flip(&file, length.saturating_sub(8) / 3)?;
            }
        } else {
            std::fs::remove_dir_all(index)?;
        }
        node.start()?;
        let status = node.status()?;
        if damage {
            ensure!(status.to_string().contains("index was rebuilt"), "{status}");
        }
        let again = cluster.settle(SETTLE)?;
        let views = |digests: &[(u64, String)]| -> Vec<String> {
            let last = |(_, text): &(u64, String)| text.rsplit(' ').next().unwrap_or("").to_owned();
            digests.iter().map(last).collect()
        };
        // Leaders may have changed, which adds entries without changing a view's content.
        ensure!(again.len() == digests.len() && !views(&again).is_empty());
        cluster.equal_mirrors()?;
    }
    Ok(())
}

/// Promises I1, M1, M3: bytes of the mirror that changed without a trace.
#[test]
fn a_damaged_mirror_is_found_and_written_anew() -> Result<()> {
    let mut cluster = damaged_soon()?;
    let wanted = content("/d/large", 1, 3_000_000);
    let node = &cluster.nodes[2];
    let (large, small) = (
        node.mirror().join("d/large"),
        node.mirror().join("d/1/many/f7"),
    );
    let small_bytes = std::fs::read(&small)?;
    for path in [&large, &small] {
        let before = std::fs::metadata(path)?;
        flip(path, before.len() / 2)?;
        let after = std::fs::metadata(path)?;
        ensure!((before.size(), before.mtime_nsec()) == (after.size(), after.mtime_nsec()));
    }
    let ran = node.aber(&["verify", "--mirror"])?;
    ensure!(ran.stdout.contains("2 findings, 2 mended"), "{ran:?}");
    ensure!(ran.stdout.matches("FOLDER_DIFFERS").count() == 2, "{ran:?}");
    ensure!(std::fs::read(&large)? == wanted && std::fs::read(&small)? == small_bytes);
    let ran = node.aber(&["verify", "--mirror"])?;
    ensure!(
        ran.code == 0 && ran.stdout.contains("0 findings"),
        "{ran:?}"
    );

    let node = &mut cluster.nodes[2];
    node.stop()?;
    for path in [&large, &small] {
        std::fs::remove_file(path)?;
    }
    std::fs::remove_dir_all(node.mirror().join("d/2"))?;
    node.start()?;
    cluster.nodes[2].ok(&["verify", "--mirror"])?;
    cluster.settle(SETTLE)?;
    cluster.equal_mirrors()?;
    ensure!(std::fs::read(&large)? == wanted);
    Ok(())
}
