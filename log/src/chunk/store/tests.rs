//! Tests of the store: what is acknowledged, what survives, what is found.

use super::*;
use crate::chunk::pack::pack_path;
use crate::chunk::testing::{TestEnv, noise, run};
use crate::env::File;
use std::sync::atomic::Ordering::SeqCst;

const CLUSTER: ClusterId = ClusterId([3; 32]);

fn small() -> StoreOptions {
    StoreOptions {
        pack_bytes: 40_000,
        ..StoreOptions::default()
    }
}

fn open(env: &TestEnv) -> Result<PackStore<TestEnv>, ChunkProblem> {
    PackStore::open(env.clone(), env.kv.clone(), CLUSTER, small())
}

/// Chunk `n`: a few kilobytes, every other one compressible.
fn chunk(n: u64) -> (ChunkRef, Bytes) {
    let length = 3000 + usize::try_from(n % 7).unwrap() * 700;
    let raw = if n.is_multiple_of(2) {
        noise(n, length)
    } else {
        format!("text number {n} ").repeat(length / 10).into_bytes()
    };
    let length = u32::try_from(raw.len()).unwrap();
    let hash = ChunkHash::of(&raw);
    (ChunkRef { hash, length }, raw.into())
}

fn put(store: &PackStore<TestEnv>, n: u64) -> Result<bool, ChunkProblem> {
    let (chunk, raw) = chunk(n);
    store.put(chunk.hash, &raw)
}

fn assert_readable(store: &PackStore<TestEnv>, n: u64) {
    let (chunk, raw) = chunk(n);
    assert_eq!(store.read(chunk).as_ref(), Ok(&raw), "chunk {n}");
}

#[test]
fn what_is_put_is_read_and_put_once() {
    run(|env| async move {
        let store = open(&env).unwrap();
        for n in 0..40 {
            assert_eq!(put(&store, n), Ok(true));
            assert_eq!(put(&store, n), Ok(false));
            assert_readable(&store, n);
        }
        store.sync().await.unwrap();
        let bytes = store.stored_bytes();
        for n in 0..40 {
            assert_eq!(put(&store, n), Ok(false));
            assert_readable(&store, n);
        }
        assert_eq!(store.stored_bytes(), bytes);
        let wanted: Vec<_> = [1, 99, 2].into_iter().map(|n| chunk(n).0).collect();
        assert_eq!(store.missing(&wanted), Ok(vec![chunk(99).0]));
        let missing = store.read(chunk(99).0);
        let hash = chunk(99).0.hash;
        assert_eq!(missing, Err(ChunkProblem::Missing { hash }));
    });
}

/// Promise I1: what another node sends is proven before it is stored.
#[test]
fn a_frame_travels_and_a_forged_one_is_refused() {
    run(|env| async move {
        let store = open(&env).unwrap();
        let (wanted, raw) = chunk(1);
        store.put(wanted.hash, &raw).unwrap();
        let frame = store.read_frame(&wanted.hash).unwrap();
        let other = TestEnv::boot(Default::default(), Default::default());
        let other = open(&other).unwrap();
        for bit in [0, 100, frame.len() * 8 - 1] {
            let mut forged = frame.to_vec();
            forged[bit / 8] ^= 1 << (bit % 8);
            let refused = other.put_frame(&forged.into());
            assert!(matches!(refused, Err(ChunkProblem::Damaged { .. })));
        }
        let wrong = frame::encode(wanted.hash, &chunk(2).1).to_bytes();
        assert!(other.put_frame(&wrong).is_err());
        assert!(other.put_verified(wanted, &chunk(2).1).is_err());
        assert_eq!(other.has(&wanted.hash), Ok(false));
        assert_eq!(other.put_frame(&frame), Ok(wanted));
        assert_readable(&other, 1);
        // A manifest that lies about a length takes nothing away.
        let lie = ChunkRef {
            length: 1,
            ..wanted
        };
        assert!(matches!(other.read(lie), Err(ChunkProblem::Storage(_))));
        assert_readable(&other, 1);
    });
}

