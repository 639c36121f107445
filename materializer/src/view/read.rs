//! [pure] Reading the tree over the views of all partitions.
//!
//! Answers come from several rows; a commit in between may show as absence, never as damage. While
//! a snapshot is being installed its partition must not be read: see [`TreeView::is_installing`].

use super::Applied;
use super::moment::{Forgiven, Moment};
use super::namespace::volume_root;
use super::outcome::RequestOutcome;
use super::table::{
    self, AppliedRow, AuthorRow, FileRow, InodeRow, Kind, NameRow, RequestRow, Row, Table,
};
use super::table::{VersionRow, VolumeRow};
use crate::tree::{Node, NodeKind, ROOT, Tree};
use aber_log::env::Kv;
use aber_log::env::kv::{KvProblem, prefix_end};
use aber_proto::{
    ChangeHash, ChunkHash, Content, EventId, FileId, FileTime, PartitionId, Place, RelPath,
};
use aber_proto::{NodeId, RequestId, TreePath, VolumeId, limit};
use std::sync::Arc;

/// Reads the views of all partitions in one index.
#[derive(Clone, Debug)]
pub struct TreeView<K> {
    pub(super) kv: K,
    /// What it shows; `None`: what is applied now.
    pub(super) moment: Option<Arc<Moment>>,
    /// Where files without content are noted that listings leave out.
    pub(super) forgiven: Option<Forgiven>,
}

/// What a path of the tree names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Found {
    /// The root itself.
    Root,
    /// A node.
    Node(Node),
    /// Nothing. The deepest directory on the way that exists, and the number of names to it.
    Missing {
        /// The directory, volume or root.
        deepest: FileId,
        /// How many names of the path exist.
        names: usize,
    },
    /// A file or symlink stands on the way.
    NotADirectory(Node),
}

/// Where a path of the tree belongs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Resolved {
    /// In this partition, at this place. The path of a volume itself is its root in its own
    /// partition.
    At {
        /// The partition whose log holds it.
        partition: PartitionId,
        /// The place, as events name it.
        place: Place,
    },
    /// Below a top-level name that does not exist: a volume would have to be made.
    NoVolume(String),
    /// Below a top-level name that is a file or symlink.
    NotADirectory(String),
}

/// A volume.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Volume {
    /// Its id.
    pub id: VolumeId,
    /// Its node in the control partition; the parent of its content.
    pub file: FileId,
    /// Its name at the root.
    pub name: String,
    /// The partition that holds its content.
    pub partition: PartitionId,
}

/// One version of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Version {
    /// The file.
    pub file: FileId,
    /// The event that made it: its etag.
    pub version: EventId,
    /// The version before it.
    pub previous: Option<EventId>,
    /// Nine permission bits, as they were last.
    pub mode: u16,
    /// Modification time, as it was last.
    pub mtime: FileTime,
    /// Its bytes.
    pub content: Content,
}

impl<K: Kv> TreeView<K> {
    /// Reads this index.
    #[must_use]
    pub fn new(kv: K) -> Self {
        Self {
            kv,
            moment: None,
            forgiven: None,
        }
    }

    pub(super) fn row<R: Row>(&self, key: &[u8]) -> Result<Option<R>, KvProblem> {
        self.kv
            .get(key)?
            .map(|value| R::decode(key, &value).map_err(|_| table::damaged(key)))
            .transpose()
    }

    /// How far the view of a partition is; `None` if it has none yet.
    ///
    /// # Errors
    /// The index failed.
    pub fn applied(&self, partition: PartitionId) -> Result<Option<Applied>, KvProblem> {
        let row: Option<AppliedRow> = self.row(&table::table_key(partition, Table::Applied))?;
        Ok(row.map(|row| row.to_applied()))
    }

    /// Whether a snapshot of a partition is being installed: what is there now means nothing.
    ///
    /// # Errors
    /// The index failed.
    pub fn is_installing(&self, partition: PartitionId) -> Result<bool, KvProblem> {
        let key = table::table_key(partition, Table::Installing);
        Ok(self.kv.get(&key)?.is_some())
    }

    /// The partition that holds a directory's names; `None` if a volume is gone.
    pub(super) fn names_in(&self, directory: FileId) -> Result<Option<PartitionId>, KvProblem> {
        if directory == ROOT || directory.partition != PartitionId::CONTROL {
            return Ok(Some(directory.partition));
        }
        let Some(node) = self.node(directory)? else {
            return Ok(None);
        };
        let NodeKind::Volume(partition) = node.kind else {
            return Ok(Some(PartitionId::CONTROL));
        };
        if let Some(moment) = &self.moment {
            let (volume, index) = (VolumeId::made_by(directory), moment.index(partition));
            if self.forgotten(partition, volume, index)?.is_some() {
                return Err(table::forgotten(&table::inode_key(directory)));
            }
        }
        Ok(Some(partition))
    }

