//! Looking at history: what happened, by whom, and to what.

use super::ABER;
use super::golden::transcript;
use aber_node::client::Client;
use aber_proto::generated::v1;
use aber_tests::process::content::content;
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

/// All entries, so many a page.
fn paged(node: &Node, request: &v1::ListEntriesRequest, size: i32) -> Result<Vec<v1::Entry>> {
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let client = Client::connect_data(&node.data).await?;
        let (mut request, mut found) = (request.clone(), Vec::new());
        request.page_size = size;
        loop {
            let page = client.list_entries(request.clone()).await?;
            ensure!(
                i32::try_from(page.entries.len())? <= size,
                "a page too large"
            );
            found.extend(page.entries);
            if page.next_page_token.is_empty() {
                return Ok(found);
            }
            request.page_token = page.next_page_token;
        }
    })
}

/// A page after the other is what one page is, in either direction.
fn pages_are_of_one_list(node: &Node, path: &str) -> Result<()> {
    for (oldest_first, follow_renames) in [(false, false), (true, false), (false, true)] {
        let mut request = v1::ListEntriesRequest {
            path: path.to_owned(),
            oldest_first,
            follow_renames,
            ..v1::ListEntriesRequest::default()
        };
        let whole = paged(node, &request, 1000)?;
        ensure!(whole.len() > 1, "{path}: {whole:?}");
        assert_eq!(paged(node, &request, 1)?, whole, "{request:?}");
        assert_eq!(paged(node, &request, 2)?, whole, "{request:?}");
        request.oldest_first = !oldest_first;
        let mut other = paged(node, &request, 3)?;
        other.reverse();
        assert_eq!(other, whole, "{request:?}");
    }
    Ok(())
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

    for path in ["/music/song", "/music/tune", "/music", "/"] {
        pages_are_of_one_list(node, path)?;
    }

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

/// What was in a top-level directory that is gone is told by the names it had.
#[test]
fn a_removed_volume_keeps_its_name_in_the_log() -> Result<()> {
    let cluster = Cluster::start(ABER, 2)?;
    done(&cluster, 0, &["mkdir", "/music"], b"")?;
    done(&cluster, 0, &["put", "-", "/music/song"], b"one")?;
    done(&cluster, 1, &["mv", "/music/song", "/music/tune"], b"")?;
    done(&cluster, 1, &["rm", "-r", "/music"], b"")?;
    let told = transcript(
        &cluster,
        &cluster.nodes[1],
        &[
            (&["log"], b""),
            (&["log", "/music/tune"], b""),
            (&["log", "/music", "--removed"], b""),
        ],
    )?;
    expect![[r#"
        $ aber log
        P:I TIME n2 * removed /music cli
        P:I TIME n2 - /music (1 file) -3 B cli
        P:I TIME n2 > /music/song => /music/tune cli
        P:I TIME n1 + /music/song 3 B cli
        P:I TIME n1 * made /music, in partition P cli
        $ aber log /music/tune
        P:I TIME n2 - /music (1 file) -3 B cli
        P:I TIME n2 > /music/song => /music/tune cli
        $ aber log /music --removed
        P:I TIME n2 * removed /music cli
        P:I TIME n2 - /music (1 file) -3 B cli
    "#]]
    .assert_eq(&told);
    Ok(())
}

/// The entry of a write, as it was said.
fn entry_of(cluster: &Cluster, by: usize, arguments: &[&str], input: &[u8]) -> Result<String> {
    let arguments = [arguments, &["--json"]].concat();
    let ran = cluster.nodes[by].aber_with(&arguments, input, PATIENCE)?;
    let result = ran.result()?;
    cluster.settle(PATIENCE)?;
    let entry = result["entries"][0].as_str();
    Ok(entry.with_context(|| format!("{ran:?}"))?.to_owned())
}

#[test]
fn two_moments_are_compared_and_lines_have_authors() -> Result<()> {
    let cluster = Cluster::start(ABER, 2)?;
    let todo = ["put", "-", "/notes/todo"];
    done(&cluster, 0, &["mkdir", "/notes"], b"")?;
    done(&cluster, 0, &todo, b"one\ntwo\nthree\n")?;
    done(&cluster, 1, &todo, b"one\n2\nthree\nfour\n")?;
    done(&cluster, 0, &["mkdir", "/notes/old"], b"")?;
    done(&cluster, 0, &["put", "-", "/notes/old/a"], b"a")?;
    done(&cluster, 1, &["put", "-", "/notes/old/b"], b"b")?;
    let mut big = content("/notes/big", 1, 400_000);
    done(&cluster, 0, &["put", "-", "/notes/big"], &big)?;
    let then = entry_of(&cluster, 1, &["put", "-", "/notes/gone"], b"gone\n")?;
    done(&cluster, 0, &["mv", "/notes/old", "/notes/new"], b"")?;
    done(&cluster, 0, &["rm", "/notes/gone"], b"")?;
    let tail = big.len() - 10;
    big[tail..].fill(0);
    done(&cluster, 1, &["put", "-", "/notes/big"], &big)?;
    done(&cluster, 1, &["put", "-", "/notes/more"], b"more\n")?;
    done(&cluster, 0, &["cp", "/notes/todo", "/notes/copy"], b"")?;
    let last = entry_of(&cluster, 0, &todo, b"one\n2\nthree!\nfour\n")?;

    let told = transcript(
        &cluster,
        &cluster.nodes[1],
        &[
            (&["diff", &then], b""),
            (&["diff", &then, "/notes/todo", "--text"], b""),
            (&["diff", "-1", "/notes/todo"], b""),
            (&["diff", &format!("{last}-"), &last], b""),
            (&["diff", "now", &then, "/notes/new"], b""),
            (&["diff", &then, "--stat"], b""),
            (&["diff", &then, &then], b""),
            (&["diff", "0:99999"], b""),
            (&["blame", "/notes/todo"], b""),
            (&["blame", "/notes/todo", "--at", &then], b""),
            (&["blame", "/notes/copy"], b""),
            (&["blame", "/notes/big"], b""),
            (&["blame", "/notes"], b""),
            (&["log", "/notes/todo", "--versions"], b""),
            (&["log", "/notes/gone", "--versions"], b""),
            (&["log", "/notes", "--versions"], b""),
            (&["show", "0:99999"], b""),
        ],
    )?;
    expect![[r#"
        $ aber diff P:I
        !  /notes/big  390.6 KiB, 6.1 KiB anew  n2
        +  /notes/copy  17 B  n1
        -  /notes/gone  -5 B
        +  /notes/more  5 B  n2
        >  /notes/old/ => /notes/new/
        !  /notes/todo  17 B -> 18 B, 18 B anew  n1
        $ aber diff P:I /notes/todo --text
        !  /notes/todo  17 B -> 18 B, 18 B anew  n1
        --- /notes/todo P:I.1
        +++ /notes/todo P:I.1
        @@ -1,4 +1,4 @@
         one
         2
        -three
        +three!
         four
        $ aber diff -1 /notes/todo
        !  /notes/todo  17 B -> 18 B, 18 B anew  n1
        --- /notes/todo P:I.1
        +++ /notes/todo P:I.1
        @@ -1,4 +1,4 @@
         one
         2
        -three
        +three!
         four
        $ aber diff P:I- P:I
        !  /notes/todo  17 B -> 18 B, 18 B anew  n1
        $ aber diff now P:I /notes/new
        >  /notes/new/ => /notes/old/
        $ aber diff P:I --stat
        2 added (22 B) · 1 removed (5 B) · 2 changed (6.1 KiB) · 1 renamed · 0 with other attributes
        $ aber diff P:I P:I
        $ aber diff P:I
        error: there is no entry P:I [ENTRY_NOT_FOUND]
          why:  this node has not seen it, or it is not kept any more
          mend: see which there are: aber log
        exit 4
        $ aber blame /notes/todo
        P:I TIME n1 1 one
        P:I TIME n2 2 2
        P:I TIME n1 3 three!
        P:I TIME n2 4 four
        $ aber blame /notes/todo --at P:I
        P:I TIME n1 1 one
        P:I TIME n2 2 2
        P:I TIME n1 3 three
        P:I TIME n2 4 four
        $ aber blame /notes/copy
        P:I TIME n1 1 one
        P:I TIME n2 2 2
        P:I TIME n1 3 three
        P:I TIME n2 4 four
        $ aber blame /notes/big
        P:I TIME n1 0..393760 384.5 KiB
        P:I TIME n2 393760..400000 6.1 KiB
        $ aber blame /notes
        error: /notes is a directory  [IS_A_DIRECTORY]
          why:  a file is wanted here, and a directory stands there
          mend: name a file below it, or use -r for whole trees
        exit 1
        $ aber log /notes/todo --versions
        P:I TIME n1 18 B P:I.1 /notes/todo now
        P:I TIME n2 17 B P:I.1 /notes/todo
        P:I TIME n1 14 B P:I.1 /notes/todo
        $ aber log /notes/gone --versions
        P:I TIME n2 5 B P:I.1 /notes/gone
        $ aber log /notes --versions
        error: /notes is a directory  [IS_A_DIRECTORY]
          why:  a file is wanted here, and a directory stands there
          mend: name a file below it, or use -r for whole trees
        exit 1
        $ aber show P:I
        error: there is no entry P:I [ENTRY_NOT_FOUND]
          why:  this node has not seen it, or it is not kept any more
          mend: see which there are: aber log
        exit 4
    "#]]
    .assert_eq(&told);

    for node in &cluster.nodes {
        let text = node.ok(&["show", &last])?;
        ensure!(text.contains("  signature of n1: good\n"), "{text}");
        ensure!(text.contains("  chain      good "), "{text}");
        ensure!(
            text.contains("  1  +  /notes/todo  18 B  done\n       was "),
            "{text}"
        );
        let (shown, value) = records(node, &["show", &format!("{last}.1")], "result")?;
        assert_eq!((shown.len(), &value["chain"]), (1, &Value::from("good")));
        assert_eq!(value["signature"], "good");
    }
    // Each version can be read by what the list says of it.
    let (versions, _) = records(
        &cluster.nodes[1],
        &["log", "/notes/todo", "--versions"],
        "version",
    )?;
    let sizes: Vec<&Value> = versions
        .iter()
        .map(|version| &version["item"]["size"])
        .collect();
    assert_eq!(sizes, [18, 17, 14]);
    let when = versions[1]["when"].as_str().context("an entry")?;
    let read = cluster.nodes[0].ok(&["cat", "/notes/todo", "--at", when])?;
    assert_eq!(read, "one\n2\nthree\nfour\n");
    Ok(())
}
