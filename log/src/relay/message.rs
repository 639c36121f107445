//! [adapter] The relay's messages on the wire.

use super::bits::Bits;
use super::parcel::{Announcement, ParcelId};
use super::state::Taken;
use aber_proto::generated::rpc;
use aber_proto::{NodeId, limit, manifest};
use bytes::Bytes;
use prost::Message;
use rpc::push_response::Taken as Code;
use rpc::relay_request::Kind;

/// Something that no relay says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a malformed message of a relay: {0}")]
pub(super) struct Malformed(pub(super) &'static str);

/// What relays tell each other.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Word {
    /// With what its sender has of it, who is not the writer.
    Announce(Announcement, Option<Report>),
    Have(Vec<Report>),
    Adopt(ParcelId, usize),
    Holders(ParcelId, Vec<NodeId>),
}

/// What a node has of a parcel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Report {
    /// Which.
    pub parcel: ParcelId,
    /// These of its chunks.
    pub has: Bits,
    /// It asks for the others: nothing of the parcel is to be pushed to it.
    pub asks: bool,
}

/// What one answers.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Reply {
    pub(super) is_taken: bool,
    pub(super) has: Option<Bits>,
    pub(super) asks: bool,
    pub(super) unknown: Vec<ParcelId>,
}

fn parcel_bytes(id: &ParcelId) -> Bytes {
    Bytes::copy_from_slice(&id.to_bytes())
}

fn bits_bytes(bits: Bits) -> Bytes {
    Bytes::copy_from_slice(&bits.to_bytes())
}

fn parcel_of(bytes: &[u8]) -> Result<ParcelId, Malformed> {
    ParcelId::from_bytes(bytes).ok_or(Malformed("a parcel's name"))
}

fn bits_of(bytes: &[u8]) -> Result<Bits, Malformed> {
    Bits::from_bytes(bytes).ok_or(Malformed("a set of chunks"))
}

impl Word {
    pub(super) fn encode(&self) -> Bytes {
        let kind = match self {
            Self::Announce(announcement, report) => Kind::Announcement(rpc::Announcement {
                parcel: parcel_bytes(&announcement.id),
                rows: manifest::encode_list(&announcement.chunks).into(),
                signature: Bytes::copy_from_slice(&announcement.signature),
                has: report
                    .map(|report| bits_bytes(report.has))
                    .unwrap_or_default(),
                asks: report.is_some_and(|report| report.asks),
            }),
            Self::Have(parcels) => {
                let parcels = parcels.iter().map(|report| rpc::ParcelBits {
                    parcel: parcel_bytes(&report.parcel),
                    bits: bits_bytes(report.has),
                    asks: report.asks,
                });
                Kind::Have(rpc::HaveReport {
                    parcels: parcels.collect(),
                })
            }
            Self::Adopt(parcel, stripe) => Kind::Adoption(rpc::Adoption {
                parcel: parcel_bytes(parcel),
                stripe: u32::try_from(*stripe).unwrap_or(u32::MAX),
            }),
            Self::Holders(parcel, nodes) => Kind::Holders(rpc::HoldersReport {
                parcel: parcel_bytes(parcel),
                nodes: nodes.iter().map(|node| node.0).collect(),
            }),
        };
        let request = rpc::RelayRequest { kind: Some(kind) };
        request.encode_to_vec().into()
    }

