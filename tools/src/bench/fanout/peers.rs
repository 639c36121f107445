//! What other programs do with the same file on the same lines: rsync from the writer to each, and
//! BitTorrent.
//!
//! Times run from when the others are told to fetch, or the writer to send; the writer's own copy is
//! there before. A program that is not installed is said to be missing, and its row stays empty.

use super::super::Bench;
use super::super::data::Numbers;
use super::super::process::{Daemon, HeldLab};
use super::super::row::{Divisor, Row, Values};
use super::super::slow::lab_with_ipv4;
use super::Sizes;
use super::net::{LINES, Spent, lines_of};
use super::picture::Series;
use super::torrent::describe;
use super::tracker::Tracker;
use super::watch::{Wanted, last, watch};
use crate::lab::Host;
use anyhow::{Context as _, Result};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

const FILE: &str = "file";
const PIECE_BYTES: usize = 256 << 10;
const RSYNC_PORT: u16 = 8730;
const TORRENT_PORT: u16 = 6881;
/// Until daemons listen.
const START: Duration = Duration::from_secs(2);

/// A program to compare with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Peer {
    Aria2,
    Rsync,
}

impl Peer {
    const ALL: [Self; 2] = [Self::Aria2, Self::Rsync];

    fn program(self) -> &'static str {
        match self {
            Self::Aria2 => "aria2c",
            Self::Rsync => "rsync",
        }
    }

    fn label(self) -> &'static str {
        match self {
            Self::Aria2 => "BitTorrent (aria2)",
            Self::Rsync => "rsync to each",
        }
    }

    fn is_there(self) -> bool {
        let mut command = Command::new(self.program());
        command.arg("--version").stdout(Stdio::null());
        command.stderr(Stdio::null()).status().is_ok()
    }
}

/// Measures each program that is there on clusters of so many hosts.
pub(super) fn measure(bench: &mut Bench, nodes: usize, sizes: Sizes) -> Result<Vec<Series>> {
    let mut all = Vec::new();
    for peer in Peer::ALL {
        if !peer.is_there() {
            let name = peer.program();
            bench.note(&format!(
                "MISSING: {name} is not installed: not compared with"
            ));
            add(bench, peer, nodes, Figures::default(), sizes);
            continue;
        }
        let mut figures = Figures::default();
        let mut rounds = Vec::new();
        for round in 0..bench.rounds(true) {
            let done = run_once(bench, peer, nodes, round, sizes)?;
            bench.note(&format!("{} {round}: {:.2} s", peer.label(), last(&done.0)));
            figures.push(&done.0, &done.1, f64::from(sizes.big_bytes));
            rounds.push(done.0);
        }
        add(bench, peer, nodes, figures, sizes);
        all.extend(series(bench, peer, nodes, rounds, sizes));
    }
    Ok(all)
}

/// Rounds of one program.
#[derive(Default, Debug)]
struct Figures {
    time: Values,
    bound: Values,
    writer: Values,
    largest: Values,
}

impl Figures {
    fn push(&mut self, times: &[Option<f64>], spent: &Spent, bytes: f64) {
        self.time.push(last(times));
        let others = f64::from(u32::try_from(times.len()).unwrap_or(1));
        self.bound.push(LINES.bound_s(bytes, 1.0, others));
        self.writer.push(spent.writer() / bytes);
        self.largest.push(spent.largest() / bytes);
    }
}

fn add(bench: &mut Bench, peer: Peer, nodes: usize, figures: Figures, sizes: Sizes) {
    let name = peer.label();
    let size = sizes.big_bytes >> 20;
    let mut row = |what: &str, unit, values, vs| {
        bench.add(Row {
            what: format!("fanout, N={nodes}: {name}: one file of {size} MiB: {what}"),
            unit,
            values,
            vs,
            nodes: Some(nodes),
            ..Row::default()
        });
    };
    let bound = Divisor {
        what: "bound".to_owned(),
        values: figures.bound,
        ..Divisor::default()
    };
    row("to all others", "s", figures.time, Some(bound));
    row("sent by the writer", "x", figures.writer, None);
    row("sent by who sent most", "x", figures.largest, None);
}

fn series(
    bench: &mut Bench,
    peer: Peer,
    nodes: usize,
    mut rounds: Vec<Vec<Option<f64>>>,
    sizes: Sizes,
) -> Option<Series> {
    rounds.sort_by(|a, b| last(a).total_cmp(&last(b)));
    let middle = rounds.len() / 2;
    let times = rounds.into_iter().nth(middle)?;
    // The writer's own was there before.
    let held_s = [Some(0.0)].into_iter().chain(times).collect();
    let others = f64::from(u32::try_from(nodes).ok()?) - 1.0;
    let series = Series {
        who: peer.label().to_owned(),
        nodes: nodes as u64,
        bound_s: LINES.bound_s(f64::from(sizes.big_bytes), 1.0, others),
        held_s,
        got: Vec::new(),
    };
    bench.add(Row {
        what: format!("fanout, N={nodes}: {}: over time", peer.label()),
        unit: "s",
        nodes: Some(nodes),
        series: Some(series.json()),
        ..Row::default()
    });
    Some(series)
}

