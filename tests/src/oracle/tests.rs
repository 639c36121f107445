//! The oracle finds lies.

use super::*;
use crate::sim::fault::Swarm;
use crate::sim::outsider::Shown;
use crate::sim::run::{RunOptions, Tally, run_with};
use crate::workload::{ClientApi, Ticket, Wait, WorkloadOptions, drive, prepare};
use bytes::Bytes;
use std::path::PathBuf;

/// A tree that orders and applies at once, and may lie.
#[derive(Clone, Default)]
struct Fake {
    lie: Lie,
    history: Arc<Mutex<Vec<Landed>>>,
    files: Arc<Mutex<BTreeMap<String, Bytes>>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum Lie {
    #[default]
    None,
    DropsCommitted,
    DropsQueued,
    AppliesRepeats,
    Tears,
    AppliesRefused,
    PutsAnother,
    BringsAnother,
}

impl Fake {
    fn land(&self, ticket: Ticket, contents: Vec<ContentHash>) -> Answer {
        let mut history = self.history.lock().unwrap();
        let number = u64::try_from(history.len()).unwrap();
        let is_fifth = number % 5 == 4;
        let known = history.iter().find(|row| row.request == ticket.request);
        let first = known.map(|row| row.index);
        let index = first.unwrap_or(number + 1);
        let (partition, is_queued) = (PartitionId(1), ticket.wait == Wait::Queued);
        let is_dropped = is_fifth
            && match self.lie {
                Lie::DropsCommitted => !is_queued,
                Lie::DropsQueued => is_queued,
                _ => false,
            };
        let contents = match self.lie {
            Lie::PutsAnother if is_fifth => vec![ContentHash::of(b"another")],
            _ => contents,
        };
        if !is_dropped && (first.is_none() || self.lie == Lie::AppliesRepeats) {
            history.push(Landed {
                request: ticket.request,
                partition,
                index: number + 1,
                outcome: Outcome::Applied,
                contents,
            });
        }
        if is_fifth && self.lie == Lie::AppliesRefused {
            return Answer::Refused("busy".to_owned());
        }
        // Every third answer is lost, so that requests are repeated.
        match (number % 3 == 2 && first.is_none(), is_queued) {
            (true, _) if !is_dropped => Answer::Unknown,
            (_, true) => Answer::Queued,
            (_, false) => Answer::Committed { partition, index },
        }
    }
}

impl ClientApi for Fake {
    async fn put(&self, ticket: Ticket, path: &str, content: Bytes) -> Answer {
        let hash = ContentHash::of(&content);
        let kept = if self.lie == Lie::Tears {
            content.slice(..content.len() / 2)
        } else {
            content
        };
        self.files.lock().unwrap().insert(path.to_owned(), kept);
        self.land(ticket, vec![hash])
    }

    async fn put_all(&self, ticket: Ticket, files: Vec<(String, Bytes)>) -> Answer {
        let mut hashes = Vec::new();
        for (path, content) in files {
            hashes.push(ContentHash::of(&content));
            self.files.lock().unwrap().insert(path, content);
        }
        self.land(ticket, hashes)
    }

    async fn make_dir(&self, ticket: Ticket, _path: &str) -> Answer {
        self.land(ticket, Vec::new())
    }

    async fn rename(&self, ticket: Ticket, _from: &str, _to: &str) -> Answer {
        self.land(ticket, Vec::new())
    }

    async fn remove(&self, ticket: Ticket, _path: &str) -> Answer {
        self.land(ticket, Vec::new())
    }

    /// A path that always shows the same, so that any moment is the present one.
    async fn roll_back(&self, ticket: Ticket, back: &Back) -> Went {
        let file = |bytes: &[u8]| {
            let shown = Shown::File {
                content: ContentHash::of(bytes),
                size: 1,
                mode: 0o644,
            };
            Listing::from([(PathBuf::from(&back.path), shown)])
        };
        let after = match self.lie {
            Lie::BringsAnother => file(b"another"),
            _ => file(b"same"),
        };
        match self.land(ticket, Vec::new()) {
            Answer::Committed { partition, index } => Went::Done {
                entries: vec![(partition, index)],
                showed: Some((file(b"same"), after)),
            },
            Answer::Refused(why) => Went::Refused(why),
            _ => Went::Unknown,
        }
    }

