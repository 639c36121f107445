//! Going back while others write, and while the node that does it dies.

use super::ABER;
use super::history::{newest, result};
use aber_tests::process::content::content;
use aber_tests::process::run::{Ran, run};
use aber_tests::process::{Cluster, Node};
use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

/// Enough for a train of three changes.
const MANY: usize = 2500;
/// Enough for a train of two.
const TRAIN: usize = 1200;
/// All of it fits into one change.
const FEW: usize = 200;
/// More than what travels inside an entry; it does not compress.
const FILE_BYTES: usize = 1500;
const DIRECTORIES: usize = 50;
/// Names that were there, and are not.
const GONE: usize = 10;
const LONG: Duration = Duration::from_secs(120);

/// Files in directories, whose bytes do not compress and are nowhere else.
fn make_files(directory: &Path, count: usize) -> Result<()> {
    for number in 0..count {
        let path = format!("{:02}/{number}", number % DIRECTORIES);
        let place = directory.join(&path);
        std::fs::create_dir_all(place.parent().context("below")?)?;
        std::fs::write(place, content(&path, 1, FILE_BYTES))?;
    }
    Ok(())
}

/// Paths below a directory.
fn count(node: &Node, directory: &str) -> Result<usize> {
    Ok(node.ok(&["ls", "-R", directory])?.lines().count())
}

/// Bytes of content that a node has sent since it started.
fn content_sent(node: &Node) -> Result<usize> {
    let metrics = node.ok(&["metrics"])?;
    let of_content: Vec<&str> = metrics
        .lines()
        .filter(|line| line.starts_with("aber_sent_bytes_total{"))
        .filter(|line| line.contains("class=\"content\"") || line.contains("class=\"catch-up\""))
        .collect();
    ensure!(!of_content.is_empty(), "{metrics}");
    let mut sum = 0;
    for line in of_content {
        let value = line.rsplit(' ').next().context("a value")?;
        sum += value.parse::<usize>()?;
    }
    Ok(sum)
}

/// The same of all nodes of a cluster.
fn all_sent(cluster: &Cluster) -> Result<Vec<usize>> {
    cluster.nodes.iter().map(content_sent).collect()
}

/// A rollback of many paths is a train of changes; each node has their content already, and none of
/// it travels. Undo takes back the whole train.
#[test]
fn a_large_rollback_moves_no_content() -> Result<()> {
    const CONTENT_BYTES: usize = MANY * FILE_BYTES;
    let cluster = Cluster::start(ABER, 3)?;
    let source = cluster.directory.path().join("many");
    make_files(&source, MANY)?;
    let node = &cluster.nodes[0];
    let before: usize = all_sent(&cluster)?.iter().sum();
    node.ok(&["put", "-r", &source.display().to_string(), "/"])?;
    cluster.settle(LONG)?;
    let sent = all_sent(&cluster)?.iter().sum::<usize>() - before;
    ensure!(sent >= 2 * CONTENT_BYTES, "two nodes got it with {sent} B");
    let then = newest(node, "/many")?;
    node.ok(&["rm", "-r", "/many"])?;
    node.ok(&["mkdir", "/many"])?;
    cluster.settle(LONG)?;

    let before: usize = all_sent(&cluster)?.iter().sum();
    let plan = result(node, &["rollback", "/many", "--to", &then, "--dry-run"])?;
    ensure!(
        plan["returned"] == MANY + DIRECTORIES && plan["fetch_bytes"] == 0,
        "{plan}"
    );
    ensure!(plan["changes"].as_u64() > Some(2), "{plan}");
    let id = plan["plan"].as_str().context("a plan")?;
    node.ok(&["rollback", "--plan", id])?;
    cluster.settle(LONG)?;
    let moved = all_sent(&cluster)?.iter().sum::<usize>() - before;
    ensure!(moved < CONTENT_BYTES / 10, "{sent} B to put it, {moved}");
    let listing = cluster.equal_mirrors()?;
    ensure!(listing.len() == MANY + DIRECTORIES + 1, "{}", listing.len());

    node.ok(&["undo", "--yes"])?;
    cluster.settle(LONG)?;
    for node in &cluster.nodes {
        ensure!(count(node, "/many")? == 0, "{}", node.name);
    }
    Ok(())
}

