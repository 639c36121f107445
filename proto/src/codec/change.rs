//! [pure] Changes, events and contents <-> messages of `store.proto`.
//!
//! Each type has a pair of functions, `x_to_message` and `x_from_message`. The second takes the
//! message by value, so that text is moved and bytes are shared.

use super::{FORMAT, UNKNOWN_FORMAT};
use crate::change::{Change, ChangeProblem, SignedChange};
use crate::event::{Event, Operation, Place, Precondition};
use crate::generated::store;
use crate::generated::store::content::Content as ContentMessage;
use crate::generated::store::event::Operation as OperationMessage;
use crate::generated::store::manifest::Chunks as ChunksMessage;
use crate::hash::{ChangeHash, ContentHash};
use crate::id::{ClusterId, EventId, NodeId, PartitionId, RequestId, VolumeId};
use crate::key::{BatchSignature, SignatureProblem};
use crate::limit;
use crate::manifest::{
    Attributes, ChunkList, ChunkRef, Content, Manifest, ManifestProblem, decode_list, encode_list,
};
use crate::path::RelPath;
use crate::unit::{FileTime, Timestamp};
use bytes::Bytes;

type Result<T> = std::result::Result<T, ChangeProblem>;

/// A field that every encoder of this format writes.
fn required<T>(field: Option<T>, missing: &'static str) -> Result<T> {
    field.ok_or(ChangeProblem::Encoding(missing))
}

fn fixed<const N: usize>(bytes: &[u8], wrong: &'static str) -> Result<[u8; N]> {
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
        events: events.collect::<Result<_>>()?,
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
        operation: Some(operation_to_message(&event.operation)),
    }
}

fn event_from_message(message: store::Event) -> Result<Event> {
    let operation = required(message.operation, "an event without a known operation")?;
    Ok(Event {
        precondition: precondition_from_message(message.precondition),
        operation: operation_from_message(operation)?,
    })
}

fn precondition_to_message(precondition: &Precondition) -> Option<store::Precondition> {
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

fn precondition_from_message(message: Option<store::Precondition>) -> Precondition {
    let message = message.unwrap_or_default();
    Precondition {
        etag: message.etag.map(event_id_from_message),
        absent: message.absent,
        unchanged_since: message.unchanged_since,
    }
}

fn event_id_to_message(id: EventId) -> store::EventId {
    store::EventId {
        partition: id.partition.0,
        index: id.index,
        ordinal: id.ordinal,
    }
}

fn event_id_from_message(message: store::EventId) -> EventId {
    EventId {
        partition: PartitionId(message.partition),
        index: message.index,
        ordinal: message.ordinal,
    }
}

fn place_to_message(place: &Place) -> Option<store::Place> {
    Some(store::Place {
        volume: place.volume.0,
        path: place.path.as_str().to_owned(),
    })
}

fn place_from_message(message: Option<store::Place>) -> Result<Place> {
    let store::Place { volume, path } = required(message, "an operation without a place")?;
    match RelPath::parse(&path) {
        Ok(path) => Ok(Place {
            volume: VolumeId(volume),
            path,
        }),
        Err(problem) => Err(ChangeProblem::path(&path, problem)),
    }
}

#[expect(
    clippy::too_many_lines,
    reason = "one arm for each operation and nothing else"
)]
fn operation_to_message(operation: &Operation) -> OperationMessage {
    match operation {
        Operation::Put {
            place,
            content,
            attributes,
            parents,
        } => OperationMessage::Put(store::Put {
            place: place_to_message(place),
            content: Some(content_to_message(content)),
            attributes: Some(attributes_to_message(*attributes)),
            parents: *parents,
        }),
        Operation::MakeDirectory { place, parents } => {
            OperationMessage::MakeDirectory(store::MakeDirectory {
                place: place_to_message(place),
                parents: *parents,
            })
        }
        Operation::MakeSymlink {
            place,
            target,
            parents,
        } => OperationMessage::MakeSymlink(store::MakeSymlink {
            place: place_to_message(place),
            target: target.clone(),
            parents: *parents,
        }),
        Operation::Rename {
            from,
            to,
            replace,
            target,
        } => OperationMessage::Rename(store::Rename {
            from: place_to_message(from),
            to: place_to_message(to),
            replace: *replace,
            target: precondition_to_message(target),
        }),
        Operation::Copy {
            source,
            to,
            content,
            attributes,
            replace,
        } => OperationMessage::Copy(store::Copy {
            source: Some(event_id_to_message(*source)),
            to: place_to_message(to),
            content: Some(content_to_message(content)),
            attributes: Some(attributes_to_message(*attributes)),
            replace: *replace,
        }),
        Operation::Remove {
            place,
            recursive,
            base,
        } => OperationMessage::Remove(store::Remove {
            place: place_to_message(place),
            recursive: *recursive,
            base: *base,
        }),
        Operation::SetAttributes { place, mode, mtime } => {
            OperationMessage::SetAttributes(store::SetAttributes {
                place: place_to_message(place),
                mode: mode.map(u32::from),
                mtime: mtime.map(file_time_to_message),
            })
        }
        Operation::MakeVolume { name, partition } => {
            OperationMessage::MakeVolume(store::MakeVolume {
                name: name.clone(),
                partition: partition.0,
            })
        }
        Operation::RenameVolume { volume, name } => {
            OperationMessage::RenameVolume(store::RenameVolume {
                volume: volume.0,
                name: name.clone(),
            })
        }
        Operation::RemoveVolume { volume } => {
            OperationMessage::RemoveVolume(store::RemoveVolume { volume: volume.0 })
        }
    }
}

