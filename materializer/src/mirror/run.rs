//! [driver] The loop of a mirror: inputs, batches, scans, hints, retries.
//!
//! A turn does at most one batch and one step of a scan, so neither holds the other up. Inputs are
//! merged into the queue as they come; paths that wait are tried again with growing pauses, and
//! their chunks are asked for in the background, a few files at a time.

use super::core::{Batch, Core};
use super::{Command, Dirty, Kind, Mirror, MirrorProblem, Ready};
use crate::tree::{NodeKind, Tree};
use aber_log::chunk::ChunkStore;
use aber_log::env::disk::Hint;
use aber_log::env::{Disk, Env, Runtime};
use aber_proto::path::RESERVED;
use aber_proto::{FileId, Instant};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::mpsc;

/// First and longest pause before paths that wait are tried again.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Files whose chunks are asked for in the background at the same time.
const WARMED_AT_ONCE: usize = 8;
/// After lost hints, everything is scanned at most this often, in settle times.
const HINTED_SCAN_PAUSE: u32 = 30;
/// The queue takes inputs up to so many batches.
const QUEUED_BATCHES: usize = 8;

/// What is due when.
#[derive(Debug)]
pub(super) struct Agenda {
    scan_at: Instant,
    scan_ended: Option<Instant>,
    is_scanning: bool,
    hinted: BTreeMap<PathBuf, Instant>,
    retry_at: Option<Instant>,
    pause: Duration,
    waiting_before: usize,
    warming: BTreeSet<FileId>,
    /// Chunks were asked for up to this file since the last retry.
    warmed_to: Option<FileId>,
    is_warm: bool,
}

enum Turn {
    Go,
    Stop,
}

type Warmed = (FileId, bool);

impl Agenda {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            scan_at: now,
            scan_ended: None,
            is_scanning: true,
            hinted: BTreeMap::new(),
            retry_at: None,
            pause: RETRY.0,
            waiting_before: 0,
            warming: BTreeSet::new(),
            warmed_to: None,
            is_warm: true,
        }
    }

    fn next_wake(&self) -> Instant {
        let hint = self.hinted.values().min().copied();
        [hint, self.retry_at]
            .into_iter()
            .flatten()
            .fold(self.scan_at, Instant::min)
    }
}

impl<E: Env, T: Tree, C: ChunkStore> Mirror<E, T, C> {
    pub(super) async fn run(mut self, ready: Ready) {
        let ended = match self.wait_for_tree(ready).await {
            Turn::Go => self.work().await,
            Turn::Stop => Ok(()),
        };
        self.core.ledger.abandon();
        self.core.status.update(|status| {
            status.stopped = true;
            if let Err(problem) = &ended {
                tracing::error!(%problem, "the mirror stops");
                status.problem = Some(problem.to_string());
                status.index_failed = matches!(problem, MirrorProblem::Index(_));
            }
        });
    }

    /// Takes inputs in, so that nobody waits for the mirror, and does nothing yet.
    async fn wait_for_tree(&mut self, mut ready: Ready) -> Turn {
        loop {
            tokio::select! {
                biased;
                () = &mut ready => return Turn::Go,
                command = self.commands.recv() => match command {
                    // Everything is scanned first anyway.
                    Some(Command::Scan) => {}
                    // An index that fails here fails the first scan too, and is reported there.
                    Some(suspect @ Command::Suspect(_)) => drop(self.obey(Some(suspect))),
                    Some(Command::Stop) | None => return Turn::Stop,
                },
                Some(dirty) = self.inputs.recv() => self.core.take_in(dirty),
            }
        }
    }

