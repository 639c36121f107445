//! Tests of the way in and back.

use super::*;
use crate::chunk::StoreOptions;
use crate::chunk::testing::{TestEnv, noise, run};
use aber_proto::ClusterId;

fn open(env: &TestEnv) -> PackStore<TestEnv> {
    let cluster = ClusterId([3; 32]);
    PackStore::open(
        env.clone(),
        env.kv.clone(),
        cluster,
        StoreOptions::default(),
    )
    .unwrap()
}

async fn store(
    store: &PackStore<TestEnv>,
    content: &[u8],
    piece: usize,
    average: Option<u32>,
) -> StagedContent {
    let size = average.is_none().then_some(content.len() as u64);
    let mut writer = ContentWriter::new(store.clone(), size, average);
    for piece in content.chunks(piece) {
        writer.push(Bytes::copy_from_slice(piece)).await.unwrap();
    }
    writer.finish().await.unwrap()
}

async fn read(store: &PackStore<TestEnv>, content: &Content, from: u64, length: u64) -> Vec<u8> {
    let mut reader = read_range(store, content, from, length).unwrap();
    let mut bytes = Vec::new();
    while let Some(part) = reader.next().await.unwrap() {
        assert!(!part.is_empty());
        bytes.extend_from_slice(&part);
    }
    bytes
}

#[test]
fn short_content_stays_inline_and_out_of_the_store() {
    run(|env| async move {
        let chunks = open(&env);
        for length in [0, 1, limit::INLINE_BYTES] {
            let content = noise(1, length);
            let staged = store(&chunks, &content, 100, None).await;
            assert_eq!(staged.content, Content::Inline(content.clone().into()));
            assert!(staged.chunks.is_empty());
            assert_eq!(read(&chunks, &staged.content, 0, u64::MAX).await, content);
        }
        assert_eq!(chunks.stored_bytes(), 0);
        assert_eq!(env.disk.state().syncs, 0);
    });
}

#[test]
fn content_comes_back_and_its_hashes_are_plain_blake3() {
    run(|env| async move {
        let chunks = open(&env);
        for length in [limit::INLINE_BYTES + 1, 5000, 60_000, 3_000_000] {
            let content = noise(length as u64, length);
            let staged = store(&chunks, &content, 70_001, None).await;
            assert_eq!(staged.content.check(), Ok(()));
            assert_eq!(staged.content.size(), length as u64);
            assert_eq!(staged.content.blake3(), ContentHash::of(&content));
            assert_eq!(staged.new_bytes, length as u64);
            let again = store(&chunks, &content, 1 << 20, None).await;
            assert_eq!(again.content, staged.content);
            assert_eq!((again.new_bytes, again.reused_bytes), (0, length as u64));
            assert_eq!(read(&chunks, &staged.content, 0, u64::MAX).await, content);
            let (from, to) = (length / 3, length * 2 / 3);
            let part = read(&chunks, &staged.content, from as u64, (to - from) as u64).await;
            assert_eq!(part, content[from..to]);
            assert_eq!(read(&chunks, &staged.content, length as u64, 5).await, []);
        }
    });
}

/// Promise D2: what `finish` answered survives a power cut and the loss of the index.
#[test]
fn finished_content_survives_a_power_cut() {
    run(|env| async move {
        let content = noise(5, 500_000);
        let staged = store(&open(&env), &content, 4096, None).await;
        let chunks = open(&env.crash(1, 0));
        assert_eq!(read(&chunks, &staged.content, 0, u64::MAX).await, content);
    });
}

/// A list of more chunks than an event may carry is stored itself; a change in the middle of the
/// content makes few chunks new.
#[test]
fn a_long_list_is_stored_as_chunks() {
    run(|env| async move {
        let chunks = open(&env);
        let mut content = noise(8, 24 << 20);
        let staged = store(&chunks, &content, 1 << 20, Some(16 * 1024)).await;
        let Content::Chunks(manifest) = &staged.content else {
            panic!("inline");
        };
        assert!(matches!(manifest.chunks, ChunkList::Indirect(_)));
        assert_eq!(manifest.check(), Ok(()));
        let rows = resolve_chunks(&chunks, manifest).await.unwrap();
        assert!(rows.len() > limit::MANIFEST_CHUNKS);
        let all = rows.iter().chain(manifest.chunks.rows());
        assert!(all.eq(&staged.chunks));
        assert_eq!(
            read(&chunks, &staged.content, 20 << 20, 99).await,
            content[20 << 20..][..99]
        );
        content[12 << 20] ^= 1;
        let changed = store(&chunks, &content, 1 << 20, Some(16 * 1024)).await;
        assert!(changed.new_bytes < 300_000, "{} new", changed.new_bytes);
    });
}

/// A list that contradicts its manifest is an error.
#[test]
fn a_list_that_lies_is_refused() {
    run(|env| async move {
        let chunks = open(&env);
        let list = Bytes::from(noise(1, 36 * 10 + 5));
        let row = ChunkRef {
            hash: ChunkHash::of(&list),
            length: 365,
        };
        chunks.put(row.hash, &list).unwrap();
        let good = ChunkRef { length: 10, ..row };
        let rows = Bytes::from(encode_list(&[good, good]));
        let two = ChunkRef {
            hash: ChunkHash::of(&rows),
            length: 72,
        };
        chunks.put(two.hash, &rows).unwrap();
        for (list, size) in [
            (vec![row], 99),
            (vec![two], 19),
            (vec![two], 21),
            (vec![], 1),
        ] {
            let manifest = Manifest {
                size,
                blake3: ContentHash::default(),
                average: 16 * 1024,
                chunks: ChunkList::Indirect(list),
            };
            let refused = resolve_chunks(&chunks, &manifest).await;
            assert!(matches!(refused, Err(ContentProblem::List(_))), "{size}");
        }
    });
}
