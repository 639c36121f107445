//! [adapter] Local files into the tree, many at once: what `put` and `demo` do.
//!
//! A walker on a blocking thread finds what there is; small files, directories and links travel in
//! changes of many events, large files in a stream each, several calls under way at once. Top-level
//! directories are made first, as what lies in them needs their partition. A change that is refused
//! because of one path is cut in halves until that path is found: it is listed, the rest goes on.

use super::batch::Batches;
use super::print::Output;
use super::upload::land_file;
use super::walk::{self, Found};
use super::write::{Writer, Written};
use crate::reason::{Problem, Reason};
use aber_proto::TreePath;
use aber_proto::generated::v1::{self, event::Operation};
use std::collections::BTreeMap;
use std::path::PathBuf;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Calls under way at once.
const FLIGHTS: usize = 8;
/// What the walker may find ahead, in entries; each holds at most one small file.
const AHEAD: usize = 64;
/// Failures that are shown one by one; the others are only counted.
pub(crate) const SHOWN: u64 = 20;

/// Something local and its place in the tree.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Source {
    /// The local file, directory or link.
    pub(crate) local: PathBuf,
    /// What it becomes.
    pub(crate) path: TreePath,
}

/// What became of it all.
#[derive(Clone, Default, Debug)]
pub(crate) struct Summary {
    /// Files put.
    pub(crate) files: u64,
    /// Directories made.
    pub(crate) directories: u64,
    /// Links made.
    pub(crate) links: u64,
    /// Bytes of content in those files.
    pub(crate) read_bytes: u64,
    /// Bytes of it that the node had not.
    pub(crate) new_bytes: u64,
    /// Bytes of it that it had.
    pub(crate) reused_bytes: u64,
    /// The last entry in each partition.
    pub(crate) entries: BTreeMap<u32, u64>,
    /// Changes that are queued and below the level asked for.
    pub(crate) waiting: u64,
    /// What the last of them waits for.
    pub(crate) waiting_for: Option<v1::Notice>,
    /// What was left out.
    pub(crate) failed: u64,
    /// The first of it.
    pub(crate) first_failure: Option<Problem>,
}

/// What one call, or the halves of one, became.
#[derive(Default)]
pub(super) struct Landed {
    pub(super) written: Vec<Written>,
    pub(super) done: Vec<v1::Event>,
    pub(super) failures: Vec<Problem>,
    pub(super) fatal: Option<Problem>,
}

struct Engine<'a> {
    writer: Writer,
    out: &'a Output,
    flights: JoinSet<Landed>,
    summary: Summary,
}

/// Puts the sources, and what is below them.
pub(crate) async fn load(
    writer: &Writer,
    sources: Vec<Source>,
    out: &Output,
) -> Result<Summary, Problem> {
    let mut engine = Engine {
        writer: writer.clone(),
        out,
        flights: JoinSet::new(),
        summary: Summary::default(),
    };
    let sources = engine.make_volumes(sources).await?;
    let (sender, mut found) = mpsc::channel(AHEAD);
    let walker = tokio::task::spawn_blocking(move || {
        for source in &sources {
            walk::walk(&source.local, &source.path, &sender);
        }
    });
    let mut batches = Batches::default();
    while let Some(found) = found.recv().await {
        engine.take(found, &mut batches).await?;
    }
    walker.await.map_err(Problem::internal)?;
    for events in batches.finish() {
        engine.launch_batch(events).await?;
    }
    while let Some(landed) = engine.flights.join_next().await {
        engine.land(landed)?;
    }
    Ok(engine.summary)
}

