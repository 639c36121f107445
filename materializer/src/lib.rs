//! aber-materializer: the tree and the directory.

pub mod effect;
#[cfg(test)]
mod testing;
pub mod tree;
pub mod view;
