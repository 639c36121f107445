//! [adapter] Tickets that were made: `invite ls`, `invite revoke`.

use super::members::finish;
use super::write::new_request_id;
use super::{Context, Outcome, print};
use aber_proto::generated::v1::{self, TicketState};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

/// Digits of a ticket's id that are shown.
const SHOWN_DIGITS: usize = 8;

/// What can be done with tickets that were made.
#[derive(Subcommand, Debug)]
pub(crate) enum InviteCommand {
    /// List tickets: those that are open, and those that ended in the last 30 days
    Ls(TicketsArgs),
    /// Take a ticket back: it lets nobody in any more
    #[command(after_help = REVOKE_HELP)]
    Revoke(RevokeArgs),
}

const REVOKE_HELP: &str = "\
Examples:
  aber invite ls                                 which there are
  aber invite revoke 1f0c93ab                    the start of its id is enough";

/// Arguments of `invite ls`.
#[derive(Args, Debug)]
pub(crate) struct TicketsArgs {
    /// Only those that still let somebody in
    #[arg(long)]
    open: bool,
}

/// Arguments of `invite revoke`.
#[derive(Args, Debug)]
pub(crate) struct RevokeArgs {
    /// The ticket's id, or its start
    #[arg(value_name = "ID")]
    id: String,
}

/// Runs `invite ls` and `invite revoke`.
pub(crate) async fn run(context: &Context, command: InviteCommand) -> Outcome {
    match command {
        InviteCommand::Ls(args) => ls(context, args).await,
        InviteCommand::Revoke(args) => revoke(context, args).await,
    }
}

/// Runs `invite ls`.
pub(crate) async fn ls(context: &Context, args: TicketsArgs) -> Outcome {
    let client = context.connect().await?;
    let mut count = 0_u64;
    let mut page_token = String::new();
    loop {
        let request = v1::ListTicketsRequest {
            page_size: 0,
            page_token,
        };
        let page = client.list_tickets(request).await?;
        for ticket in &page.tickets {
            if args.open && ticket.state() != TicketState::Open {
                continue;
            }
            count += 1;
            context.out.row("ticket", || line(ticket), value(ticket));
        }
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    let text = (count == 0).then(|| "no tickets".to_owned());
    context.out.result(text, json!({"tickets_count": count}));
    Ok(0)
}

/// Runs `invite revoke`.
pub(crate) async fn revoke(context: &Context, args: RevokeArgs) -> Outcome {
    let client = context.connect().await?;
    let request = v1::RevokeTicketRequest {
        id: args.id,
        request_id: new_request_id()?.to_string(),
    };
    let response = client.revoke_ticket(request).await?;
    let ticket = response.ticket.unwrap_or_default();
    let result = response.result.unwrap_or_default();
    let json = json!({"ticket": value(&ticket)});
    finish(context, &result, &line(&ticket), json)
}

fn line(ticket: &v1::Ticket) -> String {
    let time = |time: &Option<prost_types::Timestamp>| print::short_time(time.as_ref());
    let end = match ticket.state() {
        TicketState::Used => {
            let by = print::escape(&ticket.used_by);
            format!("used by {by} at {}", time(&ticket.use_time))
        }
        TicketState::Revoked => {
            let by = print::escape(&ticket.revoked_by);
            format!("revoked by {by} at {}", time(&ticket.revoke_time))
        }
        TicketState::Expired => format!("expired at {}", time(&ticket.expire_time)),
        TicketState::Open | TicketState::Unspecified => {
            format!("open until {}", time(&ticket.expire_time))
        }
    };
    let role = print::word(ticket.role().as_str_name(), "ROLE");
    let mut line = format!(
        "{}   {role:<7} {end}   by {}",
        ticket.id.get(..SHOWN_DIGITS).unwrap_or(&ticket.id),
        print::escape(&ticket.inviter)
    );
    if !ticket.node_name.is_empty() {
        line += &format!("   for {}", print::escape(&ticket.node_name));
    }
    if !ticket.voter_eligible {
        line += "   never votes";
    }
    line
}

fn value(ticket: &v1::Ticket) -> Value {
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    json!({
        "id": ticket.id,
        "state": print::word(ticket.state().as_str_name(), "TICKET_STATE"),
        "role": print::word(ticket.role().as_str_name(), "ROLE"),
        "voter_eligible": ticket.voter_eligible,
        "node_name": text(&ticket.node_name),
        "inviter": ticket.inviter,
        "expire_time": print::time(ticket.expire_time.as_ref()),
        "used_by": text(&ticket.used_by),
        "use_time": print::time(ticket.use_time.as_ref()),
        "revoked_by": text(&ticket.revoked_by),
        "revoke_time": print::time(ticket.revoke_time.as_ref()),
    })
}
