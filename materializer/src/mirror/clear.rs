//! [driver] Takes things of ours away: parked, looked at, dropped.
//!
//! Nothing is unlinked at a path of the tree. It moves into `swap/` by one rename, whatever lies
//! below it, and is cleared there: what the tree still wants moves out, what is ours is dropped,
//! what is not ours is a stranger, and the directory goes last (rule MA-3).

use super::Stall;
use super::core::{Batch, Core, Displaced, join, parent_of};
use super::ledger::SWAP;
use crate::plan::{self, PARK, Row, SwapName};
use crate::tree::Tree;
use aber_log::chunk::ChunkStore;
use aber_log::env::disk::{FileKind, Rename};
use aber_log::env::kv::KvProblem;
use aber_log::env::{Disk, Env};
use aber_proto::{FileId, limit};
use std::io::{self, ErrorKind};
use std::path::Path;

/// Names taken out of parked directories in one batch, per path of a batch.
const CLEARED_FACTOR: usize = 8;
/// Children looked at in one go.
const PAGE: usize = 256;

impl<E: Env, T: Tree, C: ChunkStore> Core<E, T, C> {
    /// Parks a written thing that the tree no longer has, or that may not stand here.
    pub(super) fn take_away(&mut self, id: FileId, batch: &mut Batch) -> Result<(), KvProblem> {
        match self.park(id, batch) {
            Ok(()) => Ok(()),
            Err(Stall::Index(problem)) => Err(problem),
            Err(stall) => {
                self.trouble(stall.to_string());
                self.hold(id, super::Kind::Waiting, stall.to_string())
            }
        }
    }

    fn park(&mut self, id: FileId, batch: &mut Batch) -> Result<(), Stall> {
        let Some(row) = self.ledger.get(id)? else {
            return Ok(());
        };
        let Some(path) = self.ledger.path(id)? else {
            return Ok(self.forget_subtree(id)?);
        };
        if row.parent == PARK {
            self.parked.entry(id).or_insert(path);
            return Ok(());
        }
        if !self.is_still_ours(id, &row, &path, batch)? {
            return Ok(());
        }
        let (swap, text) = self.swap_path(&leaving(id, &row));
        batch.directories.remove(&id);
        batch.touched.insert(SWAP.to_owned());
        batch.touched.insert(parent_of(&path).to_owned());
        match self.rename(&path, &swap, Rename::NoReplace) {
            Ok(()) => {
                let mut row = row;
                (row.parent, row.name) = (PARK, text);
                self.ledger.set(id, row)?;
                self.parked.insert(id, path);
                Ok(())
            }
            Err(error) => match self.vanished(id, &path, &error) {
                Stall::Again => Ok(()),
                stall => Err(stall),
            },
        }
    }

    /// Takes the old version of a node out of its old place.
    pub(super) fn displace(
        &mut self,
        id: FileId,
        row: &Row,
        batch: &mut Batch,
    ) -> Result<(), Stall> {
        let Some(original) = self.ledger.path(id)? else {
            return Ok(self.forget_subtree(id)?);
        };
        if !self.is_still_ours(id, row, &original, batch)? {
            return Ok(());
        }
        let (path, _) = self.swap_path(&leaving(id, row));
        batch.touched.insert(SWAP.to_owned());
        batch.touched.insert(parent_of(&original).to_owned());
        match self.rename(&original, &path, Rename::NoReplace) {
            Ok(()) => batch.displaced.push(Displaced {
                path,
                original,
                row: row.clone(),
            }),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(Stall::io("displace", &original, &error)),
        }
        self.parked.remove(&id);
        self.forget_subtree(id)?;
        Ok(())
    }

    /// Looks before something of ours is moved. What is not ours any more keeps its place: the
    /// rows are forgotten, and it is judged as whatever stands at that name. The look after the
    /// move is the one that counts; this one spares a detour.
    pub(super) fn is_still_ours(
        &mut self,
        id: FileId,
        row: &Row,
        path: &str,
        batch: &mut Batch,
    ) -> Result<bool, Stall> {
        match self.disk.stat(Path::new(path)) {
            Ok(stat) if plan::is_ours(row, &stat) => Ok(true),
            Ok(stat) => {
                self.forget_subtree(id)?;
                if row.parent == PARK {
                    self.aside(path, path, Some(row.version), batch)?;
                } else {
                    let name = &row.name;
                    self.check_name(row.parent, path, name, &stat, batch)?;
                }
                Ok(false)
            }
            Err(error) => match self.vanished(id, path, &error) {
                Stall::Again => Ok(false),
                stall => Err(stall),
            },
        }
    }

