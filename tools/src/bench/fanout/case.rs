//! Everybody is there: one large file, a thousand small ones, one small one.

use super::super::data::Numbers;
use super::super::goal::limit;
use super::super::row::{Divisor, Row, Values, digits};
use super::super::slow::{FILE_BYTES, ensure_equal, fill};
use super::super::{Bench, say};
use super::bound::PACED;
use super::net::{LINES, Net, Spent};
use super::picture::Series;
use super::watch::{Wanted, last, watch};
use super::{GOAL, Sizes, row};
use anyhow::{Context as _, Result, anyhow, ensure};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

/// Between two looks at the counters.
const SAMPLE_S: f64 = 0.5;
/// Lines are quiet by then: what a put leaves behind is short.
const CALM: Duration = Duration::from_secs(2);
const CALM_SMALL: Duration = Duration::from_millis(700);
/// A small file that took longer did not arrive.
const SMALL_PATIENCE: Duration = Duration::from_secs(60);

/// What the busiest sender may send of a large file.
const LARGEST_MOST: f64 = 1.2;

/// What one put did.
#[derive(Clone, Default, Debug)]
struct Spread {
    /// Node by node, when its mirror held it.
    times: Vec<Option<f64>>,
    spent: Spent,
    /// Seconds, and what each other's line had carried by then, in shares of the file.
    got: Vec<Vec<f64>>,
}

/// A file of random bytes to put.
pub(super) fn make_file(net: &Net, name: &str, bytes: u32, seed: u64) -> Result<PathBuf> {
    let place = net.source(name);
    std::fs::create_dir_all(place.parent().context("a place")?)?;
    std::fs::write(&place, Numbers::new(seed).random(usize::try_from(bytes)?))?;
    Ok(place)
}

/// Long after a writer that sends to everybody itself would be done.
pub(super) fn patience(net: &Net, bytes: f64) -> Duration {
    let alone = LINES.bound_s(bytes, 1.0, 1.0) * others(net);
    Duration::from_secs_f64(120.0 + 2.5 * alone)
}

pub(super) fn others(net: &Net) -> f64 {
    f64::from(u32::try_from(net.count()).unwrap_or(1)) - 1.0
}

/// The places where the nodes of these numbers show something.
pub(super) fn shown(
    net: &Net,
    name: &str,
    nodes: impl Iterator<Item = usize>,
) -> Result<Vec<PathBuf>> {
    nodes.map(|place| net.shown(place, name)).collect()
}

/// Puts at the first node, and watches every mirror.
fn spread(net: &Net, source: &Path, wanted: Wanted<'_>, bytes: f64) -> Result<Spread> {
    let name = source.file_name().context("a name")?.to_string_lossy();
    let places = shown(net, &name, 0..net.count())?;
    let command = net.putting(0, source)?;
    let mut next_s = 0.0;
    let mut got = Vec::new();
    let has_failed = AtomicBool::new(false);
    let before = net.meter()?;
    let began = Instant::now();
    let (times, spent) = scope(|scope| {
        let put = scope.spawn(|| {
            let done = Net::put(command);
            has_failed.store(done.is_err(), Ordering::SeqCst);
            done
        });
        let times = watch(&places, wanted, began, patience(net, bytes), |seconds| {
            ensure!(!has_failed.load(Ordering::SeqCst), "the put failed");
            if seconds >= next_s {
                next_s = seconds + SAMPLE_S;
                let spent = before.until(&net.meter()?);
                let others = spent.received.iter().skip(1);
                let shares = others.map(|carried| digits((carried / bytes).min(1.0)));
                got.push([digits(seconds)].into_iter().chain(shares).collect());
            }
            Ok(())
        });
        let spent = before.until(&net.meter()?);
        let put = put.join();
        put.map_err(|_| anyhow!("a thread ended"))?.context("put")?;
        anyhow::Ok((times?, spent))
    })?;
    for (place, _) in places.iter().zip(&times).filter(|(_, time)| time.is_some()) {
        ensure_equal(source, place)?;
    }
    Ok(Spread { times, spent, got })
}

