//! [pure] Where other machines may reach this one: its own addresses, out of what the kernel tells.
//!
//! Link-local addresses mean something on one machine only and are left out; loopback is told only
//! where there is nothing else, for nodes that share a machine.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// `IFA_F_TEMPORARY`: changes every few hours.
const TEMPORARY: u8 = 0x01;
/// `IFA_F_DADFAILED`, `IFA_F_DEPRECATED`, `IFA_F_TENTATIVE`: not to be used.
const UNUSABLE: u8 = 0x08 | 0x20 | 0x40;

/// The IPv6 addresses in `/proc/net/if_inet6`, those that stay first.
pub(super) fn parse_inet6(text: &str) -> Vec<IpAddr> {
    let mut found: Vec<(bool, Ipv6Addr)> = text.lines().filter_map(inet6_line).collect();
    found.sort_by_key(|(is_temporary, _)| *is_temporary);
    found.into_iter().map(|(_, ip)| ip.into()).collect()
}

fn inet6_line(line: &str) -> Option<(bool, Ipv6Addr)> {
    let mut fields = line.split_ascii_whitespace();
    let ip = u128::from_str_radix(fields.next()?, 16).ok()?;
    let flags = u8::from_str_radix(fields.nth(3)?, 16).ok()?;
    (flags & UNUSABLE == 0).then(|| (flags & TEMPORARY != 0, Ipv6Addr::from_bits(ip)))
}

/// The IPv4 addresses in `/proc/net/fib_trie`: leaves that are `/32 host LOCAL`.
pub(super) fn parse_fib_trie(text: &str) -> Vec<IpAddr> {
    let mut found: Vec<IpAddr> = Vec::new();
    let mut leaf: Option<Ipv4Addr> = None;
    for line in text.lines() {
        let line = line.trim_start();
        if let Some(ip) = line.strip_prefix("|-- ") {
            leaf = ip.trim().parse().ok();
        } else if line.starts_with("/32 host LOCAL")
            && let Some(ip) = leaf
            && !found.contains(&ip.into())
        {
            found.push(ip.into());
        }
    }
    found
}

/// At most `most` addresses of a listener, the likeliest first: IPv6 and IPv4 in turn.
pub(super) fn reachable_at(listen: SocketAddr, own: &[IpAddr], most: usize) -> Vec<String> {
    let at = |ip: &IpAddr| SocketAddr::new(*ip, listen.port()).to_string();
    if !listen.ip().is_unspecified() {
        return vec![listen.to_string()];
    }
    let is_heard = |ip: &&IpAddr| listen.is_ipv6() || ip.is_ipv4();
    let usable = |ip: &&IpAddr| is_heard(ip) && !ip.is_loopback() && !is_link_local(ip);
    let (v6, v4): (Vec<&IpAddr>, Vec<&IpAddr>) =
        own.iter().filter(usable).partition(|ip| ip.is_ipv6());
    let (mut v6, mut v4) = (v6.into_iter(), v4.into_iter());
    let mut chosen = Vec::new();
    loop {
        let next = [v6.next(), v4.next()];
        if next.iter().all(Option::is_none) {
            break;
        }
        chosen.extend(next.into_iter().flatten().map(at));
    }
    if chosen.is_empty() {
        let loopback = own.iter().filter(is_heard).filter(|ip| ip.is_loopback());
        chosen.extend(loopback.map(at));
    }
    chosen.truncate(most);
    chosen
}

fn is_link_local(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_unspecified() || ip.is_multicast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local() || ip.is_unspecified() || ip.is_multicast(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INET6: &str = "\
00000000000000000000000000000001 01 80 10 80       lo
fd4200100000000000000000000000ab 02 40 00 01     eth0
fe80000000000000021e67fffe000001 02 40 20 80     eth0
fd420010000000000000000000000001 02 40 00 80     eth0
fd420010000000000000000000000002 02 40 00 40     eth0
";
    const TRIE: &str = "\
Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     +-- 10.1.2.0/24 2 0 1
        |-- 10.1.2.0
           /24 link UNICAST
        |-- 10.1.2.3
           /32 host LOCAL
        |-- 10.1.2.255
           /32 link BROADCAST
     |-- 127.0.0.1
        /32 host LOCAL
Local:
        |-- 10.1.2.3
           /32 host LOCAL
";

    fn own() -> Vec<IpAddr> {
        [parse_inet6(INET6), parse_fib_trie(TRIE)].concat()
    }

    #[test]
    fn addresses_that_mean_nothing_elsewhere_are_left_out() {
        let all: SocketAddr = "[::]:7787".parse().expect("address");
        let stays = "[fd42:10::1]:7787";
        let temporary = "[fd42:10::ab]:7787";
        let expected = [stays, "10.1.2.3:7787", temporary];
        assert_eq!(reachable_at(all, &own(), 8), expected);
        assert_eq!(reachable_at(all, &own(), 2), expected[..2]);
        let v4: SocketAddr = "0.0.0.0:1".parse().expect("address");
        assert_eq!(reachable_at(v4, &own(), 8), ["10.1.2.3:1"]);
    }

    #[test]
    fn loopback_is_told_where_there_is_nothing_else() {
        let all: SocketAddr = "[::]:7".parse().expect("address");
        let lo = [IpAddr::from([127, 0, 0, 1]), Ipv6Addr::LOCALHOST.into()];
        assert_eq!(reachable_at(all, &lo, 8), ["127.0.0.1:7", "[::1]:7"]);
        let one: SocketAddr = "[::1]:9".parse().expect("address");
        assert_eq!(reachable_at(one, &own(), 8), ["[::1]:9"]);
    }
}
