//! [pure] What is asked for because its way is broken or it is late.

use super::fold;
use super::live::Live;
use super::state::{Action, Core, Key};
use crate::relay::parcel::ParcelId;
use aber_proto::{ChunkRef, Instant, NodeId};
use std::collections::BTreeMap;
use std::time::Duration;

/// Open requests to one node.
const OPEN_EACH: usize = 2;
/// Open requests in all, of parcels that are on their way.
const OPEN: usize = 8;
/// Open requests in all with those of parcels that come late, which come in no other way: every uplink
/// is to have something to do.
const OPEN_LATE: usize = 32;
/// Chunks looked at in one go.
const LOOKED_AT: usize = 1024;
/// After which an answer is not waited for any more.
const ANSWER_TIME: Duration = Duration::from_secs(60);

/// A node that did not answer is not asked for so long: its link for content may not be up yet.
const REST: Duration = Duration::from_secs(1);

/// A chunk that may be asked for.
struct Wish {
    key: Key,
    parcel: ParcelId,
    number: usize,
    chunk: ChunkRef,
    from: Vec<NodeId>,
    is_orphan: bool,
    is_late: bool,
}

/// Requests that are open, in all and of each node.
struct Open {
    each: BTreeMap<NodeId, usize>,
    count: usize,
    at_most: usize,
}

impl Open {
    fn new(at_most: usize) -> Self {
        Self {
            each: BTreeMap::new(),
            count: 0,
            at_most,
        }
    }

    fn add(&mut self, from: NodeId) {
        *self.each.entry(from).or_default() += 1;
        self.count += 1;
    }

    fn of(&self, node: NodeId) -> usize {
        self.each.get(&node).copied().unwrap_or(0)
    }

    fn is_full(&self) -> bool {
        self.count >= self.at_most
    }
}

impl Core {
    /// Asks for what is late or orphaned, the rarest first, from the neighbour with fewest requests
    /// open; from the writer only if for long nobody else has it.
    pub(super) fn pulls(&mut self, now: Instant) -> Vec<Action> {
        for live in self.live.values_mut() {
            live.pulls
                .retain(|_, (_, since)| now < *since + ANSWER_TIME);
        }
        self.resting.retain(|_, until| now < *until);
        // What is on its way is not held up by what comes late: only such is counted for it.
        let (mut coming, mut all) = (Open::new(OPEN), Open::new(OPEN_LATE));
        for live in self.live.values() {
            for (from, _) in live.pulls.values() {
                all.add(*from);
                if !live.is_late {
                    coming.add(*from);
                }
            }
        }
        let mut wishes = self.wishes(now);
        let turn = |node: u64, wish: &Wish| fold([self.me.0, node, wish.number as u64]);
        // Each in an order of its own: what one gets another can ask it for.
        wishes.sort_by_key(|wish| {
            let own = turn(self.me.0, wish);
            (wish.is_late, wish.from.len(), wish.key, own)
        });
        let mut asked: BTreeMap<(NodeId, bool), Vec<_>> = BTreeMap::new();
        // First one of everybody: who has what is rare has more to do than others, and they nothing.
        let rounds = (1..=OPEN_EACH).flat_map(|most| wishes.iter().map(move |wish| (most, wish)));
        for (most, wish) in rounds {
            let open = if wish.is_late { &all } else { &coming };
            let Some(live) = self.live.get_mut(&wish.key) else {
                continue;
            };
            if open.is_full() || live.pulls.contains_key(&wish.number) {
                continue;
            }
            let from = wish.from.iter().filter(|node| open.of(**node) < most);
            let Some(from) = from
                .min_by_key(|node| (open.of(**node), turn(node.0, wish)))
                .copied()
            else {
                continue;
            };
            all.add(from);
            if !wish.is_late {
                coming.add(from);
            }
            self.counts.pulled_count += 1;
            live.pulls.insert(wish.number, (from, now));
            let chunks = asked.entry((from, wish.is_orphan)).or_default();
            chunks.push((wish.parcel, wish.number, wish.chunk));
        }
        let asked = asked.into_iter();
        let pull = asked.map(|((from, is_orphan), chunks)| Action::Pull {
            from,
            chunks,
            is_orphan,
        });
        pull.collect()
    }

