//! The two images of the disk, and what a program beside ours does to the live one.

use super::Rng;
use aber_log::env::disk::{FileKind, Stat};
use aber_proto::FileTime;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{self, ErrorKind};
use std::path::{Component, Path};

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Body {
    File(Vec<u8>),
    Directory(BTreeMap<OsString, u64>),
    Symlink(OsString),
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Inode {
    pub(super) body: Body,
    pub(super) mode: u32,
    pub(super) mtime: FileTime,
    pub(super) ctime: i64,
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

pub(super) type Intruder = Box<dyn FnMut(&mut State) + Send>;

pub(in super::super) struct State {
    pub(super) live: BTreeMap<u64, Inode>,
    pub(super) durable: BTreeMap<u64, Inode>,
    pub(super) next: u64,
    pub(super) clock: i64,
    pub(in super::super) calls: u64,
    pub(in super::super) rules: Rules,
    pub(super) rng: Rng,
    pub(super) intruder: Option<Intruder>,
    /// Where hints go.
    pub(in super::super) hints: Option<tokio::sync::mpsc::Sender<aber_log::env::disk::Hint>>,
}

pub(super) const ROOT: u64 = 1;

pub(super) fn fail<T>(kind: ErrorKind) -> io::Result<T> {
    Err(kind.into())
}

impl State {
    pub(super) fn key(&self, name: &OsStr, entries: &BTreeMap<OsString, u64>) -> OsString {
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

    pub(super) fn entries(&self, directory: u64) -> io::Result<&BTreeMap<OsString, u64>> {
        match &self.live.get(&directory).ok_or(ErrorKind::NotFound)?.body {
            Body::Directory(entries) => Ok(entries),
            _ => fail(ErrorKind::NotADirectory),
        }
    }

    pub(super) fn entries_mut(&mut self, directory: u64) -> &mut BTreeMap<OsString, u64> {
        self.clock += 1;
        let clock = self.clock;
        let inode = self.live.get_mut(&directory).expect("checked before");
        inode.ctime = clock;
        match &mut inode.body {
            Body::Directory(entries) => entries,
            _ => unreachable!("checked before"),
        }
    }

    pub(super) fn find(&self, path: &Path) -> io::Result<u64> {
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
    pub(super) fn place(&self, path: &Path) -> io::Result<(u64, OsString, Option<u64>)> {
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

    pub(super) fn add(&mut self, path: &Path, body: Body, mode: u32) -> io::Result<u64> {
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

    pub(super) fn stat(&self, inode: u64) -> Stat {
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

    pub(super) fn sync_inode(&mut self, inode: u64) {
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

/// A directory that a crash left under two names keeps the first.
pub(super) fn only_one_name(inodes: &mut BTreeMap<u64, Inode>) {
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
