//! Every flip and every truncation of a small log.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "a test that meets the unexpected fails"
)]

use super::*;
use crate::segment::LogIdentity;
use crate::segment::frame::encode_block;
use aber_proto::{ChainHash, ClusterId, Entry, EntryKind, LogId, NodeId, Timestamp};

const SEGMENT_BYTES: usize = 8192;

fn key(number: u32) -> SegmentKey {
    let (cluster, node) = (ClusterId([1; 32]), NodeId(9));
    SegmentKey::new(&LogIdentity { cluster, node }, number)
}

fn entry(index: u64, size: usize) -> Record {
    let partition = PartitionId(1);
    Record::Append(Entry {
        partition,
        log_id: LogId { term: 1, index },
        order_time: Timestamp(0),
        control_index: 0,
        kind: EntryKind::Change,
        body: Bytes::from(vec![0xab; size]),
        chain: ChainHash([index as u8; 32]),
    })
}

fn vote(term: u64) -> Record {
    let (node, is_committed) = (NodeId(2), false);
    let vote = Vote {
        term,
        node,
        is_committed,
    };
    Record::Vote(PartitionId(1), vote)
}

/// A segment image and where its blocks start.
struct Image {
    bytes: Vec<u8>,
    blocks: Vec<(u32, u32)>,
    seal: Seal,
}

/// A segment of three frames; the last one is sealed or not.
fn image(number: u32, seal: Seal, is_sealed: bool) -> Image {
    let mut image = Image {
        bytes: vec![0; SEGMENT_BYTES],
        blocks: Vec::new(),
        seal,
    };
    let mut at = HEADER_BYTES;
    for records in [
        vec![entry(1, 40)],
        vec![entry(2, 300), vote(3), entry(3, 400)],
        vec![vote(4), entry(4, 700)],
    ] {
        let sequence = image.seal.sequence + 1;
        let (block, written) = encode_block(&key(number), at, &image.seal, sequence, records);
        let end = at + narrow(block.len());
        image.bytes[wide(at)..wide(end)].copy_from_slice(&block);
        image.blocks.push((at, end));
        image.seal = Seal {
            sequence,
            segment: number,
            end,
            votes: votes_of(&written),
        };
        at = end;
    }
    if is_sealed {
        let mut seal = bytes::BytesMut::new();
        image.seal.encode(&key(number), at, &mut seal);
        image.bytes[wide(at)..wide(at) + seal.len()].copy_from_slice(&seal);
    }
    image
}

fn find(images: &[&[u8]]) -> Result<(Tail, usize), Damage> {
    let mut parts = Vec::new();
    let mut frames = 0;
    for (bytes, number) in images.iter().zip(1..) {
        let scan = scan(key(number), &Bytes::copy_from_slice(bytes)).unwrap();
        frames += scan.frames.len();
        parts.push(scan.part());
    }
    judge(&parts).map(|tail| (tail, frames))
}

/// Flips each bit of the image and hands out where, and what recovery says.
fn each_flip(image: &Image, mut look: impl FnMut(u32, Result<(Tail, usize), Damage>)) {
    for at in wide(HEADER_BYTES)..SEGMENT_BYTES {
        for bit in 0..8 {
            let mut bytes = image.bytes.clone();
            bytes[at] ^= 1 << bit;
            look(narrow(at), find(&[&bytes]));
        }
    }
}

/// Whether a byte belongs to the zeros at the end of its block, which nothing covers.
fn is_padding(image: &Image, at: u32) -> bool {
    let (_, end) = *image.blocks.iter().find(|(_, end)| at < *end).unwrap();
    let rest = &image.bytes[wide(at)..wide(end)];
    rest.iter().all(|byte| *byte == 0) && rest.len() < BLOCK_BYTES
}

/// D5: no flip in a sealed log is ever cut, wherever it is.
#[test]
fn a_flip_in_a_sealed_log_is_damage_or_harmless() {
    let image = image(1, Seal::default(), true);
    let end = image.seal.end;
    let whole = find(&[&image.bytes]).unwrap();
    assert_eq!((whole.0.offset, whole.1, whole.0.is_sealed), (end, 3, true));
    each_flip(&image, |at, found| match found {
        Ok((tail, frames)) => {
            assert_eq!(
                (tail.offset, tail.sequence, frames),
                (end, 3, 3),
                "byte {at}"
            );
            assert!(
                at >= end || is_padding(&image, at),
                "byte {at} is not covered"
            );
        }
        Err(damage) => {
            let block = image.blocks.iter().find(|(_, end)| at < *end).unwrap();
            assert_eq!(damage.offset, block.0, "byte {at}");
        }
    });
}

