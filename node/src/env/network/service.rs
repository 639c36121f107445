//! [adapter] The door: takes connections, hears the hello, hands links to `accept`.
//!
//! All of it is bounded: connections and links by places, links not yet accepted by a queue, the time until a
//! hello, and HTTP/2 by the limits of `docs/protocol.md`.

use super::connection::connections;
use super::hello::{LinkIdentity, Refusal};
use super::link::SystemLink;
use super::{
    CONNECTION_WINDOW_BYTES, HEADER_LIST_BYTES, HELLO_TIME, KEEP_ALIVE_EVERY, KEEP_ALIVE_TIME,
    QUEUE_FRAMES, STREAM_WINDOW_BYTES,
};
use aber_proto::generated::linkservice::link_service_server::{LinkService, LinkServiceServer};
use aber_proto::generated::linkservice::{LinkFrame, LinkRefusalCode};
use aber_proto::limit;
use futures::{Stream, StreamExt};
use std::pin::Pin;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

/// Connections others may have open here at once; a few more than links.
const CONNECTIONS: usize = PLACES + 64;
/// Callers that may be asked who they are at once.
const STRANGERS: usize = 32;
/// Links others may have open here at once.
const PLACES: usize = 512;
/// Calls on one connection; a link needs one.
const STREAMS: u32 = 64;
const PENDING_RESET_STREAMS: usize = 20;
const LOCAL_RESET_STREAMS: usize = 64;

struct Door {
    me: Arc<LinkIdentity>,
    arrivals: mpsc::Sender<SystemLink>,
    places: Arc<Semaphore>,
    strangers: Semaphore,
}

/// Serves until it is dropped.
pub(super) async fn serve(
    listener: TcpListener,
    me: Arc<LinkIdentity>,
    arrivals: mpsc::Sender<SystemLink>,
) {
    let places = Arc::new(Semaphore::new(PLACES));
    let door = Door {
        me,
        arrivals,
        places,
        strangers: Semaphore::new(STRANGERS),
    };
    let service = LinkServiceServer::new(door)
        .max_decoding_message_size(limit::MESSAGE_BYTES)
        .max_encoding_message_size(limit::MESSAGE_BYTES);
    let served = Server::builder()
        .http2_keepalive_interval(Some(KEEP_ALIVE_EVERY))
        .http2_keepalive_timeout(Some(KEEP_ALIVE_TIME))
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(STREAMS)
        .http2_max_pending_accept_reset_streams(Some(PENDING_RESET_STREAMS))
        .http2_max_local_error_reset_streams(Some(LOCAL_RESET_STREAMS))
        .http2_max_header_list_size(HEADER_LIST_BYTES)
        .add_service(service)
        .serve_with_incoming(Box::pin(connections(listener, CONNECTIONS)))
        .await;
    if let Err(error) = served {
        tracing::error!(
            error = super::chain_of(&error),
            "links are no longer accepted"
        );
    }
}

type Frames = Pin<Box<dyn Stream<Item = Result<LinkFrame, Status>> + Send>>;

impl Door {
    /// Lets a caller in, or says why not.
    async fn admit(&self, mut incoming: Streaming<LinkFrame>) -> Result<Frames, Refusal> {
        let busy = |why: &str| Refusal::new(LinkRefusalCode::Busy, why);
        let place = Arc::clone(&self.places)
            .try_acquire_owned()
            .map_err(|_| busy("it has as many links as it takes"))?;
        let protocol = |why: &str| Refusal::new(LinkRefusalCode::Protocol, why);
        let hearing = async {
            let _turn = self.strangers.acquire().await;
            incoming.message().await
        };
        let first = tokio::time::timeout(HELLO_TIME, hearing)
            .await
            .map_err(|_| protocol("no hello in time"))?
            .map_err(|status| protocol(&status.to_string()))?
            .ok_or_else(|| protocol("no hello"))?;
        let (remote, class) = self.me.check_caller(&first)?;
        let (sender, frames) = mpsc::channel(QUEUE_FRAMES);
        sender
            .try_send(self.me.hello(remote, class))
            .map_err(|_| busy("the link's queue is closed"))?;
        let link = SystemLink::new(remote, class, sender, incoming).at_place(place);
        self.arrivals
            .try_send(link)
            .map_err(|_| busy("too many links wait to be accepted"))?;
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
        let address = request.remote_addr();
        let frames = match self.admit(request.into_inner()).await {
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
