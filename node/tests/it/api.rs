//! Socket, adapters and client.

use super::Served;
use aber_log::chunk::{ChunkProblem, ChunkStore};
use aber_log::reader::{ReadProblem, Reader};
use aber_node::api::{ApiAddress, Listener, SOCKET};
use aber_node::client::{Client, Target};
use aber_node::reason::{Problem, Reason};
use aber_proto::generated::v1::{self, event::Operation, upload_request::Message};
use aber_proto::{
    ChainHash, ChunkHash, ChunkRef, ClusterId, Entry, EntryKind, LogId, PartitionId, Timestamp,
};
use bytes::{Bytes, BytesMut};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};

pub(crate) fn mkdir(path: &str) -> v1::AppendChangeRequest {
    let make = v1::MakeDirectory {
        path: path.to_owned(),
        parents: false,
    };
    let event = v1::Event {
        operation: Some(Operation::MakeDirectory(make)),
        ..Default::default()
    };
    v1::AppendChangeRequest {
        events: vec![event],
        options: None,
    }
}

pub(crate) fn get(path: &str) -> v1::GetItemRequest {
    v1::GetItemRequest {
        path: path.to_owned(),
        ..Default::default()
    }
}

async fn client(served: &Served) -> Client {
    Client::connect_data(served.data.path())
        .await
        .expect("connected")
}

#[tokio::test]
async fn calls_and_problems_cross_the_socket() {
    let served = Served::start().await;
    let client = client(&served).await;
    client.append_change(mkdir("/d")).await.expect("made");
    let item = client
        .get_item(get("/d"))
        .await
        .expect("there")
        .item
        .expect("item");
    assert_eq!(item.kind(), v1::ItemKind::Directory);
    let problem = client
        .get_item(get("/x\u{202e}é"))
        .await
        .expect_err("not there");
    let wanted = Problem::new(Reason::PathNotFound).with("path", "/x\u{202e}é");
    assert_eq!(problem, wanted);
}

/// S7: nobody but its user may open the socket.
#[tokio::test]
async fn the_socket_is_private_and_a_stale_one_is_replaced() {
    let mut served = Served::start().await;
    let socket = served.data.path().join(SOCKET);
    let metadata = std::fs::metadata(&socket).expect("socket");
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    let second = Listener::bind(served.data.path()).await;
    assert_eq!(
        second.map(drop).map_err(|p| p.reason),
        Err(Reason::DataDirInUse)
    );
    // Aborted, not stopped: the socket's file stays, as after kill -9.
    served.stop().await;
    assert!(socket.exists());
    let gone = Client::connect_data(served.data.path()).await.map(drop);
    assert_eq!(gone.map_err(|p| p.reason), Err(Reason::DaemonNotRunning));
    served.restart().await;
    client(&served)
        .await
        .get_item(get("/"))
        .await
        .expect("answers");
}

#[tokio::test]
async fn a_data_directory_may_be_deeper_than_a_socket_address() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let deep = dir.path().join("x".repeat(120)).join("y".repeat(120));
    std::fs::create_dir_all(&deep).expect("directories");
    let listener = Listener::bind(&deep).await.expect("bound");
    let fake = super::Fake::new();
    tokio::spawn(listener.serve(fake, std::future::pending()));
    let client = Client::connect_data(&deep).await.expect("connected");
    client.get_item(get("/")).await.expect("answers");
}

/// A client lives through a restart of its node.
#[tokio::test]
async fn a_broken_connection_is_made_anew() {
    let mut served = Served::start().await;
    let client = client(&served).await;
    client.get_item(get("/")).await.expect("answers");
    served.stop().await;
    let problem = client.get_item(get("/")).await.expect_err("gone");
    assert!(problem.retry(), "{problem}");
    served.restart().await;
    let mut answered = client.get_item(get("/")).await;
    if answered.is_err() {
        answered = client.get_item(get("/")).await;
    }
    answered.expect("answers again");
}

fn header(path: &str) -> v1::UploadHeader {
    v1::UploadHeader {
        path: path.to_owned(),
        ..Default::default()
    }
}

fn data(text: &'static str) -> v1::UploadRequest {
    v1::UploadRequest {
        message: Some(Message::Data(Bytes::from_static(text.as_bytes()))),
    }
}

fn end(size: u64) -> v1::UploadRequest {
    v1::UploadRequest {
        message: Some(Message::End(v1::UploadEnd { size })),
    }
}

/// A stream that breaks, or ends without its mark, leaves no file.
#[tokio::test]
async fn only_a_whole_upload_becomes_a_file() {
    let served = Served::start().await;
    let client = client(&served).await;
    let cases = [vec![data("abc")], vec![data("abc"), end(4)], vec![]];
    for pieces in cases {
        let answer = client
            .upload(header("/f"), futures::stream::iter(pieces))
            .await;
        assert_eq!(answer.map_err(|p| p.reason), Err(Reason::UploadBroken));
    }
    assert!(served.fake.state().items.is_empty());
    let pieces = futures::stream::iter([data("abc"), data("def"), end(6)]);
    client.upload(header("/f"), pieces).await.expect("whole");
    assert_eq!(served.fake.state().items["/f"].1, "abcdef");
}

