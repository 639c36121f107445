//! [driver] The task that owns the outbox's state.
//!
//! `driver/sign.rs` gives changes numbers and signatures, `driver/train.rs` takes several as one.
//! A turn: take all calls that wait, sign what can go, write all notes at once, then answer, send
//! and copy. Nothing is answered or sent before the notes are durable.

mod sign;
mod train;

use super::item::Item;
use super::state::{Outcome, Phase, Sequence, State};
use super::{Call, ITEM_PREFIX, OutboxOptions, OutboxProblem, Waiting};

use crate::chunk::ChunkPin;
use crate::env::{Env, Runtime};
use crate::planted::{Bug, is_on};
use crate::segment::SegmentProblem;
use crate::watch::Watched;
use aber_proto::limit;
use aber_proto::{ChangeHash, Instant, PartitionId, PlanId, RequestId};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Calls taken together.
const AT_ONCE: usize = 256;
/// What a note takes in a record beside its key and value, and a little more.
const NOTE_BYTES: usize = 32;
/// The exit code of a node whose outbox cannot be written: `EX_IOERR`.
const EXIT_CODE: i32 = 74;
/// Author sequence numbers are reserved durably this many at a time.
const RESERVE: u64 = 4096;
/// Items whose content is being copied at the same time.
const COPIES_AT_ONCE: usize = 8;
/// Bytes of changes sent to a leader in one message.
const PROPOSE_BYTES: usize = limit::MESSAGE_BYTES / 2;
/// How long content stays pinned after its change is done.
const PIN_AFTER: Duration = Duration::from_secs(3600);
const COPY_AGAIN: Duration = Duration::from_secs(1);
const AUTHOR_PREFIX: &[u8] = b"a/";
/// Most changes that wait.
const ITEMS_MAX: usize = 100_000;

#[derive(Clone, Copy, Default)]
struct AuthorChain {
    next: u64,
    reserved: u64,
    previous: ChangeHash,
}

/// The state, and what its driver needs of the world.
pub(super) struct Driver<E: Env> {
    options: OutboxOptions<E>,
    state: State,
    authors: BTreeMap<PartitionId, AuthorChain>,
    waiters: BTreeMap<RequestId, Vec<oneshot::Sender<Option<Outcome>>>>,
    copying: BTreeSet<Sequence>,
    pins: BTreeMap<Sequence, Vec<ChunkPin>>,
    /// How many changes of each train wait.
    trains: BTreeMap<PlanId, usize>,
    /// Notes of trains that were not taken in whole before a crash.
    left_over: Notes,
    retired: VecDeque<(Instant, Vec<ChunkPin>)>,
    calls: mpsc::Sender<Call>,
    waiting: Watched<usize>,
}

type Notes = Vec<(Bytes, Option<Bytes>)>;
type Answers = Vec<oneshot::Sender<Result<(), OutboxProblem>>>;

fn storage(problem: &SegmentProblem) -> OutboxProblem {
    OutboxProblem::Storage(problem.to_string())
}

fn item_key(sequence: Sequence) -> Bytes {
    #[expect(clippy::big_endian_bytes, reason = "keys sort by bytes")]
    let number = sequence.to_be_bytes();
    [ITEM_PREFIX, &number].concat().into()
}

fn author_key(partition: PartitionId) -> Bytes {
    [AUTHOR_PREFIX, &partition.0.to_le_bytes()].concat().into()
}

impl<E: Env> Driver<E> {
    /// Reads what waits.
    pub(super) fn load(
        options: OutboxOptions<E>,
        calls: mpsc::Sender<Call>,
        waiting: Watched<usize>,
    ) -> Result<Self, OutboxProblem> {
        let mut driver = Self {
            options,
            state: State::default(),
            authors: BTreeMap::new(),
            waiters: BTreeMap::new(),
            copying: BTreeSet::new(),
            pins: BTreeMap::new(),
            trains: BTreeMap::new(),
            left_over: Notes::new(),
            retired: VecDeque::new(),
            calls,
            waiting,
        };
        driver.read_notes()?;
        Ok(driver)
    }

    fn read_notes(&mut self) -> Result<(), OutboxProblem> {
        let log = self.options.log.clone();
        for (key, value) in log.notes(AUTHOR_PREFIX).map_err(|p| storage(&p))? {
            let partition = key
                .get(AUTHOR_PREFIX.len()..)
                .and_then(|b| b.try_into().ok());
            let reserved = value.as_ref().try_into().ok().map(u64::from_le_bytes);
            if let (Some(partition), Some(next)) = (partition, reserved) {
                let partition = PartitionId(u32::from_le_bytes(partition));
                let chain = AuthorChain {
                    next,
                    reserved: next,
                    previous: ChangeHash::default(),
                };
                self.authors.insert(partition, chain);
            }
        }
        for (key, value) in log.notes(ITEM_PREFIX).map_err(|p| storage(&p))? {
            let number = key
                .get(ITEM_PREFIX.len()..)
                .and_then(|bytes| bytes.try_into().ok());
            let item = Item::decode(value).map_err(|p| OutboxProblem::Storage(p.to_string()))?;
            if !self.may_board(&item)? {
                self.left_over.push((key, None));
                continue;
            }
            let number = number.map(u64::from_be_bytes);
            let pin = self.options.collaborator.pin(&item);
            let sequence = self.state.add(item, number);
            self.pins.insert(sequence, vec![pin]);
        }
        self.waiting.set(self.state.len());
        Ok(())
    }

