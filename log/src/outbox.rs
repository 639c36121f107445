//! [driver] The way in: changes made here and not yet ordered.
//!
//! One task owns the [`state::State`]; others talk to it through a bounded queue. What waits in the
//! queue is taken together: one durable note batch for all new items, one signature for all that
//! can be proposed. An item that can be proposed at once is signed before it is first written, so
//! that it costs one sync here and one in the log. Acknowledged (`queued`) only after that sync
//! (promise D6).

pub mod item;
pub mod state;

use crate::env::{Env, Runtime};
use crate::planted::{Bug, is_on};
use crate::segment::{SegmentLog, SegmentProblem};
use crate::watch::Watched;
use aber_proto::{ChangeHash, ClusterId, NodeId, PartitionId, RequestId, SecretKey, SignedChange};
use aber_proto::{TreePath, VolumeId, codec, limit};
use bytes::Bytes;
use item::{Item, PENDING_VOLUME};
use state::{Outcome, Phase, Sequence, State};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Calls that wait for the driver at most.
const QUEUE: usize = 1024;
/// Calls taken together.
const AT_ONCE: usize = 256;
/// Author sequence numbers are reserved durably this many at a time.
const RESERVE: u64 = 4096;
/// Items whose content is being copied at the same time.
const COPIES_AT_ONCE: usize = 8;
/// Bytes of changes sent to a leader in one message.
const PROPOSE_BYTES: usize = limit::MESSAGE_BYTES / 2;
const COPY_AGAIN: Duration = Duration::from_secs(1);
const ITEM_PREFIX: &[u8] = b"o/";
const AUTHOR_PREFIX: &[u8] = b"a/";

/// A boxed future of the outbox's collaborators.
pub type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What the outbox needs of the rest of the node.
pub trait Collaborator: Send + Sync + 'static {
    /// The volume with this name, as applied here.
    fn volume(&self, name: &str) -> Option<(VolumeId, PartitionId)>;
    /// The last author sequence number of this node that a partition's view has seen, and whether
    /// it knows a request already.
    fn seen(&self, partition: PartitionId, request: RequestId) -> Seen;
    /// Makes enough nodes hold the content; answers what hinders it.
    fn hold(&self, item: Item) -> Boxed<Result<(), String>>;
    /// Hands signed changes to the leader, in this order; answers what hindered it.
    fn propose(&self, partition: PartitionId, changes: Vec<Bytes>) -> Boxed<Result<(), String>>;
}

/// What a view knows of a change of this node.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Seen {
    /// Its outcome, if the request was applied or rejected.
    pub outcome: Option<Outcome>,
    /// The last author sequence number.
    pub last_sequence: u64,
}

/// Why a change was not taken in.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OutboxProblem {
    /// The log failed; the node is stopping.
    #[error("the outbox cannot be written: {0}")]
    Storage(String),
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopped,
    /// Too many bytes wait already.
    #[error("{0} changes wait in the outbox already")]
    Full(usize),
}

/// A change that waits, for status and lists.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Waiting {
    /// Its request.
    pub request: RequestId,
    /// A path it touches.
    pub path: Option<String>,
    /// Its partition.
    pub partition: PartitionId,
    /// Where it stands.
    pub phase: Phase,
    /// What hinders it.
    pub problem: Option<String>,
}

enum Call {
    Submit(Box<Item>, oneshot::Sender<Result<(), OutboxProblem>>),
    Wait(RequestId, oneshot::Sender<Option<Outcome>>),
    Outcomes(Vec<(RequestId, Outcome)>),
    Void(RequestId, u64),
    Held(Sequence, Result<(), String>),
    Proposed(Vec<Sequence>, Result<(), String>),
    List(oneshot::Sender<Vec<Waiting>>),
    Touches(TreePath, oneshot::Sender<bool>),
    Wake,
}

/// Most changes that wait.
const ITEMS_MAX: usize = 100_000;

/// A handle on the outbox.
#[derive(Clone)]
pub struct Outbox {
    calls: mpsc::Sender<Call>,
    waiting: Watched<usize>,
}

