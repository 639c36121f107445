//! [pure] What became of an entry and of each of its events.

use aber_proto::{FileId, LogId, NodeId, Place, RequestId, TicketId};

/// Why a change was rejected. The number is durable: the index remembers it for repeated requests.
/// Below 200 it is the number of the same `ErrorReason` of the API.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Rejection {
    /// Nothing has this path.
    NotFound = 1,
    /// Something has this path: a guard wants it free, or it would have to be replaced (TR-9).
    Exists = 2,
    /// The path has another version than the guard names, or something below it is newer.
    Stale = 3,
    /// A directory above the path is missing (TR-1), or would have to be a volume (TR-11).
    NoParent = 4,
    /// A name on the way is no directory, or is a volume, whose content is addressed by its id.
    NotADirectory = 5,
    /// The path is a directory where a file is needed.
    IsADirectory = 6,
    /// Names are left in the directory (TR-8).
    NotEmpty = 7,
    /// Into its own subtree (TR-3).
    Cycle = 8,
    /// A directory at the root must be made as a volume (TR-11).
    NameNotAllowed = 9,
    /// The change breaks a limit that needs no view.
    TooLarge = 10,
    /// The path belongs to another partition, or names a volume, which has events of its own.
    CrossPartition = 11,
    /// A volume or member cannot take a name that is in use.
    NameTaken = 46,
    /// No tag has this name.
    TagUnknown = 49,
    /// The author may not do this at the entry's control index.
    NotAllowed = 50,
    /// The author is no member at the entry's control index.
    NotAMember = 51,
    /// The ticket has expired, or would be made expired (S5).
    TicketExpired = 53,
    /// The ticket let somebody in already (S5).
    TicketUsed = 54,
    /// The ticket was revoked (S5).
    TicketRevoked = 55,
    /// Made for another cluster or partition.
    OtherCluster = 56,
    /// The path, or one below it, would be above its limit in bytes (NA-1, TR-3).
    PathTooLong = 200,
    /// The path, or one below it, would be too deep (NA-1, TR-3).
    PathTooDeep = 201,
    /// The bytes are no change, or it breaks a rule that needs no view.
    Malformed = 202,
    /// The author's sequence number is not above the last one: void for ever (D3).
    Void = 203,
    /// The entry's control index is below an earlier entry's (S2).
    ControlIndexFell = 204,
    /// The signature is not the author's.
    BadSignature = 205,
    /// There is no such ticket, or it ended long ago.
    TicketUnknown = 206,
    /// Another ticket has this id.
    TicketTaken = 207,
    /// The ticket would be good for longer than any may be.
    TicketTooLong = 208,
    /// A member of the genesis has the number of this entry: admit again.
    NumberTaken = 209,
    /// The member, or the one with this key, was removed.
    MemberRemoved = 210,
    /// No member has this number.
    MemberUnknown = 211,
    /// Nobody would be left to admit or remove members.
    LastAdmin = 212,
    /// As many members as there may be, or ever were.
    TooManyMembers = 213,
    /// As many tickets are open as may be.
    TooManyTickets = 214,
    /// The member's role was set as often as it can be.
    TooManyRoles = 215,
    /// As many tags as there may be.
    TooManyTags = 216,
}

impl Rejection {
    /// All of them.
    pub const ALL: [Self; 36] = [
        Self::NotFound,
        Self::Exists,
        Self::Stale,
        Self::NoParent,
        Self::NotADirectory,
        Self::IsADirectory,
        Self::NotEmpty,
        Self::Cycle,
        Self::NameNotAllowed,
        Self::TooLarge,
        Self::CrossPartition,
        Self::NameTaken,
        Self::TagUnknown,
        Self::NotAllowed,
        Self::NotAMember,
        Self::TicketExpired,
        Self::TicketUsed,
        Self::TicketRevoked,
        Self::OtherCluster,
        Self::PathTooLong,
        Self::PathTooDeep,
        Self::Malformed,
        Self::Void,
        Self::ControlIndexFell,
        Self::BadSignature,
        Self::TicketUnknown,
        Self::TicketTaken,
        Self::TicketTooLong,
        Self::NumberTaken,
        Self::MemberRemoved,
        Self::MemberUnknown,
        Self::LastAdmin,
        Self::TooManyMembers,
        Self::TooManyTickets,
        Self::TooManyRoles,
        Self::TooManyTags,
    ];

