//! [adapter] Links by gRPC: one HTTP/2 connection and one bidirectional call a link.
//!
//! A link that queues is late: so control and bulk have connections of their own, Nagle's delay is
//! off, and the way from `Link::send` to the wire is `QUEUE_FRAMES` long and then waits for
//! HTTP/2's window, which opens only as the other side's `Link::receive` takes frames. Nothing
//! unbounded stands between.
//!
//! Each side opens with a hello, checked by `hello`. Nodes have no way yet to prove who they
//! are, so links are for one machine: [`SystemNetwork::listen`] refuses any address that is not
//! loopback.

mod connection;
mod hello;
mod link;
mod service;

pub use hello::{LinkIdentity, PROTOCOL_VERSION};
pub use link::SystemLink;

use aber_log::env::Network;
use aber_log::env::network::{LinkClass, LinkProblem, Peer};
use aber_proto::generated::linkservice::link_service_client::LinkServiceClient;
use aber_proto::{NodeId, limit};
use hello::Refusal;
use std::collections::BTreeMap;
use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Mutex as AsyncMutex, mpsc};
use tokio::task::AbortHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

/// Frames that wait in front of HTTP/2.
const QUEUE_FRAMES: usize = 8;
/// Links that wait to be accepted.
const ARRIVALS: usize = 64;
const CONNECT_TIME: Duration = Duration::from_secs(5);
/// For the answer to a hello, either way.
const HELLO_TIME: Duration = Duration::from_secs(10);
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(20);
const KEEP_ALIVE_TIME: Duration = Duration::from_secs(10);
const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 2 * STREAM_WINDOW_BYTES;
const CONTROL_STREAM_WINDOW_BYTES: u32 = 256 * 1024;
const CONTROL_CONNECTION_WINDOW_BYTES: u32 = 2 * CONTROL_STREAM_WINDOW_BYTES;
const HEADER_LIST_BYTES: u32 = 16 * 1024;

/// Why a node does not listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenProblem {
    /// The address can be reached from other machines.
    #[error(
        "links cannot listen on {address}: they are bound to loopback (127.0.0.1 or ::1) until \
         nodes prove their identity to each other"
    )]
    NotLoopback {
        /// The address.
        address: SocketAddr,
    },
    /// [`SystemNetwork::introduce`] was not called.
    #[error("links cannot listen before the node knows its cluster and number")]
    Nameless,
    /// The system refused.
    #[error("links cannot listen on {address}: {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

/// Makes and takes links of one node.
#[derive(Clone)]
pub struct SystemNetwork {
    inner: Arc<Inner>,
}

struct Inner {
    state: Mutex<State>,
    /// What the doorkeeper of each listener gets.
    arrivals: mpsc::Sender<SystemLink>,
    arrived: AsyncMutex<mpsc::Receiver<SystemLink>>,
}

#[derive(Default)]
struct State {
    me: Option<Arc<LinkIdentity>>,
    addresses: BTreeMap<NodeId, String>,
    listener: Option<(SocketAddr, AbortHandle)>,
}

impl Drop for State {
    fn drop(&mut self) {
        if let Some((_, server)) = self.listener.take() {
            server.abort();
        }
    }
}

impl Default for SystemNetwork {
    fn default() -> Self {
        Self::new()
    }
}

