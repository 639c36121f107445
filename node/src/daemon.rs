//! [driver] What starts: the daemon, a materializer of its own, a cluster laid out beforehand.
//!
//! The command line calls these and knows nothing of how they work.

use crate::client::Client;
use crate::reason::{Problem, Reason};
use std::net::SocketAddr;
use std::path::PathBuf;

/// The port that nodes listen on for other nodes unless told otherwise.
pub const LINK_PORT: u16 = 7787;

/// What `aber up` was told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UpOptions {
    /// The data directory; made, with a cluster of one, if there is nothing.
    pub data: PathBuf,
    /// Where other nodes reach this one. `None`: as configured, else [`LINK_PORT`] on loopback,
    /// else any free port. Port 0: any free one.
    pub listen: Option<SocketAddr>,
    /// The mirror directory. `None`: as configured, else `mirror` in the data directory.
    pub mirror: Option<PathBuf>,
    /// The node's name, for a new cluster. `None`: the host's name.
    pub name: Option<String>,
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
    /// The mirror directory.
    pub mirror: PathBuf,
}

/// Runs a node until SIGTERM, Ctrl-C or the Stop call; `started` is called once it answers.
///
/// # Errors
/// It could not start, or it stopped for a reason of its own.
pub async fn up(options: UpOptions, started: impl FnOnce(&Started) + Send) -> Result<(), Problem> {
    let _ = (options, started);
    Err(Problem::new(Reason::Internal).with("detail", "the daemon is not built in"))
}

/// Lays out the data directories of a new cluster: a genesis that lists all members, and each
/// one's key and configuration. Nothing is done to a directory that already belongs to it.
///
/// # Errors
/// A directory cannot be written, or belongs to something else.
pub fn prepare_cluster(
    directories: &[PathBuf],
    names: &[String],
    addresses: &[SocketAddr],
) -> Result<(), Problem> {
    let _ = (directories, names, addresses);
    Err(Problem::new(Reason::Internal).with("detail", "the daemon is not built in"))
}

/// What `aber materialize` was told.
#[derive(Clone, Debug)]
pub struct MaterializeOptions {
    /// The node to follow; it is the reader and the chunk store.
    pub from: Client,
    /// The directory that becomes a mirror.
    pub into: PathBuf,
    /// Stop once everything committed at the start is shown.
    pub once: bool,
}

/// What a materializer has shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Materialized {
    /// Entries folded.
    pub entries: u64,
    /// Files in the directory.
    pub files: u64,
}

/// Replays a node's log into a directory; for ever, or until it has caught up.
///
/// # Errors
/// The directory cannot be written, the node cannot be followed, or what it sent does not verify.
pub async fn materialize(options: MaterializeOptions) -> Result<Materialized, Problem> {
    let _ = options;
    Err(Problem::new(Reason::Internal).with("detail", "the materializer is not built in"))
}
