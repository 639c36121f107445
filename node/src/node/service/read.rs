//! [driver] Reading the tree as it is applied here.

use super::moment::cursor_of;
use super::render;
use super::walk::{Level, Walk};
use super::{NodeService, index_problem, parse_path};
use crate::reason::{Problem, Reason};
use crate::service::{Answer, Answers, STREAM_QUEUE};
use aber_log::chunk::{ChunkProblem, ChunkStore};
use aber_log::env::{Env, Runtime};
use aber_log::ingest::{self, ContentProblem};
use aber_materializer::tree::{Node, NodeKind, ROOT};
use aber_materializer::view::{Found, TreeView};
use aber_proto::generated::v1;
use aber_proto::{ChunkRef, Content, FileId, PartitionId, TreePath, codec, limit};
use bytes::Bytes;
use tokio::sync::mpsc;

const PAGE_DEFAULT: usize = 500;

/// Who wrote an entry, and when; the last one looked up is kept, since neighbours share entries.
#[derive(Default)]
pub(super) struct Writers {
    last: Option<((PartitionId, u64), String, prost_types::Timestamp)>,
}

impl<E: Env> NodeService<E> {
    /// Adds what only the log knows of an item.
    pub(super) fn add_writer(&self, item: &mut v1::Item, writers: &mut Writers) {
        let Some(entry) = &item.entry else { return };
        let place = (PartitionId(entry.partition), entry.index);
        if writers
            .last
            .as_ref()
            .is_none_or(|(known, ..)| *known != place)
        {
            writers.last = self
                .writer_of(place)
                .map(|(author, time)| (place, author, time));
        }
        if let Some((known, author, time)) = &writers.last
            && *known == place
        {
            item.author.clone_from(author);
            item.order_time = Some(*time);
        }
    }

    fn writer_of(
        &self,
        (partition, index): (PartitionId, u64),
    ) -> Option<(String, prost_types::Timestamp)> {
        let entries = self
            .node
            .parts
            .log
            .read(partition, index, index + 1, 1)
            .ok()?;
        let entry = entries
            .into_iter()
            .next()
            .filter(|entry| entry.log_id.index == index)?;
        let signed = codec::decode_signed(&entry.body).ok()?;
        let change = codec::decode_change(&signed.body).ok()?;
        Some((
            self.node.name_of(change.author),
            render::stamp_message(entry.order_time),
        ))
    }

    /// The node at a path; the root is `None`.
    pub(super) fn find(&self, path: &TreePath) -> Result<Option<Node>, Problem> {
        self.find_in(&self.node.parts.tree, path)
    }

    /// The node at a path of a tree; the root is `None`.
    pub(super) fn find_in(
        &self,
        tree: &TreeView<E::Kv>,
        path: &TreePath,
    ) -> Result<Option<Node>, Problem> {
        match tree.lookup(path).map_err(index_problem)? {
            Found::Root => Ok(None),
            Found::Node(node) => Ok(Some(node)),
            Found::Missing { .. } => Err(Problem::new(Reason::PathNotFound).with("path", path)),
            Found::NotADirectory(node) => {
                let above = tree.path_of(node.id).ok().flatten();
                let above = above.map_or_else(|| path.to_string(), |above| above.to_string());
                Err(Problem::new(Reason::NotADirectory).with("path", above))
            }
        }
    }

    /// The directory, volume or root at a path of a tree.
    pub(super) fn directory_in(
        &self,
        tree: &TreeView<E::Kv>,
        path: &TreePath,
    ) -> Result<FileId, Problem> {
        match self.find_in(tree, path)? {
            None => Ok(ROOT),
            Some(node) if node.is_directory() => Ok(node.id),
            Some(_) => Err(Problem::new(Reason::NotADirectory).with("path", path)),
        }
    }

