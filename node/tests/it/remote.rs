//! The API over TCP: who is let in, and to what.

use super::Fake;
use super::api::{self, get};
use aber_node::api::{ApiAddress, Doorman, Guest, Right, serve_remote};
use aber_node::client::{Client, Target};
use aber_node::env::network::{LinkIdentity, Peer, SystemNetwork, key_pin};
use aber_node::reason::{Problem, Reason};
use aber_proto::generated::v1::{self, upload_request::Message};
use aber_proto::{ClusterId, NodeId, PublicKey, SecretKey};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use tempfile::TempDir;

const OWN: u8 = 1;
const READER: u8 = 2;
const WRITER: u8 = 3;
const ADMIN: u8 = 4;
const STRANGER: u8 = 9;

fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed(&[seed; 32]).expect("seed")
}

/// Members 2 to 4, as the network knows them.
fn peers() -> BTreeMap<NodeId, Peer> {
    let peer = |seed: u8| Peer {
        key: key(seed).public(),
        addresses: Vec::new(),
    };
    let row = |seed: u8| (NodeId(seed.into()), peer(seed));
    [READER, WRITER, ADMIN].map(row).into_iter().collect()
}

type Guests = Arc<Mutex<BTreeMap<PublicKey, Guest>>>;

/// A fake node that answers over TCP.
struct Open {
    network: SystemNetwork,
    fake: Fake,
    guests: Guests,
    address: ApiAddress,
    /// Data directories with a key and nothing else.
    callers: TempDir,
}

impl Open {
    async fn start() -> Self {
        let network = SystemNetwork::new();
        let identity = LinkIdentity {
            cluster: ClusterId([7; 32]),
            node: NodeId(1),
            name: "one".to_owned(),
            version: "0.1.0".to_owned(),
        };
        network.introduce(identity, Arc::new(key(OWN)));
        network.set_peers(peers());
        let port = network.open_api(([127, 0, 0, 1], 0).into()).expect("bound");
        let address = ApiAddress {
            pin: key_pin(&key(OWN).public()),
            address: port.address().to_string(),
        };
        let guest = |(seed, name, right): (u8, &str, Right)| {
            let name = name.to_owned();
            (key(seed).public(), Guest { name, right })
        };
        let guests: Guests = Arc::new(Mutex::new(
            [
                (OWN, "one", Right::Own),
                (READER, "rozenn", Right::Read),
                (WRITER, "gwen", Right::Write),
                (ADMIN, "alan", Right::Admin),
            ]
            .map(guest)
            .into_iter()
            .collect(),
        ));
        let table = Arc::clone(&guests);
        let doorman: Doorman = Arc::new(move |key| table.lock().expect("lock").get(key).cloned());
        let fake = Fake::new();
        let served = serve_remote(port, fake.clone(), doorman, std::future::pending());
        tokio::spawn(served);
        Self {
            network,
            fake,
            guests,
            address,
            callers: tempfile::tempdir().expect("temporary directory"),
        }
    }

    /// A data directory with this key.
    fn data(&self, seed: u8) -> std::path::PathBuf {
        let data = self.callers.path().join(seed.to_string());
        std::fs::create_dir_all(&data).expect("directory");
        write_key(&data, seed);
        data
    }

    async fn connect(&self, seed: u8) -> Result<Client, Problem> {
        let target = Target::Remote(self.address.clone());
        Client::connect(&target, &self.data(seed)).await
    }

    async fn client(&self, seed: u8) -> Client {
        self.connect(seed).await.expect("connected")
    }
}

fn write_key(data: &Path, seed: u8) {
    use std::io::Write;
    let mut options = std::fs::OpenOptions::new();
    let options = options.create(true).truncate(true).write(true).mode(0o600);
    let mut file = options.open(data.join("key")).expect("key file");
    file.write_all(&[seed; 32]).expect("written");
}

fn mkdir(path: &str) -> v1::AppendChangeRequest {
    v1::AppendChangeRequest {
        options: Some(v1::WriteOptions {
            via: "the king".to_owned(),
            request_id: path.to_owned(),
            ..Default::default()
        }),
        ..api::mkdir(path)
    }
}

