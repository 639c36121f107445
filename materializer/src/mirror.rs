//! [driver] The mirror: keeps a real directory equal to the tree, read-only for its users.
//!
//! Inputs say which nodes may have changed ([`Dirty`]); what has to happen follows from the tree,
//! the rows of what was written (`mirror/written.rs`) and the disk alone, so doing it twice, late
//! or after a crash ends in the same directory. `plan.rs` decides; here is what carries it out:
//!
//! - `core`: one batch: stage, sync, place, take away, sync, commit;
//! - `place`, `enter`: one node to where it belongs, whatever stands there;
//! - `clear`: things of ours that go;
//! - `assemble`: chunks to a staged file;
//! - `stranger`: what we did not write goes to `.aber/lost+edits/`;
//! - `scan`: the directory against rows and tree;
//! - `recover`: staging and directories after a crash;
//! - `run`: the loop: inputs, hints, scans, retries.
//!
//! Invariants: a path is at all times absent or one committed version, whole (M1); a position is
//! durable after the effects it covers (M2); what we did not write is never overwritten or
//! deleted (M3); a missing chunk stalls that path only (A6). Directories keep mode 0755, since a
//! daemon that is not root could not write into them otherwise, and no times.
//!
//! Nothing is looked at before [`MirrorParts::ready`], when the tree has caught up with the local
//! log: what the directory holds of a later version than the tree's is a stranger to a scan.

mod assemble;
mod clear;
mod core;
mod enter;
mod ledger;
mod listing;
mod place;
mod recover;
mod run;
mod scan;
mod start;
mod stranger;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod written;

pub use listing::{Listed, Listing, hash_file, listing};

use crate::plan::Unfit;
use crate::tree::Tree;
use aber_log::chunk::ChunkStore;
use aber_log::env::kv::KvProblem;
use aber_log::env::{Env, Runtime};
use aber_log::watch::Watched;
use aber_proto::{EventId, FileId, PartitionId, Timestamp};
use std::collections::BTreeMap;
use std::future::Future;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::time::Duration;
use tokio::sync::mpsc;

/// How a mirror works.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MirrorOptions {
    /// The folder's number: separates its rows in the index from other folders'.
    pub folder: u8,
    /// What `.aber/marker` says: cluster, folder and epoch. Another text there stops the mirror
    /// (rule FO-2).
    pub marker: String,
    /// Paths in one batch.
    pub batch_paths: usize,
    /// Bytes in one batch; a larger file is a batch of its own.
    pub batch_bytes: u64,
    /// Time between two scans of everything.
    pub scan_every: Duration,
    /// Time between a hint and the look at its path.
    pub settle: Duration,
    /// Hints remembered before they fold into a scan of everything.
    pub hints_bound: usize,
    /// What stays free on the disk of the mirror, which may be the log's: at most this many bytes
    /// (promise B3).
    pub reserve_max_bytes: u64,
    /// And at most this part of it.
    pub reserve_percent: u64,
}

impl Default for MirrorOptions {
    fn default() -> Self {
        Self {
            folder: 0,
            marker: String::new(),
            batch_paths: 512,
            batch_bytes: 64 << 20,
            scan_every: Duration::from_secs(3600),
            settle: Duration::from_secs(2),
            hints_bound: 4096,
            reserve_max_bytes: 1 << 30,
            reserve_percent: 5,
        }
    }
}

/// Nodes that may have changed. Everything up to `index` of the partition is covered once they,
/// and those of all inputs before, are current or held.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dirty {
    /// The partition whose entries touched them.
    pub partition: PartitionId,
    /// The last of these entries.
    pub index: u64,
    /// Which nodes; of a directory that was removed or renamed, itself is enough.
    pub ids: Vec<FileId>,
}

/// A path that is not current.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HeldPath {
    /// Which node.
    pub id: FileId,
    /// Its path in the tree.
    pub path: String,
    /// Why.
    pub reason: String,
}

/// A stranger that was moved aside.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Notice {
    /// Where it stood.
    pub path: String,
    /// Where it is, relative to the mirror's root.
    pub kept_as: String,
    /// Its size.
    pub size_bytes: u64,
    /// The version that displaced it; `None` if it stood where nothing belongs.
    pub displaced_by: Option<EventId>,
}

/// How a mirror is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MirrorStatus {
    /// Durable: everything up to here is current, but for the paths held.
    pub positions: BTreeMap<PartitionId, u64>,
    /// Everything up to here is current, and no path waits for content or disk; at most `positions`.
    pub complete: BTreeMap<PartitionId, u64>,
    /// Paths that wait for content or for the disk; they are tried again by themselves.
    pub waiting_count: usize,
    /// A few of them.
    pub waiting: Vec<HeldPath>,
    /// Paths that this disk cannot hold (rule NA-8).
    pub unmaterialisable_count: usize,
    /// A few of them.
    pub unmaterialisable: Vec<HeldPath>,
    /// Strangers moved aside since the start.
    pub stranger_count: u64,
    /// The last of them.
    pub notices: Vec<Notice>,
    /// When the last scan of everything ended.
    pub last_scan: Option<Timestamp>,
    /// Whether a scan is running.
    pub scanning: bool,
    /// What an operator should know: the last failure of the disk.
    pub problem: Option<String>,
    /// Whether the mirror has stopped.
    pub stopped: bool,
    /// It stopped because the index failed: that must be rebuilt.
    pub index_failed: bool,
}

