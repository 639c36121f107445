//! [driver] What differs between two moments, as a stream.

use super::read::Writers;
use super::{NodeService, index_problem, parse_path, render};
use crate::lines::{TEXT_BYTES, text_of, unified};
use crate::reason::Problem;
use crate::service::{Answer, Answers, STREAM_QUEUE};
use aber_log::env::{Env, Runtime};
use aber_materializer::compare::{Comparison, Difference, Kind, Standing, changed_bytes};
use aber_materializer::tree::NodeKind;
use aber_proto::generated::v1;
use aber_proto::{Content, TreePath};
use std::sync::Arc;
use tokio::sync::mpsc;

impl<E: Env> NodeService<E> {
    pub(super) fn differences(
        &self,
        request: v1::DiffRequest,
    ) -> Answer<Answers<v1::DiffResponse>> {
        let path = if request.path.is_empty() {
            TreePath::root()
        } else {
            parse_path(&request.path)?
        };
        self.check_served_at(path.as_str())?;
        let base = self.moment(request.base.as_ref(), path.as_str())?;
        let base = base.ok_or_else(|| Problem::usage("a diff needs a moment to begin at"))?;
        let target = self.moment(request.target.as_ref(), path.as_str())?;
        let target = target.unwrap_or_else(|| self.present_moment());
        let tree = &self.node.parts.tree;
        let moments = (Arc::new(base), Arc::new(target));
        let comparison = Comparison::new(tree, moments, path.clone()).map_err(index_problem)?;
        let (sender, answers) = mpsc::channel(STREAM_QUEUE);
        let service = self.clone();
        self.node.parts.env.runtime().spawn("diff", async move {
            let sent = service.send_differences(comparison, &sender, (&path, request.text));
            if let Err(problem) = sent.await {
                let _gone = sender.send(Err(problem)).await.is_err();
            }
        });
        Ok(answers)
    }

    async fn send_differences(
        &self,
        mut comparison: Comparison<E::Kv>,
        sender: &mpsc::Sender<Result<v1::DiffResponse, Problem>>,
        (path, with_text): (&TreePath, bool),
    ) -> Result<(), Problem> {
        let mut writers = Writers::default();
        while let Some(found) = comparison.more().map_err(index_problem)? {
            for difference in found {
                let Some(difference) = shown(difference) else {
                    continue;
                };
                // Who asks about one file wants to see what became of it.
                let sides = [&difference.before, &difference.after];
                let is_it = sides.into_iter().flatten().any(|it| it.path == *path);
                let response = self.difference(&difference, with_text || is_it, &mut writers);
                let response = response.await;
                if sender.send(Ok(response)).await.is_err() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    async fn difference(
        &self,
        difference: &Difference,
        with_text: bool,
        writers: &mut Writers,
    ) -> v1::DiffResponse {
        let mut item = |standing: &Option<Standing>| {
            let standing = standing.as_ref()?;
            let mut item = render::item(standing.path.to_string(), &standing.node);
            self.add_writer(&mut item, writers);
            Some(item)
        };
        let (before, after) = (item(&difference.before), item(&difference.after));
        let mut response = v1::DiffResponse {
            kind: kind(difference.kind).into(),
            before,
            after,
            ..v1::DiffResponse::default()
        };
        let has_content = matches!(difference.kind, Kind::Added | Kind::Removed | Kind::Changed);
        if !has_content {
            return response;
        }
        let (old, new) = (content(&difference.before), content(&difference.after));
        response.changed_bytes = match (old, new) {
            (Some(old), Some(new)) => self.bytes_between(old, new).await,
            (one, other) => one.or(other).map_or(0, Content::size),
        };
        if with_text && (old.is_some() || new.is_some()) {
            let text = self.text_between(old, new, difference).await;
            response.unified = text.unwrap_or_default();
        }
        response
    }

    /// How much of a content is not in the one before: by chunks, or all of it where their lists
    /// cannot be had.
    async fn bytes_between(&self, old: &Content, new: &Content) -> u64 {
        let contents = &self.node.parts.content;
        let (Content::Chunks(_), Content::Chunks(_)) = (old, new) else {
            return new.size();
        };
        match (contents.chunks_of(old).await, contents.chunks_of(new).await) {
            (Ok(old), Ok(new)) => changed_bytes(&old, &new),
            _ => new.size(),
        }
    }

    async fn text_between(
        &self,
        old: Option<&Content>,
        new: Option<&Content>,
        difference: &Difference,
    ) -> Option<String> {
        let is_large = |content: &Option<&Content>| content.is_some_and(|c| c.size() > TEXT_BYTES);
        if is_large(&old) || is_large(&new) {
            return None;
        }
        let mut bytes = Vec::new();
        for content in [old, new] {
            bytes.push(match content {
                Some(content) => self.bytes_of(content).await.ok()?,
                None => Vec::new(),
            });
        }
        let [old, new] = bytes.as_slice() else {
            return None;
        };
        let name = |standing: &Option<Standing>| match standing {
            Some(standing) => format!("{}\t{}", standing.path, standing.node.version),
            None => "/dev/null".to_owned(),
        };
        let names = (name(&difference.before), name(&difference.after));
        unified(text_of(old)?, text_of(new)?, (&names.0, &names.1))
    }
}

/// A difference that shows: a directory in the place of another one does so by its mode alone.
fn shown(difference: Difference) -> Option<Difference> {
    if difference.kind != Kind::Changed {
        return Some(difference);
    }
    let is_directory = |it: &Option<Standing>| {
        let node = it.as_ref().map(|it| &it.node);
        node.is_some_and(|node| node.is_directory())
    };
    if !is_directory(&difference.after) {
        return Some(difference);
    }
    let mode = |it: &Option<Standing>| it.as_ref().map(|it| it.node.mode);
    (mode(&difference.before) != mode(&difference.after)).then_some(Difference {
        kind: Kind::Attributes,
        ..difference
    })
}

fn content(standing: &Option<Standing>) -> Option<&Content> {
    match standing.as_ref().map(|standing| &standing.node.kind) {
        Some(NodeKind::File(content)) => Some(content),
        _ => None,
    }
}

fn kind(kind: Kind) -> v1::DiffKind {
    match kind {
        Kind::Added => v1::DiffKind::Added,
        Kind::Removed => v1::DiffKind::Removed,
        Kind::Changed => v1::DiffKind::Changed,
        Kind::Renamed => v1::DiffKind::Renamed,
        Kind::Attributes => v1::DiffKind::Attributes,
    }
}
