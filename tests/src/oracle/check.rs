//! [pure] The checks of the oracle, each named by the promise it checks.

use super::{Answer, Call, Listing, Oracle};
use crate::sim::outsider::Shown;
use aber_proto::{ContentHash, NodeId, PartitionId, RequestId, ViewDigest};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// What became of a change in the history.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It took effect.
    Applied,
    /// It was rejected, and says why.
    Rejected(String),
    /// Its request had been decided by an earlier entry.
    Repeated,
}

/// One change of the history.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Landed {
    /// Its request.
    pub request: RequestId,
    /// The partition.
    pub partition: PartitionId,
    /// The entry.
    pub index: u64,
    /// What became of it.
    pub outcome: Outcome,
    /// The contents it puts.
    pub contents: Vec<ContentHash>,
}

impl Oracle {
    /// D1, D3, D6: the history holds what was acknowledged, once, and nothing that was refused.
    #[must_use]
    pub fn check_history(&self, history: &[Landed]) -> Vec<String> {
        let mut rows: BTreeMap<RequestId, Vec<&Landed>> = BTreeMap::new();
        for landed in history {
            rows.entry(landed.request).or_default().push(landed);
        }
        let record = self.record();
        let mut broken = Vec::new();
        for (request, call) in &record.calls {
            let landed = rows.get(request).map(Vec::as_slice).unwrap_or_default();
            broken.extend(check_once(*request, landed));
            for (node, answer) in &call.answers {
                let is_forgiven = record.forgiven.contains(node);
                let finding = check_answer(call, answer, landed, is_forgiven);
                broken.extend(finding.map(|what| {
                    format!("{what}: request {request} at node {node}, {:?}", call.asked)
                }));
            }
        }
        let applied = history
            .iter()
            .filter(|row| row.outcome == Outcome::Applied)
            .map(|row| (row.partition, row.index));
        let applied: BTreeSet<_> = applied.collect();
        for (node, partition, index) in &record.backs {
            if !applied.contains(&(*partition, *index)) {
                broken.push(format!(
                    "D1: a way back at node {node} was committed as {partition}:{index}, which was not applied"
                ));
            }
        }
        broken
    }

    /// C7: of two changes made one after the other at one node that touch a common path, the
    /// earlier is ordered first.
    #[must_use]
    pub fn check_author_order(&self, history: &[Landed]) -> Vec<String> {
        let decided = history
            .iter()
            .filter(|row| row.outcome != Outcome::Repeated)
            .map(|row| (row.request, row));
        let landed: BTreeMap<RequestId, &Landed> = decided.collect();
        let record = self.record();
        // Calls repeated elsewhere may have been ordered from anywhere.
        let single = record.calls.iter().filter_map(|(request, call)| {
            let is_taken = matches!(
                call.answers.as_slice(),
                [(_, Answer::Queued | Answer::Committed { .. })]
            );
            let row = landed.get(request).filter(|_| is_taken)?;
            Some((call, *row))
        });
        let single: Vec<_> = single.collect();
        let mut broken = Vec::new();
        for (earlier, first) in &single {
            for (later, second) in &single {
                let is_after = earlier.ended_ns.is_some_and(|ended| ended < later.began_ns);
                if earlier.node == later.node
                    && is_after
                    && first.partition == second.partition
                    && first.index > second.index
                    && earlier.asked.touches_as(&later.asked)
                {
                    broken.push(format!(
                        "C7: {}:{} {:?} was made before {}:{} {:?}",
                        first.partition,
                        first.index,
                        earlier.asked,
                        second.partition,
                        second.index,
                        later.asked
                    ));
                }
            }
        }
        broken
    }

    /// M1: every file shows a content that somebody wrote.
    #[must_use]
    pub fn check_contents(&self, shown: &BTreeMap<PathBuf, Shown>) -> Vec<String> {
        let record = self.record();
        let is_torn = |(path, what): (&PathBuf, &Shown)| match what {
            Shown::File { content, size, .. } if !record.contents.contains(content) => {
                let path = path.display();
                Some(format!("M1: {path} has {size} bytes that nobody wrote"))
            }
            _ => None,
        };
        shown.iter().filter_map(is_torn).collect()
    }
}

fn check_once(request: RequestId, landed: &[&Landed]) -> Vec<String> {
    let mut count: BTreeMap<PartitionId, u64> = BTreeMap::new();
    for row in landed.iter().filter(|row| row.outcome == Outcome::Applied) {
        *count.entry(row.partition).or_default() += 1;
    }
    let twice = count.into_iter().filter(|(_, count)| *count > 1);
    twice
        .map(|(partition, count)| {
            format!("D3: request {request} was applied {count} times in partition {partition}")
        })
        .collect()
}

