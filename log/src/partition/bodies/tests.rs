//! What is done about entries and changes that come without their bodies.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that meets the unexpected fails"
)]

use super::*;
use crate::body::tests::noise;
use crate::partition::follow::tests::{P, VOTER, asked, entries, follow, follower_with, from};
use crate::testing::{TestDisk, TestEnv};

/// Who asks in [`asked`].
const ASKER: NodeId = NodeId(9);

/// Has some bodies, and after a while none of the others.
#[derive(Default)]
struct Shelf {
    bodies: Mutex<BTreeMap<ContentHash, Bytes>>,
    kept: Mutex<Vec<Bytes>>,
}

impl Shelf {
    fn put(&self, body: &Bytes) {
        lock(&self.bodies).insert(ContentHash::of(body), body.clone());
    }
}

impl BodySource for Shelf {
    fn find(&self, body: BodyRef) -> Boxed<Option<Bytes>> {
        let found = lock(&self.bodies).get(&body.hash).cloned();
        Box::pin(async move { found })
    }

    fn keep(&self, _: &BodyRef, bytes: &Bytes) {
        lock(&self.kept).push(bytes.clone());
    }
}

/// A node that follows, what it has of bodies, and entries of which those with odd indexes have a
/// large one.
async fn world() -> (Partition<TestEnv>, Arc<Shelf>, Vec<Entry>) {
    let shelf = Arc::new(Shelf::default());
    let source: Arc<dyn BodySource> = Arc::clone(&shelf) as _;
    let (_, partition) = follower_with(&TestDisk::default(), Bodies::new(source)).await;
    let mut all = entries(1, None, 6);
    let mut chain = aber_proto::ChainHash::genesis(&partition.inner.shared.log.cluster(), P);
    for (number, entry) in (0..).zip(&mut all) {
        if number % 2 == 1 {
            entry.body = noise(50_000, number);
        }
        *entry = Entry::following(&chain, entry.clone());
        chain = entry.chain;
    }
    (partition, shelf, all)
}

/// The entries as a sender that knows all of their bodies sends them.
fn stripped(all: &[Entry]) -> (Vec<Entry>, Vec<rpc::BodyRef>) {
    let bodies = Bodies::new(Arc::new(NoBodies));
    for entry in all {
        bodies.offered(BodyRef::of(&entry.body).0, Instant(0));
    }
    let (bytes, references) = bodies.send(ASKER, all.to_vec(), Instant(0));
    let entries = bytes.iter().map(|bytes| Entry::decode(bytes).unwrap());
    (entries.collect(), references)
}

/// I2: an entry goes on with exactly the body that it had, or not at all.
#[tokio::test(start_paused = true)]
async fn bodies_come_to_their_places() {
    let (partition, shelf, all) = world().await;
    let (sent, references) = stripped(&all);
    assert_eq!(references.len(), 3);
    let bytes: usize = sent.iter().map(|entry| entry.to_bytes().len()).sum();
    let named: usize = references.iter().map(Message::encoded_len).sum();
    assert!(bytes + named < 2000, "{bytes} and {named}");
    // None is to be had, and nobody can be asked; one alone does not help.
    let fill = || partition.fill(VOTER, sent.clone(), &references);
    let unreachable = BodyProblem::Call(CallProblem::Unreachable(VOTER));
    assert_eq!(fill().await, Err(unreachable.clone()));
    shelf.put(&all[1].body);
    assert_eq!(fill().await, Err(unreachable));
    shelf.put(&all[3].body);
    shelf.put(&all[5].body);
    assert_eq!(fill().await, Ok(all.clone()));
    // What came by its chunks is passed on by them.
    let now = partition.inner.env.runtime().now();
    let passed = partition
        .inner
        .bodies
        .reference_for(ASKER, &all[1].body, now);
    assert_eq!(passed, Some(BodyRef::of(&all[1].body).0));
    assert_eq!(partition.fill(VOTER, all.clone(), &[]).await, Ok(all));
}

/// B2: references that contradict their message are refused, and cost no wait.
#[tokio::test(start_paused = true)]
async fn references_of_nothing_are_refused() {
    let (partition, shelf, all) = world().await;
    all.iter().for_each(|entry| shelf.put(&entry.body));
    let (sent, references) = stripped(&all);
    let bad = |entries: &[Entry], references: &[rpc::BodyRef]| {
        let filled = partition.fill(VOTER, entries.to_vec(), references);
        futures::FutureExt::now_or_never(filled).expect("nothing is waited for")
    };
    let mut elsewhere = references.clone();
    elsewhere[0].index = 77;
    let mut twice = references.clone();
    twice[1].index = twice[0].index;
    let mut absurd = references.clone();
    absurd[2].rows = absurd[2].rows.repeat(100).into();
    for references in [elsewhere, twice, absurd] {
        let refused = bad(&sent, &references);
        assert!(matches!(refused, Err(BodyProblem::Bad(_))), "{refused:?}");
    }
    assert!(bad(&all, &references).is_err(), "they have their bodies");
    assert_eq!(bad(&sent, &references), Ok(all));
}

