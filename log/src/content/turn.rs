//! [driver] One node after the other is asked, and the next one too when one says nothing for long.

use crate::env::Runtime;
use aber_proto::NodeId;
use futures::stream::{FuturesUnordered, StreamExt};
use std::future::Future;
use std::time::Duration;

/// Asks `peers` in their order until `is_done`, or all have answered. The next is asked when one has
/// answered, or nothing was heard for `patience`; who was asked before may answer still.
///
/// # Errors
/// Those of `is_done`.
pub(super) async fn in_turn<R, F, E>(
    runtime: &R,
    patience: Duration,
    peers: Vec<NodeId>,
    is_done: impl Fn() -> Result<bool, E>,
    ask: impl Fn(NodeId) -> F,
) -> Result<(), E>
where
    R: Runtime,
    F: Future<Output = ()> + Send,
{
    let mut peers = peers.into_iter();
    let mut asked = FuturesUnordered::new();
    while !is_done()? {
        match peers.next() {
            Some(peer) => asked.push(ask(peer)),
            None if asked.is_empty() => break,
            None => {}
        }
        // It answered, or is late: either way another look, and the next one's turn.
        let _late = runtime.timeout(patience, asked.next()).await.is_none();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::testing::run;
    use std::convert::Infallible;
    use std::sync::Mutex;

    /// A node that is cut off is not waited for as long as its link takes to notice.
    #[test]
    fn who_says_nothing_is_not_waited_for_alone() {
        run(|env| async move {
            let runtime = env.runtime.clone();
            let start = runtime.now();
            let asked = Mutex::new(Vec::new());
            let done = Mutex::new(false);
            let (to, is_there, clock) = (&asked, &done, &runtime);
            let ask = move |peer: NodeId| async move {
                to.lock().unwrap().push((peer.0, clock.now() - start));
                match peer.0 {
                    // Cut off, lacks it, has it.
                    1 => clock.sleep(Duration::from_secs(60)).await,
                    2 => {}
                    _ => *is_there.lock().unwrap() = true,
                }
            };
            let is_done = || Ok::<_, Infallible>(*done.lock().unwrap());
            let patience = Duration::from_secs(5);
            let peers = vec![NodeId(1), NodeId(2), NodeId(3), NodeId(4)];
            let Ok(()) = in_turn(&runtime, patience, peers, is_done, ask).await;
            let late = |seconds| Duration::from_secs(seconds);
            let wanted = [(1, late(0)), (2, late(5)), (3, late(5))];
            assert_eq!(*asked.lock().unwrap(), wanted);
            let never = || Ok::<_, Infallible>(false);
            let Ok(()) = in_turn(&runtime, patience, vec![NodeId(2)], never, ask).await;
        });
    }
}
