//! [driver] The scan: the truth about the directory, one directory at a time (rule DE-5).
//!
//! It changes nothing of ours. Where the disk does not show what a row says, the row is forgotten
//! and the id queued: the batch then finds the name taken and adopts or sets aside. What no row
//! and no node knows is a stranger at once. Names that are not UTF-8 are left alone (rule NA-6),
//! as is what lies on another file system (rule MA-6), and `.aber` at any depth (rule NA-7).

use super::Stall;
use super::core::{Batch, Core, join, parent_of};
use crate::plan::{self, Need, PARK, SwapName};
use crate::tree::{ROOT, Tree};
use aber_log::chunk::ChunkStore;
use aber_log::env::disk::{DirEntry, FileKind, Open, Stat};
use aber_log::env::kv::KvProblem;
use aber_log::env::{Disk, Env};
use aber_proto::FileId;
use aber_proto::path::RESERVED;
use std::io::ErrorKind;
use std::path::Path;

/// Children asked for at once.
const PAGE: usize = 512;

/// A directory to be looked at.
#[derive(Clone, Debug)]
pub(super) struct Scan {
    directory: FileId,
    /// Also all directories below it, not only new ones.
    is_deep: bool,
    /// Its own names were looked at; next, directories after this name.
    descended: Option<Option<String>>,
}

impl Scan {
    pub(super) fn new(directory: FileId, is_deep: bool) -> Self {
        Self {
            directory,
            is_deep,
            descended: None,
        }
    }
}

impl<E: Env, T: Tree, C: ChunkStore> Core<E, T, C> {
    /// Starts a scan of everything, in place of whatever was being scanned.
    pub(super) fn rescan_all(&mut self) {
        self.scans.clear();
        self.scans.push(Scan::new(ROOT, true));
    }

    /// One step of a scan: a directory's names, or a page of the directories in it.
    pub(super) fn scan_step(&mut self, batch: &mut Batch) -> Result<(), KvProblem> {
        let Some(mut scan) = self.scans.pop() else {
            return Ok(());
        };
        let Some(after) = scan.descended.take() else {
            if self.scan_names(scan.directory, batch)? && scan.is_deep {
                scan.descended = Some(None);
                self.scans.push(scan);
            }
            return Ok(());
        };
        let page = self
            .ledger
            .children(scan.directory, after.as_deref(), PAGE)?;
        if page.next.is_some() {
            scan.descended = Some(page.next);
            self.scans.push(scan);
        }
        for (_, child) in page.children {
            if child.kind == FileKind::Directory {
                self.scans.push(Scan::new(child.id, true));
            }
        }
        Ok(())
    }

    /// Looks at all names of a directory; answers whether it can be descended into.
    fn scan_names(&mut self, directory: FileId, batch: &mut Batch) -> Result<bool, KvProblem> {
        let Some(path) = self.ledger.path(directory)? else {
            return Ok(false);
        };
        let listed = self.disk.list(Path::new(&path));
        let listing = match listed {
            Ok(listing) => listing,
            Err(error) => {
                if directory != ROOT
                    && matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
                {
                    self.forget_subtree(directory)?;
                    self.queue.insert(directory);
                } else {
                    // An error says nothing about what is there (rule FO-1).
                    self.trouble(format!("{path:?} cannot be listed: {error}"));
                }
                return Ok(false);
            }
        };
        for entry in &listing {
            self.check_entry(directory, &path, entry, batch)?;
        }
        self.find_missing(directory, &listing)?;
        self.find_wanted(directory)?;
        Ok(true)
    }

    fn check_entry(
        &mut self,
        directory: FileId,
        path: &str,
        entry: &DirEntry,
        batch: &mut Batch,
    ) -> Result<(), KvProblem> {
        let Some(name) = entry.name.to_str() else {
            return Ok(());
        };
        if name.eq_ignore_ascii_case(RESERVED) {
            return Ok(());
        }
        let full = join(path, name);
        let Ok(stat) = self.disk.stat(Path::new(&full)) else {
            return Ok(());
        };
        if stat.device != self.device {
            return Ok(());
        }
        if let Some(child) = self.ledger.child(directory, name)? {
            return self.check_written(child.id, &stat);
        }
        if let Some(node) = self.tree.child(directory, name)? {
            self.found.insert(node.id);
            self.queue.insert(node.id);
            return Ok(());
        }
        match self.aside(&full, &full, None, batch) {
            Err(Stall::Index(problem)) => return Err(problem),
            Err(stall) => self.trouble(stall.to_string()),
            Ok(()) => {}
        }
        Ok(())
    }

