//! Who this node is.

pub mod identity;
