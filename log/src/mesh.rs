//! [driver] Requests and answers between this node and all others, over links.
//!
//! One link a peer and class is dialled from each side: requests of ours go out on ours, requests
//! of theirs come in on theirs. A frame is `kind u8 | id u64 | method u8 | payload`. Requests of one
//! link are *received* in order ([`Handler::receive`] is called one after the other, so it may put
//! work into queues), their answers may overtake each other. Every call has a deadline (promise
//! B6); a link that breaks fails the calls that wait on it.

use crate::env::{Env, Link, Network, Runtime, network::LinkClass, network::LinkProblem};
use crate::watch::Watched;
use aber_proto::NodeId;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, oneshot};

/// Requests of one link that are worked on at the same time.
const REQUESTS_AT_ONCE: usize = 256;
const REQUEST: u8 = 1;
const ANSWER: u8 = 2;
const FAILURE: u8 = 3;
const HEAD_BYTES: usize = 10;
const REDIAL_FIRST: Duration = Duration::from_millis(50);
const REDIAL_LAST: Duration = Duration::from_secs(2);

/// What is asked for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Method {
    /// Raft's `AppendEntries`.
    Append = 1,
    /// Raft's vote.
    Vote = 2,
    /// Raft's pre-vote.
    PreVote = 3,
    /// Raft's snapshot.
    Snapshot = 4,
    /// Raft's leader transfer.
    Transfer = 5,
    /// Changes for the leader to order.
    Propose = 6,
    /// Chunks to hold.
    Hold = 7,
    /// Chunks to send.
    Chunks = 8,
    /// Positions.
    Status = 9,
    /// How much of some chunks is here.
    Held = 10,
    /// Committed entries right before one.
    Entries = 11,
    /// Committed entries from one on, as soon as there are any.
    Follow = 12,
}

impl Method {
    fn from_byte(byte: u8) -> Option<Self> {
        use Method::{
            Append, Chunks, Entries, Follow, Held, Hold, PreVote, Propose, Snapshot, Status,
            Transfer, Vote,
        };
        [
            Append, Vote, PreVote, Snapshot, Transfer, Propose, Hold, Chunks, Status, Held,
            Entries, Follow,
        ]
        .into_iter()
        .find(|method| *method as u8 == byte)
    }

    fn class(self) -> LinkClass {
        match self {
            Self::Hold | Self::Chunks | Self::Snapshot | Self::Entries => LinkClass::Bulk,
            _ => LinkClass::Control,
        }
    }
}

/// Why a call has no answer.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CallProblem {
    /// There is no link, or it broke meanwhile. The request may or may not have been done.
    #[error("node {0} cannot be reached")]
    Unreachable(NodeId),
    /// The deadline passed. The request may or may not have been done.
    #[error("node {0} did not answer in time")]
    Timeout(NodeId),
    /// The other node answered that it cannot.
    #[error("node {node}: {why}")]
    Failed {
        /// Who.
        node: NodeId,
        /// What it said.
        why: String,
    },
}

/// A boxed answer.
pub type Answer = Pin<Box<dyn Future<Output = Result<Bytes, String>> + Send>>;

/// Answers requests of other nodes.
pub trait Handler: Send + Sync + 'static {
    /// Takes a request, in the order of the link; the future is then run beside others.
    fn receive(&self, from: NodeId, method: Method, payload: Bytes) -> Answer;
}

type Waiting = Arc<Mutex<BTreeMap<u64, oneshot::Sender<Result<Bytes, CallProblem>>>>>;

struct Up<L> {
    link: Arc<L>,
    waiting: Waiting,
}

impl<L> Clone for Up<L> {
    fn clone(&self) -> Self {
        Self {
            link: Arc::clone(&self.link),
            waiting: Arc::clone(&self.waiting),
        }
    }
}

type Slot<L> = Watched<Option<Up<L>>>;
type LinkOf<E> = <<E as Env>::Network as Network>::Link;

/// Another member, as long as it is one.
struct Peer<L> {
    slots: BTreeMap<LinkClass, Slot<L>>,
    is_wanted: Watched<bool>,
    sent_bytes: AtomicU64,
    received_bytes: AtomicU64,
}

