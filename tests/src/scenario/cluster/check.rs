//! [driver] What is asked of all nodes: during the run, and when it has settled.
//!
//! The history is read from the logs of all nodes together and replayed by a view of its own, so
//! that what nodes show is compared with a second computation, not with each other alone.

use super::subject::{Aber, AberNode, DIGEST_EVERY, MIRROR};
use crate::oracle::{Landed, Oracle, Outcome, check_digests, check_mirror, check_order};
use crate::sim::World;
use crate::sim::cluster::Cluster;
use crate::sim::kv::{Index, SimKv};
use crate::sim::outsider::Shown;
use aber_log::env::{Env, Kv};
use aber_log::life::Life;
use aber_materializer::judge::Judge;
use aber_materializer::members::Members;
use aber_materializer::tree::{NodeKind, ROOT, Tree};
use aber_materializer::view::{EntryResult, View};
use aber_proto::path::RESERVED;
use aber_proto::{Entry, FileId, Genesis, NodeId, PartitionId, ViewDigest};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// Bytes read from a log at once.
const READ_BYTES: usize = 1 << 20;
/// Children listed at once.
const PAGE: usize = 256;

/// Digests that nodes showed at an index, during the run.
pub(super) type Digests = Arc<Mutex<BTreeSet<(NodeId, PartitionId, u64, ViewDigest)>>>;

