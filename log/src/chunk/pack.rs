//! [driver] A pack: one append-only file of frames, and where a chunk is in it.
//!
//! ```text
//! 0  8  magic "aberpack"          48 4  CRC-32C of bytes 0..48
//! 8  4  format version            52    frames, back to back
//! 12 4  pack number               end   seal (48 bytes), once the pack is closed and durable
//! 16 32 cluster id
//! ```
//!
//! A [`PackScanner`] walks the frames. What is no whole frame is damage: it is reported and the
//! walk goes on at the next whole frame, wherever that begins. A frame found inside a damaged one
//! does no harm, since a chunk is proven by its hash on every read. A seal says that everything
//! before it was fsynced; see `docs/format.md`.

use crate::chunk::frame::{self, FRAME_MAX_BYTES, FrameHeader, HEADER_BYTES, MAGIC};
use crate::env::File;
use aber_proto::{ChunkHash, ClusterId};
use bytes::Bytes;
use std::path::{Path, PathBuf};

/// The directory of the packs, below the node's data directory.
pub const DIRECTORY: &str = "chunks";
/// Length of a pack's header in bytes.
pub const PACK_HEADER_BYTES: u64 = 52;
/// Length of a seal in bytes.
pub const SEAL_BYTES: u64 = HEADER_BYTES as u64;
/// The format this code writes.
pub const FORMAT_VERSION: u32 = 1;

const PACK_MAGIC: [u8; 8] = *b"aberpack";
const SEAL_CONTEXT: &str = "aber 2026 pack seal v1";
const KEY_CHUNK: u8 = b'C';
const KEY_PACK: u8 = b'c';
const TAG_PACK: u8 = 1;
const WINDOW_BYTES: usize = 2 * FRAME_MAX_BYTES;
const HEADER_WINDOW_BYTES: usize = 4096;
/// What is skipped where the disk cannot read.
const SECTOR_BYTES: u64 = 4096;

/// Where a chunk's frame is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Location {
    /// In a pack.
    Pack {
        /// The pack's number.
        pack: u32,
        /// Where its frame begins.
        offset: u32,
        /// Length of the frame, header included.
        frame_bytes: u32,
    },
}

impl Location {
    /// As a value of the index: tag, pack, offset, length.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let Self::Pack {
            pack,
            offset,
            frame_bytes,
        } = self;
        let mut bytes = vec![TAG_PACK];
        for number in [pack, offset, frame_bytes] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.into()
    }

    /// The inverse of [`Location::encode`].
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (&TAG_PACK, rest) = bytes.split_first()? else {
            return None;
        };
        let (numbers, []) = rest.as_chunks::<4>() else {
            return None;
        };
        let &[pack, offset, frame_bytes] = numbers else {
            return None;
        };
        Some(Self::Pack {
            pack: u32::from_le_bytes(pack),
            offset: u32::from_le_bytes(offset),
            frame_bytes: u32::from_le_bytes(frame_bytes),
        })
    }

    /// The pack it is in.
    #[must_use]
    pub fn pack(&self) -> u32 {
        let Self::Pack { pack, .. } = self;
        *pack
    }

    /// First byte of the frame, and the byte after its last.
    #[must_use]
    pub fn span(&self) -> (u64, u64) {
        let Self::Pack {
            offset,
            frame_bytes,
            ..
        } = self;
        let start = u64::from(*offset);
        (start, start + u64::from(*frame_bytes))
    }
}

/// What the index knows of a pack: up to where its frames are indexed and durable, and whether it
/// takes no more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PackRow {
    /// Everything before this offset is durable and indexed.
    pub indexed_bytes: u64,
    /// Nothing is appended any more.
    pub is_closed: bool,
}

impl PackRow {
    /// As a value of the index.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut bytes = self.indexed_bytes.to_le_bytes().to_vec();
        bytes.push(u8::from(self.is_closed));
        bytes.into()
    }

    /// The inverse of [`PackRow::encode`].
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (length, rest) = bytes.split_first_chunk::<8>()?;
        let &[is_closed] = rest else {
            return None;
        };
        Some(Self {
            indexed_bytes: u64::from_le_bytes(*length),
            is_closed: is_closed != 0,
        })
    }
}

/// The index's key of a chunk.
#[must_use]
pub fn chunk_key(hash: &ChunkHash) -> Bytes {
    let mut key = Vec::with_capacity(33);
    key.push(KEY_CHUNK);
    key.extend_from_slice(&hash.0);
    key.into()
}

/// The chunk of a key of the index.
#[must_use]
pub fn chunk_of_key(key: &[u8]) -> Option<ChunkHash> {
    match key.split_first()? {
        (&KEY_CHUNK, hash) => ChunkHash::from_slice(hash),
        _ => None,
    }
}

/// The first key of all chunks, and the first one after them.
#[must_use]
pub fn chunk_keys() -> ([u8; 1], [u8; 1]) {
    ([KEY_CHUNK], [KEY_CHUNK + 1])
}

