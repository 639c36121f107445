//! [pure] Which chunk goes next, and to whom.

use super::bits::Bits;
use super::live::Live;
use super::state::{Core, Key, Push, Window};
use aber_proto::{Instant, NodeId, RequestId};
use std::collections::BTreeMap;

/// Chunks that may be on their way to a node whatever their size.
const WINDOW_CHUNKS: usize = 2;
/// Every so many chunks of a writer, one of its oldest parcel.
const OLDEST_EACH: u64 = 4;

/// A parcel of at most so many bytes goes as what is said of parcels does, before all bigger ones:
/// it costs less than the wait for one of their chunks.
const SMALL_BYTES: u64 = 16 * 1024;

/// What the first parcel of a change that has something to send could send.
struct Candidate {
    key: Key,
    number: usize,
    to: NodeId,
    /// What is left to send of the change, whether it is here yet or not.
    left: usize,
}

impl Core {
    /// The next chunk to send: writers take turns by bytes; of a writer's changes the one with least
    /// left goes first, each fourth time the oldest; of a parcel the first chunk that somebody lacks
    /// whose window is open. Until [`Core::pushed`] it counts as on its way.
    pub fn next_push(&mut self, now: Instant) -> Option<Push> {
        let mut changes: BTreeMap<(NodeId, RequestId), Candidate> = BTreeMap::new();
        for (key, live) in self.live.iter().filter(|(_, live)| !is_small(live)) {
            let next = self.next_of(live, now, |node| self.is_open(node));
            let Some((number, to, left)) = next else {
                continue;
            };
            let key = *key;
            let id = &live.announcement.id;
            let change = changes.entry((id.writer, id.request));
            // Parcels of a change go in the order in which they were announced.
            let first = change.or_insert(Candidate {
                key,
                number,
                to,
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
        let Candidate {
            key, number, to, ..
        } = chosen?;
        let push = self.take_off(key, number, to)?;
        *self.served.entry(writer).or_default() += u64::from(push.chunk.length);
        Some(push)
    }

    /// The next chunk of a parcel so small that it waits for no other, nor for a window.
    pub fn next_small_push(&mut self, now: Instant) -> Option<Push> {
        let mut small = self.live.iter().filter(|(_, live)| is_small(live));
        let (key, number, to) = small.find_map(|(key, live)| {
            let (number, to, _) = self.next_of(live, now, |_| true)?;
            Some((*key, number, to))
        })?;
        self.take_off(key, number, to)
    }

    fn take_off(&mut self, key: Key, number: usize, to: NodeId) -> Option<Push> {
        let live = self.live.get_mut(&key)?;
        let chunk = live.chunk(number)?;
        live.flying.entry(to).or_default().add(number);
        let (parcel, is_small) = (live.announcement.id, is_small(live));
        let window = self.windows.entry(to).or_default();
        window.chunks += 1;
        window.bytes += u64::from(chunk.length);
        Some(Push {
            to,
            parcel,
            number,
            chunk,
            is_small,
        })
    }

    fn is_open(&self, node: NodeId) -> bool {
        let Window { chunks, bytes } = self.windows.get(&node).copied().unwrap_or_default();
        chunks < WINDOW_CHUNKS || bytes < self.window_bytes
    }

    /// The first chunk of a parcel that can go, to whom, and how much of it is left to send.
    fn next_of(
        &self,
        live: &Live,
        now: Instant,
        is_open: impl Fn(NodeId) -> bool,
    ) -> Option<(usize, NodeId, usize)> {
        let mut left = 0;
        let mut first: Option<(usize, NodeId)> = None;
        for slot in &live.slots {
            let occupant = live.occupant(*slot, |node| self.is_alive(node));
            let Some(to) = occupant else { continue };
            if live.not_before.get(&to).is_some_and(|at| now < *at) {
                continue;
            }
            let lacking: Bits = live.to_send(*slot, to);
            left += live.left(*slot, to);
            if let Some(number) = lacking.lowest().filter(|_| is_open(to)) {
                first = Some(first.map_or((number, to), |found| found.min((number, to))));
            }
        }
        first.map(|(number, to)| (number, to, left))
    }
}

fn is_small(live: &Live) -> bool {
    live.announcement.bytes() <= SMALL_BYTES
}
