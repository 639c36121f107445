//! aber-node: the real world, the wiring, the API and the command line.
//!
//! Start with [`service`], what a node can be asked, [`reason`], what can go wrong, and [`node`],
//! how the parts are wired.

pub mod api;
mod audit_file;
pub mod cli;
pub mod client;
pub mod daemon;
mod demo;
mod doctor;
pub mod env;
mod lines;
mod materialize;
pub mod node;
pub mod reason;
pub mod schedule;
pub mod security;
pub mod service;
mod tree_digest;
mod zone;
