//! [driver] A stream of bytes into stored content, and back.
//!
//! A [`ContentWriter`] cuts what it is given, hashes each chunk and the whole, and puts what the
//! store lacks; memory is bounded but for the list of chunks (36 bytes each) and its pin. Content
//! of at most [`limit::INLINE_BYTES`] stays out of the store; a list of more than
//! [`limit::MANIFEST_CHUNKS`] is itself cut and stored. A content of one chunk is hashed once.
//! Nothing is durable before [`ContentWriter::finish`], or a sync of the store after
//! [`ContentWriter::stage`]: many small files share one.
//!
//! [`ChunkRows`] and [`ContentReader`] go the other way, one chunk at a time. A list is what its
//! author says it is: what contradicts its manifest is an error, never a panic.

use crate::chunk::cut::{Cutter, average_for};
use crate::chunk::store::{ChunkPin, PackStore};
use crate::chunk::{ChunkProblem, ChunkStore};
use crate::env::Env;
use aber_proto::manifest::{ManifestProblem, decode_list, encode_list};
use aber_proto::{ChunkHash, ChunkList, ChunkRef, Content, ContentHash, Manifest, limit};
use bytes::Bytes;

/// Bytes that are worked on before other tasks get a turn: about half a millisecond.
const TURN_BYTES: usize = 512 * 1024;
/// A writer waits for the store to sync above this many bytes that are not durable.
const UNSYNCED_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Rows of a list encoded at once.
const LIST_ROWS: usize = 4096;

