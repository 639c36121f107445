//! [pure] The life of every change that waits here: `waiting → held → signed → proposed → gone`.
//!
//! Changes that touch the same path, or one above the other, keep their order: a later one starts
//! only when the earlier is gone; others overtake (promise C7). A change is gone only once its
//! outcome was seen in the view (promise D6). What was signed is proposed again as it is; it is
//! signed anew only when the view shows that its sequence number is void.
//!
//! The machine keeps ids and order; items themselves it owns too, so that one place decides.

use super::item::Item;
use crate::planted::{Bug, is_on};
use aber_proto::{Instant, PartitionId, RequestId, TreePath};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::Duration;

/// How long an answer is waited for before a change is proposed again.
pub const PROPOSE_AGAIN: Duration = Duration::from_secs(5);
/// How long to wait after a refusal.
pub const REFUSED_PAUSE: Duration = Duration::from_millis(200);

/// An item's place in the order in which changes were made here.
pub type Sequence = u64;

/// Where an item stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Earlier changes of the same paths, or its volume, come first.
    Blocked,
    /// Waits until enough nodes hold its content.
    Copying,
    /// Can be signed and proposed.
    Ready,
    /// Signed; sent to the leader, to be sent again at this time.
    Proposed(Instant),
}

/// What happened to an item in the view.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// The partition.
    pub partition: PartitionId,
    /// The entry's index.
    pub index: u64,
    /// Why it was rejected, if it was: a stable code, and the path concerned.
    pub rejected: Option<(u8, String)>,
}

struct Slot {
    item: Item,
    phase: Phase,
    waits_for: BTreeSet<Sequence>,
    is_held: bool,
    problem: Option<String>,
}

/// All items of one outbox.
#[derive(Default)]
pub struct State {
    slots: BTreeMap<Sequence, Slot>,
    requests: BTreeMap<RequestId, Sequence>,
    paths: BTreeMap<TreePath, BTreeSet<Sequence>>,
    next: Sequence,
}

impl State {
    /// How many items wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// The item with a request id.
    #[must_use]
    pub fn find(&self, request: RequestId) -> Option<Sequence> {
        self.requests.get(&request).copied()
    }

    /// Whether an item touches exactly this path.
    #[must_use]
    pub fn touches(&self, path: &TreePath) -> bool {
        self.paths.contains_key(path)
    }

    /// An item.
    #[must_use]
    pub fn item(&self, sequence: Sequence) -> Option<&Item> {
        Some(&self.slots.get(&sequence)?.item)
    }

    /// An item, to change it.
    pub fn item_mut(&mut self, sequence: Sequence) -> Option<&mut Item> {
        Some(&mut self.slots.get_mut(&sequence)?.item)
    }

    /// All items in the order made, with phase and what hinders them.
    pub fn iter(&self) -> impl Iterator<Item = (Sequence, &Item, &Phase, Option<&str>)> {
        self.slots
            .iter()
            .map(|(sequence, slot)| (*sequence, &slot.item, &slot.phase, slot.problem.as_deref()))
    }

    /// Takes an item in: a new one (`None`), or one found at the start under its old number.
    /// Without chunks it needs no copies.
    pub fn add(&mut self, item: Item, sequence: Option<Sequence>) -> Sequence {
        let sequence = sequence.unwrap_or(self.next);
        self.next = self.next.max(sequence + 1);
        let waits_for = self.earlier(&item);
        let is_held = item.signed.is_some() || item.rows().next().is_none();
        self.requests.insert(item.request(), sequence);
        for path in &item.paths {
            self.paths.entry(path.clone()).or_default().insert(sequence);
        }
        let mut slot = Slot {
            item,
            phase: Phase::Blocked,
            waits_for,
            is_held,
            problem: None,
        };
        slot.advance();
        self.slots.insert(sequence, slot);
        sequence
    }

    /// Earlier items that touch a path of `item`, one above it or one below it.
    fn earlier(&self, item: &Item) -> BTreeSet<Sequence> {
        let mut found = BTreeSet::new();
        if is_on(Bug::OrderIgnored) {
            return found;
        }
        for path in &item.paths {
            let mut above = Some(path.clone());
            while let Some(at) = above {
                found.extend(self.paths.get(&at).into_iter().flatten());
                above = at.parent();
            }
            let from = (Bound::Excluded(path), Bound::Unbounded);
            let below = self.paths.range::<TreePath, _>(from);
            for (_, sequences) in below.take_while(|(below, _)| below.is_within(path)) {
                found.extend(sequences);
            }
        }
        found
    }

    /// Items whose content enough nodes must be asked to hold.
    #[must_use]
    pub fn to_copy(&self) -> Vec<Sequence> {
        self.in_phase(|slot| slot.phase == Phase::Copying)
    }

    /// Items to sign and propose now, by partition: those that are ready, and those whose answer
    /// is overdue.
    #[must_use]
    pub fn to_propose(&self, now: Instant) -> Vec<Sequence> {
        self.in_phase(|slot| match slot.phase {
            Phase::Ready => true,
            Phase::Proposed(again) => again <= now,
            _ => false,
        })
    }

