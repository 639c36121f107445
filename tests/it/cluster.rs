//! Whole nodes in the simulated world: seeds that pass, a seed twice, bugs that are found.

use super::{simulate, text};

/// Seeds that found bugs, and a few that never did, with the number of nodes.
const SEEDS: [(u64, &str); 14] = [
    (1, "3"),
    (3, "3"),
    (6, "3"),
    (8, "3"),
    (12, "3"),
    (24, "3"),
    (29, "3"),
    (39, "3"),
    (49, "3"),
    (51, "3"),
    (24, "2"),
    (41, "4"),
    (1, "5"),
    (3, "5"),
];

/// Bugs, and the seeds from which on one finds them.
const PLANTED: [(&str, u64); 8] = [
    ("log-unsynced", 1),
    ("content-unsynced", 1),
    ("dropped-at-proposal", 1),
    ("read-uncommitted", 1),
    ("name-before-content", 1),
    ("stranger-overwritten", 16),
    ("requests-forgotten", 1),
    ("order-ignored", 1),
];

/// Most seeds it may take to find a planted bug.
const SEEDS_TO_FIND: u64 = 20;

fn run_cluster(seeds: std::ops::Range<u64>, more: &[&str]) -> std::process::Output {
    let seeds = format!("{}..{}", seeds.start, seeds.end);
    let all = ["--scenario", "cluster", "--seeds", &seeds];
    simulate(&[&all[..], more].concat(), false)
}

/// D1, D3, D6, A5, C1, C7, M1, M2, M3, M4, I2.
#[test]
fn seeds_that_found_bugs_pass() {
    for (seed, nodes) in SEEDS {
        let output = run_cluster(seed..seed + 1, &["--nodes", nodes]);
        assert!(output.status.success(), "{}", text(&output));
    }
}

/// A node alone keeps all promises that need no other node.
#[test]
fn a_node_alone_passes() {
    let output = simulate(&["--scenario", "single", "--seeds", "1..6"], false);
    assert!(output.status.success(), "{}", text(&output));
}

/// S2, S5: members come and go under all faults, and every node judges as the oracle does.
#[test]
fn members_come_and_go() {
    let seeds = ["--scenario", "members", "--seeds", "3..7", "--twice"];
    let output = simulate(&seeds, false);
    assert!(output.status.success(), "{}", text(&output));
}

/// A7, A5, S4: a node alone takes others in, one after the other; they follow it, three come to vote,
/// and all write. Of seed 7 the change of voters reaches nobody before its leader dies.
#[test]
fn nodes_join_one_that_was_alone() {
    let output = simulate(&["--scenario", "join", "--seeds", "7..11"], false);
    assert!(output.status.success(), "{}", text(&output));
}

/// T11, T13, A5: nodes in a row, each of which reaches the next ones only: all read and write, and
/// entries go through nodes that do not vote, which crash, too.
#[test]
fn along_a_chain_everybody_reads_and_writes() {
    // Of seven, five vote at first: those in the middle lost their votes, and came back to the group
    // whenever a candidate beyond them asked, before they could tell it that it had lost its own.
    for (nodes, seeds) in [("4", "1..6"), ("7", "4..5")] {
        let seeds = ["--scenario", "chain", "--nodes", nodes, "--seeds", seeds];
        let output = simulate(&seeds, false);
        assert!(output.status.success(), "{}", text(&output));
    }
}

#[test]
fn a_seed_of_whole_nodes_repeats_in_this_and_another_process() {
    let twice = run_cluster(3..4, &["--twice"]);
    assert!(twice.status.success(), "{}", text(&twice));
    let again = simulate(&["--scenario", "cluster", "--seed", "3"], true);
    assert_eq!(text(&twice), text(&again));
}

#[test]
fn planted_bugs_are_found() {
    for (bug, first) in PLANTED {
        let seeds = first..first + SEEDS_TO_FIND;
        let output = run_cluster(seeds, &["--planted", bug, "--until-failure"]);
        let said = text(&output);
        assert_eq!(output.status.code(), Some(1), "{bug} is not found: {said}");
        let failed = said.lines().find(|line| line.ends_with(" FAILED"));
        let seed = failed.and_then(|line| line.split(' ').nth(1)?.parse().ok());
        let seed: u64 = seed.expect("the line of the seed that failed");
        let without = run_cluster(seed..seed + 1, &[]);
        assert!(without.status.success(), "{}", text(&without));
    }
}

/// What is released has no bugs to plant: its feature is off unless the simulation asks for it.
#[test]
fn a_release_has_no_planted_bugs() {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let workspace = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut command = std::process::Command::new(cargo);
    command.current_dir(workspace);
    command.args([
        "tree",
        "--offline",
        "--package",
        "aber-node",
        "--edges",
        "features",
    ]);
    command.args(["--invert", "aber-log"]);
    let output = command.output().expect("cargo runs");
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("aber-node"), "{said}");
    assert!(!said.contains("planted"), "{said}");
}
