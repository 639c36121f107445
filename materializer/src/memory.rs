//! [adapter] An index in memory: for folding what is looked at once.

use aber_log::env::Kv;
use aber_log::env::kv::{KvBatch, KvProblem};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Rows in memory. All clones are the same index.
#[derive(Clone, Default, Debug)]
pub struct MemoryKv(Arc<Mutex<BTreeMap<Bytes, Bytes>>>);

impl MemoryKv {
    fn rows(&self) -> MutexGuard<'_, BTreeMap<Bytes, Bytes>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kv for MemoryKv {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, KvProblem> {
        Ok(self.rows().get(key).cloned())
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, KvProblem> {
        if from >= to {
            return Ok(Vec::new());
        }
        let range = Bytes::copy_from_slice(from)..Bytes::copy_from_slice(to);
        let rows = self.rows();
        let found = rows.range(range).take(limit);
        Ok(found
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect())
    }

    fn commit(&self, batch: KvBatch) -> Result<(), KvProblem> {
        let mut rows = self.rows();
        for (key, value) in batch.rows {
            match value {
                Some(value) => rows.insert(key, value),
                None => rows.remove(&key),
            };
        }
        Ok(())
    }

    async fn flush(&self) -> Result<(), KvProblem> {
        Ok(())
    }
}
