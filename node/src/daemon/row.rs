//! [driver] This node's own row in the membership: set, by itself, to where it is reached now, and to
//! the uplink that it was told.

use crate::env::SystemEnv;
use crate::node::Node;
use crate::node::control::ControlProblem;
use aber_log::env::{Env, Runtime};
use aber_materializer::members::MemberRow;
use aber_proto::{Operation, Rates};
use std::time::Duration;

/// Rows have bytes a second.
const BITS: u64 = 8;
/// How long a change waits to be ordered before it is looked at again.
const PATIENCE: Duration = Duration::from_secs(60);

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
        let request = node.fresh_request();
        loop {
            let set = node.change_control(request, operation.clone(), PATIENCE);
            match set.await {
                Ok(_) => return,
                Err(ControlProblem::Waits(why)) => {
                    tracing::info!(
                        why,
                        "this node's new addresses or rate are not known to all yet"
                    );
                }
                Err(problem) => {
                    tracing::warn!(?problem, "this node's new addresses or rate are not told");
                    return;
                }
            }
        }
    });
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
        neighbours: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use aber_proto::{NodeId, PublicKey, Role};

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
