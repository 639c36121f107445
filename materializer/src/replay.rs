//! [driver] One partition's committed entries, folded into its view and handed on.
//!
//! Order of effects: judge, wait for the control partition where an entry was judged by it, apply
//! one batch (one commit of the index), then tell outcomes, dirty nodes and the position. A batch
//! ends where a snapshot is due, so that every node makes it of the same entries, and where nodes
//! compare their views. What a batch's content lacks here is asked for ahead of whoever reads it.
//! Where a snapshot skipped entries, they are folded once they are back, while there is nothing newer
//! to do.

mod older;
mod snapshots;

use crate::judge::{Judge, Judged};
use crate::members::Members;
use crate::mirror::Dirty;
use crate::snapshots::{Install, Snapshots};
use crate::view::{EntryOutcome, View, ViewProblem};
use aber_log::chunk::ChunkStore;
use aber_log::chunk::store::PackStore;
use aber_log::env::kv::KvBatch;
use aber_log::env::{Env, Runtime};
use aber_log::partition::raft_types::{decode_membership, encode_membership, to_raft_id};
use aber_log::reader::{ReadProblem, Reader};
use aber_log::watch::Watched;
use aber_proto::{Change, ChunkRef, Entry, EntryKind, FileId, Genesis, PartitionId};
use bytes::Bytes;
use older::Older;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Bytes of entries folded at once.
const BATCH_BYTES: usize = 1024 * 1024;
/// Chunks asked for ahead in one batch; the rest is asked for when it is read.
const AHEAD_CHUNKS: usize = 16 * 1024;
/// Nodes read at a time when a whole partition is dirty.
const PAGE: usize = 1024;

/// Between attempts to fetch what a snapshot lacks.
const SNAPSHOT_PAUSE: Duration = Duration::from_secs(1);

/// A boxed future of the listener.
pub type Boxed = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Entries that were applied, with what became of them.
pub struct AppliedBatch {
    /// Of which partition.
    pub partition: PartitionId,
    /// The entries, judged.
    pub entries: Vec<(Entry, Judged)>,
    /// What became of each.
    pub outcomes: Vec<EntryOutcome>,
}

/// Told by a replay.
pub trait Listener: Send + Sync + 'static {
    /// A batch was applied.
    fn applied(&self, batch: AppliedBatch) -> Boxed;
    /// A snapshot of the partition was made here and kept.
    fn snapshot_made(&self) -> Boxed;
    /// A snapshot took the place of the view: what was there before may be gone.
    fn snapshot_installed(&self) -> Boxed;
    /// The replay cannot go on.
    fn failed(&self, why: Failure) -> Boxed;
}

/// Why a replay ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Failure {
    /// The index failed or contradicts the log: it must be rebuilt.
    Index(String),
    /// The log cannot be read: it is damaged.
    Log(String),
}

impl From<String> for Failure {
    fn from(why: String) -> Self {
        Self::Index(why)
    }
}

/// Asks for chunks before anybody reads them.
pub type Ahead = Arc<dyn Fn(&[ChunkRef]) + Send + Sync>;

/// Makes and keeps snapshots.
pub struct Maker<E: Env> {
    /// Where their chunks go.
    pub store: PackStore<E>,
    /// Where they are kept.
    pub snapshots: Snapshots<E>,
    /// Entries between two.
    pub every: u64,
}

/// What a replay needs.
pub struct ReplayOptions<E: Env, R: Reader, S: ChunkStore> {
    /// The world.
    pub env: E,
    /// What the cluster started from.
    pub genesis: Arc<Genesis>,
    /// The view, as it was found.
    pub view: View<E::Kv>,
    /// The index it lives in.
    pub kv: E::Kv,
    /// Who may do what: set by the control partition's replay, read by all others. It is never
    /// behind what that replay says in `applied`.
    pub members: Watched<Arc<Members>>,
    /// The log.
    pub reader: R,
    /// Content of snapshots that are taken in.
    pub chunks: S,
    /// Whether what a snapshot skipped is folded, too, once it is back: for who tells the past.
    pub tells_history: bool,
    /// Told what content a batch will need.
    pub ahead: Option<Ahead>,
    /// Makes snapshots, where they are wanted.
    pub maker: Option<Maker<E>>,
    /// How far each partition is applied; this replay sets its own.
    pub applied: BTreeMap<PartitionId, Watched<Option<u64>>>,
    /// The mirror, where there is one.
    pub dirty: Option<mpsc::Sender<Dirty>>,
    /// Snapshots to take in.
    pub installs: mpsc::Receiver<Install>,
    /// Who is told.
    pub listener: Arc<dyn Listener>,
}

