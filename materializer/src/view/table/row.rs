//! [pure] The values of rows. What a key says is not repeated in its value.

use super::{FORMAT, inode_of, partition_of};
use crate::tree::{Node, NodeKind};
use crate::view::code::{Cursor, Damaged, Writer};
use crate::view::outcome::{Rejection, RequestOutcome};
use aber_proto::{ChainHash, ChangeHash, ClusterId, Content, EventId, FileId};
use aber_proto::{FileTime, LogId, PartitionId, RequestId, Timestamp};
use bytes::Bytes;

/// A row with one encoding.
pub(crate) trait Row: Sized {
    /// Appends the value's bytes. What the key says is not repeated.
    fn write(&self, out: &mut Writer);
    /// Reads it for the row of `key`.
    fn read(key: &[u8], cursor: &mut Cursor<'_>) -> Result<Self, Damaged>;

    /// The value's bytes.
    fn encode(&self) -> Vec<u8> {
        let mut out = Writer(Vec::with_capacity(96));
        self.write(&mut out);
        out.0
    }

    /// The inverse of [`Row::encode`]; refuses any other spelling.
    fn decode(key: &[u8], value: &[u8]) -> Result<Self, Damaged> {
        let mut cursor = Cursor(value);
        let row = Self::read(key, &mut cursor)?;
        cursor.end()?;
        Ok(row)
    }
}

/// How far a view is, and counters of the whole partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct AppliedRow {
    pub(crate) cluster: ClusterId,
    pub(crate) log_id: LogId,
    pub(crate) chain: ChainHash,
    pub(crate) order_time: Timestamp,
    pub(crate) control_index: u64,
    pub(crate) files: u64,
    pub(crate) bytes: u64,
    /// Positions of the oldest request remembered and of the next one.
    pub(crate) requests: (u64, u64),
    /// No path below a volume's root is longer, in bytes.
    pub(crate) longest_bytes: u64,
    /// No path below a volume's root is deeper.
    pub(crate) deepest: u64,
}

impl Row for AppliedRow {
    fn write(&self, out: &mut Writer) {
        out.byte(FORMAT);
        out.raw(&self.cluster.0);
        out.number(self.log_id.term);
        out.number(self.log_id.index);
        out.raw(&self.chain.0);
        out.signed(self.order_time.0);
        out.number(self.control_index);
        out.number(self.files);
        out.number(self.bytes);
        out.number(self.requests.0);
        out.number(self.requests.1);
        out.number(self.longest_bytes);
        out.number(self.deepest);
    }

    fn read(_: &[u8], cursor: &mut Cursor<'_>) -> Result<Self, Damaged> {
        if cursor.byte()? != FORMAT {
            return Err(Damaged);
        }
        let cluster = ClusterId(cursor.array()?);
        let (term, index) = (cursor.number()?, cursor.number()?);
        Ok(Self {
            cluster,
            log_id: LogId { term, index },
            chain: ChainHash(cursor.array()?),
            order_time: Timestamp(cursor.signed()?),
            control_index: cursor.number()?,
            files: cursor.number()?,
            bytes: cursor.number()?,
            requests: (cursor.number()?, cursor.number()?),
            longest_bytes: cursor.number()?,
            deepest: cursor.number()?,
        })
    }
}

/// What a name points to. The child is of the same partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct NameRow {
    pub(crate) id: FileId,
    pub(crate) kind: Kind,
}

/// A node's kind without its content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Kind {
    Directory = 0,
    Volume = 1,
    File = 2,
    Symlink = 3,
}

impl Kind {
    pub(crate) fn of(kind: &NodeKind) -> Self {
        match kind {
            NodeKind::Directory => Self::Directory,
            NodeKind::Volume(_) => Self::Volume,
            NodeKind::File(_) => Self::File,
            NodeKind::Symlink(_) => Self::Symlink,
        }
    }

