//! [driver] Writing: into the outbox, then as far as the caller wants to wait.

use super::prepare::{Draft, PutWanted, guard, mode};
use super::{NodeService, STAGED_PREFIX, parse_path, read, render};
use crate::reason::{Problem, Reason};
use crate::service::{Answer, Answers, STREAM_QUEUE, Upload};
use aber_log::env::{Disk, Env, Runtime};
use aber_log::ingest::ContentWriter;
use aber_log::outbox::OutboxProblem;
use aber_log::outbox::state::Outcome;
use aber_materializer::view::{Rejection, RequestOutcome};
use aber_proto::generated::v1;
use aber_proto::{Act, Origin, PlanId};
use aber_proto::{Content, ContentHash, Instant, PartitionId, RequestId, Role, VolumeId, codec};
use bytes::Bytes;
use std::time::Duration;
use tokio::sync::mpsc;

/// Waits for an outcome when the caller says nothing.
const WAIT_DEFAULT: Duration = Duration::from_secs(30);
/// Between looks at how far other nodes are.
const SPREAD_PAUSE: Duration = Duration::from_millis(100);
/// Items of an answer are looked up for changes of at most this many events.
const ITEMS_SHOWN: usize = 100;

pub(super) fn outbox_problem(problem: &OutboxProblem) -> Problem {
    match problem {
        OutboxProblem::Storage(detail) => {
            Problem::new(Reason::StorageFailed).with("detail", detail)
        }
        OutboxProblem::Stopped => Problem::new(Reason::Stopping).with("detail", problem),
        OutboxProblem::Full(_) => Problem::new(Reason::OutboxFull).with("detail", problem),
    }
}

/// What is written and how far it is followed.
struct Written {
    request: RequestId,
    partition: PartitionId,
    paths: Vec<String>,
    new_bytes: u64,
    reused_bytes: u64,
}

impl<E: Env> NodeService<E> {
    pub(super) async fn write_change(
        &self,
        request: v1::AppendChangeRequest,
    ) -> Answer<v1::AppendChangeResponse> {
        let options = request.options.unwrap_or_default();
        let id = self.request_id(&options.request_id)?;
        if let [event] = request.events.as_slice()
            && let Some(v1::event::Operation::Remove(remove)) = &event.operation
            && remove.recursive
        {
            self.empty_volume(remove, &options).await?;
        }
        let mut draft = Draft::default();
        for event in request.events {
            self.draft_event(event, &mut draft).await?;
        }
        let result = self.write_draft(draft, id, &options).await?;
        Ok(v1::AppendChangeResponse {
            result: Some(result),
        })
    }

    /// The first half of removing a volume: its partition's part is emptied, and only then the
    /// name is dropped. What others add meanwhile stays, and then so does the name; a repetition
    /// goes on where this one stopped.
    async fn empty_volume(
        &self,
        remove: &v1::Remove,
        options: &v1::WriteOptions,
    ) -> Result<(), Problem> {
        let path = parse_path(&remove.path)?;
        if !path.split_volume().is_some_and(|(_, rest)| rest.is_root()) {
            return Ok(());
        }
        let mut draft = Draft::default();
        let target = self.target(&path, false, &mut draft).await?;
        if target.place.volume == VolumeId::ROOT || self.is_empty(&path)? {
            return Ok(());
        }
        self.draft_emptying(&path, &target, remove.base.as_ref(), &mut draft)?;
        let request = self.new_request();
        let mut first = options.clone();
        first.set_acknowledgement(v1::Acknowledgement::Committed);
        let result = self.write_draft(draft, request, &first).await?;
        if result.acknowledgement() < v1::Acknowledgement::Committed {
            return Err(Problem::new(Reason::NoMajority).with("partition", target.partition));
        }
        Ok(())
    }

