//! [pure] What one node knows of one parcel on its way.

mod late;

use super::bits::Bits;
use super::laggard::Waits;
use super::parcel::Announcement;
use super::state::Action;
use super::{Trees, foster};
use aber_proto::{ChunkRef, Instant, NodeId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// The least that a chunk may be late before it is pulled.
const LAG_MIN: Duration = Duration::from_secs(10);
/// The same of a parcel that came late here.
const LAG_LATE: Duration = Duration::from_secs(2);
/// The most.
const LAG_MAX: Duration = Duration::from_secs(300);
/// Arrivals of a stripe that may be missing before one is late.
const LAG_ARRIVALS: u32 = 4;
/// Usual delays after which a chunk is late: where much is under way all of it takes long.
const LAG_DELAYS: u32 = 3;
/// How long an heir's report of what it has is waited for.
pub(super) const HEIR_TIME: Duration = Duration::from_secs(2);
/// Before somebody is sent again what it did not take, at first.
const AGAIN: Duration = Duration::from_millis(500);
/// How often that is doubled.
const AGAIN_DOUBLED: u32 = 7;
/// Between two announcements of a parcel to one node, at first.
const ANNOUNCE_AGAIN: Duration = Duration::from_secs(1);
/// How often that is doubled.
const ANNOUNCE_DOUBLED: u32 = 5;
/// Between two reports of holders to one node.
pub(super) const HOLDERS_EVERY: Duration = Duration::from_millis(500);

/// The trees of a parcel, and whom its chunks are reported to.
#[derive(Clone)]
pub(super) struct Way {
    /// Whether any node may link to any other.
    pub(super) is_free: bool,
    pub(super) trees: Arc<Trees>,
    pub(super) shallow: Arc<Trees>,
    pub(super) ring: Arc<[NodeId]>,
}

/// A child of this node in one stripe. When it is gone its heir is sent what it would have been.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Slot {
    pub(super) stripe: usize,
    pub(super) child: NodeId,
}

/// Who is sent what a child that is gone would be, or what a parent that is gone would send, and since
/// when its report is waited for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heir {
    pub(super) node: NodeId,
    pub(super) since: Option<Instant>,
}

/// When chunks of a stripe came.
#[derive(Clone, Copy, Default, Debug)]
struct Arrivals {
    count: u32,
    first: Option<Instant>,
    last: Option<Instant>,
}

impl Arrivals {
    fn mean(&self) -> Option<Duration> {
        let (first, last) = self.first.zip(self.last)?;
        let gaps = self.count.checked_sub(1).filter(|gaps| *gaps > 0)?;
        Some((last - first) / gaps)
    }
}

/// What was told to somebody about who holds the parcel.
#[derive(Default)]
struct ToldHolders {
    to: Option<NodeId>,
    nodes: BTreeSet<NodeId>,
    at: Option<Instant>,
}

/// One parcel.
pub(super) struct Live {
    pub(super) announcement: Arc<Announcement>,
    /// None: its layout is not known here, so nothing is sent unasked.
    pub(super) way: Option<Way>,
    /// The chunks of each stripe.
    pub(super) stripes: Vec<Bits>,
    pub(super) slots: Vec<Slot>,
    /// Siblings that this node feeds in stripes whose parent is gone.
    pub(super) wards: Vec<Slot>,
    /// What is here, verified.
    pub(super) mine: Bits,
    /// What others are known to have.
    pub(super) had: BTreeMap<NodeId, Bits>,
    /// What is on its way to them from here.
    pub(super) flying: BTreeMap<NodeId, Bits>,
    /// What was taken by somebody from here.
    pub(super) sent: Bits,
    /// What they were told is here.
    pub(super) told: BTreeMap<NodeId, Bits>,
    /// Nothing is sent to these before.
    pub(super) not_before: BTreeMap<NodeId, Instant>,
    /// How often in a row they did not take something.
    refusals: BTreeMap<NodeId, u32>,
    /// When they were last told of the parcel, and how often.
    announced: BTreeMap<NodeId, (Instant, u32)>,
    /// Nodes that have all of it, synced.
    pub(super) holders: BTreeSet<NodeId>,
    told_holders: ToldHolders,
    /// Whether a sync for it was asked for.
    pub(super) is_syncing: bool,
    /// Since when somebody is known to have a chunk that lacks here.
    pub(super) seen: BTreeMap<usize, Instant>,
    /// What has waited here for long.
    pub(super) waits: Waits,
    arrivals: Vec<Arrivals>,
    pub(super) adopters: BTreeMap<usize, NodeId>,
    pub(super) heirs: BTreeMap<Slot, Heir>,
    pub(super) pulls: BTreeMap<usize, (NodeId, Instant)>,
    /// When this node heard of it.
    since: Instant,
    /// When a chunk last came.
    arrived_at: Instant,
    /// Something came unasked: it is on its way.
    pub(super) was_fed: bool,
    /// It came late, and asking did not bring it: it is to come down the trees.
    asked_in_vain: bool,
    /// Others had all of it when this node heard of it: it asks for what lacks, of all who have it,
    /// and is sent nothing unasked. To do both would bring most of it twice.
    pub(super) is_late: bool,
    /// Who was told so, and is to be told once it is over.
    pub(super) told_asks: BTreeSet<NodeId>,
    /// The same of others: they are sent nothing.
    pub(super) asking: BTreeSet<NodeId>,
    /// Since when its writer offers to be asked.
    pub(super) offered: Option<Instant>,
    /// When something last happened to it.
    pub(super) touched: Instant,
}

