//! [driver] This node's own row in the membership: set, by itself, to where it is reached now, to the
//! uplink that it was told, and to what of it others may count on.

use super::usable::{Line, Teller};
use crate::env::SystemEnv;
use crate::node::Node;
use crate::node::control::ControlProblem;
use aber_log::env::{Env, Runtime};
use aber_materializer::members::MemberRow;
use aber_proto::{NodeId, Operation, Rates};
use std::time::Duration;

/// Rows have bytes a second.
const BITS: u64 = 8;
/// How long a change waits to be ordered before it is looked at again.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between looks at the own uplink.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Once its row is known here, sets its addresses to those that this start has, and its uplink to
/// what this start was told, in bits a second, unless they are the same. One change, which waits
/// in the outbox as long as it takes.
pub(super) fn announce(env: &SystemEnv, node: &Node<SystemEnv>, up: Option<u64>) {
    let node = node.clone();
    env.runtime().spawn("own row", async move {
        let (me, addresses) = {
            let config = &node.parts.config;
            (config.me, config.options.addresses.clone())
        };
        let mut members = node.parts.members.clone();
        let known = members.until(|members| members.member(me).is_some()).await;
        let Some(operation) = known
            .member(me)
            .and_then(|row| news(row, addresses, up.map(|bits| bits / BITS)))
        else {
            return;
        };
        set(&node, operation).await;
    });
}

/// Sets this node's own row, if it takes all day.
async fn set(node: &Node<SystemEnv>, operation: Operation) {
    let request = node.fresh_request();
    loop {
        let set = node.change_control(request, operation.clone(), PATIENCE);
        match set.await {
            Ok(_) => return,
            Err(ControlProblem::Waits(why)) => {
                tracing::info!(why, "this node's new row is not known to all yet");
            }
            Err(problem) => {
                tracing::warn!(?problem, "this node's new row is not told");
                return;
            }
        }
    }
}

/// Tells what others may count on of this node's uplink, as long as it runs and is a member.
pub(super) fn keep_usable(env: &SystemEnv, node: &Node<SystemEnv>) {
    let (node, runtime) = (node.clone(), env.runtime().clone());
    env.runtime().spawn("usable uplink", async move {
        let me = node.parts.config.me;
        let mut teller = Teller::default();
        loop {
            runtime.sleep(LOOK_EVERY).await;
            let members = node.parts.members.get();
            let Some(row) = members.member(me).filter(|row| row.role().is_some()) else {
                continue;
            };
            let line = Line {
                declared: row.uplink.up,
                told: row.usable_up,
                usable: node.parts.mesh.uplink().usable(),
            };
            if let Some(usable) = teller.step(runtime.now(), line) {
                tracing::info!(usable, "bytes a second of the uplink are said to be usable");
                set(&node, usable_set(me, usable)).await;
            }
        }
    });
}

fn usable_set(node: NodeId, usable_up: u64) -> Operation {
    Operation::SetMember {
        node,
        name: None,
        role: None,
        is_voter_eligible: None,
        addresses: None,
        uplink: None,
        usable_up: Some(usable_up),
        neighbours: None,
    }
}

/// What is to be set of this node's own row; `up` is in bytes a second.
fn news(row: &MemberRow, addresses: Vec<String>, up: Option<u64>) -> Option<Operation> {
    let addresses = Some(addresses).filter(|all| !all.is_empty() && *all != row.addresses);
    let up = up.filter(|up| *up != row.uplink.up);
    let down = row.uplink.down;
    let is_news = addresses.is_some() || up.is_some();
    (is_news && row.role().is_some()).then_some(Operation::SetMember {
        node: row.node,
        name: None,
        role: None,
        is_voter_eligible: None,
        addresses,
        uplink: up.map(|up| Rates { up, down }),
        usable_up: None,
        neighbours: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use aber_proto::{PublicKey, Role};

    #[test]
    fn only_what_is_new_is_told() {
        let addresses = vec!["a:1".to_owned()];
        let row = MemberRow {
            node: NodeId(7),
            name: "yann".to_owned(),
            key: PublicKey([7; 32]),
            is_voter_eligible: true,
            addresses: addresses.clone(),
            uplink: Rates {
                up: 125_000,
                down: 9,
            },
            usable_up: 0,
            neighbours: Vec::new(),
            roles: vec![(0, Some(Role::Writer))],
        };
        assert_eq!(news(&row, addresses.clone(), None), None);
        assert_eq!(news(&row, Vec::new(), Some(125_000)), None);
        let told = |addresses, up| match news(&row, addresses, up) {
            Some(Operation::SetMember {
                addresses, uplink, ..
            }) => (addresses, uplink),
            other => panic!("{other:?}"),
        };
        let other = vec!["b:2".to_owned()];
        assert_eq!(told(other.clone(), None), (Some(other), None));
        let rates = Rates { up: 0, down: 9 };
        assert_eq!(told(addresses.clone(), Some(0)), (None, Some(rates)));
        let removed = MemberRow {
            roles: vec![(0, Some(Role::Writer)), (9, None)],
            ..row.clone()
        };
        assert_eq!(news(&removed, Vec::new(), Some(1)), None);
    }
}
