//! [driver] One batch: stage, sync, place, take away, sync, commit.
//!
//! The order is the point (promises M1, M2): contents are durable before a name points to them;
//! names are durable before the rows and positions that cover them are committed. What a batch
//! could not do is held with a reason, in the same commit, and tried again.

use super::assemble::{Staged, Stager};
use super::ledger::{Ledger, SWAP};
use super::scan::Scan;
use super::{HeldPath, Kind, MirrorOptions, MirrorProblem, MirrorStatus, Notice, Stall};
use crate::plan::{self, Need, Row, SwapName};
use crate::tree::{Node, NodeKind, ROOT, Tree};
use aber_log::chunk::ChunkStore;
use aber_log::env::kv::KvProblem;
use aber_log::env::{Disk, Env, Runtime};
use aber_log::planted::{Bug, is_on};
use aber_log::watch::Watched;
use aber_proto::{EventId, FileId, PartitionId, limit};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

/// Where files are assembled, below the mirror's root.
pub(super) const NEW: &str = ".aber/staging/new";
/// A batch of at most so many paths syncs files and directories one by one: a sync of the whole
/// file system also waits for what others left dirty.
const SMALL_BATCH: usize = 4;
/// Contents staged at the same time: a chunk on its way does not hold up the others.
const STAGED_AT_ONCE: usize = 16;
/// How long a batch is patient with chunks that are not here.
const BATCH_PATIENCE: Duration = Duration::from_secs(4);
/// An id that cannot be settled after so many rounds in a row is held until later.
const ROUNDS: u8 = 4;
/// Notices and examples shown.
pub(super) const SHOWN: usize = 16;

/// Why a path is not current.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Held {
    pub(super) kind: Kind,
    pub(super) reason: String,
    /// What it lacks, if it is still in the tree.
    pub(super) version: Option<EventId>,
}

/// An old version, to be looked at once more and dropped.
#[derive(Clone, Debug)]
pub(super) struct Displaced {
    pub(super) path: String,
    pub(super) original: String,
    pub(super) row: Row,
}

/// A directory that stands where the tree has it.
#[derive(Clone, Debug)]
pub(super) struct Standing {
    pub(super) path: String,
    pub(super) depth: usize,
}

/// What a batch remembers until its commit.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) staged: BTreeMap<FileId, Staged>,
    pub(super) directories: BTreeMap<FileId, Standing>,
    /// Compared with what stands at their path and found to differ.
    pub(super) differs: BTreeSet<FileId>,
    /// Directories whose names changed.
    pub(super) touched: BTreeSet<String>,
    pub(super) displaced: Vec<Displaced>,
    /// Things taken out of parked directories so far.
    pub(super) cleared: usize,
    pub(super) is_small: bool,
}

pub(super) struct Core<E: Env, T, C> {
    pub(super) env: E,
    pub(super) disk: E::Disk,
    pub(super) tree: T,
    pub(super) chunks: C,
    pub(super) options: MirrorOptions,
    pub(super) ledger: Ledger<E::Kv>,
    pub(super) status: Watched<MirrorStatus>,
    pub(super) held: BTreeMap<FileId, Held>,
    pub(super) queue: BTreeSet<FileId>,
    /// Of the queue: something stands at its path that may already be right.
    pub(super) found: BTreeSet<FileId>,
    pub(super) rounds: BTreeMap<FileId, u8>,
    pub(super) scans: Vec<Scan>,
    /// Displaced things of ours in `swap/` that are placed again or cleared.
    pub(super) parked: BTreeMap<FileId, String>,
    /// Reached once the queue and the scans are empty.
    pub(super) positions: BTreeMap<PartitionId, u64>,
    pub(super) has_exchange: bool,
    pub(super) device: u64,
    pub(super) swap_count: u64,
    /// Syncs that failed in a row: the mirror pauses longer each time.
    pub(super) failed_syncs: u32,
    pub(super) must_pause: bool,
}

