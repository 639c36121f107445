//! What the command line says: when all is well, and when it is not.

use super::ABER;
use super::golden::transcript;
use aber_tests::process::{Cluster, PATIENCE};
use anyhow::{Result, ensure};
use expect_test::expect;
use std::io::Write;
use std::process::Stdio;

#[test]
fn commands_say_what_they_did() -> Result<()> {
    let cluster = Cluster::start(ABER, 3)?;
    let node = &cluster.nodes[0];
    let source = cluster.directory.path().join("song");
    std::fs::write(&source, vec![7; 100_000])?;
    let source = source.display().to_string();
    // The first write also waits for a leader.
    let began = transcript(&cluster, node, &[(&["mkdir", "/music"], b"")])?;
    expect![[r#"
        $ aber mkdir /music
        committed P:I
    "#]]
    .assert_eq(&began);
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
            (&["status", "--verbose"], b""),
            (&["status", "--check"], b""),
        ],
    )?;
    expect![[r#"
        $ aber put DIR/song /music/
        read 97.7 KiB · new 97.7 KiB · committed P:I
        $ aber put - /note
        read 13 B · new 0 B · committed P:I
        $ aber cat /note
        a short note
        $ aber cp /music/song /music/copy
        committed P:I
        $ aber mv /music/copy /music/tune
        committed P:I
        $ aber rm /music/tune
        committed P:I
        $ aber ls /
        music/
        note
        $ aber ls -l /music
        -rw-r--r-- 97.7 KiB TIME n1 P:I song
        $ aber ls -R /
        music/
        music/song
        note
        $ aber log
        P:I TIME n1 - /music/tune -97.7 KiB cli
        P:I TIME n1 > /music/copy => /music/tune cli
        P:I TIME n1 + /music/copy copied from /music/song cli
        P:I TIME n1 + /note 13 B cli
        P:I TIME n1 + /music/song 97.7 KiB cli
        P:I TIME n1 * made /music, in partition P cli
        $ aber log /note
        P:I TIME n1 + /note 13 B cli
        $ aber where /note
        n1                complete
        n2                complete
        n3                complete
        3 nodes have it whole
        $ aber where /music/song
        n1                complete
        n2                complete
        n3                complete
        3 nodes have it whole
        $ aber status
        demo   OK   3 of 3 nodes up   this node: n1
          DIR/n1/mirror  mirror of /, up to date   2 files, 97.7 KiB (563 B on disk)
          writing    works
          node n1           admin   up               votes   127.0.0.1:PORT
          node n2           admin   up               votes   127.0.0.1:PORT
          node n3           admin   up               votes   127.0.0.1:PORT
        $ aber status --verbose
        demo   OK   3 of 3 nodes up   this node: n1
          DIR/n1/mirror  mirror of /, up to date   2 files, 97.7 KiB (563 B on disk)
          writing    works
          node n1           admin   up               votes   127.0.0.1:PORT
          node n2           admin   up               votes   127.0.0.1:PORT
          node n3           admin   up               votes   127.0.0.1:PORT
          uplink     no limit, no content waits
          sent
          partition 0   applied I, shown I, digest DIGEST at I   led by LEADER
          partition 1   applied I, shown I, digest DIGEST at I   led by LEADER
          partition 2   applied I, shown I, digest DIGEST at I   led by LEADER
          partition 3   applied I, shown I, digest DIGEST at I   led by LEADER
        $ aber status --check
        OK: nothing to report
    "#]]
    .assert_eq(&(wrote + &after));
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
        (&["mv", "/d", "/d/x"], b""),
        (&["where", "/nothing"], b""),
        (&["log", "nothing"], b""),
        (&["verify", "--unknown"], b""),
        (&["put"], b""),
    ];
    let said = transcript(&cluster, node, rows)?;
    expect![[r#"
        $ aber put - /../x
        error: /../x is not a path of the tree  [NAME_NOT_ALLOWED]
          why:  '.' and '..' are not names (rule NA-1)
          mend: paths look like /music/song.flac: they start with '/', and no name is '.', '..', '.aber' or above 255 bytes
        exit 2
        $ aber put - /d/./x
        error: /d/./x is not a path of the tree  [NAME_NOT_ALLOWED]
          why:  '.' and '..' are not names (rule NA-1)
          mend: paths look like /music/song.flac: they start with '/', and no name is '.', '..', '.aber' or above 255 bytes
        exit 2
        $ aber put - /nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn…
        error: /nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn is not a path of the tree  [NAME_NOT_ALLOWED]
          why:  a name is longer than 255 bytes (rule NA-1)
          mend: paths look like /music/song.flac: they start with '/', and no name is '.', '..', '.aber' or above 255 bytes
        exit 2
        $ aber put - /n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n…
        error: /n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n/n… is not a path of the tree  [NAME_NOT_ALLOWED]
          why:  the path is longer than 4,096 bytes (rule NA-1)
          mend: paths look like /music/song.flac: they start with '/', and no name is '.', '..', '.aber' or above 255 bytes
        exit 2
        $ aber put - /.aber/x
        error: /.aber/x is not a path of the tree  [NAME_NOT_ALLOWED]
          why:  the name .aber is reserved (rule NA-7)
          mend: paths look like /music/song.flac: they start with '/', and no name is '.', '..', '.aber' or above 255 bytes
        exit 2
        $ aber mkdir /d/.aber
        error: /d/.aber is not a path of the tree  [NAME_NOT_ALLOWED]
          why:  the name .aber is reserved (rule NA-7)
          mend: paths look like /music/song.flac: they start with '/', and no name is '.', '..', '.aber' or above 255 bytes
        exit 2
        $ aber put - d/x
        error: d/x is not a path of the tree  [NAME_NOT_ALLOWED]
          why:  a path of the tree starts with '/' (rule NA-1)
          mend: paths look like /music/song.flac: they start with '/', and no name is '.', '..', '.aber' or above 255 bytes
        exit 2
        $ aber put - /d
        error: /d is a directory  [IS_A_DIRECTORY]
          why:  a file is wanted here, and a directory stands there
          mend: name a file below it, or use -r for whole trees
        exit 1
        $ aber put - /
        error: the command cannot be done as given  [USAGE]
          why:  standard input needs the path of a file: aber put - /notes/today.txt
          mend: see: aber help
        exit 2
        $ aber put - /d/f/x
        error: /d/f is not a directory  [NOT_A_DIRECTORY]
          why:  a file or a symbolic link stands where a directory is wanted
          mend: see what it is: aber ls -l /d/f
        exit 1
        $ aber put - /no/x
        error: the directory of /no/x does not exist  [NO_PARENT]
          why:  a file or directory is only made in a directory that is there
          mend: make it first: aber mkdir -p
        exit 4
        $ aber put nothing-here /d/
        error: nothing-here does not exist on this machine  [SOURCE_MISSING]
          why:  the first arguments of put are local files
          mend: check the name; nothing of it was sent
        exit 4
        $ aber put DIR/source /d/
        error: the command cannot be done as given  [USAGE]
          why:  DIR/source is a directory; with all that is in it: put -r DIR/source
          mend: see: aber help
        exit 2
        $ aber put -r nothing-here /d/
        error: nothing-here does not exist on this machine  [SOURCE_MISSING]
          why:  the first arguments of put are local files
          mend: check the name; nothing of it was sent
        exit 4
        $ aber mkdir /d
        error: /d exists already  [PATH_EXISTS]
          why:  it was to be free, and something stands there
          mend: choose another name, or remove it first: aber rm
        exit 5
        $ aber mkdir /d/f/x
        error: /d/f/x is not a directory  [NOT_A_DIRECTORY]
          why:  a file or a symbolic link stands where a directory is wanted
          mend: see what it is: aber ls -l /d/f/x
        exit 1
        $ aber cat /d
        error: /d is a directory  [IS_A_DIRECTORY]
          why:  a file is wanted here, and a directory stands there
          mend: name a file below it, or use -r for whole trees
        exit 1
        $ aber cat /nothing
        error: /nothing does not exist  [PATH_NOT_FOUND]
          why:  nothing stands at this path in the tree, as this node knows it
          mend: see what is there: aber ls -R /
        exit 4
        $ aber ls /nothing
        error: /nothing does not exist  [PATH_NOT_FOUND]
          why:  nothing stands at this path in the tree, as this node knows it
          mend: see what is there: aber ls -R /
        exit 4
        $ aber get /nothing DIR/source
        error: /nothing does not exist  [PATH_NOT_FOUND]
          why:  nothing stands at this path in the tree, as this node knows it
          mend: see what is there: aber ls -R /
        exit 4
        $ aber rm /nothing
        error: /nothing does not exist  [PATH_NOT_FOUND]
          why:  nothing stands at this path in the tree, as this node knows it
          mend: see what is there: aber ls -R /
        exit 4
        $ aber rm /d
        error: /d is not empty  [DIRECTORY_NOT_EMPTY]
          why:  a directory goes only when it is empty, or with -r
          mend: to remove it with all that is in it: aber rm -r /d
        exit 1
        $ aber rm -r /
        error: the root of the tree stays as it is  [ROOT_FIXED]
          why:  / cannot be removed, renamed, replaced or given attributes
          mend: name something below it: aber ls /
        exit 1
        $ aber mv /d/f /no/f
        error: the directory of /no/f does not exist  [NO_PARENT]
          why:  a file or directory is only made in a directory that is there
          mend: make it first: aber mkdir -p
        exit 4
        $ aber mv -n /d/f /d/f
        error: /d/f exists already  [PATH_EXISTS]
          why:  it was to be free, and something stands there
          mend: choose another name, or remove it first: aber rm
        exit 5
        $ aber mv /d /d/x
        error: /d cannot move to /d/x  [RENAME_CYCLE]
          why:  the new place lies inside the directory that moves
          mend: choose a place outside of it
        exit 1
        $ aber where /nothing
        error: /nothing does not exist  [PATH_NOT_FOUND]
          why:  nothing stands at this path in the tree, as this node knows it
          mend: see what is there: aber ls -R /
        exit 4
        $ aber log nothing
        error: nothing is not a path of the tree  [NAME_NOT_ALLOWED]
          why:  a path of the tree starts with '/' (rule NA-1)
          mend: paths look like /music/song.flac: they start with '/', and no name is '.', '..', '.aber' or above 255 bytes
        exit 2
        $ aber verify --unknown
        error: unexpected argument '--unknown' found

          tip: to pass '--unknown' as a value, use '-- --unknown'

        Usage: aber verify [OPTIONS] [PATH]

        For more information, try '--help'.
        exit 2
        $ aber put
        error: the following required arguments were not provided:
          <SOURCES>...
          <DESTINATION>

        Usage: aber put --data <DIR> <SOURCES>... <DESTINATION>

        For more information, try '--help'.
        exit 2
    "#]].assert_eq(&said);
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