/// What the outbox is built from.
pub struct OutboxOptions<E: Env> {
    /// The world.
    pub env: E,
    /// The node's log, which holds the notes.
    pub log: SegmentLog<E>,
    /// The cluster.
    pub cluster: ClusterId,
    /// This node.
    pub me: NodeId,
    /// Its key.
    pub key: Arc<SecretKey>,
    /// The rest of the node.
    pub collaborator: Arc<dyn Collaborator>,
}

impl Outbox {
    /// Reads what waits and starts the driver.
    ///
    /// # Errors
    /// Notes that cannot be read.
    pub fn start<E: Env>(options: OutboxOptions<E>) -> Result<Self, OutboxProblem> {
        let (calls, queue) = mpsc::channel(QUEUE);
        let waiting = Watched::new(0);
        let runtime = options.env.runtime().clone();
        let mut driver = Driver {
            options,
            state: State::default(),
            authors: BTreeMap::new(),
            waiters: BTreeMap::new(),
            copying: BTreeSet::new(),
            calls: calls.clone(),
            waiting: waiting.clone(),
        };
        driver.load()?;
        runtime.spawn("outbox", driver.run(queue));
        Ok(Self { calls, waiting })
    }

    /// Takes a change in; returns once it is durable here (level `queued`). A request that waits
    /// already is not taken in twice.
    ///
    /// # Errors
    /// [`OutboxProblem`]; the change is then not here, or, after `Storage`, perhaps.
    pub async fn submit(&self, item: Item) -> Result<(), OutboxProblem> {
        let (answer, receiver) = oneshot::channel();
        let call = Call::Submit(Box::new(item), answer);
        self.calls
            .send(call)
            .await
            .map_err(|_| OutboxProblem::Stopped)?;
        receiver.await.unwrap_or(Err(OutboxProblem::Stopped))
    }

    /// Waits for the outcome of a request that waits here; `None` if it does not (any more).
    pub async fn outcome(&self, request: RequestId) -> Option<Outcome> {
        let (answer, receiver) = oneshot::channel();
        self.calls.send(Call::Wait(request, answer)).await.ok()?;
        receiver.await.ok().flatten()
    }

    /// Tells outcomes seen in a view.
    pub async fn tell_outcomes(&self, outcomes: Vec<(RequestId, Outcome)>) {
        // A stopping outbox learns it again after the restart.
        let _stopping = self.calls.send(Call::Outcomes(outcomes)).await.is_err();
    }

    /// Tells that a change was ordered with a sequence number that can never be applied.
    pub async fn tell_void(&self, request: RequestId, author_sequence: u64) {
        let _stopping = self
            .calls
            .send(Call::Void(request, author_sequence))
            .await
            .is_err();
    }

    /// Everything that waits, in the order made.
    pub async fn list(&self) -> Vec<Waiting> {
        let (answer, receiver) = oneshot::channel();
        if self.calls.send(Call::List(answer)).await.is_err() {
            return Vec::new();
        }
        receiver.await.unwrap_or_default()
    }

    /// Whether a change that waits here touches exactly this path.
    pub async fn touches(&self, path: TreePath) -> bool {
        let (answer, receiver) = oneshot::channel();
        if self.calls.send(Call::Touches(path, answer)).await.is_err() {
            return false;
        }
        receiver.await.unwrap_or(false)
    }

    /// How many changes wait.
    pub fn waiting(&self) -> Watched<usize> {
        self.waiting.clone()
    }
}

#[derive(Clone, Copy, Default)]
struct AuthorChain {
    next: u64,
    reserved: u64,
    previous: ChangeHash,
}

