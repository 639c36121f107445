//! [pure] The result: trees with one root, one a stripe, and how one is filled.
//!
//! Two bytes a parent, two a child and two where its children begin: the trees of 5,000 members in
//! 16 stripes take half a megabyte. A depth is counted when it is asked for.

use super::hash::fold;
use super::layout::{Layout, Row, position};
use super::table::{PerNode, Position};
use aber_proto::NodeId;
use std::collections::VecDeque;
use std::sync::Arc;

/// What a digest has for a node without a parent.
const NO_PARENT: u64 = 0xFFFF_FFFF;

/// One tree while it is made: parents, and the nodes in an order in which each parent's children
/// stand as they shall be served.
pub(super) struct Branches {
    pub(super) parent: PerNode<Option<Position>>,
    pub(super) order: Vec<Position>,
}

/// Hangs `order` under `root`, breadth first: each next node takes the earliest slot that is open.
/// Where none is (rounding, or nobody has an uplink) the root takes it.
pub(super) fn fill(
    root: Position,
    root_slots: u64,
    order: Vec<Position>,
    slots: &PerNode<u64>,
) -> Branches {
    let mut parent = PerNode::filled(slots.len(), None);
    let mut open = VecDeque::from([(root, root_slots)]);
    for &node in &order {
        while open.front().is_some_and(|(_, left)| *left == 0) {
            open.pop_front();
        }
        let mut under = root;
        if let Some((first, left)) = open.front_mut() {
            under = *first;
            *left -= 1;
        }
        parent[node] = Some(under);
        open.push_back((node, slots[node]));
    }
    Branches { parent, order }
}

/// The tree of one stripe.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Stripe {
    parent: PerNode<Option<Position>>,
    /// Where each node's children begin; they end where those of the next begin.
    first: PerNode<u16>,
    children: Box<[Position]>,
}

impl Stripe {
    fn new(branches: Branches) -> Self {
        let Branches { parent, mut order } = branches;
        // Stable: children of one parent keep their order.
        order.sort_by_key(|node| parent[*node]);
        let mut rest = order.iter().peekable();
        let mut begun = 0_u16;
        let first = parent.iter().map(|(node, _)| {
            let here = begun;
            while rest
                .next_if(|child| parent[**child] == Some(node))
                .is_some()
            {
                begun += 1;
            }
            here
        });
        let first = PerNode::collect(first);
        assert!(rest.next().is_none(), "every ordered node has a parent");
        Self {
            parent,
            first,
            children: order.into(),
        }
    }

    fn children(&self, node: Position) -> &[Position] {
        let from = usize::from(self.first[node]);
        let next = self.first.next(node);
        let to = next.map_or(self.children.len(), |next| usize::from(*next));
        self.children.get(from..to).unwrap_or_default()
    }
}

/// Trees from one root, one a stripe, over the members of one layout.
///
/// A member may be in no tree: it does not want the content, or no link leads to it. Questions about
/// it, or about somebody who is no member, are answered as for a leaf without a parent.
///
/// # Panics
/// Methods that take a stripe panic from [`Trees::stripes`] on: take it from [`super::stripe_of`],
/// and check one that another node named.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Trees {
    rows: Arc<[Row]>,
    root: Position,
    stripes: Vec<Stripe>,
    digest: u64,
}

impl Trees {
    pub(super) fn new(layout: &Layout, root: Position, trees: Vec<Branches>) -> Self {
        let stripes: Vec<Stripe> = trees.into_iter().map(Stripe::new).collect();
        let words = layout.words();
        let parents = stripes.iter().flat_map(|stripe| stripe.parent.iter());
        let digest = fold(parents.map(|(_, parent)| parent.map_or(NO_PARENT, |p| words[p])));
        Self {
            rows: Arc::clone(layout.rows()),
            root,
            stripes,
            digest,
        }
    }

    /// The node that all trees grow from: the writer, or a leader.
    #[must_use]
    pub fn root(&self) -> NodeId {
        self.id(self.root)
    }

