//! Goal 8: the log replayed into an empty directory, verified and durable, chunks at the node.

use super::cluster::Cluster;
use super::ingest::Rates;
use super::row::{Divisor, Row, Values};
use super::{Bench, data, divisor};
use anyhow::{Result, ensure};

pub(crate) fn measure(bench: &mut Bench) -> Result<()> {
    bench.note("the kernel's sources: not measured here, nor git checkout and borg extract");
    let tree = bench.directory("data/small")?;
    let total = data::small_files(&tree, bench.scale.files_count)?;
    let archive = bench.directory("data/tar")?.join("small.tar");
    divisor::archive(&tree, &archive)?;
    let cluster = Cluster::single(&bench.aber, &bench.directory("replay")?)?;
    cluster.put(&tree, "/")?;
    cluster.settle()?;
    let (mut own, mut peer, mut rss) = (Rates::default(), Rates::default(), Values::default());
    for round in 0..bench.rounds(false) {
        let into = bench.directory(&format!("into-{round}"))?;
        divisor::sync(&into)?;
        let node = cluster.first()?;
        let mut command = cluster.command(node);
        command.arg("materialize").arg("--from").arg(&node.data);
        command.arg("--into").arg(&into).arg("--once");
        let cost = cluster.run(&mut command)?;
        let found = std::fs::metadata(into.join("small/d00/f00000"))?.len();
        ensure!(found > 0 && total > found, "the replay is not the tree");
        rss.push(cluster.peak_mib()?);
        own.push(cost, bench.scale.files_count);
        let out = bench.directory(&format!("tar-{round}"))?;
        peer.push(divisor::extract(&archive, &out)?, bench.scale.files_count);
    }
    cluster.stop()?;
    bench.add(Row {
        what: "materialize --once of small files, node and command".to_owned(),
        unit: "files/s",
        goal: Some(8),
        values: own.rate,
        vs: Some(Divisor {
            what: "tar x + syncfs, small".to_owned(),
            values: peer.rate,
            cpu_us_per_op: peer.us,
        }),
        cpu_us_per_op: own.us,
        rss_mib_max: rss,
        nodes: Some(1),
        conditions: vec![None],
        ..Row::default()
    });
    Ok(())
}
