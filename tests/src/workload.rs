//! [driver] Seeded file operations of several clients, against whatever answers a [`ClientApi`].
//!
//! The steps of every client are drawn beforehand and are plain values: a failing run shrinks by
//! leaving steps out. Clients know nothing of each other, meet on few paths, move from node to node
//! and repeat what was not answered under its request id.

use crate::oracle::{Answer, Asked, Back, Oracle, Went};
use crate::sim::{Random, World};
use aber_proto::{ContentHash, NodeId, RequestId};
use bytes::Bytes;
use std::future::Future;
use std::time::Duration;

/// Longest a client waits for an answer.
const DEADLINE: Duration = Duration::from_secs(60);
/// How often a client repeats what was not answered.
const REPEATS: u64 = 3;

/// What a call is to wait for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wait {
    /// Until it is in the node's outbox.
    Queued,
    /// Until it is committed.
    Committed,
}

/// At which node, under which id, how far.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ticket {
    /// The node asked.
    pub node: NodeId,
    /// The request's id.
    pub request: RequestId,
    /// What to wait for.
    pub wait: Wait,
}

/// What a client can ask of a node. Paths are of the tree. A node that is down, or dies during the
/// call, answers [`Answer::Unknown`].
pub trait ClientApi: Clone + Send + Sync + 'static {
    /// Puts a file.
    fn put(
        &self,
        ticket: Ticket,
        path: &str,
        content: Bytes,
    ) -> impl Future<Output = Answer> + Send;
    /// Puts several files of one volume, in one change.
    fn put_all(
        &self,
        ticket: Ticket,
        files: Vec<(String, Bytes)>,
    ) -> impl Future<Output = Answer> + Send;
    /// Makes a directory; at the top, a volume.
    fn make_dir(&self, ticket: Ticket, path: &str) -> impl Future<Output = Answer> + Send;
    /// Renames.
    fn rename(&self, ticket: Ticket, from: &str, to: &str) -> impl Future<Output = Answer> + Send;
    /// Removes, with all that lies below.
    fn remove(&self, ticket: Ticket, path: &str) -> impl Future<Output = Answer> + Send;
    /// Plans a way back, and does it. The request's id is no part of it: a node gives each change of a
    /// plan its own, and a plan is done once.
    fn roll_back(&self, ticket: Ticket, back: &Back) -> impl Future<Output = Went> + Send;
    /// Reads a file as the node shows it now; `None` if there is no file.
    fn read(
        &self,
        node: NodeId,
        path: &str,
    ) -> impl Future<Output = Result<Option<Bytes>, String>> + Send;
}

/// A content by its seed: random bytes, of which some may be changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ContentSeed {
    /// Draws the bytes.
    pub base: u64,
    /// Bytes.
    pub size: usize,
    /// Draws a short piece that differs from the base; an edit of a large file.
    pub edit: Option<u64>,
}

impl ContentSeed {
    /// The bytes.
    #[must_use]
    pub fn bytes(self) -> Bytes {
        let mut bytes = vec![0; self.size];
        Random::new(self.base).fill(&mut bytes);
        if let Some(edit) = self.edit {
            let mut random = Random::new(edit);
            let at = random.index(self.size);
            let piece = bytes.get_mut(at..).unwrap_or_default();
            let length = piece.len().min(64);
            random.fill(piece.get_mut(..length).unwrap_or_default());
        }
        bytes.into()
    }
}

/// One step of a client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Puts a file.
    Put(String, ContentSeed),
    /// Puts several files into a directory, in one change.
    PutAll(String, Vec<ContentSeed>),
    /// Makes a directory.
    MakeDir(String),
    /// Renames.
    Rename(String, String),
    /// Removes.
    Remove(String),
    /// Goes back.
    Rollback(Back),
    /// Reads.
    Read(String),
    /// Waits so many virtual milliseconds.
    Think(u64),
    /// Goes to another node.
    Move,
}

/// What clients do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WorkloadOptions {
    /// Volumes, beside the root.
    pub volumes: Vec<String>,
    /// Clients.
    pub client_count: usize,
    /// Steps of each.
    pub step_count: usize,
    /// Largest content of most puts.
    pub small_bytes_max: u64,
    /// Largest content of some puts.
    pub large_bytes_max: u64,
    /// How many of a thousand puts are large.
    pub large_permille: u64,
    /// Longest pause after a step.
    pub think_ms_max: u64,
}

impl Default for WorkloadOptions {
    fn default() -> Self {
        Self {
            volumes: vec!["music".to_owned(), "photos".to_owned()],
            client_count: 3,
            step_count: 60,
            small_bytes_max: 3000,
            large_bytes_max: 600_000,
            large_permille: 100,
            think_ms_max: 3000,
        }
    }
}

impl WorkloadOptions {
    /// The steps that must be done before any other: the volumes and their directories.
    #[must_use]
    pub fn setup(&self) -> Vec<Step> {
        let directories = self.volumes.iter().flat_map(|volume| {
            ["", "/d0", "/d1"].map(|below| Step::MakeDir(format!("/{volume}{below}")))
        });
        directories.collect()
    }

