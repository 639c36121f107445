//! [adapter] An index in memory, and a log to fold into it, for tests.

use crate::effect::Effect;
use crate::tree::Node;
use crate::view::{EntryResult, EventOutcome, Found, Rejection, TreeView, Verdict, View};
use aber_log::env::Kv;
use aber_log::env::kv::{KvBatch, KvProblem};
use aber_proto::codec;
use aber_proto::{Attributes, ChunkList, ChunkRef, Content, ContentHash, Manifest};
use aber_proto::{BatchSignature, ChainHash, Change, ChangeHash, ChunkHash, ClusterId, Entry};
use aber_proto::{
    EntryKind, Event, EventId, Genesis, LogId, Member, NodeId, Operation, PartitionId,
};
use aber_proto::{FileId, TreePath, VolumeId};
use aber_proto::{
    Place, Precondition, RelPath, RequestId, Role, SecretKey, SignedChange, Timestamp,
};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

/// Rows, and how many calls may still succeed.
#[derive(Default, Debug)]
struct State {
    rows: BTreeMap<Bytes, Bytes>,
    calls_left: Option<u64>,
    commits: u64,
}

/// An index in memory.
#[derive(Clone, Default, Debug)]
pub(crate) struct MemKv(Arc<Mutex<State>>);

impl MemKv {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn call(&self) -> Result<MutexGuard<'_, State>, KvProblem> {
        let mut state = self.lock();
        match &mut state.calls_left {
            Some(0) => {
                return Err(KvProblem {
                    what: "told to fail".to_owned(),
                });
            }
            Some(left) => *left -= 1,
            None => {}
        }
        Ok(state)
    }

    /// Lets this many calls succeed, then none; `None` mends it.
    pub(crate) fn fail_after(&self, calls: Option<u64>) {
        self.lock().calls_left = calls;
    }

    /// All rows.
    pub(crate) fn rows(&self) -> BTreeMap<Bytes, Bytes> {
        self.lock().rows.clone()
    }

    /// All rows but those of the past, which each node has of its own.
    pub(crate) fn present_rows(&self) -> BTreeMap<Bytes, Bytes> {
        let mut rows = self.rows();
        rows.retain(|key, _| key.first() != Some(&b'H'));
        rows
    }

    /// Commits so far.
    pub(crate) fn commits(&self) -> u64 {
        self.lock().commits
    }

    /// An index with the same rows, of its own.
    pub(crate) fn fork(&self) -> Self {
        Self(Arc::new(Mutex::new(State {
            rows: self.rows(),
            ..State::default()
        })))
    }
}

impl Kv for MemKv {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, KvProblem> {
        Ok(self.call()?.rows.get(key).cloned())
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, KvProblem> {
        let state = self.call()?;
        if from >= to {
            return Ok(Vec::new());
        }
        let from = Bytes::copy_from_slice(from);
        let to = Bytes::copy_from_slice(to);
        Ok(state
            .rows
            .range(from..to)
            .take(limit)
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect())
    }

    fn commit(&self, batch: KvBatch) -> Result<(), KvProblem> {
        let mut state = self.call()?;
        state.commits += 1;
        for (key, value) in batch.rows {
            match value {
                Some(value) => state.rows.insert(key, value),
                None => state.rows.remove(&key),
            };
        }
        Ok(())
    }

    async fn flush(&self) -> Result<(), KvProblem> {
        self.call().map(|_| ())
    }
}

/// A partition's log as its leader would write it, for one author.
pub(crate) struct Log {
    pub(crate) cluster: ClusterId,
    pub(crate) partition: PartitionId,
    pub(crate) chain: ChainHash,
    pub(crate) index: u64,
    pub(crate) sequence: u64,
    pub(crate) control_index: u64,
    /// What the order time is ahead of a second an entry, in milliseconds.
    pub(crate) ahead_ms: i64,
}

/// A cluster of three: node 1, an admin with the key of seed 1, a writer 2 and a reader 3.
pub(crate) fn genesis() -> Genesis {
    let member = |node: u8, name: &str, role| Member {
        node: NodeId(node.into()),
        name: name.to_owned(),
        key: key_of(node).public(),
        role,
        address: format!("{name}:7787"),
    };
    Genesis {
        name: "home".to_owned(),
        created: Timestamp(7),
        members: vec![
            member(1, "anna", Role::Admin),
            member(2, "bob", Role::Writer),
            member(3, "carl", Role::Reader),
        ],
        voters: vec![NodeId(1)],
        partitions: 4,
        min_copies: 1,
    }
}

/// The node that the first event of an entry of partition 1 made.
pub(crate) fn made_at(index: u64) -> FileId {
    FileId {
        partition: PartitionId(1),
        index,
        ordinal: 0,
    }
}

/// The key of this seed.
pub(crate) fn key_of(seed: u8) -> SecretKey {
    SecretKey::from_seed(&[seed; 32]).expect("any 32 bytes are a seed")
}

/// The cluster of [`genesis`].
pub(crate) static CLUSTER: LazyLock<ClusterId> = LazyLock::new(|| genesis().cluster_id());

impl Log {
    pub(crate) fn new(partition: u32) -> Self {
        let partition = PartitionId(partition);
        Self {
            cluster: *CLUSTER,
            partition,
            chain: ChainHash::genesis(&CLUSTER, partition),
            index: 0,
            sequence: 0,
            control_index: 0,
            ahead_ms: 0,
        }
    }