    async fn read(&self, _node: NodeId, path: &str) -> Result<Option<Bytes>, String> {
        Ok(self.files.lock().unwrap().get(path).cloned())
    }
}

/// Runs a workload against a fake; answers what the oracle found, and the trace's hash.
fn findings(lie: Lie) -> (Vec<String>, String) {
    let options = RunOptions::default();
    let report = run_with(&options, Swarm::calm(3), async |world, _| {
        (1..=3).for_each(|node| world.add_node(NodeId(node)));
        let fake = Fake {
            lie,
            ..Fake::default()
        };
        let (oracle, workload) = (Oracle::default(), WorkloadOptions::default());
        prepare(&world, &oracle, &fake, &workload.setup()).await;
        let steps = world.with_random(|random| workload.draw(random));
        drive(&world, &oracle, &fake, steps, u64::MAX).await;
        let history = fake.history.lock().unwrap().clone();
        let found = [oracle.check_history(&history), check_order(&history)].concat();
        found.into_iter().for_each(|what| world.broken(what));
        Tally {
            acked_count: oracle.acked_count(),
            ..Tally::default()
        }
    });
    assert!(report.tally.acked_count > 50, "{report}");
    (report.failures, report.hash)
}

fn names(lie: Lie, promise: &str) {
    let (found, _) = findings(lie);
    assert!(
        !found.is_empty() && found.iter().all(|what| what.starts_with(promise)),
        "{found:?}"
    );
}

#[test]
fn an_honest_tree_breaks_nothing_and_a_seed_repeats() {
    let (found, hash) = findings(Lie::None);
    assert_eq!(found, Vec::<String>::new());
    assert_eq!(findings(Lie::None).1, hash);
}

/// Promises D1, D3, D6, D8, M1.
#[test]
fn each_lie_is_found_under_its_promise() {
    names(Lie::DropsCommitted, "D1");
    names(Lie::PutsAnother, "D1");
    names(Lie::BringsAnother, "D8");
    names(Lie::DropsQueued, "D6");
    names(Lie::AppliesRepeats, "D3");
    names(Lie::AppliesRefused, "D3");
    names(Lie::Tears, "M1");
}

/// Promises M1, M2, M4.
#[test]
fn torn_files_other_mirrors_and_other_digests_are_found() {
    let file = |bytes: &[u8]| Shown::File {
        content: ContentHash::of(bytes),
        size: 1,
        mode: 0o644,
    };
    let oracle = Oracle::default();
    oracle.wrote(ContentHash::of(b"whole"));
    let tree = BTreeMap::from([(PathBuf::from("a"), file(b"whole"))]);
    let torn = BTreeMap::from([(PathBuf::from("a"), file(b"who"))]);
    assert!(oracle.check_contents(&tree).is_empty());
    assert_eq!(oracle.check_contents(&torn).len(), 1);
    assert!(check_mirror(NodeId(1), &tree, &tree).is_empty());
    assert_eq!(check_mirror(NodeId(1), &tree, &torn).len(), 1);
    assert_eq!(check_mirror(NodeId(1), &tree, &BTreeMap::new()).len(), 1);
    let digest = |byte| aber_proto::ViewDigest([byte; 32]);
    let shown = |node, index, byte| (NodeId(node), PartitionId(1), index, digest(byte));
    assert!(check_digests(&[shown(1, 5, 7), shown(2, 5, 7), shown(2, 6, 8)]).is_empty());
    assert_eq!(check_digests(&[shown(1, 5, 7), shown(2, 5, 8)]).len(), 1);
}
