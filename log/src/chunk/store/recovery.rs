//! [driver] Finding the packs again.
//!
//! What the index says to be durable is taken as it is. The rest of a pack is walked: whole frames
//! count, what is none and is followed by one is reported, and a torn tail is cut. A frame that was
//! read here may be in the page cache alone, and clean there although its sync failed before the
//! crash. So each of them is written anew, in place, and becomes durable with the first sync; only
//! a seal, or the index, excuses a pack from that.

use crate::chunk::ChunkProblem;
use crate::chunk::pack::{self, Found, Location, Look, PACK_HEADER_BYTES, PackRow, PackScanner};
use crate::chunk::store::state::{Pack, State};
use crate::chunk::store::{DamagedRegion, FileOf, index_failed, storage};
use crate::env::disk::{FileKind, Open, ensure_dir, read_exact};
use crate::env::kv::KvBatch;
use crate::env::{Disk, Env, File, Kv};
use aber_proto::ClusterId;
use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// Rows given to the index at once.
const BATCH_ROWS: usize = 1024;

struct Recovery<'a, E: Env> {
    env: &'a E,
    kv: &'a E::Kv,
    cluster: ClusterId,
    numbers: BTreeSet<u32>,
    state: State<FileOf<E>>,
    /// Rows whose frames are durable.
    batch: KvBatch,
}

/// What a walk found.
struct Walked {
    /// Where the last whole frame ends.
    end: u64,
    /// Whether something after that is no frame.
    is_torn: bool,
    is_unreadable: bool,
}

/// Finds all packs and indexes what is not.
pub(super) fn recover<E: Env>(
    env: &E,
    kv: &E::Kv,
    cluster: ClusterId,
) -> Result<State<FileOf<E>>, ChunkProblem> {
    let directory = Path::new(pack::DIRECTORY);
    ensure_dir(env.disk(), directory).map_err(|error| storage("making chunks/", &error))?;
    let names = env.disk().list(directory);
    let names = names.map_err(|error| storage("listing chunks/", &error))?;
    let numbers = names
        .iter()
        .filter(|entry| entry.kind == FileKind::File)
        .filter_map(|entry| pack::pack_of_name(&entry.name));
    let mut recovery = Recovery {
        env,
        kv,
        cluster,
        numbers: numbers.collect(),
        state: State::new(),
        batch: KvBatch::default(),
    };
    for number in recovery.numbers.clone() {
        recovery
            .pack(number)
            .map_err(|problem| named(number, problem))?;
    }
    let last = recovery.numbers.last().copied().unwrap_or(0);
    recovery.state.next_pack = last.max(recovery.last_indexed()?) + 1;
    recovery.commit()?;
    Ok(recovery.state)
}

fn named(number: u32, problem: ChunkProblem) -> ChunkProblem {
    match problem {
        ChunkProblem::Storage(why) => ChunkProblem::Storage(format!("pack {number}: {why}")),
        other => other,
    }
}

fn io_failed(error: io::Error) -> ChunkProblem {
    ChunkProblem::Storage(error.to_string())
}

