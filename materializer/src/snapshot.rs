//! [pure] A partition's view as a stream of bytes, and back.
//!
//! The rows go in key order, so that equal views give the same bytes on every node; of what is
//! read nothing is believed: order, shape and spelling of every row, the counts, the digest and a
//! hash over all. Nothing holds more than a few rows in memory. Layout, in the encoding of
//! `view::code`; `docs/format.md` says it in words:
//!
//! ```text
//! "aber view", format u8, header: partition, cluster 32, term, index, chain 32, digest 32,
//!                                 files, bytes
//! for each row:                   key (from the table's byte on) and value, each after its length
//! end:                            0, number of rows, BLAKE3 of all bytes before it
//! ```
//!
//! While a snapshot is installed, a marker row says that the partition's rows mean nothing. It goes
//! with the last batch; after a crash the view does not open, and the snapshot is installed again.

mod decode;
mod install;
#[cfg(test)]
mod tests;

pub use install::{SnapshotInstall, clear};

use crate::view::ViewProblem;
use crate::view::code::{Cursor, Damaged, Writer};
use crate::view::digest::Buckets;
use crate::view::table::{self, AppliedRow, Row, Table};
use aber_log::env::Kv;
use aber_log::env::kv::{KvProblem, prefix_end};
use aber_proto::{ChainHash, ClusterId, LogId, PartitionId, ViewDigest};
use bytes::Bytes;

const MAGIC: &[u8] = b"aber view";
const FORMAT: u8 = 3;
const HASH_CONTEXT: &str = "aber 2026 snapshot v1";
/// A piece is given away once it has this many bytes.
const PIECE_BYTES: usize = 256 * 1024;
/// Rows read from the index at once.
const PAGE: usize = 64;

/// What a snapshot says of itself at its start.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotHeader {
    /// The partition.
    pub partition: PartitionId,
    /// The cluster.
    pub cluster: ClusterId,
    /// The last entry it covers.
    pub log_id: LogId,
    /// The chain hash there.
    pub chain: ChainHash,
    /// The view's digest there.
    pub digest: ViewDigest,
    /// Regular files.
    pub files: u64,
    /// The sum of their sizes in bytes.
    pub bytes: u64,
}

