//! [pure] Tickets: what one person hands another, and the text of it (promise S5).
//!
//! The text is `aber1-` and Crockford's base32, lower case, in groups of five. It ends in a
//! checksum, so that a typing error is told before anything is sent. Who reads it back is lenient
//! about case, spaces and dashes, and takes `O` for 0, `I` and `L` for 1. `docs/format.md` has the
//! bytes.

use crate::hash::{KeyPin, TicketId};
use crate::id::ClusterId;
use crate::key::{PublicKey, SecretKey};
use crate::limit;
use crate::unit::Timestamp;
use bytes::{Buf, BufMut};
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

const NAME: &str = "aber";
const VERSION: u8 = 1;
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const GROUP: usize = 5;
const CHECK_BYTES: usize = 4;

/// What a newcomer proves to know. Only the public half of the key made of it is in the log.
#[derive(Clone, PartialEq, Eq)]
pub struct TicketSecret(pub [u8; 16]);

/// Shows nothing: a secret is never logged.
impl fmt::Debug for TicketSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TicketSecret(..)")
    }
}

impl TicketSecret {
    /// Its public half is the ticket's id: who reads the log can check it, and not join by it.
    #[must_use]
    pub fn key(&self) -> SecretKey {
        let seed = blake3::derive_key("aber 2026 ticket v1", &self.0);
        SecretKey::from_seed(&seed).expect("any 32 bytes are a seed")
    }
}

impl TicketId {
    /// The ticket with this secret.
    #[must_use]
    pub fn of_secret(secret: &TicketSecret) -> Self {
        Self(secret.key().public().0)
    }

    /// What a signature by the ticket's secret is checked with.
    #[must_use]
    pub fn key(&self) -> PublicKey {
        PublicKey(self.0)
    }
}

impl KeyPin {
    /// The pin of a node with this key.
    #[must_use]
    pub fn of(key: &PublicKey) -> Self {
        Self(blake3::derive_key("aber 2026 key pin v1", &key.0))
    }
}

/// Where the inviter may be reached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TicketAddress {
    /// An address and port.
    Ip(SocketAddr),
    /// A host name, at most [`limit::TICKET_HOST_BYTES`] of letters, digits, `.`, `-` and `_`.
    Host {
        /// The name.
        name: String,
        /// The port.
        port: u16,
    },
}

/// One invitation. What it grants is in the log, under the hash of the secret.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ticket {
    /// The cluster it is for.
    pub cluster: ClusterId,
    /// The inviter's key: who answers with another one is somebody else.
    pub inviter: KeyPin,
    /// Where the inviter is, at most [`limit::TICKET_ADDRESSES`].
    pub addresses: Vec<TicketAddress>,
    /// The secret.
    pub secret: TicketSecret,
    /// When it expires, in seconds since 1970.
    pub expires_seconds: u32,
}

/// Why a text is no ticket that can be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TicketProblem {
    /// It does not begin as a ticket does, or says what no ticket says.
    #[error("this is no ticket: one begins with aber1-")]
    NotATicket,
    /// A character is wrong, missing or too many.
    #[error("there is a typing error in this ticket, or a part of it is missing")]
    Typo,
    /// A ticket of a newer program.
    #[error("this ticket is of version {0}; this program knows version 1")]
    Newer(u8),
    /// Longer than any ticket.
    #[error("this is too long for a ticket")]
    TooLong,
}