    /// A path of ours that is not there: its rows are forgotten, and it is made again.
    pub(super) fn vanished(&mut self, id: FileId, path: &str, error: &io::Error) -> Stall {
        if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) {
            return Stall::io("move", path, error);
        }
        match self.forget_subtree(id) {
            Ok(()) => Stall::Again,
            Err(problem) => Stall::Index(problem),
        }
    }

    /// Forgets what was written for a node and for all below it.
    pub(super) fn forget_subtree(&mut self, id: FileId) -> Result<(), KvProblem> {
        let mut stack = vec![id];
        while let Some(at) = stack.last().copied() {
            let page = self.ledger.children(at, None, PAGE)?;
            if page.children.is_empty() && page.next.is_none() {
                self.ledger.forget(at)?;
                self.parked.remove(&at);
                stack.pop();
                continue;
            }
            for (_, child) in page.children {
                if child.kind == FileKind::Directory {
                    stack.push(child.id);
                } else {
                    self.ledger.forget(child.id)?;
                }
            }
        }
        Ok(())
    }

    /// Places what is parked, or clears it, as far as one batch goes.
    pub(super) fn clear_parked(&mut self, batch: &mut Batch) -> Result<(), KvProblem> {
        let parked: Vec<FileId> = self.parked.keys().copied().collect();
        for id in parked {
            if batch.cleared > CLEARED_FACTOR * self.options.batch_paths {
                break;
            }
            let Some(original) = self.parked.remove(&id) else {
                continue;
            };
            let is_unwanted = match self.place(id, batch) {
                Err(Stall::Gone) => true,
                Err(Stall::Unfit(why)) => {
                    self.hold(id, super::Kind::Unmaterialisable, why.to_string())?;
                    true
                }
                Err(Stall::Again) => {
                    self.note(id, Err(Stall::Again), batch)?;
                    // Its bytes are of an older version: they go, the new ones come.
                    let row = self.ledger.get(id)?;
                    row.is_some_and(|row| row.kind != FileKind::Directory)
                }
                other => {
                    self.note(id, other, batch)?;
                    false
                }
            };
            if !is_unwanted {
                continue;
            }
            match self.clear(id, original, batch) {
                Err(Stall::Index(problem)) => return Err(problem),
                // It stays in `swap/` and is cleared at the next scan or start.
                Err(stall) => self.trouble(stall.to_string()),
                Ok(()) => {}
            }
        }
        Ok(())
    }

    fn clear(&mut self, id: FileId, original: String, batch: &mut Batch) -> Result<(), Stall> {
        let Some(row) = self.ledger.get(id)?.filter(|row| row.parent == PARK) else {
            return Ok(());
        };
        let path = self.ledger.path(id)?.ok_or(Stall::Again)?;
        let kind = row.kind;
        if kind == FileKind::Directory {
            if self.is_still_ours(id, &row, &path, batch)?
                && !self.clear_directory(id, &original, batch)?
            {
                self.parked.insert(id, original);
            }
            return Ok(());
        }
        batch.displaced.push(Displaced {
            path,
            original,
            row,
        });
        self.forget_leaf(id, kind)
    }

    fn forget_leaf(&mut self, id: FileId, kind: FileKind) -> Result<(), Stall> {
        self.ledger.forget(id)?;
        if kind == FileKind::Symlink && self.tree.node(id)?.is_none() {
            self.ledger.set_link(id, false);
        }
        Ok(())
    }

    /// Empties a parked directory from below; answers whether it is gone.
    fn clear_directory(
        &mut self,
        id: FileId,
        original: &str,
        batch: &mut Batch,
    ) -> Result<bool, Stall> {
        let mut stack = vec![(id, original.to_owned())];
        while let Some((directory, original)) = stack.last().cloned() {
            if batch.cleared > CLEARED_FACTOR * self.options.batch_paths
                || stack.len() > 2 * limit::PATH_DEPTH
            {
                return Ok(false);
            }
            let path = self.ledger.path(directory)?.ok_or(Stall::Again)?;
            let page = self.ledger.children(directory, None, PAGE)?;
            if page.children.is_empty() && page.next.is_none() {
                self.remove_directory(directory, &path, &original, batch)?;
                stack.pop();
                continue;
            }
            for (name, child) in page.children {
                batch.cleared += 1;
                let place = (join(&path, &name), join(&original, &name));
                if self.stays_below(child.id, batch)? {
                    if child.kind == FileKind::Directory {
                        stack.push((child.id, place.1));
                        break;
                    }
                    self.drop_leaf(child.id, place, batch)?;
                }
            }
        }
        Ok(true)
    }

    /// A child of a directory that goes: placed where the tree has it now, else it goes too.
    fn stays_below(&mut self, id: FileId, batch: &mut Batch) -> Result<bool, Stall> {
        match self.place(id, batch) {
            Ok(()) => Ok(false),
            Err(Stall::Gone | Stall::Unfit(_)) => Ok(true),
            Err(Stall::Index(problem)) => Err(Stall::Index(problem)),
            Err(stall) => {
                // Wanted, but not yet able to stand: it is parked by itself, and queued.
                self.note(id, Err(stall), batch)?;
                self.park_alone(id, batch)?;
                Ok(false)
            }
        }
    }

    fn park_alone(&mut self, id: FileId, batch: &mut Batch) -> Result<(), Stall> {
        self.park(id, batch)?;
        self.parked.remove(&id);
        self.queue.insert(id);
        Ok(())
    }

    fn drop_leaf(
        &mut self,
        id: FileId,
        (path, original): (String, String),
        batch: &mut Batch,
    ) -> Result<(), Stall> {
        let Some(row) = self.ledger.get(id)? else {
            return Ok(());
        };
        let kind = row.kind;
        self.look_and_drop(
            &Displaced {
                path,
                original,
                row,
            },
            batch,
        )?;
        self.forget_leaf(id, kind)
    }

    fn remove_directory(
        &mut self,
        id: FileId,
        path: &str,
        original: &str,
        batch: &mut Batch,
    ) -> Result<(), Stall> {
        match self.disk.list(Path::new(path)) {
            Ok(left) => {
                for entry in left {
                    let from = Path::new(path).join(&entry.name);
                    let original = Path::new(original).join(&entry.name);
                    self.aside_path(&from, &original, None, batch)?;
                }
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Ok(self.ledger.forget(id)?);
            }
            Err(error) => return Err(Stall::io("list", path, &error)),
        }
        match self.disk.remove_dir(Path::new(path)) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(Stall::io("remove", path, &error))
            }
            _ => Ok(self.ledger.forget(id)?),
        }
    }

    /// Drops old versions after a last look (rule MA-4).
    pub(super) fn drop_displaced(&mut self, batch: &mut Batch) -> Result<(), KvProblem> {
        for displaced in std::mem::take(&mut batch.displaced) {
            match self.look_and_drop(&displaced, batch) {
                Err(Stall::Index(problem)) => return Err(problem),
                Err(stall) => self.trouble(stall.to_string()),
                Ok(()) => {}
            }
        }
        Ok(())
    }

    fn look_and_drop(&mut self, displaced: &Displaced, batch: &mut Batch) -> Result<(), Stall> {
        let Displaced {
            path,
            original,
            row,
        } = displaced;
        match self.disk.stat(Path::new(path)) {
            Ok(stat) if !plan::is_ours(row, &stat) => {
                self.aside(path, original, Some(row.version), batch)
            }
            Ok(_) => match self.disk.remove_file(Path::new(path)) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    Err(Stall::io("remove", path, &error))
                }
                _ => Ok(()),
            },
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(Stall::io("look at", path, &error)),
        }
    }
}

/// The name in `swap/` of something of ours that leaves its place.
pub(super) fn leaving(id: FileId, row: &Row) -> SwapName {
    SwapName {
        out: plan::short(&row.tag),
        into: 0,
        occupant: id,
        incoming: id,
    }
}
