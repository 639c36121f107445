//! The world behind four narrow traits: time and tasks, files, links, the index.
//!
//! Everything in log and materializer, and `Node::start` itself, is generic over [`Env`]. The real
//! one lives in `node/src/env/`, the hostile one in `tests/src/sim/`. A trait gives mechanisms,
//! never decisions. Paths are relative to a [`Disk`], which is a handle on a directory.
//!
//! In simulated code: `tokio::select!` only with `biased;`, ordered maps only, no threads, no
//! blocking but the disk's and the index's own calls, no `tokio::sync::watch`
//! (its wake order is random; use [`crate::watch`]).

pub mod disk;
pub mod kv;
pub mod network;
pub mod runtime;

pub use disk::{Disk, File};
pub use kv::Kv;
pub use network::{Link, Network};
pub use runtime::Runtime;

/// One node's world. Cheap to clone; all clones are the same world.
pub trait Env: Clone + Send + Sync + 'static {
    /// Clock, tasks, randomness.
    type Runtime: Runtime;
    /// A directory and what lies below it.
    type Disk: Disk;
    /// Links to other nodes.
    type Network: Network;
    /// The rebuildable index.
    type Kv: Kv;

    /// Clock, tasks, randomness.
    fn runtime(&self) -> &Self::Runtime;
    /// The node's own data directory.
    fn disk(&self) -> &Self::Disk;
    /// Opens a directory outside the data directory (a folder), made if missing.
    ///
    /// # Errors
    /// Whatever the disk says.
    fn open_folder(&self, path: &std::path::Path) -> std::io::Result<Self::Disk>;
    /// Links to other nodes.
    fn network(&self) -> &Self::Network;
    /// Opens the index, made if missing.
    ///
    /// # Errors
    /// [`kv::KvProblem`] if it does not open; [`Env::discard_index`] mends that.
    fn open_index(&self) -> Result<Self::Kv, kv::KvProblem>;
    /// Moves an index that is damaged aside, so that the next [`Env::open_index`] makes a new one.
    ///
    /// # Errors
    /// Whatever the disk says.
    fn discard_index(&self) -> std::io::Result<()>;
}
