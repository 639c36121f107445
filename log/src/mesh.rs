//! [driver] Requests and answers between this node and all others, over links.
//!
//! One link a peer and class is dialled from each side: requests of ours go out on ours, requests
//! of theirs come in on theirs. Each message waits for its turn on the [`Uplink`], as urgent as its
//! method and size make it; one that is longer than a frame goes in parts (`frame`). Requests of one
//! link and priority are *received* in order ([`Handler::receive`] is called one after the other, so
//! it may put work into queues), their answers may overtake each other. Every call has a deadline
//! (promise B6); a link that breaks fails the calls that wait on it.

mod frame;
mod method;
mod peer;
mod send;
#[cfg(test)]
mod tests;

pub use method::Method;
pub use peer::LinkState;

use crate::env::{Env, Link, Network, Runtime, network::LinkClass, network::LinkProblem};
use crate::uplink::{Priority, Route, Uplink};
use crate::watch::Watched;
use aber_proto::NodeId;
use bytes::Bytes;
use frame::{Assembly, Head, Kind, Taken};
use peer::{Peer, Place, Up, Waiting};
use send::{LinkOf, Outgoing, SendProblem};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, oneshot};

/// Requests of one link that are worked on at the same time.
const REQUESTS_AT_ONCE: usize = 256;
const REDIAL_FIRST: Duration = Duration::from_millis(50);
const REDIAL_LAST: Duration = Duration::from_secs(2);

/// Why a call has no answer.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CallProblem {
    /// There is no link, or it broke meanwhile. The request may or may not have been done.
    #[error("node {0} cannot be reached")]
    Unreachable(NodeId),
    /// So much waits for this node's uplink that the request was not sent.
    #[error("too much waits to be sent to node {0}")]
    Busy(NodeId),
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

type Peers<E> = BTreeMap<NodeId, Arc<Peer<E>>>;

struct Inner<E: Env> {
    env: E,
    uplink: Uplink<E::Runtime>,
    /// Whom this node has links to.
    peers: Mutex<Peers<E>>,
    is_dialling: AtomicBool,
    next_id: AtomicU64,
    next_link: AtomicU64,
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
                uplink: Uplink::new(env.runtime().clone()),
                env,
                peers: Mutex::default(),
                is_dialling: AtomicBool::new(false),
                next_id: AtomicU64::new(1),
                next_link: AtomicU64::new(1),
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

