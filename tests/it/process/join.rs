//! Machines that come to a cluster by a ticket and nothing else (promise S5).

use super::ABER;
use aber_tests::process::content::content;
use aber_tests::process::run::Ran;
use aber_tests::process::{Cluster, Node, PATIENCE};
use anyhow::{Result, ensure};
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

fn expect(ran: &Ran, code: i32, reason: &str) -> Result<()> {
    let is_it = ran.code == code && ran.reason() == Some(reason);
    ensure!(is_it, "{code} {reason} was expected: {ran:?}");
    Ok(())
}

/// Runs `aber join` to its end, for tickets that let nobody in.
fn join(node: &Node, ticket: &str) -> Result<Ran> {
    let arguments = [
        "join",
        "--foreground",
        "--until-eof",
        "--name",
        &node.name,
        ticket,
    ];
    node.aber_with(&arguments, b"", PATIENCE)
}

fn put_by_all(cluster: &Cluster, round: u64) -> Result<()> {
    for node in &cluster.nodes {
        let path = format!("/d/{}-{round}", node.name);
        let ran = node.put(&content(&path, round, 40_000), &path)?;
        ensure!(ran.code == 0, "{path}: {ran:?}\n{}", node.last_words());
    }
    Ok(())
}

fn names(node: &Node) -> Result<Vec<String>> {
    Ok(node.members()?.into_iter().map(|(name, _)| name).collect())
}

/// One command a machine: three members, three voters, all write, all mirrors equal; a fourth
/// follows; all killed at once and started again, without a ticket, they are the same.
#[test]
fn a_cluster_grows_by_tickets_and_comes_back_without() -> Result<()> {
    let mut cluster = Cluster::found(ABER)?;
    cluster.nodes[0].ok(&["mkdir", "/d"])?;
    let large = content("/d/large", 1, 3_000_000);
    ensure!(cluster.nodes[0].put(&large, "/d/large")?.code == 0);
    cluster.grow("n2", &[])?;
    cluster.wait_for_voters(2, 1)?;
    cluster.grow("n3", &["--role", "admin"])?;
    cluster.wait_for_voters(3, 3)?;
    put_by_all(&cluster, 1)?;
    // A ticket of one who joined is as good as a founder's.
    let ticket = cluster.nodes[2].invite(&["--no-vote"])?;
    let mut fourth = cluster.newcomer("n4")?;
    fourth.join(&ticket)?;
    cluster.nodes.push(fourth);
    cluster.wait_for_voters(4, 3)?;
    put_by_all(&cluster, 2)?;
    let before = cluster.settle(PATIENCE)?;
    ensure!(cluster.equal_mirrors()?.len() == 9);
    let members = cluster.nodes[0].members()?;

    for node in &mut cluster.nodes {
        node.kill()?;
    }
    cluster.start_all()?;
    cluster.wait_for_voters(4, 3)?;
    let after = cluster.settle(PATIENCE)?;
    ensure!(before.len() == after.len());
    for node in &cluster.nodes {
        ensure!(node.members()? == members, "{}", node.name);
    }
    put_by_all(&cluster, 3)?;
    cluster.settle(PATIENCE)?;
    ensure!(cluster.equal_mirrors()?.len() == 13);
    for node in &cluster.nodes {
        node.ok(&["verify"])?;
    }
    Ok(())
}

