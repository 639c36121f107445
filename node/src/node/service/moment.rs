//! [driver] Moments as callers name them: a time, an entry, a cursor, so many versions ago.
//!
//! One answer for all calls. Each partition's place is found by itself; where the caller names a
//! place in one partition, the others are seen as of that entry's order time.

use super::history::{decode_cursor, encode_cursor};
use super::{NodeService, index_problem, parse_path, render};
use crate::node::finding;
use crate::reason::{Problem, Reason};
use crate::service::Answer;
use aber_log::env::Env;
use aber_materializer::tree::{Node, NodeKind, ROOT, Tree};
use aber_materializer::view::{Found, Moment, Resolved, TreeView};
use aber_proto::generated::v1::{self, at::At};
use aber_proto::{EventId, FileId, PartitionId, Timestamp, TreePath, VolumeId};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Entries of Raft's own, which change nothing, that are passed over in search of the next change.
const NEXT_LOOKED_AT: usize = 64;

impl<E: Env> NodeService<E> {
    /// The tree as a read wants to see it, once what it waits for is applied here.
    pub(super) async fn tree_for(
        &self,
        read: Option<&v1::ReadOptions>,
        path: &str,
    ) -> Result<TreeView<E::Kv>, Problem> {
        self.wait_for(read).await?;
        self.check_served_at(path)?;
        let tree = &self.node.parts.tree;
        let at = read.and_then(|read| read.at.as_ref());
        match self.moment(at, path)? {
            None => Ok(tree.clone()),
            Some(moment) => Ok(tree.at(Arc::new(moment))),
        }
    }

    /// A partition whose view is known to be wrong is not shown (promise M4). At the top there are only
    /// the names of volumes, of the control partition.
    pub(super) fn check_served_at(&self, path: &str) -> Result<(), Problem> {
        let path = parse_path(path)?;
        self.check_served(PartitionId::CONTROL, &path)?;
        match self.node.parts.tree.resolve(&path).map_err(index_problem)? {
            Resolved::At { partition, .. } => self.check_served(partition, &path),
            Resolved::NotADirectory(_) | Resolved::NoVolume(_) => Ok(()),
        }
    }

    /// The same, of a path whose partition is known.
    pub(super) fn check_served(
        &self,
        partition: PartitionId,
        path: &TreePath,
    ) -> Result<(), Problem> {
        match finding::is_withheld(&self.node.parts.findings, partition) {
            false => Ok(()),
            true => Err(Problem::new(Reason::OtherView)
                .with("path", path)
                .with("partition", partition)),
        }
    }

    /// The moment that is meant; `None`: now. `path` is what versions are counted of.
    pub(super) fn moment(
        &self,
        at: Option<&v1::At>,
        path: &str,
    ) -> Result<Option<Moment>, Problem> {
        let Some(at) = at.and_then(|at| at.at.as_ref()) else {
            return Ok(None);
        };
        let moment = match at {
            At::Time(time) => self.moment_of_time(stamp(time), None)?,
            At::Cursor(cursor) => self.moment_of_cursor(cursor)?,
            At::After(entry) => self.moment_of_entry(entry, entry.index)?,
            At::Before(entry) => self.moment_of_entry(entry, entry.index.saturating_sub(1))?,
            At::Tag(name) => self.moment_of_tag(name)?,
            At::VersionsAgo(count) => self.moment_of_version(&parse_path(path)?, *count)?,
        };
        self.check_known(&moment)?;
        self.check_kept(&moment, path)?;
        Ok(Some(moment))
    }

    /// What is applied now, as a moment.
    pub(super) fn present_moment(&self) -> Moment {
        let applied = self.node.parts.applied.iter();
        Moment(
            applied
                .map(|(partition, at)| (*partition, at.get().unwrap_or(0)))
                .collect(),
        )
    }