struct Driver<E: Env> {
    options: OutboxOptions<E>,
    state: State,
    authors: BTreeMap<PartitionId, AuthorChain>,
    waiters: BTreeMap<RequestId, Vec<oneshot::Sender<Option<Outcome>>>>,
    copying: BTreeSet<Sequence>,
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
    fn load(&mut self) -> Result<(), OutboxProblem> {
        let log = &self.options.log;
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
            #[expect(clippy::big_endian_bytes, reason = "keys sort by bytes")]
            self.state.add(item, number.map(u64::from_be_bytes));
        }
        self.waiting.set(self.state.len());
        Ok(())
    }

    async fn run(mut self, mut queue: mpsc::Receiver<Call>) {
        let mut calls = Vec::with_capacity(AT_ONCE);
        loop {
            let (mut notes, mut answers) = (Notes::new(), Answers::new());
            for call in calls.drain(..) {
                self.take(call, &mut notes, &mut answers);
            }
            let batches = self.sign_ready(&mut notes);
            if is_on(Bug::DroppedAtProposal) {
                let sequences = batches.values().flatten();
                notes.extend(sequences.map(|sequence| (item_key(*sequence), None)));
            }
            if !notes.is_empty()
                && let Err(problem) = self.options.log.write_notes(notes).await
            {
                let problem = storage(&problem);
                for answer in answers {
                    let _gone = answer.send(Err(problem.clone()));
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
            Call::Submit(item, answer) => self.submit(*item, answer, notes, answers),
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
            Call::Void(request, sequence) => self.state.void(request, sequence),
            Call::Held(sequence, result) => {
                self.copying.remove(&sequence);
                match result {
                    Ok(()) => self.state.held(sequence),
                    Err(why) => self.state.hindered(sequence, why),
                }
            }
            Call::Proposed(sequences, result) => {
                let now = self.options.env.runtime().now();
                if let Err(why) = result {
                    for sequence in sequences {
                        self.state.refused(sequence, now, why.clone());
                    }
                }
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
    ) {
        let is_known = self.state.find(item.request()).is_some();
        if !is_known && self.state.len() >= ITEMS_MAX {
            let _gone = answer.send(Err(OutboxProblem::Full(self.state.len())));
            return;
        }
        if !is_known {
            let bytes = item.encode();
            let sequence = self.state.add(item, None);
            notes.push((item_key(sequence), Some(bytes)));
        }
        answers.push(answer);
    }

    fn finish(&mut self, request: RequestId, outcome: &Outcome, notes: &mut Notes) {
        if let Some((sequence, _)) = self.state.finished(request) {
            notes.push((item_key(sequence), None));
        }
        for waiter in self.waiters.remove(&request).into_iter().flatten() {
            let _gone = waiter.send(Some(outcome.clone()));
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

    /// Gives every item that may be proposed its place and signature; answers what to send.
    fn sign_ready(&mut self, notes: &mut Notes) -> BTreeMap<PartitionId, Vec<Sequence>> {
        let now = self.options.env.runtime().now();
        let mut batches: BTreeMap<PartitionId, Vec<Sequence>> = BTreeMap::new();
        let mut unsigned = Vec::new();
        for sequence in self.state.to_propose(now) {
            if self.settle(sequence, now, notes) {
                let Some(item) = self.state.item(sequence) else {
                    continue;
                };
                if item.signed.is_none() {
                    unsigned.push(sequence);
                }
                batches.entry(item.partition()).or_default().push(sequence);
            }
        }
        for group in unsigned.chunks(limit::BATCH_CHANGES) {
            self.sign(group, notes);
        }
        for sequences in batches.values_mut() {
            sequences.sort_by_key(|s| {
                self.state
                    .item(*s)
                    .and_then(|item| Some(item.signed.as_ref()?.0))
            });
            for sequence in sequences {
                self.state.proposed(*sequence, now);
            }
        }
        batches
    }

    /// Checks an item against the view: whether it was answered already, and where its volume is.
    fn settle(&mut self, sequence: Sequence, now: aber_proto::Instant, notes: &mut Notes) -> bool {
        let Some(item) = self.state.item_mut(sequence) else {
            return false;
        };
        let request = item.request();
        let collaborator = Arc::clone(&self.options.collaborator);
        if let Some((signed, _)) = &item.signed {
            let signed = *signed;
            let seen = collaborator.seen(item.partition(), request);
            if let Some(outcome) = seen.outcome {
                self.finish(request, &outcome, notes);
                return false;
            }
            if seen.last_sequence >= signed {
                self.state.void(request, signed);
            }
            return true;
        }
        let Some(name) = item.volume.clone() else {
            return true;
        };
        match collaborator.volume(&name) {
            Some((volume, partition)) => {
                place_in(item, volume, partition);
                true
            }
            None => {
                let why = format!("the volume {name} is not there yet");
                self.state.refused(sequence, now, why);
                false
            }
        }
    }

    fn sign(&mut self, group: &[Sequence], notes: &mut Notes) {
        let mut bodies = Vec::with_capacity(group.len());
        for sequence in group {
            let Some(item) = self.state.item(*sequence) else {
                continue;
            };
            let mut change = item.change.clone();
            let chain = self.authors.entry(change.partition).or_default();
            // Number 0 means "none yet" in a view.
            chain.next = chain.next.max(1);
            change.author_sequence = chain.next;
            change.previous = chain.previous;
            change.author = self.options.me;
            change.cluster = self.options.cluster;
            let body = codec::encode_change(&change);
            chain.previous = ChangeHash::of(&body);
            chain.next += 1;
            bodies.push((*sequence, change.author_sequence, change.partition, body));
        }
        self.reserve(notes);
        let hashes: Vec<_> = bodies
            .iter()
            .map(|(.., body)| ChangeHash::of(body))
            .collect();
        let signatures = self.options.key.sign_batch(&hashes);
        for ((sequence, number, _, body), signature) in bodies.into_iter().zip(signatures) {
            if let Some(item) = self.state.item_mut(sequence) {
                item.set_signed(number, &SignedChange { body, signature });
                notes.push((item_key(sequence), Some(item.encode())));
            }
        }
    }

    /// Numbers are durable before they are used: after a crash none is given twice.
    fn reserve(&mut self, notes: &mut Notes) {
        for (partition, chain) in &mut self.authors {
            if chain.next > chain.reserved {
                chain.reserved = chain.next + RESERVE;
                let value = Bytes::copy_from_slice(&chain.reserved.to_le_bytes());
                notes.push((author_key(*partition), Some(value)));
            }
        }
    }

    fn send(&self, batches: BTreeMap<PartitionId, Vec<Sequence>>) {
        for (partition, sequences) in batches {
            let (mut group, mut changes, mut bytes) = (Vec::new(), Vec::new(), 0);
            for sequence in sequences {
                let Some((_, change)) = self.state.item(sequence).and_then(|i| i.signed.clone())
                else {
                    continue;
                };
                if bytes + change.len() > PROPOSE_BYTES {
                    self.send_group(
                        partition,
                        std::mem::take(&mut group),
                        std::mem::take(&mut changes),
                    );
                    bytes = 0;
                }
                bytes += change.len();
                group.push(sequence);
                changes.push(change);
            }
            self.send_group(partition, group, changes);
        }
    }

    fn send_group(&self, partition: PartitionId, group: Vec<Sequence>, changes: Vec<Bytes>) {
        if group.is_empty() {
            return;
        }
        let proposal = self.options.collaborator.propose(partition, changes);
        let calls = self.calls.clone();
        self.options
            .env
            .runtime()
            .spawn("outbox propose", async move {
                let result = proposal.await;
                let _stopping = calls.send(Call::Proposed(group, result)).await.is_err();
            });
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

/// Gives the places of an item the id of their volume.
fn place_in(item: &mut Item, volume: VolumeId, partition: PartitionId) {
    use aber_proto::Operation as Op;
    for event in &mut item.change.events {
        let places = match &mut event.operation {
            Op::Put { place, .. }
            | Op::MakeDirectory { place, .. }
            | Op::MakeSymlink { place, .. }
            | Op::Remove { place, .. }
            | Op::SetAttributes { place, .. } => [Some(place), None],
            Op::Rename { from, to, .. } => [Some(from), Some(to)],
            Op::Copy { to, .. } => [Some(to), None],
            Op::MakeVolume { .. } | Op::RenameVolume { .. } | Op::RemoveVolume { .. } => {
                [None, None]
            }
        };
        for place in places.into_iter().flatten() {
            if place.volume == PENDING_VOLUME {
                place.volume = volume;
            }
        }
    }
    item.change.partition = partition;
    item.volume = None;
}
