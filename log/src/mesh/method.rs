//! [pure] What one node may ask of another, by which link and how urgently.

use crate::env::network::LinkClass;
use crate::uplink::Priority;

/// A message up to this is small, in bytes: what waits behind it waits for no more than a frame.
pub(super) const SMALL_BYTES: usize = 4 * 1024;
/// A question about content up to this is no content itself, in bytes: a full parcel's rows.
const QUESTION_BYTES: usize = 16 * 1024;

/// What is asked for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Method {
    /// Raft's `AppendEntries`.
    Append = 1,
    /// Raft's vote.
    Vote = 2,
    /// Raft's pre-vote.
    PreVote = 3,
    /// Raft's snapshot.
    Snapshot = 4,
    /// Raft's leader transfer.
    Transfer = 5,
    /// Changes for the leader to order.
    Propose = 6,
    /// Chunks to hold.
    Hold = 7,
    /// Chunks to send.
    Chunks = 8,
    /// Positions.
    Status = 9,
    /// How much of some chunks is here.
    Held = 10,
    /// Committed entries right before one.
    Entries = 11,
    /// Committed entries from one on, as soon as there are any.
    Follow = 12,
    /// Content that nobody asked for, from a parent in a tree.
    Push = 13,
    /// What relays tell each other.
    Relay = 14,
    /// Raft's heartbeats of several groups.
    Beat = 15,
    /// Bodies of entries that came without them.
    Body = 16,
}

impl Method {
    const ALL: [Self; 16] = [
        Self::Append,
        Self::Vote,
        Self::PreVote,
        Self::Snapshot,
        Self::Transfer,
        Self::Propose,
        Self::Hold,
        Self::Chunks,
        Self::Status,
        Self::Held,
        Self::Entries,
        Self::Follow,
        Self::Push,
        Self::Relay,
        Self::Beat,
        Self::Body,
    ];

    pub(super) fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|method| *method as u8 == byte)
    }

    /// Which of the two links to a node it goes by.
    #[must_use]
    pub fn class(self) -> LinkClass {
        match self {
            Self::Hold | Self::Chunks | Self::Snapshot | Self::Entries | Self::Push => {
                LinkClass::Bulk
            }
            _ => LinkClass::Control,
        }
    }

    /// As what its content goes where the caller says nothing.
    #[must_use]
    pub fn priority(self) -> Priority {
        match self {
            Self::Vote | Self::PreVote | Self::Transfer | Self::Append | Self::Beat => {
                Priority::Vital
            }
            Self::Propose | Self::Follow | Self::Status | Self::Held | Self::Relay | Self::Body => {
                Priority::Log
            }
            Self::Push => Priority::Content,
            Self::Hold | Self::Chunks | Self::Snapshot | Self::Entries => Priority::CatchUp,
        }
    }

    /// As what a request of so many bytes goes in a call of this priority: one that only asks for
    /// content goes before content.
    pub(super) fn priority_of_request(self, of_call: Priority, bytes: usize) -> Priority {
        match self {
            Self::Append | Self::Beat if bytes > SMALL_BYTES => of_call.max(Priority::Log),
            Self::Hold | Self::Chunks | Self::Snapshot | Self::Entries
                if bytes <= QUESTION_BYTES =>
            {
                of_call.min(Priority::Log)
            }
            _ => of_call,
        }
    }

    /// As what an answer of so many bytes goes to a call that says it has this priority. Nobody
    /// makes content of theirs more urgent than content by saying so.
    pub(super) fn priority_of_answer(self, of_call: Priority, bytes: usize) -> Priority {
        let own = self.priority();
        match own {
            Priority::Vital if bytes <= SMALL_BYTES => Priority::Vital,
            Priority::Vital | Priority::Log => Priority::Log,
            Priority::Content | Priority::CatchUp if bytes <= SMALL_BYTES => Priority::Log,
            Priority::Content | Priority::CatchUp => of_call.max(Priority::Content),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Priority::{CatchUp, Content, Log, Vital};

    #[test]
    fn numbers_stay() {
        for number in 0..=255 {
            let method = Method::from_byte(number);
            assert_eq!(method.is_some(), (1..=16).contains(&number));
            assert!(method.is_none_or(|method| method as u8 == number));
        }
    }

    #[test]
    fn a_request_is_as_urgent_as_its_method_and_size() {
        let table = [
            (Method::Vote, 100, Vital),
            (Method::PreVote, 100, Vital),
            (Method::Transfer, 100, Vital),
            (Method::Append, 4096, Vital),
            (Method::Append, 4097, Log),
            (Method::Beat, 300, Vital),
            (Method::Beat, 4097, Log),
            (Method::Propose, 2 << 20, Log),
            (Method::Follow, 20, Log),
            (Method::Body, 100, Log),
            (Method::Status, 0, Log),
            (Method::Held, 9000, Log),
            (Method::Chunks, 9000, Log),
            (Method::Hold, 9216, Log),
            (Method::Snapshot, 1 << 20, CatchUp),
            (Method::Push, 100, Content),
            (Method::Push, 1 << 20, Content),
        ];
        for (method, bytes, wanted) in table {
            let priority = method.priority_of_request(method.priority(), bytes);
            assert_eq!(priority, wanted, "{method:?} of {bytes} bytes");
        }
        let pull = Method::Chunks.priority_of_request(Content, 9000);
        assert_eq!(pull, Log);
        assert_eq!(Method::Append.priority_of_request(Log, 10), Log);
    }

    /// B2: what a caller says of its call moves its answer only among content.
    #[test]
    fn an_answer_is_as_urgent_as_its_method_and_size() {
        let table = [
            (Method::Vote, Vital, 100, Vital),
            (Method::Vote, Vital, 5000, Log),
            (Method::Append, Log, 100, Vital),
            (Method::Propose, Log, 100, Log),
            (Method::Follow, Log, 1 << 20, Log),
            (Method::Body, Log, 1 << 20, Log),
            (Method::Status, Vital, 9000, Log),
            (Method::Chunks, CatchUp, 4096, Log),
            (Method::Chunks, CatchUp, 4097, CatchUp),
            (Method::Chunks, Content, 1 << 20, Content),
            (Method::Chunks, Vital, 1 << 20, Content),
            (Method::Push, Content, 10, Log),
            (Method::Entries, CatchUp, 1 << 20, CatchUp),
        ];
        for (method, of_call, bytes, wanted) in table {
            let priority = method.priority_of_answer(of_call, bytes);
            assert_eq!(priority, wanted, "{method:?} of {bytes} bytes");
        }
    }
}
