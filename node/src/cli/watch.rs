//! [adapter] `watch`: what happens, as it happens, without a gap.

use super::event::{entry_value, lines};
use super::{Context, Outcome, at, parse_path};
use crate::reason::Problem;
use aber_proto::generated::v1::{self, EventKind, watch_request::Start, watch_response::Message};
use clap::{Args, ValueEnum};
use jiff::Zoned;
use serde_json::{Value, json};

/// Arguments of `watch`.
#[derive(Args, Debug)]
pub(crate) struct WatchArgs {
    /// Go on after this cursor, which an earlier watch printed
    #[arg(long, conflicts_with = "since")]
    cursor: Option<String>,
    /// Begin then, instead of now
    #[arg(long, value_name = "WHEN", allow_hyphen_values = true)]
    since: Option<String>,
    /// Only changes with such an event
    #[arg(long, value_enum)]
    kind: Vec<KindWord>,
    /// Each only once this node's mirror shows it
    #[arg(long)]
    materialized: bool,
    /// End after so many
    #[arg(short = 'n', long)]
    number: Option<u64>,
    /// What to watch, and below [default: everything]
    path: Option<String>,
}

#[derive(ValueEnum, Clone, Copy, Debug)]
enum KindWord {
    Put,
    Mkdir,
    Symlink,
    Rename,
    Copy,
    Remove,
    Attributes,
    Control,
}

impl From<KindWord> for EventKind {
    fn from(word: KindWord) -> Self {
        match word {
            KindWord::Put => Self::Put,
            KindWord::Mkdir => Self::MakeDirectory,
            KindWord::Symlink => Self::MakeSymlink,
            KindWord::Rename => Self::Rename,
            KindWord::Copy => Self::Copy,
            KindWord::Remove => Self::Remove,
            KindWord::Attributes => Self::SetAttributes,
            KindWord::Control => Self::Control,
        }
    }
}

/// Runs `watch`.
pub(crate) async fn watch(context: &Context, args: WatchArgs) -> Outcome {
    let path = match &args.path {
        Some(path) => parse_path(path)?.as_str().to_owned(),
        None => String::new(),
    };
    let client = context.connect().await?;
    let start = match (&args.cursor, &args.since) {
        (Some(cursor), _) => {
            let token = data_encoding::BASE32_NOPAD.decode(cursor.to_uppercase().as_bytes());
            let token = token.map_err(|_| Problem::usage("this is no cursor"))?;
            Start::After(v1::Cursor {
                token: token.into(),
            })
        }
        (None, Some(when)) => match at::moment(context, &client, when, &path).await?.at {
            Some(v1::at::At::Cursor(cursor)) => Start::After(cursor),
            _ => Start::Now(true),
        },
        (None, None) => Start::Now(true),
    };
    let request = v1::WatchRequest {
        start: Some(start),
        path,
        kinds: args
            .kind
            .iter()
            .map(|kind| EventKind::from(*kind).into())
            .collect(),
        until_materialized: args.materialized,
        heartbeat: None,
        events_per_change: 0,
    };
    let mut stream = client.watch(request).await?;
    let mut seen = 0;
    let mut last = None;
    while args.number.is_none_or(|number| seen < number) {
        let Some(response) = stream.next().await? else {
            break;
        };
        last = response.cursor.as_ref().map(cursor_text).or(last);
        let Some(Message::Entry(entry)) = response.message else {
            continue;
        };
        seen += 1;
        let text = lines(std::slice::from_ref(&entry), &Zoned::now()).join("\n");
        let mut value = entry_value(&entry);
        if let Value::Object(fields) = &mut value {
            fields.insert("cursor".to_owned(), json!(last));
        }
        context.out.row("entry", || text, value);
    }
    context
        .out
        .result(None, json!({"entries": seen, "cursor": last}));
    Ok(0)
}

fn cursor_text(cursor: &v1::Cursor) -> String {
    data_encoding::BASE32_NOPAD
        .encode(&cursor.token)
        .to_ascii_lowercase()
}
