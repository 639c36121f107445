//! [pure] Contents of files by inode, and the space they take.

use super::{Body, Content, Id, Image, fault};
use aber_proto::FileTime;
use rustix::io::Errno;
use std::io;
use std::sync::Arc;

impl Image {
    /// Keeps an inode alive while the answer lives: an open file.
    ///
    /// # Errors
    /// `EINVAL` unless it is a regular file.
    pub fn hold(&self, id: Id) -> io::Result<Arc<()>> {
        self.content(id)?;
        Ok(Arc::clone(&self.inode(id)?.holders))
    }

    /// A file's content.
    ///
    /// # Errors
    /// `EINVAL` unless it is a regular file.
    pub fn content(&self, id: Id) -> io::Result<&Content> {
        match &self.inode(id)?.body {
            Body::File(content) => Ok(content),
            _ => Err(fault(Errno::INVAL)),
        }
    }

    /// Changes a file's content: data, or rot.
    ///
    /// # Errors
    /// `EINVAL` unless it is a regular file.
    pub fn change_content<R>(
        &mut self,
        id: Id,
        now: Option<FileTime>,
        change: impl FnOnce(&mut Content) -> R,
    ) -> io::Result<R> {
        let inode = self.inode_mut(id)?;
        let Body::File(content) = &mut inode.body else {
            return Err(fault(Errno::INVAL));
        };
        let before = content.allocated_bytes();
        let answer = change(content);
        let after = content.allocated_bytes();
        if let Some(now) = now {
            inode.attributes.mtime = now;
            inode.attributes.ctime = now;
        }
        self.used_bytes = (self.used_bytes + after).saturating_sub(before);
        self.touched.insert(id);
        Ok(answer)
    }

    /// Makes the attributes of a file durable as they are.
    pub fn keep_attributes(&mut self, id: Id) {
        if let Some(inode) = self.inodes.get_mut(&id) {
            inode.kept = inode.attributes;
        }
    }

    /// Bytes all contents take.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.used_bytes
    }

    /// All regular files below a directory, with their paths, sorted.
    #[must_use]
    pub fn files_below(&self, dir: Id) -> Vec<(std::path::PathBuf, Id)> {
        let mut found = Vec::new();
        let mut left = vec![(std::path::PathBuf::new(), dir)];
        while let Some((path, id)) = left.pop() {
            match self.inodes.get(&id).map(|inode| &inode.body) {
                Some(Body::File(_)) => found.push((path, id)),
                Some(Body::Directory(names)) => {
                    left.extend(names.live.iter().map(|(name, id)| (path.join(name), *id)));
                }
                _ => {}
            }
        }
        found.sort();
        found
    }
}
