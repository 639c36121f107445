//! A disk in memory, with live and durable images, that can refuse, fail and die.

use super::Rng;
use aber_log::env::disk::{DirEntry, Disk, File, FileKind, Hint, Open, Rename, Space, Stat};
use aber_proto::FileTime;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{self, ErrorKind};
use std::path::{Component, Path};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard};

#[derive(Clone, PartialEq, Eq, Debug)]
enum Body {
    File(Vec<u8>),
    Directory(BTreeMap<OsString, u64>),
    Symlink(OsString),
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Inode {
    body: Body,
    mode: u32,
    mtime: FileTime,
    ctime: i64,
}

/// How the disk misbehaves.
#[derive(Clone, Debug, Default)]
pub(in super::super) struct Rules {
    /// The process dies before this many more changing calls.
    pub(in super::super) dies_after: Option<u64>,
    /// The call at which a writer is let in; see [`MemDisk::intrude`].
    pub(in super::super) has_no_exchange: bool,
    pub(in super::super) name_max: Option<usize>,
    pub(in super::super) folds_case: bool,
    /// Bytes that may still be written.
    pub(in super::super) room: Option<usize>,
    /// One in so many changing calls fails.
    pub(in super::super) fails_one_in: Option<usize>,
}

type Intruder = Box<dyn FnMut(&mut State) + Send>;

pub(in super::super) struct State {
    live: BTreeMap<u64, Inode>,
    durable: BTreeMap<u64, Inode>,
    next: u64,
    clock: i64,
    pub(in super::super) calls: u64,
    pub(in super::super) rules: Rules,
    rng: Rng,
    intruder: Option<Intruder>,
}

#[derive(Clone)]
pub(in super::super) struct MemDisk {
    state: Arc<Mutex<State>>,
    alive: Arc<AtomicBool>,
}

pub(in super::super) struct MemFile {
    disk: MemDisk,
    inode: u64,
}

const ROOT: u64 = 1;

fn fail<T>(kind: ErrorKind) -> io::Result<T> {
    Err(kind.into())
}

impl State {
    fn key(&self, name: &OsStr, entries: &BTreeMap<OsString, u64>) -> OsString {
        if !self.rules.folds_case {
            return name.to_owned();
        }
        let folded = name.to_string_lossy().to_lowercase();
        entries
            .keys()
            .find(|key| key.to_string_lossy().to_lowercase() == folded)
            .cloned()
            .unwrap_or_else(|| name.to_owned())
    }

    fn entries(&self, directory: u64) -> io::Result<&BTreeMap<OsString, u64>> {
        match &self.live.get(&directory).ok_or(ErrorKind::NotFound)?.body {
            Body::Directory(entries) => Ok(entries),
            _ => fail(ErrorKind::NotADirectory),
        }
    }

    fn entries_mut(&mut self, directory: u64) -> &mut BTreeMap<OsString, u64> {
        self.clock += 1;
        let clock = self.clock;
        let inode = self.live.get_mut(&directory).expect("checked before");
        inode.ctime = clock;
        match &mut inode.body {
            Body::Directory(entries) => entries,
            _ => unreachable!("checked before"),
        }
    }

    fn find(&self, path: &Path) -> io::Result<u64> {
        let mut at = ROOT;
        for component in path.components() {
            let Component::Normal(name) = component else {
                return fail(ErrorKind::InvalidInput);
            };
            let entries = self.entries(at)?;
            at = *entries
                .get(&self.key(name, entries))
                .ok_or(ErrorKind::NotFound)?;
        }
        Ok(at)
    }

    /// The directory and name of a path, and what stands there.
    fn place(&self, path: &Path) -> io::Result<(u64, OsString, Option<u64>)> {
        let name = path.file_name().ok_or(ErrorKind::InvalidInput)?;
        if self.rules.name_max.is_some_and(|max| name.len() > max) {
            return fail(ErrorKind::InvalidFilename);
        }
        let directory = self.find(path.parent().unwrap_or(Path::new("")))?;
        let entries = self.entries(directory)?;
        let key = self.key(name, entries);
        let there = entries.get(&key).copied();
        Ok((
            directory,
            if there.is_some() { key } else { name.into() },
            there,
        ))
    }

