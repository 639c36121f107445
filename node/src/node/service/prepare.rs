//! [driver] Changes as callers ask for them, turned into items of the outbox.
//!
//! A path of the tree becomes a place in a partition. Below a top-level name that is no volume yet
//! the place stays open ([`PENDING_VOLUME`]) until the volume is applied; its partition is known
//! beforehand, since a new volume's partition follows from its name.

use super::{NodeService, index_problem, parse_path, read, render};
use crate::reason::{Problem, Reason};
use aber_log::chunk::ChunkPin;
use aber_log::env::{Env, Runtime};
use aber_log::ingest::ContentWriter;
use aber_log::outbox::item::{Item, PENDING_VOLUME};
use aber_materializer::tree::{NodeKind, ROOT, Tree};
use aber_materializer::view::Resolved;
use aber_proto::generated::v1;
use aber_proto::{
    Attributes, Change, ChangeHash, ChangeProblem, Content, Event, EventId, FileTime, Operation,
    PartitionId, Place, Precondition, RelPath, RequestId, TreePath, VolumeId, codec, limit,
};
use bytes::Bytes;
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

    /// Adds what one operation touches; all of a change lies in one partition.
    fn add(
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
fn partition_of_new(name: &str, partitions: u32) -> PartitionId {
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
            Resolved::At { partition, place } => Ok(Target {
                partition,
                place,
                pending: None,
            }),
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

    /// Adds an event as asked for.
    pub(super) async fn draft_event(
        &self,
        asked: v1::Event,
        draft: &mut Draft,
    ) -> Result<(), Problem> {
        use v1::event::Operation as Asked;
        let precondition = guard(asked.precondition.as_ref())?;
        match asked.operation {
            Some(Asked::Put(put)) => self.draft_put(put, precondition, draft).await,
            Some(Asked::MakeDirectory(make)) => {
                self.draft_directory(&make.path, make.parents, precondition, draft)
                    .await
            }
            Some(Asked::MakeSymlink(link)) => {
                let path = parse_path(&link.path)?;
                let target = self.target(&path, link.parents, draft).await?;
                let operation = Operation::MakeSymlink {
                    place: target.place.clone(),
                    target: link.target,
                    parents: link.parents,
                };
                draft.add(precondition, operation, &[(&path, &target)])
            }
            Some(Asked::Rename(rename)) => self.draft_rename(rename, precondition, draft).await,
            Some(Asked::Copy(copy)) => self.draft_copy(copy, draft).await,
            Some(Asked::Remove(remove)) => self.draft_remove(remove, precondition, draft).await,
            Some(Asked::SetAttributes(set)) => {
                let path = parse_path(&set.path)?;
                let target = self.target(&path, false, draft).await?;
                let mtime = set.modify_time.as_ref().map(render::file_time);
                let mode = mode(set.mode)?;
                let place = target.place.clone();
                let operation = Operation::SetAttributes { place, mode, mtime };
                draft.add(precondition, operation, &[(&path, &target)])
            }
            Some(Asked::Control(_)) | None => Err(Problem::usage(
                "an event without an operation that can be asked for",
            )),
        }
    }

    async fn draft_put(
        &self,
        put: v1::Put,
        precondition: Precondition,
        draft: &mut Draft,
    ) -> Result<(), Problem> {
        let path = parse_path(&put.path)?;
        let content = match put.source {
            None => Content::Inline(Bytes::new()),
            Some(v1::put::Source::Content(bytes)) => self.store_bytes(&path, bytes, draft).await?,
            Some(v1::put::Source::StagedId(id)) => self.staged(&id)?,
        };
        let wanted = PutWanted {
            content,
            mtime: put.modify_time.as_ref().map(render::file_time),
            mode: mode(put.mode)?,
            parents: put.parents,
        };
        self.draft_content(path, wanted, precondition, draft).await
    }

    /// Adds a put of content that is stored already.
    pub(super) async fn draft_content(
        &self,
        path: TreePath,
        wanted: PutWanted,
        precondition: Precondition,
        draft: &mut Draft,
    ) -> Result<(), Problem> {
        if path.is_root() {
            return Err(Problem::new(Reason::IsADirectory).with("path", &path));
        }
        let target = self.target(&path, wanted.parents, draft).await?;
        if target.place.path.is_root() {
            return Err(Problem::new(Reason::IsADirectory).with("path", &path));
        }
        let now = self.node.parts.env.runtime().wall_clock().to_file_time();
        let attributes = Attributes {
            mtime: wanted.mtime.unwrap_or(now),
            mode: wanted.mode,
        };
        let operation = Operation::Put {
            place: target.place.clone(),
            content: wanted.content,
            attributes,
            parents: wanted.parents,
        };
        draft.add(precondition, operation, &[(&path, &target)])
    }

    async fn store_bytes(
        &self,
        path: &TreePath,
        bytes: Bytes,
        draft: &mut Draft,
    ) -> Result<Content, Problem> {
        if bytes.len() <= limit::INLINE_BYTES {
            return Ok(Content::Inline(bytes));
        }
        let store = self.node.parts.content.store().clone();
        let problem = |problem| read::content_problem(&problem, path.as_str());
        let mut writer = ContentWriter::new(store, Some(bytes.len() as u64), None);
        writer.push(bytes).await.map_err(problem)?;
        let staged = writer.stage().await.map_err(problem)?;
        draft.new_bytes += staged.new_bytes;
        draft.reused_bytes += staged.reused_bytes;
        draft.pins.push(staged.pin);
        Ok(staged.content)
    }

    async fn draft_directory(
        &self,
        path: &str,
        parents: bool,
        precondition: Precondition,
        draft: &mut Draft,
    ) -> Result<(), Problem> {
        let path = parse_path(path)?;
        let Some((name, rest)) = path.split_volume() else {
            return Err(Problem::new(Reason::PathExists).with("path", &path));
        };
        if rest.is_root() {
            let partition = partition_of_new(name, self.node.parts.config.genesis.partitions);
            let operation = Operation::MakeVolume {
                name: name.to_owned(),
                partition,
            };
            return draft.add(precondition, operation, &[(&path, &in_control(name))]);
        }
        let target = self.target(&path, parents, draft).await?;
        let operation = Operation::MakeDirectory {
            place: target.place.clone(),
            parents,
        };
        draft.add(precondition, operation, &[(&path, &target)])
    }

    async fn draft_rename(
        &self,
        rename: v1::Rename,
        precondition: Precondition,
        draft: &mut Draft,
    ) -> Result<(), Problem> {
        let (from, to) = (parse_path(&rename.from_path)?, parse_path(&rename.to_path)?);
        let target = guard(rename.target.as_ref())?;
        let cross = || {
            let paths = format!("{from}, {to}");
            Problem::new(Reason::CrossPartition).with("paths", paths)
        };
        if from.is_root() || to.is_root() {
            return Err(Problem::new(Reason::RootFixed).with("path", "/"));
        }
        let (source, goal) = (
            self.target(&from, false, draft).await?,
            self.target(&to, false, draft).await?,
        );
        let is_volume =
            |target: &Target| target.place.volume != VolumeId::ROOT && target.place.path.is_root();
        if is_volume(&source) {
            let to_top = to.split_volume().filter(|(_, rest)| rest.is_root());
            let Some((name, _)) = to_top else {
                return Err(cross());
            };
            if goal.place.volume != VolumeId::ROOT {
                return Err(Problem::new(Reason::PathExists).with("path", &to));
            }
            let volume = source.place.volume;
            let operation = Operation::RenameVolume {
                volume,
                name: name.to_owned(),
            };
            let touched = [(&from, &in_control(name)), (&to, &in_control(name))];
            return draft.add(precondition, operation, &touched);
        }
        if source.partition != goal.partition || source.pending != goal.pending {
            return Err(cross());
        }
        let operation = Operation::Rename {
            from: source.place.clone(),
            to: goal.place.clone(),
            replace: rename.replace,
            target,
        };
        draft.add(precondition, operation, &[(&from, &source), (&to, &goal)])
    }

    async fn draft_copy(&self, copy: v1::Copy, draft: &mut Draft) -> Result<(), Problem> {
        let (from, to) = (parse_path(&copy.from_path)?, parse_path(&copy.to_path)?);
        let node = self.find(&from)?;
        let source = node.ok_or_else(|| Problem::new(Reason::IsADirectory).with("path", &from))?;
        let NodeKind::File(content) = source.kind else {
            let reason = match source.kind {
                NodeKind::Symlink(_) => Reason::NotAFile,
                _ => Reason::IsADirectory,
            };
            return Err(Problem::new(reason).with("path", &from));
        };
        let goal = self.target(&to, false, draft).await?;
        let operation = Operation::Copy {
            source: source.version,
            to: goal.place.clone(),
            content,
            attributes: Attributes {
                mtime: source.mtime,
                mode: Some(source.mode),
            },
            replace: copy.replace,
        };
        let precondition = guard(copy.target.as_ref())?;
        draft.add(precondition, operation, &[(&to, &goal)])
    }

    async fn draft_remove(
        &self,
        remove: v1::Remove,
        precondition: Precondition,
        draft: &mut Draft,
    ) -> Result<(), Problem> {
        let path = parse_path(&remove.path)?;
        if path.is_root() {
            return Err(Problem::new(Reason::RootFixed).with("path", "/"));
        }
        let target = self.target(&path, false, draft).await?;
        if target.place.volume != VolumeId::ROOT && target.place.path.is_root() {
            if !self.is_empty(&path)? {
                return Err(Problem::new(Reason::DirectoryNotEmpty).with("path", &path));
            }
            let name = path.name().unwrap_or_default();
            let operation = Operation::RemoveVolume {
                volume: target.place.volume,
            };
            return draft.add(precondition, operation, &[(&path, &in_control(name))]);
        }
        let applied = self
            .node
            .parts
            .applied
            .get(&target.partition)
            .and_then(|a| a.get());
        let base = remove
            .base
            .map_or(applied.unwrap_or(0), |entry| entry.index);
        let operation = Operation::Remove {
            place: target.place.clone(),
            recursive: remove.recursive,
            base,
        };
        draft.add(precondition, operation, &[(&path, &target)])
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

fn in_control(name: &str) -> Target {
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
