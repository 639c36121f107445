//! [adapter] Connections others open to this node, at most so many at once.

use futures::Stream;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::transport::server::{Connected, TcpConnectInfo};

/// Without free file handles `accept` fails at once, and again.
const PAUSE: Duration = Duration::from_millis(100);

/// A connection and its place.
pub(super) struct Connection {
    stream: TcpStream,
    _place: OwnedSemaphorePermit,
}

/// The connections to `listener`. Those beyond `count` wait in the system's own queue.
pub(super) fn connections(
    listener: TcpListener,
    count: usize,
) -> impl Stream<Item = io::Result<Connection>> {
    let places = Arc::new(Semaphore::new(count));
    futures::stream::unfold((listener, places), async |(listener, places)| {
        let place = Arc::clone(&places).acquire_owned().await.ok()?;
        let connection = accept(&listener, place).await;
        Some((Ok(connection), (listener, places)))
    })
}

async fn accept(listener: &TcpListener, place: OwnedSemaphorePermit) -> Connection {
    loop {
        let accepted = listener.accept().await;
        let ready = accepted.and_then(|(stream, _)| stream.set_nodelay(true).map(|()| stream));
        match ready {
            Ok(stream) => {
                return Connection {
                    stream,
                    _place: place,
                };
            }
            Err(error) => {
                tracing::info!(%error, "a connection was not accepted");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::StreamExt;

    /// B2: connections are bounded; a place that becomes free is taken again.
    #[tokio::test]
    async fn no_more_connections_than_places() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        let mut incoming = std::pin::pin!(connections(listener, 2));
        let mut dialled = Vec::new();
        for _ in 0..3 {
            dialled.push(TcpStream::connect(address).await.expect("connect"));
        }
        let first = incoming.next().await.expect("first").expect("first");
        let _second = incoming.next().await.expect("second").expect("second");
        let short = Duration::from_millis(50);
        assert!(tokio::time::timeout(short, incoming.next()).await.is_err());
        drop(first);
        incoming.next().await.expect("third").expect("third");
    }
}
