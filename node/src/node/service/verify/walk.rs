//! [pure] Everything in the tree but directories, one after the other.

use aber_materializer::tree::{Node, ROOT, Tree};
use aber_proto::{FileId, TreePath, limit};

/// Children of a directory read at a time.
const PAGE: usize = 256;

/// Where a walk is: memory is a page, and the directories still to come.
#[derive(Debug)]
pub(in super::super) struct Walk {
    directories: Vec<(FileId, String)>,
    /// The directory that is read, its path, and the name after which the next page starts.
    at: Option<(FileId, String, Option<String>)>,
    page: std::vec::IntoIter<Node>,
}

impl Default for Walk {
    fn default() -> Self {
        Self {
            directories: vec![(ROOT, String::new())],
            at: None,
            page: Vec::new().into_iter(),
        }
    }
}

impl Walk {
    /// One file, or what is below one directory; all of the tree where there is no node.
    pub(super) fn of(node: Option<Node>, path: &TreePath) -> Self {
        let Some(node) = node else {
            return Self::default();
        };
        if node.is_directory() {
            return Self {
                directories: vec![(node.id, path.to_string())],
                ..Self::default()
            };
        }
        let above = path.parent().filter(|above| !above.is_root());
        let above = above.map_or_else(String::new, |above| above.to_string());
        // A file has no children, so nothing follows it.
        Self {
            directories: Vec::new(),
            at: Some((node.id, above, None)),
            page: vec![node].into_iter(),
        }
    }

    /// The next file or link, and its path.
    pub(in super::super) fn next(&mut self, tree: &impl Tree) -> Option<(Node, String)> {
        loop {
            if let Some(node) = self.page.next() {
                let (_, directory, _) = self.at.as_ref()?;
                let path = format!("{directory}/{}", node.name);
                if !node.is_directory() {
                    return Some((node, path));
                }
                self.directories.push((node.id, path));
                continue;
            }
            let (id, path, after) = match self.at.take() {
                Some(at) => at,
                None => {
                    let (id, path) = self.directories.pop()?;
                    (id, path, None)
                }
            };
            // An index that fails is rebuilt by the replay, which learns of it first.
            let page = tree
                .children(id, after.as_deref(), PAGE)
                .unwrap_or_default();
            if let Some(last) = page.last() {
                self.at = Some((id, path, Some(last.name.clone())));
                self.page = page.into_iter();
            }
        }
    }
}

/// Where a node is; `None` if it is nowhere.
pub(super) fn path_of(tree: &impl Tree, id: FileId) -> Option<String> {
    let (mut at, mut path) = (id, String::new());
    for _ in 0..=limit::PATH_DEPTH {
        if at == ROOT {
            return Some(path);
        }
        let node = tree.node(at).ok()??;
        path = format!("/{}{path}", node.name);
        at = node.parent;
    }
    None
}
