//! Content between nodes: bounded groups, claims that are given back, bodies.

use super::*;
use crate::body::BodyRef;
use crate::body::tests::noise;
use crate::chunk::StoreOptions;
use crate::chunk::testing::TestEnv;
use crate::partition::BodySource;
use crate::relay::parcel::{Announcement, ParcelId};
use aber_proto::ClusterId;

/// Members that announce nothing.
struct Nobody;

impl Roster for Nobody {
    fn sign(&self, id: ParcelId, chunks: Vec<ChunkRef>) -> Announcement {
        let chunks = chunks.into();
        let signature = [0; 64];
        Announcement {
            id,
            chunks,
            signature,
        }
    }

    fn is_good(&self, _announcement: &Announcement) -> bool {
        false
    }
}

/// A4, A6: a reader that gives up must not keep the chunk from all others.
#[test]
fn chunks_claimed_by_who_gave_up_are_free_again() {
    crate::chunk::testing::run(|env| async move {
        let cluster = ClusterId([7; 32]);
        let store = PackStore::open(env.clone(), env.kv.clone(), cluster, Default::default());
        let mesh = Mesh::new(env.clone(), &[]);
        let content = NodeContent::start(env, NodeId(1), store.unwrap(), mesh, Arc::new(Nobody));
        let chunk = ChunkRef {
            hash: ChunkHash::of(b"far away"),
            length: 8,
        };
        let (mine, others) = content.claim(&[chunk]);
        assert_eq!((mine.chunks.len(), others.len()), (1, 0));
        let (second, others) = content.claim(&[chunk]);
        assert_eq!((second.chunks.len(), others.len()), (0, 1));
        drop(mine);
        content.wait_for(&others).await;
        assert!(content.inner.fetching().is_empty());
    });
}

#[test]
fn groups_are_bounded_in_bytes_and_chunks() {
    let chunk = |length| ChunkRef {
        hash: ChunkHash::default(),
        length,
    };
    let mut chunks = vec![chunk(128 * 1024); 5];
    chunks.extend(vec![chunk(1); 600]);
    let groups = groups(chunks);
    let shape: Vec<_> = groups.iter().map(Vec::len).collect();
    assert_eq!(shape, [2, 2, 256, 256, 89]);
}

fn content_with(env: &TestEnv, options: StoreOptions) -> NodeContent<TestEnv> {
    let store = PackStore::open(env.clone(), env.kv.clone(), ClusterId([7; 32]), options);
    let mesh = Mesh::new(env.clone(), &[]);
    NodeContent::start(
        env.clone(),
        NodeId(1),
        store.unwrap(),
        mesh,
        Arc::new(Nobody),
    )
}

/// T15, A5: a body whose chunks come is found at once when the last one is there; one of which nobody
/// tells is not waited for for long, and neither is one whose chunks make another.
#[test]
fn a_body_is_found_as_soon_as_it_is_here() {
    crate::chunk::testing::run(|env| async move {
        let content = content_with(&env, StoreOptions::default());
        let body = noise(100_000, 1);
        let (reference, pieces) = BodyRef::of(&body);
        let clock = env.runtime.clone();
        let start = clock.now();
        let bring = async {
            for (chunk, piece) in reference.chunks.iter().zip(&pieces) {
                clock.sleep(Duration::from_millis(50)).await;
                content.store().put(chunk.hash, piece).unwrap();
                content.relay().stored(chunk.hash, None);
            }
            clock.now()
        };
        let (found, last) = futures::join!(content.find(reference.clone()), bring);
        assert_eq!(found, Some(body.clone()));
        assert_eq!(clock.now(), last);
        assert!(last - start < Duration::from_secs(1));
        let unknown = BodyRef::of(&noise(100_000, 2)).0;
        let start = clock.now();
        assert_eq!(content.find(unknown).await, None);
        assert_eq!(clock.now() - start, Duration::from_secs(1));
        let mut other = reference;
        other.hash = aber_proto::ContentHash::of(b"another");
        assert_eq!(content.find(other).await, None);
        // Alone there is nobody to spread it to.
        assert_eq!(content.offer_body(&body), Ok(None));
    });
}

/// T15: nothing refers to the chunks of a body; they stay for the time of grace, and then go.
#[test]
fn the_sweep_takes_bodies_after_their_time() {
    crate::chunk::testing::run(|env| async move {
        const DAY: Duration = Duration::from_secs(86_400);
        let options = StoreOptions {
            pack_bytes: 20_000,
            ..StoreOptions::default()
        };
        let content = content_with(&env, options);
        let body = noise(100_000, 1);
        let (reference, pieces) = BodyRef::of(&body);
        for (chunk, piece) in reference.chunks.iter().zip(&pieces) {
            content.store().put(chunk.hash, piece).unwrap();
        }
        // What comes later closes the last pack.
        let (later, pieces) = BodyRef::of(&noise(60_000, 2));
        for (chunk, piece) in later.chunks.iter().zip(&pieces) {
            content.store().put(chunk.hash, piece).unwrap();
        }
        content.store().sync().await.unwrap();
        let nothing = |_: &ChunkHash| Ok(false);
        content.store().sweep(nothing, DAY).await.unwrap();
        assert_eq!(content.find(reference.clone()).await, Some(body));
        env.runtime.sleep(DAY).await;
        content.store().sweep(nothing, DAY).await.unwrap();
        let left = content.store().missing(&reference.chunks).unwrap();
        assert_eq!(left, reference.chunks);
        assert_eq!(content.find(reference).await, None);
    });
}
