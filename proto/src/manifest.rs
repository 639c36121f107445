//! [pure] What a file's content consists of, and what a version is.

use crate::hash::{ChunkHash, ContentHash};
use crate::limit;
use crate::unit::FileTime;
use bytes::Bytes;

/// One piece of a content: its hash and its raw length in bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ChunkRef {
    /// BLAKE3 of the raw bytes.
    pub hash: ChunkHash,
    /// Raw length in bytes, 1 to [`limit::CHUNK_MAX_BYTES`].
    pub length: u32,
}

/// Where the ordered chunks of a content are listed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ChunkList {
    /// Here: at most [`limit::MANIFEST_CHUNKS`].
    Direct(Vec<ChunkRef>),
    /// In a list of rows (hash, little-endian length) that is itself stored as these chunks.
    Indirect(Vec<ChunkRef>),
}

/// The ordered pieces of one version of a file. Its size is the sum of its chunks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Manifest {
    /// Size of the content in bytes.
    pub size: u64,
    /// BLAKE3 of the whole content.
    pub blake3: ContentHash,
    /// The average chunk size the cutter was asked for; the next version keeps it.
    pub average: u32,
    /// The chunks.
    pub chunks: ChunkList,
}

/// The bytes of a version: in the event itself up to [`limit::INLINE_BYTES`], else in chunks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Content {
    /// The bytes themselves.
    Inline(Bytes),
    /// A list of chunks.
    Chunks(Manifest),
}

/// Attributes a put gives to a version.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Attributes {
    /// Modification time, as data.
    pub mtime: FileTime,
    /// Nine permission bits; `None` keeps the file's present ones, or 0644.
    pub mode: Option<u16>,
}

/// Why a manifest was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ManifestProblem {
    /// A direct list whose lengths do not add up to the size.
    #[error("the chunks have {found} bytes, the manifest says {said}")]
    SizeDiffers {
        /// The size written in the manifest.
        said: u64,
        /// The sum of the chunks' lengths.
        found: u64,
    },
    /// More than [`limit::MANIFEST_CHUNKS`] rows.
    #[error("{0} chunks are too many for one list")]
    TooManyChunks(usize),
    /// A chunk of no bytes, or above the limit.
    #[error("a chunk of {0} bytes")]
    ChunkLength(u32),
    /// An average outside the cutter's limits.
    #[error("an average of {0} bytes")]
    Average(u32),
    /// A stored list that is no sequence of rows.
    #[error("a chunk list of {0} bytes is no sequence of rows")]
    ListLength(usize),
    /// Inline content above its limit.
    #[error("{0} bytes are too many for inline content")]
    InlineTooLong(usize),
}

impl ChunkList {
    /// The rows at hand: the chunks themselves, or those that hold the list.
    #[must_use]
    pub fn rows(&self) -> &[ChunkRef] {
        match self {
            Self::Direct(rows) | Self::Indirect(rows) => rows,
        }
    }
}

impl Manifest {
    /// Checks what can be checked without reading a chunk.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn check(&self) -> Result<(), ManifestProblem> {
        let rows = self.chunks.rows();
        if rows.len() > limit::MANIFEST_CHUNKS {
            return Err(ManifestProblem::TooManyChunks(rows.len()));
        }
        let average = usize::try_from(self.average).unwrap_or(usize::MAX);
        if !(limit::CHUNK_AVERAGE_MIN_BYTES..=limit::CHUNK_AVERAGE_MAX_BYTES).contains(&average) {
            return Err(ManifestProblem::Average(self.average));
        }
        check_lengths(rows)?;
        let (said, found) = (
            self.size,
            rows.iter().map(|row| u64::from(row.length)).sum(),
        );
        match self.chunks {
            ChunkList::Direct(_) if found != said => {
                Err(ManifestProblem::SizeDiffers { said, found })
            }
            ChunkList::Indirect(_) if !is_list_length(found) => {
                let length = usize::try_from(found).unwrap_or(usize::MAX);
                Err(ManifestProblem::ListLength(length))
            }
            _ => Ok(()),
        }
    }
}

