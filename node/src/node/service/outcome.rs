//! [driver] What the events of an entry did, told from the tree before and after it.
//!
//! Within one change only its ends are known: an event whose work a later one of the same change
//! took back is told as done.

use super::history::{KnownNames, Told};
use super::lives::event_id;
use super::{NodeService, index_problem, render};
use crate::reason::Problem;
use aber_log::env::Env;
use aber_materializer::tree::{Node, NodeKind, Tree};
use aber_materializer::view::{Moment, TreeView};
use aber_proto::generated::v1::{self, EventResult, event::Operation as Shown};
use aber_proto::{EventId, FileId, Operation, PartitionId, Place};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Nodes that are counted of one entry, and in one call.
const NODES_MOST: usize = 4096;
const NODES_IN_CALL: usize = 20_000;

/// How many nodes were counted in a call.
#[derive(Default)]
pub(super) struct Counted(usize);

/// The tree around an entry.
struct Around<T> {
    before: T,
    after: T,
    /// What the entry made, changed or took away; maybe only the first of it.
    changed: Vec<FileId>,
    is_all: bool,
}

fn size_of(node: &Node) -> i64 {
    match &node.kind {
        NodeKind::File(content) => i64::try_from(content.size()).unwrap_or(i64::MAX),
        _ => 0,
    }
}

/// Whether one place is another, or lies below it.
pub(super) fn is_within(place: &Place, other: &Place) -> bool {
    let below = place.path.as_str().strip_prefix(other.path.as_str());
    place.volume == other.volume
        && below
            .is_some_and(|rest| rest.is_empty() || other.path.is_root() || rest.starts_with('/'))
}

fn idle(reason: &str) -> v1::EventOutcome {
    v1::EventOutcome {
        result: EventResult::None.into(),
        reason: reason.to_owned(),
        ..v1::EventOutcome::default()
    }
}

fn done() -> v1::EventOutcome {
    v1::EventOutcome {
        result: EventResult::Done.into(),
        ..v1::EventOutcome::default()
    }
}

impl<E: Env> NodeService<E> {
    /// The tree just after an entry of a partition; other partitions as its leader may have seen
    /// them.
    pub(super) fn tree_after(
        &self,
        partition: PartitionId,
        index: u64,
        control_index: u64,
    ) -> TreeView<E::Kv> {
        let moment = [(PartitionId::CONTROL, control_index), (partition, index)];
        self.node
            .parts
            .tree
            .at(Arc::new(Moment(moment.into_iter().collect())))
    }

    /// The trees just before and just after an entry.
    fn ends_of(&self, told: &Told) -> (TreeView<E::Kv>, TreeView<E::Kv>) {
        let (partition, index) = (told.entry.partition, told.entry.log_id.index);
        let control = told.entry.control_index;
        let before = self.tree_after(partition, index.saturating_sub(1), control);
        (before, self.tree_after(partition, index, control))
    }

    /// Which events of a change made, changed, moved or took away one of these nodes; all, if that
    /// cannot be told.
    pub(super) fn events_of(&self, told: &Told, ids: &[FileId]) -> Result<Vec<usize>, Problem> {
        let (before, after) = self.ends_of(told);
        let mut places = Vec::new();
        for id in ids {
            for tree in [&before, &after] {
                let node = tree.node(*id).map_err(index_problem)?;
                if let Some(node) = node {
                    places.extend(tree.place_of(&node).map_err(index_problem)?);
                }
            }
        }
        let (partition, index) = (told.entry.partition, told.entry.log_id.index);
        let mut found = Vec::new();
        for (position, event) in told.change.events.iter().enumerate() {
            let id = event_id(partition, index, position);
            let is_at = |place: &Place| places.contains(place);
            let is_over = |place: &Place| places.iter().any(|own| is_within(own, place));
            let concerns = ids.contains(&id)
                || match &event.operation {
                    Operation::Put { place, .. } => {
                        let file = self.node.parts.tree.file_of(id).map_err(index_problem)?;
                        file.map_or_else(|| is_at(place), |file| ids.contains(&file))
                    }
                    Operation::MakeDirectory { place, .. }
                    | Operation::MakeSymlink { place, .. }
                    | Operation::SetAttributes { place, .. }
                    | Operation::Copy { to: place, .. } => is_at(place),
                    Operation::Revive { file, place, .. } => ids.contains(file) || is_at(place),
                    Operation::Remove { place, .. } => is_over(place),
                    Operation::Rename { from, to, .. } => is_over(from) || is_over(to),
                    _ => false,
                };
            if concerns {
                found.push(position);
            }
        }
        if found.is_empty() {
            found = (0..told.change.events.len()).collect();
        }
        Ok(found)
    }

