//! Joining: who may ask, what is sent to whom, and what an answer is bound to.

use super::raw::proved;
use super::*;
use crate::security::proof::{proof, verify_proof};
use aber_proto::generated::joinservice::join_response::Outcome;
use aber_proto::generated::joinservice::join_service_client::JoinServiceClient;
use aber_proto::generated::joinservice::{JoinRefusalCode, JoinRequest, JoinResponse, JoinWelcome};
use aber_proto::{TicketId, TicketSecret};
use futures::future::BoxFuture;
use tokio::sync::Notify;

const SECRET: TicketSecret = TicketSecret([9; 16]);
const JOINER: u8 = 80;

/// Lets in who has the secret.
#[derive(Default)]
struct Keeper {
    /// If there is one, answers wait for it.
    hold: Option<Arc<Notify>>,
    seen: Mutex<Vec<Knock>>,
}

impl Doorkeeper for Keeper {
    fn join(&self, knock: Knock) -> BoxFuture<'_, JoinResponse> {
        Box::pin(async move {
            self.seen.lock().expect("lock").push(knock.clone());
            if let Some(hold) = &self.hold {
                hold.notified().await;
            }
            let shown: [u8; 64] = knock.request.proof[..].try_into().expect("checked");
            let cluster = ClusterId([9; 32]);
            let key = &knock.key;
            if !verify_proof(
                &shown,
                TicketId::of_secret(&SECRET),
                &knock.exporter,
                key,
                &public(2),
                &cluster,
            ) {
                return refuse(JoinRefusalCode::DamagedProof, "the proof is wrong");
            }
            JoinResponse {
                outcome: Some(Outcome::Welcome(JoinWelcome {
                    node: 5,
                    ..JoinWelcome::default()
                })),
            }
        })
    }
}

fn request(exporter: [u8; 32], inviter: PublicKey) -> JoinRequest {
    let cluster = ClusterId([9; 32]);
    let made = proof(&SECRET, &exporter, &public(JOINER), &inviter, &cluster);
    JoinRequest {
        cluster: cluster.0.to_vec().into(),
        ticket_id: Bytes::from_static(b"ticket"),
        proof: made.to_vec().into(),
        protocol: PROTOCOL_VERSION,
        version: "0.1.0".to_owned(),
        name: "joiner".to_owned(),
        addresses: vec!["127.0.0.1:1".to_owned()],
    }
}

async fn inviter(keeper: Keeper, plaintext: bool) -> (SystemNetwork, String, Arc<Keeper>) {
    let network = SystemNetwork::new();
    network.set_plaintext(plaintext);
    network.introduce(identity(2, 9), key(2));
    network.set_peers(members(None));
    let keeper = Arc::new(keeper);
    network.set_doorkeeper(Arc::clone(&keeper) as Arc<dyn Doorkeeper>);
    let address = listening(&network).await;
    (network, address, keeper)
}

async fn knock_at(
    address: &str,
    make_request: impl FnOnce([u8; 32], PublicKey) -> JoinRequest,
) -> Result<JoinResponse, KnockProblem> {
    let addresses = [address.to_owned()];
    let pin = key_pin(&public(2));
    soon(knock(key(JOINER), &addresses, pin, false, make_request)).await
}

fn refused(response: Result<JoinResponse, KnockProblem>) -> (JoinRefusalCode, String) {
    match response.expect("answered").outcome {
        Some(Outcome::Refusal(refusal)) => (refusal.code(), refusal.reason),
        other => panic!("{other:?}"),
    }
}

/// S3: who has the secret gets in, in both modes; its key is that of the connection.
#[tokio::test]
async fn a_joiner_with_the_secret_is_welcome() {
    for plaintext in [false, true] {
        let (_inviter, address, keeper) = inviter(Keeper::default(), plaintext).await;
        // The first address is dead.
        let addresses = ["127.0.0.1:1".to_owned(), address];
        let pin = key_pin(&public(2));
        let answer = soon(knock(key(JOINER), &addresses, pin, plaintext, request)).await;
        match answer.expect("answered").outcome {
            Some(Outcome::Welcome(welcome)) => assert_eq!(welcome.node, 5),
            other => panic!("{other:?}"),
        }
        let seen = keeper.seen.lock().expect("lock");
        assert_eq!((seen.len(), seen[0].key), (1, public(JOINER)));
        assert_eq!(seen[0].request.name, "joiner");
        assert!(seen[0].remote.is_some());
    }
}

/// S3: a proof that somebody overheard is worth nothing on another connection, nor for another key.
#[tokio::test]
async fn a_proof_does_not_work_twice() {
    for plaintext in [false, true] {
        let (_inviter, address, keeper) = inviter(Keeper::default(), plaintext).await;
        let (addresses, pin) = ([address], key_pin(&public(2)));
        soon(knock(key(JOINER), &addresses, pin, plaintext, request))
            .await
            .expect("welcome");
        let overheard = keeper.seen.lock().expect("lock")[0].clone();
        for thief in [JOINER, 81] {
            let request = overheard.request.clone();
            let again = knock(key(thief), &addresses, pin, plaintext, |_, _| request);
            let (code, _) = refused(soon(again).await);
            assert_eq!(code, JoinRefusalCode::DamagedProof);
        }
        let seen = keeper.seen.lock().expect("lock");
        assert!(seen[0].exporter != seen[1].exporter && seen[1].exporter != seen[2].exporter);
    }
}

