//! [driver] A way back through the API of a node, and what it showed right after.

use super::{AberNode, write_options};
use crate::oracle::{Back, Listing, Went};
use crate::sim::outsider::Shown;
use crate::workload::Ticket;
use aber_log::env::Kv;
use aber_log::env::kv::KvProblem;
use aber_materializer::tree::{Node, NodeKind, ROOT, Tree};
use aber_materializer::view::{Found, Moment, Resolved, TreeView};
use aber_node::reason::{Problem, Reason};
use aber_node::service::Service;
use aber_proto::generated::v1::{self, apply_revert_response::Message};
use aber_proto::{FileId, PartitionId, TreePath};
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

/// Rows read at once.
const PAGE: usize = 256;

/// Plans and does it, as a user would who says yes at once.
pub(super) async fn roll_back(node: AberNode, ticket: Ticket, back: Back) -> Went {
    match plan_and_do(&node, ticket, &back).await {
        Ok(went) => went,
        Err(problem) => match problem.reason {
            // It is not in the outbox, or perhaps it is.
            Reason::StorageFailed | Reason::Stopping | Reason::Internal => Went::Unknown,
            reason => Went::Refused(format!("{reason:?}: {}", problem.why())),
        },
    }
}

async fn plan_and_do(node: &AberNode, ticket: Ticket, back: &Back) -> Result<Went, Problem> {
    let refused = |why: &str| Ok(Went::Refused(why.to_owned()));
    let Ok(path) = TreePath::parse(&back.path) else {
        return refused("no path");
    };
    let Ok(Resolved::At { partition, .. }) = node.node.parts.tree.resolve(&path) else {
        return refused("no volume");
    };
    let applied = |partition| {
        let applied = node.node.parts.applied.get(&partition);
        applied.and_then(|applied| applied.get())
    };
    let (Some(present), control) = (applied(partition), applied(PartitionId::CONTROL)) else {
        return refused("nothing is applied");
    };
    let then = present.saturating_sub(back.entries).max(1);
    let planned = node.service.plan_revert(request(back, partition, then));
    let planned = planned.await?;
    let mut look = Look {
        tree: node.node.parts.tree.clone(),
        path,
        partition,
        then,
        present,
        after: present,
        control: control.unwrap_or(0),
    };
    let is_whole = planned.skipped_count == 0;
    let Some(plan) = planned.plan.filter(|_| planned.change_count > 0) else {
        return Ok(Went::Done {
            entries: Vec::new(),
            showed: look.showed().filter(|_| is_whole),
        });
    };
    let result = apply(node, ticket, plan.id).await?;
    let Some(result) = result else {
        return Ok(Went::Unknown);
    };
    let entries = result.entries.iter();
    let entries: Vec<_> = entries
        .map(|entry| (PartitionId(entry.partition), entry.index))
        .collect();
    let one = match entries.as_slice() {
        [(of, index)] if *of == partition && planned.change_count == 1 => Some(*index),
        _ => None,
    };
    let showed = match one.filter(|_| is_whole && result.complete) {
        Some(index) => {
            look.after = index;
            look.showed()
        }
        None => None,
    };
    Ok(Went::Done { entries, showed })
}

fn request(back: &Back, partition: PartitionId, index: u64) -> v1::PlanRevertRequest {
    let entry = v1::EntryId {
        partition: partition.0,
        index,
    };
    let to = v1::RevertTo {
        path: back.path.clone(),
        at: Some(v1::At {
            at: Some(v1::at::At::After(entry)),
        }),
        ..v1::RevertTo::default()
    };
    v1::PlanRevertRequest {
        what: Some(v1::plan_revert_request::What::To(to)),
        all: back.all,
    }
}

/// The end of it; `None` if the node does not tell.
async fn apply(
    node: &AberNode,
    ticket: Ticket,
    plan_id: String,
) -> Result<Option<v1::RevertResult>, Problem> {
    let request = v1::ApplyRevertRequest {
        plan_id,
        options: Some(write_options(ticket)),
    };
    let mut answers = node.service.apply_revert(request).await?;
    let mut last = None;
    while let Some(answer) = answers.recv().await {
        if let Some(Message::Result(result)) = answer?.message {
            last = Some(result);
        }
    }
    Ok(last)
}

/// A path at three moments of its partition: the one gone back to, the one the plan was made of,
/// and the one just after it was done.
struct Look<K> {
    tree: TreeView<K>,
    path: TreePath,
    partition: PartitionId,
    then: u64,
    present: u64,
    after: u64,
    /// Of the control partition, when the plan was made.
    control: u64,
}

