//! [driver] What a crash left: things in staging, directories under other names than their rows
//! say.
//!
//! Rows are older than the disk after a crash, never newer. Everything in `swap/` is looked at
//! before it goes (rule MA-2); a directory of ours is known again by its inode, so that one
//! interrupted rename does not make strangers of all that lies below. The same finds a directory
//! that a user renamed, and puts it back.

use super::core::{Batch, Core, NEW, join};
use super::ledger::SWAP;
use super::{MirrorProblem, Stall};
use crate::plan::{self, PARK, SwapName};
use crate::tree::{ROOT, Tree};
use aber_log::chunk::ChunkStore;
use aber_log::env::disk::{DirEntry, FileKind, Open, Rename, Stat};
use aber_log::env::kv::KvProblem;
use aber_log::env::{Disk, Env};
use aber_proto::FileId;
use aber_proto::path::RESERVED;
use std::collections::BTreeMap;
use std::path::Path;

/// Children asked for at once.
const PAGE: usize = 512;

impl<E: Env, T: Tree, C: ChunkStore> Core<E, T, C> {
    /// Corrects the rows of directories that stand elsewhere than they say.
    pub(super) fn find_moved_directories(&mut self) -> Result<(), KvProblem> {
        let (mut astray, mut lost) = self.directories_astray()?;
        if astray.is_empty() {
            return Ok(());
        }
        let mut stack = vec![(Some(PARK), SWAP.to_owned()), (Some(ROOT), String::new())];
        while let Some((directory, path)) = stack.pop() {
            let Ok(listing) = self.disk.list(Path::new(&path)) else {
                continue;
            };
            for entry in listing {
                let Some(name) = entry.name.to_str() else {
                    continue;
                };
                if entry.kind != FileKind::Directory || path.is_empty() && name == RESERVED {
                    continue;
                }
                let full = join(&path, name);
                let Ok(stat) = self.disk.stat(Path::new(&full)) else {
                    continue;
                };
                if stat.device != self.device {
                    continue;
                }
                match astray.remove(&stat.inode) {
                    Some(id) => stack.push(self.stands_at(id, directory, name, full)?),
                    None => {
                        let known = self.known_as(directory, name, &stat)?;
                        stack.push((known, full));
                    }
                }
            }
        }
        // Their path may be another directory's by now: nothing below it is known by these rows.
        lost.extend(astray.into_values());
        for id in lost {
            self.forget_subtree(id)?;
            self.queue.insert(id);
        }
        Ok(())
    }

    /// The directory of ours with this name and inode.
    fn known_as(
        &self,
        directory: Option<FileId>,
        name: &str,
        stat: &Stat,
    ) -> Result<Option<FileId>, KvProblem> {
        let Some(directory) = directory else {
            return Ok(None);
        };
        let Some(child) = self.ledger.child(directory, name)? else {
            return Ok(None);
        };
        let row = self.ledger.get(child.id)?;
        Ok(row
            .is_some_and(|row| row.inode == stat.inode)
            .then_some(child.id))
    }

    /// A directory of ours was found: its row is corrected. In a directory that no row knows it
    /// is parked, since rows can only name known ones.
    fn stands_at(
        &mut self,
        id: FileId,
        parent: Option<FileId>,
        name: &str,
        path: String,
    ) -> Result<(Option<FileId>, String), KvProblem> {
        let Some(mut row) = self.ledger.get(id)? else {
            return Ok((None, path));
        };
        let mut found = path;
        (row.parent, row.name) = match parent {
            Some(parent) => (parent, name.to_owned()),
            None => {
                let (swap, text) = self.swap_path(&super::clear::leaving(id, &row));
                if self.rename(&found, &swap, Rename::NoReplace).is_err() {
                    self.forget_subtree(id)?;
                    return Ok((None, found));
                }
                self.parked.insert(id, found);
                found = swap;
                (PARK, text)
            }
        };
        self.ledger.set(id, row)?;
        self.queue.insert(id);
        Ok((Some(id), found))
    }