    pub(super) fn decode(bytes: Bytes) -> Result<Self, Malformed> {
        let request = rpc::RelayRequest::decode(bytes).map_err(|_| Malformed("no message"))?;
        match request.kind.ok_or(Malformed("no kind"))? {
            Kind::Announcement(announcement) => {
                if announcement.rows.len() > limit::PARCEL_CHUNKS * limit::CHUNK_ROW_BYTES {
                    return Err(Malformed("too many chunks"));
                }
                let chunks = manifest::decode_list(&announcement.rows);
                let signature = announcement.signature.as_ref().try_into();
                let parcel = parcel_of(&announcement.parcel)?;
                let asks = announcement.asks;
                let has = Some(announcement.has).filter(|bits| !bits.is_empty());
                let has = has.map(|bits| bits_of(&bits)).transpose()?;
                let announcement = Announcement {
                    id: parcel,
                    chunks: chunks.map_err(|_| Malformed("a list of chunks"))?.into(),
                    signature: signature.map_err(|_| Malformed("a signature"))?,
                };
                let report = has.map(|has| Report { parcel, has, asks });
                Ok(Self::Announce(announcement, report))
            }
            Kind::Have(report) => {
                let parcels = report.parcels.iter();
                let parcels = parcels.map(|one| {
                    Ok(Report {
                        parcel: parcel_of(&one.parcel)?,
                        has: bits_of(&one.bits)?,
                        asks: one.asks,
                    })
                });
                Ok(Self::Have(parcels.collect::<Result<_, _>>()?))
            }
            Kind::Adoption(adoption) => {
                let stripe = usize::try_from(adoption.stripe).unwrap_or(usize::MAX);
                Ok(Self::Adopt(parcel_of(&adoption.parcel)?, stripe))
            }
            Kind::Holders(report) => {
                let nodes = report.nodes.into_iter().map(NodeId).collect();
                Ok(Self::Holders(parcel_of(&report.parcel)?, nodes))
            }
        }
    }
}

impl From<Report> for Reply {
    fn from(report: Report) -> Self {
        Self {
            is_taken: true,
            has: Some(report.has),
            asks: report.asks,
            unknown: Vec::new(),
        }
    }
}

impl Reply {
    /// What it says of the parcel that was named.
    pub(super) fn report(&self, parcel: ParcelId) -> Report {
        Report {
            parcel,
            has: self.has.unwrap_or_default(),
            asks: self.asks,
        }
    }

    pub(super) fn encode(&self) -> Bytes {
        let response = rpc::RelayResponse {
            taken: self.is_taken,
            has: self.has.map(bits_bytes).unwrap_or_default(),
            unknown: self.unknown.iter().map(parcel_bytes).collect(),
            asks: self.asks,
        };
        response.encode_to_vec().into()
    }

    pub(super) fn decode(bytes: Bytes) -> Result<Self, Malformed> {
        let response = rpc::RelayResponse::decode(bytes).map_err(|_| Malformed("no answer"))?;
        let has = Some(response.has).filter(|bits| !bits.is_empty());
        let unknown = response.unknown.iter().map(|bytes| parcel_of(bytes));
        Ok(Self {
            is_taken: response.taken,
            has: has.map(|bits| bits_of(&bits)).transpose()?,
            asks: response.asks,
            unknown: unknown.collect::<Result<_, _>>()?,
        })
    }
}

/// Chunks on their way: their parcel, and of each the number in it and the stored frame.
pub(super) fn encode_push(parcel: &ParcelId, chunks: Vec<(usize, Bytes)>) -> Bytes {
    let chunks = chunks.into_iter();
    let chunks = chunks.map(|(number, frame)| (u32::try_from(number).unwrap_or(u32::MAX), frame));
    let (numbers, frames) = chunks.unzip();
    let request = rpc::PushRequest {
        parcel: parcel_bytes(parcel),
        numbers,
        frames,
    };
    request.encode_to_vec().into()
}

pub(super) fn decode_push(bytes: Bytes) -> Result<(ParcelId, Vec<(usize, Bytes)>), Malformed> {
    let request = rpc::PushRequest::decode(bytes).map_err(|_| Malformed("no chunks"))?;
    let (numbers, frames) = (request.numbers, request.frames);
    let is_rising = numbers.is_sorted_by(|one, next| one < next);
    let is_odd = numbers.len() != frames.len() || frames.is_empty() || !is_rising;
    if is_odd || frames.len() > limit::PARCEL_CHUNKS {
        return Err(Malformed("chunks and their numbers"));
    }
    let numbers = numbers.into_iter();
    let numbers = numbers.map(|number| usize::try_from(number).unwrap_or(usize::MAX));
    Ok((parcel_of(&request.parcel)?, numbers.zip(frames).collect()))
}

