//! [driver] Taking back entries: one, one event of it, or what was done last.

use super::super::history::Told;
use super::super::{NodeService, index_problem, render};
use super::rollback::{keep_volumes_in_use, volumes_of};
use super::{Asked, Wishes, is_same, path_text};
use crate::reason::{Problem, Reason};
use aber_log::env::Env;
use aber_materializer::revert::Wish;
use aber_materializer::tree::Tree;
use aber_materializer::view::{Fate, Happened, Moment};
use aber_proto::generated::v1::{self, SkipReason};
use aber_proto::{Act, Action, FileId, Operation, PartitionId, Place, Role};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Entries looked at for what was done last.
const LOOKED_AT: usize = 100_000;

/// An action that was found, newest entry first.
struct Done {
    action: Action,
    act: Act,
    takes_back: Option<Action>,
}

impl<E: Env> NodeService<E> {
    pub(super) fn wish_revert(
        &self,
        entry: &v1::EntryId,
        number: Option<u32>,
        all: bool,
    ) -> Result<Asked<E::Kv>, Problem> {
        let partition = PartitionId(entry.partition);
        let told = self.told(partition, entry.index)?;
        let unknown = || {
            let text = match number {
                Some(number) => format!("{}.{number}", render::entry_text(entry)),
                None => render::entry_text(entry),
            };
            Problem::new(Reason::EntryNotFound).with("entry", text)
        };
        let told = told.ok_or_else(unknown)?;
        let only = match number {
            None => None,
            Some(number) => {
                let position = usize::try_from(number).ok().and_then(|n| n.checked_sub(1));
                let event = position.and_then(|position| told.change.events.get(position));
                let operation = &event.ok_or_else(unknown)?.operation;
                Some(self.touched_by(operation, partition, entry.index)?)
            }
        };
        let takes_back = number
            .is_none()
            .then_some(Action::Entry(partition, entry.index));
        let entries = vec![(partition, entry.index)];
        self.wish_entries(Act::Revert, takes_back, entries, only.as_ref(), all)
    }

    /// What was done last, or undone last.
    pub(super) fn wish_undo(
        &self,
        anyone: bool,
        again: bool,
        all: bool,
    ) -> Result<Asked<E::Kv>, Problem> {
        let me = self.node.parts.config.me;
        if anyone {
            let members = self.node.parts.members.get();
            let role = members
                .member(me)
                .and_then(aber_materializer::members::MemberRow::role);
            if role != Some(Role::Admin) {
                return Err(self.beyond_role(Problem::new(Reason::NotAllowed), Role::Admin));
            }
        }
        let found = self.last_action(anyone, again)?;
        let reason = if again {
            Reason::NothingToRedo
        } else {
            Reason::NothingToUndo
        };
        let action = found.ok_or_else(|| Problem::new(reason))?;
        let mut entries = Vec::new();
        match action {
            Action::Entry(partition, index) => entries.push((partition, index)),
            Action::Plan(plan) => {
                for partition in self.node.parts.applied.keys() {
                    let indexes = self.node.parts.tree.entries_of_plan(*partition, plan);
                    let indexes = indexes.map_err(index_problem)?;
                    entries.extend(indexes.into_iter().map(|index| (*partition, index)));
                }
            }
        }
        let act = if again { Act::Redo } else { Act::Undo };
        self.wish_entries(act, Some(action), entries, None, all)
    }

    /// Walks back over what was done: an undo hides what it took back, a redo hides the undo.
    fn last_action(&self, anyone: bool, again: bool) -> Result<Option<Action>, Problem> {
        let me = self.node.parts.config.me;
        let mut next: BTreeMap<PartitionId, u64> = self.present_moment().0;
        let (mut hidden, mut seen) = (BTreeSet::new(), BTreeSet::new());
        for _ in 0..LOOKED_AT {
            let Some((partition, index, happened)) = self.newest(&next)? else {
                return Ok(None);
            };
            next.insert(partition, index - 1);
            let is_counted = anyone || happened.author == Some(me);
            if happened.fate != Fate::Applied || !is_counted {
                continue;
            }
            let Some(done) = self.told(partition, index)?.and_then(|told| done_by(&told)) else {
                continue;
            };
            if !seen.insert(done.action) || hidden.contains(&done.action) {
                continue;
            }
            match (done.act, done.takes_back) {
                (Act::Undo, Some(_)) if again => return Ok(Some(done.action)),
                (Act::Undo | Act::Redo, Some(taken)) => {
                    hidden.insert(taken);
                }
                _ if again => return Ok(None),
                _ => return Ok(Some(done.action)),
            }
        }
        Ok(None)
    }

