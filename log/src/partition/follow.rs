//! [driver] Following a partition's committed entries from outside its Raft group.
//!
//! A follower asks one node at a time for what comes next, and waits there until there is more: its
//! parent in the tree from the leader, so that nobody's line grows with the cluster, and an entry
//! takes one message a link. What comes is believed only under a head that a member who may vote has
//! signed (promises I4, S4): whoever is asked can delay, not invent. A snapshot is taken where the
//! entries are not to be had, or are many.
//!
//! A follower is followed itself (`answer`): it passes on what it believed, with the heads it came
//! under. `choice` says whom to ask. Each answer says the *way*, whom the answerer follows and so on
//! up to a voter: who finds itself on it asks somebody else, so nobody follows in circles.

mod answer;
mod choice;
mod kept;
mod told;

pub(super) use choice::Positions;
pub(super) use kept::KeptHeads;

use super::raft_types::{Malformed, decode_membership, snapshot_of};
use super::{BodyProblem, Partition, lock};
use crate::env::{Env, Runtime};
use crate::head::head_of;
use crate::mesh::{CallProblem, Method};
use crate::reader::{ReadProblem, SnapshotManifest};
use crate::segment::SegmentProblem;
use aber_proto::generated::rpc;
use aber_proto::{Entry, Head, LogId, NodeId, SignedHead, limit};
use bytes::Bytes;
use prost::Message;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;
use tokio::sync::oneshot;
use told::membership_in;

/// How long a question waits for the next entry.
const WAIT: Duration = Duration::from_secs(10);
/// For an answer; a little more than it may wait.
const DEADLINE: Duration = Duration::from_secs(20);
/// Before another node is asked.
const PAUSE: Duration = Duration::from_millis(200);
/// After nobody had an answer.
const LONG_PAUSE: Duration = Duration::from_secs(2);
/// Between looks at whether a better node can be followed again.
const REVIEW_EVERY: Duration = Duration::from_secs(10);
/// For the answer of a better node, and how many of them are asked.
const REVIEW_TIME: Duration = Duration::from_secs(2);
const REVIEWED: usize = 4;
/// Bytes of entries in one answer.
const ANSWER_BYTES: usize = 512 * 1024;

