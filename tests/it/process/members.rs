//! Members of a running cluster: set, removed, refused.

use super::ABER;
use aber_tests::process::content::content;
use aber_tests::process::{Cluster, Node, PATIENCE};
use anyhow::{Result, ensure};
use serde_json::Value;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// All lines of a command's JSON but the last.
fn rows(node: &Node, arguments: &[&str]) -> Result<Vec<Value>> {
    let out = node.ok(&[arguments, &["--json"]].concat())?;
    let lines = out.lines().map(serde_json::from_str::<Value>);
    let mut lines = lines.collect::<Result<Vec<_>, _>>()?;
    lines.pop();
    Ok(lines)
}

/// What does not depend on who is asked and when.
fn membership(node: &Node) -> Result<Vec<(String, String, u64, u64)>> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let rows = rows(node, &["members", "--all"])?.into_iter().map(|row| {
        (
            text(&row["name"]),
            text(&row["role"]),
            number(&row["votes_in"].as_array().map_or(0, Vec::len).into()),
            number(&row["removed_index"]),
        )
    });
    Ok(rows.collect())
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

fn has_notice(node: &Node, code: &str) -> Result<bool> {
    let status = node.status()?;
    let notices = status["notices"].as_array().cloned().unwrap_or_default();
    Ok(notices.iter().any(|notice| notice["code"] == code))
}

fn fails(node: &Node, arguments: &[&str], code: i32, reason: &str) -> Result<()> {
    let ran = node.aber(arguments)?;
    let is_so = ran.code == code && ran.reason() == Some(reason);
    ensure!(
        is_so,
        "{arguments:?}: {code} {reason} was expected: {ran:?}"
    );
    Ok(())
}

/// Promises S2, S3, A7: from the removal on a node is refused everywhere, what it wrote stays; a
/// voter that is removed is replaced, and all of it is the same after a restart.
#[test]
fn removed_members_are_out_and_what_they_wrote_stays() -> Result<()> {
    let mut cluster = Cluster::start(ABER, 5)?;
    let [mine, later] = ["/d/mine", "/d/later"].map(|path| content(path, 5, 60_000));
    cluster.nodes[0].ok(&["mkdir", "/d"])?;
    cluster.settle(PATIENCE)?;
    ensure!(cluster.nodes[4].put(&mine, "/d/mine")?.code == 0);
    cluster.settle(PATIENCE)?;

    // The fifth is off while it is removed, and comes back.
    cluster.nodes[4].stop()?;
    let plan = cluster.nodes[0].ok(&["members", "rm", "n5", "--dry-run"])?;
    ensure!(plan.contains("Nothing has changed yet"), "{plan}");
    ensure!(membership(&cluster.nodes[0])?.iter().all(|row| row.3 == 0));
    cluster.nodes[0].ok(&["members", "rm", "n5", "--yes"])?;
    fails(
        &cluster.nodes[0],
        &["members", "rm", "n5", "--yes"],
        10,
        "MEMBER_REMOVED",
    )?;
    cluster.nodes[4].start()?;
    until("n5 learns that it was removed", || {
        has_notice(&cluster.nodes[4], "MEMBER_REMOVED")
    })?;
    ensure!(cluster.nodes[4].aber(&["status", "--check"])?.code == 2);
    for link in rows(&cluster.nodes[4], &["links"])? {
        let is_refused = link["up"] == false && link["why_not"].to_string().contains("removed");
        ensure!(is_refused, "{link}");
    }
    let queued = ["put", "--ack", "queued", "-", "/d/refused"];
    ensure!(cluster.nodes[4].aber_with(&queued, b"x", PATIENCE)?.code == 0);
    ensure!(cluster.nodes[4].ok(&["cat", "/d/mine"])?.into_bytes() == lossy(&mine));
    cluster.nodes[4].stop()?;

    // A voter that runs is removed, and learns it too: the fourth votes in its place.
    let removed = cluster.nodes[0].ok(&["members", "rm", "n3", "--yes"])?;
    ensure!(removed.starts_with("removed n3"), "{removed}");
    until("n4 votes everywhere", || {
        let rows = membership(&cluster.nodes[0])?;
        Ok(rows.iter().any(|row| row.0 == "n4" && row.2 == 4))
    })?;
    until("n3 learns that it was removed", || {
        has_notice(&cluster.nodes[2], "MEMBER_REMOVED")
    })?;
    cluster.nodes[2].kill()?;
    for (at, path) in [(0, "/d/a"), (1, "/d/b"), (3, "/d/later")] {
        let ran = cluster.nodes[at].put(&later, path)?;
        ensure!(ran.code == 0 && ran.stdout.contains("committed"), "{ran:?}");
    }
    cluster.settle(PATIENCE)?;

    let before = membership(&cluster.nodes[0])?;
    let removals: Vec<_> = before
        .iter()
        .filter(|row| row.3 > 0)
        .map(|row| &row.0)
        .collect();
    ensure!(removals == ["n3", "n5"], "{before:?}");
    for at in [0, 1, 3] {
        cluster.nodes[at].stop()?;
    }
    for at in [0, 1, 3] {
        cluster.nodes[at].spawn()?;
    }
    for at in [0, 1, 3] {
        cluster.nodes[at].wait_until_up()?;
    }
    cluster.settle(PATIENCE)?;
    for at in [0, 1, 3] {
        let node = &cluster.nodes[at];
        until("members are those from before", || {
            Ok(membership(node)? == before)
        })?;
        let names = node.ok(&["ls", "/d"])?;
        ensure!(names == "a\nb\nlater\nmine\n", "{names}");
        ensure!(std::fs::read(node.mirror().join("d/mine"))? == mine);
        ensure!(node.ok(&["log", "/d/mine"])?.contains("n5"));
    }
    Ok(())
}

