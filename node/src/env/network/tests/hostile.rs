//! What the real listener withstands. Each test ends with a member that is let in all the same.

use super::raw::{
    self, CONTINUATION, DATA, END_HEADERS, ENHANCE_YOUR_CALM, FRAME_SIZE_ERROR, HEADERS, JOIN,
    OPEN, PING, REFUSED_STREAM, RST_STREAM, SETTINGS, call, code_at, frame, goaway, head, http2,
    hung_up, next_of, proved, rest, say, tcp,
};
use super::*;
use crate::env::network::handshake::Security;
use crate::env::network::tls::Protocol;
use aber_proto::generated::linkservice::{LinkRefusal, LinkRefusalCode};
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// Dials node 2 as node 1 and sees that frames pass.
async fn member_connects(two: &SystemNetwork) -> (SystemLink, SystemLink) {
    let one = nobody(1, 9, 1);
    acquaint(&one, NodeId(2), two);
    let dialled = soon(one.dial(NodeId(2), LinkClass::Control)).await;
    let dialled = dialled.expect("a member is let in");
    let accepted = soon(two.accept()).await.expect("accepted");
    dialled.send(Bytes::from_static(b"x")).await.expect("send");
    assert_eq!(soon(accepted.receive()).await.expect("frame"), "x");
    assert_eq!(accepted.remote(), NodeId(1));
    (dialled, accepted)
}

/// S3: a member cannot speak for another.
#[tokio::test]
async fn a_member_that_claims_another_number_is_refused() {
    let two = node(2, 9).await;
    let liar = nobody(3, 9, 1);
    acquaint(&liar, NodeId(2), &two);
    let why = refusal(&liar, NodeId(2)).await;
    assert!(
        why.contains("says that it is node 3") && why.contains("that of node 1"),
        "{why}"
    );
    member_connects(&two).await;
}

/// S3: a key that is no member's opens no link, whatever it says.
#[tokio::test]
async fn a_key_that_is_no_members_is_refused() {
    let two = node(2, 9).await;
    let stranger = nobody(1, 9, 77);
    acquaint(&stranger, NodeId(2), &two);
    let why = refusal(&stranger, NodeId(2)).await;
    assert!(why.contains("is no member's"), "{why}");
    // By hand: the code is there too.
    let connection = proved(&two, 77, 2).await;
    let channel = channel_over(connection, LinkClass::Control)
        .await
        .expect("HTTP/2");
    let hello = identity(1, 9).hello(NodeId(2), LinkClass::Control);
    let frames = futures::stream::iter([hello]);
    let status = soon(LinkServiceClient::new(channel).open(frames))
        .await
        .expect_err("refused");
    assert_eq!(status.code(), tonic::Code::Unauthenticated);
    let told = LinkRefusal::decode(status.details()).expect("a refusal");
    assert_eq!(told.code(), LinkRefusalCode::NotAMember);
    member_connects(&two).await;
}

/// S3: a removed member is out at once, with what it sent and nobody looked at, and stays out.
#[tokio::test]
async fn a_removed_key_loses_its_links_at_once() {
    let two = node(2, 9).await;
    let (one, three) = (nobody(1, 9, 1), nobody(3, 9, 3));
    acquaint(&one, NodeId(2), &two);
    acquaint(&three, NodeId(2), &two);
    let (a, b) = tokio::join!(soon(one.dial(NodeId(2), LinkClass::Bulk)), two.accept());
    let (a, b) = (a.expect("dial"), b.expect("accept"));
    let (c, d) = tokio::join!(soon(three.dial(NodeId(2), LinkClass::Bulk)), two.accept());
    let (c, d) = (c.expect("dial"), d.expect("accept"));
    for _ in 0..3 {
        a.send(Bytes::from_static(b"x")).await.expect("send");
    }
    assert_eq!(soon(b.receive()).await.expect("frame"), "x");
    let mut without = members(None);
    without.remove(&NodeId(1));
    two.set_peers(without);
    assert_eq!(b.receive().await, Err(LinkProblem::Closed));
    assert_eq!(b.send(Bytes::new()).await, Err(LinkProblem::Closed));
    assert_eq!(soon(a.receive()).await, Err(LinkProblem::Closed));
    let why = refusal(&one, NodeId(2)).await;
    assert!(why.contains("was removed"), "{why}");
    // The others go on, and node 1 may come back.
    c.send(Bytes::from_static(b"y")).await.expect("send");
    assert_eq!(soon(d.receive()).await.expect("frame"), "y");
    two.set_peers(members(None));
    member_connects(&two).await;
}

