//! One writer, slow lines: how long until every mirror holds it, and who sent how much.
//!
//! Nodes run in the lab, at 8 Mbit/s up and 80 down, with these rates declared. Times run from the
//! start of `aber put` (of the call of the API for small files) until the last mirror shows it, the
//! writer's own too: cutting, commit and the disks are in them. Bytes are whole frames, counted at
//! the switch. Each row of times has beside it how busy the machine was: on two cores sixteen nodes
//! may wait for them, and not for their lines.

mod bound;
mod case;
mod net;
mod peers;
mod picture;
mod torrent;
mod tracker;
mod trouble;
mod watch;

use super::row::{Row, Values};
use super::slow::no_lab;
use super::{Bench, append, say};
use crate::lab::lacks_distance;
use anyhow::{Context as _, Result, ensure};
use clap::{Args, ValueEnum};
use net::Net;
use picture::Series;
use serde_json::Value;
use std::path::PathBuf;
use std::time::Duration;

/// The goal that all these rows are part of.
const GOAL: u8 = 17;
/// How long a frame is on its way where hosts are far from each other.
const FAR: Duration = Duration::from_millis(20);
/// Fewer have nobody to pass anything on.
const NODES_MIN: usize = 3;
const QUICK_NODES: usize = 3;

/// What of `fanout` is measured, and on how many nodes.
#[derive(Args, Clone, Debug)]
pub struct FanoutOptions {
    /// fanout: on clusters of so many nodes
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [8, 16])]
    nodes: Vec<usize>,
    /// fanout: only these cases
    #[arg(long, value_name = "CASE", value_enum, value_delimiter = ',')]
    only: Vec<Case>,
    /// fanout: how long the case `elections` keeps all uplinks full
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    full_s: u32,
    /// fanout: what other programs do on the same lines, too, or `=alone`
    #[arg(long, value_name = "HOW", value_enum, num_args = 0..=1, require_equals = true,
        default_missing_value = "too")]
    peers: Option<Peers>,
    /// fanout: draw completion over time, of this run and of what --out holds
    #[arg(long, value_name = "FILE")]
    picture: Option<PathBuf>,
}

/// Whether other programs are measured beside aber, or without it.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum Peers {
    Too,
    Alone,
}

/// One thing that is measured on each size of cluster.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum Case {
    /// One file of 16 MiB
    Big,
    /// 1,000 files of 4 KiB
    Small,
    /// One file of 4 KiB, idle lines
    Touch,
    /// The same on hosts that are 20 ms apart
    Far,
    /// The same while a file of 64 MiB is on its way
    Busy,
    /// Every node writes at once: elections
    Elections,
    /// The writer is cut off once its file is committed
    Cut,
    /// Half of the nodes away at the write, back without the writer
    Half,
    /// The same, back after the relays have forgotten it
    Later,
}

/// How much of everything.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    big_bytes: u32,
    files: u32,
    bulk_bytes: u32,
    full_s: u32,
    samples: usize,
    cuts: usize,
}

impl Sizes {
    fn of(bench: &Bench) -> Self {
        if bench.scale.quick {
            return Self {
                big_bytes: 1 << 20,
                files: 50,
                bulk_bytes: 2 << 20,
                full_s: 3,
                samples: 3,
                cuts: 1,
            };
        }
        Self {
            big_bytes: 16 << 20,
            files: 1000,
            bulk_bytes: 64 << 20,
            full_s: bench.fanout.full_s,
            samples: 15,
            cuts: 5,
        }
    }
}

/// Measures the cases that were asked for, on each size of cluster.
pub(super) fn measure(bench: &mut Bench) -> Result<()> {
    if let Some(lacks) = no_lab() {
        bench.note(&format!("SKIPPED: fanout: no lab: {lacks}"));
        return Ok(());
    }
    let options = bench.fanout.clone();
    let sizes = Sizes::of(bench);
    let mut drawn = Vec::new();
    let nodes = match bench.scale.quick {
        true => vec![QUICK_NODES],
        false => options.nodes.clone(),
    };
    for nodes in nodes {
        ensure!(nodes >= NODES_MIN, "--nodes: at least {NODES_MIN}");
        if options.peers != Some(Peers::Alone) {
            measure_aber(bench, nodes, sizes, &mut drawn)?;
        }
        if options.peers.is_some() {
            drawn.extend(peers::measure(bench, nodes, sizes)?);
            bench.flush()?;
        }
    }
    draw(bench, drawn)
}