    fn check_written(&mut self, id: FileId, stat: &Stat) -> Result<(), KvProblem> {
        let Some(mut row) = self.ledger.get(id)? else {
            return Ok(());
        };
        if !plan::is_ours(&row, stat) {
            self.forget_subtree(id)?;
            self.found.insert(id);
            self.queue.insert(id);
        } else if row.kind == FileKind::File && stat.mode & 0o777 != plan::file_mode(row.mode) {
            // Only the mode was changed here: it is set again.
            row.mode = u16::MAX;
            self.ledger.set(id, row)?;
            self.queue.insert(id);
        } else if row.kind == FileKind::Directory && row.inode != stat.inode {
            row.inode = stat.inode;
            self.ledger.set(id, row)?;
        }
        Ok(())
    }

    /// What a row says is here and the listing does not show.
    fn find_missing(
        &mut self,
        directory: FileId,
        listing: &[DirEntry],
    ) -> Result<(), KvProblem> {
        let mut after = None;
        loop {
            let page = self.ledger.children(directory, after.as_deref(), PAGE)?;
            for (name, child) in page.children {
                let is_listed = listing
                    .binary_search_by(|entry| entry.name.as_encoded_bytes().cmp(name.as_bytes()))
                    .is_ok();
                if !is_listed {
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

    /// What the tree has here and the rows do not show as wanted.
    fn find_wanted(&mut self, directory: FileId) -> Result<(), KvProblem> {
        let mut after: Option<String> = None;
        loop {
            let page = self.tree.children(directory, after.as_deref(), PAGE)?;
            let Some(last) = page.last() else {
                return Ok(());
            };
            after = Some(last.name.clone());
            for node in page {
                let row = self.ledger.get(node.id)?;
                if plan::need(&node, row.as_ref()) != Need::Nothing {
                    self.queue.insert(node.id);
                }
            }
        }
    }

    /// Looks at one path of which a hint spoke.
    pub(super) fn check_path(&mut self, path: &Path, batch: &mut Batch) -> Result<(), KvProblem> {
        let (mut directory, mut at) = (ROOT, String::new());
        for component in path.components() {
            let Some(name) = component.as_os_str().to_str() else {
                return Ok(());
            };
            if name.eq_ignore_ascii_case(RESERVED) {
                return Ok(());
            }
            let entry = DirEntry {
                name: name.into(),
                kind: FileKind::File,
            };
            let full = join(&at, name);
            if self.disk.stat(Path::new(&full)).is_ok() {
                self.check_entry(directory, &at, &entry, batch)?;
            } else if let Some(child) = self.ledger.child(directory, name)? {
                self.forget_subtree(child.id)?;
                self.queue.insert(child.id);
            }
            match self.ledger.child(directory, name)? {
                Some(child) if child.kind == FileKind::Directory => directory = child.id,
                _ => return Ok(()),
            }
            at = full;
        }
        Ok(())
    }

    /// Looks at everything in staging before it is cleared: after a crash a stranger may lie
    /// there (rule MA-2).
    pub(super) fn clean_staging(&mut self) -> Result<(), super::MirrorProblem> {
        let mut batch = Batch::default();
        for entry in self.list(super::core::NEW)? {
            let path = Path::new(super::core::NEW).join(&entry.name);
            if entry.kind == FileKind::File || entry.kind == FileKind::Symlink {
                // What cannot be removed now is overwritten or removed later.
                let _ = self.disk.remove_file(&path);
            }
        }
        for entry in self.list(super::ledger::SWAP)? {
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
                let path = join(super::ledger::SWAP, &name);
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

    fn list(&self, path: &str) -> Result<Vec<DirEntry>, super::MirrorProblem> {
        let failed = |error: std::io::Error| super::MirrorProblem::Layout {
            path: path.to_owned(),
            error: error.to_string(),
        };
        self.disk.list(Path::new(path)).map_err(failed)
    }

    fn clean_swapped(&mut self, name: &str, batch: &mut Batch) -> Result<(), Stall> {
        let path = join(super::ledger::SWAP, name);
        let stat = self
            .disk
            .stat(Path::new(&path))
            .map_err(|error| Stall::io("look at", &path, &error))?;
        let parsed = SwapName::parse(name);
        for id in parsed.iter().flat_map(|name| [name.occupant, name.incoming]) {
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
        debug_assert!(parent_of(&path) == super::ledger::SWAP, "a name, no path");
        self.aside(&path, &path, by, batch)
    }

    fn tag_at(&self, path: &str, stat: &Stat) -> Option<plan::Tag> {
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
