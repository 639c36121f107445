//! [driver] Takes a name of the tree: free, held by another thing of ours, or by a stranger.
//!
//! A free name is taken with `NoReplace`. A name held by another thing of ours is taken by
//! exchange, and what comes out is looked at only then (rule MA-2): ours is parked, to be placed
//! elsewhere or cleared; anything else is a stranger. A name that is unexpectedly taken is a
//! collision, what is wanted already, or a stranger.

use super::Stall;
use super::core::{Batch, Core, Displaced, join, parent_of};
use super::ledger::SWAP;
use super::scan::Scan;
use crate::plan::{self, PARK, Row, SwapName, Unfit};
use crate::tree::{Node, ROOT, Tree};
use aber_log::chunk::ChunkStore;
use aber_log::env::disk::{FileKind, Rename, Stat};
use aber_log::env::{Disk, Env};
use aber_proto::FileId;
use std::io::{self, ErrorKind};
use std::path::Path;

/// A name that stays taken after so many attempts is tried again later.
const ATTEMPTS: usize = 3;

/// Where a node goes.
pub(super) struct Target<'a> {
    pub(super) node: &'a Node,
    pub(super) path: String,
    pub(super) depth: usize,
}

/// Where what goes in comes from.
pub(super) enum Source {
    /// A finished file or link, or a thing of ours that moves.
    Path { path: String, stat: Option<Stat> },
    /// A directory yet to be made.
    NewDirectory,
}

/// What was done about a name that was unexpectedly taken.
#[derive(PartialEq, Eq)]
enum Taken {
    Cleared,
    Adopted,
}

impl<E: Env, T: Tree, C: ChunkStore> Core<E, T, C> {
    /// Takes a free name. `None` means that what stood there was adopted.
    pub(super) fn enter_free(
        &mut self,
        target: &Target<'_>,
        source: Source,
        batch: &mut Batch,
    ) -> Result<Option<Stat>, Stall> {
        let path = Path::new(&target.path);
        for _ in 0..ATTEMPTS {
            let done = match &source {
                Source::NewDirectory => self.disk.make_dir(path),
                Source::Path { path, .. } => self.rename(path, &target.path, Rename::NoReplace),
            };
            match done {
                Ok(()) => {
                    batch.touched.insert(parent_of(&target.path).to_owned());
                    return self.entered(target, &source).map(Some);
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    if self.resolve(target, &source, batch)? == Taken::Adopted {
                        return Ok(None);
                    }
                }
                Err(error) => return Err(self.refused(target, &source, &error, batch)),
            }
        }
        Err(Stall::Again)
    }

    fn entered(&self, target: &Target<'_>, source: &Source) -> Result<Stat, Stall> {
        if let Source::Path {
            stat: Some(stat), ..
        } = source
        {
            return Ok(*stat);
        }
        self.disk
            .stat(Path::new(&target.path))
            .map_err(|error| Stall::io("look at", &target.path, &error))
    }

