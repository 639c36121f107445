//! [driver] What starts: the daemon, a cluster laid out beforehand.
//!
//! The command line calls these and knows nothing of how they work. A data directory holds, beside
//! what the node keeps there, `genesis` (what the cluster started from), `key` (who this node is)
//! and `member` (how it was told to run, whom it knows, and, unless it is a founder, its number).
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the daemon listens for real signals"
)]

mod addresses;
mod join;
mod links;
mod member;
mod pace;
mod row;
mod serve;
mod usable;

pub use join::{Inviter, JoinOptions, Joined, join};

use crate::api;
use crate::env::lock::{DataDirProblem, FORMAT_VERSION};
use crate::env::runtime::{SystemRuntime, install_panic_hook};
use crate::env::{SystemEnv, SystemOptions};
use crate::node::{Node, NodeConfig, NodeOptions, door};
use crate::reason::{Problem, Reason};
use crate::schedule::Schedule;
use crate::security::identity;
use aber_log::env::disk::{read_small, write_small};
use aber_log::env::{Disk, Env, Runtime};
use aber_materializer::mirror::MirrorOptions;
use aber_proto::member::is_member_name;
use aber_proto::{Genesis, Member, NodeId, Role, SecretKey, codec};
use member::{MemberFile, Told};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The port that nodes listen on for other nodes unless told otherwise.
pub const LINK_PORT: u16 = 7787;

/// Partitions of a new cluster: the control partition and three for data.
const PARTITIONS: u32 = 4;
/// Written once the node's log exists: from then on a log that is missing was lost.
const STARTED_FILE: &str = "started";
const GENESIS_FILE: &str = "genesis";
const GENESIS_BYTES: usize = 4 * 1024 * 1024;

/// What `aber up` was told.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct UpOptions {
    /// The data directory; made, with a cluster of one, if there is nothing.
    pub data: PathBuf,
    /// Where links listen. `None`: as the last time, else [`LINK_PORT`] at every address of the
    /// machine, else any free port. Port 0: any free one.
    pub listen: Option<SocketAddr>,
    /// Where others are told to look for it, as `host:port`. `None`: as the last time, else where
    /// it listens, at the machine's own addresses.
    pub addresses: Option<Vec<String>>,
    /// Whether links go without TLS, for networks that encrypt by themselves. All nodes of a
    /// cluster must be told the same. `None`: as the last time, else with TLS.
    pub plaintext: Option<bool>,
    /// Where the API is open to members, over TCP. `None`: as the last time, else nowhere.
    pub api: Option<ApiWish>,
    /// What its line carries away from it, in bits a second; 0: not declared. `None`: as its row
    /// has it.
    pub up: Option<u64>,
    /// What part of its line is used when. `None`: as the last time, else what is usual.
    pub schedule: Option<Schedule>,
    /// The mirror directory. `None`: as the last time, else `mirror` in the data directory.
    pub mirror: Option<PathBuf>,
    /// The node's name, for a new cluster. `None`: the host's name.
    pub name: Option<String>,
    /// Entries between two snapshots. `None`: as a node has it.
    pub snapshot_every: Option<u64>,
    /// Entries between two views that nodes compare. `None`: as a node has it.
    pub digest_every: Option<u64>,
    /// Bytes of a segment of the log. `None`: as a node has it.
    pub segment_bytes: Option<u64>,
    /// Bytes of a pack of chunks. `None`: as a node has it.
    pub pack_bytes: Option<u32>,
    /// For how long content that nothing needs stays. `None`: as a node has it.
    pub grace: Option<Duration>,
}

/// Whether the API is open over TCP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ApiWish {
    /// Only its socket.
    Off,
    /// At this address too; port 0: any free one.
    At(SocketAddr),
}

/// A daemon that answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Started {
    /// The cluster's name.
    pub cluster: String,
    /// This node's name.
    pub node: String,
    /// Whether the cluster was made by this start.
    pub is_new: bool,
    /// The socket of the API.
    pub socket: PathBuf,
    /// Where other nodes reach it.
    pub listen: SocketAddr,
    /// Where the API is over TCP, as `PIN@HOST:PORT`, if it is.
    pub api: Option<String>,
    /// The mirror directory.
    pub mirror: PathBuf,
}

