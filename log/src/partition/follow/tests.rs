//! What a follower believes.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test that meets the unexpected fails"
)]

use super::super::{Beats, Bodies, Council, NoBodies, PartitionOptions, Timing};
use super::*;
use crate::mesh::Mesh;
use crate::reader::SnapshotSource;
use crate::segment::{LogIdentity, SegmentLog, SegmentOptions};
use crate::testing::{TestDisk, TestEnv};
use aber_proto::{ChainHash, ClusterId, EntryKind, PartitionId, SecretKey, Timestamp};
use std::sync::Arc;

const CLUSTER: ClusterId = ClusterId([3; 32]);
pub(in crate::partition) const P: PartitionId = PartitionId(2);
pub(in crate::partition) const VOTER: NodeId = NodeId(1);

/// Node 1 may vote; all keys are known.
struct Elders {
    me: NodeId,
}

fn key(node: NodeId) -> SecretKey {
    SecretKey::from_seed(&[u8::try_from(node.0).unwrap() + 1; 32]).unwrap()
}

impl Council for Elders {
    fn may_vote(&self, node: NodeId) -> bool {
        node == VOTER
    }

    fn voters(&self, _: &[NodeId]) -> Vec<NodeId> {
        vec![VOTER]
    }

    fn sign(&self, head: Head) -> SignedHead {
        head.sign(&CLUSTER, self.me, &key(self.me))
    }

    fn is_good(&self, head: &SignedHead) -> bool {
        let is_signed = head.verify(&CLUSTER, &key(head.signer).public());
        is_signed.is_ok() && self.may_vote(head.signer)
    }

    fn parents(&self, _: NodeId) -> Vec<NodeId> {
        Vec::new()
    }
}

struct NoSnapshots;

impl SnapshotSource for NoSnapshots {
    fn newest(&self, _: PartitionId) -> Option<SnapshotManifest> {
        None
    }

    fn install(
        &self,
        _: SnapshotManifest,
    ) -> std::pin::Pin<Box<dyn Future<Output = Result<(), ReadProblem>> + Send>> {
        Box::pin(async { Ok(()) })
    }
}

pub(in crate::partition) async fn follower(disk: &TestDisk) -> (TestEnv, Partition<TestEnv>) {
    follower_with(disk, Bodies::new(Arc::new(NoBodies))).await
}

pub(in crate::partition) async fn follower_with(
    disk: &TestDisk,
    bodies: Bodies,
) -> (TestEnv, Partition<TestEnv>) {
    let env = TestEnv::new(disk);
    let me = NodeId(7);
    let identity = LogIdentity {
        cluster: CLUSTER,
        node: me,
    };
    let log = SegmentLog::open(env.clone(), identity, SegmentOptions::default());
    let mesh = Mesh::new(env.clone(), &[VOTER]);
    let started = Partition::start(PartitionOptions {
        env: env.clone(),
        me,
        partition: P,
        founders: [VOTER].into(),
        timing: Timing::LAN,
        snapshot_every: 64,
        log: log.await.unwrap(),
        beats: Beats::new(env.clone(), mesh.clone()),
        mesh,
        snapshots: Arc::new(NoSnapshots),
        council: Arc::new(Elders { me }),
        bodies,
    });
    (env, started.await.unwrap())
}

pub(in crate::partition) fn entries(term: u64, before: Option<&Entry>, count: u64) -> Vec<Entry> {
    let mut chain = before.map_or(ChainHash::genesis(&CLUSTER, P), |entry| entry.chain);
    let first = before.map_or(0, |entry| entry.log_id.index + 1);
    let mut all = Vec::new();
    for index in first..first + count {
        let entry = Entry {
            partition: P,
            log_id: LogId { term, index },
            order_time: Timestamp(5),
            control_index: 0,
            kind: EntryKind::Change,
            body: Bytes::from(vec![7; 30]),
            chain: ChainHash::default(),
        };
        let entry = Entry::following(&chain, entry);
        chain = entry.chain;
        all.push(entry);
    }
    all
}