/// S3: links that this node dialled close too, and it dials no more.
#[tokio::test]
async fn a_removed_key_loses_the_links_that_were_dialled_to_it() {
    let two = node(2, 9).await;
    let one = nobody(1, 9, 1);
    acquaint(&one, NodeId(2), &two);
    let a = soon(one.dial(NodeId(2), LinkClass::Control))
        .await
        .expect("dial");
    let b = soon(two.accept()).await.expect("accept");
    b.send(Bytes::from_static(b"x")).await.expect("send");
    // A new key for node 2 is a removal of the old one.
    let mut other = members(Some((2, two.local_addr().expect("address").to_string())));
    other.get_mut(&NodeId(2)).expect("row").key = public(50);
    one.set_peers(other);
    assert_eq!(a.receive().await, Err(LinkProblem::Closed));
    assert_eq!(soon(b.receive()).await, Err(LinkProblem::Closed));
    let why = away(&one, NodeId(2)).await;
    assert!(why.contains("another key answers"), "{why}");
}

/// S3: nothing but a proved key gets as far as HTTP/2.
#[tokio::test]
async fn garbage_and_other_protocols_are_hung_up_on() {
    let two = node(2, 9).await;
    let long = vec![0x41; 100_000];
    for bytes in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
        b"SSH-2.0-OpenSSH_9.9\r\n",
        &[0x16, 0x03, 0x01, 0xff, 0xff, 1, 2, 3],
        &[0; 64],
        &long,
    ] {
        let mut stream = tcp(&two).await;
        let _ = stream.write_all(bytes).await;
        let _ = stream.shutdown().await;
        let answer = rest(&mut stream).await;
        // An alert of TLS at most.
        assert!(answer.len() <= 7, "{answer:?}");
    }
    member_connects(&two).await;
}

/// TLS 1.2 is not spoken: a hello that offers no more gets the alert `protocol_version`.
#[tokio::test]
async fn tls_1_2_is_refused() {
    let two = node(2, 9).await;
    let mut hello = vec![0x03, 0x03];
    hello.extend([7; 32]);
    // No session; one suite, ECDHE-ECDSA with AES-128-GCM; no compression; groups, signatures.
    hello.extend([0, 0, 2, 0xc0, 0x2b, 1, 0, 0, 16, 0, 10, 0, 4, 0, 2, 0, 29]);
    hello.extend([0, 13, 0, 4, 0, 2, 0x08, 0x07]);
    let length = u8::try_from(hello.len()).expect("short");
    let mut record = vec![0x16, 0x03, 0x01, 0, length + 4, 1, 0, 0, length];
    record.extend(hello);
    let mut stream = tcp(&two).await;
    stream.write_all(&record).await.expect("write");
    let answer = rest(&mut stream).await;
    assert_eq!(
        (answer.first(), answer.get(6)),
        (Some(&0x15), Some(&70)),
        "{answer:?}"
    );
    member_connects(&two).await;
}

/// S3: who shows no key, or a certificate instead of one, is not let in.
#[tokio::test]
async fn a_caller_without_a_key_is_refused() {
    let two = node(2, 9).await;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let own = tls::Tls::new(key(1), Protocol::Links).client(Wanted::Key(public(2)), Arc::default());
    let ordinary = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    for shows in [
        ordinary.client_auth_cert_resolver.clone(),
        Arc::new(raw::NoKey),
    ] {
        let mut keyless = own.clone();
        keyless.client_auth_cert_resolver = shows;
        let alert = refused_by(&two, keyless).await;
        assert!(alert.contains("alert"), "{alert}");
    }
    member_connects(&two).await;
}

