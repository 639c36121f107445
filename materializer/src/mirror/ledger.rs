//! [driver] The rows of `written` with a batch's changes laid over the index.
//!
//! A batch changes rows as it changes the disk, so that a path is always asked of the state the
//! disk has now; one commit writes them, with the positions, after the effects are durable
//! (promise M2). What is not committed is thrown away by [`Ledger::abandon`]; a scan finds out.

use super::written::{self, Child, Table};
use crate::plan::{PARK, Row};
use crate::tree::ROOT;
use aber_log::env::Kv;
use aber_log::env::kv::{KvBatch, KvProblem, prefix_end};
use aber_proto::{FileId, PartitionId, limit};
use bytes::Bytes;
use std::collections::BTreeMap;

/// Where displaced things lie, below the mirror's root.
pub(super) const SWAP: &str = ".aber/staging/swap";

pub(super) struct Ledger<K> {
    kv: K,
    folder: u8,
    rows: BTreeMap<FileId, Option<Row>>,
    names: BTreeMap<(FileId, String), Option<Child>>,
    extra: KvBatch,
}

/// A page of a directory's names.
pub(super) struct Page {
    pub(super) children: Vec<(String, Child)>,
    /// Where the next page starts; `None` after the last.
    pub(super) next: Option<String>,
}

impl<K: Kv> Ledger<K> {
    pub(super) fn new(kv: K, folder: u8) -> Self {
        Self {
            kv,
            folder,
            rows: BTreeMap::new(),
            names: BTreeMap::new(),
            extra: KvBatch::default(),
        }
    }

    pub(super) fn get(&self, id: FileId) -> Result<Option<Row>, KvProblem> {
        if let Some(row) = self.rows.get(&id) {
            return Ok(row.clone());
        }
        let row = self
            .kv
            .get(&written::id_key(self.folder, Table::Files, id))?;
        Ok(row.and_then(written::decode_row))
    }

    pub(super) fn child(&self, directory: FileId, name: &str) -> Result<Option<Child>, KvProblem> {
        if let Some(child) = self.names.get(&(directory, name.to_owned())) {
            return Ok(*child);
        }
        let row = self
            .kv
            .get(&written::name_key(self.folder, directory, name))?;
        Ok(row.and_then(written::decode_child))
    }

