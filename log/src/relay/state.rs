//! [pure] One node's part in carrying parcels: who is sent what next, who is told, what is pulled.
//!
//! Nothing is queued: what a child lacks is what is here less what it is known to have, so a restart,
//! a duplicate and a child that comes back need no care of their own. Stripes carry, pulls repair: a
//! chunk is asked for only if its way is broken or it is late. Only what was verified is here, so only
//! that is sent (T9). Every table has a bound, and all of them are bounded by the parcels.

mod announce;
mod beat;
mod room;
mod sent;
mod way;

pub use sent::{Push, Taken};

use super::bits::Bits;
use super::count::{Counts, Wait};
use super::laggard::Laggards;
use super::live::{HEIR_TIME, Live};
use super::message::Report;
use super::parcel::{Announcement, ParcelId};
use super::pulse::Pulse;
use super::ready::Queues;
use super::{Layout, LayoutDigest, TreeCache};
use aber_proto::{ChunkHash, ChunkRef, Instant, NodeId, RequestId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// Layouts whose parcels may still be on their way.
const LAYOUTS: usize = 16;
/// Parcels that a writer may have unfinished here.
pub const PARCELS_OF_WRITER: usize = 64;
/// Without any progress for so long, whoever waits for a chunk may ask for it elsewhere.
const STUCK_AFTER: Duration = Duration::from_secs(20);
/// Bad chunks from one node after which nothing more is taken from it.
const STRIKES: u32 = 3;
/// Before a repeated announcement's chunks are sent: who has some of them says so first.
pub(super) const ASK_FIRST: Duration = Duration::from_secs(2);
/// Between reports of chunks.
const HAVE_EVERY: Duration = Duration::from_secs(1);

/// The name of a parcel among those that are live here; never used twice.
pub type Key = u64;

/// Something to be done for the relay.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Tell `to` of a parcel; its answer goes to [`Core::announced_to`].
    Announce {
        /// Whom.
        to: NodeId,
        /// What.
        announcement: Arc<Announcement>,
    },
    /// Tell `to` what is here; what it says it does not know goes to [`Core::unknown_at`].
    Have {
        /// Whom.
        to: NodeId,
        /// Of which parcels which chunks.
        reports: Vec<Report>,
    },
    /// Ask `to` to take this node for its parent in a stripe; what it has goes to [`Core::have`].
    Adopt {
        /// Whom.
        to: NodeId,
        /// Of which parcel.
        parcel: ParcelId,
        /// In which stripe.
        stripe: usize,
    },
    /// Tell `to` who holds all of a parcel; if it fails, [`Core::report_failed`].
    Holders {
        /// Whom.
        to: NodeId,
        /// Of which parcel.
        parcel: ParcelId,
        /// Who is new among them.
        nodes: Vec<NodeId>,
    },
    /// Ask `to` for a sign of life; if there is one, [`Core::heard`].
    Beacon {
        /// Whom.
        to: NodeId,
    },
    /// Sync the store, then call [`Core::synced`].
    Sync {
        /// For which parcel.
        parcel: ParcelId,
    },
    /// Ask `from` for chunks, then call [`Core::pulled`].
    Pull {
        /// Whom.
        from: NodeId,
        /// Which.
        chunks: Vec<(ParcelId, usize, ChunkRef)>,
        /// Whether their way is broken, so that they are as urgent as what is sent.
        is_orphan: bool,
    },
}

/// Why an announcement is not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AnnounceProblem {
    /// A writer has [`PARCELS_OF_WRITER`] unfinished ones here, or all writers too many.
    #[error("too many parcels are on their way")]
    Many,
    /// No chunks, too many, or one twice.
    #[error("the announcement is malformed")]
    Malformed,
}

/// Messages with chunks on their way to one node, and the bytes of these.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Window {
    pub(super) messages: usize,
    pub(super) bytes: u64,
}