    async fn work(&mut self) -> Result<(), MirrorProblem> {
        let runtime = self.core.env.runtime().clone();
        self.agenda.scan_at = runtime.now() + self.core.options.scan_every;
        let mut hints = self.core.disk.hints(self.core.options.hints_bound.max(1));
        let (warm_sender, mut warmed) = mpsc::channel::<Warmed>(WARMED_AT_ONCE);
        let mut has_inputs = true;
        loop {
            self.take_inputs(&mut has_inputs);
            self.turn(runtime.now()).await?;
            self.ask_for_chunks(&warm_sender);
            if std::mem::take(&mut self.core.must_pause) && self.pause().await {
                return Ok(());
            }
            if self.is_busy() {
                if let Ok(command) = self.commands.try_recv()
                    && matches!(self.obey(Some(command))?, Turn::Stop)
                {
                    return Ok(());
                }
                tokio::task::yield_now().await;
                continue;
            }
            let turn = tokio::select! {
                biased;
                command = self.commands.recv() => self.obey(command)?,
                input = self.inputs.recv(), if has_inputs => {
                    match input {
                        Some(dirty) => self.core.take_in(dirty),
                        None => has_inputs = false,
                    }
                    Turn::Go
                }
                Some((id, is_here)) = warmed.recv() => {
                    self.agenda.warming.remove(&id);
                    if is_here {
                        self.core.queue.insert(id);
                    }
                    Turn::Go
                }
                hint = next_hint(&mut hints) => {
                    self.heed(hint, runtime.now());
                    Turn::Go
                }
                () = runtime.sleep_until(self.agenda.next_wake()) => Turn::Go,
            };
            if matches!(turn, Turn::Stop) {
                return Ok(());
            }
        }
    }

    /// After a failed sync: waits, longer each time. Answers whether the mirror was stopped.
    async fn pause(&mut self) -> bool {
        let pause = RETRY.0 * self.core.failed_syncs.min(60);
        let runtime = self.core.env.runtime().clone();
        let command = runtime.timeout(pause, self.commands.recv()).await;
        matches!(command, Some(Some(Command::Stop) | None))
    }

    fn is_busy(&self) -> bool {
        let core = &self.core;
        !(core.queue.is_empty() && core.scans.is_empty() && core.parked.is_empty())
    }

    fn obey(&mut self, command: Option<Command>) -> Result<Turn, MirrorProblem> {
        match command {
            Some(Command::Scan) => {
                self.start_scan()?;
                Ok(Turn::Go)
            }
            Some(Command::Suspect(ids)) => {
                for id in ids {
                    self.core.forget_subtree(id)?;
                    self.core.found.insert(id);
                    self.core.queue.insert(id);
                }
                Ok(Turn::Go)
            }
            Some(Command::Stop) | None => Ok(Turn::Stop),
        }
    }

    fn take_inputs(&mut self, has_inputs: &mut bool) {
        let room = QUEUED_BATCHES * self.core.options.batch_paths;
        while self.core.queue.len() < room {
            match self.inputs.try_recv() {
                Ok(dirty) => self.core.take_in(dirty),
                Err(mpsc::error::TryRecvError::Empty) => return,
                Err(mpsc::error::TryRecvError::Disconnected) => {
                    *has_inputs = false;
                    return;
                }
            }
        }
    }

    /// What is due now: a batch, a step of a scan.
    async fn turn(&mut self, now: Instant) -> Result<(), MirrorProblem> {
        if now >= self.agenda.scan_at && !self.agenda.is_scanning {
            self.start_scan()?;
        }
        self.check_hinted(now).await?;
        self.retry(now);
        let has_work = !(self.core.queue.is_empty() && self.core.parked.is_empty());
        if has_work || (!self.core.positions.is_empty() && self.core.scans.is_empty()) {
            let wanted = self.core.take()?;
            self.core.settle(wanted).await?;
        }
        if !self.core.scans.is_empty() {
            let mut batch = Batch {
                is_small: true,
                ..Batch::default()
            };
            self.core.scan_step(&mut batch)?;
            self.core.finish(batch).await?;
        }
        if self.agenda.is_scanning && !self.is_busy() {
            self.end_scan();
        }
        self.plan_retry(now);
        Ok(())
    }

    fn start_scan(&mut self) -> Result<(), MirrorProblem> {
        self.core.check_marker()?;
        self.core.find_moved_directories()?;
        self.core.clean_staging()?;
        self.core.rescan_all();
        self.agenda.is_scanning = true;
        Ok(())
    }

    fn end_scan(&mut self) {
        let runtime = self.core.env.runtime();
        let (now, when) = (runtime.now(), runtime.wall_clock());
        self.agenda.is_scanning = false;
        self.agenda.scan_ended = Some(now);
        self.agenda.scan_at = now + self.core.options.scan_every;
        self.core.status.update(|status| {
            status.last_scan = Some(when);
            status.scanning = false;
        });
    }

