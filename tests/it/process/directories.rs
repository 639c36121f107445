//! Data directories that cannot be used: the words for it, and that they are left as they are.

use super::ABER;
use super::golden::say;
use aber_tests::process::run::run;
use aber_tests::process::{Cluster, PATIENCE};
use anyhow::{Result, ensure};
use expect_test::expect;
use std::path::Path;
use std::process::Command;

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
    expect![[r#"
        $ aber up     # it runs already
        error: DIR/n1 is in use  [DATA_DIR_IN_USE]
          why:  another aber, process PID, runs on this directory
          mend: stop it first: aber down --data DIR/n1
        exit 1
        $ aber up     # the port is taken
        error: 127.0.0.1:PORT cannot be used  [PORT_IN_USE]
          why:  another program listens there, or the address is not of this machine: Address already in use (os error 98)
          mend: choose another one: aber up --listen 127.0.0.1:PORT takes any free port
        exit 1
        $ aber up     # no address
        error: the command cannot be done as given  [USAGE]
          why:  --listen nonsense: this is no address with a port; it looks like 127.0.0.1:PORT or [::1]:0
          mend: see: aber help
        exit 2
        $ aber ls /     # nobody runs
        error: no node is running here  [DAEMON_NOT_RUNNING]
          why:  nobody answers at DIR/n1/api.sock: No such file or directory (os error 2)
          mend: start it: aber up; if it has its data elsewhere, name it: --data DIR
        exit 9
        $ aber up     # the genesis of another cluster
        error: DIR/copy belongs to another cluster  [OTHER_CLUSTER]
          why:  its cluster is OTHER, not THIS
          mend: use the directory of this cluster, or another --data; nothing was changed
        exit 1
        $ aber up     # the key of another node
        error: DIR/copy cannot be used as data directory  [DATA_DIR_UNUSABLE]
          why:  its files `member` and `key` are those of different nodes
          mend: name another one by --data, or mend its owner and mode; nothing was changed
        exit 1
        $ aber up     # a newer format
        error: this aber is too old for DIR/copy  [VERSION_TOO_OLD]
          why:  it has format 2, and this program knows up to 1
          mend: install a newer aber; nothing was changed
        exit 12
        $ aber up     # a damaged format
        error: DIR/copy cannot be used as data directory  [DATA_DIR_UNUSABLE]
          why:  DIR/copy is no data directory: its format file says "nonsense\n"
          mend: name another one by --data, or mend its owner and mode; nothing was changed
        exit 1
        $ aber up     # a damaged genesis
        error: DIR/copy cannot be used as data directory  [DATA_DIR_UNUSABLE]
          why:  the bytes are no genesis: no well-formed protobuf
          mend: name another one by --data, or mend its owner and mode; nothing was changed
        exit 1
        $ aber up     # no genesis
        error: DIR/copy cannot be used as data directory  [DATA_DIR_UNUSABLE]
          why:  its genesis file is missing; every member of the cluster has the same
          mend: name another one by --data, or mend its owner and mode; nothing was changed
        exit 1
        $ aber up     # no key
        error: DIR/copy cannot be used as data directory  [DATA_DIR_UNUSABLE]
          why:  its files `member` and `key` are those of different nodes
          mend: name another one by --data, or mend its owner and mode; nothing was changed
        exit 1
        $ aber up     # the log of another cluster
        error: the log belongs to another cluster  [OTHER_CLUSTER]
          why:  its cluster is OTHER (node 1), not that of the directory's genesis and key
          mend: use the directory of this cluster, or another --data; nothing was changed
        exit 1
        $ aber up     # a file
        error: DIR/file cannot be used as data directory  [DATA_DIR_UNUSABLE]
          why:  DIR/file is not a directory
          mend: name another one by --data, or mend its owner and mode; nothing was changed
        exit 1
        $ aber up     # the mirror of another folder
        error: DIR/full cannot be used as mirror  [MIRROR_UNUSABLE]
          why:  its .aber/marker says "another folder\n", not "cluster THIS\nnode n1\n": it shows another folder
          mend: name an empty directory: --mirror DIR
        exit 1
    "#]].assert_eq(&text);
    cluster.nodes[0].start()?;
    ensure!(cluster.nodes[0].ok(&["cat", "/kept"])? == "kept");
    Ok(())
}
