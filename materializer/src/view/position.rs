//! [pure] Small questions about a view: where it is, and which nodes it has.

use super::digest::Buckets;
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
