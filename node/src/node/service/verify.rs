//! [driver] Reading everything again: chain, signatures, content, mirror.

mod mirror;
mod past;
mod walk;

use super::{NodeService, parse_path, render};
use crate::reason::Problem;
use crate::service::{Answer, Answers, STREAM_QUEUE};
use aber_log::chunk::ChunkStore;
use aber_log::env::{Env, Runtime};
use aber_log::ingest;
use aber_log::segment::SegmentProblem;
use aber_materializer::judge::Judge;
use aber_materializer::tree::{Node, NodeKind};
use aber_proto::generated::v1;
use aber_proto::{ChunkRef, Content, PartitionId, TreePath};
use past::Seen;
use tokio::sync::mpsc;
pub(super) use walk::Walk;

/// Bytes of entries read at a time.
const BATCH_BYTES: usize = 1024 * 1024;
/// Files between two lines of progress.
const FILES: u64 = 256;

/// One run, and who is told.
struct Run<E: Env> {
    service: NodeService<E>,
    sender: mpsc::Sender<Result<v1::VerifyResponse, Problem>>,
    report: v1::VerifyReport,
    /// What is read of the tree, and below; all of it where there is no node.
    top: (Option<Node>, TreePath),
}

/// What a chunk is of.
#[derive(Default)]
struct Whose {
    path: String,
    entry: Option<v1::EntryId>,
}

impl Whose {
    fn finding(&self, code: &str, detail: String, mended: bool) -> v1::Finding {
        v1::Finding {
            code: code.to_owned(),
            path: self.path.clone(),
            entry: self.entry,
            detail,
            mended,
            ..v1::Finding::default()
        }
    }
}

impl<E: Env> NodeService<E> {
    pub(super) fn verify_all(
        &self,
        request: v1::VerifyRequest,
    ) -> Answer<Answers<v1::VerifyResponse>> {
        let path = match request.path.as_str() {
            "" => TreePath::root(),
            path => parse_path(path)?,
        };
        let (sender, answers) = mpsc::channel(STREAM_QUEUE);
        let mut run = Run {
            service: self.clone(),
            sender,
            report: v1::VerifyReport::default(),
            top: (self.find(&path)?, path),
        };
        let all = !request.chain && !request.content && !request.folders;
        // The log is of everything.
        let chain = request.chain || (all && run.top.0.is_none());
        let runtime = self.node.parts.env.runtime().clone();
        self.node.parts.env.runtime().spawn("verify", async move {
            let began = runtime.now();
            let partitions: Vec<_> = run
                .service
                .node
                .parts
                .config
                .genesis
                .partition_ids()
                .collect();
            for partition in partitions {
                if chain && !run.verify_chain(partition).await {
                    return;
                }
            }
            if (all || request.content) && !run.verify_content().await {
                return;
            }
            if all || request.folders {
                run.verify_mirror().await;
            }
            run.report.took = prost_types::Duration::try_from(runtime.now() - began).ok();
            run.report.cursor = run.service.cursor();
            let report = v1::verify_response::Message::Report(run.report.clone());
            run.tell(report).await;
        });
        Ok(answers)
    }
}

impl<E: Env> Run<E> {
    /// `false` if the caller is gone.
    async fn tell(&self, message: v1::verify_response::Message) -> bool {
        let message = Some(message);
        self.sender
            .send(Ok(v1::VerifyResponse { message }))
            .await
            .is_ok()
    }

    async fn find(&mut self, finding: v1::Finding) -> bool {
        self.report.findings_count += 1;
        self.report.mended_count += u64::from(finding.mended);
        self.tell(v1::verify_response::Message::Finding(finding))
            .await
    }

    async fn progress(&self, phase: &str, done: u64, total: u64, unit: &str) -> bool {
        let progress = v1::Progress {
            phase: phase.to_owned(),
            done,
            total,
            unit: unit.to_owned(),
            ..v1::Progress::default()
        };
        self.tell(v1::verify_response::Message::Progress(progress))
            .await
    }