/// Many callers share a sync; small files cost one write each.
#[test]
fn syncs_and_writes_are_few() {
    run(|env| async move {
        let store = PackStore::open(env.clone(), env.kv.clone(), CLUSTER, Default::default());
        let store = store.unwrap();
        for n in 0..1000 {
            put(&store, n).unwrap();
        }
        let syncs = (0..10).map(|_| store.sync());
        for done in futures::future::join_all(syncs).await {
            done.unwrap();
        }
        let state = env.disk.state();
        assert!(state.syncs <= 2, "{} syncs", state.syncs);
        assert!(state.writes <= 1001, "{} writes", state.writes);
        assert_eq!(env.kv.count(), 1);
    });
}

/// Puts in rounds, with a sync after each; answers how many rounds were acknowledged.
async fn work(env: &TestEnv) -> Result<u64, u64> {
    let Ok(store) = open(env) else { return Err(0) };
    for round in 0..6 {
        for n in round * 5..round * 5 + 5 {
            put(&store, n).map_err(|_| round)?;
        }
        store.sync().await.map_err(|_| round)?;
    }
    Ok(6)
}

/// Promises D2, D4: the machine dies at each call in turn; what was acknowledged is there and
/// whole, whatever became of the index, and the rest is whole or missing. Then the store goes on,
/// and what it acknowledges now survives a second crash.
#[test]
fn everything_synced_survives_a_crash_at_every_call() {
    run(|env| async move {
        assert_eq!(work(&env).await, Ok(6));
        let calls = env.disk.state().calls;
        assert!(calls > 40);
        for dies_at in 1..=calls + 1 {
            let env = TestEnv::boot(Default::default(), Default::default());
            env.disk.state().dies_at = Some(dies_at);
            let (Ok(rounds) | Err(rounds)) = work(&env).await;
            for commits in [0, env.kv.count() / 2, env.kv.count()] {
                let after = env.crash(dies_at * 31 + commits as u64, commits);
                check_and_go_on(&after, rounds, dies_at).await;
            }
        }
    });
}

async fn check_and_go_on(after: &TestEnv, rounds: u64, seed: u64) {
    let store = open(after).unwrap();
    for n in 0..30 {
        let wanted = chunk(n).0;
        if n < rounds * 5 || store.has(&wanted.hash).unwrap() {
            assert_readable(&store, n);
        }
    }
    for n in 20..50 {
        put(&store, n).unwrap();
    }
    store.sync().await.unwrap();
    for commits in [0, after.kv.count()] {
        let again = after.crash(seed, commits);
        let store = open(&again).unwrap();
        for n in (0..rounds * 5).chain(20..50) {
            assert_readable(&store, n);
        }
    }
}

/// Promise D4: after the first failed write or sync nothing is acknowledged any more, and the node
/// is stopped.
#[test]
fn the_first_failure_is_final() {
    run(|env| async move {
        work(&env).await.unwrap();
        let calls = env.disk.state().calls;
        for fails_at in 2..=calls {
            let env = TestEnv::boot(Default::default(), Default::default());
            env.disk.state().fails_at = Some((fails_at, io::ErrorKind::Other));
            let store = open(&env).unwrap();
            let mut is_failed = false;
            for n in 0..30 {
                is_failed |= put(&store, n).is_err();
                if n % 5 == 4 {
                    is_failed |= store.sync().await.is_err();
                }
                if is_failed {
                    assert!(put(&store, 1000 + n).is_err());
                    assert!(store.sync().await.is_err());
                }
            }
            assert!(is_failed, "call {fails_at}");
            let failures = env.runtime.failures.lock().unwrap();
            assert_eq!(failures.first().unwrap().0, EXIT_STORAGE);
        }
    });
}

