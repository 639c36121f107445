//! The mirror against the hostile world of `testing`.

mod crash;
mod rules;
mod strangers;

use super::testing::{MemChunks, MemTree, Rng, TestEnv};
use super::{Dirty, Mirror, MirrorHandle, MirrorOptions, MirrorParts, MirrorProblem, listing};
use crate::plan;
use crate::tree::{Node, NodeKind, ROOT, Tree};
use aber_log::env::disk::FileKind;
use aber_proto::{ContentHash, FileId, FileTime, PartitionId};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::mpsc;

const PARTITION: PartitionId = PartitionId(1);

/// What a path shows: kind, hash, mode, time.
type Shown = (FileKind, Option<ContentHash>, u32, FileTime);

struct World {
    env: TestEnv,
    tree: MemTree,
    chunks: MemChunks,
    options: MirrorOptions,
    index: u64,
    running: Option<(MirrorHandle, mpsc::Sender<Dirty>)>,
}

impl World {
    fn new() -> Self {
        let options = MirrorOptions {
            marker: "cluster folder epoch".into(),
            batch_paths: 7,
            batch_bytes: 2000,
            ..MirrorOptions::default()
        };
        Self {
            env: TestEnv::new(),
            tree: MemTree::default(),
            chunks: MemChunks::default(),
            options,
            index: 0,
            running: None,
        }
    }

    async fn start(&mut self) -> Result<(), MirrorProblem> {
        let (sender, inputs) = mpsc::channel(16);
        let parts = MirrorParts {
            env: self.env.clone(),
            disk: self.env.disk.clone(),
            kv: self.env.kv.clone(),
            tree: self.tree.clone(),
            chunks: self.chunks.clone(),
            options: self.options.clone(),
            ready: Box::pin(async {}),
        };
        self.running = Some((Mirror::start(parts, inputs).await?, sender));
        Ok(())
    }

    /// Boots again on the same disk and index, as after kill -9.
    fn reboot(&mut self) {
        self.env.disk.kill();
        self.running = None;
        self.env = TestEnv::boot(&self.env.disk, &self.env.kv);
        let rules = &mut self.env.disk.state().rules;
        (rules.dies_after, rules.fails_one_in, rules.room) = (None, None, None);
    }

    fn handle(&self) -> &MirrorHandle {
        &self.running.as_ref().expect("started").0
    }

    async fn send(&mut self, ids: Vec<FileId>) {
        self.index += 1;
        let dirty = Dirty {
            partition: PARTITION,
            index: self.index,
            ids,
        };
        let (_, sender) = self.running.as_ref().expect("started");
        let _ = sender.send(dirty).await;
    }

    /// Waits until all inputs are covered and no scan runs, or the process died.
    async fn rest(&self) {
        let status = &self.handle().status;
        for _ in 0..100_000 {
            let now = status.get();
            let reached = now.positions.get(&PARTITION).copied().unwrap_or(0);
            let is_done = reached >= self.index && !now.scanning && now.last_scan.is_some();
            if is_done || now.stopped || !self.env.disk.is_alive() {
                return;
            }
            self.wait(20).await;
        }
        panic!("no rest: {:?}", status.get());
    }

    async fn wait(&self, ms: u64) {
        use aber_log::env::Runtime;
        self.env.runtime.sleep(Duration::from_millis(ms)).await;
    }

    async fn apply(&mut self, ids: Vec<FileId>) {
        self.send(ids).await;
        self.rest().await;
    }

    async fn scan(&self) {
        self.handle().scan().await;
        self.wait(1).await;
        self.rest().await;
    }

    fn path(&self, id: FileId) -> PathBuf {
        let (nodes, mut at, mut names) = (self.tree.nodes(), id, Vec::new());
        while at != ROOT {
            let node = &nodes[&at];
            names.push(node.name.clone());
            at = node.parent;
        }
        names.reverse();
        names.join("/").into()
    }

    fn wanted(&self) -> BTreeMap<PathBuf, Shown> {
        let nodes: Vec<Node> = self.tree.nodes().values().cloned().collect();
        let shown = nodes.iter().map(|node| {
            let path = self.path(node.id);
            let shown = match &node.kind {
                NodeKind::File(content) => {
                    let mode = plan::file_mode(node.mode);
                    (FileKind::File, Some(content.blake3()), mode, node.mtime)
                }
                NodeKind::Symlink(target) => {
                    let hash = ContentHash::of(target.as_bytes());
                    (FileKind::Symlink, Some(hash), 0, FileTime::default())
                }
                _ => (FileKind::Directory, None, 0o755, FileTime::default()),
            };
            (path, shown)
        });
        shown.collect()
    }

