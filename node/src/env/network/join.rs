//! [adapter] How one who is not a member asks to become one: both ends of the call `Join`.
//!
//! The listener's side bounds the question and puts it to the [`Doorkeeper`]; the joiner's side,
//! [`knock`], makes sure that the inviter has the key that the ticket pins before it says anything.

use super::connection::{Connection, Seat};
use super::gate::Gate;
use super::handshake::{HandshakeProblem, Security, Wanted};
use super::hello::{LinkIdentity, PROTOCOL_VERSION, shown};
use super::service::caller_of;
use super::state::Shared;
use crate::security::proof::PROOF_BYTES;
use aber_log::env::network::LinkClass;
use aber_log::env::network::PEER_ADDRESSES;
use aber_proto::generated::joinservice::join_service_client::JoinServiceClient;
use aber_proto::generated::joinservice::join_service_server::JoinService;
use aber_proto::generated::joinservice::{
    JoinRefusal, JoinRefusalCode, JoinRequest, JoinResponse, join_response::Outcome,
};
use aber_proto::{PublicKey, SecretKey, limit};
use futures::future::BoxFuture;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status};

/// Longest request to join.
pub(super) const REQUEST_BYTES: usize = 16 * 1024;
/// Longest id of a ticket.
const TICKET_ID_BYTES: usize = 64;
/// Requests that are looked at at once.
const JOINS: usize = 8;
/// What the doorkeeper may take.
const JOIN_TIME: Duration = Duration::from_secs(30);
/// What a joiner waits: long enough to hear that the doorkeeper took too long.
const JOIN_PATIENCE: Duration = Duration::from_secs(35);

/// Somebody at the door. Its parts have their lengths checked and are for this cluster and
/// protocol; whether the ticket is good is for the doorkeeper to say.
#[derive(Clone, PartialEq, Debug)]
pub struct Knock {
    /// The key that the connection proved: the joiner's.
    pub key: PublicKey,
    /// 32 bytes that only the ends of this connection have; the proof is bound to them.
    pub exporter: [u8; 32],
    /// What it asks.
    pub request: JoinRequest,
    /// Where it calls from.
    pub remote: Option<SocketAddr>,
}

/// Decides who may join.
pub trait Doorkeeper: Send + Sync + 'static {
    /// Answers a joiner. Dropped half-way if the joiner hangs up, or after 30 s; the joiner then
    /// asks again, so asking twice must be safe. At most 8 of these run at once.
    fn join(&self, knock: Knock) -> BoxFuture<'_, JoinResponse>;
}

/// A response that refuses.
#[must_use]
pub fn refuse(code: JoinRefusalCode, reason: impl Into<String>) -> JoinResponse {
    let refusal = JoinRefusal {
        code: code.into(),
        reason: reason.into(),
        ..JoinRefusal::default()
    };
    JoinResponse {
        outcome: Some(Outcome::Refusal(refusal)),
    }
}

/// The listener's side.
pub(super) struct JoinDoor {
    me: Arc<LinkIdentity>,
    shared: Arc<Shared>,
    turns: Semaphore,
}

impl JoinDoor {
    pub(super) fn new(me: Arc<LinkIdentity>, shared: Arc<Shared>) -> Self {
        Self {
            me,
            shared,
            turns: Semaphore::new(JOINS),
        }
    }

    pub(super) async fn answer(&self, knock: Knock) -> JoinResponse {
        let busy = |why| refuse(JoinRefusalCode::Busy, why);
        if let Err(refusal) = self.me.check_joiner(&knock.request) {
            return refusal;
        }
        let Some(keeper) = self.shared.state().keeper.clone() else {
            return busy("this node lets nobody in yet; try again, or ask another member");
        };
        let Ok(_turn) = self.turns.try_acquire() else {
            return busy("many ask to join right now; try again in a moment");
        };
        let answer = tokio::time::timeout(JOIN_TIME, keeper.join(knock)).await;
        answer.unwrap_or_else(|_| {
            busy("the cluster did not answer in time; the same ticket may be tried again")
        })
    }
}

#[tonic::async_trait]
impl JoinService for JoinDoor {
    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        let caller = caller_of(&request)?;
        let request = request.into_inner();
        check_sizes(&request).map_err(Status::invalid_argument)?;
        let address = caller.address;
        let knock = Knock {
            key: caller.key,
            exporter: caller.exporter,
            request,
            remote: address,
        };
        let response = self.answer(knock).await;
        if let Some(Outcome::Refusal(refusal)) = &response.outcome {
            tracing::info!(?address, why = refusal.reason, "a joiner was refused");
        }
        Ok(Response::new(response))
    }
}

