//! [driver] What part of its line this node uses now: as its schedule says, by local time.

use crate::env::{SystemEnv, zone};
use crate::node::Node;
use crate::schedule::Schedule;
use aber_log::env::{Env, Runtime};
use std::time::Duration;

/// Between looks at the clock: a span begins that late at most.
const LOOK_EVERY: Duration = Duration::from_secs(20);

/// Keeps the uplink to a schedule, as long as the node runs.
pub(super) fn keep(env: &SystemEnv, node: &Node<SystemEnv>, schedule: Schedule) {
    if schedule.is_empty() {
        return;
    }
    let (env, uplink) = (env.clone(), node.parts.mesh.uplink().clone());
    let runtime = env.runtime().clone();
    runtime.clone().spawn("pace", async move {
        let zone = zone::local();
        let mut before = None;
        loop {
            let seconds = runtime.wall_clock().0.div_euclid(1000);
            let local = seconds.saturating_add(zone.offset_at(seconds));
            let percent = schedule.up_percent_at(local).map(u64::from);
            if percent != before {
                match percent {
                    Some(percent) => tracing::info!(percent, "this part of the line is used"),
                    None => tracing::info!("as much of the line is used as leaves no queue"),
                }
                uplink.set_part(percent);
                before = percent;
            }
            runtime.sleep(LOOK_EVERY).await;
        }
    });
}
