//! `cargo xtask ci | fix | tidy`: the checks of this repository.
#![expect(clippy::print_stderr, reason = "a command says what is wrong")]

use aber_tools::checks;
use anyhow::Result;
use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask COMMAND
  ci     everything that must hold: fmt, clippy, tidy, tests, docs, simulation; writes no source
  tidy   layers, files and documents alone
  fix    rustfmt and what clippy can mend by itself; the only one that writes";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome: Result<()> = match words.as_slice() {
        ["ci"] => checks::ci(),
        ["tidy"] => checks::tidy(),
        ["fix"] => checks::fix(),
        ["help" | "--help" | "-h"] => {
            eprintln!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
