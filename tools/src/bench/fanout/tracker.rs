//! Tells BitTorrent clients of each other (BEP 3 and 23), on a host of its own: one file at a time.

use crate::lab::{Host, Lab};
use anyhow::{Context as _, Result, anyhow};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, SocketAddrV4, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::Duration;

const PORT: u16 = 6969;
/// How often clients ask again, in seconds.
const INTERVAL_S: u32 = 5;
const LOOK: Duration = Duration::from_millis(10);
/// A client that says nothing for so long is not waited for.
const ASK_PATIENCE: Duration = Duration::from_secs(2);
/// More clients than a lab has hosts are none.
const CLIENTS_MAX: usize = 250;
const ASK_BYTES_MAX: usize = 4096;

/// A tracker that ends when it is dropped.
#[derive(Debug)]
pub(super) struct Tracker {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    url: String,
}

impl Tracker {
    /// Listens on a host. Only its thread is there.
    pub(super) fn start(lab: &Lab, host: Host) -> Result<Self> {
        let is_over = Arc::new(AtomicBool::new(false));
        let (flag, namespace) = (is_over.clone(), lab.namespace_file(host)?);
        let address = format!("{}:{PORT}", host.ipv4());
        let url = format!("http://{address}/announce");
        let (tell, told) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let listening = Lab::enter(&namespace).and_then(|()| {
                let listener = TcpListener::bind(&address)?;
                listener.set_nonblocking(true)?;
                Ok(listener)
            });
            match listening {
                Ok(listener) => {
                    let _ = tell.send(Ok(()));
                    serve(&listener, &flag);
                }
                Err(error) => {
                    let _ = tell.send(Err(error));
                }
            }
        });
        told.recv().map_err(|_| anyhow!("no tracker"))??;
        Ok(Self {
            is_over,
            thread: Some(thread),
            url,
        })
    }

    /// Where clients ask.
    pub(super) fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for Tracker {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(listener: &TcpListener, is_over: &AtomicBool) {
    let mut clients = Vec::new();
    while !is_over.load(Ordering::SeqCst) {
        match listener.accept() {
            // One that talks nonsense is no loss.
            Ok((stream, _)) => drop(answer(stream, &mut clients)),
            Err(_) => sleep(LOOK),
        }
    }
}

fn answer(mut stream: TcpStream, clients: &mut Vec<SocketAddrV4>) -> Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(ASK_PATIENCE))?;
    let IpAddr::V4(ip) = stream.peer_addr()?.ip() else {
        return Ok(());
    };
    let mut ask = String::new();
    let mut reader = BufReader::new(std::io::Read::take(&stream, ASK_BYTES_MAX as u64));
    reader.read_line(&mut ask)?;
    let own = SocketAddrV4::new(ip, port(&ask).context("no port")?);
    if !clients.contains(&own) && clients.len() < CLIENTS_MAX {
        clients.push(own);
    }
    let others = clients.iter().filter(|client| **client != own);
    let body = tell(others.copied());
    let head = format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes())?;
    stream.write_all(&body)?;
    Ok(())
}

/// Where a client listens, out of the first line of what it asks.
fn port(ask: &str) -> Option<u16> {
    let (_, query) = ask.split(' ').nth(1)?.split_once('?')?;
    let mut pairs = query.split('&');
    pairs.find_map(|pair| pair.strip_prefix("port=")?.parse().ok())
}

fn tell(clients: impl Iterator<Item = SocketAddrV4>) -> Vec<u8> {
    let peers: Vec<u8> = clients
        .flat_map(|client| {
            let [high, low] = [client.port() >> 8, client.port() & 0xFF];
            let port = [high, low].map(|byte| u8::try_from(byte).unwrap_or(0));
            client.ip().octets().into_iter().chain(port)
        })
        .collect();
    let mut body = format!("d8:intervali{INTERVAL_S}e5:peers{}:", peers.len()).into_bytes();
    body.extend(peers);
    body.push(b'e');
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_told_of_others_in_six_bytes_each() {
        let other = SocketAddrV4::new([10, 77, 0, 2].into(), 6881);
        let told = tell([other].into_iter());
        let mut wanted = b"d8:intervali5e5:peers6:".to_vec();
        wanted.extend([10, 77, 0, 2, 26, 225, b'e']);
        assert_eq!(told, wanted);
    }

    #[test]
    fn a_port_is_read_out_of_what_is_asked() {
        let ask = "GET /announce?info_hash=%00a&port=6881&left=0 HTTP/1.1\r\n";
        assert_eq!(port(ask), Some(6881));
        for bad in ["", "GET / HTTP/1.1", "GET /a?port=x HTTP/1.1"] {
            assert_eq!(port(bad), None, "{bad}");
        }
    }
}
