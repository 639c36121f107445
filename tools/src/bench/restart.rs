//! Goal 18: from the start of a process after kill -9 until it serves reads and writes.

use super::Bench;
use super::api::{Api, End, load};
use super::cluster::Cluster;
use super::row::{Row, Values};
use anyhow::{Result, ensure};
use std::path::Path;
use std::time::{Duration, Instant};

/// Files that the entries write over and over: the log is long, the tree is not.
const PATHS: u64 = 1_000;
const CLIENTS: usize = 128;
/// How long a read may go on being refused.
const READ_PATIENCE: Duration = Duration::from_secs(300);
const LOOK: Duration = Duration::from_millis(5);

pub(crate) fn measure(bench: &mut Bench) -> Result<()> {
    let base = bench.directory("restart")?;
    let mut cluster = Cluster::single(&bench.aber, &base)?;
    let (mut warm, mut bare, mut rss) = <(Values, Values, Values)>::default();
    fill(&cluster, bench.scale.entries_count)?;
    for _ in 0..bench.rounds(true) {
        cluster.kill()?;
        let (took_s, next) = restart(bench, &base, "restart")?;
        warm.push(took_s);
        rss.push(next.peak_mib()?);
        next.kill()?;
        let index = base.join("n1/index");
        ensure!(index.is_dir(), "{}: no index there", index.display());
        super::process::remove(&index);
        let (took_s, next) = restart(bench, &base, "index removed")?;
        bare.push(took_s);
        cluster = next;
        cluster.settle()?;
    }
    cluster.stop()?;
    let entries = bench.scale.entries_count;
    bench.add(Row {
        what: format!("restart with {entries} entries, index removed"),
        unit: "s",
        values: bare,
        ..Row::default()
    });
    bench.add(Row {
        what: format!("restart after kill -9 with {entries} entries"),
        unit: "s",
        goal: Some(18),
        values: warm,
        rss_mib_max: rss,
        nodes: Some(1),
        ..Row::default()
    });
    Ok(())
}

fn fill(cluster: &Cluster, entries_count: u64) -> Result<()> {
    let data = cluster.first()?.data.clone();
    cluster.runtime().block_on(async {
        let api = Api::connect(&data).await?;
        api.make_directory("/bench").await?;
        load(CLIENTS, End::Count(entries_count), move |_, number| {
            let api = api.clone();
            let path = format!("/bench/f{}", number % PATHS);
            async move { api.put(path, number.to_le_bytes().repeat(8)).await }
        })
        .await
    })?;
    Ok(())
}

/// Seconds from the start of the process until one read and one write were answered.
fn restart(bench: &Bench, base: &Path, what: &str) -> Result<(f64, Cluster)> {
    let began = Instant::now();
    let cluster = Cluster::single(&bench.aber, base)?;
    let data = cluster.first()?.data.clone();
    let mut was_refused = false;
    cluster.runtime().block_on(async {
        let api = Api::connect(&data).await?;
        let until = Instant::now() + READ_PATIENCE;
        while let Err(refusal) = api.get("/bench/f1").await {
            // Said once: whoever asks in between is told that an acknowledged file is not there.
            if !std::mem::replace(&mut was_refused, true) {
                bench.note(&format!("{what}: a first read was answered {refusal:#}"));
            }
            ensure!(Instant::now() < until, "what was acknowledged is gone");
            tokio::time::sleep(LOOK).await;
        }
        let body = what.as_bytes().to_vec();
        api.put("/bench/after".to_owned(), body).await
    })?;
    Ok((began.elapsed().as_secs_f64(), cluster))
}
