//! [driver] Heartbeats of all groups to one node in one message, and the answers in one.
//!
//! The groups of a node beat at the same instants of its clock ([`next_beat`]), so what those that it
//! leads have to say to another node is there within a few milliseconds, and goes together: on an
//! idle link the headers are most of what is sent. Each heartbeat is an append without entries, each
//! group answers its own, and one that refuses or hangs costs the others a moment at most.

mod times;

pub use times::{BeatTimes, LIMITS_MS};

use super::{Partition, lock};
use crate::env::{Env, Runtime};
use crate::mesh::{CallProblem, Mesh, Method};
use aber_proto::generated::rpc;
use aber_proto::{Instant, NodeId, PartitionId, limit};
use bytes::Bytes;
use prost::Message;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::oneshot;

/// How long the first heartbeat to a node waits for those of other groups.
const GATHER_TIME: Duration = Duration::from_millis(5);
/// For the answer; openraft itself waits for no longer than until the next heartbeat.
const DEADLINE: Duration = Duration::from_secs(2);
/// How long a group may take to answer until the others' answers go without its own.
const ANSWER_TIME: Duration = Duration::from_millis(50);

/// Why a heartbeat has no answer.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum BeatProblem {
    #[error(transparent)]
    Call(#[from] CallProblem),
    #[error("a malformed answer to heartbeats")]
    Malformed,
    #[error("the group did not answer: {0}")]
    Refused(String),
    #[error("too many heartbeats wait, or this node is stopping")]
    Dropped,
}

type Answered = Result<rpc::AppendResponse, BeatProblem>;

/// A heartbeat that waits to be sent.
struct Waiting {
    append: Bytes,
    answer: oneshot::Sender<Answered>,
}

/// The heartbeats of a node's groups. Clones are the same.
pub struct Beats<E: Env> {
    env: E,
    mesh: Mesh<E>,
    waiting: Arc<Mutex<BTreeMap<NodeId, Vec<Waiting>>>>,
    times: Arc<Mutex<BeatTimes>>,
}

impl<E: Env> Clone for Beats<E> {
    fn clone(&self) -> Self {
        Self {
            env: self.env.clone(),
            mesh: self.mesh.clone(),
            waiting: Arc::clone(&self.waiting),
            times: Arc::clone(&self.times),
        }
    }
}

/// The next instant at which all groups of a node beat, after `now`.
pub(super) fn next_beat(now: Instant, every: Duration) -> Instant {
    let every = u64::try_from(every.as_nanos()).unwrap_or(u64::MAX).max(1);
    let beats = now.0 / every;
    Instant(beats.saturating_add(1).saturating_mul(every))
}

impl<E: Env> Beats<E> {
    /// Nothing waits yet. All groups of a node use the same.
    pub fn new(env: E, mesh: Mesh<E>) -> Self {
        Self {
            env,
            mesh,
            waiting: Arc::default(),
            times: Arc::default(),
        }
    }

    /// How long those that were sent took to be answered.
    #[must_use]
    pub fn times(&self) -> BeatTimes {
        *lock(&self.times)
    }

    /// Sends a group's heartbeat together with those of others, and waits for its answer.
    pub(super) async fn send(&self, to: NodeId, message: &rpc::AppendRequest) -> Answered {
        let append = Bytes::from(message.encode_to_vec());
        let (answer, answered) = oneshot::channel();
        let is_first = {
            let mut waiting = lock(&self.waiting);
            let of_node = waiting.entry(to).or_default();
            if of_node.len() >= limit::PARTITIONS {
                return Err(BeatProblem::Dropped);
            }
            of_node.push(Waiting { append, answer });
            of_node.len() == 1
        };
        if is_first {
            let runtime = self.env.runtime();
            runtime.spawn("beat", self.clone().carry(to));
        }
        answered.await.unwrap_or(Err(BeatProblem::Dropped))
    }

    /// Sends what is there after a moment, and hands out the answers.
    async fn carry(self, to: NodeId) {
        self.env.runtime().sleep(GATHER_TIME).await;
        let waiting = lock(&self.waiting).remove(&to).unwrap_or_default();
        let (appends, tell): (Vec<_>, Vec<_>) = waiting
            .into_iter()
            .map(|waiting| (waiting.append, waiting.answer))
            .unzip();
        let answers = self.exchange(to, appends).await;
        let mut answers = answers.map(Vec::into_iter);
        for tell in tell {
            let answer = match &mut answers {
                Ok(answers) => answers.next().unwrap_or(Err(BeatProblem::Malformed)),
                Err(problem) => Err(problem.clone()),
            };
            // openraft may have given up meanwhile.
            let _given_up = tell.send(answer).is_err();
        }
    }

    async fn exchange(
        &self,
        to: NodeId,
        appends: Vec<Bytes>,
    ) -> Result<Vec<Answered>, BeatProblem> {
        let payload = Bytes::from(rpc::BeatRequest { appends }.encode_to_vec());
        let (runtime, mesh) = (self.env.runtime(), &self.mesh);
        let sent = runtime.now();
        let answer = mesh.call(to, Method::Beat, payload, DEADLINE).await;
        let took = answer.is_ok().then(|| runtime.now() - sent);
        // Who is away is no sign of a full line.
        if took.is_some() || mesh.peers_up().contains(&to) {
            lock(&self.times).note(took);
        }
        let answer = answer?;
        let answer = rpc::BeatResponse::decode(answer).map_err(|_| BeatProblem::Malformed)?;
        let own = |answer: rpc::BeatAnswer| match answer.append.is_empty() {
            true => Err(BeatProblem::Refused(answer.why)),
            false => rpc::AppendResponse::decode(answer.append).map_err(|_| BeatProblem::Malformed),
        };
        Ok(answer.answers.into_iter().map(own).collect())
    }
}

