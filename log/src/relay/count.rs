//! [pure] What a relay did since it started, and what of this node's own content is nowhere else.
//!
//! For people and measurements: nothing depends on it. Bytes are those of chunks as they were cut,
//! before compression and without what a message adds.

use super::live::Live;
use super::parcel::{Announcement, ParcelId};
use super::state::{Core, Taken};
use aber_proto::{ChunkHash, ChunkRef, Instant, NodeId, RequestId};
use std::collections::BTreeMap;
use std::time::Duration;

/// A change that others did not hold is tried again within this time.
const TRIED_AGAIN: Duration = Duration::from_secs(60);

/// Sums since the relay started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Bytes of this node's own parcels that it announced; what was on its way already counts once.
    pub own_bytes: u64,
    /// Bytes of such chunks that went from here and arrived, each time they did.
    pub own_sent_bytes: u64,
    /// The same of parcels that others wrote.
    pub passed_on_bytes: u64,
    /// Bytes of chunks that came from other nodes, verified.
    pub received_bytes: u64,
    /// Those among them that were here already.
    pub twice_bytes: u64,
    /// Chunks that were asked for, because their way was broken or they were late.
    pub pulled_count: u64,
    /// Chunks that came and were not what they were said to be. None was kept or passed on (T9).
    pub bad_count: u64,
}

impl Counts {
    /// How many copies of its own content this node sent, in thousandths; `None` before there is any.
    #[must_use]
    pub fn copies_thousandths(&self) -> Option<u64> {
        let sent = u128::from(self.own_sent_bytes) * 1000;
        let copies = sent.checked_div(u128::from(self.own_bytes))?;
        Some(u64::try_from(copies).unwrap_or(u64::MAX))
    }
}

/// What this node wrote and no other is known to hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OnlyHere {
    /// Changes with such content.
    pub changes_count: u64,
    /// Bytes of it that no other node has taken yet. With 0 of them others have all of it, and none
    /// of them has said yet that it holds all, durably.
    pub bytes: u64,
}

/// How a relay is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RelayState {
    /// What it did.
    pub counts: Counts,
    /// Parcels that it remembers.
    pub live_count: u64,
    /// Those of which something lacks here.
    pub incomplete_count: u64,
    /// What is only here, as far as was told since this node started.
    pub only_here: OnlyHere,
    /// Nodes of which nothing is taken, since they sent what is not what they said.
    pub blamed: Vec<NodeId>,
}

/// Who holds the content of a change in the end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Holders {
    /// As the relay was told, or nobody else had to.
    Relayed,
    /// Others that were asked to fetch it, and did.
    Asked,
}

/// A change whose content others are to hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wait {
    bytes: u64,
    /// After a failure: when it is tried again it is told again.
    until: Option<Instant>,
}

impl Wait {
    fn counts_at(&self, now: Instant) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}

/// What of one change is only here.
#[derive(Default)]
struct Left {
    /// All of it, announced or not, while that is waited for.
    later: u64,
    offered: u64,
    safe: u64,
    is_unheld: bool,
}

impl Core {
    /// How it is.
    #[must_use]
    pub fn look(&self, now: Instant) -> RelayState {
        let incomplete = self.live.values().filter(|live| !live.is_complete());
        RelayState {
            counts: self.counts,
            live_count: self.live.len() as u64,
            incomplete_count: incomplete.count() as u64,
            only_here: self.only_here(now),
            blamed: self.blamed(),
        }
    }

    /// A change of this node waits until others hold its content; `bytes` in all, some of which
    /// may be announced later. Ends with [`Core::held`].
    pub fn holding(&mut self, request: RequestId, bytes: u64, now: Instant) {
        self.holding.retain(|_, wait| wait.counts_at(now));
        let until = None;
        self.holding.insert(request, Wait { bytes, until });
    }

    /// How that ended. `None`: it failed, and is tried again before long.
    pub fn held(&mut self, request: RequestId, by: Option<Holders>, now: Instant) {
        let Some(by) = by else {
            if let Some(wait) = self.holding.get_mut(&request) {
                wait.until = Some(now + TRIED_AGAIN);
            }
            return;
        };
        self.holding.remove(&request);
        let live = &self.live;
        let is_live = |request: &RequestId| {
            let mut parcels = live.values().map(|live| live.announcement.id);
            parcels.any(|id| id.writer == self.me && id.request == *request)
        };
        self.held_elsewhere.retain(is_live);
        if by == Holders::Asked {
            self.held_elsewhere.insert(request);
        }
    }

    /// A chunk was handed out to one who asked for it.
    pub fn handed_out(&mut self, hash: &ChunkHash) {
        if let Some((writer, length)) = self.length_of(hash) {
            self.count_sent(writer, length);
        }
    }

