//! [driver] The chunks of a node: packs, and an index of them that can be rebuilt.
//!
//! A put appends a frame to the open pack and is then in the page cache; [`PackStore::sync`] makes
//! all of them durable at once, whoever asks (`store/flush.rs`). Only what is durable gets into
//! the index; until then it stands in an overlay, so that an index that survives a crash never
//! names what did not (promise D2). What is in packs and not in the index is found by walking them
//! when the store opens (`store/recovery.rs`).
//!
//! Invariants: a chunk is proven by its hash before it is stored from elsewhere and each time it
//! is read (promise I1); what fails the proof loses its place in the index and is fetched again
//! (promise D5); the first failed write or sync poisons the store and stops the node, and no sync
//! is tried twice (promise D4); below the reserve nothing is taken in (promise B3); pack numbers
//! are never used again, and packs are only appended to, or removed whole by the sweep.

mod append;
mod flush;
mod pin;
mod recovery;
mod state;

pub use pin::ChunkPin;

pub(super) use append::Room;
use flush::Synced;
pub(super) use state::State;

use crate::chunk::frame::{self, Frame};
use crate::chunk::pack::{self, Location};
use crate::chunk::{ChunkProblem, ChunkStore};
use crate::env::disk::Open;
use crate::env::{Disk, Env, Kv};
use crate::watch::Watched;
use aber_proto::{ChunkHash, ChunkRef, ClusterId, limit};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The exit code after a failed write or sync (`EX_IOERR`).
const EXIT_STORAGE: i32 = 74;
/// Read handles kept open at most (promise B5).
const HANDLES: usize = 32;
/// How often a read of the disk is tried before what it should give counts as damaged.
const DISK_TRIES: usize = 3;
/// How often a read looks again for a chunk that the sweep moved meanwhile.
const READ_TRIES: usize = 4;

/// What an operator may choose.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StoreOptions {
    /// A pack is closed before it becomes longer than this.
    pub pack_bytes: u32,
    /// The reserve is at most this many bytes (promise B3).
    pub reserve_max_bytes: u64,
    /// The reserve is at most this part of the file system.
    pub reserve_percent: u64,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            pack_bytes: 64 * 1024 * 1024,
            reserve_max_bytes: 1024 * 1024 * 1024,
            reserve_percent: 5,
        }
    }
}

impl StoreOptions {
    /// What stays free on a file system of `total_bytes`.
    #[must_use]
    pub fn reserve_bytes(&self, total_bytes: u64) -> u64 {
        self.reserve_max_bytes
            .min(total_bytes / 100 * self.reserve_percent)
    }
}

/// What was found wrong when the store opened or was scrubbed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DamagedRegion {
    /// The pack.
    pub pack: u32,
    /// First byte.
    pub offset: u64,
    /// The byte after the last.
    pub end: u64,
}

/// The chunks of a node. Clones are the same store.
pub struct PackStore<E: Env> {
    pub(super) inner: Arc<Inner<E>>,
}

impl<E: Env> Clone for PackStore<E> {
    fn clone(&self) -> Self {
        let inner = Arc::clone(&self.inner);
        Self { inner }
    }
}

pub(super) type FileOf<E> = <<E as Env>::Disk as Disk>::File;

pub(super) struct Inner<E: Env> {
    pub(super) env: E,
    pub(super) kv: E::Kv,
    pub(super) cluster: ClusterId,
    pub(super) options: StoreOptions,
    pub(super) state: Mutex<State<FileOf<E>>>,
    pub(super) pins: Arc<Mutex<BTreeMap<ChunkHash, u64>>>,
    synced: Watched<Synced>,
}

pub(in crate::chunk) fn storage(what: &str, error: &io::Error) -> ChunkProblem {
    ChunkProblem::Storage(format!("{what}: {error}"))
}