/// The relay of one node.
pub struct Core {
    pub(super) me: NodeId,
    layouts: VecDeque<Arc<Layout>>,
    cache: TreeCache,
    rings: BTreeMap<LayoutDigest, Arc<[NodeId]>>,
    /// To whom a link is up; those of them that are not silent live.
    links: BTreeSet<NodeId>,
    pulse: Pulse,
    pub(super) up: BTreeSet<NodeId>,
    strikes: BTreeMap<NodeId, u32>,
    /// Who is not asked for chunks, until when.
    pub(super) resting: BTreeMap<NodeId, Instant>,
    /// Somebody counts as gone since the last tick.
    is_orphaned: bool,
    pub(super) live: BTreeMap<Key, Live>,
    pub(super) names: BTreeMap<ParcelId, Key>,
    pub(super) by_hash: BTreeMap<ChunkHash, Vec<(Key, usize)>>,
    /// Of which of them something may be to be sent.
    pub(super) ready: Queues,
    /// How many of them were looked at for something to send.
    #[cfg(test)]
    pub(super) looked_at: u64,
    next_key: Key,
    pub(super) windows: BTreeMap<NodeId, Window>,
    pub(super) window_bytes: u64,
    /// Bytes sent for each writer that has something to send, for fairness.
    pub(super) served: BTreeMap<NodeId, u64>,
    /// Chunks sent in all; every fourth of a writer is of its oldest parcel.
    pub(super) turns: u64,
    have_at: Instant,
    pub(super) laggards: Laggards,
    pub(super) counts: Counts,
    /// Changes of this node that wait until others hold them; at most those of the outbox.
    pub(super) holding: BTreeMap<RequestId, Wait>,
    /// Changes of this node whose content others were asked to hold, and do.
    pub(super) held_elsewhere: BTreeSet<RequestId>,
}

impl Core {
    /// A relay that knows no layout and reaches nobody.
    #[must_use]
    pub fn new(me: NodeId) -> Self {
        Self {
            me,
            layouts: VecDeque::new(),
            cache: TreeCache::default(),
            rings: BTreeMap::new(),
            links: BTreeSet::new(),
            pulse: Pulse::default(),
            up: BTreeSet::new(),
            strikes: BTreeMap::new(),
            resting: BTreeMap::new(),
            is_orphaned: false,
            live: BTreeMap::new(),
            names: BTreeMap::new(),
            by_hash: BTreeMap::new(),
            ready: Queues::default(),
            #[cfg(test)]
            looked_at: 0,
            next_key: 0,
            windows: BTreeMap::new(),
            window_bytes: u64::MAX,
            served: BTreeMap::new(),
            turns: 0,
            have_at: Instant::default(),
            laggards: Laggards::default(),
            counts: Counts::default(),
            holding: BTreeMap::new(),
            held_elsewhere: BTreeSet::new(),
        }
    }

    /// The newest layout; parcels are announced under it from now on. The former ones stay for theirs.
    pub fn set_layout(&mut self, layout: Layout, now: Instant) -> Vec<Action> {
        let digest = layout.digest();
        if self
            .layout()
            .is_some_and(|newest| newest.digest() == digest)
        {
            return Vec::new();
        }
        self.layouts.retain(|known| known.digest() != digest);
        self.layouts.push_back(Arc::new(layout));
        while self.layouts.len() > LAYOUTS {
            if let Some(old) = self.layouts.pop_front() {
                self.rings.remove(&old.digest());
            }
        }
        // Who misbehaved under the former one may have been mended.
        self.strikes.clear();
        let waiting = self.live.iter();
        let waiting = waiting.filter(|(_, live)| live.way.is_none());
        let waiting: Vec<Key> = waiting
            .filter(|(_, live)| live.announcement.id.layout == digest)
            .map(|(key, _)| *key)
            .collect();
        let mut actions = Vec::new();
        for key in waiting {
            actions.extend(self.find_way(key, now));
        }
        self.mark_all();
        actions
    }

    /// The newest layout.
    #[must_use]
    pub fn layout(&self) -> Option<&Arc<Layout>> {
        self.layouts.back()
    }

    /// How many bytes may be on their way to one node; two chunks always may.
    pub fn set_window(&mut self, bytes: u64) {
        self.window_bytes = bytes;
    }

    pub(super) fn is_alive(&self, node: NodeId) -> bool {
        self.up.contains(&node) && !self.is_blamed(node)
    }

    /// Whether nothing is taken from a node, since it sent what is not what it says.
    #[must_use]
    pub fn is_blamed(&self, node: NodeId) -> bool {
        let strikes = self.strikes.get(&node);
        strikes.is_some_and(|strikes| *strikes >= STRIKES)
    }

    /// All of whom that is so.
    pub(super) fn blamed(&self) -> Vec<NodeId> {
        let all = self.strikes.keys().copied();
        all.filter(|node| self.is_blamed(*node)).collect()
    }

    /// A node sent a chunk that is not what its hash says.
    pub fn strike(&mut self, node: NodeId) {
        let strikes = self.strikes.entry(node).or_default();
        *strikes += 1;
        self.counts.bad_count += 1;
        self.is_orphaned |= *strikes == STRIKES;
    }

