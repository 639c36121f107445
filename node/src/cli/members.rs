//! [adapter] Commands on members: `members`, `members set`, `members rm`.

use super::write::new_request_id;
use super::{Context, Outcome, print, rate};
use crate::client::Client;
use crate::reason::Problem;
use aber_proto::generated::v1::{self, MemberState};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};
use std::io::{BufRead, IsTerminal, Write as _};

/// Arguments of `members`.
#[derive(Args, Debug)]
pub(crate) struct MembersArgs {
    #[command(subcommand)]
    command: Option<MembersCommand>,
    /// Those that were removed too
    #[arg(long)]
    all: bool,
}

impl MembersArgs {
    /// Whether a change may be on its way when it is interrupted.
    pub(crate) fn writes(&self) -> bool {
        match &self.command {
            None => false,
            Some(MembersCommand::Set(_)) => true,
            Some(MembersCommand::Rm(args)) => !args.dry_run,
        }
    }
}

#[derive(Subcommand, Debug)]
enum MembersCommand {
    /// Set something of a member; what is not named stays as it is
    #[command(after_help = SET_HELP)]
    Set(SetArgs),
    /// Put a member out, for good
    #[command(after_help = RM_HELP)]
    Rm(RmArgs),
}

const SET_HELP: &str = "\
An admin's node may set everything, any other the address, rates and neighbours of itself.

Examples:
  aber members set gwen --role admin             reader, writer or admin
  aber members set gwen --name gwen-laptop       another name
  aber members set phone --vote no               it shall not decide about the order
  aber members set malo --address malo.lan:7787 --address [fd42::7]:7787
  aber members set malo --up \"1 Mbit/s\" --down \"16 Mbit/s\"
  aber members set malo --neighbours enora,yann  links to these alone; \"\": to all";

const RM_HELP: &str = "\
What it wrote stays. Its number and its key are never used again: to come back it must join anew.
What would follow is shown first, and asked about unless --yes is given.

Examples:
  aber members rm gwen --dry-run                 what would follow
  aber members rm gwen --yes                     do it";

/// Arguments of `members set`.
#[derive(Args, Debug)]
pub(crate) struct SetArgs {
    /// The member, by its present name
    #[arg(value_name = "MEMBER")]
    member: String,
    /// What it may do: readers only read, writers change files, admins change members too
    #[arg(long)]
    role: Option<RoleWord>,
    /// Its name from now on: a-z, 0-9 and -
    #[arg(long)]
    name: Option<String>,
    /// Whether it may become a voter
    #[arg(long)]
    vote: Option<YesNo>,
    /// Where others reach it, HOST:PORT; several times for several, which replace all before
    #[arg(long, value_name = "ADDR")]
    address: Vec<String>,
    /// What its connection carries away from it, e.g. "1 Mbit/s"; auto: not declared
    #[arg(long, value_name = "RATE", value_parser = rate::parse)]
    up: Option<u64>,
    /// What its connection carries to it
    #[arg(long, value_name = "RATE", value_parser = rate::parse)]
    down: Option<u64>,
    /// Members it has links to, with commas between; empty: whoever it reaches
    #[arg(long, value_name = "NAMES")]
    neighbours: Option<String>,
}

