//! [pure] Trees that were computed, the least used of which go first.
//!
//! Computing trees of many members takes a tenth of a second: a driver asks [`TreeCache::get`], and
//! where that has none computes apart from what must not wait, then calls [`TreeCache::put`].

use super::layout::{Layout, LayoutDigest};
use super::trees::Trees;
use aber_proto::{NodeId, limit};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Names trees: equal keys, equal trees.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct TreeKey {
    number: u64,
    layout: LayoutDigest,
    root: NodeId,
    /// BLAKE3 of the ids that want the content; none for the shallow tree.
    wanting: Option<[u8; 32]>,
}

impl TreeKey {
    /// The key of [`super::content_trees`].
    #[must_use]
    pub fn content(layout: &Layout, writer: NodeId, wanting: &BTreeSet<NodeId>) -> Self {
        let mut hasher = blake3::Hasher::new();
        for node in wanting {
            hasher.update(&node.0.to_le_bytes());
        }
        Self {
            wanting: Some(*hasher.finalize().as_bytes()),
            ..Self::shallow(layout, writer)
        }
    }

    /// The key of [`super::shallow_tree`].
    #[must_use]
    pub fn shallow(layout: &Layout, root: NodeId) -> Self {
        Self {
            number: layout.number(),
            layout: layout.digest(),
            root,
            wanting: None,
        }
    }
}

struct Kept {
    used: u64,
    trees: Arc<Trees>,
}

/// At most [`limit::TREES_KEPT`] trees.
#[derive(Default)]
pub struct TreeCache {
    kept: BTreeMap<TreeKey, Kept>,
    /// Counts uses; the order of the last ones is what counts.
    uses: u64,
}

impl TreeCache {
    /// The trees, if they are here.
    pub fn get(&mut self, key: &TreeKey) -> Option<Arc<Trees>> {
        self.uses += 1;
        let found = self.kept.get_mut(key)?;
        found.used = self.uses;
        Some(Arc::clone(&found.trees))
    }

    /// Keeps trees; those that were used the longest ago go, if there are too many.
    pub fn put(&mut self, key: TreeKey, trees: Arc<Trees>) {
        self.uses += 1;
        let used = self.uses;
        self.kept.insert(key, Kept { used, trees });
        if self.kept.len() > limit::TREES_KEPT {
            let oldest = self.kept.iter().min_by_key(|(_, kept)| kept.used);
            if let Some(key) = oldest.map(|(key, _)| *key) {
                self.kept.remove(&key);
            }
        }
        assert!(self.kept.len() <= limit::TREES_KEPT, "one in, one out");
    }

    /// How many are kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// Whether none is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::layout::{Links, Row};
    use crate::relay::{content_trees, shallow_tree};

    fn layout(number: u64, up_kbit: u64) -> Layout {
        let row = |id| Row {
            id: NodeId(id),
            up_kbit,
            relay_ok: true,
        };
        Layout::new(number, (0..4).map(row).collect(), &Links::Any).expect("good")
    }

    #[test]
    fn keys_differ_in_whatever_trees_depend_on() {
        let all: BTreeSet<NodeId> = (0..4).map(NodeId).collect();
        let few: BTreeSet<NodeId> = (0..3).map(NodeId).collect();
        let (one, other) = (layout(7, 1000), layout(7, 2000));
        let keys = BTreeSet::from([
            TreeKey::content(&one, NodeId(0), &all),
            TreeKey::content(&one, NodeId(1), &all),
            TreeKey::content(&one, NodeId(0), &few),
            TreeKey::content(&one, NodeId(0), &BTreeSet::new()),
            TreeKey::content(&other, NodeId(0), &all),
            TreeKey::content(&layout(8, 1000), NodeId(0), &all),
            TreeKey::shallow(&one, NodeId(0)),
        ]);
        assert_eq!(keys.len(), 7);
    }

    #[test]
    fn the_least_used_goes_and_the_count_is_bounded() {
        let layout = layout(7, 1000);
        let trees = Arc::new(shallow_tree(&layout, NodeId(0)).expect("a member"));
        let key = |root: u64| TreeKey::shallow(&layout, NodeId(root));
        let mut cache = TreeCache::default();
        assert!(cache.is_empty() && cache.get(&key(0)).is_none());
        for root in 0..limit::TREES_KEPT as u64 {
            cache.put(key(root), Arc::clone(&trees));
        }
        assert!(cache.get(&key(0)).is_some());
        cache.put(key(1000), Arc::clone(&trees));
        assert_eq!(cache.len(), limit::TREES_KEPT);
        assert!(cache.get(&key(1)).is_none());
        for root in [0, 2, 1000] {
            assert!(cache.get(&key(root)).is_some(), "{root}");
        }
        cache.put(key(0), trees);
        assert_eq!(cache.len(), limit::TREES_KEPT);
    }

    #[test]
    fn what_was_put_comes_back() {
        let layout = layout(7, 1000);
        let all: BTreeSet<NodeId> = (0..4).map(NodeId).collect();
        let trees = Arc::new(content_trees(&layout, NodeId(2), &all).expect("a member"));
        let key = TreeKey::content(&layout, NodeId(2), &all);
        let mut cache = TreeCache::default();
        cache.put(key, Arc::clone(&trees));
        assert_eq!(cache.get(&key), Some(trees));
    }
}
