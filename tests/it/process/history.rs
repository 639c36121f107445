//! Looking back and going back, by several people on several nodes.

use super::ABER;
use aber_tests::process::run::Ran;
use aber_tests::process::{Cluster, Node, PATIENCE, tree};
use anyhow::{Context, Result, ensure};
use serde_json::Value;

fn reason(ran: &Ran) -> Option<&str> {
    ran.reason()
}

/// The records of a command that must succeed.
pub(super) fn lines(node: &Node, arguments: &[&str]) -> Result<Vec<Value>> {
    let out = node.ok(&[&["--json"], arguments].concat())?;
    out.lines()
        .map(|line| serde_json::from_str(line).context("JSON lines"))
        .collect()
}

/// The last of them.
pub(super) fn result(node: &Node, arguments: &[&str]) -> Result<Value> {
    lines(node, arguments)?.pop().context("a result")
}

/// The newest entry that touched a path.
pub(super) fn newest(node: &Node, path: &str) -> Result<String> {
    Ok(newest_with_time(node, path)?.0)
}

/// The same, and its order time as a WHEN.
pub(super) fn newest_with_time(node: &Node, path: &str) -> Result<(String, String)> {
    let all = lines(node, &["log", "-n", "1", path])?;
    let entry = all.iter().find(|line| line["type"] == "entry");
    let entry = entry.context("an entry")?;
    let text = |key: &str| entry[key].as_str().map(str::to_owned);
    let id = text("id").context("an id")?;
    Ok((id, text("order_time").context("a time")?))
}

/// Puts a text, which must be committed.
pub(super) fn write(node: &Node, path: &str, text: &str) -> Result<()> {
    let ran = node.put(text.as_bytes(), path)?;
    ensure!(ran.code == 0, "{ran:?}");
    Ok(())
}

/// Two people work; one deletes a folder, another edits in it. History says who, brings it back
/// without losing the edit, and shows how it was, the same on every node.
#[test]
fn a_folder_that_was_deleted_comes_back_and_the_edit_stays() -> Result<()> {
    let cluster = Cluster::start(ABER, 3)?;
    let [anna, bob, carl] = &cluster.nodes[..] else {
        anyhow::bail!("three nodes")
    };
    anna.ok(&["mkdir", "-p", "/docs/plans"])?;
    write(anna, "/docs/plans/party", "music\n")?;
    write(anna, "/docs/plans/menu", "soup\n")?;
    write(anna, "/docs/list", "one\n")?;
    cluster.settle(PATIENCE)?;
    let (before, clock) = newest_with_time(anna, "/docs")?;

    bob.ok(&["rm", "-r", "/docs/plans"])?;
    cluster.settle(PATIENCE)?;
    let removal = newest(carl, "/docs/plans/menu")?;
    carl.ok(&["mkdir", "/docs/plans"])?;
    write(carl, "/docs/plans/party", "music and lights\n")?;
    write(carl, "/docs/list", "two\n")?;
    cluster.settle(PATIENCE)?;

    let who = lines(anna, &["log", "/docs/plans/menu"])?;
    ensure!(who[0]["id"] == removal.as_str() && who[0]["author"] == bob.name.as_str());

    let at = format!("{removal}-");
    let plan = result(anna, &["rollback", "/docs", "--to", &at, "--dry-run"])?;
    ensure!(
        plan["returned"] == 1 && plan["skipped_total"] == 3,
        "{plan}"
    );
    ensure!(
        anna.ok(&["ls", "/docs/plans"])? == "party\n",
        "a plan writes nothing"
    );
    // A clock that stood between the two entries means the same, on any node.
    let same = result(bob, &["rollback", "/docs", "--to", &clock, "--dry-run"])?;
    ensure!(
        same["returned"] == 1 && same["skipped_total"] == 3,
        "{same}"
    );
    anna.ok(&["rollback", "/docs", "--to", &at, "--yes"])?;
    cluster.settle(PATIENCE)?;
    for node in &cluster.nodes {
        ensure!(node.ok(&["cat", "/docs/plans/menu"])? == "soup\n");
        ensure!(node.ok(&["cat", "/docs/plans/party"])? == "music and lights\n");
        ensure!(node.ok(&["cat", "/docs/list"])? == "two\n");
        let then = std::fs::read_to_string(node.mirror().join("docs/plans/menu"))?;
        ensure!(then == "soup\n");
    }
    cluster.equal_mirrors()?;

    let mut digests = Vec::new();
    for (node, when) in cluster.nodes.iter().zip([&before, &clock, &at]) {
        let into = cluster.directory.path().join(format!("then-{}", node.name));
        let text = into.display().to_string();
        let made = result(
            node,
            &["materialize", "--at", when, "--into", &text, "/docs"],
        )?;
        digests.push(made["digest"].clone());
        ensure!(std::fs::read_to_string(into.join("plans/party"))? == "music\n");
        ensure!(std::fs::read_to_string(into.join("list"))? == "one\n");
        tree::make_writable(&into);
    }
    ensure!(
        digests.windows(2).all(|pair| pair[0] == pair[1]),
        "{digests:?}"
    );
    audit_elsewhere(&cluster)?;
    for when in [&before, &clock] {
        let old = bob.ok(&["at", when, "cat", "/docs/plans/party"])?;
        ensure!(old == "music\n");
    }
    ensure!(bob.ok(&["ls", "/", "--at", "1h"])?.is_empty());
    ensure!(bob.ok(&["cat", "--at", "-1", "/docs/list"])? == "one\n");
    Ok(())
}

