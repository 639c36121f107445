//! [adapter] One link: the two directions of one gRPC call.

use aber_log::env::Link;
use aber_log::env::network::{LinkClass, LinkProblem};
use aber_proto::generated::linkservice::{LinkFrame, link_frame::Frame};
use aber_proto::{NodeId, limit};
use bytes::Bytes;
use tokio::sync::{Mutex, OwnedSemaphorePermit, mpsc, watch};
use tonic::Streaming;
use tonic::transport::Channel;

/// What a frame may hold: the rest of a message is for what stands around it.
const PAYLOAD_BYTES: usize = limit::MESSAGE_BYTES - 1024;

/// A link to another node. Dropping it closes it; frames on the way are lost.
pub struct SystemLink {
    remote: NodeId,
    class: LinkClass,
    outgoing: mpsc::Sender<LinkFrame>,
    incoming: Mutex<Streaming<LinkFrame>>,
    is_closed: watch::Sender<bool>,
    /// The connection of a link that was dialled.
    _channel: Option<Channel>,
    /// The place of a link that was accepted.
    _place: Option<OwnedSemaphorePermit>,
}

impl SystemLink {
    pub(super) fn new(
        remote: NodeId,
        class: LinkClass,
        outgoing: mpsc::Sender<LinkFrame>,
        incoming: Streaming<LinkFrame>,
    ) -> Self {
        Self {
            remote,
            class,
            outgoing,
            incoming: Mutex::new(incoming),
            is_closed: watch::Sender::new(false),
            _channel: None,
            _place: None,
        }
    }

    pub(super) fn holding(self, channel: Channel) -> Self {
        Self {
            _channel: Some(channel),
            ..self
        }
    }

    pub(super) fn at_place(self, place: OwnedSemaphorePermit) -> Self {
        Self {
            _place: Some(place),
            ..self
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
            _ = is_closed.wait_for(|is_closed| *is_closed) => Err(LinkProblem::Closed),
            sent = self.outgoing.send(frame) => sent.map_err(|_| LinkProblem::Closed),
        }
    }

    async fn receive(&self) -> Result<Bytes, LinkProblem> {
        let mut incoming = self.incoming.lock().await;
        if *self.is_closed.borrow() {
            return Err(LinkProblem::Closed);
        }
        match incoming.message().await {
            Ok(Some(LinkFrame {
                frame: Some(Frame::Payload(payload)),
            })) => return Ok(payload),
            Ok(None) => tracing::debug!(node = %self.remote, "the other end closed the link"),
            // A second hello, or a frame of a kind this version does not know.
            Ok(Some(_)) => tracing::info!(node = %self.remote, "a link broke its protocol"),
            Err(status) => tracing::info!(node = %self.remote, %status, "a link was lost"),
        }
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
