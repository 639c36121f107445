//! [pure] The bytes of rows: variable-length integers and length-prefixed strings.
//!
//! Canonical: each value has one encoding, and reading refuses any other, so that equal rows are
//! equal bytes on every node.

use aber_proto::{ChunkHash, EventId, limit};
use aber_proto::{ChunkList, ChunkRef, Content, ContentHash, FileTime, Manifest, PartitionId};
use bytes::Bytes;

/// The bytes are no row of this format.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Damaged;

/// Appends values.
#[derive(Default)]
pub(crate) struct Writer(pub(crate) Vec<u8>);

impl Writer {
    pub(crate) fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }

    /// LEB128: seven bits a byte, lowest first.
    pub(crate) fn number(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value.to_le_bytes()[0] | 0x80);
            value >>= 7;
        }
        self.0.push(value.to_le_bytes()[0]);
    }

    /// Zigzag: the sign is the lowest bit.
    pub(crate) fn signed(&mut self, value: i64) {
        let sign = value >> 63;
        self.number((value.wrapping_shl(1) ^ sign).cast_unsigned());
    }

    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    pub(crate) fn sized(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.raw(bytes);
    }

    /// Index and ordinal; the partition is known.
    pub(crate) fn local(&mut self, id: EventId) {
        self.number(id.index);
        self.number(id.ordinal.into());
    }

    pub(crate) fn event(&mut self, id: EventId) {
        self.number(id.partition.0.into());
        self.local(id);
    }

    pub(crate) fn time(&mut self, time: FileTime) {
        self.signed(time.seconds);
        self.number(time.nanos.into());
    }

    pub(crate) fn content(&mut self, content: &Content) {
        let manifest = match content {
            Content::Inline(bytes) => {
                self.byte(INLINE);
                return self.sized(bytes);
            }
            Content::Chunks(manifest) => manifest,
        };
        if let Some(length) = only_chunk(manifest) {
            self.byte(ONE_CHUNK);
            self.number(length.into());
            self.number(manifest.average.into());
            return self.raw(&manifest.blake3.0);
        }
        self.byte(match manifest.chunks {
            ChunkList::Direct(_) => DIRECT,
            ChunkList::Indirect(_) => INDIRECT,
        });
        self.number(manifest.size);
        self.number(manifest.average.into());
        self.raw(&manifest.blake3.0);
        self.number(manifest.chunks.rows().len() as u64);
        for row in manifest.chunks.rows() {
            self.raw(&row.hash.0);
            self.number(row.length.into());
        }
    }
}

const INLINE: u8 = 0;
const DIRECT: u8 = 1;
const INDIRECT: u8 = 2;
const ONE_CHUNK: u8 = 3;

/// The length of a manifest's only chunk if that chunk is the content: one hash says both.
fn only_chunk(manifest: &Manifest) -> Option<u32> {
    match &manifest.chunks {
        ChunkList::Direct(rows) => match rows.as_slice() {
            [row] if row.hash.0 == manifest.blake3.0 && manifest.size == u64::from(row.length) => {
                Some(row.length)
            }
            _ => None,
        },
        ChunkList::Indirect(_) => None,
    }
}

/// Takes values off the front.
pub(crate) struct Cursor<'b>(pub(crate) &'b [u8]);

impl<'b> Cursor<'b> {
    pub(crate) fn byte(&mut self) -> Result<u8, Damaged> {
        let (first, rest) = self.0.split_first().ok_or(Damaged)?;
        self.0 = rest;
        Ok(*first)
    }