/// D5: without a seal only the last frame may be taken for torn.
#[test]
fn a_flip_before_the_last_frame_of_an_unsealed_log_is_damage() {
    let image = image(1, Seal::default(), false);
    let last = image.blocks[2];
    let whole = find(&[&image.bytes]).unwrap();
    assert_eq!((whole.1, whole.0.is_sealed), (3, false));
    each_flip(&image, |at, found| match found {
        Ok((tail, 3)) => {
            assert_eq!(tail.offset, last.1);
            assert!(
                at >= last.1 || is_padding(&image, at),
                "byte {at} is not covered"
            );
        }
        Ok((tail, frames)) => {
            assert_eq!((tail.offset, frames), (last.0, 2), "byte {at}");
            assert!(
                (last.0..last.1).contains(&at),
                "byte {at} cut the last frame"
            );
        }
        Err(_) => assert!(at < last.0, "byte {at}"),
    });
}

/// D5: zeros from any point on: torn within the last unsealed frame, else damage or nothing.
#[test]
fn a_lost_end_is_torn_only_within_the_last_unsealed_frame() {
    for is_sealed in [true, false] {
        let image = image(1, Seal::default(), is_sealed);
        let last = image.blocks[2];
        for from in wide(HEADER_BYTES)..SEGMENT_BYTES {
            // The end of the file is lost, but what a seal says further on is there or not.
            let mut bytes = image.bytes.clone();
            bytes[from..wide(last.1).max(from)].fill(0);
            match find(&[&bytes]) {
                Ok((tail, 3)) => assert_eq!(tail.offset, last.1),
                Ok((tail, frames)) => {
                    assert!(!is_sealed, "a sealed frame was cut at {from}");
                    // Losing more than the last frame leaves no trace if nothing sealed it: that
                    // needs frames lost that were durable, which a crash does not do.
                    let cut = image.blocks[frames].0;
                    assert_eq!(tail.offset, cut, "from {from}");
                }
                Err(damage) => assert!(is_sealed && damage.offset <= last.0, "from {from}"),
            }
        }
    }
}

/// D5: any subset of the last frame's sectors may be lost in a crash: whole or torn, never damage.
#[test]
fn any_lost_sectors_of_the_last_frame_are_a_torn_tail() {
    let image = image(1, Seal::default(), false);
    let (from, to) = image.blocks[2];
    let sectors = wide(to - from) / BLOCK_BYTES;
    for lost in 0..1_u32 << sectors {
        // The sector with the seal of the frame before may hold that seal alone.
        for has_seal in [false, true] {
            let mut bytes = image.bytes.clone();
            for sector in (0..sectors).filter(|sector| lost & (1 << sector) != 0) {
                let at = wide(from) + sector * BLOCK_BYTES;
                let kept = if sector == 0 && has_seal { 28 + 21 } else { 0 };
                bytes[at + kept..at + BLOCK_BYTES].fill(0);
            }
            let (tail, frames) = find(&[&bytes]).unwrap();
            let is_whole = lost == 0 || bytes == image.bytes;
            assert_eq!(frames, if is_whole { 3 } else { 2 }, "sectors {lost:b}");
            assert_eq!(tail.offset, if is_whole { to } else { from });
        }
    }
}

