//! [pure] The audit file: a log that can be checked anywhere, by whoever has it and nothing else.
//!
//! `docs/format.md` says its bytes. Written in one go and read in one go; a file that ends early
//! says so, since its end carries the number of entries.

use aber_log::head::{head_message, head_of};
use aber_proto::generated::rpc;
use aber_proto::{Entry, Genesis, SignedHead, codec};
use bytes::Bytes;
use prost::Message;
use std::io::{self, Read, Write};

const MAGIC: &[u8; 8] = b"aberAUD1";
const END: u8 = 0;
const GENESIS: u8 = 1;
const ENTRY: u8 = 2;
const HEAD: u8 = 3;
/// Signed heads in a file at most: of each member one for each partition.
const HEADS: usize = 65_536;
/// A record is at most the longest entry, or the longest genesis.
const RECORD_BYTES: u32 = 4 * 1024 * 1024;

/// Why a file is no audit file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileProblem {
    /// The file cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is something else, or damaged.
    #[error("{0}")]
    Format(String),
}

fn format(what: impl Into<String>) -> FileProblem {
    FileProblem::Format(what.into())
}

/// Writes one.
pub(crate) struct AuditWriter<W> {
    out: W,
    entries: u64,
}

impl<W: Write> AuditWriter<W> {
    /// Begins a file with what the cluster started from.
    pub(crate) fn begin(mut out: W, genesis: &[u8]) -> io::Result<Self> {
        out.write_all(MAGIC)?;
        let mut writer = Self { out, entries: 0 };
        writer.record(GENESIS, genesis)?;
        Ok(writer)
    }

    fn record(&mut self, kind: u8, body: &[u8]) -> io::Result<()> {
        let length = u32::try_from(body.len()).map_err(io::Error::other)?;
        let mut head = [0; 5];
        head[0] = kind;
        head[1..].copy_from_slice(&length.to_le_bytes());
        self.out.write_all(&head)?;
        self.out.write_all(body)
    }

    /// Adds an entry, verbatim.
    pub(crate) fn entry(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.entries += 1;
        self.record(ENTRY, bytes)
    }

    /// Adds what a member has signed: a `Head` of `rpc.proto`.
    pub(crate) fn head(&mut self, signed: &SignedHead) -> io::Result<()> {
        self.record(HEAD, &head_message(signed).encode_to_vec())
    }

    /// Ends the file; answers the number of entries.
    pub(crate) fn end(mut self) -> io::Result<u64> {
        let count = self.entries.to_le_bytes();
        self.record(END, &count)?;
        self.out.flush()?;
        Ok(self.entries)
    }
}

/// Reads one.
pub(crate) struct AuditReader<R> {
    input: R,
    entries: u64,
    genesis: Genesis,
    heads: Vec<SignedHead>,
}

impl<R: Read> AuditReader<R> {
    /// Reads the beginning.
    pub(crate) fn begin(mut input: R) -> Result<Self, FileProblem> {
        let mut magic = [0; 8];
        let read = input.read_exact(&mut magic);
        if read.is_err() || magic != *MAGIC {
            return Err(format("this is no audit file of aber"));
        }
        let (kind, body) = record(&mut input)?;
        if kind != GENESIS {
            return Err(format("it does not begin with a genesis"));
        }
        let genesis = codec::decode_genesis(&body);
        let genesis = genesis.map_err(|problem| format(problem.to_string()))?;
        Ok(Self {
            input,
            entries: 0,
            genesis,
            heads: Vec::new(),
        })
    }

    /// What the cluster started from.
    pub(crate) fn genesis(&self) -> &Genesis {
        &self.genesis
    }

    /// The next entry; `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>, FileProblem> {
        loop {
            let (kind, body) = record(&mut self.input)?;
            if kind != HEAD {
                return self.entry(kind, &body);
            }
            let head = read_head(&body).ok_or_else(|| format("a signed head cannot be read"))?;
            if self.heads.len() == HEADS {
                return Err(format("it holds more signed heads than any may"));
            }
            self.heads.push(head);
        }
    }

    /// What members have signed, as far as it was read; not checked.
    pub(crate) fn heads(&self) -> &[SignedHead] {
        &self.heads
    }

    fn entry(&mut self, kind: u8, body: &Bytes) -> Result<Option<Entry>, FileProblem> {
        match kind {
            ENTRY => {
                self.entries += 1;
                let entry = Entry::decode(body);
                let number = self.entries;
                entry
                    .map(Some)
                    .map_err(|problem| format(format!("record {number}: {problem}")))
            }
            END if body.as_ref() == self.entries.to_le_bytes() => {
                let rest = io::copy(&mut self.input.by_ref().take(1), &mut io::sink())?;
                match rest {
                    0 => Ok(None),
                    _ => Err(format("something stands after its end")),
                }
            }
            END => Err(format("entries are missing: its end counts others")),
            _ => Err(format("a record of an unknown kind")),
        }
    }
}

/// A signed head, as a record holds it; `None` for anything else. Not checked.
pub(crate) fn read_head(bytes: &Bytes) -> Option<SignedHead> {
    head_of(&rpc::Head::decode(bytes.clone()).ok()?)
}

fn record(input: &mut impl Read) -> Result<(u8, Bytes), FileProblem> {
    let mut head = [0; 5];
    let cut = |error: io::Error| match error.kind() {
        io::ErrorKind::UnexpectedEof => format("it is cut short"),
        _ => FileProblem::Io(error),
    };
    input.read_exact(&mut head).map_err(cut)?;
    let [kind, length @ ..] = head;
    let length = u32::from_le_bytes(length);
    if length > RECORD_BYTES {
        return Err(format("a record is longer than any may be"));
    }
    let mut body = vec![0; length as usize];
    input.read_exact(&mut body).map_err(cut)?;
    Ok((kind, body.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use aber_proto::{Member, NodeId, PublicKey, Role, Timestamp};

    fn genesis() -> Vec<u8> {
        codec::encode_genesis(&Genesis {
            name: "c".to_owned(),
            created: Timestamp(1),
            members: vec![Member {
                node: NodeId(1),
                name: "n1".to_owned(),
                key: PublicKey([7; 32]),
                role: Role::Admin,
                address: "h:1".to_owned(),
            }],
            voters: vec![NodeId(1)],
            partitions: 2,
            min_copies: 1,
        })
    }

    /// Whatever is cut off or appended is noticed; nothing is allocated that a length only claims.
    #[test]
    fn a_file_that_is_not_whole_says_so() {
        let mut bytes = Vec::new();
        let writer = AuditWriter::begin(&mut bytes, &genesis()).expect("memory");
        assert_eq!(writer.end().expect("memory"), 0);
        let read = |bytes: &[u8]| -> Result<usize, FileProblem> {
            let mut reader = AuditReader::begin(bytes)?;
            let mut count = 0;
            while reader.next()?.is_some() {
                count += 1;
            }
            Ok(count)
        };
        assert_eq!(read(&bytes).expect("whole"), 0);
        for end in 0..bytes.len() {
            assert!(read(&bytes[..end]).is_err(), "cut at {end}");
        }
        let appended = [bytes.as_slice(), &[0]].concat();
        assert!(read(&appended).is_err());
        let mut long = bytes.clone();
        let at = long.len() - 12;
        long[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(read(&long).is_err());
    }
}
