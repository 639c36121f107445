//! [driver] Trains: several changes of one plan, taken in together or not at all.
//!
//! Their notes may be more than one record of the log. The note that says that the train is whole is
//! written after them; until it is there nothing of them is signed or sent, and after a crash what
//! came in before it is dropped. When one change is refused, those that are not signed yet are
//! dropped too: what was done can be taken back under the plan's id.

use super::{Answers, Driver, Notes, item_key, storage};
use super::{ITEMS_MAX, Item, OutboxProblem, Outcome};
use crate::env::{Env, Runtime};
use aber_proto::{PlanId, RequestId};
use bytes::Bytes;
use tokio::sync::oneshot;

const TRAIN_PREFIX: &[u8] = b"t/";

fn train_key(plan: PlanId) -> Bytes {
    [TRAIN_PREFIX, &plan.0].concat().into()
}

impl<E: Env> Driver<E> {
    pub(super) fn submit_all(
        &mut self,
        items: Vec<Item>,
        answer: oneshot::Sender<Result<(), OutboxProblem>>,
        notes: &mut Notes,
        answers: &mut Answers,
    ) {
        if self.state.len() + items.len() > ITEMS_MAX {
            let _gone = answer.send(Err(OutboxProblem::Full(self.state.len())));
            return;
        }
        let mut plans = Vec::new();
        for mut item in items {
            if self.state.find(item.request()).is_some() {
                continue;
            }
            item.is_in_train = item.plan().is_some();
            if let Some(plan) = item.plan() {
                *self.trains.entry(plan).or_default() += 1;
                plans.push(plan);
            }
            let pin = self.options.collaborator.pin(&item);
            let bytes = item.encode();
            let sequence = self.state.add(item, None);
            notes.push((item_key(sequence), Some(bytes)));
            self.pins.insert(sequence, vec![pin]);
        }
        plans.dedup();
        let whole = Bytes::from_static(b"1");
        notes.extend(
            plans
                .into_iter()
                .map(|plan| (train_key(plan), Some(whole.clone()))),
        );
        answers.push(answer);
    }

    /// Whether an item that was found at the start is no part of a train, or of a whole one.
    pub(super) fn may_board(&mut self, item: &Item) -> Result<bool, OutboxProblem> {
        let Some(plan) = item.plan().filter(|_| item.is_in_train) else {
            return Ok(true);
        };
        let whole = self.options.log.note(&train_key(plan));
        let is_whole = whole.map_err(|problem| storage(&problem))?.is_some();
        if is_whole {
            *self.trains.entry(plan).or_default() += 1;
        }
        Ok(is_whole)
    }

    /// The train that a change is part of.
    pub(super) fn train_of(&self, request: RequestId) -> Option<PlanId> {
        let item = self.state.item(self.state.find(request)?)?;
        item.plan().filter(|_| item.is_in_train)
    }

    /// A change of a train is done or refused.
    pub(super) fn leave_train(&mut self, plan: PlanId, outcome: &Outcome, notes: &mut Notes) {
        self.one_less(plan, notes);
        if outcome.rejected.is_none() {
            return;
        }
        let waiting = self.state.iter();
        let unsigned = waiting.filter(|(_, item, ..)| {
            item.is_in_train && item.plan() == Some(plan) && item.signed.is_none()
        });
        let requests: Vec<RequestId> = unsigned.map(|(_, item, ..)| item.request()).collect();
        for request in requests {
            if let Some((sequence, _)) = self.state.finished(request) {
                let runtime = self.options.env.runtime();
                runtime.trace(format_args!("outbox {sequence} dropped with {plan}"));
                notes.push((item_key(sequence), None));
                self.retire(sequence);
                self.one_less(plan, notes);
            }
            let refused = Outcome {
                index: 0,
                ..outcome.clone()
            };
            for waiter in self.waiters.remove(&request).into_iter().flatten() {
                let _gone = waiter.send(Some(refused.clone()));
            }
        }
    }

    fn one_less(&mut self, plan: PlanId, notes: &mut Notes) {
        let left = self.trains.get_mut(&plan);
        if let Some(left) = left {
            *left = left.saturating_sub(1);
            if *left == 0 {
                self.trains.remove(&plan);
                notes.push((train_key(plan), None));
            }
        }
    }
}
