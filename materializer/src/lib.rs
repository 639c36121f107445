//! aber-materializer: the tree and the directory.

pub mod audit;
pub mod compare;
pub mod effect;
pub mod judge;
pub mod members;
pub mod memory;
pub mod mirror;
pub mod plan;
pub mod replay;
pub mod revert;
pub mod snapshot;
pub mod snapshots;
#[cfg(test)]
mod testing;
pub mod tree;
pub mod view;
pub mod voters;