impl<K: Kv> Look<K> {
    /// The tree with this entry of the partition as its last, and with these volumes.
    fn at(&self, index: u64, control: u64) -> TreeView<K> {
        let mut moment = Moment([(PartitionId::CONTROL, control)].into());
        moment.0.insert(self.partition, index);
        self.tree.at(Arc::new(moment))
    }

    /// The tree that was gone back to, with the volumes there were at that time.
    fn at_then(&self) -> Result<TreeView<K>, KvProblem> {
        let happened = self.tree.happened(self.partition, self.then)?;
        let time = happened.map(|happened| happened.order_time);
        let control = match time {
            Some(time) => self.tree.index_at(PartitionId::CONTROL, time)?,
            None => None,
        };
        Ok(self.at(self.then, control.unwrap_or(0)))
    }

    /// The tree at this entry, with the volumes of the plan.
    fn at_plan(&self, index: u64) -> TreeView<K> {
        self.at(index, self.control)
    }

    /// The moment just before it was done.
    fn before(&self) -> u64 {
        self.after.saturating_sub(1).max(self.present)
    }

    /// What the path showed then, and after; `None` if that need not be the same: somebody else had a
    /// hand in it meanwhile, what is above is not what it was, or the index failed. What was put
    /// into a directory while that was elsewhere comes along with it, and is left out.
    fn showed(&self) -> Option<(Listing, Listing)> {
        let (then, after) = (self.at_then().ok()?, self.at_plan(self.after));
        let above = self.path.parent()?;
        let is_above = directory(&then, &above)? == directory(&after, &above)?;
        if !is_above || !self.is_alone().ok()? {
            return None;
        }
        let is_volume = above.is_root() && self.partition != PartitionId::CONTROL;
        if is_volume && directory(&then, &self.path).is_none() {
            return None;
        }
        let before = self.at_plan(self.before());
        let mut listings = (Listing::new(), Listing::new());
        for (path, _, shown) in list(&then, &self.path).ok()? {
            listings.0.insert(path, shown);
        }
        for (path, id, shown) in list(&after, &self.path).ok()? {
            let is_within = |path: TreePath| path.is_within(&self.path);
            let (stood, came_from) = (then.path_of(id).ok()?, before.path_of(id).ok()?);
            let is_new = !stood.is_some_and(is_within);
            let came_along = is_new && came_from.is_some_and(|from| !is_within(from));
            if listings.0.contains_key(&path) || !came_along {
                listings.1.insert(path, shown);
            }
        }
        Some(listings)
    }

    /// Whether no entry between plan and deed had to do with the path.
    fn is_alone(&self) -> Result<bool, KvProblem> {
        let before = self.before();
        let (first, second) = (self.at_plan(self.present), self.at_plan(before));
        let mut last = None;
        loop {
            let range = (self.present, before);
            let page = self.tree.changed(self.partition, range, last, PAGE)?;
            let Some(end) = page.last() else {
                return Ok(true);
            };
            last = Some(*end);
            for (_, id) in page {
                for tree in [&first, &second] {
                    let path = tree.path_of(id)?;
                    if path.is_some_and(|path| path.is_within(&self.path)) {
                        return Ok(false);
                    }
                }
            }
        }
    }
}

fn directory<K: Kv>(tree: &TreeView<K>, path: &TreePath) -> Option<FileId> {
    match tree.lookup(path).ok()? {
        Found::Root => Some(ROOT),
        Found::Node(node) => Some(node.id),
        Found::Missing { .. } | Found::NotADirectory(_) => None,
    }
}

/// What a path shows, and all below it, and by which nodes.
fn list<K: Kv>(
    tree: &TreeView<K>,
    path: &TreePath,
) -> Result<Vec<(PathBuf, FileId, Shown)>, KvProblem> {
    let mut listing = Vec::new();
    let Found::Node(top) = tree.lookup(path)? else {
        return Ok(listing);
    };
    let mut left = vec![(PathBuf::from(path.as_str()), top)];
    while let Some((at, node)) = left.pop() {
        let mut after: Option<String> = None;
        while node.is_directory() {
            let page = tree.children(node.id, after.as_deref(), PAGE)?;
            let Some(last) = page.last() else { break };
            after = Some(last.name.clone());
            left.extend(page.into_iter().map(|child| (at.join(&child.name), child)));
        }
        listing.push((at, node.id, shown(&node)));
    }
    Ok(listing)
}

fn shown(node: &Node) -> Shown {
    match &node.kind {
        NodeKind::Directory | NodeKind::Volume(_) => Shown::Directory,
        NodeKind::Symlink(target) => Shown::Symlink(OsString::from(target)),
        NodeKind::File(content) => Shown::File {
            content: content.blake3(),
            size: content.size(),
            mode: node.mode.into(),
        },
    }
}