async fn upload(client: &Client, path: &str, content: Vec<u8>) -> Result<(), Problem> {
    let size = content.len() as u64;
    let message = |message| v1::UploadRequest {
        message: Some(message),
    };
    let pieces = [
        message(Message::Data(Bytes::from(content))),
        message(Message::End(v1::UploadEnd { size })),
    ];
    let header = v1::UploadHeader {
        path: path.to_owned(),
        options: Some(v1::WriteOptions {
            request_id: path.to_owned(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let sent = client.upload(header, futures::stream::iter(pieces)).await;
    sent.map(drop)
}

fn reason<T>(outcome: Result<T, Problem>) -> Option<Reason> {
    outcome.err().map(|problem| problem.reason)
}

/// S2: over TCP each key may do what its role says, and no more; history says who asked.
#[tokio::test]
async fn members_do_what_their_roles_say() {
    let open = Open::start().await;
    let reader = open.client(READER).await;
    reader.get_item(get("/")).await.expect("read");
    let refused = reader
        .append_change(mkdir("/r"))
        .await
        .expect_err("a reader");
    assert_eq!(refused.reason, Reason::NotAllowed);
    assert_eq!(refused.what(), "this is not allowed: rozenn is a reader");
    assert_eq!(refused.why(), "it takes the role writer");
    let refused = upload(&reader, "/r", vec![1; 100]).await;
    assert_eq!(reason(refused), Some(Reason::NotAllowed));
    let writer = open.client(WRITER).await;
    writer.append_change(mkdir("/w")).await.expect("made");
    upload(&writer, "/w/file", vec![2; 3_000_000])
        .await
        .expect("uploaded");
    let asked = open.fake.asked();
    assert_eq!(
        asked,
        ["member gwen", "member gwen"],
        "not who it says it is"
    );
    let mut verify = writer.verify(v1::VerifyRequest::default()).await.map(drop);
    assert_eq!(reason(verify), Some(Reason::NotAllowed));
    let admin = open.client(ADMIN).await;
    verify = admin.verify(v1::VerifyRequest::default()).await.map(drop);
    assert_ne!(reason(verify), Some(Reason::NotAllowed));
    let revoke = || v1::RevokeTicketRequest::default();
    let refused = admin
        .revoke_ticket(revoke())
        .await
        .expect_err("in its name");
    let why = "over the network ClusterService/RevokeTicket is for its own key alone";
    assert_eq!(refused.why(), why);
    let own = open.client(OWN).await;
    own.append_change(mkdir("/o")).await.expect("made");
    assert_eq!(
        open.fake.asked().last().map(String::as_str),
        Some("the king")
    );
    let revoked = own.revoke_ticket(revoke()).await;
    assert_ne!(reason(revoked), Some(Reason::NotAllowed));
    let refused = own.stop(v1::StopRequest {}).await.expect_err("from afar");
    let why = "over the network UpkeepService/Stop is for nobody";
    assert_eq!(refused.why(), why);
    assert!(!open.fake.state().stopped);
}

/// S3: a key that is nobody's gets nothing: no call, no byte of an answer.
#[tokio::test]
async fn an_uninvited_caller_gets_nothing() {
    let open = Open::start().await;
    let stranger = open.client(STRANGER).await;
    for problem in [
        stranger.get_item(get("/")).await.map(drop),
        stranger.get_status(v1::GetStatusRequest {}).await.map(drop),
        stranger.append_change(mkdir("/s")).await.map(drop),
        stranger.stop(v1::StopRequest {}).await.map(drop),
    ] {
        let problem = problem.expect_err("refused");
        assert_eq!(problem.reason, Reason::KeyNotAllowed);
        assert_eq!(problem.reason.row().exit, 10);
    }
    let refused = upload(&stranger, "/s", vec![1; 3_000_000]).await;
    assert_eq!(reason(refused), Some(Reason::KeyNotAllowed));
    assert!(open.fake.asked().is_empty());
    open.client(READER)
        .await
        .get_item(get("/"))
        .await
        .expect("read");
}

/// S2, S3: a removed key loses its connections at once, in the middle of a stream too, and a role
/// that changes holds for the next call.
#[tokio::test]
async fn a_removed_key_is_out_at_once() {
    let open = Open::start().await;
    let (reader, writer) = (open.client(READER).await, open.client(WRITER).await);
    let mut stream = reader
        .watch(v1::WatchRequest::default())
        .await
        .expect("watches");
    let guest = |right| Guest {
        name: "gwen".to_owned(),
        right,
    };
    writer.append_change(mkdir("/w")).await.expect("made");
    let gwen = key(WRITER).public();
    open.guests
        .lock()
        .expect("lock")
        .insert(gwen, guest(Right::Read));
    let refused = writer.append_change(mkdir("/x")).await;
    assert_eq!(reason(refused), Some(Reason::NotAllowed));
    // Removed: from the table of members, then from the network's.
    open.guests
        .lock()
        .expect("lock")
        .remove(&key(READER).public());
    let mut left = peers();
    left.remove(&NodeId(READER.into()));
    open.network.set_peers(left);
    let ended = tokio::time::timeout(std::time::Duration::from_secs(20), async {
        loop {
            match stream.next().await {
                Ok(Some(_)) => {}
                ended => return ended.map(drop),
            }
        }
    });
    assert!(ended.await.expect("in time").is_err(), "the stream goes on");
    let mut last = reader.get_item(get("/")).await.map(drop);
    if reason(last.clone()) == Some(Reason::Stopping) {
        last = reader.get_item(get("/")).await.map(drop);
    }
    assert_eq!(reason(last), Some(Reason::KeyNotAllowed));
    writer.get_item(get("/")).await.expect("the other stays");
}

/// S5: the pin is checked before anything is said; whoever else listens there is told apart.
#[tokio::test]
async fn a_caller_says_nothing_to_anybody_else() {
    let open = Open::start().await;
    let data = open.data(WRITER);
    let at = |pin: [u8; 32], address: &str| {
        let address = address.to_owned();
        Target::Remote(ApiAddress { pin, address })
    };
    let other = at([5; 32], &open.address.address);
    let problem = Client::connect(&other, &data)
        .await
        .expect_err("another key");
    assert_eq!(problem.reason, Reason::NodeKeyDiffers);
    assert_eq!(problem.reason.row().exit, 10);
    // The port of links has the same key.
    let links = open
        .network
        .listen(([127, 0, 0, 1], 0).into())
        .await
        .expect("listen");
    let wrong = at(open.address.pin, &links.to_string());
    let problem = Client::connect(&wrong, &data).await.expect_err("links");
    assert_eq!(problem.reason, Reason::NotAnApi);
    assert_eq!(problem.why(), "other nodes are served there");
    open.network.set_plaintext(true);
    let links = open
        .network
        .listen(([127, 0, 0, 1], 0).into())
        .await
        .expect("listen");
    let wrong = at(open.address.pin, &links.to_string());
    let problem = Client::connect(&wrong, &data).await.expect_err("plaintext");
    assert_eq!(problem.why(), "nodes with --plaintext are served there");
    // Somebody who speaks no TLS at all.
    let talker = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("bind");
    let wrong = at(
        open.address.pin,
        &talker.local_addr().expect("address").to_string(),
    );
    let talking = async {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let (mut stream, _) = talker.accept().await.expect("accept");
        let mut heard = vec![0; 4096];
        let count = stream.read(&mut heard).await.expect("a hello");
        stream
            .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            .await
            .expect("written");
        heard.truncate(count);
        heard
    };
    let (problem, heard) = tokio::join!(Client::connect(&wrong, &data), talking);
    let problem = problem.expect_err("no TLS");
    assert_eq!(problem.reason, Reason::NotAnApi);
    assert_eq!(problem.why(), "what answers there does not speak TLS");
    let own = key(WRITER).public();
    assert!(
        !heard.windows(32).any(|part| part == own.0),
        "its key was shown"
    );
    // No test listens at a port of the system's; what this one freed another test may have by now.
    let nobody = at(open.address.pin, "127.0.0.1:1");
    let gone = Client::connect(&nobody, &data).await;
    assert_eq!(reason(gone), Some(Reason::NodeAway));
    let empty = open.callers.path().join("empty");
    std::fs::create_dir(&empty).expect("directory");
    let keyless = Client::connect(&Target::Remote(open.address.clone()), &empty).await;
    assert_eq!(reason(keyless), Some(Reason::DataDirUnusable));
}

/// A client lives through a lost connection, with all proofs made anew.
#[tokio::test]
async fn a_broken_connection_is_made_anew() {
    let open = Open::start().await;
    let reader = open.client(READER).await;
    reader.get_item(get("/")).await.expect("read");
    open.network.set_peers(BTreeMap::new());
    open.network.set_peers(peers());
    let mut answered = reader.get_item(get("/")).await;
    if answered.is_err() {
        answered = reader.get_item(get("/")).await;
    }
    answered.expect("answers again");
}