/// The log is taken along and checked without any node; what was changed in it is named.
fn audit_elsewhere(cluster: &Cluster) -> Result<()> {
    let [anna, bob, _] = &cluster.nodes[..] else {
        anyhow::bail!("three nodes")
    };
    let file = cluster.directory.path().join("log.aud");
    let text = file.display().to_string();
    anna.ok(&["export", "--log", &text])?;
    let nowhere = cluster.directory.path().join("nowhere");
    let audit = |arguments: &[&str]| -> Result<(i32, String)> {
        let out = std::process::Command::new(ABER)
            .args(["--json", "--data"])
            .arg(&nowhere)
            .arg("audit")
            .args(arguments)
            .output()?;
        Ok((
            out.status.code().unwrap_or(-1),
            String::from_utf8(out.stdout)?,
        ))
    };
    let (code, said) = audit(&["--file", &text])?;
    let last: Value = serde_json::from_str(said.lines().last().context("a result")?)?;
    ensure!(code == 0 && last["wrong"] == 0, "{said}");
    ensure!(
        last["authors"].as_array().map(Vec::len) == Some(3),
        "{said}"
    );
    let here = result(bob, &["audit", "--compare", &text])?;
    let hashes = |said: &Value| -> Vec<Value> {
        let heads = said["heads"].as_array().into_iter().flatten();
        heads.map(|head| head["chain_hash"].clone()).collect()
    };
    ensure!(
        here["wrong"] == 0 && hashes(&here) == hashes(&last),
        "{here} {last}"
    );
    let heads = last["heads"].as_array().into_iter().flatten();
    for head in heads {
        ensure!(head["signed"].to_string().contains("n1"), "{head}");
    }
    let head = last["heads"]
        .as_array()
        .and_then(|heads| heads.last())
        .context("a head")?;
    let hash = head["chain_hash"].as_str().context("a hash")?;
    let place = format!("{}:{}", head["partition"], head["index"]);
    let (code, _) = audit(&["--file", &text, "--pin", &format!("{place}:{hash}")])?;
    ensure!(code == 0, "the hash that was written down is there");
    let other = hash.replace(
        hash.split_at(1).0,
        if hash.starts_with('0') { "1" } else { "0" },
    );
    let (code, said) = audit(&["--file", &text, "--pin", &format!("{place}:{other}")])?;
    ensure!(code == 8 && said.contains("PIN_DIFFERS"), "{said}");

    // Promise I4: the end of a history cannot be left out, for a member has signed it.
    let shorter = cluster.directory.path().join("shorter.aud");
    std::fs::write(&shorter, without_last_entry(&std::fs::read(&file)?)?)?;
    let (code, said) = audit(&["--file", &shorter.display().to_string()])?;
    ensure!(code == 8 && said.contains("END_MISSING"), "{said}");

    let mut bytes = std::fs::read(&file)?;
    let at = bytes.len() * 2 / 3;
    bytes[at] ^= 1;
    let forged = cluster.directory.path().join("forged.aud");
    std::fs::write(&forged, &bytes)?;
    let (code, said) = audit(&["--file", &forged.display().to_string()])?;
    ensure!(code != 0, "{said}");
    bytes.truncate(at);
    std::fs::write(&forged, &bytes)?;
    let (code, said) = audit(&["--file", &forged.display().to_string()])?;
    ensure!(code == 1 && said.contains("SOURCE_UNREADABLE"), "{said}");
    Ok(())
}

