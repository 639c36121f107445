//! [adapter] Whether content that was written leaves its node: a `put` that waits for others is not
//! stuck while it does.
//!
//! A change says nothing between *queued* and *committed*, which takes minutes for a large file on a slow
//! line. So while nothing else moves the node is asked how much is only there, and what it sent.

use super::progress::Movement;
use crate::reason::Problem;
use aber_proto::generated::v1;
use std::future::Future;
use std::time::Duration;

/// How often the node is asked while nothing moves.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(5);
/// What [`v1::UplinkPriority::name`] says of content that is sent to others for the first time.
const CONTENT: &str = "content";

/// What was seen last.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Outflow {
    /// Least bytes that were only there, and bytes of content sent; `None` before the first look.
    seen: Option<(u64, u64)>,
}

impl Outflow {
    /// Whether something left the node since the last look: less is only there than ever before, or it
    /// sent content while something was.
    pub(super) fn note(&mut self, status: &v1::GetStatusResponse) -> bool {
        let uplink = status.uplink.iter();
        let priorities = uplink.flat_map(|uplink| &uplink.priorities);
        let content = priorities.filter(|priority| priority.name == CONTENT);
        let sent: u64 = content.map(|priority| priority.sent_bytes).sum();
        let only_here = status.only_here_bytes;
        let (least, before) = self.seen.unwrap_or((only_here, sent));
        self.seen = Some((only_here.min(least), sent));
        only_here < least || (only_here > 0 && sent > before)
    }
}

/// Looks as long as it is not dropped. A look that fails says nothing.
pub(super) async fn watch<F>(
    movement: Movement,
    every: Duration,
    look: impl Fn() -> F,
) -> std::convert::Infallible
where
    F: Future<Output = Result<v1::GetStatusResponse, Problem>>,
{
    let mut outflow = Outflow::default();
    loop {
        tokio::time::sleep(every).await;
        // A look at the beginning is there to compare with.
        if outflow.seen.is_some() && movement.still() < every {
            continue;
        }
        if let Ok(status) = look().await
            && outflow.note(&status)
        {
            movement.moved();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::progress::Counters;
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    fn status(only_here: u64, sent: u64) -> v1::GetStatusResponse {
        let priority = |name: &str, sent_bytes| v1::UplinkPriority {
            name: name.to_owned(),
            sent_bytes,
            ..Default::default()
        };
        v1::GetStatusResponse {
            only_here_bytes: only_here,
            uplink: Some(v1::Uplink {
                priorities: vec![priority("log", 7 * sent), priority(CONTENT, sent)],
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    #[test]
    fn content_that_leaves_moves_and_the_rest_does_not() {
        let mut outflow = Outflow::default();
        assert!(!outflow.note(&status(100, 5)), "nothing to compare with");
        assert!(!outflow.note(&status(100, 5)));
        assert!(outflow.note(&status(90, 5)), "less is only there");
        assert!(!outflow.note(&status(95, 5)), "somebody wrote more");
        assert!(!outflow.note(&status(90, 5)), "it was so before");
        assert!(outflow.note(&status(90, 6)), "a large chunk is on its way");
        assert!(outflow.note(&status(0, 6)));
        assert!(
            !outflow.note(&status(0, 9)),
            "what others wrote is passed on"
        );
    }

    /// A write is not stuck while bytes leave its node, and is once they stay.
    #[tokio::test]
    async fn what_is_on_its_way_is_waited_for() {
        let left = AtomicU64::new(1_000_000);
        let movement = Counters::start();
        let every = Duration::from_millis(20);
        let look = async || {
            let next = left.load(Ordering::Relaxed).saturating_sub(1);
            left.store(next.max(999_960), Ordering::Relaxed);
            Ok(status(left.load(Ordering::Relaxed), 0))
        };
        let watching = watch(movement.clone(), every, look);
        let _cut_off = tokio::time::timeout(Duration::from_millis(400), watching).await;
        assert!(movement.still() < Duration::from_millis(200), "it moved");
        let look = async || Ok(status(5, 0));
        let watching = watch(movement.clone(), every, look);
        let _cut_off = tokio::time::timeout(Duration::from_millis(400), watching).await;
        assert!(movement.still() >= Duration::from_millis(350), "it stands");
    }
}