    /// Each partition's last entry that was ordered at or before a time, but for the one given.
    fn moment_of_time(
        &self,
        time: Timestamp,
        given: Option<(PartitionId, u64)>,
    ) -> Result<Moment, Problem> {
        let mut moment = BTreeMap::new();
        for partition in self.node.parts.applied.keys() {
            let index = match given {
                Some((named, index)) if named == *partition => Some(index),
                _ => self
                    .node
                    .parts
                    .tree
                    .index_at(*partition, time)
                    .map_err(index_problem)?,
            };
            self.check_time(*partition, index.unwrap_or(0), time)?;
            moment.insert(*partition, index.unwrap_or(0));
        }
        Ok(Moment(moment))
    }

    /// A time before all that history tells here is no moment of it.
    fn check_time(
        &self,
        partition: PartitionId,
        index: u64,
        time: Timestamp,
    ) -> Result<(), Problem> {
        let tree = &self.node.parts.tree;
        let start = tree.history_start(partition).map_err(index_problem)?;
        if index > start || start == 0 {
            return Ok(());
        }
        let at_start = tree.happened(partition, start).map_err(index_problem)?;
        match at_start {
            Some(happened) if happened.order_time <= time => Ok(()),
            _ => Err(self.forgotten(partition, index, start)),
        }
    }

    fn moment_of_entry(&self, entry: &v1::EntryId, index: u64) -> Result<Moment, Problem> {
        let partition = PartitionId(entry.partition);
        let unknown =
            || Problem::new(Reason::EntryNotFound).with("entry", render::entry_text(entry));
        let applied = self.node.parts.applied.get(&partition);
        let applied = applied.and_then(|at| at.get()).ok_or_else(unknown)?;
        if entry.index > applied || entry.index == 0 {
            return Err(unknown());
        }
        let tree = &self.node.parts.tree;
        let happened = tree
            .happened(partition, entry.index)
            .map_err(index_problem)?;
        let start = tree.history_start(partition).map_err(index_problem)?;
        let Some(happened) = happened else {
            return Err(self.forgotten(partition, index, start));
        };
        self.moment_of_time(happened.order_time, Some((partition, index)))
    }

    fn moment_of_cursor(&self, cursor: &v1::Cursor) -> Result<Moment, Problem> {
        let foreign = || Problem::new(Reason::CursorForeign).with("detail", "the cursor");
        let places = decode_cursor(&cursor.token).ok_or_else(foreign)?;
        let mut moment = BTreeMap::new();
        for (partition, next) in places {
            let applied = self.node.parts.applied.get(&partition);
            let applied = applied.ok_or_else(foreign)?.get().unwrap_or(0);
            let index = next.saturating_sub(1);
            if index > applied {
                return Err(Problem::new(Reason::IndexNotReached)
                    .with("wanted", format!("{partition}:{index}"))
                    .with("applied", format!("{partition}:{applied}")));
            }
            moment.insert(partition, index);
        }
        Ok(Moment(moment))
    }

    fn moment_of_tag(&self, name: &str) -> Result<Moment, Problem> {
        let tag = self.node.parts.tree.tag(name).map_err(index_problem)?;
        let tag = tag.ok_or_else(|| Problem::new(Reason::TagUnknown).with("tag", name))?;
        let mut moment = Moment(tag.moment);
        for (partition, applied) in &self.node.parts.applied {
            let index = *moment.0.entry(*partition).or_insert(0);
            let applied = applied.get().unwrap_or(0);
            if index > applied {
                return Err(Problem::new(Reason::IndexNotReached)
                    .with("wanted", format!("{partition}:{index}"))
                    .with("applied", format!("{partition}:{applied}")));
            }
        }
        Ok(moment)
    }