/// Why nothing came.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
enum FollowProblem {
    #[error(transparent)]
    Call(#[from] CallProblem),
    #[error("node {0} has nothing to be followed")]
    NotFed(NodeId),
    #[error("node {0} follows this one")]
    Circle(NodeId),
    #[error("node {0} lags behind others")]
    Lags(NodeId),
    #[error("node {node} sent entries without bodies: {why}")]
    NoBody { node: NodeId, why: BodyProblem },
    #[error("node {node} sent what is not to be believed: {what}")]
    Lied { node: NodeId, what: &'static str },
    #[error(transparent)]
    Log(#[from] SegmentProblem),
    #[error(transparent)]
    Snapshot(#[from] ReadProblem),
}

/// What is asked of another node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Question {
    next: u64,
    at_once: bool,
    /// With all bodies.
    whole: bool,
}

impl Question {
    /// What there is from an entry on, now.
    fn at_once(next: u64) -> Self {
        let (at_once, whole) = (true, false);
        Self {
            next,
            at_once,
            whole,
        }
    }
}

/// What another node said.
struct Answer {
    entries: Vec<Entry>,
    head: Option<SignedHead>,
    snapshot: Option<SnapshotManifest>,
    leader: Option<NodeId>,
    way: Vec<NodeId>,
    committed: u64,
}

impl<E: Env> Partition<E> {
    /// Follows until this node becomes part of the group or stops; `turn` counts how often it began.
    pub(super) async fn follow_group(self, turn: u64) {
        let runtime = self.inner.env.runtime();
        let (mut asked, mut is_new) = (None, true);
        let (mut review_at, mut leader) = (runtime.now() + REVIEW_EVERY, None);
        let mut whole = false;
        while self.follows(turn) {
            let Some(peer) = asked.or_else(|| self.ranked().first().copied()) else {
                // No link is up yet: so it is at each start, for a moment.
                runtime.sleep(PAUSE).await;
                continue;
            };
            let (next, asked_at) = (self.next(), runtime.now());
            let question = Question {
                next,
                at_once: is_new,
                whole,
            };
            if let Err(problem) = self.follow_once(peer, question).await {
                // The next one is not asked for what may fail again.
                whole = matches!(problem, FollowProblem::NoBody { .. });
                runtime.trace(format_args!("follow {}: {problem}", self.id()));
                if self.follows(turn) {
                    self.set_way(None);
                }
                let (next, is_round) = choice::next_after(&self.ranked(), peer);
                (asked, is_new) = (next, true);
                let pause = if is_round { LONG_PAUSE } else { PAUSE };
                runtime.sleep(pause).await;
                continue;
            }
            if !is_new && self.next() == next && runtime.now() - asked_at < PAUSE {
                // Nothing came, and it did not wait either.
                runtime.sleep(PAUSE).await;
            }
            (asked, is_new, whole) = (Some(peer), false, false);
            // Another leader, another tree; and who was away may be back.
            if self.leader() != leader || runtime.now() >= review_at {
                asked = self.better_than(peer).await.or(asked);
                (review_at, leader) = (runtime.now() + REVIEW_EVERY, self.leader());
            }
        }
    }

    /// Whether it is still this time that this node follows.
    fn follows(&self, turn: u64) -> bool {
        self.inner.is_following.get() && self.inner.follow_turns.load(SeqCst) == turn
    }

    /// Whom to ask, the best first.
    fn ranked(&self) -> Vec<NodeId> {
        let council = &self.inner.council;
        let leader = *lock(&self.inner.told_leader);
        let parents = leader.map_or_else(Vec::new, |leader| council.parents(leader));
        let up = self.inner.mesh.peers_up();
        choice::ranked(&parents, &self.voters(), &up, |node| council.may_vote(node))
    }

    /// Of the nodes that it is better to follow than `peer`, the best one that is as far as this
    /// node; it is followed from now on.
    async fn better_than(&self, peer: NodeId) -> Option<NodeId> {
        let better = self.ranked().into_iter();
        let better = better.take_while(|candidate| *candidate != peer);
        for candidate in better.take(REVIEWED) {
            let (next, here) = (self.next(), self.inner.shared.committed.get());
            // Meanwhile nobody waits for the next entry.
            let runtime = self.inner.env.runtime();
            let asking = self.ask(candidate, Question::at_once(next));
            let answer = runtime.timeout(REVIEW_TIME, asking).await;
            let answer = answer.and_then(Result::ok);
            let is_there = |answer: &Answer| here.is_none_or(|here| answer.committed >= here.index);
            let Some(answer) = answer.filter(is_there) else {
                continue;
            };
            if self.believe(candidate, next, answer).await.is_ok() {
                return Some(candidate);
            }
        }
        None
    }

    /// The index of the entry that is asked for.
    fn next(&self) -> u64 {
        let committed = self.inner.shared.committed.get();
        committed.map_or(0, |id| id.index + 1)
    }

    /// One question and what follows from its answer.
    async fn follow_once(&self, peer: NodeId, question: Question) -> Result<(), FollowProblem> {
        let answer = tokio::select! {
            biased;
            answer = self.ask(peer, question) => answer?,
            () = self.is_left_behind(peer) => return Err(FollowProblem::Lags(peer)),
        };
        self.believe(peer, question.next, answer).await
    }

    /// Waits until `peer` lags behind what others say they have.
    async fn is_left_behind(&self, peer: NodeId) {
        let inner = &self.inner;
        let here = || inner.shared.committed.get().map(|id| id.index);
        let mut positions = inner.positions.clone();
        positions.until(|all| all.lags(peer, here())).await;
        inner.positions.update(Positions::clear);
    }

    /// Takes what was answered to a question for `next`, if it is to be believed.
    async fn believe(&self, peer: NodeId, next: u64, answer: Answer) -> Result<(), FollowProblem> {
        if answer.way.contains(&self.inner.me) {
            return Err(FollowProblem::Circle(peer));
        }
        // This node may have become part of the group meanwhile: then the log is Raft's.
        let _turn = self.inner.turn.lock().await;
        if !self.inner.is_following.get() {
            return Ok(());
        }
        // What another task has followed meanwhile.
        if self.next() != next {
            return Ok(());
        }
        if let Some(snapshot) = answer.snapshot {
            self.take_snapshot(peer, snapshot, answer.head).await?;
        } else if !answer.entries.is_empty() {
            let what = "entries without a head";
            let lied = FollowProblem::Lied { node: peer, what };
            let head = answer.head.ok_or(lied)?;
            self.check(peer, next, &answer.entries, &head)?;
            self.take(answer.entries).await?;
            lock(&self.inner.heads).put(head);
        }
        *lock(&self.inner.told_leader) = answer.leader;
        let way = [&[peer], answer.way.as_slice()].concat();
        self.set_way(Some(way));
        Ok(())
    }

    /// Says from whom this node has its entries; wakes those who follow it if that is new.
    pub(super) fn set_way(&self, way: Option<Vec<NodeId>>) {
        if self.inner.way.get() != way {
            let runtime = self.inner.env.runtime();
            runtime.trace(format_args!("way {}: {way:?}", self.id()));
            self.inner.way.set(way);
        }
    }

    async fn ask(&self, peer: NodeId, question: Question) -> Result<Answer, FollowProblem> {
        let request = rpc::FollowRequest {
            partition: self.id().0,
            next: question.next,
            at_once: question.at_once,
            whole: question.whole,
            ..rpc::FollowRequest::default()
        };
        let payload = Bytes::from(request.encode_to_vec());
        let mesh = &self.inner.mesh;
        let answer = mesh.call(peer, Method::Follow, payload, DEADLINE).await?;
        let lied = |what| FollowProblem::Lied { node: peer, what };
        let answer = rpc::FollowResponse::decode(answer).map_err(|_| lied("a malformed answer"))?;
        if !answer.is_fed || answer.way.len() >= limit::HOPS {
            return Err(FollowProblem::NotFed(peer));
        }
        let entries = answer.entries.iter().map(Entry::decode);
        let entries: Result<Vec<_>, _> = entries.collect();
        let entries = entries.map_err(|_| lied("a malformed entry"))?;
        let entries = self.fill(peer, entries, &answer.bodies).await;
        let entries = entries.map_err(|why| match why {
            BodyProblem::Bad(_) | BodyProblem::Lied { .. } => lied("a body that is another"),
            why => FollowProblem::NoBody { node: peer, why },
        })?;
        let snapshot = answer.snapshot.map(snapshot_of).transpose();
        let snapshot = snapshot.map_err(|Malformed(what)| lied(what))?;
        let last = entries.last().map_or(0, |entry| entry.log_id.index);
        Ok(Answer {
            entries,
            head: answer.head.as_ref().and_then(head_of),
            snapshot,
            leader: Some(answer.leader).filter(|n| *n != 0).map(NodeId),
            way: answer.way.into_iter().map(NodeId).collect(),
            // One of an older version says nothing of it.
            committed: answer.committed.max(last),
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
        let Some(head) = head.filter(|head| is_it(head) && self.inner.council.is_good(head)) else {
            return Err(lied("a snapshot without a good head"));
        };
        // Its rows are believed as they come, as a head does not cover them.
        if !self.inner.council.may_vote(node) {
            return Err(lied("a snapshot, and may not vote"));
        }
        let membership = decode_membership(&snapshot.membership);
        let membership = membership.map_err(|Malformed(what)| lied(what))?;
        shared.remember_installed(id, chain);
        shared.snapshots.install(snapshot).await?;
        shared.log.purge(self.id(), id, chain)?;
        shared.log.set_committed(self.id(), id)?;
        shared.membership.set(membership);
        lock(&self.inner.heads).put(head);
        let runtime = self.inner.env.runtime();
        runtime.trace(format_args!("install {}:{id}", self.id()));
        self.publish(id);
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests;
