//! Nodes that die at any moment.

use super::ABER;
use aber_tests::process::content::{content, version_of};
use aber_tests::process::{Cluster, Node, tree};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

const SETTLE: Duration = Duration::from_secs(90);
/// Exit codes of a write that is safe: committed, or in the outbox.
const SAFE: [i32; 2] = [0, 7];
const PATHS: u64 = 12;

/// What stands at a path: a version, or nothing.
type Value = Option<u64>;

/// What one writer was promised of its paths, which nobody else writes.
#[derive(Default)]
struct Promised {
    /// What was acknowledged last, and what was tried since without an answer.
    paths: BTreeMap<String, (Value, Vec<Value>)>,
    acknowledged: u64,
}

impl Promised {
    fn note(&mut self, path: String, value: Value, is_safe: bool) {
        let (last, unknown) = self.paths.entry(path).or_default();
        if is_safe {
            // One node orders changes of a path as they were made: what was unknown came before.
            *last = value;
            unknown.clear();
            self.acknowledged += 1;
        } else {
            unknown.push(value);
        }
    }
}

/// Numbers that look random and repeat.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }
}

/// How to reach a node without borrowing it: it is killed and started meanwhile.
struct Remote {
    name: String,
    data: PathBuf,
}

impl Remote {
    fn of(node: &Node) -> Self {
        Self {
            name: node.name.clone(),
            data: node.data.clone(),
        }
    }

    /// Runs a write; answers whether it is safe.
    fn write(&self, arguments: &[&str], input: &[u8]) -> Result<bool> {
        let mut command = std::process::Command::new(ABER);
        command
            .args(arguments)
            .args(["--timeout", "40s"])
            .env("ABER_DATA", &self.data);
        let scratch = self.data.parent().context("a parent")?;
        let ran = aber_tests::process::run::run(command, scratch, input, Duration::from_secs(60))?;
        Ok(SAFE.contains(&ran.code))
    }
}

/// Writes at one node until told to stop.
fn write_on(remote: &Remote, stop: &AtomicBool, written: &AtomicU64) -> Promised {
    let mut promised = Promised::default();
    let mut dice = Dice(remote.name.bytes().map(u64::from).sum());
    let mut version = 0;
    while !stop.load(SeqCst) {
        version += 1;
        let path = format!("/{}/f{}", remote.name, dice.roll(PATHS));
        let size = [200, 900, 5_000, 80_000, 700_000][dice.roll(5) as usize];
        let (value, safe) = if dice.roll(5) == 0 {
            (None, remote.write(&["rm", &path], b""))
        } else {
            let bytes = content(&path, version, size);
            (Some(version), remote.write(&["put", "-", &path], &bytes))
        };
        match safe {
            Ok(is_safe) => {
                promised.note(path, value, is_safe);
                written.fetch_add(u64::from(is_safe), SeqCst);
                if !is_safe {
                    // The node died on the way, or there was nothing to remove.
                    sleep(Duration::from_millis(20));
                }
            }
            Err(error) => {
                promised.note(path, value, false);
                eprintln!("{}: {error}", remote.name);
            }
        }
    }
    promised
}

/// Reads mirrors until told to stop; answers what it found torn.
fn watch_for_torn(mirrors: &[PathBuf], stop: &AtomicBool) -> Vec<String> {
    let mut torn = Vec::new();
    while !stop.load(SeqCst) {
        for mirror in mirrors {
            tree::each_file(mirror, &mut |place, bytes| {
                let path = place
                    .strip_prefix(mirror)
                    .map(|p| format!("/{}", p.display()));
                let is_whole = version_of(bytes).is_some_and(|(of, _)| Ok(of) == path);
                if !is_whole {
                    torn.push(format!("{}: {} bytes", place.display(), bytes.len()));
                }
            });
        }
        sleep(Duration::from_millis(100));
    }
    torn
}