impl Live {
    pub(super) fn new(
        announcement: Arc<Announcement>,
        way: Option<Way>,
        me: NodeId,
        mine: Bits,
        now: Instant,
    ) -> Self {
        let count = announcement.chunks.len();
        let mut live = Self {
            announcement,
            way: None,
            stripes: Vec::new(),
            slots: Vec::new(),
            wards: Vec::new(),
            mine: mine.and(Bits::first(count)),
            had: BTreeMap::new(),
            offered: None,
            flying: BTreeMap::new(),
            sent: Bits::default(),
            told: BTreeMap::new(),
            not_before: BTreeMap::new(),
            refusals: BTreeMap::new(),
            announced: BTreeMap::new(),
            holders: BTreeSet::new(),
            told_holders: ToldHolders::default(),
            is_syncing: false,
            seen: BTreeMap::new(),
            waits: Waits::default(),
            arrivals: Vec::new(),
            adopters: BTreeMap::new(),
            heirs: BTreeMap::new(),
            pulls: BTreeMap::new(),
            touched: now,
            since: now,
            arrived_at: now,
            was_fed: false,
            asked_in_vain: false,
            is_late: false,
            told_asks: BTreeSet::new(),
            asking: BTreeSet::new(),
        };
        live.set_way(way, me, now);
        live
    }

    /// Its trees are known, or not: from now on it goes down these. What is known of others stays.
    pub(super) fn set_way(&mut self, way: Option<Way>, me: NodeId, now: Instant) {
        let stripe_count = way.as_ref().map_or(1, |way| way.trees.stripes());
        self.slots.clear();
        if let Some(way) = &way {
            for stripe in 0..stripe_count {
                let children = way.trees.children(stripe, me);
                self.slots
                    .extend(children.map(|child| Slot { stripe, child }));
            }
        }
        let announcement = &self.announcement;
        self.stripes = announcement.id.stripes(&announcement.chunks, stripe_count);
        self.arrivals = vec![Arrivals::default(); stripe_count];
        self.adopters.clear();
        self.way = way;
        self.touched = now;
    }

    pub(super) fn count(&self) -> usize {
        self.announcement.chunks.len()
    }

    pub(super) fn writer(&self) -> NodeId {
        self.announcement.id.writer
    }

    pub(super) fn chunk(&self, number: usize) -> Option<ChunkRef> {
        self.announcement.chunks.get(number).copied()
    }

    pub(super) fn missing(&self) -> Bits {
        Bits::first(self.count()).without(self.mine)
    }

    pub(super) fn is_complete(&self) -> bool {
        self.missing().is_empty()
    }

    pub(super) fn had_by(&self, node: NodeId) -> Bits {
        self.had.get(&node).copied().unwrap_or_default()
    }

    pub(super) fn note_had(&mut self, node: NodeId, bits: Bits) {
        let had = self.had.entry(node).or_default();
        *had = had.or(bits);
    }

    /// Who is sent what now, in which stripe: the children, or who stands in for them, but for those who
    /// ask themselves.
    pub(super) fn outlets(&self, is_alive: impl Fn(NodeId) -> bool) -> impl Iterator<Item = Slot> {
        let all = self.places(is_alive);
        all.filter(|slot| !self.asking.contains(&slot.child))
    }

