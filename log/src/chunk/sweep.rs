//! [driver] Giving back the room of chunks that nothing refers to.
//!
//! Packs are never changed in place. A pack that is old enough and holds enough that is dead has
//! its living frames appended to the open pack; once they are durable, the old file is removed. A
//! crash in between leaves both, and the next sweep goes on. The newest pack always stays, so that
//! no number is used twice. Dead chunks of a pack that stays are still chunks: they can be put
//! again for free.
//!
//! A chunk lives while `reach` says so or a pin holds it. Pins are looked at again at the last
//! moment, under the lock that a put needs: whoever pins before putting loses nothing.

use crate::chunk::ChunkProblem;
use crate::chunk::frame::{self, Frame, FrameHeader};
use crate::chunk::pack::{self, Found, Location, Look, PACK_HEADER_BYTES, PackScanner};
use crate::chunk::store::{PackStore, Room, storage};
use crate::env::{Disk, Env, Runtime};
use aber_proto::{ChunkHash, Timestamp};
use std::io;
use std::path::Path;
use std::sync::PoisonError;
use std::time::Duration;

/// A pack is written anew once this part of it is dead: the sweep then writes at most three bytes
/// for each that it frees.
const DEAD_PERCENT: u64 = 25;
/// Frames that are moved before other tasks get a turn.
const TURN_FRAMES: usize = 8;

/// What a sweep did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SweepReport {
    /// Packs looked at.
    pub packs: u64,
    /// Packs removed.
    pub removed_packs: u64,
    /// Their bytes.
    pub removed_bytes: u64,
    /// Bytes of living frames that were moved out of them.
    pub moved_bytes: u64,
    /// Living chunks that were found damaged; they are missing now.
    pub damaged_chunks: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    Keep,
    Rewrite,
}

/// Whether a pack is worth writing anew: all dead, or enough of it.
fn judge(pack_bytes: u64, living_bytes: u64) -> Verdict {
    let frames_bytes = pack_bytes.saturating_sub(PACK_HEADER_BYTES);
    let dead_bytes = frames_bytes.saturating_sub(living_bytes);
    if living_bytes == 0 || dead_bytes * 100 >= frames_bytes * DEAD_PERCENT {
        Verdict::Rewrite
    } else {
        Verdict::Keep
    }
}

/// Whether a pack was closed long enough ago: by the wall clock for one of an earlier boot, by
/// both clocks for one of this boot, so that a clock that was put forward takes nothing.
fn is_old(
    now: Timestamp,
    written: Timestamp,
    closed_for: Option<Duration>,
    grace: Duration,
) -> bool {
    let age_ms = u128::try_from(now.0.saturating_sub(written.0)).unwrap_or(0);
    age_ms >= grace.as_millis() && closed_for.is_none_or(|time| time >= grace)
}

struct Candidate {
    pack: u32,
    length: u64,
    living: Vec<(ChunkHash, Location)>,
    dead: Vec<(ChunkHash, Location)>,
}

impl<E: Env> PackStore<E> {
    /// Frees what `reach` does not want, in packs that were closed at least `grace` ago. Only one
    /// sweep at a time.
    ///
    /// # Errors
    /// The disk, the index, or `reach` failed; nothing is lost, the next sweep goes on.
    pub async fn sweep(
        &self,
        reach: impl Fn(&ChunkHash) -> Result<bool, ChunkProblem> + Send,
        grace: Duration,
    ) -> Result<SweepReport, ChunkProblem> {
        let mut report = SweepReport::default();
        for (number, length) in self.old_packs(grace)? {
            report.packs += 1;
            tokio::task::yield_now().await;
            let candidate = self.survey(number, length, &reach)?;
            let living_bytes = candidate.living.iter().map(|(_, at)| at.span());
            let living_bytes = living_bytes.map(|(start, end)| end - start).sum();
            if judge(length, living_bytes) == Verdict::Rewrite {
                self.rewrite(candidate, &mut report).await?;
            }
        }
        Ok(report)
    }

    fn old_packs(&self, grace: Duration) -> Result<Vec<(u32, u64)>, ChunkProblem> {
        let runtime = self.inner.env.runtime();
        let (now, wall_clock) = (runtime.now(), runtime.wall_clock());
        let sealed: Vec<(u32, u64, Option<Duration>)> = {
            let state = self.inner.lock();
            let last = state.packs.last_key_value().map(|(number, _)| *number);
            let sealed = state.packs.iter().filter(|(_, pack)| pack.is_sealed);
            let older = sealed.filter(|(number, _)| Some(**number) != last);
            let aged = older.map(|(number, pack)| {
                let closed_for = pack.closed_at.map(|closed_at| now - closed_at);
                (*number, pack.length, closed_for)
            });
            aged.collect()
        };
        let mut old = Vec::new();
        for (number, length, closed_for) in sealed {
            let stat = self.inner.env.disk().stat(&pack::pack_path(number));
            let mtime = match stat {
                Ok(stat) => stat.mtime,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(storage("looking at a pack", &error)),
            };
            let written = Timestamp(mtime.seconds.saturating_mul(1000));
            if is_old(wall_clock, written, closed_for, grace) {
                old.push((number, length));
            }
        }
        Ok(old)
    }