    /// Drives until the node stops or the log fails.
    pub(super) async fn run(mut self, mut queue: mpsc::Receiver<Call>) {
        let mut calls = Vec::with_capacity(AT_ONCE);
        loop {
            let mut notes = std::mem::take(&mut self.left_over);
            let mut answers = Answers::new();
            for call in calls.drain(..) {
                self.take(call, &mut notes, &mut answers);
            }
            let batches = self.sign_ready(&mut notes);
            if is_on(Bug::DroppedAtProposal) {
                let sequences = batches.values().flatten();
                notes.extend(sequences.map(|sequence| (item_key(*sequence), None)));
            }
            if let Err(problem) = self.write(notes).await {
                let is_over = problem == SegmentProblem::Closed;
                let problem = storage(&problem);
                for answer in answers {
                    let _gone = answer.send(Err(problem.clone()));
                }
                if !is_over {
                    // An outbox that ended in silence would keep what waits for ever.
                    let runtime = self.options.env.runtime();
                    runtime.fail(EXIT_CODE, &problem.to_string());
                }
                return;
            }
            for answer in answers {
                let _gone = answer.send(Ok(()));
            }
            self.waiting.set(self.state.len());
            self.send(batches);
            self.start_copies();
            if self.next_calls(&mut queue, &mut calls).await == 0 {
                return;
            }
        }
    }

    /// Writes notes in their order, in records that the log takes: many changes that are signed at
    /// once are more than one.
    async fn write(&self, notes: Notes) -> Result<(), SegmentProblem> {
        let most = self.options.log.notes_at_once();
        let (mut part, mut bytes) = (Notes::new(), 0);
        for (key, value) in notes {
            let size = NOTE_BYTES + key.len() + value.as_ref().map_or(0, Bytes::len);
            if bytes + size > most && !part.is_empty() {
                self.options
                    .log
                    .write_notes(std::mem::take(&mut part))
                    .await?;
                bytes = 0;
            }
            bytes += size;
            part.push((key, value));
        }
        if part.is_empty() {
            return Ok(());
        }
        self.options.log.write_notes(part).await
    }

    async fn next_calls(&self, queue: &mut mpsc::Receiver<Call>, calls: &mut Vec<Call>) -> usize {
        let runtime = self.options.env.runtime();
        match self.state.next_wake() {
            None => queue.recv_many(calls, AT_ONCE).await,
            Some(wake) => {
                tokio::select! {
                    biased;
                    taken = queue.recv_many(calls, AT_ONCE) => taken,
                    () = runtime.sleep_until(wake) => {
                        calls.push(Call::Wake);
                        1
                    }
                }
            }
        }
    }

    fn take(&mut self, call: Call, notes: &mut Notes, answers: &mut Answers) {
        match call {
            Call::SubmitAll(items, answer) => self.submit_all(items, answer, notes, answers),
            Call::Submit(item, pins, answer) => {
                if let Some(sequence) = self.submit(*item, answer, notes, answers) {
                    self.pins.insert(sequence, pins);
                }
            }
            Call::Wait(request, answer) => {
                if self.state.find(request).is_some() {
                    self.waiters.entry(request).or_default().push(answer);
                } else {
                    let _gone = answer.send(None);
                }
            }
            Call::Outcomes(outcomes) => {
                for (request, outcome) in outcomes {
                    self.finish(request, &outcome, notes);
                }
            }
            Call::Void(request, sequence) => {
                let runtime = self.options.env.runtime();
                runtime.trace(format_args!("outbox: {request} is void as {sequence}"));
                self.state.void(request, sequence);
            }
            Call::Held(sequence, result) => {
                self.copying.remove(&sequence);
                match result {
                    Ok(()) => {
                        let runtime = self.options.env.runtime();
                        runtime.trace(format_args!("outbox {sequence} is held"));
                        self.state.held(sequence);
                    }
                    Err(why) => {
                        let runtime = self.options.env.runtime();
                        runtime.trace(format_args!("outbox {sequence} waits: {why}"));
                        self.state.hindered(sequence, why);
                    }
                }
            }
            Call::Proposed(partition, sequences, result) => {
                let runtime = self.options.env.runtime();
                runtime.trace(format_args!("outbox proposed {partition} {sequences:?}"));
                let (now, problem) = (self.options.env.runtime().now(), result.err());
                self.state
                    .answered(partition, &sequences, now, problem.as_deref());
            }
            Call::List(answer) => {
                let _gone = answer.send(self.list());
            }
            Call::Touches(path, answer) => {
                let _gone = answer.send(self.state.touches(&path));
            }
            Call::Wake => {}
        }
    }

