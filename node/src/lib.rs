//! aber-node: the world, and the node wired into it.

pub mod env;
pub mod security;
