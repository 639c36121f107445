//! [driver] The relay, looked at from outside; and what it is told for that.

use super::super::count::{Holders, RelayState};
use super::Relay;
use crate::env::{Env, Runtime};
use aber_proto::{ChunkHash, ChunkRef, RequestId};

/// A change whose content others are asked to hold. Dropped, it counts as failed.
pub(crate) struct Holding<E: Env> {
    relay: Relay<E>,
    request: RequestId,
    by: Option<Holders>,
}

impl<E: Env> Holding<E> {
    /// Enough nodes hold it.
    pub(crate) fn end(mut self, by: Holders) {
        self.by = Some(by);
    }
}

impl<E: Env> Drop for Holding<E> {
    fn drop(&mut self) {
        let now = self.relay.inner.env.runtime().now();
        self.relay.state().core.held(self.request, self.by, now);
    }
}

impl<E: Env> Relay<E> {
    /// How it is, for people.
    #[must_use]
    pub fn look(&self) -> RelayState {
        let now = self.inner.env.runtime().now();
        self.state().core.look(now)
    }

    /// From now on these chunks of a change count as only here, until others have them.
    pub(crate) fn holding(&self, request: RequestId, chunks: &[ChunkRef]) -> Holding<E> {
        let bytes = chunks.iter().map(|chunk| u64::from(chunk.length)).sum();
        let now = self.inner.env.runtime().now();
        self.state().core.holding(request, bytes, now);
        Holding {
            relay: self.clone(),
            request,
            by: None,
        }
    }

    /// A chunk goes to one who asked for it.
    pub(crate) fn handed_out(&self, hash: &ChunkHash) {
        self.state().core.handed_out(hash);
    }
}
