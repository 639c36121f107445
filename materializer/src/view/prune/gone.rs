//! [pure] Contents of versions that went: kept for a time of grace, then their chunks lose the rows
//! that say somebody refers to them.
//!
//! A chunk may be of other versions too, and a change that is applied meanwhile may name it. So
//! contents are looked through twice: before the rows of references go, which spares most of them,
//! and afterwards. What was applied before they went is found by the second look, and puts them
//! back; what is applied later writes them itself. Until the second look is over no sweep may ask.
//!
//! Keys: `L` (0x4c), the partition (u32, big-endian), the version's local id. They outlive a
//! snapshot that is installed, as references do.

use crate::view::code::{Cursor, Damaged, Writer};
use crate::view::read::TreeView;
use crate::view::table::{self, Row};
use aber_log::env::Kv;
use aber_log::env::kv::{KvBatch, KvProblem, prefix_end};
use aber_proto::{ChunkHash, Content, EventId, Timestamp};
use bytes::Bytes;
use std::collections::BTreeSet;

/// First byte of the keys.
const GONE: u8 = b'L';

/// A content whose version went.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Gone {
    /// When, by the node's wall clock.
    pub since: Timestamp,
    /// The content.
    pub content: Content,
}

impl Row for Gone {
    fn write(&self, out: &mut Writer) {
        out.signed(self.since.0);
        out.content(&self.content);
    }

    fn read(_: &[u8], cursor: &mut Cursor<'_>) -> Result<Self, Damaged> {
        Ok(Self {
            since: Timestamp(cursor.signed()?),
            content: cursor.content()?,
        })
    }
}

#[expect(clippy::big_endian_bytes, reason = "keys sort by bytes")]
fn gone_key(version: EventId) -> Vec<u8> {
    let [_, _, _, _, local @ ..] = version.to_key();
    let mut key = vec![GONE];
    key.extend_from_slice(&version.partition.0.to_be_bytes());
    key.extend_from_slice(&local);
    key
}

/// Inline content is in its row, and needs no grace.
pub(super) fn note(batch: &mut KvBatch, version: EventId, content: &Content, now: Timestamp) {
    if matches!(content, Content::Chunks(_)) {
        let row = Gone {
            since: now,
            content: content.clone(),
        };
        batch.put(gone_key(version), row.encode());
    }
}

/// Chunks that may lose their references, and the rows that say so.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Release {
    chunks: BTreeSet<ChunkHash>,
    rows: Vec<Bytes>,
}

impl Release {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Takes out what a content that stays refers to.
    pub fn spare(&mut self, content: &Content) -> Vec<ChunkHash> {
        let rows = content.rows().iter();
        let spared = rows.filter(|row| self.chunks.remove(&row.hash));
        spared.map(|row| row.hash).collect()
    }
}

impl<K: Kv> TreeView<K> {
    /// Contents whose versions went, in order of their keys, after one; with the last key.
    ///
    /// # Errors
    /// The index failed.
    pub fn gone(
        &self,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<(Vec<Gone>, Option<Bytes>), KvProblem> {
        let rows = self.gone_rows(after, limit)?;
        let last = rows.last().map(|(key, _)| key.clone());
        Ok((rows.into_iter().map(|(_, gone)| gone).collect(), last))
    }

    fn gone_rows(
        &self,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Bytes, Gone)>, KvProblem> {
        let from = after.map_or(vec![GONE], |after| [after, [0].as_slice()].concat());
        let rows = self.kv.scan(&from, &prefix_end(&[GONE]), limit)?;
        rows.into_iter()
            .map(|(key, value)| match Gone::decode(&key, &value) {
                Ok(gone) => Ok((key, gone)),
                Err(_) => Err(table::damaged(&key)),
            })
            .collect()
    }

    /// The chunks of contents that went at or before a time, of at most about `chunks`.
    ///
    /// # Errors
    /// The index failed.
    pub fn begin_release(&self, until: Timestamp, chunks: usize) -> Result<Release, KvProblem> {
        let mut release = Release::default();
        let mut after: Option<Bytes> = None;
        loop {
            let page = self.gone_rows(after.as_deref(), super::PAGE)?;
            for (key, gone) in &page {
                if gone.since <= until && release.chunks.len() < chunks {
                    let rows = gone.content.rows().iter();
                    release.chunks.extend(rows.map(|row| row.hash));
                    release.rows.push(key.clone());
                }
            }
            match page.last() {
                Some((key, _)) if page.len() == super::PAGE => after = Some(key.clone()),
                _ => return Ok(release),
            }
        }
    }

    /// Says that chunks are referred to.
    ///
    /// # Errors
    /// The index failed.
    pub fn refer(&self, chunks: Vec<ChunkHash>) -> Result<(), KvProblem> {
        let mut batch = KvBatch::default();
        for chunk in chunks {
            batch.put(table::reference_key(&chunk), Bytes::new());
        }
        if batch.rows.is_empty() {
            return Ok(());
        }
        self.kv.commit(batch)
    }

    /// Takes the references of what is left away. A second look has to follow: see [`Release`].
    ///
    /// # Errors
    /// The index failed.
    pub fn drop_references(&self, release: &Release) -> Result<(), KvProblem> {
        let mut batch = KvBatch::default();
        for chunk in &release.chunks {
            batch.remove(table::reference_key(chunk));
        }
        self.kv.commit(batch)
    }

    /// After the second look: what went is forgotten. The number of chunks that nothing refers to.
    ///
    /// # Errors
    /// The index failed.
    pub fn end_release(&self, release: Release) -> Result<u64, KvProblem> {
        let mut batch = KvBatch::default();
        for key in release.rows {
            batch.remove(key);
        }
        self.kv.commit(batch)?;
        Ok(release.chunks.len() as u64)
    }
}
