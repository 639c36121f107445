//! [pure] Parcels: at most 256 chunks of one change, or its body, announced, sent and acknowledged
//! together.

use super::{LayoutDigest, stripe_of};
use crate::relay::bits::Bits;
use aber_proto::key::{PublicKey, Purpose, SecretKey};
use aber_proto::manifest;
use aber_proto::{ChunkRef, ClusterId, ContentHash, NodeId, RequestId, limit};
use std::fmt;
use std::sync::Arc;

/// Names a parcel. It is tied to one layout for life: announced anew under another, it is another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ParcelId {
    /// Who wrote the content.
    pub writer: NodeId,
    /// The request of the change it belongs to.
    pub request: RequestId,
    /// Which part of the change's chunks, from 0; or [`ParcelId::of_body`].
    pub part: u32,
    /// The layout whose trees it goes down.
    pub layout: LayoutDigest,
}

/// Bytes of an encoded [`ParcelId`].
pub const PARCEL_ID_BYTES: usize = 8 + 16 + 4 + 32;

impl fmt::Display for ParcelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.request, self.part)
    }
}

/// The part that a body is; content has fewer.
const BODY_PART: u32 = 1 << 31;

impl ParcelId {
    /// The name of the parcel that a change's own body is. The body's hash stands for the request: a
    /// change that is signed anew has another body, which must be another parcel.
    #[must_use]
    pub fn of_body(writer: NodeId, layout: LayoutDigest, hash: &ContentHash) -> Self {
        let (request, _) = hash.0.split_first_chunk().expect("32 bytes begin with 16");
        Self {
            writer,
            request: RequestId(*request),
            part: BODY_PART,
            layout,
        }
    }

    /// Whether it is a change's own body, as its name says.
    #[must_use]
    pub fn is_body(&self) -> bool {
        self.part == BODY_PART
    }

    /// Writer, request, part, layout digest; numbers little-endian.
    #[must_use]
    pub fn to_bytes(self) -> [u8; PARCEL_ID_BYTES] {
        let parts: [&[u8]; 4] = [
            &self.writer.0.to_le_bytes(),
            &self.request.0,
            &self.part.to_le_bytes(),
            &self.layout.0,
        ];
        let mut bytes = [0; PARCEL_ID_BYTES];
        for (to, from) in bytes.iter_mut().zip(parts.into_iter().flatten()) {
            *to = *from;
        }
        bytes
    }

    /// What [`ParcelId::to_bytes`] wrote; `None` for another length.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (writer, rest) = bytes.split_first_chunk::<8>()?;
        let (request, rest) = rest.split_first_chunk::<16>()?;
        let (part, rest) = rest.split_first_chunk::<4>()?;
        Some(Self {
            writer: NodeId(u64::from_le_bytes(*writer)),
            request: RequestId(*request),
            part: u32::from_le_bytes(*part),
            layout: LayoutDigest(rest.try_into().ok()?),
        })
    }

    /// Some parcel's name.
    #[cfg(test)]
    pub(super) fn example() -> Self {
        Self {
            writer: NodeId(3),
            request: RequestId([7; 16]),
            part: 2,
            layout: LayoutDigest([9; 32]),
        }
    }

    /// What turns the stripes: writer, request and part. The layout is not among it, so that a chunk
    /// keeps its stripe when a parcel is announced anew.
    fn words(&self) -> [u64; 4] {
        let (low, high) = self.request.0.split_at(8);
        let word = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_le_bytes);
        [self.writer.0, word(low), word(high), u64::from(self.part)]
    }

    /// For each stripe, which chunks go down it: each chunk in its turn the one that has least to carry
    /// so far, of equal ones the next. Whoever feeds the stripe with most bytes is the last to be done,
    /// and by turns alone, chunks being of all lengths, that is a tenth more than its part. (The longest
    /// first, in groups, levels the end better and the way there worse: measured, it took longer.)
    #[must_use]
    pub fn stripes(&self, chunks: &[ChunkRef], stripes: usize) -> Vec<Bits> {
        let first = stripe_of(&self.words(), 0, stripes);
        let mut of = vec![(0_u64, Bits::default()); stripes];
        for (number, chunk) in chunks.iter().enumerate() {
            let (before, from) = of.split_at_mut(first);
            // Of equal ones the first is found.
            let next = from.iter_mut().chain(before);
            if let Some((bytes, bits)) = next.min_by_key(|(bytes, _)| *bytes) {
                *bytes += u64::from(chunk.length);
                bits.add(number);
            }
        }
        of.into_iter().map(|(_, bits)| bits).collect()
    }
}

/// What a writer tells everybody before it sends a parcel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Announcement {
    /// Its name.
    pub id: ParcelId,
    /// Its chunks, 1 to [`limit::PARCEL_CHUNKS`], no two the same.
    pub chunks: Arc<[ChunkRef]>,
    /// The writer's, over cluster, id and chunks.
    pub signature: [u8; 64],
}

fn message(cluster: &ClusterId, id: &ParcelId, chunks: &[ChunkRef]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(32 + PARCEL_ID_BYTES + chunks.len() * 36);
    bytes.extend_from_slice(&cluster.0);
    bytes.extend_from_slice(&id.to_bytes());
    bytes.extend_from_slice(&manifest::encode_list(chunks));
    bytes
}

