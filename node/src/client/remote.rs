//! [adapter] A node's API over TCP, from the caller's side: whose key is proved, and what to say
//! when nobody, or somebody else, answers.

use crate::api::ApiAddress;
use crate::env::disk::SystemDisk;
use crate::env::network::{ApiCaller, HandshakeProblem, short};
use crate::reason::{Problem, Reason};
use crate::security::identity;
use hyper_util::rt::TokioIo;
use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

/// To connect, and for a handshake; each has its own, shorter time.
const CONNECT_DEADLINE: Duration = Duration::from_secs(20);
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(20);
const KEEP_ALIVE_TIME: Duration = Duration::from_secs(10);
const HEADER_LIST_BYTES: u32 = 16 * 1024;

/// One who proves the key of a data directory to the node at an address.
pub(super) fn caller(address: &ApiAddress, identity: &Path) -> Result<ApiCaller, Problem> {
    let unusable = |detail: String| {
        Problem::new(Reason::DataDirUnusable)
            .with("dir", identity.display())
            .with("detail", detail)
    };
    // A node elsewhere knows its callers by this key.
    let lacks = |what: &dyn std::fmt::Display| {
        unusable(format!(
            "--node calls with the key of the node in it: {what}"
        ))
    };
    let disk = SystemDisk::open(identity).map_err(|error| lacks(&error))?;
    let key = identity::load(&disk).map_err(|problem| lacks(&problem))?;
    Ok(ApiCaller::new(Arc::new(key), &address.address, address.pin))
}

/// Connects. When the connection breaks, the next call makes it anew, with all proofs.
pub(super) async fn connect(
    caller: ApiCaller,
    endpoint: Endpoint,
) -> Result<Channel, tonic::transport::Error> {
    let connector = service_fn(move |_| {
        let caller = caller.clone();
        async move { caller.call().await.map(TokioIo::new) }
    });
    endpoint
        .connect_timeout(CONNECT_DEADLINE)
        .http2_keep_alive_interval(KEEP_ALIVE_EVERY)
        .keep_alive_timeout(KEEP_ALIVE_TIME)
        .keep_alive_while_idle(true)
        .http2_max_header_list_size(HEADER_LIST_BYTES)
        .connect_with_connector(connector)
        .await
}

/// What to say of a connection that was not made, if this error is of one.
pub(super) fn handshake_problem(address: &str, error: &(dyn Error + 'static)) -> Option<Problem> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(problem) = error.downcast_ref::<HandshakeProblem>() {
            return Some(explained(address, problem));
        }
        next = error.source();
    }
    None
}

fn explained(address: &str, problem: &HandshakeProblem) -> Problem {
    let reason = match problem {
        HandshakeProblem::Away(_) | HandshakeProblem::Slow => Reason::NodeAway,
        HandshakeProblem::OtherKey { .. } => Reason::NodeKeyDiffers,
        _ => Reason::NotAnApi,
    };
    let told = Problem::new(reason).with("address", address);
    match problem {
        HandshakeProblem::OtherKey { key } => told.with("key", short(key)),
        HandshakeProblem::TheyUsePlaintext => {
            told.with("detail", "nodes with --plaintext are served there")
        }
        HandshakeProblem::OtherProtocol => told.with("detail", "other nodes are served there"),
        problem => told.with("detail", problem),
    }
}