fn check_answer(
    call: &Call,
    answer: &Answer,
    landed: &[&Landed],
    is_forgiven: bool,
) -> Option<String> {
    let decided = |row: &&&Landed| row.outcome != Outcome::Repeated;
    let at = |partition, index| {
        let mut rows = landed.iter().filter(decided);
        rows.find(|row| (row.partition, row.index) == (partition, index))
    };
    match answer {
        Answer::Committed { partition, index } => match at(*partition, *index) {
            None => Some(format!(
                "D1: committed {partition}:{index} is not in the history"
            )),
            Some(row) if row.outcome != Outcome::Applied => Some(format!(
                "D1: committed {partition}:{index} was {:?}",
                row.outcome
            )),
            Some(row) => {
                let mut asked = call.asked.contents().into_iter();
                let lost = asked.any(|content| !row.contents.contains(&content));
                lost.then(|| format!("D1: committed {partition}:{index} holds another content"))
            }
        },
        Answer::Rejected {
            partition, index, ..
        } => match at(*partition, *index) {
            Some(row) if matches!(row.outcome, Outcome::Rejected(_)) => None,
            found => Some(format!(
                "D3: rejected at {partition}:{index}, where is {found:?}"
            )),
        },
        Answer::Queued if !is_forgiven && !landed.iter().any(|row| decided(&row)) => {
            Some("D6: queued, and never decided".to_owned())
        }
        Answer::Refused(why) if landed.iter().any(|row| row.outcome == Outcome::Applied) => {
            let is_taken_elsewhere = call.answers.len() > 1;
            (!is_taken_elsewhere).then(|| format!("D3: refused ({why}), and yet applied"))
        }
        Answer::Queued | Answer::Refused(_) | Answer::Unknown => None,
    }
}

/// D8: where a way back shows another thing than what it went back to.
pub(super) fn check_back((then, after): &(Listing, Listing)) -> Vec<String> {
    let tell = |(path, wanted, found): Difference<'_, _>| {
        let path = path.display();
        format!("D8: {path} came back as {found:?}, it was {wanted:?}")
    };
    differences(then, after).map(tell).collect()
}

/// A path, what should be there, and what is.
type Difference<'a, V> = (&'a PathBuf, Option<&'a V>, Option<&'a V>);

/// Where two trees are not the same, in order.
fn differences<'a, V: PartialEq>(
    wanted: &'a BTreeMap<PathBuf, V>,
    found: &'a BTreeMap<PathBuf, V>,
) -> impl Iterator<Item = Difference<'a, V>> {
    let paths: BTreeSet<_> = wanted.keys().chain(found.keys()).collect();
    let both = |path| (path, wanted.get(path), found.get(path));
    let rows = paths.into_iter().map(both);
    rows.filter(|(_, wanted, found)| wanted != found)
}

/// C1: each partition's history rises without repeat.
#[must_use]
pub fn check_order(history: &[Landed]) -> Vec<String> {
    let mut newest: BTreeMap<PartitionId, u64> = BTreeMap::new();
    let mut broken = Vec::new();
    for row in history {
        let before = newest.insert(row.partition, row.index);
        if let Some(before) = before.filter(|before| *before >= row.index) {
            let Landed {
                partition, index, ..
            } = row;
            broken.push(format!(
                "C1: partition {partition} has {index} after {before}"
            ));
        }
    }
    broken
}

/// M4: where two nodes show a digest of one partition at one index, it is the same.
#[must_use]
pub fn check_digests(shown: &[(NodeId, PartitionId, u64, ViewDigest)]) -> Vec<String> {
    let mut first: BTreeMap<(PartitionId, u64), (NodeId, ViewDigest)> = BTreeMap::new();
    let mut broken = Vec::new();
    for (node, partition, index, digest) in shown {
        let (other, expected) = *first
            .entry((*partition, *index))
            .or_insert((*node, *digest));
        if expected != *digest {
            broken.push(format!(
                "M4: nodes {other} and {node} differ at {partition}:{index}"
            ));
        }
    }
    broken
}

/// M2: a mirror equals the tree it shows.
#[must_use]
pub fn check_mirror(
    node: NodeId,
    tree: &BTreeMap<PathBuf, Shown>,
    mirror: &BTreeMap<PathBuf, Shown>,
) -> Vec<String> {
    let tell = |(path, wanted, found): Difference<'_, _>| {
        let path = path.display();
        format!("M2: node {node} shows {path} as {found:?}, the tree has {wanted:?}")
    };
    differences(tree, mirror).map(tell).collect()
}
