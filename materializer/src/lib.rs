//! aber-materializer: the tree and the directory.

pub mod effect;
pub mod snapshot;
#[cfg(test)]
mod testing;
pub mod tree;
pub mod view;
