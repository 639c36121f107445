//! What stands in the tree now: the shape in which everybody but the view itself sees it.
//!
//! The tree is spread over the views of all partitions. The root directory is [`ROOT`]; a volume is
//! a node of the control partition whose children live in its own partition, with the volume's id
//! as their parent. A node always lives in the view of the partition that its id names.

use aber_log::env::kv::KvProblem;
use aber_proto::{Content, EventId, FileId, FileTime, PartitionId};

/// The root directory.
pub const ROOT: FileId = FileId {
    partition: PartitionId::CONTROL,
    index: 0,
    ordinal: 0,
};

/// What a node is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NodeKind {
    /// A directory.
    Directory,
    /// A top-level directory whose content lives in this partition.
    Volume(PartitionId),
    /// A regular file with these bytes.
    File(Content),
    /// A symbolic link with this target.
    Symlink(String),
}

/// A file, directory, volume or symlink.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    /// Where it was created; the same through renames.
    pub id: FileId,
    /// The directory or volume that holds it.
    pub parent: FileId,
    /// Its name there.
    pub name: String,
    /// What it is.
    pub kind: NodeKind,
    /// Nine permission bits.
    pub mode: u16,
    /// Modification time; of files only.
    pub mtime: FileTime,
    /// The event that made the present version: its etag.
    pub version: EventId,
    /// The version before it.
    pub previous: Option<EventId>,
    /// The last index that touched its content, name or attributes.
    pub changed: u64,
}

impl Node {
    /// Whether it can have children.
    #[must_use]
    pub fn is_directory(&self) -> bool {
        matches!(self.kind, NodeKind::Directory | NodeKind::Volume(_))
    }
}

/// Reading the tree. All answers are of what is applied here now.
pub trait Tree: Clone + Send + Sync + 'static {
    /// The node with this id; `None` if it was removed. [`ROOT`] has no node.
    ///
    /// # Errors
    /// The index failed.
    fn node(&self, id: FileId) -> Result<Option<Node>, KvProblem>;
    /// A child of a directory by name.
    ///
    /// # Errors
    /// The index failed.
    fn child(&self, directory: FileId, name: &str) -> Result<Option<Node>, KvProblem>;
    /// Children of a directory in order of their names' bytes, after a name, at most `limit`. The
    /// children of a volume are found by the volume's id.
    ///
    /// # Errors
    /// The index failed.
    fn children(
        &self,
        directory: FileId,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Node>, KvProblem>;
}
