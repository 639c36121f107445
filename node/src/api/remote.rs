//! [adapter] The API over TCP: the same services, for members of the cluster.
//!
//! Who calls has proved a key before the first byte of HTTP/2 ([`ApiPort`]). Each call is then
//! judged by itself, by the role that the key has at that moment, before anything of it is read. A
//! key that nobody knows hears that, and nothing else. Bounds are those of links: connections,
//! calls on each, resets, headers, and a time in which each call must be answered.

use super::right::{self, Guest, Right, call_of};
use super::{Adapter, UNARY_DEADLINE, routes, timed_out};
use crate::env::network::{ApiPort, Caller, bounded_server, short};
use crate::reason::{Problem, Reason};
use crate::service::Service;
use aber_proto::PublicKey;
use futures::future::BoxFuture;
use std::future::Future;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tonic::body::Body;
use tonic::codegen::http;
use tonic::{Request, Status};

/// A call is cut if it is not answered by then, its request not sent for example; those that are
/// answered by a stream have begun by then, and an upload has its own bounds.
const ANSWER_TIME: Duration = UNARY_DEADLINE.saturating_add(Duration::from_secs(2));

/// Tells whose key it is, and what it may ask for; `None`: nobody's who may ask for anything.
pub type Doorman = Arc<dyn Fn(&PublicKey) -> Option<Guest> + Send + Sync>;

/// Who asks for a change, if it is not the node itself: shown in history.
#[derive(Clone, Debug)]
pub(super) struct Asker(String);

/// Answers calls at a port until `stopped`, then lets those under way end.
///
/// # Errors
/// The transport failed.
pub async fn serve<S: Service>(
    port: ApiPort,
    service: S,
    doorman: Doorman,
    stopped: impl Future<Output = ()> + Send,
) -> Result<(), Problem> {
    let gate = tower::layer::layer_fn(move |inner| Gate::new(inner, Arc::clone(&doorman)));
    let served = bounded_server()
        .layer(gate)
        .add_routes(routes(Adapter { service }))
        .serve_with_incoming_shutdown(Box::pin(port.connections()), stopped)
        .await;
    served.map_err(Problem::internal)
}

/// Who asked for a change over TCP, instead of what the caller says of itself.
pub(super) fn asker<T>(request: &Request<T>) -> Option<String> {
    request
        .extensions()
        .get::<Asker>()
        .map(|asker| asker.0.clone())
}

/// Judges each call.
#[derive(Clone)]
pub(crate) struct Gate<S> {
    inner: S,
    doorman: Doorman,
}

impl<S> Gate<S> {
    pub(crate) fn new(inner: S, doorman: Doorman) -> Self {
        Self { inner, doorman }
    }
}

impl<S> tower::Service<http::Request<Body>> for Gate<S>
where
    S: tower::Service<http::Request<Body>, Response = http::Response<Body>>,
    S::Future: Send + 'static,
    S::Error: 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let call = call_of(request.uri().path());
        let is_upload = call == right::UPLOAD;
        let caller = request.extensions().get::<Caller>();
        let guest = match judge(call, caller, &self.doorman) {
            Ok(guest) => guest,
            Err(problem) => {
                let address = caller.and_then(|caller| caller.address);
                tracing::debug!(?address, %problem, "a call was refused");
                return Box::pin(async { Ok(Status::from(problem).into_http()) });
            }
        };
        if guest.right != Right::Own {
            request
                .extensions_mut()
                .insert(Asker(format!("member {}", guest.name)));
        }
        let answer = self.inner.call(request);
        Box::pin(async move {
            if is_upload {
                return answer.await;
            }
            let late = |_| Ok(Status::from(timed_out(ANSWER_TIME)).into_http());
            tokio::time::timeout(ANSWER_TIME, answer)
                .await
                .unwrap_or_else(late)
        })
    }
}

/// Who may make a call, or why nobody may.
fn judge(call: &str, caller: Option<&Caller>, doorman: &Doorman) -> Result<Guest, Problem> {
    let caller = caller.ok_or_else(|| Problem::internal("a call on no connection"))?;
    let Some(guest) = doorman(&caller.key) else {
        return Err(Problem::new(Reason::KeyNotAllowed).with("key", short(&caller.key)));
    };
    if !caller.is_seated {
        let why = "it has as many connections as it takes, from this key or in all";
        return Err(Problem::new(Reason::Overloaded).with("detail", why));
    }
    let needed = right::needed(call);
    if guest.right >= needed {
        return Ok(guest);
    }
    let refused = Problem::new(Reason::NotAllowed);
    let role = guest.right.role_text().unwrap_or_default();
    Err(match needed.role_text() {
        Some(needed) => refused
            .with("member", &guest.name)
            .with("role", role)
            .with("needed", needed),
        None => refused.with("call", call).with("who", needed.who()),
    })
}
