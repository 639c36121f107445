//! [pure] Whether everything is everywhere: what nodes say of themselves, put side by side.

use crate::reason::{Problem, Reason};
use aber_proto::generated::v1;
use std::collections::BTreeMap;

/// What one node says of itself.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Report {
    /// The node's name.
    pub(super) node: String,
    /// Its status.
    pub(super) status: v1::GetStatusResponse,
    /// Its partitions.
    pub(super) partitions: Vec<v1::Partition>,
}

/// The first thing that is not everywhere yet, in words; `None`: all nodes have applied the same,
/// their mirrors show it, and nothing waits.
pub(super) fn waits_for(reports: &[Report]) -> Option<String> {
    let highest = highest(reports);
    reports
        .iter()
        .find_map(|report| node_waits_for(report, &highest))
}

/// The highest committed or applied index of each partition on any node.
fn highest(reports: &[Report]) -> BTreeMap<u32, u64> {
    let mut highest = BTreeMap::new();
    for partition in reports.iter().flat_map(|report| &report.partitions) {
        let known = highest.entry(partition.id).or_insert(0u64);
        *known = (*known)
            .max(partition.committed_index)
            .max(partition.applied_index);
    }
    highest
}

fn node_waits_for(report: &Report, highest: &BTreeMap<u32, u64>) -> Option<String> {
    let node = &report.node;
    let status = &report.status;
    if status.outbox_changes > 0 {
        return Some(format!(
            "{node}: {} changes are not ordered yet",
            status.outbox_changes
        ));
    }
    for (id, index) in highest {
        let Some(partition) = report.partitions.iter().find(|p| p.id == *id) else {
            return Some(format!("{node} does not know partition {id} yet"));
        };
        let (applied, shown) = (partition.applied_index, partition.mirrored_index);
        if applied < *index {
            return Some(format!(
                "{node}: partition {id} is applied to {applied} of {index}"
            ));
        }
        if shown < applied {
            return Some(format!(
                "{node}: partition {id} is shown to {shown} of {applied}"
            ));
        }
        if partition.digest_index < applied {
            return Some(format!(
                "{node}: partition {id} has no digest at {applied} yet"
            ));
        }
    }
    if status.entries_to_apply > 0 || status.fetch_bytes > 0 {
        let (entries, bytes) = (status.entries_to_apply, status.fetch_bytes);
        return Some(format!(
            "{node}: {entries} entries to apply, {bytes} bytes to fetch"
        ));
    }
    status.folders.iter().find_map(|folder| {
        let waiting = folder.waiting_count + folder.pending_count;
        let behind = folder.entries_behind;
        let is_late = waiting > 0 || behind > 0;
        is_late.then(|| format!("{node}: {waiting} paths wait, {behind} entries are not shown"))
    })
}

/// Two nodes whose digests at the same index differ.
pub(super) fn digests_differ(reports: &[Report]) -> Option<Problem> {
    let mut known = BTreeMap::new();
    for partition in reports.iter().flat_map(|report| &report.partitions) {
        let place = (partition.id, partition.digest_index);
        let digest = known.entry(place).or_insert(&partition.view_digest);
        if *digest != &partition.view_digest {
            let problem = Problem::new(Reason::DigestDiffers);
            return Some(problem.with("partition", place.0).with("index", place.1));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(node: &str, applied: u64, digest: u8) -> Report {
        let partition = v1::Partition {
            id: 1,
            committed_index: applied,
            applied_index: applied,
            mirrored_index: applied,
            digest_index: applied,
            view_digest: vec![digest; 32].into(),
            ..Default::default()
        };
        Report {
            node: node.to_owned(),
            status: v1::GetStatusResponse::default(),
            partitions: vec![partition],
        }
    }

    #[test]
    fn equal_nodes_wait_for_nothing() {
        let reports = [report("n1", 7, 1), report("n2", 7, 1)];
        assert_eq!(waits_for(&reports), None);
        assert_eq!(digests_differ(&reports), None);
    }

    fn partition(report: &mut Report) -> &mut v1::Partition {
        report.partitions.first_mut().expect("there is one")
    }

    #[test]
    fn each_lag_is_named() {
        let late = |change: fn(&mut Report), words: &str| {
            let mut second = report("n2", 7, 1);
            change(&mut second);
            let found = waits_for(&[report("n1", 7, 1), second]);
            assert_eq!(found.as_deref(), Some(words));
        };
        late(
            |r| r.status.outbox_changes = 2,
            "n2: 2 changes are not ordered yet",
        );
        late(|r| r.partitions.clear(), "n2 does not know partition 1 yet");
        late(
            |r| partition(r).applied_index = 6,
            "n2: partition 1 is applied to 6 of 7",
        );
        late(
            |r| partition(r).mirrored_index = 5,
            "n2: partition 1 is shown to 5 of 7",
        );
        late(
            |r| partition(r).digest_index = 4,
            "n2: partition 1 has no digest at 7 yet",
        );
        late(
            |r| r.status.fetch_bytes = 9,
            "n2: 0 entries to apply, 9 bytes to fetch",
        );
        let waiting = |r: &mut Report| {
            let folder = v1::FolderStatus {
                waiting_count: 3,
                ..Default::default()
            };
            r.status.folders.push(folder);
        };
        late(waiting, "n2: 3 paths wait, 0 entries are not shown");
    }

    #[test]
    fn digests_that_differ_are_found() {
        let problem = digests_differ(&[report("n1", 7, 1), report("n2", 7, 2)]);
        assert_eq!(problem.map(|p| p.reason), Some(Reason::DigestDiffers));
    }
}
