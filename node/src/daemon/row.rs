//! [driver] This node's own row in the membership: set, by itself, to where it is reached now.

use crate::env::SystemEnv;
use crate::node::Node;
use crate::node::control::ControlProblem;
use aber_log::env::{Env, Runtime};
use aber_proto::Operation;
use std::time::Duration;

/// How long a change waits to be ordered before it is looked at again.
const PATIENCE: Duration = Duration::from_secs(60);

/// Once its row is known here, sets its addresses to those that this start has, unless they are
/// the same. One change, which waits in the outbox as long as it takes.
pub(super) fn announce(env: &SystemEnv, node: &Node<SystemEnv>) {
    let node = node.clone();
    env.runtime().spawn("own row", async move {
        let (me, addresses) = {
            let config = &node.parts.config;
            (config.me, config.options.addresses.clone())
        };
        let mut members = node.parts.members.clone();
        let known = members.until(|members| members.member(me).is_some()).await;
        let is_told = known
            .member(me)
            .is_none_or(|row| row.role().is_none() || row.addresses == addresses);
        if is_told || addresses.is_empty() {
            return;
        }
        let request = node.fresh_request();
        let operation = Operation::SetMember {
            node: me,
            name: None,
            role: None,
            is_voter_eligible: None,
            addresses: Some(addresses),
            uplink: None,
            neighbours: None,
        };
        loop {
            let set = node.change_control(request, operation.clone(), PATIENCE);
            match set.await {
                Ok(_) => return,
                Err(ControlProblem::Waits(why)) => {
                    tracing::info!(why, "this node's new addresses are not known to all yet");
                }
                Err(problem) => {
                    tracing::warn!(?problem, "this node's new addresses are not told");
                    return;
                }
            }
        }
    });
}
