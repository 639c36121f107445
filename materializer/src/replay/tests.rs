//! Replays of the control partition and of a data partition beside it (promise S2).

use super::*;
use crate::mirror::testing::{MemChunks, TestEnv};
use crate::snapshot::SnapshotWriter;
use crate::testing::{Log, at, event, genesis, make_dir, make_volume};
use crate::view::{EntryResult, Rejection};
use aber_log::reader::SnapshotManifest;
use aber_proto::{NodeId, Operation, Role, TicketId, Timestamp};
use std::sync::Mutex;

const V: u64 = 1 << 10;
const DATA: PartitionId = PartitionId(1);

/// Entries that are committed, and a snapshot of what came before them.
#[derive(Clone)]
struct Committed {
    entries: Arc<Mutex<BTreeMap<PartitionId, Vec<Entry>>>>,
    snapshot: Option<SnapshotManifest>,
    more: Watched<()>,
}

impl Committed {
    fn new() -> Self {
        Self {
            entries: Arc::default(),
            snapshot: None,
            more: Watched::new(()),
        }
    }

    fn commit(&self, entry: Entry) {
        let mut entries = self.entries.lock().expect("no panic");
        entries.entry(entry.partition).or_default().push(entry);
        drop(entries);
        self.more.set(());
    }
}

impl Reader for Committed {
    async fn read(
        &self,
        partition: PartitionId,
        from: u64,
        _: usize,
    ) -> Result<Vec<Entry>, ReadProblem> {
        let mut more = self.more.clone();
        let snapshot = self.snapshot.as_ref();
        let snapshot = snapshot.filter(|snapshot| snapshot.partition == partition);
        if let Some(snapshot) = snapshot.filter(|snapshot| from <= snapshot.log_id.index) {
            return Err(ReadProblem::Forgotten {
                partition,
                wanted: from,
                oldest: snapshot.log_id.index + 1,
            });
        }
        loop {
            let found: Vec<_> = {
                let entries = self.entries.lock().expect("no panic");
                let all = entries.get(&partition).into_iter().flatten();
                all.filter(|entry| entry.log_id.index >= from)
                    .cloned()
                    .collect()
            };
            if !found.is_empty() {
                return Ok(found);
            }
            more.changed().await;
        }
    }

    async fn newest_snapshot(
        &self,
        _: PartitionId,
    ) -> Result<Option<SnapshotManifest>, ReadProblem> {
        Ok(self.snapshot.clone())
    }
}

/// Remembers outcomes and the sizes of batches.
struct Told {
    outcomes: Mutex<BTreeMap<(PartitionId, u64), EntryResult>>,
    batches: Mutex<Vec<(PartitionId, usize)>>,
}

impl Listener for Told {
    fn applied(&self, batch: AppliedBatch) -> Boxed {
        let size = (batch.partition, batch.entries.len());
        self.batches.lock().expect("no panic").push(size);
        for outcome in batch.outcomes {
            let place = (batch.partition, outcome.log_id.index);
            let mut outcomes = self.outcomes.lock().expect("no panic");
            outcomes.insert(place, outcome.result);
        }
        Box::pin(async {})
    }

    fn snapshot_made(&self) -> Boxed {
        Box::pin(async {})
    }

    fn snapshot_installed(&self) -> Boxed {
        Box::pin(async {})
    }

    fn failed(&self, why: Failure) -> Boxed {
        panic!("a replay failed: {why:?}");
    }
}

struct World {
    told: Arc<Told>,
    members: Watched<Arc<Members>>,
    applied: BTreeMap<PartitionId, Watched<Option<u64>>>,
    _installs: Vec<mpsc::Sender<Install>>,
}

fn start(committed: &Committed) -> World {
    start_with(committed, &MemChunks::default())
}

fn start_with(committed: &Committed, chunks: &MemChunks) -> World {
    let env = TestEnv::new();
    let genesis = Arc::new(genesis());
    let members = Watched::new(Arc::new(Members::of_genesis(&genesis)));
    let told = Arc::new(Told {
        outcomes: Mutex::default(),
        batches: Mutex::default(),
    });
    let partitions = [PartitionId::CONTROL, DATA];
    let applied: BTreeMap<_, _> = partitions.map(|p| (p, Watched::new(None))).into();
    let mut senders = Vec::new();
    for partition in partitions {
        let (sender, installs) = mpsc::channel(1);
        senders.push(sender);
        let replay = Replay::new(ReplayOptions {
            env: env.clone(),
            genesis: Arc::clone(&genesis),
            view: View::open(env.kv.clone(), partition, &genesis).expect("opens"),
            kv: env.kv.clone(),
            members: members.clone(),
            reader: committed.clone(),
            chunks: chunks.clone(),
            tells_history: true,
            ahead: None,
            maker: None,
            applied: applied.clone(),
            dirty: None,
            installs,
            listener: Arc::clone(&told) as Arc<dyn Listener>,
        });
        env.runtime().spawn("replay", replay.run());
    }
    World {
        told,
        members,
        applied,
        _installs: senders,
    }
}

impl World {
    async fn reaches(&self, partition: PartitionId, index: u64) {
        let mut applied = self.applied[&partition].clone();
        applied.until(|at| at.is_some_and(|at| at >= index)).await;
    }

    fn rejection(&self, partition: PartitionId, index: u64) -> Option<Rejection> {
        match &self.told.outcomes.lock().expect("no panic")[&(partition, index)] {
            EntryResult::Rejected(rejected) => Some(rejected.reason),
            EntryResult::Applied(_) => None,
            other => panic!("{other:?}"),
        }
    }
}

