//! [driver] The one task that writes: it takes what waits, writes one frame, syncs, tells.
//!
//! A frame is written only after the sync of the one before it returned: recovery relies on that.
//! There is no timer: while a sync runs, the next batch gathers. The first failed write or sync is
//! the last one (promise D4).

use super::core::{Item, Take};
use super::frame::{HEADER_BYTES, SegmentKey, block_bytes, encode_block, narrow, wide};
use super::index::SegmentIndex;
use super::record::{Record, Written};
use super::recovery::votes_of;
use super::seal::Seal;
use super::store::{FileOf, failed, index_path, segment_path};
use super::{SegmentProblem, Shared};
use crate::env::disk::write_small;
use crate::env::{Env, File, Runtime};
use crate::planted::{Bug, is_on};
use bytes::BytesMut;
use std::io;
use std::sync::Arc;
use tokio::sync::oneshot;

/// A segment ready for use, and its size.
type Prepared<E> = Result<(FileOf<E>, u32), SegmentProblem>;

/// The end of the log.
pub(super) struct End<E: Env> {
    /// The segment.
    pub file: FileOf<E>,
    /// Its key.
    pub key: SegmentKey,
    /// Its size.
    pub segment_bytes: u32,
    /// Where the next block goes.
    pub offset: u32,
    /// The last frame.
    pub sequence: u64,
    /// The last frame's seal, which starts the next block.
    pub seal: Seal,
    /// Whether that seal was written alone already.
    pub is_sealed: bool,
    /// What the segment's index file will say.
    pub index: SegmentIndex,
}

/// The task.
pub(super) struct Writer<E: Env> {
    shared: Arc<Shared<E>>,
    end: End<E>,
    next: oneshot::Receiver<Prepared<E>>,
}

impl<E: Env> Writer<E> {
    /// A writer that goes on at `end`. `next` is the next segment, if it was prepared before.
    pub(super) fn new(shared: Arc<Shared<E>>, end: End<E>, next: Option<(FileOf<E>, u32)>) -> Self {
        let next = match next {
            Some(prepared) => {
                let (tell, told) = oneshot::channel();
                let _ = tell.send(Ok(prepared));
                told
            }
            None => prepare(&shared, end.key.number + 1),
        };
        Self { shared, end, next }
    }

    /// Runs until the log is closed or fails.
    pub(super) async fn run(mut self) {
        loop {
            let taken = self.shared.core().take();
            match taken {
                Take::Stop => break,
                Take::Batch(items, bytes) => {
                    if !self.commit(items, bytes).await {
                        break;
                    }
                }
                Take::Nothing => {
                    if let Err(problem) = self.seal_alone() {
                        self.shared.poison(&problem, Vec::new());
                        break;
                    }
                    self.shared.bell.notified().await;
                }
            }
        }
        // A last seal is worth a try; without it the next start writes the last frame anew.
        let _ = self.seal_alone();
        self.shared.ended();
    }

    async fn commit(&mut self, items: Vec<Item>, bytes: usize) -> bool {
        let (mut records, mut waiting) = (Vec::with_capacity(items.len()), Vec::new());
        for Item { record, done } in items {
            records.extend(record);
            waiting.extend(done);
        }
        let outcome = if records.is_empty() {
            Ok(Vec::new())
        } else {
            self.write(records, bytes).await
        };
        let outcome = outcome.and_then(|written| {
            let mut core = self.shared.core();
            // Another task may have met a failing disk meanwhile: nothing is acknowledged then.
            core.check_alive()?;
            core.complete(&written);
            Ok(())
        });
        match outcome {
            Ok(()) => {
                self.shared.room.notify_waiters();
                for done in waiting {
                    done(Ok(()));
                }
                true
            }
            Err(problem) => {
                self.shared.poison(&problem, waiting);
                false
            }
        }
    }

    async fn write(
        &mut self,
        records: Vec<Record>,
        bytes: usize,
    ) -> Result<Vec<Written>, SegmentProblem> {
        if !self.fits(bytes) {
            self.roll().await?;
        }
        self.write_frame(records).await
    }

    /// A seal must fit after the frame, too.
    fn fits(&self, record_bytes: usize) -> bool {
        let block = block_bytes(&self.end.seal, record_bytes);
        let seal = super::frame::BLOCK_BYTES;
        wide(self.end.offset) + block + seal <= wide(self.end.segment_bytes)
    }

