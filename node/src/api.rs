//! [adapter] The gRPC API on a Unix socket in the data directory, and over TCP where that is on
//! ([`remote`]).
//!
//! The socket is `api.sock`, mode 0600, bound under another name and renamed, so that it is never
//! there with a wider mode and a stale one is replaced in one step. A caller must be the daemon's
//! own user or root, by the peer's credentials. Unary calls are cut at [`UNARY_DEADLINE`], content
//! streams after [`IDLE_DEADLINE`] without a byte, streams that follow something after
//! [`FOLLOW_DEADLINE`]. Each file below is one service: decode, call [`Service`], encode.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the API listens on a real socket and has real deadlines"
)]

mod address;
mod cluster;
mod file;
mod history;
mod remote;
mod right;
mod upkeep;
mod watch;

pub use address::ApiAddress;
#[cfg(test)]
pub(crate) use remote::Gate;
pub use remote::{Doorman, serve as serve_remote};
pub use right::{Guest, Right};

use crate::reason::{Problem, Reason};
use crate::service::{Answer, Answers, Service, WAIT_MOST};
use aber_proto::generated::v1;
use rustix::fs::{Mode, OFlags};
use std::future::Future;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio_stream::Stream;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::UdsConnectInfo;
use tonic::{Request, Response, Status};

/// The socket's name in the data directory.
pub const SOCKET: &str = "api.sock";
/// A unary call is cut after this.
pub const UNARY_DEADLINE: Duration = Duration::from_secs(60);
/// A content stream is cut after this long without a byte.
pub const IDLE_DEADLINE: Duration = Duration::from_secs(60);
/// A stream that follows something is cut after this; it is resumed by cursor or index.
pub const FOLLOW_DEADLINE: Duration = Duration::from_secs(24 * 3600);
/// Calls of one connection that are under way at once.
const STREAMS_PER_CONNECTION: u32 = 256;
/// Longest address of a Unix socket, less its final NUL.
const ADDRESS_BYTES: usize = 107;

type AnswerStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// A socket that is bound and not served yet: callers wait in its queue.
#[derive(Debug)]
pub struct Listener {
    listener: UnixListener,
    path: PathBuf,
}

/// A path of a socket that fits in an address, however deep its directory is. Keeps the directory
/// open as long as it is used.
pub(crate) struct SocketAddress {
    path: PathBuf,
    _directory: Option<OwnedFd>,
}

