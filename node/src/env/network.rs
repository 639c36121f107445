//! [adapter] Links by gRPC: one HTTP/2 connection and one bidirectional call a link.
//!
//! A link that queues is late: so control and bulk have connections of their own, Nagle's delay is
//! off, and the way from `Link::send` to the wire is `QUEUE_FRAMES` long and then waits for
//! HTTP/2's window, which opens only as the other side's `Link::receive` takes frames. Nothing
//! unbounded stands between.
//!
//! Each side proves its key before HTTP/2 begins (`handshake`: TLS 1.3, or in the clear where both
//! were told so), and opens with a hello (`hello`). A link is one iff the key is that of the node
//! that the hello names, in the table of [`SystemNetwork::set_peers`]; a key that leaves the table
//! loses its links before that call returns. One who is not in it may ask to join (`join`). A port
//! of its own, if there is one, takes callers of the API (`calls`).

mod acceptor;
mod calls;
mod connection;
mod crowd;
mod gate;
mod handshake;
mod hello;
mod join;
mod link;
mod peers;
mod plaintext;
mod port;
mod service;
mod state;
mod tls;

pub use aber_log::env::network::{PEER_ADDRESSES, Peer};
pub use calls::ApiPort;
pub use handshake::key_pin;
pub use hello::{LinkIdentity, PROTOCOL_VERSION};
pub use join::{Doorkeeper, Knock, KnockProblem, knock, refuse};
pub use link::SystemLink;
pub use port::free_addresses;

pub(crate) use calls::ApiCaller;
pub(crate) use connection::Caller;
pub(crate) use handshake::{HandshakeProblem, short};
pub(crate) use service::bounded_server;

use aber_log::env::Network;
use aber_log::env::network::{LinkClass, LinkProblem};
use aber_proto::generated::linkservice::link_service_client::LinkServiceClient;
use aber_proto::{NodeId, SecretKey, limit};
use connection::{Connection, Seat};
use gate::Gate;
use handshake::{Secured, Wanted};
use hello::{Refusal, shown};
use hyper_util::rt::TokioIo;
use state::{Shared, State};
use std::collections::BTreeMap;
use std::error::Error;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{Mutex as AsyncMutex, mpsc};
use tokio::task::AbortHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

/// Frames that wait in front of HTTP/2.
const QUEUE_FRAMES: usize = 8;
/// Links others may have open here at once.
const LINKS: usize = 512;
/// Links that wait to be accepted.
const ARRIVALS: usize = 64;
/// Connections that the system holds for a listener that is busy.
const BACKLOG: u32 = 1024;
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
    /// [`SystemNetwork::introduce`] was not called.
    #[error("a node cannot listen before it knows its cluster, number and key")]
    Nameless,
    /// The system refused.
    #[error("this node cannot listen on {address}: {source}")]
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
    shared: Arc<Shared>,
    arrived: AsyncMutex<mpsc::Receiver<SystemLink>>,
    listener: Mutex<Option<(SocketAddr, AbortHandle)>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        let listener = self.listener.get_mut();
        let listener = listener.unwrap_or_else(PoisonError::into_inner);
        if let Some((_, server)) = listener.take() {
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
            shared: Shared::new(arrivals),
            arrived: AsyncMutex::new(arrived),
            listener: Mutex::new(None),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.shared.state()
    }

    fn listener(&self) -> MutexGuard<'_, Option<(SocketAddr, AbortHandle)>> {
        let listener = self.inner.listener.lock();
        listener.unwrap_or_else(PoisonError::into_inner)
    }

    /// Says who this node is and with which key it proves it. Links made before, and a listener,
    /// keep what was said before.
    pub fn introduce(&self, me: LinkIdentity, key: Arc<SecretKey>) {
        self.state().introduce(me, key);
    }

    /// Whether links go without TLS: keys are proved once, and nothing is encrypted. All nodes that
    /// talk to each other must be told the same. Off unless this is called; for links made and
    /// listeners opened afterwards.
    pub fn set_plaintext(&self, is_plaintext: bool) {
        self.state().set_plaintext(is_plaintext);
    }

    /// Replaces the table of members: whom links are opened to and taken from. Links of a key that
    /// does not stand for its node any more are closed before this returns, and it is refused from
    /// then on. This node's own row may be there or not.
    pub fn set_peers(&self, peers: BTreeMap<NodeId, Peer>) {
        self.state().set_peers(peers);
    }

    /// Says who answers those who ask to join. Until then they are told to try again.
    pub fn set_doorkeeper(&self, keeper: Arc<dyn Doorkeeper>) {
        self.state().keeper = Some(keeper);
    }

    /// Listens on an address; port 0 takes a free one, `[::]` takes IPv4 too. Answers the address
    /// taken. A listener from before is closed; its links stay.
    ///
    /// # Errors
    /// [`ListenProblem`].
    pub async fn listen(&self, address: SocketAddr) -> Result<SocketAddr, ListenProblem> {
        let (me, security) = {
            let state = self.state();
            (state.me.clone(), state.security.clone())
        };
        let (me, security) = me.zip(security).ok_or(ListenProblem::Nameless)?;
        let failed = |source| ListenProblem::Bind { address, source };
        self.stop_listening();
        let listener = bind(address).map_err(failed)?;
        let bound = listener.local_addr().map_err(failed)?;
        let shared = Arc::clone(&self.inner.shared);
        let server = service::serve(listener, me, security, shared);
        let server = tokio::spawn(server).abort_handle();
        *self.listener() = Some((bound, server));
        Ok(bound)
    }

    /// The address that [`SystemNetwork::listen`] would take now, for a node that does not run yet.
    ///
    /// # Errors
    /// [`ListenProblem::Bind`].
    pub fn probe(address: SocketAddr) -> Result<SocketAddr, ListenProblem> {
        let failed = |source| ListenProblem::Bind { address, source };
        let listener = bind(address).map_err(failed)?;
        listener.local_addr().map_err(failed)
    }

    /// Closes the listener. Links that were made stay.
    pub fn stop_listening(&self) {
        if let Some((_, server)) = self.listener().take() {
            server.abort();
        }
    }

    /// The address this node listens on.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.listener().as_ref().map(|(address, _)| *address)
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    if address.port() == 0 {
        return port::bind_any(|port| bind_at(SocketAddr::new(address.ip(), port)));
    }
    bind_at(address)
}

