//! T5, T7, T8, T9 of `docs/invariants.md`: relays of many nodes, by their pure cores alone.

mod late;

use super::super::Links;
use super::super::push::TOGETHER_BYTES;
use super::super::swarm::Swarm;
use super::*;
use crate::chunk::cut::{Cutter, average_for};
use crate::chunk::testing::noise;

const KIB: u32 = 1024;
const LONG: Duration = Duration::from_secs(3000);

fn ratio(swarm: &Swarm, writer: NodeId, bytes: u64) -> f64 {
    swarm.now.0 as f64 / 1e9 / swarm.bound(writer, bytes)
}

/// T5: one writer, no failure: nothing is asked for, nothing comes twice, the writer sends one copy,
/// and it takes hardly longer than it must.
#[test]
fn stripes_carry_and_nothing_is_asked_for() {
    for (nodes, count, most) in [(8, 256, 1.05), (16, 256, 1.06), (50, 1024, 1.04)] {
        let mut swarm = Swarm::new(&vec![8000; nodes], &Links::Any);
        let parcels = swarm.write(NodeId(0), count, 64 * KIB);
        let bytes = count as u64 * 64 * 1024;
        swarm.run(LONG, |swarm| swarm.all_have(count));
        let took = ratio(&swarm, NodeId(0), bytes);
        let copies = swarm.sent(NodeId(0)) as f64 / bytes as f64;
        println!(
            "{nodes} nodes: ratio {took:.3} copies {copies:.3} wants {}",
            swarm.wants
        );
        assert!(swarm.all_have(count), "{nodes} nodes: not all have it");
        assert!(took <= most, "{nodes} nodes took {took:.3} of the bound");
        assert!(
            copies <= 1.01,
            "{nodes} nodes: the writer sent {copies:.3} copies"
        );
        assert_eq!((swarm.wants, swarm.twice()), (0, 0), "{nodes} nodes");
        let until = swarm.now.0 + 5_000_000_000;
        swarm.run(Duration::from_nanos(until), |_| false);
        for parcel in &parcels {
            assert_eq!(
                swarm.holders(NodeId(0), parcel),
                nodes,
                "all are known to hold it"
            );
        }
    }
}

/// T5: chunks as a file is really cut, of all lengths: stripes end a little apart, and the last chunk is
/// sent to everybody by one node. Means of five files.
#[test]
fn a_file_as_it_is_cut_takes_little_longer() {
    let size = 16 << 20;
    for (nodes, most) in [(8, 1.03), (16, 1.07)] {
        let mut sum = 0.0;
        for seed in 0..5 {
            let lengths = cut_lengths(seed, size);
            let count = lengths.len();
            let mut swarm = Swarm::new(&vec![8000; nodes], &Links::Any);
            swarm.write_of(NodeId(seed), lengths);
            swarm.run(LONG, |swarm| swarm.all_have(count));
            assert!(swarm.all_have(count));
            assert_eq!((swarm.wants, swarm.twice()), (0, 0));
            sum += ratio(&swarm, NodeId(seed), size as u64);
        }
        println!("{nodes} nodes: {:.3}", sum / 5.0);
        assert!(sum / 5.0 <= most, "{nodes} nodes took {:.3}", sum / 5.0);
    }
}

/// Lengths of the chunks of a file of noise.
fn cut_lengths(seed: u64, size: usize) -> Vec<u32> {
    let mut cutter = Cutter::new(average_for(Some(size as u64), None));
    cutter.push(&noise(seed, size));
    cutter.finish();
    let chunks = std::iter::from_fn(|| cutter.next_chunk());
    chunks
        .map(|chunk| chunk.len().try_into().expect("a chunk"))
        .collect()
}

