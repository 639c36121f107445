//! [driver] Following the log: entries for apps, raw entries and chunks for materializers.

use super::history::{decode_cursor, decode_entry, encode_cursor, touches};
use super::{NodeService, parse_path, render};
use crate::reason::{Problem, Reason};
use crate::service::{Answer, Answers, STREAM_QUEUE};
use aber_log::chunk::frame;
use aber_log::env::{Env, Runtime};
use aber_log::reader::{ReadProblem, Reader, SnapshotSource};
use aber_proto::generated::v1;
use aber_proto::{Change, ChunkHash, ChunkList, Entry, Operation, PartitionId, Revived, TreePath};
use aber_proto::{limit, manifest};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::mpsc;

const HEARTBEAT: Duration = Duration::from_secs(15);
const HEARTBEAT_LEAST: Duration = Duration::from_secs(1);
/// Bytes of entries in one message.
const BATCH_BYTES: usize = 512 * 1024;
/// The format of snapshots that are offered.
const SNAPSHOT_FORMAT: u32 = 1;

/// Between looks at how far the mirror is.
const MIRROR_LOOK: Duration = Duration::from_millis(100);

/// What a watcher wants to hear of.
struct Wanted {
    path: TreePath,
    /// None: all.
    kinds: Vec<v1::EventKind>,
    /// Events told of one change.
    events: usize,
    /// Only what the mirror shows.
    until_materialized: bool,
}

impl Wanted {
    fn is_of_kind(&self, change: &Change) -> bool {
        let mut kinds = change.events.iter().map(|event| kind_of(&event.operation));
        self.kinds.is_empty() || kinds.any(|kind| self.kinds.contains(&kind))
    }
}

fn kind_of(operation: &Operation) -> v1::EventKind {
    use v1::EventKind as Kind;
    match operation {
        Operation::Put { .. } => Kind::Put,
        Operation::MakeDirectory { .. } => Kind::MakeDirectory,
        Operation::MakeSymlink { .. } => Kind::MakeSymlink,
        Operation::Rename { .. } => Kind::Rename,
        Operation::Copy { .. } => Kind::Copy,
        Operation::Remove { .. } => Kind::Remove,
        Operation::SetAttributes { .. } => Kind::SetAttributes,
        Operation::Revive { what, .. } => match what {
            Revived::File(_) => Kind::Put,
            Revived::Symlink(_) => Kind::MakeSymlink,
            Revived::Directory => Kind::MakeDirectory,
        },
        _ => Kind::Control,
    }
}

fn read_problem(problem: &ReadProblem) -> Problem {
    match problem {
        ReadProblem::Forgotten {
            partition,
            wanted,
            oldest,
        } => Problem::new(Reason::HistoryForgotten)
            .with("partition", partition)
            .with("wanted", wanted)
            .with("oldest", oldest),
        ReadProblem::Closed(detail) => Problem::new(Reason::Stopping).with("detail", detail),
        ReadProblem::Damaged(detail) => Problem::new(Reason::LogDamaged).with("detail", detail),
    }
}

impl<E: Env> NodeService<E> {
    fn next_of(&self, request: &v1::WatchRequest) -> Result<BTreeMap<PartitionId, u64>, Problem> {
        use v1::watch_request::Start;
        let ids: Vec<_> = self.node.parts.config.genesis.partition_ids().collect();
        let foreign = || Problem::new(Reason::CursorForeign).with("detail", "the cursor");
        let given = match &request.start {
            Some(Start::After(cursor)) => decode_cursor(&cursor.token).ok_or_else(foreign)?,
            Some(Start::Beginning(true)) => {
                let oldest = |p: PartitionId| self.node.parts.log.state(p).oldest.unwrap_or(0);
                ids.iter()
                    .map(|partition| (*partition, oldest(*partition)))
                    .collect()
            }
            _ => BTreeMap::new(),
        };
        let applied = |p: &PartitionId| self.node.parts.applied.get(p).and_then(|at| at.get());
        let next = |p: PartitionId| match given.get(&p) {
            Some(next) => *next,
            None => applied(&p).map_or(0, |index| index + 1),
        };
        Ok(ids
            .into_iter()
            .map(|partition| (partition, next(partition)))
            .collect())
    }

