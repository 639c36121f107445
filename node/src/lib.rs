//! aber-node: the real world, the wiring, the API and the command line.
//!
//! Start with [`service`], what a node can be asked, and [`reason`], what can go wrong.

pub mod api;
pub mod cli;
pub mod client;
pub mod daemon;
mod demo;
pub mod reason;
pub mod service;