impl Announcement {
    /// Signs a parcel.
    #[must_use]
    pub fn sign(id: ParcelId, chunks: Vec<ChunkRef>, cluster: &ClusterId, key: &SecretKey) -> Self {
        let signature = key.sign(Purpose::Parcel, &message(cluster, &id, &chunks));
        Self {
            id,
            chunks: chunks.into(),
            signature,
        }
    }

    /// Whether the writer, whose key this is, announced exactly this.
    #[must_use]
    pub fn is_by(&self, cluster: &ClusterId, key: &PublicKey) -> bool {
        let signed = message(cluster, &self.id, &self.chunks);
        let verified = key.verify(Purpose::Parcel, &signed, &self.signature);
        !self.chunks.is_empty() && self.chunks.len() <= limit::PARCEL_CHUNKS && verified.is_ok()
    }

    /// Bytes of all chunks, uncompressed.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.chunks
            .iter()
            .map(|chunk| u64::from(chunk.length))
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aber_proto::ChunkHash;

    #[test]
    fn a_name_survives_its_bytes() {
        assert_eq!(
            ParcelId::from_bytes(&ParcelId::example().to_bytes()),
            Some(ParcelId::example())
        );
        assert_eq!(
            ParcelId::from_bytes(&ParcelId::example().to_bytes()[1..]),
            None
        );
    }

    #[test]
    fn a_body_is_a_parcel_of_its_own() {
        let of = |bytes: &[u8]| {
            let ParcelId { writer, layout, .. } = ParcelId::example();
            ParcelId::of_body(writer, layout, &ContentHash::of(bytes))
        };
        assert!(of(b"a").is_body() && of(b"b").is_body());
        assert_ne!(of(b"a"), of(b"b"), "signed anew it is another");
        assert!(!ParcelId::example().is_body());
    }

    #[test]
    fn each_chunk_has_one_stripe() {
        let chunks = of_lengths(&[4096; 250]);
        let stripes = ParcelId::example().stripes(&chunks, 8);
        let all = stripes
            .iter()
            .fold(Bits::default(), |all, one| all.or(*one));
        assert_eq!(all, Bits::first(250));
        assert_eq!(stripes.iter().map(Bits::len).sum::<usize>(), 250);
        assert!(stripes.iter().all(|stripe| stripe.len() >= 31));
        // Those of one length go by turns.
        let words = ParcelId::example().words();
        for number in 0..250 {
            let stripe = &stripes[stripe_of(&words, number as u64, 8)];
            assert!(stripe.has(number), "{number}");
        }
    }

    fn of_lengths(lengths: &[u32]) -> Vec<ChunkRef> {
        let numbered = (0_u64..).zip(lengths);
        let chunk = |(number, length): (u64, &u32)| ChunkRef {
            hash: ChunkHash(*blake3::hash(&number.to_le_bytes()).as_bytes()),
            length: *length,
        };
        numbered.map(chunk).collect()
    }

    proptest::proptest! {
        /// T3: no stripe has more to carry than another by more than one chunk.
        #[test]
        fn t3_stripes_carry_alike(
            lengths in proptest::collection::vec(1..200_000_u32, 1..limit::PARCEL_CHUNKS),
            stripes in proptest::sample::select(vec![1_usize, 8, 16]),
        ) {
            let chunks = of_lengths(&lengths);
            let of = ParcelId::example().stripes(&chunks, stripes);
            let bytes_of = |bits: &Bits| -> u64 {
                let numbers = (0..chunks.len()).filter(|number| bits.has(*number));
                numbers.map(|number| u64::from(lengths[number])).sum()
            };
            let bytes: Vec<u64> = of.iter().map(bytes_of).collect();
            let (most, least) = (bytes.iter().max().unwrap(), bytes.iter().min().unwrap());
            let longest = u64::from(*lengths.iter().max().unwrap());
            proptest::prop_assert!(most - least <= longest, "{bytes:?}");
            proptest::prop_assert_eq!(bytes.iter().sum::<u64>(), lengths.iter().map(|l| u64::from(*l)).sum::<u64>());
        }
    }

    /// S1: nothing of what a writer announced can be changed by who passes it on.
    #[test]
    fn only_the_writer_announces() {
        let key = SecretKey::from_seed(&[1; 32]).expect("seed");
        let other = SecretKey::from_seed(&[2; 32]).expect("seed");
        let cluster = ClusterId([4; 32]);
        let chunk = |n: u8| ChunkRef {
            hash: ChunkHash([n; 32]),
            length: 5,
        };
        let good = Announcement::sign(
            ParcelId::example(),
            vec![chunk(1), chunk(2)],
            &cluster,
            &key,
        );
        assert!(good.is_by(&cluster, &key.public()));
        assert!(!good.is_by(&cluster, &other.public()));
        assert!(!good.is_by(&ClusterId([5; 32]), &key.public()));
        let mut fewer = good.clone();
        fewer.chunks = [chunk(1)].into();
        assert!(!fewer.is_by(&cluster, &key.public()));
        let mut moved = good;
        moved.id.part = 3;
        assert!(!moved.is_by(&cluster, &key.public()));
        assert!(
            !Announcement::sign(ParcelId::example(), Vec::new(), &cluster, &key)
                .is_by(&cluster, &key.public())
        );
    }
}