/// An audit file whose last entry was taken out, and its end made to fit (format.md, audit files).
fn without_last_entry(bytes: &[u8]) -> Result<Vec<u8>> {
    const ENTRY: u8 = 2;
    let (mut records, mut at) = (Vec::new(), 8);
    while let Some(head) = bytes.get(at..at + 5) {
        let length = u32::from_le_bytes(head[1..].try_into()?) as usize;
        records.push((head[0], bytes[at..at + 5 + length].to_vec()));
        at += 5 + length;
    }
    let last = records.iter().rposition(|(kind, _)| *kind == ENTRY);
    records.remove(last.context("an entry")?);
    let count = records.iter().filter(|(kind, _)| *kind == ENTRY).count() as u64;
    let (_, end) = records.last_mut().context("an end")?;
    end[5..].copy_from_slice(&count.to_le_bytes());
    let mut shorter = bytes[..8].to_vec();
    for (_, record) in records {
        shorter.extend(record);
    }
    Ok(shorter)
}

/// `undo` and `redo` walk one's own actions; what others did in between is left alone.
#[test]
fn undo_walks_back_and_redo_forward() -> Result<()> {
    let cluster = Cluster::start(ABER, 2)?;
    let [one, other] = &cluster.nodes[..] else {
        anyhow::bail!("two nodes")
    };
    let source = cluster.directory.path().join("tree");
    for name in ["a", "b/c", "b/d"] {
        let path = source.join(name);
        std::fs::create_dir_all(path.parent().context("below")?)?;
        std::fs::write(&path, name)?;
    }
    one.ok(&["put", "-r", &source.display().to_string(), "/"])?;
    write(one, "/tree/a", "again")?;
    cluster.settle(PATIENCE)?;
    write(other, "/tree/b/c", "by the other")?;
    write(other, "/note", "x")?;
    cluster.settle(PATIENCE)?;

    one.ok(&["undo", "--yes"])?;
    ensure!(one.ok(&["cat", "/tree/a"])? == "a");
    // The put of the whole tree was one action, its volume included; one file has changed since.
    let ran = one.aber(&["undo", "--yes"])?;
    ensure!(ran.code == 0, "{ran:?}");
    ensure!(one.ok(&["ls", "-R", "/tree"])? == "b/\nb/c\n");
    ensure!(one.ok(&["cat", "/tree/b/c"])? == "by the other");
    let nothing = one.aber(&["undo", "--yes"])?;
    ensure!(
        nothing.code == 4 && reason(&nothing) == Some("NOTHING_TO_UNDO"),
        "{nothing:?}"
    );
    one.ok(&["redo", "--yes"])?;
    ensure!(one.ok(&["cat", "/tree/a"])? == "a" && one.ok(&["cat", "/tree/b/d"])? == "b/d");
    one.ok(&["redo", "--yes"])?;
    ensure!(one.ok(&["cat", "/tree/a"])? == "again");
    let nothing = one.aber(&["redo", "--yes"])?;
    ensure!(
        nothing.code == 4 && reason(&nothing) == Some("NOTHING_TO_REDO"),
        "{nothing:?}"
    );
    ensure!(one.ok(&["cat", "/note"])? == "x");

    let entry = newest(other, "/note")?;
    other.ok(&["revert", &entry, "--yes"])?;
    let gone = other.aber(&["--json", "cat", "/note"])?;
    ensure!(gone.code != 0);
    let restored = other.ok(&["restore", "/note", "--at", "-1", "--yes"])?;
    ensure!(restored.contains("committed"), "{restored}");
    ensure!(other.ok(&["cat", "/note"])? == "x");
    Ok(())
}

