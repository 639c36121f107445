//! [driver] Removing a member: what would follow as a plan, and doing it.
//!
//! A plan is kept here, in memory, for an hour. What it was made for is compared when it is applied:
//! a plan that would do something else by now is refused.

use super::members::named;
use super::plans::PLAN_VALID_MS;
use super::{NodeService, render};
use crate::reason::{Problem, Reason};
use crate::service::{Answer, Answers, STREAM_QUEUE};
use aber_log::env::{Env, Runtime};
use aber_materializer::members::{MemberRow, Members};
use aber_materializer::tree::NodeKind;
use aber_materializer::voters::voters_for;
use aber_proto::generated::v1;
use aber_proto::{Instant, NodeId, Operation, PartitionId, RequestId, Role, Timestamp};
use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::Duration;
use tokio::sync::mpsc;

/// For finding out what only one node holds.
const LOOK_TIME: Duration = Duration::from_secs(20);
/// For votes to move after a removal, before the answer says that they have not yet.
const MOVE_TIME: Duration = Duration::from_secs(20);
const MOVE_PAUSE: Duration = Duration::from_millis(200);

/// A removal that was planned.
#[derive(Clone, Debug)]
pub(super) struct Planned {
    node: NodeId,
    name: String,
    /// Where the member's role was set the last time.
    role_index: u64,
}

/// What only a member holds of the present tree.
struct Copies {
    bytes: u64,
    /// Whether there was time to look at all of it.
    is_all: bool,
}

fn last_index(row: &MemberRow) -> u64 {
    row.roles.last().map_or(0, |(index, _)| *index)
}

impl<E: Env> NodeService<E> {
    pub(super) async fn plan_member_removal(
        &self,
        request: v1::PlanRemovalRequest,
    ) -> Answer<v1::PlanRemovalResponse> {
        let parts = &self.node.parts;
        let members = parts.members.get();
        let row = named(&members, &request.member)?.clone();
        let me = members.member(parts.config.me).and_then(MemberRow::role);
        if row.node != parts.config.me && me != Some(Role::Admin) {
            return Err(self.beyond_role(Problem::new(Reason::NotAllowed), Role::Admin));
        }
        if members.is_last_admin(row.node) {
            return Err(Problem::new(Reason::LastAdmin).with("member", &row.name));
        }
        let copies = self.only_there(row.node).await;
        if copies.bytes > 0 && !request.accept_loss {
            return Err(Problem::new(Reason::LastCopy)
                .with("node", &row.name)
                .with("bytes", copies.bytes));
        }
        let now = parts.env.runtime().wall_clock();
        let id = self.plan_id();
        let plan = v1::Plan {
            id: id.clone(),
            expire_time: Some(render::stamp_message(Timestamp(now.0 + PLAN_VALID_MS))),
            lines: self.removal_lines(&members, &row),
            warnings: self.removal_warnings(&members, &row, &copies),
        };
        let planned = Planned {
            node: row.node,
            name: row.name.clone(),
            role_index: last_index(&row),
        };
        let plans = self.plans.lock();
        plans
            .unwrap_or_else(PoisonError::into_inner)
            .put(id, now, planned);
        Ok(v1::PlanRemovalResponse {
            plan: Some(plan),
            copy_bytes: copies.bytes,
        })
    }

    /// Short enough to be typed.
    fn plan_id(&self) -> String {
        let mut bytes = [0; 5];
        self.node.parts.env.runtime().fill_random(&mut bytes);
        let mut text = data_encoding::BASE32_NOPAD.encode(&bytes).to_lowercase();
        text.insert(4, '-');
        text
    }

    fn removal_lines(&self, members: &Members, row: &MemberRow) -> Vec<String> {
        let name = &row.name;
        let mut lines = vec![
            format!("- {name} leaves the cluster for good; every member refuses it from then on"),
            "· what it wrote so far stays, and so does its name in the history".to_owned(),
        ];
        let left = members.without(row.node);
        let mut moves: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (partition, group) in &self.node.parts.partitions {
            let before = group.voters();
            if !before.contains(&row.node) {
                continue;
            }
            let after = voters_for(&left, &before);
            let new = after.iter().filter(|node| !before.contains(node));
            let new: Vec<_> = new.map(|node| self.node.name_of(*node)).collect();
            let what = match (new.is_empty(), after.len()) {
                (false, _) => format!("its vote moves to {}", new.join(", ")),
                (true, 1) => "one voter is left".to_owned(),
                (true, count) => format!("{count} voters are left"),
            };
            moves.entry(what).or_default().push(partition.to_string());
        }
        let line = |(what, partitions): (String, Vec<String>)| {
            format!("· partition {}: {what}", partitions.join(", "))
        };
        lines.extend(moves.into_iter().map(line));
        lines
    }