    /// A missing source or directory is somebody's removal; the rest is the disk's.
    fn refused(
        &mut self,
        target: &Target<'_>,
        source: &Source,
        error: &io::Error,
        batch: &mut Batch,
    ) -> Stall {
        if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) {
            return Stall::io("publish", &target.path, error);
        }
        batch.directories.clear();
        let node = target.node;
        let is_missing = |path: &str| self.disk.stat(Path::new(path)).is_err();
        let lost = match source {
            Source::Path { path, stat: None } if is_missing(path) => node.id,
            _ => node.parent,
        };
        if lost == ROOT {
            return Stall::io("publish", &target.path, error);
        }
        match self.forget_subtree(lost) {
            Ok(()) => {
                self.queue.insert(lost);
                Stall::Again
            }
            Err(problem) => Stall::Index(problem),
        }
    }

    /// Takes a name that another thing of ours has, by exchange.
    pub(super) fn enter_taken(
        &mut self,
        target: &Target<'_>,
        source: Source,
        occupant: FileId,
        batch: &mut Batch,
    ) -> Result<Option<Stat>, Stall> {
        let node = target.node;
        let Some(row) = self.ledger.get(occupant)? else {
            return Err(Stall::Again);
        };
        let stands = self.disk.stat(Path::new(&target.path));
        if stands.is_ok_and(|stat| !plan::is_ours(&row, &stat)) {
            // It may be right already, after a crash, or a stranger: judged as at a free name.
            self.forget_and_queue(occupant, node.id)?;
            return self.enter_free(target, source, batch);
        }
        let name = SwapName {
            out: plan::short(&row.tag),
            into: plan::short(&plan::tag_of(node)),
            occupant,
            incoming: node.id,
        };
        batch.touched.insert(SWAP.to_owned());
        batch.touched.insert(parent_of(&target.path).to_owned());
        let swap = self.stage_in_swap(&source, &name)?;
        let entering = Source::Path {
            path: swap.clone(),
            stat: match &source {
                Source::Path { stat, .. } => *stat,
                Source::NewDirectory => None,
            },
        };
        let exchanged = if self.has_exchange {
            self.rename(&swap, &target.path, Rename::Exchange)
        } else {
            Err(ErrorKind::Unsupported.into())
        };
        let out = match exchanged {
            Ok(()) => swap,
            Err(error) if is_unsupported(&error) => {
                self.has_exchange = false;
                let (out, _) = self.swap_path(&name);
                match self.rename(&target.path, &out, Rename::NoReplace) {
                    Ok(()) => {}
                    Err(error) if error.kind() == ErrorKind::NotFound => {
                        self.forget_and_queue(occupant, node.id)?;
                        return self.enter_free(target, entering, batch);
                    }
                    Err(error) => return Err(Stall::io("displace", &target.path, &error)),
                }
                self.enter_free(target, entering.again(), batch)?;
                out
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                self.forget_and_queue(occupant, node.id)?;
                return self.enter_free(target, entering, batch);
            }
            Err(error) => return Err(Stall::io("exchange", &target.path, &error)),
        };
        self.came_out(target, occupant, row, &out, batch)?;
        self.entered(target, &entering).map(Some)
    }

    fn stage_in_swap(&mut self, source: &Source, name: &SwapName) -> Result<String, Stall> {
        match source {
            Source::Path { path, .. } if parent_of(path) == SWAP => Ok(path.clone()),
            Source::Path { path, .. } => {
                let (swap, _) = self.swap_path(name);
                self.rename(path, &swap, Rename::NoReplace)
                    .map_err(|error| Stall::io("stage", path, &error))?;
                Ok(swap)
            }
            Source::NewDirectory => {
                let (swap, _) = self.swap_path(name);
                self.disk
                    .make_dir(Path::new(&swap))
                    .map_err(|error| Stall::io("make", &swap, &error))?;
                Ok(swap)
            }
        }
    }

    fn forget_and_queue(&mut self, occupant: FileId, incoming: FileId) -> Result<(), Stall> {
        self.forget_subtree(occupant)?;
        if occupant != incoming {
            self.queue.insert(occupant);
        }
        Ok(())
    }

    /// Looks at what an exchange took out.
    fn came_out(
        &mut self,
        target: &Target<'_>,
        occupant: FileId,
        mut row: Row,
        out: &str,
        batch: &mut Batch,
    ) -> Result<(), Stall> {
        let node = target.node;
        batch.directories.remove(&occupant);
        let is_ours = self
            .disk
            .stat(Path::new(out))
            .is_ok_and(|stat| plan::is_ours(&row, &stat));
        if row.kind == FileKind::Directory {
            // What stood below it stands no more where this batch believes.
            batch.directories.retain(|id, _| *id == node.parent);
        }
        if !is_ours {
            if !self.drop_equal(node, out)? {
                self.aside(out, &target.path, Some(node.version), batch)?;
            }
            return self.forget_and_queue(occupant, node.id);
        }
        let original = target.path.clone();
        if occupant == node.id {
            let path = out.to_owned();
            batch.displaced.push(Displaced {
                path,
                original,
                row,
            });
            return Ok(());
        }
        let name = out.rsplit('/').next().unwrap_or(out).to_owned();
        (row.parent, row.name) = (PARK, name);
        self.ledger.set(occupant, row)?;
        self.parked.insert(occupant, original);
        Ok(())
    }

    /// Drops what came out if it has the very bytes that went in: after a crash the new version
    /// may have stood there already.
    fn drop_equal(&mut self, node: &Node, out: &str) -> Result<bool, Stall> {
        let Ok(stat) = self.disk.stat(Path::new(out)) else {
            return Ok(true);
        };
        let is_equal =
            Self::may_be_equal(node, &stat) && self.tag_at(out, &stat) == Some(plan::tag_of(node));
        if is_equal {
            self.disk
                .remove_file(Path::new(out))
                .map_err(|error| Stall::io("remove", out, &error))?;
        }
        Ok(is_equal)
    }

    /// Something stands at a name that our rows say is free: a collision, what we want already,
    /// or a stranger.
    fn resolve(
        &mut self,
        target: &Target<'_>,
        source: &Source,
        batch: &mut Batch,
    ) -> Result<Taken, Stall> {
        let (node, path) = (target.node, Path::new(&target.path));
        let stat = match self.disk.stat(path) {
            Ok(stat) => stat,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Taken::Cleared),
            Err(error) => return Err(Stall::io("look at", &target.path, &error)),
        };
        if let Source::Path { path, stat: None } = source
            && let Ok(own) = self.disk.stat(Path::new(path))
            && own.inode == stat.inode
            && parent_of(path) == parent_of(&target.path)
        {
            // Only the case of the name changes, on a disk that folds it (rule NA-4).
            self.rename(path, &target.path, Rename::Replace)
                .map_err(|error| Stall::io("rename", &target.path, &error))?;
            return Ok(Taken::Adopted);
        }
        if self.collides(node, &target.path, &stat)? {
            return Err(Stall::Unfit(Unfit::Collision));
        }
        if matches!(source, Source::NewDirectory) && stat.kind == FileKind::Directory {
            self.ledger.set(node.id, plan::row_of(node, &stat))?;
            self.scans.push(Scan::new(node.id, true));
            return Ok(Taken::Adopted);
        }
        let is_staged = matches!(source, Source::Path { stat: Some(_), .. });
        let is_known = batch.differs.contains(&node.id);
        if is_staged && !is_known && Self::may_be_equal(node, &stat) {
            self.found.insert(node.id);
            return Err(Stall::Again);
        }
        self.aside(&target.path, &target.path, Some(node.version), batch)?;
        Ok(Taken::Cleared)
    }

    /// Whether the disk takes this name for that of another thing of ours (rule NA-3).
    fn collides(&self, node: &Node, path: &str, stat: &Stat) -> Result<bool, Stall> {
        let mut after = None;
        loop {
            let page = self.ledger.children(node.parent, after.as_deref(), 256)?;
            for (name, child) in page.children {
                if child.id == node.id || !plan::folds_equal(&name, &node.name) {
                    continue;
                }
                let other = join(parent_of(path), &name);
                let same = self.disk.stat(Path::new(&other));
                if same.is_ok_and(|other| other.inode == stat.inode) {
                    return Ok(true);
                }
            }
            after = page.next;
            if after.is_none() {
                return Ok(false);
            }
        }
    }
}

impl Source {
    /// The same, to be given away once more.
    fn again(&self) -> Self {
        match self {
            Self::Path { path, stat } => Self::Path {
                path: path.clone(),
                stat: *stat,
            },
            Self::NewDirectory => Self::NewDirectory,
        }
    }
}

fn is_unsupported(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Unsupported | ErrorKind::InvalidInput
    )
}