fn data_problem(problem: &DataDirProblem) -> Problem {
    let (reason, path) = match problem {
        DataDirProblem::InUse { path, .. } => (Reason::DataDirInUse, path),
        DataDirProblem::NewerFormat { path, .. } => (Reason::VersionTooOld, path),
        DataDirProblem::OtherCluster { path, .. } => (Reason::OtherCluster, path),
        DataDirProblem::NotADirectory { path }
        | DataDirProblem::Damaged { path, .. }
        | DataDirProblem::Io { path, .. } => (Reason::DataDirUnusable, path),
    };
    let detailed = Problem::new(reason)
        .with("dir", path.display())
        .with("detail", problem);
    match problem {
        DataDirProblem::InUse { pid: Some(pid), .. } => detailed.with("pid", pid),
        DataDirProblem::NewerFormat { path, found } => detailed
            .with("what", path.display())
            .with("found", found)
            .with("supported", FORMAT_VERSION),
        DataDirProblem::OtherCluster {
            path,
            found,
            wanted,
        } => detailed
            .with("what", path.display())
            .with("found", found)
            .with("wanted", wanted),
        _ => detailed,
    }
}

fn unusable(path: &Path, detail: impl std::fmt::Display) -> Problem {
    Problem::new(Reason::DataDirUnusable)
        .with("dir", path.display())
        .with("detail", detail)
}

/// Runs a node until SIGTERM, Ctrl-C or the Stop call; `started` is called once it answers.
///
/// # Errors
/// It could not start, or it stopped for a reason of its own.
pub async fn up(
    options: UpOptions,
    started: impl FnOnce(&Started) + Send + 'static,
) -> Result<(), Problem> {
    install_panic_hook();
    let runtime = SystemRuntime::new();
    let life = Arc::clone(runtime.life());
    // Raft's handles are used inside the node's life alone.
    life.spawn(run(options, runtime, started))
        .await
        .map_err(Problem::internal)?
}

async fn run(
    options: UpOptions,
    runtime: SystemRuntime,
    started: impl FnOnce(&Started) + Send,
) -> Result<(), Problem> {
    let env = SystemEnv::open(SystemOptions {
        data: options.data.clone(),
        runtime,
    });
    let env = env.map_err(|problem| data_problem(&problem))?;
    let data = env.data().path().to_path_buf();
    let key = identity::load_or_create(&env)
        .await
        .map_err(|problem| unusable(&data, problem))?;
    let key = Arc::new(key);
    let (genesis, is_new) = load_or_found(&env, &options, &key).await?;
    let cluster = genesis.cluster_id();
    env.data()
        .claim_for(cluster)
        .map_err(|problem| data_problem(&problem))?;
    let mut file = member_of(&env, &genesis, &key)?;
    file.told = told(&options, &file.told, &data);
    let founder = genesis.member(file.node);
    links::introduce(env.network(), &file, &genesis, &key);
    let listen = links::listen(env.network(), &file.told, founder, options.listen.is_some());
    let listen = listen.await?;
    file.told.listen = Some(listen);
    let is_asked_for = options.api.is_some();
    let (port, place) = serve::open(env.network(), &mut file.told, is_asked_for, &file.key)?;
    let mirror = file.told.mirror.clone();
    let mirror = mirror.unwrap_or_else(|| data.join("mirror"));
    let mut node_options = NodeOptions::system(&genesis, &file.name, mirror.clone(), &options);
    node_options.name.clone_from(&file.name);
    node_options.addresses = links::reached_at(listen, &file.told.addresses);
    node_options.api.clone_from(&place);
    let config = NodeConfig {
        me: file.node,
        key,
        contacts: file.contacts.clone(),
        options: node_options,
        genesis,
    };
    let cluster_name = config.genesis.name.clone();
    check_log_is_there(&env)?;
    let node = Node::start(config, env.clone()).await?;
    let written = write_small(
        env.disk(),
        Path::new(STARTED_FILE),
        b"this node has a log\n",
    );
    written.await.map_err(|error| unusable(&data, error))?;
    member::save(&env, &file).await?;
    env.network().set_doorkeeper(door::door(&node));
    row::announce(&env, &node, options.up);
    pace::keep(&env, &node, file.told.schedule.clone());
    row::keep_usable(&env, &node);
    let listener = api::Listener::bind(&data).await?;
    let up = Started {
        cluster: cluster_name,
        node: node.name_of(file.node),
        is_new,
        socket: listener.path().to_path_buf(),
        listen,
        api: place.and_then(Result::ok),
        mirror,
    };
    member::keep(&env, &node, file);
    serve::serve(&env, &node, listener, port, move || started(&up)).await;
    node.stop().await;
    Ok(())
}

