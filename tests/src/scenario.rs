//! Scenarios: what is run on a seed, by name.

mod cluster;
mod echo;

use crate::sim::run::{Report, RunOptions};

/// A scenario: one run of a seed.
pub type Scenario = fn(&RunOptions) -> Report;

/// All scenarios with their names.
pub const SCENARIOS: &[(&str, Scenario)] = &[
    ("echo", echo::run),
    ("cluster", cluster::run),
    ("single", cluster::run_single),
    ("members", cluster::run_members),
    ("join", cluster::run_join),
    ("chain", cluster::run_chain),
];

/// A scenario by name.
#[must_use]
pub fn find(name: &str) -> Option<Scenario> {
    let found = SCENARIOS.iter().find(|(known, _)| *known == name);
    found.map(|(_, scenario)| *scenario)
}
