//! [driver] Changes as callers ask for them, turned into items of the outbox.
//!
//! A path of the tree becomes a place in a partition. Below a top-level name that is no volume yet
//! the place stays open ([`PENDING_VOLUME`]) until the volume is applied; its partition is known
//! beforehand, since a new volume's partition follows from its name.

use super::{NodeService, index_problem};
use crate::reason::{Problem, Reason};
use aber_log::chunk::ChunkPin;
use aber_log::env::{Env, Runtime};
use aber_log::outbox::item::{Item, PENDING_VOLUME};
use aber_materializer::tree::{ROOT, Tree};
use aber_materializer::view::Resolved;
use aber_proto::generated::v1;
use aber_proto::{
    Change, ChangeHash, ChangeProblem, Content, Event, EventId, FileTime, Operation, Origin,
    PartitionId, Place, Precondition, RelPath, RequestId, TreePath, VolumeId, codec, limit,
};
use std::collections::BTreeSet;

/// Where a path belongs.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) partition: PartitionId,
    pub(super) place: Place,
    /// The name of a volume that is not there yet.
    pub(super) pending: Option<String>,
}

/// A change under construction.
#[derive(Default)]
pub(super) struct Draft {
    events: Vec<Event>,
    paths: BTreeSet<TreePath>,
    /// What the change is part of.
    pub(super) origin: Option<Origin>,
    partition: Option<PartitionId>,
    pending: Option<String>,
    /// Volumes to make first.
    pub(super) new_volumes: BTreeSet<String>,
    pub(super) new_bytes: u64,
    pub(super) reused_bytes: u64,
    /// Chunks that must not be swept before the item is in the outbox.
    pins: Vec<ChunkPin>,
}

impl Draft {
    /// Keeps content from the sweep until the change is done.
    pub(super) fn keep(&mut self, pin: ChunkPin) {
        self.pins.push(pin);
    }

    /// A change of a plan, whose events were made by it.
    pub(super) fn of_plan(
        partition: PartitionId,
        pending: Option<String>,
        events: Vec<Event>,
        paths: BTreeSet<TreePath>,
    ) -> Self {
        Self {
            events,
            paths,
            partition: Some(partition),
            pending,
            ..Self::default()
        }
    }

    /// A change of the control partition that touches no path.
    pub(super) fn of_members(operation: Operation) -> Self {
        Self {
            events: vec![Event {
                precondition: Precondition::default(),
                operation,
            }],
            partition: Some(PartitionId::CONTROL),
            ..Self::default()
        }
    }

    /// Adds what one operation touches; all of a change lies in one partition.
    pub(super) fn add(
        &mut self,
        precondition: Precondition,
        operation: Operation,
        touched: &[(&TreePath, &Target)],
    ) -> Result<(), Problem> {
        for (path, target) in touched {
            let same_partition = self.partition.is_none_or(|p| p == target.partition);
            let same_volume = self.events.is_empty() || self.pending == target.pending;
            if !same_partition || !same_volume {
                let first = self.paths.first().unwrap_or(path);
                let paths = format!("{first}, {path}");
                return Err(Problem::new(Reason::CrossPartition).with("paths", paths));
            }
            self.partition = Some(target.partition);
            self.pending.clone_from(&target.pending);
            self.paths.insert((*path).clone());
        }
        self.events.push(Event {
            precondition,
            operation,
        });
        Ok(())
    }
}

/// The partition of a new volume: from its name, so that two nodes that make it at once agree.
pub(super) fn partition_of_new(name: &str, partitions: u32) -> PartitionId {
    let hash = blake3::hash(name.as_bytes());
    let first = hash
        .as_bytes()
        .first_chunk::<8>()
        .map_or(0, |bytes| u64::from_le_bytes(*bytes));
    let data = u64::from(partitions.saturating_sub(1)).max(1);
    PartitionId(u32::try_from(first % data + 1).unwrap_or(1))
}

fn rejected(problem: &ChangeProblem) -> Problem {
    let limit_of = |reason| Problem::new(reason).with("detail", problem);
    match problem {
        ChangeProblem::TooManyEvents { events } => Problem::new(Reason::ChangeTooLarge)
            .with("events", events)
            .with("limit", format!("{} events", limit::CHANGE_EVENTS)),
        ChangeProblem::TooLong { bytes } => Problem::new(Reason::ChangeTooLarge)
            .with("bytes", bytes)
            .with("limit", format!("{} bytes", limit::CHANGE_BYTES)),
        ChangeProblem::Path { path, problem } => Problem::name(path, *problem),
        _ => limit_of(Reason::Usage),
    }
}

pub(super) fn guard(asked: Option<&v1::Precondition>) -> Result<Precondition, Problem> {
    let Some(asked) = asked else {
        return Ok(Precondition::default());
    };
    let etag = match asked.etag.as_deref() {
        None => None,
        Some(text) => Some(EventId::parse(text).ok_or_else(|| {
            Problem::usage(format!("{text:?} is no etag: it looks like 3:1842.7"))
        })?),
    };
    let unchanged_since = asked.unchanged_since.as_ref().map(|entry| entry.index);
    Ok(Precondition {
        etag,
        absent: asked.absent,
        unchanged_since,
    })
}