    /// The steps of every client.
    #[must_use]
    pub fn draw(&self, random: &mut Random) -> Vec<Vec<Step>> {
        let client = |_| {
            (0..self.step_count)
                .flat_map(|_| self.step(random))
                .collect()
        };
        (0..self.client_count).map(client).collect()
    }

    fn path(&self, random: &mut Random) -> String {
        const NAMES: [&str; 6] = [
            "a",
            "b.txt",
            "name with blanks",
            "ünï.flac",
            "c",
            "long.tar",
        ];
        let name = random.pick(&NAMES).copied().unwrap_or("a");
        let volume = random.index(self.volumes.len() + 1);
        match (self.volumes.get(volume), random.below(4)) {
            (None, _) => format!("/{name}"),
            (Some(volume), 0) => format!("/{volume}/{name}"),
            (Some(volume), 1) => format!("/{volume}/d0/{name}"),
            (Some(volume), 2) => format!("/{volume}/d1/{name}"),
            (Some(volume), _) => format!("/{volume}/d0/new/{name}"),
        }
    }

    fn directory(&self, random: &mut Random) -> String {
        let volume = random.pick(&self.volumes).map_or("", String::as_str);
        let below = ["d0/new", "d1", "d0", "d2"];
        format!("/{volume}/{}", random.pick(&below).copied().unwrap_or("d2"))
    }

    fn content(&self, random: &mut Random) -> ContentSeed {
        let is_large = random.chance(self.large_permille);
        let size_max = if is_large {
            self.large_bytes_max
        } else {
            self.small_bytes_max
        };
        let size = random.below(size_max + 1);
        ContentSeed {
            base: if is_large {
                random.below(4)
            } else {
                random.next_u64()
            },
            size: usize::try_from(size).unwrap_or(0),
            edit: is_large.then(|| random.next_u64()),
        }
    }

    /// Small files, so many that their change is a large one: what it says goes another way than
    /// small changes do.
    fn many(&self, random: &mut Random) -> Vec<ContentSeed> {
        let count = 6 + random.below(9);
        let small = |random: &mut Random| ContentSeed {
            base: random.next_u64(),
            size: 400 + random.index(600),
            edit: None,
        };
        (0..count).map(|_| small(random)).collect()
    }

    /// A path, or a whole volume, a few entries ago or many.
    fn back(&self, random: &mut Random) -> Back {
        let path = match random.below(8) {
            0 | 1 => format!("/{}", random.pick(&self.volumes).map_or("", String::as_str)),
            2 | 3 => self.path(random),
            _ => self.directory(random),
        };
        let entries_max = random.pick(&[5, 20, 80]).copied().unwrap_or(5);
        Back {
            path,
            entries: 1 + random.below(entries_max),
            all: random.chance(700),
        }
    }

    fn step(&self, random: &mut Random) -> Vec<Step> {
        let step = match random.below(23) {
            21 | 22 => Step::Rollback(self.back(random)),
            20 => Step::PutAll(self.directory(random), self.many(random)),
            0..=8 => Step::Put(self.path(random), self.content(random)),
            9 | 10 => Step::MakeDir(self.directory(random)),
            11 | 12 => Step::Rename(self.path(random), self.path(random)),
            13 => Step::Rename(self.directory(random), self.directory(random)),
            14 | 15 => Step::Remove(self.path(random)),
            16 => Step::Remove(self.directory(random)),
            17 => Step::Move,
            _ => Step::Read(self.path(random)),
        };
        vec![step, Step::Think(random.below(self.think_ms_max + 1))]
    }
}

/// One client at work.
struct Client<A> {
    world: World,
    oracle: Oracle,
    api: A,
    node: NodeId,
}

impl<A: ClientApi> Client<A> {
    fn move_on(&mut self) {
        let nodes = self.world.nodes();
        let drawn = self
            .world
            .with_random(|random| random.pick(&nodes).copied());
        self.node = drawn.unwrap_or(self.node);
    }

    async fn take(&mut self, step: &Step) {
        match step {
            Step::Think(ms) => tokio::time::sleep(Duration::from_millis(*ms)).await,
            Step::Move => self.move_on(),
            Step::Read(path) => self.read(path).await,
            Step::Rollback(back) => self.roll_back(back).await,
            change => {
                if let Some(asked) = asked(change) {
                    self.change(change, asked).await;
                }
            }
        }
    }

    fn request(&self) -> RequestId {
        let mut id = [0; 16];
        self.world.with_random(|random| random.fill(&mut id));
        RequestId(id)
    }

    fn ticket(&self, request: RequestId) -> Ticket {
        let wait = match self.world.draw(2) {
            0 => Wait::Queued,
            _ => Wait::Committed,
        };
        Ticket {
            node: self.node,
            request,
            wait,
        }
    }

    /// Goes back, once: a plan that nobody answered for is done, or made anew by who wants it.
    async fn roll_back(&mut self, back: &Back) {
        let ticket = self.ticket(self.request());
        let called = tokio::time::timeout(DEADLINE, self.api.roll_back(ticket, back)).await;
        let went = called.unwrap_or(Went::Unknown);
        self.oracle.went(&self.world, ticket.node, back, &went);
        if went == Went::Unknown {
            self.move_on();
        }
    }

