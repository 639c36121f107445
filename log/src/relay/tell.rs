//! [pure] Who knows what: reports of chunks and holders, and who stands in for whom is gone.

use super::bits::Bits;
use super::live::{Heir, Live};
use super::message::Report;
use super::parcel::ParcelId;
use super::state::{ASK_FIRST, Action, Core, Key};
use super::{Layout, fold};
use aber_proto::{Instant, NodeId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Rings on which a node has two successors that it reports chunks to.
const RINGS: u64 = 4;
const RING_NEXT: usize = 2;

impl Core {
    /// A node says what it has of a parcel. `None`: the parcel is not known here.
    pub fn have(&mut self, from: NodeId, report: Report, now: Instant) -> Option<Vec<Action>> {
        let parcel = report.parcel;
        let live = self.find(parcel)?;
        let new = report.has.and(Bits::first(live.count()));
        live.note_report(from, &report);
        let mut actions = live.note_complete(from, now);
        live.sent = live.sent.or(new);
        if from == live.writer() {
            live.offered.get_or_insert(now);
        }
        for number in new.without(live.mine).iter() {
            live.seen.entry(number).or_insert(now);
        }
        for heir in live.heirs.values_mut() {
            if heir.node == from {
                heir.since = None;
            }
        }
        live.welcomed(from);
        self.mark_parcel(&parcel);
        actions.extend(self.pulls(now));
        Some(actions)
    }

    /// A node takes the place of a parent that is gone: one above it, or a sibling. Answers what is
    /// here; `None` if the parcel is not known.
    pub fn adopted(&mut self, from: NodeId, parcel: ParcelId, stripe: usize) -> Option<Report> {
        let live = self.find(parcel)?;
        if stripe < live.stripes.len() {
            live.adopters.insert(stripe, from);
        }
        live.told.insert(from, live.mine);
        Some(live.answer(from))
    }

    /// A chunk comes from `from` that was not asked for. Whoever is not to send any is told so.
    pub fn pushed_here(&mut self, from: NodeId, parcel: ParcelId) -> Option<Action> {
        let live = self.find(parcel).filter(|live| live.asks())?;
        live.told.insert(from, live.mine);
        Some(Action::Have {
            to: from,
            reports: vec![live.answer(from)],
        })
    }

    /// `to` does not know a parcel that it was told about.
    pub fn unknown_at(&mut self, to: NodeId, parcel: ParcelId, now: Instant) -> Vec<Action> {
        let announced = self.find(parcel).and_then(|live| live.announce(to, now));
        announced.into_iter().collect()
    }

    /// A node says who holds a parcel.
    pub fn holders(&mut self, parcel: ParcelId, nodes: &[NodeId], now: Instant) -> Vec<Action> {
        let layout = self.layout().cloned();
        let Some(live) = self.find(parcel) else {
            return Vec::new();
        };
        let is_member = |node: &NodeId| {
            let members = layout.as_ref().map(|layout| layout.members());
            members.is_none_or(|all| all.binary_search_by_key(node, |row| row.id).is_ok())
        };
        let all = Bits::first(live.count());
        for node in nodes.iter().copied().filter(is_member) {
            live.holders.insert(node);
            live.note_had(node, all);
            live.touched = now;
        }
        self.report(parcel, now)
    }

    /// A report of holders may not have arrived.
    pub fn report_failed(&mut self, to: NodeId, parcel: ParcelId, nodes: &[NodeId]) {
        if let Some(live) = self.find(parcel) {
            live.forget_report(to, nodes);
        }
    }

    pub(super) fn report(&mut self, parcel: ParcelId, now: Instant) -> Vec<Action> {
        let Some(key) = self.names.get(&parcel).copied() else {
            return Vec::new();
        };
        let Some(live) = self.live.get(&key) else {
            return Vec::new();
        };
        let to = live.reports_to(self.me, |node| self.is_alive(node));
        let news = to.zip(self.live.get_mut(&key)).and_then(|(to, live)| {
            let nodes = live.news_of_holders(to, now)?;
            Some(Action::Holders { to, parcel, nodes })
        });
        news.into_iter().collect()
    }

    /// Others live now than before.
    pub(super) fn came_and_went(&mut self, up: BTreeSet<NodeId>, now: Instant) -> Vec<Action> {
        let gone: Vec<NodeId> = self.up.difference(&up).copied().collect();
        let new: Vec<NodeId> = up.difference(&self.up).copied().collect();
        self.up = up;
        for node in &gone {
            self.windows.remove(node);
            self.laggards.forget(*node);
        }
        let mut actions = Vec::new();
        let keys: Vec<Key> = self.live.keys().copied().collect();
        for key in keys {
            let Some(mut live) = self.live.remove(&key) else {
                continue;
            };
            for node in &gone {
                live.flying.remove(node);
                live.pulls.retain(|_, (from, _)| from != node);
            }
            for node in &new {
                live.told.remove(node);
                live.forget_reports(*node);
                live.forget_announcing(*node);
                live.heirs.retain(|slot, _| slot.child != *node);
                live.asking.remove(node);
                live.told_asks.remove(node);
                live.came_back(self.me, *node);
                // It may have been told of nothing while it was away, and what it had stored and
                // not synced may be gone: it says what it has before it is sent anything.
                let hears = live.hearers(self.me, |node| self.is_alive(node));
                let is_fed = live.slots.iter().any(|slot| slot.child == *node);
                if !live.holders.contains(node) {
                    live.had.remove(node);
                }
                if is_fed || hears.contains(node) {
                    actions.extend(live.announce(*node, now));
                    live.not_before.insert(*node, now + ASK_FIRST);
                }
            }
            actions.extend(self.find_heirs(&mut live, now));
            self.live.insert(key, live);
            self.mark(key);
        }
        actions
    }

    /// Finds whom this node feeds in the place of who is gone.
    pub(super) fn adopt_orphans(&mut self, key: Key, now: Instant) -> Vec<Action> {
        let Some(mut live) = self.live.remove(&key) else {
            return Vec::new();
        };
        let actions = self.find_heirs(&mut live, now);
        self.live.insert(key, live);
        self.mark(key);
        actions
    }

    pub(super) fn find_heirs(&self, live: &mut Live, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        let is_alive = |node| self.is_alive(node);
        live.find_wards(self.me, is_alive);
        let orphaned = live.orphaned(is_alive);
        live.heirs.retain(|slot, _| orphaned.contains(slot));
        for slot in orphaned {
            let heir = live.heirs.get(&slot);
            if heir.is_some_and(|heir| is_alive(heir.node)) {
                continue;
            }
            let Some(node) = live.heir_of(slot, is_alive) else {
                live.heirs.remove(&slot);
                continue;
            };
            let since = Some(now);
            live.heirs.insert(slot, Heir { node, since });
            actions.push(Action::Adopt {
                to: node,
                parcel: live.announcement.id,
                stripe: slot.stripe,
            });
        }
        actions
    }

    pub(super) fn report_chunks(&mut self, now: Instant) -> Vec<Action> {
        let mut news: BTreeMap<NodeId, Vec<Report>> = BTreeMap::new();
        let keys: Vec<Key> = self.live.keys().copied().collect();
        for key in keys {
            let Some(live) = self.live.get_mut(&key) else {
                continue;
            };
            live.waits.look(live.mine, now);
            // A writer is silent until each chunk was sent once, so that it is asked for none.
            let all = Bits::first(live.count());
            if live.writer() == self.me && live.sent != all && live.asking.is_empty() {
                continue;
            }
            let hearers = self.hearers_of_chunks(key);
            let Some(live) = self.live.get_mut(&key) else {
                continue;
            };
            for to in hearers.iter().filter(|node| self.up.contains(node)) {
                let told = live.told.get(to).copied().unwrap_or_default();
                let new = live.mine.without(told);
                // Who asks says so even if it has nothing yet.
                let has_changed = live.asks() != live.told_asks.contains(to);
                if has_changed || !new.without(live.had_by(*to)).is_empty() {
                    let report = Report {
                        has: new,
                        ..live.to_report()
                    };
                    live.told.insert(*to, live.mine);
                    if live.asks() {
                        live.told_asks.insert(*to);
                    } else {
                        live.told_asks.remove(to);
                    }
                    news.entry(*to).or_default().push(report);
                }
            }
        }
        let tell = news.into_iter();
        tell.map(|(to, reports)| Action::Have { to, reports })
            .collect()
    }
}

impl Core {
    /// Whom this node tells what it has of a parcel.
    fn hearers_of_chunks(&self, key: Key) -> BTreeSet<NodeId> {
        let live = self.live.get(&key);
        let Some((live, way)) = live.and_then(|live| Some((live, live.way.as_ref()?))) else {
            return BTreeSet::new();
        };
        let mut hearers: BTreeSet<NodeId> = way.ring.iter().copied().collect();
        let is_alive = |node| self.is_alive(node);
        for stripe in 0..live.stripes.len() {
            let parent = way.trees.parent(stripe, self.me);
            let Some(parent) = parent else { continue };
            // Parents send what they do not know to be here.
            let lags = self.lags(live)(parent);
            if live.asks() || lags {
                hearers.insert(parent);
            }
            // And siblings ask one of them for what does not come.
            let is_quick = |node| is_alive(node) && !self.lags(live)(node);
            if lags && live.is_heir(self.me, stripe, is_quick) {
                hearers.extend(way.trees.children(stripe, parent));
            }
        }
        if !live.asks() {
            hearers.extend(&live.told_asks);
        }
        hearers.extend(live.kept_waiting(is_alive));
        hearers.remove(&self.me);
        hearers
    }
}

/// The two next members on each of four rings, or all neighbours where links are few.
pub(super) fn ring_of(layout: &Layout, me: NodeId) -> Arc<[NodeId]> {
    let ids: Vec<NodeId> = layout.members().iter().map(|row| row.id).collect();
    if layout.near().is_some() {
        let linked = ids.into_iter().filter(|node| layout.is_linked(me, *node));
        return linked.collect();
    }
    let mut ring = BTreeSet::new();
    for turn in 0..RINGS {
        let place = |node: &NodeId| (fold([layout.number(), turn, node.0]), *node);
        let mut order = ids.clone();
        order.sort_by_key(place);
        let at = order.iter().position(|node| *node == me).unwrap_or(0);
        let next = order.iter().cycle().skip(at + 1).take(RING_NEXT);
        ring.extend(next.copied().filter(|node| *node != me));
    }
    ring.into_iter().collect()
}
