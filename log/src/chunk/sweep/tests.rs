//! Tests of the sweep.

use super::*;
use crate::chunk::StoreOptions;
use crate::chunk::testing::{TestEnv, noise, run};
use aber_proto::{ChunkRef, ClusterId};
use bytes::Bytes;

const DAY: Duration = Duration::from_secs(86_400);

fn open(env: &TestEnv) -> PackStore<TestEnv> {
    let options = StoreOptions {
        pack_bytes: 20_000,
        ..StoreOptions::default()
    };
    PackStore::open(env.clone(), env.kv.clone(), ClusterId([3; 32]), options).unwrap()
}

fn chunk(n: u64) -> (ChunkRef, Bytes) {
    let raw: Bytes = noise(n, 4500).into();
    let hash = ChunkHash::of(&raw);
    (ChunkRef { hash, length: 4500 }, raw)
}

/// Four chunks a pack; the last pack has two.
async fn fill(store: &PackStore<TestEnv>, chunks: u64) -> Result<(), ChunkProblem> {
    for n in 0..chunks {
        let (chunk, raw) = chunk(n);
        store.put(chunk.hash, &raw)?;
    }
    store.sync().await
}

fn wanted(living: &[u64]) -> impl Fn(&ChunkHash) -> Result<bool, ChunkProblem> + Send + use<> {
    let living: Vec<ChunkHash> = living.iter().map(|n| chunk(*n).0.hash).collect();
    move |hash| Ok(living.contains(hash))
}

fn assert_readable(store: &PackStore<TestEnv>, numbers: &[u64]) {
    for n in numbers {
        let (chunk, raw) = chunk(*n);
        assert_eq!(store.read(chunk), Ok(raw), "chunk {n}");
    }
}

#[test]
fn a_pack_is_rewritten_when_enough_of_it_is_dead() {
    assert_eq!(judge(1052, 1000), Verdict::Keep);
    assert_eq!(judge(1052, 751), Verdict::Keep);
    assert_eq!(judge(1052, 750), Verdict::Rewrite);
    assert_eq!(judge(1052, 0), Verdict::Rewrite);
    assert_eq!(judge(0, 0), Verdict::Rewrite);
}

#[test]
fn a_pack_is_old_by_both_clocks() {
    let at = |days: i64| Timestamp(days * 86_400_000);
    assert!(is_old(at(9), at(2), None, 7 * DAY));
    assert!(!is_old(at(9), at(3), None, 7 * DAY));
    assert!(!is_old(at(9), at(2), Some(6 * DAY), 7 * DAY));
    assert!(is_old(at(9), at(2), Some(7 * DAY), 7 * DAY));
    assert!(!is_old(at(1), at(2), None, DAY));
}

#[test]
fn dead_packs_go_living_chunks_move_and_young_ones_stay() {
    run(|env| async move {
        let store = open(&env);
        fill(&store, 18).await.unwrap();
        let before = store.stored_bytes();
        let living = [0, 1, 2, 3, 5, 9, 17];
        let report = store.sweep(wanted(&living), DAY).await.unwrap();
        assert_eq!(report, SweepReport::default());
        env.runtime.sleep(2 * DAY).await;
        let report = store.sweep(wanted(&living), DAY).await.unwrap();
        // The first pack lives, the second and third move a chunk each, the fourth is dead.
        assert_eq!((report.packs, report.removed_packs), (4, 3));
        assert_eq!(report.moved_bytes, 2 * 4548);
        assert!(store.stored_bytes() < before - 40_000);
        assert_readable(&store, &living);
        assert_eq!(store.has(&chunk(12).0.hash), Ok(false));
        for commits in [0, env.kv.count()] {
            assert_readable(&open(&env.crash(7, commits)), &living);
        }
    });
}

/// What an upload in progress uses is kept, also if it comes while the sweep is at it.
#[test]
fn pinned_chunks_stay() {
    run(|env| async move {
        let store = open(&env);
        fill(&store, 10).await.unwrap();
        env.runtime.sleep(DAY).await;
        let early = store.pin([chunk(2).0.hash]);
        let late = std::sync::Mutex::new(None);
        let reach = |hash: &ChunkHash| {
            if *hash == chunk(7).0.hash {
                *late.lock().unwrap() = Some(store.pin([chunk(4).0.hash]));
            }
            Ok(false)
        };
        store.sweep(reach, DAY).await.unwrap();
        assert_readable(&store, &[2, 4]);
        assert_eq!(store.has(&chunk(3).0.hash), Ok(false));
        drop((early, late));
        for n in 20..30 {
            let (chunk, raw) = chunk(n);
            store.put(chunk.hash, &raw).unwrap();
        }
        store.sync().await.unwrap();
        env.runtime.sleep(DAY).await;
        store.sweep(|_| Ok(false), DAY).await.unwrap();
        assert_eq!(store.has(&chunk(2).0.hash), Ok(false));
        assert_eq!(store.has(&chunk(4).0.hash), Ok(false));
    });
}

/// A header whose length was damaged must not hide its neighbours from the sweep.
#[test]
fn a_damaged_header_costs_its_own_chunk_only() {
    run(|env| async move {
        let store = open(&env);
        fill(&store, 10).await.unwrap();
        env.runtime.sleep(DAY).await;
        // The stored and the raw length of the first frame both grow by 4096.
        for at in [52 + 4, 52 + 8] {
            env.disk.flip(&pack::pack_path(1), (at + 1) * 8 + 5);
        }
        let report = store.sweep(wanted(&[0, 2, 3, 8, 9]), DAY).await.unwrap();
        assert_eq!(report.removed_packs, 2);
        assert_readable(&store, &[2, 3, 8, 9]);
        assert_eq!(store.has(&chunk(0).0.hash), Ok(false));
    });
}

/// Promise D2: killed at any call of a sweep, nothing that lives is lost.
#[test]
fn a_crash_at_every_call_of_a_sweep_loses_nothing() {
    run(|env| async move {
        let living = [1, 5, 6, 9, 17];
        for dies_after in 1.. {
            let env = TestEnv::boot(env.disk.after_crash(0), env.kv.first(0));
            let store = open(&env);
            fill(&store, 18).await.unwrap();
            env.runtime.sleep(DAY).await;
            let calls = env.disk.state().calls;
            env.disk.state().dies_at = Some(calls + dies_after);
            let swept = store.sweep(wanted(&living), DAY).await;
            for commits in 0..=env.kv.count() {
                let after = env.crash(dies_after + 100 * commits as u64, commits);
                let store = open(&after);
                assert_readable(&store, &living);
                after.runtime.sleep(DAY).await;
                store.sync().await.unwrap();
                store.sweep(wanted(&living), DAY).await.unwrap();
                assert_readable(&store, &living);
                assert_readable(&open(&after.crash(3, after.kv.count())), &living);
            }
            if swept.is_ok() {
                assert!(dies_after > 5);
                break;
            }
        }
    });
}
