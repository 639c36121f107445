//! What a hostile peer sends by hand: connections that are proved, and HTTP/2 byte by byte.

use super::*;
use crate::env::network::connection::Wire;
use crate::env::network::handshake::Security;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const CONTINUATION: u8 = 9;
pub(super) const END_HEADERS: u8 = 4;
/// Error codes of RFC 9113.
pub(super) const FRAME_SIZE_ERROR: u32 = 6;
pub(super) const REFUSED_STREAM: u32 = 7;
pub(super) const ENHANCE_YOUR_CALM: u32 = 11;

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short");
    head(length, kind, flags, stream)
        .into_iter()
        .chain(payload.iter().copied())
        .collect()
}

#[expect(clippy::big_endian_bytes, reason = "HTTP/2 is big-endian")]
pub(super) fn head(length: u32, kind: u8, flags: u8, stream: u32) -> Vec<u8> {
    let length = length.to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes
}

/// The headers of a call, by HPACK without a table.
pub(super) fn call(path: &str) -> Vec<u8> {
    let mut bytes = vec![0x83, 0x86, 0x04];
    let mut text = |text: &str| {
        bytes.push(u8::try_from(text.len()).expect("short"));
        bytes.extend(text.as_bytes());
    };
    text(path);
    bytes.push(0x01);
    bytes.push(4);
    bytes.extend(b"aber");
    bytes.extend([0x0f, 0x10, 16]);
    bytes.extend(b"application/grpc");
    bytes
}

pub(super) const JOIN: &str = "/aber.joinservice.JoinService/Join";
pub(super) const OPEN: &str = "/aber.linkservice.LinkService/Open";

/// A connection that proved `seed`'s key to whoever listens, and speaks no HTTP/2 yet.
pub(super) async fn proved(to: &SystemNetwork, seed: u8, server: u8) -> Connection {
    let address = to.local_addr().expect("listening").to_string();
    let security = Security::new(key(seed), false);
    let wanted = Wanted::Key(public(server));
    let secured = security.call(&address, wanted).await.expect("handshake");
    Connection::new(secured, None, Gate::new(), Seat::Caller)
}

/// The same, with HTTP/2 begun.
pub(super) async fn http2(to: &SystemNetwork, seed: u8, server: u8) -> Connection {
    begin(proved(to, seed, server).await).await
}

/// Begins HTTP/2.
pub(super) async fn begin(mut connection: Connection) -> Connection {
    say(&mut connection, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    say(&mut connection, &frame(SETTINGS, 0, 0, &[])).await;
    connection
}

/// Writes; that the other end hung up meanwhile is no matter.
pub(super) async fn say(connection: &mut Connection, bytes: &[u8]) {
    let _ = connection.write_all(bytes).await;
    let _ = connection.flush().await;
}

/// Frames as they come, until one is of `kind`, or the other end hangs up; acknowledges nothing.
#[expect(clippy::big_endian_bytes, reason = "HTTP/2 is big-endian")]
pub(super) async fn next_of(connection: &mut Connection, kind: u8) -> Option<(u32, Vec<u8>)> {
    let reading = async {
        loop {
            let mut head = [0; 9];
            connection.read_exact(&mut head).await.ok()?;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            let mut payload = vec![0; usize::try_from(length).expect("24 bits")];
            connection.read_exact(&mut payload).await.ok()?;
            if head[3] == kind {
                return Some((stream, payload));
            }
        }
    };
    soon(reading).await
}

/// The error code at the end of a `GOAWAY` or `RST_STREAM`.
#[expect(clippy::big_endian_bytes, reason = "HTTP/2 is big-endian")]
pub(super) fn code_at(payload: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(payload[at..at + 4].try_into().expect("4 bytes"))
}

/// The code that a connection is ended with.
pub(super) async fn goaway(connection: &mut Connection) -> Option<u32> {
    let (_, payload) = next_of(connection, GOAWAY).await?;
    Some(code_at(&payload, 4))
}

/// A bare connection.
pub(super) async fn tcp(to: &SystemNetwork) -> TcpStream {
    let address = to.local_addr().expect("listening");
    TcpStream::connect(address).await.expect("connect")
}

/// Everything until the other end hangs up.
pub(super) async fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = soon(stream.read_to_end(&mut bytes)).await;
    bytes
}

/// The stream of TLS under a connection.
pub(super) fn is_tls(secured: &Secured) -> bool {
    matches!(secured.wire, Wire::Tls(_))
}

/// Waits until the other end hangs up; sooner than a keep-alive would notice anything.
pub(super) async fn hung_up(connection: &mut Connection) {
    let reading = async { while let Some(_frame) = next_of(connection, PING).await {} };
    let ended = tokio::time::timeout(Duration::from_secs(5), reading).await;
    ended.expect("it was not hung up on");
}

/// Says that it has a raw key, and shows none.
#[derive(Debug)]
pub(super) struct NoKey;

impl rustls::client::ResolvesClientCert for NoKey {
    fn resolve(
        &self,
        _issuers: &[&[u8]],
        _schemes: &[rustls::SignatureScheme],
    ) -> Option<Arc<rustls::sign::CertifiedKey>> {
        None
    }

    fn only_raw_public_keys(&self) -> bool {
        true
    }

    fn has_certs(&self) -> bool {
        true
    }
}
