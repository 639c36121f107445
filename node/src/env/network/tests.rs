//! Nodes on loopback: members 1 to 4, each with a key of its own.

mod calls;
mod hostile;
mod join;
mod mute;
mod plain;
mod raw;

use super::*;
use aber_log::env::Link;
use aber_proto::{ClusterId, PublicKey};
use bytes::Bytes;
use std::future::Future;

const TIME: Duration = Duration::from_secs(20);

async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(TIME, future).await.expect("in time")
}

fn key(seed: u8) -> Arc<SecretKey> {
    Arc::new(SecretKey::from_seed(&[seed; 32]).expect("seed"))
}

fn public(seed: u8) -> PublicKey {
    key(seed).public()
}

fn identity(number: u64, cluster: u8) -> LinkIdentity {
    LinkIdentity {
        cluster: ClusterId([cluster; 32]),
        node: NodeId(number),
        name: format!("node-{number}"),
        version: "0.1.0".to_owned(),
    }
}

/// Members 1 to 4, and where one of them listens.
fn members(at: Option<(u64, String)>) -> BTreeMap<NodeId, Peer> {
    let peer = |number: u8| Peer {
        key: public(number),
        addresses: at
            .iter()
            .filter(|(node, _)| *node == u64::from(number))
            .map(|(_, address)| address.clone())
            .collect(),
    };
    let row = |number: u8| (NodeId(number.into()), peer(number));
    (1..=4).map(row).collect()
}

async fn listening(network: &SystemNetwork) -> String {
    let address = network.listen(([127, 0, 0, 1], 0).into()).await;
    let address = address.expect("listen");
    assert_eq!(network.local_addr(), Some(address));
    address.to_string()
}

/// A node that says it is a member and has a key of its choice.
fn nobody(number: u64, cluster: u8, seed: u8) -> SystemNetwork {
    let network = SystemNetwork::new();
    network.introduce(identity(number, cluster), key(seed));
    network.set_peers(members(None));
    network
}

async fn node(number: u8, cluster: u8) -> SystemNetwork {
    let network = nobody(number.into(), cluster, number);
    listening(&network).await;
    network
}

fn acquaint(from: &SystemNetwork, to: NodeId, at: &SystemNetwork) {
    let address = at.local_addr().expect("listening").to_string();
    from.set_peers(members(Some((to.0, address))));
}

async fn pair(class: LinkClass) -> (SystemNetwork, SystemNetwork, SystemLink, SystemLink) {
    let (one, two) = (node(1, 9).await, node(2, 9).await);
    acquaint(&one, NodeId(2), &two);
    let (dialled, accepted) =
        soon(async { tokio::join!(one.dial(NodeId(2), class), two.accept()) }).await;
    (one, two, dialled.expect("dial"), accepted.expect("accept"))
}

#[tokio::test]
async fn frames_travel_both_ways_in_order() {
    for class in [LinkClass::Control, LinkClass::Bulk] {
        let (_one, _two, a, b) = pair(class).await;
        assert_eq!((a.remote(), b.remote()), (NodeId(2), NodeId(1)));
        assert_eq!((a.class(), b.class()), (class, class));
        let (to_b, to_a) = (
            async {
                for number in 0..500_u32 {
                    a.send(Bytes::from(number.to_string())).await.expect("send");
                }
            },
            async {
                for number in 0..500_u32 {
                    b.send(Bytes::from(format!("back {number}")))
                        .await
                        .expect("send");
                }
            },
        );
        let (at_b, at_a) = (
            async {
                for number in 0..500_u32 {
                    assert_eq!(b.receive().await.expect("frame"), number.to_string());
                }
            },
            async {
                for number in 0..500_u32 {
                    assert_eq!(a.receive().await.expect("frame"), format!("back {number}"));
                }
            },
        );
        soon(async { tokio::join!(to_b, to_a, at_b, at_a) }).await;
        a.send(Bytes::new()).await.expect("an empty frame");
        assert_eq!(soon(b.receive()).await, Ok(Bytes::new()));
    }
}

