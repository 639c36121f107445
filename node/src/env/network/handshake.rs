//! [adapter] From a TCP connection to one whose other end has proved its key.
//!
//! By TLS, or in the clear where both sides were told `--plaintext`. Who speaks the other way is
//! recognised by the first byte and told, so that it can say what is wrong. All of it is bounded
//! in time and bytes.

use super::connection::Wire;
use super::plaintext::{self, MAGIC, MAGIC_OF_TLS};
use super::tls::{self, Protocol, Tls};
use aber_proto::{PublicKey, SecretKey};
use rustls::AlertDescription;
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// For a whole handshake, either side.
pub(super) const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
const CONNECT_TIME: Duration = Duration::from_secs(5);
/// Of one who is told why and left, this much is still read, and for this long: a connection
/// that is closed with bytes unread would take the answer away.
const FAREWELL_BYTES: u64 = 16 * 1024;
const FAREWELL_TIME: Duration = Duration::from_secs(1);
/// Bytes that the system takes of a connection before they are on their way: what is in there no
/// vote can pass.
#[cfg(any(target_os = "linux", target_os = "android"))]
const NOT_SENT_BYTES: u32 = 16 * 1024;
/// The first byte of TLS: a handshake record.
const TLS_FIRST: u8 = 0x16;
/// A fatal alert of TLS, `insufficient_security`, which TLS 1.3 as we have it never sends.
const ALERT_OF_PLAINTEXT: [u8; 7] = [0x15, 0x03, 0x03, 0x00, 0x02, 0x02, 71];

/// What a pin of a key is derived with.
const PIN_CONTEXT: &str = "aber 2026 key pin v1";

/// The pin of a key, as tickets carry it: BLAKE3 with a context of its own.
#[must_use]
pub fn key_pin(key: &PublicKey) -> [u8; 32] {
    blake3::derive_key(PIN_CONTEXT, &key.0)
}

/// Whose key a caller wants to find.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wanted {
    Key(PublicKey),
    /// The key with this [`key_pin`].
    Pin([u8; 32]),
}

impl Wanted {
    pub(super) fn fits(&self, key: &PublicKey) -> bool {
        match self {
            Self::Key(wanted) => wanted == key,
            Self::Pin(pin) => key_pin(key) == *pin,
        }
    }
}

/// Why a connection is none.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeProblem {
    #[error("{0}")]
    Away(String),
    #[error(
        "another key answers there ({}): another machine has that address, or somebody sits \
         in between",
        short(key)
    )]
    OtherKey { key: PublicKey },
    #[error(
        "it speaks TLS and this node was started with --plaintext; both sides must do the same"
    )]
    TheyUseTls,
    #[error(
        "it was started with --plaintext and this node speaks TLS; both sides must do the same"
    )]
    TheyUsePlaintext,
    #[error(
        "it speaks version {theirs} of plaintext links, this node {mine}; {} must upgrade",
        if theirs > mine { "this node" } else { "it" }
    )]
    Version { mine: u32, theirs: u32 },
    #[error("it speaks TLS and something else than this at that port")]
    OtherProtocol,
    #[error("what answers there does not speak TLS")]
    NotTls,
    #[error("it does not finish the handshake in time")]
    Slow,
    #[error("no handshake: {0}")]
    Broken(String),
}

impl HandshakeProblem {
    /// Whether the other end is there and will not talk to us as we are.
    pub(super) fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::TheyUseTls | Self::TheyUsePlaintext | Self::Version { .. }
        )
    }
}

impl From<io::Error> for HandshakeProblem {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            return Self::Broken("it hung up in the middle of the handshake".to_owned());
        }
        Self::Broken(error.to_string())
    }
}

/// The start of a key, for people.
pub(crate) fn short(key: &PublicKey) -> String {
    let start = key.0.get(..4).unwrap_or_default();
    data_encoding::HEXLOWER.encode(start)
}

/// A connection whose other end has proved its key.
pub(super) struct Secured {
    pub(super) wire: Wire,
    pub(super) key: PublicKey,
    /// 32 bytes that only the two ends of this one connection have.
    pub(super) exporter: [u8; 32],
}

/// How this node proves its key.
pub(super) struct Security {
    key: Arc<SecretKey>,
    tls: Tls,
    is_plaintext: bool,
}

impl Security {
    pub(super) fn new(key: Arc<SecretKey>, is_plaintext: bool) -> Self {
        let tls = Tls::new(Arc::clone(&key), Protocol::Links);
        Self {
            key,
            tls,
            is_plaintext,
        }
    }

    /// For the API: TLS whatever links do.
    pub(super) fn for_api(key: Arc<SecretKey>) -> Self {
        let tls = Tls::new(Arc::clone(&key), Protocol::Api);
        Self {
            key,
            tls,
            is_plaintext: false,
        }
    }

