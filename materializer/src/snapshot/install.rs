//! [pure] Replaces a partition's rows by a snapshot's, in bounded batches.

use super::decode::{Decoder, PART_BYTES};
use super::{SnapshotHeader, SnapshotProblem};
use crate::view::View;
use crate::view::backfill::{aside_prefix, remove_all};
use crate::view::past::{self, PastTable, StartRow};
use crate::view::table::{self, Row, Table};
use aber_log::env::Kv;
use aber_log::env::kv::{KvBatch, KvProblem};
use aber_proto::{Genesis, PartitionId};
use bytes::Bytes;
use std::sync::Arc;

/// Rows committed at once.
const BATCH_ROWS: usize = 1024;

/// Installs a snapshot in the place of a partition's rows.
///
/// The old rows go when its header is read, so check what you can of it, such as its content hash
/// and that enough members vouch for its digest, before.
pub struct SnapshotInstall<K> {
    kv: K,
    genesis: Arc<Genesis>,
    partition: PartitionId,
    decoder: Decoder,
    batch: KvBatch,
    cleared: bool,
}

impl<K: Kv> SnapshotInstall<K> {
    /// Expects a snapshot of this partition of the cluster of this genesis.
    #[must_use]
    pub fn new(kv: K, partition: PartitionId, genesis: Arc<Genesis>) -> Self {
        Self {
            kv,
            genesis,
            partition,
            decoder: Decoder::new(),
            batch: KvBatch::default(),
            cleared: false,
        }
    }

    /// What the snapshot says of itself, once that was read.
    #[must_use]
    pub fn header(&self) -> Option<&SnapshotHeader> {
        self.decoder.header.as_ref()
    }

    /// Takes the next bytes, of whatever number.
    ///
    /// # Errors
    /// The index failed, or the bytes are no good. Once the header was read, the partition's rows
    /// are unusable until a snapshot was installed to its end, or [`clear`] was called.
    pub fn push(&mut self, piece: &[u8]) -> Result<(), SnapshotProblem> {
        for piece in piece.chunks(PART_BYTES) {
            let rows = self.decoder.push(piece)?;
            self.prepare()?;
            for (key, value) in rows {
                if let Ok(Some(content)) = table::check_row(&key, &value) {
                    for row in content.rows() {
                        self.batch
                            .put(table::reference_key(&row.hash), Bytes::new());
                    }
                }
                self.batch.put(key, value);
            }
            if self.batch.rows.len() >= BATCH_ROWS {
                self.kv.commit(std::mem::take(&mut self.batch))?;
            }
        }
        Ok(())
    }

    /// Clears the partition once the header says that the snapshot is one of it.
    fn prepare(&mut self) -> Result<(), SnapshotProblem> {
        let Some(header) = self.decoder.header.as_ref().filter(|_| !self.cleared) else {
            return Ok(());
        };
        if header.partition != self.partition || header.cluster != self.genesis.cluster_id() {
            return Err(SnapshotProblem::Foreign(header.partition));
        }
        mark_and_clear(&self.kv, self.partition)?;
        self.cleared = true;
        Ok(())
    }

    /// Checks the whole, makes it the partition's view, and opens it.
    ///
    /// # Errors
    /// The index failed, or the snapshot is damaged or cut short.
    pub fn finish(mut self) -> Result<View<K>, SnapshotProblem> {
        let ((key, value), mut buckets) = self.decoder.finish()?;
        let applied = table::AppliedRow::decode(&key, &value).map_err(|_| table::damaged(&key))?;
        self.batch.put(key, value);
        // Of what came before it only the versions are known.
        let start = StartRow {
            index: applied.log_id.index,
            digest: buckets.digest(),
        };
        let key = past::past_table(self.partition, PastTable::Start);
        self.batch.put(key, start.encode());
        buckets.write_changed(self.partition, &mut self.batch);
        self.batch
            .remove(table::table_key(self.partition, Table::Installing));
        self.kv.commit(self.batch)?;
        Ok(View::open(self.kv, self.partition, &self.genesis)?)
    }
}

/// Takes all rows of a partition's view away; chunk references stay. The view is empty then, and
/// is built anew from the log.
///
/// # Errors
/// The index failed: call it again.
pub fn clear<K: Kv>(kv: &K, partition: PartitionId) -> Result<(), KvProblem> {
    mark_and_clear(kv, partition)?;
    let mut batch = KvBatch::default();
    batch.remove(table::table_key(partition, Table::Installing));
    kv.commit(batch)
}

/// Leaves the marker and nothing else.
fn mark_and_clear<K: Kv>(kv: &K, partition: PartitionId) -> Result<(), KvProblem> {
    let marker = table::table_key(partition, Table::Installing);
    let mut batch = KvBatch::default();
    batch.put(marker.clone(), Bytes::new());
    kv.commit(batch)?;
    remove_all(kv, &past::past_prefix(partition), &[])?;
    remove_all(kv, &aside_prefix(partition), &[])?;
    remove_all(kv, &table::view_prefix(partition), &marker)
}