    fn shown(&self) -> BTreeMap<PathBuf, Shown> {
        listing(self.env.disk.clone())
            .map(|listed| {
                let it = listed.expect("a memory disk");
                (it.path, (it.kind, it.hash, it.mode, it.mtime))
            })
            .collect()
    }

    #[track_caller]
    fn assert_equal(&self, what: &str) {
        assert_eq!(self.shown(), self.wanted(), "{what}");
        for place in [".aber/staging/new", ".aber/staging/swap"] {
            let left = aber_log::env::Disk::list(&self.env.disk, place.as_ref()).expect("there");
            let status = self.handle().status.get();
            assert_eq!(left, [], "{what}: {place} is not empty: {status:?}");
        }
    }

    /// What was set aside, with its notes.
    fn notes(&self) -> String {
        let all = self.env.disk.contents(".aber/lost+edits");
        let text = all.iter().map(|bytes| String::from_utf8_lossy(bytes));
        text.collect::<Vec<_>>().join("\n")
    }

    fn lost(&self) -> Vec<Vec<u8>> {
        let mut lost = self.env.disk.contents(".aber/lost+edits");
        lost.retain(|bytes| !bytes.starts_with(b"path: "));
        lost.sort();
        lost
    }

    /// From now on, at each call on the disk, every file shown has the whole bytes of a committed
    /// version (promise M1).
    fn watch_versions(&self) -> Arc<Mutex<BTreeSet<Vec<u8>>>> {
        let known = Arc::new(Mutex::new(self.versions()));
        let seen = Arc::clone(&known);
        self.env.disk.intrude(move |state| {
            for bytes in state.shown() {
                let is_known = seen.lock().expect("no panic").contains(&bytes);
                assert!(is_known, "no version: {}", String::from_utf8_lossy(&bytes));
            }
        });
        known
    }

    fn versions(&self) -> BTreeSet<Vec<u8>> {
        let nodes = self.tree.nodes();
        let contents = nodes.values().filter_map(|node| match &node.kind {
            NodeKind::File(content) => Some(self.chunks.bytes(content)),
            _ => None,
        });
        contents.collect()
    }

    /// Random bytes of a random length: inline, direct and indirect contents.
    fn random_bytes(&self, rng: &mut Rng) -> Vec<u8> {
        let length = match rng.below(4) {
            0 => 8,
            1 => 60,
            2 => 500,
            _ => 1500,
        };
        let text = format!("{:016x} ", rng.next());
        text.bytes().cycle().take(length).collect()
    }

    /// One random operation; answers what it touched.
    fn mutate(&self, rng: &mut Rng) -> Vec<FileId> {
        let ids: Vec<FileId> = self.tree.nodes().keys().copied().collect();
        let pick = |rng: &mut Rng| ids.get(rng.below(ids.len())).copied();
        let directories: Vec<FileId> = self
            .tree
            .nodes()
            .values()
            .filter(|node| node.is_directory())
            .map(|node| node.id)
            .chain([ROOT])
            .collect();
        let directory = directories[rng.below(directories.len())];
        let name = ["a", "b", "c", "dd", "e e"][rng.below(5)];
        match (rng.below(12), pick(rng)) {
            (0..=2, _) => {
                let content = self.chunks.content(&self.random_bytes(rng));
                self.tree.make(directory, name, NodeKind::File(content))
            }
            (3..=4, _) => self.tree.make(directory, name, NodeKind::Directory),
            (5, _) => {
                let kind = NodeKind::Symlink("a/b".into());
                self.tree.make(directory, name, kind)
            }
            (6..=8, Some(id)) => self.tree.rename(id, directory, name),
            (9, Some(id)) if rng.one_in(2) => self.tree.remove(id),
            (10, Some(id)) => {
                if let Some(node) = self.tree.nodes().get_mut(&id) {
                    node.mode = [0o600, 0o755, 0o644][rng.below(3)];
                    node.mtime.nanos += 1;
                }
                vec![id]
            }
            (_, Some(id)) => {
                let is_file = matches!(
                    self.tree.node(id),
                    Ok(Some(Node {
                        kind: NodeKind::File(_),
                        ..
                    }))
                );
                if is_file {
                    self.tree
                        .put(id, self.chunks.content(&self.random_bytes(rng)))
                } else {
                    Vec::new()
                }
            }
            _ => Vec::new(),
        }
    }
}

