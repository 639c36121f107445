//! [pure] Large bodies by hash: what stands for a body that is not in a message, and what it costs.
//!
//! An entry's body longer than [`limit::BODY_BYTES`] goes down the trees of content, once, as a parcel
//! of its own; what is sent of the entry then is its header and a [`BodyRef`]. The invariant, which
//! the drivers keep (`partition/bodies.rs`): *nothing of an entry is chained, stored, acknowledged,
//! believed or passed on before its body is in place and has the hash that the reference says*. So
//! nothing on disk, and no signature, knows of references.
//!
//! References are a saving, never a condition: `book` says who is sent which, `patience` how long a
//! body is waited for before it is asked for; whoever cannot have it is sent entries whole.

mod book;
mod patience;

pub use book::Book;
pub use patience::{Look, MOST, Next, next};

use crate::chunk::cut::{Cutter, average_for};
use aber_proto::generated::rpc;
use aber_proto::{ChunkHash, ChunkRef, ContentHash, limit, manifest};
use bytes::{Bytes, BytesMut};
use std::collections::BTreeMap;

/// Most chunks of a body: each cut but the last is at least this long.
const CHUNKS: usize = limit::ENTRY_BYTES / limit::CHUNK_MIN_BYTES + 1;
/// Most bytes of all bodies that one message names: as many as it could hold.
const MESSAGE_BODIES: u64 = limit::MESSAGE_BYTES as u64;

/// Stands for a body: what it is, and of what it can be put together.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BodyRef {
    /// BLAKE3 of all of it, as the chain has it.
    pub hash: ContentHash,
    /// Its chunks in order, as the store's cutter cuts it.
    pub chunks: Vec<ChunkRef>,
}

/// A reference, or bytes, of another node that are not what they should be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a malformed reference to a body: {0}")]
pub struct BadBody(pub &'static str);

impl BodyRef {
    /// The reference to a body, and its chunks.
    #[must_use]
    pub fn of(body: &Bytes) -> (Self, Vec<Bytes>) {
        let mut cutter = Cutter::new(average_for(Some(body.len() as u64), None));
        cutter.push(body);
        cutter.finish();
        let (mut chunks, mut pieces) = (Vec::new(), Vec::new());
        while let Some(piece) = cutter.next_chunk() {
            chunks.push(ChunkRef {
                hash: ChunkHash::of(&piece),
                length: u32::try_from(piece.len()).expect("bounded by CHUNK_MAX_BYTES"),
            });
            pieces.push(piece);
        }
        let hash = ContentHash::of(body);
        (Self { hash, chunks }, pieces)
    }

    /// Bytes of the body.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.chunks
            .iter()
            .map(|chunk| u64::from(chunk.length))
            .sum()
    }

    /// The body, put together from its chunks; `None` if they are not those of this body.
    #[must_use]
    pub fn assemble(&self, pieces: &[Bytes]) -> Option<Bytes> {
        let mut body = BytesMut::new();
        pieces
            .iter()
            .for_each(|piece| body.extend_from_slice(piece));
        self.is_of(&body).then(|| body.freeze())
    }

    /// Whether this is the body that is meant.
    #[must_use]
    pub fn is_of(&self, body: &[u8]) -> bool {
        body.len() as u64 == self.bytes() && ContentHash::of(body) == self.hash
    }

    /// A body cut as the reference says: its chunks where that is right.
    pub fn pieces_of(&self, body: &Bytes) -> impl Iterator<Item = (ChunkRef, Bytes)> {
        let mut rest = body.clone();
        self.chunks.iter().filter_map(move |chunk| {
            let length = usize::try_from(chunk.length).ok()?;
            let piece = rest.split_to(length.min(rest.len()));
            (ChunkHash::of(&piece) == chunk.hash).then_some((*chunk, piece))
        })
    }

    /// As a message; `index` says whose body it is.
    #[must_use]
    pub fn to_message(&self, index: u64) -> rpc::BodyRef {
        rpc::BodyRef {
            index,
            hash: Bytes::copy_from_slice(&self.hash.0),
            rows: manifest::encode_list(&self.chunks).into(),
        }
    }

    /// The inverse of [`BodyRef::to_message`], but for the index.
    ///
    /// # Errors
    /// No hash, no chunks or too many, or a body longer than any entry has: told by what is named,
    /// before anything is allocated or asked for (promise B2).
    pub fn from_message(message: &rpc::BodyRef) -> Result<Self, BadBody> {
        let hash = ContentHash::from_slice(&message.hash).ok_or(BadBody("its hash"))?;
        if message.rows.len() > CHUNKS * limit::CHUNK_ROW_BYTES {
            return Err(BadBody("too many chunks"));
        }
        let chunks = manifest::decode_list(&message.rows);
        let chunks = chunks.map_err(|_| BadBody("its rows"))?;
        let this = Self { hash, chunks };
        match this.bytes() {
            0 => Err(BadBody("it is empty")),
            bytes if bytes > limit::ENTRY_BYTES as u64 => Err(BadBody("it is too long")),
            _ => Ok(this),
        }
    }
}

