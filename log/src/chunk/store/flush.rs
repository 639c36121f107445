//! [driver] Group commit: one sync for everybody who waits.
//!
//! A task of its own does it, so that a caller who gives up does not take the answer of a failed
//! sync with him. While somebody waits for more than is durable it goes round: note how far the
//! packs are, sync them and their directory, wake who waited, seal what is closed, and only then
//! give the rows to the index. An index that refuses them costs nothing but the walk at the next
//! start; the rows stay in the overlay and nothing more is put until it takes them.

use crate::chunk::ChunkProblem;
use crate::chunk::pack::{self, PackRow};
use crate::chunk::store::append::is_full;
use crate::chunk::store::{EXIT_STORAGE, FileOf, Inner, PackStore, State};
use crate::env::kv::KvBatch;
use crate::env::{Disk, Env, File, Kv, Runtime};
use crate::planted::{Bug, is_on};
use std::io;
use std::path::Path;
use std::sync::Arc;

/// How far syncing came; a failure is final.
#[derive(Clone, Default)]
pub(super) struct Synced {
    upto: u64,
    failure: Option<String>,
}

/// What one round makes durable.
struct Job<F> {
    upto: u64,
    files: Vec<(u32, Arc<F>, u64)>,
    named_upto: u32,
    are_names_synced: bool,
    bytes: u64,
}

impl<E: Env> PackStore<E> {
    /// Makes everything that was put before this call durable; callers at the same time share
    /// one sync.
    ///
    /// # Errors
    /// The disk failed: for good, and the node stops (promise D4).
    pub async fn sync(&self) -> Result<(), ChunkProblem> {
        if is_on(Bug::ContentUnsynced) {
            return Ok(());
        }
        let target = self.inner.bell()?;
        let mut synced = self.inner.synced.clone();
        let reached = synced
            .until(|synced| synced.upto >= target || synced.failure.is_some())
            .await;
        match reached.failure {
            Some(why) => Err(ChunkProblem::Storage(why)),
            None => Ok(()),
        }
    }
}

impl<E: Env> Inner<E> {
    /// Asks for all so far to be made durable; answers up to which change that is.
    pub(super) fn bell(self: &Arc<Self>) -> Result<u64, ChunkProblem> {
        let mut state = self.lock();
        if let Some(why) = &state.poison {
            return Err(ChunkProblem::Storage(why.clone()));
        }
        if state.index_problem.is_some() {
            // One more round, so that the index is offered the rows again.
            state.number += 1;
        }
        let target = state.number;
        state.wanted = state.wanted.max(target);
        let is_started = !state.is_flushing && state.durable < target;
        state.is_flushing |= is_started;
        drop(state);
        if is_started {
            let inner = Arc::clone(self);
            self.env.runtime().spawn("chunk sync", inner.flush());
        }
        Ok(target)
    }

    async fn flush(self: Arc<Self>) {
        while let Some(job) = self.next_job() {
            match self.make_durable(&job).await {
                Ok(()) => self.finish(&job),
                Err(error) => return self.poison(&format!("syncing chunks: {error}")),
            }
        }
    }

    fn next_job(&self) -> Option<Job<FileOf<E>>> {
        let mut state = self.lock();
        if state.poison.is_some() || state.wanted <= state.durable {
            state.is_flushing = false;
            return None;
        }
        let dirty = state.packs.iter().filter_map(|(number, pack)| {
            let writer = pack.writer.as_ref()?;
            (pack.synced < pack.length).then(|| (*number, Arc::clone(writer), pack.length))
        });
        Some(Job {
            upto: state.number,
            files: dirty.collect(),
            named_upto: state.next_pack,
            are_names_synced: state.named_upto == state.next_pack,
            bytes: state.unsynced_bytes,
        })
    }

    async fn make_durable(&self, job: &Job<FileOf<E>>) -> io::Result<()> {
        for (_, file, _) in &job.files {
            file.sync().await?;
        }
        if !job.are_names_synced {
            self.env.disk().sync_dir(Path::new(pack::DIRECTORY)).await?;
            self.env.disk().sync_dir(Path::new("")).await?;
        }
        Ok(())
    }

    fn finish(&self, job: &Job<FileOf<E>>) {
        let sealed = {
            let mut state = self.lock();
            state.durable = job.upto;
            state.named_upto = job.named_upto;
            state.unsynced_bytes = state.unsynced_bytes.saturating_sub(job.bytes);
            for (number, _, length) in &job.files {
                state.stale.insert(*number);
                if let Some(pack) = state.packs.get_mut(number) {
                    pack.synced = *length;
                }
            }
            self.seal_closed(&mut state)
        };
        if let Err(error) = sealed {
            return self.poison(&format!("sealing a pack: {error}"));
        }
        self.synced.update(|synced| synced.upto = job.upto);
        self.index(job.upto);
    }

    /// Seals what is closed and durable. The seal itself need not be durable: without it the pack
    /// is walked and written once more, should the index be lost too.
    fn seal_closed(&self, state: &mut State<FileOf<E>>) -> io::Result<()> {
        let State { packs, stale, .. } = state;
        for (number, pack) in packs {
            let is_ready = pack.is_closed && !pack.is_sealed && pack.synced == pack.length;
            let Some(writer) = pack.writer.as_ref().filter(|_| is_ready) else {
                continue;
            };
            let seal = pack::seal(self.cluster, *number, pack.length);
            match writer.write_at(&seal, pack.length) {
                Err(error) if !is_full(&error) => return Err(error),
                _ => {}
            }
            pack.is_sealed = true;
            pack.writer = None;
            stale.insert(*number);
        }
        Ok(())
    }

    /// Gives what is durable to the index.
    fn index(&self, upto: u64) {
        let (batch, stale) = {
            let state = self.lock();
            let mut batch = KvBatch::default();
            for (hash, row) in state.rows.iter().filter(|(_, row)| row.number <= upto) {
                let value = row.location.map(|location| location.encode());
                batch.rows.insert(pack::chunk_key(hash), value);
            }
            for number in &state.stale {
                let row = state.packs.get(number).map(|pack| PackRow {
                    indexed_bytes: pack.synced,
                    is_closed: pack.is_sealed,
                });
                let value = row.map(|row| row.encode());
                batch.rows.insert(pack::pack_key(*number), value);
            }
            (batch, state.stale.clone())
        };
        let committed = self.kv.commit(batch);
        let mut state = self.lock();
        state.index_problem = committed.err().map(|problem| problem.to_string());
        if let Some(why) = &state.index_problem {
            let why = why.clone();
            drop(state);
            self.env.runtime().trace(format_args!("chunk {why}"));
            return;
        }
        state.rows.retain(|_, row| row.number > upto);
        state.stale.retain(|number| !stale.contains(number));
    }

    /// Ends the store: nothing is put or synced any more, and the node stops (promise D4).
    fn poison(&self, why: &str) {
        let why = format!("the chunk store failed: {why}");
        {
            let mut state = self.lock();
            state.poison.get_or_insert_with(|| why.clone());
            state.is_flushing = false;
        }
        self.synced
            .update(|synced| synced.failure = Some(why.clone()));
        self.env.runtime().fail(EXIT_STORAGE, &why);
    }
}
