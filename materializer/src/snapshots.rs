//! [driver] The snapshots of this node: which is newest, and taking one in from another node.
//!
//! A snapshot is a file of rows, cut and stored as chunks like any other; what is kept here is its
//! description, a note of the node's log. The newest two of each partition are kept.

use aber_log::env::Env;
use aber_log::partition::raft_types::{snapshot_message, snapshot_of};
use aber_log::reader::{ReadProblem, SnapshotManifest, SnapshotSource};
use aber_log::segment::SegmentLog;
use aber_proto::PartitionId;
use aber_proto::generated::rpc;
use bytes::Bytes;
use prost::Message;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{mpsc, oneshot};

const PREFIX: &[u8] = b"s/";
/// Snapshots of a partition whose description is kept.
const KEPT: usize = 2;

/// Asks a partition's replay to take a snapshot in.
pub struct Install {
    /// What to take in.
    pub snapshot: SnapshotManifest,
    /// Told when it is in, or why not.
    pub done: oneshot::Sender<Result<(), String>>,
}

struct Inner<E: Env> {
    log: SegmentLog<E>,
    known: Mutex<BTreeMap<PartitionId, Vec<SnapshotManifest>>>,
    installs: BTreeMap<PartitionId, mpsc::Sender<Install>>,
}

/// The snapshots of this node.
pub struct Snapshots<E: Env> {
    inner: Arc<Inner<E>>,
}

impl<E: Env> Clone for Snapshots<E> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
        }
    }
}

fn key(snapshot: &SnapshotManifest) -> Bytes {
    #[expect(clippy::big_endian_bytes, reason = "keys sort by bytes")]
    let place = [
        snapshot.partition.0.to_be_bytes().to_vec(),
        snapshot.log_id.index.to_be_bytes().to_vec(),
    ];
    [PREFIX, &place.concat()].concat().into()
}

impl<E: Env> Snapshots<E> {
    /// Reads the descriptions from the log's notes. `installs` are the replays that take snapshots
    /// in, one a partition.
    ///
    /// # Errors
    /// Notes that cannot be read.
    pub fn open(
        log: SegmentLog<E>,
        installs: BTreeMap<PartitionId, mpsc::Sender<Install>>,
    ) -> Result<Self, String> {
        let mut known: BTreeMap<PartitionId, Vec<SnapshotManifest>> = BTreeMap::new();
        for (_, value) in log.notes(PREFIX).map_err(|problem| problem.to_string())? {
            let message = rpc::Snapshot::decode(value).map_err(|problem| problem.to_string())?;
            let snapshot = snapshot_of(message).map_err(|problem| problem.to_string())?;
            known.entry(snapshot.partition).or_default().push(snapshot);
        }
        Ok(Self {
            inner: Arc::new(Inner {
                log,
                known: Mutex::new(known),
                installs,
            }),
        })
    }

    fn known(&self) -> std::sync::MutexGuard<'_, BTreeMap<PartitionId, Vec<SnapshotManifest>>> {
        self.inner
            .known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// All snapshots kept, of all partitions.
    pub fn all(&self) -> Vec<SnapshotManifest> {
        self.known().values().flatten().cloned().collect()
    }

    /// Keeps a snapshot whose chunks are durable in the store, and forgets the oldest.
    ///
    /// # Errors
    /// The log failed.
    pub async fn keep(&self, snapshot: SnapshotManifest) -> Result<(), String> {
        let value = Bytes::from(snapshot_message(&snapshot).encode_to_vec());
        let mut notes = vec![(key(&snapshot), Some(value))];
        let mut kept = self
            .known()
            .get(&snapshot.partition)
            .cloned()
            .unwrap_or_default();
        kept.retain(|other| other.log_id != snapshot.log_id);
        kept.push(snapshot.clone());
        kept.sort_by_key(|snapshot| snapshot.log_id);
        while kept.len() > KEPT {
            notes.push((key(&kept.remove(0)), None));
        }
        self.inner
            .log
            .write_notes(notes)
            .await
            .map_err(|problem| problem.to_string())?;
        self.known().insert(snapshot.partition, kept);
        Ok(())
    }
}

impl<E: Env> SnapshotSource for Snapshots<E> {
    fn newest(&self, partition: PartitionId) -> Option<SnapshotManifest> {
        self.known().get(&partition)?.last().cloned()
    }

    fn install(
        &self,
        snapshot: SnapshotManifest,
    ) -> Pin<Box<dyn Future<Output = Result<(), ReadProblem>> + Send>> {
        let sender = self.inner.installs.get(&snapshot.partition).cloned();
        Box::pin(async move {
            let closed = |why: &str| ReadProblem::Closed(why.to_owned());
            let sender = sender.ok_or_else(|| closed("there is no such partition"))?;
            let (done, answer) = oneshot::channel();
            let install = Install { snapshot, done };
            sender
                .send(install)
                .await
                .map_err(|_| closed("the replay stopped"))?;
            let result = answer.await.map_err(|_| closed("the replay stopped"))?;
            result.map_err(ReadProblem::Damaged)
        })
    }
}