/// What the rounds of one case did, for its rows.
#[derive(Default, Debug)]
struct Tally {
    last_s: Values,
    first_s: Values,
    writer: Values,
    largest: Values,
    got: Values,
    busy: Values,
    busy_nodes: Values,
}

impl Tally {
    fn push(&mut self, spread: &Spread, bytes: f64) {
        let spent = &spread.spent;
        let first = spread.times.iter().skip(1).flatten().copied();
        self.last_s.push(last(&spread.times));
        self.first_s.push(first.fold(f64::INFINITY, f64::min));
        self.writer.push(spent.writer() / bytes);
        self.largest.push(spent.largest() / bytes);
        self.got.push(spent.received_each() / bytes);
        self.busy.push(spent.busy);
        self.busy_nodes.push(spent.busy_nodes);
    }

    /// Rows of what was sent and of the machine.
    fn rows(self, bench: &mut Bench, net: &Net, what: &str, writer_most: f64) {
        let name = |text: &str| format!("{what}: {text}");
        let sent = |text: &str, values, most: Option<f64>| Row {
            goal: most.map(|_| GOAL),
            bounds: most.map(|most| limit(most, true)),
            ..row(net, &name(text), "x", values)
        };
        bench.add(sent("sent by the writer", self.writer, Some(writer_most)));
        let most = (writer_most < LARGEST_MOST).then_some(LARGEST_MOST);
        bench.add(sent("sent by who sent most", self.largest, most));
        bench.add(sent("got by each other, headers and all", self.got, None));
        bench.add(row(net, &name("machine busy"), "%", self.busy));
        bench.add(row(
            net,
            &name("machine busy with nodes"),
            "%",
            self.busy_nodes,
        ));
    }
}

/// A row of times beside the bound.
fn against(net: &Net, what: &str, values: Values, bound_s: f64, most: f64) -> Row {
    let mut bounds = Values::default();
    (0..values.len()).for_each(|_| bounds.push(bound_s));
    Row {
        goal: Some(GOAL),
        bounds: Some(limit(most, false)),
        vs: Some(Divisor {
            what: "bound".to_owned(),
            values: bounds,
            ..Divisor::default()
        }),
        ..row(net, what, "s", values)
    }
}

/// One large file.
pub(super) fn big(bench: &mut Bench, net: &Net, sizes: Sizes) -> Result<Option<Series>> {
    let bytes = f64::from(sizes.big_bytes);
    let bound_s = LINES.bound_s(bytes, 1.0, others(net));
    let mut tally = Tally::default();
    let mut all = Vec::new();
    let (mut twice, mut slow) = <(Values, Values)>::default();
    for round in 0..bench.rounds(true) {
        let name = format!("big{round}");
        let before = net.counted()?;
        let source = make_file(net, &name, sizes.big_bytes, seed(net, 1, round))?;
        sleep(CALM);
        let spread = spread(net, &source, Wanted::File, bytes)?;
        let after = net.counted()?;
        slow.push(after.slow_percent(&before));
        bench.note(&format!("{name}: {:.2} s", last(&spread.times)));
        tally.push(&spread, bytes);
        all.push(spread);
        net.settle()?;
        let came_twice = net.counted()?.twice_bytes - before.twice_bytes;
        twice.push(100.0 * came_twice / (bytes * others(net)));
    }
    let what = format!("one file of {} MiB", sizes.big_bytes >> 20);
    let line = format!("{what}: to all mirrors");
    let paced = format!("{what}: the same, lines × {PACED}");
    let times = tally.last_s.clone();
    bench.add(against(net, &line, times.clone(), bound_s, 1.18));
    bench.add(against(net, &paced, times, bound_s / PACED, 1.10));
    let first = format!("{what}: to the first other mirror");
    bench.add(row(net, &first, "s", tally.first_s.clone()));
    tally.rows(bench, net, &what, 1.10);
    bench.add(Row {
        goal: Some(GOAL),
        bounds: Some(limit(1.0, true)),
        ..row(net, &format!("{what}: came twice"), "%", twice)
    });
    let text = format!("{what}: heartbeats meanwhile that took over 100 ms");
    bench.add(Row {
        goal: Some(GOAL),
        bounds: Some(limit(1.0, true)),
        ..row(net, &text, "%", slow)
    });
    let series = series(net, all, bound_s);
    if let Some(series) = &series {
        bench.add(Row {
            series: Some(series.json()),
            ..row(net, &format!("{what}: over time"), "s", Values::default())
        });
    }
    Ok(series)
}