/// Which member this node is: a founder by its key, else who the file says.
fn member_of(env: &SystemEnv, genesis: &Genesis, key: &SecretKey) -> Result<MemberFile, Problem> {
    let file = member::load(env)?;
    let public = key.public();
    let founder = genesis.members.iter().find(|member| member.key == public);
    match (file, founder) {
        (Some(file), _) if file.key != public => {
            let why = "its files `member` and `key` are those of different nodes";
            Err(unusable(env.data().path(), why))
        }
        (Some(file), _) => Ok(file),
        (None, Some(founder)) => Ok(MemberFile {
            node: founder.node,
            name: founder.name.clone(),
            key: public,
            told: Told::default(),
            contacts: Vec::new(),
        }),
        (None, None) => {
            let why = "it was not let in to its cluster yet: run aber join with the same ticket \
                       again, and it goes on where it stopped";
            Err(unusable(env.data().path(), why))
        }
    }
}

/// What holds: what is said now, else what was said before.
fn told(now: &UpOptions, before: &Told, data: &Path) -> Told {
    let mirror = now.mirror.clone().or_else(|| before.mirror.clone());
    Told {
        listen: now.listen.or(before.listen),
        addresses: now
            .addresses
            .clone()
            .unwrap_or_else(|| before.addresses.clone()),
        plaintext: now.plaintext.unwrap_or(before.plaintext),
        api: match now.api {
            None => before.api,
            Some(ApiWish::Off) => None,
            Some(ApiWish::At(address)) => Some(address),
        },
        schedule: now
            .schedule
            .clone()
            .unwrap_or_else(|| before.schedule.clone()),
        // The usual place moves with the data directory.
        mirror: mirror.filter(|mirror| *mirror != data.join("mirror")),
    }
}

/// A voter that forgot its log would vote again, and acknowledged entries could be lost (promise
/// D5): a node whose log was there and is gone does not start.
fn check_log_is_there(env: &SystemEnv) -> Result<(), Problem> {
    let was_there = env.disk().stat(Path::new(STARTED_FILE)).is_ok();
    let segments = env.disk().list(Path::new("log")).unwrap_or_default();
    if !was_there || !segments.is_empty() {
        return Ok(());
    }
    let what = "the log directory is empty, and this node had a log before";
    Err(Problem::new(Reason::LogDamaged).with("detail", what))
}

/// The genesis that is there, or that of a new cluster of one.
async fn load_or_found(
    env: &SystemEnv,
    options: &UpOptions,
    key: &SecretKey,
) -> Result<(Genesis, bool), Problem> {
    if let Some(genesis) = found_genesis(env)? {
        return Ok((genesis, false));
    }
    if env.data().is_claimed() {
        // A new cluster here would cut the node off from its own log.
        let why = "its genesis file is missing; every member of the cluster has the same";
        return Err(unusable(env.data().path(), why));
    }
    let name = options.name.clone().unwrap_or_else(host_name);
    let member = Member {
        node: NodeId(1),
        name: name.clone(),
        key: key.public(),
        role: Role::Admin,
        address: String::new(),
    };
    let genesis = genesis_of(name, vec![member], env.runtime().wall_clock());
    genesis
        .check()
        .map_err(|problem| Problem::usage(problem.to_string()))?;
    write_genesis(env, &genesis).await?;
    Ok((genesis, true))
}

fn found_genesis(env: &SystemEnv) -> Result<Option<Genesis>, Problem> {
    let data = env.data().path();
    match read_small(env.disk(), Path::new(GENESIS_FILE), GENESIS_BYTES) {
        Ok(bytes) => {
            let genesis = codec::decode_genesis(&bytes);
            Ok(Some(genesis.map_err(|problem| unusable(data, problem))?))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unusable(data, error)),
    }
}

