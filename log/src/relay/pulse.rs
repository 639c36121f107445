//! [pure] Who is silent although a link to it seems to be up.
//!
//! A line that was cut says nothing: a connection takes half a minute to notice. While something is on its
//! way between two nodes each asks the other for a sign of life when it heard nothing for a second;
//! who gives none for four counts as gone. To be wrong costs a few chunks twice.

use aber_proto::{Instant, NodeId};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Who was not heard for so long is asked for a sign of life, and again each time.
const BEACON_EVERY: Duration = Duration::from_secs(1);
/// Who gives none for so long counts as gone.
const SILENT_AFTER: Duration = Duration::from_secs(4);
/// After so long without a look this node may have been asleep itself: nothing counts.
const ASLEEP: Duration = Duration::from_secs(2);

#[derive(Clone, Copy)]
struct Neighbour {
    heard: Instant,
    /// When it was first asked since it was heard.
    asked_first: Option<Instant>,
    asked_last: Option<Instant>,
    is_silent: bool,
}

/// What is heard of those with whom something is on its way.
#[derive(Default)]
pub(super) struct Pulse {
    neighbours: BTreeMap<NodeId, Neighbour>,
    looked: Instant,
}

impl Pulse {
    /// Something came from a node. Answers whether it counted as gone.
    pub(super) fn heard(&mut self, node: NodeId, now: Instant) -> bool {
        let Some(neighbour) = self.neighbours.get_mut(&node) else {
            return false;
        };
        let was_silent = neighbour.is_silent;
        *neighbour = Neighbour::heard_at(now);
        was_silent
    }

    /// Looks after those with whom something is on its way: whom to ask for a sign of life. Who is
    /// silent stays among them until it is heard, or no link to it is up.
    pub(super) fn beat(
        &mut self,
        watched: &BTreeSet<NodeId>,
        links: &BTreeSet<NodeId>,
        now: Instant,
    ) -> Vec<NodeId> {
        let was_asleep = now >= self.looked + ASLEEP;
        self.looked = now;
        self.neighbours.retain(|node, neighbour| {
            links.contains(node) && (neighbour.is_silent || watched.contains(node))
        });
        for node in watched.intersection(links) {
            let new = Neighbour::heard_at(now);
            self.neighbours.entry(*node).or_insert(new);
        }
        let mut asked = Vec::new();
        for (node, neighbour) in &mut self.neighbours {
            if was_asleep && !neighbour.is_silent {
                *neighbour = Neighbour::heard_at(now);
            }
            let is_over = |at: Instant, time| now >= at + time;
            let last = neighbour.asked_last.unwrap_or(neighbour.heard);
            if is_over(last, BEACON_EVERY) {
                neighbour.asked_first.get_or_insert(now);
                neighbour.asked_last = Some(now);
                asked.push(*node);
            }
            let first = neighbour.asked_first;
            neighbour.is_silent |= first.is_some_and(|at| is_over(at, SILENT_AFTER));
        }
        asked
    }

    /// Whether a node counts as gone.
    pub(super) fn is_silent(&self, node: NodeId) -> bool {
        let neighbour = self.neighbours.get(&node);
        neighbour.is_some_and(|neighbour| neighbour.is_silent)
    }
}

impl Neighbour {
    fn heard_at(now: Instant) -> Self {
        Self {
            heard: now,
            asked_first: None,
            asked_last: None,
            is_silent: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(nodes: &[u64]) -> BTreeSet<NodeId> {
        nodes.iter().copied().map(NodeId).collect()
    }

    /// Half seconds, as the relay looks.
    fn at(halves: u64) -> Instant {
        Instant(halves * 500_000_000)
    }

    #[test]
    fn who_is_silent_counts_as_gone_and_who_is_heard_is_back() {
        let mut pulse = Pulse::default();
        let (both, mut asked) = (set(&[1, 2]), BTreeMap::<NodeId, usize>::new());
        for half in 10..20 {
            for node in pulse.beat(&both, &both, at(half)) {
                *asked.entry(node).or_default() += 1;
            }
            assert!(!pulse.heard(NodeId(1), at(half)));
            assert!(!pulse.is_silent(NodeId(2)), "{half}");
        }
        assert_eq!(asked, [(NodeId(2), 4)].into(), "who speaks is not asked");
        pulse.beat(&both, &both, at(20));
        assert!(pulse.is_silent(NodeId(2)) && !pulse.is_silent(NodeId(1)));
        pulse.beat(&set(&[]), &both, at(21));
        assert!(pulse.is_silent(NodeId(2)), "it is not forgotten");
        assert!(pulse.heard(NodeId(2), at(22)));
        assert!(!pulse.is_silent(NodeId(2)));
    }

    #[test]
    fn neither_a_link_that_broke_nor_ones_own_sleep_makes_silence() {
        let mut pulse = Pulse::default();
        let both = set(&[1, 2]);
        pulse.beat(&both, &both, at(10));
        pulse.beat(&both, &both, at(12));
        pulse.beat(&both, &both, at(100));
        assert!(!pulse.is_silent(NodeId(1)), "this node slept");
        for half in 101..112 {
            pulse.beat(&both, &both, at(half));
        }
        assert!(pulse.is_silent(NodeId(1)));
        pulse.beat(&both, &set(&[2]), at(112));
        assert!(!pulse.is_silent(NodeId(1)), "the link is known to be down");
    }
}