    pub(super) async fn read_item(
        &self,
        request: v1::GetItemRequest,
    ) -> Answer<v1::GetItemResponse> {
        let tree = self.tree_for(request.read.as_ref(), &request.path).await?;
        let path = parse_path(&request.path)?;
        let Some(node) = self.find_in(&tree, &path)? else {
            return Ok(v1::GetItemResponse {
                item: Some(render::root_item()),
                holders: Vec::new(),
            });
        };
        let mut item = render::item(path.to_string(), &node);
        self.add_writer(&mut item, &mut Writers::default());
        let mut holders = Vec::new();
        if request.with_holders
            && let NodeKind::File(content) = &node.kind
        {
            let (found, spread) = self.holders(content).await?;
            holders = found;
            item.spread = Some(spread);
        }
        Ok(v1::GetItemResponse {
            item: Some(item),
            holders,
        })
    }

    async fn holders(&self, content: &Content) -> Result<(Vec<v1::Holder>, v1::Spread), Problem> {
        let parts = &self.node.parts;
        let chunks = match parts.content.chunks_of(content).await {
            Ok(chunks) => chunks,
            Err(problem) => return Err(content_problem(&problem, "")),
        };
        let bytes = |chunks: &[ChunkRef]| chunks.iter().map(|c| u64::from(c.length)).sum::<u64>();
        let all = bytes(&chunks);
        let lacking = parts
            .content
            .store()
            .missing(&chunks)
            .map_err(|p| chunk_problem(&p, ""))?;
        let mut holders = Vec::new();
        for member in parts.members.get().present() {
            let held = if member.node == parts.config.me {
                Some(all - bytes(&lacking))
            } else if chunks.is_empty() {
                // Inline content is in the log itself.
                parts.mesh.is_up(member.node).then_some(0)
            } else {
                parts.content.held_by(member.node, &chunks).await
            };
            let is_whole = held.is_some_and(|held| held >= all);
            let now = parts.env.runtime().wall_clock();
            holders.push(v1::Holder {
                node: member.name.clone(),
                // The list of a very large file is not counted with its content.
                held_bytes: match held {
                    _ if is_whole => content.size(),
                    Some(held) => held.min(content.size().saturating_sub(1)),
                    None => 0,
                },
                reachable: held.is_some(),
                check_time: held.is_some().then(|| render::stamp_message(now)),
            });
        }
        let size = content.size();
        let complete = |holder: &&v1::Holder| holder.reachable && holder.held_bytes >= size;
        let copies = u32::try_from(holders.iter().filter(complete).count()).unwrap_or(u32::MAX);
        let reachable = holders.iter().filter(|holder| holder.reachable);
        let least = reachable.map(|holder| holder.held_bytes).min().unwrap_or(0);
        let spread = v1::Spread {
            copies,
            copies_wanted: u32::try_from(holders.len()).unwrap_or(u32::MAX),
            left_bytes: size.saturating_sub(least),
            here: lacking.is_empty(),
        };
        Ok((holders, spread))
    }

    pub(super) async fn read_list(
        &self,
        request: v1::ListItemsRequest,
    ) -> Answer<v1::ListItemsResponse> {
        let tree = self.tree_for(request.read.as_ref(), &request.path).await?;
        let path = parse_path(&request.path)?;
        let directory = self.directory_in(&tree, &path)?;
        let asked = usize::try_from(request.page_size).unwrap_or(0);
        let most = match asked {
            0 => PAGE_DEFAULT,
            asked => asked.min(limit::PAGE_ITEMS),
        };
        let prefix = path.as_str().trim_end_matches('/').to_owned();
        let token = &request.page_token;
        let start = Level::top(directory, prefix);
        let mut walk = Walk::resume(&tree, start, token, request.recursive)?;
        let (mut items, mut writers) = (Vec::new(), Writers::default());
        while items.len() < most {
            let wanted = if request.recursive {
                1
            } else {
                most - items.len()
            };
            let Some(found) = walk.next(wanted)? else {
                break;
            };
            for (path, child) in found {
                let mut item = render::item(path, &child);
                self.add_writer(&mut item, &mut writers);
                items.push(item);
            }
        }
        let last = items.last().filter(|_| items.len() >= most);
        let next_page_token = last.map(|item| item.path.clone()).unwrap_or_default();
        let cursor = tree.moment().map(cursor_of).or_else(|| self.cursor());
        Ok(v1::ListItemsResponse {
            items,
            next_page_token,
            cursor,
        })
    }

