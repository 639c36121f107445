//! [pure] The stored and sent form of a chunk: a header of 48 bytes, then the payload.
//!
//! ```text
//! 0  3  magic ab e7 c5
//! 3  1  codec: 0 raw, 1 lz4 block
//! 4  4  raw length      8  4  stored length
//! 12 32 BLAKE3 of the raw bytes
//! 44 4  CRC-32C of bytes 0..44 and of the payload
//! ```
//!
//! The checksum finds rot without knowing the content; the hash proves the content (promise I1).
//! A frame is checked before it is believed: lengths against [`limit::CHUNK_MAX_BYTES`] before
//! anything is allocated (promise B2), then the checksum, then the decompressed length, then the
//! hash. Compression is decided by a probe: what it says is incompressible stays raw, and so does
//! what would not become smaller. See `docs/format.md`.

use aber_proto::{ChunkHash, ChunkRef, limit};
use bytes::Bytes;

/// Length of a frame's header in bytes.
pub const HEADER_BYTES: usize = 48;
/// Longest frame in bytes.
pub const FRAME_MAX_BYTES: usize = HEADER_BYTES + limit::CHUNK_MAX_BYTES;
/// First bytes of every frame.
pub const MAGIC: [u8; 3] = [0xab, 0xe7, 0xc5];

/// Bytes that are compressed to learn whether the chunk is worth it.
const PROBE_BYTES: usize = 4096;
/// Below this length the whole chunk is its own probe.
const PROBED_FROM_BYTES: usize = 4 * PROBE_BYTES;
/// What of a hundred bytes may remain of the probe for the chunk to be compressed.
const PROBE_PERCENT_MAX: usize = 95;

const CODEC_RAW: u8 = 0;
const CODEC_LZ4: u8 = 1;

/// How the payload is stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Codec {
    /// As it is.
    Raw,
    /// One lz4 block, without a size in front.
    Lz4,
}

/// Why a frame was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FrameProblem {
    /// Too short, no magic, an unknown codec, or lengths that cannot be.
    #[error("no frame of a chunk")]
    Header,
    /// Shorter or longer than its header says.
    #[error("a frame of {found_bytes} bytes, its header says {said_bytes}")]
    Length {
        /// What the header says.
        said_bytes: u64,
        /// What is there.
        found_bytes: u64,
    },
    /// The checksum does not match.
    #[error("the checksum of the frame of chunk {0} does not match")]
    Checksum(ChunkHash),
    /// The payload does not decompress to the length it claims.
    #[error("the payload of chunk {0} does not decompress")]
    Payload(ChunkHash),
    /// The bytes are another chunk's.
    #[error("the bytes said to be chunk {0} are not")]
    Hash(ChunkHash),
}

/// What a frame's header says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameHeader {
    /// How the payload is stored.
    pub codec: Codec,
    /// Length of the raw bytes.
    pub raw_length: u32,
    /// Length of the payload.
    pub stored_length: u32,
    /// BLAKE3 of the raw bytes.
    pub hash: ChunkHash,
    checksum: u32,
}

/// A frame to be written or sent: header and payload apart, so that raw bytes are not copied.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    /// The encoded header.
    pub header: [u8; HEADER_BYTES],
    /// The payload; for the raw codec the chunk's own bytes.
    pub payload: Bytes,
}

impl Codec {
    fn id(self) -> u8 {
        match self {
            Self::Raw => CODEC_RAW,
            Self::Lz4 => CODEC_LZ4,
        }
    }
}

impl FrameHeader {
    /// Reads a header. Checks all but the checksum, which covers the payload too.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (header, _) = bytes.split_first_chunk::<HEADER_BYTES>()?;
        let (magic, rest) = header.split_first_chunk::<3>()?;
        let (codec, rest) = rest.split_first()?;
        let (raw, rest) = rest.split_first_chunk::<4>()?;
        let (stored, rest) = rest.split_first_chunk::<4>()?;
        let (hash, checksum) = rest.split_first_chunk::<32>()?;
        let codec = match *codec {
            CODEC_RAW => Codec::Raw,
            CODEC_LZ4 => Codec::Lz4,
            _ => return None,
        };
        let found = Self {
            codec,
            raw_length: u32::from_le_bytes(*raw),
            stored_length: u32::from_le_bytes(*stored),
            hash: ChunkHash(*hash),
            checksum: u32::from_le_bytes(checksum.try_into().ok()?),
        };
        (*magic == MAGIC && found.lengths_can_be()).then_some(found)
    }

    fn lengths_can_be(&self) -> bool {
        let max = limit::CHUNK_MAX_BYTES as u64;
        let (raw, stored) = (u64::from(self.raw_length), u64::from(self.stored_length));
        let is_bounded = 0 < raw && raw <= max && 0 < stored && stored <= raw;
        is_bounded && (self.codec == Codec::Lz4 || stored == raw)
    }

    /// Length of header and payload together.
    #[must_use]
    pub fn frame_bytes(&self) -> u64 {
        HEADER_BYTES as u64 + u64::from(self.stored_length)
    }

    /// The chunk the frame claims to hold.
    #[must_use]
    pub fn chunk(&self) -> ChunkRef {
        ChunkRef {
            hash: self.hash,
            length: self.raw_length,
        }
    }

    fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let parts: [&[u8]; 6] = [
            &MAGIC,
            &[self.codec.id()],
            &self.raw_length.to_le_bytes(),
            &self.stored_length.to_le_bytes(),
            &self.hash.0,
            &self.checksum.to_le_bytes(),
        ];
        for (into, from) in bytes.iter_mut().zip(parts.into_iter().flatten()) {
            *into = *from;
        }
        bytes
    }
}

