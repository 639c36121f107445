//! Entries that come back from other nodes.

use super::super::index::Index;
use super::super::record::Place;
use super::*;
use crate::testing::Random;

const BYTES: usize = 3000;

fn start() -> ChainHash {
    ChainHash::genesis(&CLUSTER, P)
}

/// A log of 200 entries, and one that took a snapshot at 150 in the place of the first ones.
async fn two_logs() -> (Vec<Entry>, Log, TestDisk, (TestEnv, Log)) {
    let (_, source) = open(&TestDisk::default()).await;
    let entries = following(&source, P, 1, 200, 300);
    append(&source, P, entries.clone()).await.unwrap();
    let disk = TestDisk::default();
    let (env, log) = open(&disk).await;
    append(&log, P, entries[..40].to_vec()).await.unwrap();
    log.purge(P, entries[149].log_id, entries[149].chain)
        .unwrap();
    append(&log, P, entries[150..].to_vec()).await.unwrap();
    assert_eq!(all(&log, P), entries[150..]);
    (entries, source, disk, (env, log))
}

/// What a snapshot skipped comes back, the newest first, over restarts, and is what it was.
#[tokio::test(start_paused = true)]
async fn history_comes_back_backwards() {
    let (entries, source, disk, (mut env, mut log)) = two_logs().await;
    let mut rounds = 0;
    while log.state(P).below != start() {
        let state = log.state(P);
        let stretch = source.stretch(P, state.first, BYTES).unwrap().unwrap();
        assert_eq!(stretch.verify(P, state.first, &state.below), Ok(()));
        log.restore(P, stretch).await.unwrap();
        let first = log.state(P).first;
        assert!(first < state.first);
        assert_eq!(all(&log, P), entries[first as usize - 1..]);
        rounds += 1;
        if rounds % 7 == 0 {
            // New entries go on meanwhile, and segments fill.
            env.kill().await;
            (env, log) = open(&disk).await;
            assert_eq!(all(&log, P), entries[first as usize - 1..]);
        }
    }
    assert!(rounds > 14 && disk.exists("log/00000003.idx"), "{rounds}");
    assert_eq!((all(&log, P), log.state(P).first), (entries.clone(), 1));
    // Raft's marks did not move.
    assert_eq!(
        log.state(P).purged,
        Some((entries[149].log_id, entries[149].chain))
    );
    append(&log, P, following(&log, P, 2, 3, 10)).await.unwrap();
    // A later snapshot skips again, and what came back before is not mistaken for history after it.
    let upto = LogId {
        term: 9,
        index: 500,
    };
    log.purge(P, upto, ChainHash([7; 32])).unwrap();
    append(&log, P, following(&log, P, 9, 3, 10)).await.unwrap();
    env.kill().await;
    let (_, log) = open(&disk).await;
    assert_eq!((log.state(P).first, all(&log, P).len()), (501, 3));
    assert_eq!(log.stretch(P, 501, BYTES), Ok(None));
}

/// What was here before a snapshot took its place is used again, where it is of the same chain.
#[tokio::test(start_paused = true)]
async fn what_was_here_before_a_snapshot_is_not_fetched_again() {
    let (entries, source, disk, (env, log)) = two_logs().await;
    assert_eq!(log.kept(P, BYTES), None);
    while log.state(P).first > 41 {
        let state = log.state(P);
        let stretch = source.stretch(P, state.first, BYTES).unwrap().unwrap();
        log.restore(P, stretch.starting_at(41)).await.unwrap();
    }
    env.kill().await;
    let (env, log) = open(&disk).await;
    while log.state(P).below != start() {
        let stretch = log.kept(P, BYTES).unwrap();
        log.restore(P, stretch).await.unwrap();
    }
    assert_eq!(all(&log, P), entries);
    // Here the snapshot is of another history: nothing of the old one fits.
    log.purge(P, entries[99].log_id, ChainHash([5; 32]))
        .unwrap();
    let upto = LogId {
        term: 3,
        index: 120,
    };
    log.purge(P, upto, ChainHash([6; 32])).unwrap();
    assert_eq!(log.kept(P, BYTES), None);
    append(&log, P, following(&log, P, 3, 2, 10)).await.unwrap();
    env.kill().await;
    let (_, log) = open(&disk).await;
    assert_eq!((log.kept(P, BYTES), log.state(P).first), (None, 121));
    assert_eq!(log.state(P).oldest, Some(121));
}

