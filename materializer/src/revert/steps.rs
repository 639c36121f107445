//! [pure] One step of a way back.

use crate::tree::{Node, NodeKind};
use aber_proto::{Event, FileId, RelPath, VolumeId};

/// What a step does, for people.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// Something that is gone comes back.
    Returned,
    /// Something that was not there goes.
    Removed,
    /// A file gets the content it had.
    Replaced,
    /// It gets the name it had.
    Renamed,
    /// It gets the attributes it had.
    Attributes,
    /// On the way to its place: nobody sees it there.
    Between,
}

/// One event, and what it is about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Step {
    /// What happens, with its guard.
    pub event: Event,
    /// The name of the volume its places are in, where that is to be made first.
    pub pending: Option<String>,
    /// The paths it touches.
    pub touches: Vec<(Touched, RelPath)>,
    /// What it does.
    pub kind: Kind,
    /// The node whose state it restores, or that it takes away.
    pub file: FileId,
}

/// The volume of a path that a step touches.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Touched {
    /// One that is there.
    Volume(VolumeId),
    /// One that is to be made.
    Pending(String),
}

/// What a node is, without what is in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Shape {
    Directory,
    Volume,
    File,
    Symlink,
}

impl Shape {
    pub(super) fn of(node: &Node) -> Self {
        match node.kind {
            NodeKind::Directory => Self::Directory,
            NodeKind::Volume(_) => Self::Volume,
            NodeKind::File(_) => Self::File,
            NodeKind::Symlink(_) => Self::Symlink,
        }
    }

    pub(super) fn is_directory(self) -> bool {
        matches!(self, Self::Directory | Self::Volume)
    }
}
