//! What only separate processes show.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::too_many_lines,
    clippy::cast_possible_truncation,
    reason = "tests look after real processes and files; long tables are read from top to bottom"
)]

mod cluster;
mod groups;
mod process;

use std::process::{Command, Output};

fn simulate(arguments: &[&str], is_nice: bool) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_simulate"));
    if is_nice {
        command.env("SOMETHING_ELSE", "1".repeat(5000));
    }
    command
        .args(arguments)
        .output()
        .expect("the binary was built for this test")
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_seed_repeats_in_another_process() {
    let arguments = ["--seeds", "0..5", "--nodes", "4"];
    let (first, again) = (simulate(&arguments, false), simulate(&arguments, true));
    assert!(first.status.success(), "{}", text(&first));
    assert_eq!(text(&first), text(&again));
    let forked = simulate(&[&arguments[..], &["--fork"]].concat(), false);
    let sorted = |output: &Output| {
        let mut lines: Vec<String> = text(output).lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(&first), sorted(&forked));
}

#[test]
fn a_failure_prints_the_command_that_repeats_it() {
    let failed = simulate(&["--seeds", "0..20", "--planted", "no-fsync"], false);
    assert_eq!(failed.status.code(), Some(1));
    let said = text(&failed);
    let command = said
        .lines()
        .find_map(|line| line.trim().strip_prefix("repeat: "));
    let arguments = command
        .and_then(|command| command.split_once(" -- "))
        .map(|parts| parts.1);
    let arguments: Vec<&str> = arguments.expect("a command").split(' ').collect();
    let again = simulate(&arguments, false);
    assert_eq!(again.status.code(), Some(1));
    let line = |text: &str| {
        text.lines()
            .find(|line| line.ends_with("FAILED"))
            .map(str::to_owned)
    };
    assert_eq!(line(&text(&again)), line(&said));
}

#[test]
fn a_trace_file_holds_the_whole_trace() {
    let directory = tempfile::tempdir().expect("a directory for the trace");
    let path = directory.path().join("trace");
    let path = path.to_str().expect("a plain path");
    let output = simulate(&["--seed", "3", "--trace", path], false);
    let trace = std::fs::read(path).expect("the trace");
    let hash: String = blake3::hash(&trace).to_hex().chars().take(16).collect();
    let lines = trace.split(|byte| *byte == b'\n').count() - 1;
    assert!(text(&output).contains(&format!("hash {hash} lines {lines} ")));
}
