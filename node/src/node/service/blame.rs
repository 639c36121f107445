//! [driver] Who last wrote each part of a file: versions are read, the newest first, until nothing
//! is left that may be older.

use super::read::{Writers, content_problem};
use super::{NodeService, index_problem, parse_path};
use crate::lines::{Blame, ChunkBlame, TEXT_BYTES, split, text_of};
use crate::reason::{Problem, Reason};
use crate::service::Answer;
use aber_log::env::{Env, Runtime};
use aber_log::ingest;
use aber_materializer::tree::NodeKind;
use aber_materializer::view::Version;
use aber_proto::generated::v1;
use aber_proto::{ChunkHash, Content, EventId};
use std::time::Duration;

/// Versions that are looked at.
const VERSIONS_MOST: u64 = 1000;
/// What is not read by then is left out: the call has a minute.
const TIME_MOST: Duration = Duration::from_secs(40);

/// How many versions were looked at, and whether these were all that matter.
struct Looked {
    versions: u64,
    is_complete: bool,
}

impl<E: Env> NodeService<E> {
    pub(super) async fn blame_of(&self, request: v1::BlameRequest) -> Answer<v1::BlameResponse> {
        let tree = self.tree_for(request.read.as_ref(), &request.path).await?;
        let path = parse_path(&request.path)?;
        let node = self.find_in(&tree, &path)?;
        let is_directory = || Problem::new(Reason::IsADirectory).with("path", &path);
        let node = node.ok_or_else(is_directory)?;
        match &node.kind {
            NodeKind::File(_) => {}
            NodeKind::Symlink(_) => {
                return Err(Problem::new(Reason::NotAFile).with("path", &path));
            }
            NodeKind::Directory | NodeKind::Volume(_) => return Err(is_directory()),
        }
        let newest = tree.version(node.id, node.version).map_err(index_problem)?;
        let Some(newest) = newest else {
            return Err(Problem::internal(format!("{path} has no version")));
        };
        let is_small = newest.content.size() <= TEXT_BYTES;
        let bytes = if is_small {
            let read = self.bytes_of(&newest.content).await;
            Some(read.map_err(|problem| content_problem(&problem, path.as_str()))?)
        } else {
            None
        };
        match bytes.as_deref().and_then(text_of) {
            Some(text) => self.blame_lines(newest, text).await,
            None => self.blame_chunks(newest, path.as_str()).await,
        }
    }

    /// A content in memory: for small ones only.
    pub(super) async fn bytes_of(
        &self,
        content: &Content,
    ) -> Result<Vec<u8>, ingest::ContentProblem> {
        let store = &self.node.parts.content;
        let mut range = ingest::read_range(store, content, 0, content.size())?;
        let mut bytes = Vec::new();
        while let Some(more) = range.next().await? {
            bytes.extend_from_slice(&more);
        }
        Ok(bytes)
    }

    /// The version before, or what this one is a copy of; `None` where that was all, or enough.
    fn older_to_read(
        &self,
        version: &Version,
        looked: &mut Looked,
    ) -> Result<Option<Version>, Problem> {
        let older = self.version_before_or_source(version.file, version)?;
        let is_enough = older.is_some() && looked.versions >= VERSIONS_MOST;
        looked.is_complete &= !is_enough;
        Ok(older.filter(|_| !is_enough))
    }

    async fn blame_lines(&self, newest: Version, text: &str) -> Answer<v1::BlameResponse> {
        let lines: Vec<String> = split(text).into_iter().map(str::to_owned).collect();
        let mut blame = Blame::new(text, newest.version);
        let mut looked = Looked {
            versions: 1,
            is_complete: true,
        };
        let runtime = self.node.parts.env.runtime();
        let end = runtime.now() + TIME_MOST;
        let mut version = newest;
        while let Some(older) = self.older_to_read(&version, &mut looked)? {
            let left = end - runtime.now();
            let read = if older.content.size() <= TEXT_BYTES {
                runtime.timeout(left, self.bytes_of(&older.content)).await
            } else {
                // No text any more: nothing of it is in what came after.
                Some(Ok(vec![0]))
            };
            let Some(Ok(bytes)) = read else {
                looked.is_complete = false;
                break;
            };
            looked.versions += 1;
            let is_open = match text_of(&bytes) {
                Some(text) => blame.older(text, older.version),
                None => false,
            };
            if !is_open {
                break;
            }
            version = older;
        }
        let owners = blame.owners();
        let parts = lines.into_iter().map(|line| (1, line)).zip(owners);
        Ok(self.blamed(
            parts.map(|((length, line), owner)| (length, line, owner)),
            1,
            &looked,
        ))
    }

