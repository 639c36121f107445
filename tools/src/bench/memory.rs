//! Goal 19: the greatest resident memory of a node while a large file passes through.

use super::cluster::Cluster;
use super::row::{Row, Values};
use super::{Bench, data};
use anyhow::{Context, Result};

pub(crate) fn measure(bench: &mut Bench) -> Result<()> {
    let file = bench.directory("data")?.join("big.bin");
    data::big_file(&file, bench.scale.big_bytes)?;
    let (mut writer, mut others, mut alone) = <(Values, Values, Values)>::default();
    for _ in 0..bench.rounds(true) {
        let cluster = Cluster::single(&bench.aber, &bench.directory("memory")?)?;
        cluster.put(&file, "/big.bin")?;
        cluster.settle()?;
        alone.push(cluster.peak_mib()?);
        cluster.stop()?;
        let cluster = Cluster::three(&bench.aber, &bench.directory("memory")?)?;
        cluster.put(&file, "/big.bin")?;
        cluster.settle()?;
        let last = cluster.nodes.last().context("a cluster without nodes")?;
        let mut read = cluster.command(last);
        cluster.run(read.args(["cat", "/big.bin"]))?;
        let peaks = cluster.peaks_mib()?;
        let (first, rest) = peaks.split_first().context("a cluster without nodes")?;
        writer.push(*first);
        others.push(rest.iter().copied().fold(0.0, f64::max));
        cluster.stop()?;
    }
    let rows = [
        ("cluster of one, a large file put", alone, 1),
        ("3 nodes, a large file: its writer", writer, 3),
        (
            "3 nodes, a large file: who gets it and serves it",
            others,
            3,
        ),
    ];
    for (what, values, nodes) in rows {
        bench.add(Row {
            what: what.to_owned(),
            unit: "MiB HWM",
            goal: Some(19),
            values,
            nodes: Some(nodes),
            ..Row::default()
        });
    }
    Ok(())
}
