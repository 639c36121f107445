//! Committed entries, from an index on.

use aber_proto::{ChainHash, Entry, LogId, Manifest, PartitionId, ViewDigest};
use std::future::Future;

/// Why entries could not be read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ReadProblem {
    /// The entries asked for are not here any more, or never were: a snapshot covers them.
    #[error("partition {partition} starts at index {oldest} here, not at {wanted}")]
    Forgotten {
        /// Of which partition.
        partition: PartitionId,
        /// The index asked for.
        wanted: u64,
        /// The oldest index here.
        oldest: u64,
    },
    /// The node is stopping, or the connection to it broke.
    #[error("the log cannot be read: {0}")]
    Closed(String),
    /// What was read contradicts its chain or checksum.
    #[error("the log is damaged: {0}")]
    Damaged(String),
}

/// What a snapshot says of itself. Its content is a file of rows, cut and stored as chunks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotManifest {
    /// The partition.
    pub partition: PartitionId,
    /// The last entry it covers.
    pub log_id: LogId,
    /// The chain hash at that entry.
    pub chain: ChainHash,
    /// The view's digest there.
    pub digest: ViewDigest,
    /// Raft's membership there, encoded by [`crate::partition`]; opaque to everybody else.
    pub membership: bytes::Bytes,
    /// The encoded view.
    pub content: Manifest,
}

/// The committed and locally durable entries of a node's partitions.
pub trait Reader: Clone + Send + Sync + 'static {
    /// Entries from `from` on, at least one, in order without gaps, about `bytes` long at most.
    /// Waits until there is one.
    fn read(
        &self,
        partition: PartitionId,
        from: u64,
        bytes: usize,
    ) -> impl Future<Output = Result<Vec<Entry>, ReadProblem>> + Send;
    /// The newest snapshot of a partition.
    fn newest_snapshot(
        &self,
        partition: PartitionId,
    ) -> impl Future<Output = Result<Option<SnapshotManifest>, ReadProblem>> + Send;
}

/// Makes and takes snapshots of views: defined here, implemented by the materializer, so that the
/// log never learns what a view is.
pub trait SnapshotSource: Send + Sync + 'static {
    /// The newest snapshot that was made or installed, if any. Its chunks are in the store.
    fn newest(&self, partition: PartitionId) -> Option<SnapshotManifest>;
    /// Replaces the view of a partition; returns once it is durable enough to survive a restart.
    fn install(
        &self,
        snapshot: SnapshotManifest,
    ) -> std::pin::Pin<Box<dyn Future<Output = Result<(), ReadProblem>> + Send>>;
}
