//! Content between nodes: bounded groups, and claims that are given back.

use super::*;
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
