//! [driver] What clients were promised, and whether it held.
//!
//! Every call is recorded when it begins and when it is answered; a call that was never answered is
//! unknown, not failed. In the end the checks compare the record with the history, the digests and
//! the directories that the nodes show. Each finding names the promise it breaks.

mod check;
#[cfg(test)]
mod tests;

pub use check::{Landed, Outcome, check_digests, check_mirror, check_order};

use check::check_back;

use crate::sim::World;
use crate::sim::outsider::Shown;
use aber_proto::{ContentHash, NodeId, PartitionId, RequestId};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a call asked for. Paths are of the tree.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Asked {
    /// A file's content.
    Put {
        /// Where.
        path: String,
        /// What.
        content: ContentHash,
        /// How long.
        size: u64,
    },
    /// Several files in one change.
    PutAll {
        /// Where, what, and how long.
        files: Vec<(String, ContentHash, u64)>,
    },
    /// A directory.
    MakeDir {
        /// Where.
        path: String,
    },
    /// Another name.
    Rename {
        /// From where.
        from: String,
        /// To where.
        to: String,
    },
    /// A name taken away, with what lies below it.
    Remove {
        /// Where.
        path: String,
    },
}

impl Asked {
    /// The contents that it puts.
    fn contents(&self) -> Vec<ContentHash> {
        match self {
            Self::Put { content, .. } => vec![*content],
            Self::PutAll { files } => files.iter().map(|(_, content, _)| *content).collect(),
            Self::MakeDir { .. } | Self::Rename { .. } | Self::Remove { .. } => Vec::new(),
        }
    }

    fn paths(&self) -> Vec<&str> {
        match self {
            Self::Put { path, .. } | Self::MakeDir { path } | Self::Remove { path } => vec![path],
            Self::Rename { from, to } => vec![from, to],
            Self::PutAll { files } => files.iter().map(|(path, ..)| path.as_str()).collect(),
        }
    }

    /// Whether both touch one path, or one a path above the other's.
    fn touches_as(&self, other: &Self) -> bool {
        let is_within = |path: &str, above: &str| {
            let rest = path.strip_prefix(above);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let others = other.paths();
        let meets = |path: &str| {
            let mut others = others.iter();
            others.any(|other| is_within(path, other) || is_within(other, path))
        };
        self.paths().into_iter().any(meets)
    }
}

/// What a call was answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// It is in the node's outbox and will be ordered (promise D6).
    Queued,
    /// It is ordered and applied there (promise D1).
    Committed {
        /// The partition.
        partition: PartitionId,
        /// The entry.
        index: u64,
    },
    /// It is ordered there and was rejected.
    Rejected {
        /// The partition.
        partition: PartitionId,
        /// The entry.
        index: u64,
        /// Why.
        why: String,
    },
    /// It was not taken, and will never happen.
    Refused(String),
    /// Nobody knows (promise D3).
    Unknown,
}

/// A way back: of a path and what is below it, to so many entries of its partition ago.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Back {
    /// The path.
    pub path: String,
    /// Entries.
    pub entries: u64,
    /// Whether what others wrote since goes back too.
    pub all: bool,
}

/// What a path showed, and all below it.
pub type Listing = BTreeMap<PathBuf, Shown>;

/// What came of a way back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Went {
    /// It was planned, and done as far as was waited for.
    Done {
        /// Changes of it that are ordered and applied there (promise D1).
        entries: Vec<(PartitionId, u64)>,
        /// What the path showed at the moment that was gone back to, and just after it was done. `None`
        /// if these need not be equal, as where something was skipped, or others wrote meanwhile.
        showed: Option<(Listing, Listing)>,
    },
    /// There was no plan, or it did not hold any more.
    Refused(String),
    /// Nobody knows.
    Unknown,
}

/// A call.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Call {
    /// At which node it was made first.
    pub node: NodeId,
    /// What it asked for.
    pub asked: Asked,
    /// When it began, in virtual nanoseconds.
    pub began_ns: u64,
    /// When the newest answer came.
    pub ended_ns: Option<u64>,
    /// All answers it got; more than one if it was repeated.
    pub answers: Vec<(NodeId, Answer)>,
}

#[derive(Debug, Default)]
struct Record {
    calls: BTreeMap<RequestId, Call>,
    /// Changes of ways back, and the node that said they are applied.
    backs: Vec<(NodeId, PartitionId, u64)>,
    contents: BTreeSet<ContentHash>,
    forgiven: BTreeSet<NodeId>,
}

/// The record of all calls of a run. Clones are the same record.
#[derive(Clone, Debug, Default)]
pub struct Oracle {
    record: Arc<Mutex<Record>>,
}

impl Oracle {
    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that a call begins, or is repeated under its request id.
    pub fn begin(&self, world: &World, node: NodeId, request: RequestId, asked: Asked) {
        world.trace(node, format_args!("CALL {request} {asked:?}"));
        let mut record = self.record();
        record.contents.extend(asked.contents());
        let fresh = Call {
            node,
            asked: asked.clone(),
            began_ns: world.now_ns(),
            ended_ns: None,
            answers: Vec::new(),
        };
        let call = record.calls.entry(request).or_insert(fresh);
        assert_eq!(call.asked, asked, "a request id names one request");
    }

    /// Records an answer.
    pub fn end(&self, world: &World, node: NodeId, request: RequestId, answer: Answer) {
        world.trace(node, format_args!("ANSWER {request} {answer:?}"));
        if let Some(call) = self.record().calls.get_mut(&request) {
            call.ended_ns = Some(world.now_ns());
            call.answers.push((node, answer));
        }
    }

    /// Records what came of a way back. D8: where nobody else had a hand in it, it brings back what was.
    pub fn went(&self, world: &World, node: NodeId, back: &Back, went: &Went) {
        let Went::Done { entries, showed } = went else {
            return world.trace(node, format_args!("BACK {back:?} {went:?}"));
        };
        let is_judged = showed.is_some();
        world.trace(
            node,
            format_args!("BACK {back:?} {entries:?} judged: {is_judged}"),
        );
        let entries = entries.iter();
        let entries = entries.map(|(partition, index)| (node, *partition, *index));
        self.record().backs.extend(entries);
        for finding in showed.iter().flat_map(check_back) {
            world.broken(format!("{finding}: {back:?} at node {node}"));
        }
    }

    /// Records a content that somebody wrote past the API: a user in a folder, say.
    pub fn wrote(&self, content: ContentHash) {
        self.record().contents.insert(content);
    }

    /// Records that a node lost its disk for good: what it had only queued may be gone.
    pub fn forgive(&self, node: NodeId) {
        self.record().forgiven.insert(node);
    }

    /// All calls.
    #[must_use]
    pub fn calls(&self) -> BTreeMap<RequestId, Call> {
        self.record().calls.clone()
    }

    /// How many calls were acknowledged, queued or committed.
    #[must_use]
    pub fn acked_count(&self) -> u64 {
        let is_acked = |call: &&Call| {
            let acks = |(_, answer): &(NodeId, Answer)| {
                matches!(answer, Answer::Queued | Answer::Committed { .. })
            };
            call.answers.iter().any(acks)
        };
        let record = self.record();
        u64::try_from(record.calls.values().filter(is_acked).count()).unwrap_or(u64::MAX)
    }

    /// Whether somebody wrote this content.
    #[must_use]
    pub fn is_known(&self, content: ContentHash) -> bool {
        self.record().contents.contains(&content)
    }
}