/// The pack of a key of the index.
#[must_use]
pub fn pack_of_key(key: &[u8]) -> Option<u32> {
    let (&KEY_PACK, number) = key.split_first()? else {
        return None;
    };
    #[expect(clippy::big_endian_bytes, reason = "keys sort by bytes")]
    Some(u32::from_be_bytes(number.try_into().ok()?))
}

/// The first key of all packs, and the first one after them.
#[must_use]
pub fn pack_keys() -> ([u8; 1], [u8; 1]) {
    ([KEY_PACK], [KEY_PACK + 1])
}

/// The index's key of a pack.
#[must_use]
pub fn pack_key(pack: u32) -> Bytes {
    let mut key = vec![KEY_PACK];
    #[expect(clippy::big_endian_bytes, reason = "keys sort by bytes")]
    key.extend_from_slice(&pack.to_be_bytes());
    key.into()
}

/// A pack's path.
#[must_use]
pub fn pack_path(pack: u32) -> PathBuf {
    Path::new(DIRECTORY).join(format!("{pack:08}.pack"))
}

/// The number of a pack by its file name.
#[must_use]
pub fn pack_of_name(name: &std::ffi::OsStr) -> Option<u32> {
    let number: u32 = name.to_str()?.strip_suffix(".pack")?.parse().ok()?;
    (pack_path(number).file_name() == Some(name)).then_some(number)
}

/// Why a pack may not be used at all.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PackProblem {
    /// It is of another cluster: directories were mixed up.
    #[error("pack {pack} is of cluster {found}")]
    Cluster {
        /// Which.
        pack: u32,
        /// Whose it is.
        found: ClusterId,
    },
    /// A newer program wrote it.
    #[error("pack {pack} has format {found}, this program knows {FORMAT_VERSION}")]
    Version {
        /// Which.
        pack: u32,
        /// Its format.
        found: u32,
    },
}

/// The first bytes of a pack.
#[must_use]
pub fn encode_header(cluster: ClusterId, pack: u32) -> Vec<u8> {
    let mut bytes = PACK_MAGIC.to_vec();
    bytes.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
    bytes.extend_from_slice(&pack.to_le_bytes());
    bytes.extend_from_slice(&cluster.0);
    let checksum = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    bytes
}

/// Checks a pack's header. `Ok(false)` means that it is torn or damaged: its frames can be used,
/// nothing may be appended.
///
/// # Errors
/// A whole header that says the pack is not ours.
pub fn check_header(bytes: &[u8], cluster: ClusterId, pack: u32) -> Result<bool, PackProblem> {
    if bytes == encode_header(cluster, pack) {
        return Ok(true);
    }
    match parse_header(bytes) {
        Some((found, _)) if found != FORMAT_VERSION => Err(PackProblem::Version { pack, found }),
        Some((_, found)) if found != cluster => Err(PackProblem::Cluster { pack, found }),
        _ => Ok(false),
    }
}

fn parse_header(bytes: &[u8]) -> Option<(u32, ClusterId)> {
    let (covered, checksum) = bytes.split_last_chunk::<4>()?;
    let (magic, rest) = covered.split_first_chunk::<8>()?;
    let (version, rest) = rest.split_first_chunk::<4>()?;
    let (_, rest) = rest.split_first_chunk::<4>()?;
    let is_whole = *magic == PACK_MAGIC && crc32c::crc32c(covered) == u32::from_le_bytes(*checksum);
    let cluster = ClusterId(rest.try_into().ok()?);
    is_whole.then_some((u32::from_le_bytes(*version), cluster))
}

/// What is written at `offset` once all before it is durable. Bound to its place, so that none of
/// a chunk's bytes can pass for it.
#[must_use]
pub fn seal(cluster: ClusterId, pack: u32, offset: u64) -> [u8; HEADER_BYTES] {
    let mut place = cluster.0.to_vec();
    place.extend_from_slice(&pack.to_le_bytes());
    place.extend_from_slice(&offset.to_le_bytes());
    let mut bytes = [0; HEADER_BYTES];
    blake3::Hasher::new_derive_key(SEAL_CONTEXT)
        .update(&place)
        .finalize_xof()
        .fill(&mut bytes);
    bytes
}

/// How closely frames are looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Look {
    /// Headers only, without their checksums; payloads are not read.
    Headers,
    /// Everything.
    Whole,
}

/// What stands in a pack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// A frame.
    Frame {
        /// Where it begins.
        offset: u64,
        /// What it says.
        header: FrameHeader,
    },
    /// No whole frame.
    Damage {
        /// Where it begins.
        offset: u64,
        /// Where it ends.
        end: u64,
    },
    /// The seal; nothing follows.
    Seal,
    /// Nothing follows.
    End,
}