    async fn blame_chunks(&self, newest: Version, path: &str) -> Answer<v1::BlameResponse> {
        let mut looked = Looked {
            versions: 1,
            is_complete: true,
        };
        let chunks = self.chunk_list(&newest.content).await;
        let chunks = chunks.map_err(|problem| content_problem(&problem, path))?;
        let lengths: Vec<u64> = chunks.iter().map(|(_, length)| *length).collect();
        let hashes = |chunks: Vec<(ChunkHash, u64)>| -> Vec<ChunkHash> {
            chunks.into_iter().map(|(hash, _)| hash).collect()
        };
        let mut blame = ChunkBlame::new(hashes(chunks), newest.version);
        let runtime = self.node.parts.env.runtime();
        let end = runtime.now() + TIME_MOST;
        let mut version = newest;
        while let Some(older) = self.older_to_read(&version, &mut looked)? {
            let left = end - runtime.now();
            let read = runtime.timeout(left, self.chunk_list(&older.content)).await;
            let Some(Ok(chunks)) = read else {
                looked.is_complete = false;
                break;
            };
            looked.versions += 1;
            if !blame.older(&hashes(chunks), older.version) {
                break;
            }
            version = older;
        }
        let parts = lengths.into_iter().zip(blame.owners());
        let parts = parts.map(|(length, owner)| (length, String::new(), owner));
        Ok(self.blamed(parts, 0, &looked))
    }

    /// The chunks of a content with their lengths; content within the log is one of its own.
    async fn chunk_list(
        &self,
        content: &Content,
    ) -> Result<Vec<(ChunkHash, u64)>, ingest::ContentProblem> {
        match content {
            Content::Inline(bytes) => Ok(vec![(ChunkHash(content.blake3().0), bytes.len() as u64)]),
            Content::Chunks(manifest) => {
                let chunks = ingest::resolve_chunks(&self.node.parts.content, manifest).await?;
                let row = |chunk: aber_proto::ChunkRef| (chunk.hash, u64::from(chunk.length));
                Ok(chunks.into_iter().map(row).collect())
            }
        }
    }

    /// Parts with their lengths and texts, neighbours of one owner in one span.
    fn blamed(
        &self,
        parts: impl Iterator<Item = (u64, String, EventId)>,
        from: u64,
        looked: &Looked,
    ) -> v1::BlameResponse {
        let mut spans: Vec<(v1::BlameSpan, EventId)> = Vec::new();
        let mut start = from;
        for (length, text, owner) in parts {
            match spans.last_mut() {
                Some((span, before)) if *before == owner => {
                    span.length += length;
                    span.text += &text;
                }
                _ => {
                    let span = v1::BlameSpan {
                        start,
                        length,
                        text,
                        ..v1::BlameSpan::default()
                    };
                    spans.push((span, owner));
                }
            }
            start += length;
        }
        let mut writers = Writers::default();
        let mut named = |(mut span, owner): (v1::BlameSpan, EventId)| {
            let mut item = v1::Item {
                entry: Some(super::render::entry_id(owner.partition, owner.index)),
                ..v1::Item::default()
            };
            self.add_writer(&mut item, &mut writers);
            span.entry = item.entry;
            span.author = item.author;
            span.order_time = item.order_time;
            span
        };
        v1::BlameResponse {
            spans: spans.into_iter().map(&mut named).collect(),
            by_line: from == 1,
            versions_count: looked.versions,
            complete: looked.is_complete,
        }
    }
}
