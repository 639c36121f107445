//! `bench [GOAL...]`: what the release binary does, beside what it is divided by, in one run.
#![expect(clippy::print_stderr, reason = "a command says what is wrong")]

use aber_tools::bench::{self, Options};
use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    match bench::run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
