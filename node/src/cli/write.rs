//! [adapter] A write of the command line, followed to the level asked for.
//!
//! Each change has a request id of its own and is sent again under it while the node cannot be
//! reached: an unanswered write is unknown, not failed (promise D3). Once it is queued it is
//! followed; when nothing has moved for [`STALL`], the level reached is the answer, and no error
//! (promise A2).

use super::progress::Movement;
use crate::client::Client;
use crate::reason::{Problem, Reason};
use aber_proto::generated::v1::{self, Acknowledgement};
use aber_proto::{PlanId, RequestId};
use ring::rand::{SecureRandom, SystemRandom};
use std::future::Future;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// When nothing moved for so long, a command says what it waits for and ends.
pub(crate) const STALL: Duration = Duration::from_secs(30);
/// What a node is asked to wait within one call; then the change is followed instead.
const WAIT_SECONDS: i64 = 10;
/// First and longest pause before a call is repeated.
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_MOST: Duration = Duration::from_secs(2);
/// How often a change that is followed is checked for standing still.
const LOOK: Duration = Duration::from_secs(1);

/// Sends changes and follows them.
#[derive(Clone, Debug)]
pub(crate) struct Writer {
    /// The node.
    pub(crate) client: Client,
    /// The level asked for.
    pub(crate) level: Acknowledgement,
    /// How long nothing may move.
    pub(crate) stall: Duration,
    /// Shows and tells that something moves.
    pub(crate) movement: Movement,
    /// A comment for the history.
    pub(crate) comment: String,
    /// Names all changes of this command as one action, which `undo` takes back whole.
    pub(crate) plan: PlanId,
}

/// What became of a change.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Written {
    /// The node's last word.
    pub(crate) result: v1::WriteResult,
    /// Whether the level asked for is reached.
    pub(crate) reached: bool,
}

/// A new request id: 16 random bytes.
pub(crate) fn new_request_id() -> Result<RequestId, Problem> {
    let mut bytes = [0; 16];
    let filled = SystemRandom::new().fill(&mut bytes);
    filled.map_err(|_| Problem::internal("the system gives no random numbers"))?;
    Ok(RequestId(bytes))
}

/// A new plan id: 8 random bytes.
pub(crate) fn new_plan_id() -> Result<PlanId, Problem> {
    let RequestId(bytes) = new_request_id()?;
    let [first @ .., _, _, _, _, _, _, _, _] = bytes;
    Ok(PlanId(first))
}

impl Writer {
    /// Appends one change, and follows it.
    pub(crate) async fn append(&self, events: Vec<v1::Event>) -> Result<Written, Problem> {
        let id = new_request_id()?;
        loop {
            let request = v1::AppendChangeRequest {
                events: events.clone(),
                options: Some(self.options(id)),
            };
            let response = self
                .persist(|| self.client.append_change(request.clone()))
                .await?;
            let result = response.result.unwrap_or_default();
            if let Some(written) = self.follow(id, result).await? {
                return Ok(written);
            }
        }
    }

    /// The options of a write with this id.
    pub(crate) fn options(&self, id: RequestId) -> v1::WriteOptions {
        v1::WriteOptions {
            request_id: id.to_string(),
            acknowledgement: self.level.into(),
            wait_at_most: Some(prost_types::Duration {
                seconds: WAIT_SECONDS,
                nanos: 0,
            }),
            min_copies: 0,
            comment: self.comment.clone(),
            via: "cli".to_owned(),
            plan_id: self.plan.to_string(),
        }
    }

    /// Repeats a call that can work later, until nothing has moved for too long.
    pub(crate) async fn persist<T, F>(&self, call: impl Fn() -> F) -> Result<T, Problem>
    where
        F: Future<Output = Result<T, Problem>>,
    {
        let mut pause = PAUSE;
        loop {
            match call().await {
                Ok(answer) => {
                    self.movement.moved();
                    return Ok(answer);
                }
                Err(problem) if problem.retry() && !self.is_stalled() => sleep(pause).await,
                Err(problem) => return Err(problem),
            }
            pause = (pause * 2).min(PAUSE_MOST);
        }
    }

    fn is_stalled(&self) -> bool {
        self.movement.still() >= self.stall
    }

    fn reaches(&self, result: &v1::WriteResult) -> bool {
        result.acknowledgement >= self.level as i32
    }

    /// Follows a change from a first answer to the level asked for. `None`: the node does not know
    /// it, so it is to be sent again.
    pub(crate) async fn follow(
        &self,
        id: RequestId,
        first: v1::WriteResult,
    ) -> Result<Option<Written>, Problem> {
        let mut result = first;
        let mut pause = PAUSE;
        while !self.reaches(&result) && !self.is_stalled() {
            match self.follow_once(id, &mut result).await {
                Ok(()) => {}
                Err(problem) if problem.reason == Reason::ChangeUnknown => return Ok(None),
                Err(problem) if problem.retry() => {}
                Err(problem) => return Err(problem),
            }
            if !self.reaches(&result) {
                sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MOST);
            }
        }
        let reached = self.reaches(&result);
        if reached {
            self.movement.add(&self.movement.changes, 1);
        }
        Ok(Some(Written { result, reached }))
    }

    /// Follows a change on one stream, to its end, its level, or a standstill.
    async fn follow_once(
        &self,
        id: RequestId,
        result: &mut v1::WriteResult,
    ) -> Result<(), Problem> {
        let request = v1::WatchChangeRequest {
            request_id: id.to_string(),
        };
        let mut stream = self.client.watch_change(request).await?;
        let mut progress = None;
        while !self.reaches(result) && !self.is_stalled() {
            let Ok(update) = timeout(LOOK, stream.next()).await else {
                continue;
            };
            let Some(update) = update? else {
                return Ok(());
            };
            if update.progress != progress {
                progress = update.progress;
                self.movement.moved();
            }
            if let Some(mut newer) = update.result {
                if newer.acknowledgement > result.acknowledgement {
                    self.movement.moved();
                }
                newer.new_bytes = newer.new_bytes.max(result.new_bytes);
                newer.reused_bytes = newer.reused_bytes.max(result.reused_bytes);
                *result = newer;
            }
        }
        Ok(())
    }
}