impl TicketAddress {
    /// Reads `host:port`, where the host is a name, an IPv4 address, or an IPv6 address in
    /// brackets. `None` if it is not that, or means something on one machine only.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            let is_scoped = matches!(address, SocketAddr::V6(v6) if v6.scope_id() != 0);
            return (!is_scoped).then_some(Self::Ip(address));
        }
        let (name, port) = text.rsplit_once(':')?;
        let port = port.parse().ok()?;
        is_host(name).then(|| Self::Host {
            name: name.to_owned(),
            port,
        })
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Ip(SocketAddr::V4(v4)) => {
                out.put_u8(4);
                out.put_slice(&v4.ip().octets());
            }
            Self::Ip(SocketAddr::V6(v6)) => {
                out.put_u8(6);
                out.put_slice(&v6.ip().octets());
            }
            Self::Host { name, .. } => {
                out.put_u8(1);
                out.put_u8(u8::try_from(name.len()).unwrap_or(u8::MAX));
                out.put_slice(name.as_bytes());
            }
        }
        out.put_u16_le(self.port());
    }

    fn read(rest: &mut &[u8]) -> Option<Self> {
        match rest.try_get_u8().ok()? {
            4 => {
                let ip = Ipv4Addr::from(array::<4>(rest)?);
                let port = rest.try_get_u16_le().ok()?;
                Some(Self::Ip(SocketAddrV4::new(ip, port).into()))
            }
            6 => {
                let ip = Ipv6Addr::from(array::<16>(rest)?);
                let port = rest.try_get_u16_le().ok()?;
                Some(Self::Ip(SocketAddrV6::new(ip, port, 0, 0).into()))
            }
            1 => {
                let length = rest.try_get_u8().ok()?.into();
                let (name, after) = rest.split_at_checked(length)?;
                *rest = after;
                let name = std::str::from_utf8(name).ok()?.to_owned();
                let port = rest.try_get_u16_le().ok()?;
                is_host(&name).then_some(Self::Host { name, port })
            }
            _ => None,
        }
    }

    fn port(&self) -> u16 {
        match self {
            Self::Ip(address) => address.port(),
            Self::Host { port, .. } => *port,
        }
    }
}

impl fmt::Display for TicketAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => write!(f, "{address}"),
            Self::Host { name, port } => write!(f, "{name}:{port}"),
        }
    }
}

fn is_host(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    (1..=limit::TICKET_HOST_BYTES).contains(&name.len()) && name.bytes().all(allowed)
}

fn array<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, after) = rest.split_first_chunk::<N>()?;
    *rest = after;
    Some(*taken)
}

impl Ticket {
    /// Its name in the log.
    #[must_use]
    pub fn id(&self) -> TicketId {
        TicketId::of_secret(&self.secret)
    }

    /// When it expires.
    #[must_use]
    pub fn expires(&self) -> Timestamp {
        Timestamp(i64::from(self.expires_seconds) * 1000)
    }

    /// The text to hand over. Shown once and never logged, so it is not how a ticket is printed.
    /// Addresses above the limit, and host names that are none, are left out.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut bytes = Vec::with_capacity(256);
        bytes.put_u8(VERSION);
        bytes.put_slice(&self.cluster.0);
        bytes.put_slice(&self.inviter.0);
        let good = |address: &&TicketAddress| match address {
            TicketAddress::Host { name, .. } => is_host(name),
            TicketAddress::Ip(_) => true,
        };
        let usable = self.addresses.iter().filter(good);
        let addresses: Vec<_> = usable.take(limit::TICKET_ADDRESSES).collect();
        bytes.put_u8(u8::try_from(addresses.len()).unwrap_or(0));
        for address in addresses {
            address.write(&mut bytes);
        }
        bytes.put_slice(&self.secret.0);
        bytes.put_u32_le(self.expires_seconds);
        let check = check_of(&bytes);
        bytes.put_slice(&check);
        let mut text = format!("{NAME}{VERSION}");
        for (position, letter) in encode(&bytes).chars().enumerate() {
            if position.is_multiple_of(GROUP) {
                text.push('-');
            }
            text.push(letter);
        }
        text
    }

    /// Reads a text back, as people type it.
    ///
    /// # Errors
    /// What is wrong with it; nothing needs to be sent to know.
    pub fn parse(text: &str) -> Result<Self, TicketProblem> {
        if text.len() > limit::TICKET_TEXT_BYTES {
            return Err(TicketProblem::TooLong);
        }
        let letters: String = text
            .chars()
            .filter(|letter| !letter.is_whitespace() && *letter != '-')
            .map(|letter| match letter.to_ascii_lowercase() {
                'o' => '0',
                'i' | 'l' => '1',
                other => other,
            })
            .collect();
        let rest = letters
            .strip_prefix(NAME)
            .ok_or(TicketProblem::NotATicket)?;
        let mut letters = rest.chars();
        let version = letters.next().and_then(|letter| letter.to_digit(10));
        match version.and_then(|version| u8::try_from(version).ok()) {
            Some(VERSION) => {}
            Some(newer) if newer > VERSION => return Err(TicketProblem::Newer(newer)),
            _ => return Err(TicketProblem::NotATicket),
        }
        let bytes = decode(letters.as_str()).ok_or(TicketProblem::Typo)?;
        let (body, check) = bytes
            .split_last_chunk::<CHECK_BYTES>()
            .ok_or(TicketProblem::Typo)?;
        if check_of(body) != *check {
            return Err(TicketProblem::Typo);
        }
        match body.first() {
            Some(newer) if *newer > VERSION => Err(TicketProblem::Newer(*newer)),
            _ => Self::read(body).ok_or(TicketProblem::NotATicket),
        }
    }

    fn read(mut rest: &[u8]) -> Option<Self> {
        if rest.try_get_u8().ok()? != VERSION {
            return None;
        }
        let cluster = ClusterId(array(&mut rest)?);
        let inviter = KeyPin(array(&mut rest)?);
        let count = usize::from(rest.try_get_u8().ok()?);
        if count > limit::TICKET_ADDRESSES {
            return None;
        }
        let mut addresses = Vec::with_capacity(count);
        for _ in 0..count {
            addresses.push(TicketAddress::read(&mut rest)?);
        }
        let secret = TicketSecret(array(&mut rest)?);
        let expires_seconds = rest.try_get_u32_le().ok()?;
        rest.is_empty().then_some(Self {
            cluster,
            inviter,
            addresses,
            secret,
            expires_seconds,
        })
    }
}