    fn add(&mut self, path: &Path, body: Body, mode: u32) -> io::Result<u64> {
        let (directory, name, there) = self.place(path)?;
        if there.is_some() {
            return fail(ErrorKind::AlreadyExists);
        }
        self.next += 1;
        self.clock += 1;
        let (inode, ctime) = (self.next, self.clock);
        let mtime = FileTime {
            seconds: ctime,
            nanos: 1,
        };
        let made = Inode {
            body,
            mode,
            mtime,
            ctime,
        };
        self.live.insert(inode, made);
        self.entries_mut(directory).insert(name, inode);
        Ok(inode)
    }

    fn stat(&self, inode: u64) -> Stat {
        let it = &self.live[&inode];
        let (kind, size) = match &it.body {
            Body::File(bytes) => (FileKind::File, bytes.len()),
            Body::Directory(_) => (FileKind::Directory, 4096),
            Body::Symlink(target) => (FileKind::Symlink, target.len()),
        };
        Stat {
            kind,
            size: size as u64,
            mtime: it.mtime,
            ctime: FileTime {
                seconds: it.ctime,
                nanos: 0,
            },
            inode,
            device: 1,
            mode: it.mode,
        }
    }

    /// What a user's program does: writes a file, over whatever is there.
    pub(in super::super) fn user_writes(&mut self, path: &str, bytes: &[u8]) -> bool {
        let path = Path::new(path);
        self.clock += 1;
        let seconds = self.clock;
        if let Ok(inode) = self.find(path) {
            let it = self.live.get_mut(&inode).expect("found");
            if !matches!(it.body, Body::File(_)) {
                return false;
            }
            it.body = Body::File(bytes.to_vec());
            (it.mtime, it.ctime) = (FileTime { seconds, nanos: 5 }, seconds);
            return true;
        }
        self.add(path, Body::File(bytes.to_vec()), 0o644).is_ok()
    }

    /// Bytes of the files outside `.aber`.
    pub(in super::super) fn shown(&self) -> Vec<Vec<u8>> {
        let (mut stack, mut found) = (vec![ROOT], Vec::new());
        while let Some(inode) = stack.pop() {
            match &self.live[&inode].body {
                Body::Directory(entries) => {
                    let shown = entries.iter().filter(|(name, _)| *name != ".aber");
                    stack.extend(shown.map(|(_, inode)| *inode));
                }
                Body::File(bytes) => found.push(bytes.clone()),
                Body::Symlink(_) => {}
            }
        }
        found
    }

    pub(in super::super) fn bytes_at(&self, path: &str) -> Option<Vec<u8>> {
        match &self.live[&self.find(Path::new(path)).ok()?].body {
            Body::File(bytes) => Some(bytes.clone()),
            _ => None,
        }
    }

    fn sync_inode(&mut self, inode: u64) {
        let it = self.live[&inode].clone();
        if let Body::Directory(entries) = &it.body {
            for child in entries.values() {
                let empty = match &self.live[child].body {
                    Body::File(_) => Body::File(Vec::new()),
                    Body::Directory(_) => Body::Directory(BTreeMap::new()),
                    Body::Symlink(target) => Body::Symlink(target.clone()),
                };
                let body = empty;
                let fresh = Inode {
                    body,
                    ..self.live[child].clone()
                };
                self.durable.entry(*child).or_insert(fresh);
            }
        }
        self.durable.insert(inode, it);
    }
}

impl MemDisk {
    pub(in super::super) fn new() -> Self {
        let root = Inode {
            body: Body::Directory(BTreeMap::new()),
            mode: 0o755,
            mtime: FileTime::default(),
            ctime: 0,
        };
        let live = BTreeMap::from([(ROOT, root)]);
        let state = State {
            durable: live.clone(),
            live,
            next: ROOT,
            clock: 5_000_000,
            calls: 0,
            rules: Rules::default(),
            rng: Rng(1),
            intruder: None,
        };
        Self {
            state: Arc::new(Mutex::new(state)),
            alive: Arc::default(),
        }
    }

