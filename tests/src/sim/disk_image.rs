//! [pure] A simulated file system: what programs see, and what a power cut leaves of it.
//!
//! Inodes are shared by both images; each directory has its live names and its durable ones, and
//! between them lies a list of name changes that no sync covered yet (`names`). Paths are resolved
//! component by component from a directory, and never through a symlink. Errors are those of
//! Linux.
//!
//! Invariants: the live image is always a tree; in a power cut a rename is seen as not done or
//! done, never as half done; an inode lives while a name in either image, a name change, or an open
//! file needs it.

mod content;
mod names;
mod pages;
#[cfg(test)]
mod tests;

pub use names::{NamesKept, SyncAll};
pub use pages::{Content, Fate, PAGE_BYTES, SyncTicket};

use aber_log::env::disk::{DirEntry, FileKind, Rename, Stat};
use aber_proto::{FileTime, limit};
use names::NameChange;
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};
use std::sync::Arc;

/// An inode, never used again; [`Stat::inode`] may be.
pub type Id = u64;

/// What `stat` tells beside kind and size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Attributes {
    mode: u32,
    mtime: FileTime,
    ctime: FileTime,
}

#[derive(Clone, Default, Debug)]
struct Names {
    live: BTreeMap<OsString, Id>,
    durable: BTreeMap<OsString, Id>,
    durable_parent: Option<(Id, OsString)>,
}

/// What a new inode is to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum New {
    /// An empty file.
    File,
    /// An empty directory.
    Directory,
    /// A symlink with this target.
    Symlink(OsString),
    /// A FIFO, say.
    Special,
}

#[derive(Clone, Debug)]
enum Body {
    File(Content),
    Directory(Names),
    Symlink(OsString),
    Special,
}

#[derive(Clone, Debug)]
struct Inode {
    body: Body,
    number: u64,
    attributes: Attributes,
    kept: Attributes,
    live_links: u32,
    durable_links: u32,
    holders: Arc<()>,
}

impl Inode {
    fn kind(&self) -> FileKind {
        match self.body {
            Body::File(_) => FileKind::File,
            Body::Directory(_) => FileKind::Directory,
            Body::Symlink(_) => FileKind::Symlink,
            Body::Special => FileKind::Special,
        }
    }
}

/// One file system.
#[derive(Clone, Debug)]
pub struct Image {
    device: u64,
    inodes: BTreeMap<Id, Inode>,
    next_id: Id,
    free_numbers: Vec<u64>,
    next_number: u64,
    pending: BTreeMap<u64, NameChange>,
    next_change: u64,
    doubtful: BTreeSet<Id>,
    touched: BTreeSet<Id>,
    used_bytes: u64,
}

fn fault(errno: Errno) -> io::Error {
    errno.into()
}

fn components(path: &Path) -> io::Result<Vec<&OsStr>> {
    path.components()
        .filter(|component| *component != Component::CurDir)
        .map(|component| match component {
            Component::Normal(name) if name.len() > limit::NAME_BYTES => {
                Err(fault(Errno::NAMETOOLONG))
            }
            Component::Normal(name) if name.as_bytes().contains(&0) => Err(fault(Errno::INVAL)),
            Component::Normal(name) => Ok(name),
            _ => Err(fault(Errno::XDEV)),
        })
        .collect()
}

impl Image {
    /// The top directory.
    pub const TOP: Id = 1;

    /// An empty file system.
    #[must_use]
    pub fn new(device: u64, now: FileTime) -> Self {
        let mut image = Self {
            device,
            inodes: BTreeMap::new(),
            next_id: Self::TOP,
            free_numbers: Vec::new(),
            next_number: 2,
            pending: BTreeMap::new(),
            next_change: 1,
            doubtful: BTreeSet::new(),
            touched: BTreeSet::new(),
            used_bytes: 0,
        };
        let top = image.make_inode(New::Directory, now);
        assert_eq!(top, Self::TOP, "the first inode is the top");
        image
    }

    fn make_inode(&mut self, what: New, now: FileTime) -> Id {
        let id = self.next_id;
        self.next_id += 1;
        let number = self.free_numbers.pop().unwrap_or_else(|| {
            self.next_number += 1;
            self.next_number
        });
        let (body, mode) = match what {
            New::File => (Body::File(Content::default()), 0o600),
            New::Directory => (Body::Directory(Names::default()), 0o755),
            New::Symlink(target) => (Body::Symlink(target), 0o777),
            New::Special => (Body::Special, 0o600),
        };
        let attributes = Attributes {
            mode,
            mtime: now,
            ctime: now,
        };
        let inode = Inode {
            body,
            number,
            attributes,
            kept: attributes,
            live_links: 0,
            durable_links: 0,
            holders: Arc::new(()),
        };
        self.inodes.insert(id, inode);
        id
    }

