//! aber-tools: what the repository is checked and measured with. Nothing depends on it.
//!
//! `xtask` runs the checks (`cargo xtask ci | fix | tidy`); `bench` measures the release binary
//! against what the disk, the processor and other programs can do; `lab` makes slow lines between
//! hosts on one machine. The product needs none of them, and the ban on clocks, files and processes
//! is lifted here.
#![expect(
    clippy::disallowed_methods,
    reason = "tools look at the real machine: no simulation ever runs them"
)]

#[cfg(feature = "measure")]
pub mod bench;
pub mod checks;
#[cfg(feature = "measure")]
pub mod lab;
pub mod tidy;
