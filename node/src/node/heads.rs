//! [driver] Heads: signed by whoever leads, asked for by everybody else, compared with the own log.
//! The same answers tell how the others are, for `status`, and what their views are (promise M4).
//!
//! The newest head of each partition is kept as a note of the log. A head whose index is here with
//! another chain hash proves two histories: the evidence is kept, and `status` says so (promises
//! I4, S4). A node whose view is not the one a majority of the voters has builds its index anew, once;
//! if it still differs then, `status` says so.

use super::agreement::{Agreement, Disagreement, digest_of};
use super::finding::{self, Finding, Findings};
use super::index::rebuild;
use super::sighting::{Sighting, Sightings};
use super::wiring::Positions;
use aber_log::env::{Env, Runtime};
use aber_log::head::{head_message, head_of};
use aber_log::mesh::{Mesh, Method};
use aber_log::partition::Partition;
use aber_log::segment::SegmentLog;
use aber_log::watch::Watched;
use aber_materializer::members::Members;
use aber_materializer::view::TreeView;
use aber_proto::generated::rpc;
use aber_proto::{ClusterId, Head, LogId, NodeId, PartitionId, SecretKey, SignedHead};
use bytes::Bytes;
use prost::Message;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Between two rounds of asking.
const ASK_EVERY: Duration = Duration::from_secs(5);
const ASK_DEADLINE: Duration = Duration::from_secs(2);
/// The notes that hold the newest head of each partition and signer, and evidence of a second history.
const HEAD_PREFIX: &[u8] = b"h/";
const EVIDENCE_PREFIX: &[u8] = b"e/";
/// The notes that say that the index was built anew since the views differed.
const OTHER_VIEW_PREFIX: &[u8] = b"view/other/";

/// Signs and compares heads.
pub(crate) struct Heads<E: Env> {
    pub(super) env: E,
    pub(super) me: NodeId,
    pub(super) key: Arc<SecretKey>,
    pub(super) cluster: ClusterId,
    pub(super) members: Watched<Arc<Members>>,
    pub(super) log: SegmentLog<E>,
    pub(super) mesh: Mesh<E>,
    pub(super) partitions: BTreeMap<PartitionId, Partition<E>>,
    pub(super) findings: Findings,
    pub(super) sightings: Watched<Sightings>,
    pub(super) tree: TreeView<E::Kv>,
    pub(super) applied: Positions,
    pub(super) digest_every: u64,
}

impl<E: Env> Clone for Heads<E> {
    fn clone(&self) -> Self {
        Self {
            env: self.env.clone(),
            me: self.me,
            key: Arc::clone(&self.key),
            cluster: self.cluster,
            members: self.members.clone(),
            log: self.log.clone(),
            mesh: self.mesh.clone(),
            partitions: self.partitions.clone(),
            findings: self.findings.clone(),
            sightings: self.sightings.clone(),
            tree: self.tree.clone(),
            applied: self.applied.clone(),
            digest_every: self.digest_every,
        }
    }
}

fn head_key(partition: PartitionId, signer: NodeId) -> Bytes {
    let (partition, signer) = (partition.0.to_le_bytes(), signer.0.to_le_bytes());
    [HEAD_PREFIX, &partition, &signer].concat().into()
}

impl<E: Env> Heads<E> {
    /// The heads of the partitions this node leads, at their ends; and, for who has less, where that
    /// ends: only there can he tell whether his history is a part of this one.
    pub(super) fn of_led(&self, reached: &[rpc::Reach]) -> Vec<rpc::Head> {
        let mut heads = Vec::new();
        for (partition, group) in &self.partitions {
            let end = self.reach(*partition, group);
            let Some(end) = end.filter(|_| group.is_leader()) else {
                continue;
            };
            let asked = reached.iter().find(|reach| reach.partition == partition.0);
            let asked = asked.map(|reach| reach.index).filter(|index| *index < end);
            let places = [Some(end), asked].into_iter().flatten();
            let signed = places.filter_map(|index| self.sign(*partition, index));
            heads.extend(signed.map(|signed| head_message(&signed)));
        }
        heads
    }

    /// Up to where a partition is committed and durable here.
    fn reach(&self, partition: PartitionId, group: &Partition<E>) -> Option<u64> {
        let committed = group.committed().get()?.index;
        Some(committed.min(self.log.state(partition).flushed))
    }

    /// What is committed and durable here up to an entry, signed.
    fn sign(&self, partition: PartitionId, index: u64) -> Option<SignedHead> {
        let (log_id, chain) = self.log.chain_at(partition, index).ok()??;
        let head = Head {
            partition,
            log_id,
            chain,
        };
        Some(head.sign(&self.cluster, self.me, &self.key))
    }

