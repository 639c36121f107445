//! [driver] Takes connections, has each prove its key, and hands on those that did.
//!
//! Nobody waits for anybody else's handshake: each runs beside the others, at most
//! [`HANDSHAKES`] at once. When one more comes, an older one goes (`crowd`), so those who are
//! slow on purpose hold up nobody. A key that is no member's gets a place among [`STRANGERS`], for
//! [`STRANGER_TIME`]: enough to ask to join.

use super::connection::{Connection, Seat};
use super::crowd::{Lobby, Places};
use super::gate::Gate;
use super::handshake::{HandshakeProblem, Security};
use super::state::Shared;
use futures::Stream;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

/// Handshakes under way at once.
const HANDSHAKES: usize = 32;
/// Connections at once whose key is no member's.
const STRANGERS: usize = 32;
/// How long such a connection lives.
const STRANGER_TIME: Duration = Duration::from_secs(45);
/// Connections of members at once, in all; a few more than links.
const CONNECTIONS: usize = super::LINKS + 64;
/// Connections of callers of the API at once, in all and of one key.
const CALLERS: usize = 128;
const CALLERS_PER_KEY: usize = 32;
/// Connections that are through and not taken yet.
const READY: usize = 16;
/// Without free file handles `accept` fails at once, and again.
const PAUSE: Duration = Duration::from_millis(100);

/// Whom a listener is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Guests {
    /// Nodes: those of members open links, others may ask to join.
    Nodes,
    /// Callers of the API: members, and whoever has this node's own key.
    Callers,
}

impl Guests {
    /// Places of those whose key is known: in all, and of one key.
    fn places(self) -> Places {
        match self {
            // One key's are bounded by its gates: there the newest counts, here it would be
            // refused.
            Self::Nodes => Places::new(CONNECTIONS, CONNECTIONS),
            // Here the newest is refused: an older one may be in the middle of an upload.
            Self::Callers => Places::new(CALLERS, CALLERS_PER_KEY),
        }
    }
}

#[derive(Clone)]
struct Hall {
    guests: Guests,
    shared: Arc<Shared>,
    security: Arc<Security>,
    handshakes: Lobby<Arc<Gate>>,
    strangers: Lobby<Arc<Gate>>,
    members: Places,
    ready: mpsc::Sender<Connection>,
}

/// The connections to `listener` whose other end has proved a key. Ends when it is dropped.
pub(super) fn connections(
    listener: TcpListener,
    shared: Arc<Shared>,
    security: Arc<Security>,
    guests: Guests,
) -> impl Stream<Item = io::Result<Connection>> + Send + use<> {
    let (ready, taken) = mpsc::channel(READY);
    let hall = Hall {
        guests,
        shared,
        security,
        handshakes: Lobby::new(HANDSHAKES),
        strangers: Lobby::new(STRANGERS),
        members: guests.places(),
        ready,
    };
    tokio::spawn(accept_all(listener, hall));
    ReceiverStream::new(taken).map(Ok)
}

async fn accept_all(listener: TcpListener, hall: Hall) {
    let mut handshakes = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = hall.ready.closed() => return,
            Some(_) = handshakes.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, address)) => {
                    let gate = Gate::new();
                    let (standing, gone) = hall.handshakes.enter(address.ip(), Arc::clone(&gate));
                    if let Some(gone) = gone {
                        gone.shut();
                    }
                    let hall = hall.clone();
                    handshakes.spawn(async move {
                        let made = tokio::select! {
                            biased;
                            () = gate.shutting() => Err(HandshakeProblem::Slow),
                            made = hall.receive(stream, address) => made,
                        };
                        drop(standing);
                        hall.hand_on(made, address).await;
                    });
                }
                Err(error) => {
                    tracing::info!(%error, "a connection was not accepted");
                    tokio::time::sleep(PAUSE).await;
                }
            },
        }
    }
}

impl Hall {
    async fn receive(
        &self,
        stream: TcpStream,
        address: SocketAddr,
    ) -> Result<Option<Connection>, HandshakeProblem> {
        let secured = self.security.answer(stream).await?;
        let gate = Gate::new();
        let is_known = match self.guests {
            Guests::Nodes => self.shared.state().note_accepted(secured.key, &gate),
            Guests::Callers => self.shared.state().note_caller(secured.key, &gate),
        };
        let place = is_known.then(|| self.members.take(secured.key)).flatten();
        if let Some(place) = place {
            let seat = Seat::Member(place);
            return Ok(Some(Connection::new(secured, Some(address), gate, seat)));
        }
        if is_known && self.guests == Guests::Nodes {
            // Without a place a node is hung up on, and tries again; a caller is told.
            return Ok(None);
        }
        let (standing, gone) = self.strangers.enter(address.ip(), Arc::clone(&gate));
        if let Some(gone) = gone {
            gone.shut();
        }
        tokio::spawn(end_in_time(Arc::clone(&gate)));
        let seat = Seat::Stranger(standing);
        Ok(Some(Connection::new(secured, Some(address), gate, seat)))
    }

    async fn hand_on(
        &self,
        made: Result<Option<Connection>, HandshakeProblem>,
        address: SocketAddr,
    ) {
        match made {
            // Closed: nobody listens any more.
            Ok(Some(connection)) => {
                let _ = self.ready.send(connection).await;
            }
            Ok(None) => tracing::info!(%address, "more connections than places"),
            // Anybody can cause it as often as they like, so a log of ordinary size leaves it out.
            Err(problem) => tracing::debug!(%address, %problem, "a connection was refused"),
        }
    }
}

/// Ends a stranger's connection when its time is over.
async fn end_in_time(gate: Arc<Gate>) {
    if tokio::time::timeout(STRANGER_TIME, gate.ending())
        .await
        .is_err()
    {
        gate.shut();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// B2: a stranger's connection ends by itself; one that is gone is not remembered.
    #[tokio::test(start_paused = true)]
    async fn a_strangers_connection_has_its_time() {
        let (left, stays) = (Gate::new(), Gate::new());
        left.over();
        let started = tokio::time::Instant::now();
        end_in_time(Arc::clone(&left)).await;
        assert!(!left.is_shut() && started.elapsed() < Duration::from_secs(1));
        end_in_time(Arc::clone(&stays)).await;
        assert!(stays.is_shut() && started.elapsed() >= STRANGER_TIME);
    }
}
