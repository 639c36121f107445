//! [adapter] `volume`: which volumes there are, and how much of their past is kept.

use super::members::finish;
use super::write::new_request_id;
use super::{Context, Outcome, print};
use aber_proto::generated::v1::{self, retention::Keep};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

/// Arguments of `volume`.
#[derive(Args, Debug)]
pub(crate) struct VolumeArgs {
    #[command(subcommand)]
    command: Option<VolumeCommand>,
}

impl VolumeArgs {
    /// Whether a change may be on its way when it is interrupted.
    pub(crate) fn writes(&self) -> bool {
        matches!(self.command, Some(VolumeCommand::Set(_)))
    }
}

#[derive(Subcommand, Debug)]
enum VolumeCommand {
    /// List them, as volume alone does
    Ls,
    /// Set how much of a volume's past all nodes keep; takes an admin's node
    #[command(after_help = SET_HELP)]
    Set(SetArgs),
}

const SET_HELP: &str = "\
What is there now always stays, and so does what a tag shows. The rest goes once a day, on each node
by itself, and does not come back: look first.

Examples:
  aber volume set /music --keep forever          all of its history; it starts like this
  aber volume set /music --keep 365d             what was there within a year (also 12h, 2w, 2y)
  aber volume set /music --keep versions=10      ten versions of each file, the present one included
  aber volume set /music --keep size=10GiB       so much of what is there no more, the newest of it
  aber volume set / --keep 30d                   the files at the top
  aber prune --dry-run                           what goes next";

/// Arguments of `volume set`.
#[derive(Args, Debug)]
pub(crate) struct SetArgs {
    /// The volume, e.g. /music; / for the files at the top
    #[arg(value_name = "VOLUME")]
    volume: String,
    /// forever, an age, versions=N or size=N
    #[arg(long, value_name = "HOW", value_parser = parse)]
    keep: Retain,
}

/// What `--keep` says; no message: for ever.
#[derive(Clone, PartialEq, Debug)]
struct Retain(Option<v1::Retention>);

fn parse(text: &str) -> Result<Retain, String> {
    let wrong = || "forever, an age as 365d, versions=10 or size=10GiB".to_owned();
    let keep = match text.split_once('=') {
        None if text == "forever" => return Ok(Retain(None)),
        None => {
            let units = [
                ("s", 1),
                ("min", 60),
                ("h", 3600),
                ("d", 86_400),
                ("w", 7 * 86_400),
                ("y", 365 * 86_400),
            ];
            let seconds = number(text, &units).filter(|seconds| *seconds > 0);
            let seconds = seconds.and_then(|seconds| i64::try_from(seconds).ok());
            Keep::Age(prost_types::Duration {
                seconds: seconds.ok_or_else(wrong)?,
                nanos: 0,
            })
        }
        Some(("versions", count)) => {
            let count = count.parse().ok().filter(|count| *count > 0);
            Keep::Versions(count.ok_or_else(wrong)?)
        }
        Some(("size", size)) => {
            let units = [
                ("", 1),
                ("B", 1),
                ("KiB", 1 << 10),
                ("MiB", 1 << 20),
                ("GiB", 1 << 30),
                ("TiB", 1 << 40),
            ];
            Keep::Bytes(number(size, &units).ok_or_else(wrong)?)
        }
        Some(_) => return Err(wrong()),
    };
    Ok(Retain(Some(v1::Retention { keep: Some(keep) })))
}

/// A whole number and its unit.
fn number(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim())?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

/// Runs `volume`.
pub(crate) async fn volume(context: &Context, args: VolumeArgs) -> Outcome {
    match args.command {
        None | Some(VolumeCommand::Ls) => list(context).await,
        Some(VolumeCommand::Set(args)) => set(context, args).await,
    }
}

async fn list(context: &Context) -> Outcome {
    let client = context.connect().await?;
    let mut count = 0_u64;
    let mut page_token = String::new();
    loop {
        let request = v1::ListVolumesRequest {
            page_size: 0,
            page_token,
        };
        let page = client.list_volumes(request).await?;
        for volume in &page.volumes {
            context.out.row("volume", || line(volume), value(volume));
            count += 1;
        }
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    context.out.result(None, json!({"volumes_count": count}));
    Ok(0)
}

async fn set(context: &Context, args: SetArgs) -> Outcome {
    let client = context.connect().await?;
    let request = v1::UpdateVolumeRequest {
        name: args.volume,
        retention: args.keep.0,
        request_id: new_request_id()?.to_string(),
    };
    let response = client.update_volume(request).await?;
    let volume = response.volume.unwrap_or_default();
    let result = response.result.unwrap_or_default();
    let json = json!({"volume": value(&volume)});
    finish(context, &result, &line(&volume), json)
}

fn path(volume: &v1::Volume) -> String {
    format!("/{}", volume.name.trim_start_matches('/'))
}

fn line(volume: &v1::Volume) -> String {
    format!(
        "{:<24} partition {:<3}  keeps {}",
        print::escape(&path(volume)),
        volume.partition,
        keep_text(volume.retention.as_ref()),
    )
}

/// `all of its history`, `what was there within 365 days`, `10 versions of a file`, `10.0 GiB of history`.
fn keep_text(retention: Option<&v1::Retention>) -> String {
    match retention.and_then(|retention| retention.keep.as_ref()) {
        None => "all of its history".to_owned(),
        Some(Keep::Versions(count)) => {
            format!("{} of a file", print::plural(*count, "version"))
        }
        Some(Keep::Bytes(bytes)) => format!("{} of history", print::bytes(*bytes)),
        Some(Keep::Age(age)) => {
            let seconds = u64::try_from(age.seconds).unwrap_or(0);
            let units = [
                (86_400, "day"),
                (3600, "hour"),
                (60, "minute"),
                (1, "second"),
            ];
            let unit = units.iter().find(|(unit, _)| seconds.is_multiple_of(*unit));
            let (unit, name) = unit.copied().unwrap_or((1, "second"));
            let count = seconds / unit;
            let end = if count == 1 { "" } else { "s" };
            format!("what was there within {} {name}{end}", print::count(count))
        }
    }
}

fn value(volume: &v1::Volume) -> Value {
    let keep = volume
        .retention
        .as_ref()
        .and_then(|kept| kept.keep.as_ref());
    let (mut age, mut versions, mut bytes) = (None, None, None);
    match keep {
        Some(Keep::Age(kept)) => age = Some(kept.seconds),
        Some(Keep::Versions(kept)) => versions = Some(*kept),
        Some(Keep::Bytes(kept)) => bytes = Some(*kept),
        None => {}
    }
    json!({
        "path": path(volume),
        "partition": volume.partition,
        "keep_seconds": age,
        "keep_versions": versions,
        "keep_bytes": bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retention_is_read_as_it_is_shown() {
        for (text, shown) in [
            ("forever", "all of its history"),
            ("365d", "what was there within 365 days"),
            ("2y", "what was there within 730 days"),
            ("36h", "what was there within 36 hours"),
            ("1d", "what was there within 1 day"),
            ("90s", "what was there within 90 seconds"),
            ("versions=1", "1 version of a file"),
            ("versions=10", "10 versions of a file"),
            ("size=10GiB", "10.0 GiB of history"),
            ("size=0", "0 B of history"),
        ] {
            let retain = parse(text).expect(text);
            assert_eq!(keep_text(retain.0.as_ref()), shown, "{text}");
        }
        let long = "99999999999999999999d";
        for text in [
            "",
            "0d",
            "d",
            "10",
            "versions=0",
            "versions=",
            "size=x",
            "age=1d",
            "-1d",
            long,
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
