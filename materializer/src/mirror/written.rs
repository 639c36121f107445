//! [pure] The rows of the index that say what was written: keys and bytes.
//!
//! All keys start with `W` and the folder's number. Then, by one more byte:
//!
//! - `f` ‖ file id: a [`Row`], as variable-length numbers (about 70 bytes and its name);
//! - `n` ‖ directory's id ‖ name: who stands there ([`Child`]);
//! - `h` ‖ file id: why this path is not current;
//! - `l` ‖ file id: a symlink, tested again when a directory above it moves (rule LI-3);
//! - `p` ‖ partition: the index up to which everything is current but for the `h` rows;
//! - `m`: the marker these rows belong to (rule FO-3).

use crate::plan::Row;
use aber_log::env::disk::FileKind;
use aber_proto::{FileId, FileTime, PartitionId};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::encoding::{decode_varint, encode_varint};

/// Which rows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Table {
    Files = b'f',
    Names = b'n',
    Held = b'h',
    Links = b'l',
    Positions = b'p',
    Marker = b'm',
}

/// Who stands at a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Child {
    pub(super) id: FileId,
    pub(super) kind: FileKind,
}

pub(super) fn prefix(folder: u8, table: Table) -> Vec<u8> {
    vec![b'W', folder, table as u8]
}

pub(super) fn id_key(folder: u8, table: Table, id: FileId) -> Vec<u8> {
    let mut key = prefix(folder, table);
    key.extend_from_slice(&id.to_key());
    key
}

pub(super) fn name_key(folder: u8, directory: FileId, name: &str) -> Vec<u8> {
    let mut key = id_key(folder, Table::Names, directory);
    key.extend_from_slice(name.as_bytes());
    key
}

#[expect(clippy::big_endian_bytes, reason = "keys sort by bytes")]
pub(super) fn position_key(folder: u8, partition: PartitionId) -> Vec<u8> {
    let mut key = prefix(folder, Table::Positions);
    key.extend_from_slice(&partition.0.to_be_bytes());
    key
}

/// The partition of a position's key.
#[expect(clippy::big_endian_bytes, reason = "keys sort by bytes")]
pub(super) fn partition_of(key: &[u8]) -> Option<PartitionId> {
    key.last_chunk()
        .map(|bytes| PartitionId(u32::from_be_bytes(*bytes)))
}

/// The id at the end of a key.
pub(super) fn id_of(key: &[u8]) -> Option<FileId> {
    key.last_chunk().map(|bytes| FileId::from_key(*bytes))
}

/// The name at the end of a name's key.
pub(super) fn name_of(key: &[u8]) -> Option<String> {
    let name = key.get(3 + FileId::BYTES..)?;
    String::from_utf8(name.to_vec()).ok()
}

pub(super) fn encode_child(child: Child) -> Bytes {
    let mut out = BytesMut::with_capacity(16);
    out.put_u8(kind_byte(child.kind));
    put_id(&mut out, child.id);
    out.freeze()
}

pub(super) fn decode_child(mut bytes: Bytes) -> Option<Child> {
    let kind = kind_from(bytes.try_get_u8().ok()?)?;
    let id = get_id(&mut bytes)?;
    Some(Child { id, kind })
}

pub(super) fn encode_row(row: &Row) -> Bytes {
    let mut out = BytesMut::with_capacity(96 + row.name.len());
    out.put_u8(kind_byte(row.kind));
    put_id(&mut out, row.parent);
    put_id(&mut out, row.version);
    out.put_slice(&row.tag);
    encode_varint(row.mode.into(), &mut out);
    encode_varint(row.inode, &mut out);
    encode_varint(row.size, &mut out);
    put_time(&mut out, row.wanted_mtime);
    put_time(&mut out, row.mtime);
    out.put_slice(row.name.as_bytes());
    out.freeze()
}

pub(super) fn decode_row(mut bytes: Bytes) -> Option<Row> {
    let bytes = &mut bytes;
    Some(Row {
        kind: kind_from(bytes.try_get_u8().ok()?)?,
        parent: get_id(bytes)?,
        version: get_id(bytes)?,
        tag: {
            let mut tag = [0; 16];
            bytes.try_copy_to_slice(&mut tag).ok()?;
            tag
        },
        mode: u16::try_from(decode_varint(bytes).ok()?).ok()?,
        inode: decode_varint(bytes).ok()?,
        size: decode_varint(bytes).ok()?,
        wanted_mtime: get_time(bytes)?,
        mtime: get_time(bytes)?,
        name: String::from_utf8(bytes.to_vec()).ok()?,
    })
}

fn kind_byte(kind: FileKind) -> u8 {
    match kind {
        FileKind::File => 0,
        FileKind::Directory => 1,
        FileKind::Symlink => 2,
        FileKind::Special => 3,
    }
}

fn kind_from(byte: u8) -> Option<FileKind> {
    match byte {
        0 => Some(FileKind::File),
        1 => Some(FileKind::Directory),
        2 => Some(FileKind::Symlink),
        _ => None,
    }
}

fn put_id(out: &mut BytesMut, id: FileId) {
    encode_varint(id.partition.0.into(), out);
    encode_varint(id.index, out);
    encode_varint(id.ordinal.into(), out);
}

fn get_id(bytes: &mut Bytes) -> Option<FileId> {
    Some(FileId {
        partition: PartitionId(u32::try_from(decode_varint(bytes).ok()?).ok()?),
        index: decode_varint(bytes).ok()?,
        ordinal: u32::try_from(decode_varint(bytes).ok()?).ok()?,
    })
}

fn put_time(out: &mut BytesMut, time: FileTime) {
    out.put_i64_le(time.seconds);
    encode_varint(time.nanos.into(), out);
}

fn get_time(bytes: &mut Bytes) -> Option<FileTime> {
    Some(FileTime {
        seconds: bytes.try_get_i64_le().ok()?,
        nanos: u32::try_from(decode_varint(bytes).ok()?).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id() -> impl Strategy<Value = FileId> {
        any::<(u32, u64, u32)>().prop_map(|(partition, index, ordinal)| FileId {
            partition: PartitionId(partition),
            index,
            ordinal,
        })
    }

    fn time() -> impl Strategy<Value = FileTime> {
        any::<(i64, u32)>().prop_map(|(seconds, nanos)| FileTime { seconds, nanos })
    }

    proptest! {
        #[test]
        fn rows_come_back(
            ids in (id(), id()), name in ".{1,40}", kind in 0u8..3,
            numbers in any::<(u16, u64, u64)>(), times in (time(), time()), tag in any::<[u8; 16]>(),
        ) {
            let (mode, inode, size) = numbers;
            let row = Row {
                parent: ids.0, version: ids.1, name, kind: kind_from(kind).expect("kind"), tag,
                mode, inode, size, wanted_mtime: times.0, mtime: times.1,
            };
            prop_assert_eq!(decode_row(encode_row(&row)), Some(row.clone()));
            let child = Child { id: ids.0, kind: row.kind };
            prop_assert_eq!(decode_child(encode_child(child)), Some(child));
            prop_assert_eq!(name_of(&name_key(3, ids.0, &row.name)), Some(row.name));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = decode_row(bytes.clone().into());
            let _ = decode_child(bytes.into());
        }
    }
}
