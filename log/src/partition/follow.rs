//! [driver] Following a partition's committed entries from outside its Raft group.
//!
//! A follower asks one voter at a time for what comes next, and waits there until there is more:
//! so a leader's line does not grow with the cluster, and an entry takes one message. What comes is
//! believed only under a head that a member who may vote has signed (promises I4, S4): whoever
//! is asked can delay, not invent. A snapshot is taken where the entries are not to be had, or are
//! many.

use super::group::is_part;
use super::raft_types::{C, Malformed, decode_membership, snapshot_message, snapshot_of};
use super::{Partition, lock};
use crate::env::{Env, Runtime};
use crate::head::{head_message, head_of};
use crate::mesh::{CallProblem, Method};
use crate::reader::{ReadProblem, SnapshotManifest};
use crate::segment::SegmentProblem;
use aber_proto::generated::rpc;
use aber_proto::{Entry, EntryKind, Head, LogId, NodeId, SignedHead};
use bytes::Bytes;
use openraft::alias::StoredMembershipOf;
use prost::Message;
use std::time::Duration;
use tokio::sync::oneshot;

/// How long a question waits for the next entry.
const WAIT: Duration = Duration::from_secs(10);
/// For an answer; a little more than it may wait.
const DEADLINE: Duration = Duration::from_secs(20);
/// Before another node is asked.
const PAUSE: Duration = Duration::from_millis(200);
/// After nobody had an answer.
const LONG_PAUSE: Duration = Duration::from_secs(2);
/// Bytes of entries in one answer.
const ANSWER_BYTES: usize = 512 * 1024;
/// A newcomer that lacks more entries than this starts from a snapshot.
const MANY_ENTRIES: u64 = 256;
/// Answers looked through for the entry that let this node go.
const LOOKED_THROUGH: usize = 64;

