//! [pure] Small questions about a view: where it is, and which nodes it has.

use super::digest::Buckets;
use super::past::{self, DigestRow};
use super::read::TreeView;
use super::table::{self, Table};
use super::{Applied, View};
use aber_log::env::Kv;
use aber_log::env::kv::{KvProblem, prefix_end};
use aber_proto::{ChainHash, Content, FileId, PartitionId, ViewDigest, VolumeId};
use bytes::Bytes;

impl<K: Kv> View<K> {
    /// The index of the last entry applied; `None` if none was.
    #[must_use]
    pub fn applied_index(&self) -> Option<u64> {
        let start = ChainHash::genesis(&self.row.cluster, self.partition);
        (self.applied.chain != start).then_some(self.applied.log_id.index)
    }

    /// Sets how many entries lie between two views that nodes compare; all nodes of a cluster have
    /// the same.
    pub fn compare_every(&mut self, entries: u64) {
        self.digest_every = entries.max(1);
    }

    /// Entries between two views that nodes compare.
    #[must_use]
    pub fn compared_every(&self) -> u64 {
        self.digest_every
    }

    /// Whether nodes compare their views after this entry (promise M4).
    #[must_use]
    pub fn is_compared(&self, index: u64) -> bool {
        index > 0 && index.is_multiple_of(self.digest_every)
    }

    /// The ids of the nodes it holds, in order, after one of them, at most `limit`.
    ///
    /// # Errors
    /// The index failed.
    pub fn nodes(&self, after: Option<FileId>, limit: usize) -> Result<Vec<FileId>, KvProblem> {
        let prefix = table::table_key(self.partition, Table::Inode);
        let to = prefix_end(&prefix);
        let from = match after {
            Some(id) => [table::inode_key(id).as_ref(), [0].as_slice()].concat(),
            None => prefix.to_vec(),
        };
        let rows = self.kv.scan(&from, &to, limit)?;
        rows.iter()
            .map(|(key, _)| table::inode_of(key).map_err(|_| table::damaged(key)))
            .collect()
    }
}

impl<K: Kv> TreeView<K> {
    /// How far a partition is applied, and the digest of its view there.
    ///
    /// # Errors
    /// The index failed.
    pub fn digest(
        &self,
        partition: PartitionId,
    ) -> Result<(Option<Applied>, ViewDigest), KvProblem> {
        let applied = self.applied(partition)?;
        Ok((applied, Buckets::read(&self.kv, partition)?.digest()))
    }

    /// The digest of a partition's view as it was after an entry at which nodes compare; `None` where
    /// none was noted.
    ///
    /// # Errors
    /// The index failed.
    pub fn digest_after(
        &self,
        partition: PartitionId,
        index: u64,
    ) -> Result<Option<ViewDigest>, KvProblem> {
        let row: Option<DigestRow> = self.row(&past::digest_key(partition, index))?;
        Ok(row.map(|row| row.0))
    }

    /// The contents of files, present and earlier, a page of rows at a time: `after` is the last
    /// key of the page before.
    ///
    /// # Errors
    /// The index failed.
    pub fn contents(
        &self,
        partition: PartitionId,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<(Vec<Content>, Option<Bytes>), KvProblem> {
        let prefix = table::view_prefix(partition);
        let to = prefix_end(&prefix);
        let from = after.map_or(prefix, |after| [after, [0].as_slice()].concat());
        let rows = self.kv.scan(&from, &to, limit)?;
        let content = |(key, value): &(Bytes, Bytes)| table::check_row(key, value).ok().flatten();
        Ok((
            rows.iter().filter_map(content).collect(),
            rows.last().map(|(key, _)| key.clone()),
        ))
    }

    /// The volume with this name, and the partition that holds its content.
    ///
    /// # Errors
    /// The index failed.
    pub fn volume(&self, name: &str) -> Result<Option<(VolumeId, PartitionId)>, KvProblem> {
        let volumes = self.volumes()?;
        let found = volumes.into_iter().find(|volume| volume.name == name);
        Ok(found.map(|volume| (volume.id, volume.partition)))
    }
}
