//! [driver] The scan: the truth about the directory, one directory at a time (rule DE-5).
//!
//! It changes nothing of ours. Where the disk does not show what a row says, the row is forgotten
//! and the id queued: the batch then finds the name taken and adopts or sets aside. What no row
//! and no node knows is a stranger at once. Names that are not UTF-8 are left alone (rule NA-6),
//! as is what lies on another file system (rule MA-6), and `.aber` at any depth (rule NA-7).

use super::Stall;
use super::core::{Batch, Core, join};
use crate::plan::{self, Need};
use crate::tree::{ROOT, Tree};
use aber_log::chunk::ChunkStore;
use aber_log::env::disk::{DirEntry, FileKind, Stat};
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
        self.check_name(directory, &full, name, &stat, batch)
    }

    /// Judges what stands at a name by row and tree.
    pub(super) fn check_name(
        &mut self,
        directory: FileId,
        path: &str,
        name: &str,
        stat: &Stat,
        batch: &mut Batch,
    ) -> Result<(), KvProblem> {
        if let Some(child) = self.ledger.child(directory, name)? {
            return self.check_written(child.id, stat);
        }
        if let Some(node) = self.tree.child(directory, name)? {
            self.found.insert(node.id);
            self.queue.insert(node.id);
            return Ok(());
        }
        match self.aside(path, path, None, batch) {
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

    /// What a row says is here, and the listing does not show or the tree does not have.
    fn find_missing(&mut self, directory: FileId, listing: &[DirEntry]) -> Result<(), KvProblem> {
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
                } else if self.tree.node(child.id)?.is_none() {
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
}