    fn wishes(&self, now: Instant) -> Vec<Wish> {
        let mut wishes = Vec::new();
        let incomplete = || self.live.iter().filter(|(_, live)| !live.is_complete());
        let coming = incomplete().filter(|(_, live)| !live.is_late);
        let all = coming.chain(incomplete().filter(|(_, live)| live.is_late));
        for (key, live) in all {
            if wishes.len() >= LOOKED_AT {
                break;
            }
            wishes.extend(self.wishes_of(*key, live, now));
        }
        wishes
    }

    fn wishes_of<'a>(
        &'a self,
        key: Key,
        live: &'a Live,
        now: Instant,
    ) -> impl Iterator<Item = Wish> + 'a {
        let lags = self.lags(live);
        let is_orphan: Vec<bool> = (0..live.stripes.len())
            .map(|stripe| {
                let feeds = |node| self.is_alive(node) && !lags(node);
                let parent = live.parent(self.me, stripe, feeds);
                // Of a layout that is not here yet the trees are not either, and its chunks come.
                parent.is_none() && live.way.is_some()
            })
            .collect();
        let usual = self.laggards.usual_delay();
        let missing = live.missing();
        let wanted: Vec<usize> = missing
            .iter()
            .filter(|n| !live.pulls.contains_key(n))
            .collect();
        wanted.into_iter().filter_map(move |number| {
            let stripe = live.stripe_of(number);
            let is_orphan = is_orphan.get(stripe).copied().unwrap_or(true);
            let lag = live.lag(stripe, usual);
            let is_overdue = live
                .seen
                .get(&number)
                .is_some_and(|seen| now >= *seen + lag);
            let has = live.had.iter().filter(|(_, bits)| bits.has(number));
            let has = has.map(|(node, _)| *node);
            let mut from: Vec<_> = has
                .filter(|node| self.is_alive(*node) && *node != live.writer())
                .filter(|node| !self.resting.contains_key(node) && !lags(*node))
                .collect();
            // One asks the writer at once for all whose parent is gone; the others ask that one then.
            let is_quick = |node| self.is_alive(node) && !lags(node);
            let is_for_all = is_orphan && live.is_heir(self.me, stripe, is_quick);
            let is_last = live.offered.is_some_and(|since| now >= since + lag * 2);
            if from.is_empty() && (is_for_all || is_last) && self.is_alive(live.writer()) {
                from.push(live.writer());
            }
            let is_wanted =
                is_orphan || live.is_late || is_overdue || from.contains(&live.writer());
            let chunk = live.chunk(number)?;
            (is_wanted && !from.is_empty()).then_some(Wish {
                key,
                parcel: live.announcement.id,
                number,
                chunk,
                from,
                // What comes late is catching up, whatever its ways are like.
                is_orphan: is_orphan && !live.is_late,
                is_late: live.is_late,
            })
        })
    }

    /// How a request ended; what came was told by [`Core::stored`]. `None`: it was not answered.
    pub fn pulled(
        &mut self,
        from: NodeId,
        parcel: ParcelId,
        number: usize,
        has: Option<bool>,
        now: Instant,
    ) {
        if has.is_none() {
            self.resting.insert(from, now + REST);
        }
        let Some(live) = self.find(parcel) else {
            return;
        };
        if live
            .pulls
            .get(&number)
            .is_some_and(|(asked, _)| *asked == from)
        {
            live.pulls.remove(&number);
        }
        // It does not have it after all, and will not say again that it has.
        if has == Some(false)
            && from != live.writer()
            && let Some(had) = live.had.get_mut(&from)
        {
            had.take(number);
            self.mark_parcel(&parcel);
        }
    }
}