/// What a caller with these settings hears; TLS 1.3 tells it only after its own part is over.
async fn refused_by(two: &SystemNetwork, config: rustls::ClientConfig) -> String {
    let connector = TlsConnector::from(Arc::new(config));
    let refused = match soon(connector.connect(tls::nobody(), tcp(two).await)).await {
        Err(error) => error,
        Ok(mut stream) => soon(stream.read_u8()).await.expect_err("hung up"),
    };
    refused
        .get_ref()
        .map(ToString::to_string)
        .unwrap_or_default()
}

/// S3: to show a key is not to have it, on either side.
#[tokio::test]
async fn a_key_that_is_shown_must_sign() {
    let two = node(2, 9).await;
    let lie = tls::Tls::lying(key(66), public(1), Protocol::Links);
    let config = lie.client(Wanted::Key(public(2)), Arc::default());
    let alert = refused_by(&two, config).await;
    assert!(alert.contains("alert"), "{alert}");
    // The other way round: somebody at node 2's address shows node 2's key.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address").to_string();
    let acceptor = TlsAcceptor::from(tls::Tls::lying(key(66), public(2), Protocol::Links).server());
    let calling = Security::new(key(1), false);
    let (met, called) = soon(async {
        let meeting = async {
            let (stream, _) = listener.accept().await.expect("accept");
            acceptor.accept(stream).await
        };
        tokio::join!(meeting, calling.call(&address, Wanted::Key(public(2))))
    })
    .await;
    assert!(met.is_err());
    let problem = called.err().expect("no handshake").to_string();
    assert!(problem.contains("BadSignature"), "{problem}");
    member_connects(&two).await;
}

/// B2: frames above HTTP/2's limit, messages above ours, and headers without end.
#[tokio::test]
async fn oversized_frames_are_refused() {
    let two = node(2, 9).await;
    let mut caller = http2(&two, 1, 2).await;
    say(&mut caller, &head(0x00ff_ffff, DATA, 0, 1)).await;
    assert_eq!(goaway(&mut caller).await, Some(FRAME_SIZE_ERROR));
    // A message that says it has 2 GiB.
    let mut caller = http2(&two, 1, 2).await;
    say(&mut caller, &frame(HEADERS, END_HEADERS, 1, &call(OPEN))).await;
    say(
        &mut caller,
        &frame(DATA, 0, 1, &[0, 0x80, 0, 0, 0, 1, 2, 3]),
    )
    .await;
    let (_, answer) = next_of(&mut caller, DATA).await.expect("a refusal");
    let text = String::from_utf8_lossy(&answer).into_owned();
    assert!(text.contains("too large"), "{text}");
    // Headers that go on and on.
    let mut caller = http2(&two, 1, 2).await;
    say(&mut caller, &frame(HEADERS, 0, 1, &call(OPEN))).await;
    let mut more = vec![0x00, 3, b'x', b'-', b'a', 0x7f, 0x80, 0x01];
    more.extend([b'v'; 255]);
    for _ in 0..2000 {
        say(&mut caller, &frame(CONTINUATION, 0, 1, &more)).await;
    }
    assert!(
        goaway(&mut caller)
            .await
            .is_none_or(|code| code == ENHANCE_YOUR_CALM)
    );
    member_connects(&two).await;
}

/// B2: those who take their time hold up nobody, however many they are.
#[tokio::test]
async fn slow_handshakes_do_not_keep_a_member_out() {
    let two = node(2, 9).await;
    let mut slow = Vec::new();
    for number in 0..150_usize {
        let mut stream = tcp(&two).await;
        if number % 2 == 0 {
            // The beginning of a hello.
            stream
                .write_all(&[0x16, 0x03, 0x01, 0x02, 0x00])
                .await
                .expect("write");
        }
        slow.push(stream);
    }
    let started = std::time::Instant::now();
    member_connects(&two).await;
    // Nobody's handshake was waited for.
    let took = started.elapsed();
    assert!(took < Duration::from_secs(9), "{took:?}");
    // All but the last 32 were hung up on, without their ten seconds.
    let mut first = slow.swap_remove(0);
    let hung_up = tokio::time::timeout(Duration::from_secs(5), first.read(&mut [0; 8])).await;
    assert_eq!(hung_up.expect("in time").unwrap_or(0), 0);
}