impl<E: Env> PackStore<E> {
    /// Opens the store below the node's data directory; made if missing. Walks what the index
    /// does not cover.
    ///
    /// # Errors
    /// The disk or the index failed, or a pack is of another cluster or a newer format.
    pub fn open(
        env: E,
        kv: E::Kv,
        cluster: ClusterId,
        options: StoreOptions,
    ) -> Result<Self, ChunkProblem> {
        let state = recovery::recover(&env, &kv, cluster)?;
        let inner = Inner {
            env,
            kv,
            cluster,
            options,
            state: Mutex::new(state),
            pins: Arc::new(Mutex::new(BTreeMap::new())),
            synced: Watched::new(Synced::default()),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Whether a chunk is here: written, maybe not durable yet.
    ///
    /// # Errors
    /// The index failed.
    pub fn has(&self, hash: &ChunkHash) -> Result<bool, ChunkProblem> {
        Ok(self.inner.locate(hash)?.is_some())
    }

    /// Those of `chunks` that are not here, in their order.
    ///
    /// # Errors
    /// The index failed.
    pub fn missing(&self, chunks: &[ChunkRef]) -> Result<Vec<ChunkRef>, ChunkProblem> {
        let mut missing = Vec::new();
        for chunk in chunks {
            if !self.has(&chunk.hash)? {
                missing.push(*chunk);
            }
        }
        Ok(missing)
    }

    /// Stores a chunk unless it is here; answers whether it was new. It is durable after the next
    /// [`PackStore::sync`]. The caller hashed the bytes itself.
    ///
    /// # Errors
    /// No space, or the disk failed.
    ///
    /// # Panics
    /// If `raw` is empty or longer than a chunk may be.
    pub fn put(&self, hash: ChunkHash, raw: &Bytes) -> Result<bool, ChunkProblem> {
        if self.has(&hash)? {
            self.inner.lock().check_poison()?;
            return Ok(false);
        }
        let frame = frame::encode(hash, raw);
        self.inner.append(hash, &frame, None, Room::Reserve)
    }

    /// As [`PackStore::put`] for bytes from elsewhere: stored only if they are the chunk.
    ///
    /// # Errors
    /// Damaged if they are not; else as [`PackStore::put`].
    pub fn put_verified(&self, chunk: ChunkRef, raw: &Bytes) -> Result<bool, ChunkProblem> {
        let is_length = u64::from(chunk.length) == raw.len() as u64;
        let is_bounded = !raw.is_empty() && raw.len() <= limit::CHUNK_MAX_BYTES;
        if is_length && is_bounded && ChunkHash::of(raw) == chunk.hash {
            self.put(chunk.hash, raw)
        } else {
            Err(ChunkProblem::Damaged { hash: chunk.hash })
        }
    }

    /// Stores a frame from another node as it is, after proving it (promise I1).
    ///
    /// # Errors
    /// Damaged if its bytes are not what it says; else as [`PackStore::put`].
    pub fn put_frame(&self, frame: &Bytes) -> Result<ChunkRef, ChunkProblem> {
        let (chunk, _) = frame::decode(frame).map_err(|_| {
            let hash = frame::FrameHeader::parse(frame).map_or_else(ChunkHash::default, |h| h.hash);
            ChunkProblem::Damaged { hash }
        })?;
        if !self.has(&chunk.hash)? {
            let (header, _) = frame
                .split_first_chunk()
                .expect("a decoded frame has a header");
            let payload = frame.slice(frame::HEADER_BYTES..);
            let frame = Frame {
                header: *header,
                payload,
            };
            self.inner.append(chunk.hash, &frame, None, Room::Reserve)?;
        }
        Ok(chunk)
    }

    /// The raw bytes of a chunk, proven.
    ///
    /// # Errors
    /// Missing; damaged, which makes it missing; or the disk failed.
    pub fn read(&self, chunk: ChunkRef) -> Result<Bytes, ChunkProblem> {
        let (_, raw) = self.inner.read(&chunk.hash)?;
        if raw.len() as u64 == u64::from(chunk.length) {
            return Ok(raw);
        }
        Err(ChunkProblem::Storage(format!(
            "chunk {} has {} bytes, not {}",
            chunk.hash,
            raw.len(),
            chunk.length
        )))
    }

    /// The stored form of a chunk, to be sent; proven too.
    ///
    /// # Errors
    /// As [`PackStore::read`].
    pub fn read_frame(&self, hash: &ChunkHash) -> Result<Bytes, ChunkProblem> {
        Ok(self.inner.read(hash)?.0)
    }

    /// Keeps chunks, here or to come, from the sweep as long as the guard lives.
    #[must_use]
    pub fn pin(&self, hashes: impl IntoIterator<Item = ChunkHash>) -> ChunkPin {
        let mut pin = ChunkPin::new(Arc::clone(&self.inner.pins));
        for hash in hashes {
            pin.add(hash);
        }
        pin
    }

    /// Bytes that were put and are not durable.
    #[must_use]
    pub fn unsynced_bytes(&self) -> u64 {
        self.inner.lock().unsynced_bytes
    }

    /// Bytes of all packs together.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        let state = self.inner.lock();
        state.packs.values().map(|pack| pack.length).sum()
    }

    /// What was no whole frame when the store opened; taken out.
    #[must_use]
    pub fn take_damaged(&self) -> Vec<DamagedRegion> {
        std::mem::take(&mut self.inner.lock().damaged)
    }
}

/// The store alone, without anybody to fetch from.
impl<E: Env> ChunkStore for PackStore<E> {
    async fn get(&self, chunk: ChunkRef) -> Result<Bytes, ChunkProblem> {
        self.read(chunk)
    }
}

impl<E: Env> Inner<E> {
    pub(super) fn lock(&self) -> MutexGuard<'_, State<FileOf<E>>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where a chunk is. A row of a pack that was removed is none: the index may be older.
    pub(super) fn locate(&self, hash: &ChunkHash) -> Result<Option<Location>, ChunkProblem> {
        if let Some(row) = self.lock().rows.get(hash) {
            return Ok(row.location);
        }
        let row = self.kv.get(&pack::chunk_key(hash)).map_err(index_failed)?;
        let Some(row) = row else { return Ok(None) };
        let location = Location::decode(&row)
            .ok_or_else(|| ChunkProblem::Storage(format!("the index's row of chunk {hash}")))?;
        let is_known = self.lock().packs.contains_key(&location.pack());
        Ok(is_known.then_some(location))
    }

