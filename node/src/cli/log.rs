//! [adapter] `log`: who did what.

use super::event::{entry_value, lines, removed_hint};
use super::{Context, Outcome, parse_path, when};
use aber_proto::generated::v1;
use clap::Args;
use jiff::Zoned;
use serde_json::json;

/// Entries asked for at once.
const PAGE: u64 = 200;

/// Arguments of `log`.
#[derive(Args, Debug)]
pub(crate) struct LogArgs {
    /// At most so many entries
    #[arg(short = 'n', long, default_value_t = 50)]
    number: u64,
    /// Only those by this node; may be given more than once
    #[arg(long, value_name = "NODE", alias = "author")]
    by: Vec<String>,
    /// Only what came after WHEN (see: aber at --help)
    #[arg(long, value_name = "WHEN", allow_hyphen_values = true)]
    since: Option<String>,
    /// Only what came up to WHEN
    #[arg(long, value_name = "WHEN", allow_hyphen_values = true)]
    until: Option<String>,
    /// Only removals, and how much they took
    #[arg(long)]
    removed: bool,
    /// Of a file: under its former names too, and what it is a copy of
    #[arg(long)]
    follow_renames: bool,
    /// Only changes whose comment has this text in it
    #[arg(long, value_name = "TEXT")]
    comment: Option<String>,
    /// Rejected ones too
    #[arg(long)]
    rejected: bool,
    /// The versions of a file: when, by whom, size, etag and name
    #[arg(long, conflicts_with_all = ["by", "since", "until", "removed", "comment", "reverse"])]
    versions: bool,
    /// Oldest first
    #[arg(long)]
    reverse: bool,
    /// A file that is or was there, or a directory and all below it [default: /]
    path: Option<String>,
}

impl LogArgs {
    fn request(self) -> Result<v1::ListEntriesRequest, crate::reason::Problem> {
        let path = match &self.path {
            Some(path) => parse_path(path)?.as_str().to_owned(),
            None => String::new(),
        };
        let now = Zoned::now();
        let at = |when: Option<String>| when.map(|when| when::parse(&when, &now)).transpose();
        Ok(v1::ListEntriesRequest {
            path,
            authors: self.by,
            since: at(self.since)?,
            until: at(self.until)?,
            oldest_first: self.reverse,
            follow_renames: self.follow_renames,
            include_rejected: self.rejected,
            removed_only: self.removed,
            comment: self.comment.unwrap_or_default(),
            ..v1::ListEntriesRequest::default()
        })
    }
}

/// Runs `log`.
pub(crate) async fn log(context: &Context, args: LogArgs) -> Outcome {
    let most = args.number;
    if args.versions {
        return super::blame::versions(context, args.path.as_deref(), most).await;
    }
    let mut request = args.request()?;
    let client = context.connect().await?;
    let (mut shown, mut looked) = (0u64, 0u64);
    let mut only = None;
    while shown < most {
        let wanted = (most - shown).min(PAGE);
        request.page_size = i32::try_from(wanted).unwrap_or(i32::MAX);
        let page = client.list_entries(request.clone()).await?;
        looked += page.looked_at_count;
        let texts = lines(&page.entries, &Zoned::now());
        for (entry, text) in page.entries.iter().zip(texts) {
            shown += 1;
            context.out.row("entry", || text, entry_value(entry));
        }
        only = page.entries.into_iter().next().or(only);
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    let hint = only.filter(|_| shown == 1 && request.removed_only);
    let value = json!({"entries": shown, "looked_at": looked});
    context
        .out
        .result(hint.and_then(|entry| removed_hint(&entry)), value);
    Ok(0)
}
