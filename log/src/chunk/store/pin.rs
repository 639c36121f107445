//! Guards that keep chunks from the sweep.

use aber_proto::ChunkHash;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Keeps chunks from the sweep until it is dropped.
pub struct ChunkPin {
    pins: Arc<Mutex<BTreeMap<ChunkHash, u64>>>,
    hashes: Vec<ChunkHash>,
}

impl ChunkPin {
    pub(super) fn new(pins: Arc<Mutex<BTreeMap<ChunkHash, u64>>>) -> Self {
        let hashes = Vec::new();
        Self { pins, hashes }
    }

    /// One more.
    pub fn add(&mut self, hash: ChunkHash) {
        let mut pins = self.pins.lock().unwrap_or_else(PoisonError::into_inner);
        *pins.entry(hash).or_insert(0) += 1;
        self.hashes.push(hash);
    }
}

impl Drop for ChunkPin {
    fn drop(&mut self) {
        let mut pins = self.pins.lock().unwrap_or_else(PoisonError::into_inner);
        for hash in &self.hashes {
            let count = pins.get_mut(hash).map(|count| {
                *count = count.saturating_sub(1);
                *count
            });
            if count == Some(0) {
                pins.remove(hash);
            }
        }
    }
}
