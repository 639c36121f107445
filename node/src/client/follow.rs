//! [adapter] A client as `Reader` and `ChunkStore`: what `aber materialize` runs on.
//!
//! One stream a partition stays open between reads. Entries are decoded, must follow each other
//! without a gap, and must extend the chain of the one before on the same stream; chunks must have
//! their hash and length: nothing the node sent is trusted. A node that goes away is waited for.

use super::Client;
use crate::reason::{Problem, Reason};
use aber_log::chunk::{ChunkProblem, ChunkStore};
use aber_log::reader::{ReadProblem, Reader, SnapshotManifest};
use aber_proto::generated::v1;
use aber_proto::manifest::decode_list;
use aber_proto::{
    ChainHash, ChunkHash, ChunkList, ChunkRef, ContentHash, Entry, LogId, Manifest, PartitionId,
    ViewDigest,
};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::sleep;

/// First and longest pause before a node that went away is asked again.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_MOST: Duration = Duration::from_secs(5);
/// A chunk that cannot be had for so long is reported as missing; whoever needs it asks again.
const CHUNK_PATIENCE: Duration = Duration::from_secs(30);

/// The open stream of each partition, between reads.
#[derive(Clone, Default, Debug)]
pub(super) struct Follows(Arc<Mutex<BTreeMap<PartitionId, Follow>>>);

/// A stream of one partition's entries, and those that came and were not read yet.
#[derive(Debug)]
struct Follow {
    stream: super::Stream<v1::FollowPartitionResponse>,
    waiting: VecDeque<(Entry, usize)>,
    next: u64,
    received: u64,
    chain: Option<ChainHash>,
}

impl Follows {
    fn take(&self, partition: PartitionId, from: u64) -> Option<Follow> {
        let mut follows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        follows
            .remove(&partition)
            .filter(|follow| follow.next == from)
    }

    fn keep(&self, partition: PartitionId, follow: Follow) {
        let mut follows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        follows.insert(partition, follow);
    }
}

impl Follow {
    async fn open(client: &Client, partition: PartitionId, from: u64) -> Result<Self, Problem> {
        let request = v1::FollowPartitionRequest {
            partition: partition.0,
            from_index: from,
        };
        Ok(Self {
            stream: client.follow_partition(request).await?,
            waiting: VecDeque::new(),
            next: from,
            received: from,
            chain: None,
        })
    }

    /// Takes one message in.
    fn accept(&mut self, partition: PartitionId, raw: &Bytes) -> Result<(), ReadProblem> {
        let damaged = |what: String| ReadProblem::Damaged(format!("{partition}: {what}"));
        let entry = Entry::decode(raw).map_err(|problem| damaged(problem.to_string()))?;
        let index = entry.log_id.index;
        if entry.partition != partition || index != self.received {
            let found = format!("{}:{index}", entry.partition);
            return Err(damaged(format!(
                "{found} came, not index {}",
                self.received
            )));
        }
        if let Some(previous) = self.chain {
            let verified = entry.verify(&previous);
            verified.map_err(|problem| damaged(problem.to_string()))?;
        }
        self.chain = Some(entry.chain);
        self.received = index.saturating_add(1);
        self.waiting.push_back((entry, raw.len()));
        Ok(())
    }

    /// What has come, up to about `bytes`; at least one entry if there is any.
    fn ready(&mut self, bytes: usize) -> Vec<Entry> {
        let mut entries = Vec::new();
        let mut taken = 0usize;
        while let Some((_, length)) = self.waiting.front() {
            if !entries.is_empty() && taken.saturating_add(*length) > bytes {
                break;
            }
            taken = taken.saturating_add(*length);
            entries.extend(self.waiting.pop_front().map(|(entry, _)| entry));
        }
        self.next = self.next.saturating_add(entries.len() as u64);
        entries
    }
}

/// Whether the stream ended for a reason that passes.
fn passes(problem: &Problem) -> bool {
    problem.retry()
}

fn read_problem(partition: PartitionId, wanted: u64, problem: &Problem) -> ReadProblem {
    match problem.reason {
        Reason::HistoryForgotten => {
            let oldest = problem.fact("oldest").and_then(|text| text.parse().ok());
            ReadProblem::Forgotten {
                partition,
                wanted,
                oldest: oldest.unwrap_or(0),
            }
        }
        _ => ReadProblem::Closed(problem.to_string()),
    }
}

