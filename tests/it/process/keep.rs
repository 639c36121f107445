//! Tags, retention and pruning, on real nodes.

use super::ABER;
use aber_tests::process::{Cluster, Node};
use anyhow::{Context, Result, ensure};
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

const SETTLE: Duration = Duration::from_secs(90);
/// Content that makes several packs and can be told apart.
const BYTES: usize = 3 << 20;

/// Letters that do not compress, and differ with `seed`.
fn letters(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut letter = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        b'0' + u8::try_from(state % 64).unwrap_or(0)
    };
    (0..bytes).map(|_| letter()).collect()
}

/// Packs are small, and what nothing needs goes at once.
fn prepare(count: usize) -> Result<Cluster> {
    let mut cluster = Cluster::prepare(ABER, count)?;
    for node in &mut cluster.nodes {
        let options = ["--grace", "0", "--pack-bytes", "2097152"];
        node.arguments = options.map(str::to_owned).to_vec();
    }
    Ok(cluster)
}

fn put(node: &Node, bytes: &[u8], path: &str) -> Result<()> {
    let ran = node.aber_with(&["put", "-p", "-", path], bytes, SETTLE)?;
    ensure!(ran.code == 0, "put {path}: {}", ran.stderr);
    Ok(())
}

fn is_shown(node: &Node, arguments: &[&str], bytes: &[u8]) -> Result<()> {
    let ran = node.aber(arguments)?;
    ensure!(ran.code == 0, "{arguments:?}: {}", ran.stderr);
    ensure!(ran.stdout.as_bytes() == bytes, "{arguments:?}: other bytes");
    Ok(())
}

fn is_refused(node: &Node, arguments: &[&str], reason: &str) -> Result<()> {
    let ran = node.aber(arguments)?;
    ensure!(ran.code != 0, "{arguments:?} was answered");
    ensure!(ran.stderr.contains(reason), "{arguments:?}: {}", ran.stderr);
    Ok(())
}

fn pruned(node: &Node, more: &[&str]) -> Result<serde_json::Value> {
    let ran = node.aber(&[&["prune", "--json"], more].concat())?;
    ensure!(ran.code == 0, "prune {more:?}: {}", ran.stdout);
    ran.result()
}

/// Versions go, and their bytes leave the disk; what a tag shows stays; a node that was not there
/// meanwhile gets along without what went.
#[test]
fn d8_versions_go_and_a_tag_keeps_one() -> Result<()> {
    let mut cluster = prepare(3)?;
    for node in &mut cluster.nodes[..2] {
        node.spawn()?;
    }
    for node in &mut cluster.nodes[..2] {
        node.wait_until_up()?;
    }
    // The author keeps what it sent pinned for a while: the other one shows what is freed.
    let [one, author, _] = &cluster.nodes[..] else {
        unreachable!("three nodes")
    };
    let versions: Vec<Vec<u8>> = (1..=3).map(|seed| letters(seed, BYTES)).collect();
    put(author, &versions[0], "/v/big")?;
    cluster.settle(SETTLE)?;
    one.ok(&["tag", "first", "--comment", "as it began"])?;
    put(author, &versions[1], "/v/big")?;
    cluster.settle(SETTLE)?;
    let volume = one.partition_of("v")?;
    let second = format!("{}:{}", volume["id"], volume["applied_index"]);
    put(author, &versions[2], "/v/big")?;
    put(author, b"top", "/top")?;
    cluster.settle(SETTLE)?;
    ensure!(one.ok(&["tag"])?.starts_with("first "));
    is_shown(one, &["cat", "/v/big", "--at", "-1"], &versions[1])?;
    is_refused(one, &["tag", "first", "now"], "NAME_TAKEN")?;

    ensure!(pruned(one, &["--dry-run"])?["versions_count"] == 0);
    one.ok(&["volume", "set", "/v", "--keep", "versions=1"])?;
    ensure!(one.ok(&["volume"])?.contains("keeps 1 version of a file"));
    let plan = pruned(one, &["--dry-run"])?;
    ensure!(
        plan["versions_count"] == 1 && plan["content_bytes"] == BYTES,
        "{plan}"
    );
    is_shown(one, &["cat", "/v/big", "--at", "-1"], &versions[1])?;
    let before = one.status()?["store_bytes"].as_u64().unwrap_or(0);
    let done = pruned(one, &[])?;
    ensure!(done["versions_count"] == 1, "{done}");
    let freed = done["freed_bytes"].as_u64().unwrap_or(0);
    ensure!(freed > (1 << 20), "{done}");
    let after = one.status()?["store_bytes"].as_u64().unwrap_or(0);
    ensure!(before - after > (1 << 20), "{before} -> {after}");

    is_refused(one, &["cat", "/v/big", "--at", "-1"], "HISTORY_FORGOTTEN")?;
    is_shown(one, &["cat", "/v/big", "--at", "first"], &versions[0])?;
    // What held it then goes back but for that file, which is named.
    for back in [
        ["restore", "/v", "--at", &second, "--dry-run"],
        ["rollback", "/v", "--to", &second, "--dry-run"],
    ] {
        // Exit code 3: there is nothing else to do.
        let plan = one.aber(&back)?.stdout;
        let is_named = plan.contains("/v/big") && plan.contains("its content is not kept any more");
        ensure!(is_named, "{back:?}: {plan}");
    }
    is_shown(one, &["cat", "/v/big"], &versions[2])?;
    // The other one has not pruned yet, and still can be asked.
    is_shown(author, &["cat", "/v/big", "--at", "-1"], &versions[1])?;
    let digests = cluster.settle(SETTLE)?;
    pruned(&cluster.nodes[1], &[])?;
    is_refused(
        &cluster.nodes[1],
        &["cat", "/v/big", "--at", "-1"],
        "HISTORY_FORGOTTEN",
    )?;
    ensure!(
        cluster.settle(SETTLE)? == digests,
        "a view's digest changed"
    );

    // Whoever was away all the time reads of versions that nobody has any more.
    cluster.nodes[2].start()?;
    cluster.settle(SETTLE)?;
    cluster.equal_mirrors()?;
    is_shown(&cluster.nodes[2], &["cat", "/v/big"], &versions[2])?;
    is_shown(
        &cluster.nodes[2],
        &["cat", "/v/big", "--at", "first"],
        &versions[0],
    )?;
    cluster.nodes[0].ok(&["verify"])?;

    let one = &cluster.nodes[0];
    one.ok(&["tag", "rm", "first"])?;
    ensure!(pruned(one, &[])?["versions_count"] == 1);
    is_refused(one, &["cat", "/v/big", "--at", "first"], "TAG_UNKNOWN")?;
    is_shown(one, &["cat", "/v/big"], &versions[2])
}

