//! [pure] Was this change made by who it says, and may they? Judged before a view sees it, equally
//! on all nodes (promises S1, S2).

use crate::view::{Rejection, Verdict};
use aber_proto::{Change, Entry, EntryKind, Genesis, NodeId, PublicKey, Role, codec};
use std::collections::BTreeMap;

/// Batch roots that were verified and are remembered, an author.
const ROOTS_REMEMBERED: usize = 16;

/// Signed batch roots that were found good.
type Roots = Vec<([u8; 32], [u8; 64])>;

/// The membership at a control index, and signatures already seen to be good.
#[derive(Clone, Debug)]
pub struct Judge {
    members: BTreeMap<NodeId, (PublicKey, Role)>,
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

impl Judge {
    /// A judge who knows the members of the genesis.
    #[must_use]
    pub fn new(genesis: &Genesis) -> Self {
        Self::of_members(genesis.members.iter().map(|m| (m.node, (m.key, m.role))))
    }

    /// A judge who knows these members.
    pub fn of_members(members: impl IntoIterator<Item = (NodeId, (PublicKey, Role))>) -> Self {
        Self {
            members: members.into_iter().collect(),
            good: BTreeMap::new(),
        }
    }

    /// Judges an entry. What cannot be read is left to the view, which rejects it.
    pub fn judge(&mut self, entry: &Entry) -> Judged {
        if entry.kind != EntryKind::Change {
            return Judged {
                change: None,
                verdict: Verdict::Allowed,
            };
        }
        let Ok(signed) = codec::decode_signed(&entry.body) else {
            return Judged {
                change: None,
                verdict: Verdict::Allowed,
            };
        };
        let Ok(change) = codec::decode_change(&signed.body) else {
            return Judged {
                change: None,
                verdict: Verdict::Allowed,
            };
        };
        let verdict = self.verdict(&change, &signed);
        Judged {
            change: Some(change),
            verdict,
        }
    }

    fn verdict(&mut self, change: &Change, signed: &aber_proto::SignedChange) -> Verdict {
        let Some((key, role)) = self.members.get(&change.author).copied() else {
            return Verdict::Refused(Rejection::NotAMember);
        };
        let Ok(root) = signed.signature.root(&signed.hash()) else {
            return Verdict::Refused(Rejection::BadSignature);
        };
        let known = (root, signed.signature.root_signature);
        let good = self.good.entry(change.author).or_default();
        if !good.contains(&known) {
            if signed.verify(&key).is_err() {
                return Verdict::Refused(Rejection::BadSignature);
            }
            if good.len() >= ROOTS_REMEMBERED {
                good.remove(0);
            }
            good.push(known);
        }
        if role < Role::Writer {
            return Verdict::Refused(Rejection::NotAllowed);
        }
        Verdict::Allowed
    }
}