/// Why nothing came.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
enum FollowProblem {
    #[error(transparent)]
    Call(#[from] CallProblem),
    #[error("node {0} is not part of the group")]
    NotThere(NodeId),
    #[error("node {node} sent what is not to be believed: {what}")]
    Lied { node: NodeId, what: &'static str },
    #[error(transparent)]
    Log(#[from] SegmentProblem),
    #[error(transparent)]
    Snapshot(#[from] ReadProblem),
}

/// What another node said.
struct Answer {
    entries: Vec<Entry>,
    head: Option<SignedHead>,
    snapshot: Option<SnapshotManifest>,
}

impl<E: Env> Partition<E> {
    /// Follows until this node becomes part of the group or stops.
    pub(super) async fn follow_group(self) {
        let mut upstream: Option<NodeId> = None;
        while self.inner.is_following.get() {
            let Some(peer) = upstream.or_else(|| self.next_upstream(None)) else {
                // No link is up yet: so it is at each start, for a moment.
                self.inner.env.runtime().sleep(PAUSE).await;
                continue;
            };
            match self.follow_once(peer).await {
                Ok(()) => upstream = Some(peer),
                Err(problem) => {
                    let runtime = self.inner.env.runtime();
                    runtime.trace(format_args!("follow {}: {problem}", self.id()));
                    upstream = self.next_upstream(Some(peer));
                    let is_round = upstream.is_none_or(|next| next <= peer);
                    runtime
                        .sleep(if is_round { LONG_PAUSE } else { PAUSE })
                        .await;
                }
            }
        }
    }

    /// Learns again who votes, from what was followed before this start: what comes next may not say
    /// it for years. What cannot be read now is asked for when it is needed.
    pub(super) fn recall_membership(&self) {
        let (shared, state) = (&self.inner.shared, self.log_state());
        let snapshot = shared.snapshots.newest(self.id());
        let after = snapshot.map_or(0, |snapshot| snapshot.log_id.index + 1);
        let mut next = after.max(state.oldest.unwrap_or(0));
        let end = state.last.map_or(0, |id| id.index + 1);
        while next < end {
            let entries = shared.log.read(self.id(), next, end, ANSWER_BYTES);
            let entries = entries.unwrap_or_default();
            let Some(last) = entries.last() else { return };
            next = last.log_id.index + 1;
            if let Some(membership) = entries.iter().filter_map(membership_in).last() {
                shared.membership.set(membership);
            }
        }
    }

    /// Whom to ask: who is said to lead, if not just asked in vain; else the others in turn, those
    /// known to vote before all others.
    fn next_upstream(&self, after: Option<NodeId>) -> Option<NodeId> {
        let up = self.inner.mesh.peers_up();
        let leader = *lock(&self.inner.told_leader);
        if after.is_none()
            && let Some(leader) = leader.filter(|leader| up.contains(leader))
        {
            return Some(leader);
        }
        let known = self.voters();
        let voters: Vec<_> = up.iter().filter(|node| known.contains(node)).collect();
        let may: Vec<_> = if voters.is_empty() || after.is_some_and(|a| known.contains(&a)) {
            let council = &self.inner.council;
            up.iter().filter(|node| council.may_vote(**node)).collect()
        } else {
            voters
        };
        let next = may
            .iter()
            .find(|node| after.is_none_or(|after| ***node > after));
        next.or(may.first()).map(|node| **node)
    }

    /// One question and what follows from its answer.
    async fn follow_once(&self, peer: NodeId) -> Result<(), FollowProblem> {
        let committed = self.inner.shared.committed.get();
        let next = committed.map_or(0, |id| id.index + 1);
        let answer = self.ask_next(peer, next).await?;
        // This node may have become part of the group meanwhile: then the log is Raft's.
        let _turn = self.inner.turn.lock().await;
        if !self.inner.is_following.get() {
            return Ok(());
        }
        if let Some(snapshot) = answer.snapshot {
            return self.take_snapshot(peer, snapshot, answer.head).await;
        }
        let Some(head) = answer.head.filter(|_| !answer.entries.is_empty()) else {
            return Ok(());
        };
        self.check(peer, next, &answer.entries, &head)?;
        self.take(answer.entries).await
    }

    async fn ask_next(&self, peer: NodeId, next: u64) -> Result<Answer, FollowProblem> {
        let request = rpc::FollowRequest {
            partition: self.id().0,
            next,
        };
        let payload = Bytes::from(request.encode_to_vec());
        let mesh = &self.inner.mesh;
        let answer = mesh.call(peer, Method::Follow, payload, DEADLINE).await?;
        let lied = |what| FollowProblem::Lied { node: peer, what };
        let answer = rpc::FollowResponse::decode(answer).map_err(|_| lied("a malformed answer"))?;
        let leader = Some(answer.leader).filter(|leader| *leader != 0);
        *lock(&self.inner.told_leader) = leader.map(NodeId);
        if !answer.is_part {
            return Err(FollowProblem::NotThere(peer));
        }
        let entries = answer.entries.iter().map(Entry::decode);
        let entries: Result<_, _> = entries.collect();
        let snapshot = answer.snapshot.map(snapshot_of).transpose();
        let snapshot = snapshot.map_err(|Malformed(what)| lied(what))?;
        Ok(Answer {
            entries: entries.map_err(|_| lied("a malformed entry"))?,
            head: answer.head.as_ref().and_then(head_of),
            snapshot,
        })
    }

    /// Whether these are the entries from `next` on, under a head that ends with them.
    fn check(
        &self,
        node: NodeId,
        next: u64,
        entries: &[Entry],
        head: &SignedHead,
    ) -> Result<(), FollowProblem> {
        let lied = |what| FollowProblem::Lied { node, what };
        let before = match next.checked_sub(1) {
            Some(index) => self.inner.shared.log.chain_at(self.id(), index)?,
            None => None,
        };
        let start = self.inner.shared.start_chain();
        let mut chain = before.map_or(start, |(_, chain)| chain);
        let mut index = entries.first().map_or(next, |entry| entry.log_id.index);
        // The first entry of all has the index that Raft gave it.
        if index != next && !(next == 0 && index == 1) {
            return Err(lied("entries with a gap"));
        }
        for entry in entries {
            if entry.partition != self.id() || entry.log_id.index != index {
                return Err(lied("entries that are not consecutive"));
            }
            entry
                .verify(&chain)
                .map_err(|_| lied("entries whose chain is broken"))?;
            (chain, index) = (entry.chain, index + 1);
        }
        let last = entries.last().map(|entry| entry.log_id);
        let fits = head.head.partition == self.id()
            && Some(head.head.log_id) == last
            && head.head.chain == chain;
        if fits && self.inner.council.is_good(head) {
            Ok(())
        } else {
            Err(lied("entries without a good head"))
        }
    }

    /// Appends entries that were checked, in place of what a former voter had there, and makes them
    /// known once they are durable.
    async fn take(&self, mut entries: Vec<Entry>) -> Result<(), FollowProblem> {
        let (partition, log) = (self.id(), &self.inner.shared.log);
        let Some(last) = entries.last().map(|entry| entry.log_id) else {
            return Ok(());
        };
        let memberships: Vec<_> = entries.iter().filter_map(membership_in).collect();
        while let Some(first) = entries.first() {
            let index = first.log_id.index;
            match log.chain_at(partition, index)? {
                Some((_, chain)) if chain == first.chain => {
                    entries.remove(0);
                }
                Some(_) => {
                    log.truncate_after(partition, index.checked_sub(1))?;
                    break;
                }
                None => break,
            }
        }
        log.room().await?;
        // In one write with the entries: after a crash it is known how far they are committed.
        log.set_committed(partition, last)?;
        let (tell, told) = oneshot::channel();
        log.append(partition, entries, move |outcome| {
            let _stopping = tell.send(outcome).is_err();
        })?;
        told.await.unwrap_or(Err(SegmentProblem::Closed))?;
        for membership in memberships {
            self.inner.shared.membership.set(membership);
        }
        self.publish(last);
        Ok(())
    }

    fn publish(&self, last: LogId) {
        let runtime = self.inner.env.runtime();
        runtime.trace(format_args!("follow {}:{last}", self.id()));
        self.inner.shared.publish_committed(last);
    }

    async fn take_snapshot(
        &self,
        node: NodeId,
        snapshot: SnapshotManifest,
        head: Option<SignedHead>,
    ) -> Result<(), FollowProblem> {
        let (id, chain, shared) = (snapshot.log_id, snapshot.chain, &self.inner.shared);
        let lied = |what| FollowProblem::Lied { node, what };
        let is_newer = shared
            .committed
            .get()
            .is_none_or(|here| here.index < id.index);
        let is_it = |head: &SignedHead| {
            let Head {
                partition,
                log_id,
                chain: at_head,
            } = head.head;
            partition == self.id() && log_id == id && at_head == chain
        };
        if snapshot.partition != self.id() || !is_newer {
            return Err(lied("a snapshot that is of no use"));
        }
        if !head.is_some_and(|head| is_it(&head) && self.inner.council.is_good(&head)) {
            return Err(lied("a snapshot without a good head"));
        }
        let membership = decode_membership(&snapshot.membership);
        let membership = membership.map_err(|Malformed(what)| lied(what))?;
        shared.remember_installed(id, chain);
        shared.snapshots.install(snapshot).await?;
        shared.log.purge(self.id(), id, chain)?;
        shared.log.set_committed(self.id(), id)?;
        shared.membership.set(membership);
        let runtime = self.inner.env.runtime();
        runtime.trace(format_args!("install {}:{id}", self.id()));
        self.publish(id);
        Ok(())
    }

    /// Answers a node that follows: waits until there is an entry from `next` on.
    pub(super) async fn answer_follow(&self, payload: Bytes) -> Result<Bytes, String> {
        let request = rpc::FollowRequest::decode(payload).map_err(|error| error.to_string())?;
        let mut response = rpc::FollowResponse {
            is_part: self.votes(),
            leader: self.leader().map_or(0, |leader| leader.0),
            ..rpc::FollowResponse::default()
        };
        if response.is_part {
            let said = self.say_next(request.next, &mut response).await;
            said.map_err(|problem| problem.to_string())?;
            response.leader = self.leader().map_or(0, |leader| leader.0);
        }
        Ok(response.encode_to_vec().into())
    }

    async fn say_next(
        &self,
        next: u64,
        response: &mut rpc::FollowResponse,
    ) -> Result<(), SegmentProblem> {
        let (shared, runtime) = (&self.inner.shared, self.inner.env.runtime());
        let mut committed = shared.committed.clone();
        let ready = |id: &Option<LogId>| id.is_some_and(|id| id.index >= next);
        let Some(Some(end)) = runtime.timeout(WAIT, committed.until(ready)).await else {
            return Ok(());
        };
        let mut flushed = shared.log.watch_flushed(self.id());
        let durable = flushed.until(|index| *index >= next);
        let Some(durable) = runtime.timeout(WAIT, durable).await else {
            return Ok(());
        };
        if !shared.leads_to(end)? {
            return Ok(());
        }
        let end = end.index.min(durable);
        let snapshot = shared.snapshots.newest(self.id());
        let state = shared.log.state(self.id());
        let oldest = state.oldest.unwrap_or(u64::MAX);
        let is_gone = next < oldest && !(next == 0 && oldest == 1);
        let is_newcomer = next == 0 && end > MANY_ENTRIES;
        let is_ahead = |snapshot: &SnapshotManifest| snapshot.log_id.index > next;
        if let Some(snapshot) = snapshot.filter(is_ahead)
            && (is_gone || is_newcomer)
        {
            response.head = Some(self.head_at(snapshot.log_id, snapshot.chain));
            response.snapshot = Some(snapshot_message(&snapshot));
            return Ok(());
        }
        let from = next.max(oldest.min(1));
        let entries = shared
            .log
            .read_mended(self.id(), from..end + 1, ANSWER_BYTES);
        let entries = entries.await?;
        if let Some(last) = entries.last() {
            response.head = Some(self.head_at(last.log_id, last.chain));
        }
        response.entries = entries.iter().map(Entry::to_bytes).collect();
        Ok(())
    }

    fn head_at(&self, log_id: LogId, chain: aber_proto::ChainHash) -> rpc::Head {
        let partition = self.id();
        head_message(&self.inner.council.sign(Head {
            partition,
            log_id,
            chain,
        }))
    }

    /// Whether committed entries that others have let this node go: a voter that was away when it
    /// lost its vote would campaign for ever.
    pub(super) async fn group_goes_on_without_me(&self) -> bool {
        for peer in self.inner.mesh.peers_up() {
            match self.newest_membership(peer).await {
                Ok(Some(membership)) => return !is_part(&membership, self.inner.me),
                Ok(None) => {}
                Err(problem) => {
                    let runtime = self.inner.env.runtime();
                    runtime.trace(format_args!("group {}: {problem}", self.id()));
                }
            }
        }
        false
    }

    /// The newest membership that a voter's entries after ours hold, all of it proven.
    async fn newest_membership(
        &self,
        peer: NodeId,
    ) -> Result<Option<StoredMembershipOf<C>>, FollowProblem> {
        let committed = self.inner.shared.committed.get();
        let mut next = committed.map_or(0, |id| id.index + 1);
        let (mut newest, mut before) = (None, None);
        for _ in 0..LOOKED_THROUGH {
            let answer = self.ask_next(peer, next).await?;
            let Some(head) = answer.head.filter(|_| !answer.entries.is_empty()) else {
                return Ok(newest);
            };
            let starts = match (before, answer.entries.first()) {
                (Some(chain), Some(first)) => first.verify(&chain).is_ok(),
                _ => {
                    self.check(peer, next, &answer.entries, &head)?;
                    true
                }
            };
            let last = answer
                .entries
                .last()
                .map(|entry| (entry.log_id, entry.chain));
            let (Some((id, chain)), true) = (last, starts) else {
                return Ok(newest);
            };
            let is_chained = answer
                .entries
                .windows(2)
                .all(|pair| matches!(pair, [a, b] if b.verify(&a.chain).is_ok()));
            let fits = (head.head.log_id, head.head.chain) == (id, chain);
            if !is_chained || !fits || !self.inner.council.is_good(&head) {
                return Ok(newest);
            }
            newest = answer
                .entries
                .iter()
                .filter_map(membership_in)
                .last()
                .or(newest);
            (next, before) = (id.index + 1, Some(chain));
        }
        Ok(newest)
    }
}

fn membership_in(entry: &Entry) -> Option<StoredMembershipOf<C>> {
    if entry.kind != EntryKind::Membership {
        return None;
    }
    let membership = decode_membership(&entry.body).ok()?;
    let id = super::raft_types::to_raft_id(entry.log_id);
    let membership = membership.membership().clone();
    Some(StoredMembershipOf::<C>::new(Some(id), membership))
}

#[cfg(test)]
mod tests;
