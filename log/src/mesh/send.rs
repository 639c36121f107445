//! [driver] Messages on their way out: piece by piece, as the uplink has room.

use super::frame::Head;
use super::peer::Traffic;
use crate::env::{Env, Link, Network, Runtime};
use crate::uplink::{Priority, Route, Ticket, Uplink};
use aber_proto::limit;
use bytes::Bytes;
use std::sync::Arc;

pub(super) type LinkOf<E> = <<E as Env>::Network as Network>::Link;

/// Why a message was not sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum SendProblem {
    /// The link is gone.
    Gone,
    /// Too much waits for the uplink.
    Busy,
}

/// One direction of a link.
pub(super) struct Outgoing<E: Env> {
    pub(super) runtime: E::Runtime,
    pub(super) uplink: Uplink<E::Runtime>,
    pub(super) link: Arc<LinkOf<E>>,
    pub(super) route: Route,
    pub(super) traffic: Arc<Traffic>,
}

impl<E: Env> Clone for Outgoing<E> {
    fn clone(&self) -> Self {
        Self {
            runtime: self.runtime.clone(),
            uplink: self.uplink.clone(),
            link: Arc::clone(&self.link),
            route: self.route,
            traffic: Arc::clone(&self.traffic),
        }
    }
}

impl<E: Env> Outgoing<E> {
    /// Sends a message when its turn comes. Dropped half-way, it gives its place back and tells the
    /// other end to forget what came.
    ///
    /// # Errors
    /// It was not sent, or not wholly.
    pub(super) async fn send(
        &self,
        priority: Priority,
        head: Head,
        payload: &Bytes,
    ) -> Result<(), SendProblem> {
        let length = payload.len();
        assert!(
            length <= limit::MESSAGE_BYTES,
            "a message of {length} bytes"
        );
        let bytes = length.max(1) as u64;
        let ticket = self.uplink.begin(priority, self.route, bytes);
        let mut sending = Sending {
            out: self,
            head,
            ticket: Some(ticket.ok_or(SendProblem::Busy)?),
            is_begun: false,
        };
        let mut offset = 0;
        while let Some(piece) = sending.next().await {
            let end = length.min(offset + piece);
            let part = payload.get(offset..end).unwrap_or_default();
            let frame = match part.len() == length {
                true => head.whole(part),
                false => head.part(offset, length, part),
            };
            sending.is_begun = true;
            self.put(frame).await?;
            sending.is_begun = end < length;
            offset = end;
        }
        Ok(())
    }

    /// Tells the other end that a message is given up. `ticket` is kept until that is on its way:
    /// only then may the next of this link and priority begin, so that the other end never holds
    /// more than one of each.
    pub(super) fn give_up(&self, head: Head, ticket: Option<Ticket<E::Runtime>>) {
        let out = self.clone();
        self.runtime.spawn("mesh cancel", async move {
            // A link that is gone has forgotten already.
            let _gone = out.put(head.cancel()).await.is_err();
            drop(ticket);
        });
    }

    async fn put(&self, frame: Bytes) -> Result<(), SendProblem> {
        self.traffic.count_sent(frame.len());
        let sent = self.link.send(frame).await;
        sent.map_err(|_| SendProblem::Gone)
    }
}

struct Sending<'a, E: Env> {
    out: &'a Outgoing<E>,
    head: Head,
    ticket: Option<Ticket<E::Runtime>>,
    /// Something of it may have come, and not all.
    is_begun: bool,
}

impl<E: Env> Sending<'_, E> {
    async fn next(&mut self) -> Option<usize> {
        self.ticket.as_mut()?.next().await
    }
}

impl<E: Env> Drop for Sending<'_, E> {
    fn drop(&mut self) {
        if self.is_begun {
            self.out.give_up(self.head, self.ticket.take());
        }
    }
}