fn remove(node: u64) -> Vec<aber_proto::Event> {
    vec![event(Operation::RemoveMember { node: NodeId(node) })]
}

/// S2: of entries that are read at once, those after a removal are judged by it.
#[tokio::test(start_paused = true)]
async fn s2_a_control_batch_ends_where_members_change() {
    let committed = Committed::new();
    let mut log = Log::new(0);
    committed.commit(log.signed(2, vec![make_volume("a", 1)]));
    committed.commit(log.signed(1, vec![make_volume("b", 1)]));
    committed.commit(log.signed(1, remove(2)));
    committed.commit(log.signed(2, vec![make_volume("c", 1)]));
    committed.commit(log.signed(1, vec![make_volume("d", 1)]));
    let world = start(&committed);
    world.reaches(PartitionId::CONTROL, 5).await;
    let control = PartitionId::CONTROL;
    let rejections = [1, 2, 3, 4, 5].map(|index| world.rejection(control, index));
    let not_a_member = Some(Rejection::NotAMember);
    assert_eq!(rejections, [None, None, None, not_a_member, None]);
    let batches = world.told.batches.lock().expect("no panic").clone();
    assert_eq!(batches, [(control, 3), (control, 2)]);
}

/// S2: a data partition waits for the control index of its entries and judges by that, however far
/// the control partition is by then.
#[tokio::test(start_paused = true)]
async fn s2_a_data_partition_judges_at_the_control_index() {
    let committed = Committed::new();
    let world = start(&committed);
    let (mut control, mut data) = (Log::new(0), Log::new(1));
    let mut write = |author, control_index, name: &str| {
        data.control_index = control_index;
        committed.commit(data.signed(author, vec![make_dir(at(V, name))]));
    };
    write(2, 0, "a");
    write(2, 4, "b");
    write(2, 5, "c");
    write(1, 5, "d");
    committed.commit(control.signed(1, vec![make_volume("a", 1)]));
    committed.commit(control.signed(1, vec![make_volume("b", 1)]));
    world.reaches(PartitionId::CONTROL, 2).await;
    tokio::task::yield_now().await;
    assert_eq!(world.applied[&DATA].get(), None, "it waits for index 5");
    for name in ["c", "d"] {
        committed.commit(control.signed(1, vec![make_volume(name, 1)]));
    }
    committed.commit(control.signed(1, remove(2)));
    world.reaches(DATA, 4).await;
    let rejections = [1, 2, 3, 4].map(|index| world.rejection(DATA, index));
    let not_a_member = Some(Rejection::NotAMember);
    assert_eq!(rejections, [None, None, not_a_member, None]);
}

/// S2: whoever waits for an index of the control partition sees the members of that index.
#[tokio::test(start_paused = true)]
async fn s2_members_are_published_before_the_position() {
    let committed = Committed::new();
    let world = start(&committed);
    let mut log = Log::new(0);
    let ticket = TicketId([1; 32]);
    for name in ["a", "b", "c"] {
        committed.commit(log.signed(1, vec![make_volume(name, 1)]));
    }
    committed.commit(log.signed(
        1,
        vec![event(Operation::Invite {
            ticket,
            role: Role::Writer,
            is_voter_eligible: true,
            name: None,
            expires: Timestamp(1_000_000),
        })],
    ));
    committed.commit(log.signed(
        1,
        vec![event(Operation::Admit {
            ticket,
            key: crate::testing::key_of(9).public(),
            name: "malo".to_owned(),
            addresses: Vec::new(),
        })],
    ));
    world.reaches(PartitionId::CONTROL, 5).await;
    let members = world.members.get();
    let malo = members.by_name("malo").expect("admitted");
    assert_eq!((malo.node, malo.admitted()), (NodeId(5), 5));
    assert_eq!(members.role_at(NodeId(5), 4), None);
}

/// S2: after a snapshot the members are those of the snapshot, with their past.
#[tokio::test(start_paused = true)]
async fn s2_a_snapshot_brings_its_members() {
    let mut source = crate::testing::World::new(0);
    for name in ["a", "b", "c"] {
        source.done(vec![make_volume(name, 1)]);
    }
    source.done(remove(2));
    let control = PartitionId::CONTROL;
    let mut writer = SnapshotWriter::begin(source.kv.clone(), control).expect("a view");
    let mut bytes = Vec::new();
    while let Some(piece) = writer.next_piece().expect("works") {
        bytes.extend_from_slice(&piece);
    }
    let chunks = MemChunks::default();
    let aber_proto::Content::Chunks(content) = chunks.content(&bytes) else {
        panic!("a snapshot has chunks")
    };
    let applied = source.view.applied();
    let mut committed = Committed::new();
    committed.snapshot = Some(SnapshotManifest {
        partition: control,
        log_id: applied.log_id,
        chain: applied.chain,
        digest: source.view.digest(),
        membership: Bytes::new(),
        content,
    });
    let world = start_with(&committed, &chunks);
    let mut data = Log::new(1);
    for (author, control_index) in [(2, 3), (2, 4), (1, 4)] {
        data.control_index = control_index;
        let name = format!("{author}-{control_index}");
        committed.commit(data.signed(author, vec![make_dir(at(V, &name))]));
    }
    world.reaches(DATA, 3).await;
    let rejections = [1, 2, 3].map(|index| world.rejection(DATA, index));
    assert_eq!(rejections, [None, Some(Rejection::NotAMember), None]);
    assert_eq!(Some(&world.members.get()), source.view.members());
    committed.commit(source.log.signed(2, vec![make_volume("d", 1)]));
    world.reaches(control, 5).await;
    let late = world.rejection(control, 5);
    assert_eq!(late, Some(Rejection::NotAMember));
}
