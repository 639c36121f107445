//! Goals 4 and 6: a large file and many small ones into a cluster of one, until committed.

use super::cluster::Cluster;
use super::process::Cost;
use super::row::{Divisor, Row, Values};
use super::{Bench, data, divisor};
use anyhow::Result;

/// Conditions of the aims.
const BIG_MIN_MB_PER_S: f64 = 650.0;
const SMALL_CPU_MAX_US: f64 = 100.0;

pub(crate) fn measure_big(bench: &mut Bench) -> Result<()> {
    bench.note("borg, rsync: not measured here, so the aim cannot be said to be met");
    let file = bench.directory("data")?.join("big.bin");
    data::big_file(&file, bench.scale.big_bytes)?;
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
    let megabytes = bench.scale.big_bytes as f64 / 1e6;
    let (mut wall, mut cpu, mut rss) = <(Values, Values, Values)>::default();
    let (mut by, mut us, mut by_us) = <(Values, Values, Values)>::default();
    for _ in 0..bench.rounds(false) {
        let cluster = Cluster::single(&bench.aber, &bench.directory("big")?)?;
        divisor::sync(&file)?;
        let cost = cluster.put(&file, "/big.bin")?;
        rss.push(cluster.peak_mib()?);
        cluster.stop()?;
        wall.push(megabytes / cost.wall_s);
        cpu.push(megabytes / cost.cpu_s.max(0.01));
        us.push(cost.cpu_s * 1e6 / megabytes);
        let pipeline_s = divisor::pipeline_cpu_s(&file)?;
        by.push(megabytes / pipeline_s);
        by_us.push(pipeline_s * 1e6 / megabytes);
    }
    let name = "put of the large file, cluster of one, node and command";
    let conditions = vec![wall.holds(|rate| rate >= BIG_MIN_MB_PER_S), None];
    bench.add(Row {
        what: name.to_owned(),
        unit: "MB/s",
        values: wall,
        nodes: Some(1),
        ..Row::default()
    });
    bench.add(Row {
        what: name.to_owned(),
        unit: "MB/cpu-s",
        goal: Some(4),
        values: cpu,
        vs: Some(Divisor {
            what: "pipeline cdc + blake3 + lz4, mixed".to_owned(),
            values: by,
            cpu_us_per_op: by_us,
        }),
        cpu_us_per_op: us,
        rss_mib_max: rss,
        nodes: Some(1),
        conditions,
        ..Row::default()
    });
    Ok(())
}

pub(crate) fn measure_small(bench: &mut Bench) -> Result<()> {
    bench.note("borg: not measured here, so the aim cannot be said to be met");
    let tree = bench.directory("data/small")?;
    data::small_files(&tree, bench.scale.files_count)?;
    let (mut own, mut peer, mut rss) = (Rates::default(), Rates::default(), Values::default());
    for _ in 0..bench.rounds(false) {
        let cluster = Cluster::single(&bench.aber, &bench.directory("small")?)?;
        divisor::sync(&tree)?;
        let cost = cluster.put(&tree, "/")?;
        rss.push(cluster.peak_mib()?);
        cluster.stop()?;
        own.push(cost, bench.scale.files_count);
        let copied = divisor::copy(&tree, &bench.directory("copied")?)?;
        peer.push(copied, bench.scale.files_count);
    }
    let conditions = vec![own.us.holds(|us| us <= SMALL_CPU_MAX_US), None];
    bench.add(Row {
        what: "put -r of small files, cluster of one, node and command".to_owned(),
        unit: "files/s",
        goal: Some(6),
        values: own.rate,
        vs: Some(Divisor {
            what: "cp -a, small".to_owned(),
            values: peer.rate,
            cpu_us_per_op: peer.us,
        }),
        cpu_us_per_op: own.us,
        rss_mib_max: rss,
        nodes: Some(1),
        conditions,
        ..Row::default()
    });
    Ok(())
}

/// Files a second, and CPU a file.
#[derive(Default)]
pub(crate) struct Rates {
    pub(crate) rate: Values,
    pub(crate) us: Values,
}

impl Rates {
    pub(crate) fn push(&mut self, cost: Cost, files_count: usize) {
        #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
        let count = files_count as f64;
        self.rate.push(count / cost.wall_s);
        self.us.push(cost.cpu_s * 1e6 / count);
    }
}
