//! The API over TCP: members use a node from elsewhere.

use super::ABER;
use aber_tests::process::{Cluster, Node, PATIENCE};
use anyhow::{Result, ensure};

fn address(node: &Node) -> Result<String> {
    let status = node.status()?;
    Ok(status["api_address"]
        .as_str()
        .unwrap_or_default()
        .to_owned())
}

/// A command at the node at this address, with the key of `node`.
fn refused(node: &Node, at: &str, arguments: &[&str], reason: &str) -> Result<()> {
    let ran = node.aber(&[&["--node", at], arguments].concat())?;
    ensure!(
        ran.code == 10 && ran.reason() == Some(reason),
        "{arguments:?}: {ran:?}"
    );
    Ok(())
}

/// Promises S2, S3: with another member's key a node does what that member's role says, and signs
/// it in its own name with the word who asked; a removal ends it. What was said of the API holds for
/// later starts, at the same port.
#[test]
fn members_use_a_node_from_elsewhere_until_they_are_removed() -> Result<()> {
    let mut cluster = Cluster::prepare(ABER, 3)?;
    cluster.nodes[0].arguments = vec!["--api".to_owned(), "127.0.0.1:0".to_owned()];
    cluster.start_all()?;
    cluster.nodes[0].arguments.clear();
    cluster.nodes[0].ok(&["members", "set", "n3", "--role", "reader"])?;
    cluster.nodes[0].ok(&["mkdir", "/d"])?;
    cluster.settle(PATIENCE)?;
    let at = address(&cluster.nodes[0])?;
    ensure!(at.contains("@127.0.0.1:"), "{at:?}");
    ensure!(
        address(&cluster.nodes[1])?.is_empty(),
        "it is off unless asked for"
    );

    // The second is off: its key is all that is needed.
    cluster.nodes[1].stop()?;
    let put = ["--node", &at, "put", "-", "/d/file"];
    let ran = cluster.nodes[1].aber_with(&put, b"from afar", PATIENCE)?;
    ensure!(ran.code == 0, "{ran:?}");
    let log = cluster.nodes[0].ok(&["log", "/d/file"])?;
    ensure!(log.contains("n1") && log.contains("member n2"), "{log}");
    let read = cluster.nodes[2].ok(&["--node", &at, "cat", "/d/file"])?;
    ensure!(read == "from afar", "{read}");
    refused(&cluster.nodes[2], &at, &["rm", "/d/file"], "NOT_ALLOWED")?;
    let set = ["members", "set", "n3", "--role", "admin"];
    refused(&cluster.nodes[1], &at, &set, "NOT_ALLOWED")?;
    refused(&cluster.nodes[0], &at, &["down"], "NOT_ALLOWED")?;
    let swapped = at.replacen(
        &at[..4],
        if &at[..4] == "aaaa" { "bbbb" } else { "aaaa" },
        1,
    );
    refused(
        &cluster.nodes[1],
        &swapped,
        &["ls", "/"],
        "NODE_KEY_DIFFERS",
    )?;

    cluster.nodes[1].start()?;
    cluster.settle(PATIENCE)?;
    cluster.nodes[0].stop()?;
    cluster.nodes[0].start()?;
    ensure!(address(&cluster.nodes[0])? == at, "it is remembered");
    cluster.nodes[0].ok(&["members", "rm", "n3", "--yes"])?;
    refused(
        &cluster.nodes[2],
        &at,
        &["cat", "/d/file"],
        "KEY_NOT_ALLOWED",
    )?;
    cluster.nodes[1].ok(&["--node", &at, "cat", "/d/file"])?;
    Ok(())
}
