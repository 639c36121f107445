//! [driver] Answering a node that follows: committed entries, under a head by who may vote.
//!
//! A voter signs a head wherever an answer ends. A node that follows signs nothing: its answer ends
//! where a head is that it believed itself, or it asks for one, up the way to a voter. Nothing that
//! is not known here to be committed and durable is answered (promise T11).

use super::{ANSWER_BYTES, DEADLINE, WAIT};
use crate::env::{Env, Runtime};
use crate::head::{head_message, head_of};
use crate::mesh::Method;
use crate::partition::raft_types::snapshot_message;
use crate::partition::{Partition, lock};
use crate::reader::SnapshotManifest;
use crate::segment::SegmentProblem;
use aber_proto::generated::rpc;
use aber_proto::{ChainHash, Entry, Head, LogId, NodeId, SignedHead, limit};
use bytes::Bytes;
use prost::Message;
use std::time::Duration;

/// A newcomer that lacks more entries than this starts from a snapshot.
const MANY_ENTRIES: u64 = 256;
/// For a head from above: with it an answer still comes in time.
const HEAD_DEADLINE: Duration = Duration::from_secs(8);
const _: () = assert!(WAIT.as_secs() + HEAD_DEADLINE.as_secs() < DEADLINE.as_secs());

impl<E: Env> Partition<E> {
    /// Answers a node that follows: waits until there is an entry from `next` on.
    pub(in crate::partition) async fn answer_follow(
        &self,
        from: NodeId,
        payload: Bytes,
    ) -> Result<Bytes, String> {
        let request = rpc::FollowRequest::decode(payload).map_err(|error| error.to_string())?;
        let mut response = rpc::FollowResponse::default();
        let said = match request.head_at {
            Some(index) => self.say_head(index, request.hops, &mut response).await,
            None if self.fed_by().is_some() => self.say_next(from, &request, &mut response).await,
            None => Ok(true),
        };
        let has_answer = said.map_err(|problem| problem.to_string())?;
        let fed_by = self.fed_by().filter(|_| has_answer);
        response.is_fed = fed_by.is_some();
        response.way = fed_by.into_iter().flatten().map(|node| node.0).collect();
        response.leader = self.leader().map_or(0, |leader| leader.0);
        let committed = self.inner.shared.committed.get();
        response.committed = committed.map_or(0, |id| id.index);
        Ok(response.encode_to_vec().into())
    }

    /// From whom this node has its entries, up to a voter: empty if it votes itself.
    fn fed_by(&self) -> Option<Vec<NodeId>> {
        match self.votes() {
            true => Some(Vec::new()),
            false => self.inner.way.get(),
        }
    }

    /// Waits until an entry is committed and durable here; until which ones are, then. Ends sooner
    /// where those who follow must learn that this node follows somebody else, or nobody.
    async fn until_there(&self, next: u64) -> Option<(LogId, u64)> {
        let shared = &self.inner.shared;
        let (mut committed, mut way) = (shared.committed.clone(), self.inner.way.clone());
        let at_start = way.get();
        let ready = |id: &Option<LogId>| id.is_some_and(|id| id.index >= next);
        let end = tokio::select! {
            biased;
            end = committed.until(ready) => end?,
            _ = way.until(|now| *now != at_start) => return None,
        };
        let mut flushed = shared.log.watch_flushed(self.id());
        Some((end, flushed.until(|index| *index >= next).await))
    }

    /// Whether this node can answer, for all it knows.
    async fn say_next(
        &self,
        to: NodeId,
        request: &rpc::FollowRequest,
        response: &mut rpc::FollowResponse,
    ) -> Result<bool, SegmentProblem> {
        let (shared, runtime, next) = (&self.inner.shared, self.inner.env.runtime(), request.next);
        let wait = match request.at_once {
            true => Duration::ZERO,
            false => WAIT,
        };
        let there = runtime.timeout(wait, self.until_there(next)).await;
        let Some((end, durable)) = there.flatten() else {
            return Ok(true);
        };
        if !shared.leads_to(end)? {
            return Ok(true);
        }
        let end = end.index.min(durable);
        let state = shared.log.state(self.id());
        let oldest = state.oldest.unwrap_or(u64::MAX);
        let is_gone = next < oldest && !(next == 0 && oldest == 1);
        let is_newcomer = next == 0 && end > MANY_ENTRIES;
        let snapshot = shared.snapshots.newest(self.id());
        let is_ahead = |snapshot: &SnapshotManifest| snapshot.log_id.index > next;
        // Rows are believed only of who may vote: a head does not cover them.
        let may_vote = self.inner.council.may_vote(self.inner.me);
        if let Some(snapshot) = snapshot.filter(is_ahead)
            && may_vote
            && (is_gone || is_newcomer)
            && let Some(head) = self.head_at(snapshot.log_id, snapshot.chain).await
        {
            response.head = Some(head_message(&head));
            response.snapshot = Some(snapshot_message(&snapshot));
            return Ok(true);
        }
        let from = next.max(oldest.min(1));
        let entries = shared
            .log
            .read_mended(self.id(), from..end + 1, ANSWER_BYTES);
        let (entries, head) = self.under_a_head(entries.await?).await;
        response.head = head.as_ref().map(head_message);
        (response.entries, response.bodies) = match request.whole {
            true => (entries.iter().map(Entry::to_bytes).collect(), Vec::new()),
            false => self.inner.bodies.send(to, entries, runtime.now()),
        };
        Ok(head.is_some())
    }

