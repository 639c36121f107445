//! [driver] A replay's snapshots: making one where it is due, taking one in.

use super::Maker;
use super::{PAGE, Replay, SNAPSHOT_PAUSE, membership_key};
use crate::snapshot::{SnapshotInstall, SnapshotWriter};
use aber_log::chunk::store::PackStore;
use aber_log::chunk::{ChunkProblem, ChunkStore};
use aber_log::env::kv::KvBatch;
use aber_log::env::{Env, Kv, Runtime};
use aber_log::ingest::{ContentProblem, ContentWriter};
use aber_log::reader::{Reader, SnapshotManifest};
use aber_proto::{ChunkHash, ChunkList, ChunkRef, Content, ContentHash, Manifest, limit};
use aber_proto::{Entry, PartitionId};
use bytes::Bytes;
use std::sync::Arc;

/// Bytes of entries after which a snapshot is due, however few they are: so that whoever starts from
/// one reads little besides.
const SNAPSHOT_BYTES: u64 = 16 * 1024 * 1024;

/// The index row that holds the bytes of entries since a snapshot was due.
fn since_key(partition: PartitionId) -> Bytes {
    #[expect(clippy::big_endian_bytes, reason = "keys sort by bytes")]
    let number = partition.0.to_be_bytes();
    [b"N".as_slice(), &number].concat().into()
}

impl<E: Env, R: Reader, S: ChunkStore> Replay<E, R, S> {
    /// Whether a snapshot is due after an entry, which makes it `bytes` since the last: a rule of the
    /// log alone, so that all nodes make theirs of the same entries.
    pub(super) fn is_due(&self, index: u64, bytes: u64) -> bool {
        let maker = self.options.maker.as_ref();
        let by_count = |maker: &Maker<E>| index > 0 && index.is_multiple_of(maker.every);
        maker.is_some_and(|maker| by_count(maker) || bytes >= SNAPSHOT_BYTES)
    }

    /// Whether a snapshot is due after a batch, and the bytes since one was due.
    pub(super) fn look_due(&self, entries: &[Entry]) -> (bool, u64) {
        let lengths = entries.iter().map(|entry| entry.body.len() as u64);
        let bytes = self.since_snapshot_bytes + lengths.sum::<u64>();
        let last = entries.last().map(|entry| entry.log_id.index);
        match last.is_some_and(|index| self.is_due(index, bytes)) {
            true => (true, 0),
            false => (false, bytes),
        }
    }

    pub(super) fn read_since_snapshot(&self) -> Result<u64, String> {
        let row = self.options.kv.get(&since_key(self.partition()));
        let row = row.map_err(|problem| problem.to_string())?;
        let number = row.and_then(|row| Some(u64::from_le_bytes(row.as_ref().try_into().ok()?)));
        Ok(number.unwrap_or(0))
    }

    pub(super) fn note_since_snapshot(&self, extra: &mut KvBatch, bytes: u64) {
        if self.options.maker.is_some() {
            extra.put(since_key(self.partition()), bytes.to_le_bytes().to_vec());
        }
    }

    pub(super) async fn make_snapshot(&mut self) -> Result<(), String> {
        let Some(maker) = &self.options.maker else {
            return Ok(());
        };
        let Some(snapshot) = self.encode_snapshot(maker).await? else {
            return Ok(());
        };
        maker.snapshots.keep(snapshot).await?;
        self.options.listener.snapshot_made().await;
        Ok(())
    }

    async fn encode_snapshot(&self, maker: &Maker<E>) -> Result<Option<SnapshotManifest>, String> {
        let view = &self.options.view;
        let mut writer = ContentWriter::new(maker.store.clone(), None, None);
        let rows = SnapshotWriter::begin(self.options.kv.clone(), view.partition());
        let mut rows = rows.map_err(|problem| problem.to_string())?;
        while let Some(piece) = rows.next_piece().map_err(|problem| problem.to_string())? {
            writer
                .push(piece)
                .await
                .map_err(|problem| problem.to_string())?;
        }
        let staged = match writer.finish().await {
            Ok(staged) => staged,
            // No room for it: the log keeps what it would have covered.
            Err(ContentProblem::Chunk(ChunkProblem::NoSpace { .. })) => return Ok(None),
            Err(problem) => return Err(problem.to_string()),
        };
        let content = in_chunks(&maker.store, staged.content).await?;
        let key = membership_key(view.partition());
        let membership = self.options.kv.get(&key);
        let membership = membership
            .map_err(|problem| problem.to_string())?
            .unwrap_or_default();
        Ok(Some(SnapshotManifest {
            partition: view.partition(),
            log_id: view.applied().log_id,
            chain: view.applied().chain,
            digest: view.digest(),
            membership,
            content,
        }))
    }

