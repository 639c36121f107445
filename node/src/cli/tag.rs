//! [adapter] `tag`: names of moments: listing, setting, removing.

use super::members::finish;
use super::write::new_request_id;
use super::{Context, Outcome, at, print, when};
use crate::client::Client;
use crate::reason::Problem;
use aber_proto::generated::v1;
use clap::Args;
use jiff::Zoned;
use serde_json::{Value, json};

/// Arguments of `tag`.
#[derive(Args, Debug)]
pub(crate) struct TagArgs {
    /// The tag to set, and when, else now; or rm and the tag to remove; nothing: all tags
    #[arg(value_names = ["NAME", "WHEN"], num_args = 0..=2)]
    words: Vec<String>,
    /// A few words on it
    #[arg(long)]
    comment: Option<String>,
}

/// What is meant by the words.
enum Wish {
    List,
    Set { name: String, when: Option<String> },
    Remove { name: String },
}

impl TagArgs {
    /// `rm` alone is a name that a tag cannot have.
    fn wish(&self) -> Result<Wish, Problem> {
        match self.words.as_slice() {
            [] => Ok(Wish::List),
            [word] if word == "rm" => Err(Problem::usage("aber tag rm takes the tag to remove")),
            [word, name] if word == "rm" => Ok(Wish::Remove { name: name.clone() }),
            [name, rest @ ..] => Ok(Wish::Set {
                name: name.clone(),
                when: rest.first().cloned(),
            }),
        }
    }

    /// Whether a change may be on its way when it is interrupted.
    pub(crate) fn writes(&self) -> bool {
        !self.words.is_empty()
    }
}

/// Runs `tag`.
pub(crate) async fn tag(context: &Context, args: TagArgs) -> Outcome {
    let wish = args.wish()?;
    if args.comment.is_some() && !matches!(wish, Wish::Set { .. }) {
        return Err(Problem::usage("a comment goes with a tag that is set"));
    }
    match wish {
        Wish::List => list(context, &context.connect().await?).await,
        Wish::Set { name, when } => set(context, &name, when, args.comment).await,
        Wish::Remove { name } => remove(context, name).await,
    }
}

async fn list(context: &Context, client: &Client) -> Outcome {
    let mut count = 0_u64;
    let mut page_token = String::new();
    loop {
        let request = v1::ListTagsRequest {
            page_size: 0,
            page_token,
        };
        let page = client.list_tags(request).await?;
        for tag in &page.tags {
            context.out.row("tag", || line(tag), value(tag));
            count += 1;
        }
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    context.out.result(None, json!({"tags_count": count}));
    Ok(0)
}

async fn set(
    context: &Context,
    name: &str,
    when: Option<String>,
    comment: Option<String>,
) -> Outcome {
    if !when::may_name_a_tag(name, &Zoned::now()) {
        return Err(Problem::usage(format!(
            "{name:?} cannot be a tag: 1 to 64 of a-z, 0-9, '-', '.' and '_', a letter first, and \
             nothing that means another time, as today does"
        )));
    }
    let client = context.connect().await?;
    let at = match when {
        Some(when) => Some(at::moment(context, &client, &when, "").await?),
        None => None,
    };
    let request = v1::CreateTagRequest {
        name: name.to_owned(),
        at,
        comment: comment.unwrap_or_default(),
        request_id: new_request_id()?.to_string(),
        path: String::new(),
    };
    let response = client.create_tag(request).await?;
    let tag = response.tag.unwrap_or_default();
    let result = response.result.unwrap_or_default();
    finish(context, &result, &line(&tag), json!({"tag": value(&tag)}))
}

async fn remove(context: &Context, name: String) -> Outcome {
    let client = context.connect().await?;
    let request = v1::DeleteTagRequest {
        name: name.clone(),
        request_id: new_request_id()?.to_string(),
    };
    let response = client.delete_tag(request).await?;
    let result = response.result.unwrap_or_default();
    let text = format!("removed tag {}", print::escape(&name));
    finish(context, &result, &text, json!({"removed": name}))
}

fn line(tag: &v1::Tag) -> String {
    let time = match tag.time {
        Some(_) => print::short_time(tag.time.as_ref()),
        None => "-".to_owned(),
    };
    let line = format!(
        "{:<24} {time:<20}  {:<12} {}",
        print::escape(&tag.name),
        print::escape(&tag.author),
        print::escape(&tag.comment),
    );
    line.trim_end().to_owned()
}

fn value(tag: &v1::Tag) -> Value {
    json!({
        "name": tag.name,
        "time": print::time(tag.time.as_ref()),
        "comment": tag.comment,
        "author": tag.author,
        "create_time": print::time(tag.create_time.as_ref()),
    })
}
