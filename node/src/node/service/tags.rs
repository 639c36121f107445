//! [driver] Tags: names of moments, and setting and removing them.

use super::members::{foreign, page};
use super::moment::cursor_of;
use super::prepare::Draft;
use super::{NodeService, index_problem, render};
use crate::reason::{Problem, Reason};
use crate::service::Answer;
use aber_log::env::Env;
use aber_materializer::view::{Moment, Tag};
use aber_proto::generated::v1;
use aber_proto::keep::is_tag_name;
use aber_proto::{Operation, RequestId, Retention, Role, limit};

impl<E: Env> NodeService<E> {
    pub(super) async fn set_tag(
        &self,
        request: v1::CreateTagRequest,
    ) -> Answer<v1::CreateTagResponse> {
        let name = request.name;
        if !is_tag_name(&name) {
            return Err(Problem::usage(format!(
                "{name:?} is no name of a tag: 1 to 64 of a-z, 0-9, '-', '.' and '_', a letter first"
            )));
        }
        if request.comment.len() > limit::COMMENT_BYTES {
            return Err(Problem::usage("a comment has at most 200 bytes"));
        }
        let moment = self.moment(request.at.as_ref(), &request.path)?;
        let mut moment = moment.unwrap_or_else(|| self.present_moment()).0;
        moment.retain(|_, index| *index > 0);
        let operation = Operation::SetTag {
            name: name.clone(),
            moment,
            comment: request.comment,
        };
        let id = self.request_id(&request.request_id)?;
        let done = self.write_control(operation, id, Role::Writer).await;
        let result = done.map_err(|problem| problem.with("name", &name))?;
        let tag = self.node.parts.tree.tag(&name).map_err(index_problem)?;
        let tag = match tag {
            Some(tag) => self.tag(&name, tag)?,
            None => v1::Tag {
                name,
                ..v1::Tag::default()
            },
        };
        Ok(v1::CreateTagResponse {
            tag: Some(tag),
            result: Some(result),
        })
    }

    pub(super) async fn remove_tag(
        &self,
        request: v1::DeleteTagRequest,
    ) -> Answer<v1::DeleteTagResponse> {
        let name = request.name;
        let unknown = || Problem::new(Reason::TagUnknown).with("tag", &name);
        if !is_tag_name(&name) {
            return Err(unknown());
        }
        let operation = Operation::RemoveTag { name: name.clone() };
        let id = self.request_id(&request.request_id)?;
        let done = self.write_control(operation, id, Role::Writer).await;
        let result = done.map_err(|problem| problem.with("tag", &name))?;
        Ok(v1::DeleteTagResponse {
            result: Some(result),
        })
    }

    /// The newest moment first; of equal ones by name.
    pub(super) fn tags(&self, request: &v1::ListTagsRequest) -> Answer<v1::ListTagsResponse> {
        let after = match request.page_token.as_str() {
            "" => None,
            token => Some(token.parse::<u64>().map_err(|_| foreign(token))?),
        };
        let known = self.node.parts.tree.tags().map_err(index_problem)?;
        let mut tags = Vec::with_capacity(known.len());
        for (name, tag) in known {
            tags.push(self.tag(&name, tag)?);
        }
        let time = |tag: &v1::Tag| {
            tag.time
                .or(tag.create_time)
                .map(|time| (time.seconds, time.nanos))
        };
        tags.sort_by(|one, other| {
            let order = time(other).cmp(&time(one));
            order.then_with(|| one.name.cmp(&other.name))
        });
        let (rows, next) = page((0_u64..).zip(tags), after, request.page_size, |row| row.0);
        Ok(v1::ListTagsResponse {
            tags: rows.into_iter().map(|(_, tag)| tag).collect(),
            next_page_token: next.map_or_else(String::new, |next| next.to_string()),
        })
    }

    fn tag(&self, name: &str, tag: Tag) -> Result<v1::Tag, Problem> {
        let tree = &self.node.parts.tree;
        let mut time = None;
        for (partition, index) in &tag.moment {
            let happened = tree.happened(*partition, *index).map_err(index_problem)?;
            time = time.max(happened.map(|happened| happened.order_time));
        }
        let mut moment = Moment(tag.moment);
        for partition in self.node.parts.applied.keys() {
            moment.0.entry(*partition).or_insert(0);
        }
        Ok(v1::Tag {
            name: name.to_owned(),
            cursor: Some(cursor_of(&moment)),
            time: time.map(render::stamp_message),
            comment: tag.comment,
            author: self.node.name_of(tag.author),
            create_time: Some(render::stamp_message(tag.time)),
        })
    }

    /// Appends a change of the control partition that touches no path, and waits for its outcome.
    pub(super) async fn write_control(
        &self,
        operation: Operation,
        request: RequestId,
        needed: Role,
    ) -> Result<v1::WriteResult, Problem> {
        let options = v1::WriteOptions {
            via: "history".to_owned(),
            ..v1::WriteOptions::default()
        };
        let draft = Draft::of_members(operation);
        let written = self.write_draft(draft, request, &options).await;
        written.map_err(|problem| match problem.reason {
            Reason::NotAllowed => self.beyond_role(problem, needed),
            _ => problem,
        })
    }
}

/// An event on tags or retention.
pub(super) fn event(operation: &Operation) -> v1::event::Operation {
    use v1::ControlKind as Kind;
    let (kind, subject, text) = match operation {
        Operation::SetTag { name, .. } => (Kind::Tag, name.clone(), format!("set tag {name}")),
        Operation::RemoveTag { name } => (Kind::Tag, name.clone(), format!("removed tag {name}")),
        Operation::SetRetention { volume, retention } => {
            let number = (volume.0 >> 10).to_string();
            let text = format!("volume {number} keeps {}", retention_text(*retention));
            (Kind::Volume, number, text)
        }
        _ => (Kind::Unspecified, String::new(), String::new()),
    };
    v1::event::Operation::Control(v1::ControlEvent {
        kind: kind.into(),
        subject,
        text,
    })
}

fn retention_text(retention: Retention) -> String {
    match retention {
        Retention::Forever => "all of its history".to_owned(),
        Retention::Age(age_ms) => format!("what is newer than {} s", age_ms / 1000),
        Retention::Versions(count) => format!("{count} versions of a file"),
        Retention::Size(bytes) => format!("{bytes} bytes of history"),
    }
}