    /// What a path names now.
    ///
    /// # Errors
    /// The index failed.
    pub fn lookup(&self, path: &TreePath) -> Result<Found, KvProblem> {
        let (mut directory, mut partition) = (ROOT, PartitionId::CONTROL);
        let mut names = path.components().enumerate().peekable();
        if names.peek().is_none() {
            return Ok(Found::Root);
        }
        while let Some((position, name)) = names.next() {
            let missing = Found::Missing {
                deepest: directory,
                names: position,
            };
            let Some(child) = self.name_then(partition, directory, name)? else {
                return Ok(missing);
            };
            let last = names.peek().is_none();
            if last || matches!(child.kind, Kind::File | Kind::Symlink) {
                let found = if last {
                    Found::Node
                } else {
                    Found::NotADirectory
                };
                return Ok(self.node(child.id)?.map_or(missing, found));
            }
            if child.kind == Kind::Volume {
                let Some(content) = self.names_in(child.id)? else {
                    return Ok(missing);
                };
                partition = content;
            }
            directory = child.id;
        }
        Ok(Found::Root)
    }

    /// The present path of a file, directory or volume; `None` if it is gone, or below something
    /// that is.
    ///
    /// # Errors
    /// The index failed.
    pub fn path_of(&self, file: FileId) -> Result<Option<TreePath>, KvProblem> {
        let mut names = Vec::new();
        let mut at = file;
        while at != ROOT {
            if names.len() > limit::PATH_DEPTH {
                return Ok(None);
            }
            // Where something was is told longer than what it held.
            let Some((row, _)) = self.inode_without_content(at)? else {
                return Ok(None);
            };
            at = row.node.parent;
            names.push(row.node.name);
        }
        names.reverse();
        Ok(TreePath::parse(&format!("/{}", names.join("/"))).ok())
    }

    /// Where a path belongs: which partition, and which place in it.
    ///
    /// # Errors
    /// The index failed.
    pub fn resolve(&self, path: &TreePath) -> Result<Resolved, KvProblem> {
        let at_root = |path: RelPath| Resolved::At {
            partition: PartitionId::CONTROL,
            place: Place {
                volume: VolumeId::ROOT,
                path,
            },
        };
        let Some((name, rest)) = path.split_volume() else {
            return Ok(at_root(RelPath::root()));
        };
        let child = self.name_then(PartitionId::CONTROL, ROOT, name)?;
        let volume = child.filter(|child| child.kind == Kind::Volume);
        let content = match volume {
            Some(child) => self.names_in(child.id)?.zip(Some(child.id)),
            None => None,
        };
        if let Some((partition, id)) = content {
            let volume = VolumeId::made_by(id);
            return Ok(Resolved::At {
                partition,
                place: Place { volume, path: rest },
            });
        }
        if rest.is_root() {
            let path = RelPath::root().join(name).unwrap_or_default();
            return Ok(at_root(path));
        }
        Ok(match child {
            Some(_) => Resolved::NotADirectory(name.to_owned()),
            None => Resolved::NoVolume(name.to_owned()),
        })
    }

    /// The volumes, in order of their ids.
    ///
    /// # Errors
    /// The index failed.
    pub fn volumes(&self) -> Result<Vec<Volume>, KvProblem> {
        if self.moment.is_some() {
            return self.volumes_then();
        }
        let prefix = table::table_key(PartitionId::CONTROL, Table::Volume);
        let (mut from, to) = (prefix.clone(), prefix_end(&prefix));
        let mut volumes = Vec::new();
        loop {
            let page = self.kv.scan(&from, &to, limit::PAGE_ITEMS)?;
            let Some((last, _)) = page.last() else {
                return Ok(volumes);
            };
            from = [last, [0].as_slice()].concat();
            for (key, value) in &page {
                let id = table::volume_of(key).ok_or_else(|| table::damaged(key))?;
                let row = VolumeRow::decode(key, value).map_err(|_| table::damaged(key))?;
                let file = volume_root(id);
                if let Some(node) = self.node(file)? {
                    volumes.push(Volume {
                        id,
                        file,
                        name: node.name,
                        partition: row.0,
                    });
                }
            }
        }
    }

    /// What a request was answered, and at which index.
    ///
    /// # Errors
    /// The index failed.
    pub fn request(
        &self,
        partition: PartitionId,
        request: RequestId,
    ) -> Result<Option<(u64, RequestOutcome)>, KvProblem> {
        let row: Option<RequestRow> = self.row(&table::request_key(partition, request))?;
        Ok(row.map(|row| (row.index, row.outcome)))
    }

