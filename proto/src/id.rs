//! [pure] Identifiers: newtypes without arithmetic, so that one cannot be taken for another.

use std::fmt;

/// BLAKE3 of the genesis: names the cluster in every signature and handshake.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(pub [u8; 32]);

/// A member's number. Given by the genesis or by a committed entry; never used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct NodeId(pub u64);

/// One Raft group and its log. Partition 0 is the control partition.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct PartitionId(pub u32);

/// A volume: the control entry and event that made it, packed as `index << 10 | ordinal`.
/// [`VolumeId::ROOT`] holds the root's own files.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct VolumeId(pub u64);

/// Names one request of a client; repeating it answers what the first did (promise D3).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub [u8; 16]);

/// One event of one entry: partition, index, ordinal from 0. Names a file (where it was created)
/// and a version (the event that made it). Printed `3:1842.7`, counting events from 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct EventId {
    /// The partition whose log holds the entry.
    pub partition: PartitionId,
    /// The entry's index in that log.
    pub index: u64,
    /// The event's position in its change, from 0.
    pub ordinal: u32,
}

/// The event that created a file, directory or symlink; the same through renames.
pub type FileId = EventId;

impl PartitionId {
    /// Membership, volumes, policies, and the root volume.
    pub const CONTROL: Self = Self(0);
}

impl VolumeId {
    /// The volume of the root's own files, in the control partition.
    pub const ROOT: Self = Self(0);

    /// The id of the volume made by `event`, which is one of the control partition.
    #[must_use]
    pub fn made_by(event: EventId) -> Self {
        Self(event.index << 10 | u64::from(event.ordinal))
    }
}

impl EventId {
    /// Encoded length in bytes.
    pub const BYTES: usize = 16;

    /// Big-endian partition, index, ordinal: sorts as the id does. Used in keys of the index.
    #[must_use]
    pub fn to_key(self) -> [u8; Self::BYTES] {
        let number = u128::from(self.partition.0) << 96
            | u128::from(self.index) << 32
            | u128::from(self.ordinal);
        #[expect(clippy::big_endian_bytes, reason = "keys sort by bytes")]
        number.to_be_bytes()
    }

    /// The inverse of [`EventId::to_key`].
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "each part is masked by its shift"
    )]
    pub fn from_key(key: [u8; Self::BYTES]) -> Self {
        #[expect(clippy::big_endian_bytes, reason = "keys sort by bytes")]
        let number = u128::from_be_bytes(key);
        Self {
            partition: PartitionId((number >> 96) as u32),
            index: (number >> 32) as u64,
            ordinal: number as u32,
        }
    }

    /// Reads the printed form `partition:index.number`, number from 1.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (partition, rest) = text.split_once(':')?;
        let (index, number) = rest.split_once('.')?;
        let ordinal = number.parse::<u64>().ok()?.checked_sub(1)?;
        let id = Self {
            partition: PartitionId(partition.parse().ok()?),
            index: index.parse().ok()?,
            ordinal: ordinal.try_into().ok()?,
        };
        // Signs and leading zeros parse too, but then one id would have many names.
        (id.to_string() == text).then_some(id)
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}:{}.{}",
            self.partition.0,
            self.index,
            u64::from(self.ordinal) + 1
        )
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClusterId({self})")
    }
}

impl RequestId {
    /// Reads the UUID form, with or without hyphens.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > 36 {
            return None;
        }
        let digits: String = text.chars().filter(|c| *c != '-').collect();
        let bytes = data_encoding::HEXLOWER_PERMISSIVE
            .decode(digits.as_bytes())
            .ok()?;
        Some(Self(bytes.try_into().ok()?))
    }
}

/// The UUID form: `8-4-4-4-12` hexadecimal digits.
impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hex = data_encoding::HEXLOWER.encode(&self.0);
        let part = |from: usize, to: usize| hex.get(from..to).unwrap_or_default();
        write!(
            f,
            "{}-{}-{}-{}-{}",
            part(0, 8),
            part(8, 12),
            part(12, 16),
            part(16, 20),
            part(20, 32)
        )
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RequestId({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_id_key_sorts_as_the_id_and_comes_back() {
        let id = |p, index, ordinal| EventId {
            partition: PartitionId(p),
            index,
            ordinal,
        };
        let ids = [
            id(0, 0, 0),
            id(0, 1, 9),
            id(0, 2, 0),
            id(1, 0, 0),
            id(u32::MAX, u64::MAX, u32::MAX),
        ];
        for pair in ids.windows(2) {
            assert!(pair[0].to_key() < pair[1].to_key());
        }
        for id in ids {
            assert_eq!(EventId::from_key(id.to_key()), id);
            assert_eq!(EventId::parse(&id.to_string()), Some(id));
        }
        for bad in [
            "3:1842.0",
            "3:1842",
            "+3:1842.1",
            "3:01842.1",
            "3:1.4294967297",
            "",
        ] {
            assert_eq!(EventId::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn request_id_prints_as_a_uuid_and_comes_back() {
        let id = RequestId([0xab; 16]);
        assert_eq!(id.to_string(), "abababab-abab-abab-abab-abababababab");
        assert_eq!(RequestId::parse(&id.to_string()), Some(id));
        assert_eq!(RequestId::parse(&"AB".repeat(16)), Some(id));
        assert_eq!(RequestId::parse("abc"), None);
        assert_eq!(RequestId::parse(&"-".repeat(37)), None);
    }
}
