//! [adapter] `audit` and `export --log`: the whole history, checked from the genesis on.

use super::{Context, Outcome, print};
use crate::audit_file::{AuditReader, AuditWriter, FileProblem, read_head};
use crate::client::Client;
use crate::reason::{Problem, Reason};
use aber_materializer::audit::{Audit, AuditFinding};
use aber_proto::generated::v1;
use aber_proto::{ChainHash, ClusterId, Entry, Genesis, PartitionId, SignedHead, codec};
use bytes::Bytes;
use clap::Args;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

type Pins = BTreeMap<(PartitionId, u64), ChainHash>;

/// Entries between two lines of progress.
const SHOW_EVERY: u64 = 50_000;

/// Arguments of `audit`.
#[derive(Args, Debug)]
pub(crate) struct AuditArgs {
    /// A file made by `export --log`, instead of this machine's node
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Another such file: both must be one history
    #[arg(long, value_name = "FILE")]
    compare: Option<PathBuf>,
    /// A chain hash that was written down: PARTITION:INDEX:HASH
    #[arg(long, value_name = "PIN")]
    pin: Vec<String>,
}

/// Arguments of `export`.
#[derive(Args, Debug)]
pub(crate) struct ExportArgs {
    /// The log of all partitions, as a file that audit --file checks anywhere
    #[arg(long, required = true)]
    log: bool,
    /// The file to make; - for standard output
    out: PathBuf,
}

/// `3:1842:HASH`.
fn parse_pin(text: &str) -> Result<((PartitionId, u64), ChainHash), Problem> {
    let wrong = || Problem::usage(format!("{text:?} is no pin; one is PARTITION:INDEX:HASH"));
    let mut parts = text.splitn(3, ':');
    let mut part = || parts.next().ok_or_else(wrong);
    let partition = part()?.parse().map_err(|_| wrong())?;
    let index = part()?.parse().map_err(|_| wrong())?;
    let hash = part()?.to_ascii_lowercase();
    let hash = data_encoding::HEXLOWER.decode(hash.as_bytes());
    let hash = hash.ok().and_then(|bytes| bytes.try_into().ok());
    Ok((
        (PartitionId(partition), index),
        ChainHash(hash.ok_or_else(wrong)?),
    ))
}

fn unreadable(path: &Path, detail: impl std::fmt::Display) -> Problem {
    Problem::new(Reason::SourceUnreadable)
        .with("path", path.display())
        .with("detail", detail)
}

fn internal(problem: impl std::fmt::Display) -> Problem {
    Problem::internal(problem)
}

/// Runs `audit`.
pub(crate) async fn audit(context: &Context, args: AuditArgs) -> Outcome {
    let pins = args.pin.iter().map(|text| parse_pin(text));
    let pins = pins.collect::<Result<Pins, _>>()?;
    let (genesis, mut audit) = match &args.file {
        Some(path) => audit_file(context, path, pins)?,
        None => audit_node(context, pins).await?,
    };
    if let Some(path) = &args.compare {
        let (other, theirs) = audit_file(context, path, Pins::new())?;
        if other.cluster_id() != genesis.cluster_id() {
            return Err(Problem::new(Reason::OtherCluster)
                .with("what", path.display())
                .with("found", other.cluster_id())
                .with("wanted", genesis.cluster_id()));
        }
        audit.compare(&theirs);
    }
    Ok(report(context, &genesis, &audit))
}

fn audit_file(context: &Context, path: &Path, pins: Pins) -> Result<(Genesis, Audit), Problem> {
    let file = File::open(path).map_err(|error| unreadable(path, error))?;
    let problem = |problem: FileProblem| unreadable(path, problem);
    let mut reader = AuditReader::begin(BufReader::new(file)).map_err(problem)?;
    let genesis = reader.genesis().clone();
    let mut audit = Audit::new(&genesis, pins).map_err(internal)?;
    while let Some(entry) = reader.next().map_err(problem)? {
        take(context, &mut audit, &entry)?;
    }
    for signed in reader.heads() {
        audit.hold_against(signed);
    }
    Ok((genesis, audit))
}

fn take(context: &Context, audit: &mut Audit, entry: &Entry) -> Result<(), Problem> {
    audit.take(entry).map_err(internal)?;
    if audit.entries().is_multiple_of(SHOW_EVERY) {
        let count = audit.entries();
        let text = format!("checked {}", print::plural(count, "entry"));
        context
            .out
            .progress(&text, json!({"phase": "audit", "done": count}));
    }
    Ok(())
}

/// The genesis of a node's cluster, its bytes, and how far each partition is committed there.
struct Source {
    genesis: Genesis,
    bytes: Bytes,
    partitions: Vec<v1::Partition>,
}

