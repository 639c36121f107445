//! [pure] Parcels become known here, and are told on.

use super::super::bits::Bits;
use super::super::live::{Live, Slot};
use super::super::message::Report;
use super::super::parcel::{Announcement, ParcelId};
use super::{Action, AnnounceProblem, Core, Key, PARCELS_OF_WRITER, if_complete};
use aber_proto::{Instant, NodeId, limit};
use std::collections::BTreeSet;
use std::sync::Arc;

impl Core {
    /// Announces a parcel of this node, all of whose chunks are here.
    ///
    /// # Errors
    /// [`AnnounceProblem`].
    pub fn offer(
        &mut self,
        announcement: Announcement,
        now: Instant,
    ) -> Result<Vec<Action>, AnnounceProblem> {
        let all = Bits::first(announcement.chunks.len());
        self.insert(announcement, all, false, now)
    }

    /// Another node tells of a parcel, of which `present` is here.
    ///
    /// # Errors
    /// [`AnnounceProblem`].
    pub fn announced(
        &mut self,
        announcement: Announcement,
        present: Bits,
        now: Instant,
    ) -> Result<Vec<Action>, AnnounceProblem> {
        self.insert(announcement, present, !present.is_empty(), now)
    }

    fn insert(
        &mut self,
        announcement: Announcement,
        mine: Bits,
        is_again: bool,
        now: Instant,
    ) -> Result<Vec<Action>, AnnounceProblem> {
        let id = announcement.id;
        if self.names.contains_key(&id) {
            return Ok(Vec::new());
        }
        let hashes: BTreeSet<_> = announcement.chunks.iter().map(|c| c.hash).collect();
        let count = announcement.chunks.len();
        if hashes.len() != count || count == 0 || count > limit::PARCEL_CHUNKS {
            return Err(AnnounceProblem::Malformed);
        }
        let unfinished = |live: &&Live| live.writer() == id.writer && !live.is_complete();
        let of_writer = self.live.values().filter(unfinished).count();
        if of_writer >= PARCELS_OF_WRITER || !self.make_room(count) {
            return Err(AnnounceProblem::Many);
        }
        let way = self.way_of(&id);
        self.count_offer(&announcement);
        let mut live = Live::new(Arc::new(announcement), way, self.me, mine, now);
        let mut actions = self.forward(&mut live, now);
        if is_again {
            actions.extend(live.ask_children(now));
        }
        actions.extend(self.find_heirs(&mut live, now));
        actions.extend(if_complete(&mut live));
        actions.extend(self.tell_present(&mut live));
        let key = self.next_key;
        self.next_key += 1;
        for (number, chunk) in live.announcement.chunks.iter().enumerate() {
            let parcels = self.by_hash.entry(chunk.hash).or_default();
            parcels.push((key, number));
        }
        self.names.insert(id, key);
        self.live.insert(key, live);
        self.mark(key);
        Ok(actions)
    }

    /// Who would send what is here already hears of it before it does.
    fn tell_present(&self, live: &mut Live) -> Vec<Action> {
        if live.mine.is_empty() || live.writer() == self.me {
            return Vec::new();
        }
        let me = self.me;
        let parents = (0..live.stripes.len())
            .filter_map(|stripe| live.parent(me, stripe, |node| self.is_alive(node)));
        let mut told: BTreeSet<NodeId> = parents.collect();
        if let Some(way) = &live.way {
            let ring = way.ring.iter().copied();
            told.extend(ring.filter(|node| self.is_alive(*node)));
        }
        let tell = told.into_iter().map(|to| {
            live.told.insert(to, live.mine);
            let reports = vec![live.to_report()];
            Action::Have { to, reports }
        });
        tell.collect()
    }

    fn forward(&self, live: &mut Live, now: Instant) -> Vec<Action> {
        let hearers = live.hearers(self.me, |node| self.is_alive(node));
        let announced = hearers.into_iter().map(|to| live.announce(to, now));
        announced.flatten().collect()
    }

    /// What `to` answered to an announcement; `None`: it did not, or did not take it. If this node is
    /// to feed it, it may not have understood that before.
    pub fn announced_to(
        &mut self,
        to: NodeId,
        parcel: ParcelId,
        answer: Option<Report>,
        now: Instant,
    ) -> Vec<Action> {
        let Some(live) = self.find(parcel) else {
            return Vec::new();
        };
        let mut actions = Vec::new();
        match answer {
            Some(report) => {
                live.note_report(to, &report);
                live.welcomed(to);
                // What was reported before was not heard.
                live.told.remove(&to);
                let fed = live.heirs.iter().filter(|(_, heir)| heir.node == to);
                actions.extend(fed.map(|(Slot { stripe, .. }, _)| Action::Adopt {
                    to,
                    parcel,
                    stripe: *stripe,
                }));
            }
            None => live.refused(to, now),
        }
        self.mark_parcel(&parcel);
        actions
    }

    /// A parcel under a layout that came only now.
    pub(super) fn find_way(&mut self, key: Key, now: Instant) -> Vec<Action> {
        let Some(mut live) = self.live.remove(&key) else {
            return Vec::new();
        };
        let way = self.way_of(&live.announcement.id);
        live.set_way(way, self.me, now);
        let mut actions = self.forward(&mut live, now);
        actions.extend(self.find_heirs(&mut live, now));
        self.live.insert(key, live);
        self.mark(key);
        actions
    }
}