/// An index that refuses rows costs no chunk: they are read, and survive, without it.
#[test]
fn an_index_that_fails_loses_nothing() {
    run(|env| async move {
        let store = open(&env).unwrap();
        env.kv.is_failing.store(true, SeqCst);
        (0..10).for_each(|n| assert_eq!(put(&store, n), Ok(true)));
        store.sync().await.unwrap();
        tokio::task::yield_now().await;
        assert!(put(&store, 10).is_err());
        (0..10).for_each(|n| assert_readable(&store, n));
        env.kv.is_failing.store(false, SeqCst);
        store.sync().await.unwrap();
        while put(&store, 10).is_err() {
            tokio::task::yield_now().await;
        }
        env.kv.is_failing.store(true, SeqCst);
        store.sync().await.unwrap();
        let after = open(&env.crash(1, usize::MAX)).unwrap();
        (0..=10).for_each(|n| assert_readable(&after, n));
    });
}

/// Promise D4: after a failed sync the page cache shows what the disk does not have, and says that
/// it is clean. The next process writes it anew before it acknowledges it.
#[test]
fn what_a_failed_sync_left_in_the_page_cache_is_written_anew() {
    run(|env| async move {
        let store = open(&env).unwrap();
        put(&store, 1).unwrap();
        store.sync().await.unwrap();
        for n in 2..30 {
            put(&store, n).unwrap();
        }
        let calls = env.disk.state().calls;
        for failing in 1..=3 {
            let env = env.kill();
            let store = open(&env).unwrap();
            put(&store, 30).unwrap();
            env.disk.state().fails_at = Some((calls + failing, io::ErrorKind::Other));
            env.disk.state().calls = calls;
            assert!(store.sync().await.is_err());
            let env = env.kill();
            let store = open(&env).unwrap();
            store.sync().await.unwrap();
            let held: Vec<u64> = (1..31)
                .filter(|n| store.has(&chunk(*n).0.hash).unwrap())
                .collect();
            assert!(held.len() >= 29);
            let store = open(&env.crash(failing, 0)).unwrap();
            held.iter().for_each(|n| assert_readable(&store, *n));
        }
    });
}

/// A sync whose caller went away still happens, and its failure still counts (promise D4).
#[test]
fn a_sync_outlives_its_caller() {
    run(|env| async move {
        let store = open(&env).unwrap();
        put(&store, 1).unwrap();
        {
            let sync = std::pin::pin!(store.sync());
            assert!(futures::poll!(sync).is_pending());
        }
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert_eq!(env.disk.state().syncs, 1);
        assert_eq!(store.unsynced_bytes(), 0);
    });
}

/// Promise D5: of every flipped byte at most its own chunk is lost, it is never served, and it can
/// be put again; with the index and without.
#[test]
fn a_flip_costs_one_chunk_and_is_never_served() {
    run(|env| async move {
        let store = open(&env).unwrap();
        for n in 0..10 {
            put(&store, n).unwrap();
        }
        store.sync().await.unwrap();
        let size = env.disk.stat(&pack_path(1)).unwrap().size;
        for bit in (0..size * 8).step_by(1001) {
            for commits in [0, env.kv.count()] {
                let after = env.crash(1, commits);
                after.disk.flip(&pack_path(1), bit);
                let store = open(&after).unwrap();
                let mut lost = 0;
                for n in 0..10 {
                    let (wanted, raw) = chunk(n);
                    match store.read(wanted) {
                        Ok(found) => assert_eq!(found, raw),
                        Err(_) => {
                            lost += 1;
                            assert_eq!(store.has(&wanted.hash), Ok(false));
                            assert_eq!(put(&store, n), Ok(true));
                            assert_readable(&store, n);
                        }
                    }
                }
                assert!(lost <= 1, "{lost} chunks lost by bit {bit}");
            }
        }
    });
}

