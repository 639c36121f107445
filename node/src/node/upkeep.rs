//! [driver] The sweep: content that nothing reaches goes, a day after it came.
//!
//! What reaches a chunk: a version of the tree, present or earlier (history is for ever at this
//! stage); a change that waits in the outbox or an upload on its way (pins); a staged content; a
//! snapshot. All but the pins are gathered before the first pack is looked at, and a chunk that
//! comes to be reached meanwhile is pinned by what brings it.

use super::Parts;
use aber_log::chunk::ChunkProblem;
use aber_log::env::{Env, Runtime};
use aber_log::ingest::ContentProblem;
use aber_log::outbox::item::Item;
use aber_proto::{ChunkHash, ChunkList, Content, codec};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// Rows of the index read at a time.
const PAGE: usize = 512;

/// When content is swept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SweepOptions {
    /// Between two sweeps.
    pub every: Duration,
    /// What came within this time stays in any case.
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

/// Sweeps for ever.
pub(super) async fn sweep_all<E: Env>(parts: Arc<Parts<E>>) {
    let options = parts.config.options.sweep;
    loop {
        parts.env.runtime().sleep(options.every).await;
        match sweep(&parts, options.grace).await {
            Ok(line) => parts.env.runtime().trace(format_args!("sweep {line}")),
            // Nothing is lost by a sweep that did not happen; the next one tries again.
            Err(why) => parts
                .env
                .runtime()
                .trace(format_args!("sweep failed: {why}")),
        }
    }
}

async fn sweep<E: Env>(parts: &Parts<E>, grace: Duration) -> Result<String, String> {
    let kept = kept_chunks(parts).await?;
    let reach = |hash: &ChunkHash| {
        if kept.contains(hash) {
            return Ok(true);
        }
        let referenced = parts.tree.is_referenced(hash);
        referenced.map_err(|problem| ChunkProblem::Storage(problem.to_string()))
    };
    let report = parts.content.store().sweep(reach, grace).await;
    report
        .map(|report| format!("{report:?}"))
        .map_err(|problem| problem.to_string())
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
    Ok(kept)
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