    /// Replaces the view by a snapshot: every chunk is verified, then every row, then the digest.
    pub(super) async fn install(&mut self, snapshot: &SnapshotManifest) -> Result<(), String> {
        let data = self.chunks_of_snapshot(snapshot).await?;
        if let Some(ahead) = &self.options.ahead {
            ahead(&data);
        }
        let (kv, partition) = (self.options.kv.clone(), self.partition());
        let mut installer = SnapshotInstall::new(kv, partition, Arc::clone(&self.options.genesis));
        for chunk in data {
            let bytes = self.chunk_of_snapshot(chunk).await?;
            installer
                .push(&bytes)
                .map_err(|problem| problem.to_string())?;
        }
        let mut view = installer.finish().map_err(|problem| problem.to_string())?;
        view.compare_every(self.options.view.compared_every());
        let is_it = view.applied().log_id == snapshot.log_id
            && view.applied().chain == snapshot.chain
            && view.digest() == snapshot.digest;
        if !is_it {
            return Err(format!(
                "the snapshot of partition {partition} is not what it was said to be"
            ));
        }
        self.options.view = view;
        self.open_older()?;
        // It was made when it was due.
        self.since_snapshot_bytes = 0;
        let mut extra = KvBatch::default();
        self.note_since_snapshot(&mut extra, 0);
        extra.put(membership_key(partition), snapshot.membership.clone());
        self.options
            .kv
            .commit(extra)
            .map_err(|problem| problem.to_string())?;
        if let Some(maker) = &self.options.maker {
            // Its chunks may be needed again after a crash, before any other node is there.
            maker
                .store
                .sync()
                .await
                .map_err(|problem| problem.to_string())?;
            maker.snapshots.keep(snapshot.clone()).await?;
        }
        self.publish(self.options.view.applied_index());
        self.tell_all_dirty().await?;
        self.options.listener.snapshot_installed().await;
        Ok(())
    }

    /// The chunks of a snapshot. Like each of them, its list may take long to come: who has it may
    /// be away. That is no reason to give the index up; nothing is replayed meanwhile.
    async fn chunks_of_snapshot(
        &self,
        snapshot: &SnapshotManifest,
    ) -> Result<Vec<ChunkRef>, String> {
        let (chunks, runtime) = (&self.options.chunks, self.options.env.runtime());
        loop {
            match aber_log::ingest::resolve_chunks(chunks, &snapshot.content).await {
                Err(ContentProblem::Chunk(problem)) if may_come(&problem) => {
                    runtime.trace(format_args!("a snapshot waits: {problem}"));
                    runtime.sleep(SNAPSHOT_PAUSE).await;
                }
                other => return other.map_err(|problem| problem.to_string()),
            }
        }
    }

    async fn chunk_of_snapshot(&self, chunk: ChunkRef) -> Result<Bytes, String> {
        let runtime = self.options.env.runtime();
        loop {
            match self.options.chunks.get(chunk).await {
                Err(problem) if may_come(&problem) => {
                    runtime.trace(format_args!("a snapshot waits: {problem}"));
                    runtime.sleep(SNAPSHOT_PAUSE).await;
                }
                other => return other.map_err(|problem| problem.to_string()),
            }
        }
    }

    /// After a snapshot anything may have changed.
    async fn tell_all_dirty(&self) -> Result<(), String> {
        let index = self.options.view.applied_index();
        let mut after = None;
        loop {
            let page = self
                .options
                .view
                .nodes(after, PAGE)
                .map_err(|problem| problem.to_string())?;
            let Some(last) = page.last().copied() else {
                break;
            };
            after = Some(last);
            self.tell_mirror(index, page).await;
        }
        Ok(())
    }
}

/// Whether a chunk that could not be had may be had later.
fn may_come(problem: &ChunkProblem) -> bool {
    !matches!(problem, ChunkProblem::Storage(_))
}

/// A small snapshot too is stored, so that another node can fetch it.
async fn in_chunks<E: Env>(store: &PackStore<E>, content: Content) -> Result<Manifest, String> {
    let bytes = match content {
        Content::Chunks(manifest) => return Ok(manifest),
        Content::Inline(bytes) => bytes,
    };
    let hash = ChunkHash::of(&bytes);
    let length = u32::try_from(bytes.len()).map_err(|error| error.to_string())?;
    store
        .put(hash, &bytes)
        .map_err(|problem| problem.to_string())?;
    store.sync().await.map_err(|problem| problem.to_string())?;
    Ok(Manifest {
        size: u64::from(length),
        blake3: ContentHash::of(&bytes),
        average: u32::try_from(limit::CHUNK_AVERAGE_MIN_BYTES).unwrap_or(u32::MAX),
        chunks: ChunkList::Direct(vec![ChunkRef { hash, length }]),
    })
}
