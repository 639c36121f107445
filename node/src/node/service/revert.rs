//! [driver] Ways back: what was asked for as wishes, wishes as a plan, a plan done.
//!
//! A plan is made of the tree at one moment and kept here, in memory, for an hour. It is done only
//! while what it was made of still holds: each event has a guard that is judged where it is applied,
//! and before anything is queued all of it is tried on the tree as it is then.

mod action;
mod past;
mod restore;
mod rollback;
mod show;
mod train;

use super::plans::PLAN_VALID_MS;
use super::{NodeService, index_problem, render};
use crate::reason::{Problem, Reason};
use crate::service::Answer;
use aber_log::env::{Env, Runtime};
use aber_materializer::revert::{self, Kind, Plan, Step, VolumeRef, Volumes, Wish};
use aber_materializer::tree::{Node, NodeKind, Tree};
use aber_materializer::view::{Moment, TreeView};
use aber_proto::generated::v1::{self, plan_revert_request::What};
use aber_proto::{Act, Action, FileId, NodeId, Origin, PartitionId, PlanId, Timestamp, TreePath};
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

pub(super) use train::Way;

/// Most nodes that one plan looks at.
const MOST_NODES: usize = 1_000_000;
/// Changes, and skipped paths, that an answer names.
const SHOWN: usize = 1000;

type Wishes = BTreeMap<PartitionId, BTreeMap<FileId, Wish>>;

/// What was asked for, found out.
struct Asked<K> {
    act: Act,
    takes_back: Option<Action>,
    /// The entries that are taken back; none where it is a moment that is gone back to.
    entries: Vec<(PartitionId, u64)>,
    /// In words, what is taken back.
    text: String,
    /// The moment that is gone back to.
    then: Option<Moment>,
    /// The tree that the plan is made of.
    now: TreeView<K>,
    present: Moment,
    wishes: Wishes,
    /// Volumes as they were, by their file ids.
    old_volumes: BTreeMap<FileId, String>,
    /// Where things were.
    old_paths: BTreeMap<FileId, String>,
    skipped: Vec<v1::SkippedPath>,
}

impl<K: aber_log::env::Kv> Asked<K> {
    /// A moment that is gone back to, before anything is found out.
    fn to_moment(
        act: Act,
        tree: &TreeView<K>,
        then: &Moment,
        present: Moment,
    ) -> Result<Self, Problem> {
        let old = tree.at(Arc::new(then.clone()));
        Ok(Self {
            act,
            takes_back: None,
            entries: Vec::new(),
            text: String::new(),
            then: Some(then.clone()),
            now: tree.at(Arc::new(present.clone())),
            present,
            wishes: Wishes::new(),
            old_volumes: rollback::volumes_of(&old)?,
            old_paths: BTreeMap::new(),
            skipped: Vec::new(),
        })
    }
}

/// Whether two states of a node are the same to people.
fn is_same(one: Option<&Node>, other: Option<&Node>) -> bool {
    let (Some(one), Some(other)) = (one, other) else {
        return one.is_none() && other.is_none();
    };
    let is_file = matches!(one.kind, NodeKind::File(_));
    (one.parent, &one.name, &one.kind, one.mode)
        == (other.parent, &other.name, &other.kind, other.mode)
        && (!is_file || one.mtime == other.mtime)
}

impl<E: Env> NodeService<E> {
    /// Finds out what would bring things back, and keeps it.
    pub(super) async fn plan_way_back(
        &self,
        request: v1::PlanRevertRequest,
    ) -> Answer<v1::PlanRevertResponse> {
        let asked = match request.what {
            Some(What::To(to)) if to.restore => self.wish_restore(&to, request.all)?,
            Some(What::To(to)) => self.wish_rollback(&to, request.all)?,
            Some(What::Entry(entry)) => self.wish_revert(&entry, None, request.all)?,
            Some(What::Event(event)) => {
                let entry = event.entry.unwrap_or_default();
                self.wish_revert(&entry, Some(event.number), request.all)?
            }
            Some(What::Undo(step)) => self.wish_undo(step.anyone, false, request.all)?,
            Some(What::Redo(step)) => self.wish_undo(step.anyone, true, request.all)?,
            None => return Err(Problem::usage("a plan of nothing")),
        };
        self.keep_way(asked)
    }