fn bind_at(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    // Otherwise the port stays taken for minutes after a crash.
    socket.set_reuseaddr(true)?;
    if let IpAddr::V6(ip) = address.ip() {
        // What the system does by itself depends on its settings.
        rustix::net::sockopt::set_ipv6_v6only(&socket, !ip.is_unspecified())?;
    }
    socket.bind(address)?;
    socket.listen(BACKLOG)
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

/// HTTP/2 over a connection that is there. It is not made again when it breaks: a new one has to
/// prove its keys first.
async fn channel_over(
    connection: Connection,
    class: LinkClass,
) -> Result<Channel, tonic::transport::Error> {
    let (stream, whole) = match class {
        LinkClass::Control => (CONTROL_STREAM_WINDOW_BYTES, CONTROL_CONNECTION_WINDOW_BYTES),
        LinkClass::Bulk => (STREAM_WINDOW_BYTES, CONNECTION_WINDOW_BYTES),
    };
    let mut connection = Some(connection);
    let connector = tower::service_fn(move |_| {
        let connection = connection.take().map(TokioIo::new);
        let gone = || io::Error::new(io::ErrorKind::NotConnected, "the connection broke");
        std::future::ready(connection.ok_or_else(gone))
    });
    // Nobody looks at the name: the key was checked.
    Endpoint::from_static("http://aber")
        .connect_timeout(HELLO_TIME)
        .http2_keep_alive_interval(KEEP_ALIVE_EVERY)
        .keep_alive_timeout(KEEP_ALIVE_TIME)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(stream)
        .initial_connection_window_size(whole)
        .http2_max_header_list_size(HEADER_LIST_BYTES)
        .connect_with_connector(connector)
        .await
}

async fn converse(
    connection: Connection,
    gate: Arc<Gate>,
    me: &LinkIdentity,
    to: NodeId,
    class: LinkClass,
) -> Result<SystemLink, LinkProblem> {
    let unreachable = |why: String| LinkProblem::Unreachable { node: to, why };
    let channel = channel_over(connection, class).await;
    let channel = channel.map_err(|error| unreachable(chain_of(&error)))?;
    let (sender, frames) = mpsc::channel(QUEUE_FRAMES);
    if sender.try_send(me.hello(to, class)).is_err() {
        return Err(unreachable("the link's queue is closed".to_owned()));
    }
    let mut client = LinkServiceClient::new(channel.clone())
        .max_decoding_message_size(limit::MESSAGE_BYTES)
        .max_encoding_message_size(limit::MESSAGE_BYTES);
    let refused = |why| LinkProblem::Refused { node: to, why };
    let refused_or_away = |status: tonic::Status| match status.code() {
        tonic::Code::Unimplemented => refused("it speaks gRPC but knows no links".to_owned()),
        tonic::Code::Unauthenticated => LinkProblem::NotAMember {
            node: to,
            why: shown(status.message()),
        },
        _ => unreachable(chain_of(&status)),
    };
    let answer = client.open(ReceiverStream::new(frames)).await;
    let mut incoming = answer.map_err(refused_or_away)?.into_inner();
    let first = incoming.message().await.map_err(refused_or_away)?;
    let first = first.ok_or_else(|| unreachable("it hung up without a word".to_owned()))?;
    match me.check_answer(&first, to, class) {
        Ok(()) => Ok(SystemLink::new(to, class, sender, incoming, gate).holding(channel)),
        Err(Refusal { reason, .. }) => Err(refused(reason)),
    }
}

impl SystemNetwork {
    /// A link over a connection whose other end has the node's key.
    async fn open(
        &self,
        secured: Secured,
        me: &LinkIdentity,
        to: NodeId,
        class: LinkClass,
    ) -> Result<SystemLink, LinkProblem> {
        let unreachable = |why: &str| LinkProblem::Unreachable {
            node: to,
            why: why.to_owned(),
        };
        let gate = Gate::new();
        if !self.state().note_dialled(to, secured.key, &gate) {
            return Err(unreachable("it is no member any more"));
        }
        let connection = Connection::new(secured, None, Arc::clone(&gate), Seat::Caller);
        let talking = converse(connection, gate, me, to, class);
        let outcome = tokio::time::timeout(HELLO_TIME, talking).await;
        outcome.unwrap_or_else(|_| Err(unreachable("no hello in time")))
    }
}

/// What to say of a node that was not reached at any of its addresses.
fn not_reached(node: NodeId, tried: Vec<(String, HandshakeProblem)>) -> LinkProblem {
    let is_refused = tried.iter().any(|(_, problem)| problem.is_refusal());
    let tried = tried.into_iter();
    let told: Vec<String> = tried.map(|(at, why)| format!("{at}: {why}")).collect();
    let why = match told.is_empty() {
        true => "no address is known".to_owned(),
        false => told.join("; "),
    };
    if is_refused {
        LinkProblem::Refused { node, why }
    } else {
        LinkProblem::Unreachable { node, why }
    }
}

impl Network for SystemNetwork {
    type Link = SystemLink;

    async fn dial(&self, to: NodeId, class: LinkClass) -> Result<SystemLink, LinkProblem> {
        let unreachable = |why: &str| LinkProblem::Unreachable {
            node: to,
            why: why.to_owned(),
        };
        let (me, security, key, addresses) = {
            let state = self.state();
            let me = state.me.clone().zip(state.security.clone());
            let (me, security) = me.ok_or_else(|| unreachable("this node has no number yet"))?;
            let key = state.peers.key_of(to);
            let key = key.ok_or_else(|| unreachable("it is no member that this node knows"))?;
            (me, security, key, state.peers.addresses(to))
        };
        let mut tried = Vec::new();
        for address in addresses {
            match security.call(&address, Wanted::Key(key)).await {
                Ok(secured) => {
                    let opened = self.open(secured, &me, to, class).await;
                    if opened.is_ok() {
                        self.state().peers.reached(to, &address);
                    }
                    // Who answered has the node's key: elsewhere it would say the same.
                    return opened;
                }
                Err(problem) => tried.push((address, problem)),
            }
        }
        Err(not_reached(to, tried))
    }

    fn set_peers(&self, peers: BTreeMap<NodeId, Peer>) {
        self.state().set_peers(peers);
    }

    fn reached_at(&self, node: NodeId) -> Option<String> {
        self.state().peers.reached_at(node)
    }

    async fn accept(&self) -> Result<SystemLink, LinkProblem> {
        let mut arrived = self.inner.arrived.lock().await;
        arrived.recv().await.ok_or(LinkProblem::Closed)
    }
}

#[cfg(test)]
mod tests;
