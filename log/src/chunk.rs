//! Chunks: content-defined pieces of files, named by their BLAKE3.

pub mod cut;
pub mod frame;
pub mod pack;
pub mod scrub;
pub mod store;
pub mod sweep;
#[cfg(test)]
pub(crate) mod testing;

pub use store::{ChunkPin, PackStore, StoreOptions};

use aber_proto::{ChunkHash, ChunkRef};
use bytes::Bytes;
use std::future::Future;

/// Why a chunk could not be had.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ChunkProblem {
    /// Not here, and nobody who has it can be reached now.
    #[error("chunk {hash} is not here")]
    Missing {
        /// Which.
        hash: ChunkHash,
    },
    /// The bytes here were damaged; they were set aside and are fetched again.
    #[error("chunk {hash} is damaged here")]
    Damaged {
        /// Which.
        hash: ChunkHash,
    },
    /// The disk is below its reserve (promise B3).
    #[error("no space: {free_bytes} bytes free, {reserve_bytes} are the reserve")]
    NoSpace {
        /// Free now.
        free_bytes: u64,
        /// Kept for the log.
        reserve_bytes: u64,
    },
    /// The disk failed.
    #[error("the chunk store failed: {0}")]
    Storage(String),
}

/// Reading content: the node's own store behind a fetcher, or a gRPC client. What it answers is
/// verified: right hash, right length (promise I1).
pub trait ChunkStore: Clone + Send + Sync + 'static {
    /// The raw bytes of a chunk; fetched from another node if it is not here. Waits for a bounded
    /// time.
    fn get(&self, chunk: ChunkRef) -> impl Future<Output = Result<Bytes, ChunkProblem>> + Send;
}