    /// Directories whose path shows another inode or none, by the inode they had; and those of
    /// which a later one claims the inode.
    fn directories_astray(&self) -> Result<(BTreeMap<u64, FileId>, Vec<FileId>), KvProblem> {
        let (mut astray, mut lost) = (BTreeMap::new(), Vec::new());
        let mut stack = vec![(ROOT, String::new()), (PARK, SWAP.to_owned())];
        while let Some((directory, path)) = stack.pop() {
            let mut after = None;
            loop {
                let page = self.ledger.children(directory, after.as_deref(), PAGE)?;
                for (name, child) in page.children {
                    if child.kind != FileKind::Directory {
                        continue;
                    }
                    let full = join(&path, &name);
                    let Some(row) = self.ledger.get(child.id)? else {
                        continue;
                    };
                    let shown = self.disk.stat(Path::new(&full));
                    if shown.map_or(true, |stat| stat.inode != row.inode) {
                        lost.extend(astray.insert(row.inode, child.id));
                    }
                    stack.push((child.id, full));
                }
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
        }
        Ok((astray, lost))
    }

    /// Looks at everything in staging before it is cleared: after a crash a stranger may lie
    /// there (rule MA-2).
    pub(super) fn clean_staging(&mut self) -> Result<(), MirrorProblem> {
        let mut batch = Batch::default();
        for entry in self.list(NEW)? {
            let path = Path::new(NEW).join(&entry.name);
            if entry.kind == FileKind::File || entry.kind == FileKind::Symlink {
                // What cannot be removed now is overwritten or removed later.
                let _ = self.disk.remove_file(&path);
            }
        }
        for entry in self.list(SWAP)? {
            let Some(text) = entry.name.to_str() else {
                continue;
            };
            match self.clean_swapped(text, &mut batch) {
                Err(Stall::Index(problem)) => return Err(problem.into()),
                Err(stall) => self.trouble(stall.to_string()),
                Ok(()) => {}
            }
        }
        let mut after = None;
        loop {
            let page = self.ledger.children(PARK, after.as_deref(), PAGE)?;
            for (name, child) in page.children {
                let path = join(SWAP, &name);
                if self.disk.stat(Path::new(&path)).is_err() {
                    self.forget_subtree(child.id)?;
                    self.queue.insert(child.id);
                }
            }
            after = page.next;
            if after.is_none() {
                return Ok(());
            }
        }
    }

    fn list(&self, path: &str) -> Result<Vec<DirEntry>, MirrorProblem> {
        let failed = |error: std::io::Error| MirrorProblem::Layout {
            path: path.to_owned(),
            error: error.to_string(),
        };
        self.disk.list(Path::new(path)).map_err(failed)
    }

    fn clean_swapped(&mut self, name: &str, batch: &mut Batch) -> Result<(), Stall> {
        let path = join(SWAP, name);
        let stat = self
            .disk
            .stat(Path::new(&path))
            .map_err(|error| Stall::io("look at", &path, &error))?;
        let parsed = SwapName::parse(name);
        for id in parsed
            .iter()
            .flat_map(|name| [name.occupant, name.incoming])
        {
            let Some(mut row) = self.ledger.get(id)? else {
                continue;
            };
            if plan::is_ours(&row, &stat) && row.inode == stat.inode {
                if row.parent != PARK || row.name != name {
                    (row.parent, row.name) = (PARK, name.to_owned());
                    self.ledger.set(id, row)?;
                }
                self.parked.insert(id, path);
                return Ok(());
            }
        }
        if stat.kind == FileKind::Directory && self.disk.remove_dir(Path::new(&path)).is_ok() {
            return Ok(());
        }
        let tag = self.tag_at(&path, &stat);
        if tag.is_some_and(|tag| parsed.is_some_and(|name| name.names(&tag))) {
            return self
                .disk
                .remove_file(Path::new(&path))
                .map_err(|error| Stall::io("remove", &path, &error));
        }
        let by = parsed.map(|name| name.incoming);
        self.aside(&path, &path, by, batch)
    }

    /// Names the content of a file or link that stands somewhere.
    pub(super) fn tag_at(&self, path: &str, stat: &Stat) -> Option<plan::Tag> {
        use aber_log::env::File;
        let path = Path::new(path);
        match stat.kind {
            FileKind::Symlink => {
                let target = self.disk.read_link(path).ok()?;
                let hash = blake3::hash(target.as_encoded_bytes());
                Some(plan::tag(hash.as_bytes()))
            }
            FileKind::File => {
                let file = self.disk.open(path, Open::Read).ok()?;
                let mut hasher = blake3::Hasher::new();
                let mut buffer = vec![0; 128 * 1024];
                let mut offset = 0;
                loop {
                    let length = file.read_at(&mut buffer, offset).ok()?;
                    hasher.update(buffer.get(..length)?);
                    offset += length as u64;
                    if length == 0 {
                        return Some(plan::tag(hasher.finalize().as_bytes()));
                    }
                }
            }
            FileKind::Directory | FileKind::Special => None,
        }
    }
}
