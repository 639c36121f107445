//! aber-materializer: the tree and the directory.

pub mod effect;
pub mod mirror;
pub mod plan;
#[cfg(test)]
mod testing;
pub mod tree;
pub mod view;