    fn heed(&mut self, hint: Option<Hint>, now: Instant) {
        let settle = self.core.options.settle;
        match hint {
            Some(Hint::Path(path)) if self.agenda.hinted.len() < self.core.options.hints_bound => {
                let is_ours = path
                    .components()
                    .next()
                    .is_some_and(|first| first.as_os_str() == RESERVED);
                if !is_ours {
                    self.agenda.hinted.entry(path).or_insert(now + settle);
                }
            }
            Some(_) => {
                let earliest = self
                    .agenda
                    .scan_ended
                    .map_or(now, |ended| ended + settle * HINTED_SCAN_PAUSE);
                self.agenda.hinted.clear();
                let at = earliest.max(now + settle);
                self.agenda.scan_at = self.agenda.scan_at.min(at);
            }
            None => {}
        }
    }

    async fn check_hinted(&mut self, now: Instant) -> Result<(), MirrorProblem> {
        let due: Vec<PathBuf> = self
            .agenda
            .hinted
            .iter()
            .filter(|(_, at)| **at <= now)
            .take(self.core.options.batch_paths)
            .map(|(path, _)| path.clone())
            .collect();
        if due.is_empty() {
            return Ok(());
        }
        let mut batch = Batch {
            is_small: true,
            ..Batch::default()
        };
        for path in due {
            self.core.check_path(&path, &mut batch)?;
            self.agenda.hinted.remove(&path);
        }
        self.core.finish(batch).await
    }

    fn waiting(&self) -> impl Iterator<Item = FileId> {
        let held = self.core.held.iter();
        held.filter(|(_, held)| held.kind == Kind::Waiting)
            .map(|(id, _)| *id)
    }

    /// Tries again all that waits, when its pause is over.
    fn retry(&mut self, now: Instant) {
        if self.agenda.retry_at.is_none_or(|at| now < at) {
            return;
        }
        let waiting: Vec<FileId> = self.waiting().collect();
        let has_fallen = waiting.len() < self.agenda.waiting_before;
        self.agenda.pause = if has_fallen {
            RETRY.0
        } else {
            (self.agenda.pause * 2).min(RETRY.1)
        };
        self.agenda.waiting_before = waiting.len();
        (self.agenda.retry_at, self.agenda.warmed_to) = (None, None);
        self.agenda.is_warm = false;
        self.core.queue.extend(waiting);
    }

    fn plan_retry(&mut self, now: Instant) {
        if self.waiting().next().is_none() {
            self.agenda.retry_at = None;
            self.agenda.pause = RETRY.0;
        } else if self.agenda.retry_at.is_none() && self.core.queue.is_empty() {
            self.agenda.retry_at = Some(now + self.agenda.pause);
        }
    }

    /// Keeps a few files' chunks asked for; one round of all that waits a retry.
    fn ask_for_chunks(&mut self, done: &mpsc::Sender<Warmed>) {
        while !self.agenda.is_warm && self.agenda.warming.len() < WARMED_AT_ONCE {
            let after = self.agenda.warmed_to;
            let next = self.waiting().find(|id| after.is_none_or(|to| *id > to));
            let Some(id) = next else {
                self.agenda.is_warm = true;
                return;
            };
            self.agenda.warmed_to = Some(id);
            if self.agenda.warming.contains(&id) {
                continue;
            }
            let Ok(Some(node)) = self.core.tree.node(id) else {
                continue;
            };
            let NodeKind::File(content) = node.kind else {
                continue;
            };
            self.agenda.warming.insert(id);
            let (chunks, done) = (self.core.chunks.clone(), done.clone());
            self.core.env.runtime().spawn("mirror-warm", async move {
                let is_here = super::assemble::warm(&chunks, &content).await;
                // The mirror may have stopped.
                let _ = done.send((id, is_here)).await;
            });
        }
    }
}

impl<E: Env, T: Tree, C: ChunkStore> Core<E, T, C> {
    fn take_in(&mut self, dirty: Dirty) {
        self.queue.extend(dirty.ids);
        let position = self.positions.entry(dirty.partition).or_default();
        *position = dirty.index.max(*position);
    }
}

async fn next_hint(hints: &mut Option<mpsc::Receiver<Hint>>) -> Option<Hint> {
    match hints {
        Some(receiver) => {
            let hint = receiver.recv().await;
            if hint.is_none() {
                *hints = None;
            }
            hint
        }
        None => std::future::pending().await,
    }
}
