//! What the segment log promises, on a hostile disk.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation,
    clippy::disallowed_methods,
    reason = "a test that meets the unexpected fails"
)]

mod crash;
mod history;

use super::*;
use crate::testing::{TestDisk, TestEnv};
use aber_proto::{EntryKind, Timestamp};
use std::collections::BTreeMap;

const CLUSTER: ClusterId = ClusterId([3; 32]);
const IDENTITY: LogIdentity = LogIdentity {
    cluster: CLUSTER,
    node: NodeId(5),
};
const SMALL: SegmentOptions = SegmentOptions {
    segment_bytes: 32 << 10,
    batch_bytes: 8 << 10,
};
const P: PartitionId = PartitionId(2);
const Q: PartitionId = PartitionId(4);

type Log = SegmentLog<TestEnv>;

async fn open(disk: &TestDisk) -> (TestEnv, Log) {
    let env = TestEnv::new(disk);
    let log = SegmentLog::open(env.clone(), IDENTITY, SMALL).await;
    (env, log.unwrap())
}

/// `count` entries of `term` that follow what the log holds.
fn following(log: &Log, partition: PartitionId, term: u64, count: u64, size: usize) -> Vec<Entry> {
    let state = log.state(partition);
    let (mut chain, mut entries) = (state.last_chain, Vec::new());
    let first = state.last.map_or(1, |last| last.index + 1);
    for index in first..first + count {
        let fill = (index.wrapping_mul(31) ^ term) as u8;
        let entry = Entry {
            partition,
            log_id: LogId { term, index },
            order_time: Timestamp(9),
            control_index: 0,
            kind: EntryKind::Change,
            body: Bytes::from(vec![fill; size]),
            chain: ChainHash::default(),
        };
        let entry = Entry::following(&chain, entry);
        chain = entry.chain;
        entries.push(entry);
    }
    entries
}

async fn append(
    log: &Log,
    partition: PartitionId,
    entries: Vec<Entry>,
) -> Result<(), SegmentProblem> {
    let (tell, told) = oneshot::channel();
    log.append(partition, entries, |outcome| {
        let _ = tell.send(outcome);
    })?;
    told.await.unwrap_or(Err(SegmentProblem::Closed))
}

fn all(log: &Log, partition: PartitionId) -> Vec<Entry> {
    log.read(partition, 0, u64::MAX, usize::MAX).map_or_else(
        |problem| panic!("{problem}"),
        |found| {
            if found.is_empty()
                && let Some(oldest) = log.state(partition).oldest
            {
                return log.read(partition, oldest, u64::MAX, usize::MAX).unwrap();
            }
            found
        },
    )
}

fn vote(term: u64) -> Vote {
    Vote {
        term,
        node: NodeId(term % 3),
        is_committed: term.is_multiple_of(2),
    }
}

/// D1, I2: what was appended is read back, before and after a reopen, over many segments.
#[tokio::test(start_paused = true)]
async fn entries_come_back_over_several_segments() {
    let disk = TestDisk::default();
    let (_, log) = open(&disk).await;
    let mut expected = BTreeMap::new();
    for round in 0..40 {
        for partition in [P, Q] {
            let entries = following(&log, partition, 1 + round / 10, 3, 500);
            let expected: &mut Vec<Entry> = expected.entry(partition).or_default();
            expected.extend(entries.clone());
            append(&log, partition, entries).await.unwrap();
            assert_eq!(all(&log, partition), *expected);
            let last = expected.last().unwrap().log_id;
            assert_eq!(log.state(partition).flushed, last.index);
            assert_eq!(log.state(partition).last, Some(last));
        }
    }
    log.close().await.unwrap();
    assert!(disk.exists("log/00000004.seg") && disk.exists("log/00000003.idx"));
    let (_, again) = open(&disk).await;
    for (partition, expected) in &expected {
        assert_eq!(all(&again, *partition), *expected);
        assert_eq!(again.state(*partition), log.state(*partition));
        let some = again.read(*partition, 17, 90, 1800).unwrap();
        assert_eq!(some, expected[16..19]);
        let one = again.chain_at(*partition, 50).unwrap().unwrap();
        assert_eq!(one, (expected[49].log_id, expected[49].chain));
    }
    assert_eq!(
        log.append(P, Vec::new(), |_| ()),
        Err(SegmentProblem::Closed)
    );
}