pub(super) fn join(directory: &str, name: &str) -> String {
    if directory.is_empty() {
        name.to_owned()
    } else {
        format!("{directory}/{name}")
    }
}

pub(super) fn parent_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

impl<E: Env, T: Tree, C: ChunkStore> Core<E, T, C> {
    /// Takes the next batch off the queue.
    pub(super) fn take(&mut self) -> Result<Vec<(FileId, Option<Node>)>, KvProblem> {
        let mut batch = Vec::new();
        let mut bytes = 0_u64;
        while batch.len() < self.options.batch_paths && bytes < self.options.batch_bytes {
            let Some(id) = self.queue.pop_first() else {
                break;
            };
            let node = self.tree.node(id)?;
            let size = match node.as_ref().map(|node| &node.kind) {
                Some(NodeKind::File(content)) => content.size(),
                _ => 0,
            };
            if !batch.is_empty() && bytes.saturating_add(size) > self.options.batch_bytes {
                self.queue.insert(id);
                break;
            }
            bytes = bytes.saturating_add(size);
            batch.push((id, node));
        }
        Ok(batch)
    }

    /// Makes a batch current, as far as it goes, and commits.
    pub(super) async fn settle(
        &mut self,
        wanted: Vec<(FileId, Option<Node>)>,
    ) -> Result<(), MirrorProblem> {
        let mut batch = Batch::default();
        let ids: Vec<FileId> = wanted.iter().map(|(id, _)| *id).collect();
        self.stage(wanted, &mut batch).await?;
        for id in ids {
            let outcome = self.place(id, &mut batch);
            self.note(id, outcome, &mut batch)?;
        }
        self.clear_parked(&mut batch)?;
        for staged in std::mem::take(&mut batch.staged).into_values() {
            // What found no place is staged anew; what cannot be removed goes at the next start.
            let _ = self.disk.remove_file(Path::new(&staged.path));
        }
        self.finish(batch).await
    }

    /// Makes a batch durable and commits its rows, with the positions once nothing is left to do.
    pub(super) async fn finish(&mut self, mut batch: Batch) -> Result<(), MirrorProblem> {
        if let Err(error) = self.sync(&batch).await {
            return self.sync_failed(&error);
        }
        if !batch.touched.is_empty() {
            self.failed_syncs = 0;
        }
        self.drop_displaced(&mut batch)?;
        if self.queue.is_empty() {
            self.found.clear();
            self.rounds.clear();
            if self.scans.is_empty() && self.parked.is_empty() {
                self.reach();
            }
        }
        self.ledger.commit()?;
        self.publish_status();
        Ok(())
    }

    /// Takes the positions that are reached into the next commit.
    pub(super) fn reach(&mut self) {
        for (partition, index) in std::mem::take(&mut self.positions) {
            self.ledger.set_position(partition, index);
            self.status.update(|status| {
                let position = status.positions.entry(partition).or_default();
                *position = index.max(*position);
            });
        }
    }

    /// After a failed sync nothing is known of what was written since the last one: the rows are
    /// thrown away and everything is looked at again. The sync itself is never repeated.
    fn sync_failed(&mut self, error: &std::io::Error) -> Result<(), MirrorProblem> {
        self.ledger.abandon();
        self.parked.clear();
        self.trouble(format!("a sync failed: {error}"));
        self.failed_syncs = self.failed_syncs.saturating_add(1);
        self.must_pause = true;
        self.rescan_all();
        self.clean_staging()
    }

    async fn sync(&self, batch: &Batch) -> std::io::Result<()> {
        if batch.touched.is_empty() {
            return Ok(());
        }
        if !batch.is_small || batch.touched.len() > 2 * SMALL_BATCH {
            return self.disk.sync_all().await;
        }
        for directory in &batch.touched {
            match self.disk.sync_dir(Path::new(directory)).await {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                other => other?,
            }
        }
        Ok(())
    }

