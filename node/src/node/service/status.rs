//! [driver] The state of this node and its cluster, in sentences.

use super::metrics::class_of;
use super::{NodeService, index_problem, render};
use crate::service::Answer;
use aber_log::env::Env;
use aber_log::head::head_message;
use aber_log::mesh::Method;
use aber_log::uplink::UplinkState;
use aber_materializer::members::Members;
use aber_materializer::mirror::MirrorStatus;
use aber_proto::generated::{rpc, v1};
use aber_proto::{NodeId, PartitionId};
use bytes::Bytes;
use prost::Message;
use std::collections::BTreeMap;
use std::time::Duration;

/// A node that does not say how far it is within this counts as away.
const POSITIONS_DEADLINE: Duration = Duration::from_secs(2);

/// How long bytes take at a rate in bits a second.
fn duration_of(bytes: u64, rate: u64) -> prost_types::Duration {
    let millis = bytes.saturating_mul(8000) / rate.max(1);
    millis_message(millis)
}

fn millis_message(millis: u64) -> prost_types::Duration {
    // Beyond what a duration can say nobody waits.
    Duration::from_millis(millis).try_into().unwrap_or_default()
}

fn uplink_message(state: &UplinkState) -> v1::Uplink {
    let priorities = state.backlog.iter().map(|(priority, backlog)| {
        let sent = state.sent_bytes.iter();
        let sent = sent.filter(|((_, of), _)| of == priority);
        v1::UplinkPriority {
            name: class_of(*priority).to_owned(),
            waiting_count: backlog.message_count,
            waiting_bytes: backlog.bytes,
            sent_bytes: sent.map(|(_, bytes)| bytes).sum(),
        }
    });
    v1::Uplink {
        bits_per_second: state.rate.unwrap_or(0),
        backlog: state.rate.map(|_| millis_message(state.backlog_ms)),
        priorities: priorities.collect(),
    }
}

fn count(number: usize) -> u64 {
    number as u64
}

impl<E: Env> NodeService<E> {
    /// How far each node is that can be reached, this one included.
    pub(super) async fn positions(&self) -> Vec<(NodeId, Vec<rpc::PartitionPosition>)> {
        let parts = &self.node.parts;
        let mut positions = vec![(parts.config.me, self.own_positions())];
        for peer in parts.mesh.peers_up() {
            let payload = Bytes::from(rpc::StatusRequest::default().encode_to_vec());
            let answer = parts
                .mesh
                .call(peer, Method::Status, payload, POSITIONS_DEADLINE)
                .await;
            if let Ok(answer) = answer
                && let Ok(status) = rpc::StatusResponse::decode(answer)
            {
                positions.push((peer, status.positions));
            }
        }
        positions
    }

    fn own_positions(&self) -> Vec<rpc::PartitionPosition> {
        let parts = &self.node.parts;
        let mirrored = self.mirrored().unwrap_or_default();
        let position = |partition: PartitionId| rpc::PartitionPosition {
            partition: partition.0,
            committed: 0,
            applied: parts
                .applied
                .get(&partition)
                .and_then(|at| at.get())
                .unwrap_or(0),
            mirrored: mirrored.get(&partition).copied().unwrap_or(0),
        };
        parts.config.genesis.partition_ids().map(position).collect()
    }

    pub(super) fn has_majority(&self, partition: PartitionId) -> bool {
        let parts = &self.node.parts;
        let Some(group) = parts.partitions.get(&partition) else {
            return false;
        };
        let voters = group.voters();
        let up = voters.iter().filter(|voter| !self.is_away(**voter)).count();
        // Of those without a link to this node it hears from whom it follows.
        let is_led = |leader| self.is_up(leader) || group.upstream().is_some();
        group.leader().is_some_and(is_led) && up * 2 > voters.len()
    }

    /// Whether a member is to have a link to this node, and there is none.
    pub(super) fn is_away(&self, node: NodeId) -> bool {
        !self.is_up(node) && self.is_linked(node)
    }

    /// Whether a member is to have a link to this node; the others are only heard of.
    pub(super) fn is_linked(&self, node: NodeId) -> bool {
        self.node.parts.mesh.peers().contains(&node)
    }

    pub(super) fn is_up(&self, node: NodeId) -> bool {
        node == self.node.parts.config.me || self.node.parts.mesh.is_up(node)
    }

