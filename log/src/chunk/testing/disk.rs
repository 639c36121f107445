//! A disk with a live and a durable image. What was not synced is lost in a crash, kept, or torn.

use crate::env::disk::{DirEntry, FileKind, Hint, Open, Rename, Space, Stat};
use crate::env::{Disk, File};
use aber_proto::FileTime;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

#[derive(Clone)]
enum Change {
    Write(u64, Vec<u8>),
    Length(u64),
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Length(length) => bytes.resize(small(*length), 0),
            Self::Write(at, new) => {
                let (start, end) = (small(*at), small(*at) + new.len());
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
                bytes[start..end].copy_from_slice(new);
            }
        }
    }
}

#[derive(Clone, Default)]
struct Inode {
    live: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Change>,
}

#[derive(Clone, Copy, PartialEq)]
enum Name {
    Directory,
    File(u64),
}

/// What the test looks at and turns.
pub(crate) struct DiskState {
    inodes: BTreeMap<u64, Inode>,
    live: BTreeMap<PathBuf, Name>,
    durable: BTreeMap<PathBuf, Name>,
    /// Calls that change something or sync.
    pub(crate) calls: u64,
    pub(crate) writes: u64,
    pub(crate) syncs: u64,
    /// At this call the machine dies: it and all later ones fail.
    pub(crate) dies_at: Option<u64>,
    /// This call fails, once.
    pub(crate) fails_at: Option<(u64, io::ErrorKind)>,
    /// Reads of these bytes of a path fail.
    pub(crate) unreadable: Option<(PathBuf, u64, u64)>,
    pub(crate) free_bytes: u64,
}

/// The disk. Clones are the same.
#[derive(Clone)]
pub(crate) struct TestDisk(Arc<Mutex<DiskState>>);

impl Default for TestDisk {
    fn default() -> Self {
        Self::with(BTreeMap::new(), BTreeMap::new())
    }
}

impl TestDisk {
    fn with(inodes: BTreeMap<u64, Inode>, names: BTreeMap<PathBuf, Name>) -> Self {
        Self(Arc::new(Mutex::new(DiskState {
            inodes,
            live: names.clone(),
            durable: names,
            calls: 0,
            writes: 0,
            syncs: 0,
            dies_at: None,
            fails_at: None,
            unreadable: None,
            free_bytes: 1 << 40,
        })))
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, DiskState> {
        self.0.lock().unwrap()
    }

    /// Flips a bit of a file, in both images.
    pub(crate) fn flip(&self, path: &Path, bit: u64) {
        let mut state = self.state();
        let Some(Name::File(inode)) = state.live.get(path).copied() else {
            panic!("no {}", path.display());
        };
        let inode = state.inodes.get_mut(&inode).unwrap();
        for image in [&mut inode.live, &mut inode.durable] {
            if let Some(byte) = image.get_mut(small(bit / 8)) {
                *byte ^= 1 << (bit % 8);
            }
        }
    }

    /// The disk as the next process sees it: page cache and all.
    pub(crate) fn after_kill(&self) -> Self {
        let state = self.state();
        let next = Self::with(state.inodes.clone(), state.live.clone());
        next.state().durable = state.durable.clone();
        drop(state);
        next
    }

    /// The disk after a power cut.
    pub(crate) fn after_crash(&self, seed: u64) -> Self {
        let state = self.state();
        let mut draws = super::noise(seed, 1 << 14).into_iter().cycle();
        let mut draw = move || draws.next().unwrap();
        let mut inodes = BTreeMap::new();
        for (number, inode) in &state.inodes {
            let mut bytes = inode.durable.clone();
            for change in &inode.pending {
                match (change, draw() % 4) {
                    (_, 0) => {}
                    (Change::Write(at, new), 1) => {
                        let kept = new.len() * usize::from(draw()) / 256;
                        Change::Write(*at, new[..kept].to_vec()).apply(&mut bytes);
                    }
                    (change, _) => change.apply(&mut bytes),
                }
            }
            let (live, durable) = (bytes.clone(), bytes);
            let pending = Vec::new();
            let inode = Inode {
                live,
                durable,
                pending,
            };
            inodes.insert(*number, inode);
        }
        let mut names = state.durable.clone();
        for path in state.live.keys().chain(state.durable.keys()) {
            let (live, durable) = (state.live.get(path), state.durable.get(path));
            if live != durable && draw() % 2 == 0 {
                match live {
                    Some(name) => names.insert(path.clone(), *name),
                    None => names.remove(path),
                };
            }
        }
        Self::with(inodes, names)
    }
}

impl DiskState {
    fn call(&mut self) -> io::Result<()> {
        self.calls += 1;
        if self.dies_at.is_some_and(|at| self.calls >= at) {
            return Err(io::Error::other("the machine is dead"));
        }
        match self.fails_at {
            Some((at, kind)) if at == self.calls => Err(kind.into()),
            _ => Ok(()),
        }
    }