impl Engine<'_> {
    /// Makes the top-level directories among the sources, and waits until they are ordered. A
    /// source whose directory cannot be made is left out.
    async fn make_volumes(&mut self, sources: Vec<Source>) -> Result<Vec<Source>, Problem> {
        let is_volume = |source: &Source| {
            let top = source.path.parent().is_some_and(|parent| parent.is_root());
            top && std::fs::symlink_metadata(&source.local).is_ok_and(|m| m.is_dir())
        };
        let (volumes, mut others): (Vec<_>, Vec<_>) = sources.into_iter().partition(is_volume);
        let mut refused = Vec::new();
        let mut batches = Batches::default();
        let mut changes = Vec::new();
        for volume in &volumes {
            changes.extend(batches.add(&volume.path, make_directory(&volume.path)));
        }
        changes.extend(batches.finish());
        for events in changes {
            let landed = land_batch(self.writer.clone(), events).await;
            let path = |problem: &Problem| problem.fact("path").map(str::to_owned);
            refused.extend(landed.failures.iter().filter_map(path));
            self.land(Ok(landed))?;
        }
        others.extend(volumes);
        others.retain(|source| !refused.iter().any(|path| path == source.path.as_str()));
        Ok(others)
    }

    async fn take(&mut self, found: Found, batches: &mut Batches) -> Result<(), Problem> {
        let (path, events) = match found {
            Found::Left(problem) => {
                self.fail(problem);
                return Ok(());
            }
            Found::Directory { path, .. } if is_top(&path) => return Ok(()),
            Found::Directory { path, mode } => {
                let mut events = vec![make_directory(&path)];
                events.extend((mode != 0o755).then(|| set_mode(&path, mode)));
                (path, events)
            }
            Found::Symlink { path, target } => {
                let link = v1::MakeSymlink {
                    path: path.as_str().to_owned(),
                    target,
                    parents: true,
                };
                (path, vec![event(Operation::MakeSymlink(link))])
            }
            Found::File {
                path,
                mtime,
                mode,
                content: Some(content),
                ..
            } => {
                let put = v1::Put {
                    path: path.as_str().to_owned(),
                    source: Some(v1::put::Source::Content(content)),
                    modify_time: Some(mtime),
                    mode: Some(mode),
                    parents: true,
                    ..Default::default()
                };
                (path, vec![event(Operation::Put(put))])
            }
            Found::File {
                path,
                local,
                size,
                mtime,
                mode,
                content: None,
            } => {
                let header = v1::UploadHeader {
                    path: path.as_str().to_owned(),
                    modify_time: Some(mtime),
                    mode: Some(mode),
                    size_hint: size,
                    parents: true,
                    ..Default::default()
                };
                let writer = self.writer.clone();
                self.room().await?;
                self.flights.spawn(land_file(writer, header, local));
                return Ok(());
            }
        };
        for event in events {
            for full in batches.add(&path, event) {
                self.launch_batch(full).await?;
            }
        }
        Ok(())
    }

    async fn launch_batch(&mut self, events: Vec<v1::Event>) -> Result<(), Problem> {
        self.room().await?;
        self.flights.spawn(land_batch(self.writer.clone(), events));
        Ok(())
    }

    /// Waits until one more call may be under way.
    async fn room(&mut self) -> Result<(), Problem> {
        while self.flights.len() >= FLIGHTS {
            if let Some(landed) = self.flights.join_next().await {
                self.land(landed)?;
            }
        }
        Ok(())
    }

    fn land(&mut self, landed: Result<Landed, tokio::task::JoinError>) -> Result<(), Problem> {
        let landed = landed.map_err(Problem::internal)?;
        for problem in landed.failures {
            self.fail(problem);
        }
        for event in &landed.done {
            self.summary.count(event);
        }
        for written in landed.written {
            self.summary.take(written);
        }
        landed.fatal.map_or(Ok(()), Err)
    }

    fn fail(&mut self, problem: Problem) {
        self.summary.failed += 1;
        if self.summary.failed <= SHOWN {
            self.out.failure(&problem);
        }
        self.summary.first_failure.get_or_insert(problem);
    }
}

