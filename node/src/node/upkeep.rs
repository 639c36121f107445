//! [driver] Upkeep: what retention lets go of goes, and content that nothing reaches, a day later.
//!
//! What reaches a chunk: a version of the tree, present or earlier; one that retention let go of
//! within the time of grace; a change that waits in the outbox or an upload on its way (pins); a staged content; a
//! snapshot. All but the pins are gathered before the first pack is looked at, and a chunk that
//! comes to be reached meanwhile is pinned by what brings it.

use super::Parts;
use aber_log::chunk::ChunkProblem;
use aber_log::env::kv::KvProblem;
use aber_log::env::{Env, Runtime};
use aber_log::ingest::ContentProblem;
use aber_log::outbox::item::Item;
use aber_materializer::view::{Pruned, Release};
use aber_proto::{ChunkHash, ChunkList, Content, Timestamp, VolumeId, codec};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// Rows of the index read at a time.
const PAGE: usize = 512;
/// Chunks whose references are taken away at once.
const RELEASE_CHUNKS: usize = 64 * 1024;

/// When content is swept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SweepOptions {
    /// Between two sweeps.
    pub every: Duration,
    /// What came, or was let go, within this time stays in any case.
    pub grace: Duration,
}

impl Default for SweepOptions {
    fn default() -> Self {
        let day = Duration::from_secs(24 * 3600);
        Self {
            every: day,
            grace: day,
        }
    }
}

/// What one round did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Tended {
    /// Of versions.
    pub(super) pruned: Pruned,
    /// Bytes that the packs have less.
    pub(super) freed_bytes: u64,
}

/// Prunes and sweeps for ever.
pub(super) async fn sweep_all<E: Env>(parts: Arc<Parts<E>>) {
    let options = parts.config.options.sweep;
    loop {
        parts.env.runtime().sleep(options.every).await;
        match tend(&parts, None).await {
            Ok(tended) => parts.env.runtime().trace(format_args!("upkeep {tended:?}")),
            // Nothing is lost by a round that did not happen; the next one tries again.
            Err(why) => parts
                .env
                .runtime()
                .trace(format_args!("upkeep failed: {why}")),
        }
    }
}

/// One round: what retention lets go of goes, then the references of contents whose time of grace is
/// over, then what nothing reaches. One after the other, whoever asks.
pub(super) async fn tend<E: Env>(
    parts: &Parts<E>,
    only: Option<VolumeId>,
) -> Result<Tended, String> {
    let _one_at_a_time = parts.upkeep.lock().await;
    let grace = parts.config.options.sweep.grace;
    let pruned = prune(parts, only).await?;
    while release(parts, grace).await? {}
    let freed_bytes = sweep(parts, grace).await?;
    Ok(Tended {
        pruned,
        freed_bytes,
    })
}

fn text(problem: KvProblem) -> String {
    problem.to_string()
}

async fn prune<E: Env>(parts: &Parts<E>, only: Option<VolumeId>) -> Result<Pruned, String> {
    let mut all = Pruned::default();
    for partition in parts.config.genesis.partition_ids() {
        // What is being installed means nothing, and is pruned another day.
        if parts.tree.is_installing(partition).map_err(text)? {
            continue;
        }
        let plan = parts.tree.plan_prune(partition, only).map_err(text)?;
        loop {
            let now = parts.env.runtime().wall_clock();
            let pruned = parts.tree.prune_page(&plan, all.next, now).map_err(text)?;
            all.versions += pruned.versions;
            all.bytes += pruned.bytes;
            all.next = pruned.next;
            tokio::task::yield_now().await;
            if all.next.is_none() {
                break;
            }
        }
        let mut names = parts.tree.prune_names(&plan);
        while names.next_page().map_err(text)?.is_some() {
            tokio::task::yield_now().await;
        }
    }
    Ok(all)
}

/// Some contents whose time is over lose their references; whether there was one.
async fn release<E: Env>(parts: &Parts<E>, grace: Duration) -> Result<bool, String> {
    let now = parts.env.runtime().wall_clock();
    let grace_ms = i64::try_from(grace.as_millis()).unwrap_or(i64::MAX);
    let until = Timestamp(now.0.saturating_sub(grace_ms));
    let begun = parts.tree.begin_release(until, RELEASE_CHUNKS);
    let mut release = begun.map_err(text)?;
    if release.is_empty() {
        return Ok(false);
    }
    look(parts, &mut release, until).await?;
    parts.tree.drop_references(&release).map_err(text)?;
    look(parts, &mut release, until).await?;
    parts.tree.end_release(release).map_err(text)?;
    Ok(true)
}

