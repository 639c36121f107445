//! aber-materializer: the tree and the directory.

pub mod tree;
