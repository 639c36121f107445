//! [driver] Newcomers: let in by the founder while the cluster suffers, and started as whole nodes.
//!
//! What the door of a real node checks is not here; what follows from an admission is: a node with
//! an empty log and contacts on the founder's word, that follows, catches up, votes, and writes.

use super::admin;
use super::check::lock;
use super::subject::{Aber, AberNode};
use crate::sim::World;
use crate::sim::cluster::Cluster;
use aber_log::env::network::Peer;
use aber_node::node::Contact;
use aber_proto::{Genesis, NodeId, Operation, Role, SecretKey, TicketId, Timestamp, codec};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The founder, who lets everybody in.
const FOUNDER: NodeId = NodeId(1);
/// Between looks at whether a newcomer is in.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Looks until the admission is asked for again.
const LOOKS: u32 = 20;
const HOUR_MS: i64 = 3_600_000;

/// What a newcomer starts with.
#[derive(Clone)]
pub(super) struct Newcomer {
    /// Which of the newcomers.
    pub(super) number: u64,
    /// The members when it was let in.
    pub(super) contacts: Vec<Contact>,
}

/// The newcomers that are in, by the number they got as members.
pub(super) type Newcomers = Arc<Mutex<BTreeMap<NodeId, Newcomer>>>;

/// The key of a newcomer.
pub(super) fn key_of(number: u64) -> Result<SecretKey, String> {
    let seed = blake3::derive_key("aber tests key of a newcomer", &number.to_le_bytes());
    SecretKey::from_seed(&seed).map_err(|problem| problem.to_string())
}

/// Lets newcomers in, one after the other, until the safety phase ends.
pub(super) async fn let_in(
    world: &World,
    cluster: &Cluster<Aber>,
    newcomers: &Newcomers,
    genesis: &Genesis,
    (count, ends_ns): (u64, u64),
) {
    for number in 0..count {
        let pause_ms = world.between(500, 6000);
        tokio::time::sleep(Duration::from_millis(pause_ms)).await;
        while world.now_ns() < ends_ns {
            let Some((_, founder)) = cluster.handle(FOUNDER) else {
                tokio::time::sleep(LOOK_EVERY).await;
                continue;
            };
            if let Some((node, contacts)) = admit(world, &founder, number).await {
                lock(newcomers).insert(node, Newcomer { number, contacts });
                cluster.add(node, codec::encode_genesis(genesis).into());
                cluster.boot(node);
                break;
            }
        }
    }
}

/// Asks for an admission, and waits for it a while.
async fn admit(world: &World, founder: &AberNode, number: u64) -> Option<(NodeId, Vec<Contact>)> {
    let key = key_of(number).ok()?.public();
    let ticket = TicketId(blake3::derive_key(
        "aber tests ticket of a newcomer",
        &number.to_le_bytes(),
    ));
    let parts = &founder.node.parts;
    if parts.members.get().by_key(&key).is_none() {
        let invite = Operation::Invite {
            ticket,
            role: Role::Writer,
            is_voter_eligible: true,
            name: None,
            expires: Timestamp(world.wall_clock(FOUNDER).0 + HOUR_MS),
        };
        admin::submit(world, FOUNDER, founder, invite).await;
        let admit = Operation::Admit {
            ticket,
            key,
            name: format!("newcomer-{number}"),
            addresses: vec![format!("newcomer-{number}:7440")],
        };
        admin::submit(world, FOUNDER, founder, admit).await;
    }
    for _ in 0..LOOKS {
        let members = parts.members.get();
        if let Some(row) = members.by_key(&key) {
            let contacts = members.present().map(|row| Contact {
                node: row.node,
                name: row.name.clone(),
                peer: Peer {
                    key: row.key,
                    addresses: row.addresses.clone(),
                },
            });
            return Some((row.node, contacts.collect()));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    None
}
