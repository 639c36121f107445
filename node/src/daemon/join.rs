//! [driver] Becoming a member: by a ticket, from another machine.
//!
//! The key is made first and is what makes a repetition safe: the cluster lets one key in once, and
//! answers the same again. Then the genesis is written, then the file `member`, each whole and
//! durable. Killed anywhere, the same command with the same ticket finishes; without the last file
//! the directory is no node's yet.

use super::member::{self, MemberFile, Told, contact_of};
use super::{data_problem, found_genesis, host_name, links, unusable, write_genesis};
use crate::env::network::{KnockProblem, PROTOCOL_VERSION, knock};
use crate::env::runtime::SystemRuntime;
use crate::env::{SystemEnv, SystemOptions};
use crate::reason::{Problem, Reason};
use crate::schedule::Schedule;
use crate::security::identity;
use crate::security::proof::proof;
use aber_proto::generated::joinservice::{
    JoinRefusal, JoinRefusalCode, JoinRequest, JoinResponse, JoinWelcome, join_response::Outcome,
};
use aber_proto::{ClusterId, Genesis, KeyPin, PublicKey, SecretKey, Ticket, codec};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

/// What `aber join` was told.
#[derive(Clone, Debug)]
pub struct JoinOptions {
    /// The data directory; made if missing.
    pub data: PathBuf,
    /// The ticket.
    pub ticket: Ticket,
    /// The name it would like. `None`: the host's name.
    pub name: Option<String>,
    /// Where links are to listen; `None`: everywhere, at the usual port if it is free.
    pub listen: Option<SocketAddr>,
    /// Where others are told to look for it; none: at the machine's own addresses.
    pub addresses: Vec<String>,
    /// The mirror directory; `None`: `mirror` in the data directory.
    pub mirror: Option<PathBuf>,
    /// Links without TLS.
    pub plaintext: bool,
}

/// A node that is a member.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Joined {
    /// The cluster's name.
    pub cluster: String,
    /// This node's name.
    pub node: String,
    /// Who let it in; `None` if it was a member before.
    pub inviter: Option<Inviter>,
    /// Present members, this one included.
    pub members_count: usize,
    /// How far the control partition was when it was let in: from there on it knows itself.
    pub control_index: u64,
}

/// Who let a node in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Inviter {
    /// Its name.
    pub name: String,
    /// Where it was reached.
    pub address: String,
}

/// Makes a data directory that of a member of the ticket's cluster. Starts nothing. Done again, it
/// goes on where it stopped; where the node is a member already, it does nothing.
///
/// # Errors
/// The ticket is refused, nobody answers, the directory belongs to something else or cannot be
/// written. Nothing is left that the same call would not go on from.
pub async fn join(options: JoinOptions) -> Result<Joined, Problem> {
    let env = SystemEnv::open(SystemOptions {
        data: options.data.clone(),
        runtime: SystemRuntime::new(),
    });
    let env = env.map_err(|problem| data_problem(&problem))?;
    let data = env.data().path().to_path_buf();
    let wanted = options.ticket.cluster;
    let genesis = found_genesis(&env)?;
    if genesis.is_none() && env.data().is_claimed() {
        let why = "its genesis file is missing; every member of the cluster has the same";
        return Err(unusable(&data, why));
    }
    if let Some(genesis) = &genesis {
        let found = genesis.cluster_id();
        if found != wanted {
            return Err(other_cluster(&data.display(), &found, &wanted));
        }
    }
    let key = identity::load_or_create(&env).await;
    let key = Arc::new(key.map_err(|problem| unusable(&data, problem))?);
    if let Some(genesis) = genesis
        && let Some(already) = already(&env, &genesis, &key)?
    {
        return Ok(already);
    }
    let listen = links::choose(options.listen).await?;
    let addresses = links::reached_at(listen, &options.addresses);
    let (welcome, inviter) = ask(&options, &key, addresses).await?;
    write(&env, &options, (key.public(), listen), welcome, inviter).await
}