    fn from_byte(byte: u8) -> Result<Self, Damaged> {
        [Self::Directory, Self::Volume, Self::File, Self::Symlink]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
            .ok_or(Damaged)
    }
}

impl Row for NameRow {
    fn write(&self, out: &mut Writer) {
        out.byte(self.kind as u8);
        out.local(self.id);
    }

    fn read(key: &[u8], cursor: &mut Cursor<'_>) -> Result<Self, Damaged> {
        let kind = Kind::from_byte(cursor.byte()?)?;
        let id = cursor.local(partition_of(key)?)?;
        Ok(Self { id, kind })
    }
}

/// A node, and since when it has its present name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct InodeRow {
    pub(crate) node: Node,
    /// The last index that gave it its parent and name; at most `node.changed`.
    pub(crate) moved: u64,
}

const HAS_VERSION: u8 = 0x10;
const HAS_PREVIOUS: u8 = 0x20;

impl InodeRow {
    fn write_with(&self, out: &mut Writer, with_content: bool) {
        let node = &self.node;
        let kind = Kind::of(&node.kind);
        let mut first = kind as u8;
        if node.version != node.id {
            first |= HAS_VERSION;
        }
        if node.previous.is_some() {
            first |= HAS_PREVIOUS;
        }
        out.byte(first);
        out.event(node.parent);
        out.sized(node.name.as_bytes());
        out.number(node.mode.into());
        out.number(self.moved);
        out.number(node.changed);
        if node.version != node.id {
            out.local(node.version);
        }
        if let Some(previous) = node.previous {
            out.local(previous);
        }
        match &node.kind {
            NodeKind::Directory => {}
            NodeKind::Volume(partition) => out.number(partition.0.into()),
            NodeKind::Symlink(target) => out.sized(target.as_bytes()),
            NodeKind::File(content) => {
                out.time(node.mtime);
                if with_content {
                    out.content(content);
                }
            }
        }
    }

    /// Appends all but a file's content, which its version keeps.
    pub(crate) fn write_without_content(&self, out: &mut Writer) {
        self.write_with(out, false);
    }

    /// The inverse of [`InodeRow::write_without_content`]; a file's content is empty.
    pub(crate) fn read_without_content(id: FileId, value: &[u8]) -> Result<Self, Damaged> {
        let mut cursor = Cursor(value);
        let row = Self::read_with(id, &mut cursor, |_| Ok(Content::Inline(Bytes::new())))?;
        cursor.end()?;
        Ok(row)
    }

    fn read_with(
        id: FileId,
        cursor: &mut Cursor<'_>,
        content: impl Fn(&mut Cursor<'_>) -> Result<Content, Damaged>,
    ) -> Result<Self, Damaged> {
        let first = cursor.byte()?;
        let kind = Kind::from_byte(first & !(HAS_VERSION | HAS_PREVIOUS))?;
        let (parent, name) = (cursor.event()?, cursor.text()?);
        let mode = u16::try_from(cursor.number()?).map_err(|_| Damaged)?;
        let (moved, changed) = (cursor.number()?, cursor.number()?);
        let mut version = id;
        if first & HAS_VERSION != 0 {
            version = cursor.local(id.partition)?;
            if version == id {
                return Err(Damaged);
            }
        }
        let mut previous = None;
        if first & HAS_PREVIOUS != 0 {
            previous = Some(cursor.local(id.partition)?);
        }
        let mut mtime = FileTime::default();
        let kind = match kind {
            Kind::Directory => NodeKind::Directory,
            Kind::Volume => NodeKind::Volume(PartitionId(cursor.number_u32()?)),
            Kind::Symlink => NodeKind::Symlink(cursor.text()?),
            Kind::File => {
                mtime = cursor.time()?;
                NodeKind::File(content(cursor)?)
            }
        };
        let node = Node {
            id,
            parent,
            name,
            kind,
            mode,
            mtime,
            version,
            previous,
            changed,
        };
        Ok(Self { node, moved })
    }
}

impl Row for InodeRow {
    fn write(&self, out: &mut Writer) {
        self.write_with(out, true);
    }

