//! [driver] The log as people read it.

use super::render::{self, Names};
use super::{NodeService, parse_path};
use crate::reason::{Problem, Reason};
use crate::service::Answer;
use aber_log::env::Env;
use aber_materializer::view::RequestOutcome;
use aber_proto::generated::v1;
use aber_proto::{
    Change, Entry, EntryKind, NodeId, PartitionId, SignedChange, TreePath, VolumeId, codec,
};
use bytes::Bytes;
use std::collections::BTreeMap;

const PAGE_DEFAULT: usize = 100;
const PAGE_MOST: usize = 1000;
const EVENTS_DEFAULT: usize = 20;
/// Entries read at a time of each partition.
const BLOCK: u64 = 64;
const BLOCK_BYTES: usize = 4 * 1024 * 1024;

/// The names that are known here now, looked up once a call.
pub(super) struct KnownNames {
    volumes: BTreeMap<VolumeId, String>,
    members: BTreeMap<NodeId, String>,
}

impl Names for KnownNames {
    fn volume(&self, volume: VolumeId) -> Option<String> {
        self.volumes.get(&volume).cloned()
    }

    fn member(&self, node: NodeId) -> String {
        self.members
            .get(&node)
            .cloned()
            .unwrap_or_else(|| node.to_string())
    }
}

/// An entry with its change.
pub(super) struct Told {
    pub(super) entry: Entry,
    pub(super) signed: SignedChange,
    pub(super) change: Change,
}

/// One partition's entries, walked in one direction.
struct Walk {
    partition: PartitionId,
    /// The next index to read; `None` at the end.
    next: Option<u64>,
    last: u64,
    ready: Vec<Told>,
}

fn damaged(detail: impl std::fmt::Display) -> Problem {
    Problem::new(Reason::LogDamaged).with("detail", detail)
}

pub(super) fn decode_entry(entry: Entry) -> Option<Told> {
    if entry.kind != EntryKind::Change {
        return None;
    }
    let signed = codec::decode_signed(&entry.body).ok()?;
    let change = codec::decode_change(&signed.body).ok()?;
    Some(Told {
        entry,
        signed,
        change,
    })
}

impl<E: Env> NodeService<E> {
    pub(super) fn names(&self) -> KnownNames {
        let volumes = self.node.parts.tree.volumes().unwrap_or_default();
        let members = self.node.parts.members.get();
        KnownNames {
            volumes: volumes
                .into_iter()
                .map(|volume| (volume.id, volume.name))
                .collect(),
            members: members
                .all()
                .map(|member| (member.node, member.name.clone()))
                .collect(),
        }
    }

    /// How far each partition is applied here, packed.
    pub(super) fn cursor(&self) -> Option<v1::Cursor> {
        let applied = self.node.parts.applied.iter();
        let positions =
            applied.map(|(partition, at)| (*partition, at.get().map_or(0, |at| at + 1)));
        Some(v1::Cursor {
            token: encode_cursor(positions),
        })
    }

    pub(super) fn history_list(
        &self,
        request: v1::ListEntriesRequest,
    ) -> Answer<v1::ListEntriesResponse> {
        let path = if request.path.is_empty() {
            TreePath::root()
        } else {
            parse_path(&request.path)?
        };
        let asked = usize::try_from(request.page_size).unwrap_or(0);
        let most = if asked == 0 {
            PAGE_DEFAULT
        } else {
            asked.min(PAGE_MOST)
        };
        let names = self.names();
        let mut walks = self.walks(&request)?;
        let mut entries = Vec::new();
        while entries.len() < most {
            let Some(told) = self.next_told(&mut walks, request.oldest_first)? else {
                break;
            };
            let author = names.member(told.change.author);
            let is_by = request.authors.is_empty() || request.authors.contains(&author);
            if is_by && touches(&told.change, &path, &names) {
                let shown = self.tell(&told, request.events_per_change as usize, &names);
                if request.include_rejected || shown.applied {
                    entries.push(shown);
                }
            }
        }
        let is_over = walks
            .iter()
            .all(|walk| walk.next.is_none() && walk.ready.is_empty());
        let next_page_token = if is_over {
            String::new()
        } else {
            token(&walks)
        };
        Ok(v1::ListEntriesResponse {
            entries,
            next_page_token,
            cursor: self.cursor(),
        })
    }

