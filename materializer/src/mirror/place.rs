//! [driver] Puts one node where the tree has it, whatever stands there.
//!
//! Directories first, from the root down; so a node's directories always stand finally when it is
//! placed, and no rename can lead into itself. A free name is taken with `NoReplace`. A name held
//! by another thing of ours is taken by exchange, and what comes out is looked at only then (rule
//! MA-2): ours is parked, to be placed elsewhere or cleared; anything else is a stranger.

use super::Stall;
use super::core::{Batch, Core, Displaced, Standing, join, parent_of};
use super::ledger::SWAP;
use super::scan::Scan;
use crate::plan::{self, Need, PARK, Row, SwapName, Unfit};
use crate::tree::{Node, ROOT, Tree};
use aber_log::chunk::ChunkStore;
use aber_log::env::disk::{FileKind, Rename, Stat};
use aber_log::env::{Disk, Env};
use aber_proto::{FileId, limit};
use std::io::{self, ErrorKind};
use std::path::Path;

/// A name that stays taken after so many attempts is tried again later.
const ATTEMPTS: usize = 3;

/// Where a node goes.
struct Target<'a> {
    node: &'a Node,
    path: String,
    depth: usize,
}

/// Where what goes in comes from.
enum Source {
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
    /// Places a node and, before it, the directories above it.
    pub(super) fn place(&mut self, id: FileId, batch: &mut Batch) -> Result<(), Stall> {
        let mut chain: Vec<Node> = Vec::new();
        let mut at = id;
        let mut standing = loop {
            if at == ROOT {
                let path = String::new();
                break Standing { path, depth: 0 };
            }
            if let Some(standing) = batch.directories.get(&at) {
                break standing.clone();
            }
            if chain.len() > limit::PATH_DEPTH {
                return Err(Stall::Gone);
            }
            let node = self.tree.node(at)?.ok_or(Stall::Gone)?;
            at = node.parent;
            chain.push(node);
        };
        while let Some(node) = chain.pop() {
            let is_last = chain.is_empty();
            if !is_last && !node.is_directory() {
                return Err(Stall::Gone);
            }
            let path = join(&standing.path, &node.name);
            let depth = standing.depth;
            let target = Target {
                node: &node,
                path: path.clone(),
                depth,
            };
            match self.place_one(&target, batch) {
                Err(Stall::Unfit(why)) if !is_last => {
                    self.note(node.id, Err(Stall::Unfit(why)), batch)?;
                    return Err(Stall::Gone);
                }
                other => other?,
            }
            standing = Standing {
                path,
                depth: depth + 1,
            };
            if node.is_directory() {
                batch.directories.insert(node.id, standing.clone());
            }
        }
        Ok(())
    }

    fn place_one(&mut self, target: &Target<'_>, batch: &mut Batch) -> Result<(), Stall> {
        let node = target.node;
        let kind = plan::kind_of(node);
        if kind == FileKind::Symlink {
            self.ledger.set_link(node.id, true);
        }
        plan::check(node, target.depth).map_err(Stall::Unfit)?;
        let row = self.ledger.get(node.id)?;
        match (plan::need(node, row.as_ref()), row) {
            (Need::Nothing, _) => Ok(()),
            (Need::Attributes, Some(row)) => self.attributes(target, &row, batch),
            (Need::Move, Some(row)) => {
                self.relocate(target, &row, batch)?;
                match self.ledger.get(node.id)? {
                    Some(row) if plan::need(node, Some(&row)) == Need::Attributes => {
                        self.attributes(target, &row, batch)
                    }
                    _ => Ok(()),
                }
            }
            (_, row) => self.publish(target, row, batch),
        }
    }

    /// Shows a version, or a new directory, at its path.
    fn publish(
        &mut self,
        target: &Target<'_>,
        row: Option<Row>,
        batch: &mut Batch,
    ) -> Result<(), Stall> {
        let node = target.node;
        let source = if node.is_directory() {
            Source::NewDirectory
        } else {
            let staged = batch.staged.get(&node.id).ok_or(Stall::Again)?;
            if staged.tag != plan::tag_of(node) {
                return Err(Stall::Again);
            }
            Source::Path {
                path: staged.path.clone(),
                stat: Some(staged.stat),
            }
        };
        if let Some(row) = row
            && (row.parent != node.parent || row.name != node.name)
        {
            // It moved and changed: the old version leaves its old place.
            self.displace(node.id, &row, batch)?;
        }
        let stat = match self.ledger.child(node.parent, &node.name)? {
            None => self.enter_free(target, source, batch)?,
            Some(child) => self.enter_taken(target, source, child.id, batch)?,
        };
        batch.staged.remove(&node.id);
        let Some(stat) = stat else {
            return Ok(());
        };
        self.ledger.set(node.id, plan::row_of(node, &stat))?;
        if node.is_directory() {
            self.scans.push(Scan::new(node.id, false));
        }
        Ok(())
    }

