//! [driver] What the daemon tells its network: who it is, who the others are, where to listen.

use super::{LINK_PORT, UpOptions};
use crate::env::network::{LinkIdentity, ListenProblem, Peer, SystemNetwork};
use crate::reason::{Problem, Reason};
use aber_proto::{Genesis, Member, SecretKey};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

/// Tells the network who this node is and who the others are.
pub(super) fn introduce(
    network: &SystemNetwork,
    options: &UpOptions,
    genesis: &Genesis,
    me: &Member,
    key: &Arc<SecretKey>,
) {
    let identity = LinkIdentity {
        cluster: genesis.cluster_id(),
        node: me.node,
        name: me.name.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    network.set_plaintext(options.plaintext);
    network.introduce(identity, Arc::clone(key));
    let peer = |member: &Member| Peer {
        key: member.key,
        addresses: vec![member.address.clone()],
    };
    let members = genesis.members.iter();
    network.set_peers(members.map(|member| (member.node, peer(member))).collect());
}

/// At every address of this machine, IPv6 and IPv4; on another port if the usual one is taken.
async fn listen_everywhere(
    network: &SystemNetwork,
    port: u16,
) -> Result<SocketAddr, ListenProblem> {
    let is_taken = |bound: &Result<_, ListenProblem>| {
        matches!(bound, Err(ListenProblem::Bind { source, .. })
            if source.kind() == io::ErrorKind::AddrInUse)
    };
    let mut ip = Ipv6Addr::UNSPECIFIED.into();
    let mut bound = network.listen(SocketAddr::new(ip, port)).await;
    if bound.is_err() && !is_taken(&bound) {
        // A machine without IPv6.
        ip = Ipv4Addr::UNSPECIFIED.into();
        bound = network.listen(SocketAddr::new(ip, port)).await;
    }
    if is_taken(&bound) {
        bound = network.listen(SocketAddr::new(ip, 0)).await;
        if let Ok(address) = &bound {
            tracing::warn!(%address, "port {port} is taken; links use another one");
        }
    }
    bound
}

/// Binds the link listener: where told, else where the genesis says, else everywhere.
pub(super) async fn listen(
    network: &SystemNetwork,
    options: &UpOptions,
    me: &Member,
) -> Result<SocketAddr, Problem> {
    let bound = match options.listen.or_else(|| me.address.parse().ok()) {
        Some(told) => network.listen(told).await,
        None => listen_everywhere(network, LINK_PORT).await,
    };
    bound.map_err(|problem| match &problem {
        ListenProblem::Bind { address, source } if source.kind() == io::ErrorKind::AddrInUse => {
            Problem::new(Reason::PortInUse)
                .with("address", address)
                .with("detail", source)
        }
        _ => Problem::usage(problem.to_string()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use aber_proto::{ClusterId, NodeId};

    fn network() -> SystemNetwork {
        let network = SystemNetwork::new();
        let identity = LinkIdentity {
            cluster: ClusterId([9; 32]),
            node: NodeId(1),
            name: "one".to_owned(),
            version: "0.1.0".to_owned(),
        };
        let key = SecretKey::from_seed(&[1; 32]).expect("seed");
        network.introduce(identity, Arc::new(key));
        network
    }

    /// A second node on the machine takes another port, and both are reached from everywhere.
    #[tokio::test]
    async fn a_taken_port_makes_way_for_a_free_one() {
        let (one, two) = (network(), network());
        let first = listen_everywhere(&one, 0).await.expect("any port");
        let second = listen_everywhere(&two, first.port())
            .await
            .expect("another");
        assert!(first.ip().is_unspecified() && second.ip() == first.ip());
        assert!(second.port() != first.port() && second.port() != 0);
        let told = two.listen(first).await.expect_err("taken");
        assert!(told.to_string().contains(&first.to_string()), "{told}");
    }
}
