//! Nodes that compare what they have: their views (promise M4), their histories (promise I4).

use super::ABER;
use aber_log::env::Kv;
use aber_log::env::kv::{KvBatch, prefix_end};
use aber_node::env::kv::SledKv;
use aber_tests::process::{Cluster, Node, PATIENCE, tree};
use anyhow::{Context, Result, ensure};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// A question for heads goes out every 5 s, to each node; a node that ends needs some, too.
const NOTICED: Duration = Duration::from_secs(60);
/// How a node ends that builds its index anew at the next start.
const EXIT_INDEX: i32 = 75;

/// Puts files until the view has been compared anew.
fn write_on(node: &Node, from: u64) -> Result<()> {
    for number in from..from + 10 {
        let path = format!("/d/f{number}");
        let ran = node.put(path.as_bytes(), &path)?;
        ensure!(ran.code == 0, "{ran:?}");
    }
    Ok(())
}

/// Changes one bucket of the digest, as a faulty memory would.
fn damage_view(node: &Node, partition: u64) -> Result<()> {
    const BUCKET_TABLE: u8 = 10;
    #[expect(clippy::big_endian_bytes, reason = "keys sort by bytes")]
    let partition = u32::try_from(partition)?.to_be_bytes();
    let kv = SledKv::open(&node.data.join("index"))?;
    let mut prefix = vec![b'V'];
    prefix.extend_from_slice(&partition);
    prefix.push(BUCKET_TABLE);
    let mut rows = kv.scan(&prefix, &prefix_end(&prefix), 1)?;
    let (key, value) = rows.pop().context("no bucket")?;
    let mut value = value.to_vec();
    if let Some(byte) = value.first_mut() {
        *byte ^= 1;
    }
    let mut batch = KvBatch::default();
    batch.put(key, value);
    kv.commit(batch)?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    Ok(runtime.block_on(kv.flush())?)
}

/// Three nodes, of which the last found out that its view is wrong, and ended; and of which partition.
fn outvoted() -> Result<(Cluster, u64)> {
    let mut cluster = Cluster::prepare(ABER, 3)?;
    for node in &mut cluster.nodes {
        node.arguments = vec!["--digest-every".into(), "8".into()];
    }
    cluster.start_all()?;
    cluster.nodes[0].ok(&["mkdir", "/d"])?;
    write_on(&cluster.nodes[0], 0)?;
    cluster.settle(PATIENCE)?;
    let partition = cluster.nodes[0].partition_of("d")?["id"]
        .as_u64()
        .context("no number")?;
    cluster.nodes[2].stop()?;
    damage_view(&cluster.nodes[2], partition)?;
    cluster.nodes[2].start()?;
    write_on(&cluster.nodes[0], 10)?;
    let code = cluster.nodes[2].wait_until_down(NOTICED)?;
    ensure!(code == EXIT_INDEX, "it ended with {code}");
    Ok((cluster, partition))
}

/// Promise M4: a node whose view is not that of the others finds out by itself, and mends it.
#[test]
fn m4_a_view_that_differs_is_built_anew() -> Result<()> {
    let (mut cluster, _) = outvoted()?;
    let words = cluster.nodes[2].last_words();
    ensure!(words.contains("another tree of partition"), "{words}");

    cluster.nodes[2].start()?;
    cluster.settle(PATIENCE)?;
    cluster.equal_mirrors()?;
    let digest = |node: &Node| -> Result<_> { Ok(node.partition_of("d")?["view_digest"].clone()) };
    ensure!(digest(&cluster.nodes[2])? == digest(&cluster.nodes[0])?);
    let status = cluster.nodes[2].status()?;
    ensure!(status.to_string().contains("REPAIRED"), "{status}");
    // The others said so meanwhile, and say so no more.
    write_on(&cluster.nodes[0], 20)?;
    let until = Instant::now() + NOTICED;
    while cluster.nodes[0]
        .status()?
        .to_string()
        .contains("OTHER_VIEW")
    {
        ensure!(Instant::now() < until, "{}", cluster.nodes[0].status()?);
        std::thread::sleep(Duration::from_millis(500));
    }
    Ok(())
}