/// Rolls a folder back again and again, and kills the node that does it so long after the command
/// began. Each time all of the folder is back or nothing, at every node, and undo takes back all.
fn rolls_back_and_dies(files: usize, waits_ms: &[u64]) -> Result<()> {
    let mut cluster = Cluster::start(ABER, 3)?;
    let source = cluster.directory.path().join("many");
    make_files(&source, files)?;
    let node = &cluster.nodes[0];
    node.ok(&["mkdir", "/d"])?;
    node.ok(&["put", "-r", &source.display().to_string(), "/d"])?;
    cluster.settle(LONG)?;
    let then = newest(node, "/d")?;
    node.ok(&["rm", "-r", "/d/many"])?;
    cluster.settle(LONG)?;
    let whole = files + DIRECTORIES + 1;
    for wait_ms in waits_ms {
        let to = ["rollback", "/d", "--to", &then, "--dry-run"];
        let plan = result(&cluster.nodes[0], &to)?;
        let is_train = plan["changes"].as_u64() > Some(1);
        ensure!(
            plan["returned"] == whole && is_train == (files > FEW),
            "{plan}"
        );
        let id = plan["plan"].as_str().context("a plan")?;
        let mut apply = cluster.nodes[0]
            .command(&["rollback", "--plan", id])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        sleep(Duration::from_millis(*wait_ms));
        cluster.nodes[0].kill()?;
        let ended = apply.wait()?;
        cluster.nodes[0].start()?;
        cluster.settle(LONG)?;
        let back = count(&cluster.nodes[0], "/d")?;
        let said = format!("{back} of {whole} after {wait_ms} ms; the command: {ended}");
        ensure!(back == 0 || back == whole, "{said}");
        // What was said to be done is done.
        ensure!(back == whole || !ended.success(), "{said}");
        let shown = cluster.equal_mirrors()?.len();
        ensure!(shown == back + 1, "{said}; {shown} shown");
        if back == whole {
            cluster.nodes[0].ok(&["undo", "--yes"])?;
            cluster.settle(LONG)?;
            for node in &cluster.nodes {
                let left = count(node, "/d")?;
                ensure!(left == 0, "{said}; {} has {left}", node.name);
            }
        }
    }
    let node = &cluster.nodes[0];
    node.ok(&["rollback", "/d", "--to", &then, "--yes"])?;
    cluster.settle(LONG)?;
    ensure!(cluster.equal_mirrors()?.len() == whole + 1);
    for node in &cluster.nodes {
        node.ok(&["verify", "--chain"])?;
    }
    Ok(())
}

/// One change is one entry, or none.
#[test]
fn a_rollback_that_is_killed_is_whole_or_nothing() -> Result<()> {
    rolls_back_and_dies(FEW, &[5, 10, 15, 20, 35, 75, 110])
}

/// A train is taken in whole, and then goes on by itself when its node is back; or nothing of it is.
#[test]
fn a_train_that_is_killed_goes_on_whole_or_never_began() -> Result<()> {
    rolls_back_and_dies(TRAIN, &[10, 30, 45, 60, 80, 200])
}

/// A node as the writer of another thread sees it.
struct Writer {
    data: PathBuf,
    /// What each path holds that it wrote and was told is safe.
    safe: BTreeMap<String, String>,
}

impl Writer {
    fn of(node: &Node) -> Self {
        Self {
            data: node.data.clone(),
            safe: BTreeMap::new(),
        }
    }

    fn put(&mut self, path: String, text: String) -> Result<()> {
        let mut command = Command::new(ABER);
        command
            .args(["put", "-p", "-", &path])
            .env("ABER_DATA", &self.data);
        let scratch = self.data.parent().context("a parent")?;
        let ran: Ran = run(command, scratch, text.as_bytes(), LONG)?;
        // The directory may go at that moment: then the write failed, and said so.
        let is_known = ran.code == 0 || ran.reason() == Some("NO_PARENT");
        ensure!(is_known, "{path}: {ran:?}");
        if ran.code == 0 {
            self.safe.insert(path, text);
        }
        Ok(())
    }

    /// Files of its own beside those of others and in a directory that a rollback would remove,
    /// names that it would give back, and files that it would replace.
    fn write_until(mut self, stop: &AtomicBool, begun: &AtomicBool) -> Result<Self> {
        let mut number = 0;
        while !stop.load(SeqCst) {
            for path in [
                format!("/d/m/own-{number}"),
                format!("/d/m/late/own-{number}"),
                format!("/d/m/{:02}/gone-{number}", number % DIRECTORIES),
                format!("/d/m/{:02}/{}", number % DIRECTORIES, number % FEW),
                format!("/d/m/gone-{}", number % GONE),
            ] {
                let text = format!("{path} by the other, {number}");
                self.put(path, text)?;
                begun.store(true, SeqCst);
            }
            number += 1;
        }
        Ok(self)
    }
}

