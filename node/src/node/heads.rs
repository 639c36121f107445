//! [driver] Heads: signed by whoever leads, asked for by everybody else, compared with the own log.
//! The same answers tell how the others are, for `status`.
//!
//! The newest head of each partition is kept as a note of the log. A head whose index is here with
//! another chain hash proves two histories: the evidence is kept, and `status` says so (promises
//! I4, S4).

use super::sighting::{Sighting, Sightings};
use aber_log::env::{Env, Runtime};
use aber_log::head::{head_message, head_of};
use aber_log::mesh::{Mesh, Method};
use aber_log::partition::Partition;
use aber_log::segment::SegmentLog;
use aber_log::watch::Watched;
use aber_materializer::members::Members;
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
/// The notes that hold the newest head of each partition, and evidence of a second history.
const HEAD_PREFIX: &[u8] = b"h/";
const EVIDENCE_PREFIX: &[u8] = b"e/";

/// Signs and compares heads.
pub(super) struct Heads<E: Env> {
    pub(super) env: E,
    pub(super) me: NodeId,
    pub(super) key: Arc<SecretKey>,
    pub(super) cluster: ClusterId,
    pub(super) members: Watched<Arc<Members>>,
    pub(super) log: SegmentLog<E>,
    pub(super) mesh: Mesh<E>,
    pub(super) partitions: BTreeMap<PartitionId, Partition<E>>,
    pub(super) notices: Watched<Vec<String>>,
    pub(super) sightings: Watched<Sightings>,
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
            notices: self.notices.clone(),
            sightings: self.sightings.clone(),
        }
    }
}

fn head_key(partition: PartitionId) -> Bytes {
    [HEAD_PREFIX, &partition.0.to_le_bytes()].concat().into()
}

impl<E: Env> Heads<E> {
    /// The heads of the partitions this node leads: what is committed and durable here.
    pub(super) fn of_led(&self) -> Vec<rpc::Head> {
        let led = self
            .partitions
            .iter()
            .filter(|(_, group)| group.is_leader());
        led.filter_map(|(partition, group)| {
            let committed = group.committed().get()?;
            let index = committed.index.min(self.log.state(*partition).flushed);
            let (log_id, chain) = self.log.chain_at(*partition, index).ok()??;
            let head = Head {
                partition: *partition,
                log_id,
                chain,
            };
            Some(head_message(&head.sign(&self.cluster, self.me, &self.key)))
        })
        .collect()
    }

    /// Asks the others for ever.
    pub(super) async fn run(self) {
        loop {
            self.env.runtime().sleep(ASK_EVERY).await;
            for peer in self.mesh.peers_up() {
                let payload = Bytes::from(rpc::StatusRequest {}.encode_to_vec());
                let asked = self.env.runtime().now();
                let answer = self
                    .mesh
                    .call(peer, Method::Status, payload, ASK_DEADLINE)
                    .await;
                let Ok(Ok(status)) = answer.map(rpc::StatusResponse::decode) else {
                    continue;
                };
                self.note(peer, &status, self.env.runtime().now() - asked);
                for head in status.heads.iter().filter_map(head_of) {
                    if head.signer == peer {
                        self.take(head).await;
                    }
                }
            }
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
            self.tell(format!(
                "{} and this node have two histories of partition {partition} at {log_id}",
                member.name
            ));
            return;
        }
        if self.newest(partition).is_none_or(|newest| newest < log_id) {
            let _stopping = self
                .log
                .write_notes(vec![(head_key(partition), Some(bytes))])
                .await;
        }
    }

    fn newest(&self, partition: PartitionId) -> Option<LogId> {
        let note = self.log.note(&head_key(partition)).ok()??;
        Some(head_of(&rpc::Head::decode(note).ok()?)?.head.log_id)
    }

    fn tell(&self, what: String) {
        self.env.runtime().trace(format_args!("ALARM {what}"));
        self.notices.update(|notices| {
            if !notices.contains(&what) {
                notices.push(what);
            }
        });
    }
}
