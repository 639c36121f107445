//! [driver] What a directory holds, for comparisons: path by path, in order, streaming.
//!
//! Skips `.aber`. Memory is the names of the directories on the way down and one buffer.

use super::core::join;
use aber_log::env::Disk;
use aber_log::env::disk::{DirEntry, File, FileKind, Open};
use aber_proto::path::RESERVED;
use aber_proto::{ContentHash, FileTime};
use std::io;
use std::path::{Path, PathBuf};

/// One path of a directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listed {
    /// Relative to the directory.
    pub path: PathBuf,
    /// What it is.
    pub kind: FileKind,
    /// Bytes; zero for directories.
    pub size: u64,
    /// Nine permission bits; zero for symlinks.
    pub mode: u32,
    /// Modification time, of files only.
    pub mtime: FileTime,
    /// BLAKE3 of a file's bytes or a link's target.
    pub hash: Option<ContentHash>,
}

/// Walks a directory.
pub struct Listing<D> {
    disk: D,
    /// Directories on the way down, with the names still to come, last first.
    stack: Vec<(PathBuf, Vec<DirEntry>)>,
    problem: Option<io::Error>,
}

/// All paths of a directory, parents before children, siblings in order of their bytes.
pub fn listing<D: Disk>(disk: D) -> Listing<D> {
    let mut listing = Listing {
        disk,
        stack: Vec::new(),
        problem: None,
    };
    listing.descend(PathBuf::new());
    listing
}

impl<D: Disk> Listing<D> {
    fn descend(&mut self, path: PathBuf) {
        match self.disk.list(&path) {
            Ok(mut names) => {
                names.reverse();
                self.stack.push((path, names));
            }
            Err(error) => self.problem = Some(error),
        }
    }

    fn look(&mut self, path: PathBuf) -> io::Result<Listed> {
        let stat = self.disk.stat(&path)?;
        let mut listed = Listed {
            path,
            kind: stat.kind,
            size: 0,
            mode: stat.mode & 0o777,
            mtime: FileTime::default(),
            hash: None,
        };
        match stat.kind {
            FileKind::Directory => self.descend(listed.path.clone()),
            FileKind::File => {
                (listed.size, listed.mtime) = (stat.size, stat.mtime);
                listed.hash = Some(hash_file(&self.disk, &listed.path)?);
            }
            FileKind::Symlink => {
                let target = self.disk.read_link(&listed.path)?;
                (listed.size, listed.mode) = (stat.size, 0);
                listed.hash = Some(ContentHash::of(target.as_encoded_bytes()));
            }
            FileKind::Special => {}
        }
        Ok(listed)
    }
}

impl<D: Disk> Iterator for Listing<D> {
    type Item = io::Result<Listed>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(problem) = self.problem.take() {
                return Some(Err(problem));
            }
            let (directory, names) = self.stack.last_mut()?;
            let Some(entry) = names.pop() else {
                self.stack.pop();
                continue;
            };
            if directory.as_os_str().is_empty() && entry.name == RESERVED {
                continue;
            }
            let path = match (directory.to_str(), entry.name.to_str()) {
                (Some(directory), Some(name)) => PathBuf::from(join(directory, name)),
                _ => directory.join(Path::new(&entry.name)),
            };
            return Some(self.look(path));
        }
    }
}

/// The BLAKE3 of a file as it is on the disk.
///
/// # Errors
/// It cannot be opened or read.
pub fn hash_file(disk: &impl Disk, path: &Path) -> io::Result<ContentHash> {
    let file = disk.open(path, Open::Read)?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 128 * 1024];
    let mut offset = 0;
    loop {
        let length = file.read_at(&mut buffer, offset)?;
        if length == 0 {
            return Ok(ContentHash(*hasher.finalize().as_bytes()));
        }
        hasher.update(buffer.get(..length).unwrap_or_default());
        offset += length as u64;
    }
}