fn measure_aber(
    bench: &mut Bench,
    nodes: usize,
    sizes: Sizes,
    drawn: &mut Vec<Series>,
) -> Result<()> {
    let only = bench.fanout.only.clone();
    let is_wanted = |case: &&Case| only.is_empty() || only.contains(case);
    let cases = Case::value_variants().iter().filter(is_wanted);
    // A distance is of the lab, and so of a cluster of its own.
    let (far, near): (Vec<Case>, Vec<Case>) = cases.partition(|case| **case == Case::Far);
    for (cases, delay) in [(near, Duration::ZERO), (far, FAR)] {
        if cases.is_empty() {
            continue;
        }
        if let Some(lacks) = (!delay.is_zero()).then(lacks_distance).flatten() {
            bench.note(&format!("SKIPPED: hosts far from each other: no {lacks}"));
            continue;
        }
        let mut net = Net::make(bench, nodes, delay)?;
        say(&format!("  {nodes} nodes are ready"));
        for case in cases {
            let label = format!("{case:?}, {nodes} nodes");
            run(bench, &mut net, case, sizes, drawn).context(label)?;
            bench.flush()?;
        }
        net.stop()?;
    }
    Ok(())
}

fn run(
    bench: &mut Bench,
    net: &mut Net,
    case: Case,
    sizes: Sizes,
    drawn: &mut Vec<Series>,
) -> Result<()> {
    match case {
        Case::Big => drawn.extend(case::big(bench, net, sizes)?),
        Case::Small => case::small(bench, net, sizes)?,
        Case::Touch => case::touch(bench, net, sizes, 0.15)?,
        Case::Far => case::touch(bench, net, sizes, 0.3)?,
        Case::Busy => trouble::busy(bench, net, sizes)?,
        Case::Elections => trouble::elections(bench, net, sizes)?,
        Case::Cut => trouble::cut(bench, net, sizes)?,
        Case::Half => trouble::half(bench, net, sizes, false)?,
        Case::Later => trouble::half(bench, net, sizes, true)?,
    }
    Ok(())
}

/// A row of this measurement.
fn row(net: &Net, what: &str, unit: &'static str, values: Values) -> Row {
    Row {
        what: format!("fanout, N={}: {what}", net.count()),
        unit,
        values,
        nodes: Some(net.count()),
        ..Row::default()
    }
}

/// Draws what the rows of earlier runs say.
pub(super) fn draw_rows(bench: &Bench) -> Result<()> {
    let has_all = bench.out.is_some() && bench.fanout.picture.is_some();
    ensure!(has_all, "draw: what (--out), and where to (--picture)");
    draw(bench, Vec::new())
}

/// Draws what was measured now, and before it what the rows of earlier runs say.
fn draw(bench: &Bench, drawn: Vec<Series>) -> Result<()> {
    let Some(picture) = &bench.fanout.picture else {
        return Ok(());
    };
    let rows = bench.out.as_ref().map(std::fs::read_to_string);
    let rows = rows.transpose()?.unwrap_or_default();
    let rows = rows.lines().map(serde_json::from_str::<Value>);
    let mut all: Vec<Series> = rows
        .flatten()
        .filter_map(|row| Series::read(&row))
        .collect();
    all.extend(drawn);
    let size = Sizes::of(bench).big_bytes >> 20;
    let title =
        format!("Mirrors that hold one file of {size} MiB, over time (8 Mbit/s up, 80 down)");
    let svg = picture::draw(&picture::newest(all), &title);
    // Instead of what was there.
    if picture.exists() {
        std::fs::remove_file(picture)?;
    }
    append(Some(picture), &svg)
}