    /// This node's own word on a partition's history, and the newest that each leader gave it and that
    /// its own history has, too.
    pub(super) fn signed(&self, partition: PartitionId) -> Vec<SignedHead> {
        let Some(group) = self.partitions.get(&partition) else {
            return Vec::new();
        };
        let reach = self.reach(partition, group);
        let Some(own) = reach.and_then(|index| self.sign(partition, index)) else {
            return Vec::new();
        };
        let prefix = [HEAD_PREFIX, &partition.0.to_le_bytes()].concat();
        let kept = self.log.notes(&prefix).unwrap_or_default().into_iter();
        let kept = kept.filter_map(|(_, note)| head_of(&rpc::Head::decode(note).ok()?));
        let is_here = |signed: &SignedHead| {
            let Head { log_id, chain, .. } = signed.head;
            let here = self.log.chain_at(partition, log_id.index).ok().flatten();
            signed.signer != self.me
                && log_id.index <= own.head.log_id.index
                && here.is_some_and(|(_, own)| own == chain)
        };
        [own].into_iter().chain(kept.filter(is_here)).collect()
    }

    /// Asks the others for ever.
    pub(super) async fn run(self) {
        self.recall_evidence();
        let mut agreement = Agreement::default();
        loop {
            self.env.runtime().sleep(ASK_EVERY).await;
            for peer in self.mesh.peers_up() {
                let request = rpc::StatusRequest {
                    reached: self.reached(),
                };
                let payload = Bytes::from(request.encode_to_vec());
                let asked = self.env.runtime().now();
                let answer = self
                    .mesh
                    .call(peer, Method::Status, payload, ASK_DEADLINE)
                    .await;
                let Ok(Ok(status)) = answer.map(rpc::StatusResponse::decode) else {
                    continue;
                };
                self.note(peer, &status, self.env.runtime().now() - asked);
                for told in status.digests.iter().filter_map(digest_of) {
                    if self.partitions.contains_key(&told.0) {
                        agreement.hear(peer, told);
                    }
                }
                for head in status.heads.iter().filter_map(head_of) {
                    if head.signer == peer {
                        self.take(head).await;
                    }
                }
            }
            let members = self.members.get();
            agreement.keep(|node| members.member(node).is_some_and(|row| row.role().is_some()));
            self.compare_views(&agreement).await;
        }
    }

    fn reached(&self) -> Vec<rpc::Reach> {
        let reach = |(partition, group): (&PartitionId, &Partition<E>)| {
            Some(rpc::Reach {
                partition: partition.0,
                index: self.reach(*partition, group)?,
            })
        };
        self.partitions.iter().filter_map(reach).collect()
    }

    /// This node's views, each after the last entry at which nodes compare.
    pub(super) fn digests(&self) -> Vec<rpc::ViewDigest> {
        let newest = self.applied.iter().filter_map(|(partition, applied)| {
            let index = applied.get()? / self.digest_every * self.digest_every;
            // A failing index is found by the replay.
            let digest = self.tree.digest_after(*partition, index).ok()??;
            Some(rpc::ViewDigest {
                partition: partition.0,
                index,
                digest: Bytes::copy_from_slice(&digest.0),
            })
        });
        newest.collect()
    }

    /// By the newest entry that both this node and others have a view of.
    async fn compare_views(&self, agreement: &Agreement) {
        for (partition, group) in &self.partitions {
            let indexes = agreement.indexes(*partition).into_iter().rev();
            let own = |index| {
                let digest = self.tree.digest_after(*partition, index).ok()??;
                Some((index, digest))
            };
            let Some(own) = indexes.into_iter().find_map(own) else {
                continue;
            };
            let voters = group.voters().into_iter().collect();
            match agreement.compare(*partition, own, &voters) {
                None => self.views_agree(*partition, own.0).await,
                Some(other) => self.views_differ(*partition, &other).await,
            }
        }
    }

    /// An index that was built anew is as the others are from here on.
    async fn views_agree(&self, partition: PartitionId, index: u64) {
        finding::set_other_view(&self.findings, partition, None);
        let key = other_view_key(partition);
        let Ok(Some(note)) = self.log.note(&key) else {
            return;
        };
        let noted = note.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
        if noted.is_none_or(|noted| noted < index) {
            let _stopping = self.log.write_notes(vec![(key, None)]).await;
        }
    }

