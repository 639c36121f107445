//! [pure] Who stands in for a node that is gone, in one stripe.
//!
//! Everybody computes it alone, from the tree and from who lives: the parent of the one that is gone
//! feeds the child of it that has least to do, and the children feed each other, each new one from the
//! one with least to do. So what one line carried is carried by many, or by one that was idle.

use super::Trees;
use aber_proto::NodeId;
use std::cmp::Reverse;
use std::collections::VecDeque;

/// Who takes the place of `gone`: of its living children the one with least to do, else one of those
/// below its children, by depth.
pub(super) fn heir(
    trees: &Trees,
    stripe: usize,
    gone: NodeId,
    is_alive: impl Fn(NodeId) -> bool,
) -> Option<NodeId> {
    let mut open = VecDeque::from([gone]);
    while let Some(node) = open.pop_front() {
        let children = trees.children(stripe, node);
        let living = children.filter(|child| is_alive(*child));
        if let Some(heir) = living.min_by_key(|child| load(trees, *child, 1)) {
            return Some(heir);
        }
        open.extend(trees.children(stripe, node));
    }
    None
}

/// Whom `me`, a child of `gone`, feeds of its siblings; one that is gone as well stands for its
/// [`heir`]. The living are `me` and those who `is_alive`.
pub(super) fn wards(
    trees: &Trees,
    stripe: usize,
    gone: NodeId,
    me: NodeId,
    is_alive: impl Fn(NodeId) -> bool,
) -> Vec<NodeId> {
    let is_there = |node: NodeId| node == me || is_alive(node);
    let siblings = trees.children(stripe, gone);
    let (mut living, lost): (Vec<_>, Vec<_>) = siblings.partition(|node| is_there(*node));
    living.sort_by_key(|node| load(trees, *node, 1));
    let lost = lost
        .into_iter()
        .filter(|node| heir(trees, stripe, *node, is_there).is_some());
    // Those who are fed, and of how many more.
    let mut fed: Vec<(NodeId, u64)> = Vec::new();
    let mut mine = Vec::new();
    let orphans = living.iter().map(|node| (*node, true));
    for (node, feeds) in orphans.chain(lost.map(|node| (node, false))) {
        let feeder = fed
            .iter_mut()
            .min_by_key(|(feeder, more)| load(trees, *feeder, *more + 1));
        if let Some((feeder, more)) = feeder {
            *more += 1;
            mine.extend((*feeder == me).then_some(node));
        }
        if feeds {
            fed.push((node, 0));
        }
    }
    mine
}

/// What a node has to send of all stripes together with `more` children than the trees give it, against
/// what its line carries; those with none come last. Any order will do that everybody has.
fn load(trees: &Trees, node: NodeId, more: u64) -> (Reverse<bool>, u64, NodeId) {
    let children: usize = (0..trees.stripes())
        .map(|stripe| trees.children(stripe, node).count())
        .sum();
    let up = trees.up_kbit(node);
    let times = (children as u64 + more).saturating_mul(1 << 32);
    (Reverse(up > 0), times / up.max(1), node)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{all, layout, mixed};
    use super::super::{Links, content_trees};
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};

    /// Whoever is gone, each living node of each stripe is fed by one living node and none feeds itself,
    /// except where a writer's only child lost its heirs.
    #[test]
    fn each_orphan_has_one_who_feeds_it_and_no_ring_is_made() {
        for (ups, gone) in [
            (vec![1000; 16], vec![2]),
            (vec![1000; 16], vec![3, 4, 9]),
            (vec![1000; 16], (8..16).collect()),
            (mixed(50), vec![3, 8, 13, 20]),
        ] {
            let layout = layout(&ups, &Links::Any);
            let trees = content_trees(&layout, NodeId(0), &all(&layout)).expect("trees");
            let gone: BTreeSet<NodeId> = gone.into_iter().map(NodeId).collect();
            let is_alive = |node: NodeId| !gone.contains(&node);
            let living: Vec<NodeId> = all(&layout).into_iter().filter(|n| is_alive(*n)).collect();
            for stripe in 0..trees.stripes() {
                let mut feeder: BTreeMap<NodeId, NodeId> = BTreeMap::new();
                for me in &living {
                    let others = |node: NodeId| node != *me && is_alive(node);
                    let own: Vec<NodeId> = trees.children(stripe, *me).collect();
                    let parent = trees.parent(stripe, *me).filter(|node| !is_alive(*node));
                    let more = parent.map(|gone| wards(&trees, stripe, gone, *me, others));
                    for child in own.into_iter().chain(more.unwrap_or_default()) {
                        let child = match is_alive(child) {
                            true => Some(child),
                            false => heir(&trees, stripe, child, others),
                        };
                        let Some(child) = child else { continue };
                        assert_ne!(child, *me);
                        let twice = feeder.insert(child, *me);
                        assert_eq!(twice, None, "{child} is fed twice in {stripe}");
                    }
                }
                for node in &living {
                    let way = std::iter::successors(Some(*node), |node| feeder.get(node).copied());
                    let end = way.take(living.len() + 1).last();
                    assert_eq!(end, Some(NodeId(0)), "{node} in {stripe}");
                }
            }
        }
    }

    /// Nobody's part grows by more than a child or two, or one that was idle takes all.
    #[test]
    fn what_is_lost_is_shared_by_who_has_least_to_do() {
        let layout = layout(&[1000; 16], &Links::Any);
        let trees = content_trees(&layout, NodeId(0), &all(&layout)).expect("trees");
        let children = |node| {
            (0..8)
                .map(|s| trees.children(s, node).count())
                .sum::<usize>()
        };
        for gone in (1..16).map(NodeId) {
            for stripe in 0..8 {
                for me in trees.children(stripe, gone).collect::<Vec<_>>() {
                    let more = wards(&trees, stripe, gone, me, |node| node != gone).len();
                    let most = children(me) + more;
                    assert!(more == 0 || most <= 9, "{me} feeds {most} without {gone}");
                }
            }
        }
    }
}
