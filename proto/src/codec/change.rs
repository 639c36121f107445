//! [pure] Changes, events and contents <-> messages of `store.proto`.
//!
//! Each type has a pair of functions, `x_to_message` and `x_from_message`. The second takes the
//! message by value, so that text is moved and bytes are shared.

use super::{FORMAT, UNKNOWN_FORMAT, operation};
use crate::change::{Change, ChangeProblem, SignedChange};
use crate::event::{Event, Place, Precondition};
use crate::generated::store;
use crate::generated::store::content::Content as ContentMessage;
use crate::generated::store::manifest::Chunks as ChunksMessage;
use crate::hash::{ChangeHash, ContentHash};
use crate::id::{ClusterId, EventId, NodeId, PartitionId, RequestId, VolumeId};
use crate::key::{BatchSignature, SignatureProblem};
use crate::limit;
use crate::manifest::{
    Attributes, ChunkList, ChunkRef, Content, Manifest, ManifestProblem, decode_list, encode_list,
};
use crate::origin::{Act, Action, Origin, PlanId};
use crate::path::RelPath;
use crate::unit::{FileTime, Timestamp};
use bytes::Bytes;

pub(super) type Result<T> = std::result::Result<T, ChangeProblem>;

/// A field that every encoder of this format writes.
pub(super) fn required<T>(field: Option<T>, missing: &'static str) -> Result<T> {
    field.ok_or(ChangeProblem::Encoding(missing))
}

pub(super) fn fixed<const N: usize>(bytes: &[u8], wrong: &'static str) -> Result<[u8; N]> {
    bytes.try_into().map_err(|_| ChangeProblem::Encoding(wrong))
}

pub(super) fn to_message(change: &Change) -> store::ChangeBody {
    let Change {
        cluster,
        partition,
        author,
        author_sequence,
        previous,
        request,
        wall_time,
        comment,
        via,
        origin,
        events,
    } = change;
    store::ChangeBody {
        format: FORMAT,
        cluster: Bytes::copy_from_slice(&cluster.0),
        partition: partition.0,
        author: author.0,
        author_sequence: *author_sequence,
        previous: Bytes::copy_from_slice(&previous.0),
        request: Bytes::copy_from_slice(&request.0),
        wall_time_ms: wall_time.0,
        comment: comment.clone(),
        via: via.clone(),
        origin: origin.as_ref().map(origin_to_message),
        events: events.iter().map(event_to_message).collect(),
    }
}

pub(super) fn from_message(message: store::ChangeBody) -> Result<Change> {
    if message.format != FORMAT {
        return Err(ChangeProblem::Encoding(UNKNOWN_FORMAT));
    }
    let events = message.events.into_iter().map(event_from_message);
    Ok(Change {
        cluster: ClusterId(fixed(&message.cluster, "a cluster id is 32 bytes")?),
        partition: PartitionId(message.partition),
        author: NodeId(message.author),
        author_sequence: message.author_sequence,
        previous: ChangeHash(fixed(&message.previous, "a change hash is 32 bytes")?),
        request: RequestId(fixed(&message.request, "a request id is 16 bytes")?),
        wall_time: Timestamp(message.wall_time_ms),
        comment: message.comment,
        via: message.via,
        origin: message.origin.map(origin_from_message).transpose()?,
        events: events.collect::<Result<_>>()?,
    })
}

fn origin_to_message(origin: &Origin) -> store::Origin {
    let (taken_back_plan, taken_back_entry) = match origin.takes_back {
        Some(Action::Plan(plan)) => (Bytes::copy_from_slice(&plan.0), None),
        Some(Action::Entry(partition, index)) => {
            let partition = partition.0;
            (Bytes::new(), Some(store::EntryRef { partition, index }))
        }
        None => (Bytes::new(), None),
    };
    store::Origin {
        act: origin.act.code().into(),
        plan: Bytes::copy_from_slice(&origin.plan.0),
        taken_back_plan,
        taken_back_entry,
    }
}

fn origin_from_message(message: store::Origin) -> Result<Origin> {
    let act = u8::try_from(message.act).ok().and_then(Act::from_code);
    let plan = |bytes: &Bytes| fixed(bytes, "the id of a plan is 8 bytes").map(PlanId);
    let takes_back = match (&message.taken_back_plan, message.taken_back_entry) {
        (bytes, None) if bytes.is_empty() => None,
        (bytes, None) => Some(Action::Plan(plan(bytes)?)),
        (_, Some(entry)) => Some(Action::Entry(PartitionId(entry.partition), entry.index)),
    };
    Ok(Origin {
        act: required(act, "an action of an unknown kind")?,
        plan: plan(&message.plan)?,
        takes_back,
    })
}

pub(super) fn signed_to_message(change: &SignedChange) -> store::SignedChange {
    let BatchSignature {
        root_signature,
        position,
        count,
        path,
    } = &change.signature;
    store::SignedChange {
        body: change.body.clone(),
        signature: Some(store::BatchSignature {
            root_signature: Bytes::copy_from_slice(root_signature),
            position: *position,
            count: *count,
            path: path.concat().into(),
        }),
    }
}

pub(super) fn signed_from_message(message: store::SignedChange) -> Result<SignedChange> {
    let signature = required(message.signature, "a change without a signature")?;
    let (path, rest) = signature.path.as_chunks::<32>();
    if !rest.is_empty() || path.len() > limit::BATCH_DEPTH {
        return Err(SignatureProblem::Shape.into());
    }
    Ok(SignedChange {
        body: message.body,
        signature: BatchSignature {
            root_signature: fixed(&signature.root_signature, "a signature is 64 bytes")?,
            position: signature.position,
            count: signature.count,
            path: path.to_vec(),
        },
    })
}