/// Promise M4: a view that still differs after the index was built anew is not shown, and nothing is
/// written by it; what else the node has is.
#[test]
fn m4_a_view_that_stays_wrong_is_not_served() -> Result<()> {
    let (mut cluster, partition) = outvoted()?;
    // It builds its index anew while it hears of nobody, and is wrong again.
    cluster.nodes[0].stop()?;
    cluster.nodes[1].stop()?;
    cluster.nodes[2].start()?;
    cluster.nodes[2].stop()?;
    damage_view(&cluster.nodes[2], partition)?;
    cluster.start_all()?;
    write_on(&cluster.nodes[0], 20)?;
    let wrong = &cluster.nodes[2];
    let until = Instant::now() + NOTICED;
    while !wrong.status()?.to_string().contains("does not serve") {
        ensure!(Instant::now() < until, "{}", wrong.status()?);
        std::thread::sleep(Duration::from_millis(500));
    }
    for call in [
        &["ls", "/d"][..],
        &["cat", "/d/f1"],
        &["rm", "/d/f1"],
        &["get", "-r", "/d", "copy"],
        &["diff", "1m", "/d"],
    ] {
        let ran = wrong.aber(call)?;
        ensure!(ran.reason() == Some("OTHER_VIEW"), "{call:?}: {ran:?}");
    }
    wrong.ok(&["ls", "/"])?;
    cluster.nodes[0].ok(&["cat", "/d/f1"])?;

    // As it says: without its index it builds a right one, and serves it.
    cluster.nodes[2].stop()?;
    std::fs::remove_dir_all(cluster.nodes[2].data.join("index"))?;
    cluster.nodes[2].start()?;
    cluster.settle(PATIENCE)?;
    cluster.nodes[2].ok(&["cat", "/d/f1"])?;
    Ok(())
}

/// Promise I4: a leader that was put back from an older copy tells another history than the one its
/// follower has. The follower says so, and goes on saying so.
#[test]
fn i4_two_histories_are_an_alarm() -> Result<()> {
    let mut cluster = Cluster::found(ABER)?;
    cluster.grow("n2", &["--no-vote"])?;
    let copy = cluster.directory.path().join("copy");
    let put = |node: &Node, path: &str| -> Result<()> {
        let ran = node.put(path.as_bytes(), path)?;
        ensure!(ran.code == 0, "{ran:?}");
        Ok(())
    };
    put(&cluster.nodes[0], "/a")?;
    cluster.settle(PATIENCE)?;
    cluster.nodes[0].stop()?;
    copy_all(&cluster.nodes[0].data, &copy)?;
    cluster.nodes[0].start()?;
    put(&cluster.nodes[0], "/b")?;
    cluster.settle(PATIENCE)?;
    cluster.nodes[0].stop()?;
    tree::make_writable(&cluster.nodes[0].data);
    std::fs::remove_dir_all(&cluster.nodes[0].data)?;
    copy_all(&copy, &cluster.nodes[0].data)?;
    cluster.nodes[0].start()?;
    for number in 0..5 {
        put(&cluster.nodes[0], &format!("/c{number}"))?;
    }
    let alarm = |node: &Node| -> Result<bool> {
        let status = node.status()?;
        Ok(status["health"] == "failed" && status.to_string().contains("TWO_HISTORIES"))
    };
    let until = Instant::now() + NOTICED;
    while !alarm(&cluster.nodes[1])? {
        ensure!(Instant::now() < until, "{}", cluster.nodes[1].status()?);
        std::thread::sleep(Duration::from_millis(500));
    }
    ensure!(cluster.nodes[1].mirror().join("b").exists(), "it was taken");
    cluster.nodes[1].kill()?;
    cluster.nodes[1].start()?;
    ensure!(alarm(&cluster.nodes[1])?, "{}", cluster.nodes[1].status()?);
    Ok(())
}

fn copy_all(from: &Path, to: &Path) -> Result<()> {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status()?;
    ensure!(copied.success(), "cp -a {from:?} {to:?}: {copied}");
    Ok(())
}
