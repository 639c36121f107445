//! [pure] Each file's versions that are not present any more, and for how long each was shown.

use super::{PAGE, rows};
use crate::view::past;
use crate::view::read::TreeView;
use crate::view::table::{self, InodeRow, Row, Table};
use aber_log::env::Kv;
use aber_log::env::kv::{KvProblem, prefix_end};
use aber_proto::{EventId, FileId, PartitionId};
use std::collections::BTreeMap;

/// A file's versions that are not present, and the entry that replaced each.
pub(super) struct History {
    pub(super) file: FileId,
    /// Version, the entry that replaced or removed it, bytes; the oldest first.
    pub(super) versions: Vec<(EventId, u64, u64)>,
    pub(super) is_present: bool,
}

impl<K: Kv> TreeView<K> {
    /// Calls `take` with each file that has versions which are not present, until it says `false`.
    pub(super) fn each_history(
        &self,
        partition: PartitionId,
        first: Option<FileId>,
        take: &mut impl FnMut(History) -> Result<bool, KvProblem>,
    ) -> Result<(), KvProblem> {
        let prefix = table::table_key(partition, Table::Version);
        let to = prefix_end(&prefix);
        let mut from = first.map_or(prefix, table::versions_prefix);
        let mut open: Option<(FileId, Vec<(EventId, u64)>)> = None;
        loop {
            let page = self.kv.scan(&from, &to, PAGE)?;
            for (key, value) in &page {
                let damaged = || table::damaged(key);
                let row = table::VersionRow::decode(key, value).map_err(|_| damaged())?;
                let file = rows::file_of(partition, key).ok_or_else(damaged)?;
                let version = table::version_of(partition, key).ok_or_else(damaged)?;
                let entry = (version, row.content.size());
                match &mut open {
                    Some((same, versions)) if *same == file => versions.push(entry),
                    _ => {
                        if let Some((file, versions)) = open.replace((file, vec![entry]))
                            && !take(self.history(file, versions)?)?
                        {
                            return Ok(());
                        }
                    }
                }
            }
            match page.last() {
                Some((key, _)) if page.len() == PAGE => from = [key, [0].as_slice()].concat(),
                _ => break,
            }
        }
        if let Some((file, versions)) = open {
            take(self.history(file, versions)?)?;
        }
        Ok(())
    }

    fn history(&self, file: FileId, rows: Vec<(EventId, u64)>) -> Result<History, KvProblem> {
        let present: Option<InodeRow> = self.row(&table::inode_key(file))?;
        let is_present = present.is_some();
        let ends = self.ends(file)?;
        let end = match present {
            Some(row) => row.node.version.index,
            // The last that happened to it is its removal; before history's start nobody knows when.
            None => match ends.values().max() {
                Some(removed) => *removed,
                None => self.history_start(file.partition)?,
            },
        };
        let next = rows.iter().skip(1).map(|(version, _)| version.index);
        // What is told no more was replaced by the next one that is left, or earlier.
        let bounds: Vec<u64> = next.chain([end]).collect();
        let versions = rows.iter().zip(bounds).map(|((version, bytes), bound)| {
            let end = ends.get(version).copied().unwrap_or(bound);
            let end = end.max(version.index);
            (*version, end, *bytes)
        });
        Ok(History {
            file,
            versions: versions.collect(),
            is_present,
        })
    }

    /// The last entry that found each version of a file in its place: it replaced or removed it. Of
    /// what history tells.
    fn ends(&self, file: FileId) -> Result<BTreeMap<EventId, u64>, KvProblem> {
        let prefix = past::node_prefix(file);
        let (mut from, to) = (prefix.clone(), prefix_end(&prefix));
        // Of what came before history's start a part may stand there already (`backfill.rs`), and
        // the last that it says of a file is not the last that happened to it.
        if let start @ 1.. = self.history_start(file.partition)? {
            past::push_index(&mut from, start.saturating_add(1));
        }
        let mut ends = BTreeMap::new();
        loop {
            let page = self.kv.scan(&from, &to, PAGE)?;
            for (key, value) in &page {
                // It was gone, and came back with this entry.
                if value.is_empty() {
                    continue;
                }
                let damaged = || table::damaged(key);
                let row = InodeRow::read_without_content(file, value).map_err(|_| damaged())?;
                let index = past::index_of(key).ok_or_else(damaged)?;
                ends.insert(row.node.version, index);
            }
            match page.last() {
                Some((key, _)) if page.len() == PAGE => from = [key, [0].as_slice()].concat(),
                _ => return Ok(ends),
            }
        }
    }
}
