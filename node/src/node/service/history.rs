//! [driver] Entries as people read them.

use super::NodeService;
use super::outcome::Counted;
use super::render::{self, Names};
use crate::reason::{Problem, Reason};
use crate::service::Answer;
use aber_log::env::Env;
use aber_materializer::view::{Fate, RequestOutcome};
use aber_proto::generated::v1;
use aber_proto::{
    Change, Entry, EntryKind, Event, NodeId, PartitionId, SignedChange, TreePath, VolumeId, codec,
};
use bytes::Bytes;
use std::collections::BTreeMap;

/// Events of a change that are shown where the caller does not say.
pub(super) const EVENTS_DEFAULT: usize = 20;

/// The names that are known here now, looked up once a call.
pub(super) struct KnownNames {
    volumes: BTreeMap<VolumeId, String>,
    members: BTreeMap<NodeId, String>,
    /// The last name of a volume that is gone, as far as history tells.
    ended: Box<dyn Fn(VolumeId) -> Option<String> + Send + Sync>,
}

impl Names for KnownNames {
    fn volume(&self, volume: VolumeId) -> Option<String> {
        let present = self.volumes.get(&volume).cloned();
        present.or_else(|| (self.ended)(volume))
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

pub(super) fn damaged(detail: impl std::fmt::Display) -> Problem {
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
        let tree = self.node.parts.tree.clone();
        KnownNames {
            ended: Box::new(move |volume| tree.last_name(volume).ok().flatten()),
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

    /// An entry for people, with what became of it, and the first of its events.
    pub(super) fn tell(&self, told: &Told, events: usize, names: &KnownNames) -> v1::Entry {
        let events = if events == 0 { EVENTS_DEFAULT } else { events };
        let shown: Vec<usize> = (0..told.change.events.len().min(events)).collect();
        self.tell_some(told, &shown, names)
    }

    /// An entry for people, with what became of it, and those of its events.
    pub(super) fn tell_some(&self, told: &Told, events: &[usize], names: &KnownNames) -> v1::Entry {
        let (partition, index) = (told.entry.partition, told.entry.log_id.index);
        let mut shown = v1::Entry {
            id: Some(render::entry_id(partition, index)),
            term: told.entry.log_id.term,
            order_time: Some(render::stamp_message(told.entry.order_time)),
            change: Some(render::change(&told.change, events, names)),
            chain_hash: Bytes::copy_from_slice(&told.entry.chain.0),
            control_index: told.entry.control_index,
            ..v1::Entry::default()
        };
        let happened = self.node.parts.tree.happened(partition, index).ok();
        match happened.flatten() {
            Some(happened) => {
                shown.order_time = Some(render::stamp_message(happened.order_time));
                match happened.fate {
                    Fate::Applied => shown.applied = true,
                    Fate::Rejected(why, event) => {
                        shown.set_rejected_reason(render::reason(why));
                        shown.rejected_event = event.map_or(0, |event| event.saturating_add(1));
                    }
                    // A repeat did nothing.
                    Fate::Repeat | Fate::Nothing => {
                        shown.set_rejected_reason(v1::ErrorReason::ChangeRejected);
                    }
                }
            }
            None => self.tell_by_request(told, &mut shown),
        }
        shown
    }

    /// What became of an entry that is older than the history told here, as long as its request is
    /// remembered.
    fn tell_by_request(&self, told: &Told, shown: &mut v1::Entry) {
        let (partition, index) = (told.entry.partition, told.entry.log_id.index);
        let tree = &self.node.parts.tree;
        let answered = tree.request(partition, told.change.request).ok().flatten();
        match answered {
            Some((answered, outcome)) if answered == index => match outcome {
                RequestOutcome::Applied => shown.applied = true,
                RequestOutcome::Rejected(why) => shown.set_rejected_reason(render::reason(why)),
            },
            // Its request was answered by another entry: this one did nothing.
            Some(_) => shown.set_rejected_reason(v1::ErrorReason::ChangeRejected),
            None => shown.outcome_unknown = true,
        }
    }

    /// An entry of the log with its change; `None` if it is not here, or holds none.
    pub(super) fn told_at(
        &self,
        partition: PartitionId,
        index: u64,
    ) -> Result<Option<Told>, Problem> {
        Ok(self.entry_at(partition, index)?.and_then(decode_entry))
    }

    /// An entry of the log; `None` if it is not here.
    pub(super) fn entry_at(
        &self,
        partition: PartitionId,
        index: u64,
    ) -> Result<Option<Entry>, Problem> {
        let log = &self.node.parts.log;
        let entries = log.read(partition, index, index.saturating_add(1), 1);
        let entry = entries.map_err(damaged)?.into_iter().next();
        Ok(entry.filter(|entry| entry.log_id.index == index))
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
        let entry = self.entry_at(partition, id.index)?.ok_or_else(unknown)?;
        let log = &self.node.parts.log;
        let before = match id.index.checked_sub(1) {
            Some(before) => log
                .chain_at(partition, before)
                .map_err(damaged)?
                .map(|(_, chain)| chain),
            None => None,
        };
        let genesis = || aber_proto::ChainHash::genesis(&self.node.parts.cluster, partition);
        // The one before may not be here yet: then nobody can check it here.
        let before = before.or_else(|| (id.index == 0).then(genesis));
        let mut response = v1::GetEntryResponse {
            previous_chain_hash: before
                .map_or_else(Bytes::new, |before| Bytes::copy_from_slice(&before.0)),
            entry_bytes: entry.to_bytes(),
            ..v1::GetEntryResponse::default()
        };
        let (term, chain) = (entry.log_id.term, entry.chain);
        match decode_entry(entry) {
            Some(told) => {
                let names = self.names();
                let mut shown = self.tell(&told, usize::MAX, &names);
                self.add_outcomes(&mut shown, &told, &names, &mut Counted::default())?;
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
    change
        .events
        .iter()
        .any(|event| event_touches(event, path, names))
}

/// Whether an event touches a path or something below it.
pub(super) fn event_touches(event: &Event, path: &TreePath, names: &KnownNames) -> bool {
    if path.is_root() {
        return true;
    }
    let inside = |text: String| {
        let below = text.strip_prefix(path.as_str());
        below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    render::paths_of(event, names).into_iter().any(inside)
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
