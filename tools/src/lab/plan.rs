//! [pure] What a lab is made of: names, addresses, rates, and the arguments that make them.

use anyhow::{Context as _, Result, bail, ensure};
use std::fmt;
use std::time::Duration;

/// Before each namespace of any lab.
const PREFIX: &str = "aberlab";
/// Addresses end in one byte, of which a few values mean something else.
const HOSTS_MAX: u8 = 250;
/// A name is part of a file name, and people type it.
const NAME_CHARS_MAX: usize = 16;
/// How much a full line buffers, as cheap routers do.
const QUEUE_MS: u64 = 100;
/// How long a line may send faster than its rate: a thousand such bursts a second would be none.
const BURST_MS: u64 = 5;
/// Two whole frames: less, and a line would never send one.
const BURST_BYTES_MIN: u64 = 3200;
const QUEUE_BYTES_MIN: u64 = 6400;

/// One host of a lab: `h1`, `h2`, …
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Host(u8);

impl Host {
    /// The host of this number; the first is 1.
    ///
    /// # Errors
    /// No lab has so many.
    pub fn new(number: usize) -> Result<Self> {
        let number = u8::try_from(number).ok();
        let number = number.filter(|number| (1..=HOSTS_MAX).contains(number));
        let number = number.with_context(|| format!("hosts are h1 to h{HOSTS_MAX}"))?;
        Ok(Self(number))
    }

    /// Reads `h3`.
    ///
    /// # Errors
    /// It is no host's name.
    pub fn parse(text: &str) -> Result<Self> {
        let number = text.strip_prefix('h').and_then(|rest| rest.parse().ok());
        // One spelling each, or `h01` would be a second name for a namespace.
        let host = number.and_then(|number| Self::new(number).ok());
        host.filter(|host| host.to_string() == text)
            .with_context(|| format!("{text}: no host's name; they are h1, h2, …"))
    }

    /// Its place, from 1.
    #[must_use]
    pub fn number(self) -> u8 {
        self.0
    }

    /// Its IPv6 address.
    #[must_use]
    pub fn ipv6(self) -> String {
        format!("fd77::{:x}", self.0)
    }

    /// Its IPv4 address, where the lab has such.
    #[must_use]
    pub fn ipv4(self) -> String {
        format!("10.77.0.{}", self.0)
    }

    /// The switch's end of its cable.
    pub(super) fn port(self) -> String {
        format!("p{}", self.0)
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "h{}", self.0)
    }
}

/// The name of a lab: labs of different names do not meet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Name(String);

impl Name {
    /// # Errors
    /// It is not 1 to 16 small letters and digits.
    pub fn new(text: &str) -> Result<Self> {
        let is_good = (1..=NAME_CHARS_MAX).contains(&text.len())
            && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9'));
        ensure!(
            is_good,
            "{text:?}: a lab's name is 1 to {NAME_CHARS_MAX} of a-z and 0-9"
        );
        Ok(Self(text.to_owned()))
    }

    /// The namespace of a host.
    #[must_use]
    pub fn host(&self, host: Host) -> String {
        format!("{PREFIX}-{}-{host}", self.0)
    }

    /// The namespace of the switch.
    #[must_use]
    pub fn switch(&self) -> String {
        format!("{PREFIX}-{}-sw", self.0)
    }

    /// The host whose namespace this is.
    pub(super) fn host_of(&self, namespace: &str) -> Option<Host> {
        let (name, place) = split(namespace)?;
        (name == self.0).then(|| Host::parse(place).ok())?
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn split(namespace: &str) -> Option<(&str, &str)> {
    namespace
        .strip_prefix(PREFIX)?
        .strip_prefix('-')?
        .split_once('-')
}

/// The labs that have a switch among these namespaces.
pub(super) fn labs<'a>(namespaces: impl Iterator<Item = &'a str>) -> Vec<Name> {
    let switches = namespaces
        .filter_map(split)
        .filter(|(_, place)| *place == "sw");
    switches
        .filter_map(|(name, _)| Name::new(name).ok())
        .collect()
}

/// Bits a second.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate(u64);

impl Rate {
    /// Reads `8mbit`, `800kbit`, `1gbit`.
    ///
    /// # Errors
    /// It is no such number, or 0.
    pub fn parse(text: &str) -> Result<Self> {
        let units = [
            ("kbit", 1_000),
            ("mbit", 1_000_000),
            ("gbit", 1_000_000_000),
        ];
        let found = units.iter().find_map(|(unit, factor)| {
            let count: u64 = text.strip_suffix(unit)?.parse().ok()?;
            count.checked_mul(*factor).filter(|bps| *bps > 0)
        });
        match found {
            Some(bps) => Ok(Self(bps)),
            None => bail!("{text:?}: a rate is a number and kbit, mbit or gbit"),
        }
    }