/// B2: the largest frame passes in both classes.
#[tokio::test]
async fn large_frames_pass() {
    for class in [LinkClass::Control, LinkClass::Bulk] {
        let (_one, _two, a, b) = pair(class).await;
        for size in [3 * 1024 * 1024, limit::MESSAGE_BYTES - 1024] {
            let frame = Bytes::from(vec![7; size]);
            let (sent, received) =
                soon(async { tokio::join!(a.send(frame.clone()), b.receive()) }).await;
            sent.expect("send");
            assert!(received.expect("receive") == frame);
            let (sent, received) =
                soon(async { tokio::join!(b.send(frame.clone()), a.receive()) }).await;
            sent.expect("send");
            assert!(received.expect("receive") == frame);
        }
    }
}

async fn refusal(from: &SystemNetwork, to: NodeId) -> String {
    match soon(from.dial(to, LinkClass::Control)).await {
        Err(LinkProblem::Refused { node, why } | LinkProblem::NotAMember { node, why }) => {
            assert_eq!(node, to);
            why
        }
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("let in"),
    }
}

async fn away(from: &SystemNetwork, to: NodeId) -> String {
    match soon(from.dial(to, LinkClass::Control)).await {
        Err(LinkProblem::Unreachable { why, .. }) => why,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("let in"),
    }
}

/// S2, S3: another cluster, and a node that is somebody else, are refused with a reason.
#[tokio::test]
async fn strangers_are_refused() {
    let (one, two) = (node(1, 9).await, node(2, 8).await);
    acquaint(&one, NodeId(2), &two);
    let why = refusal(&one, NodeId(2)).await;
    assert!(why.contains("cluster 08080808"), "{why}");
    // The address is another node's now: its key says so, and nothing is said to it.
    let third = node(3, 9).await;
    acquaint(&one, NodeId(2), &third);
    let why = away(&one, NodeId(2)).await;
    assert!(why.contains("another key answers"), "{why}");
    // The door is still open for those who belong.
    acquaint(&one, NodeId(3), &third);
    soon(one.dial(NodeId(3), LinkClass::Bulk))
        .await
        .expect("let in");
}

#[tokio::test]
async fn nobody_there_is_unreachable() {
    let one = node(1, 9).await;
    let dial = |to| soon(one.dial(NodeId(to), LinkClass::Control));
    let is_away = |outcome: Result<SystemLink, LinkProblem>| {
        matches!(outcome, Err(LinkProblem::Unreachable { .. }))
    };
    assert!(is_away(dial(2).await), "no address");
    let gone = node(2, 9).await;
    acquaint(&one, NodeId(2), &gone);
    gone.stop_listening();
    tokio::task::yield_now().await;
    drop(gone);
    assert!(is_away(dial(2).await), "nobody listens");
    one.set_peers(members(Some((3, "no such address".to_owned()))));
    assert!(is_away(dial(3).await), "no address at all");
    // Something else listens there.
    let other = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = other.local_addr().expect("address").to_string();
    one.set_peers(members(Some((4, address))));
    std::thread::spawn(move || {
        use std::io::Write;
        let (mut stream, _) = other.accept().expect("accept");
        let _ = stream.write_all(b"SSH-2.0-OpenSSH_9.9\r\n");
    });
    assert!(is_away(dial(4).await), "no node");
    assert!(is_away(dial(5).await), "no member");
}

#[tokio::test]
async fn both_ends_learn_that_a_link_closed() {
    for closer_dialled in [true, false] {
        let (_one, _two, a, b) = pair(LinkClass::Control).await;
        let (gone, left) = if closer_dialled { (a, b) } else { (b, a) };
        gone.send(Bytes::from_static(b"x")).await.expect("send");
        assert_eq!(soon(left.receive()).await.expect("frame"), "x");
        drop(gone);
        assert_eq!(soon(left.receive()).await, Err(LinkProblem::Closed));
        assert_eq!(soon(left.receive()).await, Err(LinkProblem::Closed));
        assert_eq!(
            soon(left.send(Bytes::new())).await,
            Err(LinkProblem::Closed)
        );
    }
}

/// What was handed over before an orderly close arrives, while the connection lives.
#[tokio::test]
async fn frames_sent_before_a_close_arrive() {
    for closer_dialled in [true, false] {
        let (_one, _two, a, b) = pair(LinkClass::Bulk).await;
        let (gone, left) = if closer_dialled { (a, b) } else { (b, a) };
        let sending = tokio::spawn(async move {
            for number in 0..100_u32 {
                let frame = vec![number.to_le_bytes()[0]; 100_000];
                gone.send(Bytes::from(frame)).await.expect("send");
            }
        });
        for number in 0..100_u32 {
            let frame = soon(left.receive()).await.expect("frame");
            assert_eq!((frame[0], frame.len()), (number.to_le_bytes()[0], 100_000));
        }
        assert_eq!(soon(left.receive()).await, Err(LinkProblem::Closed));
        sending.await.expect("sender");
    }
}

