//! [adapter] `restore`, `rollback`, `undo`, `redo`, `revert`: a plan is shown, then done.

mod show;

use self::show::{plan_text, plan_value, planned_value};
use super::at;
use super::print;
use super::when;
use super::{Context, Outcome, members, parse_path};
use crate::client::Client;
use crate::reason::Problem;
use aber_proto::generated::v1::{self, plan_revert_request::What};
use clap::Args;
use serde_json::{Value, json};

/// What all of them take.
#[derive(Args, Debug)]
pub(crate) struct PlanArgs {
    /// Show what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Do what a plan shows that was made before
    #[arg(long, value_name = "ID", conflicts_with_all = ["dry_run", "all"])]
    plan: Option<String>,
    /// What others changed later too
    #[arg(long)]
    all: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// A comment for the history, at most 200 bytes
    #[arg(long)]
    comment: Option<String>,
}

/// Arguments of `restore`.
#[derive(Args, Debug)]
pub(crate) struct RestoreArgs {
    /// As of when
    #[arg(
        long,
        value_name = "WHEN",
        allow_hyphen_values = true,
        required_unless_present = "plan"
    )]
    at: Option<String>,
    #[command(flatten)]
    plan: PlanArgs,
    /// What to bring back, with all that was below it
    #[arg(required_unless_present = "plan")]
    path: Option<String>,
}

/// Arguments of `rollback`.
#[derive(Args, Debug)]
pub(crate) struct RollbackArgs {
    /// As of when
    #[arg(
        long,
        visible_alias = "at",
        value_name = "WHEN",
        allow_hyphen_values = true,
        required_unless_present = "plan"
    )]
    to: Option<String>,
    /// Only what this member changed
    #[arg(long, value_name = "NODE")]
    by: Vec<String>,
    /// Leave what was made since
    #[arg(long)]
    keep_new: bool,
    #[command(flatten)]
    plan: PlanArgs,
    /// The directory
    #[arg(default_value = "/")]
    path: String,
}

/// Arguments of `undo` and `redo`.
#[derive(Args, Debug)]
pub(crate) struct StepArgs {
    /// Not only what this node did; for admins
    #[arg(long)]
    anyone: bool,
    #[command(flatten)]
    plan: PlanArgs,
}

/// Arguments of `revert`.
#[derive(Args, Debug)]
pub(crate) struct RevertArgs {
    #[command(flatten)]
    plan: PlanArgs,
    /// A change, or one event of it: 3:1842, 3:1842.7
    #[arg(required_unless_present = "plan")]
    event: Option<String>,
}

/// Runs `restore`.
pub(crate) async fn restore(context: &Context, args: RestoreArgs) -> Outcome {
    let client = context.connect().await?;
    let title = args.path.clone().unwrap_or_default();
    let what = match (&args.path, &args.at) {
        (Some(path), Some(when)) => {
            let path = parse_path(path)?.as_str().to_owned();
            let at = at::moment(context, &client, when, &path).await?;
            Some(What::To(v1::RevertTo {
                path,
                at: Some(at),
                restore: true,
                ..v1::RevertTo::default()
            }))
        }
        _ => None,
    };
    let when = args.at.unwrap_or_default();
    let title = format!("{} as of {}", print::escape(&title), print::escape(&when));
    run(context, &client, what, &title, args.plan).await
}

/// Runs `rollback`.
pub(crate) async fn rollback(context: &Context, args: RollbackArgs) -> Outcome {
    let client = context.connect().await?;
    let path = parse_path(&args.path)?.as_str().to_owned();
    let what = match &args.to {
        Some(when) => {
            let at = at::moment(context, &client, when, &path).await?;
            Some(What::To(v1::RevertTo {
                path: path.clone(),
                at: Some(at),
                authors: args.by,
                keep_new: args.keep_new,
                restore: false,
            }))
        }
        None => None,
    };
    let when = args.to.unwrap_or_default();
    let title = format!("{} as of {}", print::escape(&path), print::escape(&when));
    run(context, &client, what, &title, args.plan).await
}

/// Runs `undo` or `redo`.
pub(crate) async fn step(context: &Context, args: StepArgs, again: bool) -> Outcome {
    let client = context.connect().await?;
    let step = v1::StepBack {
        anyone: args.anyone,
    };
    let (what, title) = if again {
        (What::Redo(step), "To do again")
    } else {
        (What::Undo(step), "To undo")
    };
    run(context, &client, Some(what), title, args.plan).await
}

/// Runs `revert`.
pub(crate) async fn revert(context: &Context, args: RevertArgs) -> Outcome {
    let client = context.connect().await?;
    let what = args.event.as_deref().map(parse_event).transpose()?;
    run(context, &client, what, "To take back", args.plan).await
}