/// The round in the middle.
fn series(net: &Net, mut all: Vec<Spread>, bound_s: f64) -> Option<Series> {
    all.sort_by(|a, b| last(&a.times).total_cmp(&last(&b.times)));
    let middle = all.len() / 2;
    let spread = all.into_iter().nth(middle)?;
    Some(Series {
        who: "aber".to_owned(),
        nodes: net.count() as u64,
        bound_s,
        held_s: spread.times,
        got: spread.got,
    })
}

/// A thousand small files, in one directory.
pub(super) fn small(bench: &mut Bench, net: &Net, sizes: Sizes) -> Result<()> {
    let count = usize::try_from(sizes.files)?;
    let last_of = format!("d00/f{:05}", count.saturating_sub(1));
    let bytes = f64::from(sizes.files) * f64::from(u32::try_from(FILE_BYTES)?);
    let bound_s = LINES.bound_s(bytes, 1.0, others(net));
    let mut tally = Tally::default();
    for round in 0..bench.rounds(true) {
        let name = format!("small{round}");
        let source = net.source(&name);
        fill(&source, count, 1, seed(net, 2, round))?;
        let wanted = Wanted::Files(count, &last_of);
        sleep(CALM);
        let spread = spread(net, &source, wanted, bytes)?;
        bench.note(&format!("{name}: {:.2} s", last(&spread.times)));
        tally.push(&spread, bytes);
        net.settle()?;
    }
    let what = format!("{count} files of 4 KiB");
    let most = if net.count() > 8 { 1.6 } else { 1.5 };
    let times = tally.last_s.clone();
    bench.add(against(
        net,
        &format!("{what}: to all mirrors"),
        times,
        bound_s,
        most,
    ));
    tally.rows(bench, net, &what, 1.3);
    Ok(())
}

/// One small file, while nothing else happens.
pub(super) fn touch(bench: &mut Bench, net: &Net, sizes: Sizes, most_s: f64) -> Result<()> {
    let mut values = Values::default();
    for sample in 0..sizes.samples {
        sleep(CALM_SMALL);
        values.push(small_file(
            net,
            0,
            &format!("touch{sample}"),
            seed(net, 3, sample),
        )?);
    }
    let what = match net.delay.as_millis() {
        0 => "one file of 4 KiB: to the slowest mirror".to_owned(),
        ms => format!("one file of 4 KiB, {ms} ms each way: to the slowest mirror"),
    };
    bench.add(Row {
        goal: Some(GOAL),
        bounds: Some(limit(most_s, false)),
        ..row(net, &what, "s", values)
    });
    Ok(())
}

/// Seconds until a small file that a node writes stands in every mirror.
pub(super) fn small_file(net: &Net, writer: usize, name: &str, seed: u64) -> Result<f64> {
    let places = shown(net, name, 0..net.count())?;
    let content = Numbers::new(seed).random(FILE_BYTES);
    let (began, put) = net.put_small(writer, name, content)?;
    let times = watch(&places, Wanted::File, began, SMALL_PATIENCE, |_| Ok(()))?;
    // What counts is when mirrors show it; one that none shows is slower than any.
    if let Err(error) = net.answer(put) {
        say(&format!("  {name}: {error:#}"));
    }
    Ok(last(&times))
}

/// Bytes of their own for each round of each case of each size of cluster: what a node has it
/// would not be sent.
pub(super) fn seed(net: &Net, case: u64, round: usize) -> u64 {
    (net.count() as u64) << 32 | case << 24 | round as u64
}