    pub(in super::super) fn reboot(&self, alive: &Arc<AtomicBool>) -> Self {
        Self {
            state: Arc::clone(&self.state),
            alive: Arc::clone(alive),
        }
    }

    pub(in super::super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic")
    }

    pub(in super::super) fn is_alive(&self) -> bool {
        self.alive.load(SeqCst)
    }

    pub(in super::super) fn kill(&self) {
        self.alive.store(false, SeqCst);
    }

    /// Called before every changing call, as a program that runs beside ours.
    pub(in super::super) fn intrude(&self, intruder: impl FnMut(&mut State) + Send + 'static) {
        self.state().intruder = Some(Box::new(intruder));
    }

    pub(in super::super) fn no_intruder(&self) {
        self.state().intruder = None;
    }

    /// Power fails: of what was not synced, any part is lost. A name is old or new; the bytes of a
    /// file are old, new or cut.
    pub(in super::super) fn lose_power(&self, seed: u64) {
        let mut rng = Rng(seed);
        let mut state = self.state();
        let mut after = state.durable.clone();
        for (inode, live) in &state.live {
            match (state.durable.get(inode), &live.body) {
                (_, Body::Directory(entries)) => {
                    let old = match state.durable.get(inode).map(|it| &it.body) {
                        Some(Body::Directory(old)) => old.clone(),
                        _ => BTreeMap::new(),
                    };
                    let mut mixed = old.clone();
                    for name in old.keys().chain(entries.keys()) {
                        if rng.one_in(2) {
                            match entries.get(name) {
                                Some(to) => mixed.insert(name.clone(), *to),
                                None => mixed.remove(name),
                            };
                        }
                    }
                    let body = Body::Directory(mixed);
                    after.insert(
                        *inode,
                        Inode {
                            body,
                            ..live.clone()
                        },
                    );
                }
                (durable, Body::File(bytes)) if durable.map(|it| &it.body) != Some(&live.body) => {
                    let body = match rng.below(3) {
                        0 => live.body.clone(),
                        1 => Body::File(bytes[..rng.below(bytes.len() + 1)].to_vec()),
                        _ => durable.map_or(Body::File(Vec::new()), |it| it.body.clone()),
                    };
                    after.insert(
                        *inode,
                        Inode {
                            body,
                            ..live.clone()
                        },
                    );
                }
                _ => _ = after.insert(*inode, live.clone()),
            }
        }
        only_one_name(&mut after);
        state.durable = after.clone();
        state.live = after;
    }

    /// Bytes of the files outside `.aber`.
    pub(in super::super) fn shown(&self) -> Vec<Vec<u8>> {
        self.state().shown()
    }

    /// All bytes of all files below a directory.
    pub(in super::super) fn contents(&self, below: &str) -> Vec<Vec<u8>> {
        let state = self.state();
        let Ok(start) = state.find(Path::new(below)) else {
            return Vec::new();
        };
        let (mut stack, mut found) = (vec![start], Vec::new());
        while let Some(inode) = stack.pop() {
            match &state.live[&inode].body {
                Body::Directory(entries) => stack.extend(entries.values()),
                Body::File(bytes) => found.push(bytes.clone()),
                Body::Symlink(_) => {}
            }
        }
        found
    }