    pub(crate) fn number(&mut self) -> Result<u64, Damaged> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if (shift == 63 && bits > 1) || (shift > 0 && byte == 0) {
                return Err(Damaged);
            }
            value |= bits << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Damaged)
    }

    pub(crate) fn number_u32(&mut self) -> Result<u32, Damaged> {
        self.number()?.try_into().map_err(|_| Damaged)
    }

    pub(crate) fn signed(&mut self) -> Result<i64, Damaged> {
        let value = self.number()?;
        Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
    }

    pub(crate) fn raw(&mut self, length: usize) -> Result<&'b [u8], Damaged> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Damaged)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Damaged> {
        self.raw(N)?.try_into().map_err(|_| Damaged)
    }

    pub(crate) fn sized(&mut self) -> Result<&'b [u8], Damaged> {
        let length = self.number()?.try_into().map_err(|_| Damaged)?;
        self.raw(length)
    }

    pub(crate) fn text(&mut self) -> Result<String, Damaged> {
        Ok(std::str::from_utf8(self.sized()?)
            .map_err(|_| Damaged)?
            .to_owned())
    }

    pub(crate) fn local(&mut self, partition: PartitionId) -> Result<EventId, Damaged> {
        Ok(EventId {
            partition,
            index: self.number()?,
            ordinal: self.number_u32()?,
        })
    }

    pub(crate) fn event(&mut self) -> Result<EventId, Damaged> {
        let partition = PartitionId(self.number_u32()?);
        self.local(partition)
    }

    pub(crate) fn time(&mut self) -> Result<FileTime, Damaged> {
        Ok(FileTime {
            seconds: self.signed()?,
            nanos: self.number_u32()?,
        })
    }

    pub(crate) fn content(&mut self) -> Result<Content, Damaged> {
        let manifest = match self.byte()? {
            INLINE => {
                let bytes = Bytes::copy_from_slice(self.sized()?);
                return Ok(Content::Inline(bytes));
            }
            ONE_CHUNK => {
                let (length, average) = (self.number_u32()?, self.number_u32()?);
                let hash = self.array()?;
                let row = ChunkRef {
                    hash: ChunkHash(hash),
                    length,
                };
                return Ok(Content::Chunks(Manifest {
                    size: length.into(),
                    blake3: ContentHash(hash),
                    average,
                    chunks: ChunkList::Direct(vec![row]),
                }));
            }
            DIRECT => self.manifest(ChunkList::Direct)?,
            INDIRECT => self.manifest(ChunkList::Indirect)?,
            _ => return Err(Damaged),
        };
        if only_chunk(&manifest).is_some() {
            return Err(Damaged);
        }
        Ok(Content::Chunks(manifest))
    }

    fn manifest(&mut self, list: fn(Vec<ChunkRef>) -> ChunkList) -> Result<Manifest, Damaged> {
        let (size, average) = (self.number()?, self.number_u32()?);
        let blake3 = ContentHash(self.array()?);
        let count = usize::try_from(self.number()?).map_err(|_| Damaged)?;
        if count > limit::MANIFEST_CHUNKS {
            return Err(Damaged);
        }
        let mut rows = Vec::with_capacity(count);
        for _ in 0..count {
            let hash = ChunkHash(self.array()?);
            let length = self.number_u32()?;
            rows.push(ChunkRef { hash, length });
        }
        Ok(Manifest {
            size,
            blake3,
            average,
            chunks: list(rows),
        })
    }

    /// Nothing may be left.
    pub(crate) fn end(&self) -> Result<(), Damaged> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(Damaged)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_longer_spelling_of_a_number_is_refused() {
        assert_eq!(Cursor(&[0x80, 0]).number(), Err(Damaged));
        assert_eq!(Cursor(&[0xff; 10]).number(), Err(Damaged));
        assert_eq!(Cursor(&[0x80]).number(), Err(Damaged));
    }

    proptest! {
        #[test]
        fn numbers_come_back(value: u64, signed: i64, nanos: u32) {
            let mut writer = Writer::default();
            writer.number(value);
            writer.signed(signed);
            writer.time(FileTime { seconds: signed, nanos });
            let mut cursor = Cursor(&writer.0);
            prop_assert_eq!(cursor.number(), Ok(value));
            prop_assert_eq!(cursor.signed(), Ok(signed));
            prop_assert_eq!(cursor.time(), Ok(FileTime { seconds: signed, nanos }));
            prop_assert_eq!(cursor.end(), Ok(()));
        }

        #[test]
        fn bytes_that_can_be_read_are_the_ones_that_would_be_written(bytes: Vec<u8>) {
            let mut cursor = Cursor(&bytes);
            if let Ok(content) = cursor.content() {
                let mut writer = Writer::default();
                writer.content(&content);
                prop_assert_eq!(&writer.0[..], &bytes[..bytes.len() - cursor.0.len()]);
            }
        }
    }
}