async fn random_trees(seed: u64, has_no_exchange: bool) {
    let mut rng = Rng(seed);
    let mut world = World::new();
    world.env.disk.state().rules.has_no_exchange = has_no_exchange;
    world.start().await.expect("starts");
    let known = world.watch_versions();
    for round in 0..12 {
        let mut touched = BTreeSet::new();
        for _ in 0..=rng.below(12) {
            touched.extend(world.mutate(&mut rng));
            known.lock().expect("no panic").extend(world.versions());
        }
        world.apply(touched.into_iter().collect()).await;
        world.assert_equal(&format!("seed {seed}, round {round}"));
    }
    assert_eq!(world.handle().status.get().stranger_count, 0, "seed {seed}");
}

/// M1, TR-2, TR-9: whatever changed between two batches, the directory ends equal to the tree, and
/// shows nothing but whole versions on the way.
#[tokio::test(start_paused = true)]
async fn after_any_changes_the_directory_equals_the_tree() {
    for seed in 0..40 {
        random_trees(seed, false).await;
    }
    for seed in 1000..1015 {
        random_trees(seed, true).await;
    }
}

/// TR-2: a directory moves by one rename, whatever lies below it; no content is touched.
#[tokio::test(start_paused = true)]
async fn a_directory_moves_by_one_rename() {
    let mut world = World::new();
    let directory = world.tree.directory(ROOT, "d");
    let content = world.chunks.content(b"x");
    for number in 0..300 {
        world
            .tree
            .file(directory, &number.to_string(), content.clone());
    }
    world.start().await.expect("starts");
    world.apply(vec![]).await;
    world.assert_equal("filled by the first scan");
    let before = world.env.disk.state().calls;
    let ids = world.tree.rename(directory, ROOT, "e");
    world.apply(ids).await;
    world.assert_equal("moved");
    let calls = world.env.disk.state().calls - before;
    assert!(calls <= 4, "{calls} calls");
}

/// Goal 8: few calls a file, one commit and two syncs a batch.
#[tokio::test(start_paused = true)]
async fn many_small_files_cost_few_calls_each() {
    let mut world = World::new();
    world.options.batch_paths = 512;
    world.options.batch_bytes = 64 << 20;
    world.start().await.expect("starts");
    world.apply(vec![]).await;
    let before = world.env.disk.state().calls;
    let content = world.chunks.content(&[7; 90]);
    let ids: Vec<FileId> = (0..1024)
        .map(|number| world.tree.file(ROOT, &number.to_string(), content.clone()))
        .collect();
    world.apply(ids).await;
    let calls = world.env.disk.state().calls - before;
    assert!(calls <= 1024 * 6 + 20, "{calls} calls");
}

/// TR-2, TR-9: the hard cases one by one.
#[tokio::test(start_paused = true)]
async fn swaps_cycles_and_type_changes_converge() {
    let mut world = World::new();
    let content = |text: &str| world.chunks.content(text.as_bytes());
    let (one, two) = (content("one"), content("two"));
    let a = world.tree.directory(ROOT, "a");
    let b = world.tree.directory(a, "b");
    let x = world.tree.file(b, "x", one.clone());
    let y = world.tree.file(ROOT, "y", two);
    world.start().await.expect("starts");
    world.apply(vec![]).await;
    let set = |id: FileId, parent: FileId, name: &str| {
        let mut nodes = world.tree.nodes();
        let node = nodes.get_mut(&id).expect("there");
        (node.parent, node.name) = (parent, name.to_owned());
        id
    };
    // A child and its parent change places, and two files swap across directories.
    let touched = vec![
        set(b, ROOT, "a"),
        set(a, b, "b"),
        set(x, ROOT, "y"),
        set(y, a, "x"),
    ];
    world.apply(touched).await;
    world.assert_equal("swapped");
    // A file becomes a directory of its name, and back, with children moved in and out.
    let mut touched = world.tree.make(ROOT, "y", NodeKind::Directory);
    let into = *touched.last().expect("one");
    touched.extend(world.tree.rename(a, into, "moved"));
    world.apply(touched).await;
    world.assert_equal("a directory in place of a file");
    let mut touched = world.tree.rename(a, ROOT, "out");
    touched.extend(world.tree.make(ROOT, "y", NodeKind::File(one)));
    world.apply(touched).await;
    world.assert_equal("a file in place of a directory");
    assert_eq!(world.handle().status.get().stranger_count, 0);
}
