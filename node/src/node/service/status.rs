//! [driver] The state of this node and its cluster, in sentences.

use super::{NodeService, index_problem, render};
use crate::service::Answer;
use aber_log::env::{Disk, Env, Runtime};
use aber_log::mesh::Method;
use aber_materializer::members::{MemberRow, Members};
use aber_materializer::mirror::MirrorStatus;
use aber_proto::generated::{rpc, v1};
use aber_proto::{NodeId, PartitionId, Role, codec};
use bytes::Bytes;
use prost::Message;
use std::time::Duration;

/// What a node is told whose key is in no table of members.
const NO_MEMBERS_KEY: &str = "is no member's";
/// A node that does not say how far it is within this counts as away.
const POSITIONS_DEADLINE: Duration = Duration::from_secs(2);

fn count(number: usize) -> u64 {
    number as u64
}

impl<E: Env> NodeService<E> {
    /// How far each node is that can be reached, this one included.
    pub(super) async fn positions(&self) -> Vec<(NodeId, Vec<rpc::PartitionPosition>)> {
        let parts = &self.node.parts;
        let mut positions = vec![(parts.config.me, self.own_positions())];
        for peer in parts.mesh.peers_up() {
            let payload = Bytes::from(rpc::StatusRequest {}.encode_to_vec());
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
        let mirrored = parts
            .mirror
            .as_ref()
            .map(|mirror| mirror.status.get().positions);
        let mirrored = mirrored.unwrap_or_default();
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

    fn has_majority(&self, partition: PartitionId) -> bool {
        let parts = &self.node.parts;
        let Some(group) = parts.partitions.get(&partition) else {
            return false;
        };
        let voters = group.voters();
        let up = voters.iter().filter(|voter| self.is_up(**voter)).count();
        group.leader().is_some_and(|leader| self.is_up(leader)) && up * 2 > voters.len()
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
        let up = members.present().filter(|member| self.is_up(member.node));
        let up = up.count();
        Ok(v1::GetStatusResponse {
            cluster: genesis.name.clone(),
            cluster_id: parts.cluster.to_string(),
            node: self.node.name_of(parts.config.me),
            health: health.into(),
            notices,
            members_count: u32::try_from(members.present_count()).unwrap_or(u32::MAX),
            members_up_count: u32::try_from(up).unwrap_or(u32::MAX),
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

    /// Partitions that cannot order changes now.
    fn no_majority(&self, away: &[&str]) -> Option<v1::Notice> {
        let partitions = &self.node.parts.partitions;
        let stuck = partitions.keys().filter(|p| !self.has_majority(**p));
        let stuck: Vec<_> = stuck.map(ToString::to_string).collect();
        if stuck.is_empty() {
            return None;
        }
        let (some, all) = (stuck.len(), partitions.len());
        let what = format!("changes are not ordered in {some} of {all} partitions");
        let why = if away.is_empty() {
            format!("no leader is known for partitions {}", stuck.join(", "))
        } else {
            format!("too many voters are away: {}", away.join(", "))
        };
        let mend =
            "writes wait in the outbox and land by themselves; start the nodes that are away";
        let mend = mend.to_owned();
        Some(notice("NO_MAJORITY", v1::Health::Queuing, what, why, mend))
    }

    async fn notices(&self) -> Vec<v1::Notice> {
        let parts = &self.node.parts;
        let mut notices = Vec::new();
        let members = parts.members.get();
        notices.extend(self.removed(&members));
        let away = members.present().filter(|row| !self.is_up(row.node));
        let away: Vec<_> = away.collect();
        for member in &away {
            let refused = parts.mesh.refusals().get(&member.node).cloned();
            let mend = format!("start it: aber up, on {}", member.name);
            let why = refused.unwrap_or_else(|| no_answer(member));
            let what = format!("{} is away", member.name);
            notices.push(notice("NODE_AWAY", v1::Health::Degraded, what, why, mend));
        }
        let away: Vec<_> = away.iter().map(|member| member.name.as_str()).collect();
        notices.extend(self.no_majority(&away));
        let waiting = parts.outbox.list().await;
        if let Some(first) = waiting.iter().find(|waiting| waiting.problem.is_some()) {
            let what = match waiting.len() {
                1 => "a change waits in the outbox".to_owned(),
                more => format!("{more} changes wait in the outbox"),
            };
            let path = first.path.clone().unwrap_or_default();
            let why = format!("{path}: {}", first.problem.clone().unwrap_or_default());
            let mend = "nothing is lost; they land by themselves once the cause is gone".to_owned();
            notices.push(notice("CHANGE_WAITS", v1::Health::Queuing, what, why, mend));
        }
        for why in parts.notices.get() {
            let mend = "nothing to do".to_owned();
            let what = "this node repaired something at its start".to_owned();
            notices.push(notice("REPAIRED", v1::Health::Ok, what, why, mend));
        }
        notices.extend(self.no_space());
        if let Some(damage) = parts.log.damage().map(|damage| damage.problem) {
            let what = "the log of this node is damaged".to_owned();
            let mend =
                "what is damaged is not served; check the disk, and ask another node".to_owned();
            let why = damage.to_string();
            notices.push(notice("LOG_DAMAGED", v1::Health::Failed, what, why, mend));
        }
        if let Some(mirror) = &parts.mirror {
            notices.extend(waiting_paths(&mirror.status.get()));
            for edit in mirror.status.get().notices.iter().rev().take(3) {
                let what = format!("a local edit of {} was moved aside", edit.path);
                let why = format!(
                    "the mirror is read-only; the edit is kept as {}",
                    edit.kept_as
                );
                let mend = "put it with: aber put".to_owned();
                notices.push(notice("LOCAL_EDIT", v1::Health::Ok, what, why, mend));
            }
        }
        notices
    }

    /// Said once this node is no member any more: nobody talks to it, and what it has stays.
    fn removed(&self, members: &Members) -> Option<v1::Notice> {
        let parts = &self.node.parts;
        let me = members.member(parts.config.me);
        let why = match me.and_then(MemberRow::removed) {
            Some(index) => format!("entry 0:{index} ended its membership"),
            // The entry that removes a node is the last thing others would tell it.
            None if me.is_some() && parts.mesh.peers_up().is_empty() => {
                let refusals = parts.mesh.refusals();
                let of_strangers = refusals.values().find(|why| why.contains(NO_MEMBERS_KEY));
                format!("the others say: {}", of_strangers?)
            }
            None => return None,
        };
        let why = format!("{why}; its mirror stays as it is");
        let what = "this node is no member of the cluster any more".to_owned();
        let mend = "to be a member again: ask an admin for a ticket (aber invite), and join with \
                    another, empty data directory; else stop it: aber down";
        Some(notice(
            "REMOVED",
            v1::Health::Failed,
            what,
            why,
            mend.to_owned(),
        ))
    }

    /// Said while writes are refused because the disk is below its reserve (promise B3).
    fn no_space(&self) -> Option<v1::Notice> {
        let parts = &self.node.parts;
        let space = parts.env.disk().space().ok()?;
        let reserve_bytes = parts.config.options.store.reserve_bytes(space.total_bytes);
        if space.free_bytes >= reserve_bytes {
            return None;
        }
        let what = "no space left on this node: it takes no writes and no content".to_owned();
        let why = format!(
            "{} bytes are free, and {reserve_bytes} are kept for the log",
            space.free_bytes
        );
        let mend = "free space on its disk; the rest happens by itself".to_owned();
        Some(notice("NO_SPACE", v1::Health::Degraded, what, why, mend))
    }

    pub(super) fn members(&self) -> v1::ListMembersResponse {
        let parts = &self.node.parts;
        let mut members = Vec::new();
        for member in parts.members.get().present() {
            let state = if self.is_up(member.node) {
                v1::MemberState::Up
            } else {
                v1::MemberState::Away
            };
            let role = match member.role() {
                Some(Role::Reader) => v1::Role::Reader,
                Some(Role::Writer) => v1::Role::Writer,
                Some(Role::Admin) => v1::Role::Admin,
                None => v1::Role::Unspecified,
            };
            let groups = |wanted: &dyn Fn(&aber_log::partition::Partition<E>) -> bool| -> Vec<u32> {
                let found = parts.partitions.iter().filter(|(_, group)| wanted(group));
                found.map(|(partition, _)| partition.0).collect()
            };
            let now = parts.env.runtime().wall_clock();
            members.push(v1::Member {
                name: member.name.clone(),
                key: Bytes::copy_from_slice(&member.key.0),
                role: role.into(),
                voter_eligible: member.is_voter_eligible,
                addresses: member.addresses.clone(),
                state: state.into(),
                last_seen_time: (state == v1::MemberState::Up).then(|| render::stamp_message(now)),
                votes_in: groups(&|group| group.voters().contains(&member.node)),
                leads: groups(&|group| group.leader() == Some(member.node)),
                id: member.node.0,
                ..v1::Member::default()
            });
        }
        v1::ListMembersResponse {
            members,
            next_page_token: String::new(),
            genesis: codec::encode_genesis(&parts.config.genesis).into(),
        }
    }

    pub(super) fn volumes(&self) -> Answer<v1::ListVolumesResponse> {
        let volumes = self.node.parts.tree.volumes().map_err(index_problem)?;
        let shown = volumes.into_iter().map(|volume| v1::Volume {
            name: volume.name,
            partition: volume.partition.0,
            ..v1::Volume::default()
        });
        Ok(v1::ListVolumesResponse {
            volumes: shown.collect(),
            next_page_token: String::new(),
        })
    }

    pub(super) fn partitions(&self) -> Answer<v1::ListPartitionsResponse> {
        let parts = &self.node.parts;
        let volumes = parts.tree.volumes().map_err(index_problem)?;
        let mirrored = parts
            .mirror
            .as_ref()
            .map(|mirror| mirror.status.get().positions);
        let mirrored = mirrored.unwrap_or_default();
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
            });
        }
        Ok(v1::ListPartitionsResponse {
            partitions,
            next_page_token: String::new(),
        })
    }
}

fn no_answer(member: &MemberRow) -> String {
    match member.addresses.as_slice() {
        [] => "no address of it is known".to_owned(),
        addresses => format!("no answer from {}", addresses.join(", ")),
    }
}

/// Paths that the mirror could not show so far.
fn waiting_paths(status: &MirrorStatus) -> Option<v1::Notice> {
    let first = status.waiting.first()?;
    let paths = if status.waiting_count == 1 {
        "1 path waits".to_owned()
    } else {
        format!("{} paths wait", status.waiting_count)
    };
    let what = format!("{paths} to be shown in the mirror");
    let why = format!("{}: {}", first.path, first.reason);
    let mend = "they are tried again by themselves".to_owned();
    Some(notice("PATHS_WAIT", v1::Health::Ok, what, why, mend))
}

fn notice(code: &str, severity: v1::Health, what: String, why: String, mend: String) -> v1::Notice {
    let code = code.to_owned();
    v1::Notice {
        code,
        severity: severity.into(),
        what,
        why,
        mend,
        ..v1::Notice::default()
    }
}