    async fn write_frame(&mut self, records: Vec<Record>) -> Result<Vec<Written>, SegmentProblem> {
        let end = &mut self.end;
        let sequence = end.sequence + 1;
        let (block, written) = encode_block(&end.key, end.offset, &end.seal, sequence, records);
        let after = end.offset + narrow(block.len());
        if after > end.segment_bytes {
            return Err(SegmentProblem::TooLong {
                size_bytes: block.len(),
                limit_bytes: wide(end.segment_bytes - end.offset),
            });
        }
        let path = segment_path(end.key.number);
        let wrote = end.file.write_at(&block, end.offset.into());
        wrote.map_err(failed("write", &path))?;
        if !is_on(Bug::LogUnsynced) {
            end.file.sync().await.map_err(failed("sync", &path))?;
        }
        end.offset = after;
        end.sequence = sequence;
        end.seal = Seal {
            sequence,
            segment: end.key.number,
            end: after,
            votes: votes_of(&written),
        };
        end.is_sealed = false;
        end.index.add_frame(sequence, after, &written);
        Ok(written)
    }

    fn seal_alone(&mut self) -> Result<(), SegmentProblem> {
        let end = &mut self.end;
        let fits = wide(end.offset) + end.seal.size() <= wide(end.segment_bytes);
        if end.is_sealed || end.sequence == 0 || !fits {
            return Ok(());
        }
        let mut bytes = BytesMut::with_capacity(end.seal.size());
        end.seal.encode(&end.key, end.offset, &mut bytes);
        let wrote = end.file.write_at(&bytes, end.offset.into());
        wrote.map_err(failed("write", &segment_path(end.key.number)))?;
        end.is_sealed = true;
        Ok(())
    }

    /// Goes on in the next segment, which starts with a checkpoint.
    async fn roll(&mut self) -> Result<(), SegmentProblem> {
        let number = self.end.key.number + 1;
        let segment_bytes = self.shared.segment_bytes;
        let prepared = (&mut self.next).await.map_err(|_| SegmentProblem::Closed)?;
        let (file, segment_bytes) = match prepared {
            // There may be room by now; a failed write or sync of any other kind is final.
            Err(problem) if problem.is_full() => {
                let file = self.shared.store.prepare(number, segment_bytes, false);
                (file.await?, segment_bytes)
            }
            prepared => prepared?,
        };
        let end = &mut self.end;
        let full = std::mem::take(&mut end.index);
        let full_key = end.key;
        end.file = file;
        end.key = SegmentKey::new(&self.shared.identity, number);
        end.segment_bytes = segment_bytes;
        end.offset = HEADER_BYTES;
        let part_bytes = self.shared.limits.frame_bytes / 2;
        let checkpoint = self.shared.core().ledger.checkpoint(part_bytes);
        let (mut frame, mut bytes) = (Vec::new(), 0);
        for record in checkpoint {
            if bytes + record.size() > self.shared.limits.frame_bytes && bytes > 0 {
                self.write_frame(std::mem::take(&mut frame)).await?;
                bytes = 0;
            }
            bytes += record.size();
            frame.push(record);
        }
        self.write_frame(frame).await?;
        save_index(&self.shared, full_key, &full);
        self.next = prepare(&self.shared, number + 1);
        Ok(())
    }
}

/// Prepares a segment in the background.
fn prepare<E: Env>(shared: &Arc<Shared<E>>, number: u32) -> oneshot::Receiver<Prepared<E>> {
    let (tell, told) = oneshot::channel();
    let owner = Arc::clone(shared);
    shared.env.runtime().spawn("log-prepare", async move {
        let segment_bytes = owner.segment_bytes;
        let file = owner.store.prepare(number, segment_bytes, true).await;
        if let Err(problem) = &file
            && !problem.is_full()
        {
            owner.poison(problem, Vec::new());
        }
        let _ = tell.send(file.map(|file| (file, segment_bytes)));
    });
    told
}

/// Writes a full segment's index file in the background.
pub(super) fn save_index<E: Env>(shared: &Arc<Shared<E>>, key: SegmentKey, index: &SegmentIndex) {
    let (owner, bytes) = (Arc::clone(shared), index.encode(&key));
    shared.env.runtime().spawn("log-index", async move {
        let path = index_path(key.number);
        match write_small(owner.env.disk(), &path, &bytes).await {
            // A missing index file only costs time at the next start.
            Err(error) if error.kind() != io::ErrorKind::StorageFull => {
                owner.poison(&failed("write", &path)(error), Vec::new());
            }
            _ => {}
        }
    });
}
