//! The node dies at each call on the disk.

use super::*;
use crate::testing::Random;

/// The term of a vote that is tried on a dead disk.
const LATE_TERM: u64 = 1 << 20;

/// What the log must hold; entries, votes, pointers and notes.
#[derive(Clone, Default, Debug)]
struct Model {
    entries: BTreeMap<PartitionId, Vec<Entry>>,
    vote: Option<Vote>,
    notes: BTreeMap<Bytes, Bytes>,
}

/// A workload of all kinds of calls; answers what was acknowledged, and all that was asked for.
/// `None` if the disk died before it began.
async fn work(log: &Log, mut random: Random) -> Option<(Model, Model)> {
    let mut acked = Model::default();
    for partition in [P, Q] {
        let oldest = log.state(partition).oldest.unwrap_or(0);
        let found = log.read(partition, oldest, u64::MAX, usize::MAX).ok()?;
        acked.entries.insert(partition, found);
    }
    acked.vote = log.state(P).vote;
    acked.notes = log.notes(b"").ok()?.into_iter().collect();
    let (mut asked, mut present) = (acked.clone(), acked.entries.clone());
    for _ in 0..20 {
        let partition = if random.below(2) == 0 { P } else { Q };
        let term = log.state(partition).last.map_or(1, |last| last.term) + random.below(2);
        let present = present.get_mut(&partition)?;
        let outcome = match random.below(6) {
            0 => {
                let vote = vote(asked.vote.map_or(1, |vote| vote.term + 1));
                asked.vote = Some(vote);
                let saved = log.save_vote(P, vote).await;
                saved.map(|()| acked.vote = Some(vote))
            }
            1 => {
                let key = Bytes::from(vec![b'n', random.below(3) as u8]);
                let size = 10 + 400 * (random.below(2) as usize);
                let value = Bytes::from(vec![random.below(200) as u8; size]);
                asked.notes.insert(key.clone(), value.clone());
                let wrote = log
                    .write_notes(vec![(key.clone(), Some(value.clone()))])
                    .await;
                wrote.map(|()| drop(acked.notes.insert(key, value)))
            }
            2 => {
                let last = log.state(partition).last.map_or(0, |last| last.index);
                let keep = last.saturating_sub(2);
                let outcome = log.truncate_after(partition, Some(keep));
                outcome.map(|()| {
                    // What was acknowledged and then taken back may be there or not.
                    present.retain(|entry| entry.log_id.index <= keep);
                    let acked = acked.entries.get_mut(&partition).unwrap();
                    acked.retain(|entry| entry.log_id.index <= keep);
                })
            }
            _ => {
                let size = 100 + random.below(1500) as usize;
                let entries = following(log, partition, term, 1 + random.below(3), size);
                asked.entries.get_mut(&partition)?.extend(entries.clone());
                present.extend(entries.clone());
                let outcome = append(log, partition, entries).await;
                outcome.map(|()| {
                    acked
                        .entries
                        .get_mut(&partition)
                        .unwrap()
                        .clone_from(present)
                })
            }
        };
        if outcome.is_err() {
            break;
        }
    }
    Some((acked, asked))
}

fn check(log: &Log, (acked, asked): &(Model, Model), what: &str) {
    for partition in [P, Q] {
        let found = all(log, partition);
        let (acked, asked) = (&acked.entries[&partition], &asked.entries[&partition]);
        assert!(
            found.starts_with(acked),
            "{what}: {partition}: {found:?} lost of {acked:?}"
        );
        let is_invented = |entry: &&Entry| !asked.contains(entry);
        assert_eq!(found.iter().find(is_invented), None, "{what}: {partition}");
        for pair in found.windows(2) {
            assert_eq!(pair[1].verify(&pair[0].chain), Ok(()), "{what}");
        }
        assert_eq!(
            log.state(partition).last,
            found.last().map(|entry| entry.log_id)
        );
    }
    let found = log.state(P).vote;
    let unanswered = [asked.vote, Some(vote(LATE_TERM))];
    assert!(
        found == acked.vote || unanswered.contains(&found),
        "{what}: {found:?}"
    );
    let notes: BTreeMap<_, _> = log.notes(b"").unwrap().into_iter().collect();
    assert!(
        notes == acked.notes || notes == asked.notes,
        "{what}: notes"
    );
}

/// D1, D4, D5: the node dies at each call on the disk, with and without power; twice in a row.
#[tokio::test(start_paused = true)]
async fn nothing_acknowledged_is_lost_whatever_call_is_the_last() {
    for round in 0..3 {
        for call in 1.. {
            let mut disk = TestDisk::default();
            let mut has_failed = false;
            for boot in 0..3 {
                let what = format!("round {round}, call {call}, boot {boot}");
                // The first boot works, the second dies within recovery or soon after it.
                let env = TestEnv::new(&disk);
                disk.fail_after(if boot == 0 { call } else { 1 + call % 23 });
                let opened = SegmentLog::open(env.clone(), IDENTITY, SMALL).await;
                let models = match &opened {
                    Ok(log) => work(log, Random(call * 31 + round)).await,
                    Err(SegmentProblem::Disk { .. } | SegmentProblem::Poisoned { .. }) => None,
                    Err(problem) => panic!("{what}: {problem}"),
                };
                if let (Ok(log), true) = (&opened, disk.has_failed()) {
                    let late = log.save_vote(P, vote(LATE_TERM)).await;
                    assert!(late.is_err(), "{what}: acknowledged on a dead disk");
                }
                has_failed |= boot == 0 && disk.has_failed();
                env.kill().await;
                let seed = call * 7 + boot + round * 1000;
                disk = if seed % 4 == 0 {
                    disk.after_kill()
                } else {
                    disk.crash(seed)
                };
                if let Some(models) = models {
                    let (env, log) = open(&disk).await;
                    check(&log, &models, &what);
                    env.kill().await;
                    // What was read after a kill must also survive a power cut now.
                    disk = disk.crash(seed + 1);
                    let (env, again) = open(&disk).await;
                    for partition in [P, Q] {
                        assert_eq!(all(&again, partition), all(&log, partition), "{what}");
                    }
                    env.kill().await;
                    disk = disk.crash(seed + 2);
                }
            }
            if !has_failed {
                assert!(call > 40, "the loop covers the whole workload");
                break;
            }
        }
    }
}

/// D4: after the first failure nothing is acknowledged, everybody is told, the node stops.
#[tokio::test(start_paused = true)]
async fn the_first_failure_is_the_last() {
    let disk = TestDisk::default();
    let (env, log) = open(&disk).await;
    append(&log, P, following(&log, P, 1, 1, 10)).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    disk.fail_after(2);
    let told = Arc::new(Mutex::new(Vec::new()));
    for _ in 0..5 {
        let told = Arc::clone(&told);
        let done = move |outcome| told.lock().unwrap().push(outcome);
        log.append(P, following(&log, P, 1, 1, 10), done).unwrap();
    }
    let outcome = log
        .write_notes(vec![(Bytes::from_static(b"a"), None)])
        .await;
    assert!(matches!(outcome, Err(SegmentProblem::Poisoned { .. })));
    let told = told.lock().unwrap().clone();
    assert_eq!(told.len(), 5);
    assert!(told.iter().all(Result::is_err));
    assert_eq!(log.state(P).flushed, 1);
    assert!(log.failure().get().is_some());
    assert_eq!(env.failures().len(), 1);
    assert!(env.failures()[0].starts_with("74: "));
    assert!(log.set_committed(P, LogId::default()).is_err());
    assert!(log.room().await.is_err() && log.close().await.is_err());
}