/// One partition's replay.
pub struct Replay<E: Env, R: Reader, S: ChunkStore> {
    options: ReplayOptions<E, R, S>,
    judge: Judge,
    older: Option<Older<E>>,
    /// Bytes of entries since a snapshot was due.
    since_snapshot_bytes: u64,
}

/// The index row that holds Raft's membership as of the applied entry.
fn membership_key(partition: PartitionId) -> Bytes {
    #[expect(clippy::big_endian_bytes, reason = "keys sort by bytes")]
    let number = partition.0.to_be_bytes();
    [b"M".as_slice(), &number].concat().into()
}

enum Step {
    Entries(Vec<Entry>),
    Install(Install),
    Forgotten,
    /// From before the view began.
    Older(Result<Vec<Entry>, ReadProblem>),
}

impl<E: Env, R: Reader, S: ChunkStore> Replay<E, R, S> {
    /// A replay; [`Replay::run`] drives it.
    pub fn new(options: ReplayOptions<E, R, S>) -> Self {
        let judge = Judge::new();
        Self {
            options,
            judge,
            older: None,
            since_snapshot_bytes: 0,
        }
    }

    fn partition(&self) -> PartitionId {
        self.options.view.partition()
    }

    /// Replays until the log is closed or the index fails.
    pub async fn run(mut self) {
        if let Err(why) = self.replay_all().await {
            self.options.listener.failed(why).await;
        }
    }

    async fn replay_all(&mut self) -> Result<(), Failure> {
        self.publish_members();
        self.open_older()?;
        self.since_snapshot_bytes = self.read_since_snapshot()?;
        // The mirror may never have heard of what was applied last before a crash.
        self.tell_mirror(self.options.view.applied_index(), Vec::new())
            .await;
        loop {
            let next = self
                .options
                .view
                .applied_index()
                .map_or(0, |index| index + 1);
            match self.next_step(next).await? {
                None => return Ok(()),
                Some(Step::Entries(entries)) => {
                    let mut left = entries;
                    while !left.is_empty() {
                        left = self.apply(left).await?;
                    }
                }
                Some(Step::Install(install)) => {
                    let result = self.install(&install.snapshot).await;
                    let _gone = install.done.send(result.clone());
                    result?;
                }
                Some(Step::Forgotten) => {
                    let newest = self.options.reader.newest_snapshot(self.partition()).await;
                    let newest = newest.map_err(|problem| problem.to_string())?;
                    let newest = newest.filter(|snapshot| snapshot.log_id.index >= next);
                    let newest = newest.ok_or_else(|| {
                        format!(
                            "partition {}: no entry {next} and no snapshot past it",
                            self.partition()
                        )
                    })?;
                    self.install(&newest).await?;
                }
                Some(Step::Older(read)) => self.fold_older(read).await?,
            }
        }
    }

    async fn next_step(&mut self, next: u64) -> Result<Option<Step>, Failure> {
        let partition = self.partition();
        let (env, reader) = (&self.options.env, &self.options.reader);
        let older = older::read(self.older.as_ref(), env, reader, partition);
        let read = tokio::select! {
            biased;
            install = self.options.installs.recv() => return Ok(install.map(Step::Install)),
            read = reader.read(partition, next, BATCH_BYTES) => read,
            read = older => {
                return Ok(Some(Step::Older(read)));
            }
        };
        match read {
            Ok(entries) => Ok(Some(Step::Entries(entries))),
            Err(ReadProblem::Forgotten { .. }) => Ok(Some(Step::Forgotten)),
            Err(ReadProblem::Closed(_)) => Ok(None),
            Err(problem) => Err(Failure::Log(problem.to_string())),
        }
    }

    /// Applies a batch from the front of the entries; answers what is left of them.
    async fn apply(&mut self, mut entries: Vec<Entry>) -> Result<Vec<Entry>, String> {
        let mut left = self.cut(&mut entries);
        self.wait_for_control(&entries).await;
        let judged = self.judge(&entries, self.options.view.members().cloned());
        let mut unjudged = entries.split_off(judged.len());
        unjudged.append(&mut left);
        let (is_due, since_snapshot_bytes) = self.look_due(&entries);
        if let Some(ahead) = &self.options.ahead {
            ahead(&chunks_of(&judged));
        }
        let mut extra = membership_rows(&entries);
        self.note_since_snapshot(&mut extra, since_snapshot_bytes);
        let batch: Vec<_> = entries
            .into_iter()
            .zip(judged.iter().map(|judged| judged.verdict))
            .collect();
        let applied = self.options.view.apply_batch(&batch, extra);
        let applied = applied.map_err(|problem: ViewProblem| problem.to_string())?;
        self.since_snapshot_bytes = since_snapshot_bytes;
        let partition = self.partition();
        let index = self.options.view.applied_index();
        self.options.env.runtime().trace(format_args!(
            "apply {partition}:{} {}",
            index.unwrap_or(0),
            self.options.view.digest()
        ));
        let entries = batch
            .into_iter()
            .map(|(entry, _)| entry)
            .zip(judged)
            .collect();
        self.publish(index);
        let outcomes = applied.outcomes;
        self.options
            .listener
            .applied(AppliedBatch {
                partition,
                entries,
                outcomes,
            })
            .await;
        let ids = applied
            .effects
            .iter()
            .map(|effect| effect.dirty())
            .collect();
        self.tell_mirror(index, ids).await;
        if is_due {
            self.make_snapshot().await?;
        }
        Ok(unjudged)
    }

