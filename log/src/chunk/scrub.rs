//! [driver] Re-reading everything that is stored (promise I3).
//!
//! Each pack is walked whole at a bounded rate and each frame proven. What is damaged, cannot be
//! read, or lies where no frame is, loses its place in the index: it is missing then, and fetched
//! again like any missing chunk. The bytes themselves are left alone; the sweep removes them.

use crate::chunk::ChunkProblem;
use crate::chunk::frame;
use crate::chunk::pack::{self, Found, Location, Look, PACK_HEADER_BYTES, PackScanner};
use crate::chunk::store::{PackStore, index_failed, storage};
use crate::env::{Env, Kv, Runtime};
use aber_proto::ChunkHash;
use bytes::Bytes;
use std::io;
use std::time::Duration;

/// The pace is kept in steps of about this length.
const STEP_BYTES: u64 = 1024 * 1024;
/// Rows of the index looked at between two turns of other tasks.
const PAGE_ROWS: usize = 1024;

/// What a scrub found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ScrubReport {
    /// Bytes read.
    pub read_bytes: u64,
    /// Chunks that were damaged and are missing now.
    pub damaged: Vec<ChunkHash>,
}

/// Damaged spans of packs: pack, first byte, the byte after the last.
type Regions = Vec<(u32, u64, u64)>;

/// How fast it goes.
struct Pace {
    bytes_per_s: u64,
    owed_bytes: u64,
}

impl Pace {
    /// How long to wait after so many more bytes, once a step is full.
    fn pause(&mut self, bytes: u64) -> Option<Duration> {
        self.owed_bytes += bytes;
        if self.owed_bytes < STEP_BYTES {
            return None;
        }
        let owed = std::mem::take(&mut self.owed_bytes);
        let pause_us = owed.saturating_mul(1_000_000) / self.bytes_per_s;
        Some(Duration::from_micros(pause_us))
    }
}

impl<E: Env> PackStore<E> {
    /// Re-reads all packs there are now, at most `bytes_per_s`; what is damaged becomes missing.
    ///
    /// # Errors
    /// The index failed, or a pack could not be opened for another reason than that it is gone.
    pub async fn scrub(&self, bytes_per_s: u64) -> Result<ScrubReport, ChunkProblem> {
        let mut report = ScrubReport::default();
        let mut regions = Regions::new();
        let mut pace = Pace {
            bytes_per_s: bytes_per_s.max(1),
            owed_bytes: 0,
        };
        let packs: Vec<(u32, u64)> = {
            let state = self.inner.lock();
            let packs = state.packs.iter();
            packs.map(|(number, pack)| (*number, pack.length)).collect()
        };
        for (number, length) in packs {
            let walk = self.scrub_pack(number, length, &mut pace, &mut regions);
            report.read_bytes += walk.await?;
        }
        self.drop_damaged(&regions, &mut report).await?;
        Ok(report)
    }

    async fn scrub_pack(
        &self,
        number: u32,
        length: u64,
        pace: &mut Pace,
        regions: &mut Regions,
    ) -> Result<u64, ChunkProblem> {
        let file = match self.inner.handle(number) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                regions.extend(self.is_known(number).then_some((number, 0, u64::MAX)));
                return Ok(0);
            }
            Err(error) => return Err(storage("opening a pack", &error)),
        };
        let place = (self.inner.cluster, number);
        let span = (PACK_HEADER_BYTES, length);
        let mut scanner = PackScanner::new(&*file, place, span, Look::Whole);
        let mut read_bytes = 0;
        loop {
            let bytes = match scanner.next_found() {
                Found::Frame { offset, header } => {
                    let bytes = Bytes::copy_from_slice(scanner.bytes_of(offset, &header));
                    if frame::decode(&bytes).is_err() {
                        regions.push((number, offset, offset + header.frame_bytes()));
                    }
                    header.frame_bytes()
                }
                Found::Damage { offset, end } => {
                    regions.push((number, offset, end));
                    end - offset
                }
                Found::Seal | Found::End => return Ok(read_bytes),
            };
            read_bytes += bytes;
            if let Some(pause) = pace.pause(bytes) {
                self.inner.env.runtime().sleep(pause).await;
            }
        }
    }

    fn is_known(&self, pack: u32) -> bool {
        self.inner.lock().packs.contains_key(&pack)
    }

    /// Finds whose places are damaged by looking at all rows: where a header is damaged, nothing
    /// else knows.
    async fn drop_damaged(
        &self,
        regions: &Regions,
        report: &mut ScrubReport,
    ) -> Result<(), ChunkProblem> {
        if regions.is_empty() {
            return Ok(());
        }
        let overlay: Vec<(ChunkHash, Location)> = {
            let state = self.inner.lock();
            let rows = state.rows.iter();
            rows.filter_map(|(hash, row)| Some((*hash, row.location?)))
                .collect()
        };
        self.drop_within(regions, &overlay, report)?;
        let (from, to) = pack::chunk_keys();
        let mut from = from.to_vec();
        loop {
            let page = self.inner.kv.scan(&from, &to, PAGE_ROWS);
            let page = page.map_err(index_failed)?;
            let Some((last, _)) = page.last() else {
                return Ok(());
            };
            from = [last, &[0][..]].concat();
            let rows = page.iter().filter_map(|(key, value)| {
                Some((pack::chunk_of_key(key)?, Location::decode(value)?))
            });
            self.drop_within(regions, &rows.collect::<Vec<_>>(), report)?;
            tokio::task::yield_now().await;
        }
    }

    fn drop_within(
        &self,
        regions: &Regions,
        rows: &[(ChunkHash, Location)],
        report: &mut ScrubReport,
    ) -> Result<(), ChunkProblem> {
        for (hash, location) in rows.iter().filter(|(_, at)| is_within(regions, at)) {
            if self.inner.drop_location(hash, *location)? {
                report.damaged.push(*hash);
            }
        }
        Ok(())
    }
}

fn is_within(regions: &Regions, location: &Location) -> bool {
    let (start, end) = location.span();
    let touches =
        |(pack, from, to): &(u32, u64, u64)| *pack == location.pack() && start < *to && *from < end;
    regions.iter().any(touches)
}

#[cfg(test)]
mod tests;
