//! Builds the documents of the workspace; a link inside them that leads nowhere is an error.
//!
//! A file's doc begins with its kind, `[pure]`, and rustdoc takes that for a link. No lint level
//! tells the two apart, so its messages are read here, and those about the kinds let through. So
//! are links from public to private items: they are for readers of the source.

use super::say;
use crate::tidy::cargo;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Stdio};

const KINDS: [&str; 3] = ["pure", "driver", "adapter"];

pub(super) fn check(root: &Path) -> Result<()> {
    let arguments = [
        "doc",
        "--workspace",
        "--no-deps",
        "--quiet",
        "--message-format",
        "json",
    ];
    let done = Command::new(cargo())
        .args(arguments)
        .current_dir(root)
        .stderr(Stdio::inherit())
        .output()
        .context("cargo doc cannot be started")?;
    let found = findings(&String::from_utf8_lossy(&done.stdout));
    for finding in &found {
        say(finding);
    }
    if !found.is_empty() {
        bail!("{} broken links in documents", found.len());
    }
    if !done.status.success() {
        bail!("cargo doc: {}", done.status);
    }
    Ok(())
}

/// What rustdoc's lints found, one text each, without the kinds.
fn findings(messages: &str) -> Vec<String> {
    let lines = messages.lines();
    let parsed = lines.filter_map(|line| serde_json::from_str::<Value>(line).ok());
    parsed
        .filter_map(|line| finding(line.get("message")?))
        .collect()
}

fn finding(message: &Value) -> Option<String> {
    let code = message.pointer("/code/code")?.as_str()?;
    let text = message.get("message")?.as_str()?;
    let is_kind = KINDS
        .iter()
        .any(|kind| text == format!("unresolved link to `{kind}`"));
    let is_private = code == "rustdoc::private_intra_doc_links";
    if !code.starts_with("rustdoc::") || is_kind || is_private {
        return None;
    }
    let rendered = message.get("rendered").and_then(Value::as_str);
    Some(rendered.unwrap_or(text).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn line(code: &str, text: &str) -> String {
        let message = json!({ "code": { "code": code }, "message": text, "rendered": text });
        json!({ "reason": "compiler-message", "message": message }).to_string()
    }

    #[test]
    fn a_broken_link_is_found_and_a_kind_is_none() {
        let lint = "rustdoc::broken_intra_doc_links";
        let messages = [
            line(lint, "unresolved link to `pure`"),
            line(lint, "unresolved link to `Lost`"),
            line("dead_code", "never used"),
            line("rustdoc::private_intra_doc_links", "links to private item"),
            json!({ "reason": "build-finished", "success": true }).to_string(),
            "no JSON".to_owned(),
        ];
        assert_eq!(
            findings(&messages.join("\n")),
            ["unresolved link to `Lost`"]
        );
    }
}
