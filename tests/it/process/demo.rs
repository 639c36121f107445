//! `aber demo`, as a newcomer runs it, and with nodes that die while a tree is put.

use super::ABER;
use aber_tests::process::PATIENCE;
use aber_tests::process::content::content;
use aber_tests::process::run::run;
use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::{scope, sleep};
use std::time::Duration;

fn make_tree(root: &Path) -> Result<()> {
    for directory in 0..20 {
        let place = root.join(format!("d{}/e{directory}", directory % 3));
        std::fs::create_dir_all(&place)?;
        for file in 0..40 {
            let size = [0, 70, 900, 4_000, 60_000][file % 5];
            std::fs::write(place.join(format!("f{file}")), content("/f", 1, size))?;
        }
        symlink("f1", place.join("link"))?;
    }
    std::fs::create_dir(root.join("empty"))?;
    std::fs::write(root.join("large"), content("/large", 1, 40 << 20))?;
    Ok(())
}

/// The process of a demo's node, as the node tells it.
fn process_of(data: &Path, scratch: &Path) -> Option<Pid> {
    let mut command = Command::new(ABER);
    command.args(["status", "--json"]).env("ABER_DATA", data);
    let ran = run(command, scratch, b"", PATIENCE).ok()?;
    let id = ran.result().ok()?["process_id"].as_i64()?;
    Pid::from_raw(i32::try_from(id).ok()?)
}

/// Promises D1, D6, M1: every mirror is equal to the tree, whoever died meanwhile.
#[test]
fn a_demo_whose_nodes_die_ends_with_equal_mirrors() -> Result<()> {
    let directory = tempfile::Builder::new().prefix("aber-it-").tempdir()?;
    let (tree, data) = (directory.path().join("tree"), directory.path().join("data"));
    make_tree(&tree)?;
    let mut command = Command::new(ABER);
    command
        .args([
            "demo",
            "--nodes",
            "3",
            "--exit",
            "--timeout",
            "150s",
            "--put",
        ])
        .arg(&tree)
        .arg("--data")
        .arg(&data);
    let is_over = AtomicBool::new(false);
    let (ran, killed) = scope(|scope| {
        let killer = scope.spawn(|| {
            let mut killed = 0;
            while !is_over.load(SeqCst) && killed < 8 {
                sleep(Duration::from_millis(700));
                let node = data.join(format!("n{}", killed % 3 + 1));
                let process = process_of(&node, directory.path());
                killed +=
                    i32::from(process.is_some_and(|id| kill_process(id, Signal::KILL).is_ok()));
            }
            killed
        });
        let ran = run(command, directory.path(), b"", PATIENCE * 3);
        is_over.store(true, SeqCst);
        (ran, killer.join())
    });
    let (ran, killed) = (ran?, killed.ok().context("the killer failed")?);
    ensure!(ran.code == 0, "{killed} killed: {ran:?}");
    ensure!(ran.stdout.contains("3 mirrors are equal to"), "{ran:?}");
    ensure!(killed >= 2, "only {killed} were killed");
    Ok(())
}
