//! Which port is taken where any free one will do.
//!
//! A node keeps its port: other members remember it, and it comes back to it after each start. A
//! port the system would give (`bind` to port 0) is one of those it also gives to connections that
//! go out, so that another one may have it as soon as the node is down. These are below them.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Not privileged, and under what Linux uses for connections that go out
/// (`net.ipv4.ip_local_port_range`, 32,768 unless changed; RFC 6335 has 49,152).
const PORTS: Range<u16> = 10_240..32_768;
/// How many are tried before the system is asked for one of its own.
const TRIES: usize = 256;
/// A prime, so that processes that start one after the other begin far from each other.
const STRIDE: u32 = 7919;

/// How many this process was told of. None is told twice before all were.
static TOLD: AtomicU32 = AtomicU32::new(0);

/// Ports to try in turn.
fn candidates() -> impl Iterator<Item = u16> {
    let count = u32::from(PORTS.end - PORTS.start);
    let first = std::process::id().wrapping_mul(STRIDE);
    (0..TRIES).map(move |_| {
        let at = first.wrapping_add(TOLD.fetch_add(1, Relaxed)) % count;
        PORTS.start + u16::try_from(at).unwrap_or_default()
    })
}

/// What `bind` answers for the first port it can have; all taken, for the port 0.
///
/// # Errors
/// It failed for another reason than that a port is taken.
pub(super) fn bind_any<T>(mut bind: impl FnMut(u16) -> io::Result<T>) -> io::Result<T> {
    for port in candidates() {
        match bind(port) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            done => return done,
        }
    }
    bind(0)
}

/// Addresses that nobody listens on now, and that no connection that goes out will have.
///
/// # Errors
/// Nothing can be bound at `ip`.
pub fn free_addresses(ip: IpAddr, count: usize) -> io::Result<Vec<SocketAddr>> {
    let one = |_| bind_any(|port| TcpListener::bind((ip, port)))?.local_addr();
    (0..count).map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::net::Ipv4Addr;

    #[test]
    fn free_addresses_differ_and_are_no_connections_ports() {
        let home = IpAddr::from(Ipv4Addr::LOCALHOST);
        let mut seen = BTreeSet::new();
        for _ in 0..20 {
            for address in free_addresses(home, 3).expect("free") {
                assert!(PORTS.contains(&address.port()), "{address}");
                assert!(seen.insert(address), "{address} was told twice");
            }
        }
    }

    #[test]
    fn a_taken_port_is_passed_over() {
        let mut asked = Vec::new();
        let taken = || Err(io::Error::from(io::ErrorKind::AddrInUse));
        let bound = bind_any(|port| {
            asked.push(port);
            if asked.len() < 3 { taken() } else { Ok(port) }
        });
        assert_eq!(bound.ok(), asked.last().copied());
        let system = bind_any(|port| if port == 0 { Ok(port) } else { taken() });
        assert_eq!(system.ok(), Some(0), "the system is asked in the end");
        let refused = bind_any(|_| Err::<(), _>(io::ErrorKind::PermissionDenied.into()));
        assert!(refused.is_err());
    }
}
