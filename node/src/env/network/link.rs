//! [adapter] One link: the two directions of one gRPC call.

use super::crowd::Place;
use super::gate::Gate;
use aber_log::env::Link;
use aber_log::env::network::{LinkClass, LinkProblem};
use aber_proto::generated::linkservice::{LinkFrame, link_frame::Frame};
use aber_proto::{NodeId, limit};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, mpsc, watch};
use tonic::Streaming;
use tonic::transport::Channel;

/// What a frame may hold: the rest of a message is for what stands around it.
const PAYLOAD_BYTES: usize = limit::MESSAGE_BYTES - 1024;

/// How long a dropped link waits for the other end to take what was sent.
const LINGER_TIME: Duration = Duration::from_secs(2);

/// A link to another node. Dropping it closes it; what was sent before still arrives if the other
/// end takes it soon.
pub struct SystemLink {
    remote: NodeId,
    class: LinkClass,
    outgoing: mpsc::Sender<LinkFrame>,
    /// `None` once the other end closed.
    incoming: Mutex<Option<Streaming<LinkFrame>>>,
    is_closed: watch::Sender<bool>,
    /// Shut when the other end is no member any more.
    gate: Arc<Gate>,
    /// The connection of a link that was dialled.
    channel: Option<Channel>,
    /// The place of a link that was accepted.
    place: Option<Place>,
}

impl SystemLink {
    pub(super) fn new(
        remote: NodeId,
        class: LinkClass,
        outgoing: mpsc::Sender<LinkFrame>,
        incoming: Streaming<LinkFrame>,
        gate: Arc<Gate>,
    ) -> Self {
        Self {
            remote,
            class,
            outgoing,
            incoming: Mutex::new(Some(incoming)),
            is_closed: watch::Sender::new(false),
            gate,
            channel: None,
            place: None,
        }
    }

    pub(super) fn holding(mut self, channel: Channel) -> Self {
        self.channel = Some(channel);
        self
    }

    pub(super) fn at_place(mut self, place: Place) -> Self {
        self.place = Some(place);
        self
    }
}

/// A client that drops the answer of a call cancels it, and what it had sent is thrown away. So
/// the answer is read on for a while: the other end sees the end of the call behind the last
/// frame, and ends it in turn. Where the server drops a call, HTTP/2 does that by itself.
impl Drop for SystemLink {
    fn drop(&mut self) {
        let incoming = self.incoming.get_mut().take();
        if let (Some(mut incoming), Some(channel)) = (incoming, self.channel.take())
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(async move {
                let ending = async { while let Ok(Some(_)) = incoming.message().await {} };
                // After that the rest is lost, as it is when a link breaks.
                let _ = tokio::time::timeout(LINGER_TIME, ending).await;
                drop(channel);
            });
        }
    }
}

impl Link for SystemLink {
    async fn send(&self, frame: Bytes) -> Result<(), LinkProblem> {
        assert!(
            frame.len() <= PAYLOAD_BYTES,
            "a frame of {} bytes does not fit into a message",
            frame.len()
        );
        let frame = LinkFrame {
            frame: Some(Frame::Payload(frame)),
        };
        let mut is_closed = self.is_closed.subscribe();
        tokio::select! {
            biased;
            () = self.gate.shutting() => Err(LinkProblem::Closed),
            _ = is_closed.wait_for(|is_closed| *is_closed) => Err(LinkProblem::Closed),
            sent = self.outgoing.send(frame) => sent.map_err(|_| LinkProblem::Closed),
        }
    }

    async fn receive(&self) -> Result<Bytes, LinkProblem> {
        let mut slot = self.incoming.lock().await;
        let Some(incoming) = slot.as_mut() else {
            return Err(LinkProblem::Closed);
        };
        let arrived = tokio::select! {
            biased;
            // What arrived from one who was removed meanwhile is not looked at.
            () = self.gate.shutting() => Err(tonic::Status::aborted("it was closed here")),
            arrived = incoming.message() => arrived,
        };
        match arrived {
            Ok(Some(LinkFrame {
                frame: Some(Frame::Payload(payload)),
            })) => return Ok(payload),
            Ok(None) => tracing::debug!(node = %self.remote, "the other end closed the link"),
            // A second hello, or a frame of a kind this version does not know.
            Ok(Some(_)) => tracing::info!(node = %self.remote, "a link broke its protocol"),
            Err(status) => {
                tracing::info!(node = %self.remote, why = status.message(), "a link was lost")
            }
        }
        *slot = None;
        self.is_closed.send_replace(true);
        Err(LinkProblem::Closed)
    }

    fn remote(&self) -> NodeId {
        self.remote
    }

    fn class(&self) -> LinkClass {
        self.class
    }
}
