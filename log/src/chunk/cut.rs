//! [pure] Where a content is cut: FastCDC, the 2020 version, normalisation level 2.
//!
//! A cut depends on the bytes after the cut before it, up to the longest chunk, and on nothing
//! else: not on how the content arrives. So a [`Cutter`] answers a chunk only once it holds the
//! longest one, or the end. Bytes are copied once, into a buffer from which chunks are split off.
//!
//! Cuts are a format: nodes that cut alike share chunks. Hence the exact pin of the crate, and the
//! golden cuts in the tests of this file.

use aber_proto::limit;
use bytes::{Bytes, BytesMut};
use fastcdc::v2020::{Normalization, cut, select_masks};

/// The average for a content whose size is not known beforehand, in bytes.
pub const AVERAGE_UNKNOWN_BYTES: u32 = 64 * 1024;
/// Pieces a content is meant to have, at least: what one chunk takes on a line is what its last
/// steps down the relay's trees take, and what stripes differ by (decision 18).
const PIECES: u64 = 512;
/// A version keeps the average of the one before it while it would have this many pieces: those
/// that it was made for are twice [`PIECES`] at most, and it may double once.
const PIECES_KEPT: std::ops::RangeInclusive<u64> = 128..=4 * PIECES;
/// The buffer has room for this many of the longest chunks, so that little is moved when it is
/// full.
const BUFFER_CHUNKS: usize = 8;

const _: () = assert!(limit::CHUNK_AVERAGE_MIN_BYTES / 4 >= fastcdc::v2020::MINIMUM_MIN);
const _: () = assert!(limit::CHUNK_AVERAGE_MAX_BYTES / 4 <= fastcdc::v2020::MINIMUM_MAX);
const _: () = assert!(limit::CHUNK_AVERAGE_MAX_BYTES <= fastcdc::v2020::AVERAGE_MAX);
const _: () = assert!(limit::CHUNK_MAX_BYTES <= fastcdc::v2020::MAXIMUM_MAX);
const _: () = assert!(limit::CHUNK_AVERAGE_MIN_BYTES.is_multiple_of(8));

/// The average chunk size for a content of `size` bytes: a 512th of it as a power of two, within
/// the limits. A new version keeps that of the `previous` one while it still fits; else the whole
/// file would be new each time its size doubles.
#[must_use]
pub fn average_for(size: Option<u64>, previous: Option<u32>) -> u32 {
    let previous = previous.filter(|average| average.is_power_of_two() && is_average(*average));
    let Some(size) = size else {
        return previous.unwrap_or(AVERAGE_UNKNOWN_BYTES);
    };
    match previous {
        Some(average) if PIECES_KEPT.contains(&(size / u64::from(average))) => average,
        _ => fresh_average(size),
    }
}

fn fresh_average(size: u64) -> u32 {
    let (min, max) = (
        limit::CHUNK_AVERAGE_MIN_BYTES as u64,
        limit::CHUNK_AVERAGE_MAX_BYTES as u64,
    );
    let wanted = (size / PIECES).clamp(min, max);
    let power = 1 << wanted.ilog2();
    u32::try_from(power).expect("at most CHUNK_AVERAGE_MAX_BYTES")
}

/// Whether the cutter can be asked for this average.
#[must_use]
pub fn is_average(average: u32) -> bool {
    let range = limit::CHUNK_AVERAGE_MIN_BYTES..=limit::CHUNK_AVERAGE_MAX_BYTES;
    usize::try_from(average).is_ok_and(|average| range.contains(&average))
        && average.is_multiple_of(8)
}

/// Cuts a stream of bytes into chunks.
pub struct Cutter {
    average: usize,
    masks: (u64, u64),
    buffer: BytesMut,
    is_finished: bool,
}

impl Cutter {
    /// A cutter for chunks of a quarter of `average` to four times it.
    ///
    /// # Panics
    /// If the average is outside the limits; see [`is_average`].
    #[must_use]
    pub fn new(average: u32) -> Self {
        assert!(is_average(average), "an average of {average} bytes");
        let average = usize::try_from(average).expect("a u32 fits");
        Self {
            average,
            masks: select_masks(average, Normalization::Level2),
            buffer: BytesMut::new(),
            is_finished: false,
        }
    }

