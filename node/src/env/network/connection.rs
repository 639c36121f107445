//! [adapter] A connection whose other end has proved its key, as HTTP/2 sees it.

use super::crowd::{Place, Standing};
use super::gate::Gate;
use super::handshake::Secured;
use aber_proto::PublicKey;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tonic::transport::server::Connected;

/// What carries the bytes.
pub(super) enum Wire {
    Clear(TcpStream),
    Tls(Box<tokio_rustls::TlsStream<TcpStream>>),
}

/// What a call on the connection knows of its caller.
#[derive(Clone)]
pub(crate) struct Caller {
    pub(crate) key: PublicKey,
    pub(super) exporter: [u8; 32],
    pub(crate) address: Option<SocketAddr>,
    /// Whether the connection has a place: the key was known when it opened, and there was room.
    /// Others are given little time.
    pub(crate) is_seated: bool,
    pub(super) gate: Arc<Gate>,
}

/// What keeps the connection's place while it is open.
pub(super) enum Seat {
    Member(#[expect(dead_code, reason = "held, not looked at")] Place),
    Stranger(#[expect(dead_code, reason = "held, not looked at")] Standing<Arc<Gate>>),
    /// This node called.
    Caller,
}

/// A connection, its gate and its place.
pub(crate) struct Connection {
    wire: Wire,
    caller: Caller,
    _seat: Seat,
}

impl Connection {
    pub(super) fn new(
        secured: Secured,
        address: Option<SocketAddr>,
        gate: Arc<Gate>,
        seat: Seat,
    ) -> Self {
        let caller = Caller {
            key: secured.key,
            exporter: secured.exporter,
            address,
            is_seated: matches!(seat, Seat::Member(_)),
            gate,
        };
        Self {
            wire: secured.wire,
            caller,
            _seat: seat,
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.caller.gate.over();
    }
}

impl Connected for Connection {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

fn shut() -> io::Error {
    io::Error::new(
        io::ErrorKind::ConnectionAborted,
        "this connection was closed here",
    )
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.caller.gate.stops_reader(cx.waker()) {
            return Poll::Ready(Err(shut()));
        }
        match &mut self.wire {
            Wire::Clear(stream) => Pin::new(stream).poll_read(cx, into),
            Wire::Tls(stream) => Pin::new(stream).poll_read(cx, into),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.caller.gate.stops_writer(cx.waker()) {
            return Poll::Ready(Err(shut()));
        }
        match &mut self.wire {
            Wire::Clear(stream) => Pin::new(stream).poll_write(cx, bytes),
            Wire::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.caller.gate.stops_writer(cx.waker()) {
            return Poll::Ready(Err(shut()));
        }
        match &mut self.wire {
            Wire::Clear(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
            Wire::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.wire {
            Wire::Clear(stream) => stream.is_write_vectored(),
            Wire::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.caller.gate.stops_writer(cx.waker()) {
            return Poll::Ready(Err(shut()));
        }
        match &mut self.wire {
            Wire::Clear(stream) => Pin::new(stream).poll_flush(cx),
            Wire::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.caller.gate.is_shut() {
            return Poll::Ready(Err(shut()));
        }
        match &mut self.wire {
            Wire::Clear(stream) => Pin::new(stream).poll_shutdown(cx),
            Wire::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