    /// What makes a line of this rate out of an interface, for `tc qdisc replace … root`.
    pub(super) fn tbf(self) -> Vec<String> {
        let bytes_in = |ms: u64| self.0 / 8 * ms / 1000;
        let burst = bytes_in(BURST_MS).max(BURST_BYTES_MIN);
        let limit = burst + bytes_in(QUEUE_MS).max(QUEUE_BYTES_MIN);
        let rate = format!("{}bit", self.0);
        let words = [
            "tbf",
            "rate",
            &rate,
            "burst",
            &burst.to_string(),
            "limit",
            &limit.to_string(),
        ];
        words.map(str::to_owned).to_vec()
    }
}

/// What a lab is to be.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Its name.
    pub name: Name,
    /// How many hosts.
    pub hosts: usize,
    /// What each sends at most; `None`: as fast as the machine can.
    pub up: Option<Rate>,
    /// What each receives at most.
    pub down: Option<Rate>,
    /// Whether hosts have IPv4 addresses beside those of IPv6.
    pub has_ipv4: bool,
    /// How long each frame is on its way to the switch; zero: as long as the machine takes.
    pub delay: Duration,
}

impl Plan {
    /// Its hosts.
    ///
    /// # Errors
    /// None, or too many.
    pub fn hosts(&self) -> Result<Vec<Host>> {
        ensure!(self.hosts > 0, "a lab has at least one host");
        (1..=self.hosts).map(Host::new).collect()
    }

    /// Lines for `ip -batch` in a host's namespace.
    pub(super) fn host_batch(&self, host: Host) -> String {
        let mut lines = format!("addr add {}/64 dev eth0 nodad\n", host.ipv6());
        if self.has_ipv4 {
            lines += &format!("addr add {}/24 dev eth0\n", host.ipv4());
        }
        lines + "link set lo up\nlink set eth0 up\n"
    }

    /// Lines for `ip -batch` in the switch's namespace. The switch itself says nothing: what is
    /// counted is the hosts'.
    pub(super) fn switch_batch() -> &'static str {
        "link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0\n\
         link set br0 addrgenmode none\nlink set br0 up\n"
    }

    /// Lines that plug a host's cable into the switch, or, where hosts are far from it, leave that
    /// to who carries frames.
    pub(super) fn port_batch(&self, host: Host) -> String {
        let port = host.port();
        let master = if self.delay.is_zero() {
            "master br0 "
        } else {
            ""
        };
        format!("link set {port} addrgenmode none\nlink set {port} {master}up\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_labs_have_one_spelling() {
        assert_eq!(Host::parse("h250").unwrap().ipv6(), "fd77::fa");
        for bad in ["", "h", "h0", "h01", "h251", "3", "hx", "h+1"] {
            assert!(Host::parse(bad).is_err(), "{bad}");
        }
        for bad in ["", "A", "a-b", "../x", "a b", "abcdefghijklmnopq"] {
            assert!(Name::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_lab_knows_its_namespaces_and_no_others() {
        let (a, b) = (Name::new("a").unwrap(), Name::new("ab").unwrap());
        let host = Host::new(3).unwrap();
        assert_eq!(a.host_of(&a.host(host)), Some(host));
        assert_eq!(a.host_of(&b.host(host)), None);
        assert_eq!(a.host_of(&a.switch()), None);
        assert_eq!(a.host_of("aberlab-a-h3x"), None);
        let there = [a.switch(), b.host(host), "other-a-sw".to_owned()];
        assert_eq!(labs(there.iter().map(String::as_str)), [a]);
    }

    #[test]
    fn a_line_buffers_a_tenth_of_a_second() {
        let line = Rate::parse("8mbit").unwrap().tbf().join(" ");
        assert_eq!(line, "tbf rate 8000000bit burst 5000 limit 105000");
        let slow = Rate::parse("64kbit").unwrap().tbf().join(" ");
        assert_eq!(slow, "tbf rate 64000bit burst 3200 limit 9600");
        for bad in [
            "",
            "8",
            "0mbit",
            "8 mbit",
            "mbit",
            "-1kbit",
            "99999999999gbit",
        ] {
            assert!(Rate::parse(bad).is_err(), "{bad}");
        }
    }
}