pub(super) fn other_cluster(
    what: &dyn std::fmt::Display,
    found: &dyn std::fmt::Display,
    wanted: &dyn std::fmt::Display,
) -> Problem {
    Problem::new(Reason::OtherCluster)
        .with("what", what)
        .with("found", found)
        .with("wanted", wanted)
}

/// The node of a directory that is a member's: a founder's, or one that joined before.
fn already(env: &SystemEnv, genesis: &Genesis, key: &SecretKey) -> Result<Option<Joined>, Problem> {
    let file = member::load(env)?;
    let public = key.public();
    let founder = genesis.members.iter().find(|member| member.key == public);
    if file.as_ref().is_some_and(|file| file.key != public) {
        let why = "its files `member` and `key` are those of different nodes";
        return Err(unusable(env.data().path(), why));
    }
    let name = match (&file, founder) {
        (Some(file), _) => file.name.clone(),
        (None, Some(founder)) => founder.name.clone(),
        (None, None) => return Ok(None),
    };
    let contacts = file.map_or(0, |file| file.contacts.len());
    Ok(Some(Joined {
        cluster: genesis.name.clone(),
        node: name,
        inviter: None,
        members_count: contacts + 1,
        control_index: 0,
    }))
}

/// Knocks at the ticket's addresses in turn until somebody answers.
async fn ask(
    options: &JoinOptions,
    key: &Arc<SecretKey>,
    addresses: Vec<String>,
) -> Result<(JoinWelcome, String), Problem> {
    let ticket = &options.ticket;
    let name = options.name.clone().unwrap_or_else(host_name);
    let (mut tried, mut first) = (Vec::new(), None);
    for address in ticket.addresses.iter().map(ToString::to_string) {
        let request = |exporter: [u8; 32], inviter: PublicKey| {
            request(
                ticket,
                &name,
                addresses.clone(),
                (&exporter, &key.public(), &inviter),
            )
        };
        let (one, pin) = ([address.clone()], ticket.inviter.0);
        let answer = knock(Arc::clone(key), &one, pin, options.plaintext, request).await;
        match answer {
            Ok(response) => return Ok((welcome_of(response, ticket)?, address)),
            Err(KnockProblem::Unreachable { tried: why }) => tried.push(why),
            Err(KnockProblem::NoAddress) => {}
            Err(KnockProblem::NotAnswered { address, why }) => {
                let detail = format!("{address} was reached and gave no answer: {why}");
                return Err(Problem::new(Reason::NotAdmitted).with("detail", detail));
            }
            Err(KnockProblem::OtherKey { address }) => {
                first.get_or_insert(Problem::new(Reason::OtherKey).with("address", address));
            }
            Err(KnockProblem::OtherMode { address, why }) => {
                let problem = Problem::new(Reason::OtherMode).with("address", address);
                first.get_or_insert(problem.with("detail", why));
            }
        }
    }
    // That somebody answered and is not the one says more than that elsewhere nobody did.
    let away = Problem::new(Reason::InviterAway).with("tried", tried.join("; "));
    Err(first.unwrap_or(away))
}

fn request(
    ticket: &Ticket,
    name: &str,
    addresses: Vec<String>,
    (exporter, joiner, inviter): (&[u8; 32], &PublicKey, &PublicKey),
) -> JoinRequest {
    let shown = proof(&ticket.secret, exporter, joiner, inviter, &ticket.cluster);
    JoinRequest {
        cluster: ticket.cluster.0.to_vec().into(),
        ticket_id: ticket.id().0.to_vec().into(),
        proof: shown.to_vec().into(),
        protocol: PROTOCOL_VERSION,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        name: name.to_owned(),
        addresses,
    }
}

fn welcome_of(response: JoinResponse, ticket: &Ticket) -> Result<JoinWelcome, Problem> {
    match response.outcome {
        Some(Outcome::Welcome(welcome)) => Ok(welcome),
        Some(Outcome::Refusal(refusal)) => Err(refusal_problem(refusal, &ticket.cluster)),
        None => {
            let detail = "the answer says nothing this version knows";
            Err(Problem::new(Reason::OtherProtocol).with("detail", detail))
        }
    }
}

