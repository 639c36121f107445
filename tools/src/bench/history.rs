//! What happened to one path, among all that happened: log and blame of a file that was written 50
//! times, beside git's of the same history.

use super::Bench;
use super::api::{Api, End, load, runtime};
use super::back::Chain;
use super::cluster::Cluster;
use super::row::{Divisor, Row, Values};
use aber_proto::generated::v1;
use anyhow::{Context, Result, ensure};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

/// How often the file was written.
const VERSIONS: u64 = 50;
/// Other files, by turns.
const FILES: u64 = 1000;
/// Events of a change where there are a million: as many as a tool writes that saves a folder.
const EACH_FULL: u64 = 16;
const _: () = assert!(EACH_FULL < FILES, "no change writes a file twice");
const PATH: &str = "rare";

/// Path and content of one write: every so many it is that of the file that is asked about, which
/// grows by a line each time.
fn write(number: u64, count: u64) -> (String, String) {
    let every = (count / VERSIONS).max(1);
    if number % every == every / 2 {
        let lines = (0..=number / every).fold(String::new(), |mut text, line| {
            let _ = writeln!(text, "line {line}");
            text
        });
        return (PATH.to_owned(), lines);
    }
    let file = number % FILES;
    (
        format!("d{:02}/f{file:03}", file % 32),
        format!("{number}\n"),
    )
}

/// The same writes as commits of git, so many each.
fn git_history(directory: &Path, (count, each): (u64, u64)) -> Result<()> {
    let made = Command::new("git")
        .arg("init")
        .arg("-q")
        .arg(directory)
        .status()?;
    ensure!(made.success(), "git init failed");
    let mut import = Command::new("git");
    import
        .arg("-C")
        .arg(directory)
        .args(["fast-import", "--quiet"]);
    let mut child = import.stdin(Stdio::piped()).spawn()?;
    {
        let stdin = child.stdin.take().context("a pipe")?;
        let mut out = std::io::BufWriter::new(stdin);
        for number in 0..count {
            let (path, text) = write(number, count);
            let when = 1_700_000_000 + number;
            if number % each == 0 {
                write!(
                    out,
                    "commit refs/heads/main\ncommitter a <a@b> {when} +0000\ndata 0\n"
                )?;
            }
            write!(out, "M 100644 inline {path}\ndata {}\n{text}\n", text.len())?;
        }
        out.flush()?;
    }
    ensure!(child.wait()?.success(), "git fast-import failed");
    // As git is at its best: packed, and told which paths each commit changed.
    git_ms(directory, &["repack", "-adq"])?;
    git_ms(
        directory,
        &[
            "commit-graph",
            "write",
            "--reachable",
            "--changed-paths",
            "--no-progress",
        ],
    )?;
    Ok(())
}

/// Milliseconds that a command of git takes, and the lines it prints.
fn git_ms(directory: &Path, arguments: &[&str]) -> Result<(f64, usize)> {
    let began = Instant::now();
    let out = Command::new("git")
        .arg("-C")
        .arg(directory)
        .args(arguments)
        .output()?;
    let took = began.elapsed().as_secs_f64() * 1e3;
    ensure!(out.status.success(), "git {arguments:?} failed");
    Ok((
        took,
        out.stdout.iter().filter(|byte| **byte == b'\n').count(),
    ))
}

#[derive(Default)]
struct Figures {
    log: Values,
    blame: Values,
    git_log: Values,
    git_blame: Values,
    chain: Chain,
}

/// A cluster of one with the writes in its history.
fn filled(bench: &Bench, (count, each): (u64, u64)) -> Result<Cluster> {
    let cluster = Cluster::single(&bench.aber, &bench.directory("history")?)?;
    let runtime = runtime()?;
    let data = cluster.first()?.data.clone();
    let api = runtime.block_on(Api::connect(&data))?;
    runtime.block_on(api.make_directory("/h"))?;
    let clients = bench.scale.clients;
    let putting = api.clone();
    let changes = End::Count(count / each);
    runtime.block_on(load(clients, changes, move |_, change| {
        let api = putting.clone();
        let files = (change * each..(change + 1) * each).map(move |number| {
            let (path, text) = write(number, count);
            (format!("/h/{path}"), text.into_bytes())
        });
        async move { api.put_all(files).await }
    }))?;
    cluster.settle()?;
    Ok(cluster)
}