    async fn stage(
        &mut self,
        wanted: Vec<(FileId, Option<Node>)>,
        batch: &mut Batch,
    ) -> Result<(), MirrorProblem> {
        let mut nodes = Vec::new();
        for (id, node) in wanted {
            let Some(node) = node.filter(|node| !node.is_directory()) else {
                continue;
            };
            let row = self.ledger.get(id)?;
            if plan::need(&node, row.as_ref()) != Need::Publish || !self.may_stand(&node)? {
                continue;
            }
            if self.found.remove(&id) && self.adopt_equal(&node, batch).await? {
                continue;
            }
            nodes.push(node);
        }
        batch.is_small = nodes.len() <= SMALL_BATCH;
        if nodes.is_empty() {
            return Ok(());
        }
        self.stage_all(nodes, batch).await?;
        let is_left_out = batch.is_small || is_on(Bug::NameBeforeContent);
        if !is_left_out && self.disk.sync_all().await.is_err() {
            batch.staged.clear();
            self.trouble("a sync of staged files failed".to_owned());
        }
        Ok(())
    }

    async fn stage_all(
        &mut self,
        nodes: Vec<Node>,
        batch: &mut Batch,
    ) -> Result<(), MirrorProblem> {
        use futures::StreamExt;
        let stager = std::sync::Arc::new(Stager {
            env: self.env.clone(),
            disk: self.disk.clone(),
            chunks: self.chunks.clone(),
            patient_until: self.env.runtime().now() + BATCH_PATIENCE,
            syncs_each: batch.is_small,
            reserve: (self.options.reserve_max_bytes, self.options.reserve_percent),
        });
        let mut staging = futures::stream::iter(nodes.into_iter().map(|node| {
            let stager = std::sync::Arc::clone(&stager);
            async move {
                let (id, version) = (plan::id_text(node.id), plan::id_text(node.version));
                let done = stager.stage(&node, format!("{NEW}/{id}_{version}")).await;
                (node.id, done)
            }
        }))
        .buffer_unordered(STAGED_AT_ONCE);
        let mut stalls = Vec::new();
        while let Some((id, done)) = staging.next().await {
            match done {
                Ok(staged) => _ = batch.staged.insert(id, staged),
                Err(stall) => stalls.push((id, stall)),
            }
        }
        drop(staging);
        for (id, stall) in stalls {
            self.note(id, Err(stall), batch)?;
        }
        Ok(())
    }

    /// Whether a node's own name and link, and all directories above it, may be on this disk.
    fn may_stand(&self, node: &Node) -> Result<bool, KvProblem> {
        let mut depth = 0;
        let mut at = node.parent;
        // A directory that was written stands at the depth its row says; only others are asked of
        // the tree.
        while at != ROOT && depth <= limit::PATH_DEPTH {
            let parent = match self.ledger.get(at)? {
                Some(row) => Some(row.parent),
                None => self.tree.node(at)?.map(|node| node.parent),
            };
            let Some(parent) = parent else {
                return Ok(false);
            };
            at = parent;
            depth += 1;
        }
        // A link's depth is decided where it is placed; here only its name and form.
        Ok(plan::check(node, limit::PATH_DEPTH).is_ok())
    }