/// By age names go too, up to the volume's horizon; other volumes and tags are read as before.
#[test]
fn d8_an_age_is_a_horizon() -> Result<()> {
    let mut cluster = prepare(1)?;
    cluster.start_all()?;
    let node = &cluster.nodes[0];
    put(node, b"old", "/v/a")?;
    put(node, b"other", "/w/a")?;
    node.ok(&["tag", "kept"])?;
    node.ok(&["mv", "/v/a", "/v/b"])?;
    put(node, b"new", "/v/b")?;
    let log = node.aber(&["log", "/v", "--json"])?;
    let entries: Vec<serde_json::Value> = log
        .stdout
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    let entry = entries.iter().filter_map(|line| line["id"].as_str()).next();
    let before = format!("{}-", entry.unwrap_or_default());
    is_shown(node, &["cat", "/v/b", "--at", &before], b"old")?;
    sleep(Duration::from_millis(1200));
    put(node, b"newest", "/v/c")?;
    put(node, b"other 2", "/w/a")?;
    node.ok(&["volume", "set", "/v", "--keep", "1s"])?;
    ensure!(
        pruned(node, &[])?["versions_count"] == 0,
        "the tag shows it"
    );
    for read in [
        &["cat", "/v/b", "--at", &before][..],
        &["ls", "/v", "--at", &before],
        &["ls", "-R", "/", "--at", &before],
        &["rollback", "/v", "--to", &before, "--dry-run"],
        &["rollback", "--to", &before, "--dry-run"],
    ] {
        is_refused(node, read, "HISTORY_FORGOTTEN")?;
    }
    is_shown(node, &["cat", "/v/a", "--at", "kept"], b"old")?;
    is_shown(node, &["cat", "/w/a", "--at", &before], b"other")?;
    node.ok(&["tag", "rm", "kept"])?;
    ensure!(pruned(node, &[])?["versions_count"] == 1);
    is_shown(node, &["cat", "/v/b"], b"new")?;
    is_shown(node, &["cat", "/w/a", "--at", "-1"], b"other")
}