/// How the links to another member are.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LinkState {
    /// Whether requests that are no content can be sent to it.
    pub is_up: bool,
    /// Whether content can be.
    pub is_content_up: bool,
    /// Why not, as the last try to open a link said; `None` while all are up, or before it ended.
    pub problem: Option<LinkProblem>,
    /// Bytes of frames sent to it since it is a peer, both ways of asking together.
    pub sent_bytes: u64,
    /// Bytes of frames received from it.
    pub received_bytes: u64,
}

impl<L> Peer<L> {
    fn new() -> Self {
        let classes = [LinkClass::Control, LinkClass::Bulk];
        Self {
            slots: classes.map(|class| (class, Watched::new(None))).into(),
            is_wanted: Watched::new(true),
            sent_bytes: AtomicU64::new(0),
            received_bytes: AtomicU64::new(0),
        }
    }

    fn is_up(&self, class: LinkClass) -> bool {
        let slot = self.slots.get(&class);
        slot.is_some_and(|slot| slot.get().is_some())
    }
}

type Peers<L> = BTreeMap<NodeId, Arc<Peer<L>>>;

struct Inner<E: Env> {
    env: E,
    /// Whom this node has links to.
    peers: Mutex<Peers<LinkOf<E>>>,
    is_dialling: AtomicBool,
    next_id: AtomicU64,
    /// What the last try to reach a peer said.
    troubles: Watched<BTreeMap<NodeId, LinkProblem>>,
}

/// All links of this node.
pub struct Mesh<E: Env> {
    inner: Arc<Inner<E>>,
}

impl<E: Env> Clone for Mesh<E> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
        }
    }
}

impl<E: Env> Mesh<E> {
    /// Prepares the links to `peers`; none is dialled before [`Mesh::dial`], and no request
    /// answered before [`Mesh::answer`].
    pub fn new(env: E, peers: &[NodeId]) -> Self {
        let this = Self {
            inner: Arc::new(Inner {
                env,
                peers: Mutex::default(),
                is_dialling: AtomicBool::new(false),
                next_id: AtomicU64::new(1),
                troubles: Watched::new(BTreeMap::new()),
            }),
        };
        this.set_peers(&peers.iter().copied().collect());
        this
    }

    /// Dials all peers, again and again: from now on they can be asked.
    pub fn dial(&self) {
        self.inner.is_dialling.store(true, SeqCst);
        let peers = lock(&self.inner.peers).clone();
        for (node, peer) in peers {
            self.dial_peer(node, &peer);
        }
    }

    fn dial_peer(&self, node: NodeId, peer: &Arc<Peer<LinkOf<E>>>) {
        let runtime = self.inner.env.runtime();
        for class in [LinkClass::Control, LinkClass::Bulk] {
            let dialled = self.clone().keep_dialled(node, class, Arc::clone(peer));
            runtime.spawn("mesh dial", dialled);
        }
    }

    /// From now on these are the peers: links to others end, new ones are dialled.
    pub fn set_peers(&self, wanted: &BTreeSet<NodeId>) {
        let (mut gone, mut new) = (Vec::new(), Vec::new());
        {
            let mut peers = lock(&self.inner.peers);
            peers.retain(|node, peer| {
                let stays = wanted.contains(node);
                if !stays {
                    gone.push((*node, Arc::clone(peer)));
                }
                stays
            });
            for node in wanted {
                peers.entry(*node).or_insert_with(|| {
                    let peer = Arc::new(Peer::new());
                    new.push((*node, Arc::clone(&peer)));
                    peer
                });
            }
        }
        for (node, peer) in gone {
            peer.is_wanted.set(false);
            self.inner.troubles.update(|all| all.remove(&node));
        }
        if self.inner.is_dialling.load(SeqCst) {
            for (node, peer) in new {
                self.dial_peer(node, &peer);
            }
        }
    }

    /// Answers what peers ask.
    pub fn answer(&self, handler: Arc<dyn Handler>) {
        let runtime = self.inner.env.runtime();
        runtime.spawn("mesh accept", self.clone().accept_all(handler));
    }

