//! Tags, retention and pruning of the fake node.

/// The calls about what stays of the past, for the implementation of `Service`.
macro_rules! answers {
    () => {
        async fn create_tag(&self, request: v1::CreateTagRequest) -> Answer<v1::CreateTagResponse> {
            if request.name == "taken" {
                return Err(Problem::new(Reason::NameTaken).with("name", request.name));
            }
            let mut tag = keep::tag();
            tag.name = request.name;
            tag.comment = request.comment;
            Ok(v1::CreateTagResponse {
                tag: Some(tag),
                result: Some(keep::committed()),
            })
        }

        async fn list_tags(&self, _: v1::ListTagsRequest) -> Answer<v1::ListTagsResponse> {
            Ok(v1::ListTagsResponse {
                tags: vec![keep::tag()],
                next_page_token: String::new(),
            })
        }

        async fn delete_tag(&self, request: v1::DeleteTagRequest) -> Answer<v1::DeleteTagResponse> {
            if request.name != keep::tag().name {
                return Err(Problem::new(Reason::TagUnknown).with("tag", request.name));
            }
            Ok(v1::DeleteTagResponse {
                result: Some(keep::committed()),
            })
        }

        async fn update_volume(
            &self,
            request: v1::UpdateVolumeRequest,
        ) -> Answer<v1::UpdateVolumeResponse> {
            let volume = v1::Volume {
                name: request.name,
                partition: 3,
                retention: request.retention,
                ..v1::Volume::default()
            };
            Ok(v1::UpdateVolumeResponse {
                volume: Some(volume),
                result: Some(keep::committed()),
            })
        }

        async fn plan_prune(&self, _: v1::PlanPruneRequest) -> Answer<v1::PlanPruneResponse> {
            Ok(keep::plan())
        }

        async fn apply_prune(
            &self,
            _: v1::ApplyPruneRequest,
        ) -> Answer<Answers<v1::ApplyPruneResponse>> {
            let report = v1::apply_prune_response::Message::Report(keep::report());
            Ok(answers(vec![v1::ApplyPruneResponse {
                message: Some(report),
            }]))
        }
    };
}

pub(super) use answers;

use aber_proto::generated::v1;

/// The one tag there is.
pub fn tag() -> v1::Tag {
    let time = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
    v1::Tag {
        name: "before-the-party".to_owned(),
        cursor: None,
        time: time(1_795_370_400),
        comment: "all is well".to_owned(),
        author: "yann".to_owned(),
        create_time: time(1_795_374_000),
    }
}

pub fn committed() -> v1::WriteResult {
    v1::WriteResult {
        entry: Some(v1::EntryId {
            partition: 0,
            index: 9,
        }),
        acknowledgement: v1::Acknowledgement::Committed.into(),
        ..v1::WriteResult::default()
    }
}

pub fn plan() -> v1::PlanPruneResponse {
    let file = |path: &str, versions_count, content_bytes, present| v1::PrunedFile {
        path: path.to_owned(),
        versions_count,
        content_bytes,
        present,
    };
    v1::PlanPruneResponse {
        files: vec![
            file("/music/a.flac", 2, 80 << 20, true),
            file("/music/old/b.flac", 1, 1536, false),
        ],
        files_count: 2,
        versions_count: 3,
        content_bytes: (80 << 20) + 1536,
    }
}

pub fn report() -> v1::PruneReport {
    v1::PruneReport {
        versions_count: 3,
        content_bytes: (80 << 20) + 1536,
        freed_bytes: 0,
        grace: Some(prost_types::Duration {
            seconds: 24 * 3600,
            nanos: 0,
        }),
    }
}
