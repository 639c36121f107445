//! [pure] The life of every change that waits here: `waiting → held → signed → proposed → gone`.
//!
//! Changes that touch the same path, or one above the other, keep their order: a later one starts
//! only when the earlier is gone; others overtake (promise C7). A change is gone only once its
//! outcome was seen in the view (promise D6). What was signed is proposed again as it is; it is
//! signed anew only when the view shows that its sequence number is void.
//!
//! Of one partition one batch is under way at a time: batches grow by themselves while the leader
//! works, and sequence numbers arrive in their order.

use super::item::Item;
use crate::planted::{Bug, is_on};
use aber_proto::{Instant, PartitionId, RequestId, TreePath};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::Duration;

/// How long the outcome of a change that was ordered is waited for before it is proposed again.
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
    /// To be signed and proposed, at this time or later.
    Ready(Instant),
    /// Signed and on its way to the leader.
    Sent,
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
    /// Earlier items that must be gone first.
    waits_for: BTreeSet<Sequence>,
    /// Later items that wait for this one.
    holds_up: BTreeSet<Sequence>,
    is_held: bool,
    problem: Option<String>,
}

/// All items of one outbox.
#[derive(Default)]
pub struct State {
    slots: BTreeMap<Sequence, Slot>,
    requests: BTreeMap<RequestId, Sequence>,
    paths: BTreeMap<TreePath, BTreeSet<Sequence>>,
    copying: BTreeSet<Sequence>,
    ready: BTreeSet<(Instant, Sequence)>,
    /// Partitions with a batch under way.
    busy: BTreeSet<PartitionId>,
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
        let show = |(sequence, slot)| Self::show(sequence, slot);
        self.slots.iter().map(show)
    }

    fn show<'a>(
        sequence: &Sequence,
        slot: &'a Slot,
    ) -> (Sequence, &'a Item, &'a Phase, Option<&'a str>) {
        (*sequence, &slot.item, &slot.phase, slot.problem.as_deref())
    }

    /// Takes an item in: a new one (`None`), or one found at the start under its old number.
    /// Without chunks it needs no copies.
    pub fn add(&mut self, item: Item, sequence: Option<Sequence>) -> Sequence {
        let sequence = sequence.unwrap_or(self.next);
        self.next = self.next.max(sequence + 1);
        let waits_for = self.earlier(&item);
        for earlier in &waits_for {
            if let Some(slot) = self.slots.get_mut(earlier) {
                slot.holds_up.insert(sequence);
            }
        }
        self.requests.insert(item.request(), sequence);
        for path in &item.paths {
            self.paths.entry(path.clone()).or_default().insert(sequence);
        }
        let is_held = item.signed.is_some() || item.rows().next().is_none();
        let slot = Slot {
            item,
            phase: Phase::Blocked,
            waits_for,
            holds_up: BTreeSet::new(),
            is_held,
            problem: None,
        };
        self.slots.insert(sequence, slot);
        self.advance(sequence);
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

    /// Moves an item on as far as it can go.
    fn advance(&mut self, sequence: Sequence) {
        let Some(slot) = self.slots.get(&sequence) else {
            return;
        };
        let next = match slot.phase {
            Phase::Blocked if !slot.waits_for.is_empty() => return,
            Phase::Blocked | Phase::Copying if !slot.is_held => Phase::Copying,
            Phase::Blocked | Phase::Copying => Phase::Ready(Instant(0)),
            Phase::Ready(_) | Phase::Sent => return,
        };
        self.enter(sequence, next);
    }

    fn enter(&mut self, sequence: Sequence, phase: Phase) {
        self.copying.remove(&sequence);
        if let Some(slot) = self.slots.get_mut(&sequence) {
            if let Phase::Ready(at) = slot.phase {
                self.ready.remove(&(at, sequence));
            }
            match phase {
                Phase::Copying => {
                    self.copying.insert(sequence);
                }
                Phase::Ready(at) => {
                    self.ready.insert((at, sequence));
                }
                Phase::Blocked | Phase::Sent => {}
            }
            slot.phase = phase;
        }
    }

    /// Items whose content enough nodes must be asked to hold.
    #[must_use]
    pub fn to_copy(&self) -> Vec<Sequence> {
        self.copying.iter().copied().collect()
    }

    /// Items to sign and propose now, of partitions where nothing is under way, at most `most`, in
    /// the order made.
    #[must_use]
    pub fn to_propose(&self, now: Instant, most: usize) -> Vec<Sequence> {
        let due = self.ready.iter().take_while(|(at, _)| *at <= now);
        let mut due: Vec<_> = due
            .map(|(_, sequence)| *sequence)
            .filter(|s| !self.is_busy(*s))
            .collect();
        due.sort_unstable();
        due.truncate(most);
        due
    }

    fn is_busy(&self, sequence: Sequence) -> bool {
        let item = self.item(sequence);
        item.is_some_and(|item| self.busy.contains(&item.partition()))
    }

    /// When [`State::to_propose`] may have more to say without anything else happening.
    #[must_use]
    pub fn next_wake(&self) -> Option<Instant> {
        let mut waiting = self.ready.iter();
        waiting
            .find(|(_, sequence)| !self.is_busy(*sequence))
            .map(|(at, _)| *at)
    }

    /// Enough nodes hold the content.
    pub fn held(&mut self, sequence: Sequence) {
        if let Some(slot) = self.slots.get_mut(&sequence) {
            slot.is_held = true;
            slot.problem = None;
        }
        self.advance(sequence);
    }

    /// Something hinders an item; it stays where it is.
    pub fn hindered(&mut self, sequence: Sequence, why: String) {
        if let Some(slot) = self.slots.get_mut(&sequence) {
            slot.problem = Some(why);
        }
    }

    /// An item is not fit to be proposed before this time.
    pub fn postponed(&mut self, sequence: Sequence, until: Instant, why: String) {
        self.hindered(sequence, why);
        self.enter(sequence, Phase::Ready(until));
    }

    /// A batch of a partition goes to the leader.
    pub fn sent(&mut self, partition: PartitionId, sequences: &[Sequence]) {
        let is_signed = |sequence: &Sequence| {
            self.item(*sequence)
                .is_none_or(|item| item.signed.is_some())
        };
        assert!(
            sequences.iter().all(is_signed),
            "only what is signed is proposed"
        );
        self.busy.insert(partition);
        for sequence in sequences {
            self.enter(*sequence, Phase::Sent);
        }
    }

    /// The leader answered, or did not: what is still here was ordered (its outcome will be seen)
    /// or refused, and is proposed again when that does not happen.
    pub fn answered(
        &mut self,
        partition: PartitionId,
        sequences: &[Sequence],
        now: Instant,
        problem: Option<&str>,
    ) {
        self.busy.remove(&partition);
        let again = now
            + if problem.is_some() {
                REFUSED_PAUSE
            } else {
                PROPOSE_AGAIN
            };
        for sequence in sequences {
            let Some(slot) = self.slots.get_mut(sequence) else {
                continue;
            };
            slot.problem = problem.map(str::to_owned);
            if slot.phase == Phase::Sent {
                self.enter(*sequence, Phase::Ready(again));
            }
        }
    }

    /// The view shows that the sequence number an item was signed with can never be applied: it is
    /// signed anew.
    pub fn void(&mut self, request: RequestId, author_sequence: u64) {
        let Some(sequence) = self.find(request) else {
            return;
        };
        let Some(slot) = self.slots.get_mut(&sequence) else {
            return;
        };
        let is_it = |(signed, _): &(u64, bytes::Bytes)| *signed == author_sequence;
        if slot.item.signed.as_ref().is_some_and(is_it) {
            slot.item.signed = None;
            self.enter(sequence, Phase::Ready(Instant(0)));
        }
    }

    /// An item's outcome was seen: it leaves, and what waited for it may go on.
    pub fn finished(&mut self, request: RequestId) -> Option<(Sequence, Item)> {
        let sequence = self.requests.remove(&request)?;
        self.enter(sequence, Phase::Blocked);
        let slot = self.slots.remove(&sequence)?;
        for path in &slot.item.paths {
            if let Some(sequences) = self.paths.get_mut(path) {
                sequences.remove(&sequence);
                if sequences.is_empty() {
                    self.paths.remove(path);
                }
            }
        }
        for later in slot.holds_up {
            if let Some(waiting) = self.slots.get_mut(&later) {
                waiting.waits_for.remove(&sequence);
            }
            self.advance(later);
        }
        Some((sequence, slot.item))
    }
}

#[cfg(test)]
mod tests;