/// The references of a message, by the index of what they are the bodies of.
///
/// # Errors
/// One that is malformed, two of one index, or more in all than a message can hold.
pub fn named(messages: &[rpc::BodyRef]) -> Result<BTreeMap<u64, BodyRef>, BadBody> {
    let (mut all, mut bytes) = (BTreeMap::new(), 0);
    for message in messages {
        let body = BodyRef::from_message(message)?;
        bytes += body.bytes();
        if bytes > MESSAGE_BODIES {
            return Err(BadBody("more than a message can hold"));
        }
        if all.insert(message.index, body).is_some() {
            return Err(BadBody("two of one index"));
        }
    }
    Ok(all)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Bytes that no compression and no cutter finds anything in.
    pub(crate) fn noise(length: usize, seed: u8) -> Bytes {
        let mut bytes = vec![0; length];
        let mut hasher = blake3::Hasher::new();
        hasher.update(&[seed]);
        hasher.finalize_xof().fill(&mut bytes);
        bytes.into()
    }

    #[test]
    fn a_body_comes_back_from_its_chunks_and_from_nothing_else() {
        for length in [1, limit::BODY_BYTES + 1, 200_000, limit::ENTRY_BYTES] {
            let body = noise(length, 1);
            let (reference, pieces) = BodyRef::of(&body);
            assert_eq!(reference.bytes(), length as u64);
            assert_eq!(reference.assemble(&pieces), Some(body.clone()));
            let cut: Vec<_> = reference.pieces_of(&body).map(|(_, piece)| piece).collect();
            assert_eq!(cut, pieces);
            assert_eq!(reference.assemble(&pieces[1..]), None);
            assert!(!reference.is_of(&noise(length, 2)));
            let message = reference.to_message(7);
            assert_eq!(BodyRef::from_message(&message), Ok(reference));
        }
    }

    /// B2: what a reference costs is known before anything is done for it.
    #[test]
    fn absurd_references_are_refused() {
        let (good, _) = BodyRef::of(&noise(200_000, 1));
        let good = good.to_message(3);
        let row = |length: u32| {
            let hash = ChunkHash([1; 32]);
            manifest::encode_list(&[ChunkRef { hash, length }])
        };
        let with = |rows: Vec<u8>| rpc::BodyRef {
            rows: rows.into(),
            ..good.clone()
        };
        let longest = u32::try_from(limit::ENTRY_BYTES).unwrap();
        let bad = [
            with(Vec::new()),
            with(row(0)),
            with(row(longest + 1)),
            with(row(u32::MAX)),
            with(row(longest / 2).repeat(3)),
            with(row(1).repeat(CHUNKS + 1)),
            with(row(5)[1..].to_vec()),
            rpc::BodyRef {
                hash: Bytes::from_static(b"short"),
                ..good.clone()
            },
        ];
        for message in bad {
            assert!(BodyRef::from_message(&message).is_err(), "{message:?}");
        }
        assert!(BodyRef::from_message(&with(row(longest))).is_ok());
        let many = |count: u64| -> Vec<_> {
            let all = (0..count).map(|index| rpc::BodyRef {
                index,
                ..with(row(longest))
            });
            all.collect()
        };
        let most = MESSAGE_BODIES / u64::from(longest);
        assert_eq!(named(&many(most)).map(|all| all.len() as u64), Ok(most));
        assert!(named(&many(most + 1)).is_err());
        assert!(named(&[good.clone(), good]).is_err());
    }
}
