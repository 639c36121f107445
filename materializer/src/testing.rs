//! [adapter] An index in memory, for tests.

use aber_log::env::Kv;
use aber_log::env::kv::{KvBatch, KvProblem};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Rows, and how many calls may still succeed.
#[derive(Default, Debug)]
struct State {
    rows: BTreeMap<Bytes, Bytes>,
    calls_left: Option<u64>,
    commits: u64,
}

/// An index in memory.
#[derive(Clone, Default, Debug)]
pub(crate) struct MemKv(Arc<Mutex<State>>);

impl MemKv {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn call(&self) -> Result<MutexGuard<'_, State>, KvProblem> {
        let mut state = self.lock();
        match &mut state.calls_left {
            Some(0) => {
                return Err(KvProblem {
                    what: "told to fail".to_owned(),
                });
            }
            Some(left) => *left -= 1,
            None => {}
        }
        Ok(state)
    }

    /// Lets this many calls succeed, then none; `None` mends it.
    pub(crate) fn fail_after(&self, calls: Option<u64>) {
        self.lock().calls_left = calls;
    }

    /// All rows.
    pub(crate) fn rows(&self) -> BTreeMap<Bytes, Bytes> {
        self.lock().rows.clone()
    }

    /// Commits so far.
    pub(crate) fn commits(&self) -> u64 {
        self.lock().commits
    }

    /// An index with the same rows, of its own.
    pub(crate) fn fork(&self) -> Self {
        Self(Arc::new(Mutex::new(State {
            rows: self.rows(),
            ..State::default()
        })))
    }
}

impl Kv for MemKv {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, KvProblem> {
        Ok(self.call()?.rows.get(key).cloned())
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, KvProblem> {
        let state = self.call()?;
        if from >= to {
            return Ok(Vec::new());
        }
        let from = Bytes::copy_from_slice(from);
        let to = Bytes::copy_from_slice(to);
        Ok(state
            .rows
            .range(from..to)
            .take(limit)
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect())
    }

    fn commit(&self, batch: KvBatch) -> Result<(), KvProblem> {
        let mut state = self.call()?;
        state.commits += 1;
        for (key, value) in batch.rows {
            match value {
                Some(value) => state.rows.insert(key, value),
                None => state.rows.remove(&key),
            };
        }
        Ok(())
    }

    async fn flush(&self) -> Result<(), KvProblem> {
        self.call().map(|_| ())
    }
}
