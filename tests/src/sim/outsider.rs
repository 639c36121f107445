//! [driver] Hands that are not the node's: users in its folders, rot and loss on its disks.
//!
//! A user's change reaches the disk without the node's knowledge; a hint of it may be lost. Rot
//! changes what is durable and what is cached alike, as a re-read after it would show.

use super::disk::{DATA_ROOT, Machine};
use super::disk_image::{Id, Image, New};
use super::world::World;
use aber_log::env::disk::{FileKind, Rename};
use aber_proto::{ContentHash, FileTime, NodeId};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

/// What a path of a folder shows.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Shown {
    /// A file with this content, size and mode.
    File {
        /// The hash of its bytes.
        content: ContentHash,
        /// Bytes.
        size: u64,
        /// Permission bits.
        mode: u32,
    },
    /// A directory.
    Directory,
    /// A symlink with this target.
    Symlink(std::ffi::OsString),
    /// Anything else.
    Special,
}

/// All disks of a machine at one time: an old copy that may be put back.
#[derive(Clone, Debug)]
pub struct DiskCopy(Vec<(PathBuf, Image)>);

/// Rot in a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rot {
    /// One bit flips.
    Flip,
    /// The end is gone.
    Truncate,
    /// 4 KiB become zeros.
    Zero,
}

impl World {
    fn on_folder<R>(
        &self,
        node: NodeId,
        folder: &Path,
        work: impl FnOnce(&mut Image, Id, FileTime) -> io::Result<R>,
    ) -> io::Result<R> {
        let now = self.file_time(node);
        let machine = self.machine(node);
        let mut machine = machine.lock().unwrap_or_else(PoisonError::into_inner);
        let (root, below) = machine.root_of(folder, now);
        let image = machine.image(root)?;
        let dir = image.resolve(Image::TOP, &below)?;
        work(image, dir, now)
    }

    fn hint(&self, node: NodeId, folder: &Path, path: &Path) {
        let machine = self.machine(node);
        let permille = {
            let machine = machine.lock().unwrap_or_else(PoisonError::into_inner);
            machine.faults.hint_permille
        };
        if self.with_random(|random| random.chance(permille)) {
            let now = self.file_time(node);
            let mut machine = machine.lock().unwrap_or_else(PoisonError::into_inner);
            let (root, below) = machine.root_of(folder, now);
            machine.hint(root, &below.join(path));
        }
    }

    fn outsider<R>(
        &self,
        (node, folder, path): (NodeId, &Path, &Path),
        what: &str,
        work: impl FnOnce(&mut Image, Id, FileTime) -> io::Result<R>,
    ) -> io::Result<R> {
        let done = self.on_folder(node, folder, work);
        let word = if done.is_ok() { "" } else { " failed" };
        let place = folder.join(path);
        self.trace(
            node,
            format_args!("OUTSIDER {what} {}{word}", place.display()),
        );
        self.hint(node, folder, path);
        done
    }

