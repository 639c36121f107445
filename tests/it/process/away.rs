//! Nodes that are away for a while.

use super::ABER;
use aber_tests::process::content::content;
use aber_tests::process::{Cluster, PATIENCE, tree};
use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use std::time::{Duration, Instant};

/// Longer than a command waits for something to move.
const STALL: Duration = Duration::from_secs(90);

fn expect_code(ran: &aber_tests::process::run::Ran, code: i32) -> Result<()> {
    ensure!(ran.code == code, "{code} was expected: {ran:?}");
    Ok(())
}

/// Promises A1, A2, A3, D2.
#[test]
fn one_away_writes_go_on_two_away_they_wait() -> Result<()> {
    let mut cluster = Cluster::start(ABER, 3)?;
    let [first, before] = ["/d/first", "/d/before"].map(|path| content(path, 1, 100_000));
    cluster.nodes[0].ok(&["mkdir", "/d"])?;
    expect_code(&cluster.nodes[1].put(&first, "/d/first")?, 0)?;
    cluster.settle(PATIENCE)?;

    cluster.nodes[2].kill()?;
    for (at, path) in [(0, "/d/before"), (1, "/d/other")] {
        let ran = cluster.nodes[at].put(&before, path)?;
        expect_code(&ran, 0)?;
        ensure!(ran.stdout.contains("committed"), "{ran:?}");
    }
    cluster.settle(PATIENCE)?;

    cluster.nodes[1].kill()?;
    let waiting = content("/d/waits", 1, 50_000);
    let alone = &cluster.nodes[0];
    ensure!(
        alone.ok(&["cat", "/d/before"])?.into_bytes()
            == String::from_utf8_lossy(&before).as_bytes()
    );
    ensure!(alone.ok(&["ls", "/d"])? == "before\nfirst\nother\n");
    ensure!(std::fs::read(alone.mirror().join("d/first"))? == first);
    expect_code(
        &alone.aber_with(
            &["put", "--ack", "queued", "-", "/d/queued"],
            b"q",
            PATIENCE,
        )?,
        0,
    )?;
    let began = Instant::now();
    let ran = alone.aber_with(&["put", "-", "/d/waits"], &waiting, STALL)?;
    expect_code(&ran, 7)?;
    ensure!(ran.stdout.contains("queued"), "{ran:?}");
    ensure!(began.elapsed() < STALL / 2, "{:?}", began.elapsed());
    let status = alone.status()?;
    ensure!(
        status["health"] == "queuing" && status["outbox_changes"] == 2,
        "{status}"
    );
    ensure!(status.to_string().contains("NO_MAJORITY"), "{status}");
    expect_code(&alone.aber(&["status", "--check"])?, 2)?;
    ensure!(
        !alone.mirror().join("d/waits").exists(),
        "it is shown before it is ordered"
    );

    // What waits survives a death of the node it waits at.
    cluster.nodes[0].kill()?;
    cluster.nodes[0].start()?;
    ensure!(cluster.nodes[0].status()?["outbox_changes"] == 2);
    cluster.start_all()?;
    cluster.settle(STALL)?;
    cluster.equal_mirrors()?;
    for (path, bytes) in [
        ("d/waits", &waiting[..]),
        ("d/queued", b"q"),
        ("d/other", &before),
    ] {
        ensure!(
            std::fs::read(cluster.nodes[2].mirror().join(path))? == bytes,
            "{path}"
        );
    }
    let log = cluster.nodes[1].ok(&["log", "/d/waits"])?;
    ensure!(log.lines().count() == 1, "it landed more than once: {log}");
    Ok(())
}

/// Promises A2, D2: many large changes wait through a death of their node, and land later.
#[test]
fn a_large_backlog_waits_and_lands() -> Result<()> {
    const FILES: usize = 8000;
    let mut cluster = Cluster::start(ABER, 3)?;
    cluster.nodes[0].ok(&["mkdir", "/d"])?;
    cluster.settle(PATIENCE)?;
    cluster.nodes[1].kill()?;
    cluster.nodes[2].kill()?;
    let source = cluster.directory.path().join("many");
    std::fs::create_dir(&source)?;
    for number in 0..FILES {
        // Short contents travel in the change: together more than the notes of a segment may take.
        let text = format!("{number} ").repeat(140);
        std::fs::write(source.join(number.to_string()), text)?;
    }
    let source = source.display().to_string();
    let alone = &cluster.nodes[0];
    let ran = alone.aber(&["put", "-r", &source, "/d/", "--ack", "queued"])?;
    expect_code(&ran, 0)?;
    let waiting = alone.status()?["outbox_changes"].as_u64().unwrap_or(0);
    ensure!(waiting > 6, "{waiting}");
    cluster.nodes[0].kill()?;
    cluster.start_all()?;
    cluster.settle(STALL)?;
    let listing = cluster.equal_mirrors()?;
    // The directories, too.
    ensure!(listing.len() == FILES + 2, "{}", listing.len());
    Ok(())
}