/// S5: each way in which a ticket can be no good has a name, and the cluster stays as it was.
#[test]
fn a_ticket_that_is_no_good_says_why() -> Result<()> {
    let mut cluster = Cluster::found(ABER)?;
    let founder = &cluster.nodes[0];
    let stranger = cluster.newcomer("stranger")?;

    let ticket = founder.invite(&[])?;
    let mut mistyped = ticket.clone().into_bytes();
    let at = mistyped.len() - 20;
    mistyped[at] = if mistyped[at] == b'z' { b'y' } else { b'z' };
    let mistyped = String::from_utf8(mistyped)?;
    expect(&join(&stranger, &mistyped)?, 10, "TICKET_DAMAGED")?;
    expect(&join(&stranger, "open sesame")?, 10, "TICKET_DAMAGED")?;
    ensure!(!stranger.data.exists(), "a mistyped ticket left something");

    let short = founder.invite(&["--valid", "1s"])?;
    sleep(Duration::from_millis(2100));
    expect(&join(&stranger, &short)?, 10, "TICKET_EXPIRED")?;

    cluster.grow("n2", &[])?;
    let used = std::fs::read_to_string(cluster.nodes[1].data.with_extension("ticket"))?;
    let ran = join(&stranger, &used)?;
    expect(&ran, 10, "TICKET_USED")?;
    ensure!(ran.stderr.contains("it let n2 in on 20"), "{ran:?}");
    ensure!(ran.stderr.contains("ask n1 for"), "{ran:?}");
    // Who was let in by it may show it again: nothing happens.
    cluster.nodes[1].wait_until_up()?;
    let again = join(&cluster.nodes[1], &used)?;
    ensure!(
        again.code == 0 && again.stdout.contains("already"),
        "{again:?}"
    );

    let wrong_mode = stranger.aber(&["join", "--plaintext", &ticket])?;
    expect(&wrong_mode, 1, "OTHER_MODE")?;
    let elsewhere = Cluster::found(ABER)?;
    let foreign = elsewhere.nodes[0].invite(&[])?;
    expect(&join(&cluster.nodes[0], &foreign)?, 1, "OTHER_CLUSTER")?;
    cluster.nodes[1].stop()?;
    expect(&join(&cluster.nodes[1], &foreign)?, 1, "OTHER_CLUSTER")?;
    drop(elsewhere);
    let ran = join(&stranger, &foreign)?;
    expect(&ran, 6, "INVITER_AWAY")?;
    ensure!(names(&cluster.nodes[0])? == ["n1", "n2"]);
    Ok(())
}

/// S5: of two who race with one ticket, one gets in; two tickets at once both do.
#[test]
fn one_ticket_lets_one_in() -> Result<()> {
    let mut cluster = Cluster::found(ABER)?;
    let ticket = cluster.nodes[0].invite(&[])?;
    let other = cluster.nodes[0].invite(&["--name", "third"])?;
    let mut racers = [cluster.newcomer("r1")?, cluster.newcomer("r2")?];
    let mut third = cluster.newcomer("r3")?;
    for racer in &mut racers {
        racer.begin_to_join(&ticket)?;
    }
    third.begin_to_join(&other)?;
    third.wait_until_up()?;
    let mut refused = 0;
    for mut racer in racers {
        match racer.wait_until_up() {
            Ok(()) => cluster.nodes.push(racer),
            Err(why) => {
                ensure!(racer.wait_until_down(PATIENCE)? == 10, "{why}");
                ensure!(racer.last_words().contains("TICKET_USED"), "{why}");
                refused += 1;
            }
        }
    }
    cluster.nodes.push(third);
    ensure!(
        refused == 1 && cluster.nodes.len() == 3,
        "{refused} were refused"
    );
    cluster.wait_for_voters(3, 3)?;
    ensure!(names(&cluster.nodes[0])?.contains(&"third".to_owned()));
    cluster.nodes[1].ok(&["mkdir", "/d"])?;
    put_by_all(&cluster, 1)?;
    cluster.settle(PATIENCE)?;
    ensure!(cluster.equal_mirrors()?.len() == 4);
    Ok(())
}

/// S5: killed at any moment of joining, the same command finishes, and the node is let in once.
#[test]
fn a_joiner_that_is_killed_goes_on_where_it_stopped() -> Result<()> {
    let mut cluster = Cluster::found(ABER)?;
    ensure!(cluster.nodes[0].put(b"here", "/file")?.code == 0);
    let ticket = cluster.nodes[0].invite(&[])?;
    let mut newcomer = cluster.newcomer("n2")?;
    for pause_ms in [1, 5, 10, 20, 30, 40, 60, 90, 130] {
        newcomer.begin_to_join(&ticket)?;
        sleep(Duration::from_millis(pause_ms));
        newcomer.kill()?;
    }
    newcomer.join(&ticket)?;
    cluster.nodes.push(newcomer);
    cluster.settle(PATIENCE)?;
    ensure!(cluster.equal_mirrors()?.len() == 1);
    ensure!(names(&cluster.nodes[0])? == ["n1", "n2"]);
    Ok(())
}

