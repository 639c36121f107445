//! [adapter] A small hostile world for this crate's own tests.
//!
//! Files have a live and a durable image. A crash keeps a random subset of the 512-byte blocks that
//! were written since the last sync, and a random prefix of the names made since their directory
//! was synced. Every call on the disk is counted; from a chosen call on all fail, either only with
//! an error, or as if the node had died there. No network, no index.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation,
    clippy::disallowed_methods,
    reason = "a test that meets the unexpected fails"
)]

use crate::env::disk::{DirEntry, FileKind, Hint, Open, Rename, Space, Stat};
use crate::env::kv::{Kv, KvBatch, KvProblem};
use crate::env::network::{Link, LinkClass, LinkProblem, Peer};
use crate::env::{Disk, Env, File, Network, Runtime};
use crate::life::Life;
use aber_proto::{FileTime, Instant, NodeId, Timestamp};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

const SECTOR: usize = 512;

/// A small generator (splitmix64).
#[derive(Clone)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

#[derive(Clone, Default)]
struct Inode {
    live: Vec<u8>,
    durable: Vec<u8>,
    dirty: BTreeSet<usize>,
}

type Names = BTreeMap<PathBuf, Option<usize>>;

#[derive(Clone, Default)]
struct World {
    inodes: Vec<Inode>,
    /// Name to inode; `None` is a directory.
    live: Names,
    durable: Names,
    /// Names after each change since the last directory sync.
    changes: Vec<Names>,
    calls: u64,
    syncs: u64,
    /// This call and, if the node dies there, all later ones fail.
    fail_at: Option<u64>,
    has_failed: bool,
}

/// The disk of a test. Clones are the same disk.
#[derive(Clone, Default)]
pub(crate) struct TestDisk(Arc<Mutex<World>>);

impl TestDisk {
    fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap()
    }

    /// Counts a call; the chosen one and all later ones fail.
    fn call(&self) -> io::Result<MutexGuard<'_, World>> {
        let mut world = self.world();
        world.calls += 1;
        if world.fail_at.is_some_and(|at| world.calls >= at) {
            world.has_failed = true;
            return Err(io::Error::other("the disk died"));
        }
        Ok(world)
    }

    /// From the `calls`-th call from now on (1 is the next) all fail.
    pub(crate) fn fail_after(&self, calls: u64) {
        let mut world = self.world();
        world.fail_at = Some(world.calls + calls);
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.world().has_failed
    }

    /// File syncs so far.
    pub(crate) fn syncs(&self) -> u64 {
        self.world().syncs
    }

    /// What is there after a power cut; `seed` decides what of the unsynced is.
    pub(crate) fn crash(&self, seed: u64) -> Self {
        let mut world = self.world().clone();
        let mut random = Random(seed);
        for inode in &mut world.inodes {
            // Some crashes lose all, some keep all, most tear.
            let keep = random.below(5);
            for sector in std::mem::take(&mut inode.dirty) {
                if keep == 1 || (keep > 1 && random.below(2) == 0) {
                    let (from, to) = (sector * SECTOR, (sector + 1) * SECTOR);
                    let to = to.min(inode.live.len());
                    if inode.durable.len() < to {
                        inode.durable.resize(to, 0);
                    }
                    inode.durable[from..to].copy_from_slice(&inode.live[from..to]);
                }
            }
            inode.live.clone_from(&inode.durable);
        }
        let kept = random.below(world.changes.len() as u64 + 1) as usize;
        if let Some(names) = kept.checked_sub(1).map(|at| world.changes[at].clone()) {
            world.durable = names;
        }
        world.changes.clear();
        world.live = world.durable.clone();
        (world.fail_at, world.has_failed) = (None, false);
        Self(Arc::new(Mutex::new(world)))
    }

    /// The disk as a killed process leaves it: all that was written is there, synced or not.
    pub(crate) fn after_kill(&self) -> Self {
        let mut world = self.world().clone();
        (world.fail_at, world.has_failed) = (None, false);
        Self(Arc::new(Mutex::new(world)))
    }

    /// Changes a file behind everybody's back, durably.
    pub(crate) fn tamper(&self, path: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut world = self.world();
        let at = world.live[Path::new(path)].unwrap();
        let inode = &mut world.inodes[at];
        change(&mut inode.live);
        inode.durable.clone_from(&inode.live);
        inode.dirty.clear();
    }

    /// A file's bytes.
    pub(crate) fn bytes(&self, path: &str) -> Vec<u8> {
        let world = self.world();
        world.inodes[world.live[Path::new(path)].unwrap()]
            .live
            .clone()
    }

    pub(crate) fn exists(&self, path: &str) -> bool {
        self.world().live.contains_key(Path::new(path))
    }
}

