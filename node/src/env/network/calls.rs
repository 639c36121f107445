//! [adapter] The API over TCP: where callers prove their keys, and how one calls.
//!
//! The same doors as those of links (`acceptor`): handshakes that are bounded in number and time,
//! and places a key. It is TLS 1.3 whatever links do, under a protocol name of its own, so that
//! neither port passes for the other. A caller is heard iff its key is this node's own or a
//! member's; what it may ask for is decided call by call, above ([`crate::api`]).

use super::acceptor::{Guests, connections};
use super::connection::{Connection, Seat};
use super::gate::Gate;
use super::handshake::{HandshakeProblem, Security, Wanted};
use super::state::Shared;
use super::{ListenProblem, SystemNetwork, bind};
use aber_proto::SecretKey;
use futures::Stream;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;

/// A port where the API is to be served: bound, and nobody is let in yet.
pub struct ApiPort {
    listener: TcpListener,
    address: SocketAddr,
    security: Arc<Security>,
    shared: Arc<Shared>,
}

impl ApiPort {
    /// Where it is, with the port that it got.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Those who have proved a key, known or not, for as long as this is polled.
    pub(crate) fn connections(self) -> impl Stream<Item = io::Result<Connection>> + Send + use<> {
        connections(self.listener, self.shared, self.security, Guests::Callers)
    }
}

impl SystemNetwork {
    /// Binds a port for the API; port 0 takes a free one, `[::]` takes IPv4 too.
    ///
    /// # Errors
    /// [`ListenProblem`].
    pub fn open_api(&self, address: SocketAddr) -> Result<ApiPort, ListenProblem> {
        let security = self.state().api_security.clone();
        let security = security.ok_or(ListenProblem::Nameless)?;
        let failed = |source| ListenProblem::Bind { address, source };
        let listener = bind(address).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(ApiPort {
            listener,
            address,
            security,
            shared: Arc::clone(&self.inner.shared),
        })
    }
}

/// One who calls the API of a node elsewhere, whose key is pinned.
#[derive(Clone)]
pub(crate) struct ApiCaller {
    security: Arc<Security>,
    address: Arc<str>,
    wanted: Wanted,
}

impl ApiCaller {
    /// `key` is what the caller proves, `pin` the [`key_pin`](super::key_pin) of the node's key.
    pub(crate) fn new(key: Arc<SecretKey>, address: &str, pin: [u8; 32]) -> Self {
        Self {
            security: Arc::new(Security::for_api(key)),
            address: address.into(),
            wanted: Wanted::Pin(pin),
        }
    }

    /// A connection to the node. Nothing but a handshake is sent to anybody else.
    ///
    /// # Errors
    /// Nobody is there, or somebody else, or it is no such port.
    pub(crate) async fn call(&self) -> Result<Connection, HandshakeProblem> {
        let secured = self.security.call(&self.address, self.wanted).await?;
        Ok(Connection::new(secured, None, Gate::new(), Seat::Caller))
    }
}