impl SystemNetwork {
    /// A network that knows neither itself nor anybody else yet.
    #[must_use]
    pub fn new() -> Self {
        let (arrivals, arrived) = mpsc::channel(ARRIVALS);
        let inner = Inner {
            state: Mutex::default(),
            arrivals,
            arrived: AsyncMutex::new(arrived),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Says who this node is. Links made before keep what was said before.
    pub fn introduce(&self, me: LinkIdentity) {
        self.state().me = Some(Arc::new(me));
    }

    /// Where a node listens, as `host:port`.
    pub fn set_address(&self, node: NodeId, address: impl Into<String>) {
        self.state().addresses.insert(node, address.into());
    }

    /// Forgets where a node listens.
    pub fn forget_address(&self, node: NodeId) {
        self.state().addresses.remove(&node);
    }

    /// Listens on a loopback address; port 0 takes a free one. Answers the address taken. A
    /// listener from before is closed; its links stay.
    ///
    /// # Errors
    /// [`ListenProblem`].
    pub async fn listen(&self, address: SocketAddr) -> Result<SocketAddr, ListenProblem> {
        if !address.ip().is_loopback() {
            return Err(ListenProblem::NotLoopback { address });
        }
        let me = self.state().me.clone().ok_or(ListenProblem::Nameless)?;
        let failed = |source| ListenProblem::Bind { address, source };
        self.stop_listening();
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let bound = listener.local_addr().map_err(failed)?;
        let server = service::serve(listener, me, self.inner.arrivals.clone());
        let server = tokio::spawn(server).abort_handle();
        self.state().listener = Some((bound, server));
        Ok(bound)
    }

    /// Closes the listener. Links that were made stay.
    pub fn stop_listening(&self) {
        if let Some((_, server)) = self.state().listener.take() {
            server.abort();
        }
    }

    /// The address this node listens on.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.state().listener.as_ref().map(|(address, _)| *address)
    }
}

/// The text of an error and of all that caused it.
fn chain_of(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

fn endpoint(address: &str, class: LinkClass) -> Result<Endpoint, tonic::transport::Error> {
    let (stream, connection) = match class {
        LinkClass::Control => (CONTROL_STREAM_WINDOW_BYTES, CONTROL_CONNECTION_WINDOW_BYTES),
        LinkClass::Bulk => (STREAM_WINDOW_BYTES, CONNECTION_WINDOW_BYTES),
    };
    Ok(Endpoint::from_shared(format!("http://{address}"))?
        .connect_timeout(CONNECT_TIME)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE_EVERY)
        .keep_alive_timeout(KEEP_ALIVE_TIME)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(stream)
        .initial_connection_window_size(connection)
        .http2_max_header_list_size(HEADER_LIST_BYTES))
}

async fn converse(
    channel: Channel,
    me: &LinkIdentity,
    to: NodeId,
    class: LinkClass,
) -> Result<SystemLink, LinkProblem> {
    let (sender, frames) = mpsc::channel(QUEUE_FRAMES);
    let unreachable = |why: String| LinkProblem::Unreachable { node: to, why };
    if sender.try_send(me.hello(to, class)).is_err() {
        return Err(unreachable("the link's queue is closed".to_owned()));
    }
    let mut client = LinkServiceClient::new(channel.clone())
        .max_decoding_message_size(limit::MESSAGE_BYTES)
        .max_encoding_message_size(limit::MESSAGE_BYTES);
    let refused_or_away = |status: tonic::Status| match status.code() {
        tonic::Code::Unimplemented => LinkProblem::Refused {
            node: to,
            why: "it speaks gRPC but knows no links".to_owned(),
        },
        _ => LinkProblem::Unreachable {
            node: to,
            why: chain_of(&status),
        },
    };
    let answer = client.open(ReceiverStream::new(frames)).await;
    let mut incoming = answer.map_err(refused_or_away)?.into_inner();
    let first = incoming.message().await.map_err(refused_or_away)?;
    let first = first.ok_or_else(|| unreachable("it hung up without a word".to_owned()))?;
    match me.check_answer(&first, to, class) {
        Ok(()) => Ok(SystemLink::new(to, class, sender, incoming).holding(channel)),
        Err(Refusal { reason, .. }) => Err(LinkProblem::Refused {
            node: to,
            why: reason,
        }),
    }
}

impl Network for SystemNetwork {
    type Link = SystemLink;

    async fn dial(&self, to: NodeId, class: LinkClass) -> Result<SystemLink, LinkProblem> {
        let (me, address) = {
            let state = self.state();
            (state.me.clone(), state.addresses.get(&to).cloned())
        };
        let unreachable = |why: String| LinkProblem::Unreachable { node: to, why };
        let me = me.ok_or_else(|| unreachable("this node has no number yet".to_owned()))?;
        let address = address.ok_or_else(|| unreachable("no address is known".to_owned()))?;
        let failed = |error: tonic::transport::Error| unreachable(chain_of(&error));
        let endpoint = endpoint(&address, class).map_err(failed)?;
        let channel = endpoint.connect().await.map_err(failed)?;
        match tokio::time::timeout(HELLO_TIME, converse(channel, &me, to, class)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(unreachable(format!("no hello from {address} in time"))),
        }
    }

    fn set_peers(&self, peers: BTreeMap<NodeId, Peer>) {
        let addresses = peers.into_iter();
        let addresses = addresses.filter_map(|(n, p)| Some((n, p.addresses.into_iter().next()?)));
        self.state().addresses = addresses.collect();
    }

    async fn accept(&self) -> Result<SystemLink, LinkProblem> {
        let mut arrived = self.inner.arrived.lock().await;
        arrived.recv().await.ok_or(LinkProblem::Closed)
    }
}

#[cfg(test)]
mod tests;
