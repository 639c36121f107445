//! Looking at history: what happened, by whom, and to what.

use super::ABER;
use super::golden::transcript;
use aber_tests::process::{Cluster, Node, PATIENCE};
use anyhow::{Context, Result, ensure};
use expect_test::expect;
use serde_json::Value;

/// Records of one kind, and the last one.
fn records(node: &Node, arguments: &[&str], kind: &str) -> Result<(Vec<Value>, Value)> {
    let out = node.ok(&[arguments, &["--json"]].concat())?;
    let rows: Vec<Value> = out
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    let last = rows.last().cloned().context("a result")?;
    let rows = rows.into_iter().filter(|row| row["type"] == kind).collect();
    Ok((rows, last))
}

/// A change by one of two nodes, which the other has then.
fn done(cluster: &Cluster, by: usize, arguments: &[&str], input: &[u8]) -> Result<()> {
    let ran = cluster.nodes[by].aber_with(arguments, input, PATIENCE)?;
    ensure!(ran.code == 0, "{arguments:?}: {ran:?}");
    cluster.settle(PATIENCE)?;
    Ok(())
}

#[test]
fn the_log_tells_what_happened_to_what() -> Result<()> {
    let cluster = Cluster::start(ABER, 2)?;
    let many = cluster.directory.path().join("many");
    std::fs::create_dir(&many)?;
    for number in 0..30 {
        std::fs::write(many.join(number.to_string()), [b'x'; 100])?;
    }
    let many = many.display().to_string();
    let put = ["put", "-", "/music/song"];
    done(&cluster, 0, &["mkdir", "/music"], b"")?;
    done(&cluster, 0, &put, b"one")?;
    done(&cluster, 1, &put, b"two, longer")?;
    done(&cluster, 0, &["mv", "/music/song", "/music/tune"], b"")?;
    done(&cluster, 1, &["cp", "/music/tune", "/music/copy"], b"")?;
    done(&cluster, 0, &["rm", "/music/tune"], b"")?;
    done(&cluster, 1, &put, b"another")?;
    done(&cluster, 0, &["put", "-r", &many, "/music/"], b"")?;
    let clean = ["rm", "-r", "--comment", "Spring clean", "/music/many"];
    done(&cluster, 1, &clean, b"")?;

    let told = transcript(
        &cluster,
        &cluster.nodes[1],
        &[
            (&["log", "/music/song"], b""),
            (&["log", "/music/song", "--reverse"], b""),
            (&["log", "/music/song", "--follow-renames"], b""),
            (&["log", "/music/tune"], b""),
            (&["log", "/music/copy"], b""),
            (&["log", "/music/copy", "--follow-renames"], b""),
            (&["log", "/music", "--removed"], b""),
            (&["log", "/music/many", "--removed"], b""),
            (&["log", "/music", "--by", "n2"], b""),
            (&["log", "--comment", "spring"], b""),
            (&["log", "--by", "nobody"], b""),
            (&["log", "/music/never"], b""),
            (&["log", "--since", "tomorrow"], b""),
        ],
    )?;
    expect![[r#"
        $ aber log /music/song
        P:I TIME n2 + /music/song 7 B cli
        P:I TIME n1 > /music/song => /music/tune cli
        P:I TIME n2 + /music/song 11 B cli
        P:I TIME n1 + /music/song 3 B cli
        $ aber log /music/song --reverse
        P:I TIME n1 + /music/song 3 B cli
        P:I TIME n2 + /music/song 11 B cli
        P:I TIME n1 > /music/song => /music/tune cli
        P:I TIME n2 + /music/song 7 B cli
        $ aber log /music/song --follow-renames
        P:I TIME n2 + /music/song 7 B cli
        P:I TIME n1 - /music/tune -11 B cli
        P:I TIME n1 > /music/song => /music/tune cli
        P:I TIME n2 + /music/song 11 B cli
        P:I TIME n1 + /music/song 3 B cli
        $ aber log /music/tune
        P:I TIME n1 - /music/tune -11 B cli
        P:I TIME n1 > /music/song => /music/tune cli
        $ aber log /music/copy
        P:I TIME n2 + /music/copy copied from /music/tune cli
        $ aber log /music/copy --follow-renames
        P:I TIME n2 + /music/copy copied from /music/tune cli
        P:I TIME n1 > /music/song => /music/tune cli
        P:I TIME n2 + /music/song 11 B cli
        P:I TIME n1 + /music/song 3 B cli
        $ aber log /music --removed
        P:I TIME n2 - /music/many (30 files) -2.9 KiB cli "Spring clean"
        P:I TIME n1 - /music/tune -11 B cli
        $ aber log /music/many --removed
        P:I TIME n2 - /music/many (30 files) -2.9 KiB cli "Spring clean"
        to get it back: aber restore /music/many --at P:I-
        $ aber log /music --by n2
        P:I TIME n2 - /music/many (30 files) -2.9 KiB cli "Spring clean"
        P:I TIME n2 + /music/song 7 B cli
        P:I TIME n2 + /music/copy copied from /music/tune cli
        P:I TIME n2 + /music/song 11 B cli
        $ aber log --comment spring
        P:I TIME n2 - /music/many (30 files) -2.9 KiB cli "Spring clean"
        $ aber log --by nobody
        error: there is no member nobody  [MEMBER_UNKNOWN]
          why:  none has this name, as this node knows it
          mend: see who there is: aber members
        exit 4
        $ aber log /music/never
        $ aber log --since tomorrow
        error: there is no tag tomorrow  [TAG_UNKNOWN]
          why:  a WHEN that is no time, no entry and no number of versions names a tag
          mend: see which there are: aber tag; and what else a WHEN can be: aber at --help
        exit 4
    "#]]
    .assert_eq(&told);

    // Of one file, only what concerns it is looked at.
    let node = &cluster.nodes[0];
    let (all, last) = records(node, &["log", "-n", "1000"], "entry")?;
    ensure!(all.iter().all(|entry| entry["applied"] == true), "{all:?}");
    let whole = last["looked_at"].as_u64().context("a number")?;
    ensure!(all.len() > 8 && whole as usize >= all.len(), "{last}");
    let (song, last) = records(node, &["log", "/music/song"], "entry")?;
    assert_eq!((song.len(), &last["looked_at"]), (4, &Value::from(4)));

    // From the first of these moments on, up to the second.
    let (renamed, first) = (song[1]["id"].as_str(), song[3]["id"].as_str());
    let renamed = renamed.context("an id")?;
    let since = first.context("an id")?;
    let between = ["log", "/music/song", "--since", since, "--until", renamed];
    let (between, _) = records(node, &between, "entry")?;
    assert_eq!(between, song[1..3]);
    let (before, _) = records(
        node,
        &["log", "/music", "--until", &format!("{renamed}-")],
        "entry",
    )?;
    ensure!(before.iter().all(|entry| song[1] != *entry), "{before:?}");
    ensure!(before.contains(&song[2]), "{before:?}");

    // What an entry did is told with it.
    let outcome = &song[2]["events"][0]["outcome"];
    assert_eq!(outcome["result"], "done");
    assert_eq!(outcome["size_change"], 8);
    assert_eq!(
        outcome["etag_before"],
        song[3]["events"][0]["outcome"]["etag_after"]
    );
    Ok(())
}