    fn walks(&self, request: &v1::ListEntriesRequest) -> Result<Vec<Walk>, Problem> {
        let foreign = || Problem::new(Reason::CursorForeign).with("detail", "the page token");
        let resumed = if request.page_token.is_empty() {
            None
        } else {
            let bytes = data_encoding::HEXLOWER.decode(request.page_token.as_bytes());
            Some(decode_cursor(&bytes.map_err(|_| foreign())?).ok_or_else(foreign)?)
        };
        let mut walks = Vec::new();
        for (partition, applied) in &self.node.parts.applied {
            let Some(last) = applied.get() else { continue };
            let oldest = self.node.parts.log.state(*partition).oldest.unwrap_or(0);
            let start = if request.oldest_first { oldest } else { last };
            let next = match &resumed {
                None => Some(start),
                // A token holds the next index plus one; 0 is the end.
                Some(at) => at.get(partition).copied().unwrap_or(0).checked_sub(1),
            };
            walks.push(Walk {
                partition: *partition,
                next,
                last,
                ready: Vec::new(),
            });
        }
        Ok(walks)
    }

    /// The next change over all partitions, by order time.
    fn next_told(&self, walks: &mut [Walk], oldest_first: bool) -> Result<Option<Told>, Problem> {
        for walk in walks.iter_mut() {
            while walk.ready.is_empty() && walk.next.is_some() {
                self.fill(walk, oldest_first)?;
            }
        }
        let time = |walk: &&mut Walk| {
            let first = walk
                .ready
                .last()
                .map(|told| told.entry.order_time.0)
                .unwrap_or_default();
            if oldest_first { -first } else { first }
        };
        let waiting = walks.iter_mut().filter(|walk| !walk.ready.is_empty());
        Ok(waiting.max_by_key(time).and_then(|walk| walk.ready.pop()))
    }

    /// Reads the next block of a walk; the next one to tell is last in `ready`.
    fn fill(&self, walk: &mut Walk, oldest_first: bool) -> Result<(), Problem> {
        let Some(next) = walk.next else { return Ok(()) };
        let oldest = self
            .node
            .parts
            .log
            .state(walk.partition)
            .oldest
            .unwrap_or(0);
        let (from, to) = if oldest_first {
            (next, (next + BLOCK).min(walk.last + 1))
        } else {
            (next.saturating_sub(BLOCK - 1).max(oldest), next + 1)
        };
        let mut entries = Vec::new();
        let mut at = from;
        while at < to {
            let block = self
                .node
                .parts
                .log
                .read(walk.partition, at, to, BLOCK_BYTES)
                .map_err(damaged)?;
            let Some(last) = block.last() else { break };
            at = last.log_id.index + 1;
            entries.extend(block);
        }
        walk.ready = entries.into_iter().filter_map(decode_entry).collect();
        if oldest_first {
            walk.ready.reverse();
            walk.next = (to <= walk.last).then_some(to);
        } else {
            walk.next = (from > oldest).then(|| from - 1);
        }
        Ok(())
    }

    /// An entry for people, with what became of it.
    pub(super) fn tell(&self, told: &Told, events: usize, names: &KnownNames) -> v1::Entry {
        let events = if events == 0 { EVENTS_DEFAULT } else { events };
        let partition = told.entry.partition;
        let mut shown = v1::Entry {
            id: Some(render::entry_id(partition, told.entry.log_id.index)),
            term: told.entry.log_id.term,
            order_time: Some(render::stamp_message(told.entry.order_time)),
            change: Some(render::change(&told.change, events, names)),
            chain_hash: Bytes::copy_from_slice(&told.entry.chain.0),
            control_index: told.entry.control_index,
            ..v1::Entry::default()
        };
        let answered = self
            .node
            .parts
            .tree
            .request(partition, told.change.request)
            .ok()
            .flatten();
        match answered {
            Some((index, outcome)) if index == told.entry.log_id.index => match outcome {
                RequestOutcome::Applied => shown.applied = true,
                RequestOutcome::Rejected(why) => shown.set_rejected_reason(render::reason(why)),
            },
            // A repeat, or a void number: it did nothing.
            _ => shown.set_rejected_reason(v1::ErrorReason::ChangeRejected),
        }
        shown
    }

