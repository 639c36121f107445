//! [driver] The daemon's API: at its socket, and over TCP where that was asked for.

use super::links;
use super::member::Told;
use crate::api::{self, ApiAddress, Doorman, Guest, Right};
use crate::env::SystemEnv;
use crate::env::network::{ApiPort, SystemNetwork, key_pin};
use crate::node::{Node, NodeService};
use crate::reason::Problem;
use aber_log::env::{Env, Runtime};
use aber_proto::PublicKey;
use futures::FutureExt;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// For calls that are under way when the node stops.
const CLOSE_TIME: Duration = Duration::from_secs(3);

/// Where the API is over TCP, if it was asked for: `PIN@HOST:PORT`, or why it is not.
pub(super) type ApiPlace = Option<Result<String, String>>;

/// Binds the API's port, if there is to be one. A node goes on without one that was asked for at
/// an earlier start and cannot be had now, and says so.
pub(super) fn open(
    network: &SystemNetwork,
    told: &mut Told,
    is_asked_for: bool,
    key: &PublicKey,
) -> Result<(Option<ApiPort>, ApiPlace), Problem> {
    let Some(wanted) = told.api else {
        return Ok((None, None));
    };
    match network.open_api(wanted) {
        Ok(port) => {
            told.api = Some(port.address());
            let pin = key_pin(key);
            let address = shown(port.address());
            let place = ApiAddress { pin, address }.to_string();
            Ok((Some(port), Some(Ok(place))))
        }
        Err(problem) if is_asked_for => Err(links::listen_problem(&problem, "--api")),
        Err(problem) => {
            tracing::error!(%problem, "the API is not open to the network");
            Ok((None, Some(Err(problem.to_string()))))
        }
    }
}

/// Where others find it: at every address of the machine, the first is as good as any.
fn shown(address: SocketAddr) -> String {
    let found = links::reached_at(address, &[]).into_iter().next();
    found.unwrap_or_else(|| address.to_string())
}

/// Members by their present roles, and this node's own key.
fn doorman(node: &Node<SystemEnv>) -> Doorman {
    let (members, config) = (node.parts.members.clone(), &node.parts.config);
    let (own, name) = (config.key.public(), node.name_of(config.me));
    Arc::new(move |key| {
        if *key == own {
            let right = Right::Own;
            let name = name.clone();
            return Some(Guest { name, right });
        }
        let members = members.get();
        let row = members.by_key(key)?;
        let right = Right::of_role(row.role()?);
        let name = row.name.clone();
        Some(Guest { name, right })
    })
}

/// Answers calls until somebody ends the node.
pub(super) async fn serve(
    env: &SystemEnv,
    node: &Node<SystemEnv>,
    listener: api::Listener,
    port: Option<ApiPort>,
    started: impl FnOnce() + Send,
) {
    let (stop, mut stopped) = mpsc::channel(1);
    let service = NodeService::new(node.clone(), stop.clone());
    let (close, closed) = oneshot::channel::<()>();
    // A sender that is gone closes too.
    let closed = closed.map(|_| ()).shared();
    let remote = port.map(|port| {
        let served = api::serve_remote(port, service.clone(), doorman(node), closed.clone());
        serve_beside(env, "api over tcp", served)
    });
    let local = serve_beside(env, "api", listener.serve(service, closed));
    started();
    wait_for_end(&mut stopped).await;
    let _over = close.send(()).is_err();
    let served = async { futures::join!(local, futures::future::OptionFuture::from(remote)) };
    env.runtime().timeout(CLOSE_TIME, served).await;
}

/// Runs the API beside the node; what is answered ends when the API does.
fn serve_beside<F>(
    env: &SystemEnv,
    name: &'static str,
    served: F,
) -> impl Future<Output = ()> + Send + use<F>
where
    F: Future<Output = Result<(), Problem>> + Send + 'static,
{
    let (ended, end) = oneshot::channel::<()>();
    env.runtime().spawn(name, async move {
        if let Err(problem) = served.await {
            tracing::error!(%problem, "the API stopped");
        }
        drop(ended);
    });
    async move {
        let _ended = end.await.is_err();
    }
}

async fn wait_for_end(stopped: &mut mpsc::Receiver<()>) {
    use tokio::signal::unix::{SignalKind, signal};
    let terminated = signal(SignalKind::terminate());
    let terminated = async move {
        match terminated {
            Ok(mut signal) => signal.recv().await,
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        _ = stopped.recv() => {}
        _ = terminated => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}
