//! Links without TLS, and the two modes meeting.

use super::raw::{rest, tcp};
use super::*;
use tokio::io::AsyncWriteExt;

async fn plain(number: u8, seed: u8) -> SystemNetwork {
    let network = SystemNetwork::new();
    network.set_plaintext(true);
    network.introduce(identity(number.into(), 9), key(seed));
    network.set_peers(members(None));
    listening(&network).await;
    network
}

/// S3: without TLS the same rules hold: keys are proved, and claims are checked.
#[tokio::test]
async fn plaintext_links_prove_keys_too() {
    let (one, two) = (plain(1, 1).await, plain(2, 2).await);
    acquaint(&one, NodeId(2), &two);
    let (a, b) =
        soon(async { tokio::join!(one.dial(NodeId(2), LinkClass::Control), two.accept()) }).await;
    let (a, b) = (a.expect("dial"), b.expect("accept"));
    a.send(Bytes::from_static(b"x")).await.expect("send");
    assert_eq!(soon(b.receive()).await.expect("frame"), "x");
    let liar = plain(3, 1).await;
    acquaint(&liar, NodeId(2), &two);
    let why = refusal(&liar, NodeId(2)).await;
    assert!(why.contains("that of node 1"), "{why}");
    let stranger = plain(1, 77).await;
    acquaint(&stranger, NodeId(2), &two);
    let why = refusal(&stranger, NodeId(2)).await;
    assert!(why.contains("is no member's"), "{why}");
    let imposter = plain(2, 66).await;
    acquaint(&one, NodeId(2), &imposter);
    let why = away(&one, NodeId(2)).await;
    assert!(why.contains("another key answers"), "{why}");
}

/// One who shows a key that it does not have is hung up on; so is one who repeats what it heard.
#[tokio::test]
async fn a_plaintext_greeting_without_the_key_is_refused() {
    let two = plain(2, 2).await;
    let mut greeting = b"aberopen\x01\0\0\0".to_vec();
    greeting.extend([7; 32]);
    greeting.extend(public(1).0);
    let mut stream = tcp(&two).await;
    stream.write_all(&greeting).await.expect("write");
    stream.write_all(&[9; 64]).await.expect("write");
    // Its greeting and proof, and no HTTP/2.
    let answer = rest(&mut stream).await;
    assert_eq!(answer.len(), 8 + 4 + 32 + 32 + 64);
    let mut stream = tcp(&two).await;
    stream.write_all(&greeting).await.expect("write");
    stream.write_all(&answer[76..]).await.expect("write");
    assert_eq!(rest(&mut stream).await.len(), 140);
    // A newer greeting is answered with ours, so that the other can say what is wrong.
    greeting[8] = 2;
    let mut stream = tcp(&two).await;
    stream.write_all(&greeting).await.expect("write");
    assert!(rest(&mut stream).await.starts_with(b"aberopen\x01\0\0\0"));
}

/// A node in the other mode is told so, both ways round.
#[tokio::test]
async fn the_other_mode_is_named() {
    let (open, closed) = (plain(1, 1).await, node(2, 9).await);
    acquaint(&open, NodeId(2), &closed);
    let why = refusal(&open, NodeId(2)).await;
    assert!(
        why.contains("it speaks TLS and this node was started with --plaintext"),
        "{why}"
    );
    acquaint(&closed, NodeId(1), &open);
    let why = refusal(&closed, NodeId(1)).await;
    assert!(
        why.contains("it was started with --plaintext and this node speaks TLS"),
        "{why}"
    );
}
