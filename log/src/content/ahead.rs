//! [driver] Chunks that are fetched before anybody reads them: asks what [`super::plan`] says.

use super::plan::{Plan, Portion};
use super::{Claim, NodeContent};
use crate::chunk::ChunkProblem;
use crate::env::{Env, Runtime};
use aber_proto::{ChunkRef, NodeId};
use std::collections::BTreeSet;
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

/// A chunk that comes by itself, or to somebody else here, is looked at again after so long.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// Before anything is asked for: what the relay brings is told of meanwhile, and would come twice.
const RELAY_FIRST: Duration = Duration::from_millis(1500);
/// Between looks at who can be reached, while something lacks.
const LOOK_EVERY: Duration = Duration::from_millis(500);

impl<E: Env> NodeContent<E> {
    /// Asks for chunks before anybody reads them, from all peers; what is here already costs
    /// nothing. Where too much waits, nothing is asked for: reading fetches too.
    ///
    /// # Errors
    /// The store failed.
    pub fn want(&self, chunks: &[ChunkRef]) -> Result<(), ChunkProblem> {
        let missing = self.inner.store.missing(chunks)?;
        if !missing.is_empty() {
            let now = self.inner.env.runtime().now();
            self.plan().want(&missing, now + RELAY_FIRST);
            self.inner.news.update(|count| *count += 1);
        }
        Ok(())
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        let plan = self.inner.plan.lock();
        plan.unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) async fn fetch_ahead(self) {
        let mut news = self.inner.news.clone();
        loop {
            let seen = news.get();
            if let Some((portion, claim)) = self.next_portion() {
                let fetch = self.clone().fetch_portion(portion, claim);
                self.inner.env.runtime().spawn("fetch portion", fetch);
                continue;
            }
            let is_idle = self.plan().is_empty();
            let changed = news.until(|count| *count != seen);
            if is_idle {
                changed.await;
            } else {
                let runtime = self.inner.env.runtime();
                let _looked_again = runtime.timeout(LOOK_EVERY, changed).await;
            }
        }
    }

    /// What to ask for next, without what is here or on its way.
    fn next_portion(&self) -> Option<(Portion, Claim<E>)> {
        let up: BTreeSet<NodeId> = self.inner.mesh.peers_up().into_iter().collect();
        loop {
            let now = self.inner.env.runtime().now();
            let mut portion = self.plan().next(&up, now)?;
            let Ok(missing) = self.inner.store.missing(&portion.chunks) else {
                // A store that failed stops the node by itself.
                self.plan().failed(portion.id, now);
                return None;
            };
            let relay = &self.inner.relay;
            let (coming, lacking): (Vec<_>, Vec<_>) =
                missing.iter().partition(|chunk| relay.expects(&chunk.hash));
            let (claim, others) = self.claim(&lacking);
            let mut plan = self.plan();
            for chunk in portion
                .chunks
                .iter()
                .filter(|chunk| !missing.contains(chunk))
            {
                plan.have(&chunk.hash);
            }
            for chunk in coming.iter().chain(&others) {
                plan.put_off(&chunk.hash, now + LOOK_AGAIN);
            }
            portion.chunks.clone_from(&claim.chunks);
            if !portion.chunks.is_empty() {
                return Some((portion, claim));
            }
            plan.answered(portion.id, &[], &BTreeSet::new(), now);
        }
    }

    async fn fetch_portion(self, portion: Portion, claim: Claim<E>) {
        let Portion { id, peer, chunks } = portion;
        let runtime = self.inner.env.runtime();
        let asked = runtime.now();
        let answer = self.ask_chunks(peer, &chunks).await;
        let now = runtime.now();
        let took = now - asked;
        match answer {
            Ok((got, lacking)) => {
                runtime.trace(format_args!(
                    "ahead {id}: of {} chunks {} came, {} lack at {peer}, after {took:?}",
                    chunks.len(),
                    got.len(),
                    lacking.len()
                ));
                self.plan().answered(id, &got, &lacking, now);
            }
            // Others are asked for it.
            Err(why) => {
                runtime.trace(format_args!("ahead {id}: of {peer}: {why}, after {took:?}"));
                self.plan().failed(id, now);
            }
        }
        drop(claim);
        self.inner.news.update(|count| *count += 1);
    }
}
