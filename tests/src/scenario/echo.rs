//! [driver] The world with nothing but echo nodes: durable counters under all faults, then every
//! node hears every other again.

use crate::sim::World;
use crate::sim::cluster::Cluster;
use crate::sim::echo::Echo;
use crate::sim::fault::{Dealer, Swarm, heal, wait_until};
use crate::sim::run::{self, Report, RunOptions, Tally};
use aber_proto::NodeId;
use bytes::Bytes;
use std::time::Duration;

/// Runs a seed.
pub(super) fn run(options: &RunOptions) -> Report {
    let planted = options.planted.clone();
    run::run(options, |world, swarm| play(world, swarm, planted))
}

async fn play(world: World, swarm: Swarm, planted: Option<String>) -> Tally {
    let echo = Echo::new(swarm.node_count, planted);
    let cluster = Cluster::new(&world, echo.clone());
    for node in (1..=swarm.node_count).map(NodeId) {
        cluster.add(node, Bytes::new());
        cluster.boot(node);
    }
    let faults = Dealer::new(&cluster, &swarm).deal().await;
    heal(&cluster).await;
    let others = usize::try_from(swarm.node_count).unwrap_or(usize::MAX) - 1;
    let has_all = wait_until(&cluster, Duration::from_secs(60), async || {
        let nodes = cluster.nodes();
        let hears_all = |node: &NodeId| {
            let handle = cluster.handle(*node);
            handle.is_some_and(|(_, handle)| handle.heard().len() == others)
        };
        nodes.iter().all(hears_all)
    });
    if !has_all.await {
        world.broken("A5: not all nodes hear each other 60 s after the last fault".to_owned());
    }
    for node in cluster.nodes() {
        let call = cluster.call(node, |node| async move { node.heard().len() });
        if call.await.is_none() {
            world.broken(format!("A5: node {node} does not answer"));
        }
    }
    cluster.stop().await;
    Tally {
        faults,
        acked_count: echo.acked_count(),
    }
}