    /// Takes the next bytes. Take the chunks out by [`Cutter::next_chunk`] before more are given:
    /// what was not taken is kept in memory.
    ///
    /// # Panics
    /// After [`Cutter::finish`].
    pub fn push(&mut self, bytes: &[u8]) {
        assert!(!self.is_finished, "bytes after the end");
        if !self.buffer.try_reclaim(bytes.len()) {
            self.grow(bytes.len());
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next chunk, if its end is certain.
    pub fn next_chunk(&mut self) -> Option<Bytes> {
        let is_certain = self.buffer.len() >= self.longest() || self.is_finished;
        if !is_certain || self.buffer.is_empty() {
            return None;
        }
        let end = self.cut();
        assert!(0 < end && end <= self.longest(), "a chunk of {end} bytes");
        Some(self.buffer.split_to(end).freeze())
    }

    /// Says that no bytes follow: the remaining chunks can be taken out.
    pub fn finish(&mut self) {
        self.is_finished = true;
    }

    /// Bytes taken and not yet cut.
    #[must_use]
    pub fn waiting_bytes(&self) -> usize {
        self.buffer.len()
    }

    /// Length of the longest chunk.
    #[must_use]
    pub fn longest(&self) -> usize {
        self.average * 4
    }

    /// A new buffer: the old one's chunks are still in use, or it was too small. The first bytes
    /// of a small content do not pay for the buffer of a large one.
    fn grow(&mut self, more: usize) {
        let wanted = self.buffer.len() + more;
        let room = if wanted < self.longest() {
            wanted.max(2 * self.buffer.len())
        } else {
            wanted.max(BUFFER_CHUNKS * self.longest())
        };
        let mut buffer = BytesMut::with_capacity(room);
        buffer.extend_from_slice(&self.buffer);
        self.buffer = buffer;
    }

    fn cut(&self) -> usize {
        let (small, large) = self.masks;
        let (_, end) = cut(
            &self.buffer,
            self.average / 4,
            self.average,
            self.longest(),
            small,
            large,
            small << 1,
            large << 1,
        );
        end
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::testing::noise;
    use proptest::prelude::*;

    fn lengths(average: u32, pieces: &[&[u8]]) -> Vec<usize> {
        let mut cutter = Cutter::new(average);
        let mut found = Vec::new();
        for piece in pieces {
            cutter.push(piece);
            while let Some(chunk) = cutter.next_chunk() {
                found.push(chunk.len());
            }
        }
        cutter.finish();
        while let Some(chunk) = cutter.next_chunk() {
            found.push(chunk.len());
        }
        found
    }

    /// Cuts are a format: if this fails, old and new versions no longer share chunks.
    #[test]
    fn the_cuts_of_a_fixed_input_do_not_change() {
        let content = noise(0x5eed, 300_000);
        assert_eq!(lengths(16 * 1024, &[&content]), GOLDEN_16_KIB);
        let content = noise(0x5eed, 3_000_000);
        assert_eq!(lengths(256 * 1024, &[&content]), GOLDEN_256_KIB);
    }

    #[test]
    fn cuts_are_those_of_the_crate_on_the_whole_input() {
        let content = noise(3, 1_000_001);
        let whole = fastcdc::v2020::FastCDC::with_level(
            &content,
            8 * 1024,
            32 * 1024,
            128 * 1024,
            Normalization::Level2,
        );
        let expected: Vec<usize> = whole.map(|chunk| chunk.length).collect();
        assert_eq!(lengths(32 * 1024, &[&content]), expected);
    }

    #[test]
    fn zeros_are_cut_at_the_longest_chunk() {
        let zeros = vec![0; 200_000];
        let expected = [65_536, 65_536, 65_536, 3392];
        assert_eq!(lengths(16 * 1024, &[&zeros]), expected);
        assert_eq!(lengths(16 * 1024, &[]), [0; 0]);
    }

    #[test]
    fn an_insertion_changes_few_chunks() {
        let mut content = noise(9, 2_000_000);
        let before = lengths(16 * 1024, &[&content]);
        content.insert(1_000_000, 7);
        let after = lengths(16 * 1024, &[&content]);
        let same_front = before
            .iter()
            .zip(&after)
            .take_while(|(a, b)| a == b)
            .count();
        let same_back = before
            .iter()
            .rev()
            .zip(after.iter().rev())
            .take_while(|(a, b)| a == b)
            .count();
        assert!(same_front + same_back + 4 >= before.len());
    }

    #[test]
    fn the_average_follows_the_size_and_then_stays() {
        let kib = 1024;
        assert_eq!(average_for(None, None), 64 * 1024);
        assert_eq!(average_for(Some(0), None), 16 * 1024);
        assert_eq!(average_for(Some(16 << 20), None), 32 * 1024);
        assert_eq!(average_for(Some((32 << 20) - 1), None), 32 * 1024);
        assert_eq!(average_for(Some(1 << 40), None), 256 * 1024);
        assert_eq!(average_for(Some(4 << 20), Some(32 * kib)), 32 * 1024);
        assert_eq!(average_for(Some(64 << 20), Some(32 * kib)), 32 * 1024);
        assert_eq!(average_for(Some(65 << 20), Some(32 * kib)), 128 * 1024);
        assert_eq!(average_for(Some(16 << 20), Some(12_345)), 32 * 1024);
        assert_eq!(average_for(None, Some(128 * kib)), 128 * 1024);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn cuts_do_not_depend_on_how_the_input_is_split(
            seed: u64,
            length in 0..400_000_usize,
            splits in prop::collection::vec(0..400_000_usize, 0..12),
        ) {
            let content = noise(seed, length);
            let mut at: Vec<usize> = splits.into_iter().map(|at| at.min(length)).collect();
            at.sort_unstable();
            at.push(length);
            let mut from = 0;
            let mut pieces = Vec::new();
            for to in at {
                pieces.push(&content[from..to]);
                from = to;
            }
            let whole = lengths(16 * 1024, &[&content]);
            prop_assert_eq!(whole.iter().sum::<usize>(), length);
            prop_assert_eq!(lengths(16 * 1024, &pieces), whole);
        }
    }

    const GOLDEN_16_KIB: [usize; 16] = [
        21719, 24282, 18819, 19832, 17313, 19372, 16801, 24819, 12077, 23846, 20686, 19662, 16961,
        4585, 22184, 17042,
    ];
    const GOLDEN_256_KIB: [usize; 11] = [
        308440, 278838, 390203, 280013, 269164, 136417, 312590, 362464, 271041, 77023, 313807,
    ];
}