/// D1: votes are durable on return.
#[tokio::test(start_paused = true)]
async fn votes_survive_a_power_cut() {
    let mut disk = TestDisk::default();
    for term in 1..20 {
        let (env, log) = open(&disk).await;
        assert_eq!(log.state(P).vote, (term > 1).then(|| vote(term - 1)));
        log.save_vote(P, vote(term)).await.unwrap();
        assert!(log.save_vote(P, vote(term - 1)).await.is_err());
        env.kill().await;
        disk = disk.crash(term);
    }
}

/// Truncated entries do not come back, whether they were durable or still on their way.
#[tokio::test(start_paused = true)]
async fn a_truncation_holds_with_entries_on_their_way() {
    let disk = TestDisk::default();
    let (_, log) = open(&disk).await;
    append(&log, P, following(&log, P, 1, 10, 100))
        .await
        .unwrap();
    let early = following(&log, P, 1, 10, 100);
    let (tell, told) = oneshot::channel();
    log.append(P, early.clone(), move |outcome| {
        let _ = tell.send(outcome);
    })
    .unwrap();
    let mut flushed = log.watch_flushed(P);
    tokio::task::yield_now().await;
    log.truncate_after(P, Some(15)).unwrap();
    assert_eq!(all(&log, P).last().unwrap(), &early[4]);
    told.await.unwrap().unwrap();
    assert_eq!((flushed.changed().await, log.state(P).flushed), (15, 15));
    assert_eq!(log.read(P, 16, 30, 9999).unwrap(), []);
    let late = following(&log, P, 2, 3, 50);
    assert_eq!(late[0].log_id, LogId { term: 2, index: 16 });
    append(&log, P, late.clone()).await.unwrap();
    log.truncate_after(P, Some(17)).unwrap();
    assert_eq!(log.state(P).flushed, 17);
    log.truncate_after(P, Some(40)).unwrap();
    log.close().await.unwrap();
    let (_, log) = open(&disk).await;
    let entries = all(&log, P);
    assert_eq!(entries.len(), 17);
    assert_eq!((&entries[14], &entries[15..]), (&early[4], &late[..2]));
    log.set_committed(P, late[0].log_id).unwrap();
    assert!(log.truncate_after(P, Some(15)).is_err());
    log.truncate_after(P, Some(16)).unwrap();
    assert_eq!(log.state(P).last, Some(late[0].log_id));
    log.close().await.unwrap();
    let (_, log) = open(&disk).await;
    assert_eq!(log.state(P).committed, Some(late[0].log_id));
    assert_eq!(all(&log, P).len(), 16);
}

/// Everything above the start, or above the pointer, can be truncated.
#[tokio::test(start_paused = true)]
async fn a_truncation_of_everything_goes_to_the_start_or_the_pointer() {
    let disk = TestDisk::default();
    let (_, log) = open(&disk).await;
    let entries = following(&log, P, 1, 5, 10);
    append(&log, P, entries.clone()).await.unwrap();
    append(&log, Q, following(&log, Q, 1, 5, 10)).await.unwrap();
    log.truncate_after(P, None).unwrap();
    assert_eq!(log.state(P).last, None);
    assert_eq!(log.state(P).oldest, None);
    append(&log, P, entries[..3].to_vec()).await.unwrap();
    log.purge(P, entries[1].log_id, entries[1].chain).unwrap();
    assert!(log.truncate_after(P, Some(1)).is_err());
    log.truncate_after(P, None).unwrap();
    let state = log.state(P);
    assert_eq!(
        (state.last, state.last_chain),
        (Some(entries[1].log_id), entries[1].chain)
    );
    assert_eq!(all(&log, P), entries[..2]);
    log.truncate_after(Q, None).unwrap();
    log.close().await.unwrap();
    let (_, log) = open(&disk).await;
    assert_eq!(log.state(P), state);
    assert_eq!(all(&log, P), entries[..2]);
    assert_eq!((log.state(Q).last, all(&log, Q).len()), (None, 0));
    append(&log, P, entries[2..].to_vec()).await.unwrap();
    assert_eq!(all(&log, P), entries);
}

