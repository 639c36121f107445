//! Joining: how long until a newcomer has something, and all of it; and what a cluster that is left
//! alone says.
//!
//! On loopback the processors are the limit; in the lab, where each host sends at 8 Mbit/s, the
//! inviter's line is. No file is counted before it stands in the mirror, and when all do they are
//! compared byte for byte. Newcomers never vote, so that one that is gone is no loss.

use super::Bench;
use super::cluster::Cluster;
use super::process::{HeldLab, wait_until};
use super::row::{Row, Values};
use super::slow::{
    FILE_BYTES, count_files, ensure_equal, fill, invite, lab_of, no_lab, start_joining,
};
use crate::lab::{Carried, Host};
use anyhow::{Context as _, Result};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

const SEED: u64 = 44;
const DIRECTORIES: usize = 100;
/// Until all is there: three times what the line needs, and a busy machine.
const PATIENCE: Duration = Duration::from_secs(600);
/// Between looks; a look at 10,000 files takes some milliseconds.
const LOOK: Duration = Duration::from_millis(20);
const IDLE_NODES: usize = 5;
const VOTERS: usize = 3;

pub(crate) fn measure(bench: &mut Bench) -> Result<()> {
    let tree = bench.directory("data/join")?;
    fill(&tree, bench.scale.files_count, DIRECTORIES, SEED)?;
    join_rounds(bench, &tree, None)?;
    if let Some(lacks) = no_lab() {
        bench.note(&format!("SKIPPED: slow lines: no lab: {lacks}"));
        return Ok(());
    }
    let lines = lab_of(2)?;
    join_rounds(bench, &tree, Some(&lines))?;
    drop(lines);
    idle(bench)
}

/// What one newcomer took.
struct Took {
    first_s: f64,
    all_s: f64,
    /// What the inviter sent before a first file stood there, and until all did; in a lab.
    sent: Option<[u64; 2]>,
}

fn join_rounds(bench: &mut Bench, tree: &Path, lab: Option<&HeldLab>) -> Result<()> {
    let (files, aber) = (bench.scale.files_count, bench.aber.clone());
    let label = if lab.is_some() {
        "8 Mbit/s up"
    } else {
        "loopback"
    };
    let base = bench.directory("founder")?;
    let founder = match lab {
        Some(lab) => Cluster::on_host(&aber, &base, lab, Host::new(1)?)?,
        None => Cluster::single(&aber, &base)?,
    };
    founder.put(tree, "/")?;
    founder.settle()?;
    let (mut first, mut all) = <(Values, Values)>::default();
    let (mut early, mut share) = <(Values, Values)>::default();
    for round in 0..bench.rounds(true) {
        let data = bench.directory("newcomer")?.join("n");
        let took = join_once(&founder, lab, &data, tree, files)?;
        bench.note(&format!(
            "round {round}: {:.2} s, {:.2} s",
            took.first_s, took.all_s
        ));
        first.push(took.first_s);
        all.push(took.all_s);
        #[expect(clippy::cast_precision_loss, reason = "figures")]
        if let Some([before_first, before_all]) = took.sent {
            early.push(before_first as f64 / 1e6);
            share.push(before_all as f64 / (files * FILE_BYTES) as f64);
        }
    }
    founder.stop()?;
    let row = |what: &str, unit, values| Row {
        what: format!("join, {label}: {what}"),
        unit,
        values,
        nodes: Some(2),
        ..Row::default()
    };
    bench.add(row("until a first file", "s", first));
    bench.add(row(&format!("until {files} files of 4 KiB"), "s", all));
    if !share.is_empty() {
        bench.add(row("sent by the inviter before a first file", "MB", early));
        bench.add(row(
            "sent by the inviter in all, of the content",
            "x",
            share,
        ));
    }
    Ok(())
}

fn sent_by_first(lab: Option<&HeldLab>) -> Result<Option<u64>> {
    let Some(lab) = lab else { return Ok(None) };
    Ok(lab.carried()?.first().map(|carried| carried.up_bytes))
}