fn event_to_message(event: &Event) -> store::Event {
    store::Event {
        precondition: precondition_to_message(&event.precondition),
        operation: Some(operation::to_message(&event.operation)),
    }
}

fn event_from_message(message: store::Event) -> Result<Event> {
    let operation = required(message.operation, "an event without a known operation")?;
    Ok(Event {
        precondition: precondition_from_message(message.precondition),
        operation: operation::from_message(operation)?,
    })
}

pub(super) fn precondition_to_message(precondition: &Precondition) -> Option<store::Precondition> {
    let Precondition {
        etag,
        absent,
        unchanged_since,
    } = *precondition;
    let message = store::Precondition {
        etag: etag.map(event_id_to_message),
        absent,
        unchanged_since,
    };
    (*precondition != Precondition::default()).then_some(message)
}

pub(super) fn precondition_from_message(message: Option<store::Precondition>) -> Precondition {
    let message = message.unwrap_or_default();
    Precondition {
        etag: message.etag.map(event_id_from_message),
        absent: message.absent,
        unchanged_since: message.unchanged_since,
    }
}

pub(super) fn event_id_to_message(id: EventId) -> store::EventId {
    store::EventId {
        partition: id.partition.0,
        index: id.index,
        ordinal: id.ordinal,
    }
}

pub(super) fn event_id_from_message(message: store::EventId) -> EventId {
    EventId {
        partition: PartitionId(message.partition),
        index: message.index,
        ordinal: message.ordinal,
    }
}

pub(super) fn place_to_message(place: &Place) -> Option<store::Place> {
    Some(store::Place {
        volume: place.volume.0,
        path: place.path.as_str().to_owned(),
    })
}

pub(super) fn place_from_message(message: Option<store::Place>) -> Result<Place> {
    let store::Place { volume, path } = required(message, "an operation without a place")?;
    match RelPath::parse(&path) {
        Ok(path) => Ok(Place {
            volume: VolumeId(volume),
            path,
        }),
        Err(problem) => Err(ChangeProblem::path(&path, problem)),
    }
}

pub(super) fn content_to_message(content: &Content) -> store::Content {
    let content = match content {
        Content::Inline(bytes) => ContentMessage::Inline(bytes.clone()),
        Content::Chunks(manifest) => ContentMessage::Manifest(manifest_to_message(manifest)),
    };
    store::Content {
        content: Some(content),
    }
}

pub(super) fn content_from_message(message: store::Content) -> Result<Content> {
    Ok(
        match required(message.content, "a content of no known kind")? {
            ContentMessage::Inline(bytes) => Content::Inline(bytes),
            ContentMessage::Manifest(manifest) => Content::Chunks(manifest_from_message(manifest)?),
        },
    )
}

pub(super) fn event_content(message: Option<store::Content>) -> Result<Content> {
    content_from_message(required(message, "an operation without its content")?)
}

fn manifest_to_message(manifest: &Manifest) -> store::Manifest {
    let Manifest {
        size,
        blake3,
        average,
        chunks,
    } = manifest;
    let rows = Bytes::from(encode_list(chunks.rows()));
    store::Manifest {
        size: *size,
        blake3: Bytes::copy_from_slice(&blake3.0),
        average: *average,
        chunks: Some(match chunks {
            ChunkList::Direct(_) => ChunksMessage::Direct(rows),
            ChunkList::Indirect(_) => ChunksMessage::Indirect(rows),
        }),
    }
}

fn manifest_from_message(message: store::Manifest) -> Result<Manifest> {
    let chunks = match required(message.chunks, "a manifest without chunks")? {
        ChunksMessage::Direct(rows) => ChunkList::Direct(rows_from_message(&rows)?),
        ChunksMessage::Indirect(rows) => ChunkList::Indirect(rows_from_message(&rows)?),
    };
    Ok(Manifest {
        size: message.size,
        blake3: ContentHash(fixed(&message.blake3, "a content hash is 32 bytes")?),
        average: message.average,
        chunks,
    })
}

fn rows_from_message(rows: &[u8]) -> Result<Vec<ChunkRef>> {
    let count = rows.len() / limit::CHUNK_ROW_BYTES;
    if count > limit::MANIFEST_CHUNKS {
        return Err(ManifestProblem::TooManyChunks(count).into());
    }
    Ok(decode_list(rows)?)
}

pub(super) fn attributes_to_message(attributes: Attributes) -> store::Attributes {
    store::Attributes {
        mtime: Some(file_time_to_message(attributes.mtime)),
        mode: attributes.mode.map(u32::from),
    }
}

pub(super) fn attributes_from_message(message: Option<store::Attributes>) -> Result<Attributes> {
    let message = required(message, "an operation without its attributes")?;
    let mtime = required(message.mtime, "attributes without a modification time")?;
    Ok(Attributes {
        mtime: file_time_from_message(mtime),
        mode: mode_from_message(message.mode)?,
    })
}

pub(super) fn mode_from_message(mode: Option<u32>) -> Result<Option<u16>> {
    mode.map(|bits| u16::try_from(bits).map_err(|_| ChangeProblem::Mode(bits)))
        .transpose()
}

pub(super) fn file_time_to_message(time: FileTime) -> store::FileTime {
    store::FileTime {
        seconds: time.seconds,
        nanos: time.nanos,
    }
}

pub(super) fn file_time_from_message(message: store::FileTime) -> FileTime {
    FileTime {
        seconds: message.seconds,
        nanos: message.nanos,
    }
}