async fn source(client: &Client) -> Result<Source, Problem> {
    let status = client.get_status(v1::GetStatusRequest {}).await?;
    let id = data_encoding::HEXLOWER.decode(status.cluster_id.as_bytes());
    let id = id.ok().and_then(|bytes| bytes.try_into().ok());
    let members = client
        .list_members(v1::ListMembersRequest::default())
        .await?;
    let genesis = codec::decode_genesis(&members.genesis).map_err(internal)?;
    if id.map(ClusterId) != Some(genesis.cluster_id()) {
        return Err(internal("the node's genesis is not that of its cluster"));
    }
    let request = v1::ListPartitionsRequest {
        with_heads: true,
        ..v1::ListPartitionsRequest::default()
    };
    let mut partitions = client.list_partitions(request).await?.partitions;
    partitions.sort_by_key(|partition| partition.id);
    Ok(Source {
        genesis,
        bytes: members.genesis,
        partitions,
    })
}

impl Source {
    /// What members have signed of what is committed now; a head that came since is left out.
    fn heads(&self) -> impl Iterator<Item = SignedHead> {
        self.partitions.iter().flat_map(|partition| {
            let heads = partition.heads.iter().filter_map(read_head);
            heads.filter(|signed| signed.head.log_id.index <= partition.committed_index)
        })
    }
}

/// Hands on every entry that is committed at a node now, the control partition's first.
async fn each_entry(
    client: &Client,
    source: &Source,
    mut take: impl FnMut(&Bytes) -> Result<(), Problem>,
) -> Result<(), Problem> {
    for partition in &source.partitions {
        let mut next = partition.oldest_index;
        let request = v1::FollowPartitionRequest {
            partition: partition.id,
            from_index: next,
        };
        if partition.committed_index < next {
            continue;
        }
        let mut stream = client.follow_partition(request).await?;
        while next <= partition.committed_index {
            let Some(response) = stream.next().await? else {
                return Err(internal("the node's log ended early"));
            };
            for raw in response.entries {
                if raw.index <= partition.committed_index {
                    take(&raw.entry_bytes)?;
                }
                next = raw.index.saturating_add(1);
            }
        }
    }
    Ok(())
}

async fn audit_node(context: &Context, pins: Pins) -> Result<(Genesis, Audit), Problem> {
    let client = context.connect().await?;
    let source = source(&client).await?;
    let mut audit = Audit::new(&source.genesis, pins).map_err(internal)?;
    each_entry(&client, &source, |bytes| {
        let entry = Entry::decode(bytes).map_err(internal)?;
        take(context, &mut audit, &entry)
    })
    .await?;
    for signed in source.heads() {
        audit.hold_against(&signed);
    }
    Ok((source.genesis, audit))
}

fn finding_text(found: &AuditFinding) -> String {
    let why = match found.wrong.code() {
        "ENTRY_MISSING" => "the entry before it is missing, or in another place",
        "CHAIN_BROKEN" => "it does not follow from the entry before it",
        "SIGNATURE_WRONG" => "the change is not signed by its author",
        "PIN_DIFFERS" => "its chain hash is not the one that was written down",
        "HEAD_DIFFERS" => "a member has signed another history up to there",
        "END_MISSING" => "a member has signed that the history goes on up to there",
        "HEAD_SIGNATURE_WRONG" => "what stands there as signed was not signed by that member",
        _ => "the other history has another entry there",
    };
    let (partition, index) = (found.partition, found.index);
    format!("{}  {partition}:{index}  {why}", found.wrong.code())
}

/// Lines for people, and the same as JSON.
type Told = (Vec<String>, Vec<Value>);

fn authors(audit: &Audit) -> Told {
    let members = audit.members();
    let (mut lines, mut values) = (Vec::new(), Vec::new());
    for (node, deeds) in audit.deeds() {
        let name = members.member(*node).map(|row| row.name.clone());
        let name = name.unwrap_or_else(|| node.to_string());
        let refused = match deeds.refused {
            0 => String::new(),
            count => format!(", {} beyond their rights", print::plural(count, "change")),
        };
        lines.push(format!(
            "  {:<10}  {}, {}{refused}  {} to {}",
            print::escape(&name),
            print::plural(deeds.changes, "change"),
            print::plural(deeds.events, "event"),
            deeds.first,
            deeds.last,
        ));
        values.push(json!({
            "author": name, "changes": deeds.changes, "events": deeds.events,
            "refused": deeds.refused, "first": deeds.first.to_string(),
            "last": deeds.last.to_string(),
        }));
    }
    (lines, values)
}