    /// Its durable number.
    #[must_use]
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The inverse of [`Rejection::code`].
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.code() == code)
    }

    /// The name of the API's `ErrorReason` that callers are given. What only a faulty or hostile
    /// node causes, and what its author mends by proposing anew, has none.
    #[must_use]
    pub fn reason(self) -> Option<&'static str> {
        Some(match self {
            Self::NotFound => "PATH_NOT_FOUND",
            Self::Exists => "PATH_EXISTS",
            Self::Stale => "ETAG_STALE",
            Self::NoParent => "NO_PARENT",
            Self::NotADirectory => "NOT_A_DIRECTORY",
            Self::IsADirectory => "IS_A_DIRECTORY",
            Self::NotEmpty => "DIRECTORY_NOT_EMPTY",
            Self::Cycle => "RENAME_CYCLE",
            Self::NameNotAllowed | Self::PathTooLong | Self::PathTooDeep => "NAME_NOT_ALLOWED",
            Self::TooLarge => "CHANGE_TOO_LARGE",
            Self::CrossPartition => "CROSS_PARTITION",
            Self::NameTaken => "NAME_TAKEN",
            Self::TagUnknown => "TAG_UNKNOWN",
            Self::TooManyTags => "TOO_MANY_TAGS",
            Self::NotAllowed => "NOT_ALLOWED",
            Self::NotAMember => "NOT_A_MEMBER",
            Self::OtherCluster => "OTHER_CLUSTER",
            Self::TicketExpired => "TICKET_EXPIRED",
            Self::TicketUsed => "TICKET_USED",
            Self::TicketRevoked => "TICKET_REVOKED",
            Self::TicketUnknown => "TICKET_UNKNOWN",
            Self::TicketTooLong => "TICKET_TOO_LONG",
            Self::MemberRemoved => "MEMBER_REMOVED",
            Self::MemberUnknown => "MEMBER_UNKNOWN",
            Self::LastAdmin => "LAST_ADMIN",
            Self::TooManyMembers => "TOO_MANY_MEMBERS",
            Self::TooManyTickets => "TOO_MANY_TICKETS",
            Self::TooManyRoles => "TOO_MANY_ROLES",
            Self::Malformed
            | Self::Void
            | Self::ControlIndexFell
            | Self::BadSignature
            | Self::TicketTaken
            | Self::NumberTaken => return None,
        })
    }

    /// Whether the change is known to come from its author in spite of this, so that its sequence
    /// number and request id count. A forged change must not use up either.
    #[must_use]
    pub fn is_of_author(self) -> bool {
        !matches!(
            self,
            Self::NotAMember
                | Self::OtherCluster
                | Self::Malformed
                | Self::Void
                | Self::ControlIndexFell
                | Self::BadSignature
        )
    }
}

/// What the reader that feeds a view found about author and policy at the entry's control index.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Signature and role are good.
    Allowed,
    /// They are not.
    Refused(Rejection),
}

/// Why an event that was applied did nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Idle {
    /// The directory or volume was there (TR-1).
    Exists,
    /// It was so already.
    Same,
    /// All of it is newer than the base (TR-8).
    Newer,
}

/// What one event of an applied entry did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum EventOutcome {
    /// What it says, to this file, directory or volume. For a volume's root, the volume's.
    Done(FileId),
    /// Nothing, and why.
    Idle(FileId, Idle),
    /// A member was admitted, set or removed; one that was admitted learns its number and name
    /// from this.
    Member {
        /// Its number.
        node: NodeId,
        /// Its name now.
        name: String,
        /// Why nothing was done, if so.
        idle: Option<Idle>,
    },
    /// A ticket was made or revoked.
    Ticket {
        /// Which.
        ticket: TicketId,
        /// Why nothing was done, if so.
        idle: Option<Idle>,
    },
    /// A tag was set or removed.
    Tag {
        /// Why nothing was done, if so.
        idle: Option<Idle>,
    },
}

/// A rejected change: nothing of it was done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rejected {
    /// Why.
    pub reason: Rejection,
    /// The position of the event that failed, if it was one.
    pub event: Option<u32>,
    /// The path concerned, if it is about one.
    pub place: Option<Place>,
}

/// What is remembered of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RequestOutcome {
    /// Applied.
    Applied,
    /// Rejected.
    Rejected(Rejection),
}

/// What became of an entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum EntryResult {
    /// All its events took effect; an outcome for each.
    Applied(Vec<EventOutcome>),
    /// None did.
    Rejected(Rejected),
    /// Its request was answered before: no effect (D3).
    Repeat {
        /// Where it was answered.
        index: u64,
        /// The answer.
        outcome: RequestOutcome,
    },
    /// It holds no change.
    Nothing,
}

/// An entry and what became of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EntryOutcome {
    /// Which.
    pub log_id: LogId,
    /// The request of its change, where the change could be read.
    pub request: Option<RequestId>,
    /// What became of it.
    pub result: EntryResult,
}