/// Walks the frames of a pack from an offset on.
pub struct PackScanner<'f, F> {
    file: &'f F,
    place: (ClusterId, u32),
    look: Look,
    position: u64,
    end: u64,
    window: Vec<u8>,
    window_at: u64,
    is_unreadable: bool,
}

impl<'f, F: File> PackScanner<'f, F> {
    /// Walks from `from` to `end`, both offsets in the file of this pack of this cluster.
    pub fn new(file: &'f F, place: (ClusterId, u32), span: (u64, u64), look: Look) -> Self {
        Self {
            file,
            place,
            look,
            position: span.0,
            end: span.1,
            window: Vec::new(),
            window_at: 0,
            is_unreadable: false,
        }
    }

    /// What comes next.
    pub fn next_found(&mut self) -> Found {
        let offset = self.position;
        if offset >= self.end {
            return Found::End;
        }
        if let Some(header) = self.frame_at(offset, self.look) {
            self.position = offset + header.frame_bytes();
            return Found::Frame { offset, header };
        }
        let seal = seal(self.place.0, self.place.1, offset);
        if offset + HEADER_BYTES as u64 == self.end && self.view(offset, HEADER_BYTES) == seal {
            self.position = self.end;
            return Found::Seal;
        }
        self.position = self.next_whole(offset + 1);
        Found::Damage {
            offset,
            end: self.position,
        }
    }

    /// The bytes of a frame that was found, as far as they can be read.
    pub fn bytes_of(&mut self, offset: u64, header: &FrameHeader) -> &[u8] {
        let length = usize::try_from(header.frame_bytes()).unwrap_or(0);
        self.view(offset, length)
    }

    /// Whether a frame that was found by its header alone is whole. If not, the walk goes back and
    /// on at the next whole frame: a damaged length leads past its neighbours.
    pub fn confirm(&mut self, offset: u64, header: &FrameHeader) -> bool {
        let is_whole = frame::check(self.bytes_of(offset, header)).is_ok();
        if !is_whole {
            self.position = self.next_whole(offset + 1);
        }
        is_whole
    }

    /// Whether the disk failed to read some of the pack.
    #[must_use]
    pub fn met_unreadable(&self) -> bool {
        self.is_unreadable
    }

    fn frame_at(&mut self, offset: u64, look: Look) -> Option<FrameHeader> {
        let header = FrameHeader::parse(self.view(offset, HEADER_BYTES))?;
        if offset + header.frame_bytes() > self.end {
            return None;
        }
        if look == Look::Whole {
            frame::check(self.bytes_of(offset, &header)).ok()?;
        }
        Some(header)
    }

    /// The offset of the next whole frame at or after `from`, or the end.
    fn next_whole(&mut self, from: u64) -> u64 {
        let mut at = from;
        while at < self.end {
            let view = self.view(at, WINDOW_BYTES);
            if view.is_empty() {
                at = (at / SECTOR_BYTES + 1) * SECTOR_BYTES;
                continue;
            }
            let seen = view.len();
            let found = view.windows(MAGIC.len()).position(|bytes| bytes == MAGIC);
            match found {
                Some(skip) if self.frame_at(at + skip as u64, Look::Whole).is_some() => {
                    return at + skip as u64;
                }
                Some(skip) => at += skip as u64 + 1,
                // The magic may begin in the last bytes of the window.
                None if seen > MAGIC.len() => at += (seen - MAGIC.len() + 1) as u64,
                None => return self.end,
            }
        }
        self.end
    }

    /// Up to `length` bytes at `offset`: fewer at the end and where the disk cannot read.
    fn view(&mut self, offset: u64, length: usize) -> &[u8] {
        let rest = usize::try_from(self.end.saturating_sub(offset)).unwrap_or(usize::MAX);
        let length = length.min(rest);
        if self.windowed(offset, length).is_none() {
            self.refill(offset, length);
        }
        match self.windowed(offset, length) {
            Some((start, end)) => self.window.get(start..end).unwrap_or_default(),
            None => &[],
        }
    }

    fn windowed(&self, offset: u64, length: usize) -> Option<(usize, usize)> {
        let start = usize::try_from(offset.checked_sub(self.window_at)?).ok()?;
        let end = start.checked_add(length)?;
        (end <= self.window.len()).then_some((start, end))
    }

    fn refill(&mut self, offset: u64, length: usize) {
        let usual = match self.look {
            Look::Headers => HEADER_WINDOW_BYTES,
            Look::Whole => WINDOW_BYTES,
        };
        let rest = usize::try_from(self.end - offset).unwrap_or(usize::MAX);
        self.window_at = offset;
        for wanted in [length.max(usual).min(rest), length] {
            self.window.resize(wanted, 0);
            match self.file.read_at(&mut self.window, offset) {
                Ok(read) => return self.window.truncate(read),
                Err(_) => self.is_unreadable = true,
            }
        }
        self.window.clear();
    }
}
