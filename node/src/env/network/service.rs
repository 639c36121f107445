//! [adapter] The door: hears the hello of those who proved a key, hands links to `accept`.
//!
//! A key that is no member's may ask to join (`join`) and nothing else. All of it is bounded:
//! connections by `acceptor`, links by places in all and a key, links not yet accepted by a queue,
//! the time until a hello, and HTTP/2 by the limits of `docs/protocol.md`.

use super::acceptor::{Guests, connections};
use super::connection::Caller;
use super::crowd::Places;
use super::handshake::Security;
use super::hello::{LinkIdentity, Refusal};
use super::join::{JoinDoor, REQUEST_BYTES};
use super::link::SystemLink;
use super::state::Shared;
use super::{
    CONNECTION_WINDOW_BYTES, HEADER_LIST_BYTES, HELLO_TIME, KEEP_ALIVE_EVERY, KEEP_ALIVE_TIME,
    LINKS, QUEUE_FRAMES, STREAM_WINDOW_BYTES,
};
use aber_proto::generated::joinservice::join_service_server::JoinServiceServer;
use aber_proto::generated::linkservice::link_service_server::{LinkService, LinkServiceServer};
use aber_proto::generated::linkservice::{LinkFrame, LinkRefusalCode};
use aber_proto::limit;
use futures::{Stream, StreamExt};
use prost::Message;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::{Code, Request, Response, Status, Streaming};

/// Links of one key that it opened here.
const LINKS_PER_KEY: usize = 32;
/// Links of one key that have not said hello yet; what they send is held until they do.
const SILENT_PER_KEY: usize = 4;
/// Calls on one connection; a link needs one.
const STREAMS: u32 = 64;
/// The same, of those that are not answered yet.
const CALLS: usize = 64;
/// What a call may take until it is answered: a link with its hello, a request to join.
const ANSWER_TIME: Duration = Duration::from_secs(40);
const PENDING_RESET_STREAMS: usize = 20;
const LOCAL_RESET_STREAMS: usize = 64;

/// HTTP/2 that is bounded whatever a caller does: calls of a connection, resets, headers, windows, and
/// the time until a dead one is found out. For links and for the API over TCP.
pub(crate) fn bounded_server() -> Server {
    Server::builder()
        .concurrency_limit_per_connection(CALLS)
        .load_shed(true)
        .http2_keepalive_interval(Some(KEEP_ALIVE_EVERY))
        .http2_keepalive_timeout(Some(KEEP_ALIVE_TIME))
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(STREAMS)
        .http2_max_pending_accept_reset_streams(Some(PENDING_RESET_STREAMS))
        .http2_max_local_error_reset_streams(Some(LOCAL_RESET_STREAMS))
        .http2_max_header_list_size(HEADER_LIST_BYTES)
}

struct Door {
    me: Arc<LinkIdentity>,
    shared: Arc<Shared>,
    links: Places,
    silent: Places,
}

/// Serves until it is dropped.
pub(super) async fn serve(
    listener: TcpListener,
    me: Arc<LinkIdentity>,
    security: Arc<Security>,
    shared: Arc<Shared>,
) {
    let door = Door {
        me: Arc::clone(&me),
        shared: Arc::clone(&shared),
        links: Places::new(LINKS, LINKS_PER_KEY),
        silent: Places::new(LINKS, SILENT_PER_KEY),
    };
    let links = LinkServiceServer::new(door)
        .max_decoding_message_size(limit::MESSAGE_BYTES)
        .max_encoding_message_size(limit::MESSAGE_BYTES);
    let joins = JoinServiceServer::new(JoinDoor::new(me, Arc::clone(&shared)))
        .max_decoding_message_size(REQUEST_BYTES)
        .max_encoding_message_size(limit::MESSAGE_BYTES);
    let incoming = connections(listener, shared, security, Guests::Nodes);
    let served = bounded_server()
        .timeout(ANSWER_TIME)
        .add_service(links)
        .add_service(joins)
        .serve_with_incoming(Box::pin(incoming))
        .await;
    if let Err(error) = served {
        tracing::error!(
            error = super::chain_of(&error),
            "links are no longer accepted"
        );
    }
}

type Frames = Pin<Box<dyn Stream<Item = Result<LinkFrame, Status>> + Send>>;

/// Who calls.
pub(super) fn caller_of<T>(request: &Request<T>) -> Result<Caller, Status> {
    let caller = request.extensions().get::<Caller>().cloned();
    caller.ok_or_else(|| Status::internal("a call on no connection"))
}

/// The answer to a key that is no member's: a status, because it may not open a link even to hear
/// why not.
fn not_a_member(refusal: &Refusal) -> Status {
    let details = refusal.to_message().encode_to_vec().into();
    Status::with_details(Code::Unauthenticated, refusal.reason.clone(), details)
}

impl Door {
    /// Lets a member in, or says why not.
    async fn admit(
        &self,
        caller: Caller,
        mut incoming: Streaming<LinkFrame>,
    ) -> Result<Frames, Refusal> {
        let busy = |why: &str| Refusal::new(LinkRefusalCode::Busy, why);
        let place = self.links.take(caller.key);
        let place = place.ok_or_else(|| busy("it has as many links as it takes"))?;
        let silent = self.silent.take(caller.key);
        let silent = silent.ok_or_else(|| busy("too many links have not said hello yet"))?;
        let protocol = |why: &str| Refusal::new(LinkRefusalCode::Protocol, why);
        let first = tokio::time::timeout(HELLO_TIME, incoming.message())
            .await
            .map_err(|_| protocol("no hello in time"))?
            .map_err(|status| protocol(&status.to_string()))?
            .ok_or_else(|| protocol("no hello"))?;
        drop(silent);
        let (remote, class) = self.me.check_caller(&first)?;
        self.shared.state().check_claim(&caller.key, remote)?;
        let (sender, frames) = mpsc::channel(QUEUE_FRAMES);
        sender
            .try_send(self.me.hello(remote, class))
            .map_err(|_| busy("the link's queue is closed"))?;
        let link = SystemLink::new(remote, class, sender, incoming, caller.gate).at_place(place);
        let arrival = self.shared.arrivals.try_send(link);
        arrival.map_err(|_| busy("too many links wait to be accepted"))?;
        Ok(ReceiverStream::new(frames).map(Ok).boxed())
    }
}

#[tonic::async_trait]
impl LinkService for Door {
    type OpenStream = Frames;

    async fn open(
        &self,
        request: Request<Streaming<LinkFrame>>,
    ) -> Result<Response<Frames>, Status> {
        let caller = caller_of(&request)?;
        let address = caller.address;
        let is_member = caller.is_seated && self.shared.state().peers.has(&caller.key);
        if !is_member {
            let refusal = Refusal::not_a_member(&caller.key);
            tracing::debug!(
                ?address,
                why = refusal.reason,
                "a stranger's link was refused"
            );
            return Err(not_a_member(&refusal));
        }
        let frames = match self.admit(caller, request.into_inner()).await {
            Ok(frames) => frames,
            Err(refusal) => {
                tracing::info!(?address, why = refusal.reason, "a link was refused");
                let frame = refusal.to_frame();
                futures::stream::once(async move { Ok(frame) }).boxed()
            }
        };
        Ok(Response::new(frames))
    }
}