    pub(super) fn follow_all(
        &self,
        request: v1::WatchRequest,
    ) -> Answer<Answers<v1::WatchResponse>> {
        let path = if request.path.is_empty() {
            TreePath::root()
        } else {
            parse_path(&request.path)?
        };
        let mut next = self.next_of(&request)?;
        let pause = request
            .heartbeat
            .as_ref()
            .and_then(|time| Duration::try_from(*time).ok());
        let pause = pause.unwrap_or(HEARTBEAT).max(HEARTBEAT_LEAST);
        let wanted = Wanted {
            path,
            kinds: request.kinds().collect(),
            events: match request.events_per_change {
                0 => usize::MAX,
                some => some as usize,
            },
            until_materialized: request.until_materialized,
        };
        let (sender, answers) = mpsc::channel(STREAM_QUEUE);
        let this = self.clone();
        self.node.parts.env.runtime().spawn("watch", async move {
            loop {
                match this.send_applied(&sender, &mut next, &wanted).await {
                    Ok(true) => {}
                    Ok(false) => return,
                    Err(problem) => {
                        let _gone = sender.send(Err(problem)).await.is_err();
                        return;
                    }
                }
                let runtime = this.node.parts.env.runtime();
                let more = this.any_ready(&next, &wanted);
                if runtime.timeout(pause, more).await.is_none() {
                    let beat = v1::Heartbeat {
                        time: Some(render::stamp_message(runtime.wall_clock())),
                        caught_up: true,
                    };
                    let message = Some(v1::watch_response::Message::Heartbeat(beat));
                    let cursor = cursor_of(&next);
                    if sender
                        .send(Ok(v1::WatchResponse { message, cursor }))
                        .await
                        .is_err()
                    {
                        return;
                    }
                }
            }
        });
        Ok(answers)
    }

    /// Waits until there is something to tell.
    async fn any_ready(&self, next: &BTreeMap<PartitionId, u64>, wanted: &Wanted) {
        self.any_applied(next).await;
        if !wanted.until_materialized {
            return;
        }
        let is_shown = || {
            let Some(shown) = self.shown() else {
                return true;
            };
            next.iter().any(|(partition, next)| {
                shown.get(partition).is_some_and(|shown| shown >= next)
                    && self.applied_to(*partition) >= Some(*next)
            })
        };
        while !is_shown() {
            self.node.parts.env.runtime().sleep(MIRROR_LOOK).await;
        }
    }

    fn applied_to(&self, partition: PartitionId) -> Option<u64> {
        self.node.parts.applied.get(&partition)?.get()
    }

    /// Waits until some partition is applied at or past its next index.
    async fn any_applied(&self, next: &BTreeMap<PartitionId, u64>) {
        let mut waits = Vec::new();
        for (partition, applied) in &self.node.parts.applied {
            let wanted = next.get(partition).copied().unwrap_or(0);
            let mut applied = applied.clone();
            waits.push(Box::pin(async move {
                applied
                    .until(|index| index.is_some_and(|index| index >= wanted))
                    .await;
            }));
        }
        if !waits.is_empty() {
            futures::future::select_all(waits).await;
        }
    }

    /// Sends what is applied and not sent yet; `false` if the caller is gone.
    async fn send_applied(
        &self,
        sender: &mpsc::Sender<Result<v1::WatchResponse, Problem>>,
        next: &mut BTreeMap<PartitionId, u64>,
        wanted: &Wanted,
    ) -> Result<bool, Problem> {
        let names = self.names();
        let shown = self.shown();
        for partition in self.node.parts.config.genesis.partition_ids() {
            let mut applied = self.applied_to(partition);
            if let (true, Some(shown)) = (wanted.until_materialized, &shown) {
                applied = applied.min(shown.get(&partition).copied());
            }
            loop {
                let from = next.get(&partition).copied().unwrap_or(0);
                if applied.is_none_or(|applied| applied < from) {
                    break;
                }
                let read = self
                    .node
                    .parts
                    .reader
                    .read(partition, from, BATCH_BYTES)
                    .await;
                for entry in read.map_err(|problem| read_problem(&problem))? {
                    let index = entry.log_id.index;
                    if applied.is_none_or(|applied| applied < index) {
                        break;
                    }
                    next.insert(partition, index + 1);
                    let Some(told) = decode_entry(entry) else {
                        continue;
                    };
                    if !wanted.is_of_kind(&told.change)
                        || !touches(&told.change, &wanted.path, &names)
                    {
                        continue;
                    }
                    let shown = self.tell(&told, wanted.events, &names);
                    let message = Some(v1::watch_response::Message::Entry(shown));
                    let cursor = cursor_of(next);
                    if sender
                        .send(Ok(v1::WatchResponse { message, cursor }))
                        .await
                        .is_err()
                    {
                        return Ok(false);
                    }
                }
            }
        }
        Ok(true)
    }

