//! [adapter] Links without TLS: both sides prove their keys once, then talk in the clear.
//!
//! For networks that encrypt by themselves, where `--plaintext` was given on both sides. Each side
//! sends a greeting (a nonce and its key) and signs both greetings and which side it is on. It
//! proves who was there when the connection opened; it does not protect what follows from
//! somebody who sits on the wire. Bytes as in `docs/protocol.md`.

use super::handshake::{HandshakeProblem, Wanted};
use aber_proto::key::Purpose;
use aber_proto::{PublicKey, SecretKey};
use ring::rand::{SecureRandom, SystemRandom};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What a caller, and the one who is called, begin with.
pub(super) const MAGIC: &[u8; 8] = b"aberopen";
/// What a node with TLS answers to [`MAGIC`].
pub(super) const MAGIC_OF_TLS: &[u8; 8] = b"abertls!";
const VERSION: u32 = 1;
const GREETING_BYTES: usize = 8 + 4 + 32 + 32;
const SIGNATURE_BYTES: usize = 64;
const EXPORTER_CONTEXT: &str = "aber 2026 plaintext exporter v1";

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Greeting {
    version: u32,
    nonce: [u8; 32],
    key: PublicKey,
}

/// Whose signature it is: one side's never passes for the other's.
#[derive(Clone, Copy)]
enum Side {
    Caller = 1,
    Called = 2,
}

impl Greeting {
    fn new(key: PublicKey) -> Result<Self, HandshakeProblem> {
        let mut nonce = [0; 32];
        let filled = SystemRandom::new().fill(&mut nonce);
        filled.map_err(|_| HandshakeProblem::Broken("the system gives no random bytes".into()))?;
        Ok(Self {
            version: VERSION,
            nonce,
            key,
        })
    }

    fn encode(&self) -> [u8; GREETING_BYTES] {
        let mut bytes = [0; GREETING_BYTES];
        let parts = [
            &MAGIC[..],
            &self.version.to_le_bytes(),
            &self.nonce,
            &self.key.0,
        ];
        for (byte, from) in bytes.iter_mut().zip(parts.concat()) {
            *byte = from;
        }
        bytes
    }

    fn decode(bytes: &[u8; GREETING_BYTES]) -> Result<Self, HandshakeProblem> {
        let strange = || HandshakeProblem::Broken("it does not greet as a node does".into());
        let (magic, rest) = bytes.split_first_chunk::<8>().ok_or_else(strange)?;
        let (version, rest) = rest.split_first_chunk().ok_or_else(strange)?;
        let (nonce, rest) = rest.split_first_chunk().ok_or_else(strange)?;
        let key: [u8; 32] = rest.try_into().map_err(|_| strange())?;
        if magic == MAGIC_OF_TLS {
            return Err(HandshakeProblem::TheyUseTls);
        }
        if magic != MAGIC {
            return Err(strange());
        }
        let version = u32::from_le_bytes(*version);
        if version != VERSION {
            return Err(HandshakeProblem::Version {
                mine: VERSION,
                theirs: version,
            });
        }
        Ok(Self {
            version,
            nonce: *nonce,
            key: PublicKey(key),
        })
    }
}

/// What a side signs: who it is in this talk, and both greetings.
fn signed(side: Side, caller: &Greeting, called: &Greeting) -> Vec<u8> {
    [&[side as u8][..], &caller.encode(), &called.encode()].concat()
}

/// What both know and no other connection has.
fn exporter(caller: &Greeting, called: &Greeting) -> [u8; 32] {
    let transcript = [caller.encode(), called.encode()].concat();
    blake3::derive_key(EXPORTER_CONTEXT, &transcript)
}

async fn hear_greeting(stream: &mut TcpStream) -> Result<Greeting, HandshakeProblem> {
    let mut bytes = [0; GREETING_BYTES];
    // Who speaks TLS says so in eight bytes and hangs up.
    let (magic, rest) = bytes.split_at_mut(MAGIC.len());
    stream.read_exact(magic).await?;
    if magic == MAGIC_OF_TLS {
        return Err(HandshakeProblem::TheyUseTls);
    }
    if magic == MAGIC {
        stream.read_exact(rest).await?;
    }
    Greeting::decode(&bytes)
}