pub(super) fn encode_taken(taken: &[Taken]) -> Bytes {
    let code = |taken: &Taken| match taken {
        Taken::Stored => Code::Stored,
        Taken::Had => Code::Had,
        Taken::Bad => Code::Bad,
        Taken::Unknown => Code::Unknown,
        Taken::Failed => Code::Unspecified,
    };
    let taken = taken.iter().map(|taken| code(taken).into()).collect();
    rpc::PushResponse { taken }.encode_to_vec().into()
}

/// What became of each of the chunks; of none where the answer cannot be read.
pub(super) fn decode_taken(bytes: Bytes) -> Vec<Taken> {
    let response = rpc::PushResponse::decode(bytes).unwrap_or_default();
    // A code of a later version is no answer, and keeps its place.
    let taken = response.taken.into_iter();
    let taken = taken.map(|code| match Code::try_from(code) {
        Ok(Code::Stored) => Taken::Stored,
        Ok(Code::Had) => Taken::Had,
        Ok(Code::Bad) => Taken::Bad,
        Ok(Code::Unknown) => Taken::Unknown,
        Ok(Code::Unspecified) | Err(_) => Taken::Failed,
    });
    taken.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use aber_proto::{ChunkHash, ChunkRef};

    #[test]
    fn messages_survive_the_wire() {
        let chunk = ChunkRef {
            hash: ChunkHash([1; 32]),
            length: 77,
        };
        let announcement = Announcement {
            id: ParcelId::example(),
            chunks: [chunk].into(),
            signature: [5; 64],
        };
        let report = Report {
            parcel: ParcelId::example(),
            has: Bits::first(9),
            asks: true,
        };
        let all = [
            Word::Announce(announcement.clone(), None),
            Word::Announce(announcement, Some(report)),
            Word::Have(vec![report]),
            Word::Adopt(ParcelId::example(), 3),
            Word::Holders(ParcelId::example(), vec![NodeId(1), NodeId(4)]),
        ];
        for message in all {
            assert_eq!(Word::decode(message.encode()), Ok(message));
        }
        let reply = Reply {
            is_taken: true,
            has: Some(Bits::first(3)),
            asks: true,
            unknown: vec![ParcelId::example()],
        };
        assert_eq!(Reply::decode(reply.encode()), Ok(reply));
        let taken = [
            Taken::Stored,
            Taken::Had,
            Taken::Bad,
            Taken::Unknown,
            Taken::Failed,
        ];
        assert_eq!(decode_taken(encode_taken(&taken)), taken);
        let frame = |text: &'static str| Bytes::from_static(text.as_bytes());
        let chunks = vec![(0, frame("frame")), (4, frame("")), (255, frame("x"))];
        let push = encode_push(&ParcelId::example(), chunks.clone());
        assert_eq!(decode_push(push), Ok((ParcelId::example(), chunks)));
    }

    #[test]
    fn what_no_relay_says_is_refused() {
        for bytes in [&b""[..], b"\xff\xff", b"\x0a\x02\x08\x01"] {
            assert!(Word::decode(Bytes::copy_from_slice(bytes)).is_err());
        }
        assert!(decode_push(Bytes::from_static(b"\x0a\x01a")).is_err());
        assert!(decode_push(encode_push(&ParcelId::example(), Vec::new())).is_err());
        let lopsided = rpc::PushRequest {
            parcel: parcel_bytes(&ParcelId::example()),
            numbers: vec![1, 2],
            frames: vec![Bytes::new()],
        };
        assert!(decode_push(lopsided.encode_to_vec().into()).is_err());
        let twice = vec![(3, Bytes::new()), (3, Bytes::new())];
        assert!(decode_push(encode_push(&ParcelId::example(), twice)).is_err());
        let later = rpc::PushResponse {
            taken: vec![77, Code::Stored.into()],
        };
        let taken = decode_taken(later.encode_to_vec().into());
        assert_eq!(taken, [Taken::Failed, Taken::Stored]);
    }
}
