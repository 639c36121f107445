//! [adapter] Commands on files: `ls mv cp rm mkdir where`.

use super::at::AtArg;
use super::get::Pages;
use super::load::{Summary, event};
use super::print::{self, Output};
use super::progress::Counters;
use super::write::{STALL, Writer, Written, new_plan_id};
use super::{Context, Outcome, parse_path};
use crate::client::Client;
use crate::reason::{Problem, Reason};
use aber_proto::TreePath;
use aber_proto::generated::v1::{self, ItemKind, event::Operation};
use clap::{Args, ValueEnum};
use serde_json::json;

/// How safe a write is to be before the command ends.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ack {
    /// Durable on this node
    Queued,
    /// Ordered by a majority, content on two nodes
    Committed,
    /// On every node that can be reached
    Spread,
}

impl From<Ack> for v1::Acknowledgement {
    fn from(ack: Ack) -> Self {
        match ack {
            Ack::Queued => Self::Queued,
            Ack::Committed => Self::Committed,
            Ack::Spread => Self::Spread,
        }
    }
}

/// What every write takes.
#[derive(Args, Debug)]
pub(crate) struct WriteArgs {
    /// How safe the write is to be before the command ends
    #[arg(long, value_enum, default_value_t = Ack::Committed)]
    ack: Ack,
    /// A comment for the history, at most 200 bytes
    #[arg(long)]
    comment: Option<String>,
}

/// Arguments of `ls`.
#[derive(Args, Debug)]
pub(crate) struct LsArgs {
    /// Mode, size, time and author too
    #[arg(short, long)]
    long: bool,
    /// Everything below too
    #[arg(short = 'R', long)]
    recursive: bool,
    #[command(flatten)]
    at: AtArg,
    /// What to list
    #[arg(default_value = "/")]
    paths: Vec<String>,
}

/// Arguments of `mv` and `cp`.
#[derive(Args, Debug)]
pub(crate) struct MoveArgs {
    /// Fail if something stands at the destination
    #[arg(short = 'n', long)]
    no_replace: bool,
    #[command(flatten)]
    write: WriteArgs,
    /// Paths of the tree
    #[arg(required = true)]
    sources: Vec<String>,
    /// The new path; a directory, or ending in `/`: into it
    destination: String,
}

/// Arguments of `rm`.
#[derive(Args, Debug)]
pub(crate) struct RmArgs {
    /// Directories with all that is in them
    #[arg(short, long)]
    recursive: bool,
    #[command(flatten)]
    write: WriteArgs,
    /// What to remove; history keeps it
    #[arg(required = true)]
    paths: Vec<String>,
}

/// Arguments of `mkdir`.
#[derive(Args, Debug)]
pub(crate) struct MkdirArgs {
    /// Make missing directories above too, and accept one that is there
    #[arg(short, long)]
    parents: bool,
    #[command(flatten)]
    write: WriteArgs,
    /// Directories to make
    #[arg(required = true)]
    paths: Vec<String>,
}

impl WriteArgs {
    /// The writer they ask for.
    pub(crate) fn writer(&self, client: Client) -> Result<Writer, Problem> {
        Ok(Writer {
            client,
            level: self.ack.into(),
            stall: STALL,
            movement: Counters::start(),
            comment: self.comment.clone().unwrap_or_default(),
            plan: new_plan_id()?,
        })
    }
}

/// What changes wait for.
pub(crate) fn waiting_text(changes: u64, notice: Option<&v1::Notice>) -> String {
    let why = notice.map_or_else(
        || "the node does not say for what; see: aber status".to_owned(),
        print::notice_text,
    );
    let waits = if changes == 1 { "waits" } else { "wait" };
    format!(
        "{} {waits} safely in the outbox\n{why}",
        print::plural(changes, "change")
    )
}

/// The end of a write that is not `put`.
fn write_result(out: &Output, written: &[Written], level: v1::Acknowledgement) -> Outcome {
    let mut summary = Summary::default();
    for one in written {
        summary.take(one.clone());
    }
    let entries: Vec<_> = written
        .iter()
        .filter_map(|one| print::entry_id(one.result.entry.as_ref()))
        .collect();
    let reached = if summary.waiting > 0 {
        v1::Acknowledgement::Queued
    } else {
        level
    };
    let chain = |one: &Written| print::hex(&one.result.chain_hash);
    let value = json!({
        "level": print::level(reached),
        "entries": entries,
        "chain_hashes": written.iter().map(chain).collect::<Vec<_>>(),
        "waiting_changes": summary.waiting,
        "waiting_for": summary.waiting_for.as_ref().map(print::notice_value),
    });
    if summary.waiting > 0 {
        out.result(
            Some(waiting_text(summary.waiting, summary.waiting_for.as_ref())),
            value,
        );
        return Ok(7);
    }
    out.result(
        Some(format!("{} {}", print::level(reached), entries.join(" "))),
        value,
    );
    Ok(0)
}

/// Runs `ls`.
pub(crate) async fn ls(context: &Context, args: LsArgs) -> Outcome {
    let paths = args
        .paths
        .iter()
        .map(|path| parse_path(path))
        .collect::<Result<Vec<_>, _>>()?;
    let client = context.connect().await?;
    let mut count = 0u64;
    for path in &paths {
        let read = args.at.read(context, &client, path.as_str()).await?;
        let request = v1::GetItemRequest {
            path: path.as_str().to_owned(),
            read: read.clone(),
            ..Default::default()
        };
        let item = client.get_item(request).await?.item.unwrap_or_default();
        if item.kind() != ItemKind::Directory {
            count += 1;
            show(&context.out, &item, path.as_str(), args.long);
            continue;
        }
        if paths.len() > 1 && !context.out.json {
            context.out.row(
                "item",
                || format!("{}:", print::escape(path.as_str())),
                json!({}),
            );
        }
        let mut pages = Pages::new(path.as_str(), args.recursive, read);
        while let Some(items) = pages.next(&client).await? {
            for item in items {
                count += 1;
                let base = if path.is_root() { "" } else { path.as_str() };
                let below = item.path.strip_prefix(base).unwrap_or(&item.path);
                let shown = below.trim_start_matches('/').to_owned();
                show(&context.out, &item, &shown, args.long);
            }
        }
    }
    context.out.result(None, json!({"items": count}));
    Ok(0)
}

