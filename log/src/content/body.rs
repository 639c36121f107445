//! [driver] Large bodies as content: spread by their author, found by whom an entry names them to.
//!
//! Their chunks lie in the store like any others, and no view refers to them: they stay while the
//! sweep's time of grace lasts, which is far longer than they are waited for, and then go. Nobody
//! depends on that: a body that is not found is asked for, and every log has it.

use super::NodeContent;
use crate::body::{BodyRef, Look, Next, next};
use crate::chunk::ChunkProblem;
use crate::env::{Env, Runtime};
use crate::outbox::Boxed;
use crate::partition::BodySource;
use aber_proto::limit;
use bytes::Bytes;

impl<E: Env> NodeContent<E> {
    /// Spreads the body of a change of this node down the trees, if it is a large one; returns at
    /// once. `None`: it is not on its way, and is to be sent whole.
    ///
    /// # Errors
    /// The store failed.
    pub fn offer_body(&self, body: &Bytes) -> Result<Option<BodyRef>, ChunkProblem> {
        let is_alone = self.inner.mesh.peers_up().is_empty();
        if body.len() <= limit::BODY_BYTES || body.len() > limit::ENTRY_BYTES || is_alone {
            return Ok(None);
        }
        let (reference, pieces) = BodyRef::of(body);
        for (chunk, piece) in reference.chunks.iter().zip(&pieces) {
            self.inner.store.put(chunk.hash, piece)?;
        }
        let is_offered = self.inner.relay.offer_body(&reference);
        Ok(is_offered.then_some(reference))
    }

    /// Waits for a body as long as [`next`] says.
    async fn find_body(self, body: BodyRef) -> Option<Bytes> {
        let runtime = self.inner.env.runtime();
        let (start, mut news) = (runtime.now(), self.inner.relay.news());
        let (mut before, mut came) = (usize::MAX, start);
        loop {
            let seen = news.get();
            // A store that failed stops the node by itself.
            let missing = self.inner.store.missing(&body.chunks).ok()?;
            let now = runtime.now();
            if missing.len() < before {
                (before, came) = (missing.len(), now);
            }
            let coming = missing
                .iter()
                .filter(|chunk| self.inner.relay.expects(&chunk.hash));
            let look = Look {
                waited: now - start,
                still: now - came,
                lacking: missing.len(),
                coming: coming.count(),
            };
            match next(look) {
                Next::Take => return self.read_body(&body),
                Next::Ask => return None,
                Next::Wait(time) => {
                    let changed = news.until(|count| *count != seen);
                    let _looked_again = runtime.timeout(time, changed).await;
                }
            }
        }
    }

    /// Each chunk is verified when it is read, and then the whole.
    fn read_body(&self, body: &BodyRef) -> Option<Bytes> {
        let chunks = body.chunks.iter();
        let pieces = chunks.map(|chunk| self.inner.store.read(*chunk));
        body.assemble(&pieces.collect::<Result<Vec<_>, _>>().ok()?)
    }
}

impl<E: Env> BodySource for NodeContent<E> {
    fn find(&self, body: BodyRef) -> Boxed<Option<Bytes>> {
        Box::pin(self.clone().find_body(body))
    }

    fn keep(&self, body: &BodyRef, bytes: &Bytes) {
        let relay = &self.inner.relay;
        for (chunk, piece) in body.pieces_of(bytes) {
            // Only for those who get it from here: else it is of no use any more.
            let is_awaited = relay.expects(&chunk.hash);
            if is_awaited && self.inner.store.put(chunk.hash, &piece).is_ok() {
                relay.stored(chunk.hash, None);
            }
        }
    }
}