    /// The next entry, of any kind and bytes.
    pub(crate) fn entry(&mut self, kind: EntryKind, body: Bytes) -> Entry {
        self.index += 1;
        let entry = Entry {
            partition: self.partition,
            log_id: LogId {
                term: 1,
                index: self.index,
            },
            order_time: Timestamp(i64::try_from(self.index).expect("small") * 1000 + self.ahead_ms),
            control_index: self.control_index,
            kind,
            body,
            chain: ChainHash::default(),
        };
        let entry = Entry::following(&self.chain, entry);
        self.chain = entry.chain;
        entry
    }

    /// A change of these events by author 1, with a fresh request id.
    pub(crate) fn change(&mut self, events: Vec<Event>) -> Change {
        self.sequence += 1;
        let mut request = [0; 16];
        request[..8].copy_from_slice(&self.sequence.to_le_bytes());
        Change {
            cluster: self.cluster,
            partition: self.partition,
            author: NodeId(1),
            author_sequence: self.sequence,
            previous: ChangeHash::default(),
            request: RequestId(request),
            wall_time: Timestamp(0),
            comment: String::new(),
            via: "test".to_owned(),
            origin: None,
            events,
        }
    }

    /// The next entry, with this change.
    pub(crate) fn order(&mut self, change: &Change) -> Entry {
        let signed = SignedChange {
            body: codec::encode_change(change),
            signature: BatchSignature {
                root_signature: [0; 64],
                position: 0,
                count: 1,
                path: Vec::new(),
            },
        };
        self.entry(EntryKind::Change, codec::encode_signed(&signed))
    }

    /// The next entry, with a change of these events by the founder of this number, signed.
    pub(crate) fn signed(&mut self, author: u8, events: Vec<Event>) -> Entry {
        let mut change = self.change(events);
        change.author = NodeId(author.into());
        self.signed_by(&change, &key_of(author))
    }

    /// The next entry, with this change signed by a key.
    pub(crate) fn signed_by(&mut self, change: &Change, key: &SecretKey) -> Entry {
        let body = codec::encode_change(change);
        let mut signatures = key.sign_batch(&[ChangeHash::of(&body)]);
        let signature = signatures.remove(0);
        let signed = SignedChange { body, signature };
        self.entry(EntryKind::Change, codec::encode_signed(&signed))
    }

