//! [pure] All file systems of one node: their room, and who listens for hints.

use crate::sim::disk_fault::DiskFaults;
use crate::sim::disk_image::Image;
use aber_log::env::disk::Hint;
use aber_proto::FileTime;
use rustix::io::Errno;
use std::io;
use std::path::{Path, PathBuf};
use tokio::sync::mpsc;

/// Device number of a machine's first file system.
const FIRST_DEVICE: u64 = 0x801;

/// Somebody who listens for hints.
struct Watcher {
    root: usize,
    below: PathBuf,
    to: mpsc::Sender<Hint>,
}

/// All file systems of one node.
#[derive(Default)]
pub struct Machine {
    /// What is planned to go wrong.
    pub faults: DiskFaults,
    roots: Vec<(PathBuf, Image)>,
    watchers: Vec<Watcher>,
}

impl std::fmt::Debug for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Machine")
            .field("faults", &self.faults)
            .finish_non_exhaustive()
    }
}

impl Machine {
    /// The file system a path lies on, made if none does, and the path below its top.
    pub fn root_of(&mut self, path: &Path, now: FileTime) -> (usize, PathBuf) {
        let found = self
            .roots
            .iter()
            .enumerate()
            .find_map(|(number, (top, _))| {
                Some((number, path.strip_prefix(top).ok()?.to_path_buf()))
            });
        found.unwrap_or_else(|| {
            let device = FIRST_DEVICE + u64::try_from(self.roots.len()).unwrap_or(0);
            self.roots
                .push((path.to_path_buf(), Image::new(device, now)));
            (self.roots.len() - 1, PathBuf::new())
        })
    }

    /// A file system.
    pub fn image(&mut self, root: usize) -> io::Result<&mut Image> {
        let image = self.roots.get_mut(root).map(|(_, image)| image);
        image.ok_or_else(|| Errno::NODEV.into())
    }

    /// All file systems with their tops.
    pub fn images(&mut self) -> impl Iterator<Item = (&Path, &mut Image)> {
        self.roots
            .iter_mut()
            .map(|(top, image)| (top.as_path(), image))
    }

    /// Replaces all file systems.
    pub fn restore(&mut self, roots: Vec<(PathBuf, Image)>) {
        self.roots = roots;
        self.watchers.clear();
    }

    /// Bytes all contents take.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.roots.iter().map(|(_, image)| image.used_bytes()).sum()
    }

    /// Checks that there is room for more, after giving back what was removed.
    ///
    /// # Errors
    /// `ENOSPC`.
    pub fn check_space(&mut self, more_bytes: u64) -> io::Result<()> {
        if more_bytes > 0 && self.used_bytes() + more_bytes > self.faults.capacity_bytes {
            self.roots
                .iter_mut()
                .for_each(|(_, image)| image.settle_names());
            if self.used_bytes() + more_bytes > self.faults.capacity_bytes {
                return Err(Errno::NOSPC.into());
            }
        }
        Ok(())
    }

    /// Tells `to` of changes below a directory of a file system.
    pub fn watch(&mut self, root: usize, below: PathBuf, to: mpsc::Sender<Hint>) {
        self.watchers.push(Watcher { root, below, to });
    }

    /// Whether somebody watches a file system.
    #[must_use]
    pub fn is_watched(&self, root: usize) -> bool {
        self.watchers.iter().any(|watcher| watcher.root == root)
    }

    /// Ends all watching: the process is gone.
    pub fn forget_watchers(&mut self) {
        self.watchers.clear();
    }

    /// Tells those who watch that `path` of `root` changed. What does not fit folds into
    /// [`Hint::Everything`].
    pub fn hint(&mut self, root: usize, path: &Path) {
        self.watchers.retain(|watcher| !watcher.to.is_closed());
        for watcher in self.watchers.iter().filter(|watcher| watcher.root == root) {
            let Ok(below) = path.strip_prefix(&watcher.below) else {
                continue;
            };
            let hint = match watcher.to.capacity() {
                0 => continue,
                1 => Hint::Everything,
                _ => Hint::Path(below.to_path_buf()),
            };
            // Room was seen and there is one sender.
            let _ = watcher.to.try_send(hint);
        }
    }
}