    pub(super) async fn write_upload(
        &self,
        header: v1::UploadHeader,
        mut content: Upload,
    ) -> Answer<v1::UploadResponse> {
        let options = header.options.clone().unwrap_or_default();
        let id = self.request_id(&options.request_id)?;
        let store = self.node.parts.content.store().clone();
        let size = Some(header.size_hint).filter(|size| *size > 0);
        let problem = |problem| read::content_problem(&problem, &header.path);
        let mut writer = ContentWriter::new(store, size, None);
        while let Some(bytes) = content.next().await? {
            writer.push(bytes).await.map_err(problem)?;
        }
        let staged = writer.finish().await.map_err(problem)?;
        let found = staged.content.blake3();
        if !header.blake3.is_empty() && ContentHash::from_slice(&header.blake3) != Some(found) {
            let wanted = data_encoding::HEXLOWER.encode(&header.blake3);
            return Err(Problem::new(Reason::ContentMismatch)
                .with("path", &header.path)
                .with("wanted", wanted)
                .with("found", found));
        }
        let (new_bytes, reused_bytes) = (staged.new_bytes, staged.reused_bytes);
        if header.stage_only {
            let staged_id = self.keep_staged(&staged.content).await?;
            return Ok(v1::UploadResponse {
                result: None,
                staged_id,
                new_bytes,
                reused_bytes,
            });
        }
        let path = parse_path(&header.path)?;
        let mut draft = Draft::default();
        (draft.new_bytes, draft.reused_bytes) = (new_bytes, reused_bytes);
        let wanted = PutWanted {
            content: staged.content.clone(),
            mtime: header.modify_time.as_ref().map(render::file_time),
            mode: mode(header.mode)?,
            parents: header.parents,
        };
        draft.keep(staged.pin);
        let guards = guard(header.precondition.as_ref())?;
        self.draft_content(path, wanted, guards, &mut draft).await?;
        let result = self.write_draft(draft, id, &options).await?;
        let staged_id = String::new();
        Ok(v1::UploadResponse {
            result: Some(result),
            staged_id,
            new_bytes,
            reused_bytes,
        })
    }

    pub(super) fn request_id(&self, text: &str) -> Result<RequestId, Problem> {
        if text.is_empty() {
            return Ok(self.new_request());
        }
        RequestId::parse(text)
            .ok_or_else(|| Problem::usage(format!("{text:?} is no request id: it must be a UUID")))
    }

    pub(super) fn new_request(&self) -> RequestId {
        let mut bytes = [0; 16];
        self.node.parts.env.runtime().fill_random(&mut bytes);
        RequestId(bytes)
    }

    /// Keeps a staged content under a name, across restarts.
    async fn keep_staged(&self, content: &Content) -> Result<String, Problem> {
        let id = self.new_request();
        let key: Bytes = [STAGED_PREFIX, &id.0].concat().into();
        let written = self
            .node
            .parts
            .log
            .write_notes(vec![(key, Some(codec::encode_content(content)))]);
        written
            .await
            .map_err(|problem| Problem::new(Reason::StorageFailed).with("detail", problem))?;
        Ok(id.to_string())
    }

    /// A content that was staged before.
    pub(super) fn staged(&self, text: &str) -> Result<Content, Problem> {
        let unknown = || Problem::usage(format!("nothing is staged here as {text:?}"));
        let id = RequestId::parse(text).ok_or_else(unknown)?;
        let note = self.node.parts.log.note(&[STAGED_PREFIX, &id.0].concat());
        let note =
            note.map_err(|problem| Problem::new(Reason::StorageFailed).with("detail", problem))?;
        codec::decode_content(&note.ok_or_else(unknown)?).map_err(Problem::internal)
    }

    /// Hands a draft to the outbox and waits for the level asked for.
    pub(super) async fn write_draft(
        &self,
        mut draft: Draft,
        request: RequestId,
        options: &v1::WriteOptions,
    ) -> Result<v1::WriteResult, Problem> {
        self.check_space()?;
        if draft.origin.is_none() && !options.plan_id.is_empty() {
            let plan = PlanId::parse(&options.plan_id);
            let plan = plan.ok_or_else(|| Problem::usage("a plan id that is none"))?;
            draft.origin = Some(Origin {
                act: Act::Write,
                plan,
                takes_back: None,
            });
        }
        for name in std::mem::take(&mut draft.new_volumes) {
            let mut volume = self.draft_volume(&name).await?;
            volume.origin = draft.origin;
            let (item, _) = self.item(volume, self.new_request(), options)?;
            let submitted = self.node.parts.outbox.submit(item, Vec::new()).await;
            submitted.map_err(|problem| outbox_problem(&problem))?;
        }
        let (new_bytes, reused_bytes) = (draft.new_bytes, draft.reused_bytes);
        let (item, pins) = self.item(draft, request, options)?;
        let written = Written {
            request,
            partition: item.partition(),
            paths: item.paths.iter().map(ToString::to_string).collect(),
            new_bytes,
            reused_bytes,
        };
        if let Some(outcome) = self.answered(&written)? {
            return self.result(&written, Some(&outcome), None);
        }
        if item.rows().next().is_some() {
            // The item says that its content is here: durable before it (promise D6), also what
            // another request put a moment ago and has not synced yet.
            let synced = self.node.parts.content.store().sync().await;
            synced.map_err(|problem| read::chunk_problem(&problem, ""))?;
        }
        let submitted = self.node.parts.outbox.submit(item, pins).await;
        submitted.map_err(|problem| outbox_problem(&problem))?;
        self.follow_write(&written, options).await
    }