    /// Adds to the events that are shown of an applied entry what they did, and to copies what they
    /// are copies of.
    pub(super) fn add_outcomes(
        &self,
        shown: &mut v1::Entry,
        told: &Told,
        names: &KnownNames,
        counted: &mut Counted,
    ) -> Result<(), Problem> {
        let (partition, index) = (told.entry.partition, told.entry.log_id.index);
        let tree = &self.node.parts.tree;
        let start = tree.history_start(partition).map_err(index_problem)?;
        if !shown.applied || index <= start {
            return Ok(());
        }
        let (before, after) = self.ends_of(told);
        let mut around = Around {
            before,
            after,
            changed: Vec::new(),
            is_all: true,
        };
        let left = NODES_IN_CALL.saturating_sub(counted.0).min(NODES_MOST);
        if told
            .change
            .events
            .iter()
            .any(|event| needs_nodes(&event.operation))
        {
            let range = (index.saturating_sub(1), index);
            let changed = tree.changed(partition, range, None, left.max(1));
            around.changed = changed
                .map_err(index_problem)?
                .into_iter()
                .map(|(_, id)| id)
                .collect();
            around.is_all = around.changed.len() < left;
            counted.0 += around.changed.len();
        }
        let Some(change) = &mut shown.change else {
            return Ok(());
        };
        for event in &mut change.events {
            let position = usize::try_from(event.number).unwrap_or(0).saturating_sub(1);
            let Some(source) = told.change.events.get(position) else {
                continue;
            };
            let id = event_id(partition, index, position);
            event.outcome = Some(self.outcome(&source.operation, id, &around)?);
            if let (Some(Shown::Copy(copy)), Operation::Copy { source, .. }) =
                (&mut event.operation, &source.operation)
                && let Some(place) = self.place_of_version(*source, told, &around.before)?
            {
                copy.from_path = render::place_text(&place, names);
            }
        }
        Ok(())
    }

    /// Where the file of a version stood just before an entry, or stands now.
    fn place_of_version(
        &self,
        version: EventId,
        told: &Told,
        before: &TreeView<E::Kv>,
    ) -> Result<Option<Place>, Problem> {
        let tree = &self.node.parts.tree;
        let Some(file) = tree.file_of(version).map_err(index_problem)? else {
            return Ok(None);
        };
        let tree = if file.partition == told.entry.partition {
            before
        } else {
            tree
        };
        match tree.node(file).map_err(index_problem)? {
            Some(node) => tree.place_of(&node).map_err(index_problem),
            None => Ok(None),
        }
    }

    fn outcome(
        &self,
        operation: &Operation,
        id: EventId,
        around: &Around<TreeView<E::Kv>>,
    ) -> Result<v1::EventOutcome, Problem> {
        let made = || v1::EventOutcome {
            etag_after: id.to_string(),
            ..done()
        };
        Ok(match operation {
            Operation::Put { content, .. } => self.put_outcome(content.size(), id)?,
            Operation::Copy { to, content, .. } => {
                let replaced = around.before.at_place(to).map_err(index_problem)?;
                let size = i64::try_from(content.size()).unwrap_or(i64::MAX);
                v1::EventOutcome {
                    etag_before: replaced.as_ref().map_or_else(String::new, etag),
                    size_change: size.saturating_sub(replaced.as_ref().map_or(0, size_of)),
                    ..made()
                }
            }
            Operation::MakeSymlink { .. } => made(),
            Operation::Revive { .. } => {
                let size = operation.content().map_or(0, aber_proto::Content::size);
                v1::EventOutcome {
                    size_change: i64::try_from(size).unwrap_or(i64::MAX),
                    ..made()
                }
            }
            Operation::MakeDirectory { place, .. } => {
                let stood = around.before.at_place(place).map_err(index_problem)?;
                match stood {
                    Some(_) if !around.changed.contains(&id) => idle("exists"),
                    _ => made(),
                }
            }
            Operation::Rename { from, to, .. } => rename_outcome(from, to, around)?,
            Operation::SetAttributes { place, .. } => {
                let node = around.before.at_place(place).map_err(index_problem)?;
                match node {
                    Some(node) if around.is_all && !around.changed.contains(&node.id) => {
                        idle("same")
                    }
                    Some(node) => v1::EventOutcome {
                        etag_before: etag(&node),
                        etag_after: etag(&node),
                        ..done()
                    },
                    None => done(),
                }
            }
            Operation::Remove { place, .. } => removal_outcome(place, around)?,
            _ => done(),
        })
    }

