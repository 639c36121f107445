//! Full lines, a writer that is cut off, nodes that were away.

use super::super::Bench;
use super::super::cluster::COMMAND_PATIENCE;
use super::super::goal::limit;
use super::super::process;
use super::super::row::{Divisor, Row, Values};
use super::super::slow::ensure_equal;
use super::case::{make_file, others, patience, seed, shown, small_file};
use super::net::{LINES, Net};
use super::watch::{Wanted, last, watch};
use super::{GOAL, Sizes, row};
use anyhow::{Context as _, Result, anyhow};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

/// By then the large file has filled the lines.
const FILLING: Duration = Duration::from_secs(5);
const BETWEEN: Duration = Duration::from_secs(2);
/// By then relays have forgotten a file that everybody has.
const FORGOTTEN: Duration = Duration::from_secs(75);

/// Small files while a large one is on its way, from its writer and from the last node by turns.
pub(super) fn busy(bench: &mut Bench, net: &Net, sizes: Sizes) -> Result<()> {
    let source = make_file(net, "bulk", sizes.bulk_bytes, seed(net, 4, 0))?;
    let places = shown(net, "bulk", 0..net.count())?;
    let command = net.putting(0, &source)?;
    let before = net.meter()?;
    let (values, spent) = scope(|scope| {
        let put = scope.spawn(move || Net::put(command));
        let mut values = Values::default();
        if !bench.scale.quick {
            sleep(FILLING);
        }
        for sample in 0..sizes.samples {
            if places.iter().all(|place| place.exists()) {
                break;
            }
            let writer = if sample % 2 == 0 { 0 } else { net.count() - 1 };
            let name = format!("busy{sample}");
            values.push(small_file(net, writer, &name, seed(net, 5, sample))?);
            sleep(BETWEEN);
        }
        let spent = before.until(&net.meter()?);
        put.join()
            .map_err(|_| anyhow!("a thread ended"))?
            .context("put")?;
        anyhow::Ok((values, spent))
    })?;
    net.settle()?;
    let what = format!(
        "one file of 4 KiB while {} MiB are on their way: to the slowest mirror",
        sizes.bulk_bytes >> 20
    );
    bench.add(Row {
        goal: Some(GOAL),
        bounds: Some(limit(1.0, false)),
        ..row(net, &what, "s", values)
    });
    fullness(bench, net, "meanwhile", &spent);
    Ok(())
}

/// How much of its line each node used.
fn fullness(bench: &mut Bench, net: &Net, what: &str, spent: &super::net::Spent) {
    let mut values = Values::default();
    for sent in &spent.sent {
        values.push(100.0 * sent * 8.0 / (LINES.up_bps * spent.seconds));
    }
    let text = format!("{what}: use of the uplinks, node by node");
    bench.add(row(net, &text, "%", values));
    let mut busy = Values::default();
    busy.push(spent.busy);
    bench.add(row(net, &format!("{what}: machine busy"), "%", busy));
}

/// Every node writes a file of its own at once.
pub(super) fn elections(bench: &mut Bench, net: &Net, sizes: Sizes) -> Result<()> {
    // Everybody's file must get to all others: together they keep each line full for so long.
    let bytes = LINES.up_bps / 8.0 * f64::from(sizes.full_s) / others(net);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "some MiB"
    )]
    let bytes = bytes as u32;
    let mut commands = Vec::new();
    for place in 0..net.count() {
        let name = format!("full{place}");
        let source = make_file(net, &name, bytes, seed(net, 6, place))?;
        commands.push(net.putting(place, &source)?);
    }
    let terms = net.terms()?;
    let before = net.meter()?;
    scope(|scope| {
        let start = |command| scope.spawn(move || Net::put(command));
        let puts: Vec<_> = commands.into_iter().map(start).collect();
        for put in puts {
            put.join()
                .map_err(|_| anyhow!("a thread ended"))?
                .context("put")?;
        }
        anyhow::Ok(())
    })?;
    net.settle()?;
    let spent = before.until(&net.meter()?);
    let mut values = Values::default();
    let elections = net.terms()?.saturating_sub(terms);
    values.push(f64::from(u32::try_from(elections).unwrap_or(u32::MAX)));
    let what = format!(
        "elections in {:.0} s while every node writes",
        spent.seconds
    );
    bench.add(Row {
        goal: Some(GOAL),
        bounds: Some(limit(0.0, false)),
        ..row(net, &what, "", values)
    });
    fullness(bench, net, "every node writes", &spent);
    Ok(())
}

