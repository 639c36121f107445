//! [pure] Whom to follow: the parent in the log tree, those above it, voters, anybody.
//!
//! Members that do not vote follow each other in a tree from the leader, so that nobody's line
//! grows with the cluster. The tree is a preference, no promise: whoever hears from a voter can be
//! followed, since nothing is believed on its word. Who lags behind what others have is left.

use aber_proto::{Instant, NodeId, limit};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Whoever had nothing of what another had for so long is left.
const LAG: Duration = Duration::from_secs(2);

/// The nodes that can be asked, the best first: `parents` from the nearest to the leader, then
/// `voters`, then who may vote, then the others, each by number. Only those that are `up` count.
pub(super) fn ranked(
    parents: &[NodeId],
    voters: &[NodeId],
    up: &[NodeId],
    may_vote: impl Fn(NodeId) -> bool,
) -> Vec<NodeId> {
    let is_up: BTreeSet<NodeId> = up.iter().copied().collect();
    let (may, others): (Vec<NodeId>, Vec<NodeId>) = is_up.iter().partition(|node| may_vote(**node));
    let mut voters = voters.to_vec();
    voters.sort_unstable();
    let mut seen = BTreeSet::new();
    let all = [parents, &voters, &may, &others].concat().into_iter();
    all.filter(|node| is_up.contains(node) && seen.insert(*node))
        .collect()
}

/// Whom to ask after `peer` was asked in vain, and whether all were.
pub(super) fn next_after(ranked: &[NodeId], peer: NodeId) -> (Option<NodeId>, bool) {
    let at = ranked.iter().position(|node| *node == peer);
    let next = at.and_then(|at| ranked.get(at + 1));
    // One that is not among them any more: begin with the best.
    let is_round = at.is_some() && next.is_none();
    (next.or(ranked.first()).copied(), is_round)
}

#[derive(Clone, Copy, Debug)]
struct Position {
    index: u64,
    at: Instant,
}

/// What a node said last, and before that: all are asked in rounds, so what is older than the last
/// word of another is the word before.
#[derive(Clone, Copy, Debug)]
struct Words {
    last: Position,
    before: Option<Position>,
}

/// How far others said they are, of one partition. They may lie: then nodes are left that need not
/// be, and nothing else.
#[derive(Clone, Default, Debug)]
pub(crate) struct Positions {
    by_node: BTreeMap<NodeId, Words>,
}

impl Positions {
    /// Notes what `node` said at `at`: the index of the last committed entry it knows.
    pub(crate) fn put(&mut self, node: NodeId, index: u64, at: Instant) {
        let before = self.by_node.get(&node).map(|words| words.last);
        if before.is_some() || self.by_node.len() < limit::MEMBERS {
            let last = Position { index, at };
            self.by_node.insert(node, Words { last, before });
        }
    }

    /// Whether `upstream` still lacked what somebody else had [`LAG`] before, and what is not here.
    pub(super) fn lags(&self, upstream: NodeId, here: Option<u64>) -> bool {
        let Some(own) = self.by_node.get(&upstream).map(|words| words.last) else {
            return false;
        };
        let is_ahead = |other: Position| {
            let is_new = here.is_none_or(|here| other.index > here);
            other.index > own.index && is_new && own.at >= other.at + LAG
        };
        let mut others = self.by_node.values();
        others.any(|words| is_ahead(words.last) || words.before.is_some_and(is_ahead))
    }

    /// Forgets all: those who are followed from now on have time to get there.
    pub(super) fn clear(&mut self) {
        self.by_node.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(numbers: &[u64]) -> Vec<NodeId> {
        numbers.iter().copied().map(NodeId).collect()
    }

    #[test]
    fn parents_come_first_then_voters_then_who_may_vote() {
        let (parents, voters) = (nodes(&[7, 3]), nodes(&[5, 3]));
        let may_vote = |node: NodeId| node.0 < 6;
        let order = |up: &[u64]| ranked(&parents, &voters, &nodes(up), may_vote);
        let all = order(&[1, 2, 3, 5, 6, 7, 9]);
        assert_eq!(all, nodes(&[7, 3, 5, 1, 2, 6, 9]));
        assert_eq!(order(&[9, 2]), nodes(&[2, 9]));
        assert_eq!(order(&[]), []);
    }

    #[test]
    fn all_are_asked_in_turn() {
        let all = nodes(&[7, 3, 5]);
        let next = |peer: u64| next_after(&all, NodeId(peer));
        assert_eq!(next(7), (Some(NodeId(3)), false));
        assert_eq!(next(5), (Some(NodeId(7)), true));
        assert_eq!(next(99), (Some(NodeId(7)), false));
        assert_eq!(next_after(&[], NodeId(1)), (None, false));
    }

    #[test]
    fn who_lacks_for_two_seconds_what_others_have_lags() {
        let at = |ms: u64| Instant(ms * 1_000_000);
        let (me, other) = (NodeId(1), NodeId(2));
        let table = [
            // index and time of the upstream, of another, and what is here
            (10, 5000, 10, 0, 10, false),
            (10, 5000, 11, 4000, 10, false),
            (10, 5000, 11, 3000, 10, true),
            (10, 5000, 11, 3000, 11, false),
            (11, 5000, 11, 3000, 10, false),
            (10, 2999, 11, 3000, 10, false),
        ];
        for (index, now, others, then, here, lags) in table {
            let mut positions = Positions::default();
            positions.put(me, index, at(now));
            positions.put(other, others, at(then));
            assert_eq!(
                positions.lags(me, Some(here)),
                lags,
                "{index} {others} {here}"
            );
            assert!(!positions.lags(NodeId(3), None), "nothing is known of it");
            // The order in which all are asked does not matter.
            positions.put(other, others, at(now));
            assert_eq!(
                positions.lags(me, Some(here)),
                lags,
                "{index} {others} {here}"
            );
            positions.clear();
            assert!(!positions.lags(me, None));
        }
    }
}