    /// The next entry, with a change of these events.
    pub(crate) fn write(&mut self, events: Vec<Event>) -> Entry {
        let change = self.change(events);
        self.order(&change)
    }
}

/// A path in the volume of this number; 0 is the root volume.
pub(crate) fn at(volume: u64, path: &str) -> Place {
    Place {
        volume: VolumeId(volume),
        path: RelPath::parse(path).expect("a good path"),
    }
}

/// An event without a guard.
pub(crate) fn event(operation: Operation) -> Event {
    Event {
        precondition: Precondition::default(),
        operation,
    }
}

/// A put of inline text.
pub(crate) fn put(place: Place, text: &str) -> Event {
    event(Operation::Put {
        place,
        content: Content::Inline(Bytes::copy_from_slice(text.as_bytes())),
        attributes: Attributes::default(),
        parents: false,
    })
}

/// A content of one chunk.
pub(crate) fn chunked(seed: u8, length: u32) -> Content {
    let hash = [seed; 32];
    Content::Chunks(Manifest {
        size: length.into(),
        blake3: ContentHash(hash),
        average: 16 * 1024,
        chunks: ChunkList::Direct(vec![ChunkRef {
            hash: ChunkHash(hash),
            length,
        }]),
    })
}

pub(crate) fn make_dir(place: Place) -> Event {
    event(Operation::MakeDirectory {
        place,
        parents: false,
    })
}

pub(crate) fn symlink(place: Place) -> Event {
    event(Operation::MakeSymlink {
        place,
        target: "target".to_owned(),
        parents: false,
    })
}

pub(crate) fn rename(from: Place, to: Place, replace: bool) -> Event {
    event(Operation::Rename {
        from,
        to,
        replace,
        target: Precondition::default(),
    })
}

/// Not recursive without a base.
pub(crate) fn remove(place: Place, base: Option<u64>) -> Event {
    event(Operation::Remove {
        place,
        recursive: base.is_some(),
        base: base.unwrap_or(0),
    })
}

pub(crate) fn chmod(place: Place, mode: u16) -> Event {
    event(Operation::SetAttributes {
        place,
        mode: Some(mode),
        mtime: None,
    })
}

pub(crate) fn copy(to: Place, text: &str, replace: bool) -> Event {
    event(Operation::Copy {
        source: EventId::default(),
        to,
        content: Content::Inline(Bytes::copy_from_slice(text.as_bytes())),
        attributes: Attributes::default(),
        replace,
    })
}

pub(crate) fn make_volume(name: &str, partition: u32) -> Event {
    event(Operation::MakeVolume {
        name: name.to_owned(),
        partition: PartitionId(partition),
    })
}

/// One partition's log and view over an index in memory.
pub(crate) struct World {
    pub(crate) log: Log,
    pub(crate) kv: MemKv,
    pub(crate) view: View<MemKv>,
}

impl World {
    pub(crate) fn new(partition: u32) -> Self {
        Self::over(MemKv::default(), partition)
    }

    pub(crate) fn over(kv: MemKv, partition: u32) -> Self {
        Self::of(kv, partition, &genesis())
    }

    /// One of another cluster.
    pub(crate) fn of(kv: MemKv, partition: u32, genesis: &Genesis) -> Self {
        let mut log = Log::new(partition);
        log.cluster = genesis.cluster_id();
        log.chain = ChainHash::genesis(&log.cluster, log.partition);
        let view = View::open(kv.clone(), log.partition, genesis).expect("an empty index opens");
        Self { log, kv, view }
    }

    pub(crate) fn tree(&self) -> TreeView<MemKv> {
        TreeView::new(self.kv.clone())
    }

    /// Applies one entry.
    pub(crate) fn apply(&mut self, entry: Entry, verdict: Verdict) -> (EntryResult, Vec<Effect>) {
        let mut batch = self
            .view
            .apply_batch(&[(entry, verdict)], KvBatch::default())
            .expect("the index works and the chain holds");
        assert_eq!(batch.outcomes.len(), 1);
        (batch.outcomes.remove(0).result, batch.effects)
    }

    /// Orders and applies one change.
    pub(crate) fn write(&mut self, events: Vec<Event>) -> EntryResult {
        let entry = self.log.write(events);
        self.apply(entry, Verdict::Allowed).0
    }

    /// Orders and applies one change that must be applied.
    pub(crate) fn done(&mut self, events: Vec<Event>) -> Vec<EventOutcome> {
        match self.write(events) {
            EntryResult::Applied(outcomes) => outcomes,
            other => panic!("not applied: {other:?}"),
        }
    }

    /// Orders and applies one change that must be rejected, and leave all rows of the tree alone.
    pub(crate) fn refused(&mut self, events: Vec<Event>) -> Rejection {
        let before = self.tree_rows();
        let result = self.write(events);
        assert_eq!(before, self.tree_rows(), "nothing was done");
        match result {
            EntryResult::Rejected(rejected) => rejected.reason,
            other => panic!("not rejected: {other:?}"),
        }
    }

    /// Rows of names, nodes, volumes, members and history, and chunk references.
    pub(crate) fn tree_rows(&self) -> BTreeMap<Bytes, Bytes> {
        let mut rows = self.kv.rows();
        rows.retain(|key, _| {
            let of_view = key[0] == b'V' && matches!(key[5], 2 | 3 | 7 | 8 | 9 | 12..=15);
            key[0] == b'R' || of_view
        });
        rows
    }

    /// The node at a path of the tree.
    pub(crate) fn node(&self, path: &str) -> Option<Node> {
        let path = TreePath::parse(path).expect("a good path");
        match self.tree().lookup(&path).expect("the index works") {
            Found::Node(node) => Some(node),
            _ => None,
        }
    }
}