    /// Who is to get what from here, in which stripe, one way or the other.
    pub(super) fn places(&self, is_alive: impl Fn(NodeId) -> bool) -> impl Iterator<Item = Slot> {
        let own = self.slots.iter().map(|slot| (slot, true));
        let all = own.chain(self.wards.iter().map(|slot| (slot, false)));
        all.filter_map(move |(slot, is_own)| {
            if is_own && is_alive(slot.child) {
                return Some(*slot);
            }
            let heir = self.heirs.get(slot)?;
            let is_fed = heir.since.is_none() && is_alive(heir.node);
            is_fed.then_some(Slot {
                child: heir.node,
                ..*slot
            })
        })
    }

    /// Slots that somebody has to be found for: those of children that are gone, and all wards.
    pub(super) fn orphaned(&self, is_alive: impl Fn(NodeId) -> bool) -> Vec<Slot> {
        let own = self.slots.iter().filter(|slot| !is_alive(slot.child));
        own.chain(&self.wards).copied().collect()
    }

    /// Who takes a slot: the child if it lives, else its heir.
    pub(super) fn heir_of(&self, slot: Slot, is_alive: impl Fn(NodeId) -> bool) -> Option<NodeId> {
        if is_alive(slot.child) {
            return Some(slot.child);
        }
        let trees = &self.way.as_ref()?.trees;
        foster::heir(trees, slot.stripe, slot.child, is_alive)
    }

    /// Whom this node feeds in stripes whose parent is gone. Where links are few nobody knows who of
    /// them lives, and they ask instead.
    pub(super) fn find_wards(&mut self, me: NodeId, is_alive: impl Fn(NodeId) -> bool) {
        self.wards.clear();
        let Some(way) = self.way.as_ref().filter(|way| way.is_free) else {
            return;
        };
        for stripe in 0..self.stripes.len() {
            let parent = way.trees.parent(stripe, me);
            if let Some(gone) = parent.filter(|node| !is_alive(*node)) {
                let wards = foster::wards(&way.trees, stripe, gone, me, &is_alive);
                let slots = wards.into_iter().map(|child| Slot { stripe, child });
                self.wards.extend(slots);
            }
        }
    }

    /// What lacks at the other end of an outlet and can be sent there.
    pub(super) fn to_send(&self, outlet: Slot) -> Bits {
        let stripe = self.stripes.get(outlet.stripe).copied().unwrap_or_default();
        let flying = self.flying.get(&outlet.child).copied().unwrap_or_default();
        let there = self.had_by(outlet.child).or(flying);
        stripe.and(self.mine).without(there)
    }

    /// How many chunks are still to go there, those included that are not here yet.
    pub(super) fn left(&self, outlet: Slot) -> usize {
        let stripe = self.stripes.get(outlet.stripe).copied().unwrap_or_default();
        stripe.without(self.had_by(outlet.child)).len()
    }

    /// Whether this node is the one that takes the place of a stripe's parent that is gone.
    pub(super) fn is_heir(
        &self,
        me: NodeId,
        stripe: usize,
        is_alive: impl Fn(NodeId) -> bool,
    ) -> bool {
        let Some(way) = &self.way else { return false };
        let is_there = |node| node == me || is_alive(node);
        let parent = way.trees.parent(stripe, me);
        parent.and_then(|gone| foster::heir(&way.trees, stripe, gone, is_there)) == Some(me)
    }

    /// The node from which a stripe comes, if it lives.
    pub(super) fn parent(
        &self,
        me: NodeId,
        stripe: usize,
        is_alive: impl Fn(NodeId) -> bool,
    ) -> Option<NodeId> {
        let parent = self.way.as_ref()?.trees.parent(stripe, me);
        let adopter = self.adopters.get(&stripe).copied();
        [parent, adopter]
            .into_iter()
            .flatten()
            .find(|node| is_alive(*node))
    }

    /// A parent that was gone feeds this node again.
    pub(super) fn came_back(&mut self, me: NodeId, node: NodeId) {
        if let Some(trees) = self.way.as_ref().map(|way| &way.trees) {
            self.adopters
                .retain(|stripe, _| trees.parent(*stripe, me) != Some(node));
        }
    }

    /// The living children of the announcement tree; those of one that is gone take its place.
    pub(super) fn hearers(&self, me: NodeId, is_alive: impl Fn(NodeId) -> bool) -> Vec<NodeId> {
        let Some(way) = &self.way else {
            return Vec::new();
        };
        let mut open: VecDeque<NodeId> = way.shallow.children(0, me).collect();
        let mut hearers = Vec::new();
        while let Some(node) = open.pop_front() {
            if is_alive(node) {
                hearers.push(node);
            } else {
                open.extend(way.shallow.children(0, node));
            }
        }
        hearers
    }