    /// Which of a pack's frames live. Headers are taken at their word: what lives is proven when
    /// it is moved.
    fn survey(
        &self,
        number: u32,
        length: u64,
        reach: &impl Fn(&ChunkHash) -> Result<bool, ChunkProblem>,
    ) -> Result<Candidate, ChunkProblem> {
        let file = self.inner.handle(number);
        let file = file.map_err(|error| storage("opening a pack", &error))?;
        let place = (self.inner.cluster, number);
        let span = (PACK_HEADER_BYTES, length);
        let mut scanner = PackScanner::new(&*file, place, span, Look::Headers);
        let mut candidate = Candidate {
            pack: number,
            length,
            living: Vec::new(),
            dead: Vec::new(),
        };
        loop {
            match scanner.next_found() {
                Found::Frame { offset, header } => {
                    let Some(row) = self.row_here(number, offset, &header)? else {
                        // Dead, or its header is not to be believed.
                        scanner.confirm(offset, &header);
                        continue;
                    };
                    if self.is_pinned(&row.0) || reach(&row.0)? {
                        candidate.living.push(row);
                    } else {
                        candidate.dead.push(row);
                    }
                }
                Found::Damage { .. } => {}
                Found::Seal | Found::End => return Ok(candidate),
            }
        }
    }

    /// The row of a frame, if it is this frame that the index means.
    fn row_here(
        &self,
        pack: u32,
        offset: u64,
        header: &FrameHeader,
    ) -> Result<Option<(ChunkHash, Location)>, ChunkProblem> {
        let located = self.inner.locate(&header.hash)?;
        let span = (offset, offset + header.frame_bytes());
        let is_here = |at: &Location| at.pack() == pack && at.span() == span;
        Ok(located.filter(is_here).map(|at| (header.hash, at)))
    }

    fn is_pinned(&self, hash: &ChunkHash) -> bool {
        let pins = self.inner.pins.lock();
        pins.unwrap_or_else(PoisonError::into_inner)
            .contains_key(hash)
    }

    async fn rewrite(
        &self,
        mut candidate: Candidate,
        report: &mut SweepReport,
    ) -> Result<(), ChunkProblem> {
        loop {
            let living = std::mem::take(&mut candidate.living);
            for (moved, (hash, at)) in living.into_iter().enumerate() {
                self.move_frame(&hash, at, report)?;
                if moved % TURN_FRAMES == TURN_FRAMES - 1 {
                    tokio::task::yield_now().await;
                }
            }
            self.sync().await?;
            if self.take_out(&mut candidate) {
                break;
            }
        }
        let disk = self.inner.env.disk();
        disk.remove_file(&pack::pack_path(candidate.pack))
            .map_err(|error| storage("removing a pack", &error))?;
        disk.sync_dir(Path::new(pack::DIRECTORY))
            .await
            .map_err(|error| storage("removing a pack", &error))?;
        report.removed_packs += 1;
        report.removed_bytes += candidate.length;
        Ok(())
    }

    fn move_frame(
        &self,
        hash: &ChunkHash,
        at: Location,
        report: &mut SweepReport,
    ) -> Result<(), ChunkProblem> {
        let (bytes, _) = match self.inner.read(hash) {
            Ok(found) => found,
            Err(ChunkProblem::Damaged { .. }) => {
                report.damaged_chunks += 1;
                return Ok(());
            }
            Err(ChunkProblem::Missing { .. }) => return Ok(()),
            Err(other) => return Err(other),
        };
        let Some(header) = bytes.first_chunk() else {
            return Ok(());
        };
        let frame = Frame {
            header: *header,
            payload: bytes.slice(frame::HEADER_BYTES..),
        };
        if self.inner.append(*hash, &frame, Some(at), Room::Any)? {
            report.moved_bytes += frame.len() as u64;
        }
        Ok(())
    }

    /// Takes the dead rows and the pack out of the books, unless one of them was pinned since.
    fn take_out(&self, candidate: &mut Candidate) -> bool {
        let mut state = self.inner.lock();
        let pins = self.inner.pins.lock();
        let pins = pins.unwrap_or_else(PoisonError::into_inner);
        let (pinned, dead) = std::mem::take(&mut candidate.dead)
            .into_iter()
            .partition(|(hash, _)| pins.contains_key(hash));
        candidate.living = pinned;
        candidate.dead = dead;
        if !candidate.living.is_empty() {
            return false;
        }
        for (hash, at) in &candidate.dead {
            if !state.was_moved(hash, Some(*at)) {
                state.set_row(*hash, None);
            }
        }
        state.forget_pack(candidate.pack);
        true
    }
}

#[cfg(test)]
mod tests;