/// Lets a writer loose on each node, does something to the nodes, and checks what was promised.
fn survive(hurt: impl Fn(&Mutex<Cluster>, &AtomicU64) -> Result<()>) -> Result<()> {
    let cluster = Cluster::start(ABER, 3)?;
    for node in &cluster.nodes {
        node.ok(&["mkdir", &format!("/{}", node.name)])?;
    }
    let remotes: Vec<_> = cluster.nodes.iter().map(Remote::of).collect();
    let mirrors: Vec<_> = cluster.nodes.iter().map(Node::mirror).collect();
    let (stop, written) = (AtomicBool::new(false), AtomicU64::new(0));
    let cluster = Mutex::new(cluster);
    let (promised, torn, hurt) = scope(|scope| {
        let writers: Vec<_> = remotes
            .iter()
            .map(|remote| scope.spawn(|| write_on(remote, &stop, &written)))
            .collect();
        let watcher = scope.spawn(|| watch_for_torn(&mirrors, &stop));
        let hurt = hurt(&cluster, &written);
        // The last writes end with all nodes up.
        let healed = cluster.lock().unwrap().start_all();
        stop.store(true, SeqCst);
        let promised: Vec<_> = writers.into_iter().map(|w| w.join().unwrap()).collect();
        (promised, watcher.join().unwrap(), hurt.and(healed))
    });
    hurt?;
    let cluster = cluster.into_inner()?;
    cluster.settle(SETTLE)?;
    ensure!(torn.is_empty(), "torn: {torn:?}");
    check(&cluster, &promised)?;
    for node in &cluster.nodes {
        node.ok(&["verify"])?;
    }
    eprintln!("{} writes acknowledged", written.load(SeqCst));
    Ok(())
}

fn check(cluster: &Cluster, promised: &[Promised]) -> Result<()> {
    cluster.equal_mirrors()?;
    let mirror = cluster.nodes[0].mirror();
    for promised in promised {
        ensure!(promised.acknowledged > 0, "a writer got nothing through");
        for (path, (last, unknown)) in &promised.paths {
            let bytes = std::fs::read(mirror.join(path.trim_start_matches('/'))).ok();
            let found = bytes
                .and_then(|bytes| version_of(&bytes))
                .map(|(_, version)| version);
            ensure!(
                found == *last || unknown.contains(&found),
                "{path}: {last:?} was acknowledged, then {unknown:?} tried; {found:?} is there"
            );
        }
    }
    Ok(())
}

/// Promises D1, D3, D6, M1, M2, M4.
#[test]
fn nodes_killed_in_turn_lose_nothing() -> Result<()> {
    survive(|cluster, _| {
        let mut dice = Dice(std::process::id().into());
        for _ in 0..20 {
            sleep(Duration::from_millis(400 + dice.roll(900)));
            let victim = dice.roll(3) as usize;
            cluster.lock().unwrap().nodes[victim].kill()?;
            // Some die again while they start.
            while dice.roll(3) == 0 {
                cluster.lock().unwrap().nodes[victim].spawn()?;
                sleep(Duration::from_millis(dice.roll(150)));
                cluster.lock().unwrap().nodes[victim].kill()?;
            }
            sleep(Duration::from_millis(dice.roll(700)));
            cluster.lock().unwrap().nodes[victim].start()?;
        }
        Ok(())
    })
}

/// Promises D1, D6, M1, M2, M4.
#[test]
fn all_nodes_killed_at_once_lose_nothing() -> Result<()> {
    survive(|cluster, written| {
        for round in 1..=3 {
            let end = Instant::now() + Duration::from_secs(30);
            while written.load(SeqCst) < round * 15 && Instant::now() < end {
                sleep(Duration::from_millis(10));
            }
            let mut cluster = cluster.lock().unwrap();
            for node in &mut cluster.nodes {
                node.kill()?;
            }
            cluster.start_all()?;
        }
        Ok(())
    })
}
