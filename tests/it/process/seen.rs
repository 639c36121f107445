//! What a cluster shows of its fan-out: metrics, trees, who has what, what is only here.

use super::ABER;
use aber_tests::process::content::content;
use aber_tests::process::{Cluster, Node, PATIENCE};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

const FILE_BYTES: usize = 3_000_000;

/// Numbers by name and labels, and the names that have a help and a type.
fn metrics(node: &Node) -> Result<(BTreeMap<String, f64>, BTreeSet<String>)> {
    let text = node.ok(&["metrics"])?;
    let (mut numbers, mut helped, mut typed) = (BTreeMap::new(), BTreeSet::new(), BTreeSet::new());
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, words) = help.split_once(' ').context("a help without words")?;
            ensure!(words.ends_with('.'), "{line}");
            helped.insert(name.to_owned());
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').context("a type without a kind")?;
            ensure!((kind == "counter") == name.ends_with("_total"), "{line}");
            typed.insert(name.to_owned());
        } else {
            let (what, number) = line.rsplit_once(' ').context("a sample without a number")?;
            let name = what.split('{').next().unwrap_or(what);
            let parts = ["_bucket", "_sum", "_count"];
            let whole = parts.iter().find_map(|part| name.strip_suffix(part));
            let is_typed = typed.contains(name) || whole.is_some_and(|name| typed.contains(name));
            ensure!(is_typed, "{line} comes before its type");
            ensure!(
                numbers.insert(what.to_owned(), number.parse()?).is_none(),
                "{line} again"
            );
        }
    }
    ensure!(helped == typed, "{helped:?} {typed:?}");
    Ok((numbers, typed))
}

/// Looks until something is so.
fn until(what: &str, mut look: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    while !look()? {
        ensure!(Instant::now() < end, "never: {what}");
        sleep(Duration::from_millis(200));
    }
    Ok(())
}

fn rows(node: &Node, arguments: &[&str], kind: &str) -> Result<Vec<Value>> {
    let out = node.ok(&[arguments, &["--json"]].concat())?;
    let rows = out.lines().map(serde_json::from_str::<Value>);
    let rows: Vec<Value> = rows.collect::<Result<_, _>>()?;
    Ok(rows.into_iter().filter(|row| row["type"] == kind).collect())
}

/// Each metric that is exported is in the document, and the other way round; the writer counts what
/// it sent, and all nodes draw the same trees.
#[test]
fn the_fan_out_is_seen() -> Result<()> {
    let mut cluster = Cluster::start(ABER, 3)?;
    let file = content("/file", 1, FILE_BYTES);
    ensure!(cluster.nodes[0].put(&file, "/file")?.code == 0);
    cluster.settle(PATIENCE)?;
    cluster.nodes[0].ok(&["status", "--wait"])?;
    until("all know that all have it", || {
        Ok(cluster.nodes[0]
            .ok(&["where", "/file"])?
            .contains("3 nodes have it whole"))
    })?;

    let (numbers, names) = metrics(&cluster.nodes[0])?;
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/operating.md");
    let document = std::fs::read_to_string(document)?;
    let rows_of = document
        .lines()
        .filter_map(|line| line.strip_prefix("| `aber_"));
    let documented = rows_of.filter_map(|line| line.split(['`', '{']).next());
    let documented: BTreeSet<String> = documented.map(|name| format!("aber_{name}")).collect();
    let unlimited = "aber_uplink_limit_bits_per_second".to_owned();
    ensure!(!names.contains(&unlimited) && documented.contains(&unlimited));
    let mut named = names;
    named.insert(unlimited);
    assert_eq!(named, documented);

    let number = |what: &str| {
        numbers
            .get(what)
            .copied()
            .with_context(|| format!("no {what}"))
    };
    let copies = number("aber_upload_copies_ratio")?;
    ensure!((1.0..=2.0).contains(&copies), "{copies} copies");
    ensure!(number("aber_relay_own_bytes_total")? >= FILE_BYTES as f64);
    let sent: f64 = ["n2", "n3"]
        .iter()
        .map(|peer| {
            number(&format!(
                "aber_sent_bytes_total{{class=\"content\",peer=\"{peer}\"}}"
            ))
        })
        .sum::<Result<f64>>()?;
    ensure!(sent > 0.0, "no content was sent");
    ensure!(number("aber_received_bytes_total{peer=\"n2\"}")? > 0.0);
    ensure!(number("aber_log_term{partition=\"0\"}")? >= 1.0);
    ensure!(number("aber_members{state=\"up\"}")? == 3.0);
    ensure!(number("aber_content_only_here_changes")? == 0.0);

    let tree = ["tree", "/file"];
    let edges = rows(&cluster.nodes[0], &tree, "edge")?;
    let mut reached: BTreeMap<u64, BTreeSet<String>> = BTreeMap::new();
    for edge in &edges {
        let tree = edge["tree"].as_u64().context("a number")?;
        let to = edge["to"].as_str().context("a name")?;
        ensure!(
            reached.entry(tree).or_default().insert(to.to_owned()),
            "{edge}"
        );
    }
    let others: BTreeSet<String> = ["n2".to_owned(), "n3".to_owned()].into();
    ensure!(reached.len() == 8 && reached.values().all(|nodes| *nodes == others));
    ensure!(rows(&cluster.nodes[2], &["tree", "--writer", "n1"], "edge")? == edges);
    let log_tree = rows(&cluster.nodes[1], &["tree", "--partition", "0"], "edge")?;
    ensure!(log_tree.len() == 2 && log_tree.iter().all(|edge| edge["depth"] == 1));

    // With the others off, what is written here is only here, and what they have is not known.
    cluster.nodes[1].stop()?;
    cluster.nodes[2].stop()?;
    let late = content("/late", 1, FILE_BYTES);
    let put = ["put", "--ack", "queued", "-", "/late"];
    let ran = cluster.nodes[0].aber_with(&put, &late, PATIENCE)?;
    ensure!(ran.code == 0, "{ran:?}");
    until("it is seen that it is only here", || {
        let status = cluster.nodes[0].status()?;
        let bytes = status["only_here_bytes"].as_u64().unwrap_or(0);
        Ok(status["only_here_changes"] == 1 && bytes >= FILE_BYTES as u64)
    })?;
    let text = cluster.nodes[0].ok(&["status"])?;
    ensure!(
        text.contains("  only here  1 change, 2.9 MiB; 1 change waiting to be ordered. Do not"),
        "{text}"
    );
    let known = cluster.nodes[0].ok(&["where", "/file"])?;
    ensure!(
        known.contains("only n1 has it whole: there is one copy, as far as is known: 2 nodes away"),
        "{known}"
    );

    cluster.nodes[1].start()?;
    cluster.nodes[0].ok(&["status", "--wait"])?;
    ensure!(cluster.nodes[0].status()?["only_here_changes"] == 0);
    Ok(())
}