fn head_by(signer: NodeId, last: &Entry) -> SignedHead {
    let head = Head {
        partition: P,
        log_id: last.log_id,
        chain: last.chain,
    };
    head.sign(&CLUSTER, signer, &key(signer))
}

/// I4, S4: entries count as committed only under a head that a member who may vote has signed, and
/// only whole and in order.
#[tokio::test(start_paused = true)]
async fn nothing_is_believed_without_a_good_head() {
    let (_, partition) = follower(&TestDisk::default()).await;
    let good = entries(1, None, 5);
    let head = head_by(VOTER, &good[4]);
    let check = |entries: &[Entry], head: &SignedHead| partition.check(VOTER, 0, entries, head);
    assert_eq!(check(&good, &head), Ok(()));
    let refused = |entries: &[Entry], head: &SignedHead| {
        assert!(matches!(
            check(entries, head),
            Err(FollowProblem::Lied { .. })
        ));
    };
    // Signed by a member that may not vote, or of an earlier entry.
    refused(&good, &head_by(NodeId(2), &good[4]));
    refused(&good, &head_by(VOTER, &good[3]));
    let mut other = head;
    other.signature[5] ^= 1;
    refused(&good, &other);
    // A gap, another order, another body, another beginning.
    refused(&[&good[..2], &good[3..]].concat(), &head);
    refused(&good[2..], &head);
    let mut swapped = good.clone();
    swapped.swap(1, 2);
    refused(&swapped, &head);
    let mut forged = good.clone();
    forged[2].body = Bytes::from_static(b"forged");
    refused(&forged, &head);
    let mut elsewhere = good.clone();
    elsewhere[0].partition = PartitionId(3);
    refused(&elsewhere, &head);
}

/// D1: what a former voter has beyond what was committed stays until a committed entry takes its
/// place, and what is the same stays as it is.
#[tokio::test(start_paused = true)]
async fn committed_entries_take_the_place_of_others() {
    let disk = TestDisk::default();
    let (env, partition) = follower(&disk).await;
    let committed = entries(1, None, 6);
    partition.take(committed[..3].to_vec()).await.unwrap();
    let log = partition.inner.shared.log.clone();
    // A tail that this node acknowledged as a voter: its first entry became committed.
    let tail = [&committed[3..4], &entries(1, Some(&committed[3]), 2)].concat();
    let mut other_tail = tail.clone();
    for entry in &mut other_tail[1..] {
        entry.body = Bytes::from_static(b"never committed");
    }
    let mut chain = other_tail[0].chain;
    for entry in &mut other_tail[1..] {
        *entry = Entry::following(&chain, entry.clone());
        chain = entry.chain;
    }
    log.append(P, other_tail.clone(), |_| ()).unwrap();
    assert_eq!(log.state(P).last, other_tail.last().map(|e| e.log_id));
    partition.take(committed[3..].to_vec()).await.unwrap();
    assert_eq!(log.read(P, 0, 99, usize::MAX).unwrap(), committed);
    let last = committed.last().map(|entry| entry.log_id);
    assert_eq!(partition.committed().get(), last);
    // A tail is no more committed after a restart than before.
    let tail = entries(1, committed.last(), 2);
    log.append(P, tail, |_| ()).unwrap();
    log.save_vote(P, crate::segment::Vote::default())
        .await
        .unwrap();
    partition.stop().await;
    env.kill().await;
    let (_, again) = follower(&disk).await;
    assert_eq!(again.committed().get(), last);
    assert_eq!(
        (again.leader(), again.is_leader(), again.votes()),
        (None, false, false)
    );
}

