//! The command line as a process, against a fake node.

use super::Served;
use aber_node::reason::{Problem, Reason};
use expect_test::{Expect, expect, expect_file};
use std::path::Path;
use std::process::Stdio;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

async fn run_in(data: &Path, arguments: &[&str], input: &[u8]) -> Ran {
    let mut child = Command::new(env!("CARGO_BIN_EXE_aber"))
        .args(arguments)
        .env("ABER_DATA", data)
        .env_remove("ABER_NODE")
        .env_remove("NO_COLOR")
        .env("TZ", "UTC")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("started");
    let mut stdin = child.stdin.take().expect("piped");
    let _ = stdin.write_all(input).await;
    drop(stdin);
    let output = child.wait_with_output().await.expect("ended");
    let text = |bytes| {
        let text = String::from_utf8(bytes).expect("UTF-8");
        text.replace(&*data.to_string_lossy(), "DATA")
    };
    Ran {
        code: output.status.code().expect("no signal"),
        out: text(output.stdout),
        err: text(output.stderr),
    }
}

pub async fn run(served: &Served, arguments: &[&str]) -> Ran {
    run_in(served.data.path(), arguments, b"").await
}

pub async fn check(served: &Served, arguments: &[&str], code: i32, wanted: Expect) {
    let ran = run(served, arguments).await;
    wanted.assert_eq(&format!("{}{}", ran.out, ran.err));
    assert_eq!(ran.code, code, "{arguments:?}");
}

fn write(path: &Path, content: &[u8]) -> String {
    std::fs::write(path, content).expect("written");
    path.to_str().expect("UTF-8").to_owned()
}

#[tokio::test]
async fn help_teaches_and_fits() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let mut text = String::new();
    let commands = [
        "",
        "put",
        "demo",
        "up",
        "status",
        "ls",
        "get",
        "log",
        "show",
        "diff",
        "blame",
        "materialize",
        "members",
        "members set",
        "members rm",
        "links",
        "tree",
        "metrics",
        "where",
        "invite ls",
        "invite revoke",
        "doctor",
        "service install",
        "tag",
        "volume set",
        "prune",
    ];
    for command in commands {
        let mut arguments: Vec<_> = command.split_whitespace().collect();
        arguments.push("--help");
        let ran = run_in(dir.path(), &arguments, b"").await;
        assert_eq!(ran.code, 0);
        text += &format!("$ aber {command} --help\n{}\n", ran.out);
    }
    expect_file!["help.txt"].assert_eq(&text);
}

#[tokio::test]
async fn usage_and_absence_have_their_codes() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let cases: [(&[&str], i32); 9] = [
        (&["nonsense"], 2),
        (&["put"], 2),
        (&["put", "-", "relative"], 2),
        (&["put", "-", "/dir/"], 2),
        (&["ls", "/a/../b"], 2),
        (&["ls"], 9),
        (&["--timeout", "soon", "ls"], 2),
        (&["put", "/no/such/file", "/"], 4),
        (&["version"], 0),
    ];
    for (arguments, code) in cases {
        let ran = run_in(dir.path(), arguments, b"").await;
        assert_eq!(ran.code, code, "{arguments:?}: {}{}", ran.out, ran.err);
    }
    let ran = run_in(dir.path(), &["ls", "--json"], b"").await;
    let last: serde_json::Value = serde_json::from_str(ran.out.trim()).expect("one line of JSON");
    assert_eq!(
        (&last["type"], &last["reason"]),
        (&"error".into(), &"DAEMON_NOT_RUNNING".into())
    );
    assert_eq!(last["schema"], "aber.ls/1");
}

