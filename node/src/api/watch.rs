//! [adapter] WatchService.

use super::{Adapter, AnswerStream, Cut, limited, streamed, unary};
use crate::reason::Problem;
use crate::service::Service;
use aber_proto::generated::v1::{self, watch_service_server as generated};
use aber_proto::limit;
use tonic::{Request, Response, Status};

pub(super) fn server<S: Service>(adapter: Adapter<S>) -> generated::WatchServiceServer<Adapter<S>> {
    limited!(generated::WatchServiceServer::new(adapter))
}

#[tonic::async_trait]
impl<S: Service> generated::WatchService for Adapter<S> {
    type WatchStream = AnswerStream<v1::WatchResponse>;
    type FollowPartitionStream = AnswerStream<v1::FollowPartitionResponse>;
    type ReadChunksStream = AnswerStream<v1::ReadChunksResponse>;

    async fn watch(
        &self,
        request: Request<v1::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        streamed(Cut::Follow, self.service.watch(request.into_inner())).await
    }

    async fn follow_partition(
        &self,
        request: Request<v1::FollowPartitionRequest>,
    ) -> Result<Response<Self::FollowPartitionStream>, Status> {
        streamed(
            Cut::Follow,
            self.service.follow_partition(request.into_inner()),
        )
        .await
    }

    async fn read_snapshot(
        &self,
        request: Request<v1::ReadSnapshotRequest>,
    ) -> Result<Response<v1::ReadSnapshotResponse>, Status> {
        unary(self.service.read_snapshot(request.into_inner())).await
    }

    async fn read_chunks(
        &self,
        request: Request<v1::ReadChunksRequest>,
    ) -> Result<Response<Self::ReadChunksStream>, Status> {
        let request = request.into_inner();
        if request.hashes.len() > limit::PARCEL_CHUNKS {
            let detail = format!("at most {} chunks a call", limit::PARCEL_CHUNKS);
            return Err(Problem::usage(detail).into());
        }
        streamed(Cut::Idle, self.service.read_chunks(request)).await
    }
}
