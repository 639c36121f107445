//! What the command line says: when all is well, and when it is not.

use super::ABER;
use super::golden::{say, transcript};
use aber_tests::process::run::run;
use aber_tests::process::{Cluster, PATIENCE};
use anyhow::{Result, ensure};
use expect_test::expect;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

#[test]
fn commands_say_what_they_did() -> Result<()> {
    let cluster = Cluster::start(ABER, 3)?;
    let node = &cluster.nodes[0];
    let source = cluster.directory.path().join("song");
    std::fs::write(&source, vec![7; 100_000])?;
    let source = source.display().to_string();
    // The first write also waits for a leader.
    let began = transcript(&cluster, node, &[(&["mkdir", "/music"], b"")])?;
    expect![[r#""#]].assert_eq(&began);
    let wrote = transcript(
        &cluster,
        node,
        &[
            (&["put", &source, "/music/"], b""),
            (&["put", "-", "/note"], b"a short note\n"),
            (&["cat", "/note"], b""),
            (&["cp", "/music/song", "/music/copy"], b""),
            (&["mv", "/music/copy", "/music/tune"], b""),
            (&["rm", "/music/tune"], b""),
            (&["ls", "/"], b""),
            (&["ls", "-l", "/music"], b""),
            (&["ls", "-R", "/"], b""),
            (&["log"], b""),
            (&["log", "/note"], b""),
        ],
    )?;
    cluster.settle(PATIENCE)?;
    let after = transcript(
        &cluster,
        node,
        &[
            (&["where", "/note"], b""),
            (&["where", "/music/song"], b""),
            (&["status"], b""),
            (&["status", "--check"], b""),
        ],
    )?;
    expect![[r#""#]].assert_eq(&(wrote + &after));
    Ok(())
}

/// Bad input gets a code and a sentence, and changes nothing.
#[test]
fn bad_input_is_refused_in_words() -> Result<()> {
    let cluster = Cluster::start(ABER, 1)?;
    let node = &cluster.nodes[0];
    node.ok(&["mkdir", "/d"])?;
    ensure!(node.put(b"file", "/d/f")?.code == 0);
    let (long, deep) = (format!("/{}", "n".repeat(256)), "/n".repeat(2100));
    let directory = cluster.directory.path().join("source");
    std::fs::create_dir(&directory)?;
    let directory = directory.display().to_string();
    let listing = node.ok(&["ls", "-R", "/"])?;
    let rows: &[(&[&str], &[u8])] = &[
        (&["put", "-", "/../x"], b"x"),
        (&["put", "-", "/d/./x"], b"x"),
        (&["put", "-", &long], b"x"),
        (&["put", "-", &deep], b"x"),
        (&["put", "-", "/.aber/x"], b"x"),
        (&["mkdir", "/d/.aber"], b""),
        (&["put", "-", "d/x"], b"x"),
        (&["put", "-", "/d"], b"x"),
        (&["put", "-", "/"], b"x"),
        (&["put", "-", "/d/f/x"], b"x"),
        (&["put", "-", "/no/x"], b"x"),
        (&["put", "nothing-here", "/d/"], b""),
        (&["put", &directory, "/d/"], b""),
        (&["put", "-r", "nothing-here", "/d/"], b""),
        (&["mkdir", "/d"], b""),
        (&["mkdir", "/d/f/x"], b""),
        (&["cat", "/d"], b""),
        (&["cat", "/nothing"], b""),
        (&["ls", "/nothing"], b""),
        (&["get", "/nothing", &directory], b""),
        (&["rm", "/nothing"], b""),
        (&["rm", "/d"], b""),
        (&["rm", "-r", "/"], b""),
        (&["mv", "/d/f", "/no/f"], b""),
        (&["mv", "-n", "/d/f", "/d/f"], b""),
        (&["where", "/nothing"], b""),
        (&["log", "nothing"], b""),
        (&["verify", "--unknown"], b""),
        (&["put"], b""),
    ];
    let said = transcript(&cluster, node, rows)?;
    expect![[r#""#]].assert_eq(&said);
    ensure!(
        node.ok(&["ls", "-R", "/"])? == listing,
        "something was changed"
    );
    Ok(())
}

/// A source that is there and cannot be read: a directory of another's, or a file of the kernel's.
#[test]
fn an_unreadable_source_is_named() -> Result<()> {
    let cluster = Cluster::start(ABER, 1)?;
    let node = &cluster.nodes[0];
    // Reading this one fails for every user, root included.
    let ran = node.aber(&["put", "/proc/self/mem", "/x"])?;
    ensure!(
        ran.code == 1 && ran.reason() == Some("SOURCE_UNREADABLE"),
        "{ran:?}"
    );
    ensure!(node.ok(&["ls", "/"])?.is_empty());
    Ok(())
}

/// Promise D3: an upload that breaks off leaves nothing.
#[test]
fn a_broken_upload_leaves_nothing() -> Result<()> {
    let cluster = Cluster::start(ABER, 1)?;
    let node = &cluster.nodes[0];
    for sent_bytes in [100, 3_000_000] {
        let mut child = node
            .command(&["put", "-", "/broken"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let mut stdin = child.stdin.take().expect("a pipe");
        stdin.write_all(&vec![7; sent_bytes])?;
        stdin.flush()?;
        std::thread::sleep(std::time::Duration::from_millis(300));
        child.kill()?;
        child.wait()?;
        drop(stdin);
        ensure!(node.put(b"whole", "/after")?.code == 0);
        cluster.settle(PATIENCE)?;
        ensure!(node.ok(&["ls", "/"])? == "after\n");
        ensure!(!node.mirror().join("broken").exists());
    }
    Ok(())
}

fn up(cluster: &Cluster, data: &Path, more: &[&str], text: &mut String, what: &str) -> Result<()> {
    let mut command = Command::new(ABER);
    command
        .arg("up")
        .args(more)
        .env("ABER_DATA", data)
        .env("NO_COLOR", "1")
        .env("ABER_LOG", "off");
    let ran = run(command, cluster.directory.path(), b"", PATIENCE)?;
    say(cluster, text, &format!("up     # {what}"), &ran);
    Ok(())
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        let kind = entry.file_type()?;
        if kind.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else if kind.is_file() {
            std::fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}

/// A data directory that cannot be used is refused, and left as it is.
#[test]
fn a_data_directory_of_another_kind_is_refused_in_words() -> Result<()> {
    let mut cluster = Cluster::start(ABER, 1)?;
    let other = Cluster::start(ABER, 1)?;
    let node = &cluster.nodes[0];
    ensure!(node.put(b"kept", "/kept")?.code == 0);
    let mut text = String::new();
    up(&cluster, &node.data, &[], &mut text, "it runs already")?;
    let address = node.status()?["link_address"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let fresh = cluster.directory.path().join("fresh");
    up(
        &cluster,
        &fresh,
        &["--listen", &address],
        &mut text,
        "the port is taken",
    )?;
    up(
        &cluster,
        &fresh,
        &["--listen", "nonsense"],
        &mut text,
        "no address",
    )?;
    cluster.nodes[0].stop()?;
    let ran = cluster.nodes[0].aber(&["ls", "/"])?;
    say(&cluster, &mut text, "ls /     # nobody runs", &ran);
    let whole = cluster.nodes[0].data.clone();
    let stranger = &other.nodes[0].data;
    type Hurt<'a> = &'a dyn Fn(&Path) -> std::io::Result<()>;
    let from = |name: &'static str| {
        move |data: &Path| std::fs::copy(stranger.join(name), data.join(name)).map(drop)
    };
    let cases: [(&str, Hurt<'_>); 8] = [
        ("the genesis of another cluster", &from("genesis")),
        ("the key of another node", &from("key")),
        ("a newer format", &|data| {
            std::fs::write(data.join("format"), "aber data 2\n")
        }),
        ("a damaged format", &|data| {
            std::fs::write(data.join("format"), "nonsense\n")
        }),
        ("a damaged genesis", &|data| {
            std::fs::write(data.join("genesis"), "nonsense")
        }),
        ("no genesis", &|data| {
            std::fs::remove_file(data.join("genesis"))
        }),
        ("no key", &|data| std::fs::remove_file(data.join("key"))),
        ("the log of another cluster", &|data| {
            for entry in std::fs::read_dir(stranger.join("log"))? {
                let entry = entry?;
                std::fs::copy(entry.path(), data.join("log").join(entry.file_name()))?;
            }
            Ok(())
        }),
    ];
    for (what, hurt) in cases {
        let copy = cluster.directory.path().join("copy");
        copy_tree(&whole, &copy)?;
        hurt(&copy)?;
        up(&cluster, &copy, &[], &mut text, what)?;
        std::fs::remove_dir_all(&copy)?;
    }
    let file = cluster.directory.path().join("file");
    std::fs::write(&file, "")?;
    up(&cluster, &file, &[], &mut text, "a file")?;
    let full = cluster.directory.path().join("full");
    std::fs::create_dir_all(full.join(".aber"))?;
    std::fs::write(full.join(".aber/marker"), "another folder\n")?;
    let full = full.display().to_string();
    up(
        &cluster,
        &whole,
        &["--mirror", &full],
        &mut text,
        "the mirror of another folder",
    )?;
    expect![[r#""#]].assert_eq(&text);
    cluster.nodes[0].start()?;
    ensure!(cluster.nodes[0].ok(&["cat", "/kept"])? == "kept");
    Ok(())
}