    /// A user writes a file in place, made if missing.
    ///
    /// # Errors
    /// Whatever the disk says.
    pub fn outsider_write(
        &self,
        node: NodeId,
        folder: &Path,
        path: &Path,
        bytes: &[u8],
    ) -> io::Result<()> {
        self.outsider((node, folder, path), "write", |image, dir, now| {
            let id = match image.resolve(dir, path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    image.create(dir, path, New::File, now)?
                }
                found => found?,
            };
            image.change_content(id, Some(now), |content| {
                content.set_len(0);
                content.write_at(bytes, 0);
            })
        })
    }

    /// A user makes a directory, a symlink or a special file.
    ///
    /// # Errors
    /// Whatever the disk says.
    pub fn outsider_make(
        &self,
        node: NodeId,
        folder: &Path,
        path: &Path,
        what: New,
    ) -> io::Result<()> {
        self.outsider((node, folder, path), "make", |image, dir, now| {
            image.create(dir, path, what, now).map(drop)
        })
    }

    /// A user removes a file, symlink or empty directory.
    ///
    /// # Errors
    /// Whatever the disk says.
    pub fn outsider_remove(&self, node: NodeId, folder: &Path, path: &Path) -> io::Result<()> {
        self.outsider((node, folder, path), "remove", |image, dir, now| {
            let id = image.resolve(dir, path)?;
            let is_directory = image.stat(id)?.kind == FileKind::Directory;
            image.remove(dir, path, is_directory, now)
        })
    }

    /// A user renames something.
    ///
    /// # Errors
    /// Whatever the disk says.
    pub fn outsider_rename(
        &self,
        node: NodeId,
        folder: &Path,
        (from, to): (&Path, &Path),
    ) -> io::Result<()> {
        self.outsider((node, folder, from), "rename", |image, dir, now| {
            image.rename(dir, (from, to), Rename::Replace, now)
        })?;
        self.hint(node, folder, to);
        Ok(())
    }

    /// A user reads a file.
    ///
    /// # Errors
    /// Whatever the disk says.
    pub fn outsider_read(&self, node: NodeId, folder: &Path, path: &Path) -> io::Result<Vec<u8>> {
        self.on_folder(node, folder, |image, dir, _| {
            read(image, image.resolve(dir, path)?)
        })
    }

    /// Everything below a folder, but what `is_left_out` names.
    ///
    /// # Errors
    /// Whatever the disk says.
    pub fn outsider_tree(
        &self,
        node: NodeId,
        folder: &Path,
        is_left_out: impl Fn(&Path) -> bool,
    ) -> io::Result<BTreeMap<PathBuf, Shown>> {
        self.on_folder(node, folder, |image, dir, _| {
            let mut shown = BTreeMap::new();
            let mut left = vec![PathBuf::new()];
            while let Some(path) = left.pop() {
                for entry in image.list(image.resolve(dir, &path)?)? {
                    let path = path.join(&entry.name);
                    if is_left_out(&path) {
                        continue;
                    }
                    let what = show(image, image.resolve(dir, &path)?)?;
                    if what == Shown::Directory {
                        left.push(path.clone());
                    }
                    shown.insert(path, what);
                }
            }
            Ok(shown)
        })
    }

    /// Lets a file of a node's data directory rot, one drawn from those whose path starts with
    /// `prefix`; answers which, and where.
    pub fn rot(&self, node: NodeId, prefix: &str, rot: Rot) -> Option<(PathBuf, u64)> {
        let drawn = self.with_random(|random| (random.next_u64(), random.next_u64()));
        let rotten = self.on_folder(node, Path::new(DATA_ROOT), |image, dir, _| {
            let mut files = image.files_below(dir);
            files.retain(|(path, id)| {
                let is_meant = path
                    .as_os_str()
                    .as_encoded_bytes()
                    .starts_with(prefix.as_bytes());
                is_meant && image.stat(*id).is_ok_and(|stat| stat.size > 0)
            });
            let count = u64::try_from(files.len()).unwrap_or(0);
            let chosen = drawn
                .0
                .checked_rem(count)
                .and_then(|at| usize::try_from(at).ok());
            let Some((path, id)) = chosen.and_then(|at| files.get(at).cloned()) else {
                return Ok(None);
            };
            let size = image.stat(id)?.size;
            let offset = drawn.1 % size;
            image.change_content(id, None, |content| match rot {
                Rot::Flip => content.flip(offset, 1 << (drawn.1 >> 61)),
                Rot::Truncate => content.rot_to(offset),
                Rot::Zero => content.zero(offset),
            })?;
            Ok(Some((path, offset)))
        });
        let rotten = rotten.ok().flatten();
        if let Some((path, offset)) = &rotten {
            let path = path.display();
            self.trace(node, format_args!("ROT {rot:?} {path} at {offset}"));
        }
        rotten
    }

    /// A copy of a node's disks as they are now.
    #[must_use]
    pub fn copy_disks(&self, node: NodeId) -> DiskCopy {
        let machine = self.machine(node);
        let mut machine = machine.lock().unwrap_or_else(PoisonError::into_inner);
        let images = machine.images();
        DiskCopy(
            images
                .map(|(top, image)| (top.to_path_buf(), image.clone()))
                .collect(),
        )
    }

    /// Puts an old copy of a node's disks back; its index is lost. The node must be down.
    pub fn restore_disks(&self, node: NodeId, copy: DiskCopy) {
        self.trace(node, format_args!("DISKS replaced by an older copy"));
        self.replace_disks(node, |machine| machine.restore(copy.0));
    }

    /// Empties a node's disks and index. The node must be down.
    pub fn wipe_disks(&self, node: NodeId) {
        self.trace(node, format_args!("DISKS wiped"));
        self.replace_disks(node, |machine| machine.restore(Vec::new()));
    }

    fn replace_disks(&self, node: NodeId, replace: impl FnOnce(&mut Machine)) {
        assert!(
            !self.is_up(node),
            "disks are replaced while the node is down"
        );
        let (machine, index) = (self.machine(node), self.index(node));
        replace(&mut machine.lock().unwrap_or_else(PoisonError::into_inner));
        index
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .discard();
    }
}

fn read(image: &Image, id: Id) -> io::Result<Vec<u8>> {
    let content = image.content(id)?;
    let mut bytes = vec![0; usize::try_from(content.size()).unwrap_or(0)];
    content.read_at(&mut bytes, 0);
    Ok(bytes)
}

fn show(image: &Image, id: Id) -> io::Result<Shown> {
    let stat = image.stat(id)?;
    Ok(match stat.kind {
        FileKind::File => Shown::File {
            content: ContentHash::of(&read(image, id)?),
            size: stat.size,
            mode: stat.mode,
        },
        FileKind::Directory => Shown::Directory,
        FileKind::Symlink => Shown::Symlink(image.read_link(id)?),
        FileKind::Special => Shown::Special,
    })
}