/// Does a way back; as often as others were faster, again.
fn insists(node: &Node, arguments: &[&str]) -> Result<()> {
    let end = Instant::now() + LONG;
    loop {
        let ran = node.aber(arguments)?;
        match (ran.code, ran.reason()) {
            (0, _) => return Ok(()),
            (5, Some("PLAN_STALE")) => {}
            // Others have all that there is to do; the next one may find more.
            (3, None) if ran.stdout.contains("There is nothing to do") => return Ok(()),
            _ => anyhow::bail!("{arguments:?}: {ran:?}"),
        }
        ensure!(Instant::now() < end, "others were always faster: {ran:?}");
    }
}

/// A folder in which one node has changed all files, taken names away and made a directory since the
/// moment that is answered.
fn a_folder_that_changed(cluster: &Cluster) -> Result<String> {
    let node = &cluster.nodes[0];
    let source = cluster.directory.path().join("m");
    make_files(&source, FEW)?;
    let of = source.display().to_string();
    for name in 0..GONE {
        std::fs::write(source.join(format!("gone-{name}")), "old")?;
    }
    node.ok(&["mkdir", "/d"])?;
    node.ok(&["put", "-r", &of, "/d"])?;
    let then = newest(node, "/d")?;
    for number in 0..FEW {
        let path = format!("{:02}/{number}", number % DIRECTORIES);
        std::fs::write(source.join(&path), content(&path, 2, FILE_BYTES))?;
    }
    for name in 0..GONE {
        std::fs::remove_file(source.join(format!("gone-{name}")))?;
        node.ok(&["rm", &format!("/d/m/gone-{name}")])?;
    }
    std::fs::create_dir(source.join("late"))?;
    std::fs::write(source.join("late/mine"), "late")?;
    node.ok(&["put", "-r", &of, "/d"])?;
    cluster.settle(LONG)?;
    Ok(then)
}

/// What the other wrote stands in a mirror, and all else as it was before the folder changed.
fn shows_both(node: &Node, safe: &BTreeMap<String, String>) -> Result<()> {
    let mirror = node.mirror();
    for (path, text) in safe {
        let shown = std::fs::read(mirror.join(path.trim_start_matches('/')));
        let is_there = shown.as_ref().is_ok_and(|shown| shown == text.as_bytes());
        ensure!(is_there, "{}: {path}: {shown:?}", node.name);
    }
    let is_theirs = |path: &str| safe.contains_key(&format!("/d/m/{path}"));
    for number in 0..FEW {
        let path = format!("{:02}/{number}", number % DIRECTORIES);
        if !is_theirs(&path) {
            let shown = std::fs::read(mirror.join("d/m").join(&path))?;
            ensure!(shown == content(&path, 1, FILE_BYTES), "{path} is not back");
        }
    }
    for name in (0..GONE).map(|name| format!("gone-{name}")) {
        if !is_theirs(&name) {
            ensure!(std::fs::read(mirror.join("d/m").join(&name))? == b"old");
        }
    }
    ensure!(!mirror.join("d/m/late/mine").exists(), "it was made since");
    Ok(())
}

/// What others write while a rollback is planned and done stays, as what they wrote before does; it
/// brings back the rest.
#[test]
fn what_others_write_during_a_rollback_stays() -> Result<()> {
    let cluster = Cluster::start(ABER, 3)?;
    let [anna, bob, _] = &cluster.nodes[..] else {
        anyhow::bail!("three nodes")
    };
    let then = a_folder_that_changed(&cluster)?;
    let (stop, begun) = (AtomicBool::new(false), AtomicBool::new(false));
    let to = ["rollback", "/d", "--to", &then, "--yes"];
    let (gone_back, written) = scope(|threads| {
        let writer = Writer::of(bob);
        let writes = threads.spawn(|| writer.write_until(&stop, &begun));
        let go_back = || -> Result<()> {
            let end = Instant::now() + LONG;
            while !begun.load(SeqCst) && !writes.is_finished() {
                ensure!(Instant::now() < end, "nothing is written");
                sleep(Duration::from_millis(5));
            }
            insists(anna, &to)?;
            insists(anna, &["undo", "--yes"])?;
            insists(anna, &to)
        };
        let gone_back = go_back();
        stop.store(true, SeqCst);
        (gone_back, writes.join())
    });
    gone_back?;
    let written = written.map_err(|_| anyhow::anyhow!("the writer panicked"))??;
    ensure!(written.safe.len() > 5, "{:?}", written.safe);
    // What the first ones left because the other had it in hand, and has no more.
    insists(anna, &to)?;
    cluster.settle(LONG)?;
    for node in &cluster.nodes {
        shows_both(node, &written.safe)?;
        node.ok(&["verify", "--chain"])?;
    }
    cluster.equal_mirrors()?;
    Ok(())
}

