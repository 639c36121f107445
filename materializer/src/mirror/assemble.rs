//! [driver] Content to a staged file: chunk by chunk, hashed as it is written.
//!
//! Memory is one chunk and one list row, whatever the file's size (promise B1). A file that does
//! not have the size and the BLAKE3 that its version says is never published (promise M1).

use super::Stall;
use crate::plan;
use crate::tree::{Node, NodeKind};
use aber_log::chunk::{ChunkProblem, ChunkStore};
use aber_log::env::disk::{Disk, File, Open, Stat};
use aber_log::env::{Env, Runtime};
use aber_log::planted::{Bug, is_on};
use aber_proto::manifest::decode_list;
use aber_proto::{ChunkList, ChunkRef, Content, Instant, limit};
use bytes::{Bytes, BytesMut};
use std::io;
use std::path::Path;
use std::time::Duration;

/// Zeros shorter than this are written, not left out.
const HOLE_BYTES: usize = 4096;
/// How long a chunk is waited for once a batch has used up its patience.
const HASTY: Duration = Duration::from_millis(20);
/// How long a chunk is waited for at most.
const PATIENT: Duration = Duration::from_secs(2);

/// A complete file in `staging/new`.
#[derive(Clone, Debug)]
pub(super) struct Staged {
    pub(super) path: String,
    pub(super) tag: plan::Tag,
    pub(super) stat: Stat,
}

/// Where a file is assembled.
pub(super) struct Stager<E: Env, C> {
    pub(super) env: E,
    pub(super) disk: E::Disk,
    pub(super) chunks: C,
    /// Until when this batch is patient with chunks that have to come from elsewhere.
    pub(super) patient_until: Instant,
    /// Whether each file is made durable by itself; else the batch syncs them all.
    pub(super) syncs_each: bool,
    /// What stays free on the disk: at most so many bytes, and at most so many per cent.
    pub(super) reserve: (u64, u64),
}

struct Writer<'a, F> {
    file: &'a F,
    hasher: blake3::Hasher,
    offset: u64,
}

impl<F: File> Writer<'_, F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hasher.update(bytes);
        if bytes.len() < HOLE_BYTES || bytes.iter().any(|byte| *byte != 0) {
            self.file.write_at(bytes, self.offset)?;
        }
        self.offset += bytes.len() as u64;
        Ok(())
    }
}

