//! aber-materializer: the tree and the directory.

pub mod mirror;
pub mod plan;
pub mod tree;
