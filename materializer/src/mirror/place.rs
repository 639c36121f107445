//! [driver] Puts one node where the tree has it, whatever stands there.
//!
//! Directories first, from the root down; so a node's directories always stand finally when it is
//! placed, and no rename can lead into itself. How a name is taken is said in `enter`.

use super::Stall;
use super::core::{Batch, Core, Standing, join, parent_of};
use super::enter::{Source, Target};
use super::scan::Scan;
use crate::plan::{self, Need, PARK, Row, SwapName};
use crate::tree::{Node, ROOT, Tree};
use aber_log::chunk::ChunkStore;
use aber_log::env::disk::{FileKind, Rename};
use aber_log::env::{Disk, Env};
use aber_proto::{FileId, limit};
use std::io;
use std::path::Path;

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