/// Small files in one change: many chunks of 4 KiB.
#[test]
fn small_chunks_are_carried_as_well() {
    let mut swarm = Swarm::new(&[8000; 16], &Links::Any);
    swarm.write(NodeId(3), 1000, 4 * KIB);
    swarm.run(LONG, |swarm| swarm.all_have(1000));
    let took = ratio(&swarm, NodeId(3), 1000 * 4096);
    println!("ratio {took:.3}, {} messages", swarm.pushes);
    assert!(swarm.all_have(1000) && took <= 1.04, "{took:.3}");
    assert_eq!((swarm.wants, swarm.twice()), (0, 0));
    // Small ones go together, others alone.
    assert!(swarm.pushes < 9000, "{} messages", swarm.pushes);
    let before = swarm.pushes;
    swarm.write(NodeId(3), 64, 64 * KIB);
    swarm.run(LONG, |swarm| swarm.all_have(1064));
    assert_eq!(swarm.pushes - before, 15 * 64);
}

/// Of several chunks in one message each has its own end: what was taken does not go again, what came to
/// nothing does, after a moment.
#[test]
fn chunks_that_went_together_end_each_by_itself() {
    let mut swarm = Swarm::new(&[8000; 2], &Links::Any);
    swarm.write(NodeId(0), 256, 4 * KIB);
    let core = swarm.core(NodeId(0));
    let at = |ms: u64| Instant(ms * 1_000_000);
    let numbers =
        |push: &Push| -> Vec<usize> { push.chunks.iter().map(|(number, _)| *number).collect() };
    let mut sent = BTreeSet::new();
    let push = loop {
        let push = core.next_push(at(0)).expect("there is more");
        if push.chunks.len() >= 2 {
            break push;
        }
        sent.extend(numbers(&push));
        core.pushed(&push, &vec![Taken::Stored; push.chunks.len()], at(0));
    };
    let went = numbers(&push);
    assert!(went.iter().all(|number| sent.insert(*number)));
    assert!(push.bytes() <= TOGETHER_BYTES);
    core.pushed(&push, &[Taken::Had], at(1));
    assert_eq!(core.next_push(at(2)), None, "it is left alone for a moment");
    let mut again = Vec::new();
    while let Some(push) = core.next_push(at(2000)) {
        again.extend(numbers(&push));
        core.pushed(&push, &vec![Taken::Stored; push.chunks.len()], at(2000));
    }
    assert_eq!(
        again.iter().filter(|n| went.contains(n)).count(),
        went.len() - 1
    );
    let all: BTreeSet<usize> = sent.into_iter().chain(again).collect();
    // Two were sent as they were written.
    assert_eq!(all.len(), 254);
}

/// T7: any node may die at any moment; all others complete, with few bytes twice.
#[test]
fn a_relay_that_dies_costs_little() {
    let mut worst = (0.0_f64, 0.0_f64);
    for (victim, at) in (1..16).flat_map(|victim| [1, 4, 8, 13].map(|at| (victim, at))) {
        let mut swarm = Swarm::new(&[8000; 16], &Links::Any);
        swarm.write(NodeId(0), 256, 64 * KIB);
        swarm.run(Duration::from_secs(at), |_| false);
        swarm.set_down(NodeId(victim), true);
        swarm.run(LONG, |swarm| swarm.all_have(256));
        let took = ratio(&swarm, NodeId(0), 256 * 64 * 1024);
        let twice = swarm.twice() as f64 / (15.0 * 256.0 * 65536.0);
        worst = (worst.0.max(took), worst.1.max(twice));
        println!(
            "{victim} dies at {at}: {took:.3}, twice {twice:.4} wants {}",
            swarm.wants
        );
        assert!(swarm.all_have(256), "not all have it");
    }
    println!("{worst:?}");
    assert!(worst.0 <= 1.2, "{worst:?}");
    assert!(worst.1 <= 0.005, "{worst:?}");
}