fn check_of(body: &[u8]) -> [u8; CHECK_BYTES] {
    let [a, b, c, d, ..] = blake3::derive_key("aber 2026 ticket check v1", body);
    [a, b, c, d]
}

/// Five bits a letter, highest first; the last letter is filled up with zeros.
fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 8 / 5 + 1);
    let (mut bits, mut count) = (0_u16, 0);
    for byte in bytes {
        bits = bits << 8 | u16::from(*byte);
        count += 8;
        while count >= 5 {
            count -= 5;
            text.push(letter_of(bits >> count));
        }
    }
    if count > 0 {
        text.push(letter_of(bits << (5 - count)));
    }
    text
}

fn letter_of(bits: u16) -> char {
    let letter = ALPHABET.get(usize::from(bits & 31));
    letter.copied().map_or('0', char::from)
}

/// The inverse of [`encode`]; `None` for a letter of no meaning or bits that would not be written.
fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() * 5 / 8);
    let (mut bits, mut count) = (0_u16, 0);
    for letter in text.chars() {
        let value = ALPHABET
            .iter()
            .position(|known| char::from(*known) == letter)?;
        bits = bits << 5 | u16::try_from(value).ok()?;
        count += 5;
        if count >= 8 {
            count -= 8;
            let [low, _] = (bits >> count).to_le_bytes();
            bytes.push(low);
        }
        bits &= (1 << count) - 1;
    }
    (count < 5 && bits == 0).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn address() -> impl Strategy<Value = TicketAddress> {
        let host = ("[a-z][a-z0-9._-]{0,63}", any::<u16>())
            .prop_map(|(name, port)| TicketAddress::Host { name, port });
        prop_oneof![
            (any::<[u8; 4]>(), any::<u16>())
                .prop_map(|(ip, port)| TicketAddress::Ip((ip, port).into())),
            (any::<[u8; 16]>(), any::<u16>())
                .prop_map(|(ip, port)| TicketAddress::Ip((ip, port).into())),
            host,
        ]
    }

    fn ticket() -> impl Strategy<Value = Ticket> {
        let hashes = (any::<[u8; 32]>(), any::<[u8; 32]>(), any::<[u8; 16]>());
        (hashes, vec(address(), 0..=4), any::<u32>()).prop_map(
            |((cluster, inviter, secret), addresses, expires_seconds)| Ticket {
                cluster: ClusterId(cluster),
                inviter: KeyPin(inviter),
                addresses,
                secret: TicketSecret(secret),
                expires_seconds,
            },
        )
    }

    fn sample() -> Ticket {
        let addresses = ["192.0.2.7:7787", "[fd42:10::1]:7787", "enora.example:7"];
        let addresses = addresses.map(|text| TicketAddress::parse(text).expect("an address"));
        Ticket {
            cluster: ClusterId([1; 32]),
            inviter: KeyPin::of(&PublicKey([2; 32])),
            addresses: addresses.to_vec(),
            secret: TicketSecret([3; 16]),
            expires_seconds: 1_780_000_000,
        }
    }

    proptest! {
        /// S5: a ticket comes back, however it is typed.
        #[test]
        fn a_ticket_comes_back(ticket in ticket(), every in 1..9_usize, upper: bool) {
            let text = ticket.to_text();
            prop_assert!(text.len() <= limit::TICKET_TEXT_BYTES / 2);
            let known = Ticket::parse(&text);
            prop_assert_eq!(known, Ok(ticket.clone()));
            let mut typed = String::from(" ");
            for (position, letter) in text.replace('-', "").chars().enumerate() {
                typed.push(match letter {
                    '0' if upper => 'O',
                    '1' if upper => 'l',
                    other if upper => other.to_ascii_uppercase(),
                    other => other,
                });
                if position % every == 0 {
                    typed.push_str("\r\n");
                }
            }
            prop_assert_eq!(Ticket::parse(&typed), Ok(ticket));
        }

        #[test]
        fn any_text_is_answered(text in ".{0,300}", letters in "aber1-[0-9a-z -]{0,300}") {
            prop_assert!(Ticket::parse(&text).is_err());
            prop_assert!(Ticket::parse(&letters).is_err());
        }

        #[test]
        fn addresses_print_as_they_are_read(address in address()) {
            prop_assert_eq!(TicketAddress::parse(&address.to_string()), Some(address));
        }
    }

    /// S5: no single letter can be another, missing or doubled.
    #[test]
    fn every_changed_letter_is_a_typing_error() {
        let text = sample().to_text();
        for position in "aber1-".len()..text.len() {
            let (before, rest) = text.split_at(position);
            let (present, after) = rest.split_at(1);
            if present == "-" {
                continue;
            }
            for letter in ALPHABET.iter().map(|letter| char::from(*letter)) {
                let typed = format!("{before}{letter}{after}");
                let expected = if letter.to_string() == present {
                    Ok(sample())
                } else {
                    Err(TicketProblem::Typo)
                };
                assert_eq!(Ticket::parse(&typed), expected, "{typed}");
            }
            let typed = format!("{before}u{after}");
            assert_eq!(Ticket::parse(&typed), Err(TicketProblem::Typo));
            let missing = format!("{before}{after}");
            assert_eq!(Ticket::parse(&missing), Err(TicketProblem::Typo));
            let doubled = format!("{before}{present}{rest}");
            assert_eq!(Ticket::parse(&doubled), Err(TicketProblem::Typo));
        }
    }

    #[test]
    fn what_is_wrong_is_told_apart() {
        let text = sample().to_text();
        let newer = text.replacen("aber1", "aber2", 1);
        let cases = [
            ("", TicketProblem::NotATicket),
            ("https://example.org/", TicketProblem::NotATicket),
            ("aber", TicketProblem::NotATicket),
            ("aber1-", TicketProblem::Typo),
            (newer.as_str(), TicketProblem::Newer(2)),
            (&text.repeat(20), TicketProblem::TooLong),
        ];
        for (text, problem) in cases {
            assert_eq!(Ticket::parse(text), Err(problem), "{text}");
        }
        let mut bytes = vec![2, 0];
        let check = check_of(&bytes);
        bytes.extend(check);
        let later = format!("aber1-{}", encode(&bytes));
        assert_eq!(Ticket::parse(&later), Err(TicketProblem::Newer(2)));
        let mut bytes = vec![1, 0];
        let check = check_of(&bytes);
        bytes.extend(check);
        let short = format!("aber1-{}", encode(&bytes));
        assert_eq!(Ticket::parse(&short), Err(TicketProblem::NotATicket));
    }

    #[test]
    fn a_secret_is_not_printed() {
        let printed = format!("{:?}", sample());
        assert!(printed.contains("TicketSecret(..)") && !printed.contains("3, 3"));
        let bad = ["", "host", ":1", "ho st:1", "[fe80::1%3]:7", "h:70000"];
        assert!(bad.iter().all(|text| TicketAddress::parse(text).is_none()));
    }
}
