//! [pure] A change that waits here, and its durable form.

use aber_proto::generated::outbox as stored;
use aber_proto::{
    Change, ChunkRef, PartitionId, PlanId, RequestId, SignedChange, TreePath, VolumeId, codec,
};
use bytes::Bytes;
use prost::Message;

/// Stands in places of a change whose volume has no id yet; [`Item::volume`] names it.
pub const PENDING_VOLUME: VolumeId = VolumeId(u64::MAX);
const FORMAT: u32 = 1;

/// A change that waits here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Item {
    /// What is to be appended; its sequence number and author chain are set when it is signed.
    pub change: Change,
    /// The volume its places are in, where they say [`PENDING_VOLUME`].
    pub volume: Option<String>,
    /// The paths of the tree it touches.
    pub paths: Vec<TreePath>,
    /// Nodes that must hold its content before it is ordered; 0 means the cluster's.
    pub min_copies: u32,
    /// Whether it was taken in together with others of its plan, all or none.
    pub is_in_train: bool,
    /// Once signed: its sequence number and the bytes to propose.
    pub signed: Option<(u64, Bytes)>,
}

/// A stored item that cannot be read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("an outbox item cannot be read: {0}")]
pub struct ItemProblem(pub String);

impl Item {
    /// The request it answers.
    #[must_use]
    pub fn request(&self) -> RequestId {
        self.change.request
    }

    /// The action it is part of.
    #[must_use]
    pub fn plan(&self) -> Option<PlanId> {
        self.change.origin.map(|origin| origin.plan)
    }

    /// The partition it goes to, as far as that is known.
    #[must_use]
    pub fn partition(&self) -> PartitionId {
        self.change.partition
    }

    /// The chunk rows its content names; of indirect manifests those of the lists.
    pub fn rows(&self) -> impl Iterator<Item = &ChunkRef> {
        let contents = self
            .change
            .events
            .iter()
            .filter_map(|event| event.operation.content());
        contents.flat_map(|content| content.rows())
    }

    /// Gives the places the id of their volume.
    pub(super) fn place_in(&mut self, volume: VolumeId, partition: PartitionId) {
        use aber_proto::Operation as Op;
        for event in &mut self.change.events {
            let places = match &mut event.operation {
                Op::Put { place, .. }
                | Op::MakeDirectory { place, .. }
                | Op::MakeSymlink { place, .. }
                | Op::Remove { place, .. }
                | Op::SetAttributes { place, .. }
                | Op::Revive { place, .. } => [Some(place), None],
                Op::Rename { from, to, .. } => [Some(from), Some(to)],
                Op::Copy { to, .. } => [Some(to), None],
                Op::MakeVolume { .. }
                | Op::RenameVolume { .. }
                | Op::RemoveVolume { .. }
                | Op::Invite { .. }
                | Op::RevokeTicket { .. }
                | Op::Admit { .. }
                | Op::SetMember { .. }
                | Op::RemoveMember { .. }
                | Op::SetTag { .. }
                | Op::RemoveTag { .. }
                | Op::SetRetention { .. } => [None, None],
            };
            for place in places.into_iter().flatten() {
                if place.volume == PENDING_VOLUME {
                    place.volume = volume;
                }
            }
        }
        self.change.partition = partition;
        self.volume = None;
    }

    /// The durable form.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let (author_sequence, signed) = self.signed.clone().unwrap_or_default();
        stored::Item {
            format: FORMAT,
            change: codec::encode_change(&self.change),
            volume: self.volume.clone().unwrap_or_default(),
            paths: self
                .paths
                .iter()
                .map(|path| path.as_str().to_owned())
                .collect(),
            min_copies: self.min_copies,
            signed,
            author_sequence,
            in_train: self.is_in_train,
        }
        .encode_to_vec()
        .into()
    }

    /// The inverse of [`Item::encode`].
    ///
    /// # Errors
    /// Bytes that are no item, or one of a newer format.
    pub fn decode(bytes: Bytes) -> Result<Self, ItemProblem> {
        let fail = |what: &dyn std::fmt::Display| ItemProblem(what.to_string());
        let item = stored::Item::decode(bytes).map_err(|error| fail(&error))?;
        if item.format != FORMAT {
            return Err(fail(&format_args!("format {}", item.format)));
        }
        let mut paths = Vec::with_capacity(item.paths.len());
        for path in &item.paths {
            paths.push(TreePath::parse(path).map_err(|error| fail(&error))?);
        }
        let is_signed = !item.signed.is_empty();
        Ok(Self {
            change: codec::decode_change(&item.change).map_err(|error| fail(&error))?,
            volume: Some(item.volume).filter(|name| !name.is_empty()),
            paths,
            min_copies: item.min_copies,
            is_in_train: item.in_train,
            signed: is_signed.then_some((item.author_sequence, item.signed)),
        })
    }

    /// Takes its signature.
    pub fn set_signed(&mut self, sequence: u64, change: &SignedChange) {
        self.signed = Some((sequence, codec::encode_signed(change)));
    }
}
