//! [adapter] The simulated index: ordered rows that may be older after a crash, never torn.
//!
//! Each commit keeps what undoes it until the commit is durable. A crash takes back a random
//! number of the newest commits: of those not written out if only the process died, of those not
//! durable (a flush does not wait for the device) if the power went.

use super::random::Random;
use super::world::Crash;
use aber_log::env::kv::{Kv, KvBatch, KvProblem};
use aber_log::life::Life;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Commits that may be taken back, at most; older ones are durable.
const UNDO_MAX: usize = 4096;

/// One node's index as its disk holds it.
#[derive(Debug, Default)]
pub struct Index {
    rows: BTreeMap<Bytes, Bytes>,
    undo: Vec<KvBatch>,
    written_out: usize,
    is_damaged: bool,
    generation: u64,
    commit_count: u64,
}

impl Index {
    /// Damages it: it does not open until it is discarded.
    pub fn damage(&mut self) {
        self.is_damaged = true;
        self.generation += 1;
    }

    /// Replaces it by an empty one.
    pub fn discard(&mut self) {
        *self = Self {
            generation: self.generation + 1,
            ..Self::default()
        };
    }

    /// Commits since it was made.
    #[must_use]
    pub fn commit_count(&self) -> u64 {
        self.commit_count
    }

    fn commit(&mut self, batch: KvBatch) {
        let mut undo = KvBatch::default();
        for (key, value) in batch.rows {
            let before = match value {
                Some(value) => self.rows.insert(key.clone(), value),
                None => self.rows.remove(&key),
            };
            undo.rows.insert(key, before);
        }
        self.undo.push(undo);
        self.commit_count += 1;
        if self.undo.len() > UNDO_MAX {
            self.make_durable(UNDO_MAX / 2);
        }
    }

    fn make_durable(&mut self, commits: usize) {
        let commits = commits.min(self.undo.len());
        self.undo.drain(..commits);
        self.written_out = self.written_out.saturating_sub(commits);
    }

    /// A crash: takes back some of the newest commits.
    pub fn crash(&mut self, crash: Crash, random: &mut Random) {
        let floor = match crash {
            Crash::Process => self.written_out,
            Crash::Power => 0,
        };
        let kept = floor + random.index(self.undo.len().saturating_sub(floor) + 1);
        while self.undo.len() > kept {
            for (key, value) in self.undo.pop().unwrap_or_default().rows {
                match value {
                    Some(value) => self.rows.insert(key, value),
                    None => self.rows.remove(&key),
                };
            }
        }
        self.make_durable(kept);
        self.generation += 1;
    }
}

/// An open index. Dead once its node's boot is, or the index was discarded.
#[derive(Clone)]
pub struct SimKv {
    life: Arc<Life>,
    index: Arc<Mutex<Index>>,
    generation: u64,
}

impl SimKv {
    /// Opens a node's index.
    ///
    /// # Errors
    /// [`KvProblem`] if it is damaged.
    pub fn open(life: &Arc<Life>, index: &Arc<Mutex<Index>>) -> Result<Self, KvProblem> {
        let inner = index.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.is_damaged {
            return Err(KvProblem {
                what: "a page has a bad checksum".to_owned(),
            });
        }
        Ok(Self {
            life: Arc::clone(life),
            index: Arc::clone(index),
            generation: inner.generation,
        })
    }

    fn enter(&self) -> Result<MutexGuard<'_, Index>, KvProblem> {
        let index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        let what = if self.life.is_dead() {
            "the node is dead"
        } else if index.is_damaged {
            "a page has a bad checksum"
        } else if index.generation != self.generation {
            "the index was moved aside"
        } else {
            return Ok(index);
        };
        Err(KvProblem {
            what: what.to_owned(),
        })
    }
}

impl Kv for SimKv {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, KvProblem> {
        Ok(self.enter()?.rows.get(key).cloned())
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, KvProblem> {
        let index = self.enter()?;
        if from >= to {
            return Ok(Vec::new());
        }
        let range = (Bound::Included(from), Bound::Excluded(to));
        let rows = index.rows.range::<[u8], _>(range).take(limit);
        Ok(rows
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect())
    }

    fn commit(&self, batch: KvBatch) -> Result<(), KvProblem> {
        self.enter()?.commit(batch);
        Ok(())
    }

    async fn flush(&self) -> Result<(), KvProblem> {
        let mut index = self.enter()?;
        // What the flush before this one wrote out has reached the device by now.
        let earlier = index.written_out;
        index.make_durable(earlier);
        index.written_out = index.undo.len();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str, value: &str) -> KvBatch {
        let mut batch = KvBatch::default();
        batch.put(key.to_owned(), value.to_owned());
        batch
    }

    fn text(index: &Index) -> String {
        let row = |(key, value): (&Bytes, &Bytes)| format!("{key:?}={value:?} ");
        index.rows.iter().map(row).collect()
    }

    #[test]
    fn a_crash_falls_back_to_a_state_between_commits() {
        let mut states = Vec::new();
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..40 {
            let mut index = Index::default();
            states.clear();
            for number in 0..6 {
                states.push(text(&index));
                let mut batch = put("position", &number.to_string());
                batch.rows.extend(put("row", &format!("r{number}")).rows);
                index.commit(batch);
            }
            states.push(text(&index));
            index.crash(Crash::Power, &mut Random::new(seed));
            let after = text(&index);
            seen.insert(states.iter().position(|state| *state == after).unwrap());
        }
        assert!(seen.len() > 4, "all depths are reached: {seen:?}");
    }

    #[tokio::test]
    async fn a_flush_holds_against_a_killed_process() {
        let life = Life::new(tokio::time::Instant::now(), 0, 1);
        let index = Arc::new(Mutex::new(Index::default()));
        let kv = SimKv::open(&life, &index).unwrap();
        kv.commit(put("a", "1")).unwrap();
        kv.flush().await.unwrap();
        kv.commit(put("a", "2")).unwrap();
        for seed in 0..8 {
            let mut inner = index.lock().unwrap();
            inner.crash(Crash::Process, &mut Random::new(seed));
            assert!(inner.rows.contains_key(&b"a"[..]));
        }
        assert!(kv.get(b"a").is_err(), "a handle from before the crash");
    }

    #[test]
    fn a_damaged_index_opens_again_once_discarded() {
        let life = Life::new(tokio::time::Instant::now(), 0, 1);
        let index = Arc::new(Mutex::new(Index::default()));
        let kv = SimKv::open(&life, &index).unwrap();
        kv.commit(put("a", "1")).unwrap();
        index.lock().unwrap().damage();
        assert!(SimKv::open(&life, &index).is_err());
        assert!(kv.get(b"a").is_err());
        index.lock().unwrap().discard();
        let kv = SimKv::open(&life, &index).unwrap();
        assert_eq!(kv.get(b"a").unwrap(), None);
        assert_eq!(kv.scan(b"a", b"b", 10).unwrap(), Vec::new());
    }
}
