//! The view against its rules, a naive model, and faults.

mod faults;
pub(crate) mod fold;
mod guards;
pub(crate) mod model;
mod reading;
mod rules;
mod volumes;
