//! Goal 1: durable commits a second of three nodes, one small put in flight a client.

use super::api::{Api, End, Load, load};
use super::cluster::Cluster;
use super::etcd::{self, Etcd};
use super::row::{Divisor, Row, Values};
use super::{Bench, data, divisor};
use anyhow::Result;

const VALUE_BYTES: usize = 256;
/// Conditions of the aim.
const CPU_MAX_US: f64 = 80.0;

#[derive(Default)]
struct Figures {
    rate: Values,
    cpu_us: Values,
    p50_ms: Values,
    p99_ms: Values,
    rss_mib: Values,
}

impl Figures {
    fn push(&mut self, load: &Load, cpu_s: f64) {
        #[expect(clippy::cast_precision_loss, reason = "puts of a few seconds")]
        let count = load.count as f64;
        self.rate.push(count / load.seconds);
        self.cpu_us.push(cpu_s * 1e6 / count);
        self.p50_ms.push(load.p50_ms);
        self.p99_ms.push(load.p99_ms);
    }
}

pub(crate) fn measure(bench: &mut Bench) -> Result<()> {
    let has_etcd = divisor::is_installed(etcd::PROGRAM);
    if !has_etcd {
        bench.note("etcd: not installed (Debian: etcd-server), so goal 1 has no ratio");
    }
    bench.note("nats-server: not measured here, so the aim cannot be said to be met");
    let value = data::Numbers::new(7).random(VALUE_BYTES);
    let (mut own, mut peer, mut disk) = (Figures::default(), Figures::default(), Values::default());
    for _ in 0..bench.rounds(false) {
        aber_round(bench, &value, &mut own)?;
        if has_etcd {
            etcd_round(bench, &value, &mut peer)?;
        }
        disk.push(divisor::group_commit(&bench.directory("disk")?)?);
    }
    let clients = bench.scale.clients;
    let name = format!("committed puts of 256 B, 3 nodes, {clients} clients");
    bench.add(Row {
        what: "append + fdatasync, growing, batch of 128".to_owned(),
        unit: "rec/s",
        values: disk,
        ..Row::default()
    });
    for (values, unit) in [(own.p50_ms, "ms p50"), (own.p99_ms, "ms p99")] {
        bench.add(Row {
            what: name.clone(),
            unit,
            values,
            ..Row::default()
        });
    }
    bench.add(Row {
        what: name,
        unit: "put/s",
        goal: Some(1),
        values: own.rate,
        vs: Some(Divisor {
            what: format!("etcd, {clients} clients"),
            values: peer.rate,
            cpu_us_per_op: peer.cpu_us,
        }),
        conditions: vec![own.cpu_us.holds(|us| us <= CPU_MAX_US), None],
        cpu_us_per_op: own.cpu_us,
        rss_mib_max: own.rss_mib,
        nodes: Some(3),
        clients: Some(clients),
        ..Row::default()
    });
    Ok(())
}

fn aber_round(bench: &Bench, value: &[u8], figures: &mut Figures) -> Result<()> {
    let base = bench.directory("commits")?;
    let cluster = Cluster::three(&bench.aber, &base)?;
    let runtime = cluster.runtime();
    let first = cluster.first()?.data.clone();
    runtime.block_on(async { Api::connect(&first).await?.make_directory("/bench").await })?;
    cluster.settle()?;
    let leader = cluster.leader_of("/bench")?.data.clone();
    let (value, scale) = (value.to_vec(), bench.scale);
    let before = cluster.cpu_s()?;
    let done = runtime.block_on(async {
        let api = Api::connect(&leader).await?;
        load(
            scale.clients,
            End::After(scale.load_s),
            move |client, number| {
                let (api, value) = (api.clone(), value.clone());
                async move { api.put(format!("/bench/c{client}/{number}"), value).await }
            },
        )
        .await
    })?;
    figures.push(&done, cluster.cpu_s()? - before);
    figures.rss_mib.push(cluster.peak_mib()?);
    cluster.stop()
}

fn etcd_round(bench: &Bench, value: &[u8], figures: &mut Figures) -> Result<()> {
    let runtime = super::api::runtime()?;
    let etcd = Etcd::start(&bench.directory("etcd")?, &runtime)?;
    let before = etcd.cpu_s()?;
    let done = runtime.block_on(etcd.load(bench.scale.clients, bench.scale.load_s, value))?;
    figures.push(&done, etcd.cpu_s()? - before);
    Ok(())
}
