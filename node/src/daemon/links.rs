//! [driver] What the daemon tells its network: who it is, who the others are, where to listen.

#![allow(
    clippy::disallowed_methods,
    reason = "the kernel tells this machine's addresses in files"
)]

use super::LINK_PORT;
use super::addresses::{parse_fib_trie, parse_inet6, reachable_at};
use super::member::{MemberFile, Told};
use crate::env::network::{LinkIdentity, ListenProblem, Peer, SystemNetwork};
use crate::reason::{Problem, Reason};
use aber_proto::{Genesis, Member, SecretKey, limit};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

/// Tells the network who this node is and who the others are, as far as is known before the log is
/// read.
pub(super) fn introduce(
    network: &SystemNetwork,
    file: &MemberFile,
    genesis: &Genesis,
    key: &Arc<SecretKey>,
) {
    let identity = LinkIdentity {
        cluster: genesis.cluster_id(),
        node: file.node,
        name: file.name.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    network.set_plaintext(file.told.plaintext);
    network.introduce(identity, Arc::clone(key));
    // The node itself replaces these as soon as it has read its index.
    let founders = genesis.members.iter().map(|member| {
        let (key, addresses) = (member.key, vec![member.address.clone()]);
        (member.node, Peer { key, addresses })
    });
    let contacts = file.contacts.iter();
    let contacts = contacts.map(|known| (known.node, known.peer.clone()));
    network.set_peers(founders.chain(contacts).collect());
}

/// Where others may look for a node that listens there: where they are told to, else at the
/// machine's own addresses.
pub(super) fn reached_at(listen: SocketAddr, told: &[String]) -> Vec<String> {
    if !told.is_empty() {
        return told.to_vec();
    }
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let v6 = parse_inet6(&read("/proc/net/if_inet6"));
    let v4 = parse_fib_trie(&read("/proc/net/fib_trie"));
    reachable_at(listen, &[v6, v4].concat(), limit::MEMBER_ADDRESSES)
}

/// The address that a node which does not run yet will listen on, with its port. Where somebody
/// takes the port before that node starts, it says so, or takes another one.
pub(super) async fn choose(told: Option<SocketAddr>) -> Result<SocketAddr, Problem> {
    let chosen = match told {
        Some(told) => SystemNetwork::probe(told),
        None => bind_everywhere(Binder::Probe, LINK_PORT).await,
    };
    chosen.map_err(|problem| listen_problem(&problem, "--listen"))
}

/// Takes an address, or looks whether it could be taken.
#[derive(Clone, Copy)]
enum Binder<'n> {
    Listen(&'n SystemNetwork),
    Probe,
}

impl Binder<'_> {
    async fn bind(self, address: SocketAddr) -> Result<SocketAddr, ListenProblem> {
        match self {
            Self::Listen(network) => network.listen(address).await,
            Self::Probe => SystemNetwork::probe(address),
        }
    }
}

/// At every address of this machine, IPv6 and IPv4; on another port if the usual one is taken.
async fn bind_everywhere(binder: Binder<'_>, port: u16) -> Result<SocketAddr, ListenProblem> {
    let is_taken = |bound: &Result<_, ListenProblem>| {
        matches!(bound, Err(ListenProblem::Bind { source, .. })
            if source.kind() == io::ErrorKind::AddrInUse)
    };
    let mut ip = Ipv6Addr::UNSPECIFIED.into();
    let mut bound = binder.bind(SocketAddr::new(ip, port)).await;
    if bound.is_err() && !is_taken(&bound) {
        // A machine without IPv6.
        ip = Ipv4Addr::UNSPECIFIED.into();
        bound = binder.bind(SocketAddr::new(ip, port)).await;
    }
    if is_taken(&bound) {
        bound = binder.bind(SocketAddr::new(ip, 0)).await;
        if let Ok(address) = &bound {
            tracing::warn!(%address, "port {port} is taken; links use another one");
        }
    }
    bound
}

/// Binds the link listener: where told, else where the genesis says, else everywhere. A port that
/// nobody asked for, and that is taken this time, makes way for another one.
pub(super) async fn listen(
    network: &SystemNetwork,
    told: &Told,
    founder: Option<&Member>,
    is_asked_for: bool,
) -> Result<SocketAddr, Problem> {
    let of_genesis = || founder.and_then(|member| member.address.parse().ok());
    let bound = match told.listen.or_else(of_genesis) {
        Some(told) if told.ip().is_unspecified() && !is_asked_for => {
            bind_everywhere(Binder::Listen(network), told.port()).await
        }
        Some(told) => network.listen(told).await,
        None => bind_everywhere(Binder::Listen(network), LINK_PORT).await,
    };
    bound.map_err(|problem| listen_problem(&problem, "--listen"))
}

/// What to tell whoever asked for an address by this option of `up`.
pub(super) fn listen_problem(problem: &ListenProblem, option: &str) -> Problem {
    match problem {
        ListenProblem::Bind { address, source } if source.kind() == io::ErrorKind::AddrInUse => {
            Problem::new(Reason::PortInUse)
                .with("address", address)
                .with("option", option)
                .with("detail", source)
        }
        _ => Problem::usage(problem.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network() -> SystemNetwork {
        let network = SystemNetwork::new();
        let key = SecretKey::from_seed(&[1; 32]).expect("seed");
        network.introduce(LinkIdentity::example(1), Arc::new(key));
        network
    }

    /// A second node on the machine takes another port, and both are reached from everywhere.
    #[tokio::test]
    async fn a_taken_port_makes_way_for_a_free_one() {
        let (one, two) = (network(), network());
        let first = bind_everywhere(Binder::Listen(&one), 0)
            .await
            .expect("any port");
        let second = bind_everywhere(Binder::Listen(&two), first.port())
            .await
            .expect("another");
        assert!(first.ip().is_unspecified() && second.ip() == first.ip());
        assert!(second.port() != first.port() && second.port() != 0);
        let told = two.listen(first).await.expect_err("taken");
        assert!(told.to_string().contains(&first.to_string()), "{told}");
    }
}
