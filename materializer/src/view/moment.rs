//! [pure] The tree as it was: reading names and nodes at a moment of the past.
//!
//! Rows of now are read before those of the past: an entry that is applied in between has noted
//! what it replaced, so what was read stays right (see `past.rs`).

use super::namespace::volume_root;
use super::past::{self, Happened, PastName, PastTable, StartRow};
use super::read::{TreeView, Volume, is_forgotten};
use super::table::{self, InodeRow, NameRow, Row};
use crate::tree::{Node, NodeKind, ROOT, Tree};
use aber_log::env::Kv;
use aber_log::env::kv::{KvProblem, prefix_end};
use aber_proto::{FileId, PartitionId, PlanId, Timestamp, VolumeId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

/// Names read of a directory's past at once.
const PAGE: usize = 256;

/// A place in the history of the whole tree: the last entry of each partition that is seen. One
/// that is not named is seen as it was before its first entry.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Moment(pub BTreeMap<PartitionId, u64>);

/// Files that were left out of listings.
#[derive(Clone, Debug, Default)]
pub struct Forgiven(Arc<Mutex<BTreeSet<FileId>>>);

impl Forgiven {
    fn add(&self, id: FileId) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id);
    }

    /// All of them.
    #[must_use]
    pub fn files(&self) -> BTreeSet<FileId> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Moment {
    /// The last entry seen; 0 before the first.
    #[must_use]
    pub fn index(&self, partition: PartitionId) -> u64 {
        self.0.get(&partition).copied().unwrap_or(0)
    }
}

impl<K: Kv> TreeView<K> {
    /// The tree at a moment. One before [`TreeView::history_start`] gives what is known, which is
    /// not what was.
    #[must_use]
    pub fn at(&self, moment: Arc<Moment>) -> Self {
        Self {
            kv: self.kv.clone(),
            moment: Some(moment),
            forgiven: None,
        }
    }

    /// The same tree, whose directories are listed without the files whose content retention let go;
    /// and which these were, so far.
    #[must_use]
    pub fn forgiving(&self) -> (Self, Forgiven) {
        let forgiven = Forgiven::default();
        let tree = Self {
            forgiven: Some(forgiven.clone()),
            ..self.clone()
        };
        (tree, forgiven)
    }

    /// The moment it shows; `None`: now.
    #[must_use]
    pub fn moment(&self) -> Option<&Moment> {
        self.moment.as_deref()
    }

    /// The oldest entry of a partition after which its tree can be told; 0: from the beginning.
    ///
    /// # Errors
    /// The index failed.
    pub fn history_start(&self, partition: PartitionId) -> Result<u64, KvProblem> {
        let row: Option<StartRow> = self.row(&past::past_table(partition, PastTable::Start))?;
        Ok(row.map_or(0, |row| row.index))
    }

    /// What became of an entry; `None` if it is not applied, or older than what history tells.
    ///
    /// # Errors
    /// The index failed.
    pub fn happened(
        &self,
        partition: PartitionId,
        index: u64,
    ) -> Result<Option<Happened>, KvProblem> {
        self.row(&past::entry_key(partition, index))
    }