    fn keep_way(&self, asked: Asked<E::Kv>) -> Answer<v1::PlanRevertResponse> {
        let volumes = self.volumes_then(&asked)?;
        let mut plans: BTreeMap<PartitionId, Plan> = BTreeMap::new();
        for (partition, wishes) in &asked.wishes {
            self.check_served(*partition, &TreePath::root())?;
            let made = revert::plan(&asked.now, *partition, wishes, &volumes);
            plans.insert(*partition, made.map_err(index_problem)?);
        }
        let mut bytes = [0; 8];
        self.node.parts.env.runtime().fill_random(&mut bytes);
        let id = PlanId(bytes);
        let made = self.node.parts.env.runtime().wall_clock();
        let way = Way {
            origin: Origin {
                act: asked.act,
                plan: id,
                takes_back: asked.takes_back,
            },
            parts: self.parts_of(&plans)?,
            present: asked.present.clone(),
        };
        let mut response = self.show_way(&asked, &plans)?;
        response.change_count = u32::try_from(way.parts.len()).unwrap_or(u32::MAX);
        response.plan = Some(v1::Plan {
            id: id.to_string(),
            expire_time: Some(render::stamp_message(Timestamp(made.0 + PLAN_VALID_MS))),
            lines: show::lines(&response),
            warnings: show::warnings(&response),
        });
        if !way.parts.is_empty() {
            let ways = self.ways.lock();
            ways.unwrap_or_else(PoisonError::into_inner)
                .put(id, made, way);
        }
        Ok(response)
    }

    /// Where each volume of then is, or will be, if the plan brings it back.
    fn volumes_then(&self, asked: &Asked<E::Kv>) -> Result<Volumes, Problem> {
        let mut volumes = Volumes::new();
        let mut by_name = BTreeMap::new();
        for volume in asked.now.volumes().map_err(index_problem)? {
            let known = VolumeRef::Known(volume.id, volume.file);
            by_name.insert(volume.name, known.clone());
            volumes.insert(volume.file, known);
        }
        let control = asked.wishes.get(&PartitionId::CONTROL);
        for (file, name) in &asked.old_volumes {
            let comes_back = control
                .and_then(|wishes| wishes.get(file))
                .is_some_and(|wish| wish.then.is_some());
            if volumes.contains_key(file) {
                continue;
            }
            if let Some(known) = by_name.get(name) {
                volumes.insert(*file, known.clone());
            } else if comes_back {
                volumes.insert(*file, VolumeRef::Pending(name.clone()));
            }
        }
        Ok(volumes)
    }

    /// The members that a caller named; this one if none.
    fn authors(&self, names: &[String]) -> Result<Vec<NodeId>, Problem> {
        let members = self.node.parts.members.get();
        if names.is_empty() {
            return Ok(vec![self.node.parts.config.me]);
        }
        let find = |name: &String| {
            let found = members.all().find(|member| member.name == *name);
            let unknown = || Problem::new(Reason::MemberUnknown).with("member", name);
            found.map(|member| member.node).ok_or_else(unknown)
        };
        names.iter().map(find).collect()
    }

    /// The moment now with one partition at another index.
    fn moment_with(&self, present: &Moment, partition: PartitionId, index: u64) -> Arc<Moment> {
        let mut moment = present.clone();
        moment.0.insert(partition, index);
        Arc::new(moment)
    }

    fn skipped(
        &self,
        path: String,
        reason: v1::SkipReason,
        by: Option<(PartitionId, u64)>,
    ) -> v1::SkippedPath {
        let tree = &self.node.parts.tree;
        let happened = by.and_then(|(partition, index)| tree.happened(partition, index).ok()?);
        let author = happened.and_then(|happened| happened.author);
        let mut skipped = v1::SkippedPath {
            path,
            reason: 0,
            author: author.map_or_else(String::new, |author| self.node.name_of(author)),
            entry: by.map(|(partition, index)| render::entry_id(partition, index)),
            order_time: happened.map(|happened| render::stamp_message(happened.order_time)),
        };
        skipped.set_reason(reason);
        skipped
    }
}

fn path_text<T: Tree>(_: &T, path: Option<TreePath>) -> String {
    path.map_or_else(String::new, |path| path.to_string())
}

/// Steps that are seen: not those that only lead to others.
fn is_seen(step: &Step) -> bool {
    step.kind != Kind::Between
}
