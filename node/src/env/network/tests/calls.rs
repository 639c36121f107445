//! What the port of the API withstands: the real listener, and callers by hand. Each test ends with
//! a member that is served all the same.

use super::mute::Mute;
use super::raw::{
    self, CONTINUATION, DATA, END_HEADERS, ENHANCE_YOUR_CALM, FRAME_SIZE_ERROR, HEADERS, PING,
    REFUSED_STREAM, RST_STREAM, begin, call, code_at, frame, goaway, head, hung_up, next_of, rest,
    say,
};
use super::*;
use crate::api::{self, Doorman, Gate as ApiGate, Guest, Right};
use crate::env::network::tls::{Protocol, Tls};
use aber_proto::generated::v1;
use aber_proto::generated::v1::file_service_client::FileServiceClient;
use aber_proto::generated::v1::watch_service_client::WatchServiceClient;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::codegen::http;
use tonic::{Code, Status};

const GET: &str = "/aber.v1.FileService/GetItem";
/// Of members 1 to 4; 2 is the node itself.
const MEMBER: u8 = 1;
const NODE: u8 = 2;
const BUSY: u8 = 3;
const STRANGER: u8 = 77;

/// Members 1 to 4 may write.
fn doorman() -> Doorman {
    let member = |key: &PublicKey| (1..=4).find(|seed| public(*seed) == *key);
    Arc::new(move |key| {
        member(key).map(|seed| Guest {
            name: format!("n{seed}"),
            right: Right::Write,
        })
    })
}

/// A node with a port for its API.
async fn open() -> (SystemNetwork, SocketAddr) {
    let network = nobody(NODE.into(), 9, NODE);
    let port = network.open_api(([127, 0, 0, 1], 0).into()).expect("bound");
    let address = port.address();
    let served = api::serve_remote(port, Mute, doorman(), std::future::pending());
    tokio::spawn(served);
    (network, address)
}

/// A caller that proved `seed`'s key.
async fn proved(to: SocketAddr, seed: u8) -> Connection {
    let caller = ApiCaller::new(key(seed), &to.to_string(), key_pin(&public(NODE)));
    soon(caller.call()).await.expect("handshake")
}

async fn http2(to: SocketAddr, seed: u8) -> Connection {
    begin(proved(to, seed).await).await
}

async fn get(connection: Connection) -> Result<(), Status> {
    let channel = channel_over(connection, LinkClass::Bulk).await;
    let mut client = FileServiceClient::new(channel.expect("HTTP/2"));
    let asked = soon(client.get_item(v1::GetItemRequest::default())).await;
    asked.map(drop)
}

async fn member_is_served(to: SocketAddr) {
    get(proved(to, MEMBER).await).await.expect("served");
}

/// What a caller with these settings of TLS hears.
async fn refused_by(to: SocketAddr, config: rustls::ClientConfig) -> String {
    let stream = TcpStream::connect(to).await.expect("connect");
    let connector = TlsConnector::from(Arc::new(config));
    let refused = match soon(connector.connect(tls::nobody(), stream)).await {
        Err(error) => error,
        Ok(mut stream) => soon(stream.read_u8()).await.expect_err("hung up"),
    };
    let said = refused.get_ref().map(ToString::to_string);
    said.unwrap_or_default()
}

/// S3: to show a member's key is not to have it; and without a key there is no call.
#[tokio::test]
async fn a_forged_identity_is_no_caller() {
    let (_two, at) = open().await;
    let wanted = Wanted::Key(public(NODE));
    let lie = Tls::lying(key(66), public(MEMBER), Protocol::Api);
    let alert = refused_by(at, lie.client(wanted, Arc::default())).await;
    assert!(alert.contains("DecryptError"), "{alert}");
    let mut keyless = Tls::new(key(MEMBER), Protocol::Api).client(wanted, Arc::default());
    keyless.client_auth_cert_resolver = Arc::new(raw::NoKey);
    let alert = refused_by(at, keyless).await;
    assert!(alert.contains("CertificateRequired"), "{alert}");
    // A link is not for this port, and a call not for that of links.
    let link = Tls::new(key(MEMBER), Protocol::Links).client(wanted, Arc::default());
    let alert = refused_by(at, link).await;
    assert!(alert.contains("NoApplicationProtocol"), "{alert}");
    member_is_served(at).await;
}