impl Frame {
    /// Length of header and payload together.
    #[must_use]
    pub fn len(&self) -> usize {
        HEADER_BYTES + self.payload.len()
    }

    /// Never: a frame has a header.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Header and payload in one piece.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        let mut bytes = Vec::with_capacity(self.len());
        bytes.extend_from_slice(&self.header);
        bytes.extend_from_slice(&self.payload);
        bytes.into()
    }
}

/// Makes the frame of a chunk. The caller vouches for the hash.
///
/// # Panics
/// If `raw` is empty or longer than a chunk may be.
#[must_use]
pub fn encode(hash: ChunkHash, raw: &Bytes) -> Frame {
    assert!(
        !raw.is_empty() && raw.len() <= limit::CHUNK_MAX_BYTES,
        "a chunk of {} bytes",
        raw.len()
    );
    let (codec, payload) = match compress(raw) {
        Some(packed) => (Codec::Lz4, packed),
        None => (Codec::Raw, raw.clone()),
    };
    let mut header = FrameHeader {
        codec,
        raw_length: length_u32(raw.len()),
        stored_length: length_u32(payload.len()),
        hash,
        checksum: 0,
    };
    assert!(header.lengths_can_be(), "a frame that could not be read");
    header.checksum = checksum(&header.encode(), &payload);
    Frame {
        header: header.encode(),
        payload,
    }
}

/// Whether header and payload are whole: right length, right checksum. The content is proven by
/// [`decode`] alone.
///
/// # Errors
/// What is wrong.
pub fn check(frame: &[u8]) -> Result<FrameHeader, FrameProblem> {
    let header = FrameHeader::parse(frame).ok_or(FrameProblem::Header)?;
    let said_bytes = header.frame_bytes();
    let found_bytes = frame.len() as u64;
    if found_bytes != said_bytes {
        return Err(FrameProblem::Length {
            said_bytes,
            found_bytes,
        });
    }
    let (head, payload) = frame
        .split_first_chunk::<HEADER_BYTES>()
        .ok_or(FrameProblem::Header)?;
    if checksum(head, payload) == header.checksum {
        Ok(header)
    } else {
        Err(FrameProblem::Checksum(header.hash))
    }
}

/// Reads a whole frame and proves its content: the answer's bytes have the hash and the length
/// that the header says.
///
/// # Errors
/// What is wrong.
pub fn decode(frame: &Bytes) -> Result<(ChunkRef, Bytes), FrameProblem> {
    let header = check(frame)?;
    let payload = frame.slice(HEADER_BYTES..);
    let raw = match header.codec {
        Codec::Raw => payload,
        Codec::Lz4 => decompress(&payload, &header)?,
    };
    if ChunkHash::of(&raw) == header.hash {
        Ok((header.chunk(), raw))
    } else {
        Err(FrameProblem::Hash(header.hash))
    }
}

fn decompress(payload: &[u8], header: &FrameHeader) -> Result<Bytes, FrameProblem> {
    let length = usize::try_from(header.raw_length).map_err(|_| FrameProblem::Header)?;
    let mut raw = vec![0; length];
    match lz4_flex::block::decompress_into(payload, &mut raw) {
        Ok(written) if written == length => Ok(raw.into()),
        _ => Err(FrameProblem::Payload(header.hash)),
    }
}

/// The compressed form, if there is a point in it.
fn compress(raw: &[u8]) -> Option<Bytes> {
    if raw.len() >= PROBED_FROM_BYTES && !is_compressible(raw) {
        return None;
    }
    let mut packed = vec![0; lz4_flex::block::get_maximum_output_size(raw.len())];
    let written = lz4_flex::block::compress_into(raw, &mut packed).ok()?;
    if written >= raw.len() {
        return None;
    }
    packed.truncate(written);
    Some(packed.into())
}

