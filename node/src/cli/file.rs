//! [adapter] Commands on files: `put ls mv cp rm mkdir where`.

use super::get::Pages;
use super::print::{self, Output};
use super::progress::{Counters, Progress};
use super::put::{self, Source, Summary, event};
use super::walk;
use super::write::{STALL, Writer, Written};
use super::{Context, Outcome, parse_path};
use crate::client::Client;
use crate::reason::{Problem, Reason};
use aber_proto::TreePath;
use aber_proto::generated::v1::{self, ItemKind, event::Operation};
use clap::{Args, ValueEnum};
use serde_json::json;
use std::path::{Path, PathBuf};

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

/// Arguments of `put`.
#[derive(Args, Debug)]
pub(crate) struct PutArgs {
    /// Directories with all that is in them
    #[arg(short, long)]
    recursive: bool,
    /// Make missing directories above the destination
    #[arg(short, long)]
    parents: bool,
    #[command(flatten)]
    write: WriteArgs,
    /// Local files; `-` is standard input
    #[arg(required = true)]
    sources: Vec<PathBuf>,
    /// Where to in the tree; a directory, or ending in `/`: into it
    destination: String,
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

/// Arguments of `where`.
#[derive(Args, Debug)]
pub(crate) struct WhereArgs {
    /// A file
    path: String,
}

impl WriteArgs {
    fn writer(&self, client: Client) -> Writer {
        Writer {
            client,
            level: self.ack.into(),
            stall: STALL,
            movement: Counters::start(),
            comment: self.comment.clone().unwrap_or_default(),
        }
    }
}

/// Runs `put`.
pub(crate) async fn put(context: &Context, args: PutArgs) -> Outcome {
    let into = args.destination.ends_with('/');
    let destination = parse_path(&args.destination)?;
    let stdin = args.sources.iter().any(|source| source == Path::new("-"));
    if stdin && (into || args.sources.len() > 1 || destination.is_root()) {
        let detail = "standard input needs the path of a file: aber put - /notes/today.txt";
        return Err(Problem::usage(detail));
    }
    for source in args.sources.iter().filter(|_| !stdin) {
        check_source(source, args.recursive)?;
    }
    let client = context.connect().await?;
    let writer = args.write.writer(client.clone());
    let there = client.find(destination.as_str()).await?;
    let is_directory = there.is_some_and(|item| item.kind() == ItemKind::Directory);
    let into = into || is_directory || args.sources.len() > 1;
    let base = if into {
        Some(destination.clone())
    } else {
        destination.parent()
    };
    let base = base.unwrap_or_else(TreePath::root);
    if args.parents {
        make_base(&writer, &base).await?;
    } else if !(into && is_directory) && client.find(base.as_str()).await?.is_none() {
        let problem = Problem::new(Reason::NoParent);
        return Err(problem.with("path", base.join("x").map_or(base, |_| destination)));
    }
    let progress = Progress::show(&context.out, "put", &writer.movement);
    let put = if stdin {
        if is_directory {
            return Err(Problem::new(Reason::IsADirectory).with("path", destination));
        }
        let path = destination.as_str().to_owned();
        let header = v1::UploadHeader {
            path,
            ..Default::default()
        };
        put::upload_reader(&writer, header, tokio::io::stdin()).await
    } else {
        let sources = sources(&args.sources, &destination, into)?;
        put::put(&writer, sources, &context.out).await
    };
    drop(progress);
    put_result(&context.out, &put?, writer.level)
}

/// Refuses what cannot be put before anything is sent.
fn check_source(source: &Path, recursive: bool) -> Result<(), Problem> {
    let metadata = std::fs::symlink_metadata(source);
    let metadata = metadata.map_err(|error| walk::unreadable(source, &error))?;
    if metadata.is_dir() && !recursive {
        let source = source.display();
        let detail = format!("{source} is a directory; with all that is in it: put -r {source}");
        return Err(Problem::usage(detail));
    }
    if metadata.is_dir() {
        std::fs::read_dir(source).map_err(|error| walk::unreadable(source, &error))?;
    } else if metadata.is_file() {
        walk::open(source).map_err(|error| walk::unreadable(source, &error))?;
    }
    Ok(())
}

async fn make_base(writer: &Writer, base: &TreePath) -> Result<(), Problem> {
    if base.is_root() {
        return Ok(());
    }
    let path = base.as_str().to_owned();
    let make = Operation::MakeDirectory(v1::MakeDirectory {
        path,
        parents: true,
    });
    writer.append(vec![event(make)]).await.map(drop)
}

fn sources(locals: &[PathBuf], destination: &TreePath, into: bool) -> Result<Vec<Source>, Problem> {
    let place = |local: &PathBuf| {
        if !into {
            return Ok(destination.clone());
        }
        let name = match local.file_name() {
            Some(name) => Some(name.to_owned()),
            // "." or "..": the directory's own name.
            None => local
                .canonicalize()
                .ok()
                .and_then(|whole| whole.file_name().map(std::ffi::OsStr::to_owned)),
        };
        let shown = local.display().to_string();
        let name = name.and_then(|name| name.into_string().ok());
        let name = name.ok_or_else(|| Problem::usage(format!("{shown} has no usable name")))?;
        destination
            .join(&name)
            .map_err(|problem| Problem::name(&shown, problem))
    };
    let source = |local: &PathBuf| {
        Ok(Source {
            path: place(local)?,
            local: local.clone(),
        })
    };
    locals.iter().map(source).collect()
}

fn put_result(out: &Output, summary: &Summary, level: v1::Acknowledgement) -> Outcome {
    let entries: Vec<String> = summary
        .entries
        .iter()
        .map(|(partition, index)| format!("{partition}:{index}"))
        .collect();
    let reached = if summary.waiting > 0 {
        v1::Acknowledgement::Queued
    } else {
        level
    };
    let text = format!(
        "read {} · new {} · {}{}{}",
        print::bytes(summary.read_bytes),
        print::bytes(summary.new_bytes),
        print::level(reached),
        if entries.is_empty() { "" } else { " " },
        entries.join(" ")
    );
    let value = json!({
        "files": summary.files,
        "directories": summary.directories,
        "links": summary.links,
        "read_bytes": summary.read_bytes,
        "new_bytes": summary.new_bytes,
        "reused_bytes": summary.reused_bytes,
        "level": print::level(reached),
        "entries": entries,
        "failed": summary.failed,
        "waiting_changes": summary.waiting,
        "waiting_for": summary.waiting_for.as_ref().map(print::notice_value),
    });
    if summary.failed > put::SHOWN {
        let more = summary.failed - put::SHOWN;
        out.notice(
            &format!("+ {} more left out", print::count(more)),
            json!({"more": more}),
        );
    }
    if summary.waiting > 0 {
        let wait = waiting_text(summary.waiting, summary.waiting_for.as_ref());
        out.result(Some(format!("{text}\n{wait}")), value);
        return Ok(7);
    }
    out.result(Some(text), value);
    Ok(if summary.failed > 0 { 3 } else { 0 })
}

fn waiting_text(changes: u64, notice: Option<&v1::Notice>) -> String {
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
        let request = v1::GetItemRequest {
            path: path.as_str().to_owned(),
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
        let mut pages = Pages::new(path.as_str(), args.recursive);
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
    let writer = args.write.writer(client.clone());
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
    let writer = args.write.writer(client.clone());
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
    let writer = args.write.writer(client);
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
    let writer = args.write.writer(client);
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

/// Runs `where`.
pub(crate) async fn where_is(context: &Context, args: WhereArgs) -> Outcome {
    let path = parse_path(&args.path)?;
    let client = context.connect().await?;
    let request = v1::GetItemRequest {
        path: path.as_str().to_owned(),
        with_holders: true,
        ..Default::default()
    };
    let response = client.get_item(request).await?;
    let item = response.item.unwrap_or_default();
    for holder in &response.holders {
        let text = || {
            let held = if holder.held_bytes >= item.size {
                "complete".to_owned()
            } else {
                let missing = item.size - holder.held_bytes;
                format!("{} missing", print::bytes(missing))
            };
            let away = if holder.reachable { "" } else { "   away" };
            format!("{:<16}  {held}{away}", print::escape(&holder.node))
        };
        let value = json!({
            "node": holder.node, "held_bytes": holder.held_bytes,
            "reachable": holder.reachable, "check_time": print::time(holder.check_time.as_ref()),
        });
        context.out.row("holder", text, value);
    }
    let complete = response
        .holders
        .iter()
        .filter(|holder| holder.held_bytes >= item.size)
        .count();
    let text = format!("{} has it whole", print::plural(complete as u64, "node"));
    context.out.result(Some(text), print::item_value(&item));
    Ok(0)
}