    /// Children in order of their names, after one, about `limit`.
    pub(super) fn children(
        &self,
        directory: FileId,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Page, KvProblem> {
        let first = after.map_or(String::new(), |name| format!("{name}\0"));
        let all = written::id_key(self.folder, Table::Names, directory);
        let from = written::name_key(self.folder, directory, &first);
        let rows = self.kv.scan(&from, &prefix_end(&all), limit)?;
        let last = (rows.len() >= limit)
            .then(|| rows.last().and_then(|(key, _)| written::name_of(key)))
            .flatten();
        let mut merged: BTreeMap<String, Child> = rows
            .into_iter()
            .filter_map(|(key, row)| Some((written::name_of(&key)?, written::decode_child(row)?)))
            .collect();
        for ((of, name), child) in self.names.range((directory, first)..) {
            if *of != directory || last.as_ref().is_some_and(|last| name > last) {
                break;
            }
            match child {
                Some(child) => merged.insert(name.clone(), *child),
                None => merged.remove(name),
            };
        }
        let children = merged.into_iter().collect();
        Ok(Page {
            children,
            next: last,
        })
    }

    /// The path of what was written, by its rows; `None` if a link of the chain is missing.
    pub(super) fn path(&self, id: FileId) -> Result<Option<String>, KvProblem> {
        let mut names = Vec::new();
        let mut at = id;
        while at != ROOT && at != PARK {
            let Some(row) = self.get(at)? else {
                return Ok(None);
            };
            if names.len() > 2 * limit::PATH_DEPTH {
                return Ok(None);
            }
            names.push(row.name);
            at = row.parent;
        }
        if at == PARK {
            names.push(SWAP.to_owned());
        }
        names.reverse();
        Ok(Some(names.join("/")))
    }

    /// The directories from a written thing up, itself first; empty if the chain is broken.
    pub(super) fn ancestors(&self, id: FileId) -> Result<Vec<FileId>, KvProblem> {
        let mut chain = Vec::new();
        let mut at = id;
        while at != ROOT && at != PARK && chain.len() <= 2 * limit::PATH_DEPTH {
            chain.push(at);
            let Some(row) = self.get(at)? else {
                return Ok(Vec::new());
            };
            at = row.parent;
        }
        Ok(chain)
    }

    pub(super) fn set(&mut self, id: FileId, row: Row) -> Result<(), KvProblem> {
        self.free_name(id)?;
        let kind = row.kind;
        let name = (row.parent, row.name.clone());
        self.names.insert(name, Some(Child { id, kind }));
        self.rows.insert(id, Some(row));
        Ok(())
    }

    pub(super) fn forget(&mut self, id: FileId) -> Result<(), KvProblem> {
        self.free_name(id)?;
        self.rows.insert(id, None);
        Ok(())
    }

    fn free_name(&mut self, id: FileId) -> Result<(), KvProblem> {
        if let Some(old) = self.get(id)?
            && self
                .child(old.parent, &old.name)?
                .is_some_and(|child| child.id == id)
        {
            self.names.insert((old.parent, old.name), None);
        }
        Ok(())
    }

    pub(super) fn set_held(&mut self, id: FileId, text: Option<&str>) {
        let key = written::id_key(self.folder, Table::Held, id);
        let text = text.map(|text| Bytes::copy_from_slice(text.as_bytes()));
        self.extra.rows.insert(key.into(), text);
    }

    pub(super) fn set_link(&mut self, id: FileId, is_link: bool) {
        let key = written::id_key(self.folder, Table::Links, id);
        let row = is_link.then(Bytes::new);
        self.extra.rows.insert(key.into(), row);
    }

    pub(super) fn set_position(&mut self, partition: PartitionId, index: u64) {
        let key = written::position_key(self.folder, partition);
        self.extra.put(key, index.to_le_bytes().to_vec());
    }

    pub(super) fn set_marker(&mut self, text: &str) {
        let key = written::prefix(self.folder, Table::Marker);
        self.extra.put(key, text.as_bytes().to_vec());
    }

    pub(super) fn marker(&self) -> Result<Option<String>, KvProblem> {
        let row = self.kv.get(&written::prefix(self.folder, Table::Marker))?;
        Ok(row.map(|text| String::from_utf8_lossy(&text).into_owned()))
    }

    /// Ids of a table after one, those of this batch not seen.
    pub(super) fn ids(
        &self,
        table: Table,
        after: Option<FileId>,
        limit: usize,
    ) -> Result<Vec<(FileId, Bytes)>, KvProblem> {
        let all = written::prefix(self.folder, table);
        let from = after.map_or_else(
            || all.clone(),
            |id| {
                let mut key = written::id_key(self.folder, table, id);
                key.push(0);
                key
            },
        );
        let rows = self.kv.scan(&from, &prefix_end(&all), limit)?;
        let ids = rows
            .into_iter()
            .filter_map(|(key, row)| Some((written::id_of(&key)?, row)));
        Ok(ids.collect())
    }

    pub(super) fn positions(&self) -> Result<BTreeMap<PartitionId, u64>, KvProblem> {
        let all = written::prefix(self.folder, Table::Positions);
        let rows = self.kv.scan(&all, &prefix_end(&all), limit::PARTITIONS)?;
        let positions = rows.into_iter().filter_map(|(key, row)| {
            let index = u64::from_le_bytes(row.as_ref().try_into().ok()?);
            Some((written::partition_of(&key)?, index))
        });
        Ok(positions.collect())
    }

    /// Removes all rows of this folder: they belong to another epoch (rule FO-3).
    pub(super) fn wipe(&mut self) -> Result<(), KvProblem> {
        self.abandon();
        let all = [b'W', self.folder];
        loop {
            let rows = self.kv.scan(&all, &prefix_end(&all), 1024)?;
            if rows.is_empty() {
                return Ok(());
            }
            let mut batch = KvBatch::default();
            for (key, _) in rows {
                batch.remove(key);
            }
            self.kv.commit(batch)?;
        }
    }

    /// Throws away what is not committed.
    pub(super) fn abandon(&mut self) {
        self.rows.clear();
        self.names.clear();
        self.extra.rows.clear();
    }

    pub(super) fn commit(&mut self) -> Result<(), KvProblem> {
        let mut batch = std::mem::take(&mut self.extra);
        for ((directory, name), child) in std::mem::take(&mut self.names) {
            let key = written::name_key(self.folder, directory, &name);
            batch
                .rows
                .insert(key.into(), child.map(written::encode_child));
        }
        for (id, row) in std::mem::take(&mut self.rows) {
            let key = written::id_key(self.folder, Table::Files, id);
            batch
                .rows
                .insert(key.into(), row.as_ref().map(written::encode_row));
        }
        if batch.rows.is_empty() {
            return Ok(());
        }
        self.kv.commit(batch)
    }
}
