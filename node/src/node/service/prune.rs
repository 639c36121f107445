//! [driver] What retention lets go of, as a plan and at once.

use super::{NodeService, index_problem};
use crate::node::upkeep;
use crate::reason::Problem;
use crate::service::{Answer, Answers, STREAM_QUEUE};
use aber_log::env::{Env, Runtime};
use aber_materializer::tree::Tree;
use aber_materializer::view::{Moment, Passed};
use aber_proto::generated::v1::{self, apply_prune_response::Message};
use aber_proto::{FileId, PartitionId, VolumeId};
use std::sync::Arc;
use tokio::sync::mpsc;

/// Files that a plan lists.
const FILES: usize = 1000;

impl<E: Env> NodeService<E> {
    /// The volume that is meant; `None`: all.
    fn one_volume(&self, name: &str) -> Result<Option<VolumeId>, Problem> {
        match name {
            "" => Ok(None),
            name => Ok(Some(self.volume_named(name)?.0)),
        }
    }

    pub(super) async fn prune_plan(
        &self,
        request: &v1::PlanPruneRequest,
    ) -> Answer<v1::PlanPruneResponse> {
        let only = self.one_volume(&request.volume)?;
        let tree = &self.node.parts.tree;
        let mut shown = v1::PlanPruneResponse::default();
        for partition in self.node.parts.config.genesis.partition_ids() {
            let plan = tree.plan_prune(partition, only).map_err(index_problem)?;
            // Versions of a file come together.
            let mut last: Option<FileId> = None;
            let mut is_listed = false;
            tree.each_passed(&plan, None, &mut |passed| {
                shown.versions_count += 1;
                shown.content_bytes += passed.bytes;
                if last != Some(passed.file) {
                    last = Some(passed.file);
                    shown.files_count += 1;
                    is_listed = shown.files.len() < FILES;
                    if is_listed {
                        shown.files.push(v1::PrunedFile {
                            path: self.path_of_passed(partition, &passed),
                            present: tree.node(passed.file)?.is_some(),
                            ..v1::PrunedFile::default()
                        });
                    }
                }
                if let Some(file) = shown.files.last_mut().filter(|_| is_listed) {
                    file.versions_count += 1;
                    file.content_bytes += passed.bytes;
                }
                Ok(true)
            })
            .map_err(index_problem)?;
            tokio::task::yield_now().await;
        }
        Ok(shown)
    }

    /// Where the file is, or was just before that version went; what cannot be told any more is
    /// named by the entry that made it.
    fn path_of_passed(&self, partition: PartitionId, passed: &Passed) -> String {
        let tree = &self.node.parts.tree;
        if let Ok(Some(path)) = tree.path_of(passed.file) {
            return path.as_str().to_owned();
        }
        let mut moment = self.present_moment();
        moment
            .0
            .insert(partition, passed.replaced.saturating_sub(1));
        let then = tree.at(Arc::new(Moment(moment.0)));
        match then.path_of(passed.file) {
            Ok(Some(path)) => path.as_str().to_owned(),
            _ => format!("(made in {}:{})", partition.0, passed.file.index),
        }
    }

    pub(super) fn prune_now(
        &self,
        request: &v1::ApplyPruneRequest,
    ) -> Answer<Answers<v1::ApplyPruneResponse>> {
        let only = self.one_volume(&request.volume)?;
        let (sender, answers) = mpsc::channel(STREAM_QUEUE);
        let parts = Arc::clone(&self.node.parts);
        let runtime = parts.env.runtime().clone();
        runtime.spawn("prune", async move {
            let done = upkeep::tend(&parts, only).await;
            let answer = match done {
                Ok(tended) => Ok(v1::ApplyPruneResponse {
                    message: Some(Message::Report(v1::PruneReport {
                        versions_count: tended.pruned.versions,
                        content_bytes: tended.pruned.bytes,
                        freed_bytes: tended.freed_bytes,
                        grace: prost_types::Duration::try_from(parts.config.options.sweep.grace)
                            .ok(),
                    })),
                }),
                Err(why) => Err(Problem::internal(why)),
            };
            let _gone = sender.send(answer).await.is_err();
        });
        Ok(answers)
    }
}
