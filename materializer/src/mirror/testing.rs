//! A small hostile world: a disk with live and durable images, an index, a tree, chunks.

#![expect(
    clippy::disallowed_methods,
    reason = "tests run on tokio's paused clock"
)]

mod disk;
mod state;

pub(crate) use disk::MemDisk;

use crate::tree::{Node, NodeKind, ROOT, Tree};
use aber_log::chunk::{ChunkProblem, ChunkStore};
use aber_log::env::kv::{KvBatch, KvProblem};
use aber_log::env::network::{Link, LinkClass, LinkProblem, Peer};
use aber_log::env::{Env, Kv, Network, Runtime};
use aber_proto::{
    ChunkHash, ChunkList, ChunkRef, Content, ContentHash, EventId, FileId, FileTime, Instant,
    Manifest, NodeId, PartitionId, Timestamp,
};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard};

/// A small generator: the same numbers for the same seed.
#[derive(Clone, Debug)]
pub(super) struct Rng(pub(super) u64);

impl Rng {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(bound.max(1)).expect("small")).expect("small")
    }

    pub(super) fn one_in(&mut self, bound: usize) -> bool {
        self.below(bound) == 0
    }
}

#[derive(Clone)]
pub(crate) struct TestRuntime {
    epoch: tokio::time::Instant,
    draws: Arc<AtomicU64>,
}

impl Runtime for TestRuntime {
    fn now(&self) -> Instant {
        Instant(u64::try_from(self.epoch.elapsed().as_nanos()).expect("small"))
    }
    fn wall_clock(&self) -> Timestamp {
        Timestamp(1_700_000_000_000 + i64::try_from(self.now().0 / 1_000_000).expect("small"))
    }
    async fn sleep_until(&self, until: Instant) {
        tokio::time::sleep(until - self.now()).await;
    }
    fn spawn<F>(&self, _: &'static str, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        tokio::spawn(task);
    }
    fn fill_random(&self, bytes: &mut [u8]) {
        let mut rng = Rng(self.draws.fetch_add(1, SeqCst));
        bytes.fill_with(|| rng.next().to_le_bytes()[0]);
    }
    fn fail(&self, _: i32, why: &str) {
        panic!("the node failed: {why}");
    }
    fn trace(&self, _: std::fmt::Arguments<'_>) {}
}

#[derive(Clone)]
pub(crate) struct NoNetwork;
pub(crate) struct NoLink;

impl Link for NoLink {
    async fn send(&self, _: Bytes) -> Result<(), LinkProblem> {
        Err(LinkProblem::Closed)
    }
    async fn receive(&self) -> Result<Bytes, LinkProblem> {
        Err(LinkProblem::Closed)
    }
    fn remote(&self) -> NodeId {
        NodeId(0)
    }
    fn class(&self) -> LinkClass {
        LinkClass::Bulk
    }
}

impl Network for NoNetwork {
    type Link = NoLink;
    async fn dial(&self, _: NodeId, _: LinkClass) -> Result<NoLink, LinkProblem> {
        Err(LinkProblem::Closed)
    }
    fn set_peers(&self, _: BTreeMap<NodeId, Peer>) {}

    async fn accept(&self) -> Result<NoLink, LinkProblem> {
        Err(LinkProblem::Closed)
    }
}

/// The index; keeps the last states, so that a crash can go back to one.
#[derive(Clone)]
pub(crate) struct MemKv {
    pub(super) states: Arc<Mutex<Vec<BTreeMap<Bytes, Bytes>>>>,
    pub(super) alive: Arc<AtomicBool>,
}

impl MemKv {
    fn states(&self) -> MutexGuard<'_, Vec<BTreeMap<Bytes, Bytes>>> {
        self.states.lock().expect("no panic")
    }
}

impl Kv for MemKv {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, KvProblem> {
        Ok(self.states().last().and_then(|rows| rows.get(key).cloned()))
    }
    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, KvProblem> {
        let states = self.states();
        let rows = states.last().expect("one state");
        let range = rows.range(Bytes::copy_from_slice(from)..Bytes::copy_from_slice(to));
        Ok(range
            .take(limit)
            .map(|(key, row)| (key.clone(), row.clone()))
            .collect())
    }
    fn commit(&self, batch: KvBatch) -> Result<(), KvProblem> {
        if !self.alive.load(SeqCst) {
            let what = "killed".to_owned();
            return Err(KvProblem { what });
        }
        let mut states = self.states();
        let mut rows = states.last().expect("one state").clone();
        for (key, row) in batch.rows {
            match row {
                Some(row) => rows.insert(key, row),
                None => rows.remove(&key),
            };
        }
        states.push(rows);
        if states.len() > 4 {
            states.remove(0);
        }
        Ok(())
    }
    async fn flush(&self) -> Result<(), KvProblem> {
        Ok(())
    }
}

