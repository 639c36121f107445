//! [adapter] The real world: tokio, rustix, notify, sled and gRPC behind the traits of
//! [`aber_log::env`].
//!
//! Only this module and its children touch the clock, files, sockets and threads; everything else
//! asks [`SystemEnv`]. Opening it locks the data directory, so that two daemons never share one.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "these modules are where the world is touched"
)]

pub mod disk;
pub mod kv;
pub mod lock;
pub mod network;
pub mod runtime;
pub mod watch;
pub(crate) mod zone;

use aber_log::env::Env;
use aber_log::env::kv::KvProblem;
use disk::SystemDisk;
use kv::SledKv;
use lock::{DataDir, DataDirProblem};
use network::SystemNetwork;
use runtime::SystemRuntime;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How to open the world.
#[derive(Clone)]
pub struct SystemOptions {
    /// The node's data directory; made (0700) if missing.
    pub data: PathBuf,
    /// Clock and tasks: the one whose [`SystemRuntime::block_on_root`] runs the node.
    pub runtime: SystemRuntime,
}

/// The real environment of one node. Clones are the same world; the data directory stays locked
/// until the last one is gone.
#[derive(Clone)]
pub struct SystemEnv {
    runtime: SystemRuntime,
    disk: SystemDisk,
    network: SystemNetwork,
    data: Arc<DataDir>,
}

impl SystemEnv {
    /// Locks and opens the data directory. The network is silent until
    /// [`SystemNetwork::listen`].
    ///
    /// # Errors
    /// The directory is in use, no data directory, of a newer format, or the disk fails.
    pub fn open(options: SystemOptions) -> Result<Self, DataDirProblem> {
        let data = Arc::new(DataDir::open(&options.data)?);
        let disk = SystemDisk::open(data.path()).map_err(|source| DataDirProblem::Io {
            path: data.path().to_path_buf(),
            source,
        })?;
        Ok(Self {
            runtime: options.runtime,
            disk,
            network: SystemNetwork::new(),
            data,
        })
    }

    /// The locked data directory.
    #[must_use]
    pub fn data(&self) -> &DataDir {
        &self.data
    }
}

impl Env for SystemEnv {
    type Runtime = SystemRuntime;
    type Disk = SystemDisk;
    type Network = SystemNetwork;
    type Kv = SledKv;

    fn runtime(&self) -> &SystemRuntime {
        &self.runtime
    }

    fn disk(&self) -> &SystemDisk {
        &self.disk
    }

    fn open_folder(&self, path: &Path) -> io::Result<SystemDisk> {
        SystemDisk::open_folder(path)
    }

    fn network(&self) -> &SystemNetwork {
        &self.network
    }

    fn open_index(&self) -> Result<SledKv, KvProblem> {
        SledKv::open(&self.data.path().join(kv::INDEX_DIR))
    }

    fn discard_index(&self) -> io::Result<()> {
        kv::discard(self.data.path())
    }
}

#[cfg(test)]
mod tests;