    fn change(&self, wrote: usize) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.state();
        if !self.is_alive() {
            return Err(io::Error::other("killed"));
        }
        if let Some(mut intruder) = state.intruder.take() {
            intruder(&mut state);
            state.intruder = Some(intruder);
        }
        state.calls += 1;
        match state.rules.dies_after.as_mut() {
            Some(0) => {
                self.alive.store(false, SeqCst);
                return Err(io::Error::other("killed"));
            }
            Some(left) => *left -= 1,
            None => {}
        }
        if let Some(room) = state.rules.room.as_mut() {
            *room = room.checked_sub(wrote).ok_or(ErrorKind::StorageFull)?;
        }
        if let Some(bound) = state.rules.fails_one_in
            && state.rng.one_in(bound)
        {
            return Err(io::Error::other("injected"));
        }
        Ok(state)
    }
}

/// A directory that a crash left under two names keeps the first.
fn only_one_name(inodes: &mut BTreeMap<u64, Inode>) {
    let directories: Vec<u64> = inodes
        .iter()
        .filter(|(_, it)| matches!(it.body, Body::Directory(_)))
        .map(|(inode, _)| *inode)
        .collect();
    let (mut seen, mut stack) = (std::collections::BTreeSet::new(), vec![ROOT]);
    while let Some(at) = stack.pop() {
        let it = inodes.get_mut(&at).expect("found");
        if let Body::Directory(entries) = &mut it.body {
            entries.retain(|_, to| !directories.contains(to) || seen.insert(*to));
            stack.extend(entries.values());
        }
    }
}

impl File for MemFile {
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        let state = self.disk.state();
        let Body::File(bytes) = &state.live[&self.inode].body else {
            unreachable!()
        };
        let offset = usize::try_from(offset).expect("small").min(bytes.len());
        let length = into.len().min(bytes.len() - offset);
        into[..length].copy_from_slice(&bytes[offset..offset + length]);
        Ok(length)
    }
    fn write_at(&self, new: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.disk.change(new.len())?;
        state.clock += 1;
        let clock = state.clock;
        let it = state.live.get_mut(&self.inode).expect("open");
        (it.mtime.seconds, it.ctime) = (clock, clock);
        let Body::File(bytes) = &mut it.body else {
            unreachable!()
        };
        let offset = usize::try_from(offset).expect("small");
        bytes.resize(bytes.len().max(offset + new.len()), 0);
        bytes[offset..offset + new.len()].copy_from_slice(new);
        Ok(())
    }
    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut state = self.disk.change(0)?;
        let Body::File(bytes) = &mut state.live.get_mut(&self.inode).expect("open").body else {
            unreachable!()
        };
        bytes.resize(usize::try_from(length).expect("small"), 0);
        Ok(())
    }
    fn set_meta(&self, mode: Option<u32>, mtime: Option<FileTime>) -> io::Result<()> {
        let mut state = self.disk.change(0)?;
        state.clock += 1;
        let clock = state.clock;
        let it = state.live.get_mut(&self.inode).expect("open");
        it.mode = mode.unwrap_or(it.mode);
        it.mtime = mtime.unwrap_or(it.mtime);
        it.ctime = clock;
        Ok(())
    }
    fn stat(&self) -> io::Result<Stat> {
        Ok(self.disk.state().stat(self.inode))
    }
    async fn sync(&self) -> io::Result<()> {
        self.disk.change(0)?.sync_inode(self.inode);
        Ok(())
    }
}

impl Disk for MemDisk {
    type File = MemFile;