#[derive(Clone)]
pub(crate) struct TestEnv {
    pub(super) runtime: TestRuntime,
    pub(super) disk: MemDisk,
    pub(crate) kv: MemKv,
    network: NoNetwork,
}

impl TestEnv {
    /// Another boot on the same disk and index.
    pub(super) fn boot(disk: &MemDisk, kv: &MemKv) -> Self {
        let alive = Arc::new(AtomicBool::new(true));
        let runtime = TestRuntime {
            epoch: tokio::time::Instant::now(),
            draws: Arc::default(),
        };
        let (disk, states) = (disk.reboot(&alive), Arc::clone(&kv.states));
        let kv = MemKv { states, alive };
        let network = NoNetwork;
        Self {
            runtime,
            disk,
            kv,
            network,
        }
    }

    pub(crate) fn new() -> Self {
        let kv = MemKv {
            states: Arc::new(Mutex::new(vec![BTreeMap::new()])),
            alive: Arc::default(),
        };
        Self::boot(&MemDisk::new(), &kv)
    }
}

impl Env for TestEnv {
    type Runtime = TestRuntime;
    type Disk = MemDisk;
    type Network = NoNetwork;
    type Kv = MemKv;
    fn runtime(&self) -> &TestRuntime {
        &self.runtime
    }
    fn disk(&self) -> &MemDisk {
        &self.disk
    }
    fn open_folder(&self, _: &std::path::Path) -> io::Result<MemDisk> {
        Ok(self.disk.clone())
    }
    fn network(&self) -> &NoNetwork {
        &self.network
    }
    fn open_index(&self) -> Result<MemKv, KvProblem> {
        Ok(self.kv.clone())
    }
    fn discard_index(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Content, some of which may be missing.
#[derive(Clone, Default)]
pub(crate) struct MemChunks {
    chunks: Arc<Mutex<BTreeMap<ChunkHash, Bytes>>>,
    pub(super) missing: Arc<Mutex<BTreeSet<ChunkHash>>>,
}

impl MemChunks {
    pub(super) fn put(&self, bytes: &[u8]) -> ChunkRef {
        let hash = ChunkHash::of(bytes);
        let bytes = Bytes::copy_from_slice(bytes);
        let length = u32::try_from(bytes.len()).expect("small");
        self.chunks.lock().expect("no panic").insert(hash, bytes);
        ChunkRef { hash, length }
    }

    /// A content cut into pieces of 100 bytes; a long one has an indirect list.
    pub(crate) fn content(&self, bytes: &[u8]) -> Content {
        if bytes.len() < 20 {
            return Content::Inline(Bytes::copy_from_slice(bytes));
        }
        let rows: Vec<ChunkRef> = bytes.chunks(100).map(|piece| self.put(piece)).collect();
        let chunks = if rows.len() > 8 {
            let list = aber_proto::manifest::encode_list(&rows);
            ChunkList::Indirect(list.chunks(50).map(|piece| self.put(piece)).collect())
        } else {
            ChunkList::Direct(rows)
        };
        Content::Chunks(Manifest {
            size: bytes.len() as u64,
            blake3: ContentHash::of(bytes),
            average: 16 * 1024,
            chunks,
        })
    }

    pub(super) fn bytes(&self, content: &Content) -> Vec<u8> {
        let Content::Chunks(manifest) = content else {
            let Content::Inline(bytes) = content else {
                unreachable!()
            };
            return bytes.to_vec();
        };
        let chunks = self.chunks.lock().expect("no panic");
        let all = |rows: &[ChunkRef]| -> Vec<u8> {
            rows.iter()
                .flat_map(|row| chunks[&row.hash].to_vec())
                .collect()
        };
        match &manifest.chunks {
            ChunkList::Direct(rows) => all(rows),
            ChunkList::Indirect(lists) => {
                all(&aber_proto::manifest::decode_list(&all(lists)).expect("good list"))
            }
        }
    }
}

impl ChunkStore for MemChunks {
    async fn get(&self, chunk: ChunkRef) -> Result<Bytes, ChunkProblem> {
        let hash = chunk.hash;
        if self.missing.lock().expect("no panic").contains(&hash) {
            tokio::time::sleep(std::time::Duration::from_secs(10)).await;
            return Err(ChunkProblem::Missing { hash });
        }
        let chunks = self.chunks.lock().expect("no panic");
        chunks
            .get(&hash)
            .cloned()
            .ok_or(ChunkProblem::Missing { hash })
    }
}

/// The tree, with operations that answer which ids they touched.
#[derive(Clone, Default)]
pub(super) struct MemTree {
    pub(super) nodes: Arc<Mutex<BTreeMap<FileId, Node>>>,
    clock: Arc<AtomicU64>,
}

impl MemTree {
    pub(super) fn nodes(&self) -> MutexGuard<'_, BTreeMap<FileId, Node>> {
        self.nodes.lock().expect("no panic")
    }

    pub(super) fn tick(&self) -> EventId {
        EventId {
            partition: PartitionId(1),
            index: self.clock.fetch_add(1, SeqCst) + 1,
            ordinal: 0,
        }
    }

    /// Removes what has the name, then makes a node.
    pub(super) fn make(&self, parent: FileId, name: &str, kind: NodeKind) -> Vec<FileId> {
        let mut touched = Vec::new();
        if let Some(old) = self.child(parent, name).expect("a map") {
            touched = self.remove(old.id);
        }
        let id = self.tick();
        let seconds = 1_000_000 + i64::try_from(id.index).expect("small");
        let node = Node {
            id,
            parent,
            name: name.to_owned(),
            kind,
            mode: 0o644,
            mtime: FileTime { seconds, nanos: 7 },
            version: id,
            previous: None,
            changed: id.index,
        };
        self.nodes().insert(id, node);
        touched.push(id);
        touched
    }

    pub(super) fn file(&self, parent: FileId, name: &str, content: Content) -> FileId {
        *self
            .make(parent, name, NodeKind::File(content))
            .last()
            .expect("one")
    }

    pub(super) fn directory(&self, parent: FileId, name: &str) -> FileId {
        *self
            .make(parent, name, NodeKind::Directory)
            .last()
            .expect("one")
    }

    pub(super) fn put(&self, id: FileId, content: Content) -> Vec<FileId> {
        let version = self.tick();
        if let Some(node) = self.nodes().get_mut(&id) {
            node.version = version;
            node.kind = NodeKind::File(content);
            node.mtime.seconds += 3;
        }
        vec![id]
    }

    pub(super) fn is_within(&self, id: FileId, directory: FileId) -> bool {
        let nodes = self.nodes();
        let mut at = id;
        while at != directory {
            match nodes.get(&at) {
                Some(node) => at = node.parent,
                None => return false,
            }
        }
        true
    }

    /// Renames over whatever is there; does nothing into itself.
    pub(super) fn rename(&self, id: FileId, parent: FileId, name: &str) -> Vec<FileId> {
        let mut touched = Vec::new();
        if self.is_within(parent, id) || (parent != ROOT && self.node(parent) == Ok(None)) {
            return touched;
        }
        if let Some(old) = self.child(parent, name).expect("a map") {
            if old.id == id || self.is_within(id, old.id) || self.is_within(parent, old.id) {
                return touched;
            }
            touched = self.remove(old.id);
        }
        if let Some(node) = self.nodes().get_mut(&id) {
            (node.parent, node.name) = (parent, name.to_owned());
        }
        touched.push(id);
        touched
    }

    /// Removes with all below; answers only the top one.
    pub(super) fn remove(&self, id: FileId) -> Vec<FileId> {
        let below: Vec<FileId> = self.nodes().keys().copied().collect();
        let below: Vec<FileId> = below
            .into_iter()
            .filter(|at| self.is_within(*at, id))
            .collect();
        let mut nodes = self.nodes();
        for at in below {
            nodes.remove(&at);
        }
        vec![id]
    }
}

impl Tree for MemTree {
    fn node(&self, id: FileId) -> Result<Option<Node>, KvProblem> {
        Ok(self.nodes().get(&id).cloned())
    }
    fn child(&self, directory: FileId, name: &str) -> Result<Option<Node>, KvProblem> {
        let nodes = self.nodes();
        let found = nodes
            .values()
            .find(|node| node.parent == directory && node.name == name);
        Ok(found.cloned())
    }
    fn children(
        &self,
        directory: FileId,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Node>, KvProblem> {
        let nodes = self.nodes();
        let mut children: Vec<Node> = nodes
            .values()
            .filter(|node| node.parent == directory)
            .filter(|node| after.is_none_or(|after| node.name.as_str() > after))
            .cloned()
            .collect();
        children.sort_by(|one, other| one.name.cmp(&other.name));
        children.truncate(limit);
        Ok(children)
    }
}