    fn inode(&self, id: Id) -> io::Result<&Inode> {
        self.inodes.get(&id).ok_or_else(|| fault(Errno::STALE))
    }

    fn inode_mut(&mut self, id: Id) -> io::Result<&mut Inode> {
        self.inodes.get_mut(&id).ok_or_else(|| fault(Errno::STALE))
    }

    fn names(&self, id: Id) -> io::Result<&Names> {
        match &self.inode(id)?.body {
            Body::Directory(names) => Ok(names),
            _ => Err(fault(Errno::NOTDIR)),
        }
    }

    fn child(&self, dir: Id, name: &OsStr) -> io::Result<Option<Id>> {
        Ok(self.names(dir)?.live.get(name).copied())
    }

    fn walk(&self, dir: Id, names: &[&OsStr]) -> io::Result<Id> {
        names.iter().try_fold(dir, |at, name| {
            if self.inode(at)?.kind() == FileKind::Symlink {
                return Err(fault(Errno::LOOP));
            }
            self.child(at, name)?.ok_or_else(|| fault(Errno::NOENT))
        })
    }

    /// What a path names, a symlink as itself.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`, `ELOOP` for a symlink on the way, `EXDEV` for `..`.
    pub fn resolve(&self, dir: Id, path: &Path) -> io::Result<Id> {
        self.walk(dir, &components(path)?)
    }

    fn resolve_parent(&self, dir: Id, path: &Path) -> io::Result<(Id, OsString)> {
        let names = components(path)?;
        let (last, before) = names.split_last().ok_or_else(|| fault(Errno::BUSY))?;
        let parent = self.walk(dir, before)?;
        if self.inode(parent)?.kind() == FileKind::Symlink {
            return Err(fault(Errno::LOOP));
        }
        self.names(parent)?;
        Ok((parent, last.to_os_string()))
    }

    /// Makes a new thing.
    ///
    /// # Errors
    /// `EEXIST`, and those of [`Image::resolve`].
    pub fn create(&mut self, dir: Id, path: &Path, what: New, now: FileTime) -> io::Result<Id> {
        let (parent, name) = self.resolve_parent(dir, path).map_err(|error| {
            let is_top = error.raw_os_error() == Some(Errno::BUSY.raw_os_error());
            if is_top { fault(Errno::EXIST) } else { error }
        })?;
        if self.child(parent, &name)?.is_some() {
            return Err(fault(Errno::EXIST));
        }
        let id = self.make_inode(what, now);
        self.change_name(NameChange::Link {
            dir: parent,
            name,
            id,
        });
        self.touch_times(parent, now);
        Ok(id)
    }

    /// Takes a name away: of an empty directory if `is_directory`, of anything else if not.
    ///
    /// # Errors
    /// `EISDIR`, `ENOTDIR`, `ENOTEMPTY`, and those of [`Image::resolve`].
    pub fn remove(
        &mut self,
        dir: Id,
        path: &Path,
        is_directory: bool,
        now: FileTime,
    ) -> io::Result<()> {
        let (parent, name) = self.resolve_parent(dir, path)?;
        let id = self.child(parent, &name)?;
        let id = id.ok_or_else(|| fault(Errno::NOENT))?;
        match (&self.inode(id)?.body, is_directory) {
            (Body::Directory(_), false) => return Err(fault(Errno::ISDIR)),
            (Body::Directory(names), true) if !names.live.is_empty() => {
                return Err(fault(Errno::NOTEMPTY));
            }
            (Body::Directory(_), true) | (_, false) => {}
            (_, true) => return Err(fault(Errno::NOTDIR)),
        }
        self.change_name(NameChange::Unlink {
            dir: parent,
            name,
            id,
        });
        self.touch_times(parent, now);
        self.change_time(id, now);
        Ok(())
    }

