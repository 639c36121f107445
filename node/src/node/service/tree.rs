//! [driver] A whole directory as one stream: items, and the content of files.

use super::read::content_problem;
use super::walk::{Level, Walk};
use super::{NodeService, parse_path, render};
use crate::reason::Problem;
use crate::service::{Answer, Answers, STREAM_QUEUE};
use aber_log::chunk::ChunkStore;
use aber_log::env::{Env, Runtime};
use aber_log::ingest;
use aber_materializer::tree::{NodeKind, Tree};
use aber_proto::Content;
use aber_proto::generated::v1::{self, tree_piece::Piece};
use bytes::Bytes;
use tokio::sync::mpsc;

/// Bytes of content, and pieces, after which a message is sent.
const MESSAGE_BYTES: usize = 256 * 1024;
const MESSAGE_PIECES: usize = 256;

impl<E: Env> NodeService<E> {
    pub(super) async fn read_tree(
        &self,
        request: v1::DownloadTreeRequest,
    ) -> Answer<Answers<v1::DownloadTreeResponse>> {
        let tree = self.tree_for(request.read.as_ref(), &request.path).await?;
        let path = parse_path(&request.path)?;
        let directory = self.directory_in(&tree, &path)?;
        let prefix = path.as_str().trim_end_matches('/').to_owned();
        let walk = Walk::resume(&tree, Level::top(directory, prefix), "", true)?;
        let (sender, answers) = mpsc::channel(STREAM_QUEUE);
        let mut pieces = Pieces {
            sender,
            ready: Vec::new(),
            bytes: 0,
            is_open: true,
        };
        let store = self.node.parts.content.clone();
        let with_content = !request.without_content;
        self.node.parts.env.runtime().spawn("tree", async move {
            if let Err(problem) = pieces.send_all(walk, &store, with_content).await {
                let _gone = pieces.sender.send(Err(problem)).await.is_err();
            }
        });
        Ok(answers)
    }
}

/// Pieces on their way to the caller, several in one message.
struct Pieces {
    sender: mpsc::Sender<Result<v1::DownloadTreeResponse, Problem>>,
    ready: Vec<v1::TreePiece>,
    bytes: usize,
    /// The caller is still there.
    is_open: bool,
}

impl Pieces {
    async fn send_all<T: Tree>(
        &mut self,
        mut walk: Walk<T>,
        store: &impl ChunkStore,
        with_content: bool,
    ) -> Result<(), Problem> {
        while let Some(found) = walk.next(1)? {
            for (path, node) in found {
                let item = render::item(path.clone(), &node);
                self.add(Piece::Item(item), path.len()).await;
                if let (NodeKind::File(content), true) = (&node.kind, with_content) {
                    self.send_content(&path, content, store).await?;
                }
                if !self.is_open {
                    return Ok(());
                }
            }
        }
        self.flush().await;
        Ok(())
    }

    async fn send_content(
        &mut self,
        path: &str,
        content: &Content,
        store: &impl ChunkStore,
    ) -> Result<(), Problem> {
        let problem = |problem| content_problem(&problem, path);
        let size = content.size();
        let mut range = ingest::read_range(store, content, 0, size).map_err(problem)?;
        while let Some(bytes) = range.next().await.map_err(problem)? {
            if !bytes.is_empty() {
                self.add_data(bytes).await;
            }
            if !self.is_open {
                break;
            }
        }
        Ok(())
    }

    async fn add_data(&mut self, bytes: Bytes) {
        let length = bytes.len();
        self.add(Piece::Data(bytes), length).await;
    }

    async fn add(&mut self, piece: Piece, bytes: usize) {
        self.ready.push(v1::TreePiece { piece: Some(piece) });
        self.bytes += bytes;
        if self.bytes >= MESSAGE_BYTES || self.ready.len() >= MESSAGE_PIECES {
            self.flush().await;
        }
    }

    async fn flush(&mut self) {
        let pieces = std::mem::take(&mut self.ready);
        self.bytes = 0;
        if !pieces.is_empty() {
            let response = v1::DownloadTreeResponse { pieces };
            self.is_open &= self.sender.send(Ok(response)).await.is_ok();
        }
    }
}