    pub(super) async fn read_content(
        &self,
        request: v1::DownloadRequest,
    ) -> Answer<Answers<v1::DownloadResponse>> {
        let tree = self.tree_for(request.read.as_ref(), &request.path).await?;
        let path = parse_path(&request.path)?;
        let node = self.find_in(&tree, &path)?;
        let is_directory = || Problem::new(Reason::IsADirectory).with("path", &path);
        let node = node.ok_or_else(is_directory)?;
        let NodeKind::File(content) = node.kind.clone() else {
            return Err(if node.is_directory() {
                is_directory()
            } else {
                Problem::new(Reason::NotAFile).with("path", &path)
            });
        };
        let size = content.size();
        let offset = request.offset.min(size);
        let length = if request.length == 0 {
            size - offset
        } else {
            request.length.min(size - offset)
        };
        let mut item = render::item(path.to_string(), &node);
        self.add_writer(&mut item, &mut Writers::default());
        let not_modified = !request.if_none_match.is_empty() && request.if_none_match == item.etag;
        let header = v1::DownloadHeader {
            item: Some(item),
            offset,
            length,
            not_modified,
        };
        let (sender, answers) = mpsc::channel(STREAM_QUEUE);
        let message = |message| {
            Ok(v1::DownloadResponse {
                message: Some(message),
            })
        };
        let first = message(v1::download_response::Message::Header(header));
        let store = self.node.parts.content.clone();
        self.node.parts.env.runtime().spawn("download", async move {
            if sender.send(first).await.is_err() || not_modified {
                return;
            }
            let mut pieces = Pieces {
                sender,
                path: path.to_string(),
            };
            pieces.send_range(&store, &content, offset, length).await;
        });
        Ok(answers)
    }
}

/// The pieces of a download on their way to the caller.
struct Pieces {
    sender: mpsc::Sender<Result<v1::DownloadResponse, Problem>>,
    path: String,
}

impl Pieces {
    async fn send_range(
        &mut self,
        store: &impl ChunkStore,
        content: &Content,
        offset: u64,
        length: u64,
    ) {
        let mut range = match ingest::read_range(store, content, offset, length) {
            Ok(range) => range,
            Err(problem) => return self.fail(&problem).await,
        };
        loop {
            match range.next().await {
                Ok(Some(bytes)) => {
                    if !self.send(bytes).await {
                        return;
                    }
                }
                Ok(None) => return,
                Err(problem) => return self.fail(&problem).await,
            }
        }
    }

    async fn send(&self, bytes: Bytes) -> bool {
        if bytes.is_empty() {
            return true;
        }
        let message = Some(v1::download_response::Message::Data(bytes));
        self.sender
            .send(Ok(v1::DownloadResponse { message }))
            .await
            .is_ok()
    }

    async fn fail(&self, problem: &ContentProblem) {
        let _gone = self
            .sender
            .send(Err(content_problem(problem, &self.path)))
            .await
            .is_err();
    }
}

/// Content that could not be had, for people.
pub(super) fn content_problem(problem: &ContentProblem, path: &str) -> Problem {
    match problem {
        ContentProblem::Chunk(problem) => chunk_problem(problem, path),
        other => Problem::new(Reason::ContentLost)
            .with("path", path)
            .with("detail", other),
    }
}

/// A chunk that could not be had or put, for people.
pub(super) fn chunk_problem(problem: &ChunkProblem, path: &str) -> Problem {
    match problem {
        ChunkProblem::Missing { .. } | ChunkProblem::Damaged { .. } => {
            Problem::new(Reason::ContentNotHere)
                .with("path", path)
                .with("detail", problem)
        }
        ChunkProblem::NoSpace {
            free_bytes,
            reserve_bytes,
        } => Problem::new(Reason::NoSpace)
            .with("freeBytes", free_bytes)
            .with("reserveBytes", reserve_bytes),
        ChunkProblem::Storage(detail) => Problem::new(Reason::StorageFailed).with("detail", detail),
    }
}