fn operation_from_message(message: OperationMessage) -> Result<Operation> {
    Ok(match message {
        OperationMessage::Put(put) => Operation::Put {
            place: place_from_message(put.place)?,
            content: event_content(put.content)?,
            attributes: attributes_from_message(put.attributes)?,
            parents: put.parents,
        },
        OperationMessage::MakeDirectory(make) => Operation::MakeDirectory {
            place: place_from_message(make.place)?,
            parents: make.parents,
        },
        OperationMessage::MakeSymlink(make) => Operation::MakeSymlink {
            place: place_from_message(make.place)?,
            target: make.target,
            parents: make.parents,
        },
        OperationMessage::Rename(rename) => Operation::Rename {
            from: place_from_message(rename.from)?,
            to: place_from_message(rename.to)?,
            replace: rename.replace,
            target: precondition_from_message(rename.target),
        },
        OperationMessage::Copy(copy) => Operation::Copy {
            source: event_id_from_message(required(copy.source, "a copy without a source")?),
            to: place_from_message(copy.to)?,
            content: event_content(copy.content)?,
            attributes: attributes_from_message(copy.attributes)?,
            replace: copy.replace,
        },
        OperationMessage::Remove(remove) => Operation::Remove {
            place: place_from_message(remove.place)?,
            recursive: remove.recursive,
            base: remove.base,
        },
        OperationMessage::SetAttributes(set) => Operation::SetAttributes {
            place: place_from_message(set.place)?,
            mode: mode_from_message(set.mode)?,
            mtime: set.mtime.map(file_time_from_message),
        },
        OperationMessage::MakeVolume(make) => Operation::MakeVolume {
            name: make.name,
            partition: PartitionId(make.partition),
        },
        OperationMessage::RenameVolume(rename) => Operation::RenameVolume {
            volume: VolumeId(rename.volume),
            name: rename.name,
        },
        OperationMessage::RemoveVolume(remove) => Operation::RemoveVolume {
            volume: VolumeId(remove.volume),
        },
    })
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

fn event_content(message: Option<store::Content>) -> Result<Content> {
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

fn attributes_to_message(attributes: Attributes) -> store::Attributes {
    store::Attributes {
        mtime: Some(file_time_to_message(attributes.mtime)),
        mode: attributes.mode.map(u32::from),
    }
}

fn attributes_from_message(message: Option<store::Attributes>) -> Result<Attributes> {
    let message = required(message, "an operation without its attributes")?;
    let mtime = required(message.mtime, "attributes without a modification time")?;
    Ok(Attributes {
        mtime: file_time_from_message(mtime),
        mode: mode_from_message(message.mode)?,
    })
}

fn mode_from_message(mode: Option<u32>) -> Result<Option<u16>> {
    mode.map(|bits| u16::try_from(bits).map_err(|_| ChangeProblem::Mode(bits)))
        .transpose()
}

fn file_time_to_message(time: FileTime) -> store::FileTime {
    store::FileTime {
        seconds: time.seconds,
        nanos: time.nanos,
    }
}

fn file_time_from_message(message: store::FileTime) -> FileTime {
    FileTime {
        seconds: message.seconds,
        nanos: message.nanos,
    }
}