    /// Whom holders are reported to: up the announcement tree, past who is gone.
    pub(super) fn reports_to(
        &self,
        me: NodeId,
        is_alive: impl Fn(NodeId) -> bool,
    ) -> Option<NodeId> {
        let writer = self.writer();
        let Some(way) = &self.way else {
            return Some(writer).filter(|writer| *writer != me && is_alive(*writer));
        };
        let mut node = me;
        loop {
            node = way.shallow.parent(0, node)?;
            if is_alive(node) {
                return Some(node);
            }
        }
    }

    /// Tells a node of the parcel, again if need be: it may not know the writer yet, and whoever is
    /// told all the time hears nothing else.
    pub(super) fn announce(&mut self, to: NodeId, now: Instant) -> Option<Action> {
        let (last, times) = self.announced.get(&to).copied().unwrap_or_default();
        let doubled = times.saturating_sub(1).min(ANNOUNCE_DOUBLED);
        if times > 0 && now < last + ANNOUNCE_AGAIN * (1 << doubled) {
            return None;
        }
        self.announced.insert(to, (now, times + 1));
        let announcement = Arc::clone(&self.announcement);
        Some(Action::Announce { to, announcement })
    }

    /// A node did not take what it was sent: it is left alone, longer each time. It may not know the
    /// writer yet, and what it is sent in vain keeps it from learning.
    pub(super) fn refused(&mut self, by: NodeId, now: Instant) {
        let times = self.refusals.entry(by).or_default();
        self.not_before.insert(by, now + AGAIN * (1 << *times));
        *times = (*times + 1).min(AGAIN_DOUBLED);
    }

    /// It takes things again.
    pub(super) fn welcomed(&mut self, by: NodeId) {
        self.refusals.remove(&by);
        self.not_before.remove(&by);
    }

    /// A node that comes back may have forgotten what it was told.
    pub(super) fn forget_announcing(&mut self, to: NodeId) {
        self.announced.remove(&to);
        self.welcomed(to);
    }

    /// What of the holders somebody was not told yet, unless it was told others a moment ago.
    pub(super) fn news_of_holders(&mut self, to: NodeId, now: Instant) -> Option<Vec<NodeId>> {
        let told = &mut self.told_holders;
        if told.to != Some(to) {
            *told = ToldHolders {
                to: Some(to),
                ..ToldHolders::default()
            };
        }
        if told.at.is_some_and(|at| now < at + HOLDERS_EVERY) {
            return None;
        }
        let news: Vec<_> = self.holders.difference(&told.nodes).copied().collect();
        if news.is_empty() {
            return None;
        }
        told.nodes.extend(news.iter().copied());
        told.at = Some(now);
        Some(news)
    }

    /// It is not known whether a report of holders arrived.
    pub(super) fn forget_report(&mut self, to: NodeId, nodes: &[NodeId]) {
        if self.told_holders.to == Some(to) {
            for node in nodes {
                self.told_holders.nodes.remove(node);
            }
        }
    }

    /// A node that comes back may have forgotten what it was told.
    pub(super) fn forget_reports(&mut self, to: NodeId) {
        if self.told_holders.to == Some(to) {
            self.told_holders = ToldHolders::default();
        }
    }

    pub(super) fn stripe_of(&self, number: usize) -> usize {
        let mut stripes = self.stripes.iter();
        stripes.position(|bits| bits.has(number)).unwrap_or(0)
    }

    pub(super) fn arrived(&mut self, number: usize, now: Instant) {
        self.arrived_at = now;
        let stripe = self.stripe_of(number);
        if let Some(arrivals) = self.arrivals.get_mut(stripe) {
            arrivals.count = arrivals.count.saturating_add(1);
            arrivals.first.get_or_insert(now);
            arrivals.last = Some(now);
        }
    }

    /// How long after others a chunk of a stripe may come before it counts as late.
    /// `delay` is what is usual here.
    pub(super) fn lag(&self, stripe: usize, delay: Duration) -> Duration {
        let mean = self.arrivals.get(stripe).and_then(Arrivals::mean);
        if self.is_late {
            return LAG_LATE;
        }
        let lag = mean.map_or(LAG_MIN, |mean| mean.saturating_mul(LAG_ARRIVALS));
        let usual = delay.saturating_mul(LAG_DELAYS);
        lag.max(usual).clamp(LAG_MIN, LAG_MAX)
    }
}