/// Files go in and come out: bytes, modes, times, links.
#[tokio::test]
async fn a_tree_goes_in_and_comes_out() {
    let served = Served::start().await;
    let dir = tempfile::tempdir().expect("temporary directory");
    let tree = dir.path().join("tree");
    std::fs::create_dir_all(tree.join("sub/empty")).expect("directories");
    write(&tree.join("small"), b"small");
    let large: Vec<u8> = (0..700_000u32).flat_map(u32::to_le_bytes).collect();
    write(&tree.join("sub/large"), &large);
    write(&tree.join("sub/nothing"), b"");
    std::os::unix::fs::symlink("../small", tree.join("sub/link")).expect("link");
    let file = std::fs::File::options()
        .write(true)
        .open(tree.join("small"))
        .expect("file");
    let time = std::time::UNIX_EPOCH + std::time::Duration::new(1_234_567_890, 123_456_789);
    file.set_times(std::fs::FileTimes::new().set_modified(time))
        .expect("time");
    let put = ["put", "-r", tree.to_str().expect("UTF-8"), "/", "--json"];
    let ran = run(&served, &put).await;
    assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
    let last: serde_json::Value =
        serde_json::from_str(ran.out.lines().last().expect("a line")).expect("JSON");
    let counted = ["files", "directories", "links", "read_bytes", "failed"];
    let counted = counted.map(|key| last[key].as_u64());
    assert_eq!(counted, [3, 3, 1, 2_800_005, 0].map(Some));
    check(
        &served,
        &["ls", "-R", "/"],
        0,
        expect![[r#"
            tree/
            tree/small
            tree/sub/
            tree/sub/empty/
            tree/sub/large
            tree/sub/link -> ../small
            tree/sub/nothing
        "#]],
    )
    .await;
    let back = dir.path().join("back");
    let ran = run(
        &served,
        &["get", "-r", "/tree", back.to_str().expect("UTF-8")],
    )
    .await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    let read = |name: &str| std::fs::read(back.join(name)).expect("there");
    assert_eq!(read("small"), b"small");
    assert_eq!(read("sub/large"), large);
    assert_eq!(read("sub/nothing"), b"");
    let found = std::fs::metadata(back.join("small"))
        .expect("there")
        .modified()
        .expect("time");
    assert_eq!(found, time);
    let target = std::fs::read_link(back.join("sub/link")).expect("link");
    assert_eq!(target, Path::new("../small"));
    let ran = run(
        &served,
        &["cat", "/tree/small", "--offset", "1", "--length", "3"],
    )
    .await;
    assert_eq!((ran.code, ran.out.as_str()), (0, "mal"));
}

/// What cannot be put is listed, the rest goes on, and the exit code says so.
#[tokio::test]
async fn one_bad_path_does_not_stop_the_others() {
    let served = Served::start().await;
    let dir = tempfile::tempdir().expect("temporary directory");
    let tree = dir.path().join("t");
    std::fs::create_dir_all(&tree).expect("directory");
    for number in 0..50 {
        write(&tree.join(format!("f{number:02}")), b"x");
    }
    let _pipe = std::os::unix::net::UnixListener::bind(tree.join("socket")).expect("socket");
    assert_eq!(run(&served, &["mkdir", "-p", "/t/f17"]).await.code, 0);
    let ran = run(&served, &["put", "-r", tree.to_str().expect("UTF-8"), "/"]).await;
    assert_eq!(ran.code, 3, "{}", ran.err);
    let lines: Vec<_> = ran.err.lines().collect();
    assert_eq!(lines.len(), 2, "{}", ran.err);
    assert!(
        lines.iter().any(|l| l.contains("/t/f17 is a directory")),
        "{}",
        ran.err
    );
    assert!(lines.iter().any(|l| l.contains("socket")), "{}", ran.err);
    assert_eq!(
        served
            .fake
            .state()
            .items
            .keys()
            .filter(|p| p.starts_with("/t/f"))
            .count(),
        50
    );
}

/// D3: a write is repeated under its id until the node answers, and is done once.
#[tokio::test]
async fn a_write_is_repeated_while_the_node_cannot_answer() {
    let served = Served::start().await;
    served.fake.state().refuse = vec![
        Problem::new(Reason::Stopping),
        Problem::new(Reason::Overloaded),
        Problem::new(Reason::OutboxFull),
    ];
    check(
        &served,
        &["mkdir", "/d"],
        0,
        expect![[r#"
        committed 1:1
    "#]],
    )
    .await;
    assert_eq!(served.fake.state().changes, [1]);
}

/// A2: a change that only waits is a success that says so.
#[tokio::test]
async fn a_change_below_its_level_is_followed() {
    let served = Served::start().await;
    served.fake.state().level = aber_proto::generated::v1::Acknowledgement::Queued;
    let fake = served.fake.clone();
    let later = tokio::spawn(async move {
        while fake.state().changes.is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        fake.state().level = aber_proto::generated::v1::Acknowledgement::Committed;
    });
    let ran = run(&served, &["mkdir", "/d"]).await;
    later.await.expect("done");
    assert_eq!((ran.code, ran.out.as_str()), (0, "committed 1:1\n"));
    served.fake.state().level = aber_proto::generated::v1::Acknowledgement::Queued;
    check(
        &served,
        &["mkdir", "--ack", "queued", "/e"],
        0,
        expect![[r#"
        queued 1:2
    "#]],
    )
    .await;
}

#[tokio::test]
async fn standard_input_becomes_a_file() {
    let served = Served::start().await;
    let ran = run_in(served.data.path(), &["put", "-", "/note"], b"hello").await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    check(&served, &["cat", "/note"], 0, expect!["hello"]).await;
    let ran = run_in(served.data.path(), &["put", "-", "/no/note"], b"hello").await;
    assert_eq!(ran.code, 4, "{}", ran.err);
}

/// The same commands with golden outputs.
#[tokio::test]
async fn golden_outputs() {
    let served = Served::start().await;
    let dir = tempfile::tempdir().expect("temporary directory");
    let file = write(&dir.path().join("a\nb"), b"12345");
    check(
        &served,
        &["mkdir", "/d"],
        0,
        expect![[r#"
        committed 1:1
    "#]],
    )
    .await;
    check(
        &served,
        &["mkdir", "/d"],
        5,
        expect![[r#"
        error: /d exists already  [PATH_EXISTS]
          why:  it was to be free, and something stands there
          mend: choose another name, or remove it first: aber rm
    "#]],
    )
    .await;
    check(
        &served,
        &["put", &file, "/d"],
        0,
        expect![[r#"
        read 5 B · new 0 B · committed 1:3
    "#]],
    )
    .await;
    check(
        &served,
        &["put", &file, "/no/where"],
        4,
        expect![[r#"
        error: the directory of /no/where does not exist  [NO_PARENT]
          why:  a file or directory is only made in a directory that is there
          mend: make it first: aber mkdir -p
    "#]],
    )
    .await;
    check(
        &served,
        &["put", "-p", &file, "/no/where/"],
        0,
        expect![[r#"
        read 5 B · new 0 B · committed 1:5
    "#]],
    )
    .await;
    check(
        &served,
        &["ls", "/d"],
        0,
        expect![[r#"
        a\nb
    "#]],
    )
    .await;
    check(
        &served,
        &["mv", "/d/a\nb", "/d/c"],
        0,
        expect![[r#"
        committed 1:6
    "#]],
    )
    .await;
    check(
        &served,
        &["rm", "/d"],
        1,
        expect![[r#"
        error: /d is not empty  [DIRECTORY_NOT_EMPTY]
          why:  a directory goes only when it is empty, or with -r
          mend: to remove it with all that is in it: aber rm -r /d
    "#]],
    )
    .await;
    check(
        &served,
        &["rm", "-r", "/d"],
        0,
        expect![[r#"
        committed 1:8
    "#]],
    )
    .await;
    check(
        &served,
        &["cat", "/d/c"],
        4,
        expect![[r#"
        error: /d/c does not exist  [PATH_NOT_FOUND]
          why:  nothing stands at this path in the tree, as this node knows it
          mend: see what is there: aber ls -R /
    "#]],
    )
    .await;
    check(
        &served,
        &["log"],
        0,
        expect![[r#"
            3:1843  22 Nov 2025 12:00  yann  +  /music/a\u{1b}b      2.0 KiB   cli
                                                … and 2 more events
        "#]],
    )
    .await;
    check(
        &served,
        &["status"],
        0,
        expect![[r#"
            breizh   DEGRADED   1 of 2 nodes up   this node: yann
              only here  3 changes, 212.0 MiB: about 27 min at 1.1 Mbit/s. Do not switch off yet (aber status --wait)
              writing    works
              node enora        admin   up               votes   [fd42::1]:7787
              node gwen         writer  away since 2025-11-22T12:00:00Z   [fd42::7]:7787   up 1 Mbit/s   down 819.2 kbit/s   linked to enora, yann
              node phone        reader  catching up (1,200 entries) never votes
            ! gwen is away
                why   no link since 09:12
                mend  start gwen
        "#]],
    )
    .await;
    check(&served, &["status", "--verbose"], 0, expect![[r#"
        breizh   DEGRADED   1 of 2 nodes up   this node: yann
          only here  3 changes, 212.0 MiB: about 27 min at 1.1 Mbit/s. Do not switch off yet (aber status --wait)
          writing    works
          node enora        admin   up               votes   [fd42::1]:7787   number 1   leads 0, 2   aber 0.1.0
          node gwen         writer  away since 2025-11-22T12:00:00Z   [fd42::7]:7787   up 1 Mbit/s   down 819.2 kbit/s   linked to enora, yann   number 7   aber 0.1.0
          node phone        reader  catching up (1,200 entries) never votes   number 9
          uplink     at most 1.1 Mbit/s, 9.8 MiB wait, for 75 s
          sent       vital 1.0 KiB (1 %), log 2.0 KiB (2 %), content 92.8 KiB (96 %), catch-up 0 B (0 %)
          partition 3   applied 1843, shown 1843, digest abababababab at 1843   led by yann   music
        ! gwen is away
            why   no link since 09:12
            mend  start gwen
    "#]]).await;
    check(
        &served,
        &["status", "--check"],
        1,
        expect![[r#"
        WARNING: gwen is away
    "#]],
    )
    .await;
    check(
        &served,
        &["verify"],
        8,
        expect![[r#"
        CHUNK_DAMAGED  /music/a  its hash differs
        read 4.0 KiB · 1 entry · 2 chunks · 3 files · 1 finding, 0 mended
    "#]],
    )
    .await;
    check(&served, &["ls", "/", "--json"], 0, expect![[r#"
        {"author":"fake","blake3":null,"copies":null,"copies_wanted":null,"entry":"1:4","etag":"1:4.1","kind":"directory","left_bytes":null,"mode":"0755","modify_time":null,"order_time":null,"path":"/no","path_state":"unspecified","path_state_reason":null,"schema":"aber.ls/1","size":0,"symlink_target":null,"type":"item"}
        {"items":1,"schema":"aber.ls/1","type":"result"}
    "#]]).await;
    check(&served, &["mkdir", "/x", "--json"], 0, expect![[r#"
        {"chain_hashes":[null],"entries":["1:9"],"level":"committed","schema":"aber.mkdir/1","type":"result","waiting_changes":0,"waiting_for":null}
    "#]]).await;
}

#[tokio::test]
async fn looking_at_history_has_its_outputs() {
    let served = Served::start().await;
    let mut text = String::new();
    for (arguments, code) in [
        (&["show", "3:1843"][..], 8),
        (&["show", "3:1843.1", "--json"], 8),
        (&["show", "3:1843.2"], 2),
        (&["show", "9:9"], 4),
        (&["show", "yesterday"], 2),
        (&["log", "--json"], 0),
        (&["log", "/music/a", "--versions"], 0),
        (&["log", "/music/a", "--versions", "--json"], 0),
        (&["log", "--versions"], 2),
        (&["diff", "3:9"], 0),
        (&["diff", "3:9", "/music", "--text"], 0),
        (&["diff", "3:9", "3:1843", "/music", "--stat"], 0),
        (&["diff", "-1", "/music", "--json"], 0),
        (&["blame", "/music/a"], 0),
        (&["blame", "/music/a", "--json"], 0),
    ] {
        let ran = run(&served, arguments).await;
        text += &format!("$ aber {}\n{}{}", arguments.join(" "), ran.out, ran.err);
        assert_eq!(ran.code, code, "{arguments:?}: {}{}", ran.out, ran.err);
    }
    expect_file!["look.txt"].assert_eq(&text);
}
