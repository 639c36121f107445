//! [adapter] `where`: which nodes have a file, or a part of it.

use super::{Context, Outcome, parse_path, print};
use aber_proto::generated::v1::{self, ItemKind};
use clap::Args;
use serde_json::json;

/// Arguments of `where`.
#[derive(Args, Debug)]
pub(crate) struct WhereArgs {
    /// A file
    path: String,
}

/// Runs `where`.
pub(crate) async fn where_is(context: &Context, args: WhereArgs) -> Outcome {
    let path = parse_path(&args.path)?;
    let client = context.connect().await?;
    let request = v1::GetItemRequest {
        path: path.as_str().to_owned(),
        with_holders: true,
        ..Default::default()
    };
    let response = client.get_item(request).await?;
    let item = response.item.unwrap_or_default();
    for holder in &response.holders {
        let text = || {
            format!(
                "{:<16}  {}",
                print::escape(&holder.node),
                held_text(holder, item.size)
            )
        };
        let value = json!({
            "node": holder.node, "held_bytes": holder.held_bytes,
            "reachable": holder.reachable, "check_time": print::time(holder.check_time.as_ref()),
        });
        context.out.row("holder", text, value);
    }
    let text = whole_text(&response.holders, &item);
    context.out.result(Some(text), print::item_value(&item));
    Ok(0)
}

/// What one node has of a file.
fn held_text(holder: &v1::Holder, size: u64) -> String {
    match holder.held_bytes {
        _ if !holder.reachable => "away; what it has is not known".to_owned(),
        held if held >= size => "complete".to_owned(),
        0 => "nothing yet".to_owned(),
        held => {
            let missing = print::bytes(size - held);
            format!(
                "{} of {}, {missing} missing",
                print::bytes(held),
                print::bytes(size)
            )
        }
    }
}

/// Who has all of a file, in a sentence.
fn whole_text(holders: &[v1::Holder], item: &v1::Item) -> String {
    if item.kind() != ItemKind::File {
        return "it has no content: all nodes that follow its partition have it".to_owned();
    }
    let whole = |holder: &&v1::Holder| holder.reachable && holder.held_bytes >= item.size;
    let mut whole = holders.iter().filter(whole);
    let (first, more) = (whole.next(), whole.count());
    let away = holders.iter().filter(|holder| !holder.reachable).count();
    let mut text = match first {
        None => "no node that can be asked has it whole".to_owned(),
        Some(holder) if more == 0 && holders.len() > 1 => {
            format!(
                "only {} has it whole: there is one copy",
                print::escape(&holder.node)
            )
        }
        Some(_) if more == 0 => "1 node has it whole".to_owned(),
        Some(_) => format!("{} have it whole", print::plural(more as u64 + 1, "node")),
    };
    if away > 0 && more == 0 {
        text += &format!(
            ", as far as is known: {} away",
            print::plural(away as u64, "node")
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(node: &str, held_bytes: u64, reachable: bool) -> v1::Holder {
        let node = node.to_owned();
        v1::Holder {
            node,
            held_bytes,
            reachable,
            check_time: None,
        }
    }

    #[test]
    fn one_copy_is_named_and_what_is_not_known_is_said() {
        let item = v1::Item {
            kind: ItemKind::File.into(),
            size: 4096,
            ..Default::default()
        };
        let (all, part) = (holder("n1", 4096, true), holder("n2", 1024, true));
        let (none, away) = (holder("n3", 0, true), holder("n4", 0, false));
        let held = [&all, &part, &none, &away].map(|holder| held_text(holder, 4096));
        assert_eq!(
            held,
            [
                "complete",
                "1.0 KiB of 4.0 KiB, 3.0 KiB missing",
                "nothing yet",
                "away; what it has is not known"
            ]
        );
        let text = |holders: &[&v1::Holder]| {
            let holders: Vec<_> = holders.iter().copied().cloned().collect();
            whole_text(&holders, &item)
        };
        assert_eq!(text(&[&all]), "1 node has it whole");
        assert_eq!(
            text(&[&all, &part]),
            "only n1 has it whole: there is one copy"
        );
        assert_eq!(text(&[&all, &all, &away]), "2 nodes have it whole");
        assert_eq!(
            text(&[&part, &away]),
            "no node that can be asked has it whole, as far as is known: 1 node away"
        );
        assert_eq!(
            text(&[&all, &away]),
            "only n1 has it whole: there is one copy, as far as is known: 1 node away"
        );
    }
}