    pub(super) async fn status(&self) -> Answer<v1::GetStatusResponse> {
        let parts = &self.node.parts;
        let genesis = &parts.config.genesis;
        let mut notices = self.notices().await;
        notices.sort_by_key(|notice| std::cmp::Reverse(notice.severity));
        let health = notices.first().map_or(v1::Health::Ok, v1::Notice::severity);
        let (mut files_count, mut content_bytes, mut entries_to_apply) = (0, 0, 0);
        for (id, group) in &parts.partitions {
            if let Some(applied) = parts.tree.applied(*id).map_err(index_problem)? {
                files_count += applied.files;
                content_bytes += applied.bytes;
            }
            let committed = group.committed().get().map_or(0, |id| id.index);
            let applied = parts.applied.get(id).and_then(|at| at.get()).unwrap_or(0);
            entries_to_apply += committed.saturating_sub(applied);
        }
        let members = parts.members.get();
        let up = members.present().filter(|row| !self.is_away(row.node));
        let only_here = parts.content.relay().look().only_here;
        let uplink = parts.mesh.uplink().look();
        Ok(v1::GetStatusResponse {
            cluster: genesis.name.clone(),
            cluster_id: parts.cluster.to_string(),
            node: self.node.name_of(parts.config.me),
            health: health.into(),
            notices,
            members_count: u32::try_from(members.present_count()).unwrap_or(u32::MAX),
            members_up_count: u32::try_from(up.count()).unwrap_or(u32::MAX),
            files_count,
            content_bytes,
            store_bytes: parts.content.store().stored_bytes(),
            folders: self.folder().into_iter().collect(),
            entries_to_apply,
            outbox_changes: count(parts.outbox.waiting().get()),
            cursor: self.cursor(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            process_id: std::process::id(),
            link_address: self.own_address(&members),
            api_address: match &parts.config.options.api {
                Some(Ok(address)) => address.clone(),
                Some(Err(_)) | None => String::new(),
            },
            only_here_bytes: only_here.bytes,
            only_here_estimate: uplink.rate.map(|rate| duration_of(only_here.bytes, rate)),
            only_here_changes: only_here.changes_count,
            uplink: Some(uplink_message(&uplink)),
            ..v1::GetStatusResponse::default()
        })
    }

    /// Where other nodes reach this one: the first place they are told of.
    fn own_address(&self, members: &Members) -> String {
        let parts = &self.node.parts;
        let row = members.member(parts.config.me);
        let told = parts.config.options.addresses.first();
        let told = told.or_else(|| row.and_then(|row| row.addresses.first()));
        told.cloned().unwrap_or_default()
    }

    fn folder(&self) -> Option<v1::FolderStatus> {
        let parts = &self.node.parts;
        let (directory, _) = parts.config.options.mirror.as_ref()?;
        let status: MirrorStatus = parts.mirror.as_ref()?.status.get();
        let behind = parts.applied.iter().map(|(partition, applied)| {
            let shown = status.positions.get(partition).copied().unwrap_or(0);
            applied.get().unwrap_or(0).saturating_sub(shown)
        });
        let entries_behind: u64 = behind.sum();
        let notice = status.problem.as_ref().map(|problem| v1::Notice {
            code: "MIRROR_STUCK".to_owned(),
            severity: v1::Health::Degraded.into(),
            what: "the mirror does not follow".to_owned(),
            why: problem.clone(),
            mend: "it is tried again by itself once the cause is gone".to_owned(),
            ..v1::Notice::default()
        });
        let health = if notice.is_some() {
            v1::Health::Degraded
        } else {
            v1::Health::Ok
        };
        Some(v1::FolderStatus {
            folder: Some(v1::Folder {
                directory: directory.display().to_string(),
                path: "/".to_owned(),
                mode: v1::FolderMode::Mirror.into(),
            }),
            health: health.into(),
            notice,
            waiting_count: count(status.waiting_count),
            unmaterializable_count: count(status.unmaterialisable_count),
            local_edits_count: status.stranger_count,
            scan_time: status.last_scan.map(render::stamp_message),
            entries_behind,
            ..v1::FolderStatus::default()
        })
    }

    /// How far the mirror shows each partition; `None` if there is no mirror.
    pub(super) fn mirrored(&self) -> Option<BTreeMap<PartitionId, u64>> {
        let mirror = self.node.parts.mirror.as_ref()?;
        Some(mirror.status.get().positions)
    }

    /// Up to where all of each partition stands in the mirror, nothing waiting for its content.
    pub(super) fn shown(&self) -> Option<BTreeMap<PartitionId, u64>> {
        let mirror = self.node.parts.mirror.as_ref()?;
        Some(mirror.status.get().complete)
    }

    pub(super) fn partitions(&self, with_heads: bool) -> Answer<v1::ListPartitionsResponse> {
        let parts = &self.node.parts;
        let volumes = parts.tree.volumes().map_err(index_problem)?;
        let mirrored = self.mirrored().unwrap_or_default();
        let mut partitions = Vec::new();
        for (id, group) in &parts.partitions {
            let (applied, digest) = parts.tree.digest(*id).map_err(index_problem)?;
            let names = |nodes: Vec<NodeId>| nodes.into_iter().map(|node| self.node.name_of(node));
            let voters = group.voters();
            let up = voters
                .iter()
                .copied()
                .filter(|voter| self.is_up(*voter))
                .collect();
            let inside = volumes.iter().filter(|volume| volume.partition == *id);
            let applied_index = applied.as_ref().map_or(0, |applied| applied.log_id.index);
            let heads = match with_heads {
                true => parts.heads.signed(*id),
                false => Vec::new(),
            };
            let heads = heads
                .iter()
                .map(|signed| head_message(signed).encode_to_vec().into());
            partitions.push(v1::Partition {
                id: id.0,
                volumes: inside.map(|volume| volume.name.clone()).collect(),
                leader: group
                    .leader()
                    .map(|node| self.node.name_of(node))
                    .unwrap_or_default(),
                term: group.term(),
                voters: names(voters).collect(),
                voters_up: names(up).collect(),
                has_majority: self.has_majority(*id),
                committed_index: group.committed().get().map_or(0, |id| id.index),
                applied_index,
                oldest_index: group.log_state().oldest.unwrap_or(0),
                chain_hash: applied
                    .map(|a| Bytes::copy_from_slice(&a.chain.0))
                    .unwrap_or_default(),
                view_digest: Bytes::copy_from_slice(&digest.0),
                digest_index: applied_index,
                mirrored_index: mirrored.get(id).copied().unwrap_or(0),
                heads: heads.collect(),
                history_start_index: parts.tree.history_start(*id).map_err(index_problem)?,
            });
        }
        Ok(v1::ListPartitionsResponse {
            partitions,
            next_page_token: String::new(),
        })
    }
}