/// B2: keys cost nothing, so those that are no member's have few places, and members others.
#[tokio::test]
async fn many_strangers_do_not_keep_a_member_out() {
    let two = node(2, 9).await;
    let mut strangers = Vec::new();
    for seed in 100..140 {
        strangers.push(http2(&two, seed, 2).await);
    }
    // The first had to go for the others.
    hung_up(&mut strangers[0]).await;
    member_connects(&two).await;
}

/// B2: calls of a connection, and links that say nothing, are bounded.
#[tokio::test]
async fn too_many_streams_are_refused() {
    let two = node(2, 9).await;
    let mut caller = http2(&two, 3, 2).await;
    // Requests to join, of which the rest never comes.
    let mut burst = Vec::new();
    for number in 0..80_u32 {
        burst.extend(frame(HEADERS, END_HEADERS, 2 * number + 1, &call(JOIN)));
    }
    say(&mut caller, &burst).await;
    let (stream, payload) = next_of(&mut caller, RST_STREAM).await.expect("a reset");
    assert_eq!((stream, code_at(&payload, 0)), (2 * 64 + 1, REFUSED_STREAM));
    let mut caller = http2(&two, 4, 2).await;
    for stream in [1, 3, 5, 7, 9] {
        say(
            &mut caller,
            &frame(HEADERS, END_HEADERS, stream, &call(OPEN)),
        )
        .await;
    }
    let (_, answer) = next_of(&mut caller, DATA).await.expect("a refusal");
    let text = String::from_utf8_lossy(&answer).into_owned();
    assert!(text.contains("have not said hello"), "{text}");
    member_connects(&two).await;
}

/// B2: opening and resetting calls without end (CVE-2023-44487) ends the connection.
#[tokio::test]
async fn rapid_resets_end_the_connection() {
    let two = node(2, 9).await;
    let mut caller = http2(&two, 3, 2).await;
    let mut burst = Vec::new();
    for number in 0..2000_u32 {
        let stream = 2 * number + 1;
        burst.extend(frame(HEADERS, END_HEADERS, stream, &call(OPEN)));
        burst.extend(frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]));
    }
    say(&mut caller, &burst).await;
    assert_eq!(goaway(&mut caller).await, Some(ENHANCE_YOUR_CALM));
    member_connects(&two).await;
}

/// B2: who asks and never reads the answers is not read from any more, and nothing piles up.
#[tokio::test]
async fn floods_of_pings_and_settings_hold_up_nobody() {
    let two = node(2, 9).await;
    for (kind, payload) in [(PING, &[1; 8][..]), (SETTINGS, &[0, 3, 0, 0, 0, 9])] {
        let mut caller = http2(&two, 3, 2).await;
        let flood = frame(kind, 0, 0, payload).repeat(1000);
        let mut sent = 0;
        let ended = loop {
            let writing = caller.write_all(&flood);
            match tokio::time::timeout(Duration::from_millis(200), writing).await {
                Ok(Ok(())) => sent += flood.len(),
                // Hung up on, or not read from any more.
                Ok(Err(_)) | Err(_) => break true,
            }
            if sent > 64 * 1024 * 1024 {
                break false;
            }
        };
        assert!(ended, "{sent} bytes of frames of kind {kind}, and no end");
        member_connects(&two).await;
    }
}

