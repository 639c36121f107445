//! [driver] The index and its rebuild: anything wrong with it costs time, never data.
//!
//! An index that does not open, is of another cluster or format, or says something the log
//! contradicts, is moved aside and filled again from snapshots and log.

use super::finding::{self, Finding, Findings};
use crate::reason::{Problem, Reason};
use aber_log::env::kv::KvProblem;
use aber_log::env::{Env, Runtime};
use aber_log::outbox::Outbox;
use aber_log::outbox::state::Outcome;
use aber_log::partition::Partition;
use aber_log::segment::{SegmentLog, SegmentProblem};
use aber_materializer::mirror::MirrorHandle;
use aber_materializer::replay::{AppliedBatch, Boxed, Failure, Listener};
use aber_materializer::view::{EntryResult, Rejection, RequestOutcome, View};
use aber_proto::{Genesis, NodeId, PartitionId};
use bytes::Bytes;
use std::collections::BTreeMap;

/// The note that says: the index is bad, rebuild it at the next start.
const BAD_INDEX: &[u8] = b"index/bad";
/// The exit code of a node whose index failed while it ran; its next start rebuilds it.
const EXIT_INDEX: i32 = 75;
/// The exit code of a node that found damage it cannot mend (as the command line's).
const EXIT_DAMAGE: i32 = 8;

type Views<K> = BTreeMap<PartitionId, View<K>>;

pub(super) fn log_problem(problem: &SegmentProblem) -> Problem {
    let reason = match problem {
        SegmentProblem::OtherCluster { .. } => Reason::OtherCluster,
        SegmentProblem::NewerFormat { .. } => Reason::VersionTooOld,
        SegmentProblem::Damaged { .. } => Reason::LogDamaged,
        _ => Reason::StorageFailed,
    };
    let said = Problem::new(reason).with("detail", problem);
    match problem {
        SegmentProblem::OtherCluster { cluster, node, .. } => said
            .with("what", "the log")
            .with("found", format_args!("{cluster} (node {node})"))
            .with("wanted", "that of the directory's genesis and key"),
        SegmentProblem::NewerFormat { format, .. } => said
            .with("what", "the log")
            .with("found", format)
            .with("supported", "an older one"),
        SegmentProblem::Damaged {
            segment, offset, ..
        } => said
            .with("file", format_args!("log/{segment:08}.seg"))
            .with("offset", offset),
        _ => said,
    }
}

/// Opens index and views; a bad index is replaced by an empty one, once.
pub(super) async fn open<E: Env>(
    env: &E,
    log: &SegmentLog<E>,
    genesis: &Genesis,
    findings: &Findings,
) -> Result<(E::Kv, Views<E::Kv>), Problem> {
    let noted = log
        .note(BAD_INDEX)
        .map_err(|problem| log_problem(&problem))?;
    let opened = match noted {
        Some(why) => Err(String::from_utf8_lossy(&why).into_owned()),
        None => try_open(env, log, genesis),
    };
    let why = match opened {
        Ok(opened) => return Ok(opened),
        Err(why) => why,
    };
    env.runtime().trace(format_args!("index rebuilt: {why}"));
    let repaired = format!("the index was rebuilt from the log: {why}");
    finding::add(findings, Finding::Repaired(repaired));
    let failed = |detail: String| Problem::new(Reason::StorageFailed).with("detail", detail);
    env.discard_index()
        .map_err(|error| failed(error.to_string()))?;
    let opened = try_open(env, log, genesis).map_err(failed)?;
    let clear = vec![(Bytes::from_static(BAD_INDEX), None)];
    log.write_notes(clear)
        .await
        .map_err(|problem| log_problem(&problem))?;
    Ok(opened)
}

fn try_open<E: Env>(
    env: &E,
    log: &SegmentLog<E>,
    genesis: &Genesis,
) -> Result<(E::Kv, Views<E::Kv>), String> {
    let kv = env
        .open_index()
        .map_err(|problem: KvProblem| problem.to_string())?;
    let mut views = BTreeMap::new();
    for partition in genesis.partition_ids() {
        let view = View::open(kv.clone(), partition, genesis);
        let view = view.map_err(|problem| problem.to_string())?;
        check_against_log(&view, log, partition)?;
        views.insert(partition, view);
    }
    Ok((kv, views))
}

