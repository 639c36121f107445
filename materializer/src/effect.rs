//! [pure] What an applied event did to the tree: enough to bring a directory up to date.
//!
//! Effects name what changed; the new state is read from the tree, so that a batch of them can be
//! squashed to the set of files they touched.

use aber_proto::{EventId, FileId, PartitionId, VolumeId};

/// A name in a directory.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Link {
    /// The directory, volume or root that holds it.
    pub parent: FileId,
    /// The name.
    pub name: String,
}

/// One change of the tree, in the order in which they happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// A new directory.
    MakeDir {
        /// The directory.
        file: FileId,
        /// Its name.
        link: Link,
    },
    /// A new file, or a new version of one.
    Put {
        /// The file.
        file: FileId,
        /// Its present version.
        version: EventId,
        /// Its name.
        link: Link,
    },
    /// A new symbolic link.
    Link {
        /// The symlink.
        file: FileId,
        /// Its name.
        link: Link,
    },
    /// Another name; what lies below moved along.
    Rename {
        /// What was renamed.
        file: FileId,
        /// Its name before.
        from: Link,
        /// Its name after.
        to: Link,
    },
    /// A file, symlink or directory is gone. Of a tree, what lay below comes first.
    Remove {
        /// What is gone.
        file: FileId,
        /// Its name.
        link: Link,
        /// Whether it was a directory.
        directory: bool,
    },
    /// Mode or mtime changed.
    SetAttributes {
        /// Of what.
        file: FileId,
    },
    /// A new volume.
    MakeVolume {
        /// Its node in the control partition.
        file: FileId,
        /// Its id.
        volume: VolumeId,
        /// The partition that holds its content.
        partition: PartitionId,
        /// Its name at the root.
        name: String,
    },
    /// Another name for a volume.
    RenameVolume {
        /// Its node.
        file: FileId,
        /// Its name before.
        from: String,
        /// Its name after.
        to: String,
    },
    /// A volume's name is gone.
    RemoveVolume {
        /// Its node.
        file: FileId,
        /// Its name.
        name: String,
    },
}

impl Effect {
    /// What it touched.
    #[must_use]
    pub fn dirty(&self) -> FileId {
        match self {
            Self::MakeDir { file, .. }
            | Self::Put { file, .. }
            | Self::Link { file, .. }
            | Self::Rename { file, .. }
            | Self::Remove { file, .. }
            | Self::SetAttributes { file }
            | Self::MakeVolume { file, .. }
            | Self::RenameVolume { file, .. }
            | Self::RemoveVolume { file, .. } => *file,
        }
    }
}