    fn open(&self, path: &Path, how: Open) -> io::Result<MemFile> {
        let disk = self.clone();
        if how == Open::CreateNew {
            let inode = self.change(0)?.add(path, Body::File(Vec::new()), 0o600)?;
            return Ok(MemFile { disk, inode });
        }
        let state = self.state();
        let inode = state.find(path)?;
        match &state.live[&inode].body {
            Body::File(_) => Ok(MemFile { disk, inode }),
            _ => fail(ErrorKind::InvalidInput),
        }
    }
    fn make_dir(&self, path: &Path) -> io::Result<()> {
        let body = Body::Directory(BTreeMap::new());
        self.change(0)?.add(path, body, 0o755).map(|_| ())
    }
    fn make_symlink(&self, path: &Path, target: &Path) -> io::Result<()> {
        let body = Body::Symlink(target.as_os_str().to_owned());
        self.change(0)?.add(path, body, 0o777).map(|_| ())
    }
    fn read_link(&self, path: &Path) -> io::Result<OsString> {
        let state = self.state();
        match &state.live[&state.find(path)?].body {
            Body::Symlink(target) => Ok(target.clone()),
            _ => fail(ErrorKind::InvalidInput),
        }
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.change(0)?;
        let (directory, name, there) = state.place(path)?;
        let inode = there.ok_or(ErrorKind::NotFound)?;
        if matches!(state.live[&inode].body, Body::Directory(_)) {
            return fail(ErrorKind::IsADirectory);
        }
        state.entries_mut(directory).remove(&name);
        Ok(())
    }
    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.change(0)?;
        let (directory, name, there) = state.place(path)?;
        if !state.entries(there.ok_or(ErrorKind::NotFound)?)?.is_empty() {
            return fail(ErrorKind::DirectoryNotEmpty);
        }
        state.entries_mut(directory).remove(&name);
        Ok(())
    }
    fn rename(&self, from: &Path, to: &Path, how: Rename) -> io::Result<()> {
        let mut state = self.change(0)?;
        if how == Rename::Exchange && state.rules.has_no_exchange {
            return fail(ErrorKind::InvalidInput);
        }
        let (from_directory, from_name, moved) = state.place(from)?;
        let (to_directory, to_name, there) = state.place(to)?;
        let moved = moved.ok_or(ErrorKind::NotFound)?;
        if to.starts_with(from) && from != to {
            return fail(ErrorKind::InvalidInput);
        }
        match (how, there) {
            (Rename::Exchange, None) => return fail(ErrorKind::NotFound),
            (Rename::Exchange, Some(there)) => {
                state.entries_mut(from_directory).insert(from_name, there);
                state.entries_mut(to_directory).insert(to_name, moved);
                return Ok(());
            }
            (Rename::NoReplace, Some(_)) => return fail(ErrorKind::AlreadyExists),
            (_, Some(there)) if there != moved => {
                assert!(matches!(state.live[&there].body, Body::File(_)), "{to:?}");
            }
            _ => {}
        }
        state.entries_mut(from_directory).remove(&from_name);
        let name = to.file_name().expect("placed").to_owned();
        state.entries_mut(to_directory).insert(name, moved);
        Ok(())
    }
    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let state = self.state();
        let entries = state.entries(state.find(path)?)?;
        let entry = |(name, inode): (&OsString, &u64)| DirEntry {
            name: name.clone(),
            kind: state.stat(*inode).kind,
        };
        Ok(entries.iter().map(entry).collect())
    }
    fn stat(&self, path: &Path) -> io::Result<Stat> {
        let state = self.state();
        Ok(state.stat(state.find(path)?))
    }
    fn set_mode(&self, path: &Path, mode: u32) -> io::Result<()> {
        let mut state = self.change(0)?;
        let inode = state.find(path)?;
        state.live.get_mut(&inode).expect("found").mode = mode;
        Ok(())
    }
    async fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.change(0)?;
        let inode = state.find(path)?;
        state.sync_inode(inode);
        Ok(())
    }
    async fn sync_all(&self) -> io::Result<()> {
        let mut state = self.change(0)?;
        state.durable = state.live.clone();
        Ok(())
    }
    fn space(&self) -> io::Result<Space> {
        Ok(Space {
            total_bytes: 1 << 40,
            free_bytes: 1 << 40,
        })
    }
    fn hints(&self, _: usize) -> Option<tokio::sync::mpsc::Receiver<Hint>> {
        None
    }
}