/// The writer's cable is pulled as soon as its put has answered `committed`.
pub(super) fn cut(bench: &mut Bench, net: &Net, sizes: Sizes) -> Result<()> {
    let bytes = f64::from(sizes.big_bytes);
    let (mut incomplete, mut times) = <(Values, Values)>::default();
    for round in 0..sizes.cuts {
        let name = format!("cut{round}");
        let source = make_file(net, &name, sizes.big_bytes, seed(net, 7, round))?;
        let places = shown(net, &name, 1..net.count())?;
        process::run(&mut net.putting(0, &source)?, COMMAND_PATIENCE)?;
        let began = Instant::now();
        net.set_line(0, false)?;
        let held = watch(&places, Wanted::File, began, patience(net, bytes), |_| {
            Ok(())
        })?;
        let left = held.iter().filter(|time| time.is_none()).count();
        for (place, _) in places.iter().zip(&held).filter(|(_, time)| time.is_some()) {
            ensure_equal(&source, place)?;
        }
        bench.note(&format!("{name}: {left} incomplete, {:.2} s", last(&held)));
        incomplete.push(if left == 0 { 0.0 } else { 1.0 });
        times.push(last(&held));
        net.set_line(0, true)?;
        net.settle()?;
    }
    let what = "writer cut off once committed";
    let rounds = incomplete.len();
    let mut lacking = Values::default();
    lacking.push(incomplete.sum());
    bench.add(Row {
        goal: Some(GOAL),
        bounds: Some(limit(0.0, true)),
        ..row(
            net,
            &format!("{what}: rounds of {rounds} in which another lacks it"),
            "",
            lacking,
        )
    });
    bench.add(row(
        net,
        &format!("{what}: all others have it after"),
        "s",
        times,
    ));
    Ok(())
}

/// Half of the nodes are away at the write; they come back when the rest has it and the writer is
/// cut off: at once, or when no relay knows of it any more.
pub(super) fn half(bench: &mut Bench, net: &mut Net, sizes: Sizes, is_later: bool) -> Result<()> {
    let bytes = f64::from(sizes.big_bytes);
    let on = net.count() - net.count() / 2;
    let (mut times, mut bounds, mut largest, mut got) =
        <(Values, Values, Values, Values)>::default();
    let (label, case) = if is_later { ("later", 9) } else { ("half", 8) };
    for round in 0..bench.rounds(true) {
        let name = format!("{label}{round}");
        let source = make_file(net, &name, sizes.big_bytes, seed(net, case, round))?;
        (on..net.count()).try_for_each(|place| net.send_away(place))?;
        process::run(&mut net.putting(0, &source)?, COMMAND_PATIENCE)?;
        let places = shown(net, &name, 0..on)?;
        let began = Instant::now();
        let held = watch(&places, Wanted::File, began, patience(net, bytes), |_| {
            Ok(())
        })?;
        bench.note(&format!("{name}: the rest has it: {:.2} s", last(&held)));
        net.set_line(0, false)?;
        if is_later {
            sleep(FORGOTTEN);
        }
        let before = net.meter()?;
        let began = Instant::now();
        (on..net.count()).try_for_each(|place| net.call_back(place))?;
        let places = shown(net, &name, on..net.count())?;
        let held = watch(&places, Wanted::File, began, patience(net, bytes), |_| {
            Ok(())
        })?;
        let spent = before.until(&net.meter()?);
        bench.note(&format!("{name}: those back: {:.2} s", last(&held)));
        times.push(last(&held));
        bounds.push(bytes * 8.0 / LINES.up_bps);
        largest.push(spent.largest() / bytes);
        got.push(spent.received_from(on) / bytes);
        net.set_line(0, true)?;
        (on..net.count()).try_for_each(|place| net.cluster.reach_one(place))?;
        net.settle()?;
        for place in &places {
            ensure_equal(&source, place)?;
        }
    }
    let what = match is_later {
        false => "half away at the write, back without the writer",
        true => "half away at the write, back without the writer when relays have forgotten",
    };
    bench.add(Row {
        goal: Some(GOAL),
        bounds: Some(limit(1.1, false)),
        vs: Some(Divisor {
            what: "one uplink".to_owned(),
            values: bounds,
            ..Divisor::default()
        }),
        ..row(net, &format!("{what}: all of them"), "s", times)
    });
    bench.add(row(
        net,
        &format!("{what}: sent by who sent most"),
        "x",
        largest,
    ));
    let text = format!("{what}: got by each of them, headers and all");
    bench.add(row(net, &text, "x", got));
    Ok(())
}