impl Client {
    /// Entries of one stream: from what came before, or from the next message of it. `None`: the
    /// stream ended and is to be opened again.
    async fn read_once(
        &self,
        partition: PartitionId,
        from: u64,
        bytes: usize,
    ) -> Result<Result<Option<Vec<Entry>>, ReadProblem>, Problem> {
        let mut follow = match self.follows.take(partition, from) {
            Some(follow) => follow,
            None => Follow::open(self, partition, from).await?,
        };
        loop {
            let entries = follow.ready(bytes);
            if !entries.is_empty() {
                self.follows.keep(partition, follow);
                return Ok(Ok(Some(entries)));
            }
            let Some(message) = follow.stream.next().await? else {
                return Ok(Ok(None));
            };
            for raw in &message.entries {
                if let Err(problem) = follow.accept(partition, &raw.entry_bytes) {
                    return Ok(Err(problem));
                }
            }
        }
    }

    async fn chunk_once(&self, chunk: ChunkRef) -> Result<Result<Bytes, ChunkProblem>, Problem> {
        let request = v1::ReadChunksRequest {
            hashes: vec![Bytes::copy_from_slice(&chunk.hash.0)],
        };
        let mut stream = self.read_chunks(request).await?;
        let hash = chunk.hash;
        let Some(answer) = stream.next().await? else {
            return Ok(Err(ChunkProblem::Missing { hash }));
        };
        if answer.missing {
            return Ok(Err(ChunkProblem::Missing { hash }));
        }
        let length = u32::try_from(answer.data.len()).ok();
        if length != Some(chunk.length) || ChunkHash::of(&answer.data) != hash {
            return Ok(Err(ChunkProblem::Damaged { hash }));
        }
        Ok(Ok(answer.data))
    }
}

impl Reader for Client {
    async fn read(
        &self,
        partition: PartitionId,
        from: u64,
        bytes: usize,
    ) -> Result<Vec<Entry>, ReadProblem> {
        let mut pause = PAUSE;
        loop {
            match self.read_once(partition, from, bytes).await {
                Ok(Ok(Some(entries))) => return Ok(entries),
                Ok(Ok(None)) => {}
                Ok(Err(problem)) => return Err(problem),
                Err(problem) if passes(&problem) => {}
                Err(problem) => return Err(read_problem(partition, from, &problem)),
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MOST);
        }
    }

    async fn newest_snapshot(
        &self,
        partition: PartitionId,
    ) -> Result<Option<SnapshotManifest>, ReadProblem> {
        let request = v1::ReadSnapshotRequest {
            partition: partition.0,
            max_index: 0,
        };
        let mut pause = PAUSE;
        loop {
            match self.read_snapshot(request).await {
                Ok(response) => {
                    return response.header.map(|h| snapshot(partition, &h)).transpose();
                }
                Err(problem) if passes(&problem) => {}
                Err(problem) => return Err(read_problem(partition, 0, &problem)),
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MOST);
        }
    }
}

impl ChunkStore for Client {
    async fn get(&self, chunk: ChunkRef) -> Result<Bytes, ChunkProblem> {
        let give_up = tokio::time::Instant::now() + CHUNK_PATIENCE;
        let mut pause = PAUSE;
        loop {
            match self.chunk_once(chunk).await {
                Ok(answer) => return answer,
                Err(problem) if !passes(&problem) => {
                    return Err(ChunkProblem::Storage(problem.to_string()));
                }
                Err(_) if tokio::time::Instant::now() >= give_up => {
                    return Err(ChunkProblem::Missing { hash: chunk.hash });
                }
                Err(_) => {}
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MOST);
        }
    }
}

/// Reads a snapshot's header; checks what can be checked without its content.
fn snapshot(
    partition: PartitionId,
    header: &v1::SnapshotHeader,
) -> Result<SnapshotManifest, ReadProblem> {
    let damaged = |what: &str| ReadProblem::Damaged(format!("snapshot of {partition}: {what}"));
    let rows = decode_list(&header.rows).map_err(|problem| damaged(&problem.to_string()))?;
    let content = Manifest {
        size: header.size,
        blake3: ContentHash::from_slice(&header.blake3).ok_or_else(|| damaged("its hash"))?,
        average: header.average,
        chunks: if header.indirect {
            ChunkList::Indirect(rows)
        } else {
            ChunkList::Direct(rows)
        },
    };
    content
        .check()
        .map_err(|problem| damaged(&problem.to_string()))?;
    Ok(SnapshotManifest {
        partition,
        log_id: LogId {
            term: header.term,
            index: header.at.map(|at| at.index).unwrap_or_default(),
        },
        chain: ChainHash::from_slice(&header.chain_hash).ok_or_else(|| damaged("its chain"))?,
        digest: ViewDigest::from_slice(&header.view_digest).ok_or_else(|| damaged("its digest"))?,
        membership: Bytes::new(),
        content,
    })
}