impl Summary {
    /// Adds a change that was acknowledged at some level.
    pub(crate) fn take(&mut self, written: Written) {
        self.new_bytes += written.result.new_bytes;
        self.reused_bytes += written.result.reused_bytes;
        if let Some(entry) = written.result.entry {
            let last = self.entries.entry(entry.partition).or_default();
            *last = entry.index.max(*last);
        }
        if !written.reached {
            self.waiting += 1;
            self.waiting_for = written.result.waiting_for.or(self.waiting_for.take());
        }
    }

    /// Counts one event that was done.
    pub(super) fn count(&mut self, event: &v1::Event) {
        match &event.operation {
            Some(Operation::Put(put)) => {
                self.files += 1;
                self.read_bytes += put.size;
            }
            Some(Operation::MakeDirectory(_)) => self.directories += 1,
            Some(Operation::MakeSymlink(_)) => self.links += 1,
            _ => {}
        }
    }
}

fn is_top(path: &TreePath) -> bool {
    path.parent().is_none_or(|parent| parent.is_root())
}

/// An event without a guard.
pub(crate) fn event(operation: Operation) -> v1::Event {
    v1::Event {
        operation: Some(operation),
        ..Default::default()
    }
}

fn make_directory(path: &TreePath) -> v1::Event {
    let path = path.as_str().to_owned();
    event(Operation::MakeDirectory(v1::MakeDirectory {
        path,
        parents: true,
    }))
}

fn set_mode(path: &TreePath, mode: u32) -> v1::Event {
    event(Operation::SetAttributes(v1::SetAttributes {
        path: path.as_str().to_owned(),
        mode: Some(mode),
        modify_time: None,
    }))
}

/// Whether a change was refused because of what one of its events asks for.
pub(super) fn is_of_one_path(problem: &Problem) -> bool {
    use Reason as R;
    matches!(
        problem.reason,
        R::PathNotFound
            | R::PathExists
            | R::EtagStale
            | R::NoParent
            | R::NotADirectory
            | R::IsADirectory
            | R::DirectoryNotEmpty
            | R::NameNotAllowed
            | R::NameTaken
            | R::ChangeTooLarge
            | R::CrossPartition
            | R::NotAFile
            | R::RootFixed
            | R::ChangeRejected
            | R::ContentMismatch
            | R::SourceMissing
            | R::SourceUnreadable
    )
}

/// Appends events as one change, or as several if some of them are refused.
async fn land_batch(writer: Writer, events: Vec<v1::Event>) -> Landed {
    let mut landed = Landed::default();
    let mut todo = vec![events];
    while let Some(mut events) = todo.pop() {
        match writer.append(events.clone()).await {
            Ok(written) => {
                note_sizes(&mut events, &writer);
                landed.written.push(written);
                landed.done.append(&mut events);
            }
            Err(problem) if is_of_one_path(&problem) && events.len() > 1 => {
                let second = events.split_off(events.len() / 2);
                todo.push(second);
                todo.push(events);
            }
            Err(problem) if is_of_one_path(&problem) => {
                let path = events.first().and_then(path_of).unwrap_or_default();
                landed.failures.push(problem.with("path", path));
            }
            Err(problem) => {
                landed.fatal = Some(problem);
                break;
            }
        }
    }
    landed
}

/// Replaces contents by their sizes: what was done is only counted from here on.
fn note_sizes(events: &mut [v1::Event], writer: &Writer) {
    let movement = &writer.movement;
    for event in events {
        if let Some(Operation::Put(put)) = &mut event.operation {
            if let Some(v1::put::Source::Content(content)) = put.source.take() {
                put.size = content.len() as u64;
                movement.add(&movement.read_bytes, put.size);
            }
            movement.add(&movement.files, 1);
        }
    }
}

fn path_of(event: &v1::Event) -> Option<String> {
    match event.operation.as_ref()? {
        Operation::Put(put) => Some(put.path.clone()),
        Operation::MakeDirectory(make) => Some(make.path.clone()),
        Operation::MakeSymlink(make) => Some(make.path.clone()),
        Operation::SetAttributes(set) => Some(set.path.clone()),
        _ => None,
    }
}