/// S5, A1: the inviter asks whoever leads. The leader dies in the middle of it.
#[test]
fn a_newcomer_gets_in_while_the_leader_dies() -> Result<()> {
    let mut cluster = Cluster::found(ABER)?;
    cluster.grow("n2", &["--role", "admin"])?;
    cluster.grow("n3", &["--role", "admin"])?;
    cluster.wait_for_voters(3, 3)?;
    cluster.settle(PATIENCE)?;
    let inviter = 1;
    let ticket = cluster.nodes[inviter].invite(&[])?;
    let status = cluster.nodes[inviter].status()?;
    let leader = status["partitions"][0]["leader"]
        .as_str()
        .unwrap_or_default();
    let dies = cluster.nodes.iter().position(|node| node.name == leader);
    // Where the inviter itself leads, any other one dies: the ticket is for the inviter alone.
    let dies = dies.filter(|at| *at != inviter).unwrap_or(0);
    let mut newcomer = cluster.newcomer("n4")?;
    newcomer.begin_to_join(&ticket)?;
    cluster.nodes[dies].kill()?;
    // It may be told to come again: the same command does.
    let end = Instant::now() + PATIENCE;
    while newcomer.wait_until_up().is_err() {
        ensure!(
            newcomer.wait_until_down(PATIENCE)? == 6,
            "{}",
            newcomer.last_words()
        );
        ensure!(Instant::now() < end, "{}", newcomer.last_words());
        newcomer.begin_to_join(&ticket)?;
    }
    cluster.nodes.push(newcomer);
    cluster.start_all()?;
    cluster.wait_for_voters(4, 3)?;
    cluster.nodes[0].ok(&["mkdir", "/d"])?;
    put_by_all(&cluster, 1)?;
    cluster.settle(PATIENCE)?;
    ensure!(cluster.equal_mirrors()?.len() == 5);
    Ok(())
}

/// S5: where nothing can be ordered, nobody is let in and no ticket is made; both say so, and the
/// ticket from before is as good as it was.
#[test]
fn without_a_majority_a_newcomer_is_told_to_come_again() -> Result<()> {
    let mut cluster = Cluster::found(ABER)?;
    cluster.grow("n2", &[])?;
    cluster.grow("n3", &[])?;
    cluster.wait_for_voters(3, 3)?;
    let ticket = cluster.nodes[0].invite(&["--role", "reader"])?;
    cluster.settle(PATIENCE)?;
    cluster.nodes[1].kill()?;
    cluster.nodes[2].kill()?;
    let mut newcomer = cluster.newcomer("n4")?;
    newcomer.begin_to_join(&ticket)?;
    expect(&cluster.nodes[0].aber(&["invite"])?, 6, "NO_MAJORITY")?;
    ensure!(
        newcomer.wait_until_down(PATIENCE)? == 6,
        "{}",
        newcomer.last_words()
    );
    ensure!(
        newcomer.last_words().contains("NOT_ADMITTED"),
        "{}",
        newcomer.last_words()
    );
    // Nobody can tell it that it is a member by then: its admission waited in an outbox.
    cluster.start_all()?;
    newcomer.join(&ticket)?;
    cluster.nodes.push(newcomer);
    cluster.wait_for_voters(4, 3)?;
    // It may read, and that is all.
    let reader = &cluster.nodes[3];
    expect(&reader.put(b"x", "/x")?, 10, "NOT_ALLOWED")?;
    expect(&reader.aber(&["invite"])?, 10, "NOT_ALLOWED")?;
    cluster.settle(PATIENCE)?;
    Ok(())
}

