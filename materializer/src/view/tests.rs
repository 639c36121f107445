//! The view against its rules, a naive model, and faults.

mod backfill;
mod faults;
pub(crate) mod fold;
mod guards;
mod history;
mod keep;
mod members;
mod membership;
pub(crate) mod model;
mod past;
mod prune;
mod reading;
mod revive;
mod rules;
mod volumes;