    /// The sequence number and hash of the last change of an author that counted in a partition:
    /// what is not above it is void (promise D3).
    ///
    /// # Errors
    /// The index failed.
    pub fn author(
        &self,
        partition: PartitionId,
        author: NodeId,
    ) -> Result<Option<(u64, ChangeHash)>, KvProblem> {
        let row: Option<AuthorRow> = self.row(&table::author_key(partition, author))?;
        Ok(row.map(|row| (row.sequence, row.change)))
    }

    /// The file that a version is of, whether file and version are current or not. A first version
    /// has the id of its file.
    ///
    /// # Errors
    /// The index failed.
    pub fn file_of(&self, version: EventId) -> Result<Option<FileId>, KvProblem> {
        if let Some(FileRow(file)) = self.row(&table::version_file_key(version))? {
            return Ok(Some(file));
        }
        let found = self.version(version, version)?;
        Ok(found.map(|version| version.file))
    }

    /// A version of a file, present or earlier, whether the file still exists or not.
    ///
    /// # Errors
    /// The index failed.
    pub fn version(&self, file: FileId, version: EventId) -> Result<Option<Version>, KvProblem> {
        // Of now, whatever moment is shown: what is earlier than that is an earlier version.
        let present: Option<InodeRow> = self.row(&table::inode_key(file))?;
        if let Some(InodeRow { node, .. }) = present
            && node.version == version
            && let NodeKind::File(content) = node.kind
        {
            return Ok(Some(Version {
                file,
                version,
                previous: node.previous,
                mode: node.mode,
                mtime: node.mtime,
                content,
            }));
        }
        let row: Option<VersionRow> = self.row(&table::version_key(file, version))?;
        Ok(row.map(|row| earlier(file, version, row)))
    }

    /// Versions of a file that are not current any more, the oldest first, after one, at most
    /// `limit`. Of a removed file these are all.
    ///
    /// # Errors
    /// The index failed.
    pub fn earlier_versions(
        &self,
        file: FileId,
        after: Option<EventId>,
        limit: usize,
    ) -> Result<Vec<Version>, KvProblem> {
        let prefix = table::versions_prefix(file);
        let from = match after {
            Some(version) => [table::version_key(file, version).as_slice(), &[0]].concat(),
            None => prefix.clone(),
        };
        self.kv
            .scan(&from, &prefix_end(&prefix), limit)?
            .into_iter()
            .map(|(key, value)| {
                let damaged = || table::damaged(&key);
                let version = table::version_of(file.partition, &key).ok_or_else(damaged)?;
                let row = VersionRow::decode(&key, &value).map_err(|_| damaged())?;
                Ok(earlier(file, version, row))
            })
            .collect()
    }

    /// Whether any applied change of any partition named this chunk. Of a content whose chunk list
    /// is itself stored, the chunks of the list are known here, those in it are not.
    ///
    /// # Errors
    /// The index failed.
    pub fn is_referenced(&self, chunk: &ChunkHash) -> Result<bool, KvProblem> {
        Ok(self.kv.get(&table::reference_key(chunk))?.is_some())
    }
}

/// Whether a read failed because retention let go of what it asked for: the index is in order.
#[must_use]
pub fn is_forgotten(problem: &KvProblem) -> bool {
    problem.what.starts_with(table::FORGOTTEN)
}

fn earlier(file: FileId, version: EventId, row: VersionRow) -> Version {
    Version {
        file,
        version,
        previous: row.previous,
        mode: row.mode,
        mtime: row.mtime,
        content: row.content,
    }
}

impl<K: Kv> Tree for TreeView<K> {
    fn node(&self, id: FileId) -> Result<Option<Node>, KvProblem> {
        if id == ROOT {
            return Ok(None);
        }
        Ok(self.inode(id)?.map(|row| row.node))
    }

    fn child(&self, directory: FileId, name: &str) -> Result<Option<Node>, KvProblem> {
        let Some(partition) = self.names_in(directory)? else {
            return Ok(None);
        };
        match self.name_then(partition, directory, name)? {
            Some(child) => self.node(child.id),
            None => Ok(None),
        }
    }

    fn children(
        &self,
        directory: FileId,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Node>, KvProblem> {
        let Some(partition) = self.names_in(directory)? else {
            return Ok(Vec::new());
        };
        if self.moment.is_some() {
            let names = self.names_then(partition, directory, after, limit)?;
            return self.nodes_of(&names);
        }
        let prefix = table::names_prefix(partition, directory);
        let mut from = prefix.clone();
        if let Some(after) = after {
            from.extend_from_slice(after.as_bytes());
            from.push(0);
        }
        let mut nodes = Vec::new();
        for (key, value) in self.kv.scan(&from, &prefix_end(&prefix), limit)? {
            let row = NameRow::decode(&key, &value).map_err(|_| table::damaged(&key))?;
            nodes.extend(self.node(row.id)?);
        }
        Ok(nodes)
    }
}