    /// Whether a link for requests to `peer` is up.
    pub fn is_up(&self, peer: NodeId) -> bool {
        self.peer(peer)
            .is_some_and(|peer| peer.is_up(LinkClass::Control))
    }

    /// The peers to which a link is up.
    pub fn peers_up(&self) -> Vec<NodeId> {
        self.peers()
            .into_iter()
            .filter(|peer| self.is_up(*peer))
            .collect()
    }

    /// All peers.
    pub fn peers(&self) -> Vec<NodeId> {
        lock(&self.inner.peers).keys().copied().collect()
    }

    /// What peers said when they refused a link: another cluster, a newer version, a removal.
    pub fn refusals(&self) -> BTreeMap<NodeId, String> {
        let troubles = self.inner.troubles.get().into_iter();
        let refused = troubles.filter_map(|(node, problem)| match problem {
            LinkProblem::Refused { why, .. } | LinkProblem::NotAMember { why, .. } => {
                Some((node, why))
            }
            LinkProblem::Unreachable { .. } | LinkProblem::Closed => None,
        });
        refused.collect()
    }

    /// The peers that know no member with this node's key.
    pub fn outcast_by(&self) -> Vec<NodeId> {
        let troubles = self.inner.troubles.get().into_iter();
        let outcast =
            troubles.filter(|(_, problem)| matches!(problem, LinkProblem::NotAMember { .. }));
        outcast.map(|(node, _)| node).collect()
    }

    /// How the links to a peer are; `None` if it is none.
    pub fn link_state(&self, node: NodeId) -> Option<LinkState> {
        let peer = self.peer(node)?;
        Some(LinkState {
            is_up: peer.is_up(LinkClass::Control),
            is_content_up: peer.is_up(LinkClass::Bulk),
            problem: self.inner.troubles.get().remove(&node),
            sent_bytes: peer.sent_bytes.load(SeqCst),
            received_bytes: peer.received_bytes.load(SeqCst),
        })
    }

    fn peer(&self, node: NodeId) -> Option<Arc<Peer<LinkOf<E>>>> {
        lock(&self.inner.peers).get(&node).cloned()
    }