async fn hear_proof(
    stream: &mut TcpStream,
    key: &PublicKey,
    message: &[u8],
) -> Result<(), HandshakeProblem> {
    let mut signature = [0; SIGNATURE_BYTES];
    stream.read_exact(&mut signature).await?;
    let outcome = key.verify(Purpose::Link, message, &signature);
    outcome.map_err(|_| HandshakeProblem::Broken("it does not have the key it shows".into()))
}

/// Greets the one who was called; signs nothing before it has proved the key that is wanted.
pub(super) async fn call(
    stream: &mut TcpStream,
    key: &SecretKey,
    wanted: Wanted,
) -> Result<(PublicKey, [u8; 32]), HandshakeProblem> {
    let caller = Greeting::new(key.public())?;
    stream.write_all(&caller.encode()).await?;
    let called = hear_greeting(stream).await?;
    if !wanted.fits(&called.key) {
        return Err(HandshakeProblem::OtherKey { key: called.key });
    }
    hear_proof(stream, &called.key, &signed(Side::Called, &caller, &called)).await?;
    let proof = key.sign(Purpose::Link, &signed(Side::Caller, &caller, &called));
    stream.write_all(&proof).await?;
    Ok((called.key, exporter(&caller, &called)))
}

/// Greets a caller.
pub(super) async fn answer(
    stream: &mut TcpStream,
    key: &SecretKey,
) -> Result<(PublicKey, [u8; 32]), HandshakeProblem> {
    let heard = hear_greeting(stream).await;
    if let Err(HandshakeProblem::Version { .. }) = &heard {
        // So that the caller can say which versions there are.
        stream
            .write_all(&Greeting::new(key.public())?.encode())
            .await?;
    }
    let caller = heard?;
    let called = Greeting::new(key.public())?;
    let proof = key.sign(Purpose::Link, &signed(Side::Called, &caller, &called));
    let answer = [&called.encode()[..], &proof].concat();
    stream.write_all(&answer).await?;
    hear_proof(stream, &caller.key, &signed(Side::Caller, &caller, &called)).await?;
    Ok((caller.key, exporter(&caller, &called)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn greeting(key: u8, nonce: u8) -> Greeting {
        Greeting {
            version: VERSION,
            nonce: [nonce; 32],
            key: PublicKey([key; 32]),
        }
    }

    #[test]
    fn a_greeting_comes_back_as_it_was() {
        let bytes = greeting(1, 2).encode();
        assert_eq!(Greeting::decode(&bytes).expect("whole"), greeting(1, 2));
        assert_eq!(bytes[..12], *b"aberopen\x01\0\0\0");
        let mut newer = bytes;
        newer[8] = 9;
        let problem = Greeting::decode(&newer).expect_err("newer");
        let text = problem.to_string();
        assert!(text.contains('9') && text.contains("upgrade"), "{text}");
        let mut other = bytes;
        other[0] = b'b';
        assert!(Greeting::decode(&other).is_err());
    }

    /// S1: a signature is good for one side, two keys and two nonces.
    #[test]
    fn what_is_signed_differs_in_everything() {
        let (a, b, c) = (greeting(1, 1), greeting(2, 2), greeting(2, 3));
        let all = [
            signed(Side::Caller, &a, &b),
            signed(Side::Called, &a, &b),
            signed(Side::Caller, &b, &a),
            signed(Side::Caller, &a, &c),
            signed(Side::Caller, &a, &greeting(3, 2)),
        ];
        for (at, one) in all.iter().enumerate() {
            assert!(all.iter().skip(at + 1).all(|other| other != one));
        }
        assert_ne!(exporter(&a, &b), exporter(&a, &c));
    }
}
