//! What `cargo xtask` runs: steps, one after the other, until one fails.
//!
//! Two passes of the compiler over the workspace and no more: clippy (whose artifacts the documents
//! share) and test (whose binaries the simulation shares). Always the whole workspace: features are
//! unified over what is asked for, and asking for one package would build much of it again.

mod rustdoc;

use crate::tidy::{self, Tree, cargo};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Scenarios, numbers of nodes and seeds: 200 in all. Three nodes vote; of two one follows, of four
/// one, and of five two voters are let go.
const SEEDS: [(&str, &str, &str); 6] = [
    ("cluster", "3", "1..121"),
    ("cluster", "2", "1..11"),
    ("cluster", "4", "21..51"),
    ("cluster", "5", "1..21"),
    ("members", "3", "1..11"),
    ("join", "1", "1..21"),
];

/// Everything that must hold before a change lands.
///
/// # Errors
/// The first step that failed.
pub fn ci() -> Result<()> {
    let mut run = Run::new()?;
    run.cargo(&["fmt", "--all", "--check"])?;
    let lints = [
        "clippy",
        "--workspace",
        "--all-targets",
        "--quiet",
        "--",
        "-D",
        "warnings",
    ];
    run.cargo(&lints)?;
    run.step("tidy", check_tree)?;
    // All of it, so that one run shows every failure.
    run.cargo(&["test", "--workspace", "--no-fail-fast"])?;
    run.step("documents", rustdoc::check)?;
    run.cargo(&["build", "--workspace", "--bins", "--quiet"])?;
    run.simulate()?;
    run.deny()?;
    run.finish();
    Ok(())
}

/// Layers, files and documents.
///
/// # Errors
/// The number of problems, each of them printed.
pub fn tidy() -> Result<()> {
    check_tree(&tidy::root()?)
}

/// Rewrites what rustfmt and clippy can mend.
///
/// # Errors
/// A step failed.
pub fn fix() -> Result<()> {
    let mut run = Run::new()?;
    let mend = [
        "clippy",
        "--workspace",
        "--all-targets",
        "--fix",
        "--allow-dirty",
        "--quiet",
    ];
    run.cargo(&mend)?;
    run.cargo(&["fmt", "--all"])?;
    run.finish();
    Ok(())
}

fn check_tree(root: &Path) -> Result<()> {
    let problems = Tree::read(root)?.check();
    for problem in &problems {
        say(&problem.to_string());
    }
    match problems.len() {
        0 => Ok(()),
        1 => bail!("tidy: 1 problem"),
        count => bail!("tidy: {count} problems"),
    }
}

/// The steps so far and how long they took.
struct Run {
    root: PathBuf,
    took: Vec<(String, Duration)>,
}

impl Run {
    fn new() -> Result<Self> {
        let root = tidy::root()?;
        Ok(Self {
            root,
            took: Vec::new(),
        })
    }

    fn step(&mut self, name: &str, work: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        say(&format!("\n==> {name}"));
        let began = Instant::now();
        work(&self.root).with_context(|| format!("failed: {name}"))?;
        let took = began.elapsed();
        say(&format!("    {name}: {:.1} s", took.as_secs_f64()));
        self.took.push((name.to_owned(), took));
        Ok(())
    }

    fn cargo(&mut self, arguments: &[&str]) -> Result<()> {
        let name = format!("cargo {}", arguments.join(" "));
        self.step(&name, |root| {
            let mut command = Command::new(cargo());
            succeed(command.args(arguments).current_dir(root))
        })
    }

    fn simulate(&mut self) -> Result<()> {
        let simulate = target_directory(&self.root)?.join("debug/simulate");
        if !simulate.is_file() {
            bail!("{}: not built", simulate.display());
        }
        for (scenario, nodes, seeds) in SEEDS {
            let arguments = [
                "--scenario",
                scenario,
                "--nodes",
                nodes,
                "--seeds",
                seeds,
                "--fork",
            ];
            self.step(&format!("simulate {}", arguments.join(" ")), |root| {
                let mut command = Command::new(&simulate);
                succeed(command.args(arguments).current_dir(root))
            })?;
        }
        Ok(())
    }

    /// Licences, advisories and sources, where cargo-deny is installed.
    fn deny(&mut self) -> Result<()> {
        let asked = Command::new(cargo()).args(["deny", "--version"]).output();
        if !asked.is_ok_and(|asked| asked.status.success()) {
            say(
                "\n==> SKIPPED: cargo deny (not installed): licences and advisories are not checked",
            );
            return Ok(());
        }
        self.cargo(&["deny", "check"])
    }

    fn finish(&self) {
        let total: Duration = self.took.iter().map(|(_, took)| *took).sum();
        say("\nall well:");
        for (name, took) in &self.took {
            say(&format!("{:8.1} s  {name}", took.as_secs_f64()));
        }
        say(&format!("{:8.1} s  together", total.as_secs_f64()));
    }
}

/// Runs a command on our own standard output and error.
fn succeed(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command
        .status()
        .with_context(|| format!("{program} cannot be started"))?;
    if !status.success() {
        bail!("{program}: {status}");
    }
    Ok(())
}

fn target_directory(root: &Path) -> Result<PathBuf> {
    let arguments = [
        "metadata",
        "--format-version",
        "1",
        "--no-deps",
        "--offline",
    ];
    let metadata: Value = serde_json::from_str(&tidy::output(root, &cargo(), &arguments)?)?;
    let target = metadata.get("target_directory").and_then(Value::as_str);
    Ok(target
        .context("cargo metadata has no target_directory")?
        .into())
}

#[expect(clippy::print_stderr, reason = "the output of a command")]
fn say(line: &str) {
    eprintln!("{line}");
}