    /// Below the reserve nothing is taken in, so that the log can always be appended (promise B3).
    fn check_space(&self) -> Result<(), Problem> {
        let parts = &self.node.parts;
        // A disk that cannot say is found out by the first write.
        let Ok(space) = parts.env.disk().space() else {
            return Ok(());
        };
        let reserve_bytes = parts.config.options.store.reserve_bytes(space.total_bytes);
        if space.free_bytes >= reserve_bytes {
            return Ok(());
        }
        Err(Problem::new(Reason::NoSpace)
            .with("freeBytes", space.free_bytes)
            .with("reserveBytes", reserve_bytes))
    }

    /// What a view says of a request that was made before.
    fn answered(&self, written: &Written) -> Result<Option<Outcome>, Problem> {
        self.answer_to(written.partition, written.request)
    }

    /// What a partition's view says of a request.
    pub(super) fn answer_to(
        &self,
        partition: PartitionId,
        request: RequestId,
    ) -> Result<Option<Outcome>, Problem> {
        let tree = &self.node.parts.tree;
        let found = tree
            .request(partition, request)
            .map_err(super::index_problem)?;
        Ok(found.map(|(index, outcome)| {
            let rejected = match outcome {
                RequestOutcome::Applied => None,
                RequestOutcome::Rejected(reason) => Some((reason.code(), String::new())),
            };
            Outcome {
                partition,
                index,
                rejected,
            }
        }))
    }

    async fn follow_write(
        &self,
        written: &Written,
        options: &v1::WriteOptions,
    ) -> Result<v1::WriteResult, Problem> {
        let asked = options.acknowledgement();
        if asked == v1::Acknowledgement::Queued {
            return self.result(written, None, None);
        }
        let runtime = self.node.parts.env.runtime();
        let until = runtime.now() + wait_time(options);
        let wait = self.node.parts.outbox.outcome(written.request);
        let outcome = runtime.timeout(until - runtime.now(), wait).await.flatten();
        let outcome = match outcome {
            Some(outcome) => Some(outcome),
            None => self.answered(written)?,
        };
        let Some(outcome) = outcome else {
            let notice = self.waiting_notice(written.request).await;
            return self.result(written, None, Some(notice));
        };
        if asked == v1::Acknowledgement::Spread && outcome.rejected.is_none() {
            let spread = self.wait_until_spread(&outcome, until).await;
            let mut result = self.result(written, Some(&outcome), None)?;
            match spread {
                Ok(()) => result.set_acknowledgement(v1::Acknowledgement::Spread),
                Err(notice) => result.waiting_for = Some(notice),
            }
            return Ok(result);
        }
        self.result(written, Some(&outcome), None)
    }

    /// Every node that can be reached shows the entry in its mirror.
    async fn wait_until_spread(&self, outcome: &Outcome, until: Instant) -> Result<(), v1::Notice> {
        let runtime = self.node.parts.env.runtime();
        loop {
            let mut behind = Vec::new();
            for (node, positions) in self.positions().await {
                let there = positions
                    .iter()
                    .find(|p| p.partition == outcome.partition.0);
                if there.is_none_or(|position| position.mirrored < outcome.index) {
                    behind.push(self.node.name_of(node));
                }
            }
            if behind.is_empty() {
                return Ok(());
            }
            if runtime.now() >= until {
                return Err(v1::Notice {
                    code: "NOT_SPREAD".to_owned(),
                    severity: v1::Health::Degraded.into(),
                    what: "not every node that can be reached has it yet".to_owned(),
                    why: format!("still to go: {}", behind.join(", ")),
                    mend: "nothing to do: it goes on by itself; follow it with: aber where"
                        .to_owned(),
                    ..v1::Notice::default()
                });
            }
            runtime.sleep(SPREAD_PAUSE).await;
        }
    }

    /// Why a request still waits in the outbox.
    pub(super) async fn waiting_notice(&self, request: RequestId) -> v1::Notice {
        let waiting = self.node.parts.outbox.list().await;
        let item = waiting.iter().find(|waiting| waiting.request == request);
        let why = item.and_then(|item| item.problem.clone());
        let first = waiting.iter().find_map(|waiting| waiting.problem.clone());
        let why = why
            .or(first)
            .unwrap_or_else(|| "changes before it are not ordered yet".to_owned());
        v1::Notice {
            code: "CHANGE_WAITS".to_owned(),
            severity: v1::Health::Queuing.into(),
            what: "the change is safe in this node's outbox and not ordered yet".to_owned(),
            why,
            mend:
                "nothing is lost: it lands by itself once enough nodes are back; see: aber status"
                    .to_owned(),
            ..v1::Notice::default()
        }
    }