    /// The entries that one head covers, and that head.
    async fn under_a_head(&self, mut entries: Vec<Entry>) -> (Vec<Entry>, Option<SignedHead>) {
        let ends = entries.first().zip(entries.last());
        let Some((first, last)) = ends.map(|(first, last)| (first.log_id, last)) else {
            return (entries, None);
        };
        let (last, chain) = (last.log_id, last.chain);
        let is_good = |head: &SignedHead| self.inner.council.is_good(head);
        let kept = lock(&self.inner.heads).last_in(first.index, last.index, is_good);
        if let Some(head) = kept.filter(|_| !self.votes()) {
            entries.retain(|entry| entry.log_id.index <= head.head.log_id.index);
            return (entries, Some(head));
        }
        let head = self.head_at(last, chain).await;
        (entries, head)
    }

    /// A head at an entry that is committed and durable here.
    async fn head_at(&self, log_id: LogId, chain: ChainHash) -> Option<SignedHead> {
        let partition = self.id();
        let head = Head {
            partition,
            log_id,
            chain,
        };
        if self.votes() {
            return Some(self.inner.council.sign(head));
        }
        self.head_from_above(head, limit::HOPS).await
    }

    /// A head that a voter signed: one that is kept, or asked for up the way. It says what is here.
    async fn head_from_above(&self, head: Head, hops: usize) -> Option<SignedHead> {
        let inner = &self.inner;
        let index = head.log_id.index;
        let is_it = |signed: &SignedHead| signed.head == head && inner.council.is_good(signed);
        if let Some(kept) = lock(&inner.heads).last_in(index, index, is_it) {
            return Some(kept);
        }
        let hops = hops.checked_sub(1)?;
        let request = rpc::FollowRequest {
            partition: head.partition.0,
            head_at: Some(index),
            hops: u32::try_from(hops).unwrap_or(0),
            ..rpc::FollowRequest::default()
        };
        let payload = Bytes::from(request.encode_to_vec());
        let above = self.upstream()?;
        let answer = inner
            .mesh
            .call(above, Method::Follow, payload, HEAD_DEADLINE);
        let answer = rpc::FollowResponse::decode(answer.await.ok()?).ok()?;
        let signed = head_of(&answer.head?).filter(is_it)?;
        lock(&inner.heads).put(signed);
        Some(signed)
    }

    /// Answers who needs a head at an entry, if it is committed and durable here.
    async fn say_head(
        &self,
        index: u64,
        hops: u32,
        response: &mut rpc::FollowResponse,
    ) -> Result<bool, SegmentProblem> {
        let shared = &self.inner.shared;
        let committed = shared.committed.get();
        let is_durable = shared.log.state(self.id()).flushed >= index;
        let Some(end) = committed.filter(|id| id.index >= index && is_durable) else {
            return Ok(false);
        };
        let Some((log_id, chain)) = shared.log.chain_at(self.id(), index)? else {
            return Ok(false);
        };
        if !shared.leads_to(end)? {
            return Ok(false);
        }
        let partition = self.id();
        let head = Head {
            partition,
            log_id,
            chain,
        };
        let hops = usize::try_from(hops).unwrap_or(usize::MAX).min(limit::HOPS);
        let signed = match self.votes() {
            true => Some(self.inner.council.sign(head)),
            false => self.head_from_above(head, hops).await,
        };
        response.head = signed.as_ref().map(head_message);
        Ok(signed.is_some())
    }
}