/// S3: the inviter's key is checked before anything is asked.
#[tokio::test]
async fn nothing_is_asked_of_one_with_another_key() {
    for plaintext in [false, true] {
        let (_inviter, address, keeper) = inviter(Keeper::default(), plaintext).await;
        let addresses = ["127.0.0.1:1".to_owned(), address.clone()];
        let pin = key_pin(&public(3));
        let unused = |_, _| panic!("a request was made");
        let answer = soon(knock(key(JOINER), &addresses, pin, plaintext, unused)).await;
        assert_eq!(answer, Err(KnockProblem::OtherKey { address }));
        assert!(keeper.seen.lock().expect("lock").is_empty());
        let (_inviter, address, _) = inviter(Keeper::default(), !plaintext).await;
        let addresses = [address];
        let pin = key_pin(&public(2));
        let answer = soon(knock(key(JOINER), &addresses, pin, plaintext, unused)).await;
        assert!(
            matches!(answer, Err(KnockProblem::OtherMode { .. })),
            "{answer:?}"
        );
    }
    let nowhere = soon(knock(key(JOINER), &[], [0; 32], false, request)).await;
    assert_eq!(nowhere, Err(KnockProblem::NoAddress));
    let dead = knock_at("127.0.0.1:1", request).await;
    assert!(matches!(dead, Err(KnockProblem::Unreachable { .. })));
}

/// What cannot be let in whatever the ticket is told why, and never reaches the doorkeeper.
#[tokio::test]
async fn other_clusters_and_versions_are_told_at_the_door() {
    let (_inviter, address, keeper) = inviter(Keeper::default(), false).await;
    let newer = |exporter, inviter| JoinRequest {
        protocol: PROTOCOL_VERSION + 1,
        ..request(exporter, inviter)
    };
    let (code, why) = refused(knock_at(&address, newer).await);
    assert_eq!(code, JoinRefusalCode::Protocol);
    assert!(why.contains("node 2 must upgrade"), "{why}");
    let stranger = |exporter, inviter| JoinRequest {
        cluster: vec![8; 32].into(),
        ..request(exporter, inviter)
    };
    let (code, why) = refused(knock_at(&address, stranger).await);
    assert_eq!(code, JoinRefusalCode::OtherCluster);
    assert!(
        why.contains("this is cluster 09090909, not 08080808"),
        "{why}"
    );
    let long = |exporter, inviter| JoinRequest {
        name: "x".repeat(limit::MEMBER_NAME_BYTES + 1),
        ..request(exporter, inviter)
    };
    let answer = knock_at(&address, long).await;
    assert!(
        matches!(answer, Err(KnockProblem::NotAnswered { .. })),
        "{answer:?}"
    );
    assert!(keeper.seen.lock().expect("lock").is_empty());
}

/// Without a doorkeeper nobody is let in.
#[tokio::test]
async fn nobody_is_let_in_without_a_doorkeeper() {
    let two = node(2, 9).await;
    let address = two.local_addr().expect("listening").to_string();
    let (code, _) = refused(knock_at(&address, request).await);
    assert_eq!(code, JoinRefusalCode::Busy);
}

/// B2: eight at once are looked at, the ninth is told to come again.
#[tokio::test]
async fn many_joiners_at_once_are_told_to_come_again() {
    let hold = Arc::new(Notify::new());
    let keeper = Keeper {
        hold: Some(Arc::clone(&hold)),
        ..Keeper::default()
    };
    let (_inviter, address, keeper) = inviter(keeper, false).await;
    let mut asking = Vec::new();
    for _ in 0..8 {
        let address = address.clone();
        asking.push(tokio::spawn(
            async move { knock_at(&address, request).await },
        ));
    }
    soon(async {
        while keeper.seen.lock().expect("lock").len() < 8 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let (code, why) = refused(knock_at(&address, request).await);
    assert_eq!(code, JoinRefusalCode::Busy, "{why}");
    hold.notify_waiters();
    for asked in asking {
        let answer = asked.await.expect("task").expect("answered");
        assert!(matches!(answer.outcome, Some(Outcome::Welcome(_))));
    }
}

/// B6: a doorkeeper that does not answer in time is not waited for.
#[tokio::test(start_paused = true)]
async fn a_joiner_hears_that_nobody_answered_in_time() {
    let network = nobody(2, 9, 2);
    network.set_doorkeeper(Arc::new(Keeper {
        hold: Some(Arc::default()),
        ..Keeper::default()
    }));
    let shared = Arc::clone(&network.inner.shared);
    let door = crate::env::network::join::JoinDoor::new(Arc::new(identity(2, 9)), shared);
    let started = tokio::time::Instant::now();
    let knock = Knock {
        key: public(JOINER),
        exporter: [0; 32],
        request: request([0; 32], public(2)),
        remote: None,
    };
    let (code, why) = refused(Ok(door.answer(knock).await));
    assert_eq!(code, JoinRefusalCode::Busy);
    assert!(why.contains("the same ticket may be tried again"), "{why}");
    assert_eq!(started.elapsed().as_secs(), 30);
}

/// S3: a stranger's connection may ask to join and nothing else.
#[tokio::test]
async fn a_stranger_may_call_nothing_but_join() {
    let (inviter, ..) = inviter(Keeper::default(), false).await;
    let connection = proved(&inviter, JOINER, 2).await;
    let channel = channel_over(connection, LinkClass::Control).await;
    let channel = channel.expect("HTTP/2");
    // It says nothing, and is refused all the same.
    let silent = futures::stream::pending();
    let opened = soon(LinkServiceClient::new(channel.clone()).open(silent)).await;
    let code = opened.expect_err("refused").code();
    assert_eq!(code, tonic::Code::Unauthenticated);
    let asked = JoinServiceClient::new(channel)
        .join(request([0; 32], public(2)))
        .await;
    let (code, _) = refused(Ok(asked.expect("answered").into_inner()));
    assert_eq!(code, JoinRefusalCode::DamagedProof);
}