/// A view may be behind the log, never ahead of it or beside it.
fn check_against_log<E: Env>(
    view: &View<E::Kv>,
    log: &SegmentLog<E>,
    partition: PartitionId,
) -> Result<(), String> {
    let Some(index) = view.applied_index() else {
        return Ok(());
    };
    let state = log.state(partition);
    let at_purge = state
        .purged
        .filter(|(id, _)| id.index == index)
        .map(|(_, chain)| chain);
    let in_log = log
        .chain_at(partition, index)
        .map_err(|problem| problem.to_string())?;
    let known = in_log.map(|(_, chain)| chain).or(at_purge);
    let is_ahead = state.last.is_none_or(|last| last.index < index);
    if is_ahead {
        return Err(format!(
            "partition {partition}: the index is ahead of the log at {index}"
        ));
    }
    match known {
        Some(chain) if chain != view.applied().chain => Err(format!(
            "partition {partition}: index and log differ at {index}"
        )),
        _ => Ok(()),
    }
}

/// Told by the replays: outbox and Raft learn what was applied.
pub(super) struct NodeListener<E: Env> {
    pub(super) env: E,
    pub(super) me: NodeId,
    pub(super) log: SegmentLog<E>,
    pub(super) outbox: Outbox,
    pub(super) partition: Option<Partition<E>>,
    pub(super) mirror: Option<MirrorHandle>,
}

impl<E: Env> Listener for NodeListener<E> {
    fn applied(&self, batch: AppliedBatch) -> Boxed {
        let (outbox, me) = (self.outbox.clone(), self.me);
        let (mut outcomes, mut voids) = (Vec::new(), Vec::new());
        for ((entry, judged), outcome) in batch.entries.iter().zip(batch.outcomes) {
            let Some(change) = judged.change.as_ref().filter(|change| change.author == me) else {
                continue;
            };
            let at = |index, rejected| Outcome {
                partition: batch.partition,
                index,
                rejected,
            };
            let index = entry.log_id.index;
            match outcome.result {
                // Neither uses up the request: a new number, judged by a newer index, will do.
                EntryResult::Rejected(rejected)
                    if matches!(
                        rejected.reason,
                        Rejection::Void | Rejection::ControlIndexFell
                    ) =>
                {
                    voids.push((change.request, change.author_sequence));
                }
                EntryResult::Rejected(rejected) => {
                    let path = rejected.place.map(|place| place.path.to_string());
                    let why = (rejected.reason.code(), path.unwrap_or_default());
                    outcomes.push((change.request, at(index, Some(why))));
                }
                EntryResult::Applied(_) | EntryResult::Nothing => {
                    outcomes.push((change.request, at(index, None)));
                }
                EntryResult::Repeat { index, outcome } => {
                    let rejected = match outcome {
                        RequestOutcome::Applied => None,
                        RequestOutcome::Rejected(reason) => Some((reason.code(), String::new())),
                    };
                    outcomes.push((change.request, at(index, rejected)));
                }
            }
        }
        Box::pin(async move {
            if !outcomes.is_empty() {
                outbox.tell_outcomes(outcomes).await;
            }
            for (request, sequence) in voids {
                outbox.tell_void(request, sequence).await;
            }
        })
    }

    fn snapshot_made(&self) -> Boxed {
        let partition = self.partition.clone();
        Box::pin(async move {
            if let Some(partition) = partition {
                partition.snapshot_made().await;
            }
        })
    }

    fn snapshot_installed(&self) -> Boxed {
        let mirror = self.mirror.clone();
        Box::pin(async move {
            if let Some(mirror) = mirror {
                mirror.scan().await;
            }
        })
    }

    fn failed(&self, why: Failure) -> Boxed {
        let (log, runtime) = (self.log.clone(), self.env.runtime().clone());
        Box::pin(async move {
            let why = match why {
                Failure::Log(why) => {
                    runtime.fail(EXIT_DAMAGE, &format!("the log is damaged: {why}"));
                    return;
                }
                Failure::Index(why) => why,
            };
            rebuild(&log, &runtime, &why).await;
        })
    }
}

/// Ends the node; its next start makes the index anew.
pub(super) async fn rebuild<E: Env>(log: &SegmentLog<E>, runtime: &E::Runtime, why: &str) {
    let note = Some(Bytes::copy_from_slice(why.as_bytes()));
    let notes = vec![(Bytes::from_static(BAD_INDEX), note)];
    // If the log fails too, the next start finds out by itself.
    let _failed = log.write_notes(notes).await.is_err();
    runtime.fail(EXIT_INDEX, &format!("the index must be rebuilt: {why}"));
}

/// An index that a mirror cannot read is as bad as one that a replay cannot: on a quiet node the
/// mirror may be the only one who reads it.
pub(super) async fn watch_mirror<E: Env>(env: E, log: SegmentLog<E>, mirror: MirrorHandle) {
    let mut status = mirror.status.clone();
    let failed = status.until(|status| status.index_failed).await;
    rebuild(&log, env.runtime(), &failed.problem.unwrap_or_default()).await;
}