/// Whether so many bytes can be a stored chunk list: whole rows, at least one.
fn is_list_length(bytes: u64) -> bool {
    bytes > 0 && bytes.is_multiple_of(limit::CHUNK_ROW_BYTES as u64)
}

fn check_lengths(rows: &[ChunkRef]) -> Result<(), ManifestProblem> {
    let max = limit::CHUNK_MAX_BYTES as u64;
    match rows
        .iter()
        .find(|row| row.length == 0 || u64::from(row.length) > max)
    {
        Some(row) => Err(ManifestProblem::ChunkLength(row.length)),
        None => Ok(()),
    }
}

/// A chunk list as it is stored: for each chunk 32 bytes of hash, 4 of length, little-endian.
#[must_use]
pub fn encode_list(rows: &[ChunkRef]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(rows.len() * limit::CHUNK_ROW_BYTES);
    for row in rows {
        bytes.extend_from_slice(&row.hash.0);
        bytes.extend_from_slice(&row.length.to_le_bytes());
    }
    bytes
}

/// The inverse of [`encode_list`].
///
/// # Errors
/// A length that is no multiple of a row or above its limit, or a row with an impossible length.
pub fn decode_list(bytes: &[u8]) -> Result<Vec<ChunkRef>, ManifestProblem> {
    let (rows, rest) = bytes.as_chunks::<{ limit::CHUNK_ROW_BYTES }>();
    if !rest.is_empty() || bytes.len() > limit::CHUNK_LIST_BYTES {
        return Err(ManifestProblem::ListLength(bytes.len()));
    }
    let rows: Vec<ChunkRef> = rows.iter().map(decode_row).collect();
    check_lengths(&rows)?;
    Ok(rows)
}

fn decode_row(row: &[u8; limit::CHUNK_ROW_BYTES]) -> ChunkRef {
    let [hash @ .., a, b, c, d] = *row;
    ChunkRef {
        hash: ChunkHash(hash),
        length: u32::from_le_bytes([a, b, c, d]),
    }
}

impl Content {
    /// Size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        match self {
            Self::Inline(bytes) => bytes.len() as u64,
            Self::Chunks(manifest) => manifest.size,
        }
    }

    /// BLAKE3 of the whole content.
    #[must_use]
    pub fn blake3(&self) -> ContentHash {
        match self {
            Self::Inline(bytes) => ContentHash::of(bytes),
            Self::Chunks(manifest) => manifest.blake3,
        }
    }

    /// The chunks named here, none for inline content. Of an indirect manifest these are the
    /// chunks of the list.
    #[must_use]
    pub fn rows(&self) -> &[ChunkRef] {
        match self {
            Self::Inline(_) => &[],
            Self::Chunks(manifest) => manifest.chunks.rows(),
        }
    }

    /// Checks what can be checked without reading a chunk.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn check(&self) -> Result<(), ManifestProblem> {
        match self {
            Self::Inline(bytes) if bytes.len() > limit::INLINE_BYTES => {
                Err(ManifestProblem::InlineTooLong(bytes.len()))
            }
            Self::Inline(_) => Ok(()),
            Self::Chunks(manifest) => manifest.check(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_comes_back_and_a_cut_one_is_refused() {
        let rows: Vec<_> = (1..=3)
            .map(|n| ChunkRef {
                hash: ChunkHash([n; 32]),
                length: n.into(),
            })
            .collect();
        let mut bytes = encode_list(&rows);
        assert_eq!(decode_list(&bytes), Ok(rows));
        bytes.pop();
        assert_eq!(decode_list(&bytes), Err(ManifestProblem::ListLength(107)));
    }

    #[test]
    fn a_direct_manifest_must_add_up() {
        let rows = vec![ChunkRef {
            hash: ChunkHash([1; 32]),
            length: 5000,
        }];
        let mut manifest = Manifest {
            size: 5000,
            blake3: ContentHash::default(),
            average: 16 * 1024,
            chunks: ChunkList::Direct(rows),
        };
        assert_eq!(manifest.check(), Ok(()));
        manifest.size = 4999;
        assert_eq!(
            manifest.check(),
            Err(ManifestProblem::SizeDiffers {
                said: 4999,
                found: 5000
            })
        );
    }
}