    /// Gives a thing another name.
    ///
    /// # Errors
    /// As `renameat2`.
    pub fn rename(
        &mut self,
        dir: Id,
        (from, to): (&Path, &Path),
        how: Rename,
        now: FileTime,
    ) -> io::Result<()> {
        let (from_dir, from_name) = self.resolve_parent(dir, from)?;
        let (to_dir, to_name) = self.resolve_parent(dir, to)?;
        let id = self.child(from_dir, &from_name)?;
        let id = id.ok_or_else(|| fault(Errno::NOENT))?;
        let over = self.child(to_dir, &to_name)?;
        let is_inside = to.starts_with(from) && to != from;
        if how == Rename::NoReplace && over.is_some() {
            return Err(fault(Errno::EXIST));
        }
        if is_inside || (how == Rename::Exchange && from.starts_with(to) && from != to) {
            return Err(fault(Errno::INVAL));
        }
        let change = match (how, over) {
            (Rename::Exchange, None) => return Err(fault(Errno::NOENT)),
            (_, Some(over)) if over == id => return Ok(()),
            (Rename::Exchange, Some(other)) => NameChange::Swap {
                one: (from_dir, from_name, id),
                two: (to_dir, to_name, other),
            },
            (_, over) => {
                if let Some(over) = over {
                    self.check_replaced(id, over)?;
                }
                NameChange::Move {
                    from: (from_dir, from_name),
                    to: (to_dir, to_name),
                    id,
                    over,
                }
            }
        };
        self.change_name(change);
        self.touch_times(from_dir, now);
        self.touch_times(to_dir, now);
        self.change_time(id, now);
        if let Some(over) = over {
            self.change_time(over, now);
        }
        Ok(())
    }

    fn check_replaced(&self, id: Id, over: Id) -> io::Result<()> {
        let is_directory = self.inode(id)?.kind() == FileKind::Directory;
        match (&self.inode(over)?.body, is_directory) {
            (Body::Directory(_), false) => Err(fault(Errno::ISDIR)),
            (Body::Directory(names), true) if !names.live.is_empty() => Err(fault(Errno::NOTEMPTY)),
            (Body::Directory(_), true) | (_, false) => Ok(()),
            (_, true) => Err(fault(Errno::NOTDIR)),
        }
    }

    /// The names of a directory, sorted.
    ///
    /// # Errors
    /// `ENOTDIR`.
    pub fn list(&self, dir: Id) -> io::Result<Vec<DirEntry>> {
        let entry = |(name, id): (&OsString, &Id)| {
            Ok(DirEntry {
                name: name.clone(),
                kind: self.inode(*id)?.kind(),
            })
        };
        self.names(dir)?.live.iter().map(entry).collect()
    }

    /// What `lstat` tells.
    ///
    /// # Errors
    /// `ESTALE` if it is gone.
    pub fn stat(&self, id: Id) -> io::Result<Stat> {
        let inode = self.inode(id)?;
        let size = match &inode.body {
            Body::File(content) => content.size(),
            Body::Directory(_) => 4096,
            Body::Symlink(target) => u64::try_from(target.len()).unwrap_or(0),
            Body::Special => 0,
        };
        Ok(Stat {
            kind: inode.kind(),
            size,
            mtime: inode.attributes.mtime,
            ctime: inode.attributes.ctime,
            inode: inode.number,
            device: self.device,
            mode: inode.attributes.mode,
        })
    }

    /// A symlink's target.
    ///
    /// # Errors
    /// `EINVAL` if it is none.
    pub fn read_link(&self, id: Id) -> io::Result<OsString> {
        match &self.inode(id)?.body {
            Body::Symlink(target) => Ok(target.clone()),
            _ => Err(fault(Errno::INVAL)),
        }
    }

    /// Sets permission bits and modification time.
    ///
    /// # Errors
    /// `ELOOP` for a symlink.
    pub fn set_attributes(
        &mut self,
        id: Id,
        (mode, mtime): (Option<u32>, Option<FileTime>),
        now: FileTime,
    ) -> io::Result<()> {
        self.touched.insert(id);
        let inode = self.inode_mut(id)?;
        if inode.kind() == FileKind::Symlink {
            return Err(fault(Errno::LOOP));
        }
        let attributes = &mut inode.attributes;
        attributes.mode = mode.map_or(attributes.mode, |mode| mode & 0o777);
        attributes.mtime = mtime.unwrap_or(attributes.mtime);
        attributes.ctime = now;
        Ok(())
    }

    fn touch_times(&mut self, id: Id, now: FileTime) {
        if let Some(inode) = self.inodes.get_mut(&id) {
            inode.attributes.mtime = now;
            inode.attributes.ctime = now;
        }
    }

    fn change_time(&mut self, id: Id, now: FileTime) {
        if let Some(inode) = self.inodes.get_mut(&id) {
            inode.attributes.ctime = now;
        }
    }
}