/// A watch that ended goes on from its cursor without a gap, filtered; and what it tells once the
/// mirror shows it can be opened.
#[test]
fn a_watch_goes_on_where_it_ended() -> Result<()> {
    let cluster = Cluster::start(ABER, 2)?;
    let [one, other] = &cluster.nodes[..] else {
        anyhow::bail!("two nodes")
    };
    one.ok(&["mkdir", "/d"])?;
    write(one, "/d/a", "1")?;
    write(one, "/e", "1")?;
    write(one, "/d/b", "1")?;
    one.ok(&["rm", "/d/a"])?;
    cluster.settle(PATIENCE)?;
    let watch = |arguments: &[&str]| lines(other, &[&["watch"], arguments].concat());
    let first = watch(&["--since", "1h", "-n", "2", "--kind", "put", "/d"])?;
    let path = |line: &Value| line["events"][0]["path"].as_str().map(str::to_owned);
    ensure!(path(&first[0]).as_deref() == Some("/d/a"), "{first:?}");
    ensure!(path(&first[1]).as_deref() == Some("/d/b"), "{first:?}");
    let cursor = first[0]["cursor"].as_str().context("a cursor")?;
    let again = watch(&["--cursor", cursor, "-n", "2", "--materialized", "/d"])?;
    ensure!(path(&again[0]).as_deref() == Some("/d/b"), "{again:?}");
    ensure!(again[1]["events"][0]["kind"] == "remove", "{again:?}");

    let since = again[1]["cursor"].as_str().context("a cursor")?.to_owned();
    for number in 0..20 {
        write(one, &format!("/d/new{number}"), &"x".repeat(20_000))?;
    }
    let told = watch(&["--cursor", &since, "-n", "20", "--materialized", "/d"])?;
    ensure!(told.len() == 21, "{told:?}");
    for line in &told[..20] {
        let shown = other
            .mirror()
            .join(path(line).context("a path")?.trim_start_matches('/'));
        ensure!(
            std::fs::metadata(&shown)?.len() == 20_000,
            "{}",
            shown.display()
        );
    }
    let ran = other.aber(&["watch", "--cursor", "not!a!cursor"])?;
    ensure!(ran.code == 2, "{ran:?}");
    Ok(())
}

/// What a plan was made of has changed: it names the paths and does nothing.
#[test]
fn a_stale_plan_does_nothing_and_says_where() -> Result<()> {
    let cluster = Cluster::start(ABER, 2)?;
    let [one, other] = &cluster.nodes[..] else {
        anyhow::bail!("two nodes")
    };
    one.ok(&["mkdir", "/d"])?;
    write(one, "/d/a", "1")?;
    write(one, "/d/b", "1")?;
    let then = newest(one, "/d/b")?;
    write(one, "/d/a", "2")?;
    write(one, "/d/b", "2")?;
    cluster.settle(PATIENCE)?;
    let plan = result(one, &["rollback", "/d", "--to", &then, "--dry-run"])?;
    let id = plan["plan"].as_str().context("a plan")?;
    write(other, "/d/b", "3")?;
    cluster.settle(PATIENCE)?;
    let ran = one.aber(&["rollback", "--plan", id])?;
    ensure!(
        ran.code == 5 && reason(&ran) == Some("PLAN_STALE"),
        "{ran:?}"
    );
    ensure!(ran.stderr.contains("/d/b"), "{ran:?}");
    ensure!(one.ok(&["cat", "/d/a"])? == "2" && one.ok(&["cat", "/d/b"])? == "3");
    let ran = one.aber(&["rollback", "--plan", id])?;
    ensure!(
        ran.code == 4 && reason(&ran) == Some("PLAN_UNKNOWN"),
        "{ran:?}"
    );

    for (arguments, why) in [
        (["cat", "/d/a", "--at", "9:9"], "ENTRY_NOT_FOUND"),
        (["cat", "/d/a", "--at", "-7"], "VERSION_NOT_FOUND"),
        (["cat", "/d/a", "--at", "no-such-tag"], "TAG_UNKNOWN"),
        (["ls", "/d/a", "--at", "Not A When"], "USAGE"),
        (["ls", "/d", "--at", "2999-01-01"], "USAGE"),
        (["restore", "/never", "--at", "1s"], "PATH_NOT_FOUND"),
    ] {
        let ran = one.aber(&arguments)?;
        ensure!(
            ran.code != 0 && reason(&ran) == Some(why),
            "{arguments:?}: {ran:?}"
        );
    }
    Ok(())
}
