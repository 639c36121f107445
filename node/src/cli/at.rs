//! [adapter] `at`: what a WHEN chooses, and `aber at WHEN CMD` for `aber CMD --at WHEN`.

use super::command::Command;
use super::when;
use super::{Cli, Context, Outcome, print};
use crate::client::Client;
use crate::reason::Problem;
use aber_proto::generated::v1;
use clap::{Args, Parser};
use jiff::Zoned;
use serde_json::json;
use std::ffi::OsString;

/// Arguments of `at`.
#[derive(Args, Debug)]
pub(crate) struct AtArgs {
    /// As of when
    #[arg(allow_hyphen_values = true)]
    when: String,
    /// The command, without --at
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "CMD"
    )]
    command: Vec<OsString>,
}

/// What commands that read take.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct AtArg {
    /// As of when, e.g. 2h, yesterday, 2026-11-22, 3:1842, -1 (see: aber at --help)
    #[arg(long, value_name = "WHEN", allow_hyphen_values = true)]
    at: Option<String>,
}

/// The moment that a WHEN of the command line means, exactly.
pub(crate) async fn moment(
    context: &Context,
    client: &Client,
    when: &str,
    path: &str,
) -> Result<v1::At, Problem> {
    let request = v1::ResolveMomentRequest {
        at: Some(when::parse(when, &Zoned::now())?),
        path: path.to_owned(),
    };
    let chosen = client.resolve_moment(request).await?;
    if context.verbose > 0 {
        let text = format!("as of {}", chosen_text(&chosen));
        context
            .out
            .notice(&text, json!({"chosen": chosen_value(&chosen)}));
    }
    let at = chosen.cursor.map(v1::at::At::Cursor);
    Ok(v1::At { at })
}

impl AtArg {
    /// The moment to read at; `None`: now.
    pub(crate) async fn moment(
        &self,
        context: &Context,
        client: &Client,
        path: &str,
    ) -> Result<Option<v1::At>, Problem> {
        match &self.at {
            Some(when) => Ok(Some(moment(context, client, when, path).await?)),
            None => Ok(None),
        }
    }

    /// How a read is to see the tree.
    pub(crate) async fn read(
        &self,
        context: &Context,
        client: &Client,
        path: &str,
    ) -> Result<Option<v1::ReadOptions>, Problem> {
        let at = self.moment(context, client, path).await?;
        Ok(at.map(|at| v1::ReadOptions {
            at: Some(at),
            ..v1::ReadOptions::default()
        }))
    }
}

/// `aber at WHEN CMD` becomes `aber CMD --at WHEN`, options of every command as they were.
pub(super) fn expand(cli: Cli) -> Result<Cli, clap::Error> {
    let Some(Command::At(args)) = &cli.command else {
        return Ok(cli);
    };
    if args.command.is_empty() {
        return Ok(cli);
    }
    let mut words = vec![OsString::from("aber")];
    words.extend(args.command.iter().cloned());
    words.push("--at".into());
    words.push(args.when.clone().into());
    let mut inner = Cli::try_parse_from(words)?;
    let (outer, given) = (cli.global, &mut inner.global);
    given.data = given.data.take().or(outer.data);
    given.node = given.node.take().or(outer.node);
    given.timeout = given.timeout.or(outer.timeout);
    given.json |= outer.json;
    given.quiet |= outer.quiet;
    given.verbose += outer.verbose;
    Ok(inner)
}

/// Runs `at` without a command.
pub(crate) async fn at(context: &Context, args: AtArgs) -> Outcome {
    let client = context.connect().await?;
    let request = v1::ResolveMomentRequest {
        at: Some(when::parse(&args.when, &Zoned::now())?),
        path: String::new(),
    };
    let chosen = client.resolve_moment(request).await?;
    let cursor = chosen.cursor.clone().unwrap_or_default();
    let value = json!({
        "entries": chosen_value(&chosen),
        "cursor": data_encoding::BASE32_NOPAD.encode(&cursor.token).to_ascii_lowercase(),
    });
    context.out.result(Some(chosen_lines(&chosen)), value);
    Ok(0)
}

fn entry_text(chosen: &v1::ChosenEntry) -> String {
    let id = chosen.entry.unwrap_or_default();
    // A partition begins with entries of Raft's own, which have no time.
    match chosen.order_time.as_ref().filter(|time| time.seconds > 0) {
        Some(time) if id.index > 0 => {
            let time = print::short_time(Some(time));
            format!("{}:{} ({time})", id.partition, id.index)
        }
        _ => format!("{}:{} (nothing written yet)", id.partition, id.index),
    }
}

fn chosen_text(chosen: &v1::ResolveMomentResponse) -> String {
    let entries = chosen.entries.iter().map(entry_text);
    entries.collect::<Vec<_>>().join(", ")
}

fn chosen_lines(chosen: &v1::ResolveMomentResponse) -> String {
    let line = |chosen: &v1::ChosenEntry| {
        let next = chosen.next.map_or_else(String::new, |next| {
            let time = print::short_time(chosen.next_order_time.as_ref());
            format!(
                "; the next, {}:{}, came at {time}",
                next.partition, next.index
            )
        });
        format!("just after {}{next}", entry_text(chosen))
    };
    chosen
        .entries
        .iter()
        .map(line)
        .collect::<Vec<_>>()
        .join("\n")
}

fn chosen_value(chosen: &v1::ResolveMomentResponse) -> serde_json::Value {
    let entry = |chosen: &v1::ChosenEntry| {
        json!({
            "entry": print::entry_id(chosen.entry.as_ref()),
            "order_time": print::time(chosen.order_time.as_ref()),
            "next": print::entry_id(chosen.next.as_ref()),
            "next_order_time": print::time(chosen.next_order_time.as_ref()),
        })
    };
    chosen.entries.iter().map(entry).collect()
}