    /// Asks `to` and waits for the answer, at most for `deadline`.
    ///
    /// # Errors
    /// [`CallProblem`]; but for `Failed` it says nothing about whether the request was done.
    pub async fn call(
        &self,
        to: NodeId,
        method: Method,
        payload: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, CallProblem> {
        let peer = self.peer(to).ok_or(CallProblem::Unreachable(to))?;
        let slot = peer.slots.get(&method.class());
        let up = slot.and_then(Watched::get);
        let up = up.ok_or(CallProblem::Unreachable(to))?;
        let id = self.inner.next_id.fetch_add(1, SeqCst);
        let (sender, receiver) = oneshot::channel();
        lock(&up.waiting).insert(id, sender);
        let frame = frame(REQUEST, id, method as u8, &payload);
        add(&peer.sent_bytes, frame.len());
        let exchange = async {
            if up.link.send(frame).await.is_err() {
                return Err(CallProblem::Unreachable(to));
            }
            receiver.await.unwrap_or(Err(CallProblem::Unreachable(to)))
        };
        let answer = self.inner.env.runtime().timeout(deadline, exchange).await;
        lock(&up.waiting).remove(&id);
        answer.unwrap_or(Err(CallProblem::Timeout(to)))
    }

    async fn keep_dialled(self, peer: NodeId, class: LinkClass, of: Arc<Peer<LinkOf<E>>>) {
        let runtime = self.inner.env.runtime().clone();
        let mut pause = REDIAL_FIRST;
        while of.is_wanted.get() {
            match self.inner.env.network().dial(peer, class).await {
                Ok(link) => {
                    pause = REDIAL_FIRST;
                    self.inner.troubles.update(|all| all.remove(&peer));
                    self.run_dialled(peer, link, &of).await;
                }
                Err(problem) => {
                    let is_refused = matches!(
                        problem,
                        LinkProblem::Refused { .. } | LinkProblem::NotAMember { .. }
                    );
                    pause = match is_refused {
                        true => REDIAL_LAST,
                        false => (pause * 2).min(REDIAL_LAST),
                    };
                    if of.is_wanted.get() {
                        self.inner.troubles.update(|all| all.insert(peer, problem));
                    }
                }
            }
            runtime.sleep(pause).await;
        }
    }

    async fn run_dialled(&self, peer: NodeId, link: LinkOf<E>, of: &Peer<LinkOf<E>>) {
        let Some(slot) = of.slots.get(&link.class()) else {
            return;
        };
        let link = Arc::new(link);
        let waiting = Waiting::default();
        slot.set(Some(Up {
            link: Arc::clone(&link),
            waiting: Arc::clone(&waiting),
        }));
        let mut is_wanted = of.is_wanted.clone();
        loop {
            let received = tokio::select! {
                biased;
                _ = is_wanted.until(|is_wanted| !is_wanted) => break,
                received = link.receive() => received,
            };
            let Ok(bytes) = received else { break };
            add(&of.received_bytes, bytes.len());
            if let Some((kind, id, _, payload)) = split(bytes)
                && let Some(sender) = lock(&waiting).remove(&id)
            {
                let answer = if kind == ANSWER {
                    Ok(payload)
                } else {
                    let why = String::from_utf8_lossy(&payload).into_owned();
                    Err(CallProblem::Failed { node: peer, why })
                };
                // The caller may have given up meanwhile.
                let _given_up = sender.send(answer).is_err();
            }
        }
        slot.set(None);
        lock(&waiting).clear();
    }

    async fn accept_all(self, handler: Arc<dyn Handler>) {
        loop {
            match self.inner.env.network().accept().await {
                Ok(link) => {
                    let serve = self.clone().serve(link, Arc::clone(&handler));
                    self.inner.env.runtime().spawn("mesh serve", serve);
                }
                Err(_) => self.inner.env.runtime().sleep(REDIAL_LAST).await,
            }
        }
    }

    async fn serve(self, link: LinkOf<E>, handler: Arc<dyn Handler>) {
        let link = Arc::new(link);
        let slots = Arc::new(Semaphore::new(REQUESTS_AT_ONCE));
        while let Ok(bytes) = link.receive().await {
            let Some((REQUEST, id, method, payload)) = split(bytes) else {
                return;
            };
            let Some(method) = Method::from_byte(method) else {
                return;
            };
            let Ok(permit) = Arc::clone(&slots).acquire_owned().await else {
                return;
            };
            // It may have been removed since it opened the link.
            let Some(peer) = self.peer(link.remote()) else {
                return;
            };
            add(&peer.received_bytes, HEAD_BYTES + payload.len());
            let answer = handler.receive(link.remote(), method, payload);
            let link = Arc::clone(&link);
            self.inner.env.runtime().spawn("mesh answer", async move {
                let frame = match answer.await {
                    Ok(payload) => frame(ANSWER, id, method as u8, &payload),
                    Err(why) => frame(FAILURE, id, method as u8, why.as_bytes()),
                };
                add(&peer.sent_bytes, frame.len());
                // A link that broke meanwhile fails the caller by itself.
                let _broken = link.send(frame).await.is_err();
                drop(permit);
            });
        }
    }
}

fn lock<T>(shared: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// For people: nothing depends on it.
fn add(to: &AtomicU64, bytes: usize) {
    to.fetch_add(bytes as u64, SeqCst);
}

fn frame(kind: u8, id: u64, method: u8, payload: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(HEAD_BYTES + payload.len());
    bytes.put_u8(kind);
    bytes.put_u64_le(id);
    bytes.put_u8(method);
    bytes.put_slice(payload);
    bytes.freeze()
}

fn split(mut bytes: Bytes) -> Option<(u8, u64, u8, Bytes)> {
    if bytes.len() < HEAD_BYTES {
        return None;
    }
    let (kind, id, method) = (bytes.get_u8(), bytes.get_u64_le(), bytes.get_u8());
    Some((kind, id, method, bytes))
}