    pub(super) fn find(&mut self, parcel: ParcelId) -> Option<&mut Live> {
        let key = self.names.get(&parcel)?;
        self.live.get_mut(key)
    }

    /// A chunk is here now, verified; `from` is who sent it.
    pub fn stored(&mut self, hash: ChunkHash, from: Option<NodeId>, now: Instant) -> Vec<Action> {
        let (mut actions, mut was_asked, me) = (Vec::new(), false, self.me);
        if from.is_some() {
            self.count_received(&hash);
        }
        for (key, number) in self.by_hash.get(&hash).cloned().unwrap_or_default() {
            let Some(live) = self.live.get_mut(&key) else {
                continue;
            };
            if let Some(from) = from {
                live.note_had(from, [number].into_iter().collect());
            }
            if live.mine.has(number) {
                continue;
            }
            live.mine.add(number);
            live.touched = now;
            live.arrived(number, now);
            let seen = live.seen.remove(&number);
            if live.pulls.remove(&number).is_some() {
                was_asked = true;
            } else {
                live.was_fed |= from.is_some();
                // Who sends unasked what a parent would took its place, though this node was not told.
                let (up, stripe) = (&self.up, live.stripe_of(number));
                if live.parent(me, stripe, |node| up.contains(&node)).is_none() {
                    live.adopters.extend(from.map(|from| (stripe, from)));
                }
                if let Some(from) = from {
                    let delay = seen.map_or(Duration::ZERO, |seen| now - seen);
                    self.laggards.came(from, delay);
                }
            }
            actions.extend(if_complete(live));
            self.mark(key);
        }
        if was_asked {
            actions.extend(self.pulls(now));
        }
        actions
    }

    /// What became of the chunks that [`Core::next_push`] said to send, in their order; of those beyond
    /// the end of `taken` nothing is known.
    pub fn pushed(&mut self, push: &Push, taken: &[Taken], now: Instant) -> Vec<Action> {
        if let Some(window) = self.windows.get_mut(&push.to) {
            window.messages = window.messages.saturating_sub(1);
            window.bytes = window.bytes.saturating_sub(push.bytes());
        }
        let taken = taken
            .iter()
            .copied()
            .chain(std::iter::repeat(Taken::Failed));
        let outcomes: Vec<_> = push.chunks.iter().zip(taken).collect();
        for ((_, chunk), taken) in &outcomes {
            self.count_push(&push.parcel, *chunk, *taken);
        }
        let Some(live) = self.find(push.parcel) else {
            return Vec::new();
        };
        let all: Bits = push.chunks.iter().map(|(number, _)| *number).collect();
        if let Some(flying) = live.flying.get_mut(&push.to) {
            *flying = flying.without(all);
        }
        let mut refusal = None;
        for ((number, _), taken) in outcomes {
            match taken {
                Taken::Stored | Taken::Had => {
                    live.touched = now;
                    live.note_had(push.to, [*number].into_iter().collect());
                    live.sent.add(*number);
                    live.welcomed(push.to);
                }
                // It takes nothing more from here, and gets it elsewhere.
                Taken::Bad => live.note_had(push.to, [*number].into_iter().collect()),
                Taken::Unknown | Taken::Failed => refusal = Some(taken),
            }
        }
        if refusal.is_some() {
            live.refused(push.to, now);
        }
        let announced = match refusal {
            Some(Taken::Unknown) => live.announce(push.to, now),
            _ => None,
        };
        self.mark_parcel(&push.parcel);
        announced.into_iter().collect()
    }

    /// The store was synced after a parcel was complete.
    pub fn synced(&mut self, parcel: ParcelId, now: Instant) -> Vec<Action> {
        let me = self.me;
        let Some(live) = self.find(parcel) else {
            return Vec::new();
        };
        live.holders.insert(me);
        self.report(parcel, now)
    }

    /// The store could not be synced: it is asked for again.
    pub fn sync_failed(&mut self, parcel: ParcelId) {
        if let Some(live) = self.find(parcel) {
            live.is_syncing = false;
        }
    }

