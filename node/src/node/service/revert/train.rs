//! [driver] Doing a plan: tried on the tree as it is, queued all at once, followed to its end.

use super::super::prepare::Draft;
use super::super::write::{outbox_problem, wait_time};
use super::super::{NodeService, index_problem, read};
use super::Plan;
use crate::reason::{Problem, Reason};
use crate::service::{Answer, Answers, STREAM_QUEUE};
use aber_log::env::{Env, Runtime};
use aber_log::outbox::item::Item;
use aber_log::outbox::state::Outcome;
use aber_materializer::revert::Touched;
use aber_materializer::revert::{Kind, Step};
use aber_materializer::view::{Fate, Moment};
use aber_proto::generated::v1::{self, apply_revert_response::Message};
use aber_proto::{Event, FileId, Origin, PartitionId, PlanId, RequestId, TreePath};
use aber_proto::{VolumeId, limit};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;
use tokio::sync::mpsc;

/// Bytes of events in one change, guessed: the encoding is checked when it is made.
const PART_BYTES: usize = limit::CHANGE_BYTES * 3 / 4;
/// Stale paths that an error names.
const NAMED: usize = 10;

/// A plan that can be done.
#[derive(Clone, Debug)]
pub(in super::super) struct Way {
    pub(super) origin: Origin,
    pub(super) parts: Vec<Part>,
    /// What it was made of.
    pub(super) present: Moment,
}

/// One change of a plan.
#[derive(Clone, Debug, Default)]
pub(in super::super) struct Part {
    partition: PartitionId,
    pending: Option<String>,
    events: Vec<Event>,
    paths: BTreeSet<TreePath>,
    files: BTreeSet<FileId>,
    bytes: usize,
}

impl<E: Env> NodeService<E> {
    /// Cuts plans into changes: volumes come first, and go last.
    pub(super) fn parts_of(
        &self,
        plans: &BTreeMap<PartitionId, Plan>,
    ) -> Result<Vec<Part>, Problem> {
        let volumes = self.node.parts.tree.volumes().map_err(index_problem)?;
        let names: BTreeMap<VolumeId, String> = volumes
            .into_iter()
            .map(|volume| (volume.id, volume.name))
            .collect();
        let mut parts = Vec::new();
        let mut last = Vec::new();
        for (partition, plan) in plans {
            let is_control = *partition == PartitionId::CONTROL;
            for step in &plan.steps {
                let goes_last = is_control && step.kind == Kind::Removed;
                let to = if goes_last { &mut last } else { &mut parts };
                add(to, *partition, step, &names);
            }
        }
        parts.append(&mut last);
        Ok(parts)
    }

    /// Does what was planned.
    pub(in super::super) fn go_back(
        &self,
        request: v1::ApplyRevertRequest,
    ) -> Answer<Answers<v1::ApplyRevertResponse>> {
        let unknown = || Problem::new(Reason::PlanUnknown).with("plan", &request.plan_id);
        let plan = PlanId::parse(&request.plan_id).ok_or_else(unknown)?;
        let now = self.node.parts.env.runtime().wall_clock();
        let way = {
            let ways = self.ways.lock();
            let mut ways = ways.unwrap_or_else(PoisonError::into_inner);
            ways.take(&plan, now).ok_or_else(unknown)?
        };
        let options = request.options.unwrap_or_default();
        let (sender, answers) = mpsc::channel(STREAM_QUEUE);
        let service = self.clone();
        self.node.parts.env.runtime().spawn("go back", async move {
            let done = service.run(&way, &options, &sender).await;
            let message = |result| v1::ApplyRevertResponse {
                message: Some(Message::Result(result)),
            };
            let _gone = sender.send(done.map(message)).await.is_err();
        });
        Ok(answers)
    }

    async fn run(
        &self,
        way: &Way,
        options: &v1::WriteOptions,
        sender: &mpsc::Sender<Result<v1::ApplyRevertResponse, Problem>>,
    ) -> Result<v1::RevertResult, Problem> {
        self.check_stale(way)?;
        let mut items = Vec::new();
        for part in &way.parts {
            items.push(self.item_of(way, part, options)?);
        }
        let requests: Vec<(PartitionId, RequestId)> = items
            .iter()
            .map(|item| (item.partition(), item.request()))
            .collect();
        if items.iter().any(|item| item.rows().next().is_some()) {
            let synced = self.node.parts.content.store().sync().await;
            synced.map_err(|problem| read::chunk_problem(&problem, ""))?;
        }
        let submitted = self.node.parts.outbox.submit_all(items).await;
        submitted.map_err(|problem| outbox_problem(&problem))?;
        self.follow(way, &requests, options, sender).await
    }