/// B2: a handshake that does not end is given up, on both sides.
#[tokio::test(start_paused = true)]
async fn a_handshake_that_does_not_end_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address").to_string();
    for is_plaintext in [false, true] {
        let security = Security::new(key(1), is_plaintext);
        let started = tokio::time::Instant::now();
        let called = security.call(&address, Wanted::Key(public(2))).await;
        let called = called.err().expect("nobody answers").to_string();
        assert!(called.contains("in time"), "{called}");
        let (stream, _) = listener.accept().await.expect("accept");
        // The greeting, or hello, is there; nothing comes after it.
        let met = security.answer(stream).await;
        assert!(met.is_err());
        let silent = tokio::net::TcpStream::connect(&address)
            .await
            .expect("connect");
        let (stream, _) = listener.accept().await.expect("accept");
        let met = security
            .answer(stream)
            .await
            .err()
            .expect("no handshake")
            .to_string();
        assert!(met.contains("in time"), "{met}");
        drop(silent);
        assert!(started.elapsed() >= 2 * Duration::from_secs(10));
    }
}

/// B2: one member's connections are bounded: the newest are kept.
#[tokio::test]
async fn a_member_does_not_take_all_connections() {
    let two = node(2, 9).await;
    let mut open = Vec::new();
    for _ in 0..33 {
        open.push(http2(&two, 3, 2).await);
    }
    hung_up(&mut open[0]).await;
    say(&mut open[32], &frame(PING, 0, 0, &[1; 8])).await;
    assert!(
        next_of(&mut open[32], PING).await.is_some(),
        "the newest lives"
    );
    member_connects(&two).await;
}

/// A link that is open goes on while the door is under attack.
#[tokio::test]
async fn a_link_goes_on_while_the_door_is_attacked() {
    let two = node(2, 9).await;
    let (a, b) = member_connects(&two).await;
    let is_over = std::cell::Cell::new(false);
    let attack = async {
        let mut held = Vec::new();
        for seed in 100..140 {
            held.push(http2(&two, seed, 2).await);
            let mut resets = http2(&two, 3, 2).await;
            for stream in (1..200).step_by(2) {
                say(
                    &mut resets,
                    &frame(HEADERS, END_HEADERS, stream, &call(OPEN)),
                )
                .await;
                say(&mut resets, &frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])).await;
            }
            let mut garbage = tcp(&two).await;
            let _ = garbage.write_all(&[0; 512]).await;
        }
        is_over.set(true);
    };
    let talk = async {
        while !is_over.get() {
            a.send(Bytes::from_static(b"x")).await.expect("send");
            assert_eq!(b.receive().await.expect("frame"), "x");
            b.send(Bytes::from_static(b"y")).await.expect("send");
            assert_eq!(a.receive().await.expect("frame"), "y");
        }
    };
    soon(async { tokio::join!(attack, talk) }).await;
    a.send(Bytes::from_static(b"z")).await.expect("send");
    assert_eq!(soon(b.receive()).await.expect("frame"), "z");
    member_connects(&two).await;
}

/// S3: a caller shows its own key only to the node it wants.
#[tokio::test]
async fn nothing_is_sent_to_one_with_another_key() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address").to_string();
    let imposter = Security::new(key(66), false);
    let one = nobody(1, 9, 1);
    one.set_peers(members(Some((2, address))));
    let (met, dialled) = soon(async {
        let meeting = async {
            let (stream, _) = listener.accept().await.expect("accept");
            imposter.answer(stream).await
        };
        tokio::join!(meeting, one.dial(NodeId(2), LinkClass::Control))
    })
    .await;
    let problem = met.err().expect("no handshake").to_string();
    // An alert instead of the caller's key.
    assert!(problem.contains("alert"), "{problem}");
    let problem = dialled.err().expect("no link").to_string();
    assert!(problem.contains("another key answers there"), "{problem}");
    // With the right key there is one, and it is TLS.
    let right = Security::new(key(66), false);
    let calling = Security::new(key(1), false);
    let address = listener.local_addr().expect("address").to_string();
    let (met, called) = soon(async {
        let meeting = async {
            let (stream, _) = listener.accept().await.expect("accept");
            right.answer(stream).await
        };
        tokio::join!(meeting, calling.call(&address, Wanted::Key(public(66))))
    })
    .await;
    let (met, called) = (met.expect("met"), called.expect("called"));
    assert!(raw::is_tls(&met) && met.key == public(1));
    assert_eq!(met.exporter, called.exporter);
}
