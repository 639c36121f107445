//! [driver] What we did not write: moved to `.aber/lost+edits/`, or adopted where its bytes are
//! right. Never overwritten, never deleted (promise M3).
//!
//! A stranger keeps its inode: it is renamed, so a program that still has it open goes on writing
//! into it there. Beside it lies `NAME.info`, a few lines of text: where it stood, how long it is,
//! which version displaced it.

use super::core::{Batch, Core, parent_of};
use super::{Notice, Stall};
use crate::plan;
use crate::tree::{Node, NodeKind, Tree};
use aber_log::chunk::ChunkStore;
use aber_log::env::disk::{FileKind, Open, Rename, Stat};
use aber_log::env::kv::KvProblem;
use aber_log::env::{Disk, Env, File, Runtime};
use aber_log::planted::{Bug, is_on};
use aber_proto::EventId;
use std::io::{self, ErrorKind};
use std::path::Path;

/// Where strangers go, below the mirror's root.
pub(super) const LOST: &str = ".aber/lost+edits";
/// Read at once when a file is hashed.
const READ_BYTES: usize = 128 * 1024;
/// Other tasks get a turn after so many reads.
const READS_A_TURN: usize = 64;
/// Strangers of one name before the next one is tried at the next scan.
const SAME_NAME_MAX: usize = 10_000;

impl<E: Env, T: Tree, C: ChunkStore> Core<E, T, C> {
    /// Moves a stranger to `lost+edits/`.
    pub(super) fn aside(
        &mut self,
        from: &str,
        original: &str,
        displaced_by: Option<EventId>,
        batch: &mut Batch,
    ) -> Result<(), Stall> {
        self.aside_path(Path::new(from), Path::new(original), displaced_by, batch)
    }

