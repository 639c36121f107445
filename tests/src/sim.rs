//! The simulated world: the hostile half of `aber_log::env`.
//!
//! [`World`] owns the generator, the trace, and every node's machine; [`SimEnv`] is what one boot
//! of one node sees of it. Start with `world`, then `disk_image`, `network`, `run`.
//! Invariants, one file each, belong below `invariant/`.

pub mod cluster;
pub mod disk;
pub mod disk_fault;
pub mod disk_image;
pub mod echo;
pub mod fault;
pub mod kv;
pub mod network;
pub mod network_state;
pub mod outsider;
pub mod panics;
pub mod random;
pub mod run;
pub mod runtime;
pub mod trace;
pub mod world;

#[cfg(test)]
mod tests;

pub use random::Random;
pub use runtime::{SimEnv, SimRuntime};
pub use world::{Crash, World};