/// Takes out of a release what any content still refers to.
async fn look<E: Env>(
    parts: &Parts<E>,
    release: &mut Release,
    until: Timestamp,
) -> Result<(), String> {
    for partition in parts.config.genesis.partition_ids() {
        let mut after = None;
        loop {
            let page = parts.tree.contents(partition, after.as_deref(), PAGE);
            let (contents, last) = page.map_err(text)?;
            let spared = contents.iter().flat_map(|content| release.spare(content));
            let spared = spared.collect();
            parts.tree.refer(spared).map_err(text)?;
            tokio::task::yield_now().await;
            if last.is_none() {
                break;
            }
            after = last;
        }
    }
    let mut after = None;
    loop {
        let (contents, last) = parts.tree.gone(after.as_deref(), PAGE).map_err(text)?;
        let waiting = contents.iter().filter(|gone| gone.since > until);
        let spared = waiting.flat_map(|gone| release.spare(&gone.content));
        let spared = spared.collect();
        parts.tree.refer(spared).map_err(text)?;
        if last.is_none() {
            return Ok(());
        }
        after = last;
    }
}

async fn sweep<E: Env>(parts: &Parts<E>, grace: Duration) -> Result<u64, String> {
    let kept = kept_chunks(parts).await?;
    let reach = |hash: &ChunkHash| {
        if kept.contains(hash) {
            return Ok(true);
        }
        let referenced = parts.tree.is_referenced(hash);
        referenced.map_err(|problem| ChunkProblem::Storage(problem.to_string()))
    };
    let before = parts.content.store().stored_bytes();
    let report = parts.content.store().sweep(reach, grace).await;
    let report = report.map_err(|problem| problem.to_string())?;
    parts.env.runtime().trace(format_args!("sweep {report:?}"));
    Ok(before.saturating_sub(parts.content.store().stored_bytes()))
}

/// The chunks that no row of the index names: those of snapshots, of staged contents, of changes
/// that wait, and what stored lists name.
async fn kept_chunks<E: Env>(parts: &Parts<E>) -> Result<BTreeSet<ChunkHash>, String> {
    let mut kept = BTreeSet::new();
    for snapshot in parts.snapshots.all() {
        keep(parts, &Content::Chunks(snapshot.content), &mut kept).await?;
    }
    let notes = |prefix: &[u8]| {
        parts
            .log
            .notes(prefix)
            .map_err(|problem| problem.to_string())
    };
    for (_, value) in notes(super::service::STAGED_PREFIX)? {
        let content = codec::decode_content(&value).map_err(|problem| problem.to_string())?;
        keep(parts, &content, &mut kept).await?;
    }
    for (_, value) in notes(aber_log::outbox::ITEM_PREFIX)? {
        let item = Item::decode(value).map_err(|problem| problem.to_string())?;
        for event in &item.change.events {
            if let Some(content) = event.operation.content() {
                keep(parts, content, &mut kept).await?;
            }
        }
    }
    for partition in parts.config.genesis.partition_ids() {
        let mut after = None;
        loop {
            let page = parts.tree.contents(partition, after.as_deref(), PAGE);
            let (contents, last) = page.map_err(|problem| problem.to_string())?;
            for content in contents.iter().filter(|content| is_indirect(content)) {
                keep(parts, content, &mut kept).await?;
            }
            if last.is_none() {
                break;
            }
            after = last;
            tokio::task::yield_now().await;
        }
    }
    let mut after = None;
    loop {
        let (contents, last) = parts.tree.gone(after.as_deref(), PAGE).map_err(text)?;
        for gone in contents.iter().filter(|gone| is_indirect(&gone.content)) {
            // A list that is not here any more keeps nothing.
            if let Ok(chunks) = parts.content.chunks_of(&gone.content).await {
                kept.extend(chunks.into_iter().map(|chunk| chunk.hash));
            }
        }
        if last.is_none() {
            return Ok(kept);
        }
        after = last;
    }
}

fn is_indirect(content: &Content) -> bool {
    matches!(content, Content::Chunks(manifest) if matches!(manifest.chunks, ChunkList::Indirect(_)))
}

async fn keep<E: Env>(
    parts: &Parts<E>,
    content: &Content,
    kept: &mut BTreeSet<ChunkHash>,
) -> Result<(), String> {
    match parts.content.chunks_of(content).await {
        Ok(chunks) => {
            kept.extend(chunks.into_iter().map(|chunk| chunk.hash));
            Ok(())
        }
        // Without its list nobody knows what it reaches: sweep another day.
        Err(ContentProblem::Chunk(problem)) => Err(problem.to_string()),
        // A list that contradicts itself reaches nothing that can be read.
        Err(_) => Ok(()),
    }
}
