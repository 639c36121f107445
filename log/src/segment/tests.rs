use super::*;
use crate::testing::{Random, TestDisk, TestEnv};
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
        is_committed: term % 2 == 0,
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
