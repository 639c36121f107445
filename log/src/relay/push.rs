//! [pure] Which chunk goes next, and to whom.

use super::bits::Bits;
use super::live::Live;
use super::parcel::ParcelId;
use super::state::{Core, Key, Push, Window};
use aber_proto::{Instant, NodeId, RequestId, limit};
use std::collections::BTreeMap;

/// Messages with chunks that may be on their way to a node whatever their size.
const WINDOW_MESSAGES: usize = 2;
/// Chunks of a parcel that go to the same node go in one message up to so many bytes. More saves less
/// than it costs: who is to pass them on waits for all of a message.
pub(super) const TOGETHER_BYTES: u64 = 8 * 1024;
/// Every so many chunks of a writer, one of its oldest parcel.
const OLDEST_EACH: u64 = 4;

/// A parcel of at most so many bytes goes as what is said of parcels does, before all bigger ones:
/// it costs less than the wait for one of their chunks.
const SMALL_BYTES: u64 = 16 * 1024;

/// What the first parcel of a change that has something to send could send.
struct Candidate {
    key: Key,
    /// To whom, and what of the parcel lacks there and can go, at least one.
    to: NodeId,
    lacks: Bits,
    /// What is left to send of the change, whether it is here yet or not.
    left: usize,
}

impl Core {
    /// The next chunk to send: writers take turns by bytes; of a writer's changes the one with least
    /// left goes first, each fourth time the oldest; of a parcel the first chunk that somebody lacks
    /// whose window is open. Until [`Core::pushed`] it counts as on its way.
    pub fn next_push(&mut self, now: Instant) -> Option<Push> {
        let mut changes: BTreeMap<(NodeId, RequestId), Candidate> = BTreeMap::new();
        self.ready.big.wake(now);
        for key in self.ready.big.keys(|node| self.is_open(node)) {
            let next = self.look_at(key, now, Self::is_open);
            let (Some((lacks, to, left)), Some(live)) = (next, self.live.get(&key)) else {
                continue;
            };
            let id = &live.announcement.id;
            let change = changes.entry((id.writer, id.request));
            // Parcels of a change go in the order in which they were announced.
            let first = change.or_insert(Candidate {
                key,
                to,
                lacks,
                left: 0,
            });
            first.left += left;
        }
        let mut of_writer: BTreeMap<NodeId, Vec<Candidate>> = BTreeMap::new();
        for ((writer, _), candidate) in changes {
            of_writer.entry(writer).or_default().push(candidate);
        }
        self.served
            .retain(|writer, _| of_writer.contains_key(writer));
        let least = self.served.values().min().copied().unwrap_or(0);
        for writer in of_writer.keys() {
            self.served.entry(*writer).or_insert(least);
        }
        let writer = self
            .served
            .iter()
            .min_by_key(|(node, sent)| (**sent, **node));
        let writer = writer.map(|(node, _)| *node)?;
        let parcels = of_writer.remove(&writer)?;
        self.turns += 1;
        let chosen = match self.turns.is_multiple_of(OLDEST_EACH) {
            true => parcels.into_iter().min_by_key(|parcel| parcel.key),
            false => parcels
                .into_iter()
                .min_by_key(|parcel| (parcel.left, parcel.key)),
        };
        let Candidate { key, to, lacks, .. } = chosen?;
        let push = self.take_off(key, lacks, to)?;
        *self.served.entry(writer).or_default() += push.bytes();
        Some(push)
    }

    #[cfg(test)]
    pub(super) fn announcement_of(&self, parcel: &ParcelId) -> super::parcel::Announcement {
        let live = self.names.get(parcel).and_then(|key| self.live.get(key));
        (*live.expect("a live parcel").announcement).clone()
    }

    #[cfg(test)]
    fn count_look(&mut self) {
        self.looked_at += 1;
    }

    /// Who lacks something that could be sent and is in no index: nobody, ever.
    #[cfg(test)]
    pub(super) fn unindexed(&self) -> Vec<(Key, NodeId)> {
        let mut lost = Vec::new();
        for (key, live) in &self.live {
            let ready = match is_small(live) {
                true => &self.ready.small,
                false => &self.ready.big,
            };
            let outlets = live.outlets(|node| self.is_alive(node));
            let lacking = outlets.filter(|outlet| !live.to_send(*outlet).is_empty());
            let lacking = lacking.filter(|outlet| !ready.has(*key, outlet.child));
            lost.extend(lacking.map(|outlet| (*key, outlet.child)));
        }
        lost
    }