/// S3: a key that is nobody's hears one status for whatever it asks, and has little time and room.
#[tokio::test]
async fn strangers_are_told_once_and_keep_nobody_out() {
    let (_two, at) = open().await;
    let refused = get(proved(at, STRANGER).await)
        .await
        .expect_err("a stranger");
    assert_eq!(refused.code(), Code::Unauthenticated);
    let mut strangers = Vec::new();
    for seed in 100..140 {
        strangers.push(http2(at, seed).await);
    }
    // The first had to go for the others.
    hung_up(&mut strangers[0]).await;
    member_is_served(at).await;
}

/// S3: nothing is said in the clear, whatever links do.
#[tokio::test]
async fn plaintext_and_garbage_are_hung_up_on() {
    let (two, at) = open().await;
    two.set_plaintext(true);
    let port = two.open_api(([127, 0, 0, 1], 0).into()).expect("bound");
    let beside_plaintext = port.address();
    let served = api::serve_remote(port, Mute, doorman(), std::future::pending());
    tokio::spawn(served);
    let greeting = [&b"aberopen\x01\0\0\0"[..], &[7; 64]].concat();
    let long = vec![0x41; 100_000];
    for bytes in [
        &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"[..],
        b"GET / HTTP/1.1\r\n\r\n",
        &greeting,
        &[0x16, 0x03, 0x01, 0xff, 0xff, 1, 2, 3],
        &[0; 64],
        &long,
    ] {
        for at in [at, beside_plaintext] {
            let mut stream = TcpStream::connect(at).await.expect("connect");
            let _ = stream.write_all(bytes).await;
            let _ = stream.shutdown().await;
            let answer = rest(&mut stream).await;
            // An alert of TLS, or that it speaks TLS.
            assert!(answer.len() <= 8, "{answer:?}");
        }
    }
    member_is_served(at).await;
    member_is_served(beside_plaintext).await;
}

/// B2: those who take their time hold up nobody, however many they are.
#[tokio::test]
async fn slow_handshakes_do_not_keep_a_caller_out() {
    let (_two, at) = open().await;
    let mut slow = Vec::new();
    for number in 0..100_usize {
        let mut stream = TcpStream::connect(at).await.expect("connect");
        if number % 2 == 0 {
            let hello = [0x16, 0x03, 0x01, 0x02, 0x00];
            stream.write_all(&hello).await.expect("write");
        }
        slow.push(stream);
    }
    member_is_served(at).await;
    // All but the last 32 were hung up on, without their ten seconds.
    let mut first = slow.swap_remove(0);
    let hung_up = tokio::time::timeout(Duration::from_secs(5), first.read(&mut [0; 8])).await;
    assert_eq!(hung_up.expect("in time").unwrap_or(0), 0);
}

/// B2: frames above HTTP/2's limit, messages above ours, headers without end.
#[tokio::test]
async fn oversized_calls_are_refused() {
    let (_two, at) = open().await;
    let mut caller = http2(at, MEMBER).await;
    say(&mut caller, &head(0x00ff_ffff, DATA, 0, 1)).await;
    assert_eq!(goaway(&mut caller).await, Some(FRAME_SIZE_ERROR));
    let mut caller = http2(at, MEMBER).await;
    say(&mut caller, &frame(HEADERS, 0, 1, &call(GET))).await;
    let mut more = vec![0x00, 3, b'x', b'-', b'a', 0x7f, 0x80, 0x01];
    more.extend([b'v'; 255]);
    for _ in 0..2000 {
        say(&mut caller, &frame(CONTINUATION, 0, 1, &more)).await;
    }
    let ended = goaway(&mut caller).await;
    assert!(ended.is_none_or(|code| code == ENHANCE_YOUR_CALM));
    let channel = channel_over(proved(at, MEMBER).await, LinkClass::Bulk).await;
    let mut client = WatchServiceClient::new(channel.expect("HTTP/2"));
    let large = v1::ReadChunksRequest {
        hashes: vec![vec![0; limit::MESSAGE_BYTES + 1].into()],
    };
    let refused = soon(client.read_chunks(large))
        .await
        .expect_err("too large");
    assert_eq!(refused.code(), Code::OutOfRange, "{refused}");
    member_is_served(at).await;
}

