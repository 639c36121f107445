//! [pure] The values of rows of tags and retention.

use super::Row;
use crate::view::code::{Cursor, Damaged, Writer};
use crate::view::keep::Tag;
use aber_proto::{NodeId, PartitionId, Retention, Timestamp, limit};
use std::collections::BTreeMap;

impl Row for Tag {
    fn write(&self, out: &mut Writer) {
        out.sized(self.comment.as_bytes());
        out.number(self.author.0);
        out.number(self.made);
        out.signed(self.time.0);
        out.number(self.moment.len() as u64);
        for (partition, index) in &self.moment {
            out.number(partition.0.into());
            out.number(*index);
        }
    }

    fn read(_: &[u8], cursor: &mut Cursor<'_>) -> Result<Self, Damaged> {
        let (comment, author) = (cursor.text()?, NodeId(cursor.number()?));
        let (made, time) = (cursor.number()?, Timestamp(cursor.signed()?));
        let count = usize::try_from(cursor.number()?).map_err(|_| Damaged)?;
        if count > limit::PARTITIONS || comment.len() > limit::COMMENT_BYTES {
            return Err(Damaged);
        }
        let mut moment = BTreeMap::new();
        for _ in 0..count {
            let (partition, index) = (PartitionId(cursor.number_u32()?), cursor.number()?);
            let is_next = moment
                .last_key_value()
                .is_none_or(|(last, _)| *last < partition);
            if !is_next || index == 0 {
                return Err(Damaged);
            }
            moment.insert(partition, index);
        }
        Ok(Self {
            moment,
            comment,
            author,
            made,
            time,
        })
    }
}

/// No row says that all is kept.
impl Row for Retention {
    fn write(&self, out: &mut Writer) {
        let (kind, number) = match *self {
            Self::Forever => (0, 0),
            Self::Age(milliseconds) => (1, milliseconds),
            Self::Versions(count) => (2, count),
            Self::Size(bytes) => (3, bytes),
        };
        out.byte(kind);
        out.number(number);
    }

    fn read(_: &[u8], cursor: &mut Cursor<'_>) -> Result<Self, Damaged> {
        let (kind, number) = (cursor.byte()?, cursor.number()?);
        let retention = match kind {
            1 => Self::Age(number),
            2 => Self::Versions(number),
            3 => Self::Size(number),
            _ => return Err(Damaged),
        };
        if retention.is_sane() {
            Ok(retention)
        } else {
            Err(Damaged)
        }
    }
}