    /// The same for names that may be no UTF-8.
    pub(super) fn aside_path(
        &mut self,
        from: &Path,
        original: &Path,
        displaced_by: Option<EventId>,
        batch: &mut Batch,
    ) -> Result<(), Stall> {
        let failed = |error: &io::Error| Stall::io("set aside", &original.to_string_lossy(), error);
        let stat = match self.disk.stat(from) {
            Ok(stat) => stat,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(failed(&error)),
        };
        if is_on(Bug::StrangerOverwritten) && stat.kind == FileKind::File {
            return self.disk.remove_file(from).map_err(|error| failed(&error));
        }
        let entry = displaced_by.map_or("found".to_owned(), plan::id_text);
        let flat = plan::flatten(original);
        for number in 0..SAME_NAME_MAX {
            let name = match number {
                0 => format!("{LOST}/{entry}-{flat}"),
                more => format!("{LOST}/{entry}-{flat}~{more}"),
            };
            // The stranger first: its note may be lost, it may not.
            match self.disk.rename(from, Path::new(&name), Rename::NoReplace) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
                Err(error) => return Err(failed(&error)),
            }
            batch.touched.insert(LOST.to_owned());
            if let Some(parent) = from.parent().and_then(Path::to_str) {
                batch.touched.insert(parent.to_owned());
            }
            let info = self.info(original, &stat, displaced_by);
            if let Err(error) = self.write_info(&format!("{name}.info"), &info) {
                self.trouble(format!("no note for {name}: {error}"));
            }
            self.notice(Notice {
                path: original.to_string_lossy().into_owned(),
                kept_as: name,
                size_bytes: stat.size,
                displaced_by,
            });
            return Ok(());
        }
        Err(Stall::Disk(format!("{LOST} has too many of {flat}")))
    }

    fn info(&self, original: &Path, stat: &Stat, displaced_by: Option<EventId>) -> String {
        let kind = match stat.kind {
            FileKind::File => "file",
            FileKind::Directory => "directory",
            FileKind::Symlink => "symlink",
            FileKind::Special => "special file",
        };
        let by = displaced_by.map_or("nothing".to_owned(), |id| id.to_string());
        let when = self.env.runtime().wall_clock();
        let path = original.to_string_lossy();
        format!(
            "path: {}\nkind: {kind}\nsize_bytes: {}\ndisplaced_by: {by}\nset_aside: {when}\n",
            path.escape_debug(),
            stat.size
        )
    }

    fn write_info(&self, path: &str, text: &str) -> io::Result<()> {
        match self.disk.open(Path::new(path), Open::CreateNew) {
            Ok(file) => file.write_at(text.as_bytes(), 0),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Whether what stands there might be the wanted file: worth a hash.
    pub(super) fn may_be_equal(node: &Node, stat: &Stat) -> bool {
        match &node.kind {
            NodeKind::File(content) => stat.kind == FileKind::File && stat.size == content.size(),
            NodeKind::Symlink(_) => stat.kind == FileKind::Symlink,
            NodeKind::Directory | NodeKind::Volume(_) => false,
        }
    }

    /// Takes over what stands at a node's path if its bytes are the wanted ones (rule FO-3).
    pub(super) async fn adopt_equal(
        &mut self,
        node: &Node,
        batch: &mut Batch,
    ) -> Result<bool, KvProblem> {
        let Some(directory) = self.ledger.path(node.parent)? else {
            return Ok(false);
        };
        if self.ledger.child(node.parent, &node.name)?.is_some() {
            return Ok(false);
        }
        let path = super::core::join(&directory, &node.name);
        match self.compare(node, &path).await {
            Ok(Some(stat)) => {
                batch.touched.insert(parent_of(&path).to_owned());
                if let Some(old) = self.ledger.get(node.id)? {
                    match self.displace(node.id, &old, batch) {
                        Err(Stall::Index(problem)) => return Err(problem),
                        Err(_) => return Ok(false),
                        Ok(()) => {}
                    }
                }
                self.ledger.set(node.id, plan::row_of(node, &stat))?;
                Ok(true)
            }
            Ok(None) => {
                batch.differs.insert(node.id);
                Ok(false)
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => {
                tracing::debug!(%error, path, "cannot be compared");
                batch.differs.insert(node.id);
                Ok(false)
            }
        }
    }

    /// The stat of a file or link whose bytes are the node's, its attributes set right.
    async fn compare(&self, node: &Node, path: &str) -> io::Result<Option<Stat>> {
        let name = Path::new(path);
        let before = self.disk.stat(name)?;
        if !Self::may_be_equal(node, &before) {
            return Ok(None);
        }
        if let NodeKind::Symlink(target) = &node.kind {
            let is_equal = self.disk.read_link(name)?.as_encoded_bytes() == target.as_bytes();
            return Ok(is_equal.then_some(before));
        }
        let file = self.disk.open(name, Open::Read)?;
        let hash = self.hash(&file).await?;
        let after = file.stat()?;
        let is_quiet = before.inode == after.inode
            && before.size == after.size
            && before.mtime == after.mtime
            && before.ctime == after.ctime;
        if !is_quiet || plan::tag(&hash) != plan::tag_of(node) {
            return Ok(None);
        }
        let mode = plan::file_mode(node.mode);
        if after.mode & 0o777 != mode || after.mtime != node.mtime {
            file.set_meta(Some(mode), Some(node.mtime))?;
        }
        let last = file.stat()?;
        Ok((last.size == after.size).then_some(last))
    }

    /// BLAKE3 of a file.
    pub(super) async fn hash(&self, file: &<E::Disk as Disk>::File) -> io::Result<[u8; 32]> {
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; READ_BYTES];
        let mut offset = 0;
        for turn in 1.. {
            let length = file.read_at(&mut buffer, offset)?;
            hasher.update(buffer.get(..length).unwrap_or_default());
            offset += length as u64;
            if length < READ_BYTES {
                break;
            }
            if turn % READS_A_TURN == 0 {
                tokio::task::yield_now().await;
            }
        }
        Ok(*hasher.finalize().as_bytes())
    }
}