    pub(super) fn count_offer(&mut self, announcement: &Announcement) {
        if announcement.id.writer != self.me {
            return;
        }
        let is_new = |hash| self.length_of(hash).is_none_or(|(by, _)| by != self.me);
        let chunks = announcement.chunks.iter();
        let new = chunks.filter(|chunk| is_new(&chunk.hash));
        let bytes: u64 = new.map(|chunk| u64::from(chunk.length)).sum();
        self.counts.own_bytes += bytes;
    }

    pub(super) fn count_push(&mut self, parcel: &ParcelId, chunk: ChunkRef, taken: Taken) {
        // Of one that failed nobody knows what went.
        if taken != Taken::Failed {
            self.count_sent(parcel.writer, u64::from(chunk.length));
        }
    }

    fn count_sent(&mut self, writer: NodeId, bytes: u64) {
        let sum = match writer == self.me {
            true => &mut self.counts.own_sent_bytes,
            false => &mut self.counts.passed_on_bytes,
        };
        *sum += bytes;
    }

    /// Counts a chunk that came from another node; before it is noted that it is here.
    pub(super) fn count_received(&mut self, hash: &ChunkHash) {
        let Some((_, length)) = self.length_of(hash) else {
            return;
        };
        let mut parcels = self.by_hash.get(hash).into_iter().flatten();
        let is_here = parcels.all(|(key, number)| {
            let live = self.live.get(key);
            live.is_none_or(|live| live.mine.has(*number))
        });
        self.counts.received_bytes += length;
        self.counts.twice_bytes += if is_here { length } else { 0 };
    }

    /// Who wrote a chunk that is on its way, and how long it is; this node, if others did too.
    fn length_of(&self, hash: &ChunkHash) -> Option<(NodeId, u64)> {
        let parcels = self.by_hash.get(hash)?.iter();
        let known = parcels.filter_map(|(key, number)| {
            let live = self.live.get(key)?;
            Some((live.writer(), u64::from(live.chunk(*number)?.length)))
        });
        known.max_by_key(|(writer, _)| *writer == self.me)
    }

    fn only_here(&self, now: Instant) -> OnlyHere {
        let is_alone = self.layout().is_none_or(|all| all.members().len() < 2);
        if is_alone {
            return OnlyHere::default();
        }
        let mut changes: BTreeMap<RequestId, Left> = BTreeMap::new();
        let waiting = self.holding.iter();
        for (request, wait) in waiting.filter(|(_, wait)| wait.counts_at(now)) {
            let later = wait.bytes;
            changes.insert(
                *request,
                Left {
                    later,
                    ..Left::default()
                },
            );
        }
        // What a change says is in the log of several nodes before it counts.
        let is_content = |live: &&Live| !live.announcement.id.is_body();
        let own = self.live.values().filter(|live| live.writer() == self.me);
        for live in own.filter(is_content) {
            let left = changes.entry(live.announcement.id.request).or_default();
            let is_held = self.held_elsewhere.contains(&live.announcement.id.request)
                || live.holders.iter().any(|node| *node != self.me);
            let all = bytes_of(live, |_| true);
            left.offered += all;
            left.safe += match is_held {
                true => all,
                false => bytes_of(live, |number| live.sent.has(number)),
            };
            left.is_unheld |= !is_held;
        }
        let mut only_here = OnlyHere::default();
        for left in changes.values() {
            let bytes = left.offered.max(left.later).saturating_sub(left.safe);
            if bytes > 0 || left.is_unheld {
                only_here.changes_count += 1;
                only_here.bytes += bytes;
            }
        }
        only_here
    }
}

fn bytes_of(live: &Live, is_meant: impl Fn(usize) -> bool) -> u64 {
    let chunks = live.announcement.chunks.iter().enumerate();
    let meant = chunks.filter(|(number, _)| is_meant(*number));
    meant.map(|(_, chunk)| u64::from(chunk.length)).sum()
}

#[cfg(test)]
mod tests {
    use super::super::Links;
    use super::super::swarm::Swarm;
    use super::*;
    const LONG: Duration = Duration::from_secs(3000);
    const CHUNK: u64 = 64 * 1024;