    /// The last entry of a partition with an order time at or before `time`; its history's start,
    /// if all are later. `None` if nothing is applied.
    ///
    /// # Errors
    /// The index failed.
    pub fn index_at(
        &self,
        partition: PartitionId,
        time: Timestamp,
    ) -> Result<Option<u64>, KvProblem> {
        let Some(applied) = self.applied(partition)? else {
            return Ok(None);
        };
        let start = self.history_start(partition)?;
        // Invariant: `low` is at or before the time, `high` is after it.
        let (mut low, mut high) = (start, applied.log_id.index + 1);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            let happened = self.happened(partition, middle)?;
            // An index without a row is below the first entry there is.
            if happened.is_none_or(|happened| happened.order_time <= time) {
                low = middle;
            } else {
                high = middle;
            }
        }
        Ok(Some(low))
    }

    /// The nodes that entries after `after` and up to `to` made, changed or took away, each with
    /// the entry, in order of the entries, at most `limit`; from the one after `last` on.
    ///
    /// # Errors
    /// The index failed.
    pub fn changed(
        &self,
        partition: PartitionId,
        (after, to): (u64, u64),
        last: Option<(u64, FileId)>,
        limit: usize,
    ) -> Result<Vec<(u64, FileId)>, KvProblem> {
        let from = match last {
            Some((index, id)) => [past::changed_key(index, id).as_slice(), &[0]].concat(),
            None => past::changed_prefix(partition, after.saturating_add(1)),
        };
        let end = past::changed_prefix(partition, to.saturating_add(1));
        let rows = self.kv.scan(&from, &end, limit)?;
        rows.iter()
            .map(|(key, _)| past::changed_of(partition, key).ok_or_else(|| table::damaged(key)))
            .collect()
    }

    /// The entries that changed a node after it was made, the oldest first: its content, name or
    /// attributes, its removal last.
    ///
    /// # Errors
    /// The index failed.
    pub fn changes_of(&self, id: FileId, after: u64) -> Result<Vec<u64>, KvProblem> {
        self.indexes(past::node_prefix(id), Some(after))
    }

    /// The applied changes of one action in a partition, the oldest first.
    ///
    /// # Errors
    /// The index failed.
    pub fn entries_of_plan(
        &self,
        partition: PartitionId,
        plan: PlanId,
    ) -> Result<Vec<u64>, KvProblem> {
        self.indexes(past::plan_prefix(partition, plan), None)
    }

    /// The indexes at the end of keys with this prefix, after one.
    fn indexes(&self, prefix: Vec<u8>, after: Option<u64>) -> Result<Vec<u64>, KvProblem> {
        let to = prefix_end(&prefix);
        let mut from = prefix;
        if let Some(after) = after {
            past::push_index(&mut from, after.saturating_add(1));
        }
        let mut found = Vec::new();
        loop {
            let page = self.kv.scan(&from, &to, PAGE)?;
            found.extend(page.iter().filter_map(|(key, _)| past::index_of(key)));
            match page.last() {
                Some((key, _)) if page.len() == PAGE => from = [key, [0].as_slice()].concat(),
                _ => return Ok(found),
            }
        }
    }

    /// The name that a volume which is gone had last; `None` if history does not tell it.
    ///
    /// # Errors
    /// The index failed.
    pub fn last_name(&self, volume: VolumeId) -> Result<Option<String>, KvProblem> {
        let file = volume_root(volume);
        let removed = self.changes_of(file, 0)?.pop();
        let Some(before) = removed.and_then(|index| index.checked_sub(1)) else {
            return Ok(None);
        };
        let then = self.at(Arc::new(Moment(BTreeMap::from([(file.partition, before)]))));
        Ok(then.inode(file)?.map(|row| row.node.name))
    }

    /// All nodes that ever had a name in a directory, the present one last. Only of what history
    /// tells.
    ///
    /// # Errors
    /// The index failed.
    pub fn holders_of_name(&self, directory: FileId, name: &str) -> Result<Vec<FileId>, KvProblem> {
        let Some(partition) = self.names_in(directory)? else {
            return Ok(Vec::new());
        };
        let present: Option<NameRow> = self.row(&table::name_key(partition, directory, name))?;
        let prefix = past::name_prefix(partition, directory, name);
        let (mut from, to) = (prefix.clone(), prefix_end(&prefix));
        let mut found: Vec<FileId> = Vec::new();
        loop {
            let page = self.kv.scan(&from, &to, PAGE)?;
            for (key, value) in &page {
                let row = PastName::decode(key, value).map_err(|_| table::damaged(key))?;
                if found.last() != Some(&row.row.id) {
                    found.push(row.row.id);
                }
            }
            match page.last() {
                Some((key, _)) if page.len() == PAGE => from = [key, [0].as_slice()].concat(),
                _ => break,
            }
        }
        if let Some(row) = present
            && found.last() != Some(&row.id)
        {
            found.push(row.id);
        }
        Ok(found)
    }

    /// A node as the moment saw it.
    pub(super) fn inode(&self, id: FileId) -> Result<Option<InodeRow>, KvProblem> {
        let Some((mut row, is_past)) = self.inode_without_content(id)? else {
            return Ok(None);
        };
        if is_past && past::is_file(&row) {
            let version = self.version(id, row.node.version)?;
            let index = self.moment().map_or(u64::MAX, |at| at.index(id.partition));
            let key = table::inode_key(id);
            let missing = || match self.passed(id.partition) {
                Ok(passed) if index < passed => table::forgotten(&key),
                Ok(_) => table::damaged(&key),
                Err(problem) => problem,
            };
            let version = version.ok_or_else(missing)?;
            row.node.kind = NodeKind::File(version.content);
        }
        Ok(Some(row))
    }

    /// A node as the moment saw it; whether that is past, and a file's content is with its version.
    pub(super) fn inode_without_content(
        &self,
        id: FileId,
    ) -> Result<Option<(InodeRow, bool)>, KvProblem> {
        let present: Option<InodeRow> = self.row(&table::inode_key(id))?;
        let present = present.map(|row| (row, false));
        let Some(moment) = &self.moment else {
            return Ok(present);
        };
        let index = moment.index(id.partition);
        if id.index > index {
            return Ok(None);
        }
        let from = past::node_key(id, index.saturating_add(1));
        let end = prefix_end(&past::node_prefix(id));
        let Some((key, value)) = self.kv.scan(&from, &end, 1)?.pop() else {
            return Ok(present);
        };
        if value.is_empty() {
            return Ok(None);
        }
        let row = InodeRow::read_without_content(id, &value);
        let row = row.map_err(|_| table::damaged(&key))?;
        Ok(Some((row, true)))
    }

    /// What a name pointed to at the moment.
    pub(super) fn name_then(
        &self,
        partition: PartitionId,
        directory: FileId,
        name: &str,
    ) -> Result<Option<NameRow>, KvProblem> {
        let present: Option<NameRow> = self.row(&table::name_key(partition, directory, name))?;
        let Some(moment) = &self.moment else {
            return Ok(present);
        };
        let present = match present {
            Some(row) => {
                let node: Option<InodeRow> = self.row(&table::inode_key(row.id))?;
                node.map(|node| (row, node.moved))
            }
            None => None,
        };
        let index = moment.index(partition);
        let from = past::name_key(partition, directory, name, index.saturating_add(1));
        let end = prefix_end(&past::name_prefix(partition, directory, name));
        let found = match self.kv.scan(&from, &end, 1)?.pop() {
            Some((key, value)) => {
                let past = PastName::decode(&key, &value).map_err(|_| table::damaged(&key))?;
                Some((past.row, past.since))
            }
            None => present,
        };
        Ok(found.and_then(|(row, since)| (since <= index).then_some(row)))
    }

    /// Names in a directory at the moment, after one, in order, at most `limit`; fewer only at the
    /// end.
    pub(super) fn names_then(
        &self,
        partition: PartitionId,
        directory: FileId,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<NameRow>, KvProblem> {
        let mut found = Vec::new();
        let mut after = after.map(str::to_owned);
        while found.len() < limit {
            let names = self.names_ever(partition, directory, after.as_deref())?;
            let Some(last) = names.last() else { break };
            after = Some(last.clone());
            for name in &names {
                if found.len() < limit {
                    found.extend(self.name_then(partition, directory, name)?);
                }
            }
        }
        Ok(found)
    }

    /// Names that stand or ever stood in a directory, after one: a page, none at the end.
    fn names_ever(
        &self,
        partition: PartitionId,
        directory: FileId,
        after: Option<&str>,
    ) -> Result<Vec<String>, KvProblem> {
        let prefix = table::names_prefix(partition, directory);
        let mut from = prefix.clone();
        let past_prefix = past::names_prefix(partition, directory);
        let mut past_from = past_prefix.clone();
        if let Some(after) = after {
            from.extend_from_slice(after.as_bytes());
            from.push(0);
            past_from.extend_from_slice(after.as_bytes());
            // A name's past ends before any longer name's begins: no name holds a zero byte.
            past_from.push(1);
        }
        let mut names = BTreeSet::new();
        let page = self.kv.scan(&from, &prefix_end(&prefix), PAGE)?;
        for (key, _) in &page {
            let name = table::name_of(key).ok_or_else(|| table::damaged(key))?;
            names.insert(name.to_owned());
        }
        let mut bound = (page.len() == PAGE)
            .then(|| names.last().cloned())
            .flatten();
        let mut past_names = BTreeSet::new();
        let end = prefix_end(&past_prefix);
        while past_names.len() < PAGE {
            let Some((key, _)) = self.kv.scan(&past_from, &end, 1)?.pop() else {
                break;
            };
            let name = past::name_of(&key).ok_or_else(|| table::damaged(&key))?;
            past_from.truncate(past_prefix.len());
            past_from.extend_from_slice(name.as_bytes());
            past_from.push(1);
            let is_beyond = bound.as_deref().is_some_and(|bound| name > bound);
            past_names.insert(name.to_owned());
            if is_beyond {
                break;
            }
        }
        if past_names.len() == PAGE {
            let last = past_names.last().cloned();
            bound = bound.min(last.clone()).or(last);
        }
        names.append(&mut past_names);
        let within = |name: &String| bound.as_ref().is_none_or(|bound| name <= bound);
        Ok(names.into_iter().filter(within).collect())
    }

    /// The volumes of the moment, in order of their ids.
    pub(super) fn volumes_then(&self) -> Result<Vec<Volume>, KvProblem> {
        let mut found = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let page = self.children(ROOT, after.as_deref(), PAGE)?;
            let Some(last) = page.last() else { break };
            after = Some(last.name.clone());
            for node in page {
                if let NodeKind::Volume(partition) = node.kind {
                    found.push(Volume {
                        id: VolumeId::made_by(node.id),
                        file: node.id,
                        name: node.name,
                        partition,
                    });
                }
            }
        }
        found.sort_by_key(|volume| volume.id);
        Ok(found)
    }

    /// The nodes of names.
    pub(super) fn nodes_of(&self, names: &[NameRow]) -> Result<Vec<Node>, KvProblem> {
        let mut nodes = Vec::with_capacity(names.len());
        for row in names {
            match (self.inode(row.id), &self.forgiven) {
                (Err(problem), Some(forgiven)) if is_forgotten(&problem) => forgiven.add(row.id),
                (found, _) => nodes.extend(found?.map(|row| row.node)),
            }
        }
        Ok(nodes)
    }
}