    fn put_outcome(&self, size: u64, id: EventId) -> Result<v1::EventOutcome, Problem> {
        let tree = &self.node.parts.tree;
        let size = i64::try_from(size).unwrap_or(i64::MAX);
        let mut outcome = v1::EventOutcome {
            etag_after: id.to_string(),
            size_change: size,
            ..done()
        };
        let Some(file) = tree.file_of(id).map_err(index_problem)? else {
            return Ok(outcome);
        };
        let version = tree.version(file, id).map_err(index_problem)?;
        if let Some(previous) = version.and_then(|version| version.previous) {
            outcome.etag_before = previous.to_string();
            let previous = tree.version(file, previous).map_err(index_problem)?;
            let before = previous.map_or(0, |version| version.content.size());
            let before = i64::try_from(before).unwrap_or(i64::MAX);
            outcome.size_change = size.saturating_sub(before);
        }
        Ok(outcome)
    }
}

fn etag(node: &Node) -> String {
    node.version.to_string()
}

/// Whether what an operation did is told by the nodes that its entry changed.
fn needs_nodes(operation: &Operation) -> bool {
    matches!(
        operation,
        Operation::MakeDirectory { .. }
            | Operation::SetAttributes { .. }
            | Operation::Remove { .. }
    )
}

fn rename_outcome<K: aber_log::env::Kv>(
    from: &Place,
    to: &Place,
    around: &Around<TreeView<K>>,
) -> Result<v1::EventOutcome, Problem> {
    let moved = around.before.at_place(from).map_err(index_problem)?;
    let replaced = around.before.at_place(to).map_err(index_problem)?;
    let Some(moved) = moved else {
        return Ok(done());
    };
    if replaced.as_ref().is_some_and(|node| node.id == moved.id) {
        return Ok(idle("same"));
    }
    Ok(v1::EventOutcome {
        etag_before: etag(&moved),
        etag_after: etag(&moved),
        size_change: replaced.as_ref().map_or(0, |node| -size_of(node)),
        ..done()
    })
}

/// What a removal took away: the nodes at and below its place that are gone.
fn removal_outcome<K: aber_log::env::Kv>(
    place: &Place,
    around: &Around<TreeView<K>>,
) -> Result<v1::EventOutcome, Problem> {
    let top = around.before.at_place(place).map_err(index_problem)?;
    let mut outcome = done();
    outcome.etag_before = top.as_ref().map_or_else(String::new, etag);
    outcome.at_least = !around.is_all;
    let mut known = BTreeMap::new();
    for id in &around.changed {
        if around.after.node(*id).map_err(index_problem)?.is_some() {
            continue;
        }
        let Some(node) = around.before.node(*id).map_err(index_problem)? else {
            continue;
        };
        let top = top.as_ref().map(|top| top.id);
        if is_below(&around.before, &node, top, &mut known)? {
            outcome.paths += 1;
            outcome.files += u64::from(!node.is_directory());
            outcome.size_change = outcome.size_change.saturating_sub(size_of(&node));
        }
    }
    // What it would have removed was newer, or there was nothing left to remove.
    if outcome.paths == 0 && around.is_all && top.is_some() {
        return Ok(idle("newer"));
    }
    Ok(outcome)
}

/// Whether a node is another one or lies below it. `known` says it of directories.
fn is_below<K: aber_log::env::Kv>(
    tree: &TreeView<K>,
    node: &Node,
    top: Option<FileId>,
    known: &mut BTreeMap<FileId, bool>,
) -> Result<bool, Problem> {
    let mut way = Vec::new();
    let (mut id, mut parent) = (node.id, node.parent);
    let found = loop {
        if Some(id) == top {
            break true;
        }
        if let Some(found) = known.get(&id) {
            break *found;
        }
        way.push(id);
        if Some(parent) == top {
            break true;
        }
        match tree.node(parent).map_err(index_problem)? {
            Some(above) if way.len() <= aber_proto::limit::PATH_DEPTH => {
                (id, parent) = (above.id, above.parent);
            }
            _ => break false,
        }
    };
    known.extend(way.into_iter().map(|id| (id, found)));
    Ok(found)
}
