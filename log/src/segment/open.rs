//! [driver] Opening a log: read, judge, mend the tail, go on.

use super::core::{Core, Limits};
use super::frame::{BLOCK_BYTES, HEADER_BYTES, Header, HeaderProblem, SegmentKey, wide};
use super::index::{Index, SegmentIndex};
use super::ledger::Ledger;
use super::recovery::{Part, Scan, Tail, judge, scan, votes_of};
use super::seal::Seal;
use super::store::{DIRECTORY, FileOf, Store, failed, index_path, segment_path};
use super::writer::{End, Writer, save_index};
use super::{LogIdentity, SegmentOptions, SegmentProblem, Shared};
use crate::env::disk::{Open, ensure_dir, read_exact, read_small};
use crate::env::{Disk, Env, File};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// Longest index file that is read: one row for each 64 bytes of the largest segment.
const INDEX_FILE_BYTES: usize = 256 << 20;

/// A segment's file as found.
struct Found<E: Env> {
    file: FileOf<E>,
    key: SegmentKey,
    segment_bytes: u32,
}

/// What was read of the log.
struct Read<E: Env> {
    found: BTreeMap<u32, Found<E>>,
    /// Whole segments: the last ones.
    scans: BTreeMap<u32, (Scan, Bytes)>,
    /// The others.
    indexes: BTreeMap<u32, SegmentIndex>,
    /// Whose index file was missing or bad.
    unindexed: Vec<u32>,
    parts: Vec<Part>,
}

/// Opens the log, made if missing; answers it and its writer, not started yet.
pub(super) async fn open<E: Env>(
    env: E,
    identity: LogIdentity,
    options: SegmentOptions,
) -> Result<(Arc<Shared<E>>, Writer<E>), SegmentProblem> {
    let (segment_bytes, limits) = check_options(options)?;
    let store = Store::new(env.clone(), identity);
    let numbers = list(&env).await?;
    if numbers.is_empty() {
        store.prepare(1, segment_bytes, false).await?;
    }
    let read = read_all(
        &env,
        &identity,
        if numbers.is_empty() { &[1] } else { &numbers },
    )?;
    let tail = judge(&read.parts).map_err(|damage| SegmentProblem::Damaged {
        segment: damage.number,
        offset: damage.offset.into(),
        what: format!("frame {} is not whole: {}", damage.sequence, damage.what),
    })?;
    mend(&read, &tail).await?;
    let ledger = replay(&read, identity)?;
    finish(
        env,
        store,
        read,
        tail,
        (ledger, identity, segment_bytes, limits),
    )
}

fn check_options(options: SegmentOptions) -> Result<(u32, Limits), SegmentProblem> {
    let refused = |what| Err(SegmentProblem::Options { what });
    let Ok(segment_bytes) = u32::try_from(options.segment_bytes) else {
        return refused("a segment has at most 1 GiB");
    };
    if !(1 << 15..=1 << 30).contains(&segment_bytes)
        || !wide(segment_bytes).is_multiple_of(BLOCK_BYTES)
    {
        return refused("a segment has 32 KiB to 1 GiB, in multiples of 512 bytes");
    }
    let quarter = wide(segment_bytes) / 4;
    let limits = Limits {
        frame_bytes: options.batch_bytes.clamp(BLOCK_BYTES, quarter),
        notes_bytes: quarter,
    };
    Ok((segment_bytes, limits))
}

/// The numbers of all segments, without a hole; what was never finished is removed.
async fn list<E: Env>(env: &E) -> Result<Vec<u32>, SegmentProblem> {
    let (disk, directory) = (env.disk(), Path::new(DIRECTORY));
    ensure_dir(disk, directory).map_err(failed("create", directory))?;
    let root = Path::new("");
    disk.sync_dir(root).await.map_err(failed("sync", root))?;
    let mut numbers = Vec::new();
    for entry in disk.list(directory).map_err(failed("list", directory))? {
        let name = entry.name.to_string_lossy().into_owned();
        if name.ends_with(".new") {
            let path = directory.join(&name);
            disk.remove_file(&path).map_err(failed("remove", &path))?;
        } else if let Some(number) = name.strip_suffix(".seg") {
            numbers.extend(number.parse::<u32>().ok());
        }
    }
    // Names that a killed process left may not be durable yet.
    disk.sync_dir(directory)
        .await
        .map_err(failed("sync", directory))?;
    numbers.sort_unstable();
    for (number, expected) in numbers.iter().zip(1..) {
        if *number != expected {
            return Err(SegmentProblem::Damaged {
                segment: expected,
                offset: 0,
                what: "the segment is missing".to_owned(),
            });
        }
    }
    Ok(numbers)
}