/// What a refusal means, in the words of the table. Facts are those the reason has, and text of
/// somebody else: shown, never acted on.
fn refusal_problem(refusal: JoinRefusal, cluster: &ClusterId) -> Problem {
    let reason = match refusal.code() {
        JoinRefusalCode::Expired => Reason::TicketExpired,
        JoinRefusalCode::Used => Reason::TicketUsed,
        JoinRefusalCode::Revoked => Reason::TicketRevoked,
        JoinRefusalCode::Unknown | JoinRefusalCode::DamagedProof => Reason::TicketUnknown,
        JoinRefusalCode::OtherCluster => {
            let problem = Problem::new(Reason::OtherCluster).with("what", "the node that answers");
            return problem
                .with("found", refusal.reason)
                .with("wanted", cluster);
        }
        JoinRefusalCode::Protocol => Reason::OtherProtocol,
        JoinRefusalCode::NotAllowed => Reason::NotAllowed,
        JoinRefusalCode::Busy | JoinRefusalCode::Unspecified => Reason::NotAdmitted,
    };
    let keys = reason.row().keys;
    let mut problem = Problem::new(reason);
    for (key, value) in &refusal.details {
        if keys.contains(&key.as_str()) {
            problem = problem.with(key, value);
        }
    }
    if keys.contains(&"detail") {
        problem = problem.with("detail", refusal.reason);
    }
    problem
}

/// Keeps what the welcome says: first what the cluster is, then who this node is in it.
async fn write(
    env: &SystemEnv,
    options: &JoinOptions,
    (key, listen): (PublicKey, SocketAddr),
    welcome: JoinWelcome,
    address: String,
) -> Result<Joined, Problem> {
    let ticket = &options.ticket;
    let damaged = |why: String| {
        let why = format!("the answer of {address} is damaged: {why}");
        Problem::new(Reason::OtherProtocol).with("detail", why)
    };
    let genesis = codec::decode_genesis(&welcome.genesis);
    let genesis = genesis.map_err(|problem| damaged(problem.to_string()))?;
    if genesis.cluster_id() != ticket.cluster {
        return Err(other_cluster(
            &address,
            &genesis.cluster_id(),
            &ticket.cluster,
        ));
    }
    let mut contacts = Vec::new();
    let mut inviter_name = None;
    for peer in welcome
        .peers
        .iter()
        .filter(|peer| peer.node != welcome.node)
    {
        let of_peer: [u8; 32] = peer.key[..]
            .try_into()
            .map_err(|_| damaged("a key is 32 bytes".to_owned()))?;
        let mut addresses = peer.addresses.clone();
        if KeyPin::of(&PublicKey(of_peer)) == ticket.inviter {
            inviter_name = Some(peer.name.clone());
            // Where it answered is known to work.
            addresses.retain(|known| *known != address);
            addresses.insert(0, address.clone());
        }
        let contact = contact_of(peer.node, peer.name.clone(), of_peer, addresses);
        contacts.push(contact.map_err(damaged)?);
    }
    let file = MemberFile {
        node: aber_proto::NodeId(welcome.node),
        name: welcome.name.clone(),
        key,
        told: Told {
            schedule: Schedule::default(),
            listen: Some(listen),
            addresses: options.addresses.clone(),
            plaintext: options.plaintext,
            api: None,
            mirror: options.mirror.clone(),
        },
        contacts,
    };
    write_genesis(env, &genesis).await?;
    member::save(env, &file).await?;
    Ok(Joined {
        cluster: genesis.name,
        node: welcome.name,
        inviter: Some(Inviter {
            name: inviter_name.unwrap_or_else(|| "a member".to_owned()),
            address,
        }),
        members_count: welcome.peers.len(),
        control_index: welcome.control_index,
    })
}