    fn dial_peer(&self, node: NodeId, peer: &Arc<Peer<E>>) {
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
            self.inner.uplink.forget(node);
        }
        if self.inner.is_dialling.load(SeqCst) {
            for (node, peer) in new {
                self.dial_peer(node, &peer);
            }
        }
    }

    /// What all messages to peers go through.
    pub fn uplink(&self) -> &Uplink<E::Runtime> {
        &self.inner.uplink
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
        let problem = self.inner.troubles.get().remove(&node);
        Some(self.peer(node)?.state(problem))
    }

    fn peer(&self, node: NodeId) -> Option<Arc<Peer<E>>> {
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
        let priority = method.priority();
        self.call_as(to, method, priority, payload, deadline).await
    }

    /// The same for what is more or less urgent than its method says: the priority of the content
    /// that is sent or asked for. A request that only asks goes before content all the same.
    ///
    /// # Errors
    /// As [`Mesh::call`].
    pub async fn call_as(
        &self,
        to: NodeId,
        method: Method,
        priority: Priority,
        payload: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, CallProblem> {
        let peer = self.peer(to).ok_or(CallProblem::Unreachable(to))?;
        let slot = peer.slots.get(&method.class());
        let up = slot.and_then(Watched::get);
        let up = up.ok_or(CallProblem::Unreachable(to))?;
        let head = Head {
            kind: Kind::Request,
            id: self.inner.next_id.fetch_add(1, SeqCst),
            method,
            priority,
        };
        let (mut place, mut answer) = Place::take(up.clone(), head);
        let exchange = async {
            let urgency = method.priority_of_request(priority, payload.len());
            let gone = Err(CallProblem::Unreachable(to));
            tokio::select! {
                biased;
                // The link broke, or the other side refuses without having heard all.
                answer = &mut answer => return answer.unwrap_or(gone),
                sent = up.out.send(urgency, head, &payload) => match sent {
                    Ok(()) => place.is_sent = true,
                    Err(SendProblem::Gone) => return gone,
                    Err(SendProblem::Busy) => return Err(CallProblem::Busy(to)),
                },
            }
            answer.await.unwrap_or(gone)
        };
        let answer = self.inner.env.runtime().timeout(deadline, exchange).await;
        drop(place);
        answer.unwrap_or(Err(CallProblem::Timeout(to)))
    }

    fn outgoing(&self, link: &Arc<LinkOf<E>>, peer: &Peer<E>) -> Outgoing<E> {
        let route = Route {
            peer: link.remote(),
            link: self.inner.next_link.fetch_add(1, SeqCst),
        };
        Outgoing {
            runtime: self.inner.env.runtime().clone(),
            uplink: self.inner.uplink.clone(),
            link: Arc::clone(link),
            route,
            traffic: Arc::clone(&peer.traffic),
        }
    }

    async fn keep_dialled(self, peer: NodeId, class: LinkClass, of: Arc<Peer<E>>) {
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

    async fn run_dialled(&self, peer: NodeId, link: LinkOf<E>, of: &Peer<E>) {
        let Some(slot) = of.slots.get(&link.class()) else {
            return;
        };
        let link = Arc::new(link);
        let waiting = Waiting::default();
        slot.set(Some(Up {
            out: self.outgoing(&link, of),
            waiting: Arc::clone(&waiting),
        }));
        let mut assembly = Assembly::default();
        let mut is_wanted = of.is_wanted.clone();
        loop {
            let received = tokio::select! {
                biased;
                _ = is_wanted.until(|is_wanted| !is_wanted) => break,
                received = link.receive() => received,
            };
            let Ok(bytes) = received else { break };
            of.traffic.count_received(bytes.len());
            let (head, payload) = match assembly.take(bytes) {
                Ok(Some(Taken::Message(head, payload))) => (head, payload),
                Ok(None | Some(Taken::GivenUp(_))) => continue,
                Err(problem) => {
                    tracing::info!(node = %peer, %problem, "a link broke its protocol");
                    break;
                }
            };
            let answer = match head.kind {
                Kind::Answer => Ok(payload),
                Kind::Failure => {
                    let why = String::from_utf8_lossy(&payload).into_owned();
                    Err(CallProblem::Failed { node: peer, why })
                }
                Kind::Request => break,
            };
            if let Some(sender) = lock(&waiting).remove(&head.id) {
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
        let (link, answering) = (Arc::new(link), Answering::default());
        self.serve_until_gone(&link, handler, &answering).await;
        lock(&answering).clear();
    }

    async fn serve_until_gone(
        self,
        link: &Arc<LinkOf<E>>,
        handler: Arc<dyn Handler>,
        answering: &Answering,
    ) {
        let slots = Arc::new(Semaphore::new(REQUESTS_AT_ONCE));
        let mut assembly = Assembly::default();
        let mut out = None;
        while let Ok(bytes) = link.receive().await {
            // It may have been removed since it opened the link.
            let Some(peer) = self.peer(link.remote()) else {
                return;
            };
            peer.traffic.count_received(bytes.len());
            let (head, payload) = match assembly.take(bytes) {
                Ok(Some(Taken::Message(head, payload))) => (head, payload),
                Ok(Some(Taken::GivenUp(head))) => {
                    lock(answering).remove(&head.id);
                    continue;
                }
                Ok(None) => continue,
                Err(problem) => {
                    tracing::info!(node = %link.remote(), %problem, "a link broke its protocol");
                    return;
                }
            };
            if head.kind != Kind::Request {
                return;
            }
            let Ok(permit) = Arc::clone(&slots).acquire_owned().await else {
                return;
            };
            let out = out
                .get_or_insert_with(|| self.outgoing(link, &peer))
                .clone();
            let answer = handler.receive(link.remote(), head.method, payload);
            let (wanted, unwanted) = oneshot::channel();
            lock(answering).insert(head.id, wanted);
            let answering = Arc::clone(answering);
            self.inner.env.runtime().spawn("mesh answer", async move {
                reply(out, head, answer, unwanted).await;
                lock(&answering).remove(&head.id);
                drop(permit);
            });
        }
    }
}

/// Requests of a link that are not answered; the answer is wanted while its sender is there. At most
/// [`REQUESTS_AT_ONCE`].
type Answering = Arc<Mutex<BTreeMap<u64, oneshot::Sender<()>>>>;

/// Sends what a request is answered, unless nobody waits for it any more.
async fn reply<E: Env>(
    out: Outgoing<E>,
    request: Head,
    answer: Answer,
    unwanted: oneshot::Receiver<()>,
) {
    let (kind, payload) = match answer.await {
        Ok(payload) => (Kind::Answer, payload),
        Err(why) => (Kind::Failure, Bytes::from(why)),
    };
    let head = Head { kind, ..request };
    let method = request.method;
    let priority = method.priority_of_answer(request.priority, payload.len());
    tokio::select! {
        biased;
        _ = unwanted => {}
        sent = out.send(priority, head, &payload) => if sent == Err(SendProblem::Busy) {
            tracing::info!(node = %out.route.peer, ?method, "an answer found no place to wait");
        },
    }
}

fn lock<T>(shared: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