fn find<E: Env>(env: &E, identity: &LogIdentity, number: u32) -> Result<Found<E>, SegmentProblem> {
    let path = segment_path(number);
    let file = env.disk().open(&path, Open::Write);
    let file = file.map_err(failed("open", &path))?;
    let damaged = |what: &str| SegmentProblem::Damaged {
        segment: number,
        offset: 0,
        what: what.to_owned(),
    };
    let mut block = [0; BLOCK_BYTES];
    let read = file.read_at(&mut block, 0).map_err(failed("read", &path))?;
    if read != BLOCK_BYTES {
        return Err(damaged("the header is cut short"));
    }
    let header = Header::decode(&block).map_err(|problem| match problem {
        HeaderProblem::Newer(format) => SegmentProblem::NewerFormat {
            segment: number,
            format,
        },
        HeaderProblem::Damaged => damaged("the header's checksum does not fit"),
    })?;
    if header.identity != *identity {
        return Err(SegmentProblem::OtherCluster {
            segment: number,
            cluster: header.identity.cluster,
            node: header.identity.node,
        });
    }
    if header.number != number {
        return Err(damaged("the header names another segment"));
    }
    let size = file.stat().map_err(failed("stat", &path))?.size;
    if size != u64::from(header.segment_bytes) {
        return Err(damaged("the file does not have the size it was made with"));
    }
    Ok(Found {
        file,
        key: SegmentKey::new(identity, number),
        segment_bytes: header.segment_bytes,
    })
}

fn scan_found<E: Env>(found: &Found<E>) -> Result<(Scan, Bytes), SegmentProblem> {
    let bytes = read_exact(&found.file, 0, wide(found.segment_bytes));
    let path = segment_path(found.key.number);
    let bytes = Bytes::from(bytes.map_err(failed("read", &path))?);
    let scan = scan(found.key, &bytes).map_err(|problem| SegmentProblem::Damaged {
        segment: found.key.number,
        offset: problem.offset.into(),
        what: problem.problem.to_string(),
    })?;
    Ok((scan, bytes))
}

/// Reads segments from the last one back to the last whole checkpoint, and of the others their
/// index files; those without a good one are read as well.
fn read_all<E: Env>(
    env: &E,
    identity: &LogIdentity,
    numbers: &[u32],
) -> Result<Read<E>, SegmentProblem> {
    let mut found = BTreeMap::new();
    for number in numbers {
        found.insert(*number, find(env, identity, *number)?);
    }
    let mut read = Read {
        found,
        scans: BTreeMap::new(),
        indexes: BTreeMap::new(),
        unindexed: Vec::new(),
        parts: Vec::new(),
    };
    for (number, found) in read.found.iter().rev() {
        let (scan, bytes) = scan_found(found)?;
        let has_checkpoint = scan.has_checkpoint();
        read.scans.insert(*number, (scan, bytes));
        if has_checkpoint {
            break;
        }
    }
    let last = numbers.last().copied().unwrap_or(1);
    for (number, found) in &read.found {
        let known = read_small(env.disk(), &index_path(*number), INDEX_FILE_BYTES).ok();
        let known = known.and_then(|bytes| SegmentIndex::decode(&found.key, &bytes));
        if known.is_none() && *number != last {
            read.unindexed.push(*number);
        }
        let part = match (read.scans.get(number), known) {
            (Some((scan, _)), known) => {
                // An index file proves its frames, and that the next segment was begun.
                let proven = known.map_or(0, |index| index.last_sequence + 1);
                let part = scan.part();
                let sealed = part.sealed.max(proven);
                Part { sealed, ..part }
            }
            (None, Some(index)) => {
                let part = Part::indexed(*number, &index);
                read.indexes.insert(*number, index);
                part
            }
            (None, None) => {
                let (scan, _) = scan_found(found)?;
                read.indexes.insert(*number, scan.index());
                scan.part()
            }
        };
        read.parts.push(part);
    }
    Ok(read)
}