/// Why a snapshot could not be made or installed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SnapshotProblem {
    /// The index failed.
    #[error(transparent)]
    Kv(#[from] KvProblem),
    /// There is nothing to make a snapshot of.
    #[error("the view of partition {0} is empty or being installed")]
    Empty(PartitionId),
    /// Entries were applied while it was being made: begin anew.
    #[error("the view moved on from index {was} while its snapshot was made")]
    Moved {
        /// Where the snapshot was to be.
        was: u64,
    },
    /// It is of another cluster or partition.
    #[error("a snapshot of partition {0} of another cluster, or of another partition")]
    Foreign(PartitionId),
    /// The bytes are no whole snapshot.
    #[error("the snapshot is damaged near its row {row}: {what}")]
    Damaged {
        /// How many rows were good.
        row: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// The view does not open after it was installed.
    #[error(transparent)]
    View(#[from] ViewProblem),
}

impl SnapshotHeader {
    fn write(&self, out: &mut Writer) {
        out.raw(MAGIC);
        out.byte(FORMAT);
        out.number(self.partition.0.into());
        out.raw(&self.cluster.0);
        out.number(self.log_id.term);
        out.number(self.log_id.index);
        out.raw(&self.chain.0);
        out.raw(&self.digest.0);
        out.number(self.files);
        out.number(self.bytes);
    }

    fn read(cursor: &mut Cursor<'_>) -> Result<Self, Damaged> {
        if cursor.raw(MAGIC.len())? != MAGIC || cursor.byte()? != FORMAT {
            return Err(Damaged);
        }
        let partition = PartitionId(cursor.number_u32()?);
        let cluster = ClusterId(cursor.array()?);
        let (term, index) = (cursor.number()?, cursor.number()?);
        Ok(Self {
            partition,
            cluster,
            log_id: LogId { term, index },
            chain: ChainHash(cursor.array()?),
            digest: ViewDigest(cursor.array()?),
            files: cursor.number()?,
            bytes: cursor.number()?,
        })
    }

    fn fits(&self, row: &AppliedRow) -> bool {
        self.cluster == row.cluster
            && self.log_id == row.log_id
            && self.chain == row.chain
            && (self.files, self.bytes) == (row.files, row.bytes)
    }
}

/// Makes a snapshot, piece by piece. Entries must not be applied meanwhile; if they are, it says
/// so instead of giving a torn one.
pub struct SnapshotWriter<K> {
    kv: K,
    header: SnapshotHeader,
    applied: Bytes,
    /// The next key to read; `None` after the last piece.
    from: Option<Vec<u8>>,
    rows: u64,
    hasher: blake3::Hasher,
    out: Writer,
}

impl<K: Kv> SnapshotWriter<K> {
    /// Begins a snapshot of what is applied now.
    ///
    /// # Errors
    /// The index failed, or holds no view.
    pub fn begin(kv: K, partition: PartitionId) -> Result<Self, SnapshotProblem> {
        let key = table::table_key(partition, Table::Applied);
        let marker = table::table_key(partition, Table::Installing);
        let applied = match kv.get(&key)? {
            Some(value) if kv.get(&marker)?.is_none() => value,
            _ => return Err(SnapshotProblem::Empty(partition)),
        };
        let row = AppliedRow::decode(&key, &applied).map_err(|_| table::damaged(&key))?;
        let header = SnapshotHeader {
            partition,
            cluster: row.cluster,
            log_id: row.log_id,
            chain: row.chain,
            digest: Buckets::read(&kv, partition)?.digest(),
            files: row.files,
            bytes: row.bytes,
        };
        let mut out = Writer::default();
        header.write(&mut out);
        Ok(Self {
            kv,
            header,
            applied,
            from: Some(key),
            rows: 0,
            hasher: blake3::Hasher::new_derive_key(HASH_CONTEXT),
            out,
        })
    }

    /// What it says of itself.
    #[must_use]
    pub fn header(&self) -> &SnapshotHeader {
        &self.header
    }

    /// The next piece of its bytes; `None` after the last.
    ///
    /// # Errors
    /// The index failed, or an entry was applied since the beginning.
    pub fn next_piece(&mut self) -> Result<Option<Bytes>, SnapshotProblem> {
        let Some(mut from) = self.from.take() else {
            return Ok(None);
        };
        let partition = self.header.partition;
        let end = table::table_key(partition, Table::Retention);
        let to = prefix_end(&end);
        let mut last = false;
        while self.out.0.len() < PIECE_BYTES && !last {
            let page = self.kv.scan(&from, &to, PAGE)?;
            // Buckets and marker stand between the tables it carries.
            let carried = |key: &[u8]| Table::of(key).is_some_and(Table::is_in_snapshots);
            for (key, value) in page.iter().filter(|(key, _)| carried(key)) {
                self.out
                    .sized(key.get(table::PREFIX_BYTES - 1..).unwrap_or_default());
                self.out.sized(value);
                self.rows += 1;
            }
            match page.last() {
                Some((key, _)) if page.len() >= PAGE => from = [key, [0].as_slice()].concat(),
                _ => last = true,
            }
        }
        self.check_still()?;
        if last {
            self.out.number(0);
            self.out.number(self.rows);
        }
        let mut piece = std::mem::take(&mut self.out.0);
        self.hasher.update(&piece);
        if last {
            piece.extend_from_slice(self.hasher.finalize().as_bytes());
        } else {
            self.from = Some(from);
        }
        Ok(Some(piece.into()))
    }

    /// Every batch changes the applied row: while it is the same, nothing else changed either.
    fn check_still(&self) -> Result<(), SnapshotProblem> {
        let key = table::table_key(self.header.partition, Table::Applied);
        let marker = table::table_key(self.header.partition, Table::Installing);
        let same = self.kv.get(&key)?.as_ref() == Some(&self.applied);
        if same && self.kv.get(&marker)?.is_none() {
            return Ok(());
        }
        Err(SnapshotProblem::Moved {
            was: self.header.log_id.index,
        })
    }
}
