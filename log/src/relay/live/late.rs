//! [pure] Parcels that others had before this node heard of them: it asks for all of them, and is sent
//! nothing unasked.

use super::super::bits::Bits;
use super::super::message::Report;
use super::super::push;
use super::super::state::{ASK_FIRST, Action};
use super::Live;
use aber_proto::{Instant, NodeId};
use std::collections::BTreeMap;
use std::time::Duration;

/// Who has all of a parcel so soon after this node heard of it had it before.
const LATE_WITHIN: Duration = Duration::from_secs(5);
/// Nothing came for so long though it is asked for.
const LATE_STALLED: Duration = Duration::from_secs(15);

impl Live {
    /// What others are told of it.
    pub(in super::super) fn to_report(&self) -> Report {
        Report {
            parcel: self.announcement.id,
            has: self.mine,
            asks: self.asks(),
        }
    }

    /// The same, as it is said to a node now.
    pub(in super::super) fn answer(&mut self, to: NodeId) -> Report {
        if self.asks() {
            self.told_asks.insert(to);
        }
        self.to_report()
    }

    /// What somebody says it has of it, and whether it asks for the rest.
    pub(in super::super) fn note_report(&mut self, from: NodeId, report: &Report) {
        self.note_had(from, report.has.and(Bits::first(self.count())));
        match report.asks {
            true => self.asking.insert(from),
            false => self.asking.remove(&from),
        };
    }

    /// Whether this node asks for what lacks, and is to be sent nothing unasked.
    pub(in super::super) fn asks(&self) -> bool {
        self.is_late && !self.is_complete()
    }

    /// Notes that somebody has all of it: if soon after this node heard of it, it comes late. Then all
    /// are told that it is asked for, and those whom this node would send it, and of whom nothing is
    /// known, are asked what they have.
    pub(in super::super) fn note_complete(&mut self, by: NodeId, now: Instant) -> Vec<Action> {
        let all = Bits::first(self.count());
        let is_all = by != self.writer() && self.had_by(by) == all;
        let lacks_most = self.mine.len() * 2 < self.count();
        let is_coming = self.was_fed || self.asked_in_vain || push::is_small(self);
        if self.is_late || is_coming {
            return Vec::new();
        }
        if !is_all || !lacks_most || now >= self.since + LATE_WITHIN {
            return Vec::new();
        }
        (self.is_late, self.arrived_at) = (true, now);
        self.told.clear();
        self.ask_children(now)
    }

    /// Where nobody but its writer has anything any more that lacks here, or nothing came for long, it is
    /// to come down the trees.
    pub(in super::super) fn give_up_asking(
        &mut self,
        is_alive: impl Fn(NodeId) -> bool,
        now: Instant,
    ) {
        if !self.asks() {
            return;
        }
        let writer = self.writer();
        let others = self.had.iter();
        let others = others.filter(|(node, _)| **node != writer && is_alive(**node));
        let there = others.fold(Bits::default(), |there, (_, had)| there.or(*had));
        let is_stalled = now >= self.arrived_at + LATE_STALLED;
        if is_stalled || there.and(self.missing()).is_empty() {
            (self.is_late, self.asked_in_vain) = (false, true);
            self.told.clear();
        }
    }

    /// A report did not arrive, as far as is known: it is made again.
    pub(in super::super) fn report_lost(&mut self, to: NodeId, asked: bool) {
        self.told.remove(&to);
        if asked {
            self.told_asks.remove(&to);
        } else if !self.asks() && self.asked_in_vain {
            // It may still hold back what it would send.
            self.told_asks.insert(to);
        }
    }

    /// Asks those whom this node would send it, and of whom nothing is known, what they have: they are
    /// sent nothing before they answer, or a moment has passed.
    pub(in super::super) fn ask_children(&mut self, now: Instant) -> Vec<Action> {
        let parcel = self.announcement.id;
        let slots = self.slots.iter();
        let unknown = slots.filter(|slot| self.had_by(slot.child).is_empty());
        let unknown: BTreeMap<NodeId, usize> = unknown.map(|s| (s.child, s.stripe)).collect();
        let ask = unknown.into_iter().map(|(to, stripe)| {
            self.not_before.insert(to, now + ASK_FIRST);
            Action::Adopt { to, parcel, stripe }
        });
        ask.collect()
    }
}
