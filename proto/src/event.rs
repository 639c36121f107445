//! [pure] One operation on files, volumes or members, as the log carries it.
//!
//! A path in an event is a [`Place`]: a volume and a path relative to it, so that limits hold
//! whatever the volume is called. Start reading aber here: every state of the tree is a fold of
//! these over the log.

use crate::hash::TicketId;
use crate::id::{EventId, FileId, NodeId, PartitionId, VolumeId};
use crate::keep::Retention;
use crate::key::PublicKey;
use crate::manifest::{Attributes, Content};
use crate::member::{Rates, Role};
use crate::path::RelPath;
use crate::unit::{FileTime, Timestamp};
use std::collections::BTreeMap;

/// A path in a partition: volume, and path relative to it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Place {
    /// The volume; of the change's own partition.
    pub volume: VolumeId,
    /// Relative to the volume.
    pub path: RelPath,
}

/// A guard, decided when the entry is applied. All that are set must hold, else the whole change
/// is rejected (rule CO-1).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Precondition {
    /// The path has exactly this version.
    pub etag: Option<EventId>,
    /// The path does not exist.
    pub absent: bool,
    /// Nothing at or below the path is newer than this index of the partition.
    pub unchanged_since: Option<u64>,
}

/// What an event does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Operation {
    /// A new version of a file, whole. On a path that holds a file, its next version; on a free
    /// path, a new file.
    Put {
        /// Where.
        place: Place,
        /// The bytes.
        content: Content,
        /// Times and permission bits.
        attributes: Attributes,
        /// Make missing directories above it.
        parents: bool,
    },
    /// An explicit directory (rule TR-1).
    MakeDirectory {
        /// Where.
        place: Place,
        /// Make missing directories above it.
        parents: bool,
    },
    /// A symbolic link; its target is kept as given (rule LI-1).
    MakeSymlink {
        /// Where.
        place: Place,
        /// 1 to 4,095 bytes without NUL.
        target: String,
        /// Make missing directories above it.
        parents: bool,
    },
    /// Another name for the same file or directory, whatever lies below it (rule TR-2).
    Rename {
        /// What; guarded by the event's precondition.
        from: Place,
        /// The new place, in the same partition.
        to: Place,
        /// Take the place of a file or symlink that is there.
        replace: bool,
        /// Guards `to`.
        target: Precondition,
    },
    /// A new file with known content: nothing is sent (rule TR-7). The content is repeated here,
    /// so that retention elsewhere cannot break the copy.
    Copy {
        /// The version it was taken from, for people.
        source: EventId,
        /// Where.
        to: Place,
        /// The bytes.
        content: Content,
        /// Times and permission bits.
        attributes: Attributes,
        /// Take the place of a file or symlink that is there.
        replace: bool,
    },
    /// Takes a name away. History keeps what it pointed to.
    Remove {
        /// What.
        place: Place,
        /// Needed for a directory that is not empty.
        recursive: bool,
        /// With `recursive`: what is newer than this index stays, with its ancestors (rule TR-8).
        base: u64,
    },
    /// Changes attributes without a new version; fields merge in log order (rule TR-10).
    SetAttributes {
        /// What.
        place: Place,
        /// Nine permission bits.
        mode: Option<u16>,
        /// Modification time.
        mtime: Option<FileTime>,
    },
    /// A node that was removed stands again under its old id, so that its history goes on. It must
    /// be gone, and older than this entry.
    Revive {
        /// Which.
        file: FileId,
        /// The version whose state comes back; of a file, the new version follows it.
        previous: EventId,
        /// Where.
        place: Place,
        /// What it is.
        what: Revived,
        /// Times and permission bits.
        attributes: Attributes,
    },
    /// Control partition: a new top-level directory, placed in a partition (rule TR-11). On a
    /// volume that is there it does nothing.
    MakeVolume {
        /// Its name at the root.
        name: String,
        /// The partition that will hold its content.
        partition: PartitionId,
    },
    /// Control partition: another name for a volume; one entry, never a saga (rule TR-11).
    RenameVolume {
        /// The volume.
        volume: VolumeId,
        /// Its new name at the root.
        name: String,
    },
    /// Control partition: takes a volume's name away, after its part was emptied.
    RemoveVolume {
        /// The volume.
        volume: VolumeId,
    },
    /// Control partition: a ticket that lets one node in (promise S5).
    Invite {
        /// The hash of its secret; the secret itself is never in the log.
        ticket: TicketId,
        /// What the newcomer may do.
        role: Role,
        /// Whether it may be made a voter.
        is_voter_eligible: bool,
        /// The name it gets; `None`: the one it asks for.
        name: Option<String>,
        /// In order time; at most [`crate::limit::TICKET_VALID_MS`] ahead.
        expires: Timestamp,
    },
    /// Control partition: a ticket works no more.
    RevokeTicket {
        /// Which.
        ticket: TicketId,
    },
    /// Control partition: a new member, by its inviter's node, which saw the ticket's secret. The
    /// only event of its change: the member's number is the index of the entry.
    Admit {
        /// The ticket that is used up.
        ticket: TicketId,
        /// The newcomer's key.
        key: PublicKey,
        /// The name it asks for.
        name: String,
        /// `host:port` where other nodes reach it.
        addresses: Vec<String>,
    },
    /// Control partition: sets what is given of a member, and leaves the rest.
    SetMember {
        /// Which.
        node: NodeId,
        /// Its name, unique among members.
        name: Option<String>,
        /// What it may do, from this entry on.
        role: Option<Role>,
        /// Whether it may be made a voter.
        is_voter_eligible: Option<bool>,
        /// `host:port` where other nodes reach it.
        addresses: Option<Vec<String>>,
        /// What its connection carries, as its owner declares it.
        uplink: Option<Rates>,
        /// What others may count on of its uplink for now, as it measured and as its schedule says, in
        /// bytes a second; 0: as declared. Whoever declares another uplink takes it back.
        usable_up: Option<u64>,
        /// The members it has links to, in rising order; none: whoever it reaches.
        neighbours: Option<Vec<NodeId>>,
    },
    /// Control partition: a member may do nothing from this entry on. What it signed before stays
    /// valid; its number and key are never used again.
    RemoveMember {
        /// Which.
        node: NodeId,
    },
    /// Control partition: names a moment; retention keeps what it shows.
    SetTag {
        /// See [`crate::keep::is_tag_name`].
        name: String,
        /// The last entry that is seen of each partition, from 1; of one that is not named: none.
        moment: BTreeMap<PartitionId, u64>,
        /// For people; at most [`crate::limit::COMMENT_BYTES`].
        comment: String,
    },
    /// Control partition: takes the name away; the moment stays as long as retention says.
    RemoveTag {
        /// Which.
        name: String,
    },
    /// Control partition: how much of a volume's past is kept from now on, by all nodes.
    SetRetention {
        /// The volume; [`VolumeId::ROOT`] for the root's own files.
        volume: VolumeId,
        /// How much.
        retention: Retention,
    },
}

