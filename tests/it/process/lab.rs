//! Nine machines with IPv6 alone, each a host of its own, and one that nobody invited.

use super::ABER;
use aber_tests::process::content::content;
use aber_tests::process::lab::{Lab, Spread, address};
use aber_tests::process::{Node, PATIENCE, tree};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::thread::sleep;
use std::time::{Duration, Instant};

const NODES: usize = 9;
/// The host of the one nobody invited.
const STRANGER: usize = NODES + 1;

/// What `aber members` lists at a node, without what differs from node to node and from time to
/// time.
fn list(node: &Node) -> Result<Vec<Value>> {
    let out = node.ok(&["members", "--json"])?;
    let rows = out.lines().map(serde_json::from_str::<Value>);
    let mut rows = rows.collect::<Result<Vec<_>, _>>()?;
    // The last line sums up.
    rows.pop();
    let lasting = |row: &Value| json!([row["name"], row["role"], row["key"], row["addresses"]]);
    Ok(rows.iter().map(lasting).collect())
}

fn ensure_listed_alike(spread: &Spread) -> Result<Vec<Value>> {
    let nodes = &spread.cluster.nodes;
    let first = list(&nodes[0])?;
    for node in nodes {
        let other = list(node)?;
        ensure!(other == first, "{}: {other:?} {first:?}", node.name);
    }
    let addresses: Vec<_> = first.iter().map(|row| row[3][0].clone()).collect();
    let wanted: Vec<_> = (1..=nodes.len())
        .map(|host| json!(address(host).to_string()))
        .collect();
    ensure!(addresses == wanted, "{first:?}");
    Ok(first)
}

fn put_by_all(spread: &Spread, round: u64) -> Result<()> {
    for node in &spread.cluster.nodes {
        let path = format!("/d/{}-{round}", node.name);
        let ran = node.put(&content(&path, round, 40_000), &path)?;
        ensure!(ran.code == 0, "{path}: {ran:?}\n{}", node.last_words());
    }
    Ok(())
}

/// Every mirror has what every node put in, byte for byte, in so many rounds.
fn ensure_all_is_everywhere(spread: &Spread, rounds: u64, files: usize) -> Result<()> {
    spread.cluster.settle(PATIENCE)?;
    let listing = spread.cluster.equal_mirrors()?;
    ensure!(listing.len() == files + 1, "{listing:?}");
    for node in &spread.cluster.nodes {
        for round in 1..=rounds {
            let path = format!("/d/{}-{round}", node.name);
            let place = node.mirror().join(&path[1..]);
            ensure!(
                std::fs::read(&place)? == content(&path, round, 40_000),
                "{path}"
            );
        }
    }
    Ok(())
}

/// Promises S3, S5: a node with a cluster of its own, and one that copied all but the key of a
/// member, hear nothing.
struct Strangers {
    founder: Node,
    copier: Node,
}

impl Strangers {
    fn come(spread: &Spread) -> Result<Self> {
        let mut founder = spread.machine(STRANGER, "stranger", ABER);
        spread.begin(STRANGER, &mut founder)?;
        founder.wait_until_up()?;
        ensure!(founder.put(b"own", "/own")?.code == 0);
        // A ticket of its own for the cluster's first machine.
        let first = address(1).to_string();
        let ticket = founder.invite(&["--address", &first])?;
        let visitor = spread.machine(STRANGER, "visitor", ABER);
        let refused = spread.run(STRANGER, &visitor, &["join", "--foreground", &ticket])?;
        let is_it = refused.code == 10 && refused.reason() == Some("OTHER_KEY");
        ensure!(is_it, "{refused:?}");
        ensure!(!visitor.mirror().exists(), "it got in: {refused:?}");

        let mut copier = spread.machine(STRANGER, "copier", ABER);
        let member = &spread.cluster.nodes[1];
        std::fs::create_dir(&copier.data)?;
        // Who it claims to be, and whom it knows; its key is one of its own, and the file `member`
        // is forged to go with it.
        let genesis = member.data.join("genesis");
        std::fs::copy(genesis, copier.data.join("genesis"))?;
        std::fs::copy(founder.data.join("key"), copier.data.join("key"))?;
        let told = std::fs::read(member.data.join("member"))?;
        let forged = replace(&told, &own_key(member)?, &own_key(&founder)?)?;
        std::fs::write(copier.data.join("member"), forged)?;
        copier.arguments = vec!["--listen".into(), "[::]:7788".into()];
        spread.begin(STRANGER, &mut copier)?;
        copier.wait_until_up()?;
        Ok(Self { founder, copier })
    }