/// A line that is cut says nothing: those who wait for it, and those it waits for, ask for a sign of life.
#[test]
fn a_line_that_is_cut_is_noticed() {
    for (victim, at) in [(2, 1), (3, 4), (15, 8)] {
        let mut swarm = Swarm::new(&[8000; 16], &Links::Any);
        swarm.write(NodeId(0), 256, 64 * KIB);
        swarm.run(Duration::from_secs(at), |_| false);
        swarm.cut(NodeId(victim));
        swarm.run(LONG, |swarm| swarm.all_have(256));
        let took = ratio(&swarm, NodeId(0), 256 * 64 * 1024);
        println!("{victim} cut at {at}: {took:.3} wants {}", swarm.wants);
        assert!(swarm.all_have(256), "not all have it");
        assert!(took <= 1.4, "{victim} cut at {at}: {took:.3}");
    }
}

/// A third of the nodes dies in the middle, and comes back later.
#[test]
fn a_third_may_die_and_come_back() {
    let mut swarm = Swarm::new(&[8000; 15], &Links::Any);
    swarm.write(NodeId(0), 256, 64 * KIB);
    swarm.run(Duration::from_secs(6), |_| false);
    for id in [2, 5, 8, 11, 14] {
        swarm.set_down(NodeId(id), true);
    }
    swarm.run(LONG, |swarm| swarm.all_have(256));
    let took = ratio(&swarm, NodeId(0), 256 * 64 * 1024);
    println!("{took:.3}");
    assert!(swarm.all_have(256) && took <= 1.3, "{took:.3}");
    let before = swarm.sent(NodeId(0));
    for id in [2, 5, 8, 11, 14] {
        swarm.set_down(NodeId(id), false);
    }
    swarm.run(LONG, |swarm| swarm.all_have(256));
    assert!(swarm.all_have(256), "who comes back gets the rest");
    let more = (swarm.sent(NodeId(0)) - before) as f64 / (256.0 * 65536.0);
    assert!(
        more < 1.0,
        "the others help: the writer sent {more:.2} copies more"
    );
}

/// T8: a writer that sent one copy, and a little, may go.
#[test]
fn the_writer_may_go_once_it_sent_a_copy() {
    let mut swarm = Swarm::new(&[8000; 8], &Links::Any);
    swarm.write(NodeId(0), 256, 64 * KIB);
    let parcel = 256 * 65536;
    swarm.run(LONG, |swarm| swarm.sent(NodeId(0)) >= parcel);
    let until = swarm.now.0 + 300_000_000;
    swarm.run(Duration::from_nanos(until), |_| false);
    swarm.set_down(NodeId(0), true);
    swarm.run(LONG, |swarm| swarm.all_have(256));
    assert!(
        swarm.all_have(256),
        "all others complete without the writer"
    );
}

/// T18: a line that carries an eighth of what its node says holds up its stripe for a while, not to the end.
#[test]
fn a_parent_that_lags_is_not_waited_for() {
    for (nodes, slow, count) in [
        (8, &[5][..], 512),
        (8, &[4, 5], 512),
        (16, &[6], 512),
        (16, &[6, 9], 1024),
    ] {
        let slow: Vec<NodeId> = slow.iter().copied().map(NodeId).collect();
        let mut swarm = Swarm::new(&vec![8000; nodes], &Links::Any);
        let bound = swarm.bound(NodeId(0), count as u64 * 32768);
        for node in &slow {
            swarm.set_line(*node, 1000);
        }
        swarm.write(NodeId(0), count, 32 * KIB);
        let is_done = |swarm: &Swarm| swarm.others_have(&slow, count);
        swarm.run(LONG, is_done);
        let took = swarm.now.0 as f64 / 1e9;
        let copies = swarm.sent(NodeId(0)) as f64 / (count as f64 * 32768.0);
        println!("{nodes} nodes, {slow:?} lag: {took:.1} s of {bound:.1}, {copies:.2} copies");
        assert!(is_done(&swarm));
        // They wait up to 10 s until they are told, and 10 s until that is late. Of several each takes
        // one copy of its stripe, or two, of the writer.
        let most = match slow.len() {
            1 => 1.2 * bound + 20.0,
            _ => 2.1 * bound,
        };
        assert!(took <= most, "{took:.1} s of {bound:.1}");
        assert!(
            copies <= 1.0 + 0.3 * slow.len() as f64,
            "{copies:.2} copies"
        );
        swarm.run(LONG, |swarm| swarm.all_have(count));
        assert!(swarm.all_have(count), "they get all of it, too");
    }
}