    fn read(key: &[u8], cursor: &mut Cursor<'_>) -> Result<Self, Damaged> {
        Self::read_with(inode_of(key)?, cursor, |cursor| cursor.content())
    }
}

/// The last change of an author that counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct AuthorRow {
    pub(crate) sequence: u64,
    pub(crate) change: ChangeHash,
}

impl Row for AuthorRow {
    fn write(&self, out: &mut Writer) {
        out.number(self.sequence);
        out.raw(&self.change.0);
    }

    fn read(_: &[u8], cursor: &mut Cursor<'_>) -> Result<Self, Damaged> {
        Ok(Self {
            sequence: cursor.number()?,
            change: ChangeHash(cursor.array()?),
        })
    }
}

/// What a request was answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct RequestRow {
    pub(crate) index: u64,
    pub(crate) outcome: RequestOutcome,
}

impl Row for RequestRow {
    fn write(&self, out: &mut Writer) {
        out.number(self.index);
        out.byte(match self.outcome {
            RequestOutcome::Applied => 0,
            RequestOutcome::Rejected(reason) => reason.code(),
        });
    }

    fn read(_: &[u8], cursor: &mut Cursor<'_>) -> Result<Self, Damaged> {
        let index = cursor.number()?;
        let outcome = match cursor.byte()? {
            0 => RequestOutcome::Applied,
            code => RequestOutcome::Rejected(Rejection::from_code(code).ok_or(Damaged)?),
        };
        Ok(Self { index, outcome })
    }
}

/// A version that is not the present one of its file any more.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct VersionRow {
    pub(crate) previous: Option<EventId>,
    pub(crate) mode: u16,
    pub(crate) mtime: FileTime,
    pub(crate) content: Content,
}

impl Row for VersionRow {
    fn write(&self, out: &mut Writer) {
        out.byte(u8::from(self.previous.is_some()));
        if let Some(previous) = self.previous {
            out.local(previous);
        }
        out.number(self.mode.into());
        out.time(self.mtime);
        out.content(&self.content);
    }

    fn read(key: &[u8], cursor: &mut Cursor<'_>) -> Result<Self, Damaged> {
        let previous = match cursor.byte()? {
            0 => None,
            1 => Some(cursor.local(partition_of(key)?)?),
            _ => return Err(Damaged),
        };
        Ok(Self {
            previous,
            mode: u16::try_from(cursor.number()?).map_err(|_| Damaged)?,
            mtime: cursor.time()?,
            content: cursor.content()?,
        })
    }
}

/// A file id alone; of the key's partition.
pub(crate) struct FileRow(pub(crate) FileId);

impl Row for FileRow {
    fn write(&self, out: &mut Writer) {
        out.local(self.0);
    }

    fn read(key: &[u8], cursor: &mut Cursor<'_>) -> Result<Self, Damaged> {
        Ok(Self(cursor.local(partition_of(key)?)?))
    }
}

/// A volume's partition.
pub(crate) struct VolumeRow(pub(crate) PartitionId);

impl Row for VolumeRow {
    fn write(&self, out: &mut Writer) {
        out.number(self.0.0.into());
    }

    fn read(_: &[u8], cursor: &mut Cursor<'_>) -> Result<Self, Damaged> {
        Ok(Self(PartitionId(cursor.number_u32()?)))
    }
}

/// A request id alone.
pub(crate) struct OrderRow(pub(crate) RequestId);

impl Row for OrderRow {
    fn write(&self, out: &mut Writer) {
        out.raw(&self.0.0);
    }

    fn read(_: &[u8], cursor: &mut Cursor<'_>) -> Result<Self, Damaged> {
        Ok(Self(RequestId(cursor.array()?)))
    }
}