    fn ensure_have_nothing(&self) -> Result<()> {
        let own = tree::list(&self.founder.mirror())?;
        ensure!(own.keys().eq(["/own"]), "{own:?}");
        let members = self.founder.members()?;
        ensure!(members.len() == 1, "{members:?}");
        let copied = tree::list(&self.copier.mirror())?;
        ensure!(copied.is_empty(), "{copied:?}");
        let status = self.copier.status()?;
        let partitions = status["partitions"].as_array().context("no partitions")?;
        ensure!(!partitions.is_empty(), "{status}");
        for partition in partitions {
            ensure!(partition["applied_index"] == 0, "{partition}");
        }
        Ok(())
    }
}

/// The public key of a node, as it tells it.
fn own_key(node: &Node) -> Result<Vec<u8>> {
    let status = node.status()?;
    let mut rows = status["members"].as_array().into_iter().flatten();
    let own = rows.find(|row| row["name"] == status["node"]);
    let hex = own.and_then(|row| row["key"].as_str()).context("no key")?;
    let byte = |at: usize| Ok(u8::from_str_radix(hex.get(at..at + 2).context("odd")?, 16)?);
    (0..hex.len()).step_by(2).map(byte).collect()
}

/// These bytes with what stands in them once replaced by as much.
fn replace(bytes: &[u8], old: &[u8], new: &[u8]) -> Result<Vec<u8>> {
    let at = bytes.windows(old.len()).position(|there| there == old);
    let at = at.context("the file does not know the key")?;
    ensure!(old.len() == new.len());
    Ok([&bytes[..at], new, &bytes[at + old.len()..]].concat())
}

/// The last member is removed and hears of it; killed and started again, it is still refused.
fn remove_last(spread: &mut Spread) -> Result<Node> {
    let mut removed = spread.cluster.nodes.pop().context("a node")?;
    let first = &spread.cluster.nodes[0];
    first.ok(&["members", "rm", &removed.name, "--yes"])?;
    wait_until_told(&removed)?;
    removed.kill()?;
    spread.begin(NODES, &mut removed)?;
    removed.wait_until_up()?;
    wait_until_told(&removed)?;
    Ok(removed)
}

fn wait_until_told(removed: &Node) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    loop {
        let status = removed.status()?;
        let mut notices = status["notices"].as_array().into_iter().flatten();
        if notices.any(|notice| notice["code"] == "MEMBER_REMOVED") {
            return Ok(());
        }
        ensure!(Instant::now() < end, "{status}");
        sleep(Duration::from_millis(100));
    }
}

/// S3, S5, I3, M1: one command and one ticket each make nine machines one folder; killed all at once
/// and started again, without a ticket, they are the same; who was not invited, or was removed, gets
/// nothing.
#[test]
fn nine_machines_join_by_a_ticket_each() -> Result<()> {
    let Some(lab) = Lab::up(STRANGER)? else {
        return Ok(());
    };
    let began = Instant::now();
    let said = |what: &str| eprintln!("{what}: {:.1} s", began.elapsed().as_secs_f64());
    let mut spread = Spread::found(lab, ABER)?;
    spread.cluster.nodes[0].ok(&["mkdir", "/d"])?;
    while spread.cluster.nodes.len() < NODES {
        spread.grow()?;
    }
    said("nine have joined");
    let strangers = Strangers::come(&spread)?;
    spread.cluster.wait_for_voters(NODES, 3)?;
    put_by_all(&spread, 1)?;
    ensure_all_is_everywhere(&spread, 1, NODES)?;
    let members = ensure_listed_alike(&spread)?;
    said("all is everywhere");

    spread.restart_all()?;
    said("all are up again");
    spread.cluster.wait_for_voters(NODES, 3)?;
    ensure_all_is_everywhere(&spread, 1, NODES)?;
    ensure!(ensure_listed_alike(&spread)? == members);
    put_by_all(&spread, 2)?;
    ensure_all_is_everywhere(&spread, 2, 2 * NODES)?;
    strangers.ensure_have_nothing()?;
    said("all is everywhere again");

    let removed = remove_last(&mut spread)?;
    put_by_all(&spread, 3)?;
    ensure_all_is_everywhere(&spread, 3, 3 * NODES - 1)?;
    ensure!(ensure_listed_alike(&spread)? == members[..NODES - 1]);
    let kept = tree::list(&removed.mirror())?;
    ensure!(kept.len() == 2 * NODES + 1, "{kept:?}");
    said("one is removed");
    ensure!(began.elapsed() < Duration::from_secs(180), "far too slow");
    Ok(())
}