/// Answers heartbeats from another node: each group its own, as it would answer an append.
///
/// # Errors
/// A malformed message, or one with more than there may be partitions.
pub async fn answer<E: Env>(
    env: E,
    partitions: BTreeMap<PartitionId, Partition<E>>,
    from: NodeId,
    payload: Bytes,
) -> Result<Bytes, String> {
    let request = rpc::BeatRequest::decode(payload).map_err(|problem| problem.to_string())?;
    if request.appends.len() > limit::PARTITIONS {
        return Err("too many heartbeats in a message".to_owned());
    }
    let answers = request.appends.into_iter();
    let answers = answers.map(|append| answer_one(&partitions, from, append));
    let answers = all_of(env.runtime(), answers).await;
    Ok(rpc::BeatResponse { answers }.encode_to_vec().into())
}

/// What each of them says within [`ANSWER_TIME`].
async fn all_of<F>(runtime: &impl Runtime, answers: impl Iterator<Item = F>) -> Vec<rpc::BeatAnswer>
where
    F: Future<Output = Result<Bytes, String>> + Send + 'static,
{
    let asked = answers.map(|answer| {
        let (tell, told) = oneshot::channel();
        // In a task of its own: what a group has begun is not to be given up half-way.
        runtime.spawn("beat answer", async move {
            let _late = tell.send(answer.await).is_err();
        });
        told
    });
    let asked: Vec<_> = asked.collect();
    let until = runtime.now() + ANSWER_TIME;
    let mut said = Vec::with_capacity(asked.len());
    for told in asked {
        let answer = match runtime.timeout(until - runtime.now(), told).await {
            Some(Ok(answer)) => answer,
            Some(Err(_)) => Err("this node is stopping".to_owned()),
            None => Err("not in time".to_owned()),
        };
        let (append, why) = match answer {
            Ok(append) => (append, String::new()),
            Err(why) => (Bytes::new(), why),
        };
        said.push(rpc::BeatAnswer { append, why });
    }
    said
}

/// The answer of the group that a heartbeat is for.
fn answer_one<E: Env>(
    partitions: &BTreeMap<PartitionId, Partition<E>>,
    from: NodeId,
    append: Bytes,
) -> impl Future<Output = Result<Bytes, String>> + Send + use<E> {
    let partition = match rpc::AppendRequest::decode(append.clone()) {
        Err(problem) => Err(problem.to_string()),
        Ok(message) if !message.entries.is_empty() => Err("a heartbeat with entries".to_owned()),
        Ok(message) => partitions
            .get(&PartitionId(message.partition))
            .cloned()
            .ok_or_else(|| "there is no such partition".to_owned()),
    };
    async move { partition?.answer(from, Method::Append, append).await }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{TestDisk, TestEnv};
    use futures::FutureExt;
    use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

    #[test]
    fn all_groups_beat_at_the_same_instants() {
        let every = Duration::from_millis(250);
        let ms = |ms: u64| Instant(ms * 1_000_000);
        let table = [(0, 250), (1, 250), (249, 250), (250, 500), (90_001, 90_250)];
        for (now, beat) in table {
            assert_eq!(next_beat(ms(now), every), ms(beat), "{now}");
        }
        assert_eq!(next_beat(Instant(7), Duration::ZERO), Instant(8));
        assert_eq!(next_beat(Instant(u64::MAX), every), Instant(u64::MAX));
    }

    /// A5: a group that hangs holds up nobody else's answer for long, and goes on all the same.
    #[tokio::test(start_paused = true)]
    async fn a_group_that_hangs_is_left_out() {
        let env = TestEnv::new(&TestDisk::default());
        let runtime = env.runtime().clone();
        let is_done = Arc::new(AtomicBool::new(false));
        let (sleeper, done) = (runtime.clone(), Arc::clone(&is_done));
        let slow = async move {
            sleeper.sleep(Duration::from_secs(1)).await;
            done.store(true, SeqCst);
            Ok(Bytes::from_static(b"late"))
        };
        let said = |text: &'static str| async move { Ok(Bytes::from_static(text.as_bytes())) };
        let refused = async { Err("no".to_owned()) };
        let all = [
            said("a").boxed(),
            slow.boxed(),
            refused.boxed(),
            said("b").boxed(),
        ];
        let start = runtime.now();
        let answers = all_of(&runtime, all.into_iter()).await;
        assert!(runtime.now() - start <= ANSWER_TIME + Duration::from_millis(1));
        let answer = |append: &'static str, why: &str| rpc::BeatAnswer {
            append: Bytes::from_static(append.as_bytes()),
            why: why.to_owned(),
        };
        let wanted = [
            answer("a", ""),
            answer("", "not in time"),
            answer("", "no"),
            answer("b", ""),
        ];
        assert_eq!(answers, wanted);
        assert!(!is_done.load(SeqCst));
        runtime.sleep(Duration::from_secs(2)).await;
        assert!(is_done.load(SeqCst), "it was not given up");
    }
}