    /// A change of a plan as the outbox takes it.
    fn item_of(&self, way: &Way, part: &Part, options: &v1::WriteOptions) -> Result<Item, Problem> {
        let mut draft = Draft::of_plan(
            part.partition,
            part.pending.clone(),
            part.events.clone(),
            part.paths.clone(),
        );
        draft.origin = Some(way.origin);
        let (item, _) = self.item(draft, self.new_request(), options)?;
        Ok(item)
    }

    /// Refuses a plan of which something has changed meanwhile, and names what.
    fn check_stale(&self, way: &Way) -> Result<(), Problem> {
        let tree = &self.node.parts.tree;
        let me = self.node.parts.config.me;
        let mut stale = BTreeSet::new();
        let mut of: BTreeMap<PartitionId, Vec<Event>> = BTreeMap::new();
        let mut files: BTreeMap<PartitionId, BTreeSet<FileId>> = BTreeMap::new();
        for part in &way.parts {
            files.entry(part.partition).or_default().extend(&part.files);
            // What goes into a volume that is not there yet meets nothing.
            if part.pending.is_none() {
                let events = of.entry(part.partition).or_default();
                events.extend(part.events.iter().cloned());
            }
        }
        for (partition, files) in files {
            let range = (way.present.index(partition), u64::MAX - 1);
            for id in self.changed_in(tree, partition, range)?.keys() {
                if files.contains(id) {
                    let path = tree.path_of(*id).map_err(index_problem)?;
                    stale.insert(path.map_or_else(|| "what is gone".to_owned(), |p| p.to_string()));
                }
            }
        }
        for (partition, events) in of {
            let tried = tree
                .rehearse(partition, me, &events)
                .map_err(index_problem)?;
            if let Err(rejected) = tried {
                let names = self.names();
                let place = rejected.place.as_ref();
                let path = place.map(|place| super::super::render::place_text(place, &names));
                stale.insert(path.unwrap_or_else(|| "a volume".to_owned()));
            }
        }
        if stale.is_empty() {
            return Ok(());
        }
        let more = match stale.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(", and {more} more"),
        };
        let named: Vec<String> = stale.into_iter().take(NAMED).collect();
        Err(Problem::new(Reason::PlanStale)
            .with("plan", way.origin.plan)
            .with("detail", format!("{}{more}", named.join(", "))))
    }

    async fn follow(
        &self,
        way: &Way,
        requests: &[(PartitionId, RequestId)],
        options: &v1::WriteOptions,
        sender: &mpsc::Sender<Result<v1::ApplyRevertResponse, Problem>>,
    ) -> Result<v1::RevertResult, Problem> {
        let runtime = self.node.parts.env.runtime();
        let mut result = v1::RevertResult::default();
        let mut is_refused = false;
        let is_queued = options.acknowledgement() == v1::Acknowledgement::Queued;
        let until = runtime.now() + wait_time(options);
        for (position, (partition, request)) in requests.iter().enumerate() {
            let wait = self.node.parts.outbox.outcome(*request);
            let left = until - runtime.now();
            let outcome = match is_queued {
                true => None,
                false => runtime.timeout(left, wait).await.flatten(),
            };
            match self.ending(*partition, *request, outcome).await? {
                Ending::Waits => {
                    result.waiting_count += 1;
                    if result.waiting_for.is_none() {
                        result.waiting_for = Some(self.waiting_notice(*request).await);
                    }
                }
                Ending::Dropped => is_refused = true,
                Ending::Refused(outcome) => {
                    is_refused = true;
                    if result.refused.is_empty() {
                        let path = self.refused_at(way.parts.get(position), &outcome);
                        result.refused = format!("{path} changed meanwhile");
                    }
                }
                Ending::Done(outcome) => {
                    let id = super::super::render::entry_id(outcome.partition, outcome.index);
                    result.entries.push(id);
                }
            }
            let progress = v1::Progress {
                phase: "bring back".to_owned(),
                done: position as u64 + 1,
                total: requests.len() as u64,
                unit: "changes".to_owned(),
                ..v1::Progress::default()
            };
            let message = Some(Message::Progress(progress));
            let response = v1::ApplyRevertResponse { message };
            let _gone = sender.send(Ok(response)).await.is_err();
        }
        if is_refused && result.refused.is_empty() {
            result.refused = "what it brings back changed meanwhile".to_owned();
        }
        if !result.refused.is_empty() && result.entries.is_empty() && result.waiting_count == 0 {
            return Err(Problem::new(Reason::PlanStale)
                .with("plan", way.origin.plan)
                .with("detail", &result.refused));
        }
        result.complete = result.refused.is_empty() && result.waiting_count == 0;
        Ok(result)
    }
}