    fn submit(
        &mut self,
        item: Item,
        answer: oneshot::Sender<Result<(), OutboxProblem>>,
        notes: &mut Notes,
        answers: &mut Answers,
    ) -> Option<Sequence> {
        let is_known = self.state.find(item.request()).is_some();
        if !is_known && self.state.len() >= ITEMS_MAX {
            let _gone = answer.send(Err(OutboxProblem::Full(self.state.len())));
            return None;
        }
        let mut taken = None;
        if !is_known {
            let bytes = item.encode();
            let sequence = self.state.add(item, None);
            notes.push((item_key(sequence), Some(bytes)));
            taken = Some(sequence);
        }
        answers.push(answer);
        taken
    }

    fn finish(&mut self, request: RequestId, outcome: &Outcome, notes: &mut Notes) {
        let train = self.train_of(request);
        if let Some((sequence, _)) = self.state.finished(request) {
            let (partition, index) = (outcome.partition, outcome.index);
            let runtime = self.options.env.runtime();
            runtime.trace(format_args!(
                "outbox {sequence} done: {request} {partition}:{index}"
            ));
            notes.push((item_key(sequence), None));
            self.retire(sequence);
        }
        if let Some(plan) = train {
            self.leave_train(plan, outcome, notes);
        }
        for waiter in self.waiters.remove(&request).into_iter().flatten() {
            let _gone = waiter.send(Some(outcome.clone()));
        }
    }

    /// The view refers to the content by now; but a sweep that began before does not know it yet.
    fn retire(&mut self, sequence: Sequence) {
        let now = self.options.env.runtime().now();
        while self
            .retired
            .front()
            .is_some_and(|(at, _)| *at + PIN_AFTER <= now)
        {
            self.retired.pop_front();
        }
        if let Some(pins) = self.pins.remove(&sequence).filter(|pins| !pins.is_empty()) {
            self.retired.push_back((now, pins));
        }
    }

    fn list(&self) -> Vec<Waiting> {
        let show = |(_, item, phase, problem): (Sequence, &Item, &Phase, Option<&str>)| Waiting {
            request: item.request(),
            path: item.paths.first().map(ToString::to_string),
            partition: item.partition(),
            phase: phase.clone(),
            problem: problem.map(str::to_owned),
        };
        self.state.iter().map(show).collect()
    }

    fn send(&self, batches: BTreeMap<PartitionId, Vec<Sequence>>) {
        for (partition, sequences) in batches {
            let signed = |s: &Sequence| Some(self.state.item(*s)?.signed.as_ref()?.1.clone());
            let changes: Vec<Bytes> = sequences.iter().filter_map(signed).collect();
            let groups = in_messages(changes);
            let proposals: Vec<_> = groups
                .into_iter()
                .map(|changes| self.options.collaborator.propose(partition, changes))
                .collect();
            let calls = self.calls.clone();
            self.options
                .env
                .runtime()
                .spawn("outbox propose", async move {
                    let mut result = Ok(());
                    for proposal in proposals {
                        result = result.and(proposal.await);
                    }
                    let call = Call::Proposed(partition, sequences, result);
                    let _stopping = calls.send(call).await.is_err();
                });
        }
    }

    fn start_copies(&mut self) {
        for sequence in self.state.to_copy() {
            if self.copying.len() >= COPIES_AT_ONCE || !self.copying.insert(sequence) {
                continue;
            }
            let Some(item) = self.state.item(sequence).cloned() else {
                continue;
            };
            let hold = self.options.collaborator.hold(item);
            let (calls, runtime) = (self.calls.clone(), self.options.env.runtime().clone());
            self.options.env.runtime().spawn("outbox copy", async move {
                let result = hold.await;
                if result.is_err() {
                    runtime.sleep(COPY_AGAIN).await;
                }
                let _stopping = calls.send(Call::Held(sequence, result)).await.is_err();
            });
        }
    }
}

/// Cuts a batch into messages that a link takes.
fn in_messages(changes: Vec<Bytes>) -> Vec<Vec<Bytes>> {
    let (mut groups, mut bytes) = (vec![Vec::new()], 0);
    for change in changes {
        if bytes + change.len() > PROPOSE_BYTES {
            groups.push(Vec::new());
            bytes = 0;
        }
        bytes += change.len();
        if let Some(group) = groups.last_mut() {
            group.push(change);
        }
    }
    groups
}