/// A purge is a pointer; above the last entry the log starts anew after it.
#[tokio::test(start_paused = true)]
async fn a_purge_keeps_history_and_one_beyond_the_end_restarts_the_log() {
    let disk = TestDisk::default();
    let (_, log) = open(&disk).await;
    let entries = following(&log, P, 1, 60, 900);
    append(&log, P, entries.clone()).await.unwrap();
    log.purge(P, entries[49].log_id, entries[49].chain).unwrap();
    log.purge(P, entries[20].log_id, entries[20].chain).unwrap();
    log.close().await.unwrap();
    let (_, log) = open(&disk).await;
    let state = log.state(P);
    assert_eq!(state.purged, Some((entries[49].log_id, entries[49].chain)));
    assert_eq!(
        (state.oldest, state.last),
        (Some(1), Some(entries[59].log_id))
    );
    assert_eq!(all(&log, P), entries);

    let (upto, chain) = (
        LogId {
            term: 4,
            index: 100,
        },
        ChainHash([9; 32]),
    );
    let on_the_way = following(&log, P, 2, 4, 10);
    log.append(P, on_the_way, |outcome| assert!(outcome.is_ok()))
        .unwrap();
    log.purge(P, upto, chain).unwrap();
    let state = log.state(P);
    assert_eq!(
        (state.last, state.last_chain, state.oldest),
        (Some(upto), chain, None)
    );
    assert_eq!(log.chain_at(P, 100).unwrap(), Some((upto, chain)));
    assert_eq!(log.read(P, 60, 70, 999).unwrap(), []);
    assert_eq!(
        log.watch_flushed(P).until(|flushed| *flushed == 100).await,
        100
    );
    let fresh = following(&log, P, 4, 2, 10);
    assert_eq!(fresh[0].log_id.index, 101);
    append(&log, P, fresh.clone()).await.unwrap();
    log.close().await.unwrap();
    let (_, log) = open(&disk).await;
    assert_eq!(
        (all(&log, P), log.state(P).oldest),
        (fresh.clone(), Some(101))
    );
    // A pointer to another entry than the one here: the entry is not what the cluster committed.
    let other = LogId {
        term: 9,
        index: 101,
    };
    log.purge(P, other, ChainHash([8; 32])).unwrap();
    assert_eq!((log.state(P).last, all(&log, P).len()), (Some(other), 0));
    assert_eq!(
        log.watch_flushed(P).until(|flushed| *flushed == 101).await,
        101
    );
}

/// D6: notes survive many segments; the newest wins; long ones are read from where they stand.
#[tokio::test(start_paused = true)]
async fn notes_survive_many_segments() {
    let disk = TestDisk::default();
    let mut expected = BTreeMap::new();
    for boot in 0..4_u8 {
        let (_, log) = open(&disk).await;
        for round in 0..30_u8 {
            let key = Bytes::from(vec![b'k', round % 7]);
            let size = if round % 2 == 0 { 20 } else { 2000 };
            let value = Bytes::from(vec![round ^ boot; size]);
            let gone = Bytes::from(vec![b'k', (round + 3) % 7]);
            let notes = vec![(key.clone(), Some(value.clone())), (gone.clone(), None)];
            log.write_notes(notes).await.unwrap();
            expected.insert(key, value);
            expected.remove(&gone);
            append(&log, P, following(&log, P, 1, 2, 700))
                .await
                .unwrap();
        }
        let found: BTreeMap<_, _> = log.notes(b"k").unwrap().into_iter().collect();
        assert_eq!(found, expected);
        assert_eq!(log.notes(b"l").unwrap(), []);
        assert_eq!(log.note(b"none").unwrap(), None);
        log.close().await.unwrap();
    }
    assert!(disk.exists("log/00000012.seg"));
    let (_, log) = open(&disk).await;
    let found: BTreeMap<_, _> = log.notes(b"").unwrap().into_iter().collect();
    assert_eq!(found, expected);
    let many = (0..400_u16).map(|n| (Bytes::from(format!("x{n}")), Some(Bytes::from(vec![0; 40]))));
    for part in many.collect::<Vec<_>>().chunks(100) {
        if let Err(problem) = log.write_notes(part.to_vec()).await {
            assert!(matches!(problem, SegmentProblem::NotesFull { .. }));
            return;
        }
    }
    panic!("notes without a bound");
}

/// Group commit: what waits goes out together.
#[tokio::test(start_paused = true)]
async fn many_appends_need_few_syncs() {
    let disk = TestDisk::default();
    let env = TestEnv::new(&disk);
    let log = SegmentLog::open(env, IDENTITY, SegmentOptions::default())
        .await
        .unwrap();
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    let before = disk.syncs();
    let order = Arc::new(Mutex::new(Vec::new()));
    for number in 0..200_u32 {
        for partition in [P, Q] {
            let order = Arc::clone(&order);
            let done = move |outcome: Result<(), SegmentProblem>| {
                outcome.unwrap();
                order.lock().unwrap().push((number, partition));
            };
            log.append(partition, following(&log, partition, 1, 1, 100), done)
                .unwrap();
        }
        if number % 50 == 0 {
            tokio::time::sleep(std::time::Duration::from_micros(300)).await;
        }
    }
    log.save_vote(P, vote(2)).await.unwrap();
    assert!(
        disk.syncs() - before <= 6,
        "{} syncs",
        disk.syncs() - before
    );
    let order = order.lock().unwrap().clone();
    assert!(order.len() == 400 && order.is_sorted());
    log.room().await.unwrap();
}