/// Cuts what was being written when the node died, and makes the last frame durable once more if
/// nothing says that it was: after a kill it may stand in the page cache alone.
async fn mend<E: Env>(read: &Read<E>, tail: &Tail) -> Result<(), SegmentProblem> {
    for (number, (scan, bytes)) in read.scans.range(tail.number..) {
        let Some(found) = read.found.get(number) else {
            continue;
        };
        let path = segment_path(*number);
        let mut must_sync = false;
        let keep = if *number == tail.number {
            scan.stop_seal_bytes
        } else {
            0
        };
        let from = wide(scan.stop + keep);
        let to = wide(scan.dirty_end).max(from);
        if bytes
            .get(from..to)
            .is_some_and(|rest| rest.iter().any(|byte| *byte != 0))
        {
            let zeros = vec![0; to - from];
            let offset = u64::from(scan.stop + keep);
            found
                .file
                .write_at(&zeros, offset)
                .map_err(failed("write", &path))?;
            must_sync = true;
        }
        let last = scan
            .frames
            .last()
            .filter(|_| *number == tail.number && !tail.is_sealed);
        if let Some(frame) = last {
            let block = bytes.get(wide(frame.offset)..wide(frame.end));
            let wrote = found
                .file
                .write_at(block.unwrap_or_default(), frame.offset.into());
            wrote.map_err(failed("write", &path))?;
            must_sync = true;
        }
        if must_sync {
            found.file.sync().await.map_err(failed("sync", &path))?;
        }
    }
    Ok(())
}

fn replay<E: Env>(read: &Read<E>, identity: LogIdentity) -> Result<Ledger, SegmentProblem> {
    let mut ledger = Ledger::new(identity.cluster);
    for (scan, _) in read.scans.values() {
        for frame in &scan.frames {
            for written in &frame.records {
                ledger
                    .replay(written)
                    .map_err(|what| SegmentProblem::Damaged {
                        segment: scan.key.number,
                        offset: frame.offset.into(),
                        what: format!("frame {}: {what}", frame.sequence),
                    })?;
            }
        }
    }
    Ok(ledger)
}

fn finish<E: Env>(
    env: E,
    store: Store<E>,
    mut read: Read<E>,
    tail: Tail,
    (ledger, identity, segment_bytes, limits): (Ledger, LogIdentity, u32, Limits),
) -> Result<(Arc<Shared<E>>, Writer<E>), SegmentProblem> {
    let mut index = Index::default();
    let mut rebuilt = Vec::new();
    for number in read.found.keys() {
        let of_segment = match (read.indexes.remove(number), read.scans.get(number)) {
            (Some(of_segment), _) => of_segment,
            (None, Some((scan, _))) => scan.index(),
            (None, None) => SegmentIndex::default(),
        };
        if *number < tail.number && read.unindexed.contains(number) {
            rebuilt.push((SegmentKey::new(&identity, *number), of_segment.clone()));
        }
        index.merge(of_segment);
    }
    for (partition, marks) in &ledger.partitions {
        let end = marks.last.map_or(0, |last| last.index.saturating_add(1));
        index.cut(*partition, end);
    }
    let scan = read.scans.get(&tail.number).map(|(scan, _)| scan);
    let last = scan.and_then(|scan| scan.frames.last());
    let (number, offset) = (tail.number, tail.offset);
    let seal = Seal {
        sequence: tail.sequence,
        segment: if tail.sequence == 0 { 0 } else { number },
        end: if tail.sequence == 0 { 0 } else { offset },
        votes: last
            .map(|frame| votes_of(&frame.records))
            .unwrap_or_default(),
    };
    let tail_index = scan.map(Scan::index).unwrap_or_default();
    let missing = || SegmentProblem::Damaged {
        segment: number,
        offset: 0,
        what: "the last segment is missing".to_owned(),
    };
    let found = read.found.remove(&number).ok_or_else(missing)?;
    let next = read.found.remove(&(number + 1));
    assert!(offset >= HEADER_BYTES, "the log goes on after the header");
    let end = End {
        file: found.file,
        key: found.key,
        segment_bytes: found.segment_bytes,
        offset,
        sequence: tail.sequence,
        seal,
        is_sealed: false,
        index: tail_index,
    };
    let core = Core::new(identity.cluster, limits, ledger, index);
    let shared = Arc::new(Shared::new(
        env,
        identity,
        store,
        (core, segment_bytes, limits),
    ));
    for (key, of_segment) in &rebuilt {
        save_index(&shared, *key, of_segment);
    }
    let next = next.map(|next| (next.file, next.segment_bytes));
    let writer = Writer::new(Arc::clone(&shared), end, next);
    Ok((shared, writer))
}