/// Why content could not be stored or read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ContentProblem {
    /// A chunk could not be had or put.
    #[error(transparent)]
    Chunk(#[from] ChunkProblem),
    /// The manifest or its list contradicts itself.
    #[error("the content's list of chunks is wrong: {0}")]
    List(#[from] ManifestProblem),
    /// Even the list of its chunks is too long.
    #[error("a content of {size_bytes} bytes is too long")]
    TooLong {
        /// Its size.
        size_bytes: u64,
    },
}

/// Content that is in the store, and kept there while `pin` lives.
pub struct StagedContent {
    /// What an event refers to.
    pub content: Content,
    /// Bytes of chunks that the store lacked.
    pub new_bytes: u64,
    /// Bytes of chunks that it had.
    pub reused_bytes: u64,
    /// All chunks in order, those of an indirect list last; maybe some more than once.
    pub chunks: Vec<ChunkRef>,
    /// Keeps them from the sweep.
    pub pin: ChunkPin,
}

/// Takes one content.
pub struct ContentWriter<E: Env> {
    store: PackStore<E>,
    cutter: Cutter,
    average: u32,
    rows: Vec<ChunkRef>,
    pin: ChunkPin,
    whole: WholeHash,
    size: u64,
    new_bytes: u64,
    reused_bytes: u64,
    turn_bytes: usize,
}

impl<E: Env> ContentWriter<E> {
    /// A writer for a content of about `size` bytes whose version before was cut by the average
    /// `previous`.
    #[must_use]
    pub fn new(store: PackStore<E>, size: Option<u64>, previous: Option<u32>) -> Self {
        let average = average_for(size, previous);
        let pin = store.pin([]);
        Self {
            store,
            cutter: Cutter::new(average),
            average,
            rows: Vec::new(),
            pin,
            whole: WholeHash::Empty,
            size: 0,
            new_bytes: 0,
            reused_bytes: 0,
            turn_bytes: 0,
        }
    }

    /// Takes the next bytes, however many.
    ///
    /// # Errors
    /// The store's. The writer is of no use afterwards.
    pub async fn push(&mut self, bytes: Bytes) -> Result<(), ContentProblem> {
        for piece in bytes.chunks(TURN_BYTES) {
            self.size += piece.len() as u64;
            self.cutter.push(piece);
            self.take_chunks()?;
            self.turn_bytes += piece.len();
            if self.turn_bytes >= TURN_BYTES {
                self.turn_bytes = 0;
                self.give_way().await?;
            }
        }
        Ok(())
    }

    /// Ends the content and makes it durable.
    ///
    /// # Errors
    /// The store's, or the content is too long.
    pub async fn finish(self) -> Result<StagedContent, ContentProblem> {
        let store = self.store.clone();
        let staged = self.stage().await?;
        if !staged.chunks.is_empty() {
            store.sync().await?;
        }
        Ok(staged)
    }

    /// Ends the content; it is durable after the store's next sync.
    ///
    /// # Errors
    /// As [`ContentWriter::finish`].
    pub async fn stage(mut self) -> Result<StagedContent, ContentProblem> {
        self.cutter.finish();
        if self.size <= limit::INLINE_BYTES as u64 {
            let bytes = self.cutter.next_chunk().unwrap_or_default();
            return Ok(self.staged(Content::Inline(bytes)));
        }
        self.take_chunks()?;
        let blake3 = std::mem::replace(&mut self.whole, WholeHash::Empty).finish();
        let chunks = if self.rows.len() <= limit::MANIFEST_CHUNKS {
            ChunkList::Direct(self.rows.clone())
        } else {
            ChunkList::Indirect(self.store_list().await?)
        };
        let manifest = Manifest {
            size: self.size,
            blake3,
            average: self.average,
            chunks,
        };
        assert!(
            manifest.check() == Ok(()),
            "a manifest that others would refuse"
        );
        Ok(self.staged(Content::Chunks(manifest)))
    }

    fn staged(self, content: Content) -> StagedContent {
        StagedContent {
            content,
            new_bytes: self.new_bytes,
            reused_bytes: self.reused_bytes,
            chunks: self.rows,
            pin: self.pin,
        }
    }

    fn take_chunks(&mut self) -> Result<(), ContentProblem> {
        while let Some(chunk) = self.cutter.next_chunk() {
            let row = self.put(&chunk)?;
            self.whole.update(row.hash, chunk);
            self.rows.push(row);
        }
        Ok(())
    }

    /// Pins first, then looks: the sweep cannot come in between.
    fn put(&mut self, chunk: &Bytes) -> Result<ChunkRef, ContentProblem> {
        let hash = ChunkHash::of(chunk);
        self.pin.add(hash);
        let length = u32::try_from(chunk.len()).expect("bounded by CHUNK_MAX_BYTES");
        if self.store.put(hash, chunk)? {
            self.new_bytes += u64::from(length);
        } else {
            self.reused_bytes += u64::from(length);
        }
        Ok(ChunkRef { hash, length })
    }

    /// Stores the list of the chunks, and adds its chunks to them.
    async fn store_list(&mut self) -> Result<Vec<ChunkRef>, ContentProblem> {
        let rows = std::mem::take(&mut self.rows);
        let list_bytes = rows.len() as u64 * limit::CHUNK_ROW_BYTES as u64;
        let mut cutter = Cutter::new(average_for(Some(list_bytes), None));
        let mut list = Vec::new();
        for part in rows.chunks(LIST_ROWS) {
            cutter.push(&encode_list(part));
            while let Some(chunk) = cutter.next_chunk() {
                list.push(self.put(&chunk)?);
            }
            self.give_way().await?;
        }
        cutter.finish();
        while let Some(chunk) = cutter.next_chunk() {
            list.push(self.put(&chunk)?);
        }
        if list.len() > limit::MANIFEST_CHUNKS {
            let size_bytes = self.size;
            return Err(ContentProblem::TooLong { size_bytes });
        }
        self.rows = rows;
        self.rows.extend_from_slice(&list);
        Ok(list)
    }

    async fn give_way(&self) -> Result<(), ContentProblem> {
        if self.store.unsynced_bytes() > UNSYNCED_BYTES_MAX {
            self.store.sync().await?;
        } else {
            tokio::task::yield_now().await;
        }
        Ok(())
    }
}

/// The hash of the whole content: that of its only chunk, or one of its own from the second on.
enum WholeHash {
    Empty,
    One(ChunkHash, Bytes),
    Many(Box<blake3::Hasher>),
}

impl WholeHash {
    fn update(&mut self, hash: ChunkHash, chunk: Bytes) {
        match self {
            Self::Empty => *self = Self::One(hash, chunk),
            Self::One(_, first) => {
                let mut hasher = Box::new(blake3::Hasher::new());
                hasher.update(first);
                hasher.update(&chunk);
                *self = Self::Many(hasher);
            }
            Self::Many(hasher) => {
                hasher.update(&chunk);
            }
        }
    }

    fn finish(self) -> ContentHash {
        match self {
            Self::Empty => ContentHash::of(&[]),
            Self::One(hash, _) => ContentHash(hash.0),
            Self::Many(hasher) => ContentHash(*hasher.finalize().as_bytes()),
        }
    }
}

/// The chunks of a manifest in order. Of a stored list one chunk at a time is in memory.
pub struct ChunkRows<S> {
    store: S,
    list: std::vec::IntoIter<ChunkRef>,
    is_direct: bool,
    rest: Vec<u8>,
    ready: std::vec::IntoIter<ChunkRef>,
    size: u64,
    seen: u64,
}

impl<S: ChunkStore> ChunkRows<S> {
    /// The chunks of `manifest`.
    ///
    /// # Errors
    /// The manifest contradicts itself.
    pub fn new(store: S, manifest: &Manifest) -> Result<Self, ContentProblem> {
        manifest.check()?;
        let (list, ready, is_direct) = match &manifest.chunks {
            ChunkList::Direct(rows) => (Vec::new(), rows.clone(), true),
            ChunkList::Indirect(rows) => (rows.clone(), Vec::new(), false),
        };
        Ok(Self {
            store,
            list: list.into_iter(),
            is_direct,
            rest: Vec::new(),
            ready: ready.into_iter(),
            size: manifest.size,
            seen: 0,
        })
    }

    /// The next chunk; `None` once they add up to the size.
    ///
    /// # Errors
    /// A chunk of the list cannot be had, or the list is not that of the manifest.
    pub async fn next(&mut self) -> Result<Option<ChunkRef>, ContentProblem> {
        loop {
            if let Some(row) = self.ready.next() {
                self.seen = self.seen.saturating_add(u64::from(row.length));
                return if self.seen <= self.size {
                    Ok(Some(row))
                } else {
                    Err(self.differs())
                };
            }
            let Some(chunk) = self.list.next() else {
                return self.end();
            };
            let bytes = self.store.get(chunk).await?;
            self.rest.extend_from_slice(&bytes);
            let whole = self.rest.len() / limit::CHUNK_ROW_BYTES * limit::CHUNK_ROW_BYTES;
            let rest = self.rest.split_off(whole);
            self.ready = decode_list(&self.rest)?.into_iter();
            self.rest = rest;
        }
    }

    fn end(&self) -> Result<Option<ChunkRef>, ContentProblem> {
        if !self.rest.is_empty() {
            return Err(ManifestProblem::ListLength(self.rest.len()).into());
        }
        if self.seen == self.size || self.is_direct {
            Ok(None)
        } else {
            Err(self.differs())
        }
    }

    fn differs(&self) -> ContentProblem {
        ManifestProblem::SizeDiffers {
            said: self.size,
            found: self.seen,
        }
        .into()
    }
}

/// All chunks of a manifest, those of its list, if it has one, not counted.
///
/// # Errors
/// As [`ChunkRows::next`].
pub async fn resolve_chunks<S: ChunkStore>(
    store: &S,
    manifest: &Manifest,
) -> Result<Vec<ChunkRef>, ContentProblem> {
    let mut rows = ChunkRows::new(store.clone(), manifest)?;
    let mut chunks = Vec::new();
    while let Some(row) = rows.next().await? {
        chunks.push(row);
    }
    Ok(chunks)
}

/// A range of a content, one chunk at a time.
pub struct ContentReader<S> {
    store: S,
    rows: Option<ChunkRows<S>>,
    inline: Option<Bytes>,
    from: u64,
    to: u64,
    position: u64,
}

/// Reads `length` bytes of `content` at `offset`; what lies beyond its end is left out.
///
/// # Errors
/// The manifest contradicts itself.
pub fn read_range<S: ChunkStore>(
    store: &S,
    content: &Content,
    offset: u64,
    length: u64,
) -> Result<ContentReader<S>, ContentProblem> {
    let (rows, inline) = match content {
        Content::Inline(bytes) => (None, Some(bytes.clone())),
        Content::Chunks(manifest) => (Some(ChunkRows::new(store.clone(), manifest)?), None),
    };
    Ok(ContentReader {
        store: store.clone(),
        rows,
        inline,
        from: offset,
        to: offset.saturating_add(length).min(content.size()),
        position: 0,
    })
}

impl<S: ChunkStore> ContentReader<S> {
    /// The next bytes of the range, never none; `None` at its end.
    ///
    /// # Errors
    /// A chunk cannot be had, or the list is not that of the manifest.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ContentProblem> {
        if let Some(bytes) = self.inline.take() {
            return Ok(self.part(0, &bytes));
        }
        let Some(rows) = &mut self.rows else {
            return Ok(None);
        };
        while self.position < self.to {
            let Some(row) = rows.next().await? else {
                break;
            };
            let start = self.position;
            self.position = start.saturating_add(u64::from(row.length));
            if self.position <= self.from {
                continue;
            }
            let bytes = self.store.get(row).await?;
            return Ok(self.part(start, &bytes));
        }
        Ok(None)
    }

    /// What of `bytes`, which begin at `start` of the content, is in the range.
    fn part(&self, start: u64, bytes: &Bytes) -> Option<Bytes> {
        let within = |at: u64| {
            let at = usize::try_from(at.saturating_sub(start)).unwrap_or(usize::MAX);
            at.min(bytes.len())
        };
        let (from, to) = (within(self.from), within(self.to));
        (from < to).then(|| bytes.slice(from..to))
    }
}

#[cfg(test)]
mod tests;