    /// Makes a change, and repeats it while nobody answers.
    async fn change(&mut self, step: &Step, asked: Asked) {
        let request = self.request();
        for _ in 0..=REPEATS {
            let (node, ticket) = (self.node, self.ticket(request));
            self.oracle.begin(&self.world, node, request, asked.clone());
            let called = tokio::time::timeout(DEADLINE, self.call(ticket, step)).await;
            let answer = called.unwrap_or(Answer::Unknown);
            self.oracle.end(&self.world, node, request, answer.clone());
            if answer != Answer::Unknown {
                return;
            }
            self.move_on();
            let pause_ms = self.world.between(100, 3000);
            tokio::time::sleep(Duration::from_millis(pause_ms)).await;
        }
    }

    async fn call(&self, ticket: Ticket, step: &Step) -> Answer {
        match step {
            Step::Put(path, content) => self.api.put(ticket, path, content.bytes()).await,
            Step::PutAll(path, files) => self.api.put_all(ticket, placed(path, files)).await,
            Step::MakeDir(path) => self.api.make_dir(ticket, path).await,
            Step::Rename(from, to) => self.api.rename(ticket, from, to).await,
            Step::Remove(path) => self.api.remove(ticket, path).await,
            Step::Rollback(_) | Step::Read(_) | Step::Think(_) | Step::Move => {
                Answer::Refused("no change".to_owned())
            }
        }
    }

    async fn read(&self, path: &str) {
        let read = tokio::time::timeout(DEADLINE, self.api.read(self.node, path)).await;
        let Ok(Ok(Some(bytes))) = read else {
            let word = if read.is_ok() { "nothing" } else { "no answer" };
            return self
                .world
                .trace(self.node, format_args!("READ {path} {word}"));
        };
        self.world
            .trace(self.node, format_args!("READ {path} {} bytes", bytes.len()));
        if !self.oracle.is_known(ContentHash::of(&bytes)) {
            let (node, length) = (self.node, bytes.len());
            let what = format!("M1: node {node} served {length} bytes of {path} nobody wrote");
            self.world.broken(what);
        }
    }
}

/// Files by their places in a directory.
fn placed(directory: &str, files: &[ContentSeed]) -> Vec<(String, Bytes)> {
    let files = files.iter().enumerate();
    files
        .map(|(number, content)| (format!("{directory}/one of many {number}"), content.bytes()))
        .collect()
}

/// What a step asks for; `None` if it changes nothing.
fn asked(step: &Step) -> Option<Asked> {
    Some(match step {
        Step::Put(path, content) => {
            let bytes = content.bytes();
            Asked::Put {
                path: path.clone(),
                content: ContentHash::of(&bytes),
                size: u64::try_from(bytes.len()).unwrap_or(u64::MAX),
            }
        }
        Step::PutAll(path, files) => {
            let size = |bytes: &Bytes| u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            let files = placed(path, files).into_iter();
            let files = files.map(|(path, bytes)| (path, ContentHash::of(&bytes), size(&bytes)));
            Asked::PutAll {
                files: files.collect(),
            }
        }
        Step::MakeDir(path) => Asked::MakeDir { path: path.clone() },
        Step::Rename(from, to) => Asked::Rename {
            from: from.clone(),
            to: to.clone(),
        },
        Step::Remove(path) => Asked::Remove { path: path.clone() },
        Step::Rollback(_) | Step::Read(_) | Step::Think(_) | Step::Move => return None,
    })
}

/// Takes steps one after another, each until it is answered; before the clients begin.
pub async fn prepare<A: ClientApi>(world: &World, oracle: &Oracle, api: &A, steps: &[Step]) {
    let mut client = Client {
        world: world.clone(),
        oracle: oracle.clone(),
        api: api.clone(),
        node: world.nodes().first().copied().unwrap_or_default(),
    };
    for step in steps {
        client.take(step).await;
    }
}

/// Lets all clients do their steps, side by side, and waits for them. None begins a step at
/// `ends_ns` of the world's clock or later.
pub fn drive<A: ClientApi>(
    world: &World,
    oracle: &Oracle,
    api: &A,
    steps: Vec<Vec<Step>>,
    ends_ns: u64,
) -> impl Future<Output = ()> + Send + use<A> {
    let mut clients = Vec::new();
    for steps in steps {
        let mut client = Client {
            world: world.clone(),
            oracle: oracle.clone(),
            api: api.clone(),
            node: NodeId::default(),
        };
        client.move_on();
        clients.push(async move {
            for step in &steps {
                if client.world.now_ns() >= ends_ns {
                    return;
                }
                client.take(step).await;
            }
        });
    }
    async move {
        let tasks: Vec<_> = clients.into_iter().map(tokio::spawn).collect();
        for task in tasks {
            // A client that panicked is found by the panic hook.
            let _ = task.await;
        }
    }
}