impl<E: Env> Recovery<'_, E> {
    fn pack(&mut self, number: u32) -> Result<(), ChunkProblem> {
        let row = self.kv.get(&pack::pack_key(number)).map_err(index_failed)?;
        let row = row.and_then(|row| PackRow::decode(&row));
        let path = pack::pack_path(number);
        let size = self.env.disk().stat(&path).map_err(io_failed)?.size;
        match row {
            Some(row) if size < row.indexed_bytes => {
                return self.shortened(number, size, row.indexed_bytes);
            }
            Some(row) if row.is_closed => {
                let pack = Pack::sealed(row.indexed_bytes);
                self.state.packs.insert(number, pack);
                return Ok(());
            }
            _ => {}
        }
        let file = self.env.disk().open(&path, Open::Write);
        let file = file.map_err(io_failed)?;
        let from = row.map_or(PACK_HEADER_BYTES, |row| row.indexed_bytes);
        let from = from.max(PACK_HEADER_BYTES);
        if self.is_sealed(&file, number, size) {
            return self.sealed(&file, number, (from, size));
        }
        self.unsealed(file, number, (from, size))
    }

    /// A pack that lost bytes the index knew: what was there is not here any more (promise D5).
    fn shortened(&mut self, number: u32, size: u64, known: u64) -> Result<(), ChunkProblem> {
        self.damage(number, size, known);
        let (from, to) = pack::chunk_keys();
        let mut from = from.to_vec();
        loop {
            let rows = self.kv.scan(&from, &to, BATCH_ROWS).map_err(index_failed)?;
            let Some((last, _)) = rows.last() else { break };
            from = [last, &[0][..]].concat();
            for (key, value) in &rows {
                let location = Location::decode(value);
                if location.is_some_and(|at| at.pack() == number && at.span().1 > size) {
                    self.batch.remove(key.clone());
                }
            }
            self.commit()?;
        }
        let pack = Pack::sealed(size);
        self.state.packs.insert(number, pack);
        self.note_pack(number, size);
        Ok(())
    }

    fn is_sealed(&self, file: &FileOf<E>, number: u32, size: u64) -> bool {
        let Some(at) = size.checked_sub(pack::SEAL_BYTES) else {
            return false;
        };
        let expected = pack::seal(self.cluster, number, at);
        at >= PACK_HEADER_BYTES
            && read_exact(file, at, expected.len()).is_ok_and(|found| found == expected)
    }

    /// A pack that is durable and not in the index.
    fn sealed(
        &mut self,
        file: &FileOf<E>,
        number: u32,
        (from, size): (u64, u64),
    ) -> Result<(), ChunkProblem> {
        self.check_header(file, number)?;
        let end = size - pack::SEAL_BYTES;
        let walked = self.walk(file, number, (from, end), true)?;
        if walked.end < end {
            self.damage(number, walked.end, end);
        }
        self.state.packs.insert(number, Pack::sealed(end));
        self.note_pack(number, end);
        Ok(())
    }

    /// A pack whose end may be torn or in the page cache alone.
    fn unsealed(
        &mut self,
        file: FileOf<E>,
        number: u32,
        (from, size): (u64, u64),
    ) -> Result<(), ChunkProblem> {
        let is_whole = self.check_header(&file, number)?;
        let is_known = from > PACK_HEADER_BYTES;
        if !(is_whole && is_known) {
            let header = pack::encode_header(self.cluster, number);
            file.write_at(&header, 0).map_err(io_failed)?;
        }
        let walked = self.walk(&file, number, (from, size), false)?;
        let mut length = walked.end;
        if walked.is_unreadable {
            // Nothing is cut that might be read another day; the pack takes no more.
            length = size.max(PACK_HEADER_BYTES);
            self.damage(number, walked.end, length);
        } else if walked.is_torn {
            file.set_len(length).map_err(io_failed)?;
        }
        let is_last = self.numbers.last() == Some(&number);
        let is_closed = walked.is_unreadable || !is_last;
        let pack = Pack {
            length,
            synced: if is_known && is_whole { from } else { 0 },
            is_closed,
            is_sealed: false,
            closed_at: None,
            writer: Some(Arc::new(file)),
        };
        self.state.packs.insert(number, pack);
        Ok(())
    }

    fn check_header(&self, file: &FileOf<E>, number: u32) -> Result<bool, ChunkProblem> {
        let mut header = pack::encode_header(self.cluster, number);
        let read = file.read_at(&mut header, 0).map_err(io_failed)?;
        header.truncate(read);
        pack::check_header(&header, self.cluster, number)
            .map_err(|problem| ChunkProblem::Storage(problem.to_string()))
    }

    /// Indexes the whole frames of a span; those that may not be durable are written anew.
    fn walk(
        &mut self,
        file: &FileOf<E>,
        number: u32,
        span: (u64, u64),
        is_durable: bool,
    ) -> Result<Walked, ChunkProblem> {
        let place = (self.cluster, number);
        let mut scanner = PackScanner::new(file, place, span, Look::Whole);
        let mut end = span.0;
        let mut last_damage = None;
        loop {
            match scanner.next_found() {
                Found::Frame { offset, header } => {
                    if let Some((from, to)) = last_damage.take() {
                        self.damage(number, from, to);
                    }
                    if !is_durable {
                        let bytes = scanner.bytes_of(offset, &header);
                        file.write_at(bytes, offset).map_err(io_failed)?;
                    }
                    end = offset + header.frame_bytes();
                    self.found(number, (offset, end), &header.hash, is_durable)?;
                }
                Found::Damage { offset, end } => last_damage = Some((offset, end)),
                Found::Seal | Found::End => break,
            }
        }
        Ok(Walked {
            end,
            is_torn: last_damage.is_some(),
            is_unreadable: scanner.met_unreadable(),
        })
    }

    fn found(
        &mut self,
        number: u32,
        (start, end): (u64, u64),
        hash: &aber_proto::ChunkHash,
        is_durable: bool,
    ) -> Result<(), ChunkProblem> {
        let (Ok(offset), Ok(frame_bytes)) = (u32::try_from(start), u32::try_from(end - start))
        else {
            return Ok(());
        };
        let location = Location::Pack {
            pack: number,
            offset,
            frame_bytes,
        };
        let key = pack::chunk_key(hash);
        let row = self.kv.get(&key).map_err(index_failed)?;
        let present = row.and_then(|row| Location::decode(&row));
        let is_elsewhere =
            present.is_some_and(|at| at.pack() > number && self.numbers.contains(&at.pack()));
        if is_elsewhere {
            return Ok(());
        }
        if is_durable {
            // An older pack's row in the overlay would hide this one.
            self.state.rows.remove(hash);
            self.batch.put(key, location.encode());
            if self.batch.rows.len() >= BATCH_ROWS {
                self.commit()?;
            }
        } else {
            self.state.set_row(*hash, Some(location));
        }
        Ok(())
    }

    fn damage(&mut self, pack: u32, offset: u64, end: u64) {
        let region = DamagedRegion { pack, offset, end };
        self.state.damaged.push(region);
    }

    fn note_pack(&mut self, number: u32, indexed_bytes: u64) {
        let row = PackRow {
            indexed_bytes,
            is_closed: true,
        };
        self.batch.put(pack::pack_key(number), row.encode());
    }

    fn last_indexed(&self) -> Result<u32, ChunkProblem> {
        let (from, to) = pack::pack_keys();
        let rows = self.kv.scan(&from, &to, usize::MAX).map_err(index_failed)?;
        let last = rows.last().and_then(|(key, _)| pack::pack_of_key(key));
        Ok(last.unwrap_or(0))
    }

    fn commit(&mut self) -> Result<(), ChunkProblem> {
        let batch = std::mem::take(&mut self.batch);
        if batch.rows.is_empty() {
            return Ok(());
        }
        self.kv.commit(batch).map_err(index_failed)
    }
}
