//! aber-node: the real world, the wiring, the API and the command line.

pub mod env;
pub mod node;
pub mod reason;
pub mod security;
pub mod service;