    /// Dials an address and makes sure who answers.
    pub(super) async fn call(
        &self,
        address: &str,
        wanted: Wanted,
    ) -> Result<Secured, HandshakeProblem> {
        let connecting = tokio::time::timeout(CONNECT_TIME, TcpStream::connect(address)).await;
        let stream = connecting
            .map_err(|_| HandshakeProblem::Away("nobody answers".to_owned()))?
            .map_err(|error| HandshakeProblem::Away(error.to_string()))?;
        tune(&stream)?;
        let shaking = self.call_on(stream, wanted);
        let outcome = tokio::time::timeout(HANDSHAKE_TIME, shaking).await;
        outcome.unwrap_or(Err(HandshakeProblem::Slow))
    }

    async fn call_on(
        &self,
        mut stream: TcpStream,
        wanted: Wanted,
    ) -> Result<Secured, HandshakeProblem> {
        if self.is_plaintext {
            let (key, exporter) = plaintext::call(&mut stream, &self.key, wanted).await?;
            let wire = Wire::Clear(stream);
            return Ok(Secured {
                wire,
                key,
                exporter,
            });
        }
        let seen = Arc::new(OnceLock::new());
        let config = self.tls.client(wanted, Arc::clone(&seen));
        let connector = TlsConnector::from(Arc::new(config));
        match connector.connect(tls::nobody(), stream).await {
            Ok(stream) => secured(stream.into()),
            Err(error) => match seen.get() {
                Some(key) if !wanted.fits(key) => Err(HandshakeProblem::OtherKey { key: *key }),
                _ => Err(broken(error)),
            },
        }
    }

    /// Takes a call; the caller's key is whatever it proves.
    pub(super) async fn answer(&self, stream: TcpStream) -> Result<Secured, HandshakeProblem> {
        let outcome = tokio::time::timeout(HANDSHAKE_TIME, self.answer_on(stream)).await;
        outcome.unwrap_or(Err(HandshakeProblem::Slow))
    }

    async fn answer_on(&self, mut stream: TcpStream) -> Result<Secured, HandshakeProblem> {
        tune(&stream)?;
        let mut first = [0];
        if stream.peek(&mut first).await? == 0 {
            return Err(HandshakeProblem::Broken("it hung up".to_owned()));
        }
        let [first] = first;
        if self.is_plaintext {
            if first == TLS_FIRST {
                say_farewell(stream, &ALERT_OF_PLAINTEXT).await?;
                return Err(HandshakeProblem::TheyUseTls);
            }
            let (key, exporter) = plaintext::answer(&mut stream, &self.key).await?;
            let wire = Wire::Clear(stream);
            return Ok(Secured {
                wire,
                key,
                exporter,
            });
        }
        if MAGIC.first() == Some(&first) {
            say_farewell(stream, MAGIC_OF_TLS).await?;
            return Err(HandshakeProblem::TheyUsePlaintext);
        }
        let acceptor = TlsAcceptor::from(self.tls.server());
        let stream = acceptor.accept(stream).await.map_err(broken)?;
        secured(stream.into())
    }
}

/// Nothing that is ready waits for more to come, and little stands in the system's queue.
fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if let Err(error) = socket2::SockRef::from(stream).set_tcp_notsent_lowat(NOT_SENT_BYTES) {
        // Links are later then, and as good.
        tracing::debug!(%error, "the system does not bound what is not sent yet");
    }
    Ok(())
}

fn secured(stream: tokio_rustls::TlsStream<TcpStream>) -> Result<Secured, HandshakeProblem> {
    let outcome = tls::outcome(&stream);
    let (key, exporter) = outcome.map_err(|error| HandshakeProblem::Broken(error.to_string()))?;
    let wire = Wire::Tls(Box::new(stream));
    Ok(Secured {
        wire,
        key,
        exporter,
    })
}

/// What TLS says went wrong.
fn broken(error: io::Error) -> HandshakeProblem {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
    match cause {
        Some(rustls::Error::AlertReceived(AlertDescription::InsufficientSecurity)) => {
            HandshakeProblem::TheyUsePlaintext
        }
        Some(rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol)) => {
            HandshakeProblem::OtherProtocol
        }
        Some(rustls::Error::InvalidMessage(_)) => HandshakeProblem::NotTls,
        Some(cause) => HandshakeProblem::Broken(cause.to_string()),
        None => error.into(),
    }
}

/// Says why in a few bytes, and waits a moment for the other end to hear them.
async fn say_farewell(mut stream: TcpStream, words: &[u8]) -> io::Result<()> {
    stream.write_all(words).await?;
    stream.shutdown().await?;
    let mut rest = stream.take(FAREWELL_BYTES);
    let mut sink = tokio::io::sink();
    let reading = tokio::io::copy(&mut rest, &mut sink);
    match tokio::time::timeout(FAREWELL_TIME, reading).await {
        Ok(read) => read.map(|_| ()),
        Err(_) => Ok(()),
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn little_stands_in_the_queue_of_a_socket() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let stream = TcpStream::connect(address).await.expect("a connection");
        tune(&stream).expect("a socket");
        let system = socket2::SockRef::from(&stream).tcp_notsent_lowat();
        assert_eq!(system.expect("a socket"), NOT_SENT_BYTES);
        assert!(stream.nodelay().expect("a socket"));
    }
}
