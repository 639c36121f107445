//! aber-node: the real world, the wiring, the API and the command line.

pub mod reason;
pub mod service;