    fn removal_warnings(
        &self,
        members: &Members,
        row: &MemberRow,
        copies: &Copies,
    ) -> Vec<v1::Notice> {
        let name = &row.name;
        let warning = |code: &str, what: String, why: &str, mend: String| v1::Notice {
            code: code.to_owned(),
            severity: v1::Health::Degraded.into(),
            what,
            why: why.to_owned(),
            mend,
            ..v1::Notice::default()
        };
        let mut warnings = Vec::new();
        if copies.bytes > 0 {
            let what = format!("{} bytes may be lost", copies.bytes);
            let why = "no other node that can be reached now is known to hold them";
            let mend = "start the nodes that are away, then plan again".to_owned();
            warnings.push(warning("LAST_COPY", what, why, mend));
        } else if !copies.is_all {
            let what = format!("not all that only {name} may hold was looked at");
            let why = "there is too much that this node does not have itself";
            let mend = "plan again on a node that has everything: aber status".to_owned();
            warnings.push(warning("NOT_ALL_LOOKED_AT", what, why, mend));
        }
        if row.node != self.node.parts.config.me {
            let what = format!("changes that still wait in {name}'s outbox are lost to the others");
            let why = "nothing that a removed member sends is ordered";
            let mend = format!("if you can, look first: aber status, on {name}");
            warnings.push(warning("OUTBOX_LOST", what, why, mend));
        }
        let left = members.without(row.node);
        let eligible = left.present().filter(|row| row.is_voter_eligible).count();
        if eligible < 3 && left.present_count() > 1 {
            let what = "one member alone will vote".to_owned();
            let why = "fewer than three members that may vote are left";
            let mend = "while it is away changes wait; a third member mends it: aber invite";
            warnings.push(warning("ONE_VOTER", what, why, mend.to_owned()));
        }
        warnings
    }

    /// Content of the present tree that no other node is known to hold: of what this node lacks,
    /// what others that are up do not have; if this node is meant, of everything.
    async fn only_there(&self, node: NodeId) -> Copies {
        let parts = &self.node.parts;
        let runtime = parts.env.runtime();
        let until = runtime.now() + LOOK_TIME;
        let mut copies = Copies {
            bytes: 0,
            is_all: true,
        };
        let mut walk = super::verify::Walk::default();
        while let Some((found, _)) = walk.next(&parts.tree) {
            let NodeKind::File(content) = &found.kind else {
                continue;
            };
            if content.rows().is_empty() {
                continue;
            }
            let left = until - runtime.now();
            let looked = self.held_elsewhere(content, node);
            match runtime.timeout(left, looked).await {
                Some(bytes) => copies.bytes = copies.bytes.saturating_add(bytes),
                None => {
                    copies.is_all = false;
                    break;
                }
            }
        }
        copies
    }

    /// Bytes of a content that no node but `node` is known to hold.
    async fn held_elsewhere(&self, content: &aber_proto::Content, node: NodeId) -> u64 {
        let parts = &self.node.parts;
        let Ok(chunks) = parts.content.chunks_of(content).await else {
            // Not even its list is here or on anybody who answers.
            return content.size();
        };
        let missing = match node == parts.config.me {
            true => chunks,
            false => parts.content.store().missing(&chunks).unwrap_or(chunks),
        };
        let total: u64 = missing.iter().map(|chunk| u64::from(chunk.length)).sum();
        let mut most = 0;
        for peer in parts.mesh.peers_up() {
            if most >= total {
                break;
            }
            if peer != node
                && let Some(held) = parts.content.held_by(peer, &missing).await
            {
                most = most.max(held);
            }
        }
        total.saturating_sub(most)
    }

    pub(super) fn apply_plan(
        &self,
        request: v1::ApplyClusterPlanRequest,
    ) -> Answer<Answers<v1::ApplyClusterPlanResponse>> {
        let parts = &self.node.parts;
        let now = parts.env.runtime().wall_clock();
        let plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        let planned = plans.get(&request.plan_id, now).cloned();
        drop(plans);
        let planned = planned
            .ok_or_else(|| Problem::new(Reason::PlanUnknown).with("plan", &request.plan_id))?;
        let row = parts.members.get().member(planned.node).cloned();
        // A removal by this very plan, whose answer was lost, is what was asked for.
        if let Some(row) = row.filter(|row| row.role().is_some())
            && (last_index(&row) != planned.role_index || row.name != planned.name)
        {
            let detail = format!("{} was changed", planned.name);
            return Err(Problem::new(Reason::PlanStale)
                .with("plan", &request.plan_id)
                .with("detail", detail));
        }
        let id = self.request_id(&request.request_id)?;
        let (sender, answers) = mpsc::channel(STREAM_QUEUE);
        let this = self.clone();
        parts.env.runtime().spawn("apply plan", async move {
            let answer = this.remove_member(&planned, id).await;
            let message = answer.map(|result| v1::ApplyClusterPlanResponse {
                message: Some(v1::apply_cluster_plan_response::Message::Result(result)),
            });
            // Whoever asked may be gone; the removal is not.
            let _gone = sender.send(message).await.is_err();
        });
        Ok(answers)
    }

    async fn remove_member(
        &self,
        planned: &Planned,
        request: RequestId,
    ) -> Result<v1::ClusterPlanResult, Problem> {
        let node = planned.node;
        let written = self.write_membership(Operation::RemoveMember { node }, request);
        let result = written
            .await
            .map_err(|problem| problem.with("member", &planned.name))?;
        let mut done = v1::ClusterPlanResult {
            result: Some(result),
            still_votes_in: Vec::new(),
        };
        if done
            .result
            .as_ref()
            .is_some_and(|result| result.entry.is_none())
        {
            return Ok(done);
        }
        let runtime = self.node.parts.env.runtime();
        let until: Instant = runtime.now() + MOVE_TIME;
        loop {
            done.still_votes_in = self.votes_of(node);
            if done.still_votes_in.is_empty() || runtime.now() >= until {
                return Ok(done);
            }
            runtime.sleep(MOVE_PAUSE).await;
        }
    }

    fn votes_of(&self, node: NodeId) -> Vec<u32> {
        let partitions = self.node.parts.partitions.iter();
        let voting = partitions.filter(|(_, group)| group.voters().contains(&node));
        voting.map(|(PartitionId(id), _)| *id).collect()
    }
}