    async fn views_differ(&self, partition: PartitionId, found: &Disagreement) {
        let members = self.members.get();
        let name = |node: &NodeId| match members.member(*node) {
            Some(member) => member.name.clone(),
            None => node.to_string(),
        };
        let names: Vec<_> = found.others.iter().map(name).collect();
        let (names, index) = (names.join(", "), found.index);
        let what = format!("{names} have another tree of partition {partition} after {index}");
        let key = other_view_key(partition);
        let was_rebuilt = self.log.note(&key).ok().flatten().is_some();
        if found.is_outvoted && !was_rebuilt {
            let note = Bytes::copy_from_slice(&index.to_le_bytes());
            let _stopping = self.log.write_notes(vec![(key, Some(note))]).await;
            rebuild(&self.log, self.env.runtime(), &what).await;
            return;
        }
        let trace = format_args!("ALARM {what}");
        self.env.runtime().trace(trace);
        let found = Finding::OtherView {
            partition,
            what,
            is_wrong: found.is_outvoted,
        };
        finding::set_other_view(&self.findings, partition, Some(found));
    }

    /// Evidence of a second history does not go away by a restart.
    fn recall_evidence(&self) {
        let notes = self.log.notes(EVIDENCE_PREFIX);
        for (_, bytes) in notes.ok().into_iter().flatten() {
            let Some(signed) = rpc::Head::decode(bytes).ok().as_ref().and_then(head_of) else {
                continue;
            };
            let members = self.members.get();
            let name = match members.member(signed.signer) {
                Some(member) => member.name.clone(),
                None => signed.signer.to_string(),
            };
            self.tell(two_histories(&name, &signed.head));
        }
    }

    /// Keeps what a peer said of itself: for people, and for whom to follow.
    fn note(&self, peer: NodeId, status: &rpc::StatusResponse, round_trip: Duration) {
        let committed = self.partitions.iter().map(|(partition, group)| {
            let committed = group.committed().get();
            (partition.0, committed.map_or(0, |id| id.index))
        });
        for position in &status.positions {
            if let Some(group) = self.partitions.get(&PartitionId(position.partition)) {
                group.heard_of(peer, position.committed);
            }
        }
        let seen = self.env.runtime().wall_clock();
        let sighting = Sighting::of(status, (seen, round_trip), &committed.collect());
        self.sightings.update(|all| all.insert(peer, sighting));
    }

    /// Checks a head against signature and log, and keeps it if it is newer.
    async fn take(&self, signed: SignedHead) {
        let members = self.members.get();
        let member = members.member(signed.signer);
        let Some(member) = member.filter(|member| member.role().is_some()) else {
            return;
        };
        if signed.verify(&self.cluster, &member.key).is_err() {
            return;
        }
        let Head {
            partition,
            log_id,
            chain,
        } = signed.head;
        let here = self.log.chain_at(partition, log_id.index).ok().flatten();
        let is_committed = self.partitions.get(&partition).is_some_and(|group| {
            group
                .committed()
                .get()
                .is_some_and(|committed| committed.index >= log_id.index)
        });
        let bytes = Bytes::from(head_message(&signed).encode_to_vec());
        if is_committed && here.is_some_and(|(_, own)| own != chain) {
            let key = [
                EVIDENCE_PREFIX,
                &partition.0.to_le_bytes(),
                &log_id.index.to_le_bytes(),
            ];
            let _stopping = self
                .log
                .write_notes(vec![(key.concat().into(), Some(bytes))])
                .await;
            self.tell(two_histories(&member.name, &signed.head));
            return;
        }
        let key = head_key(partition, signed.signer);
        if self.newest(&key).is_none_or(|newest| newest < log_id) {
            let _stopping = self.log.write_notes(vec![(key, Some(bytes))]).await;
        }
    }

    fn newest(&self, key: &[u8]) -> Option<LogId> {
        let note = self.log.note(key).ok()??;
        Some(head_of(&rpc::Head::decode(note).ok()?)?.head.log_id)
    }

    fn tell(&self, what: Finding) {
        self.env.runtime().trace(format_args!("ALARM {what:?}"));
        finding::add(&self.findings, what);
    }
}

fn other_view_key(partition: PartitionId) -> Bytes {
    [OTHER_VIEW_PREFIX, &partition.0.to_le_bytes()]
        .concat()
        .into()
}

fn two_histories(name: &str, head: &Head) -> Finding {
    let (partition, log_id) = (head.partition, head.log_id);
    Finding::TwoHistories(format!(
        "{name} and this node have two histories of partition {partition} at {log_id}"
    ))
}
