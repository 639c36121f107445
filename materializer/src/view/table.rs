//! [pure] Rows and keys of a partition's view. This is the schema; `docs/format-index.md` says it
//! in words.
//!
//! A key is `V`, the partition (u32, big-endian), the table's byte, and the fields named at the
//! table, big-endian, so that it sorts as they do. Values are in the encoding of `view::code`.

use super::code::{Cursor, Damaged, Writer};
use super::outcome::{Rejection, RequestOutcome};
use crate::tree::{Node, NodeKind};
use aber_proto::{ChainHash, ChangeHash, ChunkHash, ClusterId, Content, EventId, FileId};
use aber_proto::{FileTime, LogId, NodeId, PartitionId, RequestId, Timestamp, VolumeId};
use bytes::Bytes;

/// The format of all rows; written in the applied row. Another one means: rebuild the index.
pub(crate) const FORMAT: u8 = 1;
/// First byte of every key of a view.
pub(crate) const VIEW: u8 = b'V';
/// First byte of the keys of chunk references; the chunk's hash follows. Not of one partition.
pub(crate) const REFERENCE: u8 = b'R';
/// Bytes of a key before its table's fields.
pub(crate) const PREFIX_BYTES: usize = 6;

/// A table of a view.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub(crate) enum Table {
    /// One row: [`AppliedRow`].
    Applied = 1,
    /// index u64, ordinal u32: [`InodeRow`].
    Inode = 2,
    /// parent (16 bytes), name: [`NameRow`].
    Name = 3,
    /// request id (16 bytes): index, outcome code.
    Request = 4,
    /// position u64 in the order of requests: request id.
    RequestOrder = 5,
    /// node id u64: [`AuthorRow`].
    Author = 6,
    /// volume id u64; control partition only: its partition.
    Volume = 7,
    /// file (index, ordinal), version (index, ordinal): [`VersionRow`]. Written when the version
    /// is replaced or removed; the present one is in the inode.
    Version = 8,
    /// version (index, ordinal): the file it is of. Only for versions that did not create it.
    VersionFile = 9,
    /// bucket u8: 32 bytes of the digest.
    Bucket = 10,
    /// One row, empty: a snapshot is being installed, nothing here can be used.
    Installing = 11,
}

impl Table {
    const ALL: [Self; 11] = [
        Self::Applied,
        Self::Inode,
        Self::Name,
        Self::Request,
        Self::RequestOrder,
        Self::Author,
        Self::Volume,
        Self::Version,
        Self::VersionFile,
        Self::Bucket,
        Self::Installing,
    ];

    /// The table of a key of a view.
    pub(crate) fn of(key: &[u8]) -> Option<Self> {
        let byte = *key.get(PREFIX_BYTES - 1)?;
        Self::ALL.into_iter().find(|table| *table as u8 == byte)
    }

    /// Whether the digest covers it: all but history, which retention may thin on each node alone.
    pub(crate) fn is_digested(self) -> bool {
        self <= Self::Volume
    }

    /// Whether a snapshot carries it.
    pub(crate) fn is_in_snapshots(self) -> bool {
        self <= Self::VersionFile
    }
}

/// Where the bytes of a damaged row were found, as text for an operator.
pub(crate) fn damaged(key: &[u8]) -> aber_log::env::kv::KvProblem {
    aber_log::env::kv::KvProblem {
        what: format!(
            "the row of key {} is damaged or missing",
            key.escape_ascii()
        ),
    }
}

#[expect(clippy::big_endian_bytes, reason = "keys sort by bytes")]
fn big(value: u64) -> [u8; 8] {
    value.to_be_bytes()
}

#[expect(clippy::big_endian_bytes, reason = "keys sort by bytes")]
fn from_big(bytes: [u8; 8]) -> u64 {
    u64::from_be_bytes(bytes)
}

/// `V` and the partition: every key of a view starts with it.
#[expect(clippy::big_endian_bytes, reason = "keys sort by bytes")]
pub(crate) fn view_prefix(partition: PartitionId) -> Vec<u8> {
    let mut key = Vec::with_capacity(64);
    key.push(VIEW);
    key.extend_from_slice(&partition.0.to_be_bytes());
    key
}

/// The key of a table with one row, or what all keys of a table start with.
pub(crate) fn table_key(partition: PartitionId, table: Table) -> Vec<u8> {
    let mut key = view_prefix(partition);
    key.push(table as u8);
    key
}

fn push_local(key: &mut Vec<u8>, id: EventId) {
    let [_, _, _, _, local @ ..] = id.to_key();
    key.extend_from_slice(&local);
}

/// Key of a node.
pub(crate) fn inode_key(id: FileId) -> Vec<u8> {
    let mut key = table_key(id.partition, Table::Inode);
    push_local(&mut key, id);
    key
}

/// What the keys of all names in a directory start with.
pub(crate) fn names_prefix(partition: PartitionId, parent: FileId) -> Vec<u8> {
    let mut key = table_key(partition, Table::Name);
    key.extend_from_slice(&parent.to_key());
    key
}

/// Key of a name.
pub(crate) fn name_key(partition: PartitionId, parent: FileId, name: &str) -> Vec<u8> {
    let mut key = names_prefix(partition, parent);
    key.extend_from_slice(name.as_bytes());
    key
}

/// The name in a key made by [`name_key`].
pub(crate) fn name_of(key: &[u8]) -> Option<&str> {
    let name = key.get(PREFIX_BYTES + EventId::BYTES..)?;
    std::str::from_utf8(name).ok()
}

/// Key of a request.
pub(crate) fn request_key(partition: PartitionId, request: RequestId) -> Vec<u8> {
    let mut key = table_key(partition, Table::Request);
    key.extend_from_slice(&request.0);
    key
}