/// What became of one change of a plan.
enum Ending {
    Waits,
    Done(Outcome),
    Refused(Outcome),
    /// Never ordered: another one of the plan was refused before.
    Dropped,
}

impl<E: Env> NodeService<E> {
    async fn ending(
        &self,
        partition: PartitionId,
        request: RequestId,
        outcome: Option<Outcome>,
    ) -> Result<Ending, Problem> {
        // In this order: what leaves the outbox in between has an answer.
        let waiting = self.node.parts.outbox.list().await;
        let outcome = match outcome {
            Some(outcome) => Some(outcome),
            None => self.answer_to(partition, request)?,
        };
        Ok(match outcome {
            Some(outcome) if outcome.rejected.is_none() => Ending::Done(outcome),
            Some(outcome) if outcome.index > 0 => Ending::Refused(outcome),
            None if waiting.iter().any(|item| item.request == request) => Ending::Waits,
            _ => Ending::Dropped,
        })
    }

    /// Which path a change of a plan was refused for.
    fn refused_at(&self, part: Option<&Part>, outcome: &Outcome) -> String {
        let tree = &self.node.parts.tree;
        let happened = tree.happened(outcome.partition, outcome.index);
        let event = match happened.ok().flatten().map(|happened| happened.fate) {
            Some(Fate::Rejected(_, Some(event))) => usize::try_from(event).ok(),
            _ => None,
        };
        let event = event.and_then(|event| part?.events.get(event));
        let names = self.names();
        let paths = event.map(|event| super::super::render::paths_of(event, &names));
        let path = paths.into_iter().flatten().next();
        path.unwrap_or_else(|| "what it brings back".to_owned())
    }
}

fn add(
    parts: &mut Vec<Part>,
    partition: PartitionId,
    step: &Step,
    names: &BTreeMap<VolumeId, String>,
) {
    let bytes = size_of_event(step);
    let fits = parts.last().is_some_and(|part| {
        part.partition == partition
            && part.pending == step.pending
            && part.events.len() < limit::CHANGE_EVENTS
            && part.bytes + bytes <= PART_BYTES
    });
    if !fits {
        parts.push(Part {
            partition,
            pending: step.pending.clone(),
            ..Part::default()
        });
    }
    let Some(part) = parts.last_mut() else { return };
    part.bytes += bytes;
    part.events.push(step.event.clone());
    part.files.insert(step.file);
    for (volume, path) in &step.touches {
        let volume = match volume {
            Touched::Volume(VolumeId::ROOT) => None,
            Touched::Volume(volume) => names.get(volume).cloned(),
            Touched::Pending(name) => Some(name.clone()),
        };
        let text = match volume {
            None => format!("/{path}"),
            Some(name) if path.is_root() => format!("/{name}"),
            Some(name) => format!("/{name}/{path}"),
        };
        part.paths.extend(TreePath::parse(&text));
    }
}

/// About what an event takes in a change.
fn size_of_event(step: &Step) -> usize {
    let paths: usize = step
        .touches
        .iter()
        .map(|(_, path)| path.as_str().len() + 24)
        .sum();
    let content = step.event.operation.content().map_or(0, |content| {
        let inline = match content {
            aber_proto::Content::Inline(bytes) => bytes.len(),
            aber_proto::Content::Chunks(_) => 64,
        };
        inline + content.rows().len() * limit::CHUNK_ROW_BYTES
    });
    paths + content + 96
}
