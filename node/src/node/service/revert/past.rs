//! [driver] What the past says of entries and nodes, for plans.

use super::super::{NodeService, index_problem};
use super::MOST_NODES;
use crate::reason::{Problem, Reason};
use aber_log::env::Env;
use aber_materializer::view::TreeView;
use aber_proto::{FileId, NodeId, PartitionId};
use std::collections::BTreeMap;

/// Rows read at once.
const PAGE: usize = 4096;

impl<E: Env> NodeService<E> {
    /// The nodes that entries of a range changed, each with the entries, the oldest first.
    pub(super) fn changed_in(
        &self,
        tree: &TreeView<E::Kv>,
        partition: PartitionId,
        range: (u64, u64),
    ) -> Result<BTreeMap<FileId, Vec<u64>>, Problem> {
        let mut found: BTreeMap<FileId, Vec<u64>> = BTreeMap::new();
        let mut last = None;
        loop {
            let page = tree.changed(partition, range, last, PAGE);
            let page = page.map_err(index_problem)?;
            let Some(end) = page.last() else {
                return Ok(found);
            };
            last = Some(*end);
            for (index, id) in page {
                found.entry(id).or_default().push(index);
            }
            if found.len() > MOST_NODES {
                return Err(Problem::new(Reason::ChangeTooLarge)
                    .with("events", format!("more than {MOST_NODES}"))
                    .with("limit", format!("{MOST_NODES} paths in one plan")));
            }
        }
    }

    /// Who made an entry's change.
    pub(super) fn author_of(
        &self,
        partition: PartitionId,
        index: u64,
    ) -> Result<Option<NodeId>, Problem> {
        let happened = self.node.parts.tree.happened(partition, index);
        Ok(happened.map_err(index_problem)?.and_then(|row| row.author))
    }

    /// The last entry that changed a node after one.
    pub(super) fn last_change(&self, id: FileId, after: u64) -> Result<Option<u64>, Problem> {
        let changes = self.node.parts.tree.changes_of(id, after);
        Ok(changes.map_err(index_problem)?.last().copied())
    }
}
