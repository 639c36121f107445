//! [adapter] What Raft groups and followers ask about members, answered from the membership.

use super::Contact;
use super::layout::neighbours_of;
use super::log_tree::LogTrees;
use aber_log::partition::Council;
use aber_log::watch::Watched;
use aber_materializer::members::Members;
use aber_materializer::voters::voters_for;
use aber_proto::{ClusterId, Head, NodeId, SecretKey, SignedHead};
use std::sync::{Arc, Mutex, PoisonError};

/// The members as this node knows them, and its own key.
pub(super) struct NodeCouncil {
    pub(super) me: NodeId,
    pub(super) key: Arc<SecretKey>,
    pub(super) cluster: ClusterId,
    /// Members by the word of whoever let this node in, until the control partition tells.
    pub(super) contacts: Vec<Contact>,
    pub(super) members: Watched<Arc<Members>>,
    pub(super) trees: Mutex<LogTrees>,
}

impl Council for NodeCouncil {
    fn may_vote(&self, node: NodeId) -> bool {
        let members = self.members.get();
        let mut eligible = members.present().filter(|row| row.is_voter_eligible);
        let nobody_is = eligible.next().is_none();
        match members.member(node) {
            Some(row) => row.role().is_some() && (row.is_voter_eligible || nobody_is),
            None => self.contacts.iter().any(|contact| contact.node == node),
        }
    }

    fn voters(&self, present: &[NodeId]) -> Vec<NodeId> {
        let members = self.members.get();
        let linked = neighbours_of(self.me, &members);
        let is_linked = |node: &NodeId| *node == self.me || linked.contains(node);
        let wanted = voters_for(&members, present);
        if wanted.iter().all(is_linked) {
            return wanted;
        }
        // It is for the leader to bring them in: then those around it.
        let near: Vec<NodeId> = present.iter().copied().filter(is_linked).collect();
        let wanted = voters_for(&members, &near);
        match wanted.iter().all(is_linked) {
            true => wanted,
            false => present.to_vec(),
        }
    }

    fn sign(&self, head: Head) -> SignedHead {
        head.sign(&self.cluster, self.me, &self.key)
    }

    fn is_good(&self, head: &SignedHead) -> bool {
        let told = self.contacts.iter().find(|told| told.node == head.signer);
        let known = self.members.get().key_of(head.signer);
        let key = known.or(told.map(|contact| contact.peer.key));
        let is_signed = key.is_some_and(|key| head.verify(&self.cluster, &key).is_ok());
        is_signed && self.may_vote(head.signer)
    }

    fn parents(&self, leader: NodeId) -> Vec<NodeId> {
        let members = self.members.get();
        let mut trees = self.trees.lock().unwrap_or_else(PoisonError::into_inner);
        trees.above(&members, self.me, leader)
    }
}