/// S3: nobody outside the group, or who may not vote, appends or is answered as a voter would be.
#[tokio::test(start_paused = true)]
async fn a_follower_answers_for_no_group() {
    let (_, partition) = follower(&TestDisk::default()).await;
    let refused = partition
        .clone()
        .answer(NodeId(9), Method::Append, Bytes::new());
    assert!(refused.await.unwrap_err().contains("may not vote"));
    let refused = partition
        .clone()
        .answer(VOTER, Method::Transfer, Bytes::new());
    assert!(refused.await.unwrap_err().contains("not part of the group"));
    let request = rpc::FollowRequest {
        partition: P.0,
        ..rpc::FollowRequest::default()
    };
    let payload = Bytes::from(request.encode_to_vec());
    let answer = partition.answer(NodeId(9), Method::Follow, payload).await;
    let answer = rpc::FollowResponse::decode(answer.unwrap()).unwrap();
    assert!(!answer.is_fed && answer.entries.is_empty() && answer.head.is_none());
}

fn answer(entries: &[Entry], head: Option<SignedHead>, way: &[u64]) -> Answer {
    Answer {
        entries: entries.to_vec(),
        head,
        snapshot: None,
        leader: Some(VOTER),
        way: way.iter().copied().map(NodeId).collect(),
        committed: entries.last().map_or(0, |entry| entry.log_id.index),
    }
}

/// Lets a node follow entries up to their end.
pub(in crate::partition) async fn follow(partition: &Partition<TestEnv>, entries: &[Entry]) {
    let head = entries.last().map(|last| head_by(VOTER, last));
    let said = answer(entries, head, &[]);
    partition.believe(VOTER, 0, said).await.unwrap();
}

pub(in crate::partition) async fn asked(
    partition: &Partition<TestEnv>,
    request: rpc::FollowRequest,
) -> rpc::FollowResponse {
    let payload = Bytes::from(request.encode_to_vec());
    let answer = partition.clone().answer(NodeId(9), Method::Follow, payload);
    rpc::FollowResponse::decode(answer.await.unwrap()).unwrap()
}

pub(in crate::partition) fn from(next: u64) -> rpc::FollowRequest {
    rpc::FollowRequest {
        partition: P.0,
        next,
        at_once: true,
        ..rpc::FollowRequest::default()
    }
}

const RELAY: NodeId = NodeId(8);

/// T11, I4, S4: a node in between that lies is believed in nothing, and nobody follows in a circle.
#[tokio::test(start_paused = true)]
async fn a_liar_in_between_is_not_believed() {
    let (_, partition) = follower(&TestDisk::default()).await;
    let good = entries(1, None, 6);
    let head = head_by(VOTER, &good[3]);
    // Entries that go beyond the head are not known to be committed.
    let mut forged = good[..4].to_vec();
    forged[1].body = Bytes::from_static(b"forged");
    let lies = [
        answer(&good, Some(head), &[1]),
        answer(&forged, Some(head), &[1]),
        answer(&good[..4], Some(head_by(RELAY, &good[3])), &[1]),
        answer(&good[1..4], Some(head), &[1]),
        answer(&good, None, &[1]),
    ];
    for lie in lies {
        let said = partition.believe(RELAY, 0, lie).await;
        assert!(matches!(said, Err(FollowProblem::Lied { .. })), "{said:?}");
    }
    let circle = answer(&good[..4], Some(head), &[3, 7, 1]);
    let said = partition.believe(RELAY, 0, circle).await;
    assert_eq!(said, Err(FollowProblem::Circle(RELAY)));
    let mut no_snapshot = answer(&[], Some(head), &[1]);
    no_snapshot.snapshot = Some(snapshot_at(&good[3]));
    let said = partition.believe(RELAY, 0, no_snapshot).await;
    assert!(matches!(said, Err(FollowProblem::Lied { .. })), "{said:?}");
    assert_eq!(partition.upstream(), None, "none of it was an answer");
    assert_eq!(partition.committed().get(), None);
    let said = partition
        .believe(RELAY, 0, answer(&good[..4], Some(head), &[1]))
        .await;
    assert_eq!(said, Ok(()));
    assert_eq!(partition.committed().get(), Some(good[3].log_id));
    assert_eq!(partition.inner.way.get(), Some(vec![RELAY, VOTER]));
}

