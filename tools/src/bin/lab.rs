//! `lab up | exec | counters | link | block | down`: slow lines between hosts on one machine.
#![expect(clippy::print_stderr, reason = "a command says what is wrong")]

use aber_tools::lab::command::{self, Options};
use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    match command::run(Options::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}
