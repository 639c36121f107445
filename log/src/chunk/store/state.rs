//! [pure] What the store knows beside the index: its packs, the rows not yet in the index, and how
//! far syncing came.

use crate::chunk::ChunkProblem;
use crate::chunk::pack::Location;
use crate::chunk::store::DamagedRegion;
use aber_proto::{ChunkHash, Instant};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A row that the index does not have yet; no location means that the row is to go.
pub(in crate::chunk) struct Row {
    pub(in crate::chunk) location: Option<Location>,
    /// The count of changes when it was set.
    pub(super) number: u64,
}

/// A pack on the disk.
pub(in crate::chunk) struct Pack<F> {
    /// Where the next frame goes; the seal is not counted.
    pub(in crate::chunk) length: u64,
    /// Everything before is durable.
    pub(super) synced: u64,
    /// Nothing is appended any more.
    pub(in crate::chunk) is_closed: bool,
    /// Closed, durable, and said so in the file or the index.
    pub(in crate::chunk) is_sealed: bool,
    /// When it was closed, if in this boot.
    pub(in crate::chunk) closed_at: Option<Instant>,
    /// Open for writing while not sealed.
    pub(super) writer: Option<Arc<F>>,
}

impl<F> Pack<F> {
    /// A pack that takes no more and is durable.
    pub(super) fn sealed(length: u64) -> Self {
        Self {
            length,
            synced: length,
            is_closed: true,
            is_sealed: true,
            closed_at: None,
            writer: None,
        }
    }
}

/// Everything behind the store's lock.
pub(in crate::chunk) struct State<F> {
    pub(in crate::chunk) packs: BTreeMap<u32, Pack<F>>,
    pub(in crate::chunk) rows: BTreeMap<ChunkHash, Row>,
    pub(in crate::chunk) damaged: Vec<DamagedRegion>,
    /// Never used before.
    pub(super) next_pack: u32,
    /// Open for reading.
    pub(super) handles: BTreeMap<u32, Arc<F>>,
    /// Packs whose row of the index is not what it should be.
    pub(super) stale: BTreeSet<u32>,
    /// Counts changes; those up to `durable` are, up to `wanted` somebody waits for it.
    pub(super) number: u64,
    pub(super) wanted: u64,
    pub(super) durable: u64,
    pub(super) is_flushing: bool,
    /// The names of all packs below this number are durable.
    pub(super) named_upto: u32,
    pub(super) unsynced_bytes: u64,
    pub(super) unchecked_bytes: u64,
    pub(super) poison: Option<String>,
    pub(super) index_problem: Option<String>,
}

impl<F> State<F> {
    /// Nothing yet. One change is counted, so that the first sync is a real one: what was
    /// recovered may be in the page cache alone.
    pub(super) fn new() -> Self {
        Self {
            packs: BTreeMap::new(),
            rows: BTreeMap::new(),
            damaged: Vec::new(),
            next_pack: 1,
            handles: BTreeMap::new(),
            stale: BTreeSet::new(),
            number: 1,
            wanted: 0,
            durable: 0,
            is_flushing: false,
            named_upto: 0,
            unsynced_bytes: 0,
            unchecked_bytes: u64::MAX,
            poison: None,
            index_problem: None,
        }
    }

    /// Where a chunk is from now on.
    pub(in crate::chunk) fn set_row(&mut self, hash: ChunkHash, location: Option<Location>) {
        self.number += 1;
        let number = self.number;
        self.rows.insert(hash, Row { location, number });
    }

    /// The pack that takes frames.
    pub(super) fn open_pack(&self) -> Option<u32> {
        let (number, pack) = self.packs.last_key_value()?;
        (!pack.is_closed).then_some(*number)
    }

    /// Whether the chunk's place differs from `expected`, as far as the overlay knows.
    pub(in crate::chunk) fn was_moved(&self, hash: &ChunkHash, expected: Option<Location>) -> bool {
        match (self.rows.get(hash).map(|row| row.location), expected) {
            (None, _) | (Some(None), None) => false,
            (Some(found), expected) => found != expected,
        }
    }

    /// The first failure was the last thing that happened (promise D4).
    pub(super) fn check_poison(&self) -> Result<(), ChunkProblem> {
        match self.poison.as_ref().or(self.index_problem.as_ref()) {
            Some(why) => Err(ChunkProblem::Storage(why.clone())),
            None => Ok(()),
        }
    }

    /// A pack that leaves the disk: its row of the index goes with the next batch.
    pub(in crate::chunk) fn forget_pack(&mut self, pack: u32) {
        self.packs.remove(&pack);
        self.handles.remove(&pack);
        self.stale.insert(pack);
        self.number += 1;
    }
}