/// Promise A5: a node that was away longer than the log reaches.
///
/// A leader keeps what it was about to send to a voter that is away, so the log of another voter is
/// the one that begins later: that one has to lead when the node is back.
#[test]
fn a_node_far_behind_catches_up_from_a_snapshot() -> Result<()> {
    let mut cluster = Cluster::prepare(ABER, 3)?;
    for node in &mut cluster.nodes {
        node.arguments = vec!["--snapshot-every".into(), "16".into()];
    }
    cluster.start_all()?;
    cluster.nodes[0].ok(&["mkdir", "/d"])?;
    cluster.settle(PATIENCE)?;
    cluster.nodes[2].kill()?;
    for number in 0..80 {
        let path = format!("/d/f{}", number % 30);
        expect_code(
            &cluster.nodes[number % 2].put(&content(&path, number as u64, 3000), &path)?,
            0,
        )?;
    }
    cluster.nodes[0].ok(&["rm", "/d/f0"])?;
    let leader = usize::from(cluster.nodes[0].partition_of("d")?["leader"] == "n2");
    cluster.nodes[leader].kill()?;
    cluster.nodes[2].start()?;
    let until = Instant::now() + STALL;
    loop {
        let row = cluster.nodes[2].partition_of("d")?;
        if row["oldest_index"].as_u64() > Some(16) {
            break;
        }
        let is_early = Instant::now() < until;
        ensure!(is_early, "it did not go on from a snapshot: {row}");
        std::thread::sleep(Duration::from_millis(100));
    }
    cluster.nodes[leader].start()?;
    cluster.settle(STALL)?;
    let listing = cluster.equal_mirrors()?;
    ensure!(listing.len() == 30, "{listing:?}");
    for node in &cluster.nodes {
        node.ok(&["verify"])?;
    }
    // Promise I3: what the snapshot skipped comes back, and then the past is told as elsewhere.
    let partition = cluster.nodes[0].partition_of("d")?["id"].clone();
    let early = format!("{partition}:20");
    let list = ["ls", "/d", "--at", &early];
    let told = cluster.nodes[0].ok(&list)?;
    ensure!(told.lines().count() > 5, "{told}");
    let until = Instant::now() + STALL;
    loop {
        let ran = cluster.nodes[2].aber(&list)?;
        if ran.code == 0 {
            ensure!(ran.stdout == told, "{told:?} there, {ran:?} here");
            return Ok(());
        }
        ensure!(ran.reason() == Some("HISTORY_FORGOTTEN"), "{ran:?}");
        ensure!(Instant::now() < until, "it is not told: {ran:?}");
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// A materializer of its own shows what the mirror of the node it follows shows (promise I3).
#[test]
fn a_materializer_elsewhere_shows_the_same() -> Result<()> {
    let cluster = Cluster::start(ABER, 3)?;
    let node = &cluster.nodes[0];
    let (from, into) = (
        node.data.display().to_string(),
        cluster.directory.path().join("into"),
    );
    let into_text = into.display().to_string();
    node.ok(&["mkdir", "-p", "/d/e"])?;
    for (path, size) in [("/a", 10), ("/d/b", 300_000), ("/d/e/c", 2_000_000)] {
        expect_code(&node.put(&content(path, 1, size), path)?, 0)?;
    }
    let follow = || -> Result<()> {
        cluster.settle(PATIENCE)?;
        node.ok(&[
            "materialize",
            "--once",
            "--from",
            &from,
            "--into",
            &into_text,
        ])?;
        tree::ensure_equal(&tree::list(&node.mirror())?, &tree::list(&into)?)
    };
    follow()?;
    expect_code(&node.put(&content("/a", 2, 5000), "/a")?, 0)?;
    node.ok(&["rm", "/d/b"])?;
    node.ok(&["mv", "/d/e", "/d/f"])?;
    follow()?;
    std::fs::remove_dir_all(into.join(".aber/state"))?;
    node.ok(&["mkdir", "/d/g"])?;
    follow()
}

/// Promise B1, in the small: memory does not follow the size of a file.
#[test]
fn a_large_file_passes_through_little_memory() -> Result<()> {
    const FILE_BYTES: usize = 256 << 20;
    const BASE_BYTES: u64 = 256 << 20;
    const LED_BYTES: u64 = 64 << 20;
    let cluster = Cluster::start(ABER, 3)?;
    let source = cluster.directory.path().join("large");
    std::fs::write(&source, content("/large", 1, FILE_BYTES))?;
    let node = &cluster.nodes[0];
    node.ok(&["put", &source.display().to_string(), "/large"])?;
    cluster.settle(STALL * 2)?;
    cluster.equal_mirrors()?;
    let status = node.status()?;
    for (node, member) in cluster
        .nodes
        .iter()
        .zip(status["members"].as_array().into_iter().flatten())
    {
        let led = member["leads"].as_array().map_or(0, Vec::len) as u64;
        let (peak, bound) = (node.peak_memory_bytes()?, BASE_BYTES + led * LED_BYTES);
        eprintln!("{}: {} MiB of {} MiB", node.name, peak >> 20, bound >> 20);
        ensure!(
            peak <= bound,
            "{}: {peak} bytes, {bound} are promised",
            node.name
        );
    }
    Ok(())
}

/// Promises A1, A5: a node that hangs is a node that is away, the leader included.
#[test]
fn a_frozen_node_holds_nobody_up() -> Result<()> {
    let cluster = Cluster::start(ABER, 3)?;
    cluster.nodes[0].ok(&["mkdir", "/d"])?;
    cluster.settle(PATIENCE)?;
    for (frozen, node) in cluster.nodes.iter().enumerate() {
        let id = node.process_id().and_then(|id| i32::try_from(id).ok());
        let id = id.and_then(Pid::from_raw).context("it runs")?;
        kill_process(id, Signal::STOP)?;
        let mut wrote = Vec::new();
        for at in (0..3).filter(|at| *at != frozen) {
            let path = format!("/d/f{frozen}{at}");
            wrote.push(cluster.nodes[at].put(&content(&path, 1, 50_000), &path)?);
        }
        // It goes on whatever was found.
        kill_process(id, Signal::CONT)?;
        let all_done = wrote.iter().all(|ran| ran.code == 0);
        ensure!(all_done, "{} was frozen: {wrote:?}", node.name);
    }
    cluster.settle(PATIENCE)?;
    ensure!(cluster.equal_mirrors()?.len() == 7);
    Ok(())
}
