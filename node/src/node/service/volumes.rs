//! [driver] Volumes: which there are, and how much of their past is kept.

use super::{NodeService, index_problem};
use crate::reason::{Problem, Reason};
use crate::service::Answer;
use aber_log::env::Env;
use aber_proto::generated::v1::{self, retention::Keep};
use aber_proto::{Operation, PartitionId, Retention, Role, VolumeId};

/// How the root's own files are called as a volume.
const ROOT_NAME: &str = "/";

impl<E: Env> NodeService<E> {
    pub(super) fn volumes(&self) -> Answer<v1::ListVolumesResponse> {
        let tree = &self.node.parts.tree;
        let volumes = tree.volumes().map_err(index_problem)?;
        let mut shown = vec![self.volume(VolumeId::ROOT, ROOT_NAME, PartitionId::CONTROL)?];
        for volume in volumes {
            shown.push(self.volume(volume.id, &volume.name, volume.partition)?);
        }
        Ok(v1::ListVolumesResponse {
            volumes: shown,
            next_page_token: String::new(),
        })
    }

    fn volume(
        &self,
        id: VolumeId,
        name: &str,
        partition: PartitionId,
    ) -> Result<v1::Volume, Problem> {
        let retention = self.node.parts.tree.retention(id).map_err(index_problem)?;
        Ok(v1::Volume {
            name: name.to_owned(),
            partition: partition.0,
            retention: message(retention),
            ..v1::Volume::default()
        })
    }

    /// A volume by its name, with a slash before it or without; `/` is the root's own files.
    pub(super) fn volume_named(
        &self,
        text: &str,
    ) -> Result<(VolumeId, String, PartitionId), Problem> {
        if text == ROOT_NAME {
            return Ok((VolumeId::ROOT, ROOT_NAME.to_owned(), PartitionId::CONTROL));
        }
        let name = text.trim_matches('/');
        let found = self.node.parts.tree.volume(name).map_err(index_problem)?;
        let (id, partition) = found.ok_or_else(|| {
            let path = format!("/{name}");
            Problem::new(Reason::PathNotFound).with("path", path)
        })?;
        Ok((id, name.to_owned(), partition))
    }

    pub(super) async fn set_volume(
        &self,
        request: v1::UpdateVolumeRequest,
    ) -> Answer<v1::UpdateVolumeResponse> {
        let (volume, name, partition) = self.volume_named(&request.name)?;
        let retention = retention(request.retention)?;
        let operation = Operation::SetRetention { volume, retention };
        let id = self.request_id(&request.request_id)?;
        let result = self.write_control(operation, id, Role::Admin).await?;
        Ok(v1::UpdateVolumeResponse {
            volume: Some(self.volume(volume, &name, partition)?),
            result: Some(result),
        })
    }
}

fn message(retention: Retention) -> Option<v1::Retention> {
    let keep = match retention {
        Retention::Forever => return None,
        Retention::Age(age_ms) => Keep::Age(prost_types::Duration {
            seconds: i64::try_from(age_ms / 1000).unwrap_or(i64::MAX),
            nanos: i32::try_from(age_ms % 1000 * 1_000_000).unwrap_or(0),
        }),
        Retention::Versions(count) => Keep::Versions(count),
        Retention::Size(bytes) => Keep::Bytes(bytes),
    };
    Some(v1::Retention { keep: Some(keep) })
}

fn retention(message: Option<v1::Retention>) -> Result<Retention, Problem> {
    let retention = match message.and_then(|retention| retention.keep) {
        None => Retention::Forever,
        Some(Keep::Versions(count)) => Retention::Versions(count),
        Some(Keep::Bytes(bytes)) => Retention::Size(bytes),
        Some(Keep::Age(age)) => {
            let seconds = u64::try_from(age.seconds).unwrap_or(0).saturating_mul(1000);
            let millis = u64::try_from(age.nanos / 1_000_000).unwrap_or(0);
            Retention::Age(seconds.saturating_add(millis))
        }
    };
    if retention.is_sane() {
        Ok(retention)
    } else {
        let rule = "a retention keeps at least one version, or what is a millisecond old";
        Err(Problem::usage(rule))
    }
}