/// B2: calls of a connection are bounded, and so are those that are opened and reset.
#[tokio::test]
async fn floods_of_calls_are_refused() {
    let (_two, at) = open().await;
    let mut caller = http2(at, BUSY).await;
    let mut burst = Vec::new();
    for number in 0..80_u32 {
        burst.extend(frame(HEADERS, END_HEADERS, 2 * number + 1, &call(GET)));
    }
    say(&mut caller, &burst).await;
    let (stream, payload) = next_of(&mut caller, RST_STREAM).await.expect("a reset");
    assert_eq!((stream, code_at(&payload, 0)), (2 * 64 + 1, REFUSED_STREAM));
    let mut caller = http2(at, BUSY).await;
    let mut burst = Vec::new();
    for number in 0..2000_u32 {
        let stream = 2 * number + 1;
        burst.extend(frame(HEADERS, END_HEADERS, stream, &call(GET)));
        burst.extend(frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]));
    }
    say(&mut caller, &burst).await;
    assert_eq!(goaway(&mut caller).await, Some(ENHANCE_YOUR_CALM));
    member_is_served(at).await;
}

/// B2: one key has its places and no more. The newest is told; the oldest goes on, and other keys
/// have theirs.
#[tokio::test]
async fn one_key_does_not_take_all_places() {
    let (_two, at) = open().await;
    let mut open = Vec::new();
    for _ in 0..32 {
        open.push(http2(at, BUSY).await);
    }
    let refused = get(proved(at, BUSY).await).await.expect_err("no place");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    say(&mut open[0], &frame(PING, 0, 0, &[1; 8])).await;
    assert!(
        next_of(&mut open[0], PING).await.is_some(),
        "the oldest lives"
    );
    member_is_served(at).await;
    open.truncate(31);
    // The place is free once the node has seen that the connection is gone.
    let again = soon(async {
        while get(proved(at, BUSY).await).await.is_err() {
            tokio::task::yield_now().await;
        }
    });
    again.await;
}

/// S3: a removed key has no connection any more when `set_peers` returns, whatever it waits for.
#[tokio::test]
async fn a_removed_key_loses_its_calls_at_once() {
    let (two, at) = open().await;
    let (mut gone, mut stays) = (http2(at, BUSY).await, http2(at, MEMBER).await);
    let asked = frame(HEADERS, END_HEADERS, 1, &call(GET));
    say(&mut gone, &asked).await;
    say(&mut gone, &frame(PING, 0, 0, &[1; 8])).await;
    assert!(
        next_of(&mut gone, PING).await.is_some(),
        "served until then"
    );
    let mut left = members(None);
    left.remove(&NodeId(BUSY.into()));
    two.set_peers(left);
    hung_up(&mut gone).await;
    say(&mut stays, &frame(PING, 0, 0, &[1; 8])).await;
    assert!(next_of(&mut stays, PING).await.is_some(), "the other stays");
    // The table of the API still knows it here: without a place it is not served.
    let refused = get(proved(at, BUSY).await).await.expect_err("removed");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    member_is_served(at).await;
}

/// B2: a call whose request does not come is cut; an upload takes the time that its content takes.
#[tokio::test(start_paused = true)]
async fn a_call_that_is_not_answered_in_time_is_cut() {
    let inner = tower::service_fn(|_request| {
        std::future::pending::<Result<http::Response<tonic::body::Body>, Status>>()
    });
    let mut gate = ApiGate::new(inner, doorman());
    let mut ask = |path: &str| {
        let caller = Caller {
            key: public(MEMBER),
            exporter: [0; 32],
            address: None,
            is_seated: true,
            gate: Gate::new(),
        };
        let request = http::Request::builder().uri(path).extension(caller);
        let request = request.body(tonic::body::Body::empty()).expect("a request");
        tower::Service::call(&mut gate, request)
    };
    let started = tokio::time::Instant::now();
    let (unary, upload) = (ask(GET), ask("/aber.v1.FileService/Upload"));
    let hour = Duration::from_secs(3600);
    let answer = tokio::time::timeout(hour, unary).await;
    let answer = answer.expect("in time").expect("an answer");
    assert_eq!(started.elapsed().as_secs(), 62);
    let status = Status::from_header_map(answer.headers()).expect("a status");
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert!(tokio::time::timeout(hour, upload).await.is_err());
}