    /// What is due: reports, pulls, what is to be forgotten. Call it twice a second while
    /// [`Core::is_busy`].
    pub fn tick(&mut self, now: Instant) -> Vec<Action> {
        let mut actions = self.beat(now);
        let ids: Vec<ParcelId> = self.names.keys().copied().collect();
        for id in ids {
            actions.extend(self.report(id, now));
        }
        let mut unheard = Vec::new();
        for (key, live) in &mut self.live {
            for heir in live.heirs.values_mut() {
                if heir.since.is_some_and(|since| now >= since + HEIR_TIME) {
                    heir.since = None;
                    unheard.push(*key);
                }
            }
            actions.extend(if_complete(live));
        }
        for key in unheard {
            self.mark(key);
        }
        self.find_laggards(now);
        if std::mem::take(&mut self.is_orphaned) {
            let keys: Vec<Key> = self.live.keys().copied().collect();
            for key in keys {
                actions.extend(self.adopt_orphans(key, now));
            }
        }
        if now >= self.have_at + HAVE_EVERY {
            self.have_at = now;
            let up = self.up.iter().copied();
            let alive: BTreeSet<NodeId> = up.filter(|node| !self.is_blamed(*node)).collect();
            for live in self.live.values_mut() {
                live.give_up_asking(|node| alive.contains(&node), now);
            }
            actions.extend(self.report_chunks(now));
        }
        actions.extend(self.pulls(now));
        self.forget(now);
        actions
    }

    /// Whether there is anything that [`Core::tick`] may have to do.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        !self.live.is_empty()
    }

    /// Who holds all of a parcel, as far as is known here; `None` if it is not live.
    #[must_use]
    pub fn holders_of(&self, parcel: &ParcelId) -> Option<&BTreeSet<NodeId>> {
        let key = self.names.get(parcel)?;
        self.live.get(key).map(|live| &live.holders)
    }

    /// A chunk of a parcel, by its number; `None` if the parcel is not live or has fewer.
    #[must_use]
    pub fn chunk_of(&self, parcel: &ParcelId, number: usize) -> Option<ChunkRef> {
        let key = self.names.get(parcel)?;
        self.live.get(key)?.chunk(number)
    }

    /// What of a parcel is here; `None` if it is not live.
    #[must_use]
    pub fn mine_of(&self, parcel: &ParcelId) -> Option<Bits> {
        let key = self.names.get(parcel)?;
        self.live.get(key).map(|live| live.mine)
    }

    /// What is answered to a node that tells of a parcel; `None` if it is not live.
    pub(super) fn answer_to(&mut self, to: NodeId, parcel: &ParcelId) -> Option<Report> {
        self.find(*parcel).map(|live| live.answer(to))
    }

    /// Reports to a node may not have arrived.
    pub(super) fn reports_lost(&mut self, to: NodeId, reports: &[Report]) {
        for report in reports {
            if let Some(live) = self.find(report.parcel) {
                live.report_lost(to, report.asks);
            }
        }
    }

    /// What is known of a parcel here; `None` if it is not live.
    pub(super) fn report_of(&self, parcel: &ParcelId) -> Option<Report> {
        let key = self.names.get(parcel)?;
        self.live.get(key).map(Live::to_report)
    }

    /// Whether each chunk of a parcel was taken by somebody; also if it is not live.
    #[must_use]
    pub fn is_sent(&self, parcel: &ParcelId) -> bool {
        let live = self.names.get(parcel).and_then(|key| self.live.get(key));
        live.is_none_or(|live| live.sent == Bits::first(live.count()))
    }

    /// How many of a parcel's chunks were taken by somebody.
    #[must_use]
    pub fn sent_of(&self, parcel: &ParcelId) -> usize {
        let live = self.names.get(parcel).and_then(|key| self.live.get(key));
        live.map_or(0, |live| live.sent.len())
    }

    /// Whether a chunk is on its way here by itself, so that nobody need ask for it.
    #[must_use]
    pub fn expects(&self, hash: &ChunkHash, now: Instant) -> bool {
        let parcels = self.by_hash.get(hash).into_iter().flatten();
        let mut live = parcels.filter_map(|(key, number)| {
            let live = self.live.get(key)?;
            (!live.mine.has(*number)).then_some(live)
        });
        live.any(|live| live.way.is_some() && now < live.touched + STUCK_AFTER)
    }
}

/// Asks for a sync once all of a parcel is here. A body is durable in the log, and nobody waits until
/// others hold it.
fn if_complete(live: &mut Live) -> Option<Action> {
    if live.is_syncing || !live.is_complete() || live.announcement.id.is_body() {
        return None;
    }
    live.is_syncing = true;
    let parcel = live.announcement.id;
    Some(Action::Sync { parcel })
}

#[cfg(test)]
mod tests;