/// D5: each kind of damage to a whole log is refused, and a foreign log is told apart.
#[tokio::test(start_paused = true)]
async fn a_damaged_or_foreign_log_does_not_open() {
    let disk = TestDisk::default();
    let (_, log) = open(&disk).await;
    for _ in 0..30 {
        append(&log, P, following(&log, P, 1, 2, 900))
            .await
            .unwrap();
    }
    log.close().await.unwrap();
    let refused = |disk: TestDisk, identity| async move {
        SegmentLog::open(TestEnv::new(&disk), identity, SMALL)
            .await
            .err()
    };
    let other = LogIdentity {
        node: NodeId(6),
        ..IDENTITY
    };
    let problem = refused(disk.crash(0), other).await;
    assert!(matches!(problem, Some(SegmentProblem::OtherCluster { .. })));
    let last = (1..)
        .take_while(|n| disk.exists(&format!("log/{n:08}.idx")))
        .count()
        + 1;
    let last = format!("log/{last:08}.seg");
    for path in ["log/00000001.seg", &last] {
        for (what, at) in [("flip", 20), ("cut", 0)] {
            let copy = disk.crash(0);
            copy.tamper(path, |bytes| match what {
                "flip" => bytes[at] ^= 1,
                _ => bytes.truncate(9000),
            });
            let problem = refused(copy, IDENTITY).await;
            assert!(
                matches!(problem, Some(SegmentProblem::Damaged { .. })),
                "{path} {what}"
            );
        }
    }
    let newer = disk.crash(0);
    newer.tamper(&last, |bytes| {
        bytes[8] = 2;
        let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[..12]), &bytes[16..512]);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    });
    let problem = refused(newer, IDENTITY).await;
    assert!(matches!(
        problem,
        Some(SegmentProblem::NewerFormat { format: 2, .. })
    ));

    // Rot in a full segment whose index file is whole is found when it is read.
    let rotten = disk.crash(0);
    rotten.tamper("log/00000001.seg", |bytes| bytes[3000] ^= 1);
    let (_, log) = open(&rotten).await;
    let problem = log.read(P, 1, 20, usize::MAX).err();
    assert!(matches!(
        problem,
        Some(SegmentProblem::Damaged { segment: 1, .. })
    ));
    // Without the index file it is found at once; an index file is made anew where it is missing.
    rotten.tamper("log/00000001.idx", |bytes| bytes.clear());
    assert!(refused(rotten, IDENTITY).await.is_some());
    let bare = disk.crash(0);
    bare.tamper("log/00000001.idx", |bytes| bytes[30] ^= 1);
    let (_, log) = open(&bare).await;
    assert_eq!(all(&log, P).len(), 60);
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    assert_eq!(
        bare.bytes("log/00000001.idx"),
        disk.bytes("log/00000001.idx")
    );
}

/// I2: an entry that does not follow is refused, and whoever waits for it is told.
#[tokio::test(start_paused = true)]
async fn entries_that_do_not_follow_are_refused() {
    let disk = TestDisk::default();
    let (_, log) = open(&disk).await;
    let entries = following(&log, P, 3, 4, 10);
    append(&log, P, entries[..2].to_vec()).await.unwrap();
    let mut wrong_chain = entries[2].clone();
    wrong_chain.chain = ChainHash([1; 32]);
    let mut wrong_term = entries[2].clone();
    wrong_term.log_id.term = 2;
    let wrong_term = Entry::following(&entries[1].chain, wrong_term);
    let mut too_long = entries[2].clone();
    too_long.body = Bytes::from(vec![0; 9000]);
    let too_long = Entry::following(&entries[1].chain, too_long);
    for bad in [
        entries[3].clone(),
        entries[1].clone(),
        wrong_chain,
        wrong_term,
        too_long,
    ] {
        let told = Arc::new(Mutex::new(0));
        let count = Arc::clone(&told);
        let done = move |outcome: Result<(), _>| {
            assert!(outcome.is_err());
            *count.lock().unwrap() += 1;
        };
        assert!(log.append(P, vec![bad], done).is_err());
        assert_eq!(*told.lock().unwrap(), 1);
    }
    assert!(append(&log, Q, entries[..1].to_vec()).await.is_err());
    append(&log, P, entries[2..].to_vec()).await.unwrap();
    assert_eq!(all(&log, P), entries);
}