fn check_sizes(request: &JoinRequest) -> Result<(), String> {
    let is_bounded = request.cluster.len() == 32
        && request.proof.len() == PROOF_BYTES
        && request.ticket_id.len() <= TICKET_ID_BYTES
        && request.version.len() <= limit::NAME_BYTES
        && request.name.len() <= limit::MEMBER_NAME_BYTES
        && request.addresses.len() <= PEER_ADDRESSES
        && request
            .addresses
            .iter()
            .all(|address| address.len() <= limit::ADDRESS_BYTES);
    is_bounded
        .then_some(())
        .ok_or_else(|| "a field of the request is too long or short".to_owned())
}

impl LinkIdentity {
    /// Refuses a joiner that cannot be let in whatever its ticket.
    fn check_joiner(&self, request: &JoinRequest) -> Result<(), JoinResponse> {
        if request.protocol != PROTOCOL_VERSION {
            let why = self.other_protocol(request.protocol, &request.version);
            return Err(refuse(JoinRefusalCode::Protocol, why));
        }
        if request.cluster[..] != self.cluster.0 {
            let why = self.other_cluster(&request.cluster);
            return Err(refuse(JoinRefusalCode::OtherCluster, why));
        }
        Ok(())
    }
}

/// Why there is no answer to a knock. Before `NotAnswered` nothing was sent but a handshake.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum KnockProblem {
    /// The ticket names no address.
    #[error("no address to knock at")]
    NoAddress,
    /// Nobody could be reached who has the key.
    #[error("nobody who could let this node in was reached: {tried}")]
    Unreachable {
        /// Each address and what happened there.
        tried: String,
    },
    /// Somebody else answers: not the one the ticket is from.
    #[error(
        "at {address} answers somebody with another key than the one in the ticket; \
         nothing was sent"
    )]
    OtherKey {
        /// Where.
        address: String,
    },
    /// It speaks TLS and this node does not, or the other way round, or in another version.
    #[error("{address} cannot be talked to: {why}")]
    OtherMode {
        /// Where.
        address: String,
        /// What to do about it.
        why: String,
    },
    /// The inviter was reached and gave no answer. Whether it admitted this node is unknown;
    /// asking again is safe.
    #[error("{address} did not answer: {why}")]
    NotAnswered {
        /// Where.
        address: String,
        /// What the system said.
        why: String,
    },
}

/// Asks the node behind a ticket to let this one in, at its addresses in turn.
///
/// `inviter_key_hash` is the [`key_pin`](super::key_pin) of the inviter's key; nothing but a
/// handshake is sent to anybody else. `make_request` gets the exporter of the connection and the
/// inviter's key, which the proof is made of.
///
/// # Errors
/// [`KnockProblem`]. A refusal is no error but a response.
pub async fn knock(
    secret_key: Arc<SecretKey>,
    addresses: &[String],
    inviter_key_hash: [u8; 32],
    plaintext: bool,
    make_request: impl FnOnce([u8; 32], PublicKey) -> JoinRequest,
) -> Result<JoinResponse, KnockProblem> {
    let security = Security::new(secret_key, plaintext);
    let wanted = Wanted::Pin(inviter_key_hash);
    let mut first = None;
    let mut tried = Vec::new();
    for address in addresses.iter().take(PEER_ADDRESSES) {
        match security.call(address, wanted).await {
            Ok(secured) => {
                let request = make_request(secured.exporter, secured.key);
                let connection = Connection::new(secured, None, Gate::new(), Seat::Caller);
                let asking = tokio::time::timeout(JOIN_PATIENCE, ask(connection, request)).await;
                let answer = asking.unwrap_or_else(|_| Err("no answer in time".to_owned()));
                return answer.map_err(|why| KnockProblem::NotAnswered {
                    address: address.clone(),
                    why,
                });
            }
            Err(problem) => {
                tried.push(format!("{address}: {problem}"));
                first = first.or_else(|| stranger(address, &problem));
            }
        }
    }
    match first {
        // More telling than that somewhere else nobody was there.
        Some(problem) => Err(problem),
        None if tried.is_empty() => Err(KnockProblem::NoAddress),
        None => Err(KnockProblem::Unreachable {
            tried: tried.join("; "),
        }),
    }
}

/// Somebody was there, and is not the one.
fn stranger(address: &str, problem: &HandshakeProblem) -> Option<KnockProblem> {
    let address = address.to_owned();
    match problem {
        HandshakeProblem::OtherKey { .. } => Some(KnockProblem::OtherKey { address }),
        problem if problem.is_refusal() => {
            let why = problem.to_string();
            Some(KnockProblem::OtherMode { address, why })
        }
        _ => None,
    }
}

async fn ask(connection: Connection, request: JoinRequest) -> Result<JoinResponse, String> {
    let channel = super::channel_over(connection, LinkClass::Control).await;
    let channel = channel.map_err(|error| super::chain_of(&error))?;
    let mut client = JoinServiceClient::new(channel)
        .max_decoding_message_size(limit::MESSAGE_BYTES)
        .max_encoding_message_size(REQUEST_BYTES);
    match client.join(request).await {
        Ok(response) => Ok(response.into_inner()),
        Err(status) => Err(shown(status.message())),
    }
}
