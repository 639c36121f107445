//! [pure] The trees of a parcel, computed once.

use super::super::live::Way;
use super::super::parcel::ParcelId;
use super::super::tell::ring_of;
use super::super::{TreeKey, content_trees, shallow_tree};
use super::Core;
use aber_proto::NodeId;
use std::collections::BTreeSet;
use std::sync::Arc;

impl Core {
    pub(super) fn way_of(&mut self, id: &ParcelId) -> Option<Way> {
        let mut known = self.layouts.iter();
        let layout = known.find(|layout| layout.digest() == id.layout)?;
        let layout = Arc::clone(layout);
        let wanting: BTreeSet<NodeId> = layout.members().iter().map(|row| row.id).collect();
        if !wanting.contains(&self.me) || !wanting.contains(&id.writer) {
            return None;
        }
        let key = TreeKey::content(&layout, id.writer, &wanting);
        let trees = match self.cache.get(&key) {
            Some(trees) => trees,
            None => {
                let trees = Arc::new(content_trees(&layout, id.writer, &wanting)?);
                self.cache.put(key, Arc::clone(&trees));
                trees
            }
        };
        let key = TreeKey::shallow(&layout, id.writer);
        let shallow = match self.cache.get(&key) {
            Some(trees) => trees,
            None => {
                let trees = Arc::new(shallow_tree(&layout, id.writer)?);
                self.cache.put(key, Arc::clone(&trees));
                trees
            }
        };
        let me = self.me;
        let ring = self.rings.entry(layout.digest());
        let ring = Arc::clone(ring.or_insert_with(|| ring_of(&layout, me)));
        Some(Way {
            is_free: layout.near().is_none(),
            trees,
            shallow,
            ring,
        })
    }
}