    /// Frame and raw bytes of a chunk, proven; what fails the proof loses its place.
    pub(super) fn read(&self, hash: &ChunkHash) -> Result<(Bytes, Bytes), ChunkProblem> {
        for _ in 0..READ_TRIES {
            let Some(location) = self.locate(hash)? else {
                return Err(ChunkProblem::Missing { hash: *hash });
            };
            let found = self.read_at(&location)?;
            if let Some(frame) = found
                && let Ok((chunk, raw)) = frame::decode(&frame)
                && chunk.hash == *hash
            {
                return Ok((frame, raw));
            }
            if self.drop_location(hash, location)? {
                return Err(ChunkProblem::Damaged { hash: *hash });
            }
        }
        Err(ChunkProblem::Missing { hash: *hash })
    }

    /// Takes a chunk's place away if it is still this one.
    pub(super) fn drop_location(
        &self,
        hash: &ChunkHash,
        location: Location,
    ) -> Result<bool, ChunkProblem> {
        let is_there = self.locate(hash)? == Some(location);
        if is_there {
            self.lock().set_row(*hash, None);
        }
        Ok(is_there)
    }

    /// The bytes of a frame; `None` if the disk does not have them.
    fn read_at(&self, location: &Location) -> Result<Option<Bytes>, ChunkProblem> {
        let file = match self.handle(location.pack()) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(storage("opening a pack", &error)),
        };
        let (start, end) = location.span();
        let length = usize::try_from(end - start).unwrap_or(usize::MAX);
        if length > frame::FRAME_MAX_BYTES {
            return Ok(None);
        }
        // A read that fails once may be a moment's trouble; a place is given up for more than that,
        // since this may be the only copy.
        for _ in 0..DISK_TRIES {
            match crate::env::disk::read_exact(&*file, start, length) {
                Ok(bytes) => return Ok(Some(bytes.into())),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
                Err(_) => {}
            }
        }
        Ok(None)
    }

    /// A pack open for reading.
    pub(super) fn handle(&self, pack: u32) -> io::Result<Arc<FileOf<E>>> {
        let mut state = self.lock();
        if let Some(file) = state.handles.get(&pack) {
            return Ok(Arc::clone(file));
        }
        let writer = state.packs.get(&pack).and_then(|pack| pack.writer.clone());
        if let Some(file) = writer {
            return Ok(file);
        }
        let file = Arc::new(self.env.disk().open(&pack::pack_path(pack), Open::Read)?);
        if state.handles.len() >= HANDLES {
            // The oldest pack goes: reads are mostly of what is new, or walk in order.
            state.handles.pop_first();
        }
        state.handles.insert(pack, Arc::clone(&file));
        Ok(file)
    }
}

pub(in crate::chunk) fn index_failed(problem: crate::env::kv::KvProblem) -> ChunkProblem {
    ChunkProblem::Storage(problem.to_string())
}

#[cfg(test)]
mod tests;
