//! [driver] Who is part of a group, learned from entries: from the own log, or from what others have.

use super::{ANSWER_BYTES, FollowProblem, Question};
use crate::env::{Env, Runtime};
use crate::partition::Partition;
use crate::partition::group::is_part;
use crate::partition::raft_types::{C, decode_membership, to_raft_id};
use aber_proto::{Entry, EntryKind, NodeId};
use openraft::alias::StoredMembershipOf;

/// Answers looked through for the entry that let this node go.
const LOOKED_THROUGH: usize = 64;

impl<E: Env> Partition<E> {
    /// Learns again who votes, from what was followed before this start: what comes next may not say
    /// it for years. What cannot be read now is asked for when it is needed.
    pub(in crate::partition) fn recall_membership(&self) {
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

    /// Whether committed entries that others have let this node go: a voter that was away when it
    /// lost its vote would campaign for ever.
    pub(in crate::partition) async fn group_goes_on_without_me(&self) -> bool {
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

    /// The newest membership that holds where another node's entries end, all of them proven: one
    /// of theirs, else the one that is known here. `None` if it has none after ours.
    async fn newest_membership(
        &self,
        peer: NodeId,
    ) -> Result<Option<StoredMembershipOf<C>>, FollowProblem> {
        let committed = self.inner.shared.committed.get();
        let mut next = committed.map_or(0, |id| id.index + 1);
        let (mut newest, mut before) = (None, None);
        for _ in 0..LOOKED_THROUGH {
            let question = Question {
                whole: true,
                ..Question::at_once(next)
            };
            let answer = self.ask(peer, question).await?;
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
                .or(newest)
                .or_else(|| Some(self.inner.shared.membership.get()));
            (next, before) = (id.index + 1, Some(chain));
        }
        Ok(newest)
    }
}

pub(super) fn membership_in(entry: &Entry) -> Option<StoredMembershipOf<C>> {
    if entry.kind != EntryKind::Membership {
        return None;
    }
    let membership = decode_membership(&entry.body).ok()?;
    let id = to_raft_id(entry.log_id);
    let membership = membership.membership().clone();
    Some(StoredMembershipOf::<C>::new(Some(id), membership))
}
