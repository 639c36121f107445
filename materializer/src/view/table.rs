//! [pure] Rows and keys of a partition's view. This is the schema; `docs/format.md` says it
//! in words.
//!
//! A key is `V`, the partition (u32, big-endian), the table's byte, and the fields named at the
//! table, big-endian, so that it sorts as they do. Values are in the encoding of `view::code`.

mod keep;
mod member;
mod row;

pub(crate) use row::{AppliedRow, AuthorRow, FileRow, InodeRow, Kind, NameRow, OrderRow};
pub(crate) use row::{RequestRow, Row, VersionRow, VolumeRow};

use super::code::Damaged;
use super::keep::Tag;
use crate::members::{MemberRow, TicketRow};
use crate::tree::NodeKind;
use aber_proto::{ChunkHash, Content, EventId, FileId, NodeId, PartitionId};
use aber_proto::{RequestId, Retention, TicketId, VolumeId};

/// The format of all rows; written in the applied row. Another one means: rebuild the index.
pub(crate) const FORMAT: u8 = 5;
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
    /// node id u64; control partition only: [`MemberRow`].
    Member = 12,
    /// ticket id (32 bytes); control partition only: [`TicketRow`].
    Ticket = 13,
    /// name; control partition only: [`Tag`].
    Tag = 14,
    /// volume id u64; control partition only: [`Retention`]. Without a row all is kept.
    Retention = 15,
}

impl Table {
    const ALL: [Self; 15] = [
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
        Self::Member,
        Self::Ticket,
        Self::Tag,
        Self::Retention,
    ];

    /// The table of a key of a view.
    pub(crate) fn of(key: &[u8]) -> Option<Self> {
        let byte = *key.get(PREFIX_BYTES - 1)?;
        Self::ALL.into_iter().find(|table| *table as u8 == byte)
    }

    /// Whether the digest covers it: all but history, which retention may thin on each node alone.
    pub(crate) fn is_digested(self) -> bool {
        self <= Self::Volume || self.is_of_control()
    }

    /// Whether a snapshot carries it.
    pub(crate) fn is_in_snapshots(self) -> bool {
        self <= Self::VersionFile || self.is_of_control()
    }

    /// Whether only the control partition has it, beside volumes.
    fn is_of_control(self) -> bool {
        matches!(
            self,
            Self::Member | Self::Ticket | Self::Tag | Self::Retention
        )
    }

    /// Whether a partition may have rows of it.
    pub(crate) fn fits(self, partition: PartitionId) -> bool {
        partition == PartitionId::CONTROL || !(self == Self::Volume || self.is_of_control())
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

/// What was asked for is a thing of the past that retention let go.
pub(crate) fn forgotten(key: &[u8]) -> aber_log::env::kv::KvProblem {
    aber_log::env::kv::KvProblem {
        what: format!("{FORGOTTEN} ({})", key.escape_ascii()),
    }
}

/// How the text of such a problem begins.
pub(crate) const FORGOTTEN: &str = "retention let it go";

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

/// Key of a member.
pub(crate) fn member_key(node: NodeId) -> Vec<u8> {
    let mut key = table_key(PartitionId::CONTROL, Table::Member);
    key.extend_from_slice(&big(node.0));
    key
}

/// Key of a ticket.
pub(crate) fn ticket_key(ticket: TicketId) -> Vec<u8> {
    let mut key = table_key(PartitionId::CONTROL, Table::Ticket);
    key.extend_from_slice(&ticket.0);
    key
}

/// Key of a tag.
pub(crate) fn tag_key(name: &str) -> Vec<u8> {
    let mut key = table_key(PartitionId::CONTROL, Table::Tag);
    key.extend_from_slice(name.as_bytes());
    key
}

/// The name in a key made by [`tag_key`].
pub(crate) fn tag_of(key: &[u8]) -> Option<&str> {
    std::str::from_utf8(key.get(PREFIX_BYTES..)?).ok()
}

/// Key of a volume's retention.
pub(crate) fn retention_key(volume: VolumeId) -> Vec<u8> {
    let mut key = table_key(PartitionId::CONTROL, Table::Retention);
    key.extend_from_slice(&big(volume.0));
    key
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

/// The partition in any key of a view.
pub(crate) fn partition_of(key: &[u8]) -> Result<PartitionId, Damaged> {
    let bytes: [u8; 4] = key
        .get(1..5)
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or(Damaged)?;
    #[expect(clippy::big_endian_bytes, reason = "keys sort by bytes")]
    Ok(PartitionId(u32::from_be_bytes(bytes)))
}

/// The node in a key made by [`inode_key`].
pub(crate) fn inode_of(key: &[u8]) -> Result<FileId, Damaged> {
    let partition = key.get(1..5).ok_or(Damaged)?;
    let local = key.get(PREFIX_BYTES..).ok_or(Damaged)?;
    let whole = [partition, local].concat();
    Ok(EventId::from_key(
        whole.as_slice().try_into().map_err(|_| Damaged)?,
    ))
}

/// Checks a row that came from outside: its key has its table's shape, its value the one encoding
/// of what it says. Gives the content whose chunks it refers to.
pub(crate) fn check_row(key: &[u8], value: &[u8]) -> Result<Option<Content>, Damaged> {
    let table = Table::of(key).ok_or(Damaged)?;
    let fields = key.get(PREFIX_BYTES..).ok_or(Damaged)?;
    let fits = match table {
        Table::Applied | Table::Installing => fields.is_empty(),
        Table::Inode | Table::VersionFile => fields.len() == 12,
        Table::Name => name_of(key).is_some_and(|name| aber_proto::path::check_name(name).is_ok()),
        Table::Request => fields.len() == 16,
        Table::RequestOrder | Table::Author | Table::Volume | Table::Member | Table::Retention => {
            fields.len() == 8
        }
        Table::Tag => tag_of(key).is_some_and(aber_proto::keep::is_tag_name),
        Table::Ticket => fields.len() == 32,
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
        Table::Member => MemberRow::decode(key, value).map(|_| None),
        Table::Ticket => TicketRow::decode(key, value).map(|_| None),
        Table::Tag => Tag::decode(key, value).map(|_| None),
        Table::Retention => Retention::decode(key, value).map(|_| None),
        Table::Bucket | Table::Installing => Err(Damaged),
    }
}