pub(super) fn mode(asked: Option<u32>) -> Result<Option<u16>, Problem> {
    asked
        .map(|bits| u16::try_from(bits).map_err(|_| Problem::usage(format!("mode {bits:o}"))))
        .transpose()
}

impl<E: Env> NodeService<E> {
    /// Where a path belongs. With `parents` a missing volume is made; without, it must be there or
    /// be on its way.
    pub(super) async fn target(
        &self,
        path: &TreePath,
        parents: bool,
        draft: &mut Draft,
    ) -> Result<Target, Problem> {
        let parts = &self.node.parts;
        match parts.tree.resolve(path).map_err(index_problem)? {
            Resolved::At { partition, place } => {
                self.check_served(partition, path)?;
                Ok(Target {
                    partition,
                    place,
                    pending: None,
                })
            }
            Resolved::NotADirectory(name) => {
                Err(Problem::new(Reason::NotADirectory).with("path", format!("/{name}")))
            }
            Resolved::NoVolume(name) => {
                let top = TreePath::root()
                    .join(&name)
                    .map_err(|p| Problem::name(&name, p))?;
                if parents {
                    draft.new_volumes.insert(name.clone());
                } else if !parts.outbox.touches(top).await {
                    return Err(Problem::new(Reason::NoParent).with("path", path));
                }
                let rest = path
                    .split_volume()
                    .map(|(_, rest)| rest)
                    .unwrap_or_default();
                Ok(Target {
                    partition: partition_of_new(&name, parts.config.genesis.partitions),
                    place: Place {
                        volume: PENDING_VOLUME,
                        path: rest,
                    },
                    pending: Some(name),
                })
            }
        }
    }

    /// Whether a volume has nothing in it, as applied here.
    pub(super) fn is_empty(&self, volume: &TreePath) -> Result<bool, Problem> {
        let tree = &self.node.parts.tree;
        let name = volume.name().unwrap_or_default();
        let node = tree.child(ROOT, name).map_err(index_problem)?;
        let Some(node) = node else { return Ok(true) };
        let children = tree.children(node.id, None, 1).map_err(index_problem)?;
        Ok(children.is_empty())
    }

    /// Adds the removal of all that is in a volume.
    pub(super) fn draft_emptying(
        &self,
        path: &TreePath,
        target: &Target,
        base: Option<&v1::EntryId>,
        draft: &mut Draft,
    ) -> Result<(), Problem> {
        let applied = self
            .node
            .parts
            .applied
            .get(&target.partition)
            .and_then(|at| at.get());
        let base = base.map_or(applied.unwrap_or(0), |entry| entry.index);
        let operation = Operation::Remove {
            place: target.place.clone(),
            recursive: true,
            base,
        };
        draft.add(Precondition::default(), operation, &[(path, target)])
    }

    /// The finished item.
    pub(super) fn item(
        &self,
        draft: Draft,
        request: RequestId,
        options: &v1::WriteOptions,
    ) -> Result<(Item, Vec<ChunkPin>), Problem> {
        let parts = &self.node.parts;
        let via = if options.via.is_empty() {
            "api"
        } else {
            &options.via
        };
        let change = Change {
            cluster: parts.cluster,
            partition: draft.partition.unwrap_or_default(),
            author: parts.config.me,
            author_sequence: 0,
            previous: ChangeHash::default(),
            request,
            wall_time: parts.env.runtime().wall_clock(),
            comment: options.comment.clone(),
            via: via.to_owned(),
            origin: draft.origin,
            events: draft.events,
        };
        change.check().map_err(|problem| rejected(&problem))?;
        let bytes = codec::encode_change(&change).len();
        if bytes > limit::CHANGE_BYTES {
            return Err(rejected(&ChangeProblem::TooLong { bytes }));
        }
        let item = Item {
            change,
            volume: draft.pending,
            paths: draft.paths.into_iter().collect(),
            min_copies: options.min_copies,
            is_in_train: false,
            signed: None,
        };
        Ok((item, draft.pins))
    }

    /// A draft that makes a volume.
    pub(super) async fn draft_volume(&self, name: &str) -> Result<Draft, Problem> {
        let mut draft = Draft::default();
        self.draft_directory(
            &format!("/{name}"),
            false,
            Precondition::default(),
            &mut draft,
        )
        .await?;
        Ok(draft)
    }
}

/// What a put gives to a path.
pub(super) struct PutWanted {
    pub(super) content: Content,
    pub(super) mtime: Option<FileTime>,
    pub(super) mode: Option<u16>,
    pub(super) parents: bool,
}

pub(super) fn in_control(name: &str) -> Target {
    let path = RelPath::root().join(name).unwrap_or_default();
    let place = Place {
        volume: VolumeId::ROOT,
        path,
    };
    Target {
        partition: PartitionId::CONTROL,
        place,
        pending: None,
    }
}
