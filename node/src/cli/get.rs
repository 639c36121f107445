//! [adapter] `get` and `cat`: files of the tree, onto the local disk or standard output.
//!
//! A file appears under its name whole or not at all: it is written beside it, its hash is checked,
//! then it is renamed. Modes and times of files come along.

use super::at::AtArg;
use super::print;
use super::progress::{Counters, Movement, Progress};
use super::{Context, Outcome, parse_path};
use crate::client::Client;
use crate::reason::{Problem, Reason};
use aber_proto::TreePath;
use aber_proto::generated::v1::{self, ItemKind, download_response::Message};
use clap::Args;
use serde_json::json;
use std::fs::{File, FileTimes, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Arguments of `get`.
#[derive(Args, Debug)]
pub(crate) struct GetArgs {
    /// A directory with all that is in it
    #[arg(short, long)]
    recursive: bool,
    #[command(flatten)]
    at: AtArg,
    /// What to get
    path: String,
    /// Where to; a directory: into it
    #[arg(default_value = ".")]
    local: PathBuf,
}

/// Arguments of `cat`.
#[derive(Args, Debug)]
pub(crate) struct CatArgs {
    /// Start at this byte
    #[arg(long, default_value_t = 0)]
    offset: u64,
    /// At most so many bytes [default: to the end]
    #[arg(long)]
    length: Option<u64>,
    #[command(flatten)]
    at: AtArg,
    /// Files to write to standard output
    #[arg(required = true)]
    paths: Vec<String>,
}

/// Runs `get`.
pub(crate) async fn get(context: &Context, args: GetArgs) -> Outcome {
    let path = parse_path(&args.path)?;
    let client = context.connect().await?;
    let read = args.at.read(context, &client, path.as_str()).await?;
    let source = Source {
        client: &client,
        read: read.clone(),
    };
    let item = client
        .get_item(v1::GetItemRequest {
            path: path.as_str().to_owned(),
            read,
            ..Default::default()
        })
        .await?
        .item
        .unwrap_or_default();
    let target = match path.name() {
        Some(name) if args.local.is_dir() => args.local.join(name),
        _ => args.local.clone(),
    };
    let movement = Counters::start();
    let progress = Progress::show(&context.out, "got", &movement);
    let failed = if item.kind() == ItemKind::Directory {
        if !args.recursive {
            return Err(Problem::new(Reason::IsADirectory).with("path", path));
        }
        get_tree(context, &source, &path, &target, &movement).await?
    } else {
        get_one(&source, &item, &target, &movement).await?;
        0
    };
    drop(progress);
    let files = movement.files.load(std::sync::atomic::Ordering::Relaxed);
    let received = movement
        .read_bytes
        .load(std::sync::atomic::Ordering::Relaxed);
    let local = target.display().to_string();
    let text = format!(
        "{} · {} · {}",
        print::plural(files, "file"),
        print::bytes(received),
        print::escape(&local)
    );
    let value = json!({
        "path": path.as_str(), "local": local, "files": files,
        "received_bytes": received, "failed": failed,
    });
    context.out.result(Some(text), value);
    Ok(if failed > 0 { 3 } else { 0 })
}

/// A node, and as of when it is read.
struct Source<'c> {
    client: &'c Client,
    read: Option<v1::ReadOptions>,
}

/// Gets what is below a directory; answers how much could not be written.
async fn get_tree(
    context: &Context,
    source: &Source<'_>,
    path: &TreePath,
    target: &Path,
    movement: &Movement,
) -> Result<u64, Problem> {
    make_directory(target)?;
    let mut failed = 0;
    let mut pages = Pages::new(path.as_str(), true, source.read.clone());
    while let Some(items) = pages.next(source.client).await? {
        for item in items {
            let below = relative(path, &item.path)?;
            let local = target.join(below);
            let got = match item.kind() {
                ItemKind::Directory => make_directory(&local),
                _ => get_one(source, &item, &local, movement).await,
            };
            match got {
                Ok(()) => {}
                Err(problem) if is_of_one_file(&problem) => {
                    failed += 1;
                    context.out.failure(&problem);
                }
                Err(problem) => return Err(problem),
            }
        }
    }
    Ok(failed)
}