    fn result(
        &self,
        written: &Written,
        outcome: Option<&Outcome>,
        waiting_for: Option<v1::Notice>,
    ) -> Result<v1::WriteResult, Problem> {
        let mut result = v1::WriteResult {
            request_id: written.request.to_string(),
            new_bytes: written.new_bytes,
            reused_bytes: written.reused_bytes,
            waiting_for,
            ..v1::WriteResult::default()
        };
        let Some(outcome) = outcome else {
            result.set_acknowledgement(v1::Acknowledgement::Queued);
            return Ok(result);
        };
        if let Some((code, path)) = &outcome.rejected {
            return Err(self.rejection(*code, path, written, outcome));
        }
        result.set_acknowledgement(v1::Acknowledgement::Committed);
        result.entry = Some(render::entry_id(outcome.partition, outcome.index));
        if let Ok(Some((_, chain))) = self
            .node
            .parts
            .log
            .chain_at(outcome.partition, outcome.index)
        {
            result.chain_hash = Bytes::copy_from_slice(&chain.0);
        }
        if written.paths.len() <= ITEMS_SHOWN {
            let nodes = written.paths.iter().filter_map(|path| {
                let node = self.find(&parse_path(path).ok()?).ok()??;
                Some(render::item(path.clone(), &node))
            });
            result.items = nodes.collect();
        }
        Ok(result)
    }

    fn rejection(&self, code: u8, path: &str, written: &Written, outcome: &Outcome) -> Problem {
        let name = Rejection::from_code(code).and_then(Rejection::reason);
        let reason = name
            .and_then(Reason::parse)
            .unwrap_or(Reason::ChangeRejected);
        // The view names the path inside its volume; the caller knows it by its whole path.
        let whole = written.paths.iter().find(|whole| whole.ends_with(path));
        let whole = whole.or(written.paths.first()).map_or(path, String::as_str);
        let problem = Problem::new(reason)
            .with("path", whole)
            .with("entry", format!("{}:{}", outcome.partition, outcome.index));
        match reason {
            Reason::NotAllowed => self.beyond_role(problem, Role::Writer),
            Reason::NameTaken => problem.with("name", whole),
            _ => problem,
        }
    }

    pub(super) async fn follow_change(
        &self,
        request: v1::WatchChangeRequest,
    ) -> Answer<Answers<v1::WatchChangeResponse>> {
        let id = RequestId::parse(&request.request_id)
            .ok_or_else(|| Problem::usage(format!("{:?} is no request id", request.request_id)))?;
        let waiting = self.node.parts.outbox.list().await;
        let here = waiting.iter().find(|waiting| waiting.request == id);
        let found = match here {
            Some(waiting) => Some((waiting.partition, waiting.path.clone())),
            None => self.partition_of(id)?.map(|partition| (partition, None)),
        };
        let Some((partition, path)) = found else {
            return Err(Problem::new(Reason::ChangeUnknown).with("request", &request.request_id));
        };
        let paths = path.into_iter().collect();
        let written = Written {
            request: id,
            partition,
            paths,
            new_bytes: 0,
            reused_bytes: 0,
        };
        let (sender, answers) = mpsc::channel(STREAM_QUEUE);
        let this = self.clone();
        self.node
            .parts
            .env
            .runtime()
            .spawn("watch change", async move {
                let mut options = v1::WriteOptions::default();
                for level in [v1::Acknowledgement::Committed, v1::Acknowledgement::Spread] {
                    options.set_acknowledgement(level);
                    loop {
                        let answer = this.follow_write(&written, &options).await;
                        let answer = answer.map(|result| v1::WatchChangeResponse {
                            result: Some(result),
                            ..v1::WatchChangeResponse::default()
                        });
                        let is_there = answer.as_ref().is_ok_and(|answer| {
                            answer
                                .result
                                .as_ref()
                                .is_some_and(|r| r.waiting_for.is_none())
                        });
                        let is_over = answer.is_err();
                        if sender.send(answer).await.is_err() || is_over {
                            return;
                        }
                        if is_there {
                            break;
                        }
                    }
                }
            });
        Ok(answers)
    }

    fn partition_of(&self, request: RequestId) -> Result<Option<PartitionId>, Problem> {
        for partition in self.node.parts.config.genesis.partition_ids() {
            let found = self.node.parts.tree.request(partition, request);
            if found.map_err(super::index_problem)?.is_some() {
                return Ok(Some(partition));
            }
        }
        Ok(None)
    }
}

pub(super) fn wait_time(options: &v1::WriteOptions) -> Duration {
    let asked = options.wait_at_most.as_ref();
    let asked = asked.and_then(|time| Duration::try_from(*time).ok());
    asked.unwrap_or(WAIT_DEFAULT)
}