/// An end that only sends learns it too.
#[tokio::test]
async fn a_sender_that_never_receives_learns_that_the_link_closed() {
    for closer_dialled in [true, false] {
        let (_one, _two, a, b) = pair(LinkClass::Control).await;
        let (gone, left) = if closer_dialled { (a, b) } else { (b, a) };
        drop(gone);
        let sending = async { while left.send(Bytes::from_static(b"x")).await.is_ok() {} };
        soon(sending).await;
    }
}

/// B2: a reader that stops reading stops the writer; nothing piles up without a bound.
#[tokio::test]
async fn a_slow_reader_holds_the_writer_up() {
    let (_one, _two, a, b) = pair(LinkClass::Bulk).await;
    let frame = Bytes::from(vec![7; 64 * 1024]);
    let mut sent = 0;
    loop {
        let sending = a.send(frame.clone());
        match tokio::time::timeout(Duration::from_millis(300), sending).await {
            Ok(outcome) => outcome.expect("send"),
            Err(_) => break,
        }
        sent += 1;
        // 8 frames in our queue, the windows and buffers of HTTP/2 and TCP: some MiB.
        assert!(sent < 200, "{sent} frames of 64 KiB and no end");
    }
    for _ in 0..sent {
        assert_eq!(soon(b.receive()).await.expect("frame").len(), frame.len());
    }
    soon(a.send(frame)).await.expect("the writer goes on");
}

/// `[::]` takes IPv4 too, and links can be dialled by name, by IPv6 and by IPv4.
#[tokio::test]
async fn a_listener_for_all_addresses_is_reached_by_each() {
    let nameless = SystemNetwork::new()
        .listen(([127, 0, 0, 1], 0).into())
        .await;
    assert!(matches!(nameless, Err(ListenProblem::Nameless)));
    let two = nobody(2, 9, 2);
    let all = SocketAddr::new(std::net::Ipv6Addr::UNSPECIFIED.into(), 0);
    let (ip, bound) = match two.listen(all).await {
        Ok(bound) => (Some("[::1]"), bound),
        // A machine without IPv6.
        Err(_) => (
            None,
            two.listen(([0, 0, 0, 0], 0).into()).await.expect("listen"),
        ),
    };
    let one = node(1, 9).await;
    for host in ["127.0.0.1", "localhost"].into_iter().chain(ip) {
        let address = format!("{host}:{}", bound.port());
        one.set_peers(members(Some((2, address))));
        soon(one.dial(NodeId(2), LinkClass::Control))
            .await
            .expect(host);
    }
}

/// Addresses are tried in turn, and the one that worked comes first the next time.
#[tokio::test]
async fn the_second_address_is_tried_when_the_first_is_dead() {
    let (one, two) = (node(1, 9).await, node(2, 9).await);
    let good = two.local_addr().expect("listening").to_string();
    let mut peers = members(Some((2, "127.0.0.1:1".to_owned())));
    let peer = peers.get_mut(&NodeId(2)).expect("member");
    peer.addresses.push(good.clone());
    one.set_peers(peers);
    soon(one.dial(NodeId(2), LinkClass::Control))
        .await
        .expect("dial");
    assert_eq!(
        one.state().peers.addresses(NodeId(2)),
        [good, "127.0.0.1:1".to_owned()]
    );
}

#[tokio::test]
async fn many_links_live_side_by_side() {
    let (one, two) = (node(1, 9).await, node(2, 9).await);
    acquaint(&one, NodeId(2), &two);
    let mut links = Vec::new();
    for number in 0..20_u8 {
        let class = if number % 2 == 0 {
            LinkClass::Control
        } else {
            LinkClass::Bulk
        };
        let dialled = soon(one.dial(NodeId(2), class)).await.expect("dial");
        let accepted = soon(two.accept()).await.expect("accept");
        links.push((dialled, accepted));
    }
    for (number, (a, _)) in links.iter().enumerate() {
        a.send(Bytes::from(number.to_string())).await.expect("send");
    }
    for (number, (_, b)) in links.iter().enumerate() {
        assert_eq!(soon(b.receive()).await.expect("frame"), number.to_string());
    }
}
