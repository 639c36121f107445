//! [adapter] `doctor`: is everything here as a node needs it?
//!
//! Works with a node running or not: what only a running node knows is left out then, and said so.
//! Nothing is changed; one small file is written to the data directory, synced, and removed.

mod probe;

use super::{Context, Outcome, print};
use crate::client::{Client, Target};
use crate::daemon::LINK_PORT;
use crate::doctor::{self, Finding, Severity};
use crate::reason::{Problem, Reason};
use aber_log::chunk::store::StoreOptions;
use aber_proto::generated::v1::{self, MemberState};
use futures::StreamExt;
use serde_json::json;
use std::path::Path;

/// Members that are tried at once, and at most.
const TRIES_AT_ONCE: usize = 32;
const MEMBERS_TRIED: usize = 256;

/// What a running node says.
struct Told {
    status: v1::GetStatusResponse,
    members: Vec<v1::Member>,
}

/// Runs `doctor`.
pub(crate) async fn doctor(context: &Context) -> Outcome {
    if context.is_remote() {
        let why = "the doctor looks at the machine it runs on: run it there, without --node \
            and ABER_NODE";
        return Err(Problem::usage(why));
    }
    let data = context.data()?;
    let told = ask(context).await;
    let mut findings = vec![node(&told)];
    let told = told.ok();
    findings.extend(disk(&data));
    findings.push(probe::key(&data));
    findings.push(listener(told.as_ref()).await);
    findings.push(api(&data, told.as_ref()).await);
    findings.push(match probe::has_ipv6() {
        true => Finding::ok("ipv6", "this machine has it"),
        false => Finding::problem(
            "ipv6",
            "this machine has none",
            "the kernel has no IPv6 address, so links go by IPv4 alone",
            "nothing, if all members can be reached by IPv4",
        )
        .into_note(),
    });
    findings.push(probe::open_files(
        told.as_ref().map(|told| told.status.process_id),
    ));
    let mirror = told.as_ref().and_then(|told| told.status.folders.first());
    let mirror = mirror.and_then(|folder| folder.folder.as_ref());
    let mirror = mirror.map_or_else(
        || data.join("mirror"),
        |folder| folder.directory.clone().into(),
    );
    findings.push(probe::watches(&mirror));
    match &told {
        Some(told) => findings.extend(membership(told).await),
        None => {
            let what = "addresses, members and clocks: only with a node running";
            findings.push(Finding::skipped("member", what));
        }
    }
    Ok(tell(context, &findings))
}

async fn ask(context: &Context) -> Result<Told, Problem> {
    let client: Client = context.connect().await?;
    let status = client.get_status(v1::GetStatusRequest {}).await?;
    let members = client.members(false).await?;
    Ok(Told { status, members })
}

fn node(told: &Result<Told, Problem>) -> Finding {
    match told {
        Ok(told) if told.status.version != env!("CARGO_PKG_VERSION") => Finding::problem(
            "node",
            format!("the node runs aber {}", told.status.version),
            format!("this command is aber {}", env!("CARGO_PKG_VERSION")),
            "restart the node, so that both are the same: aber down, aber up",
        )
        .into_note(),
        Ok(told) => {
            let (node, cluster) = (&told.status.node, &told.status.cluster);
            Finding::ok("node", format!("{node} of {cluster} is running"))
        }
        Err(problem) if problem.reason == Reason::DaemonNotRunning => {
            Finding::problem("node", problem.what(), problem.why(), problem.mend()).into_note()
        }
        Err(problem) => Finding::problem("node", problem.what(), problem.why(), problem.mend()),
    }
}

fn disk(data: &Path) -> Vec<Finding> {
    let shown = data.display().to_string();
    let found = match probe::disk(data) {
        Ok(Some(found)) => found,
        Ok(None) => {
            let what = format!("{shown} is not there yet; aber up makes it");
            return vec![Finding::skipped("data", what)];
        }
        Err(error) => {
            return vec![Finding::problem(
                "data",
                format!("{shown} cannot be written"),
                error.to_string(),
                "mend its owner and mode, or check the disk; it must belong to the user of the node",
            )];
        }
    };
    let reserve_bytes = StoreOptions::default().reserve_bytes(found.total_bytes);
    let took = found.sync_took.as_millis();
    vec![
        Finding::ok(
            "data",
            format!("{shown} can be written and synced, in {took} ms"),
        ),
        doctor::file_system_of(&shown, found.magic),
        doctor::space(found.free_bytes, reserve_bytes, print::bytes),
    ]
}