/// A genesis of these members: the first one votes, or the first three, or, from twenty on, five.
fn genesis_of(name: String, members: Vec<Member>, created: aber_proto::Timestamp) -> Genesis {
    let voters = match members.len() {
        0..=2 => 1,
        3..=19 => 3,
        _ => 5,
    };
    Genesis {
        name,
        created,
        voters: members
            .iter()
            .take(voters)
            .map(|member| member.node)
            .collect(),
        partitions: PARTITIONS,
        min_copies: if members.len() > 1 { 2 } else { 1 },
        members,
    }
}

async fn write_genesis(env: &SystemEnv, genesis: &Genesis) -> Result<(), Problem> {
    let bytes = codec::encode_genesis(genesis);
    let written = write_small(env.disk(), Path::new(GENESIS_FILE), &bytes).await;
    written.map_err(|error| unusable(env.data().path(), error))
}

/// The host's name as a member name.
fn host_name() -> String {
    let host = rustix::system::uname();
    let host = host.nodename().to_string_lossy().to_lowercase();
    let name: String = host
        .chars()
        .take_while(|c| *c != '.')
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .take(32)
        .collect();
    if is_member_name(&name) {
        name
    } else {
        "node".to_owned()
    }
}

impl NodeOptions {
    /// The options of a daemon on this machine.
    fn system(genesis: &Genesis, me: &str, mirror: PathBuf, told: &UpOptions) -> Self {
        let marker = format!("cluster {}\nnode {me}\n", genesis.cluster_id());
        let options = MirrorOptions {
            marker,
            ..MirrorOptions::default()
        };
        let mut all = Self {
            mirror: Some((mirror, options)),
            ..Self::default()
        };
        if let Some(entries) = told.snapshot_every {
            all.snapshot_every = entries.max(1);
        }
        if let Some(entries) = told.digest_every {
            all.digest_every = entries.max(1);
        }
        if let Some(bytes) = told.segment_bytes {
            all.segment.segment_bytes = bytes;
        }
        all.store.pack_bytes = told.pack_bytes.unwrap_or(all.store.pack_bytes);
        all.sweep.grace = told.grace.unwrap_or(all.sweep.grace);
        all
    }
}

/// Lays out the data directories of a new cluster: a genesis that lists all members, and each
/// one's key. Directories that are laid out like this already are left as they are.
///
/// # Errors
/// A directory cannot be written, or belongs to something else.
pub async fn prepare_cluster(
    directories: &[PathBuf],
    names: &[String],
    addresses: &[SocketAddr],
) -> Result<(), Problem> {
    let mut found = Vec::new();
    let mut envs = Vec::with_capacity(directories.len());
    let mut members = Vec::with_capacity(directories.len());
    let rows = directories.iter().zip(names).zip(addresses).zip(1..);
    for (((data, name), address), number) in rows {
        let runtime = SystemRuntime::new();
        let env = SystemEnv::open(SystemOptions {
            data: data.clone(),
            runtime,
        });
        let env = env.map_err(|problem| data_problem(&problem))?;
        if let Some(genesis) = found_genesis(&env)? {
            found.push(genesis);
        }
        let key = identity::load_or_create(&env)
            .await
            .map_err(|problem| unusable(data, problem))?;
        members.push(Member {
            node: NodeId(number),
            name: name.clone(),
            key: key.public(),
            role: Role::Admin,
            address: address.to_string(),
        });
        envs.push(env);
    }
    if let Some(first) = found.first() {
        let is_ours = found.len() == members.len()
            && found.iter().all(|genesis| genesis == first)
            && first.members == members;
        let other = directories.first().cloned().unwrap_or_default();
        let why = "it was laid out otherwise: other names, addresses or members";
        return if is_ours {
            Ok(())
        } else {
            Err(unusable(&other, why))
        };
    }
    let created = envs
        .first()
        .map(|env| env.runtime().wall_clock())
        .unwrap_or_default();
    let genesis = genesis_of("demo".to_owned(), members, created);
    genesis
        .check()
        .map_err(|problem| Problem::usage(problem.to_string()))?;
    for env in &envs {
        write_genesis(env, &genesis).await?;
    }
    Ok(())
}

pub use crate::materialize::{MaterializeOptions, Materialized, materialize};
