//! [pure] Signs of life, asked for while something is on its way.

use super::super::live::Live;
use super::{Action, Core};
use aber_proto::{Instant, NodeId};
use std::collections::BTreeSet;
use std::time::Duration;

/// A parcel of which nothing moved for so long waits for somebody who is away: no beacons for it.
const WATCHED_FOR: Duration = Duration::from_secs(120);

impl Core {
    /// The nodes to which a link is up now.
    pub fn set_up(&mut self, links: BTreeSet<NodeId>, now: Instant) -> Vec<Action> {
        self.links = links;
        self.count_up(now)
    }

    /// Something came from a node: it lives.
    pub fn heard(&mut self, from: NodeId, now: Instant) -> Vec<Action> {
        match self.pulse.heard(from, now) {
            true => self.count_up(now),
            false => Vec::new(),
        }
    }

    /// Asks for signs of life, and takes those who give none for gone.
    pub(super) fn beat(&mut self, now: Instant) -> Vec<Action> {
        let watched = self.watched(now);
        let asked = self.pulse.beat(&watched, &self.links, now);
        let mut actions = self.count_up(now);
        actions.extend(asked.into_iter().map(|to| Action::Beacon { to }));
        actions
    }

    fn count_up(&mut self, now: Instant) -> Vec<Action> {
        let links = self.links.iter().copied();
        let up: BTreeSet<NodeId> = links.filter(|node| !self.pulse.is_silent(*node)).collect();
        match up == self.up {
            true => Vec::new(),
            false => self.came_and_went(up, now),
        }
    }

    /// Those from whom something is to come, and to whom something is to go.
    fn watched(&self, now: Instant) -> BTreeSet<NodeId> {
        let mut watched = BTreeSet::new();
        let all = self.live.values();
        for live in all.filter(|live| now < live.touched + WATCHED_FOR) {
            let mut outlets = live.outlets(|node| self.is_alive(node));
            if live.is_complete() && outlets.all(|outlet| live.left(outlet) == 0) {
                continue;
            }
            watched.extend(live.slots.iter().map(|slot| slot.child));
            watched.extend(self.feeders(live));
            watched.extend(live.pulls.values().map(|(from, _)| *from));
        }
        watched.remove(&self.me);
        watched
    }

    fn feeders(&self, live: &Live) -> Vec<NodeId> {
        let Some(way) = live.way.as_ref().filter(|_| !live.is_complete()) else {
            return Vec::new();
        };
        let parents = (0..live.stripes.len()).filter_map(|at| way.trees.parent(at, self.me));
        let adopters = live.adopters.values().copied();
        parents.chain(adopters).collect()
    }
}
