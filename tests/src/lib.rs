//! aber-tests: the simulated world, the promises it checks, and how to run a seed.
//!
//! A seed is one whole run: [`sim::run`] expands it into a printed configuration, starts N nodes on
//! a paused clock in one thread, hurts them, heals them, and asks the [`oracle`] whether every
//! promise held. The same seed gives the same trace, byte for byte, in the same process and in
//! another.
//!
//! `simulate --seed N` runs one; a failure prints the command that repeats it, its trace hash and
//! the last lines of the trace. `--trace FILE` keeps all of it: two traces are compared with `cmp`.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the simulated world stands on tokio's paused clock and tasks, which it hides"
)]

pub mod oracle;
pub mod process;
pub mod scenario;
pub mod sim;
pub mod workload;