/// Promise D5: a pack cut short loses what was behind the cut, and knows it.
#[test]
fn a_pack_cut_short_is_noticed() {
    run(|env| async move {
        let store = open(&env).unwrap();
        for n in 0..10 {
            put(&store, n).unwrap();
        }
        store.sync().await.unwrap();
        let after = env.crash(1, env.kv.count());
        let file = after.disk.open(&pack_path(1), Open::Write).unwrap();
        file.set_len(10_000).unwrap();
        let store = open(&after).unwrap();
        assert_eq!(store.take_damaged().len(), 1);
        let mut lost = 0;
        for n in 0..10 {
            if store.has(&chunk(n).0.hash).unwrap() {
                assert_readable(&store, n);
            } else {
                lost += 1;
                assert_eq!(put(&store, n), Ok(true));
            }
        }
        assert!(lost > 0);
        store.sync().await.unwrap();
        let again = open(&after.crash(2, after.kv.count())).unwrap();
        (0..10).for_each(|n| assert_readable(&again, n));
    });
}

/// A sector that cannot be read costs what is in it; the pack is not cut and takes no more.
#[test]
fn an_unreadable_sector_costs_what_is_in_it() {
    run(|env| async move {
        let store = open(&env).unwrap();
        for n in 0..10 {
            put(&store, n).unwrap();
        }
        store.sync().await.unwrap();
        let size = env.disk.stat(&pack_path(1)).unwrap().size;
        let after = env.crash(1, 0);
        after.disk.state().unreadable = Some((pack_path(1), 9000, 9500));
        let store = open(&after).unwrap();
        assert!(!store.take_damaged().is_empty());
        let lost = (0..10).filter(|n| !store.has(&chunk(*n).0.hash).unwrap());
        let lost: Vec<u64> = lost.collect();
        assert!((1..=3).contains(&lost.len()), "{lost:?}");
        put(&store, 50).unwrap();
        store.sync().await.unwrap();
        assert!(after.disk.stat(&pack_path(1)).unwrap().size >= size);
        assert!(after.disk.stat(&pack_path(2)).is_ok());
    });
}

/// Promise B3: below the reserve nothing is taken in, and all is well once there is room.
#[test]
fn below_the_reserve_nothing_is_taken_in() {
    run(|env| async move {
        let store = open(&env).unwrap();
        put(&store, 1).unwrap();
        env.disk.state().free_bytes = 1 << 30;
        let refused = (2..1000).find_map(|n| put(&store, n).err());
        assert!(matches!(refused, Some(ChunkProblem::NoSpace { .. })));
        assert!(matches!(
            put(&store, 5000),
            Err(ChunkProblem::NoSpace { .. })
        ));
        assert_eq!(put(&store, 1), Ok(false));
        store.sync().await.unwrap();
        env.disk.state().free_bytes = 1 << 31;
        assert_eq!(put(&store, 5000), Ok(true));
        let calls = env.disk.state().calls;
        env.disk.state().fails_at = Some((calls + 1, io::ErrorKind::StorageFull));
        assert!(matches!(
            put(&store, 5001),
            Err(ChunkProblem::NoSpace { .. })
        ));
        assert_eq!(put(&store, 5001), Ok(true));
        assert!(env.runtime.failures.lock().unwrap().is_empty());
    });
}

#[test]
fn a_pack_of_another_cluster_or_a_newer_format_is_refused() {
    run(|env| async move {
        let store = open(&env).unwrap();
        put(&store, 1).unwrap();
        store.sync().await.unwrap();
        let after = env.crash(1, 0);
        let other = ClusterId([4; 32]);
        let refused = PackStore::open(after.clone(), after.kv.clone(), other, small());
        assert!(matches!(refused, Err(ChunkProblem::Storage(_))));
        let mut header = pack::encode_header(CLUSTER, 1);
        header[8] = 2;
        let checksum = crc32c::crc32c(&header[..48]);
        header[48..].copy_from_slice(&checksum.to_le_bytes());
        let file = after.disk.open(&pack_path(1), Open::Write).unwrap();
        file.write_at(&header, 0).unwrap();
        assert!(open(&after).is_err());
    });
}