    async fn verify_chain(&mut self, partition: PartitionId) -> bool {
        let parts = std::sync::Arc::clone(&self.service.node.parts);
        let Some(last) = parts.applied.get(&partition).and_then(|at| at.get()) else {
            return true;
        };
        let state = parts.log.state(partition);
        let (mut next, mut chain) = (state.first, state.below);
        let mut judge = Judge::new();
        while next <= last {
            let range = next..last + 1;
            let mut read = parts.log.read(partition, next, range.end, BATCH_BYTES);
            if let Err(damage @ SegmentProblem::Damaged { .. }) = &read {
                let detail = damage.to_string();
                read = parts.log.read_mended(partition, range, BATCH_BYTES).await;
                if read.is_ok() && !self.damaged(partition, next, detail).await {
                    return false;
                }
            }
            let entries = match read {
                Ok(entries) if !entries.is_empty() => entries,
                Ok(_) => {
                    return self
                        .broken(partition, next, "the entry is missing".to_owned())
                        .await;
                }
                Err(problem) => return self.broken(partition, next, problem.to_string()).await,
            };
            for entry in entries {
                next = entry.log_id.index + 1;
                self.report.entries_count += 1;
                self.report.read_bytes += entry.body.len() as u64;
                let follows = entry.verify(&chain).is_ok();
                if !follows
                    && !self
                        .broken(
                            partition,
                            entry.log_id.index,
                            "it does not follow from the entry before it".to_owned(),
                        )
                        .await
                {
                    return false;
                }
                // Rows of removed members stay: the newest members know every author there was.
                if !judge.is_signed(&entry, &parts.members.get()) {
                    let finding = v1::Finding {
                        code: "SIGNATURE_WRONG".to_owned(),
                        entry: Some(render::entry_id(partition, entry.log_id.index)),
                        detail: "the change is not signed by its author".to_owned(),
                        ..v1::Finding::default()
                    };
                    if !self.find(finding).await {
                        return false;
                    }
                }
                chain = entry.chain;
            }
            if !self.progress("chain", next, last + 1, "entries").await {
                return false;
            }
            tokio::task::yield_now().await;
        }
        true
    }

    /// An entry at or after this one was damaged, and came back from another node.
    async fn damaged(&mut self, partition: PartitionId, index: u64, detail: String) -> bool {
        self.find(v1::Finding {
            code: "ENTRY_DAMAGED".to_owned(),
            entry: Some(render::entry_id(partition, index)),
            detail,
            mended: true,
            ..v1::Finding::default()
        })
        .await
    }

    async fn broken(&mut self, partition: PartitionId, index: u64, detail: String) -> bool {
        let entry = Some(render::entry_id(partition, index));
        let code = "CHAIN_BROKEN".to_owned();
        self.find(v1::Finding {
            code,
            entry,
            detail,
            ..v1::Finding::default()
        })
        .await
    }

    fn walk(&self) -> Walk {
        let (node, path) = &self.top;
        Walk::of(node.clone(), path)
    }

    /// Walks the tree and reads every chunk of every file. A chunk that is damaged or missing here
    /// is fetched again by the same read.
    async fn verify_content(&mut self) -> bool {
        let tree = self.service.node.parts.tree.clone();
        let (mut walk, mut seen) = (self.walk(), Seen::default());
        while let Some((node, path)) = walk.next(&tree) {
            if !self.verify_file(&node, &path, &mut seen).await {
                return false;
            }
        }
        self.top.0.is_some() || self.verify_past(&tree, seen).await
    }

    async fn verify_file(&mut self, node: &Node, path: &str, seen: &mut Seen) -> bool {
        let NodeKind::File(content) = &node.kind else {
            return true;
        };
        self.report.files_count += 1;
        let Content::Chunks(manifest) = content else {
            return true;
        };
        let content = self.service.node.parts.content.clone();
        let whose = Whose {
            path: path.to_owned(),
            entry: Some(render::entry_id(node.version.partition, node.version.index)),
        };
        let chunks = match ingest::resolve_chunks(&content, manifest).await {
            Ok(chunks) => chunks,
            Err(problem) => {
                let finding = whose.finding("CHUNK_MISSING", problem.to_string(), false);
                return self.find(finding).await;
            }
        };
        for chunk in chunks {
            seen.add(chunk.hash);
            if !self.verify_chunk(chunk, &whose).await {
                return false;
            }
        }
        if self.report.files_count.is_multiple_of(FILES) {
            return self
                .progress("content", self.report.files_count, 0, "files")
                .await;
        }
        true
    }

    /// Reads a chunk; one that is damaged or missing here is fetched again.
    async fn verify_chunk(&mut self, chunk: ChunkRef, whose: &Whose) -> bool {
        let content = self.service.node.parts.content.clone();
        self.report.chunks_count += 1;
        self.report.read_bytes += u64::from(chunk.length);
        let Err(found) = content.store().read(chunk) else {
            return true;
        };
        let mended = ChunkStore::get(&content, chunk).await.is_ok();
        tokio::task::yield_now().await;
        self.find(whose.finding("CHUNK_DAMAGED", found.to_string(), mended))
            .await
    }
}
