//! [driver] Admins who invite, admit, set and remove members while the cluster suffers.
//!
//! Changes go straight into a node's outbox, as the node's own services put them there. Newcomers
//! are keys without a machine; founders change roles, but each may always write, so that clients
//! see nothing of it.

use super::subject::{Aber, AberNode};
use crate::sim::World;
use crate::sim::cluster::Cluster;
use aber_log::outbox::item::Item;
use aber_proto::{Change, ChangeHash, Event, NodeId, Operation, PartitionId, Precondition};
use aber_proto::{PublicKey, Rates, RequestId, Role, TicketId, Timestamp};
use std::time::Duration;

/// Tickets there may be in a run: few, so that some are used twice.
const TICKETS: u64 = 8;
/// Longest wait for a disk that may have died.
const PATIENCE: Duration = Duration::from_secs(5);
const HOUR_MS: i64 = 3_600_000;
/// Longest wait until neighbours are declared, before the first fault.
const CHAIN_LIMIT: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// One change by a node, queued in its outbox; whether it lands is for the cluster to say.
pub(super) async fn act(world: &World, node: NodeId, handle: &AberNode) {
    let operation = draw(world, node, handle);
    submit(world, node, handle, operation).await;
}

/// Queues a change of the control partition in a node's outbox.
pub(super) async fn submit(world: &World, node: NodeId, handle: &AberNode, operation: Operation) {
    let parts = &handle.node.parts;
    let mut request = [0; 16];
    let (one, other) = request.split_at_mut(8);
    one.copy_from_slice(&world.draw(u64::MAX).to_le_bytes());
    other.copy_from_slice(&world.draw(u64::MAX).to_le_bytes());
    let change = Change {
        cluster: parts.cluster,
        partition: PartitionId::CONTROL,
        author: node,
        author_sequence: 0,
        previous: ChangeHash::default(),
        request: RequestId(request),
        wall_time: Timestamp(0),
        comment: String::new(),
        via: "admin".to_owned(),
        origin: None,
        events: vec![Event {
            precondition: Precondition::default(),
            operation,
        }],
    };
    let item = Item {
        change,
        volume: None,
        paths: Vec::new(),
        min_copies: 0,
        is_in_train: false,
        signed: None,
    };
    let submitted = parts.outbox.submit(item, Vec::new());
    // A node that dies meanwhile may or may not have it.
    let _unknown = tokio::time::timeout(PATIENCE, submitted).await;
}

/// Says of each node that its neighbours are the one before it and the one after it. Waits a while
/// until the first node has it from the log.
pub(super) async fn declare_chain(world: &World, cluster: &Cluster<Aber>) {
    let nodes = cluster.nodes();
    let (Some(first), deadline) = (nodes.first().copied(), CHAIN_LIMIT) else {
        return;
    };
    let all = async {
        let handle = loop {
            if let Some((_, handle)) = cluster.handle(first) {
                break handle;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        };
        for node in &nodes {
            let near = |other: &&NodeId| other.0.abs_diff(node.0) == 1;
            let operation = Operation::SetMember {
                node: *node,
                name: None,
                role: None,
                is_voter_eligible: None,
                addresses: None,
                uplink: None,
                usable_up: None,
                neighbours: Some(nodes.iter().filter(near).copied().collect()),
            };
            submit(world, first, &handle, operation).await;
        }
        let mut members = handle.node.parts.members.clone();
        let is_told = |row: &aber_materializer::members::MemberRow| !row.neighbours.is_empty();
        members
            .until(|members| members.present().all(is_told))
            .await;
    };
    if tokio::time::timeout(deadline, all).await.is_err() {
        world.trace(first, format_args!("the chain is not declared yet"));
    }
}

fn draw(world: &World, me: NodeId, handle: &AberNode) -> Operation {
    let members = handle.node.parts.members.get();
    let founders: Vec<_> = members.all().filter(|row| row.admitted() == 0).collect();
    let newcomers: Vec<_> = members.present().filter(|row| row.admitted() > 0).collect();
    let (founder, newcomer) = world.with_random(|random| {
        let founder = random.pick(&founders).map_or(me, |row| row.node);
        (founder, random.pick(&newcomers).map(|row| row.node))
    });
    let ticket = ticket(world.draw(TICKETS));
    match (world.draw(8), newcomer) {
        (0 | 1, _) => Operation::Invite {
            ticket,
            role: Role::Writer,
            is_voter_eligible: false,
            name: None,
            expires: Timestamp(world.wall_clock(me).0 + HOUR_MS),
        },
        (2, _) => Operation::RevokeTicket { ticket },
        (3, _) => {
            let is_admin = world.draw(2) == 0;
            set(
                founder,
                Some(if is_admin { Role::Admin } else { Role::Writer }),
            )
        }
        (4, Some(node)) => set(node, Some(Role::Reader)),
        (5, Some(node)) => Operation::RemoveMember { node },
        (6, _) => set(me, None),
        _ => {
            let number = world.draw(4 * TICKETS);
            Operation::Admit {
                ticket,
                key: PublicKey(blake3::derive_key(
                    "aber tests newcomer",
                    &number.to_le_bytes(),
                )),
                name: format!("guest-{}", number % 8),
                addresses: Vec::new(),
            }
        }
    }
}

fn ticket(number: u64) -> TicketId {
    TicketId(blake3::derive_key(
        "aber tests ticket",
        &number.to_le_bytes(),
    ))
}

/// Sets the role, or what a member may say of itself.
fn set(node: NodeId, role: Option<Role>) -> Operation {
    // Kept to, so what an ordinary line has: 1 Mbit/s and more.
    let up = node.0 * 125_000;
    let uplink = Rates { up, down: 2 * up };
    Operation::SetMember {
        node,
        name: None,
        role,
        is_voter_eligible: None,
        addresses: None,
        uplink: role.is_none().then_some(uplink),
        usable_up: role.is_none().then_some(up / 2),
        neighbours: None,
    }
}