impl<E: Env, C: ChunkStore> Stager<E, C> {
    /// Stages a file or symlink at `path`, which is removed again after a failure.
    pub(super) async fn stage(&self, node: &Node, path: String) -> Result<Staged, Stall> {
        let name = Path::new(&path);
        match self.disk.remove_file(name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Stall::io("clear", &path, &error));
            }
            _ => {}
        }
        let done = match &node.kind {
            NodeKind::File(content) => self.file(node, content, &path).await,
            NodeKind::Symlink(target) => self
                .disk
                .make_symlink(name, Path::new(target))
                .and_then(|()| self.disk.stat(name))
                .map_err(|error| Stall::io("link", &path, &error)),
            NodeKind::Directory | NodeKind::Volume(_) => Err(Stall::Again),
        };
        let tag = plan::tag_of(node);
        match done {
            Ok(stat) => Ok(Staged { path, tag, stat }),
            Err(stall) => {
                // What is left of it is removed at the next start if not now.
                let _ = self.disk.remove_file(name);
                Err(stall)
            }
        }
    }

    async fn file(&self, node: &Node, content: &Content, path: &str) -> Result<Stat, Stall> {
        content
            .check()
            .map_err(|problem| Stall::Content(problem.to_string()))?;
        let failed = |error: io::Error| Stall::io("write", path, &error);
        self.check_room(content.size())?;
        let file = self
            .disk
            .open(Path::new(path), Open::CreateNew)
            .map_err(failed)?;
        let mut writer = Writer {
            file: &file,
            hasher: blake3::Hasher::new(),
            offset: 0,
        };
        match content {
            Content::Inline(bytes) => writer.write(bytes).map_err(failed)?,
            Content::Chunks(manifest) => match &manifest.chunks {
                ChunkList::Direct(rows) => self.append(rows, &mut writer, path).await?,
                ChunkList::Indirect(lists) => self.indirect(lists, &mut writer, path).await?,
            },
        }
        let (size, hash) = (writer.offset, *writer.hasher.finalize().as_bytes());
        if size != content.size() || hash != content.blake3().0 {
            let said = content.size();
            return Err(Stall::Content(format!(
                "the chunks make {size} bytes of another content than the {said} promised"
            )));
        }
        file.set_len(size).map_err(failed)?;
        let mode = plan::file_mode(node.mode);
        file.set_meta(Some(mode), Some(node.mtime))
            .map_err(failed)?;
        if self.syncs_each && !is_on(Bug::NameBeforeContent) {
            file.sync().await.map_err(failed)?;
        }
        file.stat().map_err(failed)
    }

    /// The log may be on the same disk, and must never find it full (promise B3).
    fn check_room(&self, size_bytes: u64) -> Result<(), Stall> {
        let Ok(space) = self.disk.space() else {
            // The writes themselves will tell.
            return Ok(());
        };
        let (most, percent) = self.reserve;
        let reserve = most.min(space.total_bytes / 100 * percent);
        if space.free_bytes >= reserve.saturating_add(size_bytes) {
            return Ok(());
        }
        Err(Stall::Full(format!(
            "no space: it has {size_bytes} bytes, {} are free, and {reserve} are kept for the log",
            space.free_bytes
        )))
    }

    async fn append<F: File>(
        &self,
        rows: &[ChunkRef],
        writer: &mut Writer<'_, F>,
        path: &str,
    ) -> Result<(), Stall> {
        for row in rows {
            let bytes = self.chunk(*row).await?;
            writer
                .write(&bytes)
                .map_err(|error| Stall::io("write", path, &error))?;
        }
        Ok(())
    }

    async fn indirect<F: File>(
        &self,
        lists: &[ChunkRef],
        writer: &mut Writer<'_, F>,
        path: &str,
    ) -> Result<(), Stall> {
        let mut list = ListReader::default();
        for part in lists {
            let rows = list.push(&self.chunk(*part).await?)?;
            self.append(&rows, writer, path).await?;
        }
        list.finish()
    }

    async fn chunk(&self, row: ChunkRef) -> Result<Bytes, Stall> {
        let runtime = self.env.runtime();
        let left = self.patient_until - runtime.now();
        let patience = left.clamp(HASTY, PATIENT);
        match runtime.timeout(patience, self.chunks.get(row)).await {
            Some(Ok(bytes)) => Ok(bytes),
            Some(Err(problem)) => Err(chunk_stall(&problem)),
            None => Err(Stall::Content(format!("chunk {} is on its way", row.hash))),
        }
    }
}

fn chunk_stall(problem: &ChunkProblem) -> Stall {
    match problem {
        ChunkProblem::NoSpace { .. } => Stall::Full(problem.to_string()),
        other => Stall::Content(other.to_string()),
    }
}

/// Reads the rows of a list that is itself stored as chunks, cut at any byte.
#[derive(Default)]
struct ListReader {
    carry: BytesMut,
}

impl ListReader {
    fn push(&mut self, bytes: &[u8]) -> Result<Vec<ChunkRef>, Stall> {
        self.carry.extend_from_slice(bytes);
        let whole = self.carry.len() / limit::CHUNK_ROW_BYTES * limit::CHUNK_ROW_BYTES;
        let rows = self.carry.split_to(whole);
        decode_list(&rows).map_err(|problem| Stall::Content(problem.to_string()))
    }

    fn finish(&self) -> Result<(), Stall> {
        if self.carry.is_empty() {
            return Ok(());
        }
        Err(Stall::Content("a chunk list that ends in a row".into()))
    }
}

/// Asks the store for every chunk of a content, without writing it: after this it stages without
/// waiting. Answers whether all came.
pub(super) async fn warm<C: ChunkStore>(chunks: &C, content: &Content) -> bool {
    let Content::Chunks(manifest) = content else {
        return true;
    };
    let mut list = ListReader::default();
    for row in manifest.chunks.rows() {
        let Ok(bytes) = chunks.get(*row).await else {
            return false;
        };
        if matches!(manifest.chunks, ChunkList::Direct(_)) {
            continue;
        }
        let Ok(rows) = list.push(&bytes) else {
            return false;
        };
        for row in rows {
            if chunks.get(row).await.is_err() {
                return false;
            }
        }
    }
    true
}