impl World {
    fn renamed(&mut self) {
        self.changes.push(self.live.clone());
    }
}

fn not_found() -> io::Error {
    io::ErrorKind::NotFound.into()
}

pub(crate) struct TestFile {
    disk: TestDisk,
    inode: usize,
}

impl File for TestFile {
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        let world = self.disk.call()?;
        let live = &world.inodes[self.inode].live;
        let from = (offset as usize).min(live.len());
        let count = into.len().min(live.len() - from);
        into[..count].copy_from_slice(&live[from..from + count]);
        Ok(count)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let outcome = self.disk.call().map(drop);
        // A call that fails may have written all the same.
        let mut world = self.disk.world();
        let inode = &mut world.inodes[self.inode];
        let (from, to) = (offset as usize, offset as usize + bytes.len());
        if inode.live.len() < to {
            inode.live.resize(to, 0);
        }
        inode.live[from..to].copy_from_slice(bytes);
        inode.dirty.extend(from / SECTOR..to.div_ceil(SECTOR));
        outcome
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        let mut world = self.disk.call()?;
        world.inodes[self.inode].live.resize(bytes as usize, 0);
        Ok(())
    }

    fn set_meta(&self, _: Option<u32>, _: Option<FileTime>) -> io::Result<()> {
        Ok(())
    }

    fn stat(&self) -> io::Result<Stat> {
        let world = self.disk.call()?;
        let time = FileTime::default();
        Ok(Stat {
            kind: FileKind::File,
            size: world.inodes[self.inode].live.len() as u64,
            mtime: time,
            ctime: time,
            inode: self.inode as u64,
            device: 0,
            mode: 0o600,
        })
    }

    async fn sync(&self) -> io::Result<()> {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        let mut world = self.disk.call()?;
        world.syncs += 1;
        let inode = &mut world.inodes[self.inode];
        inode.durable.clone_from(&inode.live);
        inode.dirty.clear();
        Ok(())
    }
}

impl Disk for TestDisk {
    type File = TestFile;

    fn open(&self, path: &Path, how: Open) -> io::Result<TestFile> {
        let mut world = self.call()?;
        let inode = match (world.live.get(path), how) {
            (Some(_), Open::CreateNew) => return Err(io::ErrorKind::AlreadyExists.into()),
            (Some(at), _) => at.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?,
            (None, Open::CreateNew) => {
                world.inodes.push(Inode::default());
                let at = world.inodes.len() - 1;
                world.live.insert(path.to_owned(), Some(at));
                world.renamed();
                at
            }
            (None, _) => return Err(not_found()),
        };
        let disk = self.clone();
        Ok(TestFile { disk, inode })
    }

    fn make_dir(&self, path: &Path) -> io::Result<()> {
        let mut world = self.call()?;
        if world.live.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        world.live.insert(path.to_owned(), None);
        world.renamed();
        Ok(())
    }