/// T9: who sends other bytes is found out, and all others complete.
#[test]
fn a_liar_is_left_out() {
    let mut swarm = Swarm::new(&[8000; 8], &Links::Any);
    swarm.make_liar(NodeId(4));
    swarm.write(NodeId(0), 256, 64 * KIB);
    swarm.run(LONG, |swarm| swarm.all_have(256));
    let took = ratio(&swarm, NodeId(0), 256 * 64 * 1024);
    println!("{took:.3}");
    assert!(swarm.all_have(256), "all complete");
    assert!(took <= 1.39, "{took:.3}");
    let blaming = |swarm: &Swarm, id: NodeId| swarm.look(id).blamed == [NodeId(4)];
    let ids = swarm.ids();
    assert!(ids.iter().any(|id| blaming(&swarm, *id)), "nobody says so");
    let most = ids.iter().map(|id| swarm.look(*id).counts.bad_count).max();
    // What was under way when it was found out comes yet.
    assert!(most.is_some_and(|bad| (3..16).contains(&bad)), "{most:?}");
}

/// T5 on a graph: a circle with chords; nobody is asked who has no link.
#[test]
fn a_graph_of_neighbours_is_enough() {
    let mut pairs = BTreeSet::new();
    for id in 0..12_u64 {
        for step in [1, 3] {
            pairs.insert((NodeId(id), NodeId((id + step) % 12)));
        }
    }
    let mut swarm = Swarm::new(&[1000; 12], &Links::Pairs(pairs));
    swarm.write(NodeId(0), 256, 64 * KIB);
    swarm.run(LONG, |swarm| swarm.all_have(256));
    let took = ratio(&swarm, NodeId(0), 256 * 64 * 1024);
    println!("{took:.3} wants {}", swarm.wants);
    assert!(swarm.all_have(256) && took <= 1.5, "{took:.3}");
}

/// Several write at once; each gets its share and nobody is asked for what comes anyway.
#[test]
fn several_write_at_once() {
    let mut swarm = Swarm::new(&[8000; 16], &Links::Any);
    for writer in 0..4 {
        swarm.write(NodeId(writer), 128, 64 * KIB);
    }
    swarm.run(LONG, |swarm| swarm.all_have(512));
    let took = ratio(&swarm, NodeId(0), 512 * 65536);
    println!("{took:.3} wants {} twice {}", swarm.wants, swarm.twice());
    assert!(swarm.all_have(512) && took <= 1.1, "{took:.3}");
    let all = 15 * 512 * 65536_u64;
    assert!(
        swarm.twice() * 100 <= all,
        "{} bytes came twice",
        swarm.twice()
    );
}

/// One 80/20 mix: the slow writer's line is the bound.
#[test]
fn unequal_lines() {
    let ups: Vec<u64> = (0..50)
        .map(|n| if n % 5 == 3 { 20_000 } else { 1000 })
        .collect();
    let mut swarm = Swarm::new(&ups, &Links::Any);
    swarm.write(NodeId(0), 512, 64 * KIB);
    swarm.run(LONG, |swarm| swarm.all_have(512));
    let took = ratio(&swarm, NodeId(0), 512 * 65536);
    println!("{took:.3} wants {}", swarm.wants);
    println!(
        "{:?}",
        swarm
            .ids()
            .iter()
            .map(|id| (id.0, swarm.has(*id)))
            .collect::<Vec<_>>()
    );
    assert!(swarm.all_have(512) && took <= 1.05, "{took:.3}");
    assert!(swarm.has(NodeId(7)) == 512);
}