    /// A writer counts what its line carried; the others what they passed on; nothing came twice.
    #[test]
    fn counts_are_what_the_lines_carried() {
        let mut swarm = Swarm::new(&[8000; 8], &Links::Any);
        swarm.write(NodeId(0), 256, 65_536);
        swarm.run(LONG, |swarm| swarm.all_have(256));
        let settled = swarm.now.0 + 1_000_000_000;
        swarm.run(Duration::from_nanos(settled), |_| false);
        let writer = swarm.look(NodeId(0)).counts;
        assert_eq!(writer.own_bytes, 256 * CHUNK);
        assert_eq!(writer.own_sent_bytes, swarm.sent(NodeId(0)));
        assert_eq!((writer.received_bytes, writer.passed_on_bytes), (0, 0));
        let copies = writer.copies_thousandths().expect("it wrote");
        assert!((1000..=1010).contains(&copies), "{copies}");
        for id in (1..8).map(NodeId) {
            let counts = swarm.look(id).counts;
            assert_eq!(counts.received_bytes, 256 * CHUNK, "{id}");
            assert_eq!((counts.twice_bytes, counts.pulled_count), (0, 0), "{id}");
            assert_eq!(counts.passed_on_bytes, swarm.sent(id), "{id}");
            assert_eq!(counts.copies_thousandths(), None, "{id} wrote nothing");
        }
    }

    /// Where nodes fail or lie, what came twice is what the world saw come twice, and who asked
    /// for chunks counted it.
    #[test]
    fn what_comes_twice_and_what_is_asked_for_is_counted() {
        let mut wants = 0;
        for is_liar in [false, true] {
            let mut swarm = Swarm::new(&[8000; 15], &Links::Any);
            swarm.write(NodeId(0), 256, 65_536);
            if is_liar {
                swarm.make_liar(NodeId(4));
            }
            swarm.run(Duration::from_secs(6), |_| false);
            for id in [5, 8, 11, 14] {
                swarm.set_down(NodeId(id), true);
            }
            swarm.run(LONG, |swarm| swarm.all_have(256));
            let living = |id: &NodeId| ![5, 8, 11, 14].contains(&id.0);
            let counts = swarm.ids().into_iter().filter(living);
            let counts: Vec<_> = counts.map(|id| swarm.look(id).counts).collect();
            let twice: u64 = counts.iter().map(|counts| counts.twice_bytes).sum();
            assert!(twice <= swarm.twice());
            let pulled: u64 = counts.iter().map(|counts| counts.pulled_count).sum();
            assert_eq!(pulled > 0, swarm.wants > 0);
            wants += swarm.wants;
        }
        assert!(wants > 0, "nothing was asked for in either");
    }

    /// Content is only here until somebody holds all of it, and becomes less on the way.
    #[test]
    fn what_nobody_else_has_is_only_here() {
        let mut swarm = Swarm::new(&[8000; 4], &Links::Any);
        swarm.write(NodeId(0), 128, 65_536);
        let at_first = swarm.look(NodeId(0)).only_here;
        assert_eq!((at_first.changes_count, at_first.bytes), (1, 128 * CHUNK));
        swarm.run(Duration::from_secs(3), |_| false);
        let later = swarm.look(NodeId(0)).only_here;
        assert!(later.changes_count == 1 && (1..at_first.bytes).contains(&later.bytes));
        assert_eq!(swarm.look(NodeId(1)).only_here, OnlyHere::default());
        swarm.run(LONG, |swarm| swarm.all_have(128));
        let settled = swarm.now.0 + 5_000_000_000;
        swarm.run(Duration::from_nanos(settled), |_| false);
        assert_eq!(swarm.look(NodeId(0)).only_here, OnlyHere::default());
    }

    /// What a change will announce later is only here too; alone in a cluster there is nobody else.
    #[test]
    fn what_is_not_announced_yet_is_only_here() {
        let mut swarm = Swarm::new(&[8000; 2], &Links::Any);
        let request = RequestId([9; 16]);
        let core = swarm.core(NodeId(0));
        let (start, later) = (Instant::default(), Instant::default() + TRIED_AGAIN);
        core.holding(request, 1000, start);
        let only_here = core.look(later).only_here;
        assert_eq!((only_here.changes_count, only_here.bytes), (1, 1000));
        core.held(request, None, start);
        assert_eq!(core.look(start).only_here.bytes, 1000, "it is tried again");
        assert_eq!(core.look(later).only_here.bytes, 0, "it was given up");
        core.holding(request, 1000, later);
        core.held(request, Some(Holders::Relayed), later);
        assert_eq!(core.look(later).only_here, OnlyHere::default());
        let mut alone = Swarm::new(&[8000], &Links::Any);
        alone.core(NodeId(0)).holding(request, 1000, start);
        assert_eq!(alone.look(NodeId(0)).only_here, OnlyHere::default());
    }

    /// Others that were asked say that they hold it: the relay need not hear it too.
    #[test]
    fn what_others_were_asked_to_hold_is_not_only_here() {
        let mut swarm = Swarm::new(&[8000; 2], &Links::Any);
        let parcels = swarm.write(NodeId(0), 8, 65_536);
        let core = swarm.core(NodeId(0));
        let now = Instant::default();
        assert_eq!(core.look(now).only_here.changes_count, 1);
        core.held(parcels[0].request, Some(Holders::Asked), now);
        assert_eq!(core.look(now).only_here, OnlyHere::default());
    }
}