#[tokio::test]
async fn too_many_events_are_refused_before_the_node_sees_them() {
    let served = Served::start().await;
    let client = client(&served).await;
    let mut request = mkdir("/d");
    request.events = vec![request.events[0].clone(); 1025];
    let answer = client.append_change(request).await;
    assert_eq!(answer.map_err(|p| p.reason), Err(Reason::ChangeTooLarge));
}

fn entries(count: u64) -> Vec<Bytes> {
    let mut chain = ChainHash::genesis(&ClusterId([7; 32]), PartitionId(1));
    let mut encoded = Vec::new();
    for index in 1..=count {
        let entry = Entry {
            partition: PartitionId(1),
            log_id: LogId { term: 1, index },
            order_time: Timestamp(0),
            control_index: 0,
            kind: EntryKind::Blank,
            body: Bytes::from(vec![0; 100]),
            chain: ChainHash::default(),
        };
        let entry = Entry::following(&chain, entry);
        chain = entry.chain;
        let mut bytes = BytesMut::new();
        entry.encode(&mut bytes);
        encoded.push(bytes.freeze());
    }
    encoded
}

async fn indexes(client: &Client, from: u64, bytes: usize) -> Result<Vec<u64>, ReadProblem> {
    let read = client.read(PartitionId(1), from, bytes).await?;
    Ok(read.iter().map(|entry| entry.log_id.index).collect())
}

#[tokio::test]
async fn a_client_reads_entries_in_order_and_goes_on_where_it_was() {
    let served = Served::start().await;
    served.fake.state().entries = entries(5);
    let client = client(&served).await;
    assert_eq!(indexes(&client, 1, 1).await, Ok(vec![1]));
    assert_eq!(indexes(&client, 2, 1 << 20).await, Ok(vec![2]));
    assert_eq!(indexes(&client, 4, 1).await, Ok(vec![4]));
    // The stream of the fake ends at index 5: the next read opens another.
    served.fake.state().entries = entries(6);
    assert_eq!(indexes(&client, 5, 1).await, Ok(vec![5]));
    assert_eq!(indexes(&client, 6, 1).await, Ok(vec![6]));
    let forgotten = ReadProblem::Forgotten {
        partition: PartitionId(1),
        wanted: 0,
        oldest: 1,
    };
    assert_eq!(indexes(&client, 0, 1).await, Err(forgotten));
}

/// I2: a node that sends entries which do not follow each other is not believed.
#[tokio::test]
async fn entries_that_break_the_chain_are_damage() {
    let served = Served::start().await;
    let client = client(&served).await;
    let mut bad = entries(3);
    let mut bytes = bad[1].to_vec();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    bad[1] = bytes.into();
    served.fake.state().entries = bad;
    assert_eq!(indexes(&client, 1, 1).await, Ok(vec![1]));
    let damaged = indexes(&client, 2, 1).await;
    assert!(
        matches!(damaged, Err(ReadProblem::Damaged(_))),
        "{damaged:?}"
    );
    let mut gap = entries(3);
    gap.remove(0);
    served.fake.state().entries = gap;
    let damaged = indexes(&client, 1, 1).await;
    assert!(
        matches!(damaged, Err(ReadProblem::Damaged(_))),
        "{damaged:?}"
    );
}

/// I1: a chunk is what its hash says, or it is no chunk.
#[tokio::test]
async fn chunks_are_verified() {
    let served = Served::start().await;
    let client = client(&served).await;
    let raw = Bytes::from_static(b"raw bytes");
    let hash = ChunkHash::of(&raw);
    let chunk = ChunkRef { hash, length: 9 };
    assert_eq!(client.get(chunk).await, Err(ChunkProblem::Missing { hash }));
    let key = Bytes::copy_from_slice(&hash.0);
    served.fake.state().chunks.insert(key.clone(), raw.clone());
    assert_eq!(client.get(chunk).await, Ok(raw));
    served
        .fake
        .state()
        .chunks
        .insert(key, Bytes::from_static(b"raw bytez"));
    assert_eq!(client.get(chunk).await, Err(ChunkProblem::Damaged { hash }));
}

#[test]
fn a_node_is_named_by_directory_socket_or_address() {
    let pin = "a".repeat(52);
    let remote = |address: &str| {
        let address = address.to_owned();
        let pin = [0; 32];
        Target::Remote(ApiAddress { pin, address })
    };
    let cases = [
        (format!("{pin}@host:80"), remote("host:80")),
        (format!("{pin}@[::1]:80"), remote("[::1]:80")),
        ("dir".to_owned(), Target::Data("dir".into())),
        ("/a:b/c".to_owned(), Target::Data("/a:b/c".into())),
        ("/a:1".to_owned(), Target::Data("/a:1".into())),
        ("unix:/run/s".to_owned(), Target::Socket("/run/s".into())),
    ];
    for (text, target) in cases {
        assert_eq!(Target::parse(&text), Ok(target), "{text}");
    }
    // Without a pin there is no telling who answers.
    let problem = Target::parse("host:80").expect_err("no pin");
    assert_eq!(problem.reason, Reason::Usage);
    assert!(problem.why().contains("PIN@HOST:PORT"), "{problem}");
}
