//! [pure] The tree that entries go down from a leader: whom a member that does not vote follows.
//!
//! Computed from the members, as everybody does, so that each parent has few children
//! (`aber_log::relay::shallow_tree`). Where two nodes know different members for a while, one
//! follows somebody who is not its parent: nothing depends on the tree but the load of lines.

use super::layout::layout_of;
use aber_log::relay::{Layout, TreeCache, TreeKey, shallow_tree};
use aber_materializer::members::Members;
use aber_proto::{NodeId, limit};
use std::sync::Arc;

/// The trees of the members as they were asked for last.
#[derive(Default)]
pub(super) struct LogTrees {
    of: Option<Arc<Members>>,
    layout: Option<Layout>,
    trees: TreeCache,
}

impl LogTrees {
    /// Above `me` in the tree from `leader`: its parent first, `leader` last. Empty if `me` is
    /// `leader`, or no links lead there.
    pub(super) fn above(
        &mut self,
        members: &Arc<Members>,
        me: NodeId,
        leader: NodeId,
    ) -> Vec<NodeId> {
        let is_known = self.of.as_ref().is_some_and(|of| Arc::ptr_eq(of, members));
        if !is_known {
            self.layout = layout_of(members);
            self.of = Some(Arc::clone(members));
        }
        let Some(layout) = &self.layout else {
            return Vec::new();
        };
        let key = TreeKey::shallow(layout, leader);
        let trees = match self.trees.get(&key) {
            Some(trees) => trees,
            None => {
                let Some(trees) = shallow_tree(layout, leader) else {
                    return Vec::new();
                };
                let trees = Arc::new(trees);
                self.trees.put(key, Arc::clone(&trees));
                trees
            }
        };
        let mut above = Vec::new();
        let mut at = me;
        while let Some(parent) = trees.parent(0, at)
            && above.len() < limit::MEMBERS
        {
            above.push(parent);
            at = parent;
        }
        above
    }
}

#[cfg(test)]
mod tests {
    use super::super::layout::testing::{member, members};
    use super::*;
    use std::collections::BTreeMap;

    /// T10: nobody has more children than its line bears, however many members there are.
    #[test]
    fn a_leader_has_few_children_whatever_the_number_of_members() {
        let rows: Vec<_> = (1..=200).map(|node| member(node, 0, &[])).collect();
        let members = Arc::new(members(&rows));
        let mut trees = LogTrees::default();
        for leader in [NodeId(1), NodeId(77)] {
            let mut children = BTreeMap::<_, usize>::new();
            for node in (1..=200).map(NodeId).filter(|node| *node != leader) {
                let above = trees.above(&members, node, leader);
                assert_eq!(above.last(), Some(&leader));
                assert!(above.len() <= 4, "{node}: {above:?}");
                *children.entry(above[0]).or_default() += 1;
            }
            assert!(children.values().all(|count| *count <= 4), "{children:?}");
            assert_eq!(trees.above(&members, leader, leader), []);
        }
    }

    #[test]
    fn along_a_chain_of_neighbours_each_follows_the_next() {
        let rows = [
            member(1, 0, &[2]),
            member(2, 0, &[1, 3]),
            member(3, 0, &[2, 4]),
            member(4, 0, &[3]),
            member(5, 0, &[9]),
        ];
        let members = Arc::new(members(&rows));
        let mut trees = LogTrees::default();
        let mut above = |me, leader| trees.above(&members, NodeId(me), NodeId(leader));
        let nodes = |ids: &[u64]| ids.iter().copied().map(NodeId).collect::<Vec<_>>();
        assert_eq!(above(4, 1), nodes(&[3, 2, 1]));
        assert_eq!(above(1, 3), nodes(&[2, 3]));
        assert_eq!(above(5, 1), [], "no links lead there");
        assert_eq!(above(4, 99), [], "that is no member");
    }
}