    /// Writes down how an attempt ended.
    pub(super) fn note(
        &mut self,
        id: FileId,
        outcome: Result<(), Stall>,
        batch: &mut Batch,
    ) -> Result<(), KvProblem> {
        match outcome {
            Ok(()) => self.release(id),
            Err(Stall::Index(problem)) => return Err(problem),
            Err(Stall::Gone) => {
                self.release(id);
                self.take_away(id, batch)?;
            }
            Err(Stall::Unfit(why)) => {
                self.hold(id, Kind::Unmaterialisable, why.to_string())?;
                self.take_away(id, batch)?;
            }
            Err(Stall::Again) => {
                let rounds = self.rounds.entry(id).or_default();
                *rounds += 1;
                if *rounds > ROUNDS {
                    self.hold(id, Kind::Waiting, "it keeps changing".to_owned())?;
                } else if !self.held.contains_key(&id) {
                    self.queue.insert(id);
                }
            }
            Err(Stall::Content(why)) => self.hold(id, Kind::Waiting, why)?,
            Err(Stall::Disk(why)) => {
                self.trouble(why.clone());
                self.hold(id, Kind::Waiting, why)?;
            }
            Err(Stall::Full(why)) => {
                self.trouble(why.clone());
                self.hold(id, Kind::Waiting, why)?;
            }
        }
        Ok(())
    }

    pub(super) fn hold(&mut self, id: FileId, kind: Kind, reason: String) -> Result<(), KvProblem> {
        let version = self.tree.node(id)?.map(|node| node.version);
        let held = Held {
            kind,
            reason,
            version,
        };
        if self.held.get(&id) != Some(&held) {
            let class = if kind == Kind::Waiting { 'w' } else { 'u' };
            let text = format!("{class}{}", held.reason);
            self.ledger.set_held(id, Some(&text));
            self.held.insert(id, held);
        }
        Ok(())
    }

    pub(super) fn release(&mut self, id: FileId) {
        if self.held.remove(&id).is_some() {
            self.ledger.set_held(id, None);
        }
    }

    pub(super) fn trouble(&self, why: String) {
        self.status.update(|status| status.problem = Some(why));
    }

    /// A name in `swap/` that nothing has.
    pub(super) fn swap_path(&mut self, name: &SwapName) -> (String, String) {
        self.swap_count += 1;
        let text = name.text(self.swap_count);
        (format!("{SWAP}/{text}"), text)
    }

    /// Shows what is held.
    pub(super) fn publish_status(&self) {
        let shown = |kind: Kind| -> (usize, Vec<HeldPath>) {
            let of_kind = || self.held.iter().filter(move |(_, held)| held.kind == kind);
            let examples = of_kind().take(SHOWN).map(|(id, held)| HeldPath {
                id: *id,
                path: self.tree_path(*id),
                reason: held.reason.clone(),
            });
            (of_kind().count(), examples.collect())
        };
        let (waiting, unfit) = (shown(Kind::Waiting), shown(Kind::Unmaterialisable));
        let is_busy = !self.scans.is_empty();
        let mut waits: BTreeMap<PartitionId, u64> = BTreeMap::new();
        for held in self.held.values().filter(|held| held.kind == Kind::Waiting) {
            if let Some(version) = held.version {
                let first = waits.entry(version.partition).or_insert(version.index);
                *first = version.index.min(*first);
            }
        }
        self.status.update(|status| {
            let complete = status.positions.iter().map(|(partition, index)| {
                let first = waits.get(partition);
                let before = first.map_or(*index, |first| first.saturating_sub(1));
                (*partition, before.min(*index))
            });
            status.complete = complete.collect();
            (status.waiting_count, status.waiting) = waiting;
            (status.unmaterialisable_count, status.unmaterialisable) = unfit;
            status.scanning = is_busy;
            if status.waiting_count == 0 {
                status.problem = None;
            }
        });
    }

    fn tree_path(&self, id: FileId) -> String {
        let mut names = Vec::new();
        let mut at = id;
        while at != ROOT && names.len() <= limit::PATH_DEPTH {
            let Ok(Some(node)) = self.tree.node(at) else {
                names.push("?".to_owned());
                break;
            };
            at = node.parent;
            names.push(node.name);
        }
        names.reverse();
        names.join("/")
    }

    pub(super) fn notice(&self, notice: Notice) {
        self.status.update(|status| {
            status.stranger_count += 1;
            status.notices.push(notice);
            if status.notices.len() > SHOWN {
                status.notices.remove(0);
            }
        });
    }
}