fn is_of_one_file(problem: &Problem) -> bool {
    use Reason::{
        ContentLost, ContentMismatch, ContentNotHere, NotAFile, PathNotFound, TargetUnwritable,
    };
    matches!(
        problem.reason,
        ContentLost | ContentMismatch | ContentNotHere | NotAFile | PathNotFound | TargetUnwritable
    )
}

/// The part of an item's path below a directory; what the node says is checked again.
fn relative(base: &TreePath, path: &str) -> Result<PathBuf, Problem> {
    let parsed = TreePath::parse(path).map_err(|problem| Problem::name(path, problem))?;
    if !parsed.is_within(base) {
        return Err(Problem::internal(format!("{path} is not below {base}")));
    }
    Ok(parsed
        .components()
        .skip(base.components().count())
        .collect())
}

fn make_directory(local: &Path) -> Result<(), Problem> {
    match std::fs::create_dir(local) {
        Err(_) if local.is_dir() => Ok(()),
        other => other.map_err(|error| unwritable(local, &error)),
    }
}

pub(super) fn unwritable(local: &Path, error: &std::io::Error) -> Problem {
    if error.kind() == std::io::ErrorKind::StorageFull {
        return Problem::new(Reason::NoSpace).with("freeBytes", 0);
    }
    Problem::new(Reason::TargetUnwritable)
        .with("path", local.display())
        .with("detail", error)
}

async fn get_one(
    source: &Source<'_>,
    item: &v1::Item,
    local: &Path,
    movement: &Movement,
) -> Result<(), Problem> {
    if local.is_dir() {
        let error = std::io::Error::other("a directory stands there");
        return Err(unwritable(local, &error));
    }
    let name = local.file_name().unwrap_or_default().to_string_lossy();
    let mut short: String = name.chars().take(40).collect();
    short.insert(0, '.');
    let fresh = local.with_file_name(format!("{short}.aber-{}", std::process::id()));
    let made = match item.kind() {
        ItemKind::Symlink => std::os::unix::fs::symlink(&item.symlink_target, &fresh)
            .map_err(|error| unwritable(local, &error)),
        _ => download(source, item, &fresh, movement).await,
    };
    let placed = made
        .and_then(|()| std::fs::rename(&fresh, local).map_err(|error| unwritable(local, &error)));
    if placed.is_err() {
        let _ = std::fs::remove_file(&fresh);
    }
    movement.add(&movement.files, 1);
    placed
}

async fn download(
    source: &Source<'_>,
    item: &v1::Item,
    fresh: &Path,
    movement: &Movement,
) -> Result<(), Problem> {
    let path = TreePath::parse(&item.path).map_err(|p| Problem::name(&item.path, p))?;
    let failed = |error: std::io::Error| unwritable(fresh, &error);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(fresh)
        .map_err(failed)?;
    let mut content = Content::open(source, &path, 0, 0).await?;
    // The version that the stream brings, which may be newer than the one that was listed.
    let item = content.item.clone();
    let mut hasher = blake3::Hasher::new();
    while let Some(data) = content.next().await? {
        hasher.update(&data);
        file.write_all(&data).map_err(failed)?;
        movement.add(&movement.read_bytes, data.len() as u64);
    }
    let found = hasher.finalize();
    if !item.blake3.is_empty() && item.blake3 != found.as_bytes().as_slice() {
        let wanted = print::hex(&item.blake3).unwrap_or_default();
        return Err(Problem::new(Reason::ContentMismatch)
            .with("path", path)
            .with("wanted", wanted)
            .with("found", found.to_hex()));
    }
    set_attributes(&file, &item).map_err(failed)
}