fn heads(audit: &Audit) -> Told {
    let members = audit.members();
    let (mut lines, mut values) = (Vec::new(), Vec::new());
    for (partition, line) in audit.lines() {
        let Some((index, chain)) = line.head() else {
            continue;
        };
        let hash = data_encoding::HEXLOWER.encode(&chain.0);
        let whole = match line.first {
            0 | 1 => String::new(),
            first => format!(" (from {first} on: what came before is not there)"),
        };
        let signed = audit.signed(*partition).into_iter().flatten();
        let signed: Vec<_> = signed
            .map(|(node, reach)| {
                let member = members.member(*node);
                (
                    member.map_or_else(|| node.to_string(), |row| row.name.clone()),
                    *reach,
                )
            })
            .collect();
        let by = match signed.is_empty() {
            true => "  signed by nobody".to_owned(),
            false => {
                let names = signed.iter().map(|(name, reach)| match reach == &index {
                    true => print::escape(name),
                    false => format!("{} up to {reach}", print::escape(name)),
                });
                format!("  signed by {}", names.collect::<Vec<_>>().join(", "))
            }
        };
        lines.push(format!("  {partition}:{index}:{hash}{whole}{by}"));
        let signed = signed
            .iter()
            .map(|(name, reach)| json!({"by": name, "index": reach}));
        values.push(json!({
            "partition": partition.0, "first": line.first, "index": index, "chain_hash": hash,
            "signed": signed.collect::<Vec<_>>(),
        }));
    }
    (lines, values)
}

fn report(context: &Context, genesis: &Genesis, audit: &Audit) -> u8 {
    for found in audit.findings() {
        let value = json!({
            "code": found.wrong.code(),
            "entry": format!("{}:{}", found.partition, found.index),
        });
        context.out.row("finding", || finding_text(found), value);
    }
    let cluster = genesis.cluster_id();
    let mut lines = vec![format!(
        "cluster {} ({cluster})",
        print::escape(&genesis.name)
    )];
    let (told, authors) = authors(audit);
    lines.extend(told);
    let (told, heads) = heads(audit);
    lines.extend(told);
    let left = audit.pins_left().into_iter();
    let left: Vec<String> = left
        .map(|(partition, index)| format!("{partition}:{index}"))
        .collect();
    for place in &left {
        lines.push(format!(
            "  {place} was not reached: its pin was not checked"
        ));
    }
    let entries = print::plural(audit.entries(), "entry");
    let wrong = audit.wrong();
    if wrong == 0 {
        lines.push(format!(
            "{entries} checked: each follows from the one before, each change is signed by its author."
        ));
        lines.push("Write the hashes above down; later: aber audit --pin".to_owned());
    } else {
        lines.push(format!(
            "{entries} checked, {} wrong: ALARM",
            print::count(wrong)
        ));
    }
    let value = json!({
        "cluster": cluster.to_string(), "entries": audit.entries(), "wrong": wrong,
        "authors": authors, "heads": heads, "pins_not_reached": left,
    });
    context.out.result(Some(lines.join("\n")), value);
    if wrong > 0 { 8 } else { 0 }
}

/// Runs `export`.
pub(crate) async fn export(context: &Context, args: ExportArgs) -> Outcome {
    debug_assert!(args.log, "there is nothing else yet");
    let client = context.connect().await?;
    let source = source(&client).await?;
    let is_stdout = args.out.as_os_str() == "-";
    let unwritable = |error: std::io::Error| {
        Problem::new(Reason::TargetUnwritable)
            .with("path", args.out.display())
            .with("detail", error)
    };
    let out: Box<dyn Write> = if is_stdout {
        Box::new(std::io::stdout())
    } else {
        let made = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&args.out);
        Box::new(made.map_err(unwritable)?)
    };
    let mut writer = AuditWriter::begin(BufWriter::new(out), &source.bytes).map_err(unwritable)?;
    let mut bytes = 0u64;
    each_entry(&client, &source, |entry| {
        bytes += entry.len() as u64;
        writer.entry(entry).map_err(unwritable)
    })
    .await?;
    for signed in source.heads() {
        writer.head(&signed).map_err(unwritable)?;
    }
    let entries = writer.end().map_err(unwritable)?;
    if is_stdout {
        return Ok(0);
    }
    let text = format!(
        "{}, {} in {}; anywhere: aber audit --file",
        print::plural(entries, "entry"),
        print::bytes(bytes),
        print::escape(&args.out.display().to_string()),
    );
    let value = json!({"entries": entries, "bytes": bytes, "file": args.out.display().to_string()});
    context.out.result(Some(text), value);
    Ok(0)
}
