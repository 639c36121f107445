//! [driver] The versions of one file, from one to the one before.

use super::history::{KnownNames, decode_cursor, encode_cursor};
use super::read::Writers;
use super::{NodeService, index_problem, parse_path, render};
use crate::reason::{Problem, Reason};
use crate::service::Answer;
use aber_log::env::Env;
use aber_materializer::tree::{Node, NodeKind, ROOT, Tree};
use aber_materializer::view::Version;
use aber_proto::generated::v1;
use aber_proto::{EventId, FileId, PartitionId, TreePath};
use std::sync::Arc;

const PAGE_DEFAULT: usize = 100;
const PAGE_MOST: usize = 1000;

impl<E: Env> NodeService<E> {
    pub(super) fn versions(
        &self,
        request: v1::ListVersionsRequest,
    ) -> Answer<v1::ListVersionsResponse> {
        let path = parse_path(&request.path)?;
        let node = self.file_at(&path, request.at.as_ref())?;
        let most = match usize::try_from(request.page_size).unwrap_or(0) {
            0 => PAGE_DEFAULT,
            asked => asked.min(PAGE_MOST),
        };
        let mut next = if request.page_token.is_empty() {
            Some(node.version)
        } else {
            Some(read_token(&request.page_token, node.id.partition)?)
        };
        let (mut versions, mut writers) = (Vec::new(), Writers::default());
        let names = self.names();
        while let Some(version) = next.filter(|_| versions.len() < most) {
            let tree = &self.node.parts.tree;
            let found = tree.version(node.id, version).map_err(index_problem)?;
            let Some(found) = found else { break };
            next = found.previous;
            versions.push(self.version_shown(found, &mut writers, &names)?);
        }
        Ok(v1::ListVersionsResponse {
            versions,
            next_page_token: next.map(token_of).unwrap_or_default(),
        })
    }

    /// The file that stood at a path at a moment; now, or last, if none is named.
    fn file_at(&self, path: &TreePath, at: Option<&v1::At>) -> Result<Node, Problem> {
        let tree = &self.node.parts.tree;
        let moment = self.moment(at, path.as_str())?;
        let node = match moment {
            Some(moment) => self.find_in(&tree.at(Arc::new(moment)), path)?,
            None => match self.find(path) {
                Ok(found) => found,
                Err(problem) => match self.last_at(path)? {
                    Some((_, node)) => Some(node),
                    None => return Err(problem),
                },
            },
        };
        match node {
            Some(node) if matches!(node.kind, NodeKind::File(_)) => Ok(node),
            Some(node) if !node.is_directory() => {
                Err(Problem::new(Reason::NotAFile).with("path", path))
            }
            _ => Err(Problem::new(Reason::IsADirectory).with("path", path)),
        }
    }

    fn version_shown(
        &self,
        version: Version,
        writers: &mut Writers,
        names: &KnownNames,
    ) -> Result<v1::Version, Problem> {
        let made = version.version;
        // Where it stood is told without the names of volumes: those are of now.
        let then = self.tree_after(made.partition, made.index, u64::MAX);
        let place = match then.node(version.file).map_err(index_problem)? {
            Some(node) => then.place_of(&node).map_err(index_problem)?,
            None => None,
        };
        let path = place.map_or_else(String::new, |place| render::place_text(&place, names));
        let tree = &self.node.parts.tree;
        let present = tree.node(version.file).map_err(index_problem)?;
        let previous = version.previous;
        let node = Node {
            id: version.file,
            parent: ROOT,
            name: String::new(),
            kind: NodeKind::File(version.content),
            mode: version.mode,
            mtime: version.mtime,
            version: made,
            previous,
            changed: made.index,
        };
        let mut item = render::item(path, &node);
        self.add_writer(&mut item, writers);
        Ok(v1::Version {
            item: Some(item),
            previous_etag: previous.map_or_else(String::new, |etag| etag.to_string()),
            is_present: present.is_some_and(|node| node.version == made),
        })
    }

    /// The version before one; of a copy's first, the one it was copied from.
    pub(super) fn version_before_or_source(
        &self,
        file: FileId,
        version: &Version,
    ) -> Result<Option<Version>, Problem> {
        let tree = &self.node.parts.tree;
        if let Some(previous) = version.previous {
            return tree.version(file, previous).map_err(index_problem);
        }
        let made = version.version;
        let Some(source) = self.copied_from(made.partition, made.index, made.ordinal)? else {
            return Ok(None);
        };
        match tree.file_of(source).map_err(index_problem)? {
            Some(file) => tree.version(file, source).map_err(index_problem),
            None => Ok(None),
        }
    }
}

/// A version of a known partition: its index, and its place in the change.
fn token_of(version: EventId) -> String {
    let rows = [
        (PartitionId(0), version.index),
        (PartitionId(1), u64::from(version.ordinal)),
    ];
    data_encoding::HEXLOWER.encode(&encode_cursor(rows.into_iter()))
}

fn read_token(token: &str, partition: PartitionId) -> Result<EventId, Problem> {
    let foreign = || Problem::new(Reason::CursorForeign).with("detail", "the page token");
    let bytes = data_encoding::HEXLOWER.decode(token.as_bytes());
    let rows = decode_cursor(&bytes.map_err(|_| foreign())?).ok_or_else(foreign)?;
    let number = |row| rows.get(&PartitionId(row)).copied().ok_or_else(foreign);
    Ok(EventId {
        partition,
        index: number(0)?,
        ordinal: u32::try_from(number(1)?).map_err(|_| foreign())?,
    })
}