pub(super) fn set_attributes(file: &File, item: &v1::Item) -> std::io::Result<()> {
    file.set_permissions(Permissions::from_mode(item.mode & 0o777))?;
    let Some(time) = &item.modify_time else {
        return Ok(());
    };
    let seconds = Duration::from_secs(time.seconds.unsigned_abs());
    let whole = if time.seconds < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(seconds)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(seconds)
    };
    let nanos = Duration::from_nanos(u64::try_from(time.nanos).unwrap_or(0));
    match whole.and_then(|whole| whole.checked_add(nanos)) {
        Some(time) => file.set_times(FileTimes::new().set_modified(time)),
        None => Ok(()),
    }
}

/// The content of a file as it streams in.
struct Content {
    item: v1::Item,
    left_bytes: u64,
    stream: crate::client::Stream<v1::DownloadResponse>,
}

impl Content {
    async fn open(
        source: &Source<'_>,
        path: &TreePath,
        offset: u64,
        length: u64,
    ) -> Result<Self, Problem> {
        let path = path.as_str().to_owned();
        let request = v1::DownloadRequest {
            path,
            offset,
            length,
            read: source.read.clone(),
            ..Default::default()
        };
        let mut stream = source.client.download(request).await?;
        match stream.next().await?.and_then(|response| response.message) {
            Some(Message::Header(header)) => Ok(Self {
                item: header.item.unwrap_or_default(),
                left_bytes: header.length,
                stream,
            }),
            _ => Err(Problem::internal("a download began without its header")),
        }
    }

    async fn next(&mut self) -> Result<Option<bytes::Bytes>, Problem> {
        match self
            .stream
            .next()
            .await?
            .and_then(|response| response.message)
        {
            Some(Message::Data(data)) => {
                self.left_bytes = self.left_bytes.saturating_sub(data.len() as u64);
                Ok(Some(data))
            }
            Some(Message::Header(_)) => Err(Problem::internal("a download has two headers")),
            None if self.left_bytes > 0 => {
                let detail = format!("{} bytes before the end of the content", self.left_bytes);
                Err(Problem::new(Reason::Stopping).with("detail", detail))
            }
            None => Ok(None),
        }
    }
}

/// Runs `cat`.
pub(crate) async fn cat(context: &Context, args: CatArgs) -> Outcome {
    if context.out.json {
        return Err(Problem::usage(
            "cat writes the file itself, so --json has no place in it",
        ));
    }
    if args.length == Some(0) {
        return Ok(0);
    }
    let paths = args
        .paths
        .iter()
        .map(|path| parse_path(path))
        .collect::<Result<Vec<_>, _>>()?;
    let client = context.connect().await?;
    for path in &paths {
        let length = args.length.unwrap_or(0);
        let source = Source {
            client: &client,
            read: args.at.read(context, &client, path.as_str()).await?,
        };
        let mut content = Content::open(&source, path, args.offset, length).await?;
        while let Some(data) = content.next().await? {
            let mut out = std::io::stdout().lock();
            match out.write_all(&data).and_then(|()| out.flush()) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(0),
                Err(error) => return Err(unwritable(Path::new("standard output"), &error)),
            }
        }
    }
    Ok(0)
}

/// A listing, page by page.
pub(crate) struct Pages {
    request: v1::ListItemsRequest,
    done: bool,
}

impl Pages {
    /// Of a directory, or of everything below it; as of now where nothing else is said.
    pub(crate) fn new(path: &str, recursive: bool, read: Option<v1::ReadOptions>) -> Self {
        let request = v1::ListItemsRequest {
            path: path.to_owned(),
            recursive,
            page_size: 1000,
            read,
            ..Default::default()
        };
        Self {
            request,
            done: false,
        }
    }

    /// The next page.
    pub(crate) async fn next(&mut self, client: &Client) -> Result<Option<Vec<v1::Item>>, Problem> {
        if self.done {
            return Ok(None);
        }
        let page = client.list_items(self.request.clone()).await?;
        self.done = page.next_page_token.is_empty();
        self.request.page_token = page.next_page_token;
        Ok(Some(page.items))
    }
}