/// From the start of `aber join` until all is there; then it is compared, and the newcomer ends.
fn join_once(
    founder: &Cluster,
    lab: Option<&HeldLab>,
    data: &Path,
    tree: &Path,
    files: usize,
) -> Result<Took> {
    let host = Host::new(2)?;
    let place = lab.map(|lab| (lab, host));
    let ticket = invite(founder, data, &["--no-vote"])?;
    let began = Instant::now();
    let mut daemon = start_joining(founder, place, data, &ticket)?;
    let mirror = data.join("mirror");
    let mut reach = |wanted: usize| -> Result<f64> {
        wait_until("files in the mirror", PATIENCE, || {
            daemon.check()?;
            sleep(LOOK);
            Ok(count_files(&mirror) >= wanted)
        })?;
        Ok(began.elapsed().as_secs_f64())
    };
    let before = sent_by_first(lab)?;
    let (first_s, first) = (reach(1)?, sent_by_first(lab)?);
    let (all_s, all) = (reach(files)?, sent_by_first(lab)?);
    let sent = match (before, first, all) {
        (Some(before), Some(first), Some(all)) => Some([first - before, all - before]),
        _ => None,
    };
    let took = Took {
        first_s,
        all_s,
        sent,
    };
    ensure_equal(tree, &mirror.join(tree.file_name().context("a name")?))?;
    daemon.end();
    Ok(took)
}

/// What each line carries while nobody does anything, headers and all.
fn idle(bench: &mut Bench) -> Result<()> {
    let (calm, silence, rounds) = match bench.scale.quick {
        true => (Duration::from_secs(1), Duration::from_secs(5), 1),
        false => (
            Duration::from_secs(30),
            Duration::from_secs(60),
            bench.rounds(true),
        ),
    };
    let lab = lab_of(IDLE_NODES)?;
    let base = bench.directory("idle")?;
    let mut cluster = Cluster::on_host(&bench.aber, &base, &lab, Host::new(1)?)?;
    for host in lab.hosts().iter().skip(1) {
        let data = base.join(format!("n{}", host.number()));
        let ticket = invite(&cluster, &data, &[])?;
        let daemon = start_joining(&cluster, Some((&lab, *host)), &data, &ticket)?;
        cluster.add(daemon, &data)?;
    }
    let tree = bench.directory("data/few")?;
    fill(&tree, DIRECTORIES, DIRECTORIES, SEED)?;
    cluster.put(&tree, "/")?;
    let mut roles = Vec::new();
    wait_until("three vote", PATIENCE, || {
        roles = cluster.roles()?;
        Ok(roles.iter().filter(|role| role.votes_in > 0).count() == VOTERS)
    })?;
    cluster.settle()?;
    sleep(calm);
    let mut lines = vec![<(Values, Values)>::default(); IDLE_NODES];
    for _ in 0..rounds {
        let before = lab.carried()?;
        sleep(silence);
        let after = lab.carried()?;
        for (line, (before, after)) in lines.iter_mut().zip(before.iter().zip(&after)) {
            let (up, down) = kilobits(before, after, silence);
            line.0.push(up);
            line.1.push(down);
        }
    }
    let roles = cluster.roles()?;
    cluster.stop()?;
    for ((host, line), role) in lab.hosts().iter().zip(lines).zip(roles) {
        let part = match (role.leads, role.votes_in) {
            (0, 0) => "follows".to_owned(),
            (0, _) => "votes".to_owned(),
            (leads, _) => format!("leads {leads}"),
        };
        for (way, values) in [("sends", line.0), ("gets", line.1)] {
            bench.add(Row {
                what: format!("idle, {IDLE_NODES} nodes: {host} ({part}) {way}"),
                unit: "kbit/s",
                values,
                nodes: Some(IDLE_NODES),
                ..Row::default()
            });
        }
    }
    Ok(())
}

/// Kilobits a second, up and down.
#[expect(clippy::cast_precision_loss, reason = "figures")]
fn kilobits(before: &Carried, after: &Carried, time: Duration) -> (f64, f64) {
    let rate = |before: u64, after: u64| {
        (after.saturating_sub(before) * 8) as f64 / 1000.0 / time.as_secs_f64()
    };
    (
        rate(before.up_bytes, after.up_bytes),
        rate(before.down_bytes, after.down_bytes),
    )
}