/// A2, A3: what a node that joined has, it has without anybody, its index included; and it finds
/// the others again by what it wrote down.
#[test]
fn a_joined_node_alone_shows_what_it_has() -> Result<()> {
    let mut cluster = Cluster::found(ABER)?;
    cluster.nodes[0].ok(&["mkdir", "/d"])?;
    for name in ["n2", "n3", "n4"] {
        cluster.grow(name, &[])?;
    }
    cluster.wait_for_voters(4, 3)?;
    put_by_all(&cluster, 1)?;
    cluster.settle(PATIENCE)?;
    for node in &mut cluster.nodes {
        node.stop()?;
    }
    let last = &mut cluster.nodes[3];
    std::fs::remove_dir_all(last.data.join("index"))?;
    last.start()?;
    let wanted = content("/d/n2-1", 1, 40_000);
    ensure!(last.ok(&["ls", "/d"])? == "n1-1\nn2-1\nn3-1\nn4-1\n");
    ensure!(std::fs::read(last.mirror().join("d/n2-1"))? == wanted);
    ensure!(
        last.aber(&["cat", "/d/n2-1"])?.stdout.as_bytes()
            == String::from_utf8_lossy(&wanted).as_bytes()
    );
    ensure!(last.members()?.len() == 4);
    // Its membership is younger than the genesis, which knows of one node only: what it wrote down
    // leads it to the others. One of them listens elsewhere now, and says so by itself.
    let moved = cluster.nodes[1].move_away()?;
    cluster.start_all()?;
    let end = Instant::now() + PATIENCE;
    loop {
        let status = cluster.nodes[3].status()?;
        if status["members"][1]["addresses"][0] == moved.as_str() {
            break;
        }
        ensure!(Instant::now() < end, "{moved}: {status}");
        sleep(Duration::from_millis(100));
    }
    put_by_all(&cluster, 2)?;
    cluster.settle(PATIENCE)?;
    ensure!(cluster.equal_mirrors()?.len() == 9);
    Ok(())
}

/// The command as people type it: the node goes on in the background, stops and starts again
/// without a ticket, where it was told to be.
#[test]
fn join_leaves_a_node_that_runs() -> Result<()> {
    let cluster = Cluster::found(ABER)?;
    ensure!(cluster.nodes[0].put(b"here", "/file")?.code == 0);
    let ticket = cluster.nodes[0].invite(&[])?;
    let node = cluster.newcomer("bg")?;
    let mirror = cluster.directory.path().join("elsewhere");
    let mirror = mirror.to_string_lossy().into_owned();
    let input = format!("  {} \n", ticket.to_ascii_uppercase());
    let arguments = [
        "join",
        "--name",
        "bg",
        "--listen",
        "localhost:0",
        "--mirror",
        &mirror,
    ];
    let ran = node.aber_with(&arguments, input.as_bytes(), PATIENCE)?;
    let stop = || node.ok(&["down"]);
    if ran.code != 0 || !ran.stdout.contains("All is here: 1 file") {
        let log = std::fs::read_to_string(node.data.join("daemon.log"));
        let _ = stop();
        anyhow::bail!("{ran:?} {log:?}");
    }
    let checked = || -> Result<()> {
        ensure!(ran.stderr.contains("Talked to n1"), "{ran:?}");
        ensure!(ran.stderr.contains("Joined n1 as bg. 2 members"), "{ran:?}");
        ensure!(
            !format!("{ran:?}").contains("aber1-"),
            "the ticket is shown"
        );
        ensure!(std::fs::read(format!("{mirror}/file"))? == b"here");
        let before = node.status()?;
        stop()?;
        let child = node.command(&["up"]).stdin(Stdio::null()).spawn();
        let mut child = child?;
        let end = Instant::now() + PATIENCE;
        while node.status().is_err() {
            ensure!(Instant::now() < end, "it does not start again");
            sleep(Duration::from_millis(50));
        }
        let after = node.status()?;
        ensure!(
            after["link_address"] == before["link_address"],
            "{before} {after}"
        );
        ensure!(
            after["folders"][0]["directory"] == mirror.as_str(),
            "{after}"
        );
        // Reaped while `down` waits for it to be gone.
        let down = node.command(&["down"]).stdout(Stdio::null()).spawn();
        let ended = child.wait()?;
        ensure!(ended.success() && down?.wait()?.success(), "{ended}");
        Ok(())
    };
    let outcome = checked();
    // Whatever was found, nothing stays running.
    let _ = stop();
    outcome
}