/// A node that is started with a rate tells all, and keeps to it; a schedule says how much of it.
#[test]
fn a_node_is_told_its_uplink_and_a_schedule() -> Result<()> {
    let mut cluster = Cluster::prepare(ABER, 1)?;
    let node = &mut cluster.nodes[0];
    let bad = node.aber(&["up", "--schedule", "at night"])?;
    ensure!(bad.code == 2 && bad.reason() == Some("USAGE"), "{bad:?}");
    let told = ["--up", "8 Mbit/s", "--schedule", "00:00-24:00 up=50%"];
    node.arguments.extend(told.map(str::to_owned));
    node.start()?;
    let rate_is = |node: &Node, bits: u64| -> Result<bool> {
        Ok(node.status()?["uplink"]["bits_per_second"] == bits)
    };
    until("half of the line is used", || rate_is(node, 4_000_000))?;
    ensure!(node.ok(&["members"])?.contains("up 8 Mbit/s"));
    // The others are told, so that trees count on no more of it.
    let counts_on = |node: &Node, kbit: u64, for_now: bool| -> Result<bool> {
        let tree = node.ok(&["--json", "tree"])?;
        let mut rows = tree.lines().map(serde_json::from_str::<Value>);
        let row = rows.next().context("a row")??;
        let bits = row["uplink_bits_per_second"].as_u64();
        Ok(bits == Some(kbit * 1000) && row["for_now"] == for_now)
    };
    until("trees count on half of it", || counts_on(node, 4700, true))?;
    ensure!(
        node.ok(&["members"])?
            .contains("up 8 Mbit/s   for now 4.7 Mbit/s")
    );
    let (numbers, _) = metrics(node)?;
    ensure!(numbers.get("aber_uplink_limit_bits_per_second") == Some(&4_000_000.0));

    // What was said holds for later starts, until something else is said.
    node.stop()?;
    node.arguments.truncate(node.arguments.len() - told.len());
    node.start()?;
    until("half of the line is used again", || {
        rate_is(node, 4_000_000)
    })?;
    node.stop()?;
    let told = ["--up", "1 Mbit/s", "--schedule", "off"];
    node.arguments.extend(told.map(str::to_owned));
    node.start()?;
    until("85 % of another line is used", || rate_is(node, 850_000))?;
    until("trees count on it", || counts_on(node, 1000, false))?;
    node.stop()?;
    Ok(())
}
