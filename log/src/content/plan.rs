//! [pure] Which missing chunks are asked of which node, and in which portions.
//!
//! Different chunks are asked of all neighbours at once, each node in an order of its own, so that those
//! who come late together get different parts and serve each other. Who has what is not known: a node
//! that lacks a chunk says so at once, and is asked again later. A portion is what a node answers in
//! about a second, so that a slow uplink answers in time and a fast one is never idle.

use crate::relay::fold;
use aber_proto::{ChunkHash, ChunkRef, Instant, NodeId, limit};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Chunks that may wait to be asked for.
const WANTED: usize = 65_536;
/// Portions on their way from one node: the next is asked for while one comes.
const OPEN_EACH: usize = 2;
/// Of the chunks that can be asked for now, the first so many are chosen from.
const WINDOW: usize = 1024;
/// Bytes of a portion from a node of which nothing is known.
const FIRST_BYTES: u64 = 64 * 1024;
/// Least and greatest bytes of a portion; one chunk may always come.
const LEAST_BYTES: u64 = 32 * 1024;
const MOST_BYTES: u64 = 1024 * 1024;
/// What a portion shall take.
const PORTION_MS: u64 = 1000;
/// A chunk that did not come for so long is asked for elsewhere as well. Sooner it may wait behind content
/// that is more urgent, and to ask for it twice makes that worse.
const LATE: Duration = Duration::from_secs(40);
/// A node that failed is left alone for so long.
const REST: Duration = Duration::from_secs(2);
/// A node that lacked a chunk is asked for it again after this time, then after twice that, and so on.
const AGAIN: Duration = Duration::from_secs(1);
/// How often that is doubled.
const DOUBLED: u32 = 5;
/// Least part of what is asked for that a node is thought to have, in thousandths.
const LEAST_SHARE: u64 = 250;

/// Chunks to be asked of a node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Portion {
    /// Its number, for [`Plan::answered`].
    pub(super) id: u64,
    /// Whom.
    pub(super) peer: NodeId,
    /// For what.
    pub(super) chunks: Vec<ChunkRef>,
}

struct Wish {
    chunk: ChunkRef,
    /// Since when it is asked for.
    asked: Option<Instant>,
    /// It is not asked for before.
    not_before: Instant,
    /// Who lacked it, until when that counts, and how often.
    lacked: BTreeMap<NodeId, (Instant, u32)>,
}

struct Asked {
    peer: NodeId,
    at: Instant,
    wishes: Vec<u64>,
}

#[derive(Clone, Copy)]
struct Peer {
    /// Bytes of one portion in a second, as the last ones came.
    bytes_per_s: Option<u64>,
    /// Which part of what it is asked for it has, in thousandths.
    share: u64,
    rests_until: Instant,
}

impl Peer {
    const NEW: Self = Self {
        bytes_per_s: None,
        share: 1000,
        rests_until: Instant(0),
    };

    fn portion_bytes(&self) -> u64 {
        let rate = self.bytes_per_s;
        let bytes = rate.map_or(FIRST_BYTES, |rate| rate.saturating_mul(PORTION_MS) / 1000);
        bytes.clamp(LEAST_BYTES, MOST_BYTES) * 1000 / self.share.max(LEAST_SHARE)
    }
}

/// What lacks here, and who was asked for it.
pub(super) struct Plan {
    me: NodeId,
    wishes: BTreeMap<u64, Wish>,
    names: BTreeMap<ChunkHash, u64>,
    asked: BTreeMap<u64, Asked>,
    peers: BTreeMap<NodeId, Peer>,
    next: u64,
}

impl Plan {
    /// Nothing lacks.
    pub(super) fn new(me: NodeId) -> Self {
        Self {
            me,
            wishes: BTreeMap::new(),
            names: BTreeMap::new(),
            asked: BTreeMap::new(),
            peers: BTreeMap::new(),
            next: 0,
        }
    }

    /// These lack, and are asked for from a time on. What does not fit is left out: reading fetches too.
    pub(super) fn want(&mut self, chunks: &[ChunkRef], not_before: Instant) {
        for chunk in chunks {
            if self.wishes.len() >= WANTED || self.names.contains_key(&chunk.hash) {
                continue;
            }
            let wish = Wish {
                chunk: *chunk,
                asked: None,
                not_before,
                lacked: BTreeMap::new(),
            };
            self.names.insert(chunk.hash, self.next);
            self.wishes.insert(self.next, wish);
            self.next += 1;
        }
    }

    /// Whether nothing lacks.
    pub(super) fn is_empty(&self) -> bool {
        self.wishes.is_empty()
    }

    /// A chunk is here, or nobody wants it any more.
    pub(super) fn have(&mut self, hash: &ChunkHash) {
        if let Some(name) = self.names.remove(hash) {
            self.wishes.remove(&name);
        }
    }

    /// A chunk may come by itself: it is not asked for before.
    pub(super) fn put_off(&mut self, hash: &ChunkHash, until: Instant) {
        let wish = self
            .names
            .get(hash)
            .and_then(|name| self.wishes.get_mut(name));
        if let Some(wish) = wish {
            wish.not_before = until;
        }
    }