fn snapshot_at(entry: &Entry) -> SnapshotManifest {
    SnapshotManifest {
        partition: P,
        log_id: entry.log_id,
        chain: entry.chain,
        digest: aber_proto::ViewDigest([0; 32]),
        membership: Bytes::new(),
        content: aber_proto::Manifest {
            size: 0,
            blake3: aber_proto::ContentHash::of(b""),
            average: 0,
            chunks: aber_proto::ChunkList::Direct(Vec::new()),
        },
    }
}

/// T11: a node that follows passes on what is committed, as far as a head by a voter covers it, and
/// signs nothing itself.
#[tokio::test(start_paused = true)]
async fn a_follower_passes_on_committed_entries_under_heads_of_voters() {
    let (_, partition) = follower(&TestDisk::default()).await;
    let all = entries(1, None, 9);
    let bytes = |entries: &[Entry]| entries.iter().map(Entry::to_bytes).collect::<Vec<_>>();
    for (first, end) in [(0, 3), (3, 6)] {
        let head = head_by(VOTER, &all[end - 1]);
        let said = answer(&all[first..end], Some(head), &[]);
        let said = partition.believe(VOTER, first as u64, said).await;
        assert_eq!(said, Ok(()));
    }
    // A tail that was never committed.
    let log = partition.inner.shared.log.clone();
    log.append(P, all[6..].to_vec(), |_| ()).unwrap();
    let said = asked(&partition, from(0)).await;
    assert!(said.is_fed && said.way == [1] && said.leader == 1 && said.committed == 5);
    assert_eq!(said.entries, bytes(&all[..6]));
    assert_eq!(
        said.head.as_ref().and_then(head_of),
        Some(head_by(VOTER, &all[5]))
    );
    let said = asked(&partition, from(6)).await;
    assert!(said.is_fed && said.entries.is_empty() && said.head.is_none());
    // A head at one entry: one that is kept, none of what is not committed.
    let at = |index| rpc::FollowRequest {
        head_at: Some(index),
        hops: 9,
        ..from(0)
    };
    let said = asked(&partition, at(2)).await;
    assert_eq!(
        said.head.as_ref().and_then(head_of),
        Some(head_by(VOTER, &all[2]))
    );
    for index in [1, 6, 8, 99] {
        assert_eq!(asked(&partition, at(index)).await.head, None, "{index}");
    }
    // After a restart no head is known: none is made up, and it says that it is no use.
    *lock(&partition.inner.heads) = KeptHeads::default();
    let said = asked(&partition, from(0)).await;
    assert!(!said.is_fed && said.head.is_none());
    lock(&partition.inner.heads).put(head_by(RELAY, &all[5]));
    assert!(
        !asked(&partition, from(0)).await.is_fed,
        "of one that may not vote any more"
    );
}

/// A5: who waits at a node that loses its own upstream is told at once.
#[tokio::test(start_paused = true)]
async fn who_waits_learns_that_nobody_feeds_its_upstream() {
    let (env, partition) = follower(&TestDisk::default()).await;
    let first = entries(1, None, 2);
    let head = head_by(VOTER, &first[1]);
    let said = answer(&first, Some(head), &[]);
    partition.believe(VOTER, 0, said).await.unwrap();
    let start = env.runtime().now();
    let waiting = || rpc::FollowRequest {
        at_once: false,
        ..from(2)
    };
    let lose = async {
        env.runtime().sleep(Duration::from_secs(1)).await;
        partition.set_way(None);
    };
    let (said, ()) = futures::join!(asked(&partition, waiting()), lose);
    assert!(!said.is_fed);
    assert!(env.runtime().now() - start < Duration::from_secs(2));
    // With somebody to follow, but nothing new, it is told so after a while.
    partition.set_way(Some(vec![VOTER]));
    let said = asked(&partition, waiting()).await;
    assert!(said.is_fed && said.entries.is_empty());
    assert!(env.runtime().now() - start >= WAIT);
}