fn lossy(bytes: &[u8]) -> Vec<u8> {
    String::from_utf8_lossy(bytes).into_owned().into_bytes()
}

/// Promise S2: who may do what follows from the role, and every refusal has its words.
#[test]
fn roles_names_and_addresses_are_set() -> Result<()> {
    let cluster = Cluster::start(ABER, 3)?;
    let [one, two, three] = &cluster.nodes[..] else {
        anyhow::bail!("three nodes")
    };
    one.ok(&["mkdir", "/d"])?;
    one.ok(&["members", "set", "n2", "--role", "reader", "--vote", "no"])?;
    cluster.settle(PATIENCE)?;
    let ran = two.put(b"no", "/d/no")?;
    ensure!(
        ran.code == 10 && ran.reason() == Some("NOT_ALLOWED"),
        "{ran:?}"
    );
    ensure!(
        ran.stderr.contains("aber members set n2 --role writer"),
        "{ran:?}"
    );
    fails(
        two,
        &["members", "set", "n1", "--vote", "no"],
        10,
        "NOT_ALLOWED",
    )?;
    fails(two, &["members", "rm", "n1", "--yes"], 10, "NOT_ALLOWED")?;
    let own = ["--up", "1 Mbit/s", "--neighbours", "n1", "--address"];
    two.ok(&[
        &["members", "set", "n2"],
        &own[..],
        &["127.0.0.1:1", "--address", "127.0.0.1:2"],
    ]
    .concat())?;
    three.ok(&["members", "set", "n3", "--name", "gwen"])?;
    fails(
        three,
        &["members", "set", "gwen", "--name", "n1"],
        5,
        "NAME_TAKEN",
    )?;
    fails(
        three,
        &["members", "set", "n3", "--vote", "no"],
        4,
        "MEMBER_UNKNOWN",
    )?;
    fails(
        three,
        &["members", "set", "gwen", "--address", "x y"],
        2,
        "USAGE",
    )?;
    fails(three, &["invite", "revoke", "abcdef"], 10, "TICKET_UNKNOWN")?;
    cluster.settle(PATIENCE)?;
    for node in &cluster.nodes {
        let rows = rows(node, &["members"])?;
        let names: Vec<_> = rows.iter().map(|row| row["name"].as_str()).collect();
        ensure!(names == ["n1", "n2", "gwen"].map(Some), "{names:?}");
        ensure!(rows[1]["role"] == "reader" && rows[1]["voter_eligible"] == false);
        ensure!(rows[1]["uplink_bits_per_second"] == 1_000_000);
        ensure!(rows[1]["addresses"].as_array().map(Vec::len) == Some(2));
        ensure!(rows[1]["neighbours"][0] == "n1");
    }
    // Two that may vote: one does, and status says what that means.
    until("one voter is left", || has_notice(one, "ONE_VOTER"))?;
    one.ok(&["members", "set", "gwen", "--role", "writer"])?;
    fails(
        one,
        &["members", "set", "n1", "--role", "writer"],
        10,
        "LAST_ADMIN",
    )?;
    fails(one, &["members", "rm", "n1", "--yes"], 10, "LAST_ADMIN")?;
    ensure!(one.put(b"still", "/d/still")?.code == 0);
    let log = one.ok(&["log"])?;
    ensure!(log.contains("set n2: role reader, may not vote"), "{log}");
    Ok(())
}