    /// The newest entry that was not looked at, by order time, and what it came to.
    fn newest(
        &self,
        next: &BTreeMap<PartitionId, u64>,
    ) -> Result<Option<(PartitionId, u64, Happened)>, Problem> {
        let tree = &self.node.parts.tree;
        let mut best: Option<(PartitionId, u64, Happened)> = None;
        for (partition, index) in next.iter().filter(|(_, index)| **index > 0) {
            let happened = tree.happened(*partition, *index).map_err(index_problem)?;
            // History does not reach further back here.
            let Some(happened) = happened else { continue };
            let is_newer = best.as_ref().is_none_or(|(other, at, best)| {
                (happened.order_time, *partition, *index) > (best.order_time, *other, *at)
            });
            if is_newer {
                best = Some((*partition, *index, happened));
            }
        }
        Ok(best)
    }

    /// An applied entry with its change.
    fn told(&self, partition: PartitionId, index: u64) -> Result<Option<Told>, Problem> {
        let applied = self.node.parts.applied.get(&partition);
        if applied.and_then(|at| at.get()).is_none_or(|at| at < index) {
            return Ok(None);
        }
        self.told_at(partition, index)
    }

    /// What each node that these entries changed was before the first of them.
    fn wish_entries(
        &self,
        act: Act,
        takes_back: Option<Action>,
        entries: Vec<(PartitionId, u64)>,
        only: Option<&BTreeSet<FileId>>,
        all: bool,
    ) -> Result<Asked<E::Kv>, Problem> {
        let present = self.present_moment();
        let tree = &self.node.parts.tree;
        let now = tree.at(Arc::new(present.clone()));
        let mut by_partition: BTreeMap<PartitionId, Vec<u64>> = BTreeMap::new();
        for (partition, index) in &entries {
            self.check_told(*partition, *index)?;
            by_partition.entry(*partition).or_default().push(*index);
        }
        let mut old = Moment::default();
        let mut asked = Asked {
            act,
            takes_back,
            text: self.text_of(&entries)?,
            entries,
            then: None,
            now: now.clone(),
            present: present.clone(),
            wishes: Wishes::new(),
            old_volumes: BTreeMap::new(),
            old_paths: BTreeMap::new(),
            skipped: Vec::new(),
        };
        for (partition, indexes) in &by_partition {
            let mut touched: BTreeMap<FileId, (u64, u64)> = BTreeMap::new();
            for index in indexes {
                for (id, _) in self.changed_in(&now, *partition, (index - 1, *index))? {
                    let range = touched.entry(id).or_insert((*index, *index));
                    *range = (range.0.min(*index), range.1.max(*index));
                }
            }
            let first = indexes.iter().copied().min().unwrap_or(1);
            old.0.insert(*partition, first - 1);
            let wanted = |id: &FileId| only.is_none_or(|only| only.contains(id));
            touched.retain(|id, _| wanted(id));
            for (id, range) in touched {
                self.wish_taken_back(id, range, all, &mut asked)?;
            }
        }
        let mut before = present;
        before.0.append(&mut old.0);
        asked.old_volumes = volumes_of(&tree.at(Arc::new(before)))?;
        keep_volumes_in_use(&mut asked)?;
        Ok(asked)
    }