    /// The next chunk of a parcel so small that it waits for no other, nor for a window.
    pub fn next_small_push(&mut self, now: Instant) -> Option<Push> {
        self.ready.small.wake(now);
        while let Some(key) = self.ready.small.first() {
            if let Some((lacks, to, _)) = self.look_at(key, now, |_, _| true) {
                return self.take_off(key, lacks, to);
            }
            self.ready.small.take_all(key);
        }
        None
    }

    /// Something of a parcel may be to be sent now that was not before.
    pub(super) fn mark(&mut self, key: Key) {
        let Some(live) = self.live.get(&key) else {
            return;
        };
        let lacking: Vec<NodeId> = live
            .outlets(|node| self.is_alive(node))
            .filter(|slot| !live.to_send(*slot).is_empty())
            .map(|slot| slot.child)
            .collect();
        let ready = self.ready.of(is_small(live));
        for to in lacking {
            ready.add(key, to);
        }
    }

    /// The same of one by its name.
    pub(super) fn mark_parcel(&mut self, parcel: &ParcelId) {
        if let Some(key) = self.names.get(parcel).copied() {
            self.mark(key);
        }
    }

    /// The same of all parcels.
    pub(super) fn mark_all(&mut self) {
        let keys: Vec<Key> = self.live.keys().copied().collect();
        for key in keys {
            self.mark(key);
        }
    }

    /// The first chunk that lacks at a node, and with it what goes together with it.
    fn take_off(&mut self, key: Key, lacks: Bits, to: NodeId) -> Option<Push> {
        let live = self.live.get_mut(&key)?;
        let (first, mut bytes) = (lacks.lowest(), 0);
        let chunks = lacks.iter();
        let chunks = chunks.filter_map(|at| Some((at, live.chunk(at)?)));
        let chunks: Vec<_> = chunks
            .take_while(|(at, chunk)| {
                bytes += u64::from(chunk.length);
                Some(*at) == first || bytes <= TOGETHER_BYTES
            })
            .collect();
        let flying = live.flying.entry(to).or_default();
        chunks.iter().for_each(|(at, _)| flying.add(*at));
        let push = Push {
            to,
            parcel: live.announcement.id,
            chunks,
            is_small: is_small(live),
        };
        let window = self.windows.entry(to).or_default();
        window.messages += 1;
        window.bytes += push.bytes();
        Some(push)
    }

    fn is_open(&self, node: NodeId) -> bool {
        let Window { messages, bytes } = self.windows.get(&node).copied().unwrap_or_default();
        messages < WINDOW_MESSAGES || bytes < self.window_bytes
    }

    /// To whom the first chunk of a parcel that can go goes, what lacks there, and how much of the parcel
    /// is left to send. Whom nothing can be sent now is not looked for again before something happens.
    fn look_at(
        &mut self,
        key: Key,
        now: Instant,
        is_open: impl Fn(&Self, NodeId) -> bool,
    ) -> Option<(Bits, NodeId, usize)> {
        #[cfg(test)]
        self.count_look();
        let live = self.live.get(&key)?;
        let (mut left, mut first) = (0, None::<(usize, NodeId, Bits)>);
        let mut lacking: BTreeMap<NodeId, Bits> = BTreeMap::new();
        for slot in live.outlets(|node| self.is_alive(node)) {
            let to = slot.child;
            let lacks = lacking.entry(to).or_default();
            *lacks = lacks.or(live.to_send(slot));
            if live.not_before.get(&to).is_none_or(|at| now >= *at) {
                left += live.left(slot);
            }
        }
        let mut asleep = Vec::new();
        let mut done = self.ready.of(is_small(live)).who_lacks(key);
        for (to, lacks) in lacking {
            let Some(number) = lacks.lowest() else {
                continue;
            };
            done.retain(|node| *node != to);
            match live.not_before.get(&to).filter(|at| now < **at) {
                Some(until) => asleep.push((to, *until)),
                None if is_open(self, to) => {
                    let found = first.unwrap_or((number, to, lacks));
                    // By node the lower comes first here.
                    first = Some(if number < found.0 {
                        (number, to, lacks)
                    } else {
                        found
                    });
                }
                None => {}
            }
        }
        let ready = self.ready.of(is_small(live));
        for (to, until) in asleep {
            ready.put_off(key, to, until);
        }
        for to in done {
            ready.take(key, to);
        }
        first.map(|(_, to, lacks)| (lacks, to, left))
    }
}

/// A body is as urgent as the entry that waits for it, and no longer than one.
pub(super) fn is_small(live: &Live) -> bool {
    let most = match live.announcement.id.is_body() {
        true => limit::ENTRY_BYTES as u64,
        false => SMALL_BYTES,
    };
    live.announcement.bytes() <= most
}