/// Killed anywhere in the middle, a prune is done the next time, and nothing else is gone.
#[test]
fn d8_a_prune_that_is_killed_is_finished_later() -> Result<()> {
    let mut cluster = prepare(1)?;
    cluster.start_all()?;
    let files = 400;
    let source = cluster.directory.path().join("source");
    std::fs::create_dir(&source)?;
    cluster.nodes[0].ok(&["mkdir", "/v"])?;
    for round in 1..=3_u64 {
        for file in 0..files {
            let bytes = letters(round * 1000 + file, 2000);
            std::fs::write(source.join(format!("{file}")), bytes)?;
        }
        let from = source.display().to_string();
        cluster.nodes[0].ok(&["put", "-r", &from, "/v"])?;
    }
    let node = &mut cluster.nodes[0];
    node.ok(&["volume", "set", "/v", "--keep", "versions=1"])?;
    let planned = pruned(node, &["--dry-run"])?["versions_count"].as_u64();
    ensure!(planned == Some(2 * files), "{planned:?}");
    let mut gone = 0;
    for wait_ms in [3, 8, 15, 25] {
        let mut prune = node
            .command(&["prune"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        sleep(Duration::from_millis(wait_ms));
        node.kill()?;
        let _ended = prune.wait()?;
        node.start()?;
        let left = pruned(node, &["--dry-run"])?["versions_count"]
            .as_u64()
            .unwrap_or(0);
        ensure!(left + gone <= 2 * files, "{left} came back");
        gone = 2 * files - left;
    }
    pruned(node, &[])?;
    ensure!(pruned(node, &["--dry-run"])?["versions_count"] == 0);
    ensure!(pruned(node, &[])?["versions_count"] == 0);
    node.ok(&["verify"])?;
    let end = Instant::now() + SETTLE;
    for file in 0..files {
        let shown = std::fs::read(node.mirror().join(format!("v/source/{file}")))?;
        ensure!(shown == letters(3000 + file, 2000), "file {file}");
        ensure!(Instant::now() < end, "too slow");
    }
    cluster.settle(SETTLE)?;
    Ok(())
}

/// A node that started from a snapshot tells of what came before it once it has read the entries
/// again, and prunes that then.
fn tells_after_pruning(node: &Node, before: &str) -> Result<()> {
    let end = Instant::now() + SETTLE;
    loop {
        pruned(node, &[])?;
        match oldest_told(node, "v", before) {
            Ok(()) => return Ok(()),
            Err(why) => ensure!(Instant::now() < end, "{why:#}"),
        }
        sleep(Duration::from_millis(200));
    }
}

/// A moment before what a node tells of a volume is refused, and the oldest that it tells is named:
/// it can be read there, and nothing before it.
fn oldest_told(node: &Node, volume: &str, before: &str) -> Result<()> {
    let path = format!("/{volume}");
    let ran = node.aber(&["ls", &path, "--at", before, "--json"])?;
    let said = || format!("{}: {before}: {ran:?}", node.name);
    ensure!(ran.code != 0, "{}", said());
    let error = ran.result()?;
    ensure!(error["reason"] == "HISTORY_FORGOTTEN", "{}", said());
    let named = |key: &str| error["metadata"][key].as_str().with_context(said);
    let (oldest, time) = (named("oldest")?.parse::<u64>()?, named("oldestTime")?);
    let why = error["why"].as_str().unwrap_or_default();
    ensure!(why.contains(&format!("is {oldest}, of {time}")), "{why}");
    let partition = &node.partition_of(volume)?["id"];
    for moment in [&format!("{partition}:{oldest}"), time] {
        let ran = node.aber(&["ls", &path, "--at", moment])?;
        ensure!(ran.code == 0, "{moment}: {ran:?} of {}", said());
    }
    let older = format!("{partition}:{}", oldest - 1);
    is_refused(node, &["ls", &path, "--at", &older], "HISTORY_FORGOTTEN")
}

/// A round of versions of the same files, what is older than a second then, and the entry that
/// ended the round before.
fn write_round(cluster: &Cluster, round: u64, with_names: bool) -> Result<String> {
    const FILES: u64 = 60;
    let node = &cluster.nodes[0];
    let volume = node.partition_of("v")?;
    let before = format!("{}:{}", volume["id"], volume["applied_index"]);
    let source = cluster.directory.path().join("source");
    std::fs::create_dir_all(&source)?;
    for file in 0..FILES {
        let bytes = letters(round * 1000 + file, 40_000);
        std::fs::write(source.join(format!("{file}")), bytes)?;
    }
    node.ok(&["put", "-r", &source.display().to_string(), "/v"])?;
    if with_names {
        // So many entries that a newcomer starts from a snapshot.
        let names: Vec<String> = (0..300).map(|n| format!("/v/{round}-{n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        node.ok(&[&["mkdir"], &names[..]].concat())?;
        node.ok(&[&["rm"], &names[..290]].concat())?;
    }
    sleep(Duration::from_millis(1200));
    put(node, &round.to_le_bytes(), "/v/last")?;
    Ok(before)
}

/// What a newcomer reads is pruned meanwhile, by who sends it and by itself: it gets all that is
/// there, by entries or by a snapshot, and tells of no more than is kept.
#[test]
fn d8_a_newcomer_comes_while_what_it_reads_is_pruned() -> Result<()> {
    let mut cluster = Cluster::found(ABER)?;
    let founder = &mut cluster.nodes[0];
    founder.stop()?;
    let options = ["--grace", "0", "--pack-bytes", "2097152"];
    let options = [&options[..], &["--snapshot-every", "64"]].concat();
    let options = options.into_iter().map(str::to_owned);
    founder.arguments.extend(options);
    founder.start()?;
    founder.ok(&["mkdir", "/v"])?;
    founder.ok(&["volume", "set", "/v", "--keep", "1s"])?;
    write_round(&cluster, 0, false)?;
    for (round, wait_ms, with_names) in [(1, 0, false), (2, 60, true), (3, 200, true)] {
        let before = write_round(&cluster, round, with_names)?;
        let ticket = cluster.nodes[0].invite(&[])?;
        let mut newcomer = cluster.newcomer(&format!("n{}", round + 1))?;
        newcomer.begin_to_join(&ticket)?;
        sleep(Duration::from_millis(wait_ms));
        let mut gone = 0;
        let end = Instant::now() + SETTLE;
        loop {
            let versions = pruned(&cluster.nodes[0], &[])?["versions_count"].as_u64();
            gone += versions.unwrap_or(0);
            if newcomer.status().is_ok() {
                break;
            }
            ensure!(newcomer.is_running(), "{}", newcomer.last_words());
            ensure!(Instant::now() < end, "{}", newcomer.last_words());
        }
        ensure!(gone >= 60, "{gone} versions went");
        cluster.nodes.push(newcomer);
        for node in &cluster.nodes {
            pruned(node, &[])?;
        }
        cluster.settle(SETTLE)?;
        let listing = cluster.equal_mirrors()?;
        ensure!(listing.contains_key("/v/source/59"), "{round}");
        for node in &cluster.nodes {
            tells_after_pruning(node, &before)?;
            is_shown(node, &["cat", "/v/last"], &round.to_le_bytes())?;
            let ran = node.aber(&["verify", "--chain"])?;
            ensure!(ran.code == 0, "{}: {ran:?}", node.name);
        }
        cluster.settle(SETTLE)?;
        cluster.equal_mirrors()?;
    }
    Ok(())
}

/// Promise I3. While the past of a snapshot is not told yet, an older moment is refused, and the one
/// that is named as the oldest can be read. Found: it was refused too, with itself as the oldest.
#[test]
fn a_newcomer_names_a_moment_that_it_can_tell() -> Result<()> {
    let mut cluster = Cluster::found(ABER)?;
    let founder = &mut cluster.nodes[0];
    founder.stop()?;
    let options = ["--snapshot-every", "64"].map(str::to_owned);
    founder.arguments.extend(options);
    founder.start()?;
    founder.ok(&["mkdir", "/v"])?;
    let names: Vec<String> = (0..900).map(|n| format!("/v/{n}")).collect();
    for names in names.chunks(300) {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        founder.ok(&[&["mkdir"], &names[..]].concat())?;
    }
    cluster.grow("n2", &[])?;
    let (one, newcomer) = (&cluster.nodes[0], &cluster.nodes[1]);
    let (partition, end) = (&one.partition_of("v")?["id"], Instant::now() + SETTLE);
    let first = format!("{partition}:3");
    let mut refused = 0;
    loop {
        let ran = newcomer.aber(&["ls", "/v", "--at", &first, "--json"])?;
        let said = ran.result()?;
        if ran.code == 0 {
            break;
        }
        if said["reason"] == "HISTORY_FORGOTTEN" {
            // Where nothing came after what it was given there is no moment but the present.
            if let Some(oldest) = said["metadata"]["oldest"].as_str() {
                let named = format!("{partition}:{oldest}");
                let ran = newcomer.aber(&["ls", "/v", "--at", &named])?;
                ensure!(ran.code == 0, "{said} names {named}: {ran:?}");
            }
            refused += 1;
        }
        ensure!(Instant::now() < end, "{refused} times refused: {said}");
    }
    cluster.settle(SETTLE)?;
    cluster.equal_mirrors()?;
    Ok(())
}
