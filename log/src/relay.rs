//! [pure] The relay: along which trees content, entries and announcements travel.
//!
//! Every node computes the trees by itself, from the [`Layout`] that the control partition holds:
//! bit for bit the same ones, so integers only and nothing of this node. Content goes down several
//! trees at once, the *stripes*, in which nearly every node passes on in one and is a leaf in the
//! others: all uplinks work, and the writer sends one copy. What must be quick goes down one shallow tree.
//! The formulas are in `docs/protocol.md`, Trees; checked as T1 to T4 and T14 of
//! `docs/invariants.md`.

pub mod bits;
mod cache;
mod count;
mod driver;
mod foster;
mod graph;
mod hash;
mod laggard;
mod layout;
mod live;
mod message;
pub mod parcel;
mod pull;
mod pulse;
mod push;
mod ready;
mod shallow;
pub mod state;
mod striped;
mod table;
mod tell;
mod trees;

pub use cache::{TreeCache, TreeKey};
pub use count::{Counts, Holders, OnlyHere, RelayState};
pub use driver::{HoldProblem, Relay, Roster};
pub use hash::{fold, mix};
pub use layout::{Layout, LayoutDigest, LayoutProblem, Links, Row};
pub use trees::Trees;

use aber_proto::NodeId;
use graph::Goal;
use std::collections::BTreeSet;
use table::{PerNode, Position};
use trees::Branches;

/// The trees down which `writer` sends content to those in `wanting`: [`Layout::stripes`] of them.
/// On a neighbour graph others may pass it on. Ids of no members, and the writer's, want nothing.
/// None if the writer is not in the layout.
#[must_use]
pub fn content_trees(layout: &Layout, writer: NodeId, wanting: &BTreeSet<NodeId>) -> Option<Trees> {
    let root = layout.position(writer)?;
    let stripes = layout.stripes();
    let wanting = wanting.iter().filter_map(|node| layout.position(*node));
    let receivers: Vec<Position> = wanting.filter(|node| *node != root).collect();
    let trees = match layout.near() {
        None => striped::striped(layout, root, &receivers, stripes),
        Some(near) => {
            let mut trees = graph::on_graph(layout, near, root, Goal::balanced(stripes));
            let mut is_wanted = PerNode::filled(layout.len(), false);
            for node in receivers {
                is_wanted[node] = true;
            }
            for tree in &mut trees {
                graph::prune(tree, &is_wanted);
            }
            trees
        }
    };
    Some(Trees::new(layout, root, trees))
}

/// The one tree down which entries (`root` leads) or announcements (`root` writes) go to all
/// members. None if the root is not in the layout.
#[must_use]
pub fn shallow_tree(layout: &Layout, root: NodeId) -> Option<Trees> {
    let root = layout.position(root)?;
    let trees: Vec<Branches> = match layout.near() {
        None => vec![shallow::shallow(layout, root)],
        Some(near) => graph::on_graph(layout, near, root, Goal::SHORT),
    };
    Some(Trees::new(layout, root, trees))
}

/// The stripe of a chunk of a parcel whose chunks are all of one length: the `chunk`th, counted from 0.
/// `parcel` is the parcel's id as little-endian words; it turns the stripes, so that small parcels do
/// not all begin in the first. Chunks of other lengths: `ParcelId::stripes`.
///
/// # Panics
/// If there are no stripes; a layout has 8 or 16.
#[must_use]
pub fn stripe_of(parcel: &[u64], chunk: u64, stripes: usize) -> usize {
    // The number of stripes is a power of two: wrapping does not change the remainder.
    let turn = chunk.wrapping_add(fold(parcel.iter().copied()));
    let stripe = turn % (stripes as u64);
    usize::try_from(stripe).expect("below a usize")
}

#[cfg(test)]
mod swarm;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
