//! [adapter] The command `invite`.

use super::tickets::{self, InviteCommand};
use super::{Context, Outcome, print};
use crate::reason::Problem;
use aber_proto::generated::v1;
use clap::{Args, ValueEnum};
use qrcode::render::unicode::Dense1x2;
use qrcode::{EcLevel, QrCode};
use serde_json::json;
use std::time::Duration;

/// Arguments of `invite`.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct InviteArgs {
    #[command(subcommand)]
    of_those: Option<InviteCommand>,
    /// What the newcomer may do; each role includes those before it
    #[arg(long, value_enum, default_value_t = InviteRole::Writer)]
    role: InviteRole,
    /// It never votes, for machines that are often off
    #[arg(long)]
    no_vote: bool,
    /// How long the ticket is good, e.g. 30m, 24h, 7d
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = parse_valid)]
    valid: Duration,
    /// The newcomer's name [default: what it calls itself]
    #[arg(long)]
    name: Option<String>,
    /// Show it as a QR code too
    #[arg(long)]
    qr: bool,
    /// Where the newcomer calls, up to 4 times [default: this node's own addresses]
    #[arg(long, value_name = "HOST:PORT")]
    address: Vec<String>,
}

impl InviteArgs {
    /// Whether a change may be on its way when it is interrupted.
    pub(crate) fn writes(&self) -> bool {
        !matches!(self.of_those, Some(InviteCommand::Ls(_)))
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum InviteRole {
    Reader,
    Writer,
    Admin,
}

/// As other durations, and days too.
fn parse_valid(text: &str) -> Result<Duration, String> {
    match text.strip_suffix('d').map(str::parse::<u64>) {
        Some(Ok(days)) if days <= 366 => Ok(Duration::from_secs(days * 24 * 3600)),
        Some(_) => Err("a number of days: 7d".to_owned()),
        None => super::parse_duration(text),
    }
}

/// Runs `invite`.
pub(crate) async fn invite(context: &Context, args: InviteArgs) -> Outcome {
    if let Some(of_those) = args.of_those {
        return tickets::run(context, of_those).await;
    }
    let client = context.connect().await?;
    let role = match args.role {
        InviteRole::Reader => v1::Role::Reader,
        InviteRole::Writer => v1::Role::Writer,
        InviteRole::Admin => v1::Role::Admin,
    };
    let valid_for = prost_types::Duration::try_from(args.valid);
    let request = v1::CreateTicketRequest {
        role: role.into(),
        voter_eligible: Some(!args.no_vote),
        valid_for: Some(valid_for.map_err(|_| Problem::usage("--valid is too long"))?),
        node_name: args.name.unwrap_or_default(),
        addresses: args.address,
    };
    let made = client.create_ticket(request).await?;
    let ticket = made.ticket.unwrap_or_default();
    let until = print::short_time(ticket.expire_time.as_ref());
    let word = print::word(ticket.role().as_str_name(), "ROLE");
    let mut text = format!(
        "Give this to ONE person; it lets one node in as {word}, until {until}:\n\n  \
         aber join {}\n\nIt calls {}.",
        made.text,
        print::escape(&made.addresses.join(", "))
    );
    if args.qr {
        text.push_str("\n\n");
        text.push_str(&qr(&made.text)?);
    }
    let value = json!({
        "ticket": made.text, "id": ticket.id, "role": word,
        "voter_eligible": ticket.voter_eligible,
        "name": (!ticket.node_name.is_empty()).then_some(&ticket.node_name),
        "inviter": ticket.inviter, "expire_time": print::time(ticket.expire_time.as_ref()),
        "addresses": made.addresses,
    });
    context.out.result(Some(text), value);
    Ok(0)
}

/// The ticket as a picture of half blocks. Capitals take fewer modules, and mean the same.
fn qr(ticket: &str) -> Result<String, Problem> {
    let code = QrCode::with_error_correction_level(ticket.to_ascii_uppercase(), EcLevel::L);
    let code = code.map_err(Problem::internal)?;
    Ok(code
        .render::<Dense1x2>()
        .dark_color(Dense1x2::Light)
        .light_color(Dense1x2::Dark)
        .build())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_with_days_too() {
        assert_eq!(parse_valid("2d"), Ok(Duration::from_secs(172_800)));
        assert_eq!(parse_valid("30m"), Ok(Duration::from_secs(1800)));
        assert!(parse_valid("d").is_err() && parse_valid("-1d").is_err());
    }

    #[test]
    fn a_ticket_of_four_addresses_is_a_code_of_a_terminal() {
        let shown = qr(&format!("aber1-{}", "7kq4x-".repeat(40))).expect("a code");
        let width = shown.lines().map(|line| line.chars().count()).max();
        assert!(width.is_some_and(|width| width <= 80), "{width:?}");
    }
}
