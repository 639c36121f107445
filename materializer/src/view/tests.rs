//! The view against its rules, a naive model, and faults.

mod faults;
mod fold;
mod model;
mod reading;
mod rules;
mod volumes;