    /// Takes off what follows the first entry after which a snapshot is due, or views are compared.
    fn cut(&self, entries: &mut Vec<Entry>) -> Vec<Entry> {
        let mut bytes = self.since_snapshot_bytes;
        let ends = |entry: &Entry| {
            bytes = bytes.saturating_add(entry.body.len() as u64);
            let index = entry.log_id.index;
            self.is_due(index, bytes) || self.options.view.is_compared(index)
        };
        match entries.iter().position(ends) {
            Some(cut) => entries.split_off(cut + 1),
            None => Vec::new(),
        }
    }

    /// Judges entries from the front on: all of a data partition; of the control partition up to
    /// one that may change who is a member, since what follows is judged by what it did (S2): `own`
    /// are the members before the first.
    fn judge(&mut self, entries: &[Entry], own: Option<Arc<Members>>) -> Vec<Judged> {
        let is_control = own.is_some();
        let members = own.unwrap_or_else(|| self.options.members.get());
        let mut judged = Vec::with_capacity(entries.len());
        for entry in entries {
            let one = self.judge.judge(entry, &members);
            let ends = is_control && one.change.as_ref().is_some_and(changes_members);
            judged.push(one);
            if ends {
                break;
            }
        }
        judged
    }

    /// Before the position moves: who waited for an index must see its members.
    fn publish_members(&self) {
        if let Some(members) = self.options.view.members()
            && !Arc::ptr_eq(members, &self.options.members.get())
        {
            self.options.members.set(Arc::clone(members));
        }
    }

    fn publish(&self, index: Option<u64>) {
        self.publish_members();
        if let Some(applied) = self.options.applied.get(&self.partition()) {
            applied.set(index);
        }
    }

    async fn tell_mirror(&self, index: Option<u64>, mut ids: Vec<FileId>) {
        let (Some(dirty), Some(index)) = (&self.options.dirty, index) else {
            return;
        };
        ids.sort_unstable();
        ids.dedup();
        let dirty_ids = Dirty {
            partition: self.partition(),
            index,
            ids,
        };
        let _stopping = dirty.send(dirty_ids).await.is_err();
    }

    /// An entry judged by the control partition waits until that is here.
    async fn wait_for_control(&self, entries: &[Entry]) {
        let judged_by = entries
            .iter()
            .map(|entry| entry.control_index)
            .max()
            .unwrap_or(0);
        if self.partition() == PartitionId::CONTROL || judged_by == 0 {
            return;
        }
        if let Some(control) = self.options.applied.get(&PartitionId::CONTROL) {
            control
                .clone()
                .until(|index| index.is_some_and(|index| index >= judged_by))
                .await;
        }
    }
}

fn membership_rows(entries: &[Entry]) -> KvBatch {
    let mut rows = KvBatch::default();
    for entry in entries
        .iter()
        .filter(|entry| entry.kind == EntryKind::Membership)
    {
        if let Ok(membership) = decode_membership(&entry.body) {
            let id = to_raft_id(entry.log_id);
            rows.put(
                membership_key(entry.partition),
                encode_membership(Some(&id), membership.membership()),
            );
        }
    }
    rows
}

fn changes_members(change: &Change) -> bool {
    let mut events = change.events.iter();
    events.any(|event| event.operation.is_membership())
}

fn chunks_of(judged: &[Judged]) -> Vec<ChunkRef> {
    let changes = judged.iter().filter_map(|judged| judged.change.as_ref());
    let events = changes.flat_map(|change| &change.events);
    let contents = events.filter_map(|event| event.operation.content());
    contents
        .flat_map(|content| content.rows())
        .copied()
        .take(AHEAD_CHUNKS)
        .collect()
}

#[cfg(test)]
mod tests;
