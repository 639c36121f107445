//! [driver] Spreading the content of a change, and waiting until enough nodes hold it.

use super::super::LayoutDigest;
use super::super::parcel::ParcelId;
use super::{HOLD_LOOK, Relay};
use crate::body::BodyRef;
use crate::env::{Env, Runtime};
use aber_proto::{ChunkRef, RequestId, limit};
use std::collections::BTreeSet;
use std::time::Duration;

/// Parcels of one change that wait to be sent at once.
const PARCELS_AHEAD: usize = 3;
/// Without any progress for so long, a change is held by other means.
const STALLED: Duration = Duration::from_secs(20);

/// Why a change's content is not held by relay.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HoldProblem {
    /// This node is in no layout.
    #[error("no layout has this node")]
    NoLayout,
    /// Nobody can be reached, or nothing moved for long.
    #[error("{0} nodes hold the content")]
    Stalled(usize),
}

impl<E: Env> Relay<E> {
    /// Spreads chunks of this node, all of which are here and synced, and waits until `copies` nodes,
    /// this one included, hold them.
    ///
    /// # Errors
    /// [`HoldProblem`]; what was reached stays, and the relay goes on.
    pub async fn hold(
        &self,
        request: RequestId,
        chunks: &[ChunkRef],
        copies: usize,
    ) -> Result<(), HoldProblem> {
        let layout = self.layout_with_me().ok_or(HoldProblem::NoLayout)?;
        let mut seen = BTreeSet::new();
        let mut chunks = chunks.to_vec();
        chunks.retain(|chunk| seen.insert(chunk.hash));
        let mut offered = Vec::new();
        for (part, chunks) in (0..).zip(chunks.chunks(limit::PARCEL_CHUNKS)) {
            let id = ParcelId {
                writer: self.inner.me,
                request,
                part,
                layout,
            };
            let unsent = |relay: &Self| {
                let state = relay.state();
                let all: &[ParcelId] = &offered;
                all.iter().filter(|id| !state.core.is_sent(id)).count()
            };
            self.wait_until(|relay| unsent(relay) < PARCELS_AHEAD, &offered)
                .await?;
            let announcement = self.inner.roster.sign(id, chunks.to_vec());
            let now = self.inner.env.runtime().now();
            let taken = self.state().core.offer(announcement, now);
            offered.push(id);
            self.act(taken.map_err(|_| HoldProblem::Stalled(1))?);
        }
        let all = &offered;
        self.wait_until(|relay| relay.holders(all) >= copies, all)
            .await
    }

    /// Spreads a change's own body, whose chunks are here, and waits for nothing; whether it is on its
    /// way. What was spread before stays so.
    pub(crate) fn offer_body(&self, body: &BodyRef) -> bool {
        let Some(layout) = self.layout_with_me() else {
            return false;
        };
        let mut seen = BTreeSet::new();
        let mut chunks = body.chunks.clone();
        chunks.retain(|chunk| seen.insert(chunk.hash));
        let id = ParcelId::of_body(self.inner.me, layout, &body.hash);
        let announcement = self.inner.roster.sign(id, chunks);
        let now = self.inner.env.runtime().now();
        let taken = self.state().core.offer(announcement, now);
        taken.is_ok_and(|actions| {
            self.act(actions);
            true
        })
    }

    fn layout_with_me(&self) -> Option<LayoutDigest> {
        let state = self.state();
        let layout = state.core.layout()?;
        let mut members = layout.members().iter();
        let is_in = members.any(|row| row.id == self.inner.me);
        is_in.then(|| layout.digest())
    }

    /// How many nodes hold all of these parcels.
    fn holders(&self, parcels: &[ParcelId]) -> usize {
        let state = self.state();
        let holders = parcels
            .iter()
            .map(|id| state.core.holders_of(id).map_or(1, BTreeSet::len));
        // What needs no chunks is held by all.
        holders.min().unwrap_or(usize::MAX)
    }

    async fn wait_until(
        &self,
        is_there: impl Fn(&Self) -> bool,
        parcels: &[ParcelId],
    ) -> Result<(), HoldProblem> {
        let runtime = self.inner.env.runtime();
        let mut news = self.inner.news.clone();
        let (mut progress, mut since) = (None, runtime.now());
        loop {
            let seen = news.get();
            if is_there(self) {
                return Ok(());
            }
            let present = self.progress(parcels);
            if progress.as_ref() != Some(&present) {
                (progress, since) = (Some(present), runtime.now());
            }
            let is_alone = self.inner.mesh.peers_up().is_empty();
            if is_alone || runtime.now() >= since + STALLED {
                return Err(HoldProblem::Stalled(self.holders(parcels).min(1)));
            }
            let changed = news.until(|count| *count != seen);
            let _looked_again = runtime.timeout(HOLD_LOOK, changed).await;
        }
    }

    /// Something that changes whenever parcels get on.
    fn progress(&self, parcels: &[ParcelId]) -> Vec<(usize, usize)> {
        let state = self.state();
        let of = |id| {
            (
                state.core.sent_of(id),
                state.core.holders_of(id).map_or(0, BTreeSet::len),
            )
        };
        parcels.iter().map(of).collect()
    }
}
