//! [driver] The relay, looked at from outside; and what it is told for that.

use super::super::count::RelayState;
use super::Relay;
use crate::env::Env;
use aber_proto::{ChunkHash, ChunkRef, RequestId};

/// A change whose content others are asked to hold; not any more when this is dropped.
pub(crate) struct Holding<E: Env> {
    relay: Relay<E>,
    request: RequestId,
    by_others: bool,
}

impl<E: Env> Holding<E> {
    /// Others hold it, though the relay was not told.
    pub(crate) fn is_held_by_others(mut self) {
        self.by_others = true;
    }
}

impl<E: Env> Drop for Holding<E> {
    fn drop(&mut self) {
        self.relay.state().core.held(self.request, self.by_others);
    }
}

impl<E: Env> Relay<E> {
    /// How it is, for people.
    #[must_use]
    pub fn look(&self) -> RelayState {
        self.state().core.look()
    }

    /// From now on these chunks of a change count as only here, until others have them or the
    /// answer is dropped.
    pub(crate) fn holding(&self, request: RequestId, chunks: &[ChunkRef]) -> Holding<E> {
        let bytes = chunks.iter().map(|chunk| u64::from(chunk.length)).sum();
        self.state().core.holding(request, bytes);
        let relay = self.clone();
        let by_others = false;
        Holding {
            relay,
            request,
            by_others,
        }
    }

    /// A chunk goes to one who asked for it.
    pub(crate) fn handed_out(&self, hash: &ChunkHash) {
        self.state().core.handed_out(hash);
    }
}
