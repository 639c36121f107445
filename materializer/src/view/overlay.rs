//! [pure] Changes over the index that are not committed yet.
//!
//! Holds what a batch wrote, what it read, and how to take back what the present change wrote. A
//! read of the index that fails fails the whole batch: nothing of it was committed.

use super::table::{Row, damaged};
use aber_log::env::Kv;
use aber_log::env::kv::KvProblem;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::Bound;

pub(crate) struct Overlay<K> {
    kv: K,
    /// What the batch wrote.
    rows: BTreeMap<Bytes, Option<Bytes>>,
    /// What the index said about keys that were asked for.
    base: BTreeMap<Bytes, Option<Bytes>>,
    /// What `rows` said before each write of the present change.
    undo: Vec<(Bytes, Option<Option<Bytes>>)>,
}

impl<K: Kv> Overlay<K> {
    pub(crate) fn new(kv: K) -> Self {
        Self {
            kv,
            rows: BTreeMap::new(),
            base: BTreeMap::new(),
            undo: Vec::new(),
        }
    }

    pub(crate) fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, KvProblem> {
        match self.rows.get(key) {
            Some(value) => Ok(value.clone()),
            None => self.get_base(key),
        }
    }

    /// What the index holds, without the batch.
    pub(crate) fn get_base(&mut self, key: &[u8]) -> Result<Option<Bytes>, KvProblem> {
        if let Some(value) = self.base.get(key) {
            return Ok(value.clone());
        }
        let value = self.kv.get(key)?;
        self.base.insert(Bytes::copy_from_slice(key), value.clone());
        Ok(value)
    }

    /// Reads a row; damage in it is a failure of the index.
    pub(crate) fn row<R: Row>(&mut self, key: &[u8]) -> Result<Option<R>, KvProblem> {
        self.get(key)?
            .map(|value| R::decode(key, &value).map_err(|_| damaged(key)))
            .transpose()
    }

    pub(crate) fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.set(key.into(), Some(value.into()));
    }

    /// Puts a row whose key cannot have been used before: spares reading it.
    pub(crate) fn put_new(&mut self, key: Vec<u8>, value: Vec<u8>) {
        let key = Bytes::from(key);
        self.base.entry(key.clone()).or_insert(None);
        self.set(key, Some(value.into()));
    }

    pub(crate) fn remove(&mut self, key: Vec<u8>) {
        self.set(key.into(), None);
    }

    fn set(&mut self, key: Bytes, value: Option<Bytes>) {
        let before = self.rows.insert(key.clone(), value);
        self.undo.push((key, before));
    }

    /// What the keys that the present change wrote said before it, of those that `wanted` names.
    pub(crate) fn before(
        &mut self,
        wanted: fn(&[u8]) -> bool,
    ) -> Result<BTreeMap<Bytes, Option<Bytes>>, KvProblem> {
        let written = self.undo.iter().filter(|(key, _)| wanted(key));
        // The first write of a key replaced what was there before the change.
        let mut first = BTreeMap::new();
        for (key, before) in written {
            first.entry(key.clone()).or_insert_with(|| before.clone());
        }
        let mut found = BTreeMap::new();
        for (key, before) in first {
            let before = match before {
                Some(value) => value,
                None => self.get_base(&key)?,
            };
            found.insert(key, before);
        }
        Ok(found)
    }

    /// The present change stays.
    pub(crate) fn keep(&mut self) {
        self.undo.clear();
    }

    /// Takes back all since the last [`Overlay::keep`].
    pub(crate) fn roll_back(&mut self) {
        while let Some((key, before)) = self.undo.pop() {
            match before {
                Some(value) => self.rows.insert(key, value),
                None => self.rows.remove(&key),
            };
        }
    }

    /// Rows with `from <= key < to` as the batch left them, in order, at most `limit`.
    pub(crate) fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, KvProblem> {
        let mut found = Vec::new();
        let mut start = from.to_vec();
        while found.len() < limit && start.as_slice() < to {
            let page = self.kv.scan(&start, to, limit)?;
            let next = (page.len() >= limit)
                .then(|| page.last())
                .flatten()
                .map(|(key, _)| [key, [0].as_slice()].concat());
            let end = next.clone().unwrap_or_else(|| to.to_vec());
            let mut merged: BTreeMap<Bytes, Bytes> = page.into_iter().collect();
            let bounds = (
                Bound::Included(start.as_slice()),
                Bound::Excluded(end.as_slice()),
            );
            for (key, value) in self.rows.range::<[u8], _>(bounds) {
                match value {
                    Some(value) => merged.insert(key.clone(), value.clone()),
                    None => merged.remove(key),
                };
            }
            found.extend(merged.into_iter().take(limit - found.len()));
            start = end;
        }
        Ok(found)
    }

    /// Everything that was written, in order, and what the index held before where that was read.
    pub(crate) fn into_rows(
        self,
    ) -> (
        BTreeMap<Bytes, Option<Bytes>>,
        BTreeMap<Bytes, Option<Bytes>>,
    ) {
        (self.rows, self.base)
    }
}
