//! Going back: a moment as a directory beside git's checkout of the same history, a large rollback
//! planned and done beside a copy of the same files, the chain of all entries beside b3sum.

use super::Bench;
use super::cluster::Cluster;
use super::elsewhere::Elsewhere;
use super::row::{Divisor, Row, Values};
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Changes after the tree was put in, and how many of them are gone back.
const CHANGES: usize = 1000;
const BACK: usize = 100;
/// For one command.
const PATIENCE: Duration = Duration::from_secs(600);

/// Milliseconds that a command takes.
fn ms(command: &mut Command) -> Result<f64> {
    let began = Instant::now();
    super::process::run(command, PATIENCE)?;
    Ok(began.elapsed().as_secs_f64() * 1e3)
}

fn git(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("git");
    command
        .arg("-C")
        .arg(directory)
        .args(["-c", "user.name=a", "-c", "user.email=a@b"])
        .args(arguments);
    command
}

fn write_files(directory: &Path, count: usize) -> Result<()> {
    for number in 0..count {
        let path = directory.join(format!("d{:02}/f{number}", number % 50));
        std::fs::create_dir_all(path.parent().context("below")?)?;
        std::fs::write(path, format!("file {number} {}\n", "x".repeat(2000)))?;
    }
    Ok(())
}

/// The same thousand small changes, to aber and to git.
fn change(cluster: &Cluster, git_tree: &Path, scratch: &Path) -> Result<()> {
    for number in 0..CHANGES {
        let name = format!("d{:02}/f{}", number % 50, number % 50 + 50 * (number % 7));
        let text = format!("changed {number} {}\n", "y".repeat(2000));
        std::fs::write(git_tree.join(&name), &text)?;
        ms(&mut git(git_tree, &["commit", "-qam", "change"]))?;
        let source = scratch.join("one");
        std::fs::write(&source, &text)?;
        let node = cluster.first()?;
        let mut put = cluster.command(node);
        put.arg("put").arg(&source).arg(format!("/tree/{name}"));
        ms(&mut put)?;
    }
    Ok(())
}

/// The entry of so many changes ago: each was one entry of one partition.
fn moment(cluster: &Cluster) -> Result<String> {
    let list = cluster
        .command(cluster.first()?)
        .args(["--json", "log", "-n", &format!("{}", BACK + 1), "/tree"])
        .output()?;
    let list = String::from_utf8(list.stdout)?;
    let mut entries = list
        .lines()
        .filter(|line| line.contains("\"type\":\"entry\""));
    let last: serde_json::Value = serde_json::from_str(entries.next_back().context("an entry")?)?;
    let id = last.get("id").and_then(serde_json::Value::as_str);
    Ok(id.context("its id")?.to_owned())
}

#[derive(Default)]
struct Figures {
    moment: Values,
    checkout: Values,
    plan: Values,
    done: Values,
    copied: Values,
    moved: Values,
    chain: Chain,
}

fn aber(cluster: &Cluster, arguments: &[&str]) -> Result<f64> {
    let mut command = cluster.command(cluster.first()?);
    ms(command.args(arguments))
}

/// Milliseconds that the chain of a node's log takes, and the hash of the same bytes.
#[derive(Default)]
pub(super) struct Chain {
    checked: Values,
    hashed: Values,
}

impl Chain {
    /// One round.
    pub(super) fn take(&mut self, cluster: &Cluster) -> Result<()> {
        self.checked.push(aber(cluster, &["verify", "--chain"])?);
        let mut hash = Command::new("b3sum");
        hash.args(segments(cluster)?);
        // Not everybody has it: then the row has nothing to be divided by.
        if let Ok(took) = ms(&mut hash) {
            self.hashed.push(took);
        }
        Ok(())
    }

    pub(super) fn row(self, what: String) -> Row {
        let hashed = (!self.hashed.is_empty()).then_some(self.hashed);
        Row {
            what,
            unit: "ms",
            values: self.checked,
            vs: hashed.map(|values| Divisor {
                what: "b3sum of the segments".to_owned(),
                values,
                ..Divisor::default()
            }),
            nodes: Some(1),
            ..Row::default()
        }
    }
}

/// The files of a node's log.
fn segments(cluster: &Cluster) -> Result<Vec<PathBuf>> {
    let log = std::fs::read_dir(cluster.first()?.data.join("log"))?;
    let paths = log.map(|file| Ok(file?.path()));
    let mut paths = paths.collect::<Result<Vec<_>>>()?;
    paths.retain(|path| path.extension().is_some_and(|end| end == "seg"));
    Ok(paths)
}

/// Bytes that a node's log takes on the disk, without what is only reserved.
fn log_bytes(cluster: &Cluster) -> Result<u64> {
    let mut bytes = 0;
    for path in segments(cluster)? {
        let all = std::fs::read(&path)?;
        let used = all
            .iter()
            .rposition(|byte| *byte != 0)
            .map_or(0, |at| at + 1);
        bytes += used as u64;
    }
    Ok(bytes)
}

