//! Tests of the scrub.

use super::*;
use crate::chunk::StoreOptions;
use crate::chunk::pack::pack_path;
use crate::chunk::testing::{TestEnv, noise, run};
use crate::env::Disk;
use aber_proto::{ChunkRef, ClusterId};

async fn filled(env: &TestEnv) -> (PackStore<TestEnv>, Vec<(ChunkRef, Bytes)>) {
    let options = StoreOptions {
        pack_bytes: 100_000,
        ..StoreOptions::default()
    };
    let store = PackStore::open(env.clone(), env.kv.clone(), ClusterId([3; 32]), options).unwrap();
    let chunks = (0..40).map(|n| {
        let raw = Bytes::from(noise(n, 9000));
        let hash = ChunkHash::of(&raw);
        (ChunkRef { hash, length: 9000 }, raw)
    });
    let chunks: Vec<_> = chunks.collect();
    for (n, (chunk, raw)) in chunks.iter().enumerate() {
        store.put(chunk.hash, raw).unwrap();
        if n == 20 {
            store.sync().await.unwrap();
        }
    }
    (store, chunks)
}

/// Promise I3: rot in header and payload, and a file that is gone, are found and become missing;
/// everything else is left alone.
#[test]
fn what_is_damaged_is_found_and_becomes_missing() {
    run(|env| async move {
        let (store, chunks) = filled(&env).await;
        let clean = store.scrub(u64::MAX).await.unwrap();
        assert_eq!(clean.damaged, []);
        assert!(clean.read_bytes > 40 * 9000);
        env.disk.flip(&pack_path(1), (52 + 20) * 8);
        env.disk.flip(&pack_path(2), (52 + 9048 * 2 + 100) * 8);
        env.disk.remove_file(&pack_path(4)).unwrap();
        let found = store.scrub(u64::MAX).await.unwrap();
        let missing: Vec<_> = chunks
            .iter()
            .filter(|(chunk, _)| !store.has(&chunk.hash).unwrap())
            .map(|(chunk, _)| chunk.hash)
            .collect();
        assert!(missing.contains(&chunks[0].0.hash));
        let mut damaged = found.damaged;
        damaged.sort_unstable();
        let mut expected = missing;
        expected.sort_unstable();
        assert_eq!(damaged, expected);
        for (chunk, raw) in &chunks {
            if store.has(&chunk.hash).unwrap() {
                assert_eq!(store.read(*chunk).as_ref(), Ok(raw));
            } else {
                assert_eq!(store.put(chunk.hash, raw), Ok(true));
            }
        }
        assert_eq!(store.scrub(u64::MAX).await.unwrap().damaged, []);
    });
}

#[test]
fn the_pace_is_kept() {
    run(|env| async move {
        let (store, _) = filled(&env).await;
        for n in 100..400 {
            let raw = Bytes::from(noise(n, 9000));
            store.put(ChunkHash::of(&raw), &raw).unwrap();
        }
        let start = env.runtime.now();
        let report = store.scrub(100_000).await.unwrap();
        let took = env.runtime.now() - start;
        let least = Duration::from_secs(report.read_bytes / 100_000 / 2);
        assert!(took >= least && took <= least * 3, "{took:?}");
    });
}
