//! aber-proto: everything written to disk or wire, and nothing that does it.
//!
//! No IO, no clock, no randomness. Start with [`event`].

pub mod change;
pub mod codec;
pub mod entry;
pub mod event;
pub mod generated;
pub mod hash;
pub mod head;
pub mod id;
pub mod keep;
pub mod key;
pub mod limit;
pub mod manifest;
pub mod member;
pub mod origin;
pub mod path;
pub mod ticket;
pub mod unit;

pub use change::{Change, ChangeProblem, SignedChange};
pub use entry::{Entry, EntryKind, EntryProblem, LogId};
pub use event::{Event, Operation, Place, Precondition, Revived};
pub use hash::{ChainHash, ChangeHash, ChunkHash, ContentHash, KeyPin, TicketId, ViewDigest};
pub use head::{Head, SignedHead};
pub use id::{ClusterId, EventId, FileId, NodeId, PartitionId, RequestId, VolumeId};
pub use keep::Retention;
pub use key::{BatchSignature, PublicKey, SecretKey};
pub use manifest::{Attributes, ChunkList, ChunkRef, Content, Manifest};
pub use member::{Genesis, Member, Rates, Role};
pub use origin::{Act, Action, Origin, PlanId};
pub use path::{PathProblem, RelPath, TreePath};
pub use ticket::{Ticket, TicketAddress, TicketSecret};
pub use unit::{FileTime, Instant, Timestamp};