    /// What is asked for next, of one of those that can be reached; `None` until something is answered
    /// or time passes.
    pub(super) fn next(&mut self, up: &BTreeSet<NodeId>, now: Instant) -> Option<Portion> {
        self.peers.retain(|peer, _| up.contains(peer));
        let mut open: BTreeMap<NodeId, usize> = BTreeMap::new();
        for asked in self.asked.values() {
            *open.entry(asked.peer).or_default() += 1;
        }
        let open = |peer: &NodeId| open.get(peer).copied().unwrap_or(0);
        let is_free = |peer: &&NodeId| {
            let rests = self
                .peers
                .get(peer)
                .is_some_and(|peer| now < peer.rests_until);
            open(peer) < OPEN_EACH && !rests
        };
        let mut free: Vec<NodeId> = up.iter().filter(is_free).copied().collect();
        free.sort_by_key(|peer| (open(peer), fold([self.me.0, peer.0, self.next])));
        let (peer, wishes) = free.into_iter().find_map(|peer| {
            let wishes = self.choose(peer, now);
            (!wishes.is_empty()).then_some((peer, wishes))
        })?;
        let mut chunks = Vec::new();
        for name in &wishes {
            if let Some(wish) = self.wishes.get_mut(name) {
                wish.asked = Some(now);
                chunks.push(wish.chunk);
            }
        }
        let id = self.next;
        self.next += 1;
        let at = now;
        self.asked.insert(id, Asked { peer, at, wishes });
        Some(Portion { id, peer, chunks })
    }

    fn choose(&self, peer: NodeId, now: Instant) -> Vec<u64> {
        let can_be_asked = |wish: &Wish| {
            let is_open = wish.asked.is_some_and(|at| now < at + LATE);
            let lacks = wish
                .lacked
                .get(&peer)
                .is_some_and(|(until, _)| now < *until);
            !is_open && !lacks && now >= wish.not_before
        };
        let wishes = self.wishes.iter().filter(|(_, wish)| can_be_asked(wish));
        let mut window: Vec<(u64, &Wish)> =
            wishes.take(WINDOW).map(|(n, wish)| (*n, wish)).collect();
        // What was asked for in vain comes last.
        window.sort_by_key(|(name, wish)| (wish.asked, fold([self.me.0, *name])));
        let known = self.peers.get(&peer).copied().unwrap_or(Peer::NEW);
        let (most, mut bytes) = (known.portion_bytes(), 0);
        let mut chosen = Vec::new();
        for (name, wish) in window {
            bytes += u64::from(wish.chunk.length);
            if !chosen.is_empty() && (bytes > most || chosen.len() >= limit::PARCEL_CHUNKS) {
                break;
            }
            chosen.push(name);
        }
        chosen
    }

    /// A portion was answered: these came, and these the node lacks. What is in neither did not fit the
    /// answer.
    pub(super) fn answered(
        &mut self,
        id: u64,
        got: &[ChunkRef],
        lacking: &BTreeSet<ChunkHash>,
        now: Instant,
    ) {
        let Some(Asked { peer, at, wishes }) = self.asked.remove(&id) else {
            return;
        };
        let known = self.peers.entry(peer).or_insert(Peer::NEW);
        let bytes: u64 = got.iter().map(|chunk| u64::from(chunk.length)).sum();
        if !got.is_empty() {
            let ms = u64::try_from((now - at).as_millis()).unwrap_or(u64::MAX);
            let rate = bytes.saturating_mul(1000) / ms.max(1);
            let before = known.bytes_per_s.unwrap_or(rate);
            known.bytes_per_s = Some((before + rate) / 2);
        }
        let told = (got.len() + lacking.len()) as u64;
        if let Some(share) = (got.len() as u64 * 1000).checked_div(told) {
            known.share = (known.share + share) / 2;
        }
        self.release(&wishes, at);
        for chunk in got {
            self.have(&chunk.hash);
        }
        for name in wishes {
            let Some(wish) = self.wishes.get_mut(&name) else {
                continue;
            };
            if lacking.contains(&wish.chunk.hash) {
                let (until, times) = wish.lacked.entry(peer).or_default();
                *until = now + AGAIN * (1 << *times);
                *times = (*times + 1).min(DOUBLED);
            }
        }
    }

    /// A portion was not answered.
    pub(super) fn failed(&mut self, id: u64, now: Instant) {
        let Some(Asked { peer, at, wishes }) = self.asked.remove(&id) else {
            return;
        };
        let known = self.peers.entry(peer).or_insert(Peer::NEW);
        known.rests_until = now + REST;
        known.bytes_per_s = known.bytes_per_s.map(|rate| rate / 2);
        self.release(&wishes, at);
    }

    fn release(&mut self, wishes: &[u64], at: Instant) {
        for name in wishes {
            let wish = self.wishes.get_mut(name);
            // Somebody else may have been asked since.
            if let Some(wish) = wish.filter(|wish| wish.asked == Some(at)) {
                wish.asked = None;
            }
        }
    }
}

#[cfg(test)]
mod tests;
