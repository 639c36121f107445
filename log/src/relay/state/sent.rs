//! [pure] Chunks that are sent, and what becomes of them.

use super::super::parcel::ParcelId;
use aber_proto::{ChunkRef, NodeId};

/// Chunks to be sent in one message: one, or several that are small together.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Push {
    /// To whom.
    pub to: NodeId,
    /// Of which parcel.
    pub parcel: ParcelId,
    /// Their numbers there, ascending, and the chunks.
    pub chunks: Vec<(usize, ChunkRef)>,
    /// Whether its parcel is a body, or so small, that it goes before content.
    pub is_small: bool,
}

impl Push {
    /// All of them together.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let lengths = self.chunks.iter();
        lengths.map(|(_, chunk)| u64::from(chunk.length)).sum()
    }
}

/// What became of a chunk that was sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Taken {
    /// It is there, and was not before.
    Stored,
    /// It was there.
    Had,
    /// It is not what its hash says.
    Bad,
    /// The receiver does not know the parcel.
    Unknown,
    /// Nothing is known.
    Failed,
}