/// A small file written while a big one fills all lines waits for one chunk a step at most.
#[test]
fn a_small_file_overtakes_a_big_one() {
    let mut swarm = Swarm::new(&[8000; 16], &Links::Any);
    swarm.write(NodeId(0), 256, 64 * KIB);
    swarm.run(Duration::from_secs(5), |_| false);
    let before = swarm.now;
    let parcel = swarm.write(NodeId(0), 1, 4 * KIB)[0];
    swarm.run(LONG, |swarm| swarm.all_got(&parcel));
    let took = swarm.now - before;
    println!("{took:?}");
    assert!(took < Duration::from_millis(300), "{took:?}");
}

/// What is finished costs nothing: a look for the next chunk looks at what is under way alone.
#[test]
fn finished_parcels_are_not_looked_at() {
    let mut looks = Vec::new();
    for finished in [0, 40] {
        let mut swarm = Swarm::new(&[8000; 4], &Links::Any);
        for number in 0..finished {
            // Every other one is so small that it goes before content.
            swarm.write(NodeId(0), 1, 4 * KIB * (1 + number % 2 * 7));
        }
        swarm.run(LONG, |swarm| swarm.all_have(finished as usize));
        let before = swarm.core(NodeId(0)).looked_at;
        assert_eq!(swarm.look(NodeId(0)).live_count, u64::from(finished));
        let all = finished as usize + 64;
        swarm.write(NodeId(0), 64, 64 * KIB);
        swarm.run(LONG, |swarm| swarm.all_have(all));
        looks.push(swarm.core(NodeId(0)).looked_at - before);
    }
    assert!(looks[0] >= 64, "{looks:?}");
    assert!(looks[1] <= looks[0] + 80, "{looks:?}");
}

/// T16: half of the nodes are away at the write, and come back when the rest has it and the writer is gone:
/// those who come back serve each other.
#[test]
fn half_come_back_without_the_writer() {
    // In the third, links for content are up some seconds after those for questions. In the last two
    // everybody has another file, of which those who did not go away remember that.
    for (nodes, most, most_twice, no_bulk, before) in [
        (8, 0.64, 0.01, 0, 0),
        (16, 0.64, 0.01, 0, 0),
        (8, 0.91, 0.01, 4, 0),
        (8, 0.64, 0.01, 0, 128),
        (16, 0.64, 0.01, 0, 128),
    ] {
        let mut swarm = Swarm::new(&vec![8000; nodes], &Links::Any);
        if before > 0 {
            swarm.write(NodeId(1), before, 64 * KIB);
            swarm.run(LONG, |swarm| swarm.all_have(before));
        }
        let all = 256 + before;
        let away: Vec<NodeId> = swarm.ids().split_off(nodes / 2);
        for id in &away {
            swarm.set_down(*id, true);
        }
        let noticed = Duration::from_nanos(swarm.now.0) + Duration::from_secs(1);
        swarm.run(noticed, |_| false);
        swarm.write(NodeId(0), 256, 64 * KIB);
        swarm.run(LONG, |swarm| swarm.all_have(all));
        // Whoever stands in for a node that is away feeds its heirs, who need not ask.
        assert!(swarm.wants < 20, "{nodes}: {} were asked for", swarm.wants);
        let settled = Duration::from_nanos(swarm.now.0) + Duration::from_secs(3);
        swarm.run(settled, |_| false);
        swarm.set_down(NodeId(0), true);
        swarm.run(settled + Duration::from_secs(1), |_| false);
        let start = swarm.now;
        for id in &away {
            swarm.set_down(*id, false);
        }
        swarm.no_bulk_until = swarm.now + Duration::from_secs(no_bulk);
        swarm.run(LONG, |swarm| swarm.all_have(all));
        let has: Vec<usize> = swarm.ids().iter().map(|id| swarm.has(*id)).collect();
        assert!(swarm.all_have(all), "{nodes}: {has:?}");
        let took = (swarm.now - start).as_secs_f64() / swarm.bound(NodeId(0), 256 * 65536);
        let twice = swarm.twice() as f64 / (away.len() as f64 * 256.0 * 65536.0);
        println!("{nodes}: {took:.3} of the bound, twice {twice:.3}");
        assert!(took <= most, "{nodes}: {took:.3} of the bound");
        assert!(twice <= most_twice, "{nodes}: {twice:.3} came twice");
    }
}