/// Stops a node's process where it is, or lets it go on.
fn signal(node: &Node, signal: Signal) -> Result<()> {
    let id = node.process_id().and_then(|id| i32::try_from(id).ok());
    let id = id.and_then(Pid::from_raw).context("it runs")?;
    Ok(kill_process(id, signal)?)
}

/// Which files below `/d/many` are as they were first, in a mirror.
fn as_at_first(node: &Node) -> Result<BTreeSet<usize>> {
    let mut found = BTreeSet::new();
    for number in 0..TRAIN {
        let path = format!("{:02}/{number}", number % DIRECTORIES);
        let shown = std::fs::read(node.mirror().join("d/many").join(&path))?;
        if shown == content(&path, 1, FILE_BYTES) {
            found.insert(number);
        }
    }
    Ok(found)
}

/// A train whose last change meets what another wrote meanwhile has come half of its way: that is
/// said, the other's edit stays, and undo takes back the half that was done.
#[test]
fn a_train_that_is_refused_half_way_is_taken_back() -> Result<()> {
    let mut cluster = Cluster::start(ABER, 3)?;
    let anna = &cluster.nodes[0];
    let source = cluster.directory.path().join("many");
    make_files(&source, TRAIN)?;
    anna.ok(&["mkdir", "/d"])?;
    let of = source.display().to_string();
    anna.ok(&["put", "-r", &of, "/d"])?;
    let then = newest(anna, "/d")?;
    for number in 0..TRAIN {
        let path = format!("{:02}/{number}", number % DIRECTORIES);
        std::fs::write(source.join(&path), content(&path, 2, FILE_BYTES))?;
    }
    anna.ok(&["put", "-r", &of, "/d"])?;
    cluster.settle(LONG)?;
    let plan = result(anna, &["rollback", "/d", "--to", &then, "--dry-run"])?;
    ensure!(plan["changes"].as_u64() > Some(1), "{plan}");
    let id = plan["plan"].as_str().context("a plan")?;

    // The plan is taken in while nobody can order it, and its node hangs while the other writes.
    for other in &mut cluster.nodes[1..] {
        other.kill()?;
    }
    let anna = &cluster.nodes[0];
    let apply = anna
        .command(&["--json", "rollback", "--plan", id])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let end = Instant::now() + LONG;
    while anna.status()?["outbox_changes"].as_u64() < plan["changes"].as_u64() {
        ensure!(Instant::now() < end, "it is not taken in");
        sleep(Duration::from_millis(20));
    }
    signal(anna, Signal::STOP)?;
    cluster.nodes[1..].iter_mut().try_for_each(Node::start)?;
    let last = TRAIN - 1;
    let path = format!("/d/many/{:02}/{last}", last % DIRECTORIES);
    let wrote = cluster.nodes[1].put(b"by the other", &path)?;
    let anna = &cluster.nodes[0];
    signal(anna, Signal::CONT)?;
    ensure!(wrote.code == 0, "{wrote:?}");
    let ended = apply.wait_with_output()?;
    let said = String::from_utf8(ended.stdout)?;
    let names_it = said.contains(&format!("{path} changed meanwhile"));
    ensure!(ended.status.code() == Some(3) && names_it, "{said}");
    cluster.settle(LONG)?;

    let returned = as_at_first(anna)?;
    let half = !returned.is_empty() && returned.len() < last;
    ensure!(
        half && !returned.contains(&last),
        "{} are back",
        returned.len()
    );
    anna.ok(&["undo", "--yes"])?;
    cluster.settle(LONG)?;
    for node in &cluster.nodes {
        ensure!(
            as_at_first(node)?.is_empty(),
            "{}: some are left",
            node.name
        );
        let shown = std::fs::read(node.mirror().join(path.trim_start_matches('/')))?;
        ensure!(shown == b"by the other", "{}: {shown:?}", node.name);
    }
    cluster.equal_mirrors()?;
    Ok(())
}
