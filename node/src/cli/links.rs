//! [adapter] `links`: whom this node is connected to, and why not.

use super::{Context, Outcome, print};
use aber_proto::generated::v1;
use serde_json::{Value, json};

/// Runs `links`.
pub(crate) async fn links(context: &Context) -> Outcome {
    let client = context.connect().await?;
    let links = client.list_links(v1::ListLinksRequest {}).await?.links;
    for link in &links {
        context.out.row("link", || line(link), value(link));
    }
    let up = links.iter().filter(|link| link.up).count();
    let text = format!("{up} of {} up", print::plural(links.len() as u64, "link"));
    let value = json!({"links_count": links.len(), "links_up_count": up});
    context.out.result(Some(text), value);
    Ok(0)
}

fn line(link: &v1::MemberLink) -> String {
    let name = print::escape(&link.name);
    let bytes = format!(
        "sent {}, received {}",
        print::bytes(link.sent_bytes),
        print::bytes(link.received_bytes)
    );
    let why = print::escape(&link.why_not);
    if !link.up {
        return format!("{name:<12} down   {why}");
    }
    let mut line = format!("{name:<12} up   ");
    if let Some(millis) = print::millis(link.round_trip.as_ref()) {
        line += &format!("{millis} ms   ");
    }
    line += &print::escape(&link.address);
    line += &format!("   {bytes}");
    if !link.content_up {
        line += &format!("   no content: {why}");
    }
    line
}

fn value(link: &v1::MemberLink) -> Value {
    json!({
        "name": link.name,
        "id": link.id,
        "up": link.up,
        "content_up": link.content_up,
        "why_not": (!link.why_not.is_empty()).then_some(&link.why_not),
        "round_trip_ms": print::millis(link.round_trip.as_ref()),
        "address": (!link.address.is_empty()).then_some(&link.address),
        "sent_bytes": link.sent_bytes,
        "received_bytes": link.received_bytes,
        "last_seen_time": print::time(link.last_seen_time.as_ref()),
        "clock_skew_ms": print::millis(link.clock_skew.as_ref()),
    })
}