    /// Moves what is right to where it belongs: one rename, whatever lies below (rule TR-2).
    fn relocate(&mut self, target: &Target<'_>, row: &Row, batch: &mut Batch) -> Result<(), Stall> {
        let node = target.node;
        let from = self.ledger.path(node.id)?.ok_or(Stall::Again)?;
        if !self.is_still_ours(node.id, row, &from, batch)? {
            return Err(Stall::Again);
        }
        if row.kind == FileKind::Directory {
            self.retest_links(node.id, target.depth, batch)?;
        }
        let source = Source::Path {
            path: from.clone(),
            stat: None,
        };
        batch.touched.insert(parent_of(&from).to_owned());
        match self.ledger.child(node.parent, &node.name)? {
            None => _ = self.enter_free(target, source, batch)?,
            Some(child) => {
                let occupant = self.ledger.get(child.id)?;
                let name = SwapName {
                    out: occupant.as_ref().map_or(0, |row| plan::short(&row.tag)),
                    into: plan::short(&row.tag),
                    occupant: child.id,
                    incoming: node.id,
                };
                let (swap, text) = self.swap_path(&name);
                self.rename(&from, &swap, Rename::NoReplace)
                    .map_err(|error| self.vanished(node.id, &from, &error))?;
                let mut parked = row.clone();
                (parked.parent, parked.name) = (PARK, text);
                self.ledger.set(node.id, parked)?;
                self.parked.insert(node.id, from);
                let source = Source::Path {
                    path: swap,
                    stat: None,
                };
                self.enter_taken(target, source, child.id, batch)?;
            }
        }
        self.parked.remove(&node.id);
        let mut row = row.clone();
        (row.parent, row.name) = (node.parent, node.name.clone());
        self.ledger.set(node.id, row.clone())?;
        self.look_at_moved(target, &row, batch)
    }

    /// What moved may have been edited in its old place: then it is a stranger in the new one.
    fn look_at_moved(
        &mut self,
        target: &Target<'_>,
        row: &Row,
        batch: &mut Batch,
    ) -> Result<(), Stall> {
        if row.kind == FileKind::Directory {
            return Ok(());
        }
        match self.disk.stat(Path::new(&target.path)) {
            Ok(stat) if plan::is_ours(row, &stat) => Ok(()),
            Ok(_) => {
                self.ledger.forget(target.node.id)?;
                self.aside(&target.path, &target.path, Some(target.node.version), batch)?;
                Err(Stall::Again)
            }
            Err(error) => Err(self.vanished(target.node.id, &target.path, &error)),
        }
    }

    fn attributes(
        &mut self,
        target: &Target<'_>,
        row: &Row,
        batch: &mut Batch,
    ) -> Result<(), Stall> {
        use aber_log::env::File;
        let (node, path) = (target.node, Path::new(&target.path));
        let file = match self.disk.open(path, aber_log::env::disk::Open::Read) {
            Ok(file) => file,
            Err(error) => return Err(self.vanished(node.id, &target.path, &error)),
        };
        let failed = |error: io::Error| Stall::io("set attributes of", &target.path, &error);
        if !plan::is_ours(row, &file.stat().map_err(failed)?) {
            self.forget_subtree(node.id)?;
            self.found.insert(node.id);
            return Err(Stall::Again);
        }
        // Without a new time, a write in between still shows by its own.
        let mtime = (row.wanted_mtime != node.mtime).then_some(node.mtime);
        file.set_meta(Some(plan::file_mode(node.mode)), mtime)
            .map_err(failed)?;
        let stat = file.stat().map_err(failed)?;
        if stat.size != row.size || (mtime.is_none() && stat.mtime != row.mtime) {
            self.forget_subtree(node.id)?;
            self.found.insert(node.id);
            return Err(Stall::Again);
        }
        batch.touched.insert(parent_of(&target.path).to_owned());
        self.ledger.set(node.id, plan::row_of(node, &stat))?;
        Ok(())
    }

    /// Takes a free name. `None` means that what stood there was adopted.
    fn enter_free(
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
    fn enter_taken(
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
        let name = SwapName {
            out: plan::short(&row.tag),
            into: plan::short(&plan::tag_of(node)),
            occupant,
            incoming: node.id,
        };
        batch.touched.insert(SWAP.to_owned());
        batch.touched.insert(parent_of(&target.path).to_owned());
        let swap = self.into_swap(&source, &name)?;
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

    fn into_swap(&mut self, source: &Source, name: &SwapName) -> Result<String, Stall> {
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

    /// LI-3: links below a directory that changes its depth are tested again, before it moves.
    fn retest_links(
        &mut self,
        directory: FileId,
        depth: usize,
        batch: &mut Batch,
    ) -> Result<(), Stall> {
        let old_depth = self.ledger.ancestors(directory)?.len();
        if old_depth == depth + 1 {
            return Ok(());
        }
        let mut after = None;
        loop {
            let page = self.ledger.ids(super::written::Table::Links, after, 256)?;
            let Some((last, _)) = page.last() else {
                return Ok(());
            };
            after = Some(*last);
            for (id, _) in page {
                let chain = self.ledger.ancestors(id)?;
                let Some(below) = chain.iter().position(|at| *at == directory) else {
                    if chain.is_empty() && self.held.contains_key(&id) {
                        self.queue.insert(id);
                    }
                    continue;
                };
                let node = self.tree.node(id)?;
                let fits = node.is_some_and(|node| plan::check(&node, depth + below).is_ok());
                if !fits {
                    self.queue.insert(id);
                    self.take_away(id, batch)?;
                }
            }
        }
    }

    pub(super) fn rename(&self, from: &str, to: &str, how: Rename) -> io::Result<()> {
        self.disk.rename(Path::new(from), Path::new(to), how)
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