    fn make_symlink(&self, _: &Path, _: &Path) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn read_link(&self, _: &Path) -> io::Result<OsString> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut world = self.call()?;
        world.live.remove(path).ok_or_else(not_found)?;
        world.renamed();
        Ok(())
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.remove_file(path)
    }

    fn rename(&self, from: &Path, to: &Path, how: Rename) -> io::Result<()> {
        let mut world = self.call()?;
        if how == Rename::NoReplace && world.live.contains_key(to) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let inode = world.live.remove(from).ok_or_else(not_found)?;
        world.live.insert(to.to_owned(), inode);
        world.renamed();
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let world = self.call()?;
        let below = world
            .live
            .iter()
            .filter(|(name, _)| name.parent() == Some(path));
        Ok(below
            .map(|(name, at)| DirEntry {
                name: name.file_name().unwrap().to_owned(),
                kind: at.map_or(FileKind::Directory, |_| FileKind::File),
            })
            .collect())
    }

    fn stat(&self, path: &Path) -> io::Result<Stat> {
        self.open(path, Open::Read)?.stat()
    }

    fn set_mode(&self, _: &Path, _: u32) -> io::Result<()> {
        Ok(())
    }

    async fn sync_dir(&self, _: &Path) -> io::Result<()> {
        let mut world = self.call()?;
        world.durable = world.live.clone();
        world.changes.clear();
        Ok(())
    }

    async fn sync_all(&self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn space(&self) -> io::Result<Space> {
        let bytes = 1 << 40;
        let (total_bytes, free_bytes) = (bytes, bytes);
        Ok(Space {
            total_bytes,
            free_bytes,
        })
    }

    fn hints(&self, _: usize) -> Option<tokio::sync::mpsc::Receiver<Hint>> {
        None
    }
}

/// One boot of the node of a test.
#[derive(Clone)]
pub(crate) struct TestEnv {
    disk: TestDisk,
    life: Arc<Life>,
    failures: Arc<Mutex<Vec<String>>>,
}

impl TestEnv {
    pub(crate) fn new(disk: &TestDisk) -> Self {
        Self {
            disk: disk.clone(),
            life: Life::new(tokio::time::Instant::now(), 0, 7),
            failures: Arc::default(),
        }
    }

    /// The boot ends as a crash ends it.
    pub(crate) async fn kill(&self) {
        self.life.kill();
        for _ in 0..4 {
            tokio::task::yield_now().await;
        }
    }

    /// What the node stopped with.
    pub(crate) fn failures(&self) -> Vec<String> {
        self.failures.lock().unwrap().clone()
    }
}

impl Runtime for TestEnv {
    fn now(&self) -> Instant {
        Instant(self.life.now_ns())
    }

    fn wall_clock(&self) -> Timestamp {
        Timestamp(0)
    }

    async fn sleep_until(&self, until: Instant) {
        tokio::time::sleep(until - self.now()).await;
    }

    fn spawn<F>(&self, _: &'static str, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        drop(self.life.spawn(task));
    }

    fn fill_random(&self, bytes: &mut [u8]) {
        bytes.fill(7);
    }

    fn fail(&self, code: i32, why: &str) {
        self.failures.lock().unwrap().push(format!("{code}: {why}"));
    }

    fn trace(&self, _: std::fmt::Arguments<'_>) {}
}

impl Env for TestEnv {
    type Runtime = Self;
    type Disk = TestDisk;
    type Network = NoNetwork;
    type Kv = NoKv;

    fn runtime(&self) -> &Self {
        self
    }

    fn disk(&self) -> &TestDisk {
        &self.disk
    }

    fn open_folder(&self, _: &Path) -> io::Result<TestDisk> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn network(&self) -> &NoNetwork {
        &NoNetwork
    }

    fn open_index(&self) -> Result<NoKv, KvProblem> {
        Ok(NoKv)
    }

    fn discard_index(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Nobody is there.
#[derive(Clone)]
pub(crate) struct NoNetwork;

impl Network for NoNetwork {
    type Link = NoNetwork;

    async fn dial(&self, _: NodeId, _: LinkClass) -> Result<NoNetwork, LinkProblem> {
        Err(LinkProblem::Closed)
    }

    fn set_peers(&self, _: BTreeMap<NodeId, Peer>) {}

    async fn accept(&self) -> Result<NoNetwork, LinkProblem> {
        std::future::pending().await
    }
}

impl Link for NoNetwork {
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
        LinkClass::Control
    }
}

/// No index.
#[derive(Clone)]
pub(crate) struct NoKv;

impl Kv for NoKv {
    fn get(&self, _: &[u8]) -> Result<Option<Bytes>, KvProblem> {
        Ok(None)
    }

    fn scan(&self, _: &[u8], _: &[u8], _: usize) -> Result<Vec<(Bytes, Bytes)>, KvProblem> {
        Ok(Vec::new())
    }

    fn commit(&self, _: KvBatch) -> Result<(), KvProblem> {
        Ok(())
    }

    async fn flush(&self) -> Result<(), KvProblem> {
        Ok(())
    }
}