/// The moment as a directory, by git.
fn checkout(git_tree: &Path, into: &Path) -> Command {
    let commit = format!("HEAD~{BACK}");
    let mut command = git(git_tree, &["worktree", "add", "-q", "--detach"]);
    command.arg(into).arg(commit);
    command
}

fn take(
    own: &mut Figures,
    cluster: &Cluster,
    (git_tree, source, scratch): (&Path, &Path, &Path),
    (at, round): (&str, usize),
) -> Result<()> {
    let into = |what: &str| -> PathBuf { scratch.join(format!("{what}-{round}")) };
    let then = into("then");
    let directory = then.display().to_string();
    own.moment.push(aber(
        cluster,
        &["materialize", "--at", at, "--into", &directory, "/tree"],
    )?);
    own.checkout
        .push(ms(&mut checkout(git_tree, &into("checkout")))?);

    aber(cluster, &["rm", "-r", "/tree"])?;
    cluster.settle()?;
    own.plan.push(aber(
        cluster,
        &["rollback", "/tree", "--to", at, "--dry-run"],
    )?);
    let began = Instant::now();
    aber(
        cluster,
        &["rollback", "/tree", "--to", at, "--yes", "--all"],
    )?;
    cluster.settle()?;
    own.done.push(began.elapsed().as_secs_f64() * 1e3);
    let copy = into("copy");
    // The mirror's files are on the disk when it is settled.
    let copied = ms(Command::new("cp").arg("-a").arg(source).arg(&copy))?;
    let synced = ms(Command::new("sync").arg("-f").arg(&copy))?;
    own.copied.push(copied + synced);
    let moved = into("moved");
    own.moved
        .push(ms(Command::new("mv").arg(&copy).arg(&moved))?);
    own.chain.take(cluster)?;
    for made in [then, moved] {
        super::process::remove(&made);
    }
    Ok(())
}

pub(crate) fn measure(bench: &mut Bench) -> Result<()> {
    let files = if bench.scale.quick { 500 } else { 10_000 };
    let source = bench.directory("back-source")?.join("tree");
    write_files(&source, files)?;
    let git_tree = bench.directory("back-git")?;
    let copied = Command::new("cp")
        .args(["-a", &format!("{}/.", source.display())])
        .arg(&git_tree)
        .status()?;
    ensure!(copied.success(), "cp failed");
    ms(&mut git(&git_tree, &["init", "-q"]))?;
    ms(&mut git(&git_tree, &["add", "-A"]))?;
    ms(&mut git(&git_tree, &["commit", "-qm", "all"]))?;
    let cluster = Cluster::single(&bench.aber, &bench.directory("back")?)?;
    let mut put = cluster.command(cluster.first()?);
    ms(put.arg("put").arg("-r").arg(&source).arg("/"))?;
    let scratch = bench.directory("back-scratch")?;
    let before = log_bytes(&cluster)?;
    change(&cluster, &git_tree, &scratch)?;
    let mut each = Values::default();
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    each.push((log_bytes(&cluster)? - before) as f64 / CHANGES as f64);
    ms(&mut git(&git_tree, &["gc", "-q"]))?;
    let at = moment(&cluster)?;
    let then = scratch.join("as-it-was");
    ms(&mut checkout(&git_tree, &then))?;
    let mut elsewhere = Elsewhere::new(&scratch, &then, &git_tree);
    let mut own = Figures::default();
    for round in 0..bench.rounds(true) {
        let places = (git_tree.as_path(), source.as_path(), scratch.as_path());
        take(&mut own, &cluster, places, (&at, round))?;
        elsewhere.take(&scratch)?;
    }
    cluster.stop()?;
    own.report(bench, elsewhere, files);
    bench.add(Row {
        unit: "B",
        ..row("log on the disk of a put of 2 KB, alone", each, None)
    });
    bench.add(own.chain.row("verify --chain".to_owned()));
    Ok(())
}

fn row(what: impl Into<String>, values: Values, divisor: Option<(&str, Values)>) -> Row {
    Row {
        what: what.into(),
        unit: "ms",
        values,
        vs: divisor.map(|(what, values)| Divisor {
            what: what.to_owned(),
            values,
            ..Divisor::default()
        }),
        nodes: Some(1),
        ..Row::default()
    }
}

impl Figures {
    /// Adds a row for each, but for the chain.
    fn report(&self, bench: &mut Bench, elsewhere: Elsewhere, files: usize) {
        let tree = format!("{files} files");
        for (by, took) in [
            ("git worktree add", self.checkout.clone()),
            ("restic restore", elsewhere.restored),
            ("btrfs subvolume snapshot", elsewhere.snapped),
        ] {
            bench.add(row(
                format!("a moment {BACK} of {CHANGES} changes back as a directory, {tree}"),
                self.moment.clone(),
                (!took.is_empty()).then_some((by, took)),
            ));
        }
        let plan = format!("plan of a rollback, {tree}");
        bench.add(row(plan, self.plan.clone(), None));
        bench.add(row(
            format!("rollback of a removed tree until the mirror shows it, {tree}"),
            self.done.clone(),
            Some(("cp -a", self.copied.clone())),
        ));
        bench.add(row("mv of the tree", self.moved.clone(), None));
    }
}