/// Hosts with a directory each, and what runs on them.
struct Place {
    // Before the lab: what runs ends before its hosts do.
    daemons: Vec<Daemon>,
    tracker: Option<Tracker>,
    lab: HeldLab,
    base: PathBuf,
}

impl Place {
    fn directory(&self, host: Host) -> PathBuf {
        self.base.join(host.to_string())
    }

    fn start(&mut self, host: Host, command: &mut Command) -> Result<()> {
        let log = self.base.join(format!("{host}.log"));
        self.daemons.push(Daemon::start(command, &log)?);
        Ok(())
    }
}

/// One file, once.
fn run_once(
    bench: &Bench,
    peer: Peer,
    nodes: usize,
    round: usize,
    sizes: Sizes,
) -> Result<(Vec<Option<f64>>, Spent)> {
    let base = bench.directory("peer")?;
    let mut place = Place {
        daemons: Vec::new(),
        tracker: None,
        // One more, which tells clients of each other.
        lab: lab_with_ipv4(nodes + 1)?,
        base,
    };
    let hosts: Vec<Host> = place.lab.hosts().iter().copied().take(nodes).collect();
    let (writer, others) = hosts.split_first().context("no hosts")?;
    for host in &hosts {
        std::fs::create_dir_all(place.directory(*host))?;
    }
    let bytes = Numbers::new(900 + round as u64).random(usize::try_from(sizes.big_bytes)?);
    std::fs::write(place.directory(*writer).join(FILE), &bytes)?;
    let torrent = place.base.join("torrent");
    match peer {
        Peer::Rsync => others
            .iter()
            .try_for_each(|host| rsync_daemon(&mut place, *host))?,
        Peer::Aria2 => {
            place.tracker = Some(Tracker::start(&place.lab, Host::new(nodes + 1)?)?);
            std::fs::write(&torrent, describe(FILE, &bytes, PIECE_BYTES))?;
            aria2(&mut place, *writer, &torrent)?;
        }
    }
    sleep(START);
    let before = lines_of(&place.lab)?;
    let began = Instant::now();
    for host in others {
        match peer {
            Peer::Rsync => rsync_push(&mut place, *writer, *host)?,
            Peer::Aria2 => aria2(&mut place, *host, &torrent)?,
        }
    }
    let wanted = others.iter().map(|host| place.directory(*host).join(FILE));
    let wanted: Vec<PathBuf> = wanted.collect();
    let alone = f64::from(u32::try_from(nodes)?) * 2.5 * f64::from(sizes.big_bytes) * 8.0;
    let patience = Duration::from_secs_f64(60.0 + alone / LINES.up_bps);
    let times = watch(&wanted, Wanted::Bytes(&bytes), began, patience, |_| Ok(()))?;
    let spent = before.until(&lines_of(&place.lab)?);
    Ok((times, spent))
}

fn rsync_daemon(place: &mut Place, host: Host) -> Result<()> {
    let directory = place.directory(host);
    let settings = place.base.join(format!("{host}.conf"));
    let text = format!(
        "use chroot = no\nuid = 0\ngid = 0\n[d]\npath = {}\nread only = no\nlock file = {}.lock\n",
        directory.display(),
        directory.display()
    );
    std::fs::write(&settings, text)?;
    let mut command = place.lab.command(host, "rsync")?;
    command.args(["--daemon", "--no-detach"]);
    command.arg(format!("--port={RSYNC_PORT}"));
    command.arg(format!("--config={}", settings.display()));
    place.start(host, &mut command)
}

fn rsync_push(place: &mut Place, writer: Host, to: Host) -> Result<()> {
    let source = place.directory(writer).join(FILE);
    let mut command = place.lab.command(writer, "rsync")?;
    command.arg("-a").arg(source);
    command.arg(format!("rsync://{}:{RSYNC_PORT}/d/", to.ipv4()));
    place.start(writer, &mut command)
}

fn aria2(place: &mut Place, host: Host, torrent: &Path) -> Result<()> {
    let tracker = place.tracker.as_ref().context("no tracker")?;
    let mut command = place.lab.command(host, "aria2c")?;
    command.arg(format!("--dir={}", place.directory(host).display()));
    command.arg(format!("--bt-tracker={}", tracker.url()));
    command.arg(format!("--listen-port={TORRENT_PORT}"));
    command.args([
        "--no-conf",
        "--enable-dht=false",
        "--bt-enable-lpd=false",
        "--enable-peer-exchange=false",
        "--bt-tracker-interval=5",
        "--seed-ratio=0.0",
        "--file-allocation=none",
        "--check-integrity=true",
        "--console-log-level=warn",
        "--summary-interval=0",
        "--auto-save-interval=1",
        "--bt-max-peers=60",
    ]);
    command.arg(torrent);
    place.start(host, &mut command)
}