fn show(out: &Output, item: &v1::Item, name: &str, long: bool) {
    let text = || {
        let slash = if item.kind() == ItemKind::Directory {
            "/"
        } else {
            ""
        };
        let target = if item.kind() == ItemKind::Symlink {
            format!(" -> {}", print::escape(&item.symlink_target))
        } else {
            String::new()
        };
        let name = format!("{}{slash}{target}", print::escape(name));
        if !long {
            return name;
        }
        let entry = print::entry_id(item.entry.as_ref()).unwrap_or_default();
        format!(
            "{}  {:>10}  {:<20}  {:<10}  {:>8}  {name}",
            mode_text(item),
            print::bytes(item.size),
            print::short_time(item.modify_time.as_ref().or(item.order_time.as_ref())),
            print::escape(&item.author),
            entry,
        )
    };
    out.row("item", text, print::item_value(item));
}

/// `-rw-r--r--`.
fn mode_text(item: &v1::Item) -> String {
    let kind = match item.kind() {
        ItemKind::Directory => 'd',
        ItemKind::Symlink => 'l',
        _ => '-',
    };
    let bits = "rwxrwxrwx".chars().enumerate();
    let shown = bits.map(|(bit, c)| {
        if item.mode >> (8 - bit) & 1 == 1 {
            c
        } else {
            '-'
        }
    });
    std::iter::once(kind).chain(shown).collect()
}

/// Pairs of old and new path.
async fn targets(client: &Client, args: &MoveArgs) -> Result<Vec<(TreePath, TreePath)>, Problem> {
    let destination = parse_path(&args.destination)?;
    let mut into = args.destination.ends_with('/') || args.sources.len() > 1;
    if !into {
        let there = client.find(destination.as_str()).await?;
        into = there.is_some_and(|item| item.kind() == ItemKind::Directory);
    }
    let mut pairs = Vec::new();
    for source in &args.sources {
        let source = parse_path(source)?;
        let target = match source.name() {
            None => return Err(Problem::new(Reason::RootFixed).with("path", "/")),
            Some(name) if into => destination
                .join(name)
                .map_err(|problem| Problem::name(name, problem))?,
            Some(_) => destination.clone(),
        };
        pairs.push((source, target));
    }
    Ok(pairs)
}

/// Runs `mv`.
pub(crate) async fn mv(context: &Context, args: MoveArgs) -> Outcome {
    let client = context.connect().await?;
    let writer = args.write.writer(client.clone())?;
    let mut written = Vec::new();
    for (source, target) in targets(&client, &args).await? {
        let rename = v1::Rename {
            from_path: source.as_str().to_owned(),
            to_path: target.as_str().to_owned(),
            replace: !args.no_replace,
            target: args.no_replace.then(absent),
        };
        written.push(
            writer
                .append(vec![event(Operation::Rename(rename))])
                .await?,
        );
    }
    write_result(&context.out, &written, writer.level)
}

fn absent() -> v1::Precondition {
    v1::Precondition {
        absent: true,
        ..Default::default()
    }
}

/// Runs `cp`.
pub(crate) async fn cp(context: &Context, args: MoveArgs) -> Outcome {
    let client = context.connect().await?;
    let writer = args.write.writer(client.clone())?;
    let mut written = Vec::new();
    for (source, target) in targets(&client, &args).await? {
        let copy = v1::Copy {
            from_path: source.as_str().to_owned(),
            to_path: target.as_str().to_owned(),
            replace: !args.no_replace,
            target: args.no_replace.then(absent),
        };
        written.push(writer.append(vec![event(Operation::Copy(copy))]).await?);
    }
    write_result(&context.out, &written, writer.level)
}

/// Runs `rm`.
pub(crate) async fn rm(context: &Context, args: RmArgs) -> Outcome {
    let paths: Vec<_> = args
        .paths
        .iter()
        .map(|path| parse_path(path))
        .collect::<Result<_, _>>()?;
    let client = context.connect().await?;
    let writer = args.write.writer(client)?;
    let mut written = Vec::new();
    for path in paths {
        let path = path.as_str().to_owned();
        let remove = v1::Remove {
            path,
            recursive: args.recursive,
            base: None,
        };
        written.push(
            writer
                .append(vec![event(Operation::Remove(remove))])
                .await?,
        );
    }
    write_result(&context.out, &written, writer.level)
}

/// Runs `mkdir`.
pub(crate) async fn mkdir(context: &Context, args: MkdirArgs) -> Outcome {
    let paths: Vec<_> = args
        .paths
        .iter()
        .map(|path| parse_path(path))
        .collect::<Result<_, _>>()?;
    let client = context.connect().await?;
    let writer = args.write.writer(client)?;
    let mut written = Vec::new();
    for path in paths {
        let path = path.as_str().to_owned();
        let make = Operation::MakeDirectory(v1::MakeDirectory {
            path,
            parents: args.parents,
        });
        let precondition = (!args.parents).then(absent);
        let event = v1::Event {
            precondition,
            ..event(make)
        };
        written.push(writer.append(vec![event]).await?);
    }
    write_result(&context.out, &written, writer.level)
}
