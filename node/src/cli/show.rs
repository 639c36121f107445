//! [adapter] `show`: one entry in full, with chain and signature checked here.

use super::event::{entry_value, event_text, local_time};
use super::when;
use super::{Context, Outcome, print};
use crate::reason::Problem;
use aber_proto::generated::v1::{self, EventResult};
use aber_proto::{ChainHash, ChangeHash, Entry, PublicKey, codec};
use clap::Args;
use jiff::Zoned;
use serde_json::{Value, json};

/// Arguments of `show`.
#[derive(Args, Debug)]
pub(crate) struct ShowArgs {
    /// An entry, e.g. 3:1842, or one event of it, e.g. 3:1842.7
    event: String,
}

/// What was found out about one thing: checked and good, bad, or not checked, and why.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Checked {
    Good,
    Bad(&'static str),
    No(&'static str),
}

impl Checked {
    fn text(self) -> String {
        match self {
            Self::Good => "good".to_owned(),
            Self::Bad(why) => format!("BAD: {why}"),
            Self::No(why) => format!("not checked: {why}"),
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Bad(_) => "bad",
            Self::No(_) => "not_checked",
        }
    }
}

/// Whether the bytes follow from the entry before, and are what is shown.
fn chain(response: &v1::GetEntryResponse, entry: &v1::Entry) -> Checked {
    let Ok(found) = Entry::decode(&response.entry_bytes) else {
        return Checked::Bad("the bytes are no entry");
    };
    let id = entry.id.unwrap_or_default();
    let is_it = found.partition.0 == id.partition && found.log_id.index == id.index;
    if !is_it || found.chain.0.as_slice() != entry.chain_hash {
        return Checked::Bad("the bytes are another entry's");
    }
    let Ok(previous) = <[u8; 32]>::try_from(response.previous_chain_hash.as_ref()) else {
        return Checked::No("the entry before it is not on that node");
    };
    match found.verify(&ChainHash(previous)) {
        Ok(()) => Checked::Good,
        Err(_) => Checked::Bad("it does not follow from the entry before it"),
    }
}

/// Whether the author signed the change that is shown.
fn signature(response: &v1::GetEntryResponse) -> Checked {
    let Ok(entry) = Entry::decode(&response.entry_bytes) else {
        return Checked::Bad("the bytes are no entry");
    };
    let Ok(signed) = codec::decode_signed(&entry.body) else {
        return Checked::No("it holds no change");
    };
    if signed.body != response.change_bytes {
        return Checked::Bad("the change is not the one of the entry");
    }
    let Ok(key) = <[u8; 32]>::try_from(response.author_key.as_ref()) else {
        return Checked::No("that node does not know the author's key");
    };
    let change = ChangeHash::of(&signed.body);
    match signed.signature.verify(&PublicKey(key), &change) {
        Ok(()) => Checked::Good,
        Err(_) => Checked::Bad("the author's key did not sign this"),
    }
}

/// Runs `show`.
pub(crate) async fn show(context: &Context, args: ShowArgs) -> Outcome {
    let Some((id, only)) = when::event(&args.event) else {
        let detail = format!("{:?} names no entry; one is 3:1842 or 3:1842.7", args.event);
        return Err(Problem::usage(detail));
    };
    let client = context.connect().await?;
    let request = v1::GetEntryRequest { id: Some(id) };
    let response = client.get_entry(request).await?;
    let mut entry = response.entry.clone().unwrap_or_default();
    if let (Some(only), Some(change)) = (only, &mut entry.change) {
        change.events.retain(|event| event.number == only);
        if change.events.is_empty() {
            let count = print::plural(u64::from(change.events_total), "event");
            let entry = print::entry_id(Some(&id)).unwrap_or_default();
            return Err(Problem::usage(format!(
                "{entry} has {count}, none is {only}"
            )));
        }
    }
    let (chain, signature) = (chain(&response, &entry), signature(&response));
    let mut value = entry_value(&entry);
    if let Value::Object(fields) = &mut value {
        fields.insert("chain".to_owned(), json!(chain.word()));
        fields.insert("signature".to_owned(), json!(signature.word()));
        let key = print::hex(&response.author_key);
        fields.insert("author_key".to_owned(), json!(key));
        let previous = print::hex(&response.previous_chain_hash);
        fields.insert("previous_chain_hash".to_owned(), json!(previous));
    }
    let text = text(&entry, &Zoned::now(), chain, signature);
    context.out.result(Some(text), value);
    let is_bad = |checked| matches!(checked, Checked::Bad(_));
    Ok(if is_bad(chain) || is_bad(signature) {
        8
    } else {
        0
    })
}

fn text(entry: &v1::Entry, now: &Zoned, chain: Checked, signature: Checked) -> String {
    let id = print::entry_id(entry.id.as_ref()).unwrap_or_default();
    let time = |time: Option<&prost_types::Timestamp>| match print::time(time) {
        Some(utc) => format!("{utc}  ({})", local_time(time, now)),
        None => "not known".to_owned(),
    };
    let mut lines = vec![id];
    let mut say = |what: &str, text: String| {
        let line = format!("  {what:<10} {text}");
        lines.push(line.trim_end().to_owned());
    };
    let Some(change) = &entry.change else {
        say(
            "holds",
            "nothing of anybody's: it is the log's own".to_owned(),
        );
        say("chain", chain.text());
        return lines.join("\n");
    };
    let author = print::escape(&change.author);
    say("by", author.clone());
    say("ordered", time(entry.order_time.as_ref()));
    say("written", time(change.wall_time.as_ref()));
    if !change.via.is_empty() {
        say("via", print::escape(&change.via));
    }
    if !change.comment.is_empty() {
        say("comment", format!("\"{}\"", print::escape(&change.comment)));
    }
    if !change.act.is_empty() {
        let of = match change.takes_back.as_str() {
            "" => String::new(),
            back => format!(" of {}", print::escape(back)),
        };
        say("act", format!("{}{of}", print::escape(&change.act)));
    }
    if !change.plan_id.is_empty() {
        say("plan", print::escape(&change.plan_id));
    }
    say("outcome", outcome_text(entry));
    say("request", print::escape(&change.request_id));
    let hash = print::hex(&entry.chain_hash).unwrap_or_default();
    say("chain", format!("{} {hash}", chain.text()));
    lines.push(format!("  signature of {author}: {}", signature.text()));
    lines.extend(change.events.iter().map(event_lines));
    let hidden = u64::from(change.events_total).saturating_sub(change.events.len() as u64);
    if hidden > 0 {
        lines.push(format!("  and {}", print::plural(hidden, "more event")));
    }
    lines.join("\n")
}

fn outcome_text(entry: &v1::Entry) -> String {
    if entry.applied {
        return "done".to_owned();
    }
    if entry.outcome_unknown {
        return "older than what that node knows of outcomes".to_owned();
    }
    let reason = print::word(entry.rejected_reason().as_str_name(), "ERROR_REASON");
    let reason = reason.to_ascii_uppercase();
    match entry.rejected_event {
        0 => format!("rejected: {reason}"),
        event => format!("rejected: {reason}, by event {event}; nothing of it was done"),
    }
}

fn event_lines(event: &v1::Event) -> String {
    let (sign, what, size) = event_text(event);
    let mut text = format!("  {}  {sign}  {what}", event.number);
    if !size.is_empty() {
        text += &format!("  {size}");
    }
    let Some(outcome) = &event.outcome else {
        return text;
    };
    if outcome.result() == EventResult::Done {
        text += "  done";
    }
    let etags = (outcome.etag_before.as_str(), outcome.etag_after.as_str());
    match etags {
        ("", "") => {}
        ("", after) => text += &format!("\n       made {after}"),
        (before, "") => text += &format!("\n       was {before}"),
        (before, after) if before == after => text += &format!("\n       is {after}"),
        (before, after) => text += &format!("\n       was {before}, is {after}"),
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use aber_proto::{EntryKind, LogId, PartitionId, SecretKey, SignedChange, Timestamp};
    use bytes::Bytes;

    fn response() -> (v1::GetEntryResponse, v1::Entry) {
        let key = SecretKey::from_seed(&[7; 32]).expect("a key");
        let body = Bytes::from_static(b"a change");
        let signature = key.sign_batch(&[ChangeHash::of(&body)]).remove(0);
        let signed = SignedChange {
            body: body.clone(),
            signature,
        };
        let before = ChainHash([1; 32]);
        let entry = Entry::following(
            &before,
            Entry {
                partition: PartitionId(3),
                log_id: LogId { term: 2, index: 9 },
                order_time: Timestamp(5),
                control_index: 1,
                kind: EntryKind::Change,
                body: codec::encode_signed(&signed),
                chain: ChainHash([0; 32]),
            },
        );
        let shown = v1::Entry {
            id: Some(v1::EntryId {
                partition: 3,
                index: 9,
            }),
            chain_hash: Bytes::copy_from_slice(&entry.chain.0),
            ..v1::Entry::default()
        };
        let response = v1::GetEntryResponse {
            previous_chain_hash: Bytes::copy_from_slice(&before.0),
            entry_bytes: entry.to_bytes(),
            change_bytes: body,
            author_key: Bytes::copy_from_slice(&key.public().0),
            ..v1::GetEntryResponse::default()
        };
        (response, shown)
    }

    /// S1: what is shown as good was checked against the bytes, not believed.
    #[test]
    fn chain_and_signature_are_checked() {
        let (good, shown) = response();
        assert_eq!(
            (chain(&good, &shown), signature(&good)),
            (Checked::Good, Checked::Good)
        );
        let mut other = good.clone();
        other.previous_chain_hash = vec![9; 32].into();
        assert!(matches!(chain(&other, &shown), Checked::Bad(_)));
        other.previous_chain_hash = Bytes::new();
        assert!(matches!(chain(&other, &shown), Checked::No(_)));
        let mut other = good.clone();
        other.author_key = vec![9; 32].into();
        assert!(matches!(signature(&other), Checked::Bad(_)));
        other.author_key = Bytes::new();
        assert!(matches!(signature(&other), Checked::No(_)));
        let mut other = good.clone();
        other.change_bytes = Bytes::from_static(b"another change");
        assert!(matches!(signature(&other), Checked::Bad(_)));
        let mut elsewhere = shown.clone();
        elsewhere.id = Some(v1::EntryId {
            partition: 3,
            index: 10,
        });
        assert!(matches!(chain(&good, &elsewhere), Checked::Bad(_)));
        let mut bytes = good.entry_bytes.to_vec();
        if let Some(last) = bytes.last_mut() {
            *last ^= 1;
        }
        let mut other = good;
        other.entry_bytes = bytes.into();
        assert!(matches!(chain(&other, &shown), Checked::Bad(_)));
    }
}
