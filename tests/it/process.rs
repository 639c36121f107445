//! Real nodes, real disks, real signals.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    reason = "these are tests of real processes: they wait in real time"
)]

mod api;
mod away;
mod back;
mod damage;
mod demo;
mod directories;
mod golden;
mod history;
mod join;
mod keep;
mod kill;
mod lab;
mod look;
mod members;
mod midway;
mod seen;
mod space;
mod views;
mod words;

/// The program under test.
pub(crate) const ABER: &str = env!("CARGO_BIN_EXE_aber-process");