    fn in_phase(&self, wanted: impl Fn(&Slot) -> bool) -> Vec<Sequence> {
        let found = self.slots.iter().filter(|(_, slot)| wanted(slot));
        found.map(|(sequence, _)| *sequence).collect()
    }

    /// When [`State::to_propose`] may have more to say.
    #[must_use]
    pub fn next_wake(&self) -> Option<Instant> {
        let times = self.slots.values().filter_map(|slot| match slot.phase {
            Phase::Proposed(again) => Some(again),
            // It became ready while others were looked at: nobody else will call for it.
            Phase::Ready => Some(Instant::default()),
            _ => None,
        });
        times.min()
    }

    /// Enough nodes hold the content.
    pub fn held(&mut self, sequence: Sequence) {
        if let Some(slot) = self.slots.get_mut(&sequence) {
            slot.is_held = true;
            slot.problem = None;
            slot.advance();
        }
    }

    /// Something hinders an item; it stays where it is.
    pub fn hindered(&mut self, sequence: Sequence, why: String) {
        if let Some(slot) = self.slots.get_mut(&sequence) {
            slot.problem = Some(why);
        }
    }

    /// An item was handed to a leader.
    pub fn proposed(&mut self, sequence: Sequence, now: Instant) {
        if let Some(slot) = self.slots.get_mut(&sequence) {
            assert!(
                slot.item.signed.is_some(),
                "only what is signed is proposed"
            );
            slot.phase = Phase::Proposed(now + PROPOSE_AGAIN);
        }
    }

    /// The leader refused it, or none was found: nothing was done, or nobody knows.
    pub fn refused(&mut self, sequence: Sequence, now: Instant, why: String) {
        if let Some(slot) = self.slots.get_mut(&sequence)
            && let Phase::Proposed(_) | Phase::Ready = slot.phase
        {
            slot.phase = Phase::Proposed(now + REFUSED_PAUSE);
            slot.problem = Some(why);
        }
    }

    /// The view shows that the sequence number an item was signed with can never be applied: it is
    /// signed anew.
    pub fn void(&mut self, request: RequestId, author_sequence: u64) {
        let Some(sequence) = self.find(request) else {
            return;
        };
        if let Some(slot) = self.slots.get_mut(&sequence)
            && slot
                .item
                .signed
                .as_ref()
                .is_some_and(|(signed, _)| *signed == author_sequence)
        {
            slot.item.signed = None;
            slot.phase = Phase::Ready;
        }
    }

    /// An item's outcome was seen: it leaves, and what waited for it may go on.
    pub fn finished(&mut self, request: RequestId) -> Option<(Sequence, Item)> {
        let sequence = self.requests.remove(&request)?;
        let slot = self.slots.remove(&sequence)?;
        for path in &slot.item.paths {
            if let Some(sequences) = self.paths.get_mut(path) {
                sequences.remove(&sequence);
                if sequences.is_empty() {
                    self.paths.remove(path);
                }
            }
        }
        for later in self.slots.range_mut(sequence..).map(|(_, slot)| slot) {
            if later.waits_for.remove(&sequence) {
                later.advance();
            }
        }
        Some((sequence, slot.item))
    }
}

impl Slot {
    fn advance(&mut self) {
        self.phase = match self.phase {
            Phase::Blocked if !self.waits_for.is_empty() => Phase::Blocked,
            Phase::Blocked | Phase::Copying if !self.is_held => Phase::Copying,
            Phase::Blocked | Phase::Copying => Phase::Ready,
            ref later => later.clone(),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aber_proto::{Change, ChangeHash, ClusterId, NodeId, Timestamp};
    use bytes::Bytes;

    fn item(request: u8, path: &str) -> Item {
        let change = Change {
            cluster: ClusterId([1; 32]),
            partition: PartitionId(1),
            author: NodeId(1),
            author_sequence: 0,
            previous: ChangeHash::default(),
            request: RequestId([request; 16]),
            wall_time: Timestamp(0),
            comment: String::new(),
            via: String::new(),
            events: Vec::new(),
        };
        Item {
            change,
            volume: None,
            paths: vec![TreePath::parse(path).unwrap()],
            min_copies: 0,
            signed: None,
        }
    }

    /// A2: a change that becomes ready because another is found to be answered is not forgotten.
    #[test]
    fn what_becomes_ready_is_looked_at_at_once() {
        let mut state = State::default();
        let first = state.add(item(1, "/a"), None);
        state.add(item(2, "/a/b"), None);
        state.item_mut(first).unwrap().signed = Some((1, Bytes::new()));
        state.proposed(first, Instant(7));
        assert_eq!(state.next_wake(), Some(Instant(7) + PROPOSE_AGAIN));
        state.finished(RequestId([1; 16]));
        assert_eq!(state.next_wake(), Some(Instant::default()));
    }
}