/// `3:1842` or `3:1842.7`.
fn parse_event(text: &str) -> Result<What, Problem> {
    let wrong = || {
        Problem::usage(format!(
            "{text:?} is no change: 3:1842, or 3:1842.7 for one event"
        ))
    };
    let (entry, number) = when::event(text).ok_or_else(wrong)?;
    Ok(match number {
        None => What::Entry(entry),
        Some(number) => What::Event(v1::EventId {
            entry: Some(entry),
            number,
        }),
    })
}

async fn run(
    context: &Context,
    client: &Client,
    what: Option<What>,
    title: &str,
    args: PlanArgs,
) -> Outcome {
    if let Some(plan) = &args.plan {
        let value = json!({"plan": plan, "changes": null});
        return apply(context, client, plan, &args, value).await;
    }
    let request = v1::PlanRevertRequest {
        what,
        all: args.all,
    };
    let plan = client.plan_revert(request).await?;
    for change in &plan.changes {
        if context.out.json {
            context
                .out
                .row("planned", String::new, planned_value(change));
        }
    }
    let mut value = plan_value(&plan);
    let mut text = plan_text(&plan, title);
    if plan.change_count > 1 {
        let count = plan.change_count;
        text = format!(
            "{text}\n{count} changes, one after the other: if it stops half-way, aber undo takes all of it \
             back."
        );
    }
    let id = plan.plan.as_ref().map(|plan| plan.id.clone());
    let id = id.unwrap_or_default();
    if plan.change_count == 0 {
        let text = format!("{text}\nThere is nothing to do.");
        context
            .out
            .result(Some(text), done(value, &v1::RevertResult::default()));
        return Ok(if plan.skipped_count > 0 { 3 } else { 0 });
    }
    if args.dry_run {
        let atomic = match plan.change_count {
            1 => " One change, all or nothing.",
            _ => "",
        };
        let text = format!(
            "{text}\nNothing has changed yet.{atomic} To do it: --plan {id} (good for 1 h)"
        );
        context
            .out
            .result(Some(text), done(value, &v1::RevertResult::default()));
        return Ok(0);
    }
    if args.yes {
        context.out.notice(&text, value.clone());
    } else {
        members::ask(context, &format!("{text}\nDo it?"))?;
    }
    if let Value::Object(fields) = &mut value {
        fields.insert("plan".to_owned(), json!(id));
    }
    apply(context, client, &id, &args, value).await
}

async fn apply(
    context: &Context,
    client: &Client,
    plan: &str,
    args: &PlanArgs,
    value: Value,
) -> Outcome {
    let request = v1::ApplyRevertRequest {
        plan_id: plan.to_owned(),
        options: Some(v1::WriteOptions {
            comment: args.comment.clone().unwrap_or_default(),
            via: "cli".to_owned(),
            ..v1::WriteOptions::default()
        }),
    };
    let mut stream = client.apply_revert(request).await?;
    let mut result = v1::RevertResult::default();
    while let Some(response) = stream.next().await? {
        match response.message {
            Some(v1::apply_revert_response::Message::Result(last)) => result = last,
            Some(v1::apply_revert_response::Message::Progress(progress)) if progress.total > 1 => {
                let text = format!("{} of {} {}", progress.done, progress.total, progress.unit);
                let value =
                    json!({"done": progress.done, "total": progress.total, "unit": progress.unit});
                context.out.progress(&text, value);
            }
            _ => {}
        }
    }
    let entries = result.entries.iter();
    let entries: Vec<String> = entries.filter_map(|id| print::entry_id(Some(id))).collect();
    let (text, code) = if !result.refused.is_empty() {
        let text = format!(
            "stopped half-way: {}\n{} done; to take them back: aber undo; to go on: plan again",
            print::escape(&result.refused),
            print::plural(entries.len() as u64, "change"),
        );
        (text, 3)
    } else if result.waiting_count > 0 {
        let text =
            super::file::waiting_text(u64::from(result.waiting_count), result.waiting_for.as_ref());
        (text, 7)
    } else {
        (
            format!(
                "committed {}; to take it back: aber undo",
                entries.join(" ")
            ),
            0,
        )
    };
    context.out.result(Some(text), done(value, &result));
    Ok(code)
}

/// A plan's value with what became of it.
fn done(mut value: Value, result: &v1::RevertResult) -> Value {
    if let Value::Object(fields) = &mut value {
        let entries = result.entries.iter().map(|id| print::entry_id(Some(id)));
        fields.insert("entries".to_owned(), entries.collect());
        fields.insert("complete".to_owned(), json!(result.complete));
        fields.insert("waiting_changes".to_owned(), json!(result.waiting_count));
        let waiting = result.waiting_for.as_ref().map(print::notice_value);
        fields.insert("waiting_for".to_owned(), json!(waiting));
        let refused = Some(&result.refused).filter(|text| !text.is_empty());
        fields.insert("refused".to_owned(), json!(refused));
    }
    value
}