/// Why a mirror does not start, or stopped.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MirrorProblem {
    /// The index failed.
    #[error(transparent)]
    Index(#[from] KvProblem),
    /// `.aber` could not be made or read.
    #[error("{path:?} in the mirror: {error}")]
    Layout {
        /// Which part of it.
        path: String,
        /// What the disk said.
        error: String,
    },
    /// The marker is missing, or is that of another folder (rule FO-2).
    #[error(
        "its .aber/marker {}, not {wanted:?}: it shows another folder",
        found.as_ref().map_or("is missing".to_owned(), |found| format!("says {found:?}"))
    )]
    Marker {
        /// What the folder should say.
        wanted: String,
        /// What it says; `None` if it is missing.
        found: Option<String>,
    },
    /// `.aber/staging` is on another file system than the mirror (rule MA-1).
    #[error("{path:?} is on another file system than the mirror")]
    OtherDevice {
        /// Which part of `.aber`.
        path: String,
    },
}

/// Whether a held path is tried again by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Waiting,
    Unmaterialisable,
}

/// Why one path could not be made current now.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
enum Stall {
    #[error(transparent)]
    Index(#[from] KvProblem),
    /// The tree does not have it, or nothing it could stand in.
    #[error("it is not in the tree")]
    Gone,
    /// Something changed meanwhile, or it needs content that is not staged.
    #[error("it changes")]
    Again,
    /// A chunk is missing.
    #[error("{0}")]
    Content(String),
    #[error("{0}")]
    Disk(String),
    /// The disk is full.
    #[error("{0}")]
    Full(String),
    #[error("{0}")]
    Unfit(Unfit),
}

impl Stall {
    fn io(what: &'static str, path: &str, error: &io::Error) -> Self {
        let text = format!("cannot {what} {path:?}: {error}");
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Self::Full(text),
            ErrorKind::InvalidFilename => Self::Unfit(Unfit::DiskName),
            _ => Self::Disk(text),
        }
    }
}

enum Command {
    Scan,
    Suspect(Vec<FileId>),
    Stop,
}

/// A running mirror. Dropping all its handles stops it.
#[derive(Clone)]
pub struct MirrorHandle {
    /// How it is.
    pub status: Watched<MirrorStatus>,
    commands: mpsc::Sender<Command>,
}

impl MirrorHandle {
    /// Starts a scan of everything.
    pub async fn scan(&self) {
        // A mirror that has stopped scans no more; `status` says so.
        let _ = self.commands.send(Command::Scan).await;
    }

    /// Looks at the bytes of these files again, whatever inode, size and times say: what is not the
    /// version that belongs there is moved aside, and the version written anew.
    pub async fn suspect(&self, ids: Vec<FileId>) {
        // A mirror that has stopped looks no more; `status` says so.
        let _ = self.commands.send(Command::Suspect(ids)).await;
    }

    /// Stops the mirror between two batches and waits for it.
    pub async fn stop(mut self) {
        let _ = self.commands.send(Command::Stop).await;
        self.status.until(|status| status.stopped).await;
    }
}

/// The driver.
pub struct Mirror<E: Env, T, C> {
    core: core::Core<E, T, C>,
    inputs: mpsc::Receiver<Dirty>,
    commands: mpsc::Receiver<Command>,
    agenda: run::Agenda,
}

/// What a mirror works on.
pub struct MirrorParts<E: Env, T, C> {
    /// The node's world.
    pub env: E,
    /// The mirror's root directory.
    pub disk: E::Disk,
    /// Where rows and positions are kept.
    pub kv: E::Kv,
    /// What stands in the tree.
    pub tree: T,
    /// Content.
    pub chunks: C,
    /// How it works.
    pub options: MirrorOptions,
    /// Done once the tree has caught up with the local log.
    pub ready: Ready,
}

/// Waits for the tree.
pub type Ready = Pin<Box<dyn Future<Output = ()> + Send>>;

impl<E: Env, T: Tree, C: ChunkStore> Mirror<E, T, C> {
    /// Checks the folder, looks at what a crash left in staging, and starts the mirror. It scans
    /// everything first; positions move on once that is done.
    ///
    /// # Errors
    /// A marker, layout or index that does not allow it.
    pub async fn start(
        mut parts: MirrorParts<E, T, C>,
        inputs: mpsc::Receiver<Dirty>,
    ) -> Result<MirrorHandle, MirrorProblem> {
        let runtime = parts.env.runtime().clone();
        let ready = std::mem::replace(&mut parts.ready, Box::pin(async {}));
        let core = core::Core::open(parts).await?;
        let status = core.status.clone();
        let (sender, commands) = mpsc::channel(4);
        let agenda = run::Agenda::new(runtime.now());
        let mirror = Self {
            core,
            inputs,
            commands,
            agenda,
        };
        runtime.spawn("mirror", mirror.run(ready));
        Ok(MirrorHandle {
            status,
            commands: sender,
        })
    }
}