/// Compresses a piece from the middle: beginnings of files are untypically regular.
fn is_compressible(raw: &[u8]) -> bool {
    let start = raw.len() / 2;
    let probe = raw.get(start..start + PROBE_BYTES).unwrap_or(raw);
    let mut packed = [0; PROBE_PACKED_BYTES];
    lz4_flex::block::compress_into(probe, &mut packed)
        .is_ok_and(|written| written * 100 < probe.len() * PROBE_PERCENT_MAX)
}

const PROBE_PACKED_BYTES: usize = lz4_flex::block::get_maximum_output_size(PROBE_BYTES);

fn checksum(header: &[u8; HEADER_BYTES], payload: &[u8]) -> u32 {
    let covered = header
        .split_last_chunk::<4>()
        .map_or(&[][..], |(head, _)| head);
    crc32c::crc32c_append(crc32c::crc32c(covered), payload)
}

fn length_u32(length: usize) -> u32 {
    u32::try_from(length).expect("bounded by CHUNK_MAX_BYTES")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::testing::noise;
    use proptest::prelude::*;

    fn text(length: usize) -> Bytes {
        b"the estuary widens where the river meets the sea; "
            .iter()
            .copied()
            .cycle()
            .take(length)
            .collect::<Vec<_>>()
            .into()
    }

    fn framed(raw: &Bytes) -> Bytes {
        encode(ChunkHash::of(raw), raw).to_bytes()
    }

    #[test]
    fn text_is_compressed_and_noise_stays_as_it_is() {
        let (words, random) = (text(100_000), Bytes::from(noise(1, 100_000)));
        assert!(framed(&words).len() < 10_000);
        let frame = encode(ChunkHash::of(&random), &random);
        assert_eq!(frame.payload, random);
        let short = Bytes::from_static(b"abc");
        assert_eq!(encode(ChunkHash::of(&short), &short).payload, short);
    }

    /// Promise I1: a frame of other bytes than its name says is refused, checksum or not.
    #[test]
    fn a_frame_whose_content_has_another_hash_is_refused() {
        let raw = text(5000);
        let wrong = ChunkHash::of(b"another");
        let frame = encode(wrong, &raw).to_bytes();
        assert!(check(&frame).is_ok());
        assert_eq!(decode(&frame), Err(FrameProblem::Hash(wrong)));
    }

    /// Promise D5: every single flipped bit is found.
    #[test]
    fn every_flipped_bit_and_every_cut_is_found() {
        let frame = framed(&text(600));
        for bit in 0..frame.len() * 8 {
            let mut bytes = frame.to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&bytes.into()).is_err(), "bit {bit}");
        }
        for length in 0..frame.len() {
            assert!(decode(&frame.slice(..length)).is_err(), "cut at {length}");
        }
    }

    /// Promise B2: a header that claims more than a chunk may have is refused unread.
    #[test]
    fn lengths_above_the_limit_are_no_header() {
        let mut bytes = framed(&text(600)).to_vec();
        bytes[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(FrameHeader::parse(&bytes), None);
    }

    /// A compressed payload may neither fill less than the raw length nor more.
    #[test]
    fn a_payload_of_another_length_is_refused() {
        let raw = text(5000);
        for claimed in [4999_u32, 5001] {
            let frame = encode(ChunkHash::of(&raw), &raw);
            let mut header = FrameHeader::parse(&frame.header).unwrap();
            header.raw_length = claimed;
            header.checksum = checksum(&header.encode(), &frame.payload);
            let forged = Frame {
                header: header.encode(),
                payload: frame.payload,
            };
            let problem = decode(&forged.to_bytes());
            assert_eq!(problem, Err(FrameProblem::Payload(header.hash)));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn every_chunk_comes_back(seed: u64, length in 1..40_000_usize, is_text: bool) {
            let raw = if is_text { text(length) } else { noise(seed, length).into() };
            let frame = framed(&raw);
            let (chunk, back) = decode(&frame).unwrap();
            prop_assert_eq!(chunk.hash, ChunkHash::of(&raw));
            prop_assert_eq!(chunk.length as usize, length);
            prop_assert_eq!(back, raw);
        }

        #[test]
        fn arbitrary_bytes_never_panic(mut bytes: Vec<u8>, seed: u64) {
            let _ = decode(&bytes.clone().into());
            bytes.splice(0..0, framed(&noise(seed, 100).into()));
            let _ = decode(&bytes.into());
        }

        #[test]
        fn an_arbitrary_lz4_payload_never_panics(
            payload in prop::collection::vec(any::<u8>(), 1..200),
            raw_length in 200..100_000_u32,
        ) {
            let mut header = FrameHeader {
                codec: Codec::Lz4,
                raw_length,
                stored_length: length_u32(payload.len()),
                hash: ChunkHash([7; 32]),
                checksum: 0,
            };
            header.checksum = checksum(&header.encode(), &payload);
            let frame = Frame { header: header.encode(), payload: payload.into() };
            prop_assert!(decode(&frame.to_bytes()).is_err());
        }
    }
}
