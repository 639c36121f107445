//! [driver] The operations a caller can ask for, one by one, into a change under construction.

use super::prepare::{Draft, PutWanted, Target, guard, in_control, mode, partition_of_new};
use super::{NodeService, parse_path, read, render};
use crate::reason::{Problem, Reason};
use aber_log::env::{Env, Runtime};
use aber_log::ingest::ContentWriter;
use aber_materializer::tree::NodeKind;
use aber_proto::generated::v1;
use aber_proto::{Attributes, Content, Operation, Precondition, TreePath, VolumeId, limit};
use bytes::Bytes;

impl<E: Env> NodeService<E> {
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
        draft.keep(staged.pin);
        Ok(staged.content)
    }

    pub(super) async fn draft_directory(
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
        let below = to.as_str().strip_prefix(from.as_str());
        if below.is_some_and(|below| below.starts_with('/')) && !from.is_root() {
            let cycle = Problem::new(Reason::RenameCycle);
            return Err(cycle.with("path", &from).with("target", &to));
        }
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
}
