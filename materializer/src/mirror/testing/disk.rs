//! A disk in memory, with live and durable images, that can refuse, fail and die.

use super::Rng;
use super::state::{Body, Inode, ROOT, Rules, State, fail, only_one_name};
use aber_log::env::disk::{DirEntry, Disk, File, Hint, Open, Rename, Space, Stat};
use aber_proto::FileTime;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard};

#[derive(Clone)]
pub(crate) struct MemDisk {
    state: Arc<Mutex<State>>,
    alive: Arc<AtomicBool>,
}

pub(crate) struct MemFile {
    disk: MemDisk,
    inode: u64,
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
            hints: None,
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
    fn hints(&self, bound: usize) -> Option<tokio::sync::mpsc::Receiver<Hint>> {
        let (sender, receiver) = tokio::sync::mpsc::channel(bound);
        self.state().hints = Some(sender);
        Some(receiver)
    }
}
