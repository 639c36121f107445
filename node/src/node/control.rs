//! [driver] Changes of the control partition that this node makes itself: invitations, admissions,
//! its own row.

use super::Node;
use aber_log::env::{Env, Runtime};
use aber_log::outbox::OutboxProblem;
use aber_log::outbox::item::Item;
use aber_materializer::view::{Rejection, RequestOutcome};
use aber_proto::{
    Change, ChangeHash, Event, Operation, PartitionId, Precondition, RequestId, limit,
};
use std::time::Duration;

/// Why a change is not known to be applied.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum ControlProblem {
    /// It was ordered and had no effect.
    Rejected(Rejection),
    /// It is safe in the outbox and lands by itself; what it waits for.
    Waits(String),
    /// It is not in the outbox.
    NotTaken(OutboxProblem),
}

impl<E: Env> Node<E> {
    /// Submits one operation on the control partition through the outbox, under a request id, and
    /// waits until it is applied here; answers the index of its entry. A request that waits already,
    /// or was applied, is not made again.
    pub(crate) async fn change_control(
        &self,
        request: RequestId,
        operation: Operation,
        patience: Duration,
    ) -> Result<u64, ControlProblem> {
        let parts = &self.parts;
        if let Some(outcome) = self.applied_outcome(request) {
            return outcome;
        }
        let item = Item {
            change: Change {
                cluster: parts.cluster,
                partition: PartitionId::CONTROL,
                author: parts.config.me,
                author_sequence: 0,
                previous: ChangeHash::default(),
                request,
                wall_time: parts.env.runtime().wall_clock(),
                comment: String::new(),
                via: "node".to_owned(),
                origin: None,
                events: vec![Event {
                    precondition: Precondition::default(),
                    operation,
                }],
            },
            volume: None,
            paths: Vec::new(),
            min_copies: 0,
            is_in_train: false,
            signed: None,
        };
        let submitted = parts.outbox.submit(item, Vec::new()).await;
        submitted.map_err(ControlProblem::NotTaken)?;
        let waiting = parts.outbox.outcome(request);
        let told = parts.env.runtime().timeout(patience, waiting).await;
        if let Some(Some(outcome)) = told {
            return match outcome.rejected {
                None => Ok(outcome.index),
                Some((code, _)) => Err(rejected(code)),
            };
        }
        match self.applied_outcome(request) {
            Some(outcome) => outcome,
            None => Err(ControlProblem::Waits(self.waits_for(request).await)),
        }
    }

    /// What the control partition's view says of a request, if it has seen it.
    fn applied_outcome(&self, request: RequestId) -> Option<Result<u64, ControlProblem>> {
        let tree = &self.parts.tree;
        // An index that fails is rebuilt by the replay, which learns of it first.
        let found = tree.request(PartitionId::CONTROL, request).ok().flatten();
        found.map(|(index, outcome)| match outcome {
            RequestOutcome::Applied => Ok(index),
            RequestOutcome::Rejected(why) => Err(ControlProblem::Rejected(why)),
        })
    }

    async fn waits_for(&self, request: RequestId) -> String {
        let waiting = self.parts.outbox.list().await;
        let mine = waiting.into_iter().find(|item| item.request == request);
        let problem = mine.and_then(|item| item.problem);
        problem.unwrap_or_else(|| "the change is not ordered yet".to_owned())
    }

    /// A fresh request id.
    pub(crate) fn fresh_request(&self) -> RequestId {
        let mut bytes = [0; 16];
        self.parts.env.runtime().fill_random(&mut bytes);
        RequestId(bytes)
    }
}

/// How many nodes hold content before a change that needs it is ordered (promise D2): two as soon as
/// there are two members, and more if the genesis says so; never more than members.
pub(super) fn min_copies(of_genesis: u32, present: usize) -> usize {
    let wanted = (of_genesis as usize).max(limit::MIN_COPIES);
    wanted.min(present.max(1))
}

fn rejected(code: u8) -> ControlProblem {
    let why = Rejection::from_code(code).unwrap_or(Rejection::Malformed);
    ControlProblem::Rejected(why)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// D2: alone, one is all there is; a cluster founded alone keeps two copies once it has grown.
    #[test]
    fn copies_follow_the_members() {
        for (of_genesis, present, copies) in [
            (1, 0, 1),
            (1, 1, 1),
            (1, 2, 2),
            (1, 9, 2),
            (2, 1, 1),
            (3, 2, 2),
            (3, 9, 3),
        ] {
            assert_eq!(
                min_copies(of_genesis, present),
                copies,
                "{of_genesis} {present}"
            );
        }
    }
}
