//! [driver] A replay's second fold: entries from before the snapshot that its view began with.

use super::{BATCH_BYTES, Failure, Replay};
use crate::view::Backfill;
use aber_log::chunk::ChunkStore;
use aber_log::env::{Env, Runtime};
use aber_log::reader::{ReadProblem, Reader};
use aber_proto::{Entry, Instant, PartitionId};
use std::time::Duration;

/// Between looks whether the entries are back.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// A fold that is under way, or waits for entries.
pub(super) struct Older<E: Env> {
    fold: Backfill<E::Kv>,
    /// When it reads on.
    due: Instant,
}

/// The entries that the second fold needs next, once it is time; never, if there is none.
pub(super) async fn read<E: Env, R: Reader>(
    older: Option<&Older<E>>,
    env: &E,
    reader: &R,
    partition: PartitionId,
) -> Result<Vec<Entry>, ReadProblem> {
    let Some(older) = older else {
        return std::future::pending().await;
    };
    env.runtime().sleep_until(older.due).await;
    reader.read(partition, older.fold.next(), BATCH_BYTES).await
}

impl<E: Env, R: Reader, S: ChunkStore> Replay<E, R, S> {
    /// Looks whether the view began with a snapshot.
    pub(super) fn open_older(&mut self) -> Result<(), String> {
        let options = &self.options;
        if !options.tells_history {
            return Ok(());
        }
        let fold = Backfill::of(&options.view, &options.genesis);
        let fold = fold.map_err(|problem| problem.to_string())?;
        let due = options.env.runtime().now();
        self.older = fold.map(|fold| Older { fold, due });
        Ok(())
    }

    /// Folds what was read; looks again later, if it is not back yet.
    pub(super) async fn fold_older(
        &mut self,
        read: Result<Vec<Entry>, ReadProblem>,
    ) -> Result<(), Failure> {
        let Some(mut older) = self.older.take() else {
            return Ok(());
        };
        match read {
            Ok(entries) => {
                self.wait_for_control(&entries).await;
                let judged = self.judge(&entries, older.fold.members().cloned());
                let verdicts = judged.iter().map(|judged| judged.verdict);
                let batch = entries.into_iter().zip(verdicts).collect();
                let is_done = older.fold.apply(batch);
                if is_done.map_err(|problem| problem.to_string())? {
                    let (runtime, partition) = (self.options.env.runtime(), self.partition());
                    runtime.trace(format_args!("history {partition}: told from the beginning"));
                    return Ok(());
                }
            }
            // Not back yet; or the log is closed, and the newest entries, which cannot be read
            // either, end the replay.
            Err(ReadProblem::Forgotten { .. } | ReadProblem::Closed(_)) => {
                older.due = self.options.env.runtime().now() + LOOK_EVERY;
            }
            Err(problem) => return Err(Failure::Log(problem.to_string())),
        }
        self.older = Some(older);
        Ok(())
    }
}