    /// What the line of a node carries, in kbit/s; 0 of one that passes nothing on, or is no member.
    pub(super) fn up_kbit(&self, node: NodeId) -> u64 {
        let row = self.position(node).and_then(|at| self.rows.get(at.index()));
        row.map_or(0, |row| row.up_kbit * u64::from(row.relay_ok))
    }

    /// How many trees there are.
    #[must_use]
    pub fn stripes(&self) -> usize {
        self.stripes.len()
    }

    /// From whom `node` gets the stripe. None for the root, and for who is not in the tree.
    #[must_use]
    pub fn parent(&self, stripe: usize, node: NodeId) -> Option<NodeId> {
        let tree = self.tree(stripe);
        Some(self.id(tree.parent[self.position(node)?]?))
    }

    /// To whom `node` sends the stripe, in tree order.
    pub fn children(
        &self,
        stripe: usize,
        node: NodeId,
    ) -> impl ExactSizeIterator<Item = NodeId> + '_ {
        let tree = self.tree(stripe);
        let found = self.position(node).map(|at| tree.children(at));
        found
            .unwrap_or_default()
            .iter()
            .map(|child| self.id(*child))
    }

    /// Steps from the root to `node`; none if it is not in the tree.
    #[must_use]
    pub fn depth(&self, stripe: usize, node: NodeId) -> Option<usize> {
        let tree = self.tree(stripe);
        let mut at = self.position(node)?;
        let mut steps = 0;
        while at != self.root {
            at = tree.parent[at]?;
            steps += 1;
            assert!(steps < self.rows.len(), "a cycle in stripe {stripe}");
        }
        Some(steps)
    }

    /// Whether `node` has somebody to send the stripe to.
    #[must_use]
    pub fn is_interior(&self, stripe: usize, node: NodeId) -> bool {
        self.children(stripe, node).len() > 0
    }

    /// Equal on two nodes iff they send along the same trees, as far as 64 bits go. Travels with
    /// announcements; no protection against somebody who wants two trees to have the same.
    #[must_use]
    pub fn digest(&self) -> u64 {
        self.digest
    }

    fn tree(&self, stripe: usize) -> &Stripe {
        let found = self.stripes.get(stripe);
        found.expect("the caller's stripe is below stripes()")
    }

    fn position(&self, node: NodeId) -> Option<Position> {
        position(&self.rows, node)
    }

    fn id(&self, at: Position) -> NodeId {
        let row = self.rows.get(at.index());
        row.expect("positions are of this layout").id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(index: usize) -> Position {
        Position::new(index)
    }

    fn parents(branches: &Branches) -> Vec<Option<usize>> {
        let all = branches.parent.iter();
        all.map(|(_, parent)| parent.map(Position::index)).collect()
    }

    #[test]
    fn slots_are_taken_breadth_first() {
        let slots = PerNode::collect([0, 2, 0, 1, 0, 0].into_iter());
        let order = vec![at(1), at(3), at(5), at(4), at(2)];
        let tree = fill(at(0), 2, order, &slots);
        let expected = [None, Some(0), Some(3), Some(0), Some(1), Some(1)];
        assert_eq!(parents(&tree), expected);
    }

    #[test]
    fn the_root_takes_whom_no_slot_is_left_for() {
        let slots = PerNode::filled(4, 0);
        let tree = fill(at(2), 1, vec![at(3), at(0), at(1)], &slots);
        assert_eq!(parents(&tree), [Some(2), Some(2), None, Some(2)]);
    }

    #[test]
    fn children_keep_the_order_they_were_given() {
        let slots = PerNode::filled(5, 1);
        let stripe = Stripe::new(fill(at(1), 3, vec![at(4), at(0), at(3), at(2)], &slots));
        assert_eq!(stripe.children(at(1)), [at(4), at(0), at(3)]);
        assert_eq!(stripe.children(at(4)), [at(2)]);
        assert_eq!(stripe.children(at(2)), []);
    }
}
