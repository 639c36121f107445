//! [driver] A plan, for people and for the API.

use super::super::{NodeService, render};
use super::{Asked, SHOWN, is_seen};
use crate::reason::Problem;
use aber_log::env::Env;
use aber_materializer::revert::{Kind, Plan, Skip, Step, Wish};
use aber_materializer::tree::{Node, NodeKind};
use aber_proto::generated::v1::{self, DiffKind, SkipReason};
use aber_proto::{FileId, PartitionId};
use std::collections::BTreeMap;

impl<E: Env> NodeService<E> {
    pub(super) fn show_way(
        &self,
        asked: &Asked<E::Kv>,
        plans: &BTreeMap<PartitionId, Plan>,
    ) -> Result<v1::PlanRevertResponse, Problem> {
        let mut response = v1::PlanRevertResponse {
            skipped: asked.skipped.clone(),
            then: asked.then.as_ref().map(|moment| v1::At {
                at: Some(v1::at::At::Cursor(super::super::moment::cursor_of(moment))),
            }),
            taken_back: asked
                .entries
                .iter()
                .take(100)
                .map(|(partition, index)| render::entry_id(*partition, *index))
                .collect(),
            taken_back_text: asked.text.clone(),
            ..v1::PlanRevertResponse::default()
        };
        let mut content = Vec::new();
        for (partition, plan) in plans {
            let wishes = asked.wishes.get(partition);
            let wish = |id: &FileId| wishes.and_then(|wishes| wishes.get(id));
            for step in plan.steps.iter().filter(|step| is_seen(step)) {
                let Some(wish) = wish(&step.file) else {
                    continue;
                };
                count(step, wish, &mut response);
                if let Some(rows) = step.event.operation.content() {
                    content.extend(rows.rows().iter().copied());
                }
                if response.changes.len() < SHOWN {
                    response.changes.push(shown(asked, step, wish));
                }
            }
            for (id, why) in &plan.skipped {
                let skipped = self.show_skip(asked, *id, *why);
                // What is there now was named already, with who wrote it.
                let is_named = |known: &v1::SkippedPath| known.path == skipped.path;
                if !asked.skipped.iter().any(is_named) {
                    response.skipped.push(skipped);
                }
            }
        }
        response.skipped_count = response.skipped.len() as u64;
        response.skipped.truncate(SHOWN);
        let missing = self.node.parts.content.store().missing(&content);
        let missing = missing.map_err(|p| super::super::read::chunk_problem(&p, ""))?;
        response.fetch_bytes = missing.iter().map(|chunk| u64::from(chunk.length)).sum();
        response.changes.sort_by(|a, b| a.path.cmp(&b.path));
        response.skipped.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(response)
    }

    fn show_skip(&self, asked: &Asked<E::Kv>, id: FileId, why: Skip) -> v1::SkippedPath {
        let path = asked.old_paths.get(&id).cloned();
        let path = path.or_else(|| {
            let path = asked.now.path_of(id).ok().flatten();
            path.map(|path| path.to_string())
        });
        let path = path.unwrap_or_default();
        match why {
            Skip::NoParent => self.skipped(path, SkipReason::NoParent, None),
            Skip::InTheWay(other) => {
                let by = self.last_change(other, 0).ok().flatten();
                let by = (other.partition, by.unwrap_or(other.index));
                self.skipped(path, SkipReason::InTheWay, Some(by))
            }
        }
    }
}

fn size(node: Option<&Node>) -> u64 {
    match node.map(|node| &node.kind) {
        Some(NodeKind::File(content)) => content.size(),
        _ => 0,
    }
}

fn count(step: &Step, wish: &Wish, response: &mut v1::PlanRevertResponse) {
    match step.kind {
        Kind::Returned => {
            response.returned_count += 1;
            response.returned_bytes += size(wish.then.as_ref());
        }
        Kind::Removed => response.removed_count += 1,
        Kind::Replaced => response.replaced_count += 1,
        Kind::Renamed => response.renamed_count += 1,
        Kind::Attributes => response.attributes_count += 1,
        Kind::Between => {}
    }
}

fn shown<K: aber_log::env::Kv>(asked: &Asked<K>, step: &Step, wish: &Wish) -> v1::PlannedChange {
    let now_path = asked.now.path_of(step.file).ok().flatten();
    let now_path = now_path.map_or_else(String::new, |path| path.to_string());
    let old_path = asked.old_paths.get(&step.file).cloned();
    let old_path = old_path.unwrap_or_else(|| now_path.clone());
    let item = |node: &Option<Node>, path: &str| {
        let node = node.as_ref()?;
        Some(render::item(path.to_owned(), node))
    };
    let mut planned = v1::PlannedChange {
        kind: 0,
        path: old_path.clone(),
        from_path: String::new(),
        now: item(&wish.now, &now_path),
        then: item(&wish.then, &old_path),
    };
    planned.set_kind(match step.kind {
        Kind::Returned => DiffKind::Added,
        Kind::Removed => DiffKind::Removed,
        Kind::Replaced => DiffKind::Changed,
        Kind::Renamed => DiffKind::Renamed,
        Kind::Attributes | Kind::Between => DiffKind::Attributes,
    });
    match step.kind {
        Kind::Removed => planned.path = now_path,
        Kind::Renamed => planned.from_path = now_path,
        _ => {}
    }
    planned
}

fn counted(count: u64, one: &str, many: &str) -> String {
    if count == 1 {
        format!("1 {one}")
    } else {
        format!("{count} {many}")
    }
}

/// What will be done, as sentences.
pub(super) fn lines(plan: &v1::PlanRevertResponse) -> Vec<String> {
    let rows = [
        (plan.returned_count, "+", "comes back", "come back"),
        (
            plan.removed_count,
            "-",
            "goes; it stays in the history",
            "go; they stay in the history",
        ),
        (
            plan.replaced_count,
            "~",
            "gets the content it had",
            "get the content they had",
        ),
        (
            plan.renamed_count,
            ">",
            "gets the name it had",
            "get the names they had",
        ),
        (
            plan.attributes_count,
            "%",
            "gets the mode or time it had",
            "get the modes or times they had",
        ),
    ];
    let mut lines = Vec::new();
    for (count, sign, one, many) in rows {
        if count > 0 {
            let (one, many) = (format!("item {one}"), format!("items {many}"));
            lines.push(format!("{sign} {}", counted(count, &one, &many)));
        }
    }
    lines
}

/// What is skipped or not atomic.
pub(super) fn warnings(plan: &v1::PlanRevertResponse) -> Vec<v1::Notice> {
    let warning = |code: &str, what: String, why: &str, mend: &str| v1::Notice {
        code: code.to_owned(),
        severity: v1::Health::Degraded.into(),
        what,
        why: why.to_owned(),
        mend: mend.to_owned(),
        ..v1::Notice::default()
    };
    let mut warnings = Vec::new();
    if plan.skipped_count > 0 {
        let what = counted(
            plan.skipped_count,
            "path is left as it is",
            "paths are left as they are",
        );
        let why = "somebody changed them later, or what stays is in the way";
        warnings.push(warning(
            "SKIPPED",
            what,
            why,
            "to take what others changed too: --all",
        ));
    }
    if plan.change_count > 1 {
        let what = format!("{} changes one after the other, not one", plan.change_count);
        let why = "one change holds at most 1,024 events, of one partition";
        let mend = "if it stops half-way, aber undo takes all of it back";
        warnings.push(warning("NOT_ATOMIC", what, why, mend));
    }
    warnings
}
