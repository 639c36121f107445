//! [driver] One path as it was, with what was below it: what is missing comes back, what differs
//! gets its old content. Nothing is moved or removed.

use super::super::walk::{Level, Walk};
use super::super::{NodeService, index_problem, parse_path};
use super::{Asked, MOST_NODES, is_same};
use crate::reason::{Problem, Reason};
use aber_log::env::Env;
use aber_materializer::revert::Wish;
use aber_materializer::tree::{Node, NodeKind, ROOT};
use aber_materializer::view::{Found, Moment, TreeView};
use aber_proto::generated::v1::{self, SkipReason};
use aber_proto::{Act, FileId, NodeId, TreePath};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What a restore has found so far.
struct Restore {
    named: Vec<NodeId>,
    since: Moment,
    all: bool,
    /// Directories of then, and what stands at their paths now.
    stands_for: BTreeMap<FileId, FileId>,
}

impl<E: Env> NodeService<E> {
    pub(super) fn wish_restore(
        &self,
        to: &v1::RevertTo,
        all: bool,
    ) -> Result<Asked<E::Kv>, Problem> {
        let path = parse_path(&to.path)?;
        let moment = self.moment(to.at.as_ref(), &to.path)?;
        let moment = moment.ok_or_else(|| Problem::usage("a restore needs a WHEN"))?;
        let present = self.present_moment();
        let tree = &self.node.parts.tree;
        let then = tree.at(Arc::new(moment.clone()));
        let mut asked = Asked::to_moment(Act::Restore, tree, &moment, present)?;
        let mut restore = Restore {
            named: self.authors(&to.authors)?,
            since: moment,
            all,
            stands_for: BTreeMap::new(),
        };
        let top = self.find_in(&then, &path)?;
        self.wish_way_to(&then, &path, &mut restore, &mut asked)?;
        let directory = match &top {
            None => Some(ROOT),
            Some(node) => node.is_directory().then_some(node.id),
        };
        if let Some(directory) = directory {
            let prefix = path.as_str().trim_end_matches('/').to_owned();
            let (listed, forgiven) = then.forgiving();
            let mut walk = Walk::resume(&listed, Level::top(directory, prefix), "", true)?;
            let mut count = 0;
            while let Some(found) = walk.next(1)? {
                for (path, node) in found {
                    self.wish_path(&path, node, &mut restore, &mut asked)?;
                    count += 1;
                }
                if count > MOST_NODES {
                    return Err(Problem::new(Reason::ChangeTooLarge)
                        .with("events", format!("more than {MOST_NODES}"))
                        .with("limit", format!("{MOST_NODES} paths in one plan")));
                }
            }
            for id in forgiven.files() {
                let path = then.path_of(id).map_err(index_problem)?;
                let path = super::path_text(&then, path);
                let skipped = self.skipped(path, SkipReason::ContentForgotten, None);
                asked.skipped.push(skipped);
            }
        }
        Ok(asked)
    }

    /// The directories above a path come back too, and the path itself.
    fn wish_way_to(
        &self,
        then: &TreeView<E::Kv>,
        path: &TreePath,
        restore: &mut Restore,
        asked: &mut Asked<E::Kv>,
    ) -> Result<(), Problem> {
        let mut at = String::new();
        for name in path.components() {
            at = format!("{at}/{name}");
            let parsed = parse_path(&at)?;
            if let Some(node) = self.find_in(then, &parsed)? {
                self.wish_path(&at, node, restore, asked)?;
            }
        }
        Ok(())
    }

    fn wish_path(
        &self,
        path: &str,
        mut then: Node,
        restore: &mut Restore,
        asked: &mut Asked<E::Kv>,
    ) -> Result<(), Problem> {
        let parsed = parse_path(path)?;
        let now = match asked.now.lookup(&parsed).map_err(index_problem)? {
            Found::Node(node) => Some(node),
            _ => None,
        };
        let old_id = then.id;
        asked.old_paths.insert(old_id, path.to_owned());
        if let Some(parent) = restore.stands_for.get(&then.parent) {
            then.parent = *parent;
        }
        let Some(now) = now else {
            let wishes = asked.wishes.entry(old_id.partition).or_default();
            let wish = Wish {
                then: Some(then),
                now: None,
            };
            wishes.insert(old_id, wish);
            return Ok(());
        };
        if now.is_directory() && then.is_directory() {
            restore.stands_for.insert(old_id, now.id);
            return Ok(());
        }
        let is_file = |node: &Node| matches!(node.kind, NodeKind::File(_));
        if !is_file(&now) || !is_file(&then) {
            let is_same_link = now.kind == then.kind;
            if !is_same_link {
                let by = Some((now.version.partition, now.version.index));
                let skipped = self.skipped(path.to_owned(), SkipReason::InTheWay, by);
                asked.skipped.push(skipped);
            }
            return Ok(());
        }
        let wanted = Node {
            id: now.id,
            parent: now.parent,
            name: now.name.clone(),
            ..then
        };
        if is_same(Some(&wanted), Some(&now)) {
            return Ok(());
        }
        let version = now.version;
        if !restore.all && version.index > restore.since.index(version.partition) {
            let author = self.author_of(version.partition, version.index)?;
            if author.is_some_and(|author| !restore.named.contains(&author)) {
                let by = Some((version.partition, version.index));
                let skipped = self.skipped(path.to_owned(), SkipReason::ChangedByOthers, by);
                asked.skipped.push(skipped);
                return Ok(());
            }
        }
        asked.old_paths.insert(now.id, path.to_owned());
        let wishes = asked.wishes.entry(now.id.partition).or_default();
        let (id, now) = (now.id, Some(now));
        let then = Some(wanted);
        wishes.insert(id, Wish { then, now });
        Ok(())
    }
}