    pub(super) fn history_entry(
        &self,
        request: v1::GetEntryRequest,
    ) -> Answer<v1::GetEntryResponse> {
        let id = request.id.unwrap_or_default();
        let unknown = || Problem::new(Reason::EntryNotFound).with("entry", render::entry_text(&id));
        let partition = PartitionId(id.partition);
        let applied = self
            .node
            .parts
            .applied
            .get(&partition)
            .and_then(|at| at.get());
        if applied.is_none_or(|applied| applied < id.index) {
            return Err(unknown());
        }
        let log = &self.node.parts.log;
        let entries = log
            .read(partition, id.index, id.index + 1, 1)
            .map_err(damaged)?;
        let entry = entries
            .into_iter()
            .next()
            .filter(|entry| entry.log_id.index == id.index);
        let entry = entry.ok_or_else(unknown)?;
        let before = match id.index.checked_sub(1) {
            Some(before) => log
                .chain_at(partition, before)
                .map_err(damaged)?
                .map(|(_, chain)| chain),
            None => None,
        };
        let before = before
            .unwrap_or_else(|| aber_proto::ChainHash::genesis(&self.node.parts.cluster, partition));
        let mut response = v1::GetEntryResponse {
            previous_chain_hash: Bytes::copy_from_slice(&before.0),
            entry_bytes: entry.to_bytes(),
            ..v1::GetEntryResponse::default()
        };
        let (term, chain) = (entry.log_id.term, entry.chain);
        match decode_entry(entry) {
            Some(told) => {
                let shown = self.tell(&told, usize::MAX, &self.names());
                response.entry = Some(shown);
                response.signature = Bytes::copy_from_slice(&told.signed.signature.root_signature);
                response.change_bytes = told.signed.body.clone();
                let members = self.node.parts.members.get();
                let author = members.member(told.change.author);
                let key = author.map(|member| Bytes::copy_from_slice(&member.key.0));
                response.author_key = key.unwrap_or_default();
            }
            None => {
                response.entry = Some(v1::Entry {
                    id: Some(id),
                    term,
                    chain_hash: Bytes::copy_from_slice(&chain.0),
                    applied: true,
                    ..v1::Entry::default()
                });
            }
        }
        Ok(response)
    }
}

/// Whether a change touches a path, something below it, or a directory above it as a whole.
pub(super) fn touches(change: &Change, path: &TreePath, names: &KnownNames) -> bool {
    if path.is_root() {
        return true;
    }
    let inside = |text: String| {
        let below = text.strip_prefix(path.as_str());
        below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    change
        .events
        .iter()
        .any(|event| render::paths_of(event, names).into_iter().any(inside))
}

fn token(walks: &[Walk]) -> String {
    let at = walks.iter().map(|walk| {
        // What is ready was read but not told: go on with it.
        let ready = walk.ready.last().map(|told| told.entry.log_id.index);
        (
            walk.partition,
            ready.or(walk.next).map_or(0, |next| next + 1),
        )
    });
    data_encoding::HEXLOWER.encode(&encode_cursor(at))
}

/// Partition and number, little-endian, one after the other.
pub(super) fn encode_cursor(at: impl Iterator<Item = (PartitionId, u64)>) -> Bytes {
    let mut bytes = Vec::new();
    for (partition, index) in at {
        bytes.extend_from_slice(&partition.0.to_le_bytes());
        bytes.extend_from_slice(&index.to_le_bytes());
    }
    bytes.into()
}

/// The inverse of [`encode_cursor`].
pub(super) fn decode_cursor(bytes: &[u8]) -> Option<BTreeMap<PartitionId, u64>> {
    let (rows, rest) = bytes.as_chunks::<12>();
    let row = |row: &[u8; 12]| {
        let (partition, index) = row.split_first_chunk::<4>()?;
        let index = u64::from_le_bytes(index.try_into().ok()?);
        Some((PartitionId(u32::from_le_bytes(*partition)), index))
    };
    if rest.is_empty() {
        rows.iter().map(row).collect()
    } else {
        None
    }
}