/// A5: no more messages wait than there is room for, and one that is whole needs none.
#[tokio::test(start_paused = true)]
async fn who_finds_no_room_to_wait_is_told_so() {
    let (partition, _, all) = world().await;
    let (sent, references) = stripped(&all);
    let bodies = partition.inner.bodies.clone();
    let rooms: Vec<_> = (0..WAITING)
        .map(|_| bodies.entries.try_acquire().unwrap())
        .collect();
    let filled = partition.fill(VOTER, sent.clone(), &references).await;
    assert_eq!(filled, Err(BodyProblem::Busy));
    assert_eq!(partition.fill(VOTER, all.clone(), &[]).await, Ok(all));
    drop(rooms);
    let filled = partition.fill(VOTER, sent, &references).await;
    assert!(matches!(filled, Err(BodyProblem::Call(_))), "{filled:?}");
}

/// A5: an append that comes again, since its answer came too late, needs no body a second time.
#[tokio::test(start_paused = true)]
async fn what_is_in_the_log_already_is_taken_from_there() {
    let (partition, _, all) = world().await;
    let (sent, references) = stripped(&all);
    let log = &partition.inner.shared.log;
    log.append(P, all.clone(), |_| ()).unwrap();
    assert_eq!(
        partition.fill(VOTER, sent.clone(), &references).await,
        Ok(all.clone())
    );
    // Another entry at the same place says nothing of this one.
    let mut other = sent;
    other[1].log_id.term = 7;
    let filled = partition.fill(VOTER, other, &references).await;
    assert!(matches!(filled, Err(BodyProblem::Call(_))), "{filled:?}");
}

/// T11: who follows is sent references to what is known, and everything whole once it did not find
/// one, or says that it wants it so.
#[tokio::test(start_paused = true)]
async fn who_does_not_find_a_body_is_given_it() {
    let (partition, _, all) = world().await;
    follow(&partition, &all).await;
    let whole: Vec<_> = all.iter().map(Entry::to_bytes).collect();
    let said = asked(&partition, from(0)).await;
    assert!(
        said.bodies.is_empty() && said.entries == whole,
        "nobody told of bodies"
    );
    let now = partition.inner.env.runtime().now();
    partition
        .inner
        .bodies
        .offered(BodyRef::of(&all[3].body).0, now);
    let said = asked(&partition, from(0)).await;
    assert_eq!(said.bodies, [BodyRef::of(&all[3].body).0.to_message(3)]);
    assert!(said.entries[3].len() < 100 && said.entries[..3] == whole[..3]);
    let in_whole = rpc::FollowRequest {
        whole: true,
        ..from(0)
    };
    assert_eq!(asked(&partition, in_whole).await.entries, whole);
    // It asks for it, by its hash: another is none.
    let ask = |references: Vec<rpc::BodyRef>| {
        let request = rpc::BodyRequest {
            partition: P.0,
            wanted: references,
        };
        let payload = Bytes::from(request.encode_to_vec());
        let answer = partition.answer_bodies(ASKER, payload);
        answer.map(|answer| rpc::BodyResponse::decode(answer).unwrap().bodies)
    };
    let mut wanted: Vec<_> = [1, 3, 5]
        .map(|index| {
            let body = BodyRef::of(&all[index].body).0;
            asked_for((&(index as u64), &body))
        })
        .to_vec();
    wanted[2].index = 4;
    let given = [all[1].body.clone(), all[3].body.clone(), Bytes::new()];
    assert_eq!(ask(wanted.clone()), Ok(given.to_vec()));
    assert!(ask(vec![wanted[0].clone(); ASKED + 1]).is_err());
    let said = asked(&partition, from(0)).await;
    assert!(
        said.bodies.is_empty() && said.entries == whole,
        "it did not find one"
    );
}

/// D3: a proposal is made whole, or it is said that it cannot be.
#[tokio::test(start_paused = true)]
async fn changes_come_whole_or_are_asked_for() {
    let (partition, shelf, _) = world().await;
    let (small, large) = (noise(50, 1), noise(70_000, 2));
    let reference = BodyRef::of(&large).0.to_message(1);
    let changes = || vec![small.clone(), Bytes::new()];
    let fill = |changes, references: Vec<rpc::BodyRef>| {
        let partition = partition.clone();
        async move { partition.fill_changes(changes, &references).await }
    };
    assert_eq!(fill(changes(), vec![reference.clone()]).await, Ok(None));
    shelf.put(&large);
    let whole = vec![small.clone(), large.clone()];
    assert_eq!(
        fill(changes(), vec![reference.clone()]).await,
        Ok(Some(whole.clone()))
    );
    assert_eq!(fill(whole.clone(), Vec::new()).await, Ok(Some(whole)));
    for index in [0, 2, u64::MAX] {
        let elsewhere = rpc::BodyRef {
            index,
            ..reference.clone()
        };
        assert!(fill(changes(), vec![elsewhere]).await.is_err());
    }
}
