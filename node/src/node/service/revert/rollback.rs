//! [driver] A tree as it was: every node that changed since, and what it was.

use super::super::{NodeService, index_problem, parse_path};
use super::{Asked, is_same, path_text};
use crate::reason::Problem;
use aber_log::env::Env;
use aber_materializer::revert::Wish;
use aber_materializer::tree::{Node, NodeKind, Tree};
use aber_materializer::view::{Moment, TreeView, is_forgotten};
use aber_proto::generated::v1::{self, SkipReason};
use aber_proto::{Act, FileId, NodeId, PartitionId, TreePath};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What a rollback looks at.
struct Rollback<'a, K> {
    then: TreeView<K>,
    now: TreeView<K>,
    path: TreePath,
    since: &'a Moment,
    /// Whose versions may be replaced.
    named: Vec<NodeId>,
    /// Whether only what they changed comes back.
    only_theirs: bool,
    keep_new: bool,
    all: bool,
}

impl<E: Env> NodeService<E> {
    pub(super) fn wish_rollback(
        &self,
        to: &v1::RevertTo,
        all: bool,
    ) -> Result<Asked<E::Kv>, Problem> {
        let path = parse_path(&to.path)?;
        let moment = self.moment(to.at.as_ref(), &to.path)?;
        let moment = moment.ok_or_else(|| Problem::usage("a rollback needs a WHEN"))?;
        if path.is_root() {
            self.check_whole(&moment)?;
        }
        let present = self.present_moment();
        let tree = &self.node.parts.tree;
        let rollback = Rollback {
            then: tree.at(Arc::new(moment.clone())),
            now: tree.at(Arc::new(present.clone())),
            path,
            since: &moment,
            named: self.authors(&to.authors)?,
            only_theirs: !to.authors.is_empty(),
            keep_new: to.keep_new,
            all,
        };
        let mut asked = Asked::to_moment(Act::Rollback, tree, &moment, present.clone())?;
        for (partition, last) in &present.0 {
            let since = moment.index(*partition);
            let changed = self.changed_in(&rollback.now, *partition, (since, *last))?;
            for (id, entries) in changed {
                self.wish_node(&rollback, id, &entries, &mut asked)?;
            }
        }
        keep_volumes_in_use(&mut asked)?;
        Ok(asked)
    }

    /// What it held then is nowhere any more: it stays as it is.
    fn skip_forgotten(
        &self,
        rollback: &Rollback<'_, E::Kv>,
        id: FileId,
        asked: &mut Asked<E::Kv>,
    ) -> Result<(), Problem> {
        let path = rollback.then.path_of(id).map_err(index_problem)?;
        if path
            .as_ref()
            .is_some_and(|path| path.is_within(&rollback.path))
        {
            let path = path_text(&rollback.then, path);
            let skipped = self.skipped(path, SkipReason::ContentForgotten, None);
            asked.skipped.push(skipped);
        }
        Ok(())
    }

    fn wish_node(
        &self,
        rollback: &Rollback<'_, E::Kv>,
        id: FileId,
        entries: &[u64],
        asked: &mut Asked<E::Kv>,
    ) -> Result<(), Problem> {
        let then = match rollback.then.node(id) {
            Err(problem) if is_forgotten(&problem) => {
                return self.skip_forgotten(rollback, id, asked);
            }
            then => then.map_err(index_problem)?,
        };
        let wish = Wish {
            then,
            now: rollback.now.node(id).map_err(index_problem)?,
        };
        let made_since = wish.then.is_none();
        if is_same(wish.then.as_ref(), wish.now.as_ref()) || (rollback.keep_new && made_since) {
            return Ok(());
        }
        let path = |tree: &TreeView<E::Kv>, node: &Option<Node>| match node {
            Some(_) => tree.path_of(id).map_err(index_problem),
            None => Ok(None),
        };
        let (then_path, now_path) = (
            path(&rollback.then, &wish.then)?,
            path(&rollback.now, &wish.now)?,
        );
        let is_inside = |path: &Option<TreePath>| {
            path.as_ref()
                .is_some_and(|path| path.is_within(&rollback.path))
        };
        if !is_inside(&then_path) && !is_inside(&now_path) {
            return Ok(());
        }
        if rollback.only_theirs {
            let mut is_theirs = false;
            for index in entries {
                let author = self.author_of(id.partition, *index)?;
                is_theirs |= author.is_some_and(|author| rollback.named.contains(&author));
            }
            if !is_theirs {
                return Ok(());
            }
        }
        // Content that somebody else wrote since is not lost without a word.
        if let Some(now) = &wish.now
            && !rollback.all
            && now.version.index > rollback.since.index(id.partition)
        {
            let author = self.author_of(now.version.partition, now.version.index)?;
            if author.is_some_and(|author| !rollback.named.contains(&author)) {
                let shown = path_text(&rollback.now, now_path);
                let by = Some((now.version.partition, now.version.index));
                asked
                    .skipped
                    .push(self.skipped(shown, SkipReason::ChangedByOthers, by));
                return Ok(());
            }
        }
        if let Some(path) = then_path {
            asked.old_paths.insert(id, path.to_string());
        }
        let partition = asked.wishes.entry(id.partition).or_default();
        partition.insert(id, wish);
        Ok(())
    }
}

/// Volumes by their file ids.
pub(super) fn volumes_of<K: aber_log::env::Kv>(
    tree: &TreeView<K>,
) -> Result<BTreeMap<FileId, String>, Problem> {
    let volumes = tree.volumes().map_err(index_problem)?;
    Ok(volumes
        .into_iter()
        .map(|volume| (volume.file, volume.name))
        .collect())
}

/// A volume that was made since goes only if all that is in it does: its partition cannot tell.
pub(super) fn keep_volumes_in_use<K: aber_log::env::Kv>(
    asked: &mut Asked<K>,
) -> Result<(), Problem> {
    let control = asked.wishes.get(&PartitionId::CONTROL);
    let doomed: Vec<(FileId, PartitionId)> = control
        .into_iter()
        .flatten()
        .filter(|(_, wish)| wish.then.is_none())
        .filter_map(|(id, wish)| match wish.now.as_ref()?.kind {
            NodeKind::Volume(partition) => Some((*id, partition)),
            _ => None,
        })
        .collect();
    for (id, partition) in doomed {
        if !goes_whole(asked, partition, id, 0)?
            && let Some(wishes) = asked.wishes.get_mut(&PartitionId::CONTROL)
        {
            wishes.remove(&id);
        }
    }
    Ok(())
}

fn goes_whole<K: aber_log::env::Kv>(
    asked: &Asked<K>,
    partition: PartitionId,
    directory: FileId,
    depth: usize,
) -> Result<bool, Problem> {
    if depth > aber_proto::limit::PATH_DEPTH {
        return Ok(false);
    }
    let mut after: Option<String> = None;
    loop {
        let page = asked.now.children(directory, after.as_deref(), 256);
        let page = page.map_err(index_problem)?;
        let Some(last) = page.last() else {
            return Ok(true);
        };
        after = Some(last.name.clone());
        for child in page {
            let wishes = asked.wishes.get(&partition);
            let wish = wishes.and_then(|wishes| wishes.get(&child.id));
            let goes = wish.is_some_and(|wish| match &wish.then {
                None => true,
                Some(then) => then.parent != directory,
            });
            let below = !child.is_directory()
                || wish.is_some_and(|wish| wish.then.is_some())
                || goes_whole(asked, partition, child.id, depth + 1)?;
            if !goes || !below {
                return Ok(false);
            }
        }
    }
}
