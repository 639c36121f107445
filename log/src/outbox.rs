//! [driver] The way in: changes made here and not yet ordered.
//!
//! One task owns the [`state::State`]; others talk to it through a bounded queue. What waits in the
//! queue is taken together: one durable note batch for all new items, one signature for all that
//! can be proposed. An item that can be proposed at once is signed before it is first written, so
//! that it costs one sync here and one in the log. Acknowledged (`queued`) only after that sync
//! (promise D6).

mod driver;
pub mod item;
pub mod state;

use crate::chunk::ChunkPin;
use crate::env::{Env, Runtime};
use crate::segment::SegmentLog;
use crate::watch::Watched;
use aber_proto::{ClusterId, NodeId, PartitionId, RequestId, SecretKey, TreePath, VolumeId};
use bytes::Bytes;
use driver::Driver;
use item::Item;
use state::{Outcome, Phase, Sequence};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// Calls that wait for the driver at most.
const QUEUE: usize = 1024;
/// What the keys of all items among the log's notes start with.
pub const ITEM_PREFIX: &[u8] = b"o/";

/// A boxed future of the outbox's collaborators.
pub type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What the outbox needs of the rest of the node.
pub trait Collaborator: Send + Sync + 'static {
    /// The volume with this name, as applied here.
    fn volume(&self, name: &str) -> Option<(VolumeId, PartitionId)>;
    /// The last author sequence number of this node that a partition's view has seen, and whether
    /// it knows a request already.
    fn seen(&self, partition: PartitionId, request: RequestId) -> Seen;
    /// Keeps the content of an item that was found at the start from the sweep.
    fn pin(&self, item: &Item) -> ChunkPin;
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
    Submit(
        Box<Item>,
        Vec<ChunkPin>,
        oneshot::Sender<Result<(), OutboxProblem>>,
    ),
    SubmitAll(Vec<Item>, oneshot::Sender<Result<(), OutboxProblem>>),
    Wait(RequestId, oneshot::Sender<Option<Outcome>>),
    Outcomes(Vec<(RequestId, Outcome)>),
    Void(RequestId, u64),
    Held(Sequence, Result<(), String>),
    Proposed(PartitionId, Vec<Sequence>, Result<(), String>),
    List(oneshot::Sender<Vec<Waiting>>),
    Touches(TreePath, oneshot::Sender<bool>),
    Wake,
}

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
        let driver = Driver::load(options, calls.clone(), waiting.clone())?;
        runtime.spawn("outbox", driver.run(queue));
        Ok(Self { calls, waiting })
    }

    /// Takes a change in; returns once it is durable here (level `queued`). A request that waits
    /// already is not taken in twice. `pins` keep its content from the sweep while it waits.
    ///
    /// # Errors
    /// [`OutboxProblem`]; the change is then not here, or, after `Storage`, perhaps.
    pub async fn submit(&self, item: Item, pins: Vec<ChunkPin>) -> Result<(), OutboxProblem> {
        let (answer, receiver) = oneshot::channel();
        let call = Call::Submit(Box::new(item), pins, answer);
        self.calls
            .send(call)
            .await
            .map_err(|_| OutboxProblem::Stopped)?;
        receiver.await.unwrap_or(Err(OutboxProblem::Stopped))
    }

    /// Takes several changes of one plan in, all or none; returns once they are durable here. When
    /// one is refused, those that are not on their way yet are dropped; whoever waits for them is
    /// told of the refusal, with index 0.
    ///
    /// # Errors
    /// [`OutboxProblem`]; none of them is then here, or, after `Storage`, perhaps all.
    pub async fn submit_all(&self, items: Vec<Item>) -> Result<(), OutboxProblem> {
        let (answer, receiver) = oneshot::channel();
        let call = Call::SubmitAll(items, answer);
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