    /// Just after the entry that made the version that stood at a path so many versions ago. Where
    /// nothing stands now, the last version before the removal is one ago.
    fn moment_of_version(&self, path: &TreePath, count: u32) -> Result<Moment, Problem> {
        let missing = || Problem::new(Reason::PathNotFound).with("path", path);
        let tree = &self.node.parts.tree;
        let present = match tree.lookup(path).map_err(index_problem)? {
            Found::Node(node) => Some(node),
            Found::Root => return Err(missing()),
            _ => None,
        };
        let mut left = count;
        let (file, mut version) = match present {
            Some(node) => (node.id, node.version),
            None => {
                let (removed_at, node) = self.last_at(path)?.ok_or_else(missing)?;
                if left == 0 {
                    return Err(missing());
                }
                left -= 1;
                if left == 0 {
                    let entry = render::entry_id(node.id.partition, removed_at);
                    return self.moment_of_entry(&entry, removed_at - 1);
                }
                (node.id, node.version)
            }
        };
        let mut oldest = version;
        for _ in 0..left {
            let before = self.version_before(file, version);
            let before = before.map_err(|problem| {
                let detail = problem.fact("detail").unwrap_or_default();
                let detail = format!("{detail}; the oldest that is left is {oldest}");
                problem.clone().with("detail", detail)
            })?;
            let unknown = || Problem::new(Reason::VersionNotFound).with("path", path);
            oldest = version;
            version = before.ok_or_else(|| unknown().with("wanted", count))?;
        }
        let entry = render::entry_id(version.partition, version.index);
        self.moment_of_entry(&entry, version.index)
    }

    fn version_before(&self, file: FileId, version: EventId) -> Result<Option<EventId>, Problem> {
        let tree = &self.node.parts.tree;
        let found = tree.version(file, version).map_err(index_problem)?;
        // One before it that is not there any more was let go.
        let found = found.ok_or_else(|| {
            let detail = "retention has let go of some of its versions";
            Problem::new(Reason::HistoryForgotten).with("detail", detail)
        })?;
        Ok(found.previous)
    }

    /// What stood last at a path where nothing stands now, and the entry that took it away from
    /// there. Directories above it must have stood there at that time.
    pub(super) fn last_at(&self, path: &TreePath) -> Result<Option<(u64, Node)>, Problem> {
        let tree = &self.node.parts.tree;
        let mut directories = vec![ROOT];
        let mut names = path.components().peekable();
        let mut best: Option<(u64, Node)> = None;
        while let Some(name) = names.next() {
            let mut holders = Vec::new();
            for directory in &directories {
                let found = tree
                    .holders_of_name(*directory, name)
                    .map_err(index_problem)?;
                holders.extend(found);
            }
            if names.peek().is_some() {
                directories = holders;
                continue;
            }
            for id in holders {
                for index in tree.changes_of(id, 0).map_err(index_problem)? {
                    if best.as_ref().is_some_and(|(last, _)| index <= *last) {
                        continue;
                    }
                    let mut before = self.present_moment();
                    before.0.insert(id.partition, index - 1);
                    let then = tree.at(Arc::new(before));
                    let node = then.node(id).map_err(index_problem)?;
                    let Some(node) = node.filter(|node| node.name == name) else {
                        continue;
                    };
                    best = Some((index, node));
                }
            }
        }
        Ok(best)
    }

    /// A moment that history does not reach back to is refused.
    fn check_known(&self, moment: &Moment) -> Result<(), Problem> {
        for (partition, index) in &moment.0 {
            let start = self
                .node
                .parts
                .tree
                .history_start(*partition)
                .map_err(index_problem)?;
            if *index < start {
                return Err(self.forgotten(*partition, *index, start));
            }
        }
        Ok(())
    }

    /// So is one before what the volume of a path keeps, unless a tag has kept it.
    fn check_kept(&self, moment: &Moment, path: &str) -> Result<(), Problem> {
        let tree = &self.node.parts.tree;
        let Some(name) = path.split('/').find(|name| !name.is_empty()) else {
            return Ok(());
        };
        let then = tree.at(Arc::new(moment.clone()));
        let node = then.child(ROOT, name).map_err(index_problem)?;
        let Some((id, NodeKind::Volume(partition))) = node.map(|node| (node.id, node.kind)) else {
            return Ok(());
        };
        let (volume, index) = (VolumeId::made_by(id), moment.index(partition));
        match tree
            .forgotten(partition, volume, index)
            .map_err(index_problem)?
        {
            Some(oldest) => Err(self.forgotten(partition, index, oldest)),
            None => Ok(()),
        }
    }

    /// A moment that some volume does not keep cannot be told whole.
    pub(super) fn check_whole(&self, moment: &Moment) -> Result<(), Problem> {
        let then = self.node.parts.tree.at(Arc::new(moment.clone()));
        for volume in then.volumes().map_err(index_problem)? {
            let index = moment.index(volume.partition);
            let oldest = then.forgotten(volume.partition, volume.id, index);
            if let Some(oldest) = oldest.map_err(index_problem)? {
                return Err(self.forgotten(volume.partition, index, oldest));
            }
        }
        Ok(())
    }

