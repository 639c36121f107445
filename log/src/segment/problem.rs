//! What can go wrong with the log.

use aber_proto::{ClusterId, NodeId, PartitionId};
use std::io;

/// Why the log refused or failed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SegmentProblem {
    /// Something that was durable is not what was written. Nothing was cut.
    #[error("the log is damaged: segment {segment} at byte {offset}: {what}")]
    Damaged {
        /// The segment's number.
        segment: u32,
        /// Where in it.
        offset: u64,
        /// What does not fit.
        what: String,
    },
    /// The directory belongs to another cluster or node.
    #[error("segment {segment} belongs to node {node} of cluster {cluster}")]
    OtherCluster {
        /// The segment's number.
        segment: u32,
        /// Its cluster.
        cluster: ClusterId,
        /// Its node.
        node: NodeId,
    },
    /// A later program wrote it.
    #[error("segment {segment} has format {format}, which this program does not know")]
    NewerFormat {
        /// The segment's number.
        segment: u32,
        /// Its format.
        format: u32,
    },
    /// A call on the disk failed.
    #[error("cannot {what} {path}: {why}")]
    Disk {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: String,
        /// The kind of failure.
        kind: io::ErrorKind,
        /// What the disk said.
        why: String,
    },
    /// A write or sync failed before; the node is stopping.
    #[error("the log stopped after a failure: {why}")]
    Poisoned {
        /// The first failure.
        why: String,
    },
    /// The log was closed.
    #[error("the log is closed")]
    Closed,
    /// The call contradicts what the log holds.
    #[error("partition {partition}, index {index}: {what}")]
    Contradiction {
        /// The partition.
        partition: PartitionId,
        /// The index, where one is meant.
        index: u64,
        /// What does not fit.
        what: &'static str,
    },
    /// A record, or a note's key, is too long.
    #[error("{size_bytes} bytes; at most {limit_bytes} fit")]
    TooLong {
        /// Bytes found.
        size_bytes: usize,
        /// Bytes allowed.
        limit_bytes: usize,
    },
    /// The live notes take too much room.
    #[error("the live notes would take {size_bytes} bytes; at most {limit_bytes} fit")]
    NotesFull {
        /// Bytes found.
        size_bytes: usize,
        /// Bytes allowed.
        limit_bytes: usize,
    },
    /// The options make no sense.
    #[error("bad log options: {what}")]
    Options {
        /// What is wrong.
        what: &'static str,
    },
}

impl SegmentProblem {
    /// Whether the disk has no room.
    pub(super) fn is_full(&self) -> bool {
        matches!(
            self,
            Self::Disk {
                kind: io::ErrorKind::StorageFull,
                ..
            }
        )
    }
}