/// D5: the next segment proves the one before it, and a torn first frame in it proves nothing.
#[test]
fn segments_follow_each_other_or_the_log_is_damaged() {
    let first = image(1, Seal::default(), false);
    let second = image(2, first.seal.clone(), false);
    let (tail, frames) = find(&[&first.bytes, &second.bytes]).unwrap();
    assert_eq!((tail.number, tail.offset, frames), (2, second.seal.end, 6));
    let empty = vec![0; SEGMENT_BYTES];
    let (tail, _) = find(&[&first.bytes, &empty]).unwrap();
    assert_eq!(
        (tail.number, tail.offset, tail.is_sealed),
        (1, first.seal.end, false)
    );

    let mut torn = empty.clone();
    let start = wide(HEADER_BYTES);
    torn[start..start + 100].copy_from_slice(&second.bytes[start..start + 100]);
    let (tail, _) = find(&[&first.bytes, &torn]).unwrap();
    assert_eq!(
        (tail.number, tail.offset, tail.is_sealed),
        (1, first.seal.end, true)
    );

    for at in wide(HEADER_BYTES)..wide(first.seal.end) {
        let mut bytes = first.bytes.clone();
        bytes[at] ^= 1;
        let found = find(&[&bytes, &second.bytes]);
        let is_harmless = is_padding(&first, narrow(at));
        assert_eq!(found.is_ok(), is_harmless, "byte {at}: {found:?}");
    }
    let missing = find(&[&empty, &second.bytes]).unwrap_err();
    assert_eq!((missing.number, missing.offset), (1, HEADER_BYTES));
    assert!(find(&[&first.bytes, &empty, &empty]).is_err());
}

/// D5: bytes of another place, segment, node or cluster never pass.
#[test]
fn misplaced_and_stale_bytes_never_pass() {
    let image = image(1, Seal::default(), false);
    let scan_as = |key, bytes: &[u8]| {
        let found = scan(key, &Bytes::copy_from_slice(bytes)).unwrap();
        (found.frames.len(), found.sealed)
    };
    assert_eq!(scan_as(key(1), &image.bytes), (3, 2));
    assert_eq!(scan_as(key(2), &image.bytes), (0, 0));
    let (cluster, node) = (ClusterId([1; 32]), NodeId(8));
    let other = SegmentKey::new(&LogIdentity { cluster, node }, 1);
    assert_eq!(scan_as(other, &image.bytes), (0, 0));
    let mut moved = image.bytes.clone();
    moved.rotate_right(BLOCK_BYTES);
    assert_eq!(scan_as(key(1), &moved), (0, 0));
}

/// D5: an index file proves that its frames and the next segment's first one were durable.
#[test]
fn an_index_file_is_proof() {
    let first = image(1, Seal::default(), false);
    let scanned = scan(key(1), &Bytes::from(first.bytes.clone())).unwrap();
    let encoded = scanned.index().encode(&key(1));
    let index = SegmentIndex::decode(&key(1), &encoded).unwrap();
    assert_eq!(index, scanned.index());
    assert_eq!(SegmentIndex::decode(&key(2), &encoded), None);
    for at in 0..encoded.len() {
        let mut bytes = encoded.clone();
        bytes[at] ^= 4;
        assert_eq!(SegmentIndex::decode(&key(1), &bytes), None, "byte {at}");
        assert_eq!(SegmentIndex::decode(&key(1), &encoded[..at]), None);
    }
    let part = Part::indexed(1, &index);
    assert!(judge(std::slice::from_ref(&part)).is_err());
    let second = image(2, first.seal, false);
    let scanned = scan(key(2), &Bytes::from(second.bytes)).unwrap();
    assert_eq!(judge(&[part, scanned.part()]).unwrap().sequence, 6);
}

/// The bytes of format 1, as `docs/format.md` has them.
#[test]
fn the_format_does_not_change() {
    let image = image(1, Seal::default(), true);
    let index = scan(key(1), &Bytes::from(image.bytes.clone()))
        .unwrap()
        .index();
    let seal = &image.bytes[wide(image.seal.end)..];
    assert_eq!(seal[..4], *b"aSEL");
    let hashes = [&image.bytes, &index.encode(&key(1))].map(|bytes| blake3::hash(bytes).to_hex());
    assert_eq!(
        hashes[0].as_str(),
        "c365701bb4a2a30df66e974d3e738986a4f71d5118830f15576804cf557e90da"
    );
    assert_eq!(
        hashes[1].as_str(),
        "62af24c3d6d67f62bc397582a8aa2bd1ebc4de4ad5332356edab29b162c0e0db"
    );
}

proptest::proptest! {
    /// D5: arbitrary bytes are scanned without a panic and never become a frame.
    #[test]
    fn arbitrary_bytes_are_no_log(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..3000)) {
        let found = scan(key(1), &Bytes::from(bytes.clone()));
        proptest::prop_assert!(found.is_ok_and(|found| found.frames.is_empty()));
        let _ = SegmentIndex::decode(&key(1), &bytes);
        let _ = Record::decode_all(&key(1), 0, &Bytes::from(bytes));
    }
}