    fn stat(&self, name: Name) -> Stat {
        let (kind, inode) = match name {
            Name::Directory => (FileKind::Directory, 0),
            Name::File(inode) => (FileKind::File, inode),
        };
        let size = self.inodes.get(&inode).map_or(0, |inode| inode.live.len());
        Stat {
            kind,
            size: size as u64,
            mtime: FileTime::default(),
            ctime: FileTime::default(),
            inode,
            device: 1,
            mode: 0o600,
        }
    }
}

fn small(offset: u64) -> usize {
    offset.try_into().unwrap()
}

fn missing() -> io::Error {
    io::ErrorKind::NotFound.into()
}

pub(crate) struct TestFile {
    disk: TestDisk,
    path: PathBuf,
    inode: u64,
}

impl TestFile {
    fn change(&self, change: Change) -> io::Result<()> {
        let mut state = self.disk.state();
        let was_alive = state.dies_at.is_none_or(|at| state.calls < at);
        let done = state.call();
        let is_failed = done.is_err() && state.dies_at.is_none();
        state.writes += 1;
        if let Some(inode) = state.inodes.get_mut(&self.inode)
            && was_alive
            && !is_failed
        {
            change.apply(&mut inode.live);
            inode.pending.push(change);
        }
        done
    }
}

impl File for TestFile {
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        let state = self.disk.state();
        if let Some((path, from, to)) = &state.unreadable
            && *path == self.path
            && offset < *to
            && *from < offset + into.len() as u64
        {
            return Err(io::Error::other("bad sector"));
        }
        let live = &state.inodes[&self.inode].live;
        let rest = live.get(small(offset)..).unwrap_or_default();
        let length = rest.len().min(into.len());
        into[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    }
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.change(Change::Write(offset, bytes.to_vec()))
    }
    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.change(Change::Length(bytes))
    }
    fn set_meta(&self, _: Option<u32>, _: Option<FileTime>) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn stat(&self) -> io::Result<Stat> {
        Ok(self.disk.state().stat(Name::File(self.inode)))
    }
    async fn sync(&self) -> io::Result<()> {
        tokio::task::yield_now().await;
        let mut state = self.disk.state();
        state.syncs += 1;
        let done = state.call();
        let inode = state.inodes.get_mut(&self.inode).ok_or_else(missing)?;
        // A failed sync leaves the pages clean: the next one will not write them (fsyncgate).
        for change in std::mem::take(&mut inode.pending) {
            if done.is_ok() {
                change.apply(&mut inode.durable);
            }
        }
        done
    }
}

impl Disk for TestDisk {
    type File = TestFile;

    fn open(&self, path: &Path, how: Open) -> io::Result<TestFile> {
        let mut state = self.state();
        let inode = match (state.live.get(path).copied(), how) {
            (Some(_), Open::CreateNew) => return Err(io::ErrorKind::AlreadyExists.into()),
            (Some(Name::File(inode)), _) => inode,
            (None, Open::CreateNew) => {
                state.call()?;
                let inode = 1 + state.inodes.last_key_value().map_or(0, |(last, _)| *last);
                state.inodes.insert(inode, Inode::default());
                state.live.insert(path.to_owned(), Name::File(inode));
                inode
            }
            _ => return Err(missing()),
        };
        Ok(TestFile {
            disk: self.clone(),
            path: path.to_owned(),
            inode,
        })
    }
    fn make_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        if state.live.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        state.call()?;
        state.live.insert(path.to_owned(), Name::Directory);
        Ok(())
    }
    fn make_symlink(&self, _: &Path, _: &Path) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn read_link(&self, _: &Path) -> io::Result<OsString> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.call()?;
        state.live.remove(path).map(|_| ()).ok_or_else(missing)
    }
    fn remove_dir(&self, _: &Path) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn rename(&self, _: &Path, _: &Path, _: Rename) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let state = self.state();
        let below = state.live.iter().filter(|(p, _)| p.parent() == Some(path));
        let entry = |(path, name): (&PathBuf, &Name)| DirEntry {
            name: path.file_name().unwrap().to_owned(),
            kind: state.stat(*name).kind,
        };
        Ok(below.map(entry).collect())
    }
    fn stat(&self, path: &Path) -> io::Result<Stat> {
        let state = self.state();
        let name = state.live.get(path).copied().ok_or_else(missing)?;
        Ok(state.stat(name))
    }
    fn set_mode(&self, _: &Path, _: u32) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    async fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.call()?;
        let live = state.live.clone();
        let is_below = |p: &PathBuf| p.parent() == Some(path);
        state.durable.retain(|p, _| !is_below(p));
        let below = live.into_iter().filter(|(p, _)| is_below(p));
        state.durable.extend(below);
        Ok(())
    }
    async fn sync_all(&self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn space(&self) -> io::Result<Space> {
        Ok(Space {
            total_bytes: 1 << 40,
            free_bytes: self.state().free_bytes,
        })
    }
    fn hints(&self, _: usize) -> Option<tokio::sync::mpsc::Receiver<Hint>> {
        None
    }
}