    fn wish_taken_back(
        &self,
        id: FileId,
        (first, last): (u64, u64),
        all: bool,
        asked: &mut Asked<E::Kv>,
    ) -> Result<(), Problem> {
        let tree = &self.node.parts.tree;
        let at = |index| tree.at(self.moment_with(&asked.present, id.partition, index));
        let (before, after) = (at(first - 1), at(last));
        let left = after.node(id).map_err(index_problem)?;
        let wish = Wish {
            then: before.node(id).map_err(index_problem)?,
            now: asked.now.node(id).map_err(index_problem)?,
        };
        if is_same(wish.then.as_ref(), wish.now.as_ref()) {
            return Ok(());
        }
        let old_path = before.path_of(id).map_err(index_problem)?;
        if !all && !is_same(left.as_ref(), wish.now.as_ref()) {
            let path = match asked.now.path_of(id).map_err(index_problem)? {
                Some(path) => Some(path),
                None => after.path_of(id).map_err(index_problem)?,
            };
            let path = path_text(tree, path.or(old_path));
            let by = self
                .last_change(id, last)?
                .map(|index| (id.partition, index));
            let skipped = self.skipped(path, SkipReason::ChangedByOthers, by);
            asked.skipped.push(skipped);
            return Ok(());
        }
        if let Some(path) = old_path {
            asked.old_paths.insert(id, path.to_string());
        }
        let partition = asked.wishes.entry(id.partition).or_default();
        partition.insert(id, wish);
        Ok(())
    }

    /// What an operation of an entry touched: the node at its place before or after, and for a
    /// directory that went, what went with it.
    fn touched_by(
        &self,
        operation: &Operation,
        partition: PartitionId,
        index: u64,
    ) -> Result<BTreeSet<FileId>, Problem> {
        let tree = &self.node.parts.tree;
        let present = self.present_moment();
        let before = tree.at(self.moment_with(&present, partition, index - 1));
        let after = tree.at(self.moment_with(&present, partition, index));
        let changed = self.changed_in(tree, partition, (index - 1, index))?;
        let places: Vec<&Place> = match operation {
            Operation::Put { place, .. }
            | Operation::MakeDirectory { place, .. }
            | Operation::MakeSymlink { place, .. }
            | Operation::Copy { to: place, .. }
            | Operation::Remove { place, .. }
            | Operation::SetAttributes { place, .. }
            | Operation::Revive { place, .. } => vec![place],
            Operation::Rename { from, to, .. } => vec![from, to],
            _ => Vec::new(),
        };
        let names = self.names();
        let mut found = BTreeSet::new();
        for id in changed.keys() {
            let paths = [before.path_of(*id), after.path_of(*id)];
            for path in paths {
                let Some(path) = path.map_err(index_problem)? else {
                    continue;
                };
                let hits = |place: &&Place| {
                    let text = render::place_text(place, &names);
                    let below = path.as_str().strip_prefix(text.as_str());
                    below.is_some_and(|rest| {
                        let is_tree = matches!(operation, Operation::Remove { .. });
                        rest.is_empty() || (is_tree && rest.starts_with('/'))
                    })
                };
                if places.iter().any(hits) {
                    found.insert(*id);
                }
            }
        }
        Ok(found)
    }

    /// Entries in words: who, when, and the first path.
    fn text_of(&self, entries: &[(PartitionId, u64)]) -> Result<String, Problem> {
        let Some((partition, index)) = entries.iter().min() else {
            return Ok(String::new());
        };
        let Some(told) = self.told(*partition, *index)? else {
            return Ok(String::new());
        };
        let names = self.names();
        let events = told.change.events.iter();
        let first = events
            .flat_map(|event| render::paths_of(event, &names))
            .next()
            .unwrap_or_default();
        let mut count = told.change.events.len() - 1;
        for (partition, index) in entries
            .iter()
            .filter(|entry| **entry != (*partition, *index))
        {
            count += self
                .told(*partition, *index)?
                .map_or(0, |told| told.change.events.len());
        }
        let more = match count {
            0 => String::new(),
            1 => " and 1 more event".to_owned(),
            count => format!(" and {count} more events"),
        };
        let author = self.node.name_of(told.change.author);
        Ok(format!(
            "{partition}:{index} by {author}, {}: {first}{more}",
            told.entry.order_time
        ))
    }
}

/// The action that a change is part of; `None` for what is no work on files.
fn done_by(told: &Told) -> Option<Done> {
    let is_work = told
        .change
        .events
        .iter()
        .any(|event| event.operation.is_of_tree());
    if !is_work {
        return None;
    }
    let entry = Action::Entry(told.entry.partition, told.entry.log_id.index);
    Some(match told.change.origin {
        Some(origin) => Done {
            action: Action::Plan(origin.plan),
            act: origin.act,
            takes_back: origin.takes_back,
        },
        None => Done {
            action: entry,
            act: Act::Write,
            takes_back: None,
        },
    })
}