/// T16: who came late and asks is left with nobody but the writer: then it is sent the rest, down the trees.
#[test]
fn who_asks_in_vain_is_sent_it() {
    let mut swarm = Swarm::new(&[8000; 4], &Links::Any);
    swarm.set_down(NodeId(3), true);
    swarm.run(Duration::from_secs(1), |_| false);
    swarm.write(NodeId(0), 256, 64 * KIB);
    swarm.run(LONG, |swarm| swarm.all_have(256));
    swarm.set_down(NodeId(3), false);
    let so_far = |swarm: &Swarm| swarm.has(NodeId(3)) >= 32;
    swarm.run(LONG, so_far);
    assert!(
        so_far(&swarm) && swarm.wants > 0,
        "it asks for what it missed"
    );
    for id in [1, 2] {
        swarm.set_down(NodeId(id), true);
    }
    let left = (256 - swarm.has(NodeId(3))) as f64 * 65536.0 / 1e6;
    let gone = swarm.now;
    swarm.run(LONG, |swarm| swarm.all_have(256));
    let took = (swarm.now - gone).as_secs_f64();
    println!("{took:.1} s for {left:.1} s");
    assert!(swarm.all_have(256), "{} of 256", swarm.has(NodeId(3)));
    assert!(took <= left * 1.05 + 1.5, "{took:.1} s for {left:.1} s");
    assert!(swarm.twice() * 20 < 256 * 65536, "{} twice", swarm.twice());
}

/// Who did not answer is asked again a second later: it still has what it said.
#[test]
fn who_did_not_answer_is_asked_again() {
    let mut swarm = Swarm::new(&[8000; 3], &Links::Any);
    swarm.set_down(NodeId(0), true);
    swarm.set_down(NodeId(1), true);
    let parcel = swarm.write(NodeId(0), 8, 64 * KIB)[0];
    let announcement = swarm.core(NodeId(0)).announcement_of(&parcel);
    let layout = swarm.layout.clone();
    let mut core = Core::new(NodeId(1));
    let at = |ms: u64| Instant(ms * 1_000_000);
    let pulled = |actions: Vec<Action>| -> Vec<usize> {
        let chunks = actions.into_iter().filter_map(|action| match action {
            Action::Pull {
                from: NodeId(2),
                chunks,
                ..
            } => Some(chunks),
            _ => None,
        });
        chunks.flatten().map(|(_, number, _)| number).collect()
    };
    core.set_layout(layout, at(0));
    core.set_up([NodeId(2)].into(), at(0));
    core.announced(announcement, Bits::default(), at(0))
        .expect("room");
    let all = Bits::first(8);
    let report = Report {
        parcel,
        has: all,
        asks: false,
    };
    let first = pulled(core.have(NodeId(2), report, at(0)).expect("known"));
    assert!(!first.is_empty(), "the writer is gone");
    for number in &first {
        core.pulled(NodeId(2), parcel, *number, None, at(10));
    }
    assert_eq!(pulled(core.tick(at(500))), [], "it rests");
    assert_eq!(pulled(core.tick(at(1100))), first);
    for number in &first {
        core.pulled(NodeId(2), parcel, *number, Some(false), at(1200));
    }
    let others = pulled(core.tick(at(1300)));
    assert!(others.iter().all(|number| !first.contains(number)));
}