/// Key of a place in the order of requests.
pub(crate) fn request_order_key(partition: PartitionId, position: u64) -> Vec<u8> {
    let mut key = table_key(partition, Table::RequestOrder);
    key.extend_from_slice(&big(position));
    key
}

/// Key of an author.
pub(crate) fn author_key(partition: PartitionId, author: NodeId) -> Vec<u8> {
    let mut key = table_key(partition, Table::Author);
    key.extend_from_slice(&big(author.0));
    key
}

/// Key of a volume.
pub(crate) fn volume_key(volume: VolumeId) -> Vec<u8> {
    let mut key = table_key(PartitionId::CONTROL, Table::Volume);
    key.extend_from_slice(&big(volume.0));
    key
}

/// The volume in a key made by [`volume_key`].
pub(crate) fn volume_of(key: &[u8]) -> Option<VolumeId> {
    let bytes = key.get(PREFIX_BYTES..)?.try_into().ok()?;
    Some(VolumeId(from_big(bytes)))
}

/// What the keys of all earlier versions of a file start with.
pub(crate) fn versions_prefix(file: FileId) -> Vec<u8> {
    let mut key = table_key(file.partition, Table::Version);
    push_local(&mut key, file);
    key
}

/// Key of an earlier version.
pub(crate) fn version_key(file: FileId, version: EventId) -> Vec<u8> {
    let mut key = versions_prefix(file);
    push_local(&mut key, version);
    key
}

/// The version in a key made by [`version_key`].
pub(crate) fn version_of(partition: PartitionId, key: &[u8]) -> Option<EventId> {
    let (index, ordinal) = key.get(PREFIX_BYTES + 12..)?.split_first_chunk::<8>()?;
    let mut whole = [0; EventId::BYTES];
    let (_, local) = whole.split_at_mut(4);
    local.get_mut(..8)?.copy_from_slice(index);
    local
        .get_mut(8..)?
        .copy_from_slice(ordinal.first_chunk::<4>()?);
    let id = EventId::from_key(whole);
    Some(EventId { partition, ..id })
}

/// Key from a version to its file.
pub(crate) fn version_file_key(version: EventId) -> Vec<u8> {
    let mut key = table_key(version.partition, Table::VersionFile);
    push_local(&mut key, version);
    key
}

/// Key of a bucket of the digest.
pub(crate) fn bucket_key(partition: PartitionId, bucket: u8) -> Vec<u8> {
    let mut key = table_key(partition, Table::Bucket);
    key.push(bucket);
    key
}

/// Key of a chunk reference.
pub(crate) fn reference_key(chunk: &ChunkHash) -> Vec<u8> {
    let mut key = Vec::with_capacity(33);
    key.push(REFERENCE);
    key.extend_from_slice(&chunk.0);
    key
}

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

fn partition_of(key: &[u8]) -> Result<PartitionId, Damaged> {
    let bytes: [u8; 4] = key
        .get(1..5)
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or(Damaged)?;
    #[expect(clippy::big_endian_bytes, reason = "keys sort by bytes")]
    Ok(PartitionId(u32::from_be_bytes(bytes)))
}

fn inode_of(key: &[u8]) -> Result<FileId, Damaged> {
    let partition = key.get(1..5).ok_or(Damaged)?;
    let local = key.get(PREFIX_BYTES..).ok_or(Damaged)?;
    let whole = [partition, local].concat();
    Ok(EventId::from_key(
        whole.as_slice().try_into().map_err(|_| Damaged)?,
    ))
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

impl Row for InodeRow {
    fn write(&self, out: &mut Writer) {
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
                out.content(content);
            }
        }
    }

    fn read(key: &[u8], cursor: &mut Cursor<'_>) -> Result<Self, Damaged> {
        let id = inode_of(key)?;
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
                NodeKind::File(cursor.content()?)
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

/// Checks a row that came from outside: its key has its table's shape, its value the one encoding
/// of what it says. Gives the content whose chunks it refers to.
pub(crate) fn check_row(key: &[u8], value: &Bytes) -> Result<Option<Content>, Damaged> {
    let table = Table::of(key).ok_or(Damaged)?;
    let fields = key.get(PREFIX_BYTES..).ok_or(Damaged)?;
    let fits = match table {
        Table::Applied | Table::Installing => fields.is_empty(),
        Table::Inode | Table::VersionFile => fields.len() == 12,
        Table::Name => name_of(key).is_some_and(|name| aber_proto::path::check_name(name).is_ok()),
        Table::Request => fields.len() == 16,
        Table::RequestOrder | Table::Author | Table::Volume => fields.len() == 8,
        Table::Version => fields.len() == 24,
        Table::Bucket => fields.len() == 1,
    };
    if !fits {
        return Err(Damaged);
    }
    match table {
        Table::Applied => AppliedRow::decode(key, value).map(|_| None),
        Table::Inode => match InodeRow::decode(key, value)?.node.kind {
            NodeKind::File(content) => Ok(Some(content)),
            _ => Ok(None),
        },
        Table::Name => NameRow::decode(key, value).map(|_| None),
        Table::Request => RequestRow::decode(key, value).map(|_| None),
        Table::RequestOrder => OrderRow::decode(key, value).map(|_| None),
        Table::Author => AuthorRow::decode(key, value).map(|_| None),
        Table::Volume => VolumeRow::decode(key, value).map(|_| None),
        Table::Version => VersionRow::decode(key, value).map(|row| Some(row.content)),
        Table::VersionFile => FileRow::decode(key, value).map(|_| None),
        Table::Bucket | Table::Installing => Err(Damaged),
    }
}