    pub(super) fn follow_one(
        &self,
        request: v1::FollowPartitionRequest,
    ) -> Answer<Answers<v1::FollowPartitionResponse>> {
        let partition = PartitionId(request.partition);
        let Some(group) = self.node.parts.partitions.get(&partition).cloned() else {
            let entry = format!("{partition}:{}", request.from_index);
            return Err(Problem::new(Reason::EntryNotFound).with("entry", entry));
        };
        let (sender, answers) = mpsc::channel(STREAM_QUEUE);
        let reader = self.node.parts.reader.clone();
        let runtime = self.node.parts.env.runtime().clone();
        self.node
            .parts
            .env
            .runtime()
            .spawn("follow partition", async move {
                let mut next = request.from_index;
                loop {
                    let read = reader.read(partition, next, BATCH_BYTES);
                    let answer = match runtime.timeout(HEARTBEAT, read).await {
                        None => Ok(Vec::new()),
                        Some(Ok(entries)) => Ok(entries),
                        Some(Err(problem)) => Err(read_problem(&problem)),
                    };
                    let committed_index = group.committed().get().map_or(0, |id| id.index);
                    let answer = answer.map(|entries| {
                        next = entries.last().map_or(next, |entry| entry.log_id.index + 1);
                        let entries = entries.iter().map(raw_entry).collect();
                        v1::FollowPartitionResponse {
                            entries,
                            committed_index,
                        }
                    });
                    let is_over = answer.is_err();
                    if sender.send(answer).await.is_err() || is_over {
                        return;
                    }
                }
            });
        Ok(answers)
    }

    pub(super) fn describe_snapshot(
        &self,
        request: v1::ReadSnapshotRequest,
    ) -> Answer<v1::ReadSnapshotResponse> {
        let newest = self
            .node
            .parts
            .snapshots
            .newest(PartitionId(request.partition));
        let wanted = |index: u64| request.max_index == 0 || index <= request.max_index;
        let header = newest
            .filter(|snapshot| wanted(snapshot.log_id.index))
            .map(|snapshot| {
                let content = &snapshot.content;
                v1::SnapshotHeader {
                    at: Some(render::entry_id(snapshot.partition, snapshot.log_id.index)),
                    term: snapshot.log_id.term,
                    chain_hash: Bytes::copy_from_slice(&snapshot.chain.0),
                    view_digest: Bytes::copy_from_slice(&snapshot.digest.0),
                    size: content.size,
                    format: SNAPSHOT_FORMAT,
                    blake3: Bytes::copy_from_slice(&content.blake3.0),
                    average: content.average,
                    rows: manifest::encode_list(content.chunks.rows()).into(),
                    indirect: matches!(content.chunks, ChunkList::Indirect(_)),
                }
            });
        Ok(v1::ReadSnapshotResponse { header })
    }

    pub(super) fn send_chunks(
        &self,
        request: v1::ReadChunksRequest,
    ) -> Answer<Answers<v1::ReadChunksResponse>> {
        if request.hashes.len() > limit::PARCEL_CHUNKS {
            return Err(Problem::usage("at most 256 chunks in one call"));
        }
        let (sender, answers) = mpsc::channel(STREAM_QUEUE);
        let store = self.node.parts.content.store().clone();
        self.node
            .parts
            .env
            .runtime()
            .spawn("read chunks", async move {
                for hash in request.hashes {
                    let known = ChunkHash::from_slice(&hash);
                    let stored = known.and_then(|known| store.read_frame(&known).ok());
                    let data = stored.and_then(|frame| frame::decode(&frame).ok());
                    let missing = data.is_none();
                    let data = data.map(|(_, raw)| raw).unwrap_or_default();
                    if sender
                        .send(Ok(v1::ReadChunksResponse {
                            hash,
                            data,
                            missing,
                        }))
                        .await
                        .is_err()
                    {
                        return;
                    }
                }
            });
        Ok(answers)
    }
}

fn cursor_of(next: &BTreeMap<PartitionId, u64>) -> Option<v1::Cursor> {
    let positions = next.iter().map(|(partition, index)| (*partition, *index));
    Some(v1::Cursor {
        token: encode_cursor(positions),
    })
}

fn raw_entry(entry: &Entry) -> v1::RawEntry {
    v1::RawEntry {
        index: entry.log_id.index,
        term: entry.log_id.term,
        entry_bytes: entry.to_bytes(),
        chain_hash: Bytes::copy_from_slice(&entry.chain.0),
    }
}
