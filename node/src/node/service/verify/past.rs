//! [driver] The content of former versions, as far as it is here.
//!
//! Rows of contents say nothing of paths, and the present version's are among them: what was read as such
//! is not read again.

use super::{Run, Whose};
use aber_log::env::Env;
use aber_log::ingest;
use aber_materializer::view::TreeView;
use aber_proto::{ChunkHash, ChunkRef, Content};
use std::collections::BTreeSet;

/// Rows of contents read at a time.
const PAGE: usize = 256;
/// Chunks that are remembered: some 40 MB. Of a larger store some are read twice.
const SEEN: usize = 1_000_000;

/// Chunks that were read in this run.
#[derive(Default)]
pub(super) struct Seen(BTreeSet<ChunkHash>);

impl Seen {
    /// Whether it was not read before, as far as is remembered.
    pub(super) fn add(&mut self, hash: ChunkHash) -> bool {
        if self.0.len() >= SEEN {
            return !self.0.contains(&hash);
        }
        self.0.insert(hash)
    }
}

impl<E: Env> Run<E> {
    /// What is not here is no finding: it is fetched in the background, or asked for when it is read.
    pub(super) async fn verify_past(&mut self, tree: &TreeView<E::Kv>, mut seen: Seen) -> bool {
        let content = self.service.node.parts.content.clone();
        let genesis = &self.service.node.parts.config.genesis;
        let partitions: Vec<_> = genesis.partition_ids().collect();
        for partition in partitions {
            let mut after = None;
            loop {
                // An index that fails is rebuilt by the replay, which learns of it first.
                let page = tree.contents(partition, after.as_deref(), PAGE);
                let (contents, last) = page.unwrap_or_default();
                for row in contents {
                    let Content::Chunks(manifest) = row else {
                        continue;
                    };
                    let chunks = ingest::resolve_chunks(content.store(), &manifest).await;
                    let is_here =
                        |chunk: &ChunkRef| content.store().has(&chunk.hash).unwrap_or(true);
                    let mut chunks = chunks.unwrap_or_default();
                    chunks.retain(|chunk| seen.add(chunk.hash) && is_here(chunk));
                    for chunk in chunks {
                        if !self.verify_chunk(chunk, &Whose::default()).await {
                            return false;
                        }
                    }
                }
                let chunks = self.report.chunks_count;
                if last.is_none() || !self.progress("past", chunks, 0, "chunks").await {
                    break;
                }
                after = last;
            }
        }
        true
    }
}