    /// What stood before an entry is gone once no volume of its partition keeps it.
    pub(super) fn check_told(&self, partition: PartitionId, entry: u64) -> Result<(), Problem> {
        let tree = &self.node.parts.tree;
        let index = entry.saturating_sub(1);
        let mut least = None;
        for volume in tree.volumes().map_err(index_problem)? {
            if volume.partition != partition {
                continue;
            }
            let oldest = tree.forgotten(partition, volume.id, index);
            match oldest.map_err(index_problem)? {
                Some(oldest) => least = Some(least.map_or(oldest, |least: u64| least.min(oldest))),
                None => return Ok(()),
            }
        }
        match least {
            Some(oldest) => Err(self.forgotten(partition, index, oldest)),
            None => Ok(()),
        }
    }

    fn forgotten(&self, partition: PartitionId, wanted: u64, oldest: u64) -> Problem {
        let problem = Problem::new(Reason::HistoryForgotten)
            .with("partition", partition)
            .with("wanted", wanted);
        // Of a snapshot that history begins with no time is known: then its first moment is after it. Where nothing
        // came yet there is the present alone.
        let tree = &self.node.parts.tree;
        let told = |index| {
            let happened = tree.happened(partition, index).ok().flatten()?;
            Some((index, happened.order_time))
        };
        match told(oldest).or_else(|| told(oldest + 1)) {
            Some((index, time)) => problem.with("oldest", index).with("oldestTime", time),
            None => problem.with("detail", "what is left of it begins with the present"),
        }
    }

    /// What a WHEN chose, and why.
    pub(super) async fn resolve(
        &self,
        request: v1::ResolveMomentRequest,
    ) -> Answer<v1::ResolveMomentResponse> {
        let moment = self.moment(request.at.as_ref(), &request.path)?;
        let moment = moment.unwrap_or_else(|| self.present_moment());
        let mut entries = Vec::new();
        for (partition, index) in &moment.0 {
            let happened = self
                .node
                .parts
                .tree
                .happened(*partition, *index)
                .map_err(index_problem)?;
            let next = self.next_happened(*partition, *index)?;
            entries.push(v1::ChosenEntry {
                entry: Some(render::entry_id(*partition, *index)),
                order_time: happened.map(|happened| render::stamp_message(happened.order_time)),
                next: next.map(|(index, _)| render::entry_id(*partition, index)),
                next_order_time: next.map(|(_, time)| render::stamp_message(time)),
            });
        }
        Ok(v1::ResolveMomentResponse {
            cursor: Some(cursor_of(&moment)),
            entries,
        })
    }

    /// The first change after an entry, and its time: it says why a moment ends where it does.
    fn next_happened(
        &self,
        partition: PartitionId,
        index: u64,
    ) -> Result<Option<(u64, Timestamp)>, Problem> {
        let applied = self.node.parts.applied.get(&partition);
        let applied = applied.and_then(|at| at.get()).unwrap_or(0);
        for next in (index + 1..=applied).take(NEXT_LOOKED_AT) {
            let happened = self.node.parts.tree.happened(partition, next);
            let happened = happened.map_err(index_problem)?;
            if let Some(happened) = happened.filter(|happened| happened.author.is_some()) {
                return Ok(Some((next, happened.order_time)));
            }
        }
        Ok(None)
    }
}

/// A moment, packed.
pub(super) fn cursor_of(moment: &Moment) -> v1::Cursor {
    let places = moment
        .0
        .iter()
        .map(|(partition, index)| (*partition, index + 1));
    v1::Cursor {
        token: encode_cursor(places),
    }
}

/// Milliseconds; what is finer counts as that millisecond.
fn stamp(time: &prost_types::Timestamp) -> Timestamp {
    let millis = i64::from(time.nanos) / 1_000_000;
    Timestamp(time.seconds.saturating_mul(1000).saturating_add(millis))
}