/// Whether others can connect to this node, or could if it ran.
async fn listener(told: Option<&Told>) -> Finding {
    let Some(told) = told else {
        return match probe::is_free(LINK_PORT) {
            true => Finding::ok("port", format!("{LINK_PORT} is free")),
            false => Finding::problem(
                "port",
                format!("{LINK_PORT} is taken"),
                "another program listens there; a node would take any free one instead",
                "stop the other program, or choose a port: aber up --listen [::]:PORT",
            )
            .into_note(),
        };
    };
    let address = &told.status.link_address;
    let Some((_, port)) = address.rsplit_once(':') else {
        return Finding::skipped("port", "the node has no address that others know");
    };
    let tries = [
        address.clone(),
        format!("127.0.0.1:{port}"),
        format!("[::1]:{port}"),
    ];
    let (at, tried) = probe::connect(&tries).await;
    match at {
        Some(at) => Finding::ok("port", format!("the node listens at {at}")),
        None => Finding::problem(
            "port",
            format!("nobody listens at {address}"),
            tried
                .first()
                .map_or_else(String::new, |(_, why)| why.clone()),
            "start the node with this port, aber up --listen, or set the right address: \
             aber members set",
        ),
    }
}

/// Whether the API answers over TCP, where it is meant to, with the key that it is named by.
async fn api(data: &Path, told: Option<&Told>) -> Finding {
    let Some(told) = told else {
        return Finding::skipped("api", "whether it is open: only with a node running");
    };
    let address = &told.status.api_address;
    let wrong = match address.is_empty() {
        true => None,
        false => call_api(data, address).await.err(),
    };
    doctor::api(address, wrong.map(|problem| problem.to_string()))
}

async fn call_api(data: &Path, address: &str) -> Result<(), Problem> {
    let client = Client::connect(&Target::parse(address)?, data).await?;
    client.get_status(v1::GetStatusRequest {}).await.map(drop)
}

/// This node's own addresses, the others', and their clocks.
async fn membership(told: &Told) -> Vec<Finding> {
    let (own, others): (Vec<_>, Vec<_>) = told
        .members
        .iter()
        .filter(|member| member.state() != MemberState::Removed)
        .partition(|member| member.name == told.status.node);
    let mut findings = Vec::new();
    for member in own {
        for address in &member.addresses {
            let is_here = probe::is_of_this_machine(address).await;
            findings.push(doctor::own_address(&member.name, address, is_here));
        }
    }
    let tried = others.iter().take(MEMBERS_TRIED).map(|member| async {
        let (at, tried) = probe::connect(&member.addresses).await;
        doctor::reachable(&member.name, at.as_deref(), &tried)
    });
    let tried = futures::stream::iter(tried).buffered(TRIES_AT_ONCE);
    findings.extend(tried.collect::<Vec<_>>().await);
    if others.len() > MEMBERS_TRIED {
        let rest = others.len() - MEMBERS_TRIED;
        findings.push(Finding::skipped(
            "member",
            format!("{rest} more were not tried"),
        ));
    }
    for member in others {
        if let Some(ahead_ms) = print::millis(member.clock_skew.as_ref()) {
            findings.push(doctor::clock(&member.name, ahead_ms));
        }
    }
    findings
}

fn word(severity: Severity) -> &'static str {
    match severity {
        Severity::Ok => "ok",
        Severity::Skipped => "skipped",
        Severity::Note => "note",
        Severity::Problem => "problem",
    }
}

/// Prints all, and answers the exit code.
fn tell(context: &Context, findings: &[Finding]) -> u8 {
    for finding in findings {
        let value = json!({
            "check": finding.check,
            "severity": word(finding.severity),
            "what": finding.what,
            "why": (!finding.why.is_empty()).then_some(&finding.why),
            "mend": (!finding.mend.is_empty()).then_some(&finding.mend),
        });
        context.out.row("check", || line(finding), value);
    }
    let count = |severity| {
        findings
            .iter()
            .filter(|one| one.severity == severity)
            .count()
    };
    let (problems, notes) = (count(Severity::Problem), count(Severity::Note));
    let text = match problems {
        0 => "nothing to mend".to_owned(),
        some => format!("{} to mend", print::plural(some as u64, "problem")),
    };
    let value = json!({"problems_count": problems, "notes_count": notes});
    context.out.result(Some(text), value);
    u8::from(problems > 0)
}

fn line(finding: &Finding) -> String {
    let head = format!(
        "{:<7}  {:<8} {}",
        word(finding.severity),
        finding.check,
        print::escape(&finding.what)
    );
    if finding.mend.is_empty() {
        return head;
    }
    let (why, mend) = (print::escape(&finding.why), print::escape(&finding.mend));
    format!("{head}\n    why   {why}\n    mend  {mend}")
}