/// Arguments of `members rm`.
#[derive(Args, Debug)]
pub(crate) struct RmArgs {
    /// The member, by its name
    #[arg(value_name = "MEMBER")]
    member: String,
    /// Only show what would follow
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long, conflicts_with = "dry_run")]
    yes: bool,
    /// Even if content may be lost that only it holds
    #[arg(long)]
    accept_loss: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum RoleWord {
    Reader,
    Writer,
    Admin,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum YesNo {
    Yes,
    No,
}

/// Runs `members`.
pub(crate) async fn members(context: &Context, args: MembersArgs) -> Outcome {
    let client = context.connect().await?;
    match args.command {
        None => list(context, &client, args.all).await,
        Some(MembersCommand::Set(set)) => set_member(context, &client, set).await,
        Some(MembersCommand::Rm(rm)) => remove(context, &client, rm).await,
    }
}

async fn list(context: &Context, client: &Client, all: bool) -> Outcome {
    let members = client.members(all).await?;
    for member in &members {
        let is_verbose = context.verbose > 0;
        context
            .out
            .row("member", || line(member, is_verbose), value(member));
    }
    let count = members.len();
    context.out.result(None, json!({"members_count": count}));
    Ok(0)
}

/// A member in a line.
pub(crate) fn line(member: &v1::Member, is_verbose: bool) -> String {
    let addresses = print::escape(&member.addresses.join(", "));
    let mut line = format!(
        "{:<12} {:<7} {:<16}",
        print::escape(&member.name),
        print::word(member.role().as_str_name(), "ROLE"),
        state_text(member)
    );
    if !member.votes_in.is_empty() {
        line += " votes";
    } else if !member.voter_eligible && member.state() != MemberState::Removed {
        line += " never votes";
    }
    if !addresses.is_empty() {
        line += &format!("   {addresses}");
    }
    for (word, bits) in [
        ("up", member.uplink_bits_per_second),
        ("for now", member.usable_uplink_bits_per_second),
        ("down", member.downlink_bits_per_second),
    ] {
        if bits > 0 {
            line += &format!("   {word} {}", rate::text(bits));
        }
    }
    if !member.neighbours.is_empty() {
        let names = print::escape(&member.neighbours.join(", "));
        line += &format!("   linked to {names}");
    }
    if is_verbose {
        line += &format!("   number {}", member.id);
        if !member.leads.is_empty() {
            line += &format!("   leads {}", partitions(&member.leads));
        }
        if !member.version.is_empty() {
            line += &format!("   aber {}", print::escape(&member.version));
        }
    }
    line.trim_end().to_owned()
}

/// `up`, `away since …`, `catching up (1,200 entries)`.
pub(crate) fn state_text(member: &v1::Member) -> String {
    let state = print::word(member.state().as_str_name(), "MEMBER_STATE").replace('_', " ");
    match member.state() {
        MemberState::Away => match &member.last_seen_time {
            Some(time) => format!("{state} since {}", print::short_time(Some(time))),
            None => state,
        },
        MemberState::Removed => format!("{state} in 0:{}", member.removed_index),
        MemberState::CatchingUp => {
            let behind = print::plural(member.entries_behind, "entry");
            format!("{state} ({behind})")
        }
        _ => state,
    }
}

fn partitions(numbers: &[u32]) -> String {
    let numbers: Vec<_> = numbers.iter().map(ToString::to_string).collect();
    numbers.join(", ")
}

/// A member as fields of a record.
pub(crate) fn value(member: &v1::Member) -> Value {
    let rate = |bits: u64| (bits > 0).then_some(bits);
    json!({
        "id": member.id,
        "name": member.name,
        "key": print::hex(&member.key),
        "role": print::word(member.role().as_str_name(), "ROLE"),
        "voter_eligible": member.voter_eligible,
        "addresses": member.addresses,
        "neighbours": member.neighbours,
        "uplink_bits_per_second": rate(member.uplink_bits_per_second),
        "usable_uplink_bits_per_second": rate(member.usable_uplink_bits_per_second),
        "downlink_bits_per_second": rate(member.downlink_bits_per_second),
        "state": print::word(member.state().as_str_name(), "MEMBER_STATE"),
        "last_seen_time": print::time(member.last_seen_time.as_ref()),
        "version": (!member.version.is_empty()).then_some(&member.version),
        "entries_behind": member.entries_behind,
        "votes_in": member.votes_in,
        "leads": member.leads,
        "clock_skew_ms": print::millis(member.clock_skew.as_ref()),
        "admitted_index": member.admitted_index,
        "removed_index": (member.removed_index > 0).then_some(member.removed_index),
    })
}

/// What is to be set, and the names of those fields.
fn wanted(args: &SetArgs) -> (v1::Member, Vec<String>) {
    let mut member = v1::Member::default();
    let mut mask = Vec::new();
    let mut names = |field: &str| mask.push(field.to_owned());
    if let Some(name) = &args.name {
        member.name.clone_from(name);
        names("name");
    }
    if let Some(role) = args.role {
        member.set_role(match role {
            RoleWord::Reader => v1::Role::Reader,
            RoleWord::Writer => v1::Role::Writer,
            RoleWord::Admin => v1::Role::Admin,
        });
        names("role");
    }
    if let Some(vote) = args.vote {
        member.voter_eligible = vote == YesNo::Yes;
        names("voter_eligible");
    }
    if !args.address.is_empty() {
        member.addresses.clone_from(&args.address);
        names("addresses");
    }
    if let Some(bits) = args.up {
        member.uplink_bits_per_second = bits;
        names("uplink_bits_per_second");
    }
    if let Some(bits) = args.down {
        member.downlink_bits_per_second = bits;
        names("downlink_bits_per_second");
    }
    if let Some(neighbours) = &args.neighbours {
        let listed = neighbours.split(',').map(str::trim);
        let listed = listed.filter(|name| !name.is_empty());
        member.neighbours = listed.map(str::to_owned).collect();
        names("neighbours");
    }
    (member, mask)
}

async fn set_member(context: &Context, client: &Client, args: SetArgs) -> Outcome {
    let (member, update_mask) = wanted(&args);
    if update_mask.is_empty() {
        return Err(Problem::usage(
            "nothing to set is named: aber members set --help",
        ));
    }
    let request = v1::UpdateMemberRequest {
        name: args.member.clone(),
        member: Some(member),
        update_mask,
        request_id: new_request_id()?.to_string(),
    };
    let response = client.update_member(request).await?;
    let result = response.result.unwrap_or_default();
    let member = response.member.unwrap_or_default();
    let json = json!({"member": value(&member)});
    finish(context, &result, &line(&member, false), json)
}

/// The end of a change of the membership: what it is now, or that it waits in the outbox.
pub(crate) fn finish(
    context: &Context,
    result: &v1::WriteResult,
    text: &str,
    mut value: Value,
) -> Outcome {
    let waiting = result.waiting_for.as_ref();
    if let Value::Object(fields) = &mut value {
        let entry = print::entry_id(result.entry.as_ref());
        fields.insert(
            "level".to_owned(),
            json!(print::level(result.acknowledgement())),
        );
        fields.insert("entry".to_owned(), json!(entry));
        fields.insert(
            "waiting_for".to_owned(),
            json!(waiting.map(print::notice_value)),
        );
    }
    match waiting {
        Some(notice) => {
            let text = format!("queued\n{}", print::notice_text(notice));
            context.out.result(Some(text), value);
            Ok(7)
        }
        None => {
            context.out.result(Some(text.to_owned()), value);
            Ok(0)
        }
    }
}

async fn remove(context: &Context, client: &Client, args: RmArgs) -> Outcome {
    let request = v1::PlanRemovalRequest {
        member: args.member.clone(),
        accept_loss: args.accept_loss,
    };
    let response = client.plan_removal(request).await?;
    let plan = response.plan.unwrap_or_default();
    let mut json = json!({
        "member": args.member,
        "plan": plan.id,
        "expire_time": print::time(plan.expire_time.as_ref()),
        "lines": plan.lines,
        "warnings": plan.warnings.iter().map(print::notice_value).collect::<Vec<_>>(),
        "copy_bytes": response.copy_bytes,
        "done": false,
    });
    let text = plan_text(&plan);
    if args.dry_run {
        let text = format!("{text}\nNothing has changed yet.");
        context.out.result(Some(text), json);
        return Ok(0);
    }
    if !args.yes {
        ask(context, &format!("{text}\nRemove {}?", args.member))?;
    } else {
        context.out.notice(&text, json.clone());
    }
    let request = v1::ApplyClusterPlanRequest {
        plan_id: plan.id.clone(),
        request_id: new_request_id()?.to_string(),
    };
    let mut stream = client.apply_cluster_plan(request).await?;
    let mut done = v1::ClusterPlanResult::default();
    while let Some(message) = stream.next().await? {
        if let Some(v1::apply_cluster_plan_response::Message::Result(result)) = message.message {
            done = result;
        }
    }
    let mut text = format!("removed {}", print::escape(&args.member));
    if !done.still_votes_in.is_empty() {
        let still = partitions(&done.still_votes_in);
        text += &format!("; its votes in partition {still} move as soon as they can");
    }
    let result = done.result.unwrap_or_default();
    if let Value::Object(fields) = &mut json {
        fields.insert("done".to_owned(), json!(result.entry.is_some()));
        fields.insert("still_votes_in".to_owned(), json!(done.still_votes_in));
    }
    finish(context, &result, &text, json)
}

fn plan_text(plan: &v1::Plan) -> String {
    let lines = plan.lines.iter().map(|line| print::escape(line));
    let warnings = plan.warnings.iter().map(print::notice_text);
    lines.chain(warnings).collect::<Vec<_>>().join("\n")
}

/// Asks on the terminal; where there is none, `--yes` has to be said.
pub(crate) fn ask(context: &Context, question: &str) -> Result<(), Problem> {
    if context.out.json || !std::io::stdin().is_terminal() || !print::is_terminal() {
        return Err(Problem::usage(
            "nobody can be asked here: look with --dry-run, then say --yes",
        ));
    }
    let mut stderr = std::io::stderr().lock();
    let asked = write!(stderr, "{question} [y/N] ").and_then(|()| stderr.flush());
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    let is_yes = matches!(answer.trim(), "y" | "Y" | "yes");
    if asked.is_ok() && read.is_ok() && is_yes {
        return Ok(());
    }
    Err(Problem::usage("not confirmed: nothing was changed"))
}
