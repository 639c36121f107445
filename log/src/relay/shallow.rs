//! [pure] The shallow tree where any node may link to any other: few steps, few bytes.
//!
//! Entries go down the one whose root is the leader, announcements down the writer's. A node has four
//! children if its uplink is the median's, more or fewer in proportion; fast nodes stand near the root.

use super::hash::{fold, median};
use super::layout::Layout;
use super::table::{PerNode, Position};
use super::trees::{Branches, fill};
use std::cmp::Reverse;

/// Children of a node whose uplink is the median's.
const DEGREE: u64 = 4;
/// Most children of a node.
const DEGREE_MAX: u64 = 16;

/// One tree from `root` over all members.
pub(super) fn shallow(layout: &Layout, root: Position) -> Branches {
    let (ups, words) = (layout.ups(), layout.words());
    let seed = fold([layout.number(), words[root]]);
    let middle = median(ups.iter().map(|(_, up)| *up));
    let slots = PerNode::collect(ups.iter().map(|(_, up)| match up {
        0 => 0,
        up => (DEGREE * up / middle).clamp(1, DEGREE_MAX),
    }));
    let mut order: Vec<Position> = Position::all(layout.len())
        .filter(|node| *node != root)
        .collect();
    order.sort_by_cached_key(|node| (Reverse(slots[*node]), fold([seed, words[*node]]), *node));
    fill(root, slots[root], order, &slots)
}
