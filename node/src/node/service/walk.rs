//! [pure] Walking a tree, a parent before its children, in order of their names' bytes.

use super::index_problem;
use crate::reason::{Problem, Reason};
use aber_materializer::tree::{Node, Tree};
use aber_proto::FileId;
use std::collections::VecDeque;

/// Children of a directory read at a time by a walk that goes below.
const PAGE: usize = 256;

/// A directory on the way: where to go on in it.
pub(super) struct Level {
    directory: FileId,
    path: String,
    after: Option<String>,
    /// Children that were read, and not given out yet.
    ready: VecDeque<Node>,
}

impl Level {
    /// Where a walk begins: a directory, and its path without a slash at the end.
    pub(super) fn top(directory: FileId, path: String) -> Self {
        Self {
            directory,
            path,
            after: None,
            ready: VecDeque::new(),
        }
    }
}

/// A walk over a directory, or over all that is below it.
pub(super) struct Walk<T> {
    tree: T,
    levels: Vec<Level>,
    is_recursive: bool,
}

impl<T: Tree> Walk<T> {
    /// Goes on after the path that a token names; from the beginning where it names none.
    ///
    /// # Errors
    /// The token is none of this walk, or the index failed.
    pub(super) fn resume(
        tree: &T,
        top: Level,
        token: &str,
        is_recursive: bool,
    ) -> Result<Self, Problem> {
        let prefix = top.path.clone();
        let mut walk = Self {
            tree: tree.clone(),
            levels: vec![top],
            is_recursive,
        };
        if token.is_empty() {
            return Ok(walk);
        }
        let foreign = || Problem::new(Reason::CursorForeign).with("detail", "the page token");
        let below = token
            .strip_prefix(&format!("{prefix}/"))
            .ok_or_else(foreign)?;
        for name in below.split('/') {
            let Some(level) = walk.levels.last_mut() else {
                return Err(foreign());
            };
            level.after = Some(name.to_owned());
            let path = format!("{}/{name}", level.path);
            let child = walk.tree.child(level.directory, name);
            let child = child.map_err(index_problem)?;
            match child.filter(|child| is_recursive && child.is_directory()) {
                Some(child) => walk.levels.push(Level::top(child.id, path)),
                None => break,
            }
        }
        Ok(walk)
    }

    /// The next names of the deepest level that has any, at most `wanted`, one of a walk that goes
    /// below; `None` when all are listed.
    ///
    /// # Errors
    /// The index failed.
    pub(super) fn next(&mut self, wanted: usize) -> Result<Option<Vec<(String, Node)>>, Problem> {
        while let Some(level) = self.levels.last_mut() {
            if level.ready.is_empty() {
                let page = if self.is_recursive { PAGE } else { wanted };
                let children = self
                    .tree
                    .children(level.directory, level.after.as_deref(), page);
                level.ready = children.map_err(index_problem)?.into();
            }
            let count = if self.is_recursive { 1 } else { wanted };
            let count = count.min(level.ready.len());
            let parent = level.path.clone();
            let named = level.ready.drain(..count);
            let found: Vec<_> = named
                .map(|child| (format!("{parent}/{}", child.name), child))
                .collect();
            let Some((_, last)) = found.last() else {
                self.levels.pop();
                continue;
            };
            level.after = Some(last.name.clone());
            if self.is_recursive {
                let below = found.iter().filter(|(_, child)| child.is_directory());
                let below = below.map(|(path, child)| Level::top(child.id, path.clone()));
                self.levels.extend(below);
            }
            return Ok(Some(found));
        }
        Ok(None)
    }
}