pub(super) fn lock<T>(shared: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    shared
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Remembers the digests that a node shows now.
pub(super) fn note_digests(node: NodeId, handle: &AberNode, digests: &Digests) {
    let parts = &handle.node.parts;
    let Ok(kv) = parts.env.open_index() else {
        return;
    };
    for partition in parts.applied.keys() {
        if let Ok(view) = View::open(kv.clone(), *partition, &parts.config.genesis)
            && let Some(index) = view.applied_index()
        {
            lock(digests).insert((node, *partition, index, view.digest()));
        }
    }
}

/// What a mirror shows, `.aber` left out.
pub(super) fn mirror_of(world: &World, node: NodeId) -> BTreeMap<PathBuf, Shown> {
    let shown = world.outsider_tree(node, Path::new(MIRROR), |path| path == Path::new(RESERVED));
    shown.unwrap_or_default()
}

/// M1: nothing in a mirror is torn, at this moment.
pub(super) fn check_torn(world: &World, oracle: &Oracle, node: NodeId) {
    for finding in oracle.check_contents(&mirror_of(world, node)) {
        world.broken(format!("{finding} (node {node})"));
    }
}

/// The tree of a node as a directory would show it.
pub(super) fn tree_of(handle: &AberNode) -> Result<BTreeMap<PathBuf, Shown>, String> {
    let tree = &handle.node.parts.tree;
    let mut shown = BTreeMap::new();
    let mut left: Vec<(FileId, PathBuf)> = vec![(ROOT, PathBuf::new())];
    while let Some((directory, above)) = left.pop() {
        let mut after: Option<String> = None;
        loop {
            let page = tree.children(directory, after.as_deref(), PAGE);
            let page = page.map_err(|problem| problem.to_string())?;
            let Some(last) = page.last() else { break };
            after = Some(last.name.clone());
            for node in page {
                let path = above.join(&node.name);
                let what = match &node.kind {
                    NodeKind::Directory | NodeKind::Volume(_) => {
                        left.push((node.id, path.clone()));
                        Shown::Directory
                    }
                    NodeKind::File(content) => Shown::File {
                        content: content.blake3(),
                        size: content.size(),
                        mode: aber_materializer::plan::file_mode(node.mode),
                    },
                    NodeKind::Symlink(target) => Shown::Symlink(OsString::from(target)),
                };
                shown.insert(path, what);
            }
        }
    }
    Ok(shown)
}

/// What keeps the cluster from being settled (promise A5); empty if it is.
pub(super) fn unsettled(cluster: &Cluster<Aber>, genesis: &Genesis) -> Vec<String> {
    let mut left = Vec::new();
    let handles: Vec<_> = cluster
        .nodes()
        .into_iter()
        .map(|node| (node, cluster.handle(node)))
        .collect();
    let applied = |handle: &AberNode, partition: PartitionId| {
        let applied = handle.node.parts.applied.get(&partition);
        applied.and_then(|applied| applied.get())
    };
    for (node, handle) in &handles {
        let Some((_, handle)) = handle else {
            let refusal = cluster.refusal(*node).unwrap_or_default();
            left.push(format!("node {node} is down: {refusal}"));
            continue;
        };
        let waiting = handle.node.parts.outbox.waiting().get();
        if waiting > 0 {
            left.push(format!(
                "{waiting} changes wait in the outbox of node {node}"
            ));
        }
        let Some(mirror) = &handle.node.parts.mirror else {
            continue;
        };
        let status = mirror.status.get();
        if status.waiting_count > 0 || status.scanning || status.stopped {
            left.push(format!("the mirror of node {node}: {status:?}"));
        }
        for partition in genesis.partition_ids() {
            if handle.node.parts.history.lacks(partition) {
                let first = handle.node.parts.log.state(partition).first;
                left.push(format!(
                    "node {node} has no history of {partition} before {first}"
                ));
            }
            let start = handle.node.parts.tree.history_start(partition);
            if start != Ok(0) {
                left.push(format!(
                    "node {node} tells the past of {partition} from {start:?} on"
                ));
            }
            let (shown, index) = (status.positions.get(&partition), applied(handle, partition));
            if shown.copied() != index {
                left.push(format!(
                    "node {node} mirrors {partition} to {shown:?}, its view is at {index:?}"
                ));
            }
        }
    }
    for partition in genesis.partition_ids() {
        let at: Vec<_> = handles
            .iter()
            .filter_map(|(_, handle)| Some(applied(&handle.as_ref()?.1, partition)))
            .collect();
        if at
            .iter()
            .any(|index| Some(index) != at.first() || index.is_none())
        {
            left.push(format!("the views of partition {partition} are at {at:?}"));
        }
    }
    left
}

/// Committed entries, by partition and index.
type Entries = BTreeMap<(PartitionId, u64), Entry>;

/// C1, I2: takes what a node has committed into `entries`, from the start on, and tells where it
/// differs from what another node has.
fn collect(node: NodeId, handle: &AberNode, entries: &mut Entries) -> Vec<String> {
    let mut broken = Vec::new();
    let parts = &handle.node.parts;
    for (id, partition) in &parts.partitions {
        let end = partition.committed().get().map_or(0, |id| id.index + 1);
        let mut next = parts.log.state(*id).oldest.unwrap_or(end);
        if next > 1 {
            broken.push(format!(
                "D5: the history of {id} on node {node} starts at {next}"
            ));
        }
        while next < end {
            let read = match parts.log.read(*id, next, end, READ_BYTES) {
                Ok(read) => read,
                Err(problem) => {
                    broken.push(format!(
                        "I2: node {node} cannot read {id}:{next}: {problem}"
                    ));
                    break;
                }
            };
            let Some(last) = read.last() else { break };
            next = last.log_id.index + 1;
            for entry in read {
                let place = (*id, entry.log_id.index);
                let known = entries.entry(place).or_insert_with(|| entry.clone());
                if *known != entry {
                    broken.push(format!("C1: node {node} has another {id}:{}", place.1));
                }
            }
        }
    }
    broken
}

/// Rows of the past, by key.
type Past = BTreeMap<Bytes, Bytes>;

/// I3: what an index knows of the past, without what is a node's own (format.md, rows of the past).
fn past_of<K: Kv>(kv: &K) -> Result<Past, String> {
    const OWN_TABLES: [u8; 3] = [1, 7, 8];
    let (mut past, mut from) = (Past::new(), b"H".to_vec());
    loop {
        let page = kv.scan(&from, b"I", PAGE);
        let page = page.map_err(|problem| problem.to_string())?;
        let Some((last, _)) = page.last() else {
            return Ok(past);
        };
        from = [last, [0].as_slice()].concat();
        let is_own = |key: &Bytes| key.get(5).is_some_and(|table| OWN_TABLES.contains(table));
        past.extend(page.into_iter().filter(|(key, _)| !is_own(key)));
    }
}

/// Where the past that a node tells is not the one that a replay of the log gives.
fn check_past(node: NodeId, handle: &AberNode, replayed: &Past) -> Option<String> {
    let kv = handle.node.parts.env.open_index();
    let told = match kv
        .map_err(|problem| problem.to_string())
        .and_then(|kv| past_of(&kv))
    {
        Ok(told) => told,
        Err(problem) => return Some(format!("I3: the past of node {node}: {problem}")),
    };
    let mut keys = told.keys().chain(replayed.keys());
    let other = keys.find(|key| told.get(*key) != replayed.get(*key))?;
    let key = other.escape_ascii();
    Some(format!("I3: node {node} tells another past at {key}"))
}

/// The whole history, replayed by a view that no node has.
struct Replayed {
    landed: Vec<Landed>,
    digests: BTreeMap<(PartitionId, u64), ViewDigest>,
    broken: Vec<String>,
    /// Members after the last entry.
    members: Arc<Members>,
}

fn replay(genesis: &Genesis, entries: &Entries, kv: &SimKv) -> Replayed {
    let mut replayed = Replayed {
        landed: Vec::new(),
        digests: BTreeMap::new(),
        broken: Vec::new(),
        members: Arc::new(Members::of_genesis(genesis)),
    };
    // The control partition comes first; the others are judged by all that its members were.
    for partition in genesis.partition_ids() {
        let mut judge = Judge::new();
        let opened = View::open(kv.clone(), partition, genesis);
        let mut view = match opened {
            Ok(view) => view,
            Err(problem) => {
                replayed
                    .broken
                    .push(format!("the oracle's view: {problem}"));
                continue;
            }
        };
        view.compare_every(DIGEST_EVERY);
        for (_, entry) in entries.range((partition, 0)..=(partition, u64::MAX)) {
            let judged = judge.judge(entry, &replayed.members);
            let batch = [(entry.clone(), judged.verdict)];
            let outcome = match view.apply_batch(&batch, Default::default()) {
                Ok(applied) => applied.outcomes.into_iter().next(),
                Err(problem) => {
                    let id = entry.log_id;
                    let what = format!("C1: {partition}:{id} does not follow: {problem}");
                    replayed.broken.push(what);
                    break;
                }
            };
            if let Some(now) = view.members() {
                replayed.members = Arc::clone(now);
            }
            let index = entry.log_id.index;
            replayed.digests.insert((partition, index), view.digest());
            let (Some(change), Some(outcome)) = (judged.change, outcome) else {
                continue;
            };
            let contents = change.events.iter().filter_map(|e| e.operation.content());
            replayed.landed.push(Landed {
                request: change.request,
                partition,
                index,
                contents: contents.map(|content| content.blake3()).collect(),
                outcome: match outcome.result {
                    EntryResult::Applied(_) | EntryResult::Nothing => Outcome::Applied,
                    EntryResult::Rejected(rejected)
                        if rejected.reason == aber_materializer::view::Rejection::Void =>
                    {
                        // Void decides nothing: its author proposes anew.
                        continue;
                    }
                    EntryResult::Rejected(rejected) => {
                        Outcome::Rejected(format!("{:?}", rejected.reason))
                    }
                    EntryResult::Repeat { .. } => Outcome::Repeated,
                },
            });
        }
    }
    replayed
}

/// All promises, once the cluster has settled.
pub(super) fn check_all(
    cluster: &Cluster<Aber>,
    genesis: &Genesis,
    oracle: &Oracle,
    digests: &Digests,
) -> Vec<String> {
    let world = cluster.world();
    let (mut entries, mut broken) = (Entries::new(), Vec::new());
    for node in cluster.nodes() {
        if let Some((_, handle)) = cluster.handle(node) {
            broken.extend(collect(node, &handle, &mut entries));
        }
    }
    let life = Life::new(tokio::time::Instant::now(), 0, 0);
    let Ok(kv) = SimKv::open(&life, &Arc::new(Mutex::new(Index::default()))) else {
        broken.push("the oracle has no index".to_owned());
        return broken;
    };
    let replayed = replay(genesis, &entries, &kv);
    let past = past_of(&kv).unwrap_or_default();
    broken.extend(replayed.broken);
    broken.extend(oracle.check_history(&replayed.landed));
    broken.extend(check_order(&replayed.landed));
    broken.extend(oracle.check_author_order(&replayed.landed));
    for node in cluster.nodes() {
        let Some((_, handle)) = cluster.handle(node) else {
            continue;
        };
        note_digests(node, &handle, digests);
        if handle.node.parts.members.get() != replayed.members {
            broken.push(format!("S2: node {node} knows other members than the log"));
        }
        broken.extend(check_past(node, &handle, &past));
        broken.extend(oracle.check_contents(&mirror_of(world, node)));
    }
    let (ever, present) = (
        replayed.members.ever_count(),
        replayed.members.present_count(),
    );
    world.trace(NodeId(0), format_args!("MEMBERS {present} of {ever} ever"));
    // Node 0 is the oracle's own view.
    let own = replayed.digests.into_iter();
    let mut shown: Vec<_> = own
        .map(|((p, i), digest)| (NodeId(0), p, i, digest))
        .collect();
    shown.extend(lock(digests).iter().copied());
    broken.extend(check_digests(&shown));
    broken
}

/// M2, M4: where mirrors differ from their node's tree, or nodes' trees from each other.
pub(super) fn check_mirrors(cluster: &Cluster<Aber>) -> Vec<String> {
    let world = cluster.world();
    let mut broken = Vec::new();
    let mut first: Option<BTreeMap<PathBuf, Shown>> = None;
    for node in cluster.nodes() {
        let Some((_, handle)) = cluster.handle(node) else {
            broken.push(format!("A5: node {node} is down"));
            continue;
        };
        let tree = match tree_of(&handle) {
            Ok(tree) => tree,
            Err(problem) => {
                broken.push(format!("M4: the tree of node {node}: {problem}"));
                continue;
            }
        };
        broken.extend(check_mirror(node, &tree, &mirror_of(world, node)));
        if first.get_or_insert_with(|| tree.clone()) != &tree {
            broken.push(format!("M4: the tree of node {node} differs"));
        }
    }
    world.trace(NodeId(0), format_args!("MIRRORS {} findings", broken.len()));
    broken
}

/// Whether a content lies anywhere below a mirror, `.aber` included.
pub(super) fn is_kept(world: &World, node: NodeId, content: aber_proto::ContentHash) -> bool {
    let shown = world.outsider_tree(node, Path::new(MIRROR), |_| false);
    let is_it = |what: &Shown| matches!(what, Shown::File { content: c, .. } if *c == content);
    shown.is_ok_and(|shown| shown.values().any(is_it))
}