impl SocketAddress {
    pub(crate) fn new(socket: &Path) -> std::io::Result<Self> {
        let short = socket.as_os_str().len() <= ADDRESS_BYTES;
        let (Some(parent), Some(name), false) = (socket.parent(), socket.file_name(), short) else {
            return Ok(Self {
                path: socket.to_owned(),
                _directory: None,
            });
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(parent, flags, Mode::empty())?;
        let path = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name);
        Ok(Self {
            path,
            _directory: Some(directory),
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Listener {
    /// Binds the socket of a data directory. A stale one is replaced.
    ///
    /// # Errors
    /// Somebody answers at it already, or the directory cannot be written.
    pub async fn bind(data: &Path) -> Result<Self, Problem> {
        let path = data.join(SOCKET);
        let unusable = |error: std::io::Error| {
            Problem::new(Reason::DataDirUnusable)
                .with("dir", data.display())
                .with("detail", format!("its socket cannot be made: {error}"))
        };
        let address = SocketAddress::new(&path).map_err(unusable)?;
        if UnixStream::connect(address.path()).await.is_ok() {
            return Err(Problem::new(Reason::DataDirInUse).with("dir", data.display()));
        }
        let fresh = data.join("api.sock.new");
        let _ = rustix::fs::unlink(&fresh);
        let bound = SocketAddress::new(&fresh).map_err(unusable)?;
        let listener = UnixListener::bind(bound.path()).map_err(unusable)?;
        let mode = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(&fresh, mode).map_err(unusable)?;
        rustix::fs::rename(&fresh, &path).map_err(|errno| unusable(errno.into()))?;
        Ok(Self { listener, path })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Answers calls until `stopped`, then lets those under way end, and removes the socket.
    /// Whoever stops a node ends its streams, else this waits for them.
    ///
    /// # Errors
    /// The transport failed.
    pub async fn serve<S: Service>(
        self,
        service: S,
        stopped: impl Future<Output = ()> + Send,
    ) -> Result<(), Problem> {
        let adapter = Adapter { service };
        let own = rustix::process::geteuid().as_raw();
        let gate = tonic::service::InterceptorLayer::new(move |request| admit(own, request));
        let served = Server::builder()
            .max_concurrent_streams(STREAMS_PER_CONNECTION)
            .layer(gate)
            .add_routes(routes(adapter))
            .serve_with_incoming_shutdown(UnixListenerStream::new(self.listener), stopped)
            .await;
        let _ = rustix::fs::unlink(&self.path);
        served.map_err(Problem::internal)
    }
}

/// All services of a node.
fn routes<S: Service>(adapter: Adapter<S>) -> Routes {
    Routes::new(file::server(adapter.clone()))
        .add_service(history::server(adapter.clone()))
        .add_service(watch::server(adapter.clone()))
        .add_service(cluster::server(adapter.clone()))
        .add_service(upkeep::server(adapter))
}

/// Lets the daemon's own user and root in.
fn admit(own: u32, request: Request<()>) -> Result<Request<()>, Status> {
    let peer = request.extensions().get::<UdsConnectInfo>();
    let caller = peer.and_then(|info| info.peer_cred).map(|cred| cred.uid());
    if caller == Some(own) || caller == Some(0) {
        return Ok(request);
    }
    let caller = caller.map_or_else(|| "unknown".to_owned(), |uid| uid.to_string());
    Err(Problem::new(Reason::NotAllowed)
        .with("user", own)
        .with("caller", caller)
        .into())
}

/// The node behind the generated server traits.
#[derive(Clone, Debug)]
struct Adapter<S> {
    service: S,
}

/// One unary call, with its deadline.
async fn unary<T>(call: impl Future<Output = Answer<T>>) -> Result<Response<T>, Status> {
    match tokio::time::timeout(UNARY_DEADLINE, call).await {
        Ok(Ok(message)) => Ok(Response::new(message)),
        Ok(Err(problem)) => Err(problem.into()),
        Err(_) => Err(timed_out(UNARY_DEADLINE).into()),
    }
}

/// When a stream is cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Cut {
    /// After [`IDLE_DEADLINE`] without a message.
    Idle,
    /// After [`FOLLOW_DEADLINE`] in all.
    Follow,
}

/// One call with a streamed answer.
async fn streamed<T: Send + 'static>(
    cut: Cut,
    call: impl Future<Output = Answer<Answers<T>>>,
) -> Result<Response<AnswerStream<T>>, Status> {
    let answers = match tokio::time::timeout(UNARY_DEADLINE, call).await {
        Ok(answers) => answers?,
        Err(_) => return Err(timed_out(UNARY_DEADLINE).into()),
    };
    let end = tokio::time::Instant::now() + FOLLOW_DEADLINE;
    let messages = futures::stream::unfold(Some(answers), move |answers| async move {
        let mut answers = answers?;
        let deadline = match cut {
            Cut::Idle => tokio::time::Instant::now() + IDLE_DEADLINE,
            Cut::Follow => end,
        };
        match tokio::time::timeout_at(deadline, answers.recv()).await {
            Ok(Some(Ok(message))) => Some((Ok(message), Some(answers))),
            Ok(Some(Err(problem))) => Some((Err(problem.into()), None)),
            Ok(None) => None,
            Err(_) if cut == Cut::Follow => None,
            Err(_) => Some((Err(timed_out(IDLE_DEADLINE).into()), None)),
        }
    });
    Ok(Response::new(Box::pin(messages)))
}

fn timed_out(after: Duration) -> Problem {
    Problem::new(Reason::TimedOut).with("seconds", after.as_secs())
}

/// Sees to it that a write's options are there, that it answers before the call's deadline, and
/// that it names who asks where that is another member.
fn settle_options(options: &mut Option<v1::WriteOptions>, asker: Option<String>) {
    let options = options.get_or_insert_default();
    if let Some(asker) = asker {
        options.via = asker;
    }
    let asked = options
        .wait_at_most
        .and_then(|wait| Duration::try_from(wait).ok())
        .unwrap_or(WAIT_MOST);
    options.wait_at_most = prost_types::Duration::try_from(asked.min(WAIT_MOST)).ok();
}

/// Sets the message limits of a generated server.
macro_rules! limited {
    ($server:expr) => {
        $server
            .max_decoding_message_size(aber_proto::limit::MESSAGE_BYTES)
            .max_encoding_message_size(aber_proto::limit::MESSAGE_BYTES)
    };
}
use limited;
