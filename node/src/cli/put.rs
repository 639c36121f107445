//! [adapter] `put`: what goes where, and how it went.

use super::file::{WriteArgs, waiting_text};
use super::load::{self, Source, Summary, event};
use super::outflow;
use super::print::{self, Output};
use super::progress::Progress;
use super::write::Writer;
use super::{Context, Outcome, parse_path, upload, walk};
use crate::reason::{Problem, Reason};
use aber_proto::TreePath;
use aber_proto::generated::v1::{self, ItemKind, event::Operation};
use clap::Args;
use serde_json::json;
use std::path::{Path, PathBuf};

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
    let writer = args.write.writer(client.clone())?;
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
    if stdin && is_directory {
        return Err(Problem::new(Reason::IsADirectory).with("path", destination));
    }
    let progress = Progress::show(&context.out, "put", &writer.movement);
    let look = || client.get_status(v1::GetStatusRequest {});
    let outflow = outflow::watch(writer.movement.clone(), outflow::LOOK_EVERY, look);
    let put = put_all(context, &writer, &args, &destination, into);
    let put = tokio::select! {
        biased;
        put = put => put,
        never = outflow => match never {},
    };
    drop(progress);
    put_result(&context.out, &put?, writer.level)
}

async fn put_all(
    context: &Context,
    writer: &Writer,
    args: &PutArgs,
    destination: &TreePath,
    into: bool,
) -> Result<Summary, Problem> {
    if args.sources.iter().any(|source| source == Path::new("-")) {
        let path = destination.as_str().to_owned();
        let header = v1::UploadHeader {
            path,
            ..Default::default()
        };
        return upload::upload_reader(writer, header, tokio::io::stdin()).await;
    }
    let sources = sources(&args.sources, destination, into)?;
    load::load(writer, sources, &context.out).await
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
    let done = summary.files + summary.directories + summary.links + summary.waiting;
    if let (0, 1, Some(problem)) = (done, summary.failed, &summary.first_failure) {
        // There was one thing to do.
        return Err(problem.clone());
    }
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
    if summary.failed > load::SHOWN {
        let more = summary.failed - load::SHOWN;
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
