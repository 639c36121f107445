//! [pure] Stripes where any node may link to any other: nearly interior-disjoint trees.
//!
//! Each node gets a budget of children, all stripes together, in proportion to its uplink. The level is the
//! load that all carry alike; the largest one whose budgets suffice is the lightest. Small nodes spend
//! their budget in one stripe, so that a failure costs one; big ones work in all. A fast writer,
//! once every stripe has its root, spends what it has left as a relay does.

use super::hash::{ONE, fold};
use super::layout::Layout;
use super::table::{PerNode, Position};
use super::trees::{Branches, fill};
use std::cmp::Reverse;

/// Most children of a node in one stripe, as a mean over the stripes: bounds its connections.
const CHILDREN_MAX: u64 = 64;

/// One stripe while budgets are spent on it.
struct Open {
    tag: u64,
    tie: u64,
    /// Nodes whose parent still has to be found a slot.
    left: u64,
    root_slots: u64,
    degree: PerNode<u64>,
}

/// What budgets are computed from.
struct Supply {
    stripes: u64,
    /// Slots that receivers and a fast writer have to offer together.
    need: u64,
    /// The writer's uplink beyond the rate at which it feeds the stripes, in kbit/s.
    spare_kbit: u64,
    /// Uplinks of the receivers, in kbit/s.
    ups: Vec<u64>,
    /// The fastest uplink, the writer's included.
    fastest_kbit: u64,
}

impl Supply {
    /// For at least one receiver.
    fn new(ups: &PerNode<u64>, writer: Position, receivers: &[Position], stripes: u64) -> Self {
        let receiving: Vec<u64> = receivers.iter().map(|node| ups[*node]).collect();
        let count = receiving.len() as u64;
        assert!(count > 0, "the rate is a share of each receiver");
        let own = ups[writer];
        let rate = own.min((own + receiving.iter().sum::<u64>()) / count);
        Self {
            stripes,
            need: stripes * (count - 1),
            spare_kbit: own - rate,
            fastest_kbit: receiving.iter().copied().fold(own, u64::max),
            ups: receiving,
        }
    }

    /// Children that an uplink can feed, all stripes together.
    fn budget(&self, up_kbit: u64, level: u64) -> u64 {
        (up_kbit * self.stripes * ONE / level).min(CHILDREN_MAX * self.stripes)
    }

    /// Children that the writer can feed beside one a stripe.
    fn spare(&self, level: u64) -> u64 {
        self.spare_kbit * self.stripes * ONE / level
    }

    fn suffices(&self, level: u64) -> bool {
        let budgets = self.ups.iter().map(|up| self.budget(*up, level));
        self.spare(level) + budgets.sum::<u64>() >= self.need
    }

    /// The largest level that suffices, else 1. Slots only get fewer with it, and above the
    /// highest that is tried nobody has any.
    fn level(&self) -> u64 {
        let (mut low, mut high) = (1, self.fastest_kbit.max(1) * self.stripes * ONE);
        while low < high {
            let middle = low + (high - low).div_ceil(2);
            if self.suffices(middle) {
                low = middle;
            } else {
                high = middle - 1;
            }
        }
        low
    }
}

/// Trees from `writer` over `receivers`, which are sorted and without it.
pub(super) fn striped(
    layout: &Layout,
    writer: Position,
    receivers: &[Position],
    stripes: usize,
) -> Vec<Branches> {
    let (ups, words) = (layout.ups(), layout.words());
    let seed = fold([layout.number(), words[writer]]);
    let k = stripes as u64;
    let Some(others) = (receivers.len() as u64).checked_sub(1) else {
        let empty = || fill(writer, 0, Vec::new(), &PerNode::filled(layout.len(), 0));
        return (0..stripes).map(|_| empty()).collect();
    };
    let supply = Supply::new(&ups, writer, receivers, k);
    let level = supply.level();
    let mut open: Vec<Open> = (0..k)
        .map(|tag| Open {
            tag,
            tie: fold([seed, tag]),
            left: others,
            root_slots: 1,
            degree: PerNode::filled(layout.len(), 0),
        })
        .collect();
    let spare = supply.spare(level).min(supply.need);
    for stripe in &mut open {
        // Dealt in turn: the first stripes get one more where it does not come out even.
        let more = (spare + k - 1 - stripe.tag) / k;
        stripe.root_slots += more;
        stripe.left -= more;
    }
    let mut order: Vec<_> = receivers
        .iter()
        .map(|node| {
            let budget = supply.budget(ups[*node], level);
            (Reverse(budget), fold([seed, words[*node]]), *node)
        })
        .collect();
    order.sort_unstable();
    for (Reverse(budget), _, node) in order {
        spend(&mut open, node, budget);
    }
    let tree = |stripe: Open| {
        let hash = |node: Position| fold([seed, stripe.tag, words[node]]);
        let mut order = receivers.to_vec();
        order.sort_by_cached_key(|node| (Reverse(stripe.degree[*node]), hash(*node), *node));
        fill(writer, stripe.root_slots, order, &stripe.degree)
    };
    open.into_iter().map(tree).collect()
}

/// Spends a node's budget where most is open: all of it in one stripe, or a share in each.
fn spend(stripes: &mut [Open], node: Position, budget: u64) {
    let k = stripes.len() as u64;
    let share = if budget > 2 * k {
        budget.div_ceil(k)
    } else {
        budget
    };
    let mut left = budget;
    while left > 0 {
        let unused = stripes
            .iter_mut()
            .filter(|stripe| stripe.degree[node] == 0 && stripe.left > 0);
        let Some(stripe) = unused.max_by_key(|stripe| (stripe.left, stripe.tie)) else {
            return;
        };
        let taken = share.min(left).min(stripe.left);
        stripe.degree[node] = taken;
        stripe.left -= taken;
        left -= taken;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::layout::Links;
    use crate::relay::testing;

    /// T3: nobody has more children than its budget, which is the smallest that suffices.
    #[test]
    fn budgets_are_kept_and_no_larger_than_needed() {
        let mut few = vec![0; 9];
        few[4] = 300;
        let all = [
            vec![1000; 8],
            testing::mixed(50),
            testing::straggler(50),
            few,
        ];
        for (ups, writer) in all.iter().flat_map(|ups| [(ups, 0), (ups, 3)]) {
            let layout = testing::layout(ups, &Links::Any);
            let writer = Position::new(writer);
            let everybody = Position::all(layout.len());
            let receivers: Vec<Position> = everybody.filter(|node| *node != writer).collect();
            let stripes = layout.stripes();
            let supply = Supply::new(&layout.ups(), writer, &receivers, stripes as u64);
            let level = supply.level();
            assert!(supply.suffices(level) && !supply.suffices(level + 1));
            let trees = striped(&layout, writer, &receivers, stripes);
            for &node in &receivers {
                let parents = trees.iter().flat_map(|tree| tree.parent.iter());
                let found = parents.filter(|(_, parent)| **parent == Some(node)).count();
                let budget = supply.budget(layout.ups()[node], level);
                assert!(
                    found as u64 <= budget,
                    "{found} of {budget}: {node:?} of {ups:?}"
                );
            }
        }
    }
}
