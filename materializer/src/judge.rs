//! [pure] Was this change made by who it says, and may they? Judged before a view sees it, equally
//! on all nodes (promises S1, S2).
//!
//! A change of a data partition is judged by the members at its entry's control index: what is
//! ordered under an index is judged by that index for good, whatever became of its author later.
//! One of the control partition is judged by the members just before its own entry.

use crate::members::Members;
use crate::view::{Rejection, Verdict};
use aber_proto::{Change, Entry, EntryKind, NodeId, Operation, PartitionId, Role, SignedChange};
use aber_proto::{PublicKey, codec};
use bytes::Bytes;
use std::collections::BTreeMap;

/// Batch roots that were verified and are remembered, an author.
const ROOTS_REMEMBERED: usize = 16;

/// Signed batch roots that were found good.
type Roots = Vec<([u8; 32], [u8; 64])>;

/// Judges changes, and remembers signatures already seen to be good.
#[derive(Clone, Debug, Default)]
pub struct Judge {
    good: BTreeMap<NodeId, Roots>,
}

/// An entry's change, if it holds one that can be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Judged {
    /// The change.
    pub change: Option<Change>,
    /// May it take effect?
    pub verdict: Verdict,
}

const UNREAD: Judged = Judged {
    change: None,
    verdict: Verdict::Allowed,
};

impl Judge {
    /// A judge who has seen nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Judges an entry by members at or past the index that it is judged by. What cannot be read is
    /// left to the view, which rejects it.
    pub fn judge(&mut self, entry: &Entry, members: &Members) -> Judged {
        if entry.kind != EntryKind::Change {
            return UNREAD;
        }
        self.judge_change(&entry.body, members, judged_by(entry))
    }

    /// Judges a signed change that has no entry yet, as of a control index.
    pub fn judge_change(&mut self, body: &Bytes, members: &Members, control_index: u64) -> Judged {
        let Some((signed, change)) = read(body) else {
            return UNREAD;
        };
        let verdict = self.verdict(&change, &signed, (members, control_index));
        Judged {
            change: Some(change),
            verdict,
        }
    }

    /// Whether an entry's change can be read and is signed by its author, be that one a member at
    /// the time or not. An entry that is no change is.
    pub fn is_signed(&mut self, entry: &Entry, members: &Members) -> bool {
        if entry.kind != EntryKind::Change {
            return true;
        }
        read(&entry.body).is_some_and(|(signed, change)| {
            let key = members.key_of(change.author);
            key.is_some_and(|key| self.is_good(change.author, &key, &signed))
        })
    }

    fn verdict(
        &mut self,
        change: &Change,
        signed: &SignedChange,
        (members, control_index): (&Members, u64),
    ) -> Verdict {
        let Some(key) = members.key_of(change.author) else {
            return Verdict::Refused(Rejection::NotAMember);
        };
        let Some(role) = members.role_at(change.author, control_index) else {
            return Verdict::Refused(Rejection::NotAMember);
        };
        if !self.is_good(change.author, &key, signed) {
            return Verdict::Refused(Rejection::BadSignature);
        }
        let mut operations = change.events.iter().map(|event| &event.operation);
        if operations.all(|operation| role >= needed(operation, change.author)) {
            Verdict::Allowed
        } else {
            Verdict::Refused(Rejection::NotAllowed)
        }
    }

    fn is_good(&mut self, author: NodeId, key: &PublicKey, signed: &SignedChange) -> bool {
        let Ok(root) = signed.signature.root(&signed.hash()) else {
            return false;
        };
        let known = (root, signed.signature.root_signature);
        let good = self.good.entry(author).or_default();
        if good.contains(&known) {
            return true;
        }
        if signed.verify(key).is_err() {
            return false;
        }
        if good.len() >= ROOTS_REMEMBERED {
            good.remove(0);
        }
        good.push(known);
        true
    }
}

fn read(body: &Bytes) -> Option<(SignedChange, Change)> {
    let signed = codec::decode_signed(body).ok()?;
    let change = codec::decode_change(&signed.body).ok()?;
    Some((signed, change))
}

/// The control index whose members judge an entry.
fn judged_by(entry: &Entry) -> u64 {
    if entry.partition == PartitionId::CONTROL {
        entry.log_id.index.saturating_sub(1)
    } else {
        entry.control_index
    }
}

/// The least role that may do this. A member says itself where it is and whom it has links to, and
/// may leave.
fn needed(operation: &Operation, author: NodeId) -> Role {
    match operation {
        Operation::SetMember {
            node,
            name: None,
            role: None,
            is_voter_eligible: None,
            ..
        }
        | Operation::RemoveMember { node }
            if *node == author =>
        {
            Role::Reader
        }
        operation if operation.is_membership() => Role::Admin,
        // What is forgotten does not come back.
        Operation::SetRetention { .. } => Role::Admin,
        _ => Role::Writer,
    }
}

#[cfg(test)]
mod tests;