/// I2: nobody is believed who gives other entries.
#[tokio::test(start_paused = true)]
async fn forged_history_is_refused() {
    let (entries, source, _, (_, log)) = two_logs().await;
    let state = log.state(P);
    let good = source.stretch(P, 151, BYTES).unwrap().unwrap();
    let verify = |stretch: &Stretch| stretch.verify(P, 151, &state.below);
    let mut other_body = good.clone();
    other_body.entries[2].body = Bytes::from_static(b"forged");
    let mut rechained = good.clone();
    rechained.previous = ChainHash([1; 32]);
    let mut chain = rechained.previous;
    for entry in &mut rechained.entries {
        *entry = Entry::following(&chain, entry.clone());
        chain = entry.chain;
    }
    let mut gap = good.clone();
    gap.entries.remove(1);
    let none = Stretch {
        entries: Vec::new(),
        ..good.clone()
    };
    for (what, bad) in [
        ("body", &other_body),
        ("chain", &rechained),
        ("gap", &gap),
        ("none", &none),
    ] {
        assert!(verify(bad).is_err(), "{what}");
        assert!(log.restore(P, bad.clone()).await.is_err(), "{what}");
    }
    // Good entries in a wrong place.
    let early = source.stretch(P, 140, BYTES).unwrap().unwrap();
    assert!(log.restore(P, early).await.is_err());
    assert!(log.restore(Q, good.clone()).await.is_err());
    assert_eq!(all(&log, P), entries[150..]);
    log.restore(P, good).await.unwrap();
}

/// D5: an entry that rotted is found, and replaced by what another node has.
#[tokio::test(start_paused = true)]
async fn a_damaged_entry_is_replaced() {
    let disk = TestDisk::default();
    let (_, source) = open(&TestDisk::default()).await;
    let entries = following(&source, P, 1, 200, 300);
    append(&source, P, entries.clone()).await.unwrap();
    let (_, log) = open(&disk).await;
    append(&log, P, entries.clone()).await.unwrap();
    log.close().await.unwrap();
    // Somewhere in the first segment: far from what recovery reads.
    disk.tamper("log/00000001.seg", |bytes| {
        for byte in &mut bytes[9000..10_000] {
            *byte ^= 0x40;
        }
    });
    let (_, log) = open(&disk).await;
    let read = log.read(P, 1, 201, usize::MAX);
    assert!(
        matches!(read, Err(SegmentProblem::Damaged { .. })),
        "{read:?}"
    );
    let mut mended = 0;
    while let Some(damage) = log.damage() {
        let end = damage.index + 1;
        let stretch = source.stretch(P, end, BYTES).unwrap().unwrap();
        log.restore(P, stretch.starting_at(damage.index))
            .await
            .unwrap();
        log.is_mended();
        mended += 1;
        let _still_damaged = log.read(P, 1, 201, usize::MAX);
    }
    assert!((2..8).contains(&mended), "{mended}");
    assert_eq!(all(&log, P), entries);
    log.close().await.unwrap();
    let (_, log) = open(&disk).await;
    assert_eq!(all(&log, P), entries);
}

/// D1 and the rules of recovery hold for history too: after a power cut it is there or not.
#[tokio::test(start_paused = true)]
async fn a_power_cut_leaves_history_whole() {
    let (entries, source, mut disk, (env, _)) = two_logs().await;
    env.kill().await;
    let mut first = 151;
    for seed in 0..40 {
        let (env, log) = open(&disk).await;
        let found = log.state(P).first;
        assert!(found <= first, "what was answered is there");
        assert_eq!(all(&log, P), entries[found as usize - 1..], "seed {seed}");
        first = found;
        if log.state(P).below != start() {
            let stretch = source.stretch(P, first, BYTES / 2).unwrap().unwrap();
            let from = stretch.entries[0].log_id.index;
            let restored = log.restore(P, stretch);
            if seed % 2 == 0 {
                restored.await.unwrap();
                first = from;
            } else {
                let soon = std::time::Duration::from_micros(seed);
                if tokio::time::timeout(soon, restored).await == Ok(Ok(())) {
                    first = from;
                }
            }
        }
        env.kill().await;
        disk = disk.crash(seed);
    }
    assert!(first < 100, "{first}");
}

/// Runs laid over others replace what they overlap and nothing else.
#[test]
fn the_index_is_what_was_laid_last() {
    let place = |segment, offset| Place {
        segment,
        offset,
        length: 7,
    };
    for seed in 0..300 {
        let mut random = Random(seed);
        let (mut index, mut model) = (Index::default(), BTreeMap::new());
        for step in 1..60 {
            let at = random.below(40);
            match random.below(3) {
                0 => {
                    index.cut(P, at);
                    model.retain(|key, _| *key < at);
                }
                1 => {
                    index.put(P, at, place(step, 1));
                    model.retain(|key, _| *key < at);
                    model.insert(at, place(step, 1));
                }
                _ => {
                    let count = 1 + random.below(12);
                    let places: Vec<_> = (0..count).map(|n| place(step, 100 + n as u32)).collect();
                    index.put_history(P, at, &places);
                    model.extend((at..).zip(places));
                }
            }
            let found: BTreeMap<_, _> = (0..60)
                .filter_map(|at| Some((at, index.get(P, at)?)))
                .collect();
            assert_eq!(found, model, "seed {seed} step {step}");
            assert_eq!(index.oldest(P), model.keys().next().copied());
        }
    }
}