/// What a node is that stands again.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Revived {
    /// A file with these bytes.
    File(Content),
    /// A symbolic link with this target.
    Symlink(String),
    /// A directory, empty.
    Directory,
}

/// One operation with its guard.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    /// Decided when applied.
    pub precondition: Precondition,
    /// What to do.
    pub operation: Operation,
}

impl Operation {
    /// The content this operation refers to, if any.
    #[must_use]
    pub fn content(&self) -> Option<&Content> {
        match self {
            Self::Put { content, .. }
            | Self::Copy { content, .. }
            | Self::Revive {
                what: Revived::File(content),
                ..
            } => Some(content),
            _ => None,
        }
    }

    /// Whether only the control partition may hold it.
    #[must_use]
    pub fn is_control(&self) -> bool {
        self.is_membership()
            || self.is_about_history()
            || matches!(
                self,
                Self::MakeVolume { .. } | Self::RenameVolume { .. } | Self::RemoveVolume { .. }
            )
    }

    /// Whether it says what stays of the past, and concerns no path.
    #[must_use]
    pub fn is_about_history(&self) -> bool {
        matches!(
            self,
            Self::SetTag { .. } | Self::RemoveTag { .. } | Self::SetRetention { .. }
        )
    }

    /// Whether it changes what stands in the tree: files, directories, links, volumes.
    #[must_use]
    pub fn is_of_tree(&self) -> bool {
        let is_of_history = matches!(
            self,
            Self::SetTag { .. } | Self::RemoveTag { .. } | Self::SetRetention { .. }
        );
        !self.is_membership() && !is_of_history
    }

    /// Whether it may change who is a member, in which role: entries after it are judged anew
    /// (promise S2).
    #[must_use]
    pub fn is_membership(&self) -> bool {
        matches!(
            self,
            Self::Invite { .. }
                | Self::RevokeTicket { .. }
                | Self::Admit { .. }
                | Self::SetMember { .. }
                | Self::RemoveMember { .. }
        )
    }
}