impl Figures {
    /// One round: of aber over its socket, of git as a process.
    fn take(&mut self, data: &Path, git: &Path) -> Result<()> {
        let runtime = runtime()?;
        let api = runtime.block_on(Api::connect(data))?;
        let path = format!("/h/{PATH}");
        let request = v1::ListEntriesRequest {
            path: path.clone(),
            page_size: 50,
            ..Default::default()
        };
        let began = Instant::now();
        let found = runtime.block_on(api.log(request))?;
        self.log.push(began.elapsed().as_secs_f64() * 1e3);
        let began = Instant::now();
        let (spans, versions) = runtime.block_on(api.blame(&path))?;
        self.blame.push(began.elapsed().as_secs_f64() * 1e3);
        let all = u64::try_from(found)?;
        ensure!(
            all == VERSIONS && versions == VERSIONS && spans > 1,
            "{found} {versions}"
        );
        let (ms, lines) = git_ms(git, &["log", "--format=%h", "main", "--", PATH])?;
        ensure!(u64::try_from(lines)? == VERSIONS, "git found {lines}");
        self.git_log.push(ms);
        self.git_blame
            .push(git_ms(git, &["blame", "main", "--", PATH])?.0);
        Ok(())
    }
}

/// Bytes of an entry, by all of them in one file.
fn entry_bytes(cluster: &Cluster, count: u64) -> Result<f64> {
    let node = cluster.first()?;
    let out = node.data.join("all.aud");
    let export = cluster
        .command(node)
        .args(["export", "--log"])
        .arg(&out)
        .output()?;
    ensure!(export.status.success(), "{export:?}");
    let bytes = std::fs::metadata(&out)?.len();
    std::fs::remove_file(&out)?;
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    Ok(bytes as f64 / count as f64)
}

pub(crate) fn measure(bench: &mut Bench) -> Result<()> {
    let count = bench.scale.entries_count;
    let each = if count >= 1_000_000 { EACH_FULL } else { 1 };
    let cluster = filled(bench, (count, each))?;
    let git = bench.directory("git")?;
    git_history(&git, (count, each))?;
    let mut own = Figures::default();
    for _ in 0..bench.rounds(true) {
        // A connection belongs to the runtime that made it.
        own.take(&cluster.first()?.data, &git)?;
        own.chain.take(&cluster)?;
    }
    let mut bytes = Values::default();
    bytes.push(entry_bytes(&cluster, count)?);
    cluster.stop()?;
    bench.add(Row {
        what: format!("log of a put of a few bytes, {each} in a change, the entry alone"),
        unit: "B",
        values: bytes,
        nodes: Some(1),
        ..Row::default()
    });
    let chain = std::mem::take(&mut own.chain);
    bench.add(chain.row(format!("verify --chain of {count} events, {each} an entry")));
    let rows = [
        (
            "log of a file, first page",
            own.log,
            "git log -- path, process included",
            own.git_log,
        ),
        (
            "blame of a file",
            own.blame,
            "git blame, process included",
            own.git_blame,
        ),
    ];
    for (what, values, by, divisor) in rows {
        bench.add(Row {
            what: format!("{by}, {VERSIONS} of {count} writes"),
            unit: "ms",
            values: divisor.clone(),
            ..Row::default()
        });
        bench.add(Row {
            what: format!("{what}, {VERSIONS} of {count} events, {each} an entry"),
            unit: "ms",
            values,
            vs: Some(Divisor {
                what: by.to_owned(),
                values: divisor,
                ..Divisor::default()
            }),
            nodes: Some(1),
            ..Row::default()
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_path_is_written_so_often_and_grows() {
        for count in [1000, 100_000, 1_000_000] {
            let of_path = |number: &u64| write(*number, count).0 == PATH;
            let numbers: Vec<u64> = (0..count).filter(of_path).collect();
            assert_eq!(numbers.len() as u64, VERSIONS);
            let texts = numbers.iter().map(|number| write(*number, count).1);
            let lines: Vec<usize> = texts.map(|text| text.lines().count()).collect();
            assert!(
                lines.windows(2).all(|pair| pair[1] == pair[0] + 1),
                "{lines:?}"
            );
        }
    }
}
