//! Who this node is, and who may become a member.

pub mod identity;
pub mod proof;
